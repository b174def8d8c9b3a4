//! `SealKey` and `OpenKey`: a protection with its keys, one direction of one SA.
//!
//! A `SealKey` owns the epoch and counter of its IVs, so nobody can seal twice under one nonce: it cannot be
//! cloned, and whoever makes a second one for the same keys needs another epoch. With CBC the IV is random, from a
//! generator of its own; the counter then only counts, and limits how much is sealed under one key.

use std::fmt;

use super::iv::{COUNTER_END, EpochIv};
use super::stack::{Aead, CbcDecrypt, CbcEncrypt, CbcIv, Hmac, Nonce, Stack};
use super::{AEAD_ICV_LEN, AEAD_IV_LEN, AES_BLOCK_LEN, Protection, SALT_LEN};
use crate::hash::ct_eq;
use crate::rng::{Rng, SeededRng};

/// The length of the ESP header, into which the high half of an ESN goes: SPI | sequence number.
const ESP_HEADER_LEN: usize = 8;

/// Seals messages of one direction of one SA.
pub struct SealKey {
    protection: Protection,
    sealer: Sealer,
    ivs: EpochIv,
}

enum Sealer {
    Aead { aead: Aead, salt: [u8; SALT_LEN] },
    Cbc { cbc: CbcEncrypt, hmac: Hmac, ivs: Box<SeededRng> },
}

/// Opens messages of one direction of one SA.
pub struct OpenKey {
    protection: Protection,
    opener: Opener,
}

enum Opener {
    Aead { aead: Aead, salt: [u8; SALT_LEN] },
    Cbc { cbc: CbcDecrypt, hmac: Hmac },
}

/// Why keys were refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// The key material has not the length that the protection needs.
    Length,
    /// The epoch does not fit into the 24 bits that an IV has for it.
    Epoch,
}

/// Why nothing was sealed. The message may have been overwritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealError {
    /// The buffer does not hold header, IV, whole blocks and ICV; or an ESN with a header that is not ESP's.
    Layout,
    /// Every IV of this epoch is used up. Only a new key or epoch helps.
    Exhausted,
}

/// Why nothing was opened. The message is garbage then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// Too short, no whole blocks, or an ESN with a header that is not ESP's.
    Layout,
    /// The ICV is wrong.
    Integrity,
}

impl SealKey {
    /// How many messages one key and epoch can seal at most.
    pub const LIMIT: u64 = COUNTER_END;

    /// `encr` and `integ` as long as `Protection` says. `epoch`: never used before with these keys, below 2^24.
    pub fn new(
        protection: Protection,
        encr: &[u8],
        integ: &[u8],
        epoch: u32,
        rng: &mut dyn Rng,
    ) -> Result<SealKey, KeyError> {
        SealKey::with_stack(Stack::Fast, protection, encr, integ, epoch, rng)
    }

    /// The same over the reference stack: for IKE SK.
    pub fn reference(
        protection: Protection,
        encr: &[u8],
        integ: &[u8],
        epoch: u32,
        rng: &mut dyn Rng,
    ) -> Result<SealKey, KeyError> {
        SealKey::with_stack(Stack::Reference, protection, encr, integ, epoch, rng)
    }

    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// How many messages were sealed.
    pub fn sealed(&self) -> u64 {
        self.ivs.taken()
    }

    /// Seals in place. `message` is header (`header` octets) | room for the IV | plaintext, already padded | room
    /// for the ICV. `esn_high`: the upper half of an extended sequence number; it is authenticated, not sent.
    pub fn seal(
        &mut self,
        esn_high: Option<u32>,
        message: &mut [u8],
        header: usize,
    ) -> Result<(), SealError> {
        let parts = Parts::split(self.protection, esn_high, message, header).ok_or(SealError::Layout)?;
        match &mut self.sealer {
            Sealer::Aead { aead, salt } => {
                let iv = self.ivs.take().ok_or(SealError::Exhausted)?;
                parts.iv.copy_from_slice(&iv);
                let aad = Aad::new(parts.header, esn_high);
                let (text, icv) = parts.text_and_icv();
                let tag = aead.seal(nonce(*salt, iv), aad.as_slice(), text);
                icv.copy_from_slice(&tag);
            }
            Sealer::Cbc { cbc, hmac, ivs } => {
                self.ivs.take().ok_or(SealError::Exhausted)?;
                let mut iv: CbcIv = [0; AES_BLOCK_LEN];
                ivs.fill(&mut iv);
                parts.iv.copy_from_slice(&iv);
                cbc.encrypt(iv, parts.text_and_icv().0);
                mac_into_tail(hmac, self.protection, esn_high, message);
            }
        }
        Ok(())
    }

