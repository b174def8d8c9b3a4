//! How long a tunnel takes to come up, how many come up in a second, and what each costs the gateway.
//!
//! Every set-up of ours is committed to the log on disk before the reply of IKE_AUTH leaves; strongSwan, measured in
//! turn with it, keeps its SAs in memory only. The clients share the machine with the gateway, so the rate is that of
//! both together; the gateway's processor time is its own.

use std::time::Instant;

use super::Extent;
use super::client::{Connected, Crowd, ESP, IKE};
use super::measure::{Figures, measure};
use super::table::{Cell, Table, quantile, sorted};
use crate::charon::{Charon, Connection, Settings};
use crate::outcome::{Context, Result, Stop};
use crate::scenarios::common::Gateway;
use crate::world::pontoon::Pontoon;
use crate::world::{Bed, World};

pub fn run(bed: &Bed, extent: Extent) -> Result<Vec<Table>> {
    let mut sites = vec![Site::pontoon(bed)?];
    match Site::strongswan(bed) {
        Ok(site) => sites.push(site),
        Err(stop) if stop.is_skip() => println!("   strongSwan is left out: {stop}"),
        Err(stop) => return Err(stop),
    }
    let mut tables = vec![own_clients(&sites, extent)?];
    if sites.len() > 1 {
        tables.push(charon_clients(&sites, extent)?);
    }
    Ok(tables)
}

/// A gateway in a world of its own.
pub struct Site {
    pub name: &'static str,
    pub pid: u32,
    // What runs before the world that it runs in.
    _gateway: Runs,
    pub world: World,
}

enum Runs {
    Pontoon { _node: Pontoon },
    Strongswan { _charon: Charon },
}

impl Site {
    pub fn pontoon(bed: &Bed) -> Result<Site> {
        let world = World::new(bed)?;
        let node = Pontoon::start(&world, &gateway().toml())?;
        let pid = node.pid().context("the node does not run")?;
        Ok(Site { name: "pontoon", pid, _gateway: Runs::Pontoon { _node: node }, world })
    }

    pub fn strongswan(bed: &Bed) -> Result<Site> {
        Charon::require()?;
        let world = World::new(bed)?;
        world.give_service_addresses_to_kernel()?;
        // It would turn most of a crowd behind one address away; ours asks them for cookies and serves them.
        let settings = Settings { dos_protection: false, ..Settings::default() };
        let charon = Charon::start(&world.gateway, &world.path("gateway"), &settings)?;
        charon.load(&Connection::gateway().suites(IKE, ESP))?;
        let pid = charon.pid();
        Ok(Site { name: "strongSwan", pid, _gateway: Runs::Strongswan { _charon: charon }, world })
    }
}

/// The gateway configuration of all benchmarks.
pub fn gateway() -> Gateway {
    Gateway { ike: vec![IKE.to_owned()], esp: vec![ESP.to_owned()], ..Gateway::default() }
}

/// The rounds of one gateway and one number of clients at once.
#[derive(Default)]
struct Rounds {
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    per_second: Vec<f64>,
    cpu_ms: Vec<f64>,
    repeated: u64,
}

impl Rounds {
    fn add(&mut self, connected: &Connected, figures: &Figures) {
        let took_ms = sorted(&connected.took_ms);
        self.p50_ms.extend(quantile(&took_ms, 0.5));
        self.p99_ms.extend(quantile(&took_ms, 0.99));
        let count = took_ms.len() as f64;
        self.per_second.push(count / connected.elapsed.as_secs_f64());
        // To the nanosecond; the process's own account counts in hundredths of a second.
        self.cpu_ms.push(figures.threads_cpu_s * 1e3 / count);
        self.repeated += connected.repeated;
    }
}

/// By our own initiator, with so many clients at once.
fn own_clients(sites: &[Site], extent: Extent) -> Result<Table> {
    let loads = extent.choose([(1, 50), (16, 100), (128, 200)], [(1, 200), (16, 500), (128, 1_000)]);
    let rounds = extent.choose(1, 3);
    let mut found: Vec<Rounds> = Vec::new();
    found.resize_with(loads.len() * sites.len(), Rounds::default);
    for _ in 0..rounds {
        for (row, &(at_once, count)) in loads.iter().enumerate() {
            for (place, site) in sites.iter().enumerate() {
                let (connected, figures) = connect(site, count, at_once)?;
                found[row * sites.len() + place].add(&connected, &figures);
            }
        }
    }
    let mut table = Table::new(
        format!("our own clients, {IKE} / {ESP}, {rounds} rounds in turn; all deleted after each round"),
        &["gateway", "at once", "tunnels", "p50 ms", "p99 ms", "set-ups/s", "gateway CPU ms each", "requests repeated"],
    )
    .note("strongSwan without cookies and limits for clients of one address, pontoon with its cookies")
    .note("p50, p99: from IKE_SA_INIT to the reply of IKE_AUTH; pontoon's is on disk by then, strongSwan's in memory");
    for (at, rounds) in found.iter().enumerate() {
        let ((at_once, count), site) = (loads[at / sites.len()], &sites[at % sites.len()]);
        table.row(vec![
            site.name.into(),
            Cell::Text(at_once.to_string()),
            Cell::Text(count.to_string()),
            Cell::spread(&rounds.p50_ms),
            Cell::spread(&rounds.p99_ms),
            Cell::spread(&rounds.per_second),
            Cell::spread(&rounds.cpu_ms),
            Cell::Text(rounds.repeated.to_string()),
        ]);
    }
    Ok(table)
}

fn connect(site: &Site, count: usize, at_once: usize) -> Result<(Connected, Figures)> {
    let pid = site.pid;
    let run = move || -> Result<(Connected, Figures)> {
        let mut crowd = Crowd::open()?;
        let mut connected = None;
        let figures = measure(pid, || {
            connected = Some(crowd.connect(count, at_once)?);
            Ok(0)
        })?;
        crowd.disconnect()?;
        Ok((connected.context("nothing was measured")?, figures))
    };
    site.world.client.within(run)?.map_err(|stop| Stop::Failed(format!("{}: {stop}", site.name)))
}

/// By strongSwan as the client, one after the other.
fn charon_clients(sites: &[Site], extent: Extent) -> Result<Table> {
    let count = extent.choose(5, 30);
    let mut clients = Vec::new();
    for site in sites {
        clients.push(Charon::start(&site.world.client, &site.world.path("client"), &Settings::default())?);
    }
    let mut took_ms: Vec<Vec<f64>> = vec![Vec::new(); sites.len()];
    for number in 0..count {
        for (client, took_ms) in clients.iter().zip(&mut took_ms) {
            let name = format!("charon{number}");
            let connection = Connection { vips: vec!["0.0.0.0"], ..Connection::client(&name) };
            client.load(&connection.suites(IKE, ESP))?;
            let begun = Instant::now();
            client.initiate(&name)?;
            took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
            client.terminate(&name)?;
        }
    }
    let mut table = Table::new(
        format!("strongSwan as the client, {count} set-ups one after the other, the two gateways in turn"),
        &["gateway", "p50 ms", "p99 ms", "median (min-max) ms"],
    )
    .note("the client's whole `initiate`: its own work, routes and logging included");
    for (site, took_ms) in sites.iter().zip(&took_ms) {
        let sorted = sorted(took_ms);
        let (p50, p99) = (quantile(&sorted, 0.5), quantile(&sorted, 0.99));
        table.row(vec![site.name.into(), p50.into(), p99.into(), Cell::spread(took_ms)]);
    }
    Ok(table)
}
