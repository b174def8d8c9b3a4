//! Pseudo-random functions of IKEv2 and prf+ (RFC 7296, 2.13; RFC 4868).
//!
//! ```text
//!   prf+ (K,S) = T1 | T2 | ...    T1 = prf (K, S | 0x01)    Tn = prf (K, Tn-1 | S | n)
//! ```

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::Secret;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Prf {
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

/// prf+ counts its rounds in one octet.
const ROUNDS_MAX: usize = 255;

impl Prf {
    /// The preferred key length in octets: that of SK_d, SK_pi and SK_pr. HMAC takes keys of any length.
    pub fn key_len(self) -> usize {
        self.output_len()
    }

    /// In octets.
    pub fn output_len(self) -> usize {
        match self {
            Prf::HmacSha256 => 32,
            Prf::HmacSha384 => 48,
            Prf::HmacSha512 => 64,
        }
    }

    /// prf(key, data), with the pieces of `data` as if they stood in one buffer.
    //= IK-31
    pub fn prf(self, key: &[u8], data: &[&[u8]]) -> Secret {
        Secret::from_slice(sign(&hmac::Key::new(self.algorithm(), key), data).as_ref())
    }

    /// The first `len` octets of prf+(key, seed), with the pieces of `seed` as if they stood in one buffer.
    /// Panics past 255 rounds, which no key of IKEv2 comes near.
    //= IK-31
    pub fn prf_plus(self, key: &[u8], seed: &[&[u8]], len: usize) -> Secret {
        assert!(len <= ROUNDS_MAX * self.output_len(), "prf+ ends after 255 rounds");
        let key = hmac::Key::new(self.algorithm(), key);
        let seed = Zeroizing::new(seed.concat());
        // Filled without growing: a reallocation would leave key material behind.
        let mut output = Zeroizing::new(vec![0; len]);
        let mut previous = Zeroizing::new(Vec::with_capacity(self.output_len()));
        for (round, part) in (1u8..=255).zip(output.chunks_mut(self.output_len())) {
            let tag = sign(&key, &[&previous, &seed, &[round]]);
            part.copy_from_slice(&tag.as_ref()[..part.len()]);
            previous.clear();
            previous.extend_from_slice(tag.as_ref());
        }
        Secret::from(std::mem::take(&mut *output))
    }

    fn algorithm(self) -> hmac::Algorithm {
        match self {
            Prf::HmacSha256 => hmac::HMAC_SHA256,
            Prf::HmacSha384 => hmac::HMAC_SHA384,
            Prf::HmacSha512 => hmac::HMAC_SHA512,
        }
    }
}

fn sign(key: &hmac::Key, data: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    data.iter().for_each(|piece| context.update(piece));
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{known_answers, list, octets, text};

    const ALL: [Prf; 3] = [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];

    fn named(name: &str) -> Prf {
        match name {
            "PRF_HMAC_SHA2_256" => Prf::HmacSha256,
            "PRF_HMAC_SHA2_384" => Prf::HmacSha384,
            "PRF_HMAC_SHA2_512" => Prf::HmacSha512,
            other => panic!("{other}"),
        }
    }

    //= test IK-31
    #[test]
    fn nist_ikev2_key_derivation() {
        let file = known_answers("nist-ikev2-kdf.json");
        assert_eq!(list(&file, "ike_sa").len(), 6);
        for case in list(&file, "ike_sa") {
            let prf = named(text(case, "prf"));
            let [ni, nr, g_ir, spi_i, spi_r] =
                ["ni", "nr", "g_ir", "spi_i", "spi_r"].map(|member| octets(case, member));
            let skeyseed = prf.prf(&[&ni[..], &nr].concat(), &[&g_ir]);
            assert_eq!(skeyseed.as_bytes(), octets(case, "skeyseed"), "{}", case["id"]);
            let dkm = octets(case, "dkm");
            let derived = prf.prf_plus(skeyseed.as_bytes(), &[&ni, &nr, &spi_i, &spi_r], dkm.len());
            assert_eq!(derived.as_bytes(), dkm, "{}", case["id"]);
        }
        for case in list(&file, "prf_plus_extra") {
            let out = octets(case, "out");
            let derived =
                named(text(case, "prf")).prf_plus(&octets(case, "key"), &[&octets(case, "seed")], out.len());
            assert_eq!(derived.as_bytes(), out, "{}", case["id"]);
        }
    }

    #[test]
    fn rfc_4231_and_rfc_4868() {
        let names = ["hmac_sha256", "hmac_sha384", "hmac_sha512"];
        for case in list(&known_answers("rfc/rfc4231-hmac-sha2.json"), "tests") {
            for (prf, name) in ALL.into_iter().zip(names) {
                let output = prf.prf(&octets(case, "key"), &[&octets(case, "data")]);
                let expected = octets(case, name);
                assert_eq!(&output.as_bytes()[..expected.len()], expected, "{} {name}", case["id"]);
            }
        }
        let names = ["prf_hmac_sha_256", "prf_hmac_sha_384", "prf_hmac_sha_512"];
        for case in list(&known_answers("rfc/rfc4868-hmac-sha2-ipsec.json"), "prf") {
            for (prf, name) in ALL.into_iter().zip(names) {
                let output = prf.prf(&octets(case, "key"), &[&octets(case, "data")]);
                assert_eq!(output.as_bytes(), octets(case, name), "{} {name}", case["id"]);
            }
        }
    }

    #[test]
    fn prf_plus_is_the_chain_of_the_rfc_at_every_length() {
        for prf in ALL {
            let t1 = prf.prf(b"key", &[b"se", b"ed", &[1]]);
            let t2 = prf.prf(b"key", &[t1.as_bytes(), b"seed", &[2]]);
            let t3 = prf.prf(b"key", &[t2.as_bytes(), b"seed", &[3]]);
            let chain = [t1.as_bytes(), t2.as_bytes(), t3.as_bytes()].concat();
            for len in 0..=chain.len() {
                assert_eq!(
                    prf.prf_plus(b"key", &[b"s", b"eed"], len).as_bytes(),
                    &chain[..len],
                    "{prf:?} {len}"
                );
            }
        }
    }

    #[test]
    fn the_last_round_is_the_255th() {
        assert_eq!(Prf::HmacSha256.prf_plus(b"key", &[b"seed"], 255 * 32).len(), 255 * 32);
    }

    #[test]
    #[should_panic(expected = "255 rounds")]
    fn a_256th_round_is_refused() {
        Prf::HmacSha256.prf_plus(b"key", &[b"seed"], 255 * 32 + 1);
    }
}
