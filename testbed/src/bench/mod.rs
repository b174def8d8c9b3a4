//! Figures of the gateway, printed and never asserted: `cargo bench`, or `cargo bench -- setup gap --quick`.
//!
//! ```text
//!   setup       IKE_SA_INIT to the reply of IKE_AUTH, set-ups a second, processor time of each
//!   commit      durable commits and flushes of the log
//!   throughput  ESP through strongSwan and through our own client, beside strongSwan as the gateway
//!   gap         `kill -9` and restart under a packet every millisecond
//!   memory      resident memory by the number of tunnels
//!   handover    three nodes: the gap at a client and its parts, for every kind of failure
//!   download    three nodes: the paper's third test, 500 MB by strongSwan
//!   alarms      three nodes: handovers and elections although nobody fails
//!   ha          three nodes against one: throughput, processor time, set-ups, commits, log
//!
//!   measure     processor time of a process and of the whole machine while something runs
//!   iperf       the traffic: iperf3 between two namespaces, its JSON
//!   pairs       A-B-B-A rounds of two contenders, the median of the ratios and how sure it is
//! ```
//!
//! Client, gateway and server share one machine, so throughput alone says little: the cost of a gigabyte on the
//! gateway says more, and a ratio within one run more than either. What is compared runs in turn, A B A B. Every
//! figure stands as a median with the smallest and the largest; beside each table is how busy the machine was with
//! other things.

mod alarms;
mod client;
mod commit;
mod download;
mod gap;
mod ha;
mod handover;
pub mod iperf;
pub mod measure;
mod memory;
pub mod pairs;
mod setup;
mod table;
mod throughput;

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::outcome::{Context, Result, Stop};
use crate::world::Bed;
use table::Table;

pub use iperf::{Iperf, Traffic};
pub use measure::{Figures, measure};
pub use pairs::{Ratio, compare};

/// One benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    pub name: &'static str,
    pub what: &'static str,
    run: fn(&Bed, Extent) -> Result<Vec<Table>>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Enough to see whether it works, some seconds each.
    Quick,
    /// Enough to quote, below three minutes each on an idle machine.
    Full,
}

impl Extent {
    fn choose<T>(self, quick: T, full: T) -> T {
        match self {
            Extent::Quick => quick,
            Extent::Full => full,
        }
    }
}

pub const ALL: &[Benchmark] = &[
    Benchmark { name: "setup", what: "tunnel set-ups: time, rate, processor time", run: setup::run },
    Benchmark { name: "commit", what: "durable commits and flushes of the log", run: commit::run },
    Benchmark { name: "throughput", what: "ESP: Gbit/s and processor time per GB", run: throughput::run },
    Benchmark { name: "gap", what: "kill -9 and restart under traffic", run: gap::run },
    Benchmark { name: "memory", what: "resident memory by number of tunnels", run: memory::run },
    Benchmark {
        name: "handover",
        what: "the gap when a tunnel's owner fails, and its parts",
        run: handover::run,
    },
    Benchmark { name: "download", what: "extra time of a download across a failure", run: download::run },
    Benchmark { name: "alarms", what: "false alarms with all processors busy", run: alarms::run },
    Benchmark { name: "ha", what: "what three nodes cost against one", run: ha::run },
];

/// Runs the benchmarks of these names, or all; true when each has printed its figures. With `json`, writes them there too.
pub fn run(names: &[String], extent: Extent, json: Option<&Path>) -> Result<bool> {
    let unknown = names.iter().find(|name| ALL.iter().all(|benchmark| benchmark.name != *name));
    if let Some(name) = unknown {
        let known: Vec<&str> = ALL.iter().map(|benchmark| benchmark.name).collect();
        return Err(Stop::Failed(format!("no benchmark is called {name}; there are {}", known.join(", "))));
    }
    let chosen = ALL.iter().filter(|one| names.is_empty() || names.iter().any(|name| name == one.name));
    if cfg!(debug_assertions) {
        println!("a debug build: its figures mean nothing; use `cargo bench`");
    }
    let (mut results, mut complete) = (serde_json::Map::new(), true);
    for benchmark in chosen {
        println!("\n== {}: {}", benchmark.name, benchmark.what);
        let dir = tempfile::Builder::new().prefix("pontoon-bench-").tempdir().context("temporary folder")?;
        let (load, begun) = (Load::now(), Instant::now());
        let tables = (benchmark.run)(&Bed::new(dir.path()), extent);
        let seconds = begun.elapsed().as_secs_f64();
        let busy = format!("load before {}, after {}; took {seconds:.0} s", load.0, Load::now().0);
        let result = match tables {
            Ok(tables) => {
                tables.iter().for_each(|table| print!("\n{table}"));
                json!({ "tables": tables.iter().map(Table::json).collect::<Vec<Value>>(), "machine": busy })
            }
            Err(Stop::Skipped(why)) => {
                println!("   skipped: {why}");
                json!({ "skipped": why })
            }
            Err(Stop::Failed(why)) => {
                println!("   no figures: {why}");
                complete = false;
                json!({ "failed": why })
            }
        };
        println!("   {busy}");
        results.insert(benchmark.name.to_owned(), result);
    }
    if let Some(path) = json {
        let document = json!({ "machine": machine(), "benchmarks": results });
        let text = serde_json::to_string_pretty(&document).context("figures")?;
        fs::write(path, text).context(path.display())?;
    }
    Ok(complete)
}

/// The three load averages: how many threads wanted a processor in the last 1, 5 and 15 minutes.
struct Load(String);

impl Load {
    fn now() -> Load {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Load(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
    }
}

fn machine() -> Value {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({ "processors": processors, "kernel": kernel.trim() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_exist_is_told_before_anything_runs() {
        let error = run(&["setupp".to_owned()], Extent::Quick, None).unwrap_err();
        assert!(error.to_string().contains("setup, commit, throughput, gap, memory, handover"), "{error}");
    }
}
