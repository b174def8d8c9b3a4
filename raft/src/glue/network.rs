//! `RaftNetworkV2` on `Links`. Pre-vote is passed on like a vote: openraft's default would grant it unasked.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::AnyError;
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};

use super::{
    OrVote, TypeConfig, append, ballot, or_answer, or_appended, or_transferred, or_vote, transfer, vote,
};
use crate::links::{Lane, Link, LinkError, Links, Reply, Request};
use crate::state::NodeId;
use crate::store::Peer;
use crate::store::snapshot::SnapshotFile;

type OrSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

pub struct Network {
    links: Arc<dyn Links>,
    /// How long entries may take: a slow disk at the other end is no failure, and a dead connection ends by itself.
    append_within: Duration,
}

/// The way to one node.
pub struct Way {
    links: Arc<dyn Links>,
    to: NodeId,
    peer: Peer,
    lane: Lane,
    append_within: Duration,
}

impl Network {
    pub fn new(links: Arc<dyn Links>, append_within: Duration) -> Network {
        Network { links, append_within }
    }

    fn way(&self, to: u64, peer: &Peer, lane: Lane) -> Way {
        let append_within = self.append_within;
        Way { links: self.links.clone(), to: NodeId(to), peer: peer.clone(), lane, append_within }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Way {
        self.way(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Way {
        self.way(target, node, Lane::Urgent)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Peer) -> Way {
        self.way(target, node, Lane::Snapshot)
    }
}

impl Way {
    fn link(&self, lane: Lane) -> Result<Arc<dyn Link>, LinkError> {
        self.links
            .link(self.to, &self.peer, lane)
            .ok_or_else(|| LinkError::Unreachable(format!("no link to node {} ({})", self.to, self.peer)))
    }

    async fn call(
        &self,
        lane: Lane,
        request: Request,
        within: Duration,
    ) -> Result<Reply, RPCError<TypeConfig>> {
        let call = async { self.link(lane)?.call(request, within).await };
        match tokio::time::timeout(within, call).await {
            Ok(outcome) => outcome.map_err(rpc_error),
            Err(_) => Err(rpc_error(LinkError::TimedOut)),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Way {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // openraft allows for one heartbeat, which a flush at the other end may well take.
        let within = if self.lane == Lane::Append { self.append_within } else { option.hard_ttl() };
        match self.call(self.lane, Request::Append(append(request)), within).await? {
            Reply::Append(reply) => Ok(or_appended(reply)),
            _ => Err(wrong_answer()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Lane::Urgent, Request::Vote(ballot(&request)), option.hard_ttl()).await? {
            Reply::Vote(answer) => Ok(or_answer(answer)),
            _ => Err(wrong_answer()),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Lane::Urgent, Request::PreVote(ballot(&request)), option.hard_ttl()).await? {
            Reply::Vote(answer) => Ok(or_answer(answer)),
            _ => Err(wrong_answer()),
        }
    }

    async fn full_snapshot(
        &mut self,
        leader: OrVote,
        snapshot: OrSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let link = self.link(Lane::Snapshot).map_err(streaming_error)?;
        tokio::select! {
            sent = link.send_snapshot(vote(&leader), snapshot.snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(or_vote(vote))),
                Err(error) => Err(streaming_error(error)),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Lane::Urgent, Request::TransferLeader(transfer(&request)), option.hard_ttl()).await? {
            Reply::TransferLeader(reply) => Ok(or_transferred(reply)),
            _ => Err(wrong_answer()),
        }
    }
}

fn rpc_error(error: LinkError) -> RPCError<TypeConfig> {
    match error {
        LinkError::Unreachable(_) => RPCError::Unreachable(Unreachable::new(&error)),
        // A call that timed out is a connection that failed: openraft tries again at once.
        LinkError::Failed(_) | LinkError::TimedOut => RPCError::Network(NetworkError::new(&error)),
    }
}

fn streaming_error(error: LinkError) -> StreamingError<TypeConfig> {
    match error {
        LinkError::Unreachable(_) => StreamingError::Unreachable(Unreachable::new(&error)),
        LinkError::Failed(_) | LinkError::TimedOut => StreamingError::Network(NetworkError::new(&error)),
    }
}

fn wrong_answer() -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&AnyError::error("the answer is to another question")))
}
