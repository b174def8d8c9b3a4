//! A cluster grows, shrinks and is restarted node by node under load: no datagram is lost, no client makes a handshake.

use std::time::{Duration, Instant};

use super::Scenario;
use super::bridge::{Allowed, Bridge, Proof};
use super::common::Gateway;
use super::s4_many::Tunnels;
use crate::charon::Settings;
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::capture::Extent;
use crate::world::cluster::{Cluster, Edge, Shape};
use crate::world::pulse::{Counted, Pulse};
use crate::world::{Bed, eventually};

pub(super) const LIST: &[Scenario] = &[
    Scenario {
        name: "g2-grow-and-shrink",
        what: "3, 5, 7, 3 nodes by join and leave under load: 0 lost, 0 twice",
        run: grow_and_shrink,
    },
    Scenario {
        name: "g2-rolling-restart",
        what: "every node stopped and started under load: 0 lost, 0 twice",
        run: rolling_restart,
    },
    Scenario {
        name: "g2-leave-again",
        what: "leave: refused where the quorum would go, cut off and given again, after a removal",
        run: leave_again,
    },
];

/// One datagram this often in each tunnel.
const EVERY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);
const FLOWING: usize = 10;
/// The exit code of what is refused because it is dangerous (CONTRACT).
const DANGEROUS: Option<i32> = Some(6);

fn grow_and_shrink(bed: &Bed) -> Result {
    let tunnels = bed.choose(16, 100);
    let (mut bridge, tunnels) = loaded(bed, 3, 7, tunnels)?;
    counted(bed, &mut bridge, &tunnels, |cluster, pulses| {
        let all: Vec<Edge> = cluster.edges().collect();
        for wanted in [5, 7] {
            for &edge in &all[..wanted] {
                if !cluster.present().contains(&edge) {
                    cluster.join(edge)?;
                    all_flow(pulses)?;
                }
            }
            cluster.wait_balanced()?;
        }
        // The leader leaves too, whenever it is its turn.
        while cluster.present().len() > 3 {
            let edge = match cluster.present().len() % 2 {
                1 => cluster.leader()?,
                _ => *cluster.present().last().context("nobody is there")?,
            };
            cluster.leave(edge)?;
            cluster.wait_settled()?;
            all_flow(pulses)?;
        }
        Ok(())
    })
}

fn rolling_restart(bed: &Bed) -> Result {
    let (mut bridge, tunnels) = loaded(bed, 3, 3, bed.choose(16, 100))?;
    counted(bed, &mut bridge, &tunnels, |cluster, pulses| {
        for edge in cluster.edges() {
            cluster.stop(edge)?;
            cluster.wait_settled()?;
            all_flow(pulses)?;
            cluster.restart(edge)?;
            cluster.wait_ready()?;
            cluster.wait_balanced()?;
            all_flow(pulses)?;
        }
        Ok(())
    })
}

/// A cluster of the first `members` of `nodes` machines, with so many tunnels.
fn loaded(bed: &Bed, members: usize, nodes: usize, tunnels: usize) -> Result<(Bridge, Tunnels)> {
    let shape = Shape { nodes, members: Some(members), ..Shape::unhurried() };
    let bridge = Bridge::loaded(bed, shape, &Gateway::default(), &Settings::default())?;
    let tunnels = Tunnels::connect(&bridge.client, tunnels)?;
    Ok((bridge, tunnels))
}

/// Does it while a counted stream flows in every tunnel.
fn counted(
    bed: &Bed,
    bridge: &mut Bridge,
    tunnels: &Tunnels,
    steps: impl FnOnce(&mut Cluster, &[Pulse]) -> Result,
) -> Result {
    let proof = Proof::begin(bridge, Extent::Heads)?;
    let pulses: Vec<Pulse> = tunnels
        .addresses()
        .iter()
        .map(|&from| Pulse::start(&bridge.cluster.client, from, EVERY))
        .collect::<Result<_>>()?;
    all_flow(&pulses)?;
    let (begun, before) = (Instant::now(), bridge.cluster.overflowed()?);
    steps(&mut bridge.cluster, &pulses)?;
    let silence = pulses.iter().map(|pulse| pulse.longest_silence(begun)).max().unwrap_or_default();
    let counted = Counted::all(&pulses);
    let overflowed = bridge.cluster.overflowed()?.saturating_sub(before);
    let Counted { sent, lost, doubled } = counted;
    bed.note(format_args!(
        "{} tunnels: {lost} of {sent} datagrams lost, {doubled} answered twice; {} ms without an answer at most",
        pulses.len(),
        silence.as_millis()
    ));
    drop(pulses);
    proof.end(bed, bridge, Allowed::default())?;
    bridge.cluster.nothing_lost(counted, overflowed)
}

