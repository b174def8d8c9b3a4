//! From one super-packet to the packets that it stands for (what a network card does for TSO and USO).
//!
//! ```text
//!   | header | payload 0 | payload 1 | payload 2 |       the super-packet
//!   | header | payload 0 |                               next(): segment 0
//!         | header'| payload 1 |                         next(): its header overwrites the end of payload 0,
//!                     | header"| payload 2 |             which the caller is done with
//! ```
//!
//! So each segment is one slice, whole and in order, without a copy of its payload: seal it out of place, straight into
//! its ESP slot, before asking for the next one.

use super::checksum::Sum;
use super::{Malformed, VirtioNetHdr};

/// Longest chain of headers that we split behind: IPv4 and TCP need 120 at most, IPv6 extension headers may add.
const HEADERS_MAX: usize = 256;

const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_FLAGS_AT: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Gives the segments of one (super-)packet, one after the other.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a mut [u8],
    /// `None`: the packet stands for itself.
    gso: Option<Gso>,
    next: usize,
    count: usize,
}

#[derive(Debug)]
struct Gso {
    /// The headers as they were read, of which each segment gets a changed copy.
    headers: [u8; HEADERS_MAX],
    headers_len: usize,
    /// Where the TCP or UDP header begins.
    transport: usize,
    tcp: bool,
    /// Payload octets of each segment but the last.
    size: usize,
    /// The sum of the pseudo-header without the length.
    pseudo: Sum,
}

impl<'a> Segments<'a> {
    /// `packet` begins with the IP header and ends where it ends.
    pub fn new(header: VirtioNetHdr, packet: &'a mut [u8]) -> Result<Segments<'a>, Malformed> {
        let version = check_ip(packet)?;
        match header.gso_type & !VirtioNetHdr::GSO_ECN {
            VirtioNetHdr::GSO_NONE => {
                if header.flags & VirtioNetHdr::NEEDS_CSUM != 0 {
                    complete_checksum(header, packet)?;
                }
                return Ok(Segments { packet, gso: None, next: 0, count: 1 });
            }
            VirtioNetHdr::GSO_TCPV4 if version == 4 => {}
            VirtioNetHdr::GSO_TCPV6 if version == 6 => {}
            VirtioNetHdr::GSO_UDP_L4 => {}
            _ => return Err(Malformed::GsoType),
        }
        let gso = Gso::new(header, packet)?;
        let payload = packet.len() - gso.headers_len;
        let count = payload.div_ceil(gso.size).max(1);
        Ok(Segments { packet, gso: Some(gso), next: 0, count })
    }

    /// How many segments are still to come.
    pub fn len(&self) -> usize {
        self.count - self.next
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The length of the longest segment: that of all but the last.
    pub fn longest(&self) -> usize {
        match &self.gso {
            None => self.packet.len(),
            Some(gso) => self.packet.len().min(gso.headers_len + gso.size),
        }
    }

    /// The next segment, an IP packet with right lengths and checksums. It is overwritten by the one after it.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend its own memory")]
    pub fn next(&mut self) -> Option<&mut [u8]> {
        if self.next == self.count {
            return None;
        }
        let (index, last) = (self.next, self.next + 1 == self.count);
        self.next += 1;
        let Some(gso) = &self.gso else { return Some(self.packet) };
        let start = index * gso.size;
        let end = self.packet.len().min(start + gso.headers_len + gso.size);
        let segment = &mut self.packet[start..end];
        gso.write_headers(segment, index, last);
        Some(segment)
    }
}

impl Gso {
    fn new(header: VirtioNetHdr, packet: &[u8]) -> Result<Gso, Malformed> {
        if header.gso_size == 0 || header.flags & VirtioNetHdr::NEEDS_CSUM == 0 {
            return Err(Malformed::GsoHeader);
        }
        // hdr_len cannot be trusted: for forwarded packets it may be the length of a whole segment.
        let transport = usize::from(header.csum_start);
        let tcp = header.gso_type & !VirtioNetHdr::GSO_ECN != VirtioNetHdr::GSO_UDP_L4;
        let (protocol, checksum_at) = if tcp { (TCP, 16) } else { (UDP, 6) };
        if usize::from(header.csum_offset) != checksum_at {
            return Err(Malformed::GsoHeader);
        }
        check_transport(packet, transport, protocol)?;
        let transport_len = if tcp {
            let offset = packet.get(transport + 12).ok_or(Malformed::Truncated)?;
            usize::from(offset >> 4) * 4
        } else {
            8
        };
        if transport_len < if tcp { 20 } else { 8 } {
            return Err(Malformed::GsoHeader);
        }
        let headers_len = transport + transport_len;
        if headers_len > packet.len() || headers_len > HEADERS_MAX {
            return Err(Malformed::Truncated);
        }
        let mut headers = [0; HEADERS_MAX];
        headers[..headers_len].copy_from_slice(&packet[..headers_len]);
        // The field holds the sum of the pseudo-header of the whole; it is right also behind a routing header, where
        // the destination is not the one in the IP header.
        let partial = &packet[transport + checksum_at..][..2];
        let pseudo = Sum::default().octets(partial).without_word((packet.len() - transport) as u16);
        headers[transport + checksum_at..][..2].fill(0);
        if packet[0] >> 4 == 4 {
            headers[2..4].fill(0);
            headers[10..12].fill(0);
        }
        Ok(Gso { headers, headers_len, transport, tcp, size: usize::from(header.gso_size), pseudo })
    }

    fn write_headers(&self, segment: &mut [u8], index: usize, last: bool) {
        let transport_len = segment.len() - self.transport;
        segment[..self.headers_len].copy_from_slice(&self.headers[..self.headers_len]);
        let (ip, transport) = segment.split_at_mut(self.transport);
        if ip[0] >> 4 == 4 {
            let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index as u16);
            ip[2..4].copy_from_slice(&((self.transport + transport_len) as u16).to_be_bytes());
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            let checksum = Sum::default().octets(ip).checksum();
            ip[10..12].copy_from_slice(&checksum);
        } else {
            ip[4..6].copy_from_slice(&((self.transport + transport_len - 40) as u16).to_be_bytes());
        }
        let pseudo = self.pseudo.word(transport_len as u16);
        if self.tcp {
            let seq = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
            let seq = seq.wrapping_add((index * self.size) as u32);
            transport[4..8].copy_from_slice(&seq.to_be_bytes());
            if !last {
                transport[TCP_FLAGS_AT] &= !(FIN | PSH);
            }
            if index > 0 {
                transport[TCP_FLAGS_AT] &= !CWR;
            }
            let checksum = pseudo.octets(transport).checksum();
            transport[16..18].copy_from_slice(&checksum);
        } else {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            let checksum = never_zero(pseudo.octets(transport).checksum());
            transport[6..8].copy_from_slice(&checksum);
        }
    }
}

/// The version, if the IP header is whole and its length is that of the packet.
fn check_ip(packet: &[u8]) -> Result<u8, Malformed> {
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    match packet.first().map(|first| first >> 4) {
        None => Err(Malformed::Truncated),
        Some(4) if packet.len() >= 20 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            if header < 20 || header > packet.len() || word(2) != packet.len() {
                return Err(Malformed::IpHeader);
            }
            Ok(4)
        }
        Some(6) if packet.len() >= 40 => {
            if word(4) + 40 != packet.len() {
                return Err(Malformed::IpHeader);
            }
            Ok(6)
        }
        Some(4 | 6) => Err(Malformed::Truncated),
        Some(_) => Err(Malformed::IpHeader),
    }
}

