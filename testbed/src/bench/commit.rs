//! How long a commit takes that survives the loss of power, by the number of proposers, and how many fit in a second.
//!
//! Directly on the log of a cluster of one. Each command is as long as the record of a new IKE SA with its reply, and
//! is refused when it is applied, so that the state does not grow: what is measured is the way through the log.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsec::types::Millis;
use raft::links::NoLinks;
use raft::state::{Command, Configure, NewMember, SPEAKS};
use raft::{Cluster, Opened, Options, ProposeError, timing};

use super::Extent;
use super::table::{Cell, Table, quantile, sorted};
use crate::outcome::{Context, Result, Stop};
use crate::world::Bed;

const PROPOSERS: [usize; 3] = [1, 16, 128];
const OCTETS: usize = 1_500;

pub fn run(bed: &Bed, extent: Extent) -> Result<Vec<Table>> {
    let (rounds, time) = extent.choose((1, Duration::from_secs(1)), (5, Duration::from_secs(4)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("runtime")?;
    let mut runs: Vec<Vec<Measured>> = PROPOSERS.map(|_| Vec::new()).into();
    for round in 0..rounds {
        for (proposers, runs) in PROPOSERS.into_iter().zip(&mut runs) {
            let dir = bed.path(&format!("log-{round}-{proposers}"));
            runs.push(runtime.block_on(measure(&dir, proposers, time))?);
        }
    }
    let mut table = Table::new(
        format!("{OCTETS} octets a command, {rounds} rounds of {} s", time.as_secs()),
        &[
            "proposers",
            "commits/s",
            "commit p50 ms",
            "commit p99 ms",
            "fsync/s",
            "fsync p50 ms",
            "fsync p99 ms",
        ],
    )
    .note("fsync quantiles are upper bounds of buckets, right to 19 %");
    for (proposers, runs) in PROPOSERS.into_iter().zip(&runs) {
        let column = |value: fn(&Measured) -> f64| Cell::spread(&runs.iter().map(value).collect::<Vec<_>>());
        table.row(vec![
            proposers.to_string().as_str().into(),
            column(|run| run.commits_per_s),
            column(|run| run.commit_ms[0]),
            column(|run| run.commit_ms[1]),
            column(|run| run.flushes_per_s),
            column(|run| run.flush_ms[0]),
            column(|run| run.flush_ms[1]),
        ]);
    }
    Ok(vec![table])
}

/// Of one run; times as p50 and p99.
struct Measured {
    commits_per_s: f64,
    commit_ms: [f64; 2],
    flushes_per_s: f64,
    flush_ms: [f64; 2],
}

async fn measure(dir: &Path, proposers: usize, time: Duration) -> Result<Measured> {
    let cluster = found(dir).await?;
    let timings = cluster.timings();
    let (flushes_before, begun) = (timings.fsync.count(), Instant::now());
    let tasks: Vec<_> = (0..proposers).map(|_| tokio::spawn(propose(cluster.clone(), begun, time))).collect();
    let mut took_ms = Vec::new();
    for task in tasks {
        took_ms.extend(task.await.context("a proposer")??);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let flushes = timings.fsync.count() - flushes_before;
    let took_ms = sorted(&took_ms);
    let commit = |q| quantile(&took_ms, q).unwrap_or(f64::NAN);
    let flush = |q| timings.fsync.quantile(q).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    let measured = Measured {
        commits_per_s: took_ms.len() as f64 / elapsed,
        commit_ms: [commit(0.5), commit(0.99)],
        flushes_per_s: flushes as f64 / elapsed,
        flush_ms: [flush(0.5), flush(0.99)],
    };
    cluster.shutdown().await;
    Ok(measured)
}

async fn found(dir: &Path) -> Result<Cluster> {
    let options = Options {
        data_dir: dir.to_owned(),
        storage_key_file: None,
        timing: timing::LAN,
        links: Arc::new(NoLinks),
    };
    std::fs::create_dir_all(dir).context(dir.display())?;
    let Opened::Vacant(vacant) = Cluster::open(options).await.context("open the log")? else {
        return Err(Stop::from("a fresh folder has a member"));
    };
    let me = NewMember {
        name: "bench".into(),
        address: "127.0.0.1:7400".into(),
        software: env!("CARGO_PKG_VERSION").into(),
        speaks: SPEAKS,
    };
    vacant.init("bench", me, Millis(1)).await.context("found the cluster")
}

/// One proposer: proposes as soon as the proposal before is decided. Gives the milliseconds that each took.
async fn propose(cluster: Cluster, begun: Instant, time: Duration) -> Result<Vec<f64>> {
    let command = Command::Configure(Configure {
        expected_revision: u64::MAX,
        toml: "#".repeat(OCTETS),
        files: Default::default(),
        comment: String::new(),
        at: Millis(1),
        by: "bench".into(),
    });
    let mut took_ms = Vec::new();
    while begun.elapsed() < time {
        let proposed = Instant::now();
        match cluster.propose(command.clone()).await {
            Err(ProposeError::Refused(_)) => took_ms.push(proposed.elapsed().as_secs_f64() * 1e3),
            other => return Err(format!("a proposal ended with {other:?}").into()),
        }
    }
    Ok(took_ms)
}
