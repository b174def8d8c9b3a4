//! The ESP packet (RFC 4303, 2) as a view over its octets.
//!
//! ```text
//!   SPI (4) | sequence number, low half (4) | IV | ciphertext of: inner packet, padding, pad length, next header | ICV
//! ```
//!
//! Where IV and ICV end depends on the SA, so the view of the outside stops at the sequence number, and that of the
//! inside starts with what was decrypted.

use super::DropReason;
use crate::spec::{ESP_HEADER_LEN, ESP_TRAILER_LEN};
use crate::types::ChildSpi;

/// The shortest packet of any suite that we do: header, IV of 8, one block of 4, ICV of 16.
pub const PACKET_LEN_MIN: usize = ESP_HEADER_LEN + 8 + 4 + 16;

/// The part of a packet that is in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    spi: ChildSpi,
    seq_low: u32,
}

impl Packet {
    //= ES-1
    pub fn new(packet: &[u8]) -> Result<Packet, DropReason> {
        if packet.len() < PACKET_LEN_MIN {
            return Err(DropReason::EspTruncated);
        }
        let word =
            |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        let (spi, seq_low) = (word(0), word(4));
        if spi < ChildSpi::FIRST {
            return Err(DropReason::EspReservedSpi);
        }
        Ok(Packet { spi: ChildSpi(spi), seq_low })
    }

    pub fn spi(&self) -> ChildSpi {
        self.spi
    }

    /// The low half of the sequence number.
    pub fn seq_low(&self) -> u32 {
        self.seq_low
    }

    /// Writes SPI and sequence number to the front of `packet`.
    pub fn write(spi: ChildSpi, seq_low: u32, packet: &mut [u8; ESP_HEADER_LEN]) {
        packet[..4].copy_from_slice(&spi.0.to_be_bytes());
        packet[4..].copy_from_slice(&seq_low.to_be_bytes());
    }
}

/// What stood inside: the payload without padding, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Octets of the payload at the front of the plaintext.
    pub len: usize,
    pub next_header: u8,
}

impl Inside {
    /// Reads the trailer of a decrypted packet. Padding is 1, 2, 3 … (RFC 4303, 2.4); `None` when it is not, or is
    /// longer than what is there. Integrity was right by then, so this is a fault of the peer.
    //= ES-2
    pub fn of(plain: &[u8]) -> Option<Inside> {
        let (rest, &[pad_len, next_header]) = plain.split_last_chunk::<ESP_TRAILER_LEN>()?;
        let len = rest.len().checked_sub(usize::from(pad_len))?;
        let counts = rest[len..].iter().zip(1u8..).all(|(&octet, count)| octet == count);
        counts.then_some(Inside { len, next_header })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= test ES-2
    #[test]
    fn trailers() {
        for (plain, expected) in [
            (&[9, 9, 1, 2, 2, 4][..], Some((2, 4))),
            (&[9, 9, 0, 41], Some((2, 41))),
            (&[1, 2, 2, 59], Some((0, 59))),
            (&[0, 4], Some((0, 4))),
            (&[9, 9, 1, 3, 2, 4], None),
            (&[9, 9, 0, 0, 2, 4], None),
            (&[1, 2, 3, 4], None),
            (&[4], None),
            (&[], None),
        ] {
            let inside = Inside::of(plain).map(|inside| (inside.len, inside.next_header));
            assert_eq!(inside, expected, "{plain:?}");
        }
    }

    #[test]
    fn header_there_and_back() {
        let mut packet = [0; PACKET_LEN_MIN];
        let (front, _) = packet.split_first_chunk_mut().unwrap();
        Packet::write(ChildSpi(0xdead_beef), 7, front);
        let view = Packet::new(&packet).unwrap();
        assert_eq!((view.spi(), view.seq_low()), (ChildSpi(0xdead_beef), 7));
    }
}
