//! Takes all segments off a node, for its rest or its end: the log says that it drains, the leader moves, we wait.
//!
//! ```text
//!   owns nothing ─> all have applied that ─> another node has announced the service addresses ─> drained
//!                              a node that ends then stays until nothing comes to it any more ─> quiet
//! ```

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use raft::state::{Command, Draining, NodeId};
use raft::{Cluster, Role};
use tokio::time::{Instant, timeout_at};

use crate::asks::Asks;
use crate::datapath::Handle;
use crate::fault::Fault;
use crate::figures::{self, Figures, Wanted};

/// How often it is looked whether it is done.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How often it is looked whether anybody is left to take them.
const HOPE_AGAIN: Duration = Duration::from_millis(500);

/// How long the successors may take to apply what they own already, and to tell the neighbours.
const APPLIED_WITHIN: Duration = Duration::from_secs(2);

/// A node to which nothing has come for so long may go: its neighbours have heard who is next.
const QUIET_FOR: Duration = Duration::from_millis(100);

/// How long it stays at most: a router that sprays packets over all nodes (`external`) has to see for itself.
const QUIET_WITHIN: Duration = Duration::from_secs(3);

/// What a drain has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Segments that it owned before.
    pub segments: usize,
    pub took: Duration,
}

/// Drains `node` and returns when it owns nothing, its successors have applied that, and the neighbours know. After
/// `within` the drain goes on by itself.
pub async fn drain(
    cluster: &Cluster,
    asks: &Asks,
    node: NodeId,
    draining: Draining,
    within: Duration,
) -> Result<Drained, Fault> {
    let begun = Instant::now();
    let segments = owned(cluster, node);
    if segments > 0 {
        somebody_can_take_them(cluster, asks, node).await?;
    }
    crate::backend::propose(cluster, Command::SetDraining { node, draining }).await?;
    let late = || {
        let left = owned(cluster, node);
        Fault::timed_out(format!("{} still owns {left} of {segments} segments", name(cluster, node)))
            .why("the drain goes on")
            .attempt("pontoon wait --for drained   (on that node)")
            .attempt(format!("pontoon undrain {}", name(cluster, node)))
    };
    tokio::select! {
        done = timeout_at(begun + within, until_drained(cluster, asks, node)) => done.map_err(|_| late())?,
        fault = until_hopeless(cluster, asks, node) => return Err(fault),
    }
    Ok(Drained { segments, took: begun.elapsed() })
}

/// Returns when `node` owns nothing, every node that is up has applied that, and another one has told the neighbours that
/// the service addresses are there.
pub async fn until_drained(cluster: &Cluster, asks: &Asks, node: NodeId) {
    while owned(cluster, node) > 0 {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let wanted = Wanted { applied: cluster.state().applied(), ..Wanted::default() };
    let deadline = Instant::now() + APPLIED_WITHIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let figures = figures::gather(cluster, asks, &wanted, left).await;
        let told = figures.iter().any(|(other, figures)| *other != node && figures.holds_addresses);
        if told || Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// For this node, once it is drained and before it ends: returns when it has had nothing to pass on for a while. Whoever
/// has not heard yet where the service addresses are now still sends to us.
pub async fn until_quiet(worker: &Handle) {
    let passed_on = || worker.counters().map(|counters| counters.relayed.load(Relaxed)).sum::<u64>();
    let deadline = Instant::now() + QUIET_WITHIN;
    let (mut before, mut since) = (passed_on(), Instant::now());
    while since.elapsed() < QUIET_FOR && Instant::now() < deadline {
        tokio::time::sleep(LOOK_AGAIN).await;
        let now = passed_on();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
}

/// Returns when the others have gone too, or drain too: as when all nodes are stopped together.
async fn until_hopeless(cluster: &Cluster, asks: &Asks, node: NodeId) -> Fault {
    loop {
        tokio::time::sleep(HOPE_AGAIN).await;
        if owned(cluster, node) > 0
            && let Err(fault) = somebody_can_take_them(cluster, asks, node).await
        {
            return fault;
        }
    }
}

async fn somebody_can_take_them(cluster: &Cluster, asks: &Asks, node: NodeId) -> Result<(), Fault> {
    let up = figures::gather(cluster, asks, &Wanted::default(), figures::WITHIN).await;
    let (state, voters) = (cluster.state(), cluster.status().voters);
    let takes = |member: &raft::state::Member| {
        member.id != node
            && member.draining == Draining::No
            && voters.contains(&member.id)
            && up.contains_key(&member.id)
    };
    if state.members().iter().any(takes) {
        return Ok(());
    }
    Err(Fault::failed(format!("nobody can take the segments of {}", name(cluster, node)))
        .why("no other voter is up and takes segments")
        .attempt("pontoon members   (which are down, or drain too?)")
        .attempt("add a node:  pontoon token create, then pontoon join on it"))
}

/// The leadership goes to the voter that has applied most, when this node has it and another is up.
pub async fn hand_over_lead(cluster: &Cluster, asks: &Asks) {
    let node = cluster.node();
    if cluster.status().role != Role::Leader {
        return;
    }
    let figures = figures::gather(cluster, asks, &Wanted::default(), figures::WITHIN).await;
    let voters = cluster.status().voters;
    let fit = |other: &NodeId, figures: &Figures| *other != node && voters.contains(other) && !figures.deaf;
    let others = figures.iter().filter(|(other, figures)| fit(other, figures));
    let Some((&heir, _)) = others.max_by_key(|(_, figures)| figures.applied) else { return };
    if let Err(error) = cluster.transfer_leader(heir).await {
        tracing::warn!(%heir, %error, "the leadership is left behind");
    }
}

pub fn owned(cluster: &Cluster, node: NodeId) -> usize {
    cluster.state().segments().owned_by(node).count()
}

fn name(cluster: &Cluster, node: NodeId) -> String {
    let state = cluster.state();
    state.members().get(node).map_or_else(|| node.to_string(), |member| member.name.clone())
}
