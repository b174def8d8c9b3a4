//! How far each child has received, written down often and without a flush: what a process that comes back after a
//! crash treats as seen already (CL-14, `bounded`).
//!
//! The file survives the process, not the machine; after a power loss the marks are those that the disk happens to
//! have, and the window opens further back. One line a child: `SPI number`, both hex. Written whole into a
//! neighbour and renamed, so it is never half. What was received between the last writing and the crash could be
//! accepted once more: at most `EVERY` of traffic.

pub mod mirrored;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipsec::types::{ChildSpi, EspSeq};
use raft::Cluster;
use raft::state::State;

use crate::datapath::Handle;

/// How often the marks are written while there is traffic.
pub const EVERY: Duration = Duration::from_millis(100);

/// In the data directory.
const FILE: &str = "replay.marks";

#[derive(Clone, Debug)]
pub struct Marks {
    path: Arc<PathBuf>,
    /// As read at the start, and as told by owners for which this node stands by.
    old: Arc<Mutex<HashMap<ChildSpi, EspSeq>>>,
}

impl Marks {
    /// Removes what is in `data_dir`, of a cluster that this node has left.
    pub fn remove(data_dir: &Path) {
        let path = data_dir.join(FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %path.display(), "cannot remove the replay marks");
            }
            _ => {}
        }
    }

    /// The marks of the process before this one; none when there is no file or it is not ours to understand.
    pub fn open(data_dir: &Path) -> Marks {
        let path = data_dir.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let old = text.lines().filter_map(parse).collect();
        Marks { path: Arc::new(path), old: Arc::new(Mutex::new(old)) }
    }

    /// The highest number that the process or the owner before this one is known to have received on this child.
    pub fn last(&self, child: ChildSpi) -> Option<EspSeq> {
        self.old.lock().unwrap_or_else(PoisonError::into_inner).get(&child).copied()
    }

    /// What the owner has told this node as its standby. A mark never falls.
    pub fn raise(&self, told: impl Iterator<Item = (ChildSpi, EspSeq)>) {
        let mut marks = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        for (child, edge) in told {
            let mark = marks.entry(child).or_default();
            *mark = (*mark).max(edge);
        }
    }

    /// Forgets those of the others.
    pub fn retain(&self, keep: impl Fn(ChildSpi) -> bool) {
        self.old.lock().unwrap_or_else(PoisonError::into_inner).retain(|&child, _| keep(child));
    }

    pub fn forget(&self, child: ChildSpi) {
        self.old.lock().unwrap_or_else(PoisonError::into_inner).remove(&child);
    }

    /// Writes for ever. An error costs a warning, not the node: marks are a bound, not a promise.
    pub async fn keep(self, cluster: Cluster, worker: Handle) {
        let mut every = tokio::time::interval(EVERY);
        let mut written = String::new();
        let mut failing = false;
        loop {
            every.tick().await;
            let text = self.text(edges(&cluster.state(), &worker));
            if text == written {
                continue;
            }
            match self.write(&text) {
                Ok(()) => {
                    written = text;
                    failing = false;
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, file = %self.path.display(), "cannot write the replay marks");
                }
                Err(_) => {}
            }
        }
    }

    fn text(&self, edges: impl Iterator<Item = (ChildSpi, EspSeq)>) -> String {
        let mut marks: HashMap<ChildSpi, EspSeq> =
            self.old.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (child, edge) in edges {
            let mark = marks.entry(child).or_default();
            *mark = (*mark).max(edge);
        }
        let mut sorted: Vec<_> = marks.into_iter().collect();
        sorted.sort();
        sorted.into_iter().fold(String::new(), |mut text, (child, edge)| {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{child} {:x}", edge.0);
            text
        })
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        let fresh = self.path.with_extension("marks.new");
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, &*self.path)
    }
}

/// How far the children that are served here have received.
fn edges<'a>(state: &'a State, worker: &'a Handle) -> impl Iterator<Item = (ChildSpi, EspSeq)> + 'a {
    state.records().flat_map(|record| &record.children).filter_map(|child| {
        let stats = worker.known_stats(child.spi_in)?;
        Some((child.spi_in, EspSeq(stats.edge.load(Ordering::Relaxed))))
    })
}

fn parse(line: &str) -> Option<(ChildSpi, EspSeq)> {
    let (child, edge) = line.split_once(' ')?;
    Some((ChildSpi(u32::from_str_radix(child, 16).ok()?), EspSeq(u64::from_str_radix(edge, 16).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_knows_the_marks() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(dir.path());
        let edges = [(ChildSpi(0x0a00_0001), EspSeq(0x1_0000_0002))];
        marks.write(&marks.text(edges.into_iter())).unwrap();

        let next = Marks::open(dir.path());
        assert_eq!(next.last(ChildSpi(0x0a00_0001)), Some(EspSeq(0x1_0000_0002)));
        assert_eq!(next.last(ChildSpi(0x0a00_0002)), None);
        assert!(next.text(std::iter::empty()).contains("0a000001"), "kept until somebody takes it up");
    }

    #[test]
    fn garbage_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("replay.marks"), "zz 1\n0a000001 5\n\n0a000002\n").unwrap();
        let marks = Marks::open(dir.path());
        assert_eq!(marks.last(ChildSpi(0x0a00_0001)), Some(EspSeq(5)));
        assert_eq!(marks.last(ChildSpi(0x0a00_0002)), None);
    }
}
