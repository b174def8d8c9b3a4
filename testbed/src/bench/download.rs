//! The paper's third test: 500 MB over HTTP by an unmodified strongSwan, and five seconds into it the node that carries
//! it fails. How much longer does it take?
//!
//! Undisturbed downloads run in turn with disturbed ones, so that both see the same machine. A machine on which the file
//! takes less than ten seconds gets the fault in the middle.

use std::time::Duration;

use super::Extent;
use super::client::{ESP, IKE};
use super::setup::gateway;
use super::table::{Cell, Table, quantile, sorted};
use crate::charon::{Charon, Connection, Settings};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::cluster::{Cluster, Edge, Shape};
use crate::world::fault::Fault;
use crate::world::http::{self, Job};
use crate::world::{Bed, SERVER};

const ALICE: &str = "alice";
const PAPER_INTO: Duration = Duration::from_secs(5);
const STOPPED: Duration = Duration::from_secs(5);

/// Which node it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Owner,
    Leader,
}

const KINDS: [(&str, Victim, Fault); 6] = [
    ("outer cable of the owner pulled", Victim::Owner, Fault::OuterCable),
    ("all cables of the owner pulled", Victim::Owner, Fault::CutOff),
    ("owner killed", Victim::Owner, Fault::Killed),
    ("leader killed, owner or not", Victim::Leader, Fault::Killed),
    ("owner's process stopped for 5 s", Victim::Owner, Fault::Stopped(STOPPED)),
    ("owner drained", Victim::Owner, Fault::Drained),
];

pub fn run(bed: &Bed, extent: Extent) -> Result<Vec<Table>> {
    let (bytes, runs) = extent.choose((50_000_000, 1), (500_000_000, 20));
    let mut cluster = Cluster::start(bed, Shape::default(), &gateway().toml())?;
    let client = Charon::start(&cluster.client, &cluster.path("client"), &Settings::default())?;
    client.load(&Connection::client(ALICE).suites(IKE, ESP))?;
    client.initiate(ALICE)?;
    cluster.ping(SERVER.into(), 3)?;
    let mut table = Table::new(
        format!("{} MB over HTTP through strongSwan, three nodes, {runs} pairs each", bytes / 1_000_000),
        &[
            "what happens",
            "extra s p50",
            "extra s p95",
            "extra s max",
            "undisturbed s",
            "stood still ms p50",
            "runs",
        ],
    )
    .note("extra: against the undisturbed download of the same pair; the paper: 3 to 4 s (interface down)");
    for (name, victim, fault) in KINDS {
        let (mut extra_s, mut plain_s, mut still_ms) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..runs {
            let job = Job { server: SERVER.into(), from: None, bytes, seed: number, in_flight: None };
            let plain = http::download(&cluster.client, job)?;
            plain_s.push(plain.elapsed.as_secs_f64());
            let edge = match victim {
                Victim::Owner => cluster.owner_of(&client.only(ALICE)?)?,
                Victim::Leader => cluster.leader()?,
            };
            let into = PAPER_INTO.min(plain.elapsed / 2);
            let disturbed = disturbed(&mut cluster, job, into, fault, edge)
                .context(format!("{name}, run {number}, {edge}"))?;
            extra_s.push(disturbed.elapsed.as_secs_f64() - plain.elapsed.as_secs_f64());
            still_ms.push(disturbed.longest_silence.as_secs_f64() * 1e3);
        }
        let extra = sorted(&extra_s);
        // All kinds take most of an hour.
        let of = |q| quantile(&extra, q).unwrap_or(f64::NAN);
        bed.note(format_args!(
            "{name}: extra s p50 {:.2}, p95 {:.2}, max {:.2} in {runs} pairs",
            of(0.5),
            of(0.95),
            of(1.0)
        ));
        table.row(vec![
            name.into(),
            quantile(&extra, 0.5).into(),
            quantile(&extra, 0.95).into(),
            quantile(&extra, 1.0).into(),
            Cell::spread(&plain_s),
            quantile(&sorted(&still_ms), 0.5).into(),
            Cell::Text(extra.len().to_string()),
        ]);
    }
    Ok(vec![table])
}

fn disturbed(
    cluster: &mut Cluster,
    job: Job,
    into: Duration,
    fault: Fault,
    edge: Edge,
) -> Result<http::Transfer> {
    let download = http::download_in_background(&cluster.client, job)?;
    std::thread::sleep(into);
    ensure!(!download.is_finished(), "the download ended before the fault");
    fault.strike(cluster, edge)?;
    if let Fault::Stopped(time) = fault {
        std::thread::sleep(time);
        fault.mend(cluster, edge)?;
    }
    let transfer = http::finish(download)?;
    if !matches!(fault, Fault::Stopped(_)) {
        fault.mend(cluster, edge)?;
    }
    cluster.wait_ready()?;
    cluster.wait_balanced()?;
    Ok(transfer)
}
