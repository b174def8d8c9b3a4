//! One running openraft, told in our own words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{ClientWriteError, ForwardToLeader, InitializeError, RaftError};
use openraft::metrics::WaitError;
use openraft::rt::WatchReceiver;
use openraft::storage::Snapshot;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{ChangeMembers, Instant, ServerState};

use super::{
    Answer, Log, Machine, Network, Proposal, Raft, TypeConfig, config, or_meta, or_vote, serve, vote,
};
use crate::handle::{ProposeError, RaftStatus, Role};
use crate::links::{Links, Reply, Request};
use crate::state::NodeId;
use crate::store::identity::Identity;
use crate::store::snapshot::SnapshotFile;
use crate::store::{LogStore, Peer, Vote};
use crate::timing::Timing;
use crate::votes::{Ballots, Step};

pub struct Node {
    pub(super) raft: Raft,
}

impl Node {
    pub async fn start(
        identity: &Identity,
        timing: &Timing,
        links: Arc<dyn Links>,
        log: Arc<dyn LogStore>,
        machine: Machine,
    ) -> Result<Node, String> {
        let config = config(&identity.cluster_name, timing)?;
        let raft =
            Raft::new(identity.node.0, config, Network::new(links, timing.proposal), Log::new(log), machine);
        Ok(Node { raft: raft.await.map_err(|error| error.to_string())? })
    }

    /// Writes the first entry of a cluster, unless it is there already.
    pub async fn initialize(&self, members: BTreeMap<NodeId, Peer>) -> Result<(), String> {
        let members: BTreeMap<u64, Peer> = members.into_iter().map(|(id, peer)| (id.0, peer)).collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Campaigns at once when nobody else could: there is no other leader to wait for.
    pub async fn campaign_if_alone(&self) -> Result<(), String> {
        let status = self.status();
        if status.voters == [status.node] {
            self.raft.trigger().elect(true).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    pub async fn campaign(&self) -> Result<(), String> {
        self.raft.trigger().elect(true).await.map_err(|error| error.to_string())
    }

    /// Acts on the hand-over that a leader which is gone could not send. Votes are granted by the rules of Raft all the
    /// same; only the lease of the leader, which nobody reads by, is passed over.
    pub async fn succeed(&self, leader: NodeId) -> Result<(), String> {
        let (me, vote) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.id, metrics.vote)
        };
        if vote.leader_id.node_id != leader.0 {
            return Err(format!("node {leader} does not lead any more"));
        }
        let request = openraft::raft::TransferLeaderRequest::new(vote, me, None);
        let answer = self.raft.handle_transfer_leader(request).await.map_err(|error| error.to_string())?;
        answer.map_err(|error| error.to_string())
    }

    pub async fn write(&self, proposal: Proposal) -> Result<Answer, ProposeError> {
        self.raft.client_write(proposal).await.map(|written| written.data).map_err(propose_error)
    }

    /// Writes an entry without meaning; its index once it is applied.
    pub async fn write_blank(&self) -> Result<u64, ProposeError> {
        self.raft.write_blank().await.map(|written| written.log_id.index).map_err(propose_error)
    }

    /// Who votes, who listens, who leads, as that changes.
    pub fn membership_changes(&self) -> Membership {
        Membership { metrics: self.raft.server_metrics() }
    }

    /// What waits to try `node` again does it now. It is no matter when Raft has stopped.
    pub async fn reachable_again(&self, node: NodeId) {
        let _ = self.raft.trigger().reset_backoff([node.0]).await;
    }

    pub async fn recovered(&self, within: Duration) -> Result<(), ProposeError> {
        self.raft.wait_for_recovery(Some(within)).await.map(drop).map_err(wait_error)
    }

    /// Raft's own membership.
    pub fn ballots(&self) -> Ballots {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let set = |ids: &BTreeSet<u64>| ids.iter().copied().map(NodeId).collect();
        Ballots {
            voters: membership.get_joint_config().iter().map(set).collect(),
            nodes: membership.nodes().map(|(id, peer)| (NodeId(*id), peer.clone())).collect(),
        }
    }

    /// For a leader: up to where each of the others has the log.
    pub fn matched(&self) -> BTreeMap<NodeId, Option<u64>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.iter().flatten();
        replication.map(|(id, log)| (NodeId(*id), log.as_ref().map(|log| log.index))).collect()
    }

