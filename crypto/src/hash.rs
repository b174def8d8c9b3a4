//! Hashes over pieces, and comparison in constant time.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use subtle::ConstantTimeEq;

/// SHA-1 over the pieces as if they stood in one buffer. For NAT detection only (RFC 7296, 2.23), where it
/// protects nothing.
pub fn sha1(pieces: &[&[u8]]) -> [u8; 20] {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    pieces.iter().for_each(|piece| context.update(piece));
    let mut digest = [0; 20];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// SHA-256 over the pieces as if they stood in one buffer.
pub fn sha256(pieces: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    pieces.iter().for_each(|piece| context.update(piece));
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Equality in a time that depends on the lengths only. For everything a stranger may guess at: AUTH values, MACs,
/// cookies, tokens.
pub fn ct_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_in_one_piece_and_in_three() {
        // FIPS 180-4, the examples for "abc".
        for pieces in [&[&b"abc"[..]][..], &[&b"a"[..], &b""[..], &b"bc"[..]][..]] {
            assert_eq!(hex::encode(sha1(pieces)), "a9993e364706816aba3e25717850c26c9cd0d89d");
            assert_eq!(
                hex::encode(sha256(pieces)),
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            );
        }
    }

    #[test]
    fn comparison() {
        assert!(ct_eq(b"", b""));
        assert!(ct_eq(b"abc", b"abc"));
        assert!(!ct_eq(b"abc", b"abd"));
        assert!(!ct_eq(b"abc", b"abcd"));
    }
}
