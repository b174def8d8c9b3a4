//! Reads capture files (libpcap's classic format, as tcpdump writes it) and finds what the checkers look at.
//!
//! Written apart from the code that it judges: Ethernet, IPv4, IPv6, UDP 500 and 4500, protocol 50, nothing more.
//! A file that is cut within its last packet is taken as it is; tcpdump may be killed.

use std::fs::File;
use std::io::{BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::ensure;
use crate::outcome::{Context, Result};

/// A packet as it was on the cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Microseconds since 1970.
    pub at_us: u64,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub what: What,
    /// The number of the device where it came in, when the recording was of many; else 0.
    pub via: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An IKE message without its non-ESP marker.
    Ike(Vec<u8>),
    /// ESP from its SPI on, in UDP or not.
    Esp(Vec<u8>),
    Keepalive,
    /// Any other protocol over IP, by number.
    Other(u8),
}

/// Reads a whole file; packets that are not IP are left out.
pub fn read(path: &Path) -> Result<Vec<Packet>> {
    let mut packets = Vec::new();
    for_each(path, |packet| {
        packets.push(packet);
        Ok(())
    })?;
    Ok(packets)
}

/// Gives every packet in turn, for files that are too large to hold.
pub fn for_each(path: &Path, mut use_packet: impl FnMut(Packet) -> Result) -> Result {
    for_each_frame(path, |frame| match packet(&frame) {
        Some(packet) => use_packet(packet),
        None => Ok(()),
    })
}

/// An IP packet as its octets; what the recording has cut off is missing at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub at_us: u64,
    pub via: u32,
    pub ip: &'a [u8],
    /// Whether nothing was cut off.
    pub whole: bool,
}

/// Gives every IP packet in turn.
pub fn for_each_frame(path: &Path, mut use_frame: impl FnMut(Frame<'_>) -> Result) -> Result {
    let file = File::open(path).context(path.display())?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut head = [0; 24];
    reader.read_exact(&mut head).context("capture header")?;
    let magic = u32_at(&head, 0);
    ensure!(magic == 0xa1b2_c3d4 || magic == 0xa1b2_3c4d, "not a capture of this machine: {magic:08x}");
    let fraction_per_us = if magic == 0xa1b2_3c4d { 1000 } else { 1 };
    let link = u32_at(&head, 20);
    let mut frame = Vec::new();
    loop {
        let mut head = [0; 16];
        if reader.read_exact(&mut head).is_err() {
            return Ok(());
        }
        let at_us = u64::from(u32_at(&head, 0)) * 1_000_000 + u64::from(u32_at(&head, 4) / fraction_per_us);
        let (kept, length) = (u32_at(&head, 8), u32_at(&head, 12));
        ensure!(kept <= 1 << 18, "a packet of {kept} octets");
        frame.resize(kept as usize, 0);
        if reader.read_exact(&mut frame).is_err() {
            return Ok(());
        }
        if let Some((via, ip)) = ip_of(link, &frame)? {
            use_frame(Frame { at_us, via, ip, whole: kept == length })?;
        }
    }
}

/// The device's number and the IP packet in a frame; `None` when there is another protocol in it.
fn ip_of(link: u32, frame: &[u8]) -> Result<Option<(u32, &[u8])>> {
    let (via, protocol, head) = match link {
        LINK_ETHERNET => (0, frame.get(12..14), 14),
        LINK_SLL2 => (frame.get(4..8).map_or(0, |number| be_u32(number, 0)), frame.get(..2), 20),
        LINK_RAW => return Ok(Some((0, frame))),
        other => return Err(format!("link type {other}").into()),
    };
    let is_ip = matches!(protocol, Some([0x08, 0x00] | [0x86, 0xdd]));
    Ok(frame.get(head..).filter(|_| is_ip).map(|ip| (via, ip)))
}

fn be_u32(octets: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

const LINK_ETHERNET: u32 = 1;
const LINK_RAW: u32 = 101;
/// What tcpdump writes of all devices at once: protocol, number of the device, 20 octets in all.
const LINK_SLL2: u32 = 276;

fn u32_at(octets: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

/// `None` when it is no IP packet. Fragments other than the first count as `Other` of their protocol.
fn packet(frame: &Frame<'_>) -> Option<Packet> {
    let Frame { at_us, via, ip, whole } = *frame;
    // Without its end a packet is shorter than its own length says.
    let until = |end: usize| if whole { end } else { end.min(ip.len()) };
    let (source, destination, protocol, payload) = match ip.first()? >> 4 {
        4 => {
            let header = usize::from(ip[0] & 15) * 4;
            let length = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
            let later_fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x1fff != 0;
            let source = Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(12..16)?).ok()?);
            let destination = Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(16..20)?).ok()?);
            let payload = if later_fragment { &[] } else { ip.get(header..until(length))? };
            (IpAddr::V4(source), IpAddr::V4(destination), ip[9], payload)
        }
        6 => {
            let length = usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
            let source = Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(8..24)?).ok()?);
            let destination = Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(24..40)?).ok()?);
            (IpAddr::V6(source), IpAddr::V6(destination), ip[6], ip.get(40..until(40 + length))?)
        }
        _ => return None,
    };
    let what = match protocol {
        50 if payload.len() >= 8 => What::Esp(payload.to_vec()),
        17 => udp(payload).unwrap_or(What::Other(17)),
        other => What::Other(other),
    };
    Some(Packet { at_us, source, destination, what, via })
}

