//! The node's resident memory by the number of tunnels.

use super::Extent;
use super::client::Crowd;
use super::setup::gateway;
use super::table::{Cell, Table};
use crate::outcome::{Context, Result};
use crate::world::exec::resident_kib;
use crate::world::pontoon::Pontoon;
use crate::world::{Bed, World};

/// Clients that connect at a time.
const AT_ONCE: usize = 32;

pub fn run(bed: &Bed, extent: Extent) -> Result<Vec<Table>> {
    let tunnels: &'static [usize] = extent.choose(&[1, 200], &[1, 200, 2_000]);
    let world = World::new(bed)?;
    let node = Pontoon::start(&world, &gateway().toml())?;
    let pid = node.pid().context("the node does not run")?;
    let none = resident_kib(pid)?;
    let measured = world.client.within(move || -> Result<Vec<u64>> {
        let mut crowd = Crowd::open()?;
        let (mut up, mut resident) = (0, Vec::new());
        for &count in tunnels {
            crowd.connect(count - up, AT_ONCE)?;
            up = count;
            resident.push(resident_kib(pid)?);
        }
        Ok(resident)
    })??;
    let mut table = Table::new("resident memory of the node", &["tunnels", "MiB", "KiB for each more"])
        .note("for each more: from the row above; the log keeps its last entries in memory too, so it falls with time");
    table.row(vec!["0".into(), Cell::Number(none as f64 / 1_024.0), Cell::Nothing]);
    let mut before = (0, none);
    for (&count, &kib) in tunnels.iter().zip(&measured) {
        let each = (kib as f64 - before.1 as f64) / (count - before.0) as f64;
        table.row(vec![
            Cell::Text(count.to_string()),
            Cell::Number(kib as f64 / 1_024.0),
            Cell::Number(each),
        ]);
        before = (count, kib);
    }
    Ok(vec![table])
}
