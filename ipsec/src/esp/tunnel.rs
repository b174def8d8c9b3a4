//! What tunnel mode adds and takes off: the ESP trailer (RFC 4303, 2.4 to 2.6) and congestion marks (RFC 6040).
//!
//! ```text
//!   SPI | sequence number | IV | inner packet | (TFC padding) | 1 2 3 .. | pad length | next header | ICV
//!                                └──────────────────── encrypted ─────────────────────────────────┘
//! ```
//!
//! TTL and hop limit are the kernel's business: it forwards inner packets between the TUN device and the inside and
//! counts them down there, once (ES-17). The outer header comes fresh from the socket.

use super::DropReason;
use super::checksum;
use super::flow;
use crate::spec::{ESP_HEADER_LEN, ESP_TRAILER_LEN, NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE};
use crate::wire;
use crypto::cipher::Protection;

/// The largest alignment is that of AES-CBC.
const TRAILER_MAX: usize = 15 + ESP_TRAILER_LEN;

const PADDING: [u8; TRAILER_MAX] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 0];

/// Where the parts of an ESP packet lie that holds `inner` octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the inner packet starts: behind header and IV.
    pub payload: usize,
    pub pad: usize,
    /// Header to ICV.
    pub total: usize,
}

impl Layout {
    //= ES-2
    //= ES-21
    pub fn new(protection: Protection, inner: usize) -> Layout {
        let payload = ESP_HEADER_LEN + protection.iv_len();
        let plain = (inner + ESP_TRAILER_LEN).next_multiple_of(protection.align());
        Layout {
            payload,
            pad: plain - ESP_TRAILER_LEN - inner,
            total: payload + plain + protection.icv_len(),
        }
    }
}

/// Padding, pad length and next header, to be put behind an inner packet.
#[derive(Clone, Copy, Debug)]
pub struct Trailer {
    octets: [u8; TRAILER_MAX],
    len: usize,
}

impl Trailer {
    /// `inner` is an IP packet; `layout` that of its length.
    //= ES-1
    //= ES-2
    pub fn new(layout: Layout, inner: &[u8]) -> Trailer {
        let six = inner.first().is_some_and(|first| first >> 4 == 6);
        let mut octets = PADDING;
        octets[layout.pad] = layout.pad as u8;
        octets[layout.pad + 1] = if six { NEXT_HEADER_IPV6 } else { NEXT_HEADER_IPV4 };
        Trailer { octets, len: layout.pad + ESP_TRAILER_LEN }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

/// The length of the inner packet in an opened payload.
//= ES-1
//= ES-2
//= ES-7
//= ES-8
pub fn read_trailer(plain: &[u8]) -> Result<usize, DropReason> {
    let inside = wire::esp::Inside::of(plain).ok_or(DropReason::Malformed)?;
    let version = match inside.next_header {
        NEXT_HEADER_IPV4 => 4,
        NEXT_HEADER_IPV6 => 6,
        NEXT_HEADER_NONE => return Err(DropReason::Dummy),
        _ => return Err(DropReason::NextHeader),
    };
    // What is between the packet's own end and the padding is traffic flow confidentiality (RFC 4303, 2.7).
    let inner = flow::stated_len(&plain[..inside.len]).map_err(|_| DropReason::Malformed)?;
    if plain[0] >> 4 == version { Ok(inner) } else { Err(DropReason::Malformed) }
}

/// The two bits of RFC 3168.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecn {
    NotEct,
    Ect1,
    Ect0,
    Ce,
}

impl Ecn {
    pub fn of(tos: u8) -> Ecn {
        match tos & 3 {
            0 => Ecn::NotEct,
            1 => Ecn::Ect1,
            2 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }

    fn bits(self) -> u8 {
        match self {
            Ecn::NotEct => 0,
            Ecn::Ect1 => 1,
            Ecn::Ect0 => 2,
            Ecn::Ce => 3,
        }
    }

    /// What leaves the tunnel when the packet went in as `self` and its outer header arrived as `outer`
    /// (RFC 6040, figure 4). `None`: drop.
    //= ES-19
    pub fn after_tunnel(self, outer: Ecn) -> Option<Ecn> {
        match (self, outer) {
            (Ecn::NotEct, Ecn::Ce) => None,
            (Ecn::NotEct, _) => Some(Ecn::NotEct),
            (Ecn::Ce, _) | (_, Ecn::Ce) => Some(Ecn::Ce),
            (Ecn::Ect0, Ecn::Ect1) => Some(Ecn::Ect1),
            (inner, _) => Some(inner),
        }
    }
}

/// The outer TOS octet for an inner one: DSCP and ECN are copied (RFC 4301, 5.1.2.1; RFC 6040, 4.1, normal mode).
//= ES-18
//= ES-19
pub fn outer_tos(inner: u8) -> u8 {
    inner
}

/// Carries a congestion mark from the outer header into the inner packet; its DSCP stays.
//= ES-18
//= ES-19
pub fn merge_ecn(inner: &mut [u8], inner_tos: u8, outer_tos: u8) -> Result<(), DropReason> {
    let before = Ecn::of(inner_tos);
    let after = before.after_tunnel(Ecn::of(outer_tos)).ok_or(DropReason::Ecn)?;
    if after == before {
        return Ok(());
    }
    if inner[0] >> 4 == 6 {
        // The traffic class lies across the first two octets.
        inner[1] = (inner[1] & 0b1100_1111) | (after.bits() << 4);
    } else {
        let old = u16::from_be_bytes([inner[0], inner[1]]);
        inner[1] = (inner[1] & 0b1111_1100) | after.bits();
        let new = u16::from_be_bytes([inner[0], inner[1]]);
        let sum = u16::from_be_bytes([inner[10], inner[11]]);
        inner[10..12].copy_from_slice(&checksum::changed(sum, old, new).to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esp::flow::Flow;
    use crate::esp::samples::udp;

    //= test ES-19
    #[test]
    fn figure_4_of_rfc_6040() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        for (inner, row) in [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ] {
            for (outer, leaves) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                assert_eq!(inner.after_tunnel(outer), leaves, "{inner:?} in {outer:?}");
            }
        }
        for tos in 0..=255 {
            assert_eq!(Ecn::of(tos).bits(), tos & 3);
            assert_eq!(outer_tos(tos), tos);
        }
    }

    //= test ES-18
    //= test ES-19
    #[test]
    fn a_mark_changes_two_bits_and_keeps_the_checksum_right() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let mut packet = udp(source, destination, (1, 2), 10);
            let dscp = 0b1011_1000;
            if packet[0] >> 4 == 4 {
                packet[1] = dscp | 2;
                packet[10..12].fill(0);
                let sum = checksum::of(&packet[..20]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            } else {
                packet[0] |= dscp >> 4;
                packet[1] |= (dscp | 2) << 4;
            }
            assert_eq!(Flow::of(&packet).unwrap().tos, dscp | 2);
            let before = packet.clone();
            merge_ecn(&mut packet, dscp | 2, 0b1111_1100).unwrap();
            assert_eq!(packet, before, "the outer DSCP stays outside");
            merge_ecn(&mut packet, dscp | 2, 3).unwrap();
            assert_eq!(Flow::of(&packet).unwrap().tos, dscp | 3);
            if packet[0] >> 4 == 4 {
                assert_eq!(checksum::fold(checksum::sum(&packet[..20])), 0xffff);
            }
            assert_eq!(merge_ecn(&mut packet, 0, 3), Err(DropReason::Ecn));
        }
    }

