//! ESP through a gateway: how much passes, and what a gigabyte costs.
//!
//! ```text
//!   strongSwan ── pontoon ──── server
//!   strongSwan ── strongSwan ─ server      each in namespaces of its own, measured in turn
//!   our client ── pontoon ──── server
//! ```
//!
//! One TCP stream. Virtual cables pass super-packets whole, which no wire does, so there are two modes: offloads on, and
//! every packet at its size on the wire.

use std::fmt;

use super::Extent;
use super::client::{ESP, IKE, Tunnel};
use super::iperf::Iperf;
use super::measure::{Figures, measure};
use super::setup::Site;
use super::table::{Cell, Table};
use crate::charon::{Charon, Connection, Settings};
use crate::outcome::{Context, Result};
use crate::world::{Bed, SERVER};

pub fn run(bed: &Bed, extent: Extent) -> Result<Vec<Table>> {
    crate::world::exec::require("iperf3")?;
    let contenders = contenders(bed)?;
    let mut tables = Vec::new();
    for mode in [Mode::Offloads, Mode::Wire] {
        if mode == Mode::Wire {
            contenders.iter().try_for_each(|contender| contender.site.world.turn_offloads_off())?;
        }
        tables.push(compare(bed, &contenders, mode, extent)?);
    }
    Ok(tables)
}

struct Contender {
    client: Client,
    site: Site,
}

enum Client {
    Strongswan { _charon: Charon },
    Ours { _tunnel: Tunnel },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Offloads,
    Wire,
}

fn contenders(bed: &Bed) -> Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    match Charon::require() {
        Ok(()) => {
            for site in [Site::pontoon(bed)?, Site::strongswan(bed)?] {
                let charon =
                    Charon::start(&site.world.client, &site.world.path("client"), &Settings::default())?;
                charon.load(&Connection::client("alice").suites(IKE, ESP))?;
                charon.initiate("alice")?;
                site.world.ping(SERVER.into(), 3).context(site.name)?;
                contenders.push(Contender { client: Client::Strongswan { _charon: charon }, site });
            }
        }
        Err(stop) => println!("   strongSwan is left out: {stop}"),
    }
    let site = Site::pontoon(bed)?;
    let tunnel = Tunnel::up(&site.world)?;
    contenders.push(Contender { client: Client::Ours { _tunnel: tunnel }, site });
    Ok(contenders)
}

fn compare(bed: &Bed, contenders: &[Contender], mode: Mode, extent: Extent) -> Result<Table> {
    let (rounds, seconds) = extent.choose((1, 2), (3, 4));
    let mut table = Table::new(
        format!("{mode}, {ESP}, one TCP stream, {rounds} rounds of {seconds} s in turn"),
        &[
            "client -> gateway",
            "direction",
            "Gbit/s",
            "gateway CPU-s/GB",
            "machine CPU-s/GB",
            "lost",
            "/ strongSwan",
        ],
    )
    .note("/ strongSwan: gateway CPU-s/GB divided by that of strongSwan's gateway in the same round")
    .note("machine: all that both processors did, other programs too; lost: TCP segments sent again");
    for download in [false, true] {
        let mut runs: Vec<Vec<Run>> = Vec::new();
        runs.resize_with(contenders.len(), Vec::new);
        for _ in 0..rounds {
            for (contender, runs) in contenders.iter().zip(&mut runs) {
                runs.push(one(bed, contender, Iperf { seconds, download, ..Iperf::default() })?);
            }
        }
        let base = contenders.iter().position(|contender| contender.site.name == "strongSwan");
        for (contender, own) in contenders.iter().zip(&runs) {
            let column = |value: fn(&Run) -> f64| Cell::spread(&own.iter().map(value).collect::<Vec<_>>());
            let ratios: Vec<f64> = base.map_or_else(Vec::new, |base| {
                let pairs = own.iter().zip(&runs[base]);
                pairs.map(|(a, b)| a.figures.cpu_s_per_gb() / b.figures.cpu_s_per_gb()).collect()
            });
            table.row(vec![
                Cell::Text(contender.to_string()),
                if download { "server to client" } else { "client to server" }.into(),
                column(|run| run.gbit_per_s),
                column(|run| run.figures.cpu_s_per_gb()),
                column(|run| run.figures.machine_cpu_s_per_gb()),
                column(|run| run.retransmits as f64),
                Cell::spread(&ratios),
            ]);
        }
    }
    Ok(table)
}

struct Run {
    gbit_per_s: f64,
    retransmits: u64,
    figures: Figures,
}

fn one(bed: &Bed, contender: &Contender, iperf: Iperf) -> Result<Run> {
    let Site { world, pid, .. } = &contender.site;
    let mut traffic = None;
    let figures = measure(*pid, || {
        let seen = iperf.run(&world.client, &world.server, SERVER.into(), &bed.path(""))?;
        traffic = Some(seen);
        Ok(seen.bytes)
    })
    .context(contender)?;
    let traffic = traffic.context("nothing was measured")?;
    Ok(Run { gbit_per_s: traffic.gbit_per_s(), retransmits: traffic.retransmits, figures })
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = match self.client {
            Client::Strongswan { .. } => "strongSwan",
            Client::Ours { .. } => "our client",
        };
        write!(f, "{client} -> {}", self.site.name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Offloads => "offloads of the cables on",
            Mode::Wire => "every packet at its size on the wire",
        })
    }
}
