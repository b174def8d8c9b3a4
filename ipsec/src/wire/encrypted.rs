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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{MessageId, Spi};
    use crate::wire::{ExchangeType, Message, Notify, NotifyType, Vendor};
    use crypto::rng::SeededRng;

    fn keys(protection: Protection) -> (SealKey, OpenKey) {
        let encr = vec![0x11; protection.encr_key_len()];
        let integ = vec![0x22; protection.integ_key_len()];
        let mut rng = SeededRng::new(7);
        (
            SealKey::reference(protection, &encr, &integ, 3, &mut rng).unwrap(),
            OpenKey::reference(protection, &encr, &integ).unwrap(),
        )
    }

    fn message(vendor_len: usize) -> Message {
        let header = Header {
            spi_i: Spi(1),
            spi_r: Spi(2),
            exchange: ExchangeType::INFORMATIONAL,
            initiator: true,
            response: false,
            message_id: MessageId(5),
        };
        Message::new(header).with(Notify::bare(NotifyType::COOKIE)).with(Vendor(vec![9; vendor_len]))
    }

    fn open(octets: &[u8], key: &OpenKey) -> Result<Payloads, OpenError> {
        Message::parse(octets).unwrap().encrypted.unwrap().open(octets, key)
    }

    /// The plaintext as the peer padded it, sealed: for contents that `emit_sealed` never makes.
    fn seal_raw(first: PayloadType, plain: &[u8], key: &mut SealKey) -> Vec<u8> {
        let protection = key.protection();
        let len = PAYLOAD_HEADER_LEN + protection.iv_len() + plain.len() + protection.icv_len();
        let mut out = Vec::new();
        message(0).header.emit(PayloadType::SK, &mut out);
        out.extend([first.0, 0, 0, len as u8]);
        let header_len = out.len();
        out.resize(header_len + protection.iv_len(), 0);
        out.extend(plain);
        out.resize(out.len() + protection.icv_len(), 0);
        header::set_length(&mut out);
        key.seal(None, &mut out, header_len).unwrap();
        out
    }

    //= test IK-94
    //= test IK-95
    #[test]
    fn there_and_back_with_every_protection_and_length() {
        for protection in Protection::all() {
            let (mut seal, key) = keys(protection);
            for vendor_len in 0..40 {
                let message = message(vendor_len);
                let octets = message.seal(&mut seal).unwrap();
                assert_eq!(open(&octets, &key), Ok(message.payloads), "{protection} {vendor_len}");
            }
            let empty = Message { payloads: Payloads::default(), ..message(0) }.seal(&mut seal).unwrap();
            assert_eq!(open(&empty, &key), Ok(Payloads::default()), "liveness");
        }
    }

    //= test IK-94
    //= test IK-95
    //= test IK-96
    #[test]
    fn every_octet_is_vouched_for() {
        for protection in Protection::all() {
            let (mut seal, key) = keys(protection);
            let octets = message(20).seal(&mut seal).unwrap();
            for at in 0..octets.len() {
                for bit in [0x01, 0x80] {
                    let mut bad = octets.clone();
                    bad[at] ^= bit;
                    // Where the header itself no longer parses there is nothing to open.
                    let Ok(parsed) = Message::parse(&bad) else { continue };
                    let Some(encrypted) = parsed.encrypted else { continue };
                    assert_eq!(
                        encrypted.open(&bad, &key).map(|_| ()).map_err(|error| match error {
                            OpenError::Fragment => OpenError::Integrity, // SK turned into SKF
                            error => error,
                        }),
                        Err(OpenError::Integrity),
                        "{protection} octet {at}"
                    );
                }
            }
        }
    }

    /// The part before the IV is authenticated: another message ID, exchange or first payload is another message.
    //= test IK-95
    #[test]
    fn header_fields_cannot_be_swapped() {
        let (mut seal, key) = keys(Protection::new(crypto::cipher::Cipher::AesGcm128, None).unwrap());
        let octets = message(3).seal(&mut seal).unwrap();
        for at in [8, 18, 19, 23, 28] {
            let mut bad = octets.clone();
            bad[at] ^= 0x20;
            assert_eq!(open(&bad, &key), Err(OpenError::Integrity), "octet {at}");
        }
    }

    //= test IK-94
    #[test]
    fn any_padding_of_a_valid_length_is_taken() {
        for protection in Protection::all() {
            let (mut seal, key) = keys(protection);
            let notify = [0, 0, 0, 8, 0, 0, 0x40, 0x06];
            for pad_len in [7, 23, 39] {
                let plain = [&notify[..], &vec![0xa5; pad_len], &[pad_len as u8]].concat();
                let octets = seal_raw(PayloadType::NOTIFY, &plain, &mut seal);
                assert_eq!(open(&octets, &key).map(|inner| inner.len()), Ok(1), "{protection} {pad_len}");
            }
            let plain = [&notify[..], &[0; 7], &[16]].concat();
            let octets = seal_raw(PayloadType::NONE, &plain, &mut seal);
            assert!(
                matches!(open(&octets, &key), Err(OpenError::Inside(_))),
                "{protection}: padding past the start"
            );
        }
    }

    #[test]
    fn too_short_for_its_parts() {
        for protection in Protection::all() {
            let (_, key) = keys(protection);
            for body in 0..protection.iv_len() + protection.icv_len() + 1 {
                let mut octets = Vec::new();
                message(0).header.emit(PayloadType::SK, &mut octets);
                octets.extend([0, 0, 0, (PAYLOAD_HEADER_LEN + body) as u8]);
                octets.resize(octets.len() + body, 0);
                header::set_length(&mut octets);
                assert_eq!(open(&octets, &key), Err(OpenError::Integrity), "{protection} {body}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (mut seal, _) = keys(Protection::new(crypto::cipher::Cipher::AesGcm128, None).unwrap());
        assert!(message(65_530).payloads.len() == 2);
        let inner = vec![0; 65_530];
        assert!(emit_sealed(&message(0).header, PayloadType::VENDOR, &inner, &mut seal).is_err());
    }
}
