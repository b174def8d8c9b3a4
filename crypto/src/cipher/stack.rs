//! The two implementations behind one face: `fast` for packets, `reference` for IKE and as the second opinion.
//! Enums and not trait objects, so that calls inline.
//!
//! Raw nonces appear here and below, never above: this module is private to `cipher`.

use super::{AES_BLOCK_LEN, Cipher, Integ, fast, reference};

pub(super) type Nonce = [u8; 12];
pub(super) type Tag = [u8; 16];
pub(super) type CbcIv = [u8; AES_BLOCK_LEN];

/// The output of an HMAC before it is cut to the ICV; its tail is unused for shorter hashes.
pub(super) type Mac = [u8; 64];

/// A tag did not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    Fast,
    Reference,
}

/// Each is made from keys of the right length, which `keys` has checked. What is large is boxed: most SAs are idle,
/// and use an AEAD of the fast stack, which is one pointer.
pub(super) enum Aead {
    Fast(fast::Aead),
    Reference(Box<reference::Aead>),
}

pub(super) enum CbcEncrypt {
    Fast(Box<fast::CbcEncrypt>),
    Reference(Box<reference::CbcEncrypt>),
}

pub(super) enum CbcDecrypt {
    Fast(Box<fast::CbcDecrypt>),
    Reference(Box<reference::CbcDecrypt>),
}

pub(super) enum Hmac {
    Fast(Box<fast::Hmac>),
    Reference(Box<reference::Hmac>),
}

impl Aead {
    pub(super) fn new(stack: Stack, cipher: Cipher, key: &[u8]) -> Aead {
        match stack {
            Stack::Fast => Aead::Fast(fast::Aead::new(cipher, key)),
            Stack::Reference => Aead::Reference(Box::new(reference::Aead::new(cipher, key))),
        }
    }

    #[inline]
    pub(super) fn seal(&self, nonce: Nonce, aad: &[u8], in_out: &mut [u8]) -> Tag {
        match self {
            Aead::Fast(aead) => aead.seal(nonce, aad, in_out),
            Aead::Reference(aead) => aead.seal(nonce, aad, in_out),
        }
    }

    /// Seals `plaintext | trailer`; `out` has room for both and the tag behind.
    #[inline]
    pub(super) fn seal_from(
        &self,
        nonce: Nonce,
        aad: &[u8],
        plaintext: &[u8],
        trailer: &[u8],
        out: &mut [u8],
    ) {
        match self {
            Aead::Fast(aead) => aead.seal_from(nonce, aad, plaintext, trailer, out),
            Aead::Reference(aead) => {
                let (text, tag) = out.split_at_mut(plaintext.len() + trailer.len());
                text[..plaintext.len()].copy_from_slice(plaintext);
                text[plaintext.len()..].copy_from_slice(trailer);
                tag.copy_from_slice(&aead.seal(nonce, aad, text));
            }
        }
    }

    /// On an error `in_out` is garbage.
    #[inline]
    pub(super) fn open(&self, nonce: Nonce, aad: &[u8], in_out: &mut [u8], tag: &Tag) -> Result<(), Refused> {
        match self {
            Aead::Fast(aead) => aead.open(nonce, aad, in_out, tag),
            Aead::Reference(aead) => aead.open(nonce, aad, in_out, tag),
        }
    }
}

impl CbcEncrypt {
    pub(super) fn new(stack: Stack, key: &[u8]) -> CbcEncrypt {
        match stack {
            Stack::Fast => CbcEncrypt::Fast(Box::new(fast::CbcEncrypt::new(key))),
            Stack::Reference => CbcEncrypt::Reference(Box::new(reference::CbcEncrypt::new(key))),
        }
    }

    /// `in_out` is whole blocks.
    pub(super) fn encrypt(&self, iv: CbcIv, in_out: &mut [u8]) {
        match self {
            CbcEncrypt::Fast(cbc) => cbc.encrypt(iv, in_out),
            CbcEncrypt::Reference(cbc) => cbc.encrypt(iv, in_out),
        }
    }
}

impl CbcDecrypt {
    pub(super) fn new(stack: Stack, key: &[u8]) -> CbcDecrypt {
        match stack {
            Stack::Fast => CbcDecrypt::Fast(Box::new(fast::CbcDecrypt::new(key))),
            Stack::Reference => CbcDecrypt::Reference(Box::new(reference::CbcDecrypt::new(key))),
        }
    }

    /// `in_out` is whole blocks.
    pub(super) fn decrypt(&self, iv: CbcIv, in_out: &mut [u8]) {
        match self {
            CbcDecrypt::Fast(cbc) => cbc.decrypt(iv, in_out),
            CbcDecrypt::Reference(cbc) => cbc.decrypt(iv, in_out),
        }
    }
}

impl Hmac {
    pub(super) fn new(stack: Stack, integ: Integ, key: &[u8]) -> Hmac {
        match stack {
            Stack::Fast => Hmac::Fast(Box::new(fast::Hmac::new(integ, key))),
            Stack::Reference => Hmac::Reference(Box::new(reference::Hmac::new(integ, key))),
        }
    }

    /// Over both pieces as if they stood in one buffer.
    pub(super) fn sign(&self, data: &[u8], more: &[u8]) -> Mac {
        match self {
            Hmac::Fast(hmac) => hmac.sign(data, more),
            Hmac::Reference(hmac) => hmac.sign(data, more),
        }
    }
}