/// RFC 3948, 2: after the UDP header of port 4500 four zero octets mark IKE; anything else is ESP.
fn udp(datagram: &[u8]) -> Option<What> {
    let port = |at: usize| Some(u16::from_be_bytes([*datagram.get(at)?, *datagram.get(at + 1)?]));
    let ports = [port(0)?, port(2)?];
    let body = datagram.get(8..)?;
    if ports.contains(&4500) {
        return match body {
            [0xff] => Some(What::Keepalive),
            [0, 0, 0, 0, ike @ ..] if ike.len() >= 28 => Some(What::Ike(ike.to_vec())),
            [0, 0, 0, 0, ..] => None,
            esp if esp.len() >= 8 => Some(What::Esp(esp.to_vec())),
            _ => None,
        };
    }
    (ports.contains(&500) && body.len() >= 28).then(|| What::Ike(body.to_vec()))
}

/// The header of an IKE message (RFC 7296, 3.1), and where its encrypted part begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IkeHeader {
    pub spi_i: u64,
    pub spi_r: u64,
    pub exchange: u8,
    pub from_initiator: bool,
    pub is_response: bool,
    pub message_id: u32,
    /// The first eight octets of the encrypted payload, its IV or the beginning of it.
    pub iv: Option<u64>,
    /// Of an encrypted fragment (RFC 7383), else 0.
    pub fragment: u16,
}

pub const IKE_SA_INIT: u8 = 34;
pub const IKE_AUTH: u8 = 35;

impl IkeHeader {
    pub fn read(message: &[u8]) -> Option<IkeHeader> {
        let u64_at = |at: usize| Some(u64::from_be_bytes(message.get(at..at + 8)?.try_into().ok()?));
        let flags = *message.get(19)?;
        let (mut next, mut at) = (message[16], 28);
        let (mut iv, mut fragment) = (None, 0);
        while next != 0 {
            let body = at + 4;
            match next {
                46 => {
                    iv = u64_at(body);
                    break;
                }
                53 => {
                    fragment = u16::from_be_bytes([*message.get(body)?, *message.get(body + 1)?]);
                    iv = u64_at(body + 4);
                    break;
                }
                _ => {}
            }
            let length = usize::from(u16::from_be_bytes([*message.get(at + 2)?, *message.get(at + 3)?]));
            if length < 4 {
                return None;
            }
            next = *message.get(at)?;
            at += length;
        }
        Some(IkeHeader {
            spi_i: u64_at(0)?,
            spi_r: u64_at(8)?,
            exchange: message[18],
            from_initiator: flags & 0x08 != 0,
            is_response: flags & 0x20 != 0,
            message_id: u32::from_be_bytes(message.get(20..24)?.try_into().ok()?),
            iv,
            fragment,
        })
    }
}

/// The SPI and the sequence number of an ESP packet.
pub fn esp_header(esp: &[u8]) -> Option<(u32, u32)> {
    let word = |at: usize| Some(u32::from_be_bytes(esp.get(at..at + 4)?.try_into().ok()?));
    Some((word(0)?, word(4)?))
}

#[cfg(test)]
pub(crate) mod made {
    //! Packets for the tests of the checkers.
    use super::*;