    /// A change of voters is two entries; when this is cut off between them, the next one finishes it.
    pub async fn change_votes(&self, step: Step, within: Duration) -> Result<(), ProposeError> {
        let ids = |set: BTreeSet<NodeId>| set.into_iter().map(|node| node.0).collect();
        let (changes, retain) = match step {
            Step::AddLearner(node, peer) => (ChangeMembers::AddNodes([(node.0, peer)].into()), true),
            Step::SetVoters { voters, retain } => (ChangeMembers::ReplaceAllVoters(ids(voters)), retain),
            Step::Remove(nodes) => (ChangeMembers::RemoveNodes(ids(nodes)), true),
            Step::SetNodes(nodes) => {
                let nodes = nodes.into_iter().map(|(node, peer)| (node.0, peer)).collect();
                (ChangeMembers::SetNodes(nodes), true)
            }
        };
        let written = self.raft.change_membership(changes, retain).await.map_err(propose_error)?;
        // The next step is computed from what the metrics show.
        let shown = move |metrics: &openraft::RaftMetrics<TypeConfig>| {
            metrics.membership_config.log_id().as_ref() >= Some(&written.log_id)
        };
        let waited = self.raft.wait(Some(within)).metrics(shown, "the new membership").await;
        waited.map(drop).map_err(wait_error)
    }

    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        self.raft.trigger().snapshot().await.map_err(|error| ProposeError::Fatal(error.to_string()))
    }

    pub async fn snapshot_covers(&self, index: u64, within: Duration) -> Result<(), ProposeError> {
        self.reached(within, move |status| status.snapshot >= Some(index)).await
    }

    pub async fn purge(&self, upto: u64, within: Duration) -> Result<(), ProposeError> {
        let asked = self.raft.trigger().purge_log(upto).await;
        asked.map_err(|error| ProposeError::Fatal(error.to_string()))?;
        self.reached(within, move |status| status.purged >= Some(upto)).await
    }

    async fn reached(
        &self,
        within: Duration,
        condition: impl Fn(&RaftStatus) -> bool + Send + Sync,
    ) -> Result<(), ProposeError> {
        let met = |metrics: &openraft::RaftMetrics<TypeConfig>| condition(&status(metrics));
        let waited = self.raft.wait(Some(within)).metrics(met, "a condition on the log").await;
        waited.map(drop).map_err(wait_error)
    }

    pub fn status(&self) -> RaftStatus {
        status(&self.raft.metrics().borrow_watched())
    }

    /// Asks this node's leader part to let `to` lead. What becomes of it `status` tells.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ProposeError> {
        let asked = self.raft.trigger().transfer_leader(to.0).await;
        asked.map_err(|error| ProposeError::Fatal(error.to_string()))
    }

    pub async fn serve(&self, request: Request) -> Result<Reply, String> {
        serve(&self.raft, request).await
    }

    pub async fn install_snapshot(&self, leader: Vote, file: SnapshotFile) -> Result<Vote, String> {
        let snapshot = Snapshot { meta: or_meta(&file.meta)?, snapshot: file };
        let installed = self.raft.install_full_snapshot(or_vote(leader), snapshot).await;
        installed.map(|reply| vote(&reply.vote)).map_err(|fatal| fatal.to_string())
    }

    /// Resolves when openraft has stopped, with the reason.
    pub async fn fatal(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "Raft ended without a reason".into();
            }
        }
    }

    pub async fn shutdown(&self) {
        if self.raft.shutdown().await.is_err() {
            tracing::error!("Raft had panicked before it was stopped");
        }
    }
}

/// A view of voters, learners and the leader that can be waited on.
pub struct Membership {
    metrics: WatchReceiverOf<TypeConfig, openraft::metrics::RaftServerMetrics<TypeConfig>>,
}

impl Membership {
    /// All members, with what openraft knows of each.
    pub fn current(&mut self) -> BTreeMap<NodeId, Peer> {
        let metrics = self.metrics.borrow_and_update();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(id, peer)| (NodeId(*id), peer.clone())).collect()
    }

    /// False when Raft has stopped.
    pub async fn changed(&mut self) -> bool {
        self.metrics.changed().await.is_ok()
    }
}

fn status(metrics: &openraft::RaftMetrics<TypeConfig>) -> RaftStatus {
    let membership = metrics.membership_config.membership();
    let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
    RaftStatus {
        node: NodeId(metrics.id),
        role: match metrics.state {
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Shutdown,
        },
        term: metrics.current_term,
        leader: metrics.current_leader.map(NodeId),
        last_log: metrics.last_log_index,
        committed: metrics.local_committed.as_ref().map(|id| id.index),
        applied: metrics.last_applied.as_ref().map(|id| id.index),
        snapshot: metrics.snapshot.as_ref().map(|id| id.index),
        purged: metrics.purged.as_ref().map(|id| id.index),
        voter_sets: membership
            .get_joint_config()
            .iter()
            .map(|set| set.iter().copied().map(NodeId).collect())
            .collect(),
        voters_at: metrics.membership_config.log_id().as_ref().map_or(0, |id| id.index),
        voters: voters.into_iter().map(NodeId).collect(),
        learners: membership.learner_ids().map(NodeId).collect(),
        quorum_acked: metrics.last_quorum_acked.map(|at| at.elapsed()),
    }
}

/// `ForwardToLeader` comes before an entry is appended, `LogEntryDiscarded` after.
fn propose_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(ForwardToLeader {
            leader_id,
            leader_node,
            ..
        })) => ProposeError::NotLeader(leader_id.map(NodeId).zip(leader_node)),
        RaftError::APIError(_) => ProposeError::Unknown,
        RaftError::Fatal(fatal) => ProposeError::Fatal(fatal.to_string()),
    }
}

fn wait_error(error: WaitError) -> ProposeError {
    match error {
        WaitError::Timeout(..) => ProposeError::Unknown,
        WaitError::ShuttingDown => ProposeError::Fatal("it is being stopped".into()),
    }
}
