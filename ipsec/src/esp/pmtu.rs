//! Packets that are too long: what fits through a tunnel, what to tell the sender, how to cut (RFC 4301, 8.2).
//!
//! ```text
//!   outer MTU ─ IP ─ (UDP) ─ SPI, number ─ IV ─ [ inner | pad | 2 ] ─ ICV        [ ] is a multiple of the alignment
//! ```
//!
//! An inner packet that is too long is answered with ICMP "fragmentation needed" or ICMPv6 "packet too big" when it
//! must not be cut, else cut before it is encrypted, so that the peer needs no reassembly of outer packets (ES-20).
//! The answer comes from the address that the sender wanted to reach: it is the only one that is sure to pass the
//! reverse path filters between here and there.

use std::net::IpAddr;

use super::checksum;
use super::flow::{Flow, IPV4_HEADER, IPV6_HEADER, Ports, protocol};
use super::tunnel::Layout;
use crate::spec::{ESP_HEADER_LEN, ESP_TRAILER_LEN, UDP_HEADER_LEN};
use crypto::cipher::Protection;

/// The least MTU that IPv4 (RFC 791) and IPv6 (RFC 8200) guarantee. We never claim a smaller one.
pub const IPV4_MTU_MIN: usize = 576;
pub const IPV6_MTU_MIN: usize = 1280;

/// Longest ICMP answer: RFC 1812, 4.3.2.3 and RFC 4443, 2.4.
const ICMPV4_LEN_MAX: usize = 576;
const ICMPV6_LEN_MAX: usize = 1280;
pub const ICMP_LEN_MAX: usize = 1280;

const ICMP_HEADER: usize = 8;
const TTL: u8 = 64;

/// What surrounds the ESP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    pub ipv6: bool,
    pub udp: bool,
}

impl Outer {
    fn headers(self) -> usize {
        let ip = if self.ipv6 { IPV6_HEADER } else { IPV4_HEADER };
        if self.udp { ip + UDP_HEADER_LEN } else { ip }
    }

    /// The length on the wire of an inner packet.
    //= ES-21
    pub fn len(self, protection: Protection, inner: usize) -> usize {
        self.headers() + Layout::new(protection, inner).total
    }

    /// The longest inner packet that fits into an outer one of `mtu` octets.
    //= ES-21
    pub fn inner_mtu(self, protection: Protection, mtu: usize) -> usize {
        let fixed = self.headers() + ESP_HEADER_LEN + protection.iv_len() + protection.icv_len();
        let room = mtu.saturating_sub(fixed);
        (room - room % protection.align()).saturating_sub(ESP_TRAILER_LEN)
    }
}

/// What becomes of an inner packet that is longer than `mtu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// Tell the sender: `too_big_reply`.
    Tell,
    /// Cut it: `Fragments`.
    Cut,
}

/// The sender decides for IPv4 by the DF bit; IPv6 packets are never cut on their way.
//= ES-20
pub fn too_long(flow: &Flow) -> TooLong {
    if flow.dont_fragment { TooLong::Tell } else { TooLong::Cut }
}

