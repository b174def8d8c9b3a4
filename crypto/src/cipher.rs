//! Protection of ESP packets and of IKE's encrypted payloads: confidentiality and integrity as one thing.
//!
//! ```text
//!   message =  header | IV | plaintext, padded | ICV          in place, one buffer
//!   AEAD    AAD   header, and with ESN: SPI | high | low       (RFC 4106, 7634, 5282)
//!           nonce salt (4) | IV (8),  IV = epoch (24 bit) | counter (40 bit)
//!   CBC     HMAC  header | IV | ciphertext, and with ESN: | high     (RFC 3602, 4868; encrypt, then MAC)
//! ```
//!
//! `Protection` names a legal pair of cipher and integrity; `SealKey` and `OpenKey` are it with keys, one per
//! direction. RFC 4303 (ESP), RFC 7296 3.14 (SK), RFC 4106 and 5282 (AES-GCM), RFC 7634 (ChaCha20-Poly1305).

mod fast;
mod iv;
mod keys;
mod reference;
mod shared;
mod stack;
#[cfg(test)]
mod tests;

pub use keys::{KeyError, OpenError, OpenKey, SealError, SealKey};
pub use shared::{Batch, SHARED_OVERHEAD, SharedSealKey};

use std::fmt;

/// An encryption algorithm with its key length. The AEADs have an ICV of 16 octets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cipher {
    AesGcm128,
    AesGcm256,
    ChaCha20Poly1305,
    AesCbc128,
    AesCbc256,
}

/// An integrity algorithm, named with the number of bits that go into the ICV (RFC 4868).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Integ {
    HmacSha256_128,
    HmacSha384_192,
    HmacSha512_256,
}

/// A cipher with the integrity algorithm that it needs: none for an AEAD, one for CBC. Nothing else can be made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protection {
    cipher: Cipher,
    integ: Option<Integ>,
}

impl Cipher {
    pub const ALL: [Cipher; 5] = [
        Cipher::AesGcm128,
        Cipher::AesGcm256,
        Cipher::ChaCha20Poly1305,
        Cipher::AesCbc128,
        Cipher::AesCbc256,
    ];

    pub fn is_aead(self) -> bool {
        match self {
            Cipher::AesGcm128 | Cipher::AesGcm256 | Cipher::ChaCha20Poly1305 => true,
            Cipher::AesCbc128 | Cipher::AesCbc256 => false,
        }
    }

    /// Of the bare key, without salt, in octets.
    fn key_len(self) -> usize {
        match self {
            Cipher::AesGcm128 | Cipher::AesCbc128 => 16,
            Cipher::AesGcm256 | Cipher::AesCbc256 | Cipher::ChaCha20Poly1305 => 32,
        }
    }
}

impl Integ {
    pub const ALL: [Integ; 3] = [Integ::HmacSha256_128, Integ::HmacSha384_192, Integ::HmacSha512_256];

    /// In octets: the output length of the hash (RFC 4868, 2.1.1).
    pub fn key_len(self) -> usize {
        match self {
            Integ::HmacSha256_128 => 32,
            Integ::HmacSha384_192 => 48,
            Integ::HmacSha512_256 => 64,
        }
    }

    /// In octets: half of the output of the hash.
    pub fn icv_len(self) -> usize {
        self.key_len() / 2
    }
}

/// Of the AEADs here: AES-GCM and ChaCha20-Poly1305 take four octets of key material as salt.
const SALT_LEN: usize = 4;
const AEAD_IV_LEN: usize = 8;
const AEAD_ICV_LEN: usize = 16;
const AES_BLOCK_LEN: usize = 16;

impl Protection {
    /// `None` for an AEAD with a separate integrity algorithm, and for CBC without one.
    pub fn new(cipher: Cipher, integ: Option<Integ>) -> Option<Protection> {
        (cipher.is_aead() == integ.is_none()).then_some(Protection { cipher, integ })
    }

    /// Every protection that there is.
    pub fn all() -> impl Iterator<Item = Protection> {
        Cipher::ALL.into_iter().flat_map(|cipher| {
            std::iter::once(None)
                .chain(Integ::ALL.map(Some))
                .filter_map(move |integ| Protection::new(cipher, integ))
        })
    }

    pub fn cipher(self) -> Cipher {
        self.cipher
    }

    pub fn integ(self) -> Option<Integ> {
        self.integ
    }

    pub fn is_aead(self) -> bool {
        self.cipher.is_aead()
    }

    /// Octets of key material for encryption, with the salt of an AEAD behind the key (RFC 4106, 8.1).
    //= IK-31
    pub fn encr_key_len(self) -> usize {
        self.cipher.key_len() + if self.is_aead() { SALT_LEN } else { 0 }
    }

    /// Octets of key material for integrity; 0 for an AEAD.
    pub fn integ_key_len(self) -> usize {
        self.integ.map_or(0, Integ::key_len)
    }

    /// In octets, as transmitted.
    pub fn iv_len(self) -> usize {
        if self.is_aead() { AEAD_IV_LEN } else { AES_BLOCK_LEN }
    }

    /// In octets, as transmitted.
    //= ES-3
    pub fn icv_len(self) -> usize {
        self.integ.map_or(AEAD_ICV_LEN, Integ::icv_len)
    }

    /// What the length of an ESP plaintext with its trailer must be a multiple of (RFC 4303, 2.4).
    //= ES-2
    pub fn align(self) -> usize {
        if self.is_aead() { 4 } else { AES_BLOCK_LEN }
    }
}

impl fmt::Display for Protection {
    /// In the words of swanctl.conf: `aes256gcm16`, `aes128-sha256`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.cipher {
            Cipher::AesGcm128 => "aes128gcm16",
            Cipher::AesGcm256 => "aes256gcm16",
            Cipher::ChaCha20Poly1305 => "chacha20poly1305",
            Cipher::AesCbc128 => "aes128",
            Cipher::AesCbc256 => "aes256",
        })?;
        f.write_str(match self.integ {
            None => "",
            Some(Integ::HmacSha256_128) => "-sha256",
            Some(Integ::HmacSha384_192) => "-sha384",
            Some(Integ::HmacSha512_256) => "-sha512",
        })
    }
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protection({self})")
    }
}
