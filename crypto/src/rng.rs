//! Where randomness comes from. Everything that needs some takes `&mut dyn Rng`, so that a simulation with a seed
//! is the same run every time.
//!
//! `SeededRng` is ChaCha20 with fast key erasure: each refill yields the next key and the octets to hand out, and
//! the old key is gone, so what was handed out cannot be computed from a later state. It also makes the IVs of
//! AES-CBC inside a `SealKey`, seeded from the system, without a system call a packet.

use std::fmt;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub trait Rng: Send {
    /// Overwrites all of `out` with random octets.
    fn fill(&mut self, out: &mut [u8]);

    fn u32(&mut self) -> u32 {
        let mut octets = [0; 4];
        self.fill(&mut octets);
        u32::from_le_bytes(octets)
    }

    fn u64(&mut self) -> u64 {
        let mut octets = [0; 8];
        self.fill(&mut octets);
        u64::from_le_bytes(octets)
    }

    fn vec(&mut self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.fill(&mut octets);
        octets
    }
}

/// The random source of the operating system, through the generator of aws-lc.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRng;

impl Rng for OsRng {
    /// Panics if the system has no randomness to give: nothing of ours can go on safely then.
    fn fill(&mut self, out: &mut [u8]) {
        aws_lc_rs::rand::fill(out).expect("the system's random source works");
    }
}

const KEY_LEN: usize = 32;
const POOL_LEN: usize = 512;

/// A deterministic generator: the same seed gives the same octets, in whatever portions they are taken.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SeededRng {
    key: [u8; KEY_LEN],
    pool: [u8; POOL_LEN],
    used: usize,
}

impl SeededRng {
    /// For simulations and tests; a seed of 64 bits protects nothing.
    pub fn new(seed: u64) -> SeededRng {
        let mut wide = [0; KEY_LEN];
        wide[..8].copy_from_slice(&seed.to_le_bytes());
        SeededRng::from_seed(wide)
    }

    pub fn from_seed(seed: [u8; KEY_LEN]) -> SeededRng {
        SeededRng { key: seed, pool: [0; POOL_LEN], used: POOL_LEN }
    }

    /// A generator of its own, seeded from another one.
    pub fn from_rng(rng: &mut dyn Rng) -> SeededRng {
        let mut seed = Zeroizing::new([0; KEY_LEN]);
        rng.fill(seed.as_mut());
        SeededRng::from_seed(*seed)
    }

    fn refill(&mut self) {
        // The nonce may stay zero: no key is used twice.
        let mut stream = ChaCha20::new(&self.key.into(), &[0; 12].into());
        self.key.zeroize();
        self.pool.zeroize();
        stream.apply_keystream(&mut self.key);
        stream.apply_keystream(&mut self.pool);
        self.used = 0;
    }
}

impl Rng for SeededRng {
    fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.used == POOL_LEN {
                self.refill();
            }
            let take = out.len().min(POOL_LEN - self.used);
            let (now, later) = out.split_at_mut(take);
            let given = &mut self.pool[self.used..self.used + take];
            now.copy_from_slice(given);
            given.zeroize();
            self.used += take;
            out = later;
        }
    }
}

impl fmt::Debug for SeededRng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeededRng")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_whole_run_whatever_the_portions() {
        let whole = SeededRng::new(7).vec(5_000);
        let mut rng = SeededRng::new(7);
        let mut portions = Vec::new();
        for len in (1..).take_while(|len| len * (len + 1) / 2 <= 5_000) {
            portions.extend(rng.vec(len));
        }
        assert_eq!(whole[..portions.len()], portions);
        assert_ne!(whole, SeededRng::new(8).vec(5_000));
    }

    #[test]
    fn the_first_octets_are_chacha20_of_the_seed() {
        // RFC 8439, appendix A.1, test vector 1: key and nonce zero, block 0. Its first 32 octets become the next
        // key, the following ones are handed out.
        let block = hex::decode("da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586").unwrap();
        assert_eq!(SeededRng::from_seed([0; 32]).vec(32), block);
    }

    #[test]
    fn octets_are_handed_out_once() {
        let mut rng = SeededRng::new(1);
        let mut seen: Vec<_> = (0..10_000).map(|_| rng.u64()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 10_000);
    }

    #[test]
    fn the_system_gives_different_octets_each_time() {
        assert_ne!(OsRng.vec(32), OsRng.vec(32));
    }
}
