//! What one node says to another about a packet that it passes on, before the link seals it.
//!
//! ```text
//!   what (1) | hops (1) | TOS (1) | segment (1) | epoch (4) | outer: port (2), peer, local address | the packet
//! ```
//!
//! An outer packet travels as the socket gave it, marker included, with where it came from and where it was sent to,
//! so that the owner answers the client directly from the same address (CL-19). An inner packet travels whole. The
//! epoch is what the sender knew: the receiver tells by it which of the two is behind. `hops` is how many nodes may
//! still pass it on, the receiver included, so that two nodes that name each other do not play ball.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipsec::types::{Epoch, Segment, Spi};

use crate::datapath::ports::Carries;

/// Nodes that a packet may be sent on by: the one where it landed, and one that was the owner a moment ago.
pub const HOPS_MAX: u8 = 2;

/// Octets before an inner packet.
pub const INNER_LEN: usize = 8;

/// Octets before an outer packet, by the family of its addresses.
pub const OUTER_LEN_V4: usize = INNER_LEN + 2 + 2 * 4;
pub const OUTER_LEN_V6: usize = INNER_LEN + 2 + 2 * 16;

/// Where the segment stands, for who sorts frames without reading them.
pub const SEGMENT_AT: usize = 3;

const IKE: u8 = 1;
const NAT_T: u8 = 2;
const ESP: u8 = 3;
const INNER: u8 = 4;
const PATH_MTU: u8 = 5;
const IPV6: u8 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub what: What,
    pub hops: u8,
    /// Of the outer packet: DSCP and ECN.
    pub tos: u8,
    pub segment: Segment,
    /// Of the segment, as the sender knows it.
    pub epoch: Epoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// From the client at `peer` to our service address `local`.
    //= CL-19
    Outer { carries: Carries, peer: SocketAddr, local: IpAddr },
    /// From the protected network.
    Inner,
    /// No packet but what was heard of one: the SPI of an IKE SA and the largest packet that its peer's way takes.
    PathMtu,
}

impl Header {
    /// Octets of `emit`.
    pub fn emitted_len(&self) -> usize {
        match self.what {
            What::Inner | What::PathMtu => INNER_LEN,
            What::Outer { local: IpAddr::V4(_), .. } => OUTER_LEN_V4,
            What::Outer { local: IpAddr::V6(_), .. } => OUTER_LEN_V6,
        }
    }

    /// Writes the header to the front of `out`, which has room for `emitted_len` octets.
    pub fn emit(&self, out: &mut [u8]) {
        let (kind, place) = match self.what {
            What::Inner => (INNER, None),
            What::PathMtu => (PATH_MTU, None),
            What::Outer { carries, peer, local } => {
                let kind = match carries {
                    Carries::Ike => IKE,
                    Carries::NatT => NAT_T,
                    Carries::Esp => ESP,
                };
                (if local.is_ipv6() { kind | IPV6 } else { kind }, Some((peer, local)))
            }
        };
        out[..4].copy_from_slice(&[kind, self.hops, self.tos, self.segment.0]);
        out[4..INNER_LEN].copy_from_slice(&self.epoch.0.to_be_bytes());
        let Some((peer, local)) = place else { return };
        out[INNER_LEN..INNER_LEN + 2].copy_from_slice(&peer.port().to_be_bytes());
        let addresses = &mut out[INNER_LEN + 2..self.emitted_len()];
        match (peer.ip(), local) {
            (IpAddr::V4(peer), IpAddr::V4(local)) => {
                addresses[..4].copy_from_slice(&peer.octets());
                addresses[4..].copy_from_slice(&local.octets());
            }
            // The sockets are of one family each; a mixed pair would be an IPv4 address inside of IPv6.
            (peer, local) => {
                addresses[..16].copy_from_slice(&as_v6(peer).octets());
                addresses[16..].copy_from_slice(&as_v6(local).octets());
            }
        }
    }

    /// The header at the front of a frame. `None`: not one that we know.
    pub fn parse(frame: &[u8]) -> Option<Header> {
        let (front, rest) = frame.split_first_chunk::<INNER_LEN>()?;
        let [kind, hops, tos, segment, a, b, c, d] = *front;
        let what = match kind & !IPV6 {
            INNER if kind == INNER => What::Inner,
            PATH_MTU if kind == PATH_MTU => What::PathMtu,
            outer @ (IKE | NAT_T | ESP) => {
                let carries = match outer {
                    IKE => Carries::Ike,
                    NAT_T => Carries::NatT,
                    _ => Carries::Esp,
                };
                let (port, addresses) = rest.split_first_chunk::<2>()?;
                let (peer, local) = match kind & IPV6 {
                    0 => (ip4(addresses, 0)?, ip4(addresses, 4)?),
                    _ => (ip6(addresses, 0)?, ip6(addresses, 16)?),
                };
                What::Outer { carries, peer: SocketAddr::new(peer, u16::from_be_bytes(*port)), local }
            }
            _ => return None,
        };
        let epoch = Epoch(u32::from_be_bytes([a, b, c, d]));
        Some(Header { what, hops, tos, segment: Segment(segment), epoch })
    }
}

/// What stands behind the header of `What::PathMtu`.
pub fn emit_path_mtu(ike: Spi, mtu: usize) -> [u8; 12] {
    let mut content = [0; 12];
    content[..8].copy_from_slice(&ike.0.to_be_bytes());
    content[8..].copy_from_slice(&u32::try_from(mtu).unwrap_or(u32::MAX).to_be_bytes());
    content
}

pub fn parse_path_mtu(content: &[u8]) -> Option<(Spi, usize)> {
    let (ike, mtu) = content.split_first_chunk::<8>()?;
    Some((Spi(u64::from_be_bytes(*ike)), u32::from_be_bytes(mtu.try_into().ok()?) as usize))
}

fn ip4(octets: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = octets.get(at..at + 4)?.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn ip6(octets: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = octets.get(at..at + 16)?.try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outer(carries: Carries, peer: &str, local: &str) -> What {
        What::Outer { carries, peer: peer.parse().unwrap(), local: local.parse().unwrap() }
    }

    #[test]
    fn there_and_back() {
        for (what, len) in [
            (outer(Carries::Ike, "198.51.100.9:500", "192.0.2.1"), OUTER_LEN_V4),
            (outer(Carries::NatT, "198.51.100.9:61000", "192.0.2.1"), OUTER_LEN_V4),
            (outer(Carries::Esp, "[2001:db8::9]:0", "2001:db8::1"), OUTER_LEN_V6),
            (What::Inner, INNER_LEN),
            (What::PathMtu, INNER_LEN),
        ] {
            let header =
                Header { what, hops: 2, tos: 0x03, segment: Segment(200), epoch: Epoch(0x00ab_cdef) };
            let mut frame = vec![0xee; len + 3];
            header.emit(&mut frame);
            assert_eq!((header.emitted_len(), frame[SEGMENT_AT], &frame[len..]), (len, 200, &[0xee; 3][..]));
            assert_eq!(Header::parse(&frame), Some(header));
            for cut in 0..len {
                assert_eq!(Header::parse(&frame[..cut]), None, "{cut} octets");
            }
        }
        for kind in [0, 6, INNER | IPV6, PATH_MTU | IPV6, 0x41] {
            assert_eq!(Header::parse(&[kind; 60]), None, "kind {kind:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic(frame in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(header) = Header::parse(&frame) {
                let mut again = vec![0; header.emitted_len()];
                header.emit(&mut again);
                prop_assert_eq!(Header::parse(&again), Some(header));
            }
        }
    }
}