fn all_flow(pulses: &[Pulse]) -> Result {
    let since = Instant::now();
    for (number, pulse) in pulses.iter().enumerate() {
        pulse.wait_for(since, FLOWING, PATIENCE).context(format!("tunnel {number}"))?;
    }
    Ok(())
}

fn leave_again(bed: &Bed) -> Result {
    let mut bridge = Bridge::connected(bed, Shape::default())?;
    let proof = Proof::begin(&bridge, Extent::Heads)?;
    let cluster = &mut bridge.cluster;
    let [first, second, third] = cluster.edges().collect::<Vec<_>>()[..] else {
        return Err("three nodes".into());
    };
    let id_of = |cluster: &Cluster, edge: Edge| -> Result<u64> {
        cluster.digest(edge)?;
        let status = cluster.node(edge).json(&["status"])?;
        let nodes = status["nodes"].as_array().context("no list of nodes")?;
        let own =
            nodes.iter().find(|node| node["name"] == *edge.to_string()).context("not in its own list")?;
        own["id"].as_u64().context("id")
    };

    // One of two that are left cannot go.
    cluster.kill(third)?;
    cluster.wait_settled()?;
    let told = cluster.node(second).tell(&["leave"])?;
    ensure!(told.code == DANGEROUS, "leave ended with {:?}: {}{}", told.code, told.stdout, told.stderr);
    ensure!(told.stderr.contains("members remove edge-3"), "it does not say the way out: {}", told.stderr);
    cluster.restart(third)?;
    cluster.wait_ready()?;

    // Killed in the middle, at moments of it; given again, it goes on. At the last it is out, and told so.
    let id = id_of(cluster, third)?;
    for ms in [20, 60, 120, 250] {
        let mut command = cluster.node(third).begin(&["leave"])?;
        std::thread::sleep(Duration::from_millis(ms));
        cluster.kill(third)?;
        command.kill()?;
        cluster.wait_settled()?;
        cluster.restart(third)?;
        told_in_status(cluster, third, "edge-3")?;
    }
    cluster.leave(third)?;
    let routes = cluster.machine(third).ip("route show")?;
    ensure!(!routes.contains("10.99."), "a node that has left keeps routes: {routes}");
    cluster.wait_settled()?;
    let again = cluster.node(third).must(&["leave"])?;
    ensure!(again.contains("nothing was done"), "a second leave says {again}");
    cluster.join(third)?;
    cluster.wait_balanced()?;
    let new = id_of(cluster, third)?;
    ensure!(new > id, "{third} was node {id} and is node {new}: an id is never used again");

    // Removed while it was away: the members tell it so, and it clears its directory.
    cluster.kill(third)?;
    eventually(PATIENCE, || cluster.node(first).must(&["members", "remove", &third.to_string()]).map(drop))?;
    cluster.restart(third)?;
    // Its daemon says so, and what is to be done.
    told_in_status(cluster, third, "pontoon leave")?;
    cluster.leave(third)?;
    cluster.join(third)?;
    cluster.wait_balanced()?;
    bridge.ping()?;
    proof.end(bed, &bridge, Allowed::default()).map(drop)
}

fn told_in_status(cluster: &Cluster, edge: Edge, what: &str) -> Result {
    eventually(PATIENCE, || {
        let told = cluster.node(edge).tell(&["status"])?;
        ensure!(
            told.stdout.contains(what),
            "its status does not tell {what:?}: {}{}",
            told.stdout,
            told.stderr
        );
        Ok(())
    })
}
