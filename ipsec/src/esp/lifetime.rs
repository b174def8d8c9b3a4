//! How much one child SA may carry (RFC 4301, 4.4.2.1): a soft limit asks for a rekey, a hard one ends the SA.
//!
//! Time is the control side's; here are packets, octets and numbers. Without extended numbers the counter must not
//! cycle, and numbers that were granted but skipped count as used, so a rekey is asked for at half of 2^32 (about
//! two hours of 3 Gbit/s in full-size packets, and room for hundreds of takeovers). With them the 40-bit IV
//! counter of an epoch is the limit of an AEAD, and for CBC the number of octets under one key (AL-3).

use crate::record::EspSuite;

/// Without ESN: half of what there is.
const NUMBERS_SOFT: u64 = 1 << 31;
const NUMBERS_HARD: u64 = u32::MAX as u64;

/// With ESN: a quarter and three quarters of the IV counter of one epoch.
const NUMBERS_ESN_SOFT: u64 = 1 << 38;
const NUMBERS_ESN_HARD: u64 = 3 << 38;

/// CBC: 2^36 blocks of 16 octets, where two equal ciphertext blocks have a chance of 2^-57.
const CBC_OCTETS_SOFT: u64 = 1 << 39;
const CBC_OCTETS_HARD: u64 = 1 << 40;

/// A configured rekey volume leaves this share above it before the SA stops, in per cent.
const HARD_ABOVE_SOFT_PERCENT: u64 = 50;

/// Soft and hard limits of one child SA; octets count each direction for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub octets: Pair,
    /// The highest number in use, either way.
    pub numbers: Pair,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Age {
    Fresh,
    /// Still good; wants a rekey.
    Soft,
    /// Nothing is sent or accepted any more.
    Hard,
}

impl Limits {
    /// What the suite allows; `rekey_octets` is the configured volume, 0 for none.
    //= ES-26
    //= AL-3
    //= ES-13
    pub fn new(suite: &EspSuite, rekey_octets: u64) -> Limits {
        let configured = match rekey_octets {
            0 => Pair::NONE,
            soft => {
                Pair { soft, hard: soft.saturating_add(soft / 100 * HARD_ABOVE_SOFT_PERCENT).max(soft + 1) }
            }
        };
        let octets = if suite.protection.is_aead() {
            configured
        } else {
            configured.lower(Pair { soft: CBC_OCTETS_SOFT, hard: CBC_OCTETS_HARD })
        };
        let numbers = if suite.esn {
            Pair { soft: NUMBERS_ESN_SOFT, hard: NUMBERS_ESN_HARD }
        } else {
            Pair { soft: NUMBERS_SOFT, hard: NUMBERS_HARD }
        };
        Limits { octets, numbers }
    }

    /// How old an SA is that has carried so many octets, with `number` about to be used.
    pub fn age(&self, octets: u64, number: u64) -> Age {
        if octets >= self.octets.hard || number > self.numbers.hard {
            Age::Hard
        } else if octets >= self.octets.soft || number >= self.numbers.soft {
            Age::Soft
        } else {
            Age::Fresh
        }
    }
}

impl Pair {
    const NONE: Pair = Pair { soft: u64::MAX, hard: u64::MAX };

    fn lower(self, other: Pair) -> Pair {
        Pair { soft: self.soft.min(other.soft), hard: self.hard.min(other.hard) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crypto::cipher::{Cipher, Integ, Protection};

    fn suite(cipher: Cipher, integ: Option<Integ>, esn: bool) -> EspSuite {
        EspSuite { protection: Protection::new(cipher, integ).unwrap(), esn, group: None }
    }

    //= test ES-13
    //= test ES-26
    //= test AL-3
    #[test]
    fn limits_by_table() {
        let gcm = suite(Cipher::AesGcm256, None, false);
        let gcm_esn = suite(Cipher::AesGcm256, None, true);
        let cbc_esn = suite(Cipher::AesCbc128, Some(Integ::HmacSha256_128), true);
        for (suite, rekey_octets, octets, number, age) in [
            (gcm, 0, 0, 1, Age::Fresh),
            (gcm, 0, 1 << 60, 1, Age::Fresh),
            (gcm, 0, 0, (1 << 31) - 1, Age::Fresh),
            (gcm, 0, 0, 1 << 31, Age::Soft),
            (gcm, 0, 0, (1 << 32) - 1, Age::Soft),
            (gcm, 0, 0, 1 << 32, Age::Hard),
            (gcm, 1_000_000, 999_999, 1, Age::Fresh),
            (gcm, 1_000_000, 1_000_000, 1, Age::Soft),
            (gcm, 1_000_000, 1_500_000, 1, Age::Hard),
            (gcm, 1, 1, 1, Age::Soft),
            (gcm_esn, 0, 0, 1 << 32, Age::Fresh),
            (gcm_esn, 0, 0, 1 << 38, Age::Soft),
            (gcm_esn, 0, 0, 1 << 40, Age::Hard),
            (cbc_esn, 0, 1 << 39, 1, Age::Soft),
            (cbc_esn, 0, 1 << 40, 1, Age::Hard),
            (cbc_esn, 1_000, 1_000, 1, Age::Soft),
        ] {
            let limits = Limits::new(&suite, rekey_octets);
            assert_eq!(limits.age(octets, number), age, "{suite:?} {rekey_octets} {octets} {number}");
        }
    }
}