    pub const US: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
    pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));

    pub fn esp(at_us: u64, spi: u32, seq: u32, iv: u64, body: &[u8]) -> Packet {
        let head = [spi.to_be_bytes(), seq.to_be_bytes()].concat();
        let esp = [head, iv.to_be_bytes().to_vec(), body.to_vec()].concat();
        Packet { at_us, source: US, destination: PEER, what: What::Esp(esp), via: 0 }
    }

    pub fn ike(at_us: u64, exchange: u8, flags: u8, message_id: u32, iv: u64, body: &[u8]) -> Packet {
        let sk_length = (4 + 8 + body.len()) as u16;
        let mut message = [7u64.to_be_bytes(), 9u64.to_be_bytes()].concat();
        message.extend([46, 0x20, exchange, flags]);
        message.extend(message_id.to_be_bytes());
        message.extend((28 + u32::from(sk_length)).to_be_bytes());
        message.extend([0, 0]);
        message.extend(sk_length.to_be_bytes());
        message.extend(iv.to_be_bytes());
        message.extend(body);
        Packet { at_us, source: US, destination: PEER, what: What::Ike(message), via: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
        let mut octets = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, link]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>();
        for (number, frame) in frames.iter().enumerate() {
            for word in [number as u32, 5, frame.len() as u32, frame.len() as u32] {
                octets.extend(word.to_le_bytes());
            }
            octets.extend(frame);
        }
        octets
    }

    fn ipv4_udp(port: u16, body: &[u8]) -> Vec<u8> {
        let udp = [&port.to_be_bytes()[..], &port.to_be_bytes(), &[0, 0, 0, 0], body].concat();
        let length = (20 + udp.len()) as u16;
        let mut ip = vec![0x45, 0];
        ip.extend(length.to_be_bytes());
        ip.extend([0, 0, 0, 0, 64, 17, 0, 0, 198, 51, 100, 1, 198, 51, 100, 10]);
        ip.extend(udp);
        ip
    }

    #[test]
    fn finds_ike_esp_and_keepalives() {
        let ike = match made::ike(0, IKE_AUTH, 0x20, 1, 3, &[1; 20]).what {
            What::Ike(message) => message,
            other => panic!("{other:?}"),
        };
        let marked = [&[0; 4][..], &ike].concat();
        let esp = [[0, 0, 1, 0], [0, 0, 0, 5], [9; 4]].concat();
        let frames =
            [ipv4_udp(500, &ike), ipv4_udp(4500, &marked), ipv4_udp(4500, &esp), ipv4_udp(4500, &[0xff])];
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file(LINK_RAW, &frames)).unwrap();
        let packets = read(path.path()).unwrap();
        let found: Vec<&What> = packets.iter().map(|packet| &packet.what).collect();
        assert_eq!(
            found,
            [&What::Ike(ike.clone()), &What::Ike(ike.clone()), &What::Esp(esp.clone()), &What::Keepalive]
        );
        assert_eq!(packets[1].at_us, 1_000_005);
        assert_eq!(esp_header(&esp), Some((256, 5)));
        let header = IkeHeader::read(&ike).unwrap();
        assert_eq!((header.spi_i, header.spi_r, header.message_id, header.iv), (7, 9, 1, Some(3)));
        assert!(header.is_response && !header.from_initiator);
        for cut in 0..ike.len() {
            let _ = IkeHeader::read(&ike[..cut]);
        }
    }

    #[test]
    fn a_recording_of_many_devices_says_where_a_frame_came_in() {
        let esp = [[0, 0, 1, 0], [0, 0, 0, 5], [9; 4]].concat();
        let cooked = |protocol: [u8; 2], device: u8, ip: &[u8]| {
            let head = [&protocol[..], &[0, 0, 0, 0, 0, device, 0, 1, 0, 6], &[2; 8]].concat();
            [&head, ip].concat()
        };
        let frames = [
            cooked([8, 0], 7, &ipv4_udp(4500, &esp)),
            cooked([8, 6], 7, &[1; 28]),
            cooked([8, 0], 9, &ipv4_udp(4500, &[0xff])),
        ];
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file(LINK_SLL2, &frames)).unwrap();
        let found: Vec<(u32, What)> =
            read(path.path()).unwrap().into_iter().map(|packet| (packet.via, packet.what)).collect();
        assert_eq!(found, [(7, What::Esp(esp)), (9, What::Keepalive)]);
    }

    #[test]
    fn what_is_left_of_a_packet_that_was_cut_is_read() {
        let ip = ipv4_udp(4500, &[[0, 0, 1, 0], [0, 0, 0, 5], [9; 4], [8; 4]].concat());
        let cut = |whole| packet(&Frame { at_us: 1, via: 0, ip: &ip[..ip.len() - 4], whole });
        assert_eq!(cut(true), None, "its own length is wrong");
        assert_eq!(cut(false).unwrap().what, What::Esp([[0, 0, 1, 0], [0, 0, 0, 5], [9; 4]].concat()));
    }
}
