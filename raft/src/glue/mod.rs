//! openraft 0.10.0-alpha.37, and nothing else: its type configuration, its settings, and the translation between
//! its types and ours. No other file of the workspace names openraft.
//!
//! ```text
//!   handle ──> node ──> openraft ──┬── log       RaftLogStorage    ──> store::LogStore
//!                                  ├── machine   RaftStateMachine  ──> state::State, store::snapshot
//!                                  └── network   RaftNetworkV2     ──> links::Links
//! ```

mod log;
mod machine;
mod network;
mod node;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod three;

pub use machine::{Applied, Machine, Published};
pub use node::{Membership, Node};

use log::Log;
use network::Network;

use std::fmt;
use std::sync::Arc;

use crypto::Secret;

use openraft::entry::EntryPayload;
use openraft::{Config, SnapshotPolicy, StepDownPolicy};

use crate::links::{Append, Appended, Ballot, BallotAnswer, Reply, Request, TransferLeader, Transferred};
use crate::state::{NodeId, Outcome};
use crate::store::{self, Entry, LogId, Members, Payload, Peer, Vote};
use crate::timing::Timing;

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Proposal,
        R = Answer,
        NodeId = u64,
        Node = Peer,
);

pub type Raft = openraft::Raft<TypeConfig, Machine>;

pub type OrLogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub type OrVote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub type OrEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub type OrLeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;
pub type OrMembership = openraft::Membership<u64, Peer>;
pub type OrStoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub type OrSnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// Entries that stay in the log behind a snapshot: a follower that was away for less needs no snapshot, and openraft
/// issue 2116 (a purge that overtakes the apply) stays out of reach.
pub const KEEP_BEHIND_SNAPSHOT: u64 = 50_000;

/// An encoded command. Its octets hold keys: they are wiped when the last holder lets go, and never shown.
#[derive(Clone, PartialEq)]
pub struct Proposal(pub Arc<Secret>);

/// What came of an entry: `None` for those that are not commands.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer(pub Option<Outcome>);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} octets)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The settings of DESIGN 8.
pub fn config(cluster: &str, timing: &Timing) -> Result<Arc<Config>, String> {
    let millis = |duration: std::time::Duration| duration.as_millis() as u64;
    let config = Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(millis(timing.quorum_loss_probe())),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEEP_BEHIND_SNAPSHOT,
        removed_leader_step_down: StepDownPolicy::After(millis(timing.election_min)),
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| error.to_string())
}

pub fn log_id(id: &OrLogId) -> LogId {
    LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub fn or_log_id(id: LogId) -> OrLogId {
    openraft::LogId { leader_id: or_leader_id(id.term, id.node), index: id.index }
}

fn or_leader_id(term: u64, node_id: u64) -> OrLeaderId {
    openraft::impls::leader_id_adv::LeaderId { term, node_id }
}

pub fn vote(vote: &OrVote) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub fn or_vote(vote: Vote) -> OrVote {
    openraft::Vote { leader_id: or_leader_id(vote.term, vote.node), committed: vote.committed }
}

pub fn entry(entry: OrEntry) -> Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(Proposal(octets)) => Payload::Command(octets),
        EntryPayload::Membership(membership) => Payload::Members(members(&membership)),
    };
    Entry { id: log_id(&entry.log_id), payload }
}

/// `Err`: members that do not fit together, such as a voter that is no member.
pub fn or_entry(entry: Entry) -> Result<OrEntry, String> {
    let payload = match entry.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Command(octets) => EntryPayload::Normal(Proposal(octets)),
        Payload::Members(members) => EntryPayload::Membership(or_membership(members)?),
    };
    Ok(openraft::Entry { log_id: or_log_id(entry.id), payload })
}

pub fn members(membership: &OrMembership) -> Members {
    Members {
        voters: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
    }
}

pub fn or_membership(members: Members) -> Result<OrMembership, String> {
    if members.voters.is_empty() {
        return Ok(OrMembership::default());
    }
    OrMembership::new(members.voters, members.nodes).map_err(|error| error.to_string())
}

fn meta(meta: &OrSnapshotMeta) -> store::snapshot::Meta {
    store::snapshot::Meta {
        last: meta.last_log_id.as_ref().map(log_id),
        members: members(meta.last_membership.membership()),
        members_at: meta.last_membership.log_id().as_ref().map(log_id),
    }
}

fn or_meta(meta: &store::snapshot::Meta) -> Result<OrSnapshotMeta, String> {
    Ok(OrSnapshotMeta {
        last_log_id: meta.last.map(or_log_id),
        last_membership: OrStoredMembership::new(
            meta.members_at.map(or_log_id),
            or_membership(meta.members.clone())?,
        ),
    })
}

