//! False alarms: how often a healthy cluster moves segments or elects a leader although nobody has failed, with every
//! processor of the machine busy and the shipped timing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Extent;
use super::client::Tunnel;
use super::setup::gateway;
use super::table::{Cell, Table};
use crate::outcome::Result;
use crate::world::Bed;
use crate::world::cluster::{Cluster, Shape};
use crate::world::pulse::Pulse;

const EVERY: Duration = Duration::from_millis(5);

pub fn run(bed: &Bed, extent: Extent) -> Result<Vec<Table>> {
    let time = Duration::from_secs(extent.choose(15, 600));
    let cluster = Cluster::start(bed, Shape::default(), &gateway().toml())?;
    let tunnel = Tunnel::open(&cluster.client)?;
    let mut table = Table::new(
        format!("three nodes with a tunnel, {} s each, nobody fails", time.as_secs()),
        &["processors", "handovers", "handovers/h", "elections", "elections/h", "longest silence ms"],
    );
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for (name, threads) in [("idle besides", 0), ("all busy", threads)] {
        let busy = Busy::start(threads);
        let before = Alarms::count(&cluster)?;
        let pulse = Pulse::start(&cluster.client, tunnel.inner, EVERY)?;
        let begun = Instant::now();
        std::thread::sleep(time);
        let silence = pulse.longest_silence(begun);
        let after = Alarms::count(&cluster)?;
        drop(busy);
        let per_hour = |count: usize| Cell::Number(count as f64 * 3600.0 / time.as_secs_f64());
        let (handovers, elections) = (after.handovers - before.handovers, after.elections - before.elections);
        table.row(vec![
            name.into(),
            Cell::Text(handovers.to_string()),
            per_hour(handovers),
            Cell::Text(elections.to_string()),
            per_hour(elections),
            Cell::Number(silence.as_secs_f64() * 1e3),
        ]);
    }
    Ok(vec![table])
}

/// What all nodes together have told so far.
struct Alarms {
    handovers: usize,
    elections: usize,
}

impl Alarms {
    fn count(cluster: &Cluster) -> Result<Alarms> {
        let events = cluster.events()?;
        let handovers = events
            .iter()
            .filter(|(_, event)| event["kind"] == "handover" && event["cause"] == "failure")
            .count();
        // Each node tells of a new leader once; the terms tell elections apart.
        let leaders = events.iter().filter(|(_, event)| event["what"] == "leader");
        let mut terms: Vec<u64> = leaders.filter_map(|(_, event)| event["term"].as_u64()).collect();
        terms.sort_unstable();
        terms.dedup();
        Ok(Alarms { handovers, elections: terms.len() })
    }
}

/// Threads that do nothing as fast as they can, until dropped.
struct Busy {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn start(count: usize) -> Busy {
        let ending = Arc::new(AtomicBool::new(false));
        let spin = || {
            let seen = ending.clone();
            std::thread::spawn(move || {
                while !seen.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..count).map(|_| spin()).collect();
        Busy { ending, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
