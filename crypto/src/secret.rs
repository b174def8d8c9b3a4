//! Octets that nobody should see: wiped on drop, never printed, compared in constant time.
//!
//! There is no `Deref`, `AsRef`, `Display` or `Index`: whoever needs the octets says so with `as_bytes`, which a
//! reader can search for.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A key, a shared secret, a password.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn from_slice(octets: &[u8]) -> Secret {
        Secret(octets.to_vec())
    }

    /// The octets themselves. Copies of them are not wiped: keep them short-lived.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Consecutive pieces of the given lengths, as key material is cut up (RFC 7296, 2.14 and 2.17).
    /// `None` when the lengths do not add up to the whole.
    pub fn cut<const N: usize>(&self, lengths: [usize; N]) -> Option<[Secret; N]> {
        if lengths.iter().try_fold(0usize, |sum, length| sum.checked_add(*length)) != Some(self.len()) {
            return None;
        }
        let mut rest = self.as_bytes();
        Some(lengths.map(|length| {
            let (piece, behind) = rest.split_at(length);
            rest = behind;
            Secret::from_slice(piece)
        }))
    }
}

impl From<Vec<u8>> for Secret {
    fn from(octets: Vec<u8>) -> Secret {
        Secret(octets)
    }
}

impl<const N: usize> From<[u8; N]> for Secret {
    fn from(mut octets: [u8; N]) -> Secret {
        let secret = Secret(octets.to_vec());
        octets.zeroize();
        secret
    }
}

impl PartialEq for Secret {
    /// In constant time for secrets of one length; the length itself is no secret.
    fn eq(&self, other: &Secret) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} octets)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_only_the_length() {
        let secret = Secret::from(*b"hunter22");
        assert_eq!(format!("{secret:?}"), "Secret(8 octets)");
    }

    #[test]
    fn equality_is_over_all_octets() {
        let secret = Secret::from_slice(b"abcd");
        assert_eq!(secret, Secret::from(b"abcd".to_vec()));
        for (at, bit) in (0..4).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut other = *b"abcd";
            other[at] ^= 1 << bit;
            assert_ne!(secret, Secret::from(other), "octet {at} bit {bit}");
        }
        assert_ne!(secret, Secret::from_slice(b"abc"));
        assert_ne!(secret, Secret::from_slice(b"abcde"));
    }

    #[test]
    fn cut_takes_consecutive_pieces_and_nothing_less_than_all() {
        let secret = Secret::from_slice(b"aabbbc");
        let [a, b, none, c] = secret.cut([2, 3, 0, 1]).unwrap();
        assert_eq!(
            (a.as_bytes(), b.as_bytes(), none.is_empty(), c.as_bytes()),
            (&b"aa"[..], &b"bbb"[..], true, &b"c"[..])
        );
        assert!(secret.cut([2, 3]).is_none());
        assert!(secret.cut([2, 5]).is_none());
        assert!(secret.cut([usize::MAX, 7]).is_none());
    }

    #[test]
    fn wiped_on_request_and_by_type_on_drop() {
        fn wipes_on_drop<T: ZeroizeOnDrop>(_: &T) {}
        let mut secret = Secret::from_slice(b"abcd");
        wipes_on_drop(&secret);
        secret.zeroize();
        assert!(secret.is_empty());
    }
}
