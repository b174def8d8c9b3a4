//! Looks at everything twice a second: figures for the metrics, and what is not as it should be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipsec::types::Segment;
use raft::timings::Histogram;
use raft::{Cluster, RaftStatus, Role};

use crate::daemon::Daemon;
use crate::datapath::Seen;
use crate::observe::{Event, HealthCode, Metrics};

const EVERY: Duration = Duration::from_millis(500);

/// A flush slower than this, at the 99th percentile, makes commits and so IKE replies slow.
const SLOW_FLUSH: Duration = Duration::from_millis(30);

/// For ever.
pub async fn run(daemon: Arc<Daemon>) {
    let mut every = tokio::time::interval(EVERY);
    let mut workers: Vec<Seen> = Vec::new();
    let mut watched = Watched::default();
    loop {
        every.tick().await;
        let metrics = daemon.observe.metrics();
        let waits_before = metrics.esp_block_waits.get();
        for (place, counters) in daemon.worker.counters().enumerate() {
            if place == workers.len() {
                workers.push(Seen::default());
            }
            counters.export(metrics, &mut workers[place]);
        }
        let waits = metrics.esp_block_waits.get() - waits_before;
        let observe = &daemon.observe;
        observe.check(HealthCode::BlockWaits, waits > 0, || format!("{waits} packets waited for numbers"));
        match daemon.cluster() {
            Some(cluster) => watched.look(&daemon, &cluster),
            None => observe.raise(HealthCode::NotMember, "this node belongs to no cluster"),
        }
    }
}

/// What was seen at the last look.
#[derive(Default)]
struct Watched {
    leader: Option<(raft::state::NodeId, u64)>,
    commits: BTreeMap<Duration, u64>,
    flushes: BTreeMap<Duration, u64>,
}

impl Watched {
    fn look(&mut self, daemon: &Daemon, cluster: &Cluster) {
        let raft = cluster.status();
        self.figures(daemon.observe.metrics(), cluster, &raft);
        health(daemon, cluster, &raft);
        let leader = raft.leader.map(|leader| (leader, raft.term));
        if leader != self.leader {
            self.leader = leader;
            let state = cluster.state();
            let name = raft.leader.and_then(|id| state.members().get(id)).map(|member| member.name.clone());
            daemon.observe.emit(Event::Leader { leader: name, term: raft.term });
        }
    }

    fn figures(&mut self, metrics: &Metrics, cluster: &Cluster, raft: &RaftStatus) {
        let state = cluster.state();
        metrics.raft_is_leader.set(i64::from(raft.role == Role::Leader));
        metrics.raft_term.set(as_gauge(raft.term));
        metrics.raft_applied_index.set(as_gauge(state.applied()));
        metrics.ike_sas.set(as_gauge(state.sas().len() as u64));
        metrics.child_sas.set(as_gauge(state.sas().children_len() as u64));
        // Of the other voters nothing is known before there are links to them.
        let majority = raft.voters.len() as i64 / 2 + 1;
        metrics.quorum_spare_nodes.set((1 - majority).max(0));
        let timings = cluster.timings();
        grown(&mut self.commits, &timings.commit, |time| metrics.commit_took(time));
        grown(&mut self.flushes, &timings.fsync, |time| metrics.fsync_took(time));
    }
}

fn health(daemon: &Daemon, cluster: &Cluster, raft: &RaftStatus) {
    let (observe, state) = (&daemon.observe, cluster.state());
    observe.clear(HealthCode::NotMember);
    observe.check(HealthCode::NoLeader, raft.leader.is_none(), || "no leader is known");
    let unconfigured = state.configuration().is_none();
    observe.check(HealthCode::NoConfig, unconfigured, || "no client can connect before one is applied");
    let unserved = Segment::all().filter(|&segment| !state.segment(segment).state.is_served()).count();
    observe.check(HealthCode::SegmentsUnowned, unserved > 0, || format!("nobody serves {unserved} segments"));
    let even = raft.voters.len().is_multiple_of(2);
    observe.check(HealthCode::EvenVoters, even, || format!("there are {} voters", raft.voters.len()));
    let slow = cluster.timings().fsync.quantile(0.99).filter(|time| *time > SLOW_FLUSH);
    observe.check(HealthCode::DiskSlow, slow.is_some(), || {
        format!("a flush takes {} ms at the 99th percentile", slow.unwrap_or_default().as_millis())
    });
}

/// Tells of each duration that was recorded since the last call, to the precision of the histogram's buckets.
fn grown(seen: &mut BTreeMap<Duration, u64>, histogram: &Histogram, mut tell: impl FnMut(Duration)) {
    for (bound, count) in histogram.counts() {
        let before = seen.insert(bound, count).unwrap_or(0);
        (before..count).for_each(|_| tell(bound));
    }
}

fn as_gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_told_once() {
        let histogram = Histogram::default();
        let mut seen = BTreeMap::new();
        let mut told = 0;
        histogram.record(Duration::from_millis(2));
        grown(&mut seen, &histogram, |_| told += 1);
        histogram.record(Duration::from_millis(2));
        histogram.record(Duration::from_secs(1));
        grown(&mut seen, &histogram, |_| told += 1);
        grown(&mut seen, &histogram, |_| told += 1);
        assert_eq!(told, 3);
    }
}
