//! Looks at everything twice a second: figures for the metrics, and what is not as it should be, here and in the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ipsec::types::Segment;
use raft::links::Refused;
use raft::state::NodeId;
use raft::timings::Histogram;
use raft::{Cluster, RaftStatus, Role};

use crate::control::api::Quorum;
use crate::daemon::Daemon;
use crate::datapath::Seen;
use crate::figures::{Figures, Wanted};
use crate::observe::{Event, HealthCode, Metrics, Observe};
use crate::overview::Overview;

const EVERY: Duration = Duration::from_millis(500);

/// How often the digests of the nodes are compared, in looks: each reads the whole state.
const DIGEST_EVERY: u32 = 20;

/// Entries that this node may be behind another one before it says that it is catching up.
const BEHIND_MAX: u64 = 1_000;

/// A flush slower than this, at the 99th percentile, makes commits and so IKE replies slow.
const SLOW_FLUSH: Duration = Duration::from_millis(30);

/// For ever.
pub async fn run(daemon: Arc<Daemon>) {
    let mut every = tokio::time::interval(EVERY);
    let mut workers: Vec<Seen> = Vec::new();
    let mut watched = Watched::default();
    let mut refused = [0; Refused::ALL.len()];
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
        for (reason, told) in Refused::ALL.into_iter().zip(&mut refused) {
            let count = daemon.links.counters().refused(reason);
            metrics.link_refused(reason.label(), count - *told);
            *told = count;
        }
        let waits = metrics.esp_block_waits.get() - waits_before;
        let observe = &daemon.observe;
        observe.check(HealthCode::BlockWaits, waits > 0, || format!("{waits} packets waited for numbers"));
        match daemon.cluster() {
            Some(cluster) => watched.look(&daemon, &cluster).await,
            None => observe.raise(HealthCode::NotMember, "this node belongs to no cluster"),
        }
    }
}

/// What was seen at the last look.
#[derive(Default)]
struct Watched {
    leader: Option<(NodeId, u64)>,
    commits: BTreeMap<Duration, u64>,
    flushes: BTreeMap<Duration, u64>,
    looks: u32,
    /// The members, and whether each answered.
    nodes: BTreeMap<NodeId, (String, bool)>,
}

impl Watched {
    async fn look(&mut self, daemon: &Daemon, cluster: &Cluster) {
        let digest = self.looks.is_multiple_of(DIGEST_EVERY);
        self.looks = self.looks.wrapping_add(1);
        if let Ok(overview) = daemon.overview(Wanted { digest, ..Wanted::default() }).await {
            self.others(daemon, &overview, digest);
        }
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

    fn others(&mut self, daemon: &Daemon, overview: &Overview, digest: bool) {
        let observe = &daemon.observe;
        observe.metrics().quorum_spare_nodes.set(i64::from(overview.quorum().spare));
        cluster_health(observe, overview);
        if digest {
            let differing = differing(overview);
            observe.metrics().state_digest_mismatch.set(differing.len() as i64);
            observe.check(HealthCode::DigestMismatch, !differing.is_empty(), || {
                format!("at the same index {} has another state than this node", differing.join(", "))
            });
        }
        let now: BTreeMap<_, _> = overview
            .state
            .members()
            .iter()
            .map(|member| (member.id, (member.name.clone(), overview.is_up(member.id))))
            .collect();
        let before = std::mem::replace(&mut self.nodes, now);
        tell_changes(observe, &before, &self.nodes);
    }

    fn figures(&mut self, metrics: &Metrics, cluster: &Cluster, raft: &RaftStatus) {
        let state = cluster.state();
        metrics.raft_is_leader.set(i64::from(raft.role == Role::Leader));
        metrics.raft_term.set(as_gauge(raft.term));
        metrics.raft_applied_index.set(as_gauge(state.applied()));
        metrics.ike_sas.set(as_gauge(state.sas().len() as u64));
        metrics.child_sas.set(as_gauge(state.sas().children_len() as u64));
        let timings = cluster.timings();
        grown(&mut self.commits, &timings.commit, |time| metrics.commit_took(time));
        grown(&mut self.flushes, &timings.fsync, |time| metrics.fsync_took(time));
    }
}

/// What can be wrong between nodes.
fn cluster_health(observe: &Observe, overview: &Overview) {
    let quorum = overview.quorum();
    let Quorum { voters, up, spare, has_quorum } = quorum;
    observe.check(HealthCode::NoQuorum, !has_quorum, || format!("{up} of {voters} voters answer"));
    // A cluster that was never more than one node is as its administrator made it.
    let lone = overview.state.members().len() == 1;
    observe.check(HealthCode::Lone, lone, || "the cluster has one node: it survives no failure");
    let no_spare = has_quorum && spare == 0 && !lone;
    observe.check(HealthCode::NoSpare, no_spare, || {
        format!("{up} of {voters} voters answer: the cluster survives no further failure")
    });
    let down: Vec<&str> = overview
        .state
        .members()
        .iter()
        .filter(|member| !overview.is_up(member.id))
        .map(|member| member.name.as_str())
        .collect();
    observe.check(HealthCode::NodeDown, !down.is_empty(), || format!("no answer from {}", down.join(", ")));
    let newest = overview.figures.values().map(|figures| figures.applied).max().unwrap_or(0);
    let behind = newest.saturating_sub(overview.state.applied());
    observe.check(HealthCode::CatchingUp, behind > BEHIND_MAX, || {
        format!("this node is {behind} entries behind")
    });
    let versions: BTreeSet<&str> =
        overview.state.members().iter().map(|member| member.software.as_str()).collect();
    observe.check(HealthCode::MixedVersions, versions.len() > 1, || {
        format!("the nodes run {}", versions.iter().copied().collect::<Vec<_>>().join(", "))
    });
}

/// The nodes whose state is another than ours although it is as far (I10).
fn differing(overview: &Overview) -> Vec<String> {
    let Some(ours) = overview.figures.get(&overview.raft.node) else { return Vec::new() };
    let differs = |figures: &Figures| figures.applied == ours.applied && figures.digest != ours.digest;
    let differing = overview.figures.iter().filter(|(_, figures)| differs(figures));
    differing.filter_map(|(&node, _)| overview.name(node)).collect()
}

fn health(daemon: &Daemon, cluster: &Cluster, raft: &RaftStatus) {
    let (observe, state) = (&daemon.observe, cluster.state());
    observe.clear(HealthCode::NotMember);
    observe.check(HealthCode::Removed, daemon.is_expelled(cluster), || "the cluster has removed this node");
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

/// Who came, who went, who ceased or began to answer. At the first look everybody is news to nobody.
fn tell_changes(
    observe: &Observe,
    before: &BTreeMap<NodeId, (String, bool)>,
    now: &BTreeMap<NodeId, (String, bool)>,
) {
    if before.is_empty() {
        return;
    }
    for (id, (node, up)) in now {
        let node = node.clone();
        match before.get(id) {
            None => observe.emit(Event::MemberAdded { node, id: id.0 }),
            Some((_, was_up)) if was_up != up => observe.emit(Event::MemberState { node, up: *up }),
            Some(_) => {}
        }
    }
    for (id, (node, _)) in before.iter().filter(|(id, _)| !now.contains_key(id)) {
        observe.emit(Event::MemberRemoved { node: node.clone(), id: id.0 });
    }
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
