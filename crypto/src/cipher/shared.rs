//! Sealing by several threads under one key: datagrams between nodes.
//!
//! ```text
//!   SharedSealKey ── batch(n) ──> Batch: n numbers that nobody else has ── seal ──> header | number (8) | text | ICV
//! ```
//!
//! The numbers are one counter for all threads, and a batch takes a stretch of it with one addition. A batch cannot be
//! copied and belongs to its key, so no number serves twice; what a batch does not use is skipped. As with a `SealKey`
//! nobody outside of this module chooses a nonce.
//!
//! Both ends derive key and salt from one secret that is exported for this alone, per direction.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::keys::{Parts, nonce};
use super::stack::{Aead, Stack};
use super::{Cipher, OpenKey, Protection, SALT_LEN, SealError};
use crate::Secret;
use crate::prf::Prf;

const PROTECTION: Protection = Protection { cipher: Cipher::AesGcm256, integ: None };

/// Numbers start at 1, and this many are never reached: 2^63 datagrams.
const NUMBERS_END: u64 = 1 << 63;

/// Octets that a sealed message is longer than its header and text.
pub const SHARED_OVERHEAD: usize = super::AEAD_IV_LEN + super::AEAD_ICV_LEN;

/// Seals one direction of a session, from any thread.
pub struct SharedSealKey {
    aead: Aead,
    salt: [u8; SALT_LEN],
    next: AtomicU64,
}

/// A stretch of numbers, to seal with.
pub struct Batch<'a> {
    key: &'a SharedSealKey,
    next: u64,
    end: u64,
}

impl SharedSealKey {
    /// `secret`: of one direction of one session, and made a key only once.
    pub fn new(secret: &Secret) -> SharedSealKey {
        let material = derive(secret);
        let (key, salt_octets) = material.as_bytes().split_at(PROTECTION.cipher.key_len());
        let mut salt = [0; SALT_LEN];
        salt.copy_from_slice(salt_octets);
        SharedSealKey { aead: Aead::new(Stack::Fast, PROTECTION.cipher, key), salt, next: AtomicU64::new(1) }
    }

    /// Takes the next `count` numbers.
    pub fn batch(&self, count: u32) -> Batch<'_> {
        let next = self.next.fetch_add(count.into(), Ordering::Relaxed);
        Batch { key: self, next, end: next + u64::from(count) }
    }
}

impl Batch<'_> {
    /// How many more it can seal.
    pub fn left(&self) -> u64 {
        self.end - self.next
    }

    /// Seals in place. `message` is header (`header` octets, authenticated) | 8 octets | text | 16 octets.
    pub fn seal(&mut self, message: &mut [u8], header: usize) -> Result<(), SealError> {
        let parts = Parts::split(PROTECTION, None, message, header).ok_or(SealError::Layout)?;
        if self.next >= self.end.min(NUMBERS_END) {
            return Err(SealError::Exhausted);
        }
        let number = self.next.to_be_bytes();
        self.next += 1;
        parts.iv.copy_from_slice(&number);
        let header = parts.header;
        let (text, icv) = parts.body.split_at_mut(parts.body.len() - parts.icv_len);
        icv.copy_from_slice(&self.key.aead.seal(nonce(self.key.salt, number), header, text));
        Ok(())
    }
}

impl OpenKey {
    /// Opens what a `SharedSealKey` of the same secret has sealed. The number stands in the message, right behind the
    /// header; to refuse what comes twice is the caller's part.
    pub fn shared(secret: &Secret) -> OpenKey {
        let material = derive(secret);
        OpenKey::new(PROTECTION, material.as_bytes(), &[]).expect("the derived length is the protection's")
    }
}

fn derive(secret: &Secret) -> Secret {
    Prf::HmacSha256.prf_plus(secret.as_bytes(), &[b"pontoon datagrams"], PROTECTION.encr_key_len())
}

impl fmt::Debug for SharedSealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedSealKey({} numbers taken)", self.next.load(Ordering::Relaxed) - 1)
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({}..{})", self.next, self.end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HEADER: usize = 9;

    fn message(text: &[u8]) -> Vec<u8> {
        let mut message = vec![7; HEADER];
        message.extend([0; 8]);
        message.extend(text);
        message.extend([0; 16]);
        message
    }

    fn number(message: &[u8]) -> u64 {
        u64::from_be_bytes(message[HEADER..HEADER + 8].try_into().unwrap())
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_secret_only() {
        let (secret, other) = (Secret::from([1; 32]), Secret::from([2; 32]));
        let key = SharedSealKey::new(&secret);
        let mut sealed = message(b"probe");
        key.batch(1).seal(&mut sealed, HEADER).unwrap();
        assert_eq!(sealed.len(), HEADER + 5 + SHARED_OVERHEAD);
        assert_eq!(OpenKey::shared(&secret).open(None, &mut sealed.clone(), HEADER).unwrap(), b"probe");
        assert!(OpenKey::shared(&other).open(None, &mut sealed.clone(), HEADER).is_err());
        for octet in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[octet] ^= 1;
            assert!(OpenKey::shared(&secret).open(None, &mut damaged, HEADER).is_err(), "octet {octet}");
        }
    }

    #[test]
    fn a_batch_ends_and_threads_never_share_a_number() {
        let key = SharedSealKey::new(&Secret::from([3; 32]));
        let seal_ten = || {
            let mut batch = key.batch(10);
            let numbers: Vec<u64> = std::iter::from_fn(|| {
                let mut sealed = message(b"");
                batch.seal(&mut sealed, HEADER).ok().map(|()| number(&sealed))
            })
            .collect();
            assert_eq!((numbers.len(), batch.left()), (10, 0));
            numbers
        };
        let numbers: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..50).flat_map(|_| seal_ten()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 4 * 50 * 10);
        assert!(!numbers.contains(&0), "a window takes no number 0");
    }
}