/// Answers a request of another node.
pub async fn serve(raft: &Raft, request: Request) -> Result<Reply, String> {
    fn shown<E: fmt::Display>(error: E) -> String {
        error.to_string()
    }
    match request {
        Request::Append(append) => {
            let entries = append.entries.into_iter().map(or_entry).collect::<Result<_, _>>()?;
            let request = openraft::raft::AppendEntriesRequest {
                vote: or_vote(append.vote),
                prev_log_id: append.previous.map(or_log_id),
                entries,
                leader_commit: append.committed.map(or_log_id),
            };
            Ok(Reply::Append(appended(raft.append_entries(request).await.map_err(shown)?)))
        }
        Request::Vote(ballot) => Ok(Reply::Vote(answer(raft.vote(or_ballot(ballot)).await.map_err(shown)?))),
        Request::PreVote(ballot) => {
            Ok(Reply::Vote(answer(raft.pre_vote(or_ballot(ballot)).await.map_err(shown)?)))
        }
        Request::TransferLeader(transfer) => {
            let request = openraft::raft::TransferLeaderRequest::new(
                or_vote(transfer.from),
                transfer.to.0,
                transfer.last.map(or_log_id),
            );
            let reply = raft.handle_transfer_leader(request).await.map_err(shown)?;
            Ok(Reply::TransferLeader(transferred(reply)))
        }
        Request::Propose(_) | Request::Barrier | Request::Digest(_) => Err("not a request to Raft".into()),
    }
}

fn appended(reply: openraft::raft::AppendEntriesResponse<TypeConfig>) -> Appended {
    use openraft::raft::AppendEntriesResponse as Or;
    match reply {
        Or::Success => Appended::All,
        Or::PartialSuccess(upto) => Appended::Part(upto.as_ref().map(log_id)),
        Or::Conflict => Appended::Conflict,
        Or::HigherVote(higher) => Appended::HigherVote(vote(&higher)),
    }
}

fn or_appended(reply: Appended) -> openraft::raft::AppendEntriesResponse<TypeConfig> {
    use openraft::raft::AppendEntriesResponse as Or;
    match reply {
        Appended::All => Or::Success,
        Appended::Part(upto) => Or::PartialSuccess(upto.map(or_log_id)),
        Appended::Conflict => Or::Conflict,
        Appended::HigherVote(higher) => Or::HigherVote(or_vote(higher)),
    }
}

fn append(request: openraft::raft::AppendEntriesRequest<TypeConfig>) -> Append {
    Append {
        vote: vote(&request.vote),
        previous: request.prev_log_id.as_ref().map(log_id),
        entries: request.entries.into_iter().map(entry).collect(),
        committed: request.leader_commit.as_ref().map(log_id),
    }
}

fn ballot(request: &openraft::raft::VoteRequest<TypeConfig>) -> Ballot {
    Ballot {
        vote: vote(&request.vote),
        last: request.last_log_id.as_ref().map(log_id),
        transfer: request.leadership_transfer,
    }
}

fn or_ballot(ballot: Ballot) -> openraft::raft::VoteRequest<TypeConfig> {
    let mut request = openraft::raft::VoteRequest::new(or_vote(ballot.vote), ballot.last.map(or_log_id));
    request.leadership_transfer = ballot.transfer;
    request
}

fn answer(reply: openraft::raft::VoteResponse<TypeConfig>) -> BallotAnswer {
    BallotAnswer {
        vote: vote(&reply.vote),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(log_id),
    }
}

fn or_answer(answer: BallotAnswer) -> openraft::raft::VoteResponse<TypeConfig> {
    openraft::raft::VoteResponse::new(or_vote(answer.vote), answer.last.map(or_log_id), answer.granted)
}

fn transfer(request: &openraft::raft::TransferLeaderRequest<TypeConfig>) -> TransferLeader {
    TransferLeader {
        from: vote(request.from_leader()),
        to: NodeId(*request.to_node_id()),
        last: request.last_log_id().map(log_id),
    }
}

fn transferred(reply: openraft::raft::TransferLeaderResponse<TypeConfig>) -> Transferred {
    use openraft::raft::TransferLeaderError as Or;
    match reply {
        Ok(()) => Transferred::Accepted,
        Err(Or::VoteChanged { expected, actual }) => {
            Transferred::VoteChanged { expected: vote(&expected), actual: vote(&actual) }
        }
        Err(Or::LogNotFlushed { expected, actual }) => Transferred::NotFlushed {
            expected: expected.as_ref().map(log_id),
            actual: actual.as_ref().map(log_id),
        },
    }
}

fn or_transferred(reply: Transferred) -> openraft::raft::TransferLeaderResponse<TypeConfig> {
    use openraft::raft::TransferLeaderError as Or;
    match reply {
        Transferred::Accepted => Ok(()),
        Transferred::VoteChanged { expected, actual } => {
            Err(Or::VoteChanged { expected: or_vote(expected), actual: or_vote(actual) })
        }
        Transferred::NotFlushed { expected, actual } => {
            Err(Or::LogNotFlushed { expected: expected.map(or_log_id), actual: actual.map(or_log_id) })
        }
    }
}
