//! Whose directory this is: one cluster, one node id, one process at a time.
//!
//! ```text
//!   vacant ──bind──> founding or joining ──settle──> member ──leave──> vacant
//!                             │                        │
//!                             └────── quarantine <─────┘     for ever
//! ```
//!
//! A node id stands for a promise: what was acknowledged under it is on this disk. A directory that lost something
//! cannot keep that promise, so damage puts it into quarantine and the node comes back under a new id (DESIGN 8).
//! `founding` and `joining` are the short time in which a node may begin its log again after a crash; a `member` never
//! does, so an emptied log is found out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use prost::Message;

use super::Peer;
use super::error::StoreError;
use super::seal::{KEY_FILE, Vault, place};
use crate::state::{ClusterId, NodeId};

const MAGIC: &[u8; 8] = b"pontoonI";
const VERSION: u32 = 1;
const LEN_MAX: u64 = 64 * 1024;
const PROOF: &[u8] = b"this storage key fits";

/// What a log begun leaves behind.
const BEGUN: [&str; 3] = ["log", "snapshots", "witness"];
/// What there is of a member, in the order in which it goes.
const OF_A_MEMBER: [&str; 6] = ["log", "snapshots", "witness", "identity", "credentials", "joining"];
/// Stands while a directory is being emptied.
const LEFT: &str = "left";

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub cluster_name: String,
    pub node: NodeId,
    /// How it introduced itself when it joined.
    pub me: Peer,
    pub phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its first entry may not be on disk yet.
    Founding,
    /// Taken in by a cluster; nothing was acknowledged yet.
    Joining,
    /// Its log has been begun.
    Member,
}

/// A directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    key_file: PathBuf,
    /// Held by the descriptor; the kernel lets go of it with the process, however that ends.
    _lock: File,
}

#[derive(Clone, PartialEq, Message)]
struct IdentityMessage {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(string, tag = "2")]
    cluster_name: String,
    #[prost(uint64, tag = "3")]
    node: u64,
    #[prost(bool, tag = "4")]
    member: bool,
    /// `PROOF` sealed with the storage key: tells a wrong key from damage.
    #[prost(bytes = "vec", tag = "5")]
    proof: Vec<u8>,
    #[prost(string, tag = "6")]
    name: String,
    #[prost(string, tag = "7")]
    address: String,
    #[prost(bool, tag = "8")]
    joining: bool,
}

