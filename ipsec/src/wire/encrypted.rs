//! The Encrypted payload, SK (RFC 7296, 3.14; with an AEAD RFC 5282).
//!
//! ```text
//!   IKE header … | SK generic header | IV | ciphertext of: payloads, padding, pad length | ICV
//!   └──── authenticated, not encrypted ────┘
//! ```
//!
//! With AES-CBC and HMAC the integrity covers all but the ICV; with an AEAD the part before the IV is its associated
//! data. Both are the business of `crypto::cipher`; here is where the parts are.

use std::fmt;

use crypto::cipher::{OpenKey, Protection, SealError, SealKey};

use super::chain::Payloads;
use super::error::ParseError;
use super::fragment::Fragment;
use super::header::{self, Header};
use super::registry::PayloadType;
use crate::spec::PAYLOAD_HEADER_LEN;

/// Where the encrypted part of a message is. It is bound to the octets from which it was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// The type of the first payload inside; `NONE` when it is empty, or in a fragment behind the first.
    pub first: PayloadType,
    /// Set when the message is one fragment of a larger one (SKF).
    pub fragment: Option<Fragment>,
    /// The octets of the message that are authenticated only: up to the IV.
    header_len: usize,
}

/// Why the inside of SK was not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Wrong integrity, or too short to have one. The message is to be forgotten: it says nothing of its sender.
    Integrity,
    /// A fragment: its inside is no chain of payloads.
    Fragment,
    /// Integrity was right and the inside is malformed: the peer may be told.
    Inside(ParseError),
}

impl Encrypted {
    pub(crate) fn new(first: PayloadType, fragment: Option<Fragment>, body_at: usize) -> Encrypted {
        let header_len = body_at + fragment.map_or(0, |_| Fragment::HEADER_LEN);
        Encrypted { first, fragment, header_len }
    }

    /// Checks integrity, decrypts and reads the payloads inside. `message` is the whole message, from the IKE header.
    //= IK-94
    //= IK-95
    //= IK-96
    pub fn open(&self, message: &[u8], key: &OpenKey) -> Result<Payloads, OpenError> {
        if self.fragment.is_some() {
            return Err(OpenError::Fragment);
        }
        let inner = self.open_octets(message, key)?;
        Payloads::parse(self.first, &inner).map_err(OpenError::Inside)
    }

    /// The same without reading the payloads: the octets between IV and padding. For SKF, whose parts make sense
    /// only together.
    pub fn open_octets(&self, message: &[u8], key: &OpenKey) -> Result<Vec<u8>, OpenError> {
        let mut octets = message.to_vec();
        if octets.len() < self.header_len {
            return Err(OpenError::Integrity);
        }
        let plain = key.open(None, &mut octets, self.header_len).map_err(|_| OpenError::Integrity)?;
        let (&pad_len, padded) = plain.split_last().ok_or(inside("has no pad length"))?;
        let inner_len = padded
            .len()
            .checked_sub(usize::from(pad_len))
            .ok_or(inside("padding longer than the payload"))?;
        Ok(padded[..inner_len].to_vec())
    }
}

fn inside(what: &'static str) -> OpenError {
    OpenError::Inside(ParseError::InvalidSyntax { payload: PayloadType::SK, what })
}

/// Seals `inner`, a chain of payloads whose first has type `first`, into a message of its own.
//= IK-94
//= IK-95
pub fn emit_sealed(
    header: &Header,
    first: PayloadType,
    inner: &[u8],
    key: &mut SealKey,
) -> Result<Vec<u8>, SealError> {
    let protection = key.protection();
    let pad_len = padding(protection, inner.len());
    let sealed_len = protection.iv_len() + inner.len() + pad_len + 1 + protection.icv_len();
    let payload_len = u16::try_from(PAYLOAD_HEADER_LEN + sealed_len).map_err(|_| SealError::Layout)?;

    let mut message = Vec::with_capacity(64 + sealed_len);
    header.emit(PayloadType::SK, &mut message);
    message.extend([first.0, 0]);
    message.extend(payload_len.to_be_bytes());
    let header_len = message.len();
    message.resize(header_len + protection.iv_len(), 0);
    message.extend(inner);
    message.resize(message.len() + pad_len, 0);
    message.push(pad_len as u8); // below the block length
    message.resize(header_len + sealed_len, 0);
    header::set_length(&mut message);
    key.seal(None, &mut message, header_len)?;
    Ok(message)
}

/// How much padding `inner_len` octets and the pad length octet need. None with an AEAD (RFC 5282, 3).
fn padding(protection: Protection, inner_len: usize) -> usize {
    let block = if protection.is_aead() { 1 } else { protection.align() };
    (inner_len + 1).next_multiple_of(block) - (inner_len + 1)
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Integrity => f.write_str("wrong integrity value"),
            OpenError::Fragment => f.write_str("a fragment of a message"),
            OpenError::Inside(why) => write!(f, "inside SK: {why}"),
        }
    }
}

impl std::error::Error for OpenError {}
