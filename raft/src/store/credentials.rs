//! What a node proves itself with, on disk: its key and certificates, sealed with the storage key.
//!
//! ```text
//!   joining       the key that a node asks to be taken in with; the same one after an interruption
//!   credentials   key, certificate, the authority's certificate; a founder's also the authority's key, until that
//!                 is in the replicated state
//! ```
//!
//! A key on disk before it is shown to anybody: a node that asks twice is known by it, and takes no second use of its
//! token.

use std::fs;
use std::io;

use crypto::Secret;
use prost::Message;

use super::error::StoreError;
use super::identity::{DataDir, write_whole};
use super::seal::{Vault, place};
use crate::links::pki::{Credentials, NodeKey};

const CREDENTIALS: &str = "credentials";
const JOINING: &str = "joining";

/// What `credentials` holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub credentials: Credentials,
    /// Of the authority, PKCS #8: until the cluster's first command is committed.
    pub authority_key: Option<Secret>,
}

#[derive(Clone, PartialEq, Message)]
struct KeptMessage {
    #[prost(bytes = "vec", tag = "1")]
    authority: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "4")]
    authority_key: Option<Vec<u8>>,
}

pub fn save(dir: &DataDir, vault: &Vault, kept: &Kept) -> Result<(), StoreError> {
    let message = KeptMessage {
        authority: kept.credentials.authority.clone(),
        certificate: kept.credentials.certificate.clone(),
        key: kept.credentials.key.as_bytes().to_vec(),
        authority_key: kept.authority_key.as_ref().map(|key| key.as_bytes().to_vec()),
    };
    let plain = Secret::from(message.encode_to_vec());
    write_whole(&dir.file(CREDENTIALS), &vault.seal(&place_of(CREDENTIALS, b""), plain.as_bytes()))
}

/// A member has them: without them it cannot speak to anybody, and nobody would give it others.
pub fn load(dir: &DataDir, vault: &Vault) -> Result<Kept, StoreError> {
    let file = dir.file(CREDENTIALS);
    let sealed = match fs::read(&file) {
        Ok(sealed) => sealed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::damaged(dir.path(), "the credentials are gone"));
        }
        Err(error) => return Err(StoreError::io("read", file)(error)),
    };
    let damaged = |_| StoreError::damaged(dir.path(), "the credentials do not open");
    let plain = vault.open_sealed(&place_of(CREDENTIALS, b""), &sealed).map_err(damaged)?;
    let message = KeptMessage::decode(plain.as_bytes())
        .map_err(|_| StoreError::damaged(dir.path(), "the credentials are no message"))?;
    Ok(Kept {
        credentials: Credentials {
            authority: message.authority,
            certificate: message.certificate,
            key: Secret::from(message.key),
        },
        authority_key: message.authority_key.map(Secret::from),
    })
}

/// The key to join the cluster of that authority with. One that was made for it before is used again; what does not
/// open, or was made for another cluster, is replaced: nothing depends on it yet.
pub fn joining_key(dir: &DataDir, authority: &[u8; 32]) -> Result<NodeKey, StoreError> {
    let vault = dir.vault()?;
    let place = place_of(JOINING, authority);
    let known = fs::read(dir.file(JOINING)).ok().and_then(|sealed| vault.open_sealed(&place, &sealed).ok());
    if let Some(key) = known.and_then(|octets| NodeKey::from_pkcs8(&octets).ok()) {
        return Ok(key);
    }
    let key = NodeKey::generate()
        .map_err(|error| StoreError::Engine { doing: "make a key", why: error.to_string() })?;
    write_whole(&dir.file(JOINING), &vault.seal(&place, key.to_pkcs8().as_bytes()))?;
    Ok(key)
}

fn place_of(name: &str, of: &[u8]) -> Vec<u8> {
    place(&[b"pontoon credentials", name.as_bytes(), of])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_back_and_are_in_clear_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(dir.path(), None).unwrap();
        let vault = held.vault().unwrap();
        assert!(load(&held, &vault).unwrap_err().is_damage());
        let credentials = Credentials {
            authority: b"a certificate".to_vec(),
            certificate: b"another".to_vec(),
            key: Secret::from_slice(b"a private key"),
        };
        for authority_key in [Some(Secret::from_slice(b"the authority's")), None] {
            let kept = Kept { credentials: credentials.clone(), authority_key };
            save(&held, &vault, &kept).unwrap();
            assert_eq!(load(&held, &vault).unwrap(), kept);
        }
        let on_disk = fs::read(held.file(CREDENTIALS)).unwrap();
        assert!(!on_disk.windows(13).any(|octets| octets == b"a private key"));
    }

    #[test]
    fn a_joiner_keeps_its_key_for_the_same_cluster_only() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(dir.path(), None).unwrap();
        let first = joining_key(&held, &[1; 32]).unwrap();
        assert_eq!(joining_key(&held, &[1; 32]).unwrap().public(), first.public());
        assert_ne!(joining_key(&held, &[2; 32]).unwrap().public(), first.public());
        assert!(held.identity().unwrap().is_none(), "it is still vacant");
    }
}