impl DataDir {
    /// Takes `path` for this process, making it when it does not exist. A quarantined directory is refused.
    pub fn take(path: &Path, key_file: Option<&Path>) -> Result<DataDir, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(StoreError::io("make the directory", path))?;
        let lock = lock(path)?;
        let key_file = key_file.map_or_else(|| path.join(KEY_FILE), Path::to_owned);
        let dir = DataDir { path: path.to_owned(), key_file, _lock: lock };
        if dir.file(LEFT).exists() {
            dir.finish_leaving()?;
        }
        match fs::read_to_string(dir.file("quarantine")) {
            Ok(what) => {
                Err(StoreError::Quarantined { dir: path.to_owned(), what: what.trim_end().to_owned() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(dir),
            Err(error) => Err(StoreError::io("read", dir.file("quarantine"))(error)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The identity and the key, or `None` when no cluster has this node yet.
    pub fn identity(&self) -> Result<Option<(Identity, Vault)>, StoreError> {
        let file = self.file("identity");
        let octets = match read_limited(&file) {
            Ok(octets) => octets,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.vacant().map(|()| None),
            Err(error) => return Err(StoreError::io("read", file)(error)),
        };
        let message = self.unframe(&file, &octets)?;
        let vault = Vault::open(&self.key_file, false, &self.path)?;
        let proven = vault.open_sealed(&proof_place(&message.cluster, message.node), &message.proof);
        if proven.is_err() {
            return Err(StoreError::WrongKey { key_file: vault.file().to_owned(), dir: self.path.clone() });
        }
        let cluster = <[u8; 16]>::try_from(message.cluster.as_slice())
            .map_err(|_| StoreError::damaged(&self.path, "the identity names no cluster"))?;
        let phase = match (message.member, message.joining) {
            (true, _) => Phase::Member,
            (false, true) => Phase::Joining,
            (false, false) => Phase::Founding,
        };
        let identity = Identity {
            cluster: ClusterId(cluster),
            cluster_name: message.cluster_name,
            node: NodeId(message.node),
            me: Peer { name: message.name, address: message.address },
            phase,
        };
        Ok(Some((identity, vault)))
    }

    /// Binds a vacant directory to a cluster and a node id, or writes the phase anew.
    pub fn bind(&self, identity: &Identity) -> Result<Vault, StoreError> {
        let vault = Vault::open(&self.key_file, identity.phase != Phase::Member, &self.path)?;
        let proof = vault.seal(&proof_place(&identity.cluster.0, identity.node.0), PROOF);
        let message = IdentityMessage {
            cluster: identity.cluster.0.to_vec(),
            cluster_name: identity.cluster_name.clone(),
            node: identity.node.0,
            member: identity.phase == Phase::Member,
            proof,
            name: identity.me.name.clone(),
            address: identity.me.address.clone(),
            joining: identity.phase == Phase::Joining,
        };
        let body = message.encode_to_vec();
        let mut octets = MAGIC.to_vec();
        octets.extend_from_slice(&VERSION.to_be_bytes());
        octets.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        octets.extend_from_slice(&body);
        write_whole(&self.file("identity"), &octets)?;
        Ok(vault)
    }

    /// The key of a directory that no cluster has yet; made now when there is none.
    pub fn vault(&self) -> Result<Vault, StoreError> {
        Vault::open(&self.key_file, true, &self.path)
    }

    /// The node has left its cluster: nothing of it stays but the storage key. The id is never used again, so there
    /// is no promise left to keep. A crash in between is finished at the next start.
    pub fn leave(&self) -> Result<(), StoreError> {
        write_whole(&self.file(LEFT), b"")?;
        self.finish_leaving()
    }

    fn finish_leaving(&self) -> Result<(), StoreError> {
        for name in OF_A_MEMBER {
            let path = self.file(name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        sync_dir(&self.path)?;
        let mark = self.file(LEFT);
        fs::remove_file(&mark).map_err(StoreError::io("remove", &mark))?;
        sync_dir(&self.path)
    }

    /// Marks the directory as never to be used again, and gives back the error to end with. What is in it stays as it
    /// is, for whoever wants to find out what happened.
    pub fn quarantine(&self, error: StoreError) -> StoreError {
        let StoreError::Damaged { what, .. } = &error else { return error };
        tracing::error!(dir = %self.path.display(), %what, "damage found; the directory goes into quarantine");
        if let Err(marking) = write_whole(&self.file("quarantine"), format!("{what}\n").as_bytes()) {
            tracing::error!(%marking, "cannot mark the quarantine");
        }
        error
    }

    /// Refuses a directory that has a log or snapshots but no identity.
    fn vacant(&self) -> Result<(), StoreError> {
        for leftover in BEGUN {
            if self.file(leftover).exists() {
                return Err(StoreError::damaged(&self.path, format!("there is {leftover} but no identity")));
            }
        }
        Ok(())
    }

    fn unframe(&self, file: &Path, octets: &[u8]) -> Result<IdentityMessage, StoreError> {
        let damaged = |what: &str| StoreError::damaged(&self.path, format!("the identity {what}"));
        let (magic, rest) = octets.split_first_chunk::<8>().ok_or_else(|| damaged("is too short"))?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("is too short"))?;
        let (checksum, body) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("is too short"))?;
        if magic != MAGIC {
            return Err(damaged("is something else"));
        }
        let version = u32::from_be_bytes(*version);
        if version != VERSION {
            return Err(StoreError::Version { path: file.to_owned(), found: version, known: VERSION });
        }
        if crc32c::crc32c(body) != u32::from_be_bytes(*checksum) {
            return Err(damaged("has a wrong checksum"));
        }
        IdentityMessage::decode(body).map_err(|_| damaged("is no message"))
    }
}

/// Writes `file` whole or not at all: beside it, synced, renamed, directory synced.
pub(crate) fn write_whole(file: &Path, octets: &[u8]) -> Result<(), StoreError> {
    let unfinished = file.with_extension("tmp");
    let written = (|| {
        let mut out = File::create(&unfinished)?;
        out.write_all(octets)?;
        out.sync_all()?;
        fs::rename(&unfinished, file)
    })();
    written.map_err(StoreError::io("write", file))?;
    sync_dir(file.parent().unwrap_or(Path::new(".")))
}

/// Makes names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync the directory", dir))
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let name = path.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(StoreError::io("open", &name))?;
    match file.try_lock() {
        Ok(()) => {
            // For people only: the lock is the kernel's.
            let noted = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| writeln!(file, "{}", std::process::id()));
            noted.map_err(StoreError::io("write", &name))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let known = file.take(20).read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
            let holder = if known { format!("process {}", pid.trim()) } else { "another process".into() };
            Err(StoreError::InUse { dir: path.to_owned(), holder })
        }
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &name)(error)),
    }
}

fn read_limited(file: &Path) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    File::open(file)?.take(LEN_MAX).read_to_end(&mut octets)?;
    Ok(octets)
}

