//! One running openraft, told in our own words.

use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{ClientWriteError, ForwardToLeader, InitializeError, RaftError};
use openraft::metrics::WaitError;
use openraft::rt::WatchReceiver;
use openraft::storage::Snapshot;
use openraft::{Instant, ServerState};

use super::{
    Answer, Log, Machine, Network, Proposal, Raft, TypeConfig, config, founder, or_meta, or_vote, serve, vote,
};
use crate::handle::{ProposeError, RaftStatus, Role};
use crate::links::{Links, Reply, Request};
use crate::state::NodeId;
use crate::store::identity::Identity;
use crate::store::snapshot::SnapshotFile;
use crate::store::{LogStore, Vote};
use crate::timing::Timing;

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
        let raft = Raft::new(identity.node.0, config, Network::new(links), Log::new(log), machine);
        Ok(Node { raft: raft.await.map_err(|error| error.to_string())? })
    }

    /// Writes the first entry of a cluster, unless it is there already.
    pub async fn initialize(&self, identity: &Identity) -> Result<(), String> {
        match self.raft.initialize(founder(identity.node, identity.me.clone())).await {
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

    pub async fn write(&self, proposal: Proposal) -> Result<Answer, ProposeError> {
        self.raft.client_write(proposal).await.map(|written| written.data).map_err(propose_error)
    }

    pub async fn write_blank(&self) -> Result<(), ProposeError> {
        self.raft.write_blank().await.map(drop).map_err(propose_error)
    }

    pub async fn recovered(&self, within: Duration) -> Result<(), ProposeError> {
        self.raft.wait_for_recovery(Some(within)).await.map(drop).map_err(wait_error)
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
