//! How long a tunnel stands still when its owner fails, and what the nodes say of the parts of that time.
//!
//! A datagram goes through the tunnel to an echo on the server every millisecond; the gap is the longest time between
//! two answers around the fault. Beside it stand the parts from the handover event of the new owner: silence noticed,
//! assignment committed, first packet possible. The paper had 1.63 to 1.66 s, from the last packet of the old owner to
//! the first of the new one.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Extent;
use super::client::Tunnel;
use super::setup::gateway;
use super::table::{Cell, Table, quantile, sorted};
use crate::outcome::{Context, Result};
use crate::world::Bed;
use crate::world::cluster::{Cluster, Edge, Shape};
use crate::world::fault::Fault;
use crate::world::pulse::Pulse;

const EVERY: Duration = Duration::from_millis(1);
/// Answers in a row after which the traffic counts as flowing again.
const FLOWING: usize = 200;
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than all timings of ours, as the test of the paper is.
const STOPPED: Duration = Duration::from_secs(5);
/// The chance that all of these give another kind of node the tunnel is one in a million.
const ATTEMPTS: u32 = 36;

/// Whose tunnel it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Follower,
    Leader,
}

const KINDS: [(&str, Owner, Fault); 6] = [
    ("a follower that owns it, killed", Owner::Follower, Fault::Killed),
    ("the leader that owns it, killed", Owner::Leader, Fault::Killed),
    ("all cables of its owner pulled", Owner::Follower, Fault::CutOff),
    ("the outer cable of its owner pulled", Owner::Follower, Fault::OuterCable),
    ("its owner's process stopped for 5 s", Owner::Follower, Fault::Stopped(STOPPED)),
    ("its owner drained", Owner::Follower, Fault::Drained),
];

pub fn run(bed: &Bed, extent: Extent) -> Result<Vec<Table>> {
    let runs = extent.choose(2, 20);
    let mut cluster = Cluster::start(bed, Shape::default(), &gateway().toml())?;
    let mut table = Table::new(
        format!("three nodes, one datagram a millisecond, {runs} runs each"),
        &["what happens", "p50 ms", "p95 ms", "max ms", "runs", "detect p50", "commit p50", "resume p50", "lost p50"],
    )
    .note("ms: the longest time without an answer at the client; the paper: 1,630 to 1,660 ms (interface down)")
    .note("parts: as the new owner tells them; the rest is the way of the packets and the steering of the address");
    for (name, owner, fault) in KINDS {
        let mut found = Vec::new();
        for number in 0..runs {
            found.push(one(&mut cluster, owner, fault).context(format!("{name}, run {number}"))?);
        }
        let column = |value: fn(&Found) -> f64| sorted(&found.iter().map(value).collect::<Vec<_>>());
        let (gaps, median) = (column(|of| of.gap_ms), |values: Vec<f64>| Cell::from(quantile(&values, 0.5)));
        table.row(vec![
            name.into(),
            quantile(&gaps, 0.5).into(),
            quantile(&gaps, 0.95).into(),
            quantile(&gaps, 1.0).into(),
            Cell::Text(gaps.len().to_string()),
            median(column(|of| of.parts[0])),
            median(column(|of| of.parts[1])),
            median(column(|of| of.parts[2])),
            median(column(|of| of.lost)),
        ]);
    }
    Ok(vec![table])
}

struct Found {
    gap_ms: f64,
    /// Detect, commit, resume; not numbers where no event tells them.
    parts: [f64; 3],
    lost: f64,
}

fn one(cluster: &mut Cluster, wanted: Owner, fault: Fault) -> Result<Found> {
    let (tunnel, owner) = tunnel_of(cluster, wanted)?;
    let pulse = Pulse::start(&cluster.client, tunnel.inner, EVERY)?;
    pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    let struck = Instant::now();
    fault.strike(cluster, owner)?;
    if let Fault::Stopped(time) = fault {
        std::thread::sleep(time);
    }
    pulse.wait_for(struck + Duration::from_millis(5), FLOWING, PATIENCE).context("after the fault")?;
    let gap = pulse.longest_silence(struck);
    let parts = parts(cluster, owner)?;
    let lost = pulse.count().lost as f64;
    fault.mend(cluster, owner)?;
    cluster.wait_ready()?;
    cluster.wait_balanced()?;
    Ok(Found { gap_ms: gap.as_secs_f64() * 1e3, parts, lost })
}

/// A tunnel that such a node owns.
fn tunnel_of(cluster: &Cluster, wanted: Owner) -> Result<(Tunnel, Edge)> {
    for _ in 0..ATTEMPTS {
        let tunnel = Tunnel::open(&cluster.client)?;
        let sas = cluster.any()?.sas()?;
        let inner = tunnel.inner.to_string();
        let own = |sa: &&Value| {
            sa["inner_addresses"].as_array().is_some_and(|list| list.iter().any(|ip| *ip == *inner))
        };
        let sa = sas.iter().find(own).context("the gateway does not know the tunnel")?;
        let owner = Edge::named(sa["owner"].as_str().context("the tunnel has no owner")?)?;
        if (cluster.leader()? == owner) == (wanted == Owner::Leader) {
            return Ok((tunnel, owner));
        }
    }
    Err(format!("in {ATTEMPTS} attempts no {wanted:?} got the tunnel").into())
}

/// What the new owner says of the newest handover from `victim`.
fn parts(cluster: &Cluster, victim: Edge) -> Result<[f64; 3]> {
    let from = victim.to_string();
    let newest = cluster
        .events()?
        .into_iter()
        .map(|(_, event)| event)
        .filter(|event| event["kind"] == "handover" && event["from"] == *from)
        .max_by(|a, b| a["at"].as_str().cmp(&b["at"].as_str()));
    let part = |key: &str| newest.as_ref().and_then(|event| event[key].as_f64()).unwrap_or(f64::NAN);
    Ok(["detect_ms", "commit_ms", "resume_ms"].map(part))
}
