//! What nodes say to each other, and where the links that carry it plug in.
//!
//! ```text
//!   openraft ──> glue::network ──> Links::link(to, lane) ──> Link::call ~~~~> Cluster::serve ──> openraft
//!
//!   tls       TlsLinks: connections to all members, warm; what the node sees of them
//!     dial      one task a member and lane      wire      requests and answers on what was dialled
//!     accept    who may come in, as what        serve     answers on what was accepted
//!     snapshot  a snapshot, streamed            frame, message    what is on the wire
//!     counters  what was refused, and why
//!   peers     whom we reach, as a watched table
//!   session   keys for datagrams, from the TLS sessions
//!   pki       the certificates
//! ```
//!
//! Plain values of our own. A `Links` hands out links that are warm already: openraft asks for one at every
//! campaign, and an election must not wait for a handshake. No link means unreachable.

mod accept;
mod counters;
mod dial;
mod frame;
mod message;
mod peers;
pub mod pki;
mod serve;
mod session;
mod snapshot;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

pub use accept::{JoinHandler, JoinStream};
pub use counters::{LinkCounters, Refused};
pub(crate) use frame::APPEND_LEN_MAX;
pub use peers::{LinkState, PeerLink, Peers};
pub use session::Session;
pub use tls::{ALPN_JOIN, AskHandler, TlsLinks};

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crypto::Secret;
use pki::{Credentials, PkiError};
use tokio::sync::watch;

use crate::handle::WeakCluster;
use crate::state::{ClusterId, NodeId};
use crate::store::snapshot::SnapshotFile;
use crate::store::{Entry, LogId, Peer, Vote};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The links of this node to the others.
pub trait Links: Send + Sync + 'static {
    /// The link to `to` for messages of `lane`, or `None` when there is none now.
    fn link(&self, to: NodeId, peer: &Peer, lane: Lane) -> Option<Arc<dyn Link>>;

    /// What this node shows and whom it trusts, for all connections from now on.
    fn identify(&self, _: &Credentials) -> Result<(), PkiError> {
        Ok(())
    }

    /// This node is a member from now on: connections may be made and served.
    fn attach(&self, _: Attachment) {}

    /// This node stops, or is no member any more: all connections end, and nothing is accepted.
    fn detach(&self) {}
}

/// What links need of the member that they serve.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub id: ClusterId,
    pub node: NodeId,
    pub roll: watch::Receiver<Roll>,
    /// Answers what comes in.
    pub cluster: WeakCluster,
}

/// Who belongs to the cluster as far as this node knows, itself included, and where each one is.
pub type Roll = Arc<BTreeMap<NodeId, Peer>>;

/// Messages that must not wait for each other travel on connections of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Entries.
    Append,
    /// Heartbeats and votes.
    Urgent,
    Snapshot,
    /// What the nodes ask each other apart from Raft; see `TlsLinks::ask`.
    Ask,
}

impl Lane {
    const ALL: [Lane; 4] = [Lane::Append, Lane::Urgent, Lane::Snapshot, Lane::Ask];

    /// On the wire.
    fn number(self) -> u32 {
        self as u32 + 1
    }

    fn from_number(number: u32) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.number() == number)
    }
}

pub trait Link: Send + Sync + 'static {
    fn call(&self, request: Request, within: Duration) -> BoxFuture<'_, Result<Reply, LinkError>>;

    /// Sends a whole snapshot of the leader with `vote`; the receiver's vote when it is installed or refused.
    fn send_snapshot(&self, vote: Vote, snapshot: SnapshotFile) -> BoxFuture<'_, Result<Vote, LinkError>>;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nothing was sent. Wait before trying again.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It may have arrived. Try again at once.
    #[error("the connection failed: {0}")]
    Failed(String),
    #[error("no answer in time")]
    TimedOut,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Append(Append),
    Vote(Ballot),
    /// Asks whether a vote would be granted, and changes nothing.
    PreVote(Ballot),
    TransferLeader(TransferLeader),
    /// A command of another node, encoded.
    Propose(Arc<Secret>),
    /// Writes an entry without meaning.
    Barrier,
    /// The digest of the state right after the entry at this index.
    Digest(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Append(Appended),
    Vote(BallotAnswer),
    TransferLeader(Transferred),
    /// The index at which it was committed. What it did is found out where it is applied.
    Proposed(Result<u64, Unproposed>),
    /// `None`: that index is past.
    Digest(Option<[u8; 32]>),
}

/// Why a proposal of another node has no index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unproposed {
    /// Nothing was appended. The leader, when it is known.
    NotLeader(Option<(NodeId, Peer)>),
    Unknown,
}

/// Entries of a leader, or none: a heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    pub vote: Vote,
    pub previous: Option<LogId>,
    pub entries: Vec<Entry>,
    pub committed: Option<LogId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    All,
    /// Up to this entry.
    Part(Option<LogId>),
    /// `previous` is not there.
    Conflict,
    /// Somebody has a higher vote.
    HigherVote(Vote),
}

/// A request for a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    pub vote: Vote,
    pub last: Option<LogId>,
    /// The leader wants it so: its lease does not count.
    pub transfer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BallotAnswer {
    pub vote: Vote,
    pub granted: bool,
    pub last: Option<LogId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferLeader {
    pub from: Vote,
    pub to: NodeId,
    pub last: Option<LogId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transferred {
    Accepted,
    VoteChanged { expected: Vote, actual: Vote },
    NotFlushed { expected: Option<LogId>, actual: Option<LogId> },
}

/// The links of a node that has none: a cluster of one member.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLinks;

impl Links for NoLinks {
    fn link(&self, _: NodeId, _: &Peer, _: Lane) -> Option<Arc<dyn Link>> {
        None
    }
}
