//! Planned moves under load lose nothing and deliver nothing twice: every datagram is counted.

use std::time::{Duration, Instant};

use super::Scenario;
use super::bridge::{Allowed, Bridge, Proof};
use crate::checkers::i7_once;
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::capture::Extent;
use crate::world::cluster::Shape;
use crate::world::pulse::{Counted, Pulse};
use crate::world::{Bed, echo};

pub(super) const LIST: &[Scenario] = &[
    Scenario { name: "c7-drain", what: "drains around the cluster under load: 0 lost, 0 twice", run: drain },
    Scenario {
        name: "c7-move",
        what: "one segment moved to and fro under load: 0 lost, 0 twice",
        run: move_segment,
    },
    Scenario {
        name: "c7-drain-shared-mac",
        what: "drains with steering by a shared MAC: 0 lost, 0 twice",
        run: drain_shared_mac,
    },
];

/// Each of so many streams sends this often.
const STREAMS: usize = 4;
const EVERY: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(20);
const FLOWING: usize = 50;

fn drain(bed: &Bed) -> Result {
    drains(bed, Shape::unhurried())
}

fn drain_shared_mac(bed: &Bed) -> Result {
    drains(bed, Shape { steering: "shared-mac", ..Shape::unhurried() })
}

fn drains(bed: &Bed, shape: Shape) -> Result {
    let rounds = bed.choose(3, 30);
    counted(bed, shape, |bridge, pulse| {
        for _ in 0..rounds {
            let owner = bridge.owner()?;
            bridge.cluster.drain(owner)?;
            ensure!(bridge.owner()? != owner, "{owner} is drained and owns the tunnel");
            pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
            bridge.cluster.undrain(owner)?;
            bridge.cluster.wait_balanced()?;
        }
        Ok(())
    })
}

fn move_segment(bed: &Bed) -> Result {
    let rounds = bed.choose(6, 60);
    counted(bed, Shape::unhurried(), |bridge, pulse| {
        for _ in 0..rounds {
            let tunnel = bridge.client.only(super::common::ALICE)?;
            let segment = bridge.cluster.sa(&tunnel)?["segment"].as_u64().context("segment")?;
            let owner = bridge.owner()?;
            let to = bridge.cluster.edges().find(|edge| *edge != owner).context("another node")?;
            bridge.cluster.move_segment(segment, to)?;
            ensure!(bridge.owner()? == to, "the segment did not go to {to}");
            pulse.wait_for(Instant::now(), FLOWING, PATIENCE)?;
        }
        Ok(())
    })
}

/// Does it under several counted streams, which together fill a good part of what a debug build carries but none of its
/// queues: what is lost is lost by a move. `c1-drained` does it beside a download.
fn counted(bed: &Bed, shape: Shape, moves: impl FnOnce(&mut Bridge, &Pulse) -> Result) -> Result {
    let mut bridge = Bridge::connected(bed, shape)?;
    let proof = Proof::begin(&bridge, Extent::Heads)?;
    let inner = bridge.inner()?;
    let pulses: Vec<Pulse> =
        (0..STREAMS).map(|_| Pulse::start(&bridge.cluster.client, inner, EVERY)).collect::<Result<_>>()?;
    pulses[0].wait_for(Instant::now(), FLOWING, PATIENCE)?;
    let begun = Instant::now();
    let before = bridge.cluster.overflowed()?;
    moves(&mut bridge, &pulses[0])?;
    let silence = pulses.iter().map(|pulse| pulse.longest_silence(begun)).max().unwrap_or_default();
    let counted = Counted::all(&pulses);
    drop(pulses);
    let overflowed = bridge.cluster.overflowed()? - before;
    let seen = proof.end(bed, &bridge, Allowed::default())?;
    let mut once = i7_once::Checker::default();
    seen.for_each_inside(&bridge, |frame| once.see(frame, echo::PORT))?;
    let Counted { sent, lost, doubled } = counted;
    bed.note(format_args!(
        "{lost} of {sent} datagrams lost ({overflowed} by a full queue of a kernel), {doubled} answered twice; {} ms without \
         an answer at most",
        silence.as_millis()
    ));
    once.finish(0).must_hold("I7")?;
    bridge.cluster.nothing_lost(counted, overflowed)
}
