//! The Raft log in sled 0.34.7, under the nine rules of its review.
//!
//! ```text
//!   append ─┐                        ┌─ one sled batch ─> flush ─> fdatasync ─> witness ─> done, done, done …
//!   vote   ─┼─> queue ─> writer ─────┤
//!   append ─┘   (in order)           └─ what came meanwhile is the next batch
//! ```
//!
//! 1. One process, one `Db`, no background flush: the lock of `data_dir`, `flush_every_ms(None)`.
//! 2. sled's `flush` is no fsync, so `fdatasync` on a descriptor of our own follows, then the acknowledgement.
//! 3. Values stay below 4 KiB: longer entries are cut up (`record`). Snapshots are files of their own.
//! 4. Each value has a checksum, each entry the digest of the one before; all of it is verified at the start (`open`).
//! 5. Truncation deletes from the tail; a purge writes its mark first and deletes behind it.
//! 6. An error is final: nothing is tried again on this descriptor (`writer`).
//! 7. Leftovers of an interrupted sled snapshot are removed; on damage sled's snapshots are set aside and opening is
//!    tried once more; then it is quarantine.
//! 8. Another format, another cluster or node, a broken chain: refused.
//! 9. `disk_octets` tells the size, for a metric.
//!
//! Many proposals share one flush because the writer takes all that has come while the last flush ran.

mod open;
pub mod record;
mod writer;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::error::StoreError;
use super::identity::{DataDir, Identity};
use super::seal::Vault;
use super::tail::Tail;
use super::{Bounds, Done, Entry, LogId, LogStore, Vote};
use crate::timings::Timings;
use record::{Assembler, Sealer, entry_key};
use writer::{Op, Writer};

/// Tells what stopped a log, also when the log itself is gone.
#[derive(Clone, Debug)]
pub struct Obituary(Arc<Mutex<Tail>>);

impl Obituary {
    pub fn cause(&self) -> Option<StoreError> {
        lock(&self.0).failed.as_deref().cloned()
    }
}

/// See the module.
#[derive(Debug)]
pub struct SledLog {
    tail: Arc<Mutex<Tail>>,
    db: sled::Db,
    sealer: Arc<Sealer>,
    dir: PathBuf,
    /// Taken at the end: the writer stops when the queue is closed.
    queue: Mutex<Option<Sender<Op>>>,
    writer: Option<JoinHandle<()>>,
}

impl SledLog {
    /// Opens and verifies the log of `identity`, or begins one when it is founding. Damage has to be answered with
    /// `DataDir::quarantine`.
    pub fn open(
        dir: &DataDir,
        identity: &Identity,
        vault: Arc<Vault>,
        timings: Arc<Timings>,
    ) -> Result<SledLog, StoreError> {
        let sealer = Arc::new(Sealer { vault, cluster: identity.cluster, node: identity.node });
        let opened = open::open(dir, identity, &sealer)?;
        let tail = Arc::new(Mutex::new(Tail::new(opened.bounds, opened.first)));
        let db = opened.db.clone();
        let (queue, ops) = mpsc::channel();
        let writer = Writer::new(opened, sealer.clone(), tail.clone(), timings, ops);
        let writer = thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run())
            .map_err(StoreError::io("start the writer of", dir.file("log")))?;
        let dir = dir.path().to_owned();
        Ok(SledLog { tail, db, sealer, dir, queue: Mutex::new(Some(queue)), writer: Some(writer) })
    }

    pub fn obituary(&self) -> Obituary {
        Obituary(self.tail.clone())
    }

    /// Octets that the log takes on disk.
    pub fn disk_octets(&self) -> Result<u64, StoreError> {
        self.db
            .size_on_disk()
            .map_err(|error| StoreError::Engine { doing: "measure the log", why: error.to_string() })
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        lock(&self.tail)
    }

    /// Enters an operation into the tail and the queue, in one order for both.
    fn enqueue(&self, op: Op, change: impl FnOnce(&mut Tail)) {
        let mut tail = self.tail();
        if let Err(error) = tail.check() {
            drop(tail);
            op.fail(&error);
            return;
        }
        change(&mut tail);
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match queue.as_ref() {
            Some(queue) => queue.send(op).err().map(|refused| refused.0),
            None => Some(op),
        };
        drop(queue);
        drop(tail);
        if let Some(op) = refused {
            op.fail(&StoreError::Engine { doing: "write", why: "the writer has stopped".into() });
        }
    }

    fn read_disk(&self, range: Range<u64>) -> Result<Vec<Entry>, StoreError> {
        let damaged = |why: String| StoreError::damaged(&self.dir, why);
        let mut entries = Vec::with_capacity((range.end - range.start) as usize);
        let mut assembler = Assembler::default();
        for pair in self.db.range(entry_key(range.start)..entry_key(range.end)) {
            let (key, value) = pair.map_err(|error| open::engine_error(&self.dir, "read the log", error))?;
            if let Some(record) = assembler.add(&key, &value).map_err(damaged)? {
                let index = record.id.index;
                entries
                    .push(self.sealer.open(&record).map_err(|why| damaged(format!("entry {index}: {why}")))?);
            }
        }
        assembler.finish().map_err(damaged)?;
        Ok(entries)
    }
}

