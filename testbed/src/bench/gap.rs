//! How long traffic stands still when the only node is killed and started again at once.
//!
//! A datagram goes through the tunnel to an echo on the server every millisecond; the gap is the longest time between
//! two answers around the kill. It holds the end of the process, its start by a supervisor that does not wait, reading
//! the log, and the commit of the new incarnation: nothing of the SA is made anew.

use std::time::{Duration, Instant};

use super::Extent;
use super::client::Tunnel;
use super::setup::gateway;
use super::table::{Cell, Table, quantile, sorted};
use crate::outcome::{Context, Result};
use crate::world::pontoon::Pontoon;
use crate::world::pulse::Pulse;
use crate::world::{Bed, World};

const EVERY: Duration = Duration::from_millis(1);
/// Answers in a row after which the traffic counts as flowing again.
const FLOWING: usize = 200;
const PATIENCE: Duration = Duration::from_secs(20);

pub fn run(bed: &Bed, extent: Extent) -> Result<Vec<Table>> {
    let kills = extent.choose(3, 20);
    let world = World::new(bed)?;
    let mut node = Pontoon::start(&world, &gateway().toml())?;
    let tunnel = Tunnel::up(&world)?;
    let pulse = Pulse::start(&world.client, tunnel.inner, EVERY)?;
    let (mut gaps_ms, mut calm_ms) = (Vec::new(), Vec::new());
    for _ in 0..kills {
        let calm = Instant::now();
        pulse.wait_for(calm, FLOWING, PATIENCE)?;
        calm_ms.push(pulse.longest_silence(calm).as_secs_f64() * 1e3);
        let killed = Instant::now();
        node.kill()?;
        node.restart()?;
        pulse.wait_for(killed + Duration::from_millis(5), FLOWING, PATIENCE).context("after a kill")?;
        gaps_ms.push(pulse.longest_silence(killed - Duration::from_millis(5)).as_secs_f64() * 1e3);
        node.wait_ready_again()?;
    }
    let mut table = Table::new(
        format!("kill -9 and restart at once, {kills} times, one datagram a millisecond"),
        &["silence at the client", "p50 ms", "p95 ms", "max ms", "min ms"],
    )
    .note("in a calm time: the longest silence in 200 answers before each kill, which is the machine's own");
    for (name, values) in [("around a kill", &gaps_ms), ("in a calm time", &calm_ms)] {
        let sorted = sorted(values);
        let at = |q| Cell::from(quantile(&sorted, q));
        table.row(vec![name.into(), at(0.5), at(0.95), at(1.0), at(0.0)]);
    }
    Ok(vec![table])
}
