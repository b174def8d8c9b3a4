//! Content that can be made anywhere and checked anywhere: a seed gives an endless stream of octets.
//!
//! The generator is xorshift64*: fast, never all zeros, not compressible; nothing secret depends on it.

use sha2::{Digest, Sha256};

/// An endless stream of octets, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Content {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Content {
    pub fn new(seed: u64) -> Content {
        Content { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, word: [0; 8], used: 8 }
    }

    /// The next octets, in place.
    pub fn fill(&mut self, out: &mut [u8]) {
        let mut rest = out;
        while !rest.is_empty() {
            if self.used == 8 {
                if rest.len() >= 8 {
                    let (now, later) = rest.split_at_mut(8);
                    now.copy_from_slice(&self.next_word());
                    rest = later;
                    continue;
                }
                self.word = self.next_word();
                self.used = 0;
            }
            rest[0] = self.word[self.used];
            self.used += 1;
            rest = &mut rest[1..];
        }
    }

    fn next_word(&mut self) -> [u8; 8] {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    }
}

/// SHA-256 of the first `length` octets of a seed, as hex.
pub fn hash(seed: u64, length: u64) -> String {
    let mut content = Content::new(seed);
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        let size = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        content.fill(&mut buffer[..size]);
        hasher.update(&buffer[..size]);
        left -= size as u64;
    }
    hasher.hex()
}

/// SHA-256 in steps.
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    pub fn update(&mut self, octets: &[u8]) {
        self.0.update(octets);
    }

    pub fn hex(self) -> String {
        hex::encode(self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_same_stream() {
        let mut whole = vec![0; 1000];
        Content::new(7).fill(&mut whole);
        let (mut pieces, mut content) = (vec![0; 1000], Content::new(7));
        let mut at = 0;
        for size in (1..).take_while(|size| size * (size + 1) / 2 <= 1000) {
            content.fill(&mut pieces[at..at + size]);
            at += size;
        }
        assert_eq!(whole[..at], pieces[..at]);
        assert_ne!(hash(7, 1000), hash(8, 1000));
        let mut hasher = Hasher::default();
        hasher.update(&whole);
        assert_eq!(hasher.hex(), hash(7, 1000));
    }
}