impl LogStore for SledLog {
    fn bounds(&self) -> Bounds {
        self.tail().bounds
    }

    fn read(&self, range: Range<u64>) -> Result<Vec<Entry>, StoreError> {
        let found = {
            let tail = self.tail();
            tail.check()?;
            tail.find(range)
        };
        if found.on_disk.is_empty() {
            return Ok(found.here);
        }
        let read = self.read_disk(found.on_disk.clone());
        // The ends may have moved while the disk was read: what has gone since is no damage.
        let still = self.tail().find(found.on_disk.start..found.on_disk.end + found.here.len() as u64);
        let start = if still.on_disk.is_empty() && still.here.is_empty() {
            return Ok(Vec::new());
        } else if still.on_disk.is_empty() {
            still.here[0].id.index
        } else {
            still.on_disk.start
        };
        let end = still.here.last().map_or(still.on_disk.end, |entry| entry.id.index + 1);
        let moved = start != found.on_disk.start || end != found.on_disk.end + found.here.len() as u64;
        let mut entries = match read {
            Ok(entries) => entries,
            Err(_) if moved => return self.read(start..end),
            Err(error) => return Err(error),
        };
        entries.extend(found.here);
        entries.retain(|entry| (start..end).contains(&entry.id.index));
        let whole = entries.iter().map(|entry| entry.id.index).eq(start..end);
        if !whole {
            return Err(StoreError::damaged(&self.dir, format!("entries are missing in {start}..{end}")));
        }
        Ok(entries)
    }

    fn append(&self, entries: Vec<Entry>, done: Done) {
        let kept = entries.clone();
        self.enqueue(Op::Append { entries, done }, |tail| {
            kept.into_iter().for_each(|entry| tail.push(entry))
        });
    }

    fn save_vote(&self, vote: Vote, done: Done) {
        self.enqueue(Op::Vote { vote, done }, |tail| tail.bounds.vote = Some(vote));
    }

    fn save_committed(&self, committed: Option<LogId>) {
        self.enqueue(Op::Committed(committed), |tail| tail.bounds.committed = committed);
    }

    fn truncate(&self, after: Option<LogId>, done: Done) {
        // What is committed stays (Raft's leader completeness): to stop is better than to lose it.
        let committed = self.bounds().committed;
        if after.map(|id| id.index) < committed.map(|id| id.index) {
            let why = format!("it was told to truncate behind {after:?}, and {committed:?} is committed");
            let error = StoreError::Engine { doing: "truncate the log", why };
            tracing::error!(%error, "the log store stops");
            self.tail().failed = Some(Arc::new(error.clone()));
            return done(Err(error));
        }
        self.enqueue(Op::Truncate { after, done }, |tail| tail.truncate(after));
    }

    fn purge(&self, upto: LogId, done: Done) {
        self.enqueue(Op::Purge { upto, done }, |tail| tail.purge(upto));
    }
}

impl Drop for SledLog {
    /// Waits until all that was asked for is on disk.
    fn drop(&mut self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the log panicked");
        }
    }
}

/// The data behind a poisoned lock is a plain value that a panicking thread cannot have left half-changed.
fn lock(tail: &Mutex<Tail>) -> MutexGuard<'_, Tail> {
    tail.lock().unwrap_or_else(PoisonError::into_inner)
}
