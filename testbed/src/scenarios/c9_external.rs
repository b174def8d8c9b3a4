//! Steering `external`: a router knows the nodes and gives every packet to one of them at random, outside and inside. Any
//! node takes any packet of any client.

use std::time::{Duration, Instant};

use super::Scenario;
use super::bridge::{Allowed, Bridge, Proof};
use super::common::{ALICE, Gateway, MIB, server};
use crate::charon::Settings;
use crate::ensure;
use crate::outcome::Result;
use crate::world::capture::Extent;
use crate::world::cluster::{Edge, Shape};
use crate::world::http::{self, Job};
use crate::world::pulse::Pulse;
use crate::world::{Bed, POOL, SERVICE, spray};

pub(super) const LIST: &[Scenario] = &[Scenario {
    name: "c9-sprayed",
    what: "every packet at a random node: connect, rekey, kill, drain",
    run: sprayed,
}];

const BYTES: u64 = 16 * MIB;
const EVERY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(20);
const FLOWING: usize = 50;
/// How long the router takes to see that a next hop is dead.
const ROUTER_SEES: Duration = Duration::from_millis(300);

fn sprayed(bed: &Bed) -> Result {
    let shape = Shape { steering: "external", ..Shape::unhurried() };
    let mut bridge = Bridge::loaded(bed, shape, &Gateway::default(), &Settings::default())?;
    let all: Vec<Edge> = bridge.cluster.edges().collect();
    spread(&bridge, &all)?;
    // Every exchange, wherever its messages come in.
    bridge.client.initiate(ALICE)?;
    bridge.client.rekey_child(ALICE)?;
    bridge.client.rekey_ike(ALICE)?;
    bridge.ping()?;

    let mut proof = Proof::begin(&bridge, Extent::Heads)?;
    let pulse = Pulse::start(&bridge.cluster.client, bridge.inner()?, EVERY)?;
    pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    let owner = bridge.owner()?;
    let job = Job { server: server(false), from: None, bytes: BYTES, seed: 9, in_flight: None };
    let download = http::download_in_background(&bridge.cluster.client, job)?;
    bridge.cluster.kill(owner)?;
    std::thread::sleep(ROUTER_SEES);
    let others: Vec<Edge> = all.iter().copied().filter(|edge| *edge != owner).collect();
    spread(&bridge, &others)?;
    let transfer = http::finish(download)?;
    bridge.cluster.wait_settled()?;
    proof.sample(&bridge.cluster);
    bridge.cluster.restart(owner)?;
    bridge.cluster.wait_ready()?;
    bridge.cluster.wait_balanced()?;
    spread(&bridge, &all)?;
    pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    drop(pulse);

    // The router goes on giving packets to a drained node, which passes them on.
    let counted = Pulse::start(&bridge.cluster.client, bridge.inner()?, EVERY)?;
    counted.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    let (owner, before) = (bridge.owner()?, bridge.cluster.overflowed()?);
    bridge.cluster.drain(owner)?;
    ensure!(bridge.owner()? != owner, "{owner} is drained and owns the tunnel");
    counted.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    bridge.cluster.undrain(owner)?;
    bridge.cluster.wait_balanced()?;
    counted.wait_for(Instant::now(), FLOWING, PATIENCE)?;
    let of_drain = counted.count();
    let overflowed = bridge.cluster.overflowed()? - before;
    drop(counted);
    let mut relayed = 0.0;
    for &edge in &all {
        relayed += bridge.cluster.node(edge).metric("pontoon_esp_relayed_packets_total", "")?;
    }
    bed.note(format_args!(
        "{:.0} Mbit/s while the owner dies; {relayed} packets relayed; {} of {} datagrams lost by a drain",
        transfer.megabits_per_second(),
        of_drain.lost,
        of_drain.sent
    ));
    ensure!(relayed > 0.0, "no node got what was another's");
    bridge.cluster.nothing_lost(of_drain, overflowed)?;
    proof.end(bed, &bridge, Allowed::default()).map(drop)
}

/// Tells the routers on both sides which nodes there are.
fn spread(bridge: &Bridge, edges: &[Edge]) -> Result {
    let outer: Vec<_> = edges.iter().map(|edge| edge.outside()).collect();
    spray::over(&bridge.cluster.client, &format!("{SERVICE}/32"), &outer)?;
    let inner: Vec<_> = edges.iter().map(|edge| edge.inside()).collect();
    spray::over(&bridge.cluster.server, POOL, &inner)
}