/// A super-packet is no fragment, and its transport header is what the kind of segmentation says.
fn check_transport(packet: &[u8], transport: usize, protocol: u8) -> Result<(), Malformed> {
    if packet[0] >> 4 == 4 {
        let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff;
        if usize::from(packet[0] & 0x0f) * 4 != transport || fragment != 0 {
            return Err(Malformed::GsoHeader);
        }
        if packet[9] != protocol {
            return Err(Malformed::GsoType);
        }
        return Ok(());
    }
    if transport < 40 || transport >= packet.len() {
        return Err(Malformed::Truncated);
    }
    if transport == 40 && packet[6] != protocol {
        return Err(Malformed::GsoType);
    }
    Ok(())
}

/// Completes the checksum of a single packet: the field holds the pseudo-header's sum, the rest is added.
fn complete_checksum(header: VirtioNetHdr, packet: &mut [u8]) -> Result<(), Malformed> {
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    if at + 2 > packet.len() {
        return Err(Malformed::Truncated);
    }
    let mut checksum = Sum::default().octets(&packet[start..]).checksum();
    if header.csum_offset == 6 {
        checksum = never_zero(checksum);
    }
    packet[at..at + 2].copy_from_slice(&checksum);
    Ok(())
}

/// In UDP a checksum of zero means that there is none (RFC 768).
fn never_zero(checksum: [u8; 2]) -> [u8; 2] {
    if checksum == [0; 2] { [0xff; 2] } else { checksum }
}
