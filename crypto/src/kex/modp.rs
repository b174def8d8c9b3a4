//! MODP groups over crypto-bigint (RFC 3526): generator 2, p = 2q + 1 with q prime.
//!
//! Exponentiation is in constant time for a given length of the exponent. Exponents are 320, 448 and 512 bits
//! long, at or above the upper estimates of RFC 3526, section 8.

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U2048, U3072, U4096, Uint};
use zeroize::{Zeroize, Zeroizing};

use super::Group;
use crate::Secret;

/// 2^2048 - 2^1984 - 1 + 2^64 * ( [2^1918 pi] + 124476 ): RFC 3526, section 3. The tests compute it again.
pub(super) const P_2048: Odd<U2048> = Odd::<U2048>::from_be_hex(
    "\
     FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
     EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
     83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AACAA68FFFFFFFFFFFFFFFF",
);

/// 2^3072 - 2^3008 - 1 + 2^64 * ( [2^2942 pi] + 1690314 ): RFC 3526, section 4.
pub(super) const P_3072: Odd<U3072> = Odd::<U3072>::from_be_hex(
    "\
     FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
     EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
     83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
     ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C\
     BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF",
);

/// 2^4096 - 2^4032 - 1 + 2^64 * ( [2^3966 pi] + 240904 ): RFC 3526, section 5.
pub(super) const P_4096: Odd<U4096> = Odd::<U4096>::from_be_hex(
    "\
     FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
     EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
     83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
     ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C\
     BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7\
     88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8DBBBC2DB04DE8EF92E8EFC141FBECAA6\
     287C59474E6BC05D99B2964FA090C3A2233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9\
     93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF",
);

static MODP_2048: Modp<{ U2048::LIMBS }> = Modp::new(P_2048);
static MODP_3072: Modp<{ U3072::LIMBS }> = Modp::new(P_3072);
static MODP_4096: Modp<{ U4096::LIMBS }> = Modp::new(P_4096);

/// 2 to the exponent, left-padded; `None` for an exponent that tells itself: 2^0 and 2^1.
pub(super) fn public(group: Group, exponent: &[u8]) -> Option<Vec<u8>> {
    let (first, last) = exponent.split_at(exponent.len().checked_sub(1)?);
    if first.iter().all(|octet| *octet == 0) && last.iter().all(|octet| *octet < 2) {
        return None;
    }
    let mut two = vec![0; group.public_len()];
    *two.last_mut()? = 2;
    agree(group, exponent, &two).map(|public| public.as_bytes().to_vec())
}

/// The peer's value to the exponent, left-padded; `None` unless 1 < value < p - 1. Since p is a safe prime, no other
/// value is of small order (RFC 6989, 2.1).
pub(super) fn agree(group: Group, exponent: &[u8], peer: &[u8]) -> Option<Secret> {
    match group {
        Group::Modp2048 => MODP_2048.power(peer, exponent),
        Group::Modp3072 => MODP_3072.power(peer, exponent),
        Group::Modp4096 => MODP_4096.power(peer, exponent),
        Group::Ecp256 | Group::Ecp384 | Group::Curve25519 => unreachable!("not a MODP group"),
    }
}

struct Modp<const LIMBS: usize>(FixedMontyParams<LIMBS>);

impl<const LIMBS: usize> Modp<LIMBS> {
    const fn new(prime: Odd<Uint<LIMBS>>) -> Modp<LIMBS> {
        Modp(FixedMontyParams::new_vartime(prime))
    }

    //= IK-26
    fn power(&self, base: &[u8], exponent: &[u8]) -> Option<Secret> {
        let base = Uint::<LIMBS>::from_be_slice(base);
        // The base is public, so this comparison may take its time.
        if base <= Uint::ONE || base >= self.0.modulus().wrapping_sub(&Uint::ONE) {
            return None;
        }
        let bits = u32::try_from(exponent.len() * 8).ok()?;
        let mut wide = Zeroizing::new(vec![0; Uint::<LIMBS>::BYTES]);
        let start = wide.len().checked_sub(exponent.len())?;
        wide[start..].copy_from_slice(exponent);
        let mut exponent = Uint::<LIMBS>::from_be_slice(&wide);
        let mut power = FixedMontyForm::new(&base, &self.0).pow_bounded_exp(&exponent, bits);
        let mut result = power.retrieve();
        let shared = Secret::from_slice(result.to_be_bytes().as_ref());
        exponent.zeroize();
        power.zeroize();
        result.zeroize();
        Some(shared)
    }
}
