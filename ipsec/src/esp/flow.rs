//! What an inner packet shows to a selector: addresses, next layer protocol, ports (RFC 4301, 4.4.1.1).
//!
//! ```text
//!   IPv4   header ───────────────────────────────────────> protocol ─> ports, or ICMP type and code
//!   IPv6   header ─> hop-by-hop, routing, fragment, ... ──> protocol ─> ports, or ICMP type and code
//! ```
//!
//! A fragment that is not the first shows no ports: they are hidden, which is not the same as "none" (RFC 4301, 7).
//! The parser reads headers only and never past what the packet itself says it holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers that matter here.
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ESP: u8 = 50;
    pub const ICMPV6: u8 = 58;
    pub const NONE: u8 = 59;
    pub const DESTINATION: u8 = 60;
    pub const DCCP: u8 = 33;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const UDP_LITE: u8 = 136;
}

pub const IPV4_HEADER: usize = 20;
pub const IPV6_HEADER: usize = 40;

/// More extension headers than this are no honest packet.
const EXTENSIONS_MAX: usize = 8;

/// What the headers of one inner packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub ports: Ports,
    /// The IPv4 TOS octet or the IPv6 traffic class: DSCP and ECN.
    pub tos: u8,
    /// IPv4: the "don't fragment" bit. IPv6: always.
    pub dont_fragment: bool,
    /// A part of a fragmented packet, the first one included.
    pub is_fragment: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// ICMP and Mobility stand with their type and code in both (RFC 7296, 3.13.1).
    Shown { source: u16, destination: u16 },
    /// The protocol has none.
    None,
    /// A fragment that is not the first.
    Hidden,
}

/// The octets are not an IP packet that could be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotIp;

/// The length that the IP header itself states, checked to lie within `packet`. What is behind it is padding.
pub fn stated_len(packet: &[u8]) -> Result<usize, NotIp> {
    let len = match packet.first().ok_or(NotIp)? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let total = usize::from(be16(packet, 2)?);
            if header < IPV4_HEADER || total < header {
                return Err(NotIp);
            }
            total
        }
        6 => {
            let payload = usize::from(be16(packet, 4)?);
            if payload == 0 && packet.get(6) == Some(&protocol::HOP_BY_HOP) {
                return Err(NotIp); // A jumbogram (RFC 2675): no ESP packet can hold one.
            }
            IPV6_HEADER + payload
        }
        _ => return Err(NotIp),
    };
    if len <= packet.len() { Ok(len) } else { Err(NotIp) }
}

impl Flow {
    /// Reads the headers of `packet`, which may be longer than it states (a super-packet states a length that the
    /// device has made up, so only the header lengths are trusted here; see `stated_len`).
    pub fn of(packet: &[u8]) -> Result<Flow, NotIp> {
        match packet.first().ok_or(NotIp)? >> 4 {
            4 => Flow::of_ipv4(packet),
            6 => Flow::of_ipv6(packet),
            _ => Err(NotIp),
        }
    }

    fn of_ipv4(packet: &[u8]) -> Result<Flow, NotIp> {
        let fixed: &[u8; IPV4_HEADER] = packet.first_chunk().ok_or(NotIp)?;
        let header = usize::from(fixed[0] & 15) * 4;
        if header < IPV4_HEADER {
            return Err(NotIp);
        }
        let payload = packet.get(header..).ok_or(NotIp)?;
        let flags = u16::from_be_bytes([fixed[6], fixed[7]]);
        let fragment = Fragment { offset: usize::from(flags & 0x1fff) * 8, more: flags & 0x2000 != 0 };
        let protocol = fixed[9];
        Ok(Flow {
            source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
            destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
            protocol,
            ports: fragment.ports(protocol, payload)?,
            tos: fixed[1],
            dont_fragment: flags & 0x4000 != 0,
            is_fragment: fragment.is_one(),
        })
    }

