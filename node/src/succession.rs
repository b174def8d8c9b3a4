//! What the followers do when the leader is dead: they do not wait for Raft to find out by itself.
//!
//! ```text
//!   leader gone    ──> the lowest live voter campaigns at once, in its name: its lease protects nobody any more
//!   leader silent  ──> the lowest live voter campaigns as soon as the lease of the leader is over
//!                      the next one 15 ms later, and so on
//! ```
//!
//! Raft's own timeouts go on behind this, so it costs nothing but time when all here are wrong. A lease of a Raft leader
//! has no reader in pontoon: owners have their own (`lease`), and whatever the leader decides goes through the log.

use std::time::Duration;

use raft::state::NodeId;
use raft::{Cluster, Role};

use crate::liveness::{Liveness, Verdict};
use crate::lookout::Lookout;

/// How long the next in line waits for the one before it.
const TURN: Duration = Duration::from_millis(15);

/// How often it is tried to campaign while the lease of a silent leader may run.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// For ever.
pub async fn run(cluster: Cluster, lookout: Lookout) {
    let mut news = lookout.news();
    while news.changed().await.is_ok() {
        while let Some((leader, verdict)) = dead_leader(&cluster, &lookout) {
            let liveness = lookout.liveness(&cluster);
            let Some(turn) = turn(&cluster.status().voters, &liveness, cluster.node()) else { break };
            tokio::time::sleep(TURN * turn).await;
            if dead_leader(&cluster, &lookout) != Some((leader, verdict)) {
                continue;
            }
            let campaign = match verdict {
                Verdict::Gone => cluster.succeed(leader).await,
                _ => cluster.campaign().await,
            };
            if let Err(error) = campaign {
                tracing::debug!(%leader, error, "no campaign");
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    }
}

/// The leader of this follower, if it is found dead.
fn dead_leader(cluster: &Cluster, lookout: &Lookout) -> Option<(NodeId, Verdict)> {
    let status = cluster.status();
    let leader = status.leader.filter(|_| status.role == Role::Follower && !lookout.deaf_here())?;
    let verdict = lookout.verdict(leader)?;
    (verdict != Verdict::Alive).then_some((leader, verdict))
}

/// How many live voters come before `me`; `None` when `me` has no vote.
fn turn(voters: &[NodeId], liveness: &Liveness, me: NodeId) -> Option<u32> {
    let before = voters.iter().filter(|&&voter| voter < me && !liveness.is_silent(voter)).count();
    voters.contains(&me).then_some(before as u32)
}

#[cfg(test)]
mod tests {
    use ipsec::types::Incarnation;

    use super::*;
    use crate::liveness::Signs;

    #[test]
    fn the_lowest_live_voter_is_first() {
        let signs = |verdict| Signs { verdict, incarnation: Incarnation(1), applied: 0 };
        let nodes = [(1, Verdict::Silent), (4, Verdict::Alive), (6, Verdict::Alive), (9, Verdict::Alive)];
        let nodes = nodes.map(|(id, verdict)| (NodeId(id), signs(verdict))).into();
        let liveness = Liveness { nodes };
        let voters = [1, 4, 6].map(NodeId);
        for (me, expected) in [(4, Some(0)), (6, Some(1)), (9, None)] {
            assert_eq!(turn(&voters, &liveness, NodeId(me)), expected, "node {me}");
        }
    }
}
