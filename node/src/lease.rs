//! The right to write to a socket or to the TUN: until `lease` after the *sending* of a question that a majority of
//! the voters has answered (DESIGN 6). A node that cannot ask, or is not answered, falls silent by itself.
//!
//! Each voter acknowledges itself without a packet; a cluster of one voter has its majority with that. The answers
//! of other voters come over the links between nodes; a node that has none never counts more than itself.

use std::collections::BTreeSet;
use std::time::Duration;

use raft::Cluster;
use raft::state::NodeId;

use crate::datapath::{Handle, Order};
use crate::io::clock::{Clock, SystemClock};

/// Renewals in one lease: so many may be late in a row before anything is silenced.
const RENEWALS: u64 = 4;

/// Renews for ever, and lets the lease run out where there is no majority.
pub async fn keep(cluster: Cluster, worker: Handle, lease_ms: u64) {
    let mut every = tokio::time::interval(Duration::from_millis((lease_ms / RENEWALS).max(1)));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let asked_at = SystemClock.now();
        let voters = cluster.status().voters;
        if is_majority(&voters, &BTreeSet::from([cluster.node()])) {
            let until = asked_at.after(lease_ms);
            if worker.tell_all(|| Order::Lease { until }).await.is_err() {
                return;
            }
        }
    }
}

fn is_majority(voters: &[NodeId], acknowledged: &BTreeSet<NodeId>) -> bool {
    let count = voters.iter().filter(|voter| acknowledged.contains(voter)).count();
    !voters.is_empty() && count > voters.len() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majorities() {
        let ids = |ids: &[u64]| ids.iter().map(|&id| NodeId(id)).collect::<Vec<_>>();
        for (voters, acknowledged, enough) in [
            (&[1][..], &[1][..], true),
            (&[], &[1], false),
            (&[1, 2], &[1], false),
            (&[1, 2, 3], &[1], false),
            (&[1, 2, 3], &[1, 3], true),
            (&[1, 2, 3], &[1, 4, 5], false),
            (&[2], &[1], false),
        ] {
            let acknowledged = ids(acknowledged).into_iter().collect();
            assert_eq!(is_majority(&ids(voters), &acknowledged), enough, "{voters:?} {acknowledged:?}");
        }
    }
}