    //= ES-25
    fn of_ipv6(packet: &[u8]) -> Result<Flow, NotIp> {
        let fixed: &[u8; IPV6_HEADER] = packet.first_chunk().ok_or(NotIp)?;
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&fixed[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        let (mut protocol, mut at) = (fixed[6], IPV6_HEADER);
        let mut fragment = Fragment { offset: 0, more: false };
        let mut headers = 0;
        // Non-first fragments end the walk: what follows is not a header.
        while fragment.offset == 0 {
            let len = match protocol {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => {
                    8 + usize::from(*packet.get(at + 1).ok_or(NotIp)?) * 8
                }
                protocol::FRAGMENT => {
                    let field = be16(packet, at + 2)?;
                    fragment = Fragment { offset: usize::from(field & 0xfff8), more: field & 1 != 0 };
                    8
                }
                _ => break,
            };
            headers += 1;
            if headers > EXTENSIONS_MAX {
                return Err(NotIp);
            }
            protocol = packet[at];
            at += len;
            if at > packet.len() {
                return Err(NotIp);
            }
        }
        let payload = packet.get(at..).ok_or(NotIp)?;
        Ok(Flow {
            source: address(8),
            destination: address(24),
            protocol,
            ports: fragment.ports(protocol, payload)?,
            tos: (fixed[0] << 4) | (fixed[1] >> 4),
            dont_fragment: true,
            is_fragment: fragment.is_one(),
        })
    }
}

#[derive(Clone, Copy)]
struct Fragment {
    /// In octets.
    offset: usize,
    more: bool,
}

impl Fragment {
    fn is_one(self) -> bool {
        self.offset != 0 || self.more
    }