/// Writes the ICMP message that tells the sender of `packet` the length that fits, into `out` (at least
/// `ICMP_LEN_MAX` octets); its length. `None` where no error message may be sent (RFC 1122, 3.2.2; RFC 4443, 2.4).
//= ES-20
pub fn too_big_reply(packet: &[u8], flow: &Flow, mtu: usize, out: &mut [u8]) -> Option<usize> {
    if !may_be_answered(flow) {
        return None;
    }
    match (flow.source, flow.destination) {
        (IpAddr::V4(to), IpAddr::V4(from)) => {
            let quoted = packet.len().min(ICMPV4_LEN_MAX - IPV4_HEADER - ICMP_HEADER);
            let total = IPV4_HEADER + ICMP_HEADER + quoted;
            let out = out.get_mut(..total)?;
            let (ip, icmp) = out.split_at_mut(IPV4_HEADER);
            ip.fill(0);
            ip[0] = 0x45;
            ip[1] = 0xc0; // Internetwork control (RFC 1812, 4.3.2.5).
            ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            ip[8..10].copy_from_slice(&[TTL, protocol::ICMP]);
            ip[12..16].copy_from_slice(&from.octets());
            ip[16..20].copy_from_slice(&to.octets());
            let sum = checksum::of(ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            // Destination unreachable, fragmentation needed and DF set (RFC 1191, 4).
            icmp[..ICMP_HEADER].copy_from_slice(&[3, 4, 0, 0, 0, 0, 0, 0]);
            icmp[6..8].copy_from_slice(&(mtu.clamp(IPV4_MTU_MIN, 0xffff) as u16).to_be_bytes());
            icmp[ICMP_HEADER..].copy_from_slice(&packet[..quoted]);
            let sum = checksum::of(icmp);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            Some(total)
        }
        (IpAddr::V6(to), IpAddr::V6(from)) => {
            let quoted = packet.len().min(ICMPV6_LEN_MAX - IPV6_HEADER - ICMP_HEADER);
            let total = IPV6_HEADER + ICMP_HEADER + quoted;
            let out = out.get_mut(..total)?;
            let (ip, icmp) = out.split_at_mut(IPV6_HEADER);
            ip.fill(0);
            ip[0] = 0x60;
            let len = ((ICMP_HEADER + quoted) as u16).to_be_bytes();
            ip[4..6].copy_from_slice(&len);
            ip[6..8].copy_from_slice(&[protocol::ICMPV6, TTL]);
            ip[8..24].copy_from_slice(&from.octets());
            ip[24..40].copy_from_slice(&to.octets());
            // Packet too big (RFC 4443, 3.2).
            icmp[..ICMP_HEADER].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
            icmp[4..8].copy_from_slice(&(mtu.max(IPV6_MTU_MIN) as u32).to_be_bytes());
            icmp[ICMP_HEADER..].copy_from_slice(&packet[..quoted]);
            let pseudo = checksum::sum(&ip[8..40]) + checksum::sum(&len) + u32::from(protocol::ICMPV6);
            let sum = !checksum::fold(pseudo + checksum::sum(icmp));
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            Some(total)
        }
        _ => None,
    }
}

/// Not for error messages, not for fragments behind the first, not to or about groups.
fn may_be_answered(flow: &Flow) -> bool {
    let group = |ip: IpAddr| ip.is_multicast() || ip.is_unspecified() || ip == IpAddr::from([255; 4]);
    // "Packet too big" is the one ICMPv6 error that a packet for a group may cause (RFC 4443, 2.4 e.3).
    let about_group = flow.destination.is_ipv4() && group(flow.destination);
    let is_error = match (flow.protocol, flow.ports) {
        (_, Ports::Hidden) => true,
        (protocol::ICMP, Ports::Shown { source, .. }) => matches!(source >> 8, 3 | 4 | 5 | 11 | 12),
        (protocol::ICMPV6, Ports::Shown { source, .. }) => source >> 8 < 128,
        _ => false,
    };
    !is_error && !about_group && !group(flow.source)
}

/// Cuts an IPv4 packet (RFC 791, 3.2). Options are copied into every fragment only where they say so.
#[derive(Debug)]
pub struct Fragments<'a> {
    packet: &'a [u8],
    header: usize,
    /// Payload octets of a fragment, a multiple of 8.
    size: usize,
    at: usize,
}

