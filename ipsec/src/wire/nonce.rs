//! Nonce (RFC 7296, 3.9): 16 to 256 octets, at least half the key size of the PRF (2.10).

use crypto::prf::Prf;
use crypto::rng::Rng;

use super::error::Malformed;
use crate::spec::{NONCE_LEN_MAX, NONCE_LEN_MIN};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(pub Vec<u8>);

impl Nonce {
    /// Enough for every PRF that we do: half of 512 bit.
    const LEN: usize = 32;

    /// A fresh random nonce.
    //= IK-25
    pub fn random(rng: &mut dyn Rng) -> Nonce {
        Nonce(rng.vec(Nonce::LEN))
    }

    /// True when it is long enough for the PRF that was negotiated.
    //= IK-25
    pub fn fits(&self, prf: Prf) -> bool {
        self.0.len() * 2 >= prf.key_len()
    }

    //= IK-25
    pub fn parse(body: &[u8]) -> Result<Nonce, Malformed> {
        if (NONCE_LEN_MIN..=NONCE_LEN_MAX).contains(&body.len()) {
            Ok(Nonce(body.to_vec()))
        } else {
            Err(Malformed("nonce of a wrong length"))
        }
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crypto::rng::SeededRng;

    //= test IK-25
    #[test]
    fn lengths() {
        for (len, fits) in [(0, false), (15, false), (16, true), (256, true), (257, false)] {
            assert_eq!(Nonce::parse(&vec![7; len]).is_ok(), fits, "{len}");
        }
        assert!(!Nonce(vec![0; 16]).fits(Prf::HmacSha512) && Nonce(vec![0; 16]).fits(Prf::HmacSha256));
    }

    //= test IK-25
    #[test]
    fn ours_fit_every_prf_and_differ() {
        let mut rng = SeededRng::new(1);
        let (a, b) = (Nonce::random(&mut rng), Nonce::random(&mut rng));
        assert_ne!(a, b);
        assert!([Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512].iter().all(|&prf| a.fits(prf)));
    }
}
