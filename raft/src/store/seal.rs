//! Sealing at rest: the storage key, its file, and the places that values are sealed for.
//!
//! ```text
//!   storage.key:   pontoon-storage-key-1 <64 hex digits>      one generation a line; the first one seals,
//!                  pontoon-storage-key-1 <64 hex digits>      all of them open
//! ```
//!
//! The file is the only one in `data_dir` with a key in clear (I12). It is made at the first start when nobody put one
//! there, readable by its owner alone. Each value is sealed for its place (cluster, node, kind, number), so that a
//! record copied to another place, or from another node's disk, does not open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crypto::Secret;
use crypto::rng::OsRng;
use crypto::sealing::{self, StorageKey};

use super::error::StoreError;
use super::identity::sync_dir;

/// The name of the key file when it lives in `data_dir`.
pub const KEY_FILE: &str = "storage.key";

const MAGIC: &str = "pontoon-storage-key-1";
const LEN_MAX: u64 = 64 * 1024;

/// How many octets a sealed value is longer than the plain one.
pub const OVERHEAD: usize = sealing::OVERHEAD;

/// The generations of the storage key, and where they came from.
#[derive(Debug)]
pub struct Vault {
    /// Never empty; the first one seals.
    keys: Vec<StorageKey>,
    file: PathBuf,
}

/// A sealed value does not open: other key, other place, or damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value does not open: {0}")]
pub struct DoesNotOpen(pub sealing::OpenError);

impl Vault {
    /// Reads the key file. When it does not exist and `may_create` is set, makes one with a fresh key.
    pub fn open(file: &Path, may_create: bool, dir: &Path) -> Result<Vault, StoreError> {
        match fs::metadata(file) {
            Ok(metadata) => {
                if metadata.permissions().mode() & 0o077 != 0 {
                    return Err(unusable(file, "may be read by others than its owner"));
                }
                if metadata.len() > LEN_MAX {
                    return Err(unusable(file, "is too long for a key file"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_create => create(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::KeyMissing { key_file: file.to_owned(), dir: dir.to_owned() });
            }
            Err(error) => return Err(StoreError::io("read", file)(error)),
        }
        let text = Secret::from(fs::read(file).map_err(StoreError::io("read", file))?);
        let keys = parse(text.as_bytes()).map_err(|why| unusable(file, why))?;
        Ok(Vault { keys, file: file.to_owned() })
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Vec<u8> {
        self.keys[0].seal(place, plain, &mut OsRng)
    }

    pub fn open_sealed(&self, place: &[u8], sealed: &[u8]) -> Result<Secret, DoesNotOpen> {
        let mut outcome = Err(DoesNotOpen(sealing::OpenError::Format));
        for key in &self.keys {
            outcome = key.open(place, sealed).map_err(DoesNotOpen);
            if !matches!(outcome, Err(DoesNotOpen(sealing::OpenError::Key(_)))) {
                break;
            }
        }
        outcome
    }
}

/// Octets that name a place: the parts with their lengths, so that no two lists of parts give the same octets.
pub fn place(parts: &[&[u8]]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(64);
    for part in parts {
        octets.extend_from_slice(&(part.len() as u32).to_be_bytes());
        octets.extend_from_slice(part);
    }
    octets
}

fn create(file: &Path) -> Result<(), StoreError> {
    let key = StorageKey::generate(&mut OsRng).to_bytes();
    let mut line = String::with_capacity(MAGIC.len() + 2 + 2 * key.len());
    line.push_str(MAGIC);
    line.push(' ');
    for octet in key.as_bytes() {
        line.push(char::from(HEX[usize::from(octet >> 4)]));
        line.push(char::from(HEX[usize::from(octet & 15)]));
    }
    line.push('\n');
    let line = Secret::from(line.into_bytes());
    // Whole or not at all: a crash must not leave half a key under the final name.
    let unfinished = file.with_extension("key.tmp");
    let written = (|| {
        let mut out: File =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        out.write_all(line.as_bytes())?;
        out.sync_all()?;
        fs::rename(&unfinished, file)
    })();
    written.map_err(StoreError::io("write the storage key", file))?;
    sync_dir(file.parent().unwrap_or(Path::new(".")))
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn parse(text: &[u8]) -> Result<Vec<StorageKey>, &'static str> {
    let mut keys = Vec::new();
    for line in text.split(|&octet| octet == b'\n').filter(|line| !line.is_empty()) {
        let digits = line
            .strip_prefix(MAGIC.as_bytes())
            .and_then(|rest| rest.strip_prefix(b" "))
            .ok_or("does not begin with `pontoon-storage-key-1`")?;
        let octets =
            Secret::from(unhex(digits.trim_ascii()).ok_or("has something else than hex digits in it")?);
        keys.push(StorageKey::from_bytes(octets.as_bytes()).map_err(|_| "has a key of another length")?);
    }
    if keys.is_empty() { Err("has no key in it") } else { Ok(keys) }
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: &u8| char::from(*digit).to_digit(16).map(|value| value as u8);
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(value(high)? << 4 | value(low)?)).collect()
}

fn unusable(file: &Path, why: &str) -> StoreError {
    StoreError::KeyUnusable { key_file: file.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(KEY_FILE);
        let missing = Vault::open(&file, false, dir.path()).unwrap_err();
        assert!(matches!(missing, StoreError::KeyMissing { .. }), "{missing}");
        let first = Vault::open(&file, true, dir.path()).unwrap();
        let sealed = first.seal(&place(&[b"a"]), b"key material");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        let again = Vault::open(&file, true, dir.path()).unwrap();
        assert_eq!(again.open_sealed(&place(&[b"a"]), &sealed).unwrap().as_bytes(), b"key material");
        again.open_sealed(&place(&[b"b"]), &sealed).expect_err("another place");

        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let shown = Vault::open(&file, true, dir.path()).unwrap_err().to_string();
        assert!(shown.contains("others than its owner"), "{shown}");
    }

    #[test]
    fn every_generation_opens_and_the_first_one_seals() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old.key"), dir.path().join("new.key"));
        let sealed = Vault::open(&old, true, dir.path()).unwrap().seal(b"", b"x");
        let both = [fs::read(&old).unwrap(), Vec::new()].concat();
        Vault::open(&new, true, dir.path()).unwrap();
        fs::write(&new, [fs::read(&new).unwrap(), both].concat()).unwrap();
        let rotated = Vault::open(&new, false, dir.path()).unwrap();
        assert_eq!(rotated.open_sealed(b"", &sealed).unwrap().as_bytes(), b"x");
        let fresh = rotated.seal(b"", b"y");
        Vault::open(&old, false, dir.path())
            .unwrap()
            .open_sealed(b"", &fresh)
            .expect_err("the old key is old");
    }

    #[test]
    fn what_is_no_key_file_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(KEY_FILE);
        for (text, why) in [
            ("", "no key"),
            ("hello", "does not begin"),
            ("pontoon-storage-key-1 12", "another length"),
            ("pontoon-storage-key-1 xx", "hex"),
            ("pontoon-storage-key-1 123", "hex"),
        ] {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let shown = Vault::open(&file, true, dir.path()).unwrap_err().to_string();
            assert!(shown.contains(why), "{text:?}: {shown}");
        }
    }
}
