//! As many nodes lost as a cluster can bear, and more than that.

use std::time::{Duration, Instant};

use super::Scenario;
use super::bridge::{Allowed, Bridge, Proof};
use super::common::ALICE;
use crate::ensure;
use crate::outcome::Result;
use crate::world::Bed;
use crate::world::capture::Extent;
use crate::world::cluster::Shape;
use crate::world::eventually;
use crate::world::pulse::Pulse;

pub(super) const LIST: &[Scenario] = &[
    Scenario {
        name: "c6-two-of-five",
        what: "five nodes, two killed at once: nothing lost",
        run: two_of_five,
    },
    Scenario {
        name: "c6-majority-lost",
        what: "two of three killed: silence, told so; they return: the same SAs go on",
        run: majority_lost,
    },
    Scenario { name: "c6-partition", what: "the owner cut off from the others falls silent", run: partition },
];

const EVERY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a node without a majority may take to fall silent: far beyond every lease.
const SILENT_WITHIN: Duration = Duration::from_secs(2);
const FLOWING: usize = 50;

fn two_of_five(bed: &Bed) -> Result {
    let mut bridge = Bridge::connected(bed, Shape { nodes: 5, ..Shape::default() })?;
    let mut proof = Proof::begin(&bridge, Extent::Heads)?;
    let pulse = Pulse::start(&bridge.cluster.client, bridge.inner()?, EVERY)?;
    pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    let (owner, leader) = (bridge.owner()?, bridge.cluster.leader()?);
    // The owner and the leader; where they are one node, any other besides.
    let other = if leader == owner {
        bridge.cluster.edges().find(|edge| *edge != owner).unwrap_or(leader)
    } else {
        leader
    };
    let struck = Instant::now();
    bridge.cluster.kill(owner)?;
    bridge.cluster.kill(other)?;
    pulse.wait_for(struck + Duration::from_millis(20), FLOWING, PATIENCE)?;
    bed.note(format_args!(
        "owner and another of five killed at once: {} ms without an answer",
        pulse.longest_silence(struck).as_millis()
    ));
    bridge.cluster.wait_settled()?;
    proof.sample(&bridge.cluster);
    for edge in [owner, other] {
        bridge.cluster.restart(edge)?;
    }
    bridge.cluster.wait_ready()?;
    bridge.cluster.wait_balanced()?;
    pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    drop(pulse);
    proof.end(bed, &bridge, Allowed::default()).map(drop)
}

fn majority_lost(bed: &Bed) -> Result {
    let mut bridge = Bridge::connected(bed, Shape::default())?;
    let proof = Proof::begin(&bridge, Extent::Whole)?;
    let pulse = Pulse::start(&bridge.cluster.client, bridge.inner()?, EVERY)?;
    pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    // The owner lives on alone.
    let owner = bridge.owner()?;
    let others: Vec<_> = bridge.cluster.edges().filter(|edge| *edge != owner).collect();
    for &edge in &others {
        bridge.cluster.kill(edge)?;
    }
    std::thread::sleep(SILENT_WITHIN);
    ensure!(
        pulse.wait_for(Instant::now(), 1, Duration::from_secs(1)).is_err(),
        "a node without a majority serves on"
    );
    let alone = bridge.cluster.node(owner);
    let told = alone.tell(&["status", "--check"])?;
    ensure!(told.code != Some(0), "`status --check` is content without a majority");
    let first = told.stdout.lines().next().unwrap_or_default().to_owned();
    ensure!(first.to_lowercase().contains("quorum"), "the first line of status is {first:?}");
    let mark = bridge.client.log_length();
    ensure!(bridge.client.rekey_child(ALICE).is_err(), "IKE is answered without a majority");
    let log = bridge.client.log_since(mark);
    ensure!(!log.contains("parsed CREATE_CHILD_SA response"), "a reply without a majority");

    let back = Instant::now();
    for &edge in &others {
        bridge.cluster.restart(edge)?;
    }
    bridge.cluster.wait_ready()?;
    bridge.cluster.wait_settled()?;
    pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    bed.note(format_args!("serving {} ms after the start of the others", back.elapsed().as_millis()));
    drop(pulse);
    // The client's own rekey goes through now, by its retransmissions: its child is another one.
    eventually(PATIENCE, || bridge.ping())?;
    proof.end(bed, &bridge, Allowed { new_sas: true, ..Allowed::default() }).map(drop)
}

fn partition(bed: &Bed) -> Result {
    let mut bridge = Bridge::connected(bed, Shape::default())?;
    let mut proof = Proof::begin(&bridge, Extent::Heads)?;
    let pulse = Pulse::start(&bridge.cluster.client, bridge.inner()?, EVERY)?;
    pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    let owner = bridge.owner()?;
    let struck = Instant::now();
    bridge.cluster.partition(&[owner])?;
    pulse.wait_for(struck + Duration::from_millis(20), FLOWING, PATIENCE)?;
    bridge.cluster.wait_settled()?;
    pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    bed.note(format_args!(
        "the owner cut off from the others: {} ms without an answer",
        pulse.longest_silence(struck).as_millis()
    ));
    let told = bridge.cluster.node(owner).tell(&["status", "--check"])?;
    ensure!(told.code != Some(0), "`status --check` is content on the island");
    proof.sample(&bridge.cluster);
    bridge.cluster.heal()?;
    bridge.cluster.wait_ready()?;
    bridge.cluster.wait_balanced()?;
    pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    drop(pulse);
    proof.end(bed, &bridge, Allowed::default()).map(drop)
}
