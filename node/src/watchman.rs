//! Looks at everything once in a while: figures for the metrics, and what is not as it should be.

use std::sync::Arc;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::datapath::Seen;
use crate::observe::Event;

const EVERY: Duration = Duration::from_millis(500);

/// For ever.
pub async fn run(daemon: Arc<Daemon>) {
    let mut every = tokio::time::interval(EVERY);
    let mut seen: Vec<Seen> = Vec::new();
    let mut leader = None;
    loop {
        every.tick().await;
        let metrics = daemon.observe.metrics();
        for (place, counters) in daemon.worker.counters().enumerate() {
            if place == seen.len() {
                seen.push(Seen::default());
            }
            counters.export(metrics, &mut seen[place]);
        }
        let Some(cluster) = daemon.cluster() else { continue };
        let (state, raft) = (cluster.state(), cluster.status());
        metrics.raft_is_leader.set(i64::from(raft.role == raft::Role::Leader));
        metrics.raft_term.set(raft.term as i64);
        metrics.raft_applied_index.set(state.applied() as i64);
        metrics.ike_sas.set(state.sas().len() as i64);
        metrics.child_sas.set(state.sas().children_len() as i64);
        let majority = raft.voters.len() / 2 + 1;
        metrics.quorum_spare_nodes.set(1 - majority as i64);
        let now = raft.leader.map(|leader| (leader, raft.term));
        if now != leader {
            leader = now;
            let name = raft.leader.and_then(|id| state.members().get(id)).map(|member| member.name.clone());
            daemon.observe.emit(Event::Leader { leader: name, term: raft.term });
        }
    }
}