    //= test ES-1
    //= test ES-2
    //= test ES-7
    //= test ES-8
    #[test]
    fn trailers_by_table() {
        let packet = udp("10.0.0.1", "10.0.0.2", (1, 2), 2); // 30 octets
        let six = udp("::1", "::2", (1, 2), 2);
        let with = |inner: &[u8], rest: &[u8]| [inner, rest].concat();
        for (plain, outcome, why) in [
            (with(&packet, &[0, 4]), Ok(30), "no padding"),
            (with(&packet, &[1, 2, 2, 4]), Ok(30), "two octets of padding"),
            (with(&six, &[1, 2, 2, 41]), Ok(50), "IPv6"),
            (with(&packet, &[1, 3, 2, 4]), Err(DropReason::Malformed), "wrong padding"),
            (with(&packet, &[9, 9, 9, 1, 1, 4]), Ok(30), "TFC padding"),
            (with(&packet, &[3, 4]), Err(DropReason::Malformed), "the padding eats the packet"),
            (with(&[], &[9, 4]), Err(DropReason::Malformed), "more padding than there is"),
            (with(&packet, &[0, 41]), Err(DropReason::Malformed), "IPv4 under the number of IPv6"),
            (with(&six, &[0, 4]), Err(DropReason::Malformed), "and the reverse"),
            (with(&packet, &[0, 59]), Err(DropReason::Dummy), "a dummy"),
            (with(&[], &[0, 59]), Err(DropReason::Dummy), "an empty dummy"),
            (with(&packet, &[0, 17]), Err(DropReason::NextHeader), "transport mode"),
            (with(&packet[..29], &[0, 4]), Err(DropReason::Malformed), "cut"),
            (vec![4], Err(DropReason::Malformed), "no trailer"),
            (vec![], Err(DropReason::Malformed), "nothing"),
        ] {
            assert_eq!(read_trailer(&plain), outcome, "{why}");
        }
    }

    //= test ES-2
    #[test]
    fn every_length_comes_back() {
        for protection in Protection::all() {
            for payload in 0..70 {
                let inner = udp("10.0.0.1", "10.0.0.2", (1, 2), payload);
                let layout = Layout::new(protection, inner.len());
                assert_eq!((layout.total - layout.payload - protection.icv_len()) % protection.align(), 0);
                let plain = [&inner, Trailer::new(layout, &inner).as_slice()].concat();
                assert_eq!(plain.len(), layout.total - layout.payload - protection.icv_len());
                assert_eq!(read_trailer(&plain), Ok(inner.len()));
            }
        }
    }
}
