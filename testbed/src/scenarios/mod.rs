//! Named scripts over a world, and what runs them.
//!
//! A scenario reads as a script: set up, do, expect. Each makes its own world, so any can be run alone:
//! `cargo netns s3` runs all whose name begins with `s3`.

mod baseline;
pub(crate) mod bridge;
mod c0_planted;
mod c1_download;
mod c2_many;
mod c3_steps;
mod c4_replay;
mod c5_rebinding;
mod c6_majority;
mod c7_drain;
mod c8_deleted;
mod c9_external;
pub(crate) mod common;
mod g1_strangers;
mod g2_growth;
mod n1_chaos;
mod s1_connect;
mod s2_rekey;
mod s3_manners;
pub(crate) mod s4_many;
mod s5_crash;
mod s5_disk;
mod s6_proofs;
mod s7_flood;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::outcome::{Context, Result, Stop};
use crate::world::Bed;
use crate::world::exec::{settle_disk, tail};

/// A script with its name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    pub(crate) run: fn(&Bed) -> Result,
}

/// How one went.
#[derive(Debug)]
pub struct Ended {
    pub name: &'static str,
    pub result: Result,
    pub took: Duration,
}

/// All scenarios in the order in which they run.
pub fn all() -> Vec<Scenario> {
    [
        baseline::LIST,
        s1_connect::LIST,
        s2_rekey::LIST,
        s3_manners::LIST,
        s4_many::LIST,
        s5_crash::LIST,
        s5_disk::LIST,
        s6_proofs::LIST,
        s7_flood::LIST,
        c0_planted::LIST,
        c1_download::LIST,
        c2_many::LIST,
        c3_steps::LIST,
        c4_replay::LIST,
        c5_rebinding::LIST,
        c6_majority::LIST,
        c7_drain::LIST,
        c8_deleted::LIST,
        c9_external::LIST,
        g1_strangers::LIST,
        g2_growth::LIST,
        n1_chaos::LIST,
    ]
    .concat()
}

/// Runs those whose name begins with one of `wanted` (all when there is none), telling each result as it comes. `full`:
/// at their full size, which takes hours; else as large as a check of every change can afford.
pub fn run(wanted: &[String], full: bool) -> Result<Vec<Ended>> {
    let chosen: Vec<Scenario> = all()
        .into_iter()
        .filter(|scenario| {
            wanted.is_empty() || wanted.iter().any(|name| scenario.name.starts_with(name.as_str()))
        })
        .collect();
    if chosen.is_empty() {
        return Err(format!(
            "no scenario begins with {}; `cargo netns --list` names them",
            wanted.join(" or ")
        )
        .into());
    }
    chosen.iter().map(|scenario| run_one(scenario.name, scenario.what, full, scenario.run)).collect()
}

/// Runs one in a folder of its own, which is kept when it fails.
pub fn run_one(
    name: &'static str,
    what: &str,
    full: bool,
    run: impl FnOnce(&Bed) -> Result,
) -> Result<Ended> {
    println!("  {name:<28} {what}");
    let mut dir = tempfile::Builder::new().prefix("pontoon-bed-").tempdir().context("temporary folder")?;
    settle_disk();
    let start = Instant::now();
    let bed = Bed::new(dir.path()).full(full);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&bed)))
        .unwrap_or_else(|_| Err("the scenario panicked".into()));
    let took = start.elapsed();
    match &result {
        Ok(()) => println!("      ok in {:.1} s", took.as_secs_f64()),
        Err(Stop::Skipped(why)) => println!("      SKIPPED: {why}"),
        Err(Stop::Failed(why)) => {
            println!("      FAILED after {:.1} s: {why}", took.as_secs_f64());
            dir.disable_cleanup(true);
            println!("      its files are kept in {}", dir.path().display());
            show_logs(dir.path());
        }
    }
    Ok(Ended { name, result, took })
}

/// The end of every log in a folder: on a machine that is gone tomorrow it is all there is to look at.
fn show_logs(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            show_logs(&path);
        } else if path.file_name().is_some_and(|name| name == "log" || name == "output")
            && let Ok(bytes) = std::fs::read(&path)
            && !bytes.is_empty()
        {
            println!("      --- the end of {}", path.display());
            println!("{}", tail(&String::from_utf8_lossy(&bytes), 40));
        }
    }
}
