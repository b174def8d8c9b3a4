//! A hash for numbers that we chose ourselves: SPIs are random, prefixes come from our configuration and pools.
//! Strangers choose what is looked up, not what is inserted, so a multiplication spreads well enough.

use std::hash::{BuildHasher, Hasher};

#[derive(Clone, Copy, Debug, Default)]
pub struct NumberHasher;

#[derive(Clone, Copy, Debug, Default)]
pub struct NumberHash(u64);

/// 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl BuildHasher for NumberHasher {
    type Hasher = NumberHash;

    fn build_hasher(&self) -> NumberHash {
        NumberHash(0)
    }
}

impl Hasher for NumberHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        for &octet in octets {
            self.write_u64(u64::from(octet));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let product = (self.0 ^ number).wrapping_mul(SPREAD);
        // The map takes its bucket from the low bits and its tag from the high ones.
        self.0 = product ^ (product >> 32);
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64(number as u64);
        self.write_u64((number >> 64) as u64);
    }
}
