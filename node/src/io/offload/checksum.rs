//! The Internet checksum (RFC 1071), quick enough for every octet that passes.
//!
//! A sum of 16-bit words with end-around carry does not depend on the byte order it is added in, only on that it is
//! stored in the same one. So we add words as the machine reads them, four octets at a time into wide lanes that cannot
//! overflow, and fold at the end.

/// Words in native order, not yet folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds octets, as if they followed an even number of others.
    pub fn octets(self, octets: &[u8]) -> Sum {
        self.add(sum(octets))
    }

    /// Adds a number that is 16 bit on the wire.
    pub fn word(self, word: u16) -> Sum {
        self.add(u64::from(u16::from_ne_bytes(word.to_be_bytes())))
    }

    /// Takes a number away that was added before.
    pub fn without_word(self, word: u16) -> Sum {
        self.word(!word)
    }

    /// The sum, not complemented, as the two octets on the wire.
    pub fn folded(self) -> [u8; 2] {
        fold(self.0).to_ne_bytes()
    }

    /// The complement of the sum, as the two octets on the wire.
    pub fn checksum(self) -> [u8; 2] {
        (!fold(self.0)).to_ne_bytes()
    }

    /// Whether octets that include their checksum are right.
    pub fn is_right(self) -> bool {
        fold(self.0) == 0xffff
    }

    fn add(self, more: u64) -> Sum {
        let (sum, carry) = self.0.overflowing_add(more);
        Sum(sum + u64::from(carry))
    }
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn sum(octets: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if octets.len() >= 128 && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as checked on the line above.
        return unsafe { sum_avx2(octets) };
    }
    sum_portable(octets)
}

/// The same code, compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(octets: &[u8]) -> u64 {
    sum_portable(octets)
}

#[inline(always)]
fn sum_portable(octets: &[u8]) -> u64 {
    // Eight lanes of 64 bit, each adding 32-bit words: no carry is lost below 2^32 words.
    let mut lanes = [0u64; 8];
    let (chunks, rest) = octets.as_chunks::<32>();
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut sum: u64 = lanes.iter().sum();
    let (words, last) = rest.as_chunks::<2>();
    for word in words {
        sum += u64::from(u16::from_ne_bytes(*word));
    }
    if let [octet] = last {
        sum += u64::from(u16::from_ne_bytes([*octet, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, word by word, on big-endian words.
    fn naive(octets: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in octets.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let octets = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().octets(&octets).folded(), [0xdd, 0xf2]);
    }

    #[test]
    fn the_longest_packet_of_ones_does_not_overflow() {
        assert_eq!(Sum::default().octets(&vec![0xff; 65_536]).checksum(), [0, 0]);
    }

    proptest! {
        #[test]
        fn agrees_with_word_by_word(octets in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert_eq!(Sum::default().octets(&octets).checksum(), naive(&octets));
        }

        #[test]
        fn can_be_added_in_parts(
            octets in proptest::collection::vec(any::<u8>(), 0..600), at in 0usize..300, word: u16
        ) {
            let at = (2 * at).min(octets.len() & !1);
            let whole = Sum::default().octets(&octets);
            let parts = Sum::default().octets(&octets[at..]).word(word).octets(&octets[..at]).without_word(word);
            // Zero has two forms in ones' complement; 0 and 0xffff are the same sum.
            let normal = |sum: Sum| if sum.folded() == [0; 2] { [0xff; 2] } else { sum.folded() };
            prop_assert_eq!(normal(whole), normal(parts));
        }
    }
}