    /// As `seal`, with the plaintext elsewhere: `out` is header | room for the IV, `plaintext`, `trailer` and the
    /// ICV, exactly. For an AEAD the plaintext is read only once.
    pub fn seal_from(
        &mut self,
        esn_high: Option<u32>,
        out: &mut [u8],
        header: usize,
        plaintext: &[u8],
        trailer: &[u8],
    ) -> Result<(), SealError> {
        let parts = Parts::split(self.protection, esn_high, out, header).ok_or(SealError::Layout)?;
        if parts.body.len() != plaintext.len() + trailer.len() + self.protection.icv_len() {
            return Err(SealError::Layout);
        }
        match &mut self.sealer {
            Sealer::Aead { aead, salt } => {
                let iv = self.ivs.take().ok_or(SealError::Exhausted)?;
                parts.iv.copy_from_slice(&iv);
                let aad = Aad::new(parts.header, esn_high);
                aead.seal_from(nonce(*salt, iv), aad.as_slice(), plaintext, trailer, parts.body);
                Ok(())
            }
            Sealer::Cbc { .. } => {
                let (text, behind) = parts.body.split_at_mut(plaintext.len());
                text.copy_from_slice(plaintext);
                behind[..trailer.len()].copy_from_slice(trailer);
                self.seal(esn_high, out, header)
            }
        }
    }

    fn with_stack(
        stack: Stack,
        protection: Protection,
        encr: &[u8],
        integ: &[u8],
        epoch: u32,
        rng: &mut dyn Rng,
    ) -> Result<SealKey, KeyError> {
        let material = Material::cut(protection, encr, integ)?;
        let ivs = EpochIv::new(epoch).ok_or(KeyError::Epoch)?;
        let sealer = match protection.integ {
            None => {
                Sealer::Aead { aead: Aead::new(stack, protection.cipher, material.key), salt: material.salt }
            }
            Some(algorithm) => Sealer::Cbc {
                cbc: CbcEncrypt::new(stack, material.key),
                hmac: Hmac::new(stack, algorithm, integ),
                ivs: Box::new(SeededRng::from_rng(rng)),
            },
        };
        Ok(SealKey { protection, sealer, ivs })
    }
}

impl OpenKey {
    /// `encr` and `integ` as long as `Protection` says.
    pub fn new(protection: Protection, encr: &[u8], integ: &[u8]) -> Result<OpenKey, KeyError> {
        OpenKey::with_stack(Stack::Fast, protection, encr, integ)
    }

    /// The same over the reference stack: for IKE SK.
    pub fn reference(protection: Protection, encr: &[u8], integ: &[u8]) -> Result<OpenKey, KeyError> {
        OpenKey::with_stack(Stack::Reference, protection, encr, integ)
    }

    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Verifies and decrypts in place; returns the plaintext with its padding. Nothing of the plaintext is usable
    /// before its ICV was found right; after an error `message` is garbage.
    //= ES-3
    pub fn open<'a>(
        &self,
        esn_high: Option<u32>,
        message: &'a mut [u8],
        header: usize,
    ) -> Result<&'a mut [u8], OpenError> {
        if let Opener::Cbc { hmac, .. } = &self.opener {
            // Encrypt-then-MAC: the ciphertext is looked at only once it is authentic.
            //= ES-6
            verify_tail(hmac, self.protection, esn_high, message)?;
        }
        let parts = Parts::split(self.protection, esn_high, message, header).ok_or(OpenError::Layout)?;
        match &self.opener {
            Opener::Aead { aead, salt } => {
                let aad = Aad::new(parts.header, esn_high);
                let iv = parts.iv.as_ref().try_into().map_err(|_| OpenError::Layout)?;
                let (text, icv) = parts.text_and_icv();
                let tag = icv.as_ref().try_into().map_err(|_| OpenError::Layout)?;
                aead.open(nonce(*salt, iv), aad.as_slice(), text, &tag).map_err(|_| OpenError::Integrity)?;
                Ok(text)
            }
            Opener::Cbc { cbc, .. } => {
                let iv = parts.iv.as_ref().try_into().map_err(|_| OpenError::Layout)?;
                let (text, _) = parts.text_and_icv();
                cbc.decrypt(iv, text);
                Ok(text)
            }
        }
    }

    fn with_stack(
        stack: Stack,
        protection: Protection,
        encr: &[u8],
        integ: &[u8],
    ) -> Result<OpenKey, KeyError> {
        let material = Material::cut(protection, encr, integ)?;
        let opener = match protection.integ {
            None => {
                Opener::Aead { aead: Aead::new(stack, protection.cipher, material.key), salt: material.salt }
            }
            Some(algorithm) => Opener::Cbc {
                cbc: CbcDecrypt::new(stack, material.key),
                hmac: Hmac::new(stack, algorithm, integ),
            },
        };
        Ok(OpenKey { protection, opener })
    }
}

/// Key material of the right length, taken apart.
struct Material<'a> {
    key: &'a [u8],
    salt: [u8; SALT_LEN],
}

