//! A second opinion on how far the log goes, in a file of its own.
//!
//! sled, like any log-structured store, takes a cut-off file for a crash and opens with a shorter log. A node that goes
//! on with a shorter log has broken its promises. So after each flush, and before anything is acknowledged, the
//! last log id and the vote are written here as well:
//!
//! ```text
//!   sled flush, fdatasync ──> witness (pwrite) ──> acknowledge
//! ```
//!
//! No sync of its own: after a crash of the process the file is exact; after a loss of power it may be some seconds old,
//! and then still names a lower bound. Before the log gets shorter on purpose it is lowered *and* synced. Two slots
//! written in turn, so that a torn write leaves the other one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::{LogId, Vote};

const MAGIC: &[u8; 8] = b"pontoonW";
const VERSION: u32 = 1;
/// magic 8, version 4, checksum 4, number 8, last 1 + 24, vote 1 + 17
const SLOT_LEN: usize = 67;
/// Slots lie in sectors of their own.
const SLOT_STRIDE: u64 = 4096;

/// What was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    pub last: Option<LogId>,
    pub vote: Option<Vote>,
}

#[derive(Debug)]
pub struct Witness {
    file: File,
    path: PathBuf,
    number: u64,
    claim: Claim,
}

impl Witness {
    /// Opens the file, or makes one that claims nothing when there is none and `may_create` is set.
    pub fn open(path: &Path, may_create: bool, dir: &Path) -> Result<Witness, StoreError> {
        let existed = path.exists();
        if !existed && !may_create {
            return Err(StoreError::damaged(dir, "the witness of the log is gone"));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(may_create)
            .truncate(false)
            .open(path)
            .map_err(StoreError::io("open", path))?;
        let mut witness = Witness { file, path: path.to_owned(), number: 0, claim: Claim::default() };
        let slots = [witness.read(0)?, witness.read(1)?];
        match slots.into_iter().flatten().max_by_key(|(number, _)| *number) {
            Some((number, claim)) => {
                witness.number = number;
                witness.claim = claim;
            }
            None if !may_create => {
                return Err(StoreError::damaged(dir, "the witness of the log is unreadable"));
            }
            None => {
                witness.write(Claim::default())?;
                witness.sync()?;
            }
        }
        Ok(witness)
    }

    pub fn claim(&self) -> Claim {
        self.claim
    }

    pub fn write(&mut self, claim: Claim) -> Result<(), StoreError> {
        if claim == self.claim && self.number > 0 {
            return Ok(());
        }
        let number = self.number + 1;
        self.file
            .write_all_at(&encode(number, claim), (number % 2) * SLOT_STRIDE)
            .map_err(StoreError::io("write", &self.path))?;
        self.number = number;
        self.claim = claim;
        Ok(())
    }

    pub fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(StoreError::io("sync", &self.path))
    }

    fn read(&self, slot: u64) -> Result<Option<(u64, Claim)>, StoreError> {
        let mut octets = [0; SLOT_LEN];
        match self.file.read_exact_at(&mut octets, slot * SLOT_STRIDE) {
            Ok(()) => decode(&octets, &self.path),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(StoreError::io("read", &self.path)(error)),
        }
    }
}

fn encode(number: u64, claim: Claim) -> [u8; SLOT_LEN] {
    let mut octets = Vec::with_capacity(SLOT_LEN);
    octets.extend_from_slice(MAGIC);
    octets.extend_from_slice(&VERSION.to_be_bytes());
    octets.extend_from_slice(&[0; 4]);
    octets.extend_from_slice(&number.to_be_bytes());
    let last = claim.last.unwrap_or(LogId { term: 0, node: 0, index: 0 });
    octets.push(u8::from(claim.last.is_some()));
    for value in [last.term, last.node, last.index] {
        octets.extend_from_slice(&value.to_be_bytes());
    }
    let vote = claim.vote.unwrap_or(Vote { term: 0, node: 0, committed: false });
    octets.push(u8::from(claim.vote.is_some()));
    for value in [vote.term, vote.node] {
        octets.extend_from_slice(&value.to_be_bytes());
    }
    octets.push(u8::from(vote.committed));
    let checksum = crc32c::crc32c(&octets[16..]);
    octets[12..16].copy_from_slice(&checksum.to_be_bytes());
    octets.try_into().expect("the fields add up to SLOT_LEN")
}

/// `None`: this slot was never written, or was torn.
fn decode(octets: &[u8; SLOT_LEN], path: &Path) -> Result<Option<(u64, Claim)>, StoreError> {
    let number_at = |at: usize| {
        let mut value = [0; 8];
        value.copy_from_slice(&octets[at..at + 8]);
        u64::from_be_bytes(value)
    };
    let short_at = |at: usize| {
        let mut value = [0; 4];
        value.copy_from_slice(&octets[at..at + 4]);
        u32::from_be_bytes(value)
    };
    if &octets[..8] != MAGIC || crc32c::crc32c(&octets[16..]) != short_at(12) {
        return Ok(None);
    }
    if short_at(8) != VERSION {
        return Err(StoreError::Version { path: path.to_owned(), found: short_at(8), known: VERSION });
    }
    let last =
        (octets[24] == 1).then(|| LogId { term: number_at(25), node: number_at(33), index: number_at(41) });
    let vote = (octets[49] == 1).then(|| Vote {
        term: number_at(50),
        node: number_at(58),
        committed: octets[66] == 1,
    });
    Ok(Some((number_at(16), Claim { last, vote })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(index: u64) -> Claim {
        Claim {
            last: Some(LogId { term: 3, node: 2, index }),
            vote: Some(Vote { term: 4, node: 1, committed: true }),
        }
    }

    #[test]
    fn the_latest_claim_comes_back_and_a_torn_one_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness");
        let mut witness = Witness::open(&path, true, dir.path()).unwrap();
        assert_eq!(witness.claim(), Claim::default());
        for index in 1..=5 {
            witness.write(claim(index)).unwrap();
        }
        let number = witness.number;
        assert_eq!(Witness::open(&path, false, dir.path()).unwrap().claim(), claim(5));
        witness.file.write_all_at(b"torn", (number % 2) * SLOT_STRIDE + 30).unwrap();
        assert_eq!(Witness::open(&path, false, dir.path()).unwrap().claim(), claim(4));
        witness.file.write_all_at(b"torn", ((number + 1) % 2) * SLOT_STRIDE + 30).unwrap();
        assert!(Witness::open(&path, false, dir.path()).unwrap_err().is_damage());
    }

    #[test]
    fn a_missing_witness_is_damage_once_there_was_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Witness::open(&dir.path().join("witness"), false, dir.path()).unwrap_err().is_damage());
    }
}
