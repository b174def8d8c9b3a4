//! "Too big", said by a router about an ESP packet of ours: ICMP type 3 code 4 (RFC 1191), ICMPv6 type 2 (RFC 4443, 3.2).
//!
//! ```text
//!   ICMP header with the MTU | the packet that was too big: IP header, then SPI and number, or the UDP header
//! ```
//!
//! Nobody proves who says so (RFC 4301, 8.2.1): it counts only for a packet that could have been ours, only downwards,
//! and never below what every link must take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::flow::{IPV4_HEADER, IPV6_HEADER, protocol};
use super::pmtu::{IPV4_MTU_MIN, IPV6_MTU_MIN};
use crate::spec::PORT_NAT_T;
use crate::types::ChildSpi;

const ICMP_HEADER: usize = 8;

/// The largest packet that the way to a peer takes, outer headers included, and by what the SA is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    pub mtu: usize,
    /// The addresses of the packet that was too big: ours, and the peer's.
    pub local: IpAddr,
    pub peer: IpAddr,
    pub about: About,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Protocol 50, on the child that we send on with this SPI.
    Esp(ChildSpi),
    /// From our port 4500 to this port of the peer.
    Udp(u16),
}

impl TooBig {
    /// Reads an ICMP message of IPv4 from its ICMP header on. `None`: something else.
    //= CL-38
    pub fn of_ipv4(icmp: &[u8]) -> Option<TooBig> {
        let (head, quoted) = icmp.split_at_checked(ICMP_HEADER)?;
        if head[..2] != [3, 4] || quoted.first()? >> 4 != 4 {
            return None;
        }
        let header = usize::from(quoted[0] & 15) * 4;
        let (ip, rest) = quoted.split_at_checked(header.max(IPV4_HEADER))?;
        let address = |at: usize| IpAddr::V4(Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]));
        let mtu = usize::from(u16::from_be_bytes([head[6], head[7]])).max(IPV4_MTU_MIN);
        Some(TooBig { mtu, local: address(12), peer: address(16), about: About::of(ip[9], rest)? })
    }

    /// The same of IPv6.
    //= CL-38
    pub fn of_ipv6(icmp: &[u8]) -> Option<TooBig> {
        let (head, quoted) = icmp.split_at_checked(ICMP_HEADER)?;
        if head[..2] != [2, 0] || quoted.first()? >> 4 != 6 {
            return None;
        }
        let (ip, rest) = quoted.split_at_checked(IPV6_HEADER)?;
        let address = |at: usize| {
            let octets: [u8; 16] = ip[at..at + 16].try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        };
        let mtu = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (local, peer) = (address(8)?, address(24)?);
        Some(TooBig { mtu: mtu.max(IPV6_MTU_MIN), local, peer, about: About::of(ip[6], rest)? })
    }
}

impl About {
    fn of(next: u8, quoted: &[u8]) -> Option<About> {
        let [a, b, c, d] = *quoted.first_chunk()?;
        match next {
            protocol::ESP => Some(About::Esp(ChildSpi(u32::from_be_bytes([a, b, c, d])))),
            protocol::UDP if u16::from_be_bytes([a, b]) == PORT_NAT_T => {
                Some(About::Udp(u16::from_be_bytes([c, d])))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::esp::samples::{ipv4, ipv6};

    const ESP: [u8; 8] = [7, 1, 2, 3, 0, 0, 0, 9];
    const UDP: [u8; 8] = [0x11, 0x94, 0xf0, 0x00, 0, 0, 0, 0];

    fn icmp4(mtu: u16, quoted: &[u8]) -> Vec<u8> {
        [&[3, 4, 0, 0, 0, 0][..], &mtu.to_be_bytes(), quoted].concat()
    }

    fn icmp6(mtu: u32, quoted: &[u8]) -> Vec<u8> {
        [&[2, 0, 0, 0][..], &mtu.to_be_bytes(), quoted].concat()
    }

    //= test CL-38
    #[test]
    fn what_routers_say_of_our_packets() {
        let v4 = |next, payload: &[u8]| ipv4("192.0.2.1", "198.51.100.9", next, payload);
        let v6 = |next, payload: &[u8]| ipv6("2001:db8::1", "2001:db8::9", next, payload);
        let esp = Some((1_400, About::Esp(ChildSpi(0x0701_0203))));
        for (message, expected) in [
            (icmp4(1_400, &v4(protocol::ESP, &ESP)), esp),
            (icmp4(1_400, &v4(protocol::UDP, &UDP)), Some((1_400, About::Udp(0xf000)))),
            (icmp4(0, &v4(protocol::ESP, &ESP)), Some((576, About::Esp(ChildSpi(0x0701_0203))))),
            (icmp4(1_400, &v4(protocol::UDP, &[0x11, 0x93, 1, 1, 0, 0, 0, 0])), None),
            (icmp4(1_400, &v4(protocol::TCP, &UDP)), None),
            (icmp4(1_400, &v6(protocol::ESP, &ESP)), None),
            ([&[3, 3][..], &icmp4(1_400, &v4(protocol::ESP, &ESP))[2..]].concat(), None),
        ] {
            let found = TooBig::of_ipv4(&message);
            assert_eq!(found.map(|found| (found.mtu, found.about)), expected);
            assert!(
                found.is_none_or(|it| (it.local, it.peer)
                    == ("192.0.2.1".parse().unwrap(), "198.51.100.9".parse().unwrap()))
            );
        }
        for (message, expected) in [
            (icmp6(1_400, &v6(protocol::ESP, &ESP)), esp),
            (icmp6(100, &v6(protocol::UDP, &UDP)), Some((1_280, About::Udp(0xf000)))),
            (icmp6(1_400, &v4(protocol::ESP, &ESP)), None),
        ] {
            let found = TooBig::of_ipv6(&message);
            assert_eq!(found.map(|found| (found.mtu, found.about)), expected);
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic(octets in prop::collection::vec(any::<u8>(), 0..80), six: bool) {
            let head = if six { [2, 0] } else { [3, 4] };
            let octets = [&head[..], &octets].concat();
            let _ = (TooBig::of_ipv4(&octets), TooBig::of_ipv6(&octets));
        }
    }
}
