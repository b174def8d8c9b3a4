//! What nodes say to each other for Raft, and where the links that carry it plug in.
//!
//! ```text
//!   openraft ──> glue::network ──> Links::link(to, lane) ──> Link::call ~~~~> Cluster::serve ──> openraft
//! ```
//!
//! Plain values of our own. A `Links` hands out links that are warm already: openraft asks for one at every
//! campaign, and an election must not wait for a handshake. No link means unreachable.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::state::NodeId;
use crate::store::snapshot::SnapshotFile;
use crate::store::{Entry, LogId, Peer, Vote};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The links of this node to the others.
pub trait Links: Send + Sync + 'static {
    /// The link to `to` for messages of `lane`, or `None` when there is none now.
    fn link(&self, to: NodeId, peer: &Peer, lane: Lane) -> Option<Arc<dyn Link>>;
}

/// Messages that must not wait for each other travel on connections of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Entries.
    Append,
    /// Heartbeats and votes.
    Urgent,
    Snapshot,
}

pub trait Link: Send + Sync + 'static {
    fn call(&self, request: Request, within: Duration) -> BoxFuture<'_, Result<Reply, LinkError>>;

    /// Sends a whole snapshot of the leader with `vote`; the receiver's vote when it is installed or refused.
    fn send_snapshot(&self, vote: Vote, snapshot: SnapshotFile) -> BoxFuture<'_, Result<Vote, LinkError>>;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Wait before trying again.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Try again at once.
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
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Append(Appended),
    Vote(BallotAnswer),
    TransferLeader(Transferred),
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
