//! This node leaves its cluster, and is vacant again.
//!
//! ```text
//!   drained, quiet ─> leads no more ─> votes no more ─> removed ─> answered ─> log closed, directory cleared ─> begun anew
//! ```
//!
//! Each step is committed before the next begins, and found done when `leave` is given again: it can be cut off anywhere.
//! The vote goes before the membership, since a learner still hears of the end of it. That the others are enough is asked
//! before the drain, and again before the vote goes.

use std::time::Duration;

use raft::links::LinkState;
use raft::state::{Command, Draining, NodeId, Refusal, Suffrage};
use raft::{Cluster, ProposeError};
use tokio::time::{Instant, timeout_at};

use crate::backend::{propose, proposed};
use crate::control::Answer;
use crate::control::api;
use crate::daemon::Daemon;
use crate::drain;
use crate::fault::{Exit, Fault};
use crate::figures::Wanted;
use crate::growth::LOSE_QUORUM;
use crate::overview::Overview;

/// How often it is looked whether a step is done, or tried again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long links may take to come up or to be refused.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

impl Daemon {
    /// Takes this node out of its cluster. Whoever asked is answered, then `begin_anew` is due.
    pub async fn leave_cluster(&self, within: Duration, accept_risk: &[String]) -> Answer<api::Left> {
        let deadline = Instant::now() + within;
        let node = self.config.name.clone();
        let Some(cluster) = self.cluster() else {
            return Ok(api::Left { node, cluster: None, voters: 0, spare: 0 });
        };
        let of = Some(cluster.identity().cluster_name.clone());
        self.heard_of_others().await;
        // An earlier `leave` was cut off behind its last step, or `members remove` came first.
        if self.is_expelled(&cluster) {
            return Ok(api::Left { node, cluster: of, voters: 0, spare: 0 });
        }
        let overview = self.overview(Wanted::default()).await?;
        let quorum = without(&overview, cluster.node());
        check(&node, &overview, &quorum, accept_risk)?;
        drain::drain(&cluster, &self.asks, cluster.node(), Draining::UntilUndrain, within).await?;
        // No member any more, it could pass nothing on. A router that goes on spraying must not use up the time for the rest.
        let _ = tokio::time::timeout(within / 4, drain::until_quiet(&self.worker)).await;
        timeout_at(deadline, self.resign(&cluster, accept_risk)).await.map_err(|_| {
            Fault::timed_out(format!("{node} is drained, and not out of the cluster yet"))
                .why("a step of it is not committed yet")
                .attempt("pontoon status")
                .attempt("pontoon leave   (again: it goes on where it was)")
        })??;
        tracing::info!("left the cluster");
        Ok(api::Left { node, cluster: of, voters: quorum.voters, spare: quorum.spare })
    }

    /// Waits a moment, after a start, until a member has let this node in or has refused it.
    async fn heard_of_others(&self) {
        let deadline = Instant::now() + HEARD_WITHIN;
        let waits = || {
            let peers = self.links.peers();
            let peers = peers.borrow();
            !peers.values().any(|peer| peer.state == LinkState::Up || peer.says_removed())
        };
        while waits() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether this node knows that it is no member any more: by its own log, or by the word of a member.
    pub fn is_expelled(&self, cluster: &Cluster) -> bool {
        let state = cluster.state();
        let gone = state.cluster().is_some() && state.members().get(cluster.node()).is_none();
        // A newcomer is in nobody's state yet, its own included, and applies what others had before it was there.
        let was_here = state.applied() >= cluster.node().0;
        // While its vote may count the others may need it.
        if gone && was_here && !votes(cluster) {
            return true;
        }
        let peers = self.links.peers();
        let peers = peers.borrow();
        let up = peers.values().any(|peer| peer.state == LinkState::Up);
        !up && peers.values().any(|peer| peer.says_removed())
    }

    /// Returns when this node knows that it is no member any more.
    async fn expelled(&self, cluster: &Cluster) {
        while !self.is_expelled(cluster) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// From a drained node to one that is no member.
    async fn resign(&self, cluster: &Cluster, accept_risk: &[String]) -> Result<(), Fault> {
        let node = cluster.node();
        let overview = self.overview(Wanted::default()).await?;
        check(&self.config.name, &overview, &without(&overview, node), accept_risk)?;
        drain::hand_over_lead(cluster, &self.asks).await;
        if cluster.state().members().get(node).is_some_and(|it| it.suffrage == Suffrage::Voter) {
            propose(cluster, Command::SetSuffrage { node, suffrage: Suffrage::Learner }).await?;
        }
        while votes(cluster) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        // Whoever leads may be quicker to cut us off than to tell us.
        while !self.is_expelled(cluster) {
            let told = tokio::select! {
                told = cluster.propose(Command::RemoveMember { node }) => told,
                () = self.expelled(cluster) => return Ok(()),
            };
            match told {
                Ok(_) | Err(ProposeError::Refused(Refusal::UnknownNode)) => return Ok(()),
                // Whether it counted, the log or the next try tells.
                Err(ProposeError::Unknown | ProposeError::NotLeader(_)) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(error) => return Err(proposed(error)),
            }
        }
        Ok(())
    }
}

/// The voters when `node` is none of them, and none of those that are about to go.
pub fn without(overview: &Overview, node: NodeId) -> api::Quorum {
    let stays = |voter: &NodeId| {
        let member = overview.state.members().get(*voter);
        *voter != node && member.is_some_and(|member| member.suffrage == Suffrage::Voter)
    };
    let others = || overview.raft.voters.iter().filter(|voter| stays(voter));
    api::Quorum::of(others().count() as u32, others().filter(|voter| overview.is_up(**voter)).count() as u32)
}

fn check(node: &str, overview: &Overview, quorum: &api::Quorum, accept_risk: &[String]) -> Result<(), Fault> {
    if overview.nodes().len() == 1 {
        return Err(Fault::new(Exit::Dangerous, format!("refused: {node} is the only member"))
            .why("with the last member the cluster ends, and every tunnel with it")
            .attempt("add another node:  pontoon token create, then pontoon join on it")
            .attempt("to end the cluster: stop the daemon and delete its data directory"));
    }
    if quorum.has_quorum || accept_risk.iter().any(|risk| risk == LOSE_QUORUM) {
        return Ok(());
    }
    let down = overview.nodes().into_iter().find(|other| other.state == api::NodeState::Down);
    let fault = Fault::new(Exit::Dangerous, format!("refused: without {node} no quorum remains"))
        .why(format!("{} of the {} other voters are up", quorum.up, quorum.voters));
    let fault = match down {
        Some(down) => {
            let name = down.name;
            fault.attempt(format!("bring {name} back, or remove it first:  pontoon members remove {name}"))
        }
        None => fault.attempt("add another node first:  pontoon token create, then pontoon join on it"),
    };
    Err(fault.attempt(format!("pontoon leave --accept-risk {LOSE_QUORUM}")))
}

/// Whether this node's vote may still count, as far as is committed.
fn votes(cluster: &Cluster) -> bool {
    let (node, status) = (cluster.node(), cluster.status());
    let committed = status.committed.is_some_and(|committed| committed >= status.voters_at);
    !committed || status.voter_sets.iter().any(|set| set.contains(&node))
}
