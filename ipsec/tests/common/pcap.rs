//! A reader for the captures among the test vectors: pcap and pcapng, as far as they occur there.
//!
//! It takes a capture down to UDP payloads and ESP packets. Frames that it does not understand (other link types,
//! fragments, truncated ones) are left out: the captures hold many on purpose.

use std::path::Path;

/// What a capture has for an IPsec gateway.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A UDP payload with its source and destination port.
    Udp { from: u16, to: u16, payload: Vec<u8> },
    /// The payload of IP protocol 50.
    Esp(Vec<u8>),
}

pub fn read(path: &Path) -> Vec<Frame> {
    let octets = std::fs::read(path).expect("a capture that can be read");
    let packets =
        if octets.starts_with(&0x0a0d_0d0a_u32.to_be_bytes()) { pcapng(&octets) } else { pcap(&octets) };
    packets.iter().filter_map(|(link, octets)| frame(*link, octets)).collect()
}

type Packets = Vec<(u32, Vec<u8>)>;

fn pcap(octets: &[u8]) -> Packets {
    let little = match octets.get(..4) {
        Some([0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1]) => true,
        Some([0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d]) => false,
        other => panic!("no pcap magic: {other:?}"),
    };
    let word = |at| number(octets, at, 4, little);
    let link = word(20).expect("a whole file header") & 0xffff;
    let mut packets = Vec::new();
    let mut at = 24;
    while let Some(length) = word(at + 8) {
        let Some(packet) = octets.get(at + 16..at + 16 + length as usize) else { break };
        packets.push((link, packet.to_vec()));
        at += 16 + length as usize;
    }
    packets
}

fn pcapng(octets: &[u8]) -> Packets {
    let little = octets.get(8) == Some(&0x4d);
    let word = |at| number(octets, at, 4, little);
    let mut links = Vec::new();
    let mut packets = Vec::new();
    let mut at = 0;
    while let (Some(kind), Some(length)) = (word(at), word(at + 4)) {
        match kind {
            1 => links.push(number(octets, at + 8, 2, little).expect("a link type")),
            6 => {
                let link = links[word(at + 8).expect("an interface") as usize];
                let captured = word(at + 20).expect("a length") as usize;
                packets.push((link, octets[at + 28..at + 28 + captured].to_vec()));
            }
            _ => {}
        }
        at += (length as usize).max(12);
    }
    packets
}

fn number(octets: &[u8], at: usize, len: usize, little: bool) -> Option<u32> {
    let part = octets.get(at..at + len)?;
    let fold = |value: u32, &octet: &u8| (value << 8) | u32::from(octet);
    Some(if little { part.iter().rev().fold(0, fold) } else { part.iter().fold(0, fold) })
}

fn frame(link: u32, octets: &[u8]) -> Option<Frame> {
    let (kind, ip) = match link {
        1 => (number(octets, 12, 2, false)?, octets.get(14..)?),
        113 => (number(octets, 14, 2, false)?, octets.get(16..)?), // Linux cooked
        12 | 14 | 101 | 228 | 229 => (0, octets),                  // raw IP
        0 | 108 => (0, octets.get(4..)?),                          // BSD loopback
        _ => return None,
    };
    match (kind, ip.first()? >> 4) {
        (0x0800 | 0, 4) => ipv4(ip),
        (0x86dd | 0, 6) => transport(*ip.get(6)?, ip.get(40..)?),
        _ => None,
    }
}

fn ipv4(ip: &[u8]) -> Option<Frame> {
    let fragment = number(ip, 6, 2, false)? & 0x3fff;
    if fragment != 0 {
        return None;
    }
    let total = (number(ip, 2, 2, false)? as usize).min(ip.len());
    transport(*ip.get(9)?, ip.get(usize::from(ip[0] & 15) * 4..total)?)
}

fn transport(protocol: u8, octets: &[u8]) -> Option<Frame> {
    match protocol {
        50 => Some(Frame::Esp(octets.to_vec())),
        17 => {
            let port = |at| number(octets, at, 2, false).map(|port| port as u16);
            let end = (number(octets, 4, 2, false)? as usize).min(octets.len());
            Some(Frame::Udp { from: port(0)?, to: port(2)?, payload: octets.get(8..end)?.to_vec() })
        }
        _ => None,
    }
}