    /// The ports at the start of `payload`, as far as the packet can show them.
    //= ES-22
    fn ports(self, protocol: u8, payload: &[u8]) -> Result<Ports, NotIp> {
        // A fragment that would rewrite a TCP header or end past 64 KiB is an attack (RFC 1858, RFC 3128).
        let rewrites = protocol == protocol::TCP && self.offset == 8;
        if rewrites || self.offset + payload.len() > 65_535 && self.is_one() {
            return Err(NotIp);
        }
        if self.offset != 0 {
            return Ok(Ports::Hidden);
        }
        match protocol {
            protocol::TCP | protocol::UDP | protocol::DCCP | protocol::SCTP | protocol::UDP_LITE => {
                let source = be16(payload, 0)?;
                Ok(Ports::Shown { source, destination: be16(payload, 2)? })
            }
            protocol::ICMP | protocol::ICMPV6 => {
                let kind = be16(payload, 0)?;
                Ok(Ports::Shown { source: kind, destination: kind })
            }
            protocol::MOBILITY => {
                let kind = be16(payload, 2)? & 0xff00;
                Ok(Ports::Shown { source: kind, destination: kind })
            }
            _ => Ok(Ports::None),
        }
    }
}

fn be16(octets: &[u8], at: usize) -> Result<u16, NotIp> {
    let pair = octets.get(at..at + 2).ok_or(NotIp)?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esp::samples::{ipv4, ipv6};
    use proptest::prelude::*;

    const SHOWN: Ports = Ports::Shown { source: 0x1234, destination: 0x5678 };
    const PORTS: [u8; 8] = [0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0];

    //= test ES-25
    #[test]
    fn extension_headers_are_walked() {
        let hop = [protocol::ROUTING, 0, 0, 0, 0, 0, 0, 0];
        let routing = [protocol::DESTINATION, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let options = [protocol::UDP, 0, 0, 0, 0, 0, 0, 0];
        let chain = [&hop[..], &routing, &options, &PORTS].concat();
        for (next, payload, found, why) in [
            (protocol::UDP, PORTS.to_vec(), Ok((protocol::UDP, SHOWN)), "none at all"),
            (protocol::HOP_BY_HOP, chain.clone(), Ok((protocol::UDP, SHOWN)), "three in a row"),
            (protocol::HOP_BY_HOP, chain[..20].to_vec(), Err(NotIp), "cut inside of one"),
            (protocol::HOP_BY_HOP, hop.repeat(9), Err(NotIp), "a header that is not there"),
            (protocol::ROUTING, [protocol::ROUTING, 0, 0, 0, 0, 0, 0, 0].repeat(9), Err(NotIp), "too many"),
            (protocol::ESP, PORTS.to_vec(), Ok((protocol::ESP, Ports::None)), "ESP is not walked into"),
            (51, PORTS.to_vec(), Ok((51, Ports::None)), "nor is AH"),
            (protocol::NONE, vec![], Ok((protocol::NONE, Ports::None)), "nothing follows"),
        ] {
            let packet = ipv6("2001:db8::1", "2001:db8::2", next, &payload);
            assert_eq!(Flow::of(&packet).map(|flow| (flow.protocol, flow.ports)), found, "{why}");
        }
    }

    //= test ES-22
    #[test]
    fn fragments_hide_their_ports() {
        let v4 = |flags: u16, protocol: u8, payload: &[u8]| {
            let mut packet = ipv4("10.0.0.1", "10.0.0.2", protocol, payload);
            packet[6..8].copy_from_slice(&flags.to_be_bytes());
            packet
        };
        for (packet, ports, why) in [
            (v4(0, protocol::UDP, &PORTS), Ok(SHOWN), "whole"),
            (v4(0x2000, protocol::UDP, &PORTS), Ok(SHOWN), "the first fragment"),
            (v4(0x2000, protocol::UDP, &PORTS[..3]), Err(NotIp), "a first fragment too short to judge"),
            (v4(0x2010, protocol::UDP, &PORTS), Ok(Ports::Hidden), "one in the middle"),
            (v4(0x0010, protocol::UDP, &PORTS), Ok(Ports::Hidden), "the last"),
            (v4(0x0001, protocol::TCP, &PORTS), Err(NotIp), "one that overlaps the TCP header"),
            (v4(0x1fff, protocol::UDP, &PORTS), Err(NotIp), "one that ends past 64 KiB"),
        ] {
            assert_eq!(Flow::of(&packet).map(|flow| flow.ports), ports, "{why}");
        }
        let v6 = |field: u16| {
            let [high, low] = field.to_be_bytes();
            let header = [protocol::UDP, 0, high, low, 0, 0, 0, 1];
            ipv6("2001:db8::1", "2001:db8::2", protocol::FRAGMENT, &[&header[..], &PORTS].concat())
        };
        assert_eq!(Flow::of(&v6(1)).unwrap().ports, SHOWN);
        let middle = Flow::of(&v6(0x0081)).unwrap();
        assert_eq!((middle.protocol, middle.ports, middle.is_fragment), (protocol::UDP, Ports::Hidden, true));
    }

    #[test]
    fn types_stand_for_ports() {
        for (protocol, payload, number) in [
            (protocol::ICMP, [8, 3, 1, 1], 0x0803),
            (protocol::ICMPV6, [128, 0, 1, 1], 0x8000),
            (protocol::MOBILITY, [59, 1, 5, 9], 0x0500),
        ] {
            let packet = ipv6("2001:db8::1", "2001:db8::2", protocol, &payload);
            let ports = Ports::Shown { source: number, destination: number };
            assert_eq!(Flow::of(&packet).unwrap().ports, ports, "{protocol}");
        }
    }

    #[test]
    fn the_stated_length_bounds_the_packet() {
        let v4 = ipv4("10.0.0.1", "10.0.0.2", protocol::UDP, &PORTS);
        let v6 = ipv6("2001:db8::1", "2001:db8::2", protocol::UDP, &PORTS);
        for whole in [&v4, &v6] {
            let padded = [whole.as_slice(), &[0; 9]].concat();
            assert_eq!(stated_len(&padded), Ok(whole.len()));
            assert_eq!(stated_len(&whole[..whole.len() - 1]), Err(NotIp));
        }
        let jumbo = ipv6("::1", "::2", protocol::HOP_BY_HOP, &[]);
        assert_eq!(stated_len(&jumbo), Err(NotIp));
        assert_eq!(stated_len(&[0x44, 0, 0, 20]), Err(NotIp), "a header of 16 octets");
        assert_eq!(stated_len(&[]), Err(NotIp));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic(mut octets in prop::collection::vec(any::<u8>(), 0..120), six: bool) {
            if let Some(first) = octets.first_mut() {
                *first = if six { 0x60 } else { 0x45 } | (*first & 0x0a);
            }
            let _ = (Flow::of(&octets), stated_len(&octets));
        }
    }
}
