//! Durable commits per second of one node, by the number of proposers, with the time of a flush and of a commit, and
//! how long a start with that log takes until all of it is verified and applied.
//!
//! `cargo run --release -p raft --example commit_rate [OCTETS [SECONDS [DIR]]]`

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipsec::types::Millis;
use raft::links::NoLinks;
use raft::state::{Command, Configure, NewMember, SPEAKS};
use raft::{Cluster, Opened, Options, timing};

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let octets: usize = arguments.next().map_or(Ok(1500), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    println!("{octets} octets a command, {seconds} s each, in {}", parent.display());
    println!(
        "proposers  commits/s  commit p50  commit p99  flushes/s  flush p50  flush p99  entries    start"
    );
    for proposers in [1, 16, 128] {
        let dir = parent.join(format!("pontoon-commit-rate-{}-{proposers}", std::process::id()));
        measure(&dir, proposers, octets, Duration::from_secs(seconds)).await?;
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

async fn measure(
    dir: &std::path::Path,
    proposers: usize,
    octets: usize,
    time: Duration,
) -> Result<(), Box<dyn std::error::Error>> {
    let options = || Options {
        data_dir: dir.to_owned(),
        storage_key_file: None,
        timing: timing::LAN,
        links: Arc::new(NoLinks),
    };
    let Opened::Vacant(vacant) = Cluster::open(options()).await? else { return Err("it is a member".into()) };
    let me = NewMember {
        name: "n1".into(),
        address: "127.0.0.1:7400".into(),
        software: "bench".into(),
        speaks: SPEAKS,
    };
    let cluster = vacant.init("bench", me, Millis(1)).await?;
    // Refused when applied, so that the state does not grow: what is measured is the way through the log.
    let command = Command::Configure(Configure {
        expected_revision: u64::MAX,
        toml: "#".repeat(octets),
        files: Default::default(),
        comment: String::new(),
        at: Millis(1),
        by: "bench".into(),
    });
    let (before, begun) = (cluster.timings().fsync.count(), Instant::now());
    let commits = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..proposers)
        .map(|_| {
            let (cluster, command, commits) = (cluster.clone(), command.clone(), commits.clone());
            tokio::spawn(async move {
                while begun.elapsed() < time {
                    match cluster.propose(command.clone()).await {
                        Err(raft::ProposeError::Refused(_)) => commits.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other:?}"),
                    };
                }
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let timings = cluster.timings();
    let ms = |q: Option<Duration>| q.unwrap_or_default().as_secs_f64() * 1000.0;
    print!(
        "{proposers:9}  {:9.0}  {:7.2} ms  {:7.2} ms  {:9.0}  {:6.2} ms  {:6.2} ms",
        commits.load(Ordering::Relaxed) as f64 / elapsed,
        ms(timings.commit.quantile(0.5)),
        ms(timings.commit.quantile(0.99)),
        (timings.fsync.count() - before) as f64 / elapsed,
        ms(timings.fsync.quantile(0.5)),
        ms(timings.fsync.quantile(0.99)),
    );
    cluster.shutdown().await;
    drop(cluster);
    let begun = Instant::now();
    let Opened::Member(cluster) = Cluster::open(options()).await? else { return Err("it is vacant".into()) };
    cluster.recovered(Duration::from_secs(60)).await?;
    let status = cluster.status();
    let entries = status.last_log.unwrap_or(0) - status.purged.unwrap_or(0);
    println!("  {entries:7}  {:4.0} ms", begun.elapsed().as_secs_f64() * 1000.0);
    cluster.shutdown().await;
    Ok(())
}