impl<'a> Material<'a> {
    fn cut(protection: Protection, encr: &'a [u8], integ: &[u8]) -> Result<Material<'a>, KeyError> {
        if encr.len() != protection.encr_key_len() || integ.len() != protection.integ_key_len() {
            return Err(KeyError::Length);
        }
        let (key, behind) = encr.split_at(protection.cipher.key_len());
        let mut salt = [0; SALT_LEN];
        salt[..behind.len()].copy_from_slice(behind);
        Ok(Material { key, salt })
    }
}

/// A message taken apart.
pub(super) struct Parts<'a> {
    pub header: &'a [u8],
    pub iv: &'a mut [u8],
    /// Text and ICV.
    pub body: &'a mut [u8],
    pub icv_len: usize,
}

impl<'a> Parts<'a> {
    /// `None` when the message cannot be one of this protection.
    pub fn split(
        protection: Protection,
        esn_high: Option<u32>,
        message: &'a mut [u8],
        header: usize,
    ) -> Option<Parts<'a>> {
        if esn_high.is_some() && header != ESP_HEADER_LEN {
            return None;
        }
        let (header, rest) = message.split_at_mut_checked(header)?;
        let (iv, body) = rest.split_at_mut_checked(protection.iv_len())?;
        let text_len = body.len().checked_sub(protection.icv_len())?;
        if !protection.is_aead() && !text_len.is_multiple_of(AES_BLOCK_LEN) {
            return None;
        }
        Some(Parts { header, iv, body, icv_len: protection.icv_len() })
    }

    fn text_and_icv(self) -> (&'a mut [u8], &'a mut [u8]) {
        let text_len = self.body.len() - self.icv_len;
        self.body.split_at_mut(text_len)
    }
}

/// What an AEAD authenticates beside the ciphertext: the header as it is, or SPI | high | low with an ESN.
enum Aad<'a> {
    Header(&'a [u8]),
    Extended([u8; ESP_HEADER_LEN + 4]),
}

impl<'a> Aad<'a> {
    //= ES-4
    fn new(header: &'a [u8], esn_high: Option<u32>) -> Aad<'a> {
        match esn_high {
            None => Aad::Header(header),
            Some(high) => {
                let mut aad = [0; ESP_HEADER_LEN + 4];
                aad[..4].copy_from_slice(&header[..4]);
                aad[4..8].copy_from_slice(&high.to_be_bytes());
                aad[8..].copy_from_slice(&header[4..]);
                Aad::Extended(aad)
            }
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Aad::Header(header) => header,
            Aad::Extended(aad) => aad,
        }
    }
}

//= ES-4
pub(super) fn nonce(salt: [u8; SALT_LEN], iv: [u8; AEAD_IV_LEN]) -> Nonce {
    let mut nonce = [0; SALT_LEN + AEAD_IV_LEN];
    nonce[..SALT_LEN].copy_from_slice(&salt);
    nonce[SALT_LEN..].copy_from_slice(&iv);
    nonce
}

/// HMAC over all before the ICV, and the high half of an ESN behind it.
//= ES-5
fn mac_into_tail(hmac: &Hmac, protection: Protection, esn_high: Option<u32>, message: &mut [u8]) {
    let (authentic, icv) = message.split_at_mut(message.len() - protection.icv_len());
    let mac = with_high(hmac, authentic, esn_high);
    icv.copy_from_slice(&mac[..protection.icv_len()]);
}

//= ES-5
fn verify_tail(
    hmac: &Hmac,
    protection: Protection,
    esn_high: Option<u32>,
    message: &[u8],
) -> Result<(), OpenError> {
    let authentic = message.len().checked_sub(protection.icv_len()).ok_or(OpenError::Layout)?;
    let (authentic, icv) = message.split_at(authentic);
    let mac = with_high(hmac, authentic, esn_high);
    //= ES-6
    if ct_eq(&mac[..protection.icv_len()], icv) { Ok(()) } else { Err(OpenError::Integrity) }
}

fn with_high(hmac: &Hmac, authentic: &[u8], esn_high: Option<u32>) -> [u8; 64] {
    match esn_high {
        None => hmac.sign(authentic, &[]),
        Some(high) => hmac.sign(authentic, &high.to_be_bytes()),
    }
}

#[cfg(test)]
impl SealKey {
    /// As if so many messages had been sealed.
    pub(super) fn skip_to(&mut self, counter: u64) {
        self.ivs.skip_to(counter);
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({}, {} sealed)", self.protection, self.sealed())
    }
}

impl fmt::Debug for OpenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenKey({})", self.protection)
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyError::Length => "key material of the wrong length",
            KeyError::Epoch => "an epoch of more than 24 bits",
        })
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SealError::Layout => "the buffer does not fit the protection",
            SealError::Exhausted => "every IV of this key and epoch is used up",
        })
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OpenError::Layout => "too short or of a wrong length",
            OpenError::Integrity => "the integrity check value is wrong",
        })
    }
}

impl std::error::Error for KeyError {}
impl std::error::Error for SealError {}
impl std::error::Error for OpenError {}

const _: () = assert!(AEAD_ICV_LEN == size_of::<super::stack::Tag>());
