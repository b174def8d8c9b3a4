//! The reference stack: the RustCrypto crates, portable code in Rust. Serves IKE's encrypted payloads, where speed
//! does not count, and checks `fast` in tests.

use aes::{Aes128, Aes256};
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit};
use chacha20poly1305::ChaCha20Poly1305;
use sha2::{Sha256, Sha384, Sha512};

use super::stack::{CbcIv, Mac, Nonce, Refused, Tag};
use super::{AES_BLOCK_LEN, Cipher, Integ};

const KEY: &str = "the length of the key was checked";
const SHORT: &str = "a packet is far shorter than the limit of its cipher";

pub(super) enum Aead {
    Aes128(Aes128Gcm),
    Aes256(Aes256Gcm),
    ChaCha20(ChaCha20Poly1305),
}

impl Aead {
    pub(super) fn new(cipher: Cipher, key: &[u8]) -> Aead {
        match cipher {
            Cipher::AesGcm128 => Aead::Aes128(Aes128Gcm::new_from_slice(key).expect(KEY)),
            Cipher::AesGcm256 => Aead::Aes256(Aes256Gcm::new_from_slice(key).expect(KEY)),
            Cipher::ChaCha20Poly1305 => Aead::ChaCha20(ChaCha20Poly1305::new_from_slice(key).expect(KEY)),
            Cipher::AesCbc128 | Cipher::AesCbc256 => unreachable!("CBC is no AEAD"),
        }
    }

    pub(super) fn seal(&self, nonce: Nonce, aad: &[u8], in_out: &mut [u8]) -> Tag {
        let nonce = &nonce.into();
        match self {
            Aead::Aes128(aead) => aead.encrypt_inout_detached(nonce, aad, in_out.into()),
            Aead::Aes256(aead) => aead.encrypt_inout_detached(nonce, aad, in_out.into()),
            Aead::ChaCha20(aead) => aead.encrypt_inout_detached(nonce, aad, in_out.into()),
        }
        .expect(SHORT)
        .into()
    }

    pub(super) fn open(&self, nonce: Nonce, aad: &[u8], in_out: &mut [u8], tag: &Tag) -> Result<(), Refused> {
        let (nonce, tag) = (&nonce.into(), &(*tag).into());
        match self {
            Aead::Aes128(aead) => aead.decrypt_inout_detached(nonce, aad, in_out.into(), tag),
            Aead::Aes256(aead) => aead.decrypt_inout_detached(nonce, aad, in_out.into(), tag),
            Aead::ChaCha20(aead) => aead.decrypt_inout_detached(nonce, aad, in_out.into(), tag),
        }
        .map_err(|_| Refused)
    }
}

pub(super) enum CbcEncrypt {
    Aes128(Aes128),
    Aes256(Aes256),
}

impl CbcEncrypt {
    pub(super) fn new(key: &[u8]) -> CbcEncrypt {
        match key.len() {
            16 => CbcEncrypt::Aes128(Aes128::new_from_slice(key).expect(KEY)),
            _ => CbcEncrypt::Aes256(Aes256::new_from_slice(key).expect(KEY)),
        }
    }

    pub(super) fn encrypt(&self, iv: CbcIv, in_out: &mut [u8]) {
        let iv = &iv.into();
        match self {
            CbcEncrypt::Aes128(aes) => {
                cbc::Encryptor::inner_iv_init(aes.clone(), iv).encrypt_blocks(blocks(in_out));
            }
            CbcEncrypt::Aes256(aes) => {
                cbc::Encryptor::inner_iv_init(aes.clone(), iv).encrypt_blocks(blocks(in_out));
            }
        }
    }
}

pub(super) enum CbcDecrypt {
    Aes128(Aes128),
    Aes256(Aes256),
}

impl CbcDecrypt {
    pub(super) fn new(key: &[u8]) -> CbcDecrypt {
        match key.len() {
            16 => CbcDecrypt::Aes128(Aes128::new_from_slice(key).expect(KEY)),
            _ => CbcDecrypt::Aes256(Aes256::new_from_slice(key).expect(KEY)),
        }
    }

    pub(super) fn decrypt(&self, iv: CbcIv, in_out: &mut [u8]) {
        let iv = &iv.into();
        match self {
            CbcDecrypt::Aes128(aes) => {
                cbc::Decryptor::inner_iv_init(aes.clone(), iv).decrypt_blocks(blocks(in_out));
            }
            CbcDecrypt::Aes256(aes) => {
                cbc::Decryptor::inner_iv_init(aes.clone(), iv).decrypt_blocks(blocks(in_out));
            }
        }
    }
}

fn blocks(in_out: &mut [u8]) -> &mut [aes::Block] {
    debug_assert!(in_out.len().is_multiple_of(AES_BLOCK_LEN), "whole blocks");
    aes::Block::slice_as_chunks_mut(in_out).0
}

pub(super) enum Hmac {
    Sha256(hmac::Hmac<Sha256>),
    Sha384(hmac::Hmac<Sha384>),
    Sha512(hmac::Hmac<Sha512>),
}

impl Hmac {
    pub(super) fn new(integ: Integ, key: &[u8]) -> Hmac {
        match integ {
            Integ::HmacSha256_128 => Hmac::Sha256(hmac::Hmac::new_from_slice(key).expect(KEY)),
            Integ::HmacSha384_192 => Hmac::Sha384(hmac::Hmac::new_from_slice(key).expect(KEY)),
            Integ::HmacSha512_256 => Hmac::Sha512(hmac::Hmac::new_from_slice(key).expect(KEY)),
        }
    }

    pub(super) fn sign(&self, data: &[u8], more: &[u8]) -> Mac {
        fn finish<M: hmac::Mac>(mut mac: M, data: &[u8], more: &[u8]) -> Mac {
            mac.update(data);
            mac.update(more);
            let output = mac.finalize().into_bytes();
            let mut whole = [0; 64];
            whole[..output.len()].copy_from_slice(&output);
            whole
        }
        match self {
            Hmac::Sha256(mac) => finish(mac.clone(), data, more),
            Hmac::Sha384(mac) => finish(mac.clone(), data, more),
            Hmac::Sha512(mac) => finish(mac.clone(), data, more),
        }
    }
}