fn proof_place(cluster: &[u8], node: u64) -> Vec<u8> {
    place(&[b"pontoon identity", cluster, &node.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId([7; 16]),
            cluster_name: "c1".into(),
            node: NodeId(1),
            me: Peer { name: "n1".into(), address: "198.18.0.11:7400".into() },
            phase: Phase::Founding,
        }
    }

    #[test]
    fn a_directory_is_held_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(dir.path(), None).unwrap();
        let second = DataDir::take(dir.path(), None).unwrap_err();
        let StoreError::InUse { holder, .. } = &second else { panic!("{second}") };
        assert_eq!(holder, &format!("process {}", std::process::id()));
        drop(held);
        DataDir::take(dir.path(), None).unwrap();
    }

    #[test]
    fn the_identity_comes_back_as_it_was_bound() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(dir.path(), None).unwrap();
        assert!(held.identity().unwrap().is_none());
        held.bind(&identity()).unwrap();
        assert_eq!(held.identity().unwrap().unwrap().0, identity());
        let settled = Identity { phase: Phase::Member, ..identity() };
        held.bind(&settled).unwrap();
        assert_eq!(held.identity().unwrap().unwrap().0, settled);
    }

    #[test]
    fn every_flipped_bit_of_the_identity_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(dir.path(), None).unwrap();
        held.bind(&identity()).unwrap();
        let file = held.file("identity");
        let good = fs::read(&file).unwrap();
        for bit in 0..good.len() * 8 {
            let mut octets = good.clone();
            octets[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, octets).unwrap();
            held.identity().expect_err("a flipped bit");
        }
        for len in 0..good.len() {
            fs::write(&file, &good[..len]).unwrap();
            held.identity().expect_err("a shorter file");
        }
    }

    #[test]
    fn another_key_is_told_from_damage_and_a_lost_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(dir.path(), None).unwrap();
        held.bind(&identity()).unwrap();
        let key = held.file(KEY_FILE);
        fs::remove_file(&key).unwrap();
        let missing = held.identity().unwrap_err();
        assert!(matches!(missing, StoreError::KeyMissing { .. }), "{missing}");
        Vault::open(&key, true, dir.path()).unwrap();
        let other = held.identity().unwrap_err();
        assert!(matches!(other, StoreError::WrongKey { .. }), "{other}");
        assert!(!other.is_damage());
    }

    #[test]
    fn quarantine_lasts() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(dir.path(), None).unwrap();
        held.bind(&identity()).unwrap();
        held.quarantine(StoreError::damaged(dir.path(), "entry 7 is gone"));
        drop(held);
        let refused = DataDir::take(dir.path(), None).unwrap_err();
        assert!(refused.to_string().contains("entry 7 is gone"), "{refused}");
        assert!(refused.remedy().contains("new id"), "{}", refused.remedy());
    }

    #[test]
    fn who_has_left_may_join_again() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(dir.path(), None).unwrap();
        held.bind(&Identity { phase: Phase::Joining, ..identity() }).unwrap();
        assert_eq!(held.identity().unwrap().unwrap().0.phase, Phase::Joining);
        fs::create_dir(held.file("log")).unwrap();
        fs::write(held.file("log").join("db"), b"entries").unwrap();
        held.leave().unwrap();
        assert!(held.identity().unwrap().is_none());
        // Cut off in the middle: the identity is gone and the log is not.
        fs::create_dir(held.file("log")).unwrap();
        fs::write(held.file(LEFT), b"").unwrap();
        drop(held);
        let held = DataDir::take(dir.path(), None).unwrap();
        assert!(held.identity().unwrap().is_none() && !held.file(LEFT).exists());
    }

    #[test]
    fn a_log_without_an_identity_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(dir.path(), None).unwrap();
        fs::create_dir(held.file("log")).unwrap();
        assert!(held.identity().unwrap_err().is_damage());
    }
}
