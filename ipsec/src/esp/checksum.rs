//! The Internet checksum (RFC 1071), whole and by difference (RFC 1624).

/// The checksum over `octets`, in which its own field is zero.
pub fn of(octets: &[u8]) -> u16 {
    !fold(sum(octets))
}

/// The unfolded sum, to be added to others. All but the last part must have an even length.
pub fn sum(octets: &[u8]) -> u32 {
    let pairs = octets.chunks_exact(2);
    let last = pairs.remainder().first().map_or(0, |&octet| u32::from(octet) << 8);
    pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>() + last
}

pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// `checksum` after one 16-bit word under it has changed (RFC 1624, equation 3).
pub fn changed(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!old) + u32::from(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(of(&[0x01]), !0x0100);
    }

    proptest! {
        #[test]
        fn a_difference_is_as_good_as_the_whole(mut octets in prop::array::uniform20(any::<u8>()), new: u16) {
            octets[10..12].fill(0);
            octets[8] = 64; // A header is never all zero.
            let before = of(&octets);
            let old = u16::from_be_bytes([octets[0], octets[1]]);
            octets[..2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(changed(before, old, new), of(&octets));
        }
    }
}
