//! Many tunnels with traffic in each, and nodes that die at random and come back: nobody notices.

use std::time::{Duration, Instant};

use crypto::rng::{Rng, SeededRng};

use super::Scenario;
use super::bridge::{Allowed, Bridge, Proof};
use super::common::Gateway;
use super::s4_many::Tunnels;
use crate::charon::Settings;
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::Bed;
use crate::world::capture::Extent;
use crate::world::cluster::{Cluster, Edge, Shape};
use crate::world::pulse::Pulse;

pub(super) const LIST: &[Scenario] = &[
    Scenario {
        name: "c2-random-kills",
        what: "many tunnels with traffic, nodes killed at random and started again",
        run: random_kills,
    },
    Scenario { name: "c2-five-nodes", what: "the same with five nodes", run: five_nodes },
    Scenario {
        name: "c2-same-node-again",
        what: "kill -9 and restart within 300 ms: fresh incarnation, epoch and block",
        run: same_node_again,
    },
];

/// One datagram this often in each tunnel.
const EVERY: Duration = Duration::from_millis(100);
/// A dead node comes back after up to this time: before anybody can have noticed, or long after.
const AWAY_MS_MAX: u32 = 1_500;
/// How long a tunnel may take to answer again.
const PATIENCE: Duration = Duration::from_secs(20);
/// Answers in a row after which a tunnel counts as alive.
const ALIVE: usize = 5;

fn random_kills(bed: &Bed) -> Result {
    kills_among(bed, Shape::default(), bed.choose((16, 6), (100, 50)))
}

fn five_nodes(bed: &Bed) -> Result {
    kills_among(bed, Shape { nodes: 5, ..Shape::default() }, bed.choose((16, 2), (100, 50)))
}

fn kills_among(bed: &Bed, shape: Shape, (tunnels, kills): (usize, usize)) -> Result {
    let mut bridge = Bridge::loaded(bed, shape, &Gateway::default(), &Settings::default())?;
    let tunnels = Tunnels::connect(&bridge.client, tunnels)?;
    let mut proof = Proof::begin(&bridge, Extent::Heads)?;
    let pulses: Vec<Pulse> = tunnels
        .addresses()
        .iter()
        .map(|&from| Pulse::start(&bridge.cluster.client, from, EVERY))
        .collect::<Result<_>>()?;
    all_alive(&pulses, Instant::now())?;
    let mut random = SeededRng::new(3);
    let begun = Instant::now();
    for number in 0..kills {
        let edges: Vec<Edge> = bridge.cluster.edges().collect();
        let edge = edges[random.u32() as usize % edges.len()];
        bridge.cluster.kill(edge)?;
        std::thread::sleep(Duration::from_millis(u64::from(random.u32() % AWAY_MS_MAX)));
        bridge.cluster.restart(edge)?;
        let what = || format!("kill {number}, of {edge}");
        bridge.cluster.wait_ready().context(what())?;
        bridge.cluster.wait_settled().context(what())?;
        all_alive(&pulses, Instant::now()).context(what())?;
        proof.sample(&bridge.cluster);
    }
    let mut silences: Vec<Duration> = pulses.iter().map(|pulse| pulse.longest_silence(begun)).collect();
    silences.sort();
    bed.note(format_args!(
        "{} tunnels, {kills} kills: the longest silence of a tunnel is {} ms in the median, {} ms at most",
        pulses.len(),
        silences[silences.len() / 2].as_millis(),
        silences[silences.len() - 1].as_millis()
    ));
    drop(pulses);
    proof.end(bed, &bridge, Allowed::default()).map(drop)
}

fn all_alive(pulses: &[Pulse], since: Instant) -> Result {
    for (number, pulse) in pulses.iter().enumerate() {
        pulse.wait_for(since, ALIVE, PATIENCE).context(format!("tunnel {number}"))?;
    }
    Ok(())
}

/// The owner dies and is back before anybody else has taken its place; or somebody has. Either way its segments have a
/// new epoch, or another owner, and nothing repeats.
fn same_node_again(bed: &Bed) -> Result {
    let mut bridge = Bridge::connected(bed, Shape::default())?;
    let proof = Proof::begin(&bridge, Extent::Heads)?;
    let pulse = Pulse::start(&bridge.cluster.client, bridge.inner()?, Duration::from_millis(5))?;
    for away_ms in [0, 100, 280] {
        let owner = bridge.owner()?;
        let before = epochs(&bridge.cluster, owner)?;
        bridge.cluster.kill(owner)?;
        std::thread::sleep(Duration::from_millis(away_ms));
        bridge.cluster.restart(owner)?;
        bridge.cluster.wait_ready()?;
        bridge.cluster.wait_settled()?;
        pulse.wait_for(Instant::now(), ALIVE, PATIENCE)?;
        let placement = bridge.cluster.placement()?;
        for (segment, epoch) in before {
            let now = placement[segment].epoch;
            ensure!(now > epoch, "segment {segment} is still in epoch {epoch} after {away_ms} ms");
        }
    }
    drop(pulse);
    proof.end(bed, &bridge, Allowed::default()).map(drop)
}

/// The segments of a node with their epochs.
fn epochs(cluster: &Cluster, owner: Edge) -> Result<Vec<(usize, u64)>> {
    let placement = cluster.placement()?;
    let own = placement.iter().enumerate().filter(|(_, place)| place.owner == Some(owner));
    Ok(own.map(|(segment, place)| (segment, place.epoch)).collect())
}