impl<'a> Fragments<'a> {
    /// `packet` ends where it states. `None` if it is not IPv4 or `mtu` leaves no room behind its header.
    //= ES-20
    pub fn new(packet: &'a [u8], mtu: usize) -> Option<Fragments<'a>> {
        let header = match packet.first()? >> 4 {
            4 => usize::from(packet[0] & 15) * 4,
            _ => return None,
        };
        if header < IPV4_HEADER || packet.len() < header {
            return None;
        }
        let size = mtu.checked_sub(header)? / 8 * 8;
        (size > 0).then_some(Fragments { packet, header, size, at: 0 })
    }

    /// Writes the next fragment into `out` (at least `mtu` octets); its length, `None` after the last.
    pub fn next_into(&mut self, out: &mut [u8]) -> Option<usize> {
        let payload = &self.packet[self.header..];
        let rest = payload.get(self.at..).filter(|rest| !rest.is_empty())?;
        let part = &rest[..rest.len().min(self.size)];
        let header = self.write_header(out, part.len(), part.len() < rest.len())?;
        out.get_mut(header..header + part.len())?.copy_from_slice(part);
        self.at += part.len();
        Some(header + part.len())
    }

    fn write_header(&self, out: &mut [u8], part: usize, more: bool) -> Option<usize> {
        let options = &self.packet[IPV4_HEADER..self.header];
        let out = out.get_mut(..self.header)?;
        out[..IPV4_HEADER].copy_from_slice(&self.packet[..IPV4_HEADER]);
        let len = if self.at == 0 {
            out[IPV4_HEADER..].copy_from_slice(options);
            self.header
        } else {
            IPV4_HEADER + copied_options(options, &mut out[IPV4_HEADER..])
        };
        out[0] = 0x40 | (len / 4) as u8;
        out[2..4].copy_from_slice(&((len + part) as u16).to_be_bytes());
        // The packet may itself be a fragment: offsets add up, and only its own last part may be the last.
        let before = u16::from_be_bytes([self.packet[6], self.packet[7]]);
        let offset = (before & 0x1fff) + (self.at / 8) as u16;
        let more = if more { 0x2000 } else { before & 0x2000 };
        out[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        out[10..12].fill(0);
        let sum = checksum::of(&out[..len]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        Some(len)
    }
}

/// The options with the "copied" flag, padded to four octets; their length. Broken options end the list.
fn copied_options(mut options: &[u8], out: &mut [u8]) -> usize {
    let mut len = 0;
    while let [kind @ 1..=255, rest @ ..] = options {
        let size = match (kind, rest) {
            (1, _) => 1,
            (_, [size @ 2..=40, ..]) if usize::from(*size) <= options.len() => usize::from(*size),
            _ => break,
        };
        if kind & 0x80 != 0 {
            out[len..len + size].copy_from_slice(&options[..size]);
            len += size;
        }
        options = &options[size..];
    }
    let padded = len.next_multiple_of(4);
    out[len..padded].fill(0);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esp::samples::{ipv4, udp};
    use crypto::cipher::{Cipher, Integ};

    //= test ES-21
    #[test]
    fn the_overhead_of_every_combination() {
        // From the RFCs: IV and alignment of the cipher (4106, 7634, 3602), ICV of the cipher or of 4868.
        let parts = |protection: Protection| match protection.cipher() {
            Cipher::AesCbc128 | Cipher::AesCbc256 => match protection.integ() {
                Some(Integ::HmacSha256_128) => (16, 16, 16),
                Some(Integ::HmacSha384_192) => (16, 16, 24),
                _ => (16, 16, 32),
            },
            _ => (8, 4, 16),
        };
        assert_eq!(Protection::all().count(), 9);
        for protection in Protection::all() {
            let (iv, align, icv) = parts(protection);
            for (ipv6, ip) in [(false, 20), (true, 40)] {
                for (udp, udp_len) in [(false, 0), (true, 8)] {
                    let outer = Outer { ipv6, udp };
                    for inner in 1_300..1_316 {
                        let pad = (align - (inner + 2) % align) % align;
                        let expected = ip + udp_len + 8 + iv + inner + pad + 2 + icv;
                        assert_eq!(outer.len(protection, inner), expected, "{protection} {outer:?} {inner}");
                    }
                    for mtu in [576, 1_280, 1_420, 1_492, 1_500, 9_000] {
                        let fits = outer.inner_mtu(protection, mtu);
                        assert!(outer.len(protection, fits) <= mtu, "{protection} {outer:?} {mtu}");
                        assert!(outer.len(protection, fits + 1) > mtu, "{protection} {outer:?} {mtu}");
                    }
                    assert_eq!(outer.inner_mtu(protection, 20), 0);
                }
            }
        }
    }

    //= test ES-20
    #[test]
    fn a_sender_is_told_what_fits() {
        for (source, destination, expected) in
            [("10.0.0.1", "10.9.0.7", 1_400), ("2001:db8::1", "2001:db8:9::7", 1_400)]
        {
            let packet = udp(source, destination, (1, 2), 2_000);
            let flow = Flow::of(&packet).unwrap();
            assert_eq!(too_long(&flow), TooLong::Tell);
            let mut out = [0; ICMP_LEN_MAX];
            let len = too_big_reply(&packet, &flow, expected, &mut out).unwrap();
            let reply = &out[..len];
            let answer = Flow::of(reply).unwrap();
            assert_eq!((answer.source, answer.destination), (flow.destination, flow.source));
            if packet[0] >> 4 == 4 {
                assert_eq!((len, &reply[20..22]), (576, &[3, 4][..]));
                assert_eq!(checksum::fold(checksum::sum(&reply[..20])), 0xffff);
                assert_eq!(checksum::fold(checksum::sum(&reply[20..])), 0xffff);
                assert_eq!(u16::from_be_bytes([reply[26], reply[27]]), 1_400);
                assert_eq!(reply[28..], packet[..len - 28]);
            } else {
                assert_eq!((len, &reply[40..42]), (1_280, &[2, 0][..]));
                let pseudo = checksum::sum(&reply[8..40]) + (len - 40) as u32 + 58;
                assert_eq!(checksum::fold(pseudo + checksum::sum(&reply[40..])), 0xffff);
                assert_eq!(reply[44..48], 1_400u32.to_be_bytes());
                assert_eq!(reply[48..], packet[..len - 48]);
            }
        }
    }

    #[test]
    fn errors_are_not_answered_with_errors() {
        let mut out = [0; ICMP_LEN_MAX];
        for (packet, answered, why) in [
            (ipv4("10.0.0.1", "10.0.0.2", 1, &[8, 0, 0, 0]), true, "an echo request"),
            (ipv4("10.0.0.1", "10.0.0.2", 1, &[3, 4, 0, 0]), false, "an ICMP error"),
            (ipv4("10.0.0.1", "224.0.0.9", 17, &[0; 8]), false, "a packet for a group"),
            (ipv4("0.0.0.0", "10.0.0.2", 17, &[0; 8]), false, "from nobody"),
        ] {
            let flow = Flow::of(&packet).unwrap();
            assert_eq!(too_big_reply(&packet, &flow, 1_400, &mut out).is_some(), answered, "{why}");
        }
    }

    //= test ES-20
    #[test]
    fn a_packet_is_cut_and_comes_together_again() {
        let mut packet = udp("10.0.0.1", "10.9.0.7", (1, 2), 3_000);
        packet[6..8].fill(0);
        assert_eq!(too_long(&Flow::of(&packet).unwrap()), TooLong::Cut);
        // Options: NOP, a copied one (security), one that is not (timestamp).
        let options = [1, 130, 4, 7, 7, 68, 4, 5, 0, 0, 0, 0];
        packet.splice(20..20, options);
        packet[0] = 0x48;
        let total = packet.len() as u16;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        for mtu in [576, 1_400, 1_402, 2_999] {
            let mut fragments = Fragments::new(&packet, mtu).unwrap();
            let mut out = vec![0; mtu];
            let (mut payload, mut more) = (Vec::<u8>::new(), true);
            while let Some(len) = fragments.next_into(&mut out) {
                assert!(more && len <= mtu);
                let header = usize::from(out[0] & 15) * 4;
                assert_eq!(checksum::fold(checksum::sum(&out[..header])), 0xffff);
                assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])), len);
                assert_eq!(out[4..6], packet[4..6], "the identification stays");
                let field = u16::from_be_bytes([out[6], out[7]]);
                assert_eq!(usize::from(field & 0x1fff) * 8, payload.len());
                let expected = if payload.is_empty() { &options[..] } else { &options[1..5] };
                assert_eq!(&out[20..header], expected);
                more = field & 0x2000 != 0;
                payload.extend(&out[header..len]);
            }
            assert!(!more);
            assert_eq!(payload, packet[32..]);
        }
        assert!(Fragments::new(&packet, 39).is_none(), "no room for eight octets");
    }

    #[test]
    fn broken_options_do_no_harm() {
        let mut out = [0; 40];
        for (options, copied) in
            [(&[130u8][..], 0), (&[130, 0], 0), (&[130, 9, 1, 1], 0), (&[130, 2, 0, 0], 4)]
        {
            assert_eq!(copied_options(options, &mut out), copied);
        }
    }
}
