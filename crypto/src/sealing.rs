//! State at rest: XChaCha20-Poly1305 under a storage key.
//!
//! ```text
//!   version (1) | key id (8) | nonce (24) | ciphertext | tag (16)
//! ```
//!
//! The nonce is random: 192 bits leave no chance of a repetition, and a file has no counter that would survive a
//! restored backup. The context (what is stored and where) goes in as associated data, so that a record cannot be
//! moved to another place. The key id tells which generation of the storage key sealed a value, so that keys can
//! rotate and an old generation be destroyed.

use std::fmt;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Secret;
use crate::hash::sha256;
use crate::rng::Rng;

const VERSION: u8 = 1;
const ID_LEN: usize = 8;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
const HEAD_LEN: usize = 1 + ID_LEN + NONCE_LEN;

/// How many octets a sealed value is longer than the plain one.
pub const OVERHEAD: usize = HEAD_LEN + TAG_LEN;

/// A key that seals values at rest.
#[derive(Clone, ZeroizeOnDrop)]
pub struct StorageKey {
    key: [u8; StorageKey::LEN],
    #[zeroize(skip)]
    id: KeyId,
}

/// Names a generation of the storage key without telling anything about it: a truncated hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; ID_LEN]);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// Too short, or of a version that we do not know.
    Format,
    /// Sealed under another key.
    Key(KeyId),
    /// Damaged, or sealed for another context.
    Damaged,
}

/// A storage key has 32 octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidStorageKey {
    pub len: usize,
}

impl StorageKey {
    /// In octets.
    pub const LEN: usize = 32;

    pub fn generate(rng: &mut dyn Rng) -> StorageKey {
        let mut key = Zeroizing::new([0; StorageKey::LEN]);
        rng.fill(key.as_mut());
        StorageKey::new(*key)
    }

    /// From the octets of a key file.
    pub fn from_bytes(octets: &[u8]) -> Result<StorageKey, InvalidStorageKey> {
        let key: [u8; StorageKey::LEN] =
            octets.try_into().map_err(|_| InvalidStorageKey { len: octets.len() })?;
        Ok(StorageKey::new(key))
    }

    /// For the key file.
    pub fn to_bytes(&self) -> Secret {
        Secret::from_slice(&self.key)
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Seals `plain` for `context`; `OVERHEAD` octets longer.
    pub fn seal(&self, context: &[u8], plain: &[u8], rng: &mut dyn Rng) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD);
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.id.0);
        let mut nonce = [0; NONCE_LEN];
        rng.fill(&mut nonce);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let tag = XChaCha20Poly1305::new(&self.key.into())
            .encrypt_inout_detached(
                &XNonce::from(nonce),
                &associated_data(&sealed[..1 + ID_LEN], context),
                (&mut sealed[HEAD_LEN..]).into(),
            )
            .expect("a value at rest is far shorter than 256 GiB");
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// Opens what `seal` made for the same context.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Secret, OpenError> {
        let id = key_id(sealed).ok_or(OpenError::Format)?;
        if id != self.id {
            return Err(OpenError::Key(id));
        }
        let (head, rest) = sealed.split_at(HEAD_LEN);
        let (ciphertext, tag) = rest.split_at(rest.len() - TAG_LEN);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&head[1 + ID_LEN..]);
        let mut whole_tag = [0; TAG_LEN];
        whole_tag.copy_from_slice(tag);
        let mut plain = Zeroizing::new(ciphertext.to_vec());
        XChaCha20Poly1305::new(&self.key.into())
            .decrypt_inout_detached(
                &XNonce::from(nonce),
                &associated_data(&head[..1 + ID_LEN], context),
                plain.as_mut_slice().into(),
                &Tag::from(whole_tag),
            )
            .map_err(|_| OpenError::Damaged)?;
        Ok(Secret::from(std::mem::take(&mut *plain)))
    }

    fn new(key: [u8; StorageKey::LEN]) -> StorageKey {
        let digest = sha256(&[b"pontoon storage key id", &key]);
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&digest[..ID_LEN]);
        StorageKey { key, id: KeyId(id) }
    }
}

/// The key that a sealed value needs; `None` when it is no sealed value.
pub fn key_id(sealed: &[u8]) -> Option<KeyId> {
    if sealed.len() < OVERHEAD || sealed[0] != VERSION {
        return None;
    }
    let mut id = [0; ID_LEN];
    id.copy_from_slice(&sealed[1..1 + ID_LEN]);
    Some(KeyId(id))
}

/// The head is of fixed length, so no context can be taken for another one.
fn associated_data(head: &[u8], context: &[u8]) -> Vec<u8> {
    [head, context].concat()
}

impl Zeroize for StorageKey {
    fn zeroize(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageKey({})", self.id)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Format => f.write_str("not a sealed value of a known version"),
            OpenError::Key(id) => write!(f, "sealed under another storage key ({id})"),
            OpenError::Damaged => f.write_str("damaged, or sealed for another place"),
        }
    }
}

impl std::error::Error for OpenError {}

impl fmt::Display for InvalidStorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a storage key has {} octets, not {}", StorageKey::LEN, self.len)
    }
}

impl std::error::Error for InvalidStorageKey {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SeededRng;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_context_only() {
        let rng = &mut SeededRng::new(1);
        let key = StorageKey::generate(rng);
        let other = StorageKey::generate(rng);
        let sealed = key.seal(b"record 7", b"SK_d", rng);
        assert_eq!(sealed.len(), 4 + OVERHEAD);
        assert_eq!(key.open(b"record 7", &sealed).unwrap().as_bytes(), b"SK_d");
        assert_eq!(key.open(b"record 8", &sealed), Err(OpenError::Damaged));
        assert_eq!(other.open(b"record 7", &sealed), Err(OpenError::Key(key.id())));
        assert_eq!(key_id(&sealed), Some(key.id()));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let rng = &mut SeededRng::new(2);
        let key = StorageKey::generate(rng);
        let sealed = key.seal(b"context", b"plain", rng);
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(b"context", &damaged).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(key.open(b"context", &sealed[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn equal_values_do_not_look_equal_and_keys_survive_their_file() {
        let rng = &mut SeededRng::new(3);
        let key = StorageKey::generate(rng);
        let (first, second) = (key.seal(b"", b"same", rng), key.seal(b"", b"same", rng));
        assert_ne!(first, second);
        let again = StorageKey::from_bytes(key.to_bytes().as_bytes()).unwrap();
        assert_eq!(again.open(b"", &first).unwrap().as_bytes(), b"same");
        assert_eq!(StorageKey::from_bytes(&[0; 31]).unwrap_err(), InvalidStorageKey { len: 31 });
        assert_eq!(format!("{key:?}"), format!("StorageKey({})", key.id()));
    }
}
