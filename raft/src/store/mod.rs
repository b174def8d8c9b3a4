//! What a node keeps on disk, and the meaning of a Raft log.
//!
//! ```text
//!   data_dir/
//!     lock          held while a process uses the directory
//!     identity      cluster id, node id, and a proof of the storage key            identity
//!     storage.key   seals everything below; mode 0600; may live elsewhere          seal
//!     credentials   the node's key and certificates, sealed                        credentials
//!     joining       the key that a vacant node asks to be taken in with            credentials
//!     log/          the Raft log, votes and marks (sled 0.34.7)                    sled
//!     witness       how far the log was acknowledged, told apart from the log      witness
//!     snapshots/    the replicated state as of one log id, one file each           snapshot
//!     left          there only while a member that has left is being cleared away  identity
//!     quarantine    there only after damage: why nothing here may be used again    identity
//! ```
//!
//! `LogStore` is a trait at Raft's level (append, vote, truncate, purge, read), so that another engine can take
//! sled's place without a caller knowing. Everything is in messages of our own (`codec`), never in openraft's
//! types: a new openraft does not change what is on disk.

pub mod codec;
pub mod credentials;
mod error;
pub mod identity;
pub mod seal;
pub mod sled;
pub mod snapshot;
mod tail;
mod witness;

pub use error::StoreError;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crypto::Secret;

/// The place of an entry: who was leader when it was written, and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    pub term: u64,
    /// The leader that wrote it. Two leaders of one term are ordered by their ids.
    pub node: u64,
    pub index: u64,
}

/// For whom this node has voted, or whom it follows (`committed`: a majority has granted it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub id: LogId,
    pub payload: Payload,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// What a new leader writes first.
    Blank,
    /// An encoded command. It holds keys, so its octets are wiped when the last holder lets go.
    Command(Arc<Secret>),
    /// A change of the voters and learners.
    Members(Members),
}

/// Who votes and who listens. More than one set of voters: a joint configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub voters: Vec<BTreeSet<u64>>,
    /// All members, learners included.
    pub nodes: BTreeMap<u64, Peer>,
}

/// How to reach a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    pub name: String,
    /// Host and TCP port.
    pub address: String,
}

/// What a log store knows without reading entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The last entry that was removed because a snapshot has it.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` when there is none.
    pub last: Option<LogId>,
    pub vote: Option<Vote>,
    /// Known to be committed. On disk it may lag, and never runs ahead of the entries.
    pub committed: Option<LogId>,
}

/// Called once, when an operation is on stable storage or has failed for good.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The log of one node.
///
/// Operations take effect for readers when the call returns, and reach the disk in the order of the calls; `done` is
/// called in that order too. After one error every later operation fails: what the disk holds is then known only
/// after a restart (an fsync that is tried again may report success for pages that were lost).
pub trait LogStore: Send + Sync + 'static {
    fn bounds(&self) -> Bounds;

    /// Entries of `range` that exist, in order and without a hole. Those purged or truncated meanwhile are left out.
    fn read(&self, range: Range<u64>) -> Result<Vec<Entry>, StoreError>;

    /// Adds entries, the first one right behind the last of the log. Never empty.
    fn append(&self, entries: Vec<Entry>, done: Done);

    fn save_vote(&self, vote: Vote, done: Done);

    /// Remembers what is committed. It goes to disk along with a later operation and causes no flush of its own.
    fn save_committed(&self, committed: Option<LogId>);

    /// Removes all entries behind `after`; all of them when `None`.
    fn truncate(&self, after: Option<LogId>, done: Done);

    /// Removes the entries up to and including `upto`, which a snapshot has. `upto` may lie behind the last entry.
    fn purge(&self, upto: LogId, done: Done);
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (term {}, node {})", self.index, self.term, self.node)
    }
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.committed { "elected" } else { "asked" };
        write!(f, "term {}, node {}, {kind}", self.term, self.node)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

impl Entry {
    /// About how much memory it takes, in octets.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 96;
        OVERHEAD
            + match &self.payload {
                Payload::Blank => 0,
                Payload::Command(octets) => octets.len(),
                Payload::Members(members) => 64 * members.nodes.len(),
            }
    }
}
