//! The one thread that writes the log, and the one place that makes it durable.
//!
//! Takes all operations that wait, puts them into one sled batch, flushes once, and completes them in order. Truncation
//! and purge go alone, because they read what is there. What a purge leaves behind is deleted in small steps
//! while nothing else is to do: a batch of 50,000 deletions would hold up commits.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prost::Message;
use sled::Batch;

use super::lock;
use super::open::{Opened, engine_error};
use super::record::{Assembler, ENTRIES_END, Record, entry_key, frame};
use super::record::{COMMITTED, Digest, End, GENESIS, PURGED, RECORD_LEN_MAX, Sealer, TAIL, VOTE};
use crate::store::codec::{LogIdMessage, VoteMessage};
use crate::store::error::StoreError;
use crate::store::tail::Tail;
use crate::store::witness::{Claim, Witness};
use crate::store::{Done, Entry, LogId, Vote};
use crate::timings::Timings;

/// Operations in one batch.
const GROUP_MAX: usize = 1024;
/// Octets of entries in one batch, above which it takes no further operation.
const GROUP_LEN_MAX: usize = 4 << 20;
/// Keys deleted in one step behind a purge.
const GARBAGE_STEP: usize = 256;

pub enum Op {
    Append {
        entries: Vec<Entry>,
        done: Done,
    },
    Vote {
        vote: Vote,
        done: Done,
    },
    /// In the queue, so that it never names an entry that is not there yet; its index alone does not tell, since
    /// another entry may have stood in that place. Causes no flush.
    Committed(Option<LogId>),
    Truncate {
        after: Option<LogId>,
        done: Done,
    },
    Purge {
        upto: LogId,
        done: Done,
    },
}

pub struct Writer {
    db: sled::Db,
    /// Of `log/db`: an fsync of any descriptor of a file writes its dirty pages and its size.
    sync: File,
    dir: PathBuf,
    witness: Witness,
    sealer: Arc<Sealer>,
    tail: Arc<Mutex<Tail>>,
    timings: Arc<Timings>,
    ops: Receiver<Op>,
    purged: Option<End>,
    last: Option<End>,
    vote: Option<Vote>,
    /// As it is on disk, and as it shall be with the next batch.
    committed: Option<LogId>,
    to_be_committed: Option<LogId>,
    garbage: bool,
}

impl Writer {
    pub fn new(
        opened: Opened,
        sealer: Arc<Sealer>,
        tail: Arc<Mutex<Tail>>,
        timings: Arc<Timings>,
        ops: Receiver<Op>,
    ) -> Writer {
        Writer {
            db: opened.db,
            sync: opened.sync,
            dir: opened.dir,
            witness: opened.witness,
            sealer,
            tail,
            timings,
            ops,
            purged: opened.purged,
            last: opened.last,
            vote: opened.bounds.vote,
            committed: opened.bounds.committed,
            to_be_committed: opened.bounds.committed,
            garbage: opened.garbage,
        }
    }

    pub fn run(mut self) {
        let mut held = None;
        loop {
            let first = match held.take() {
                Some(op) => op,
                None if self.garbage => match self.ops.try_recv() {
                    Ok(op) => op,
                    Err(TryRecvError::Empty) => {
                        // Its error stops the store and is told with the next operation.
                        let _ = self.guarded(Self::collect_garbage);
                        continue;
                    }
                    Err(TryRecvError::Disconnected) => break,
                },
                None => match self.ops.recv() {
                    Ok(op) => op,
                    Err(_) => break,
                },
            };
            let mut group = vec![first];
            let mut weight = group[0].weight();
            while !group[0].goes_alone() && group.len() < GROUP_MAX && weight < GROUP_LEN_MAX {
                match self.ops.try_recv() {
                    Ok(op) if op.goes_alone() => {
                        held = Some(op);
                        break;
                    }
                    Ok(op) => {
                        weight += op.weight();
                        group.push(op);
                    }
                    Err(_) => break,
                }
            }
            self.execute(group);
        }
        let _ = self.guarded(|writer| writer.write(&[], true));
    }

    fn execute(&mut self, group: Vec<Op>) {
        let outcome = self.guarded(|writer| match group.as_slice() {
            [Op::Truncate { after, .. }] => writer.truncate(*after),
            [Op::Purge { upto, .. }] => writer.purge(*upto),
            ops => writer.write(ops, false),
        });
        match outcome {
            Ok(()) => group.into_iter().for_each(|op| op.done()(Ok(()))),
            Err(error) => group.into_iter().for_each(|op| op.fail(&error)),
        }
    }

    /// Runs `work` unless there was an error before, and makes its error, or its panic, the last thing that happens.
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<(), StoreError>) -> Result<(), StoreError> {
        lock(&self.tail).check().inspect_err(|_| self.garbage = false)?;
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            let why = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_else(|| "it panicked".into());
            Err(StoreError::Engine { doing: "write the log", why })
        });
        if let Err(error) = &outcome {
            tracing::error!(%error, "the log store stops");
            lock(&self.tail).failed = Some(Arc::new(error.clone()));
            self.garbage = false;
        }
        outcome
    }

    /// Appends and votes in one batch, and along with them, or when nothing follows, what is committed.
    fn write(&mut self, ops: &[Op], closing: bool) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        let mut last = self.last;
        let mut vote = self.vote;
        for op in ops {
            match op {
                Op::Append { entries, .. } => {
                    for entry in entries {
                        let before = last.map_or(GENESIS, |last| last.digest);
                        let digest = self.encode(&before, entry, &mut batch)?;
                        last = Some(End { id: entry.id, digest });
                    }
                }
                Op::Vote { vote: new, .. } => vote = Some(*new),
                Op::Committed(id) => self.to_be_committed = *id,
                Op::Truncate { .. } | Op::Purge { .. } => unreachable!("these go alone"),
            }
        }
        if let Some(last) = last.filter(|_| last != self.last) {
            batch.insert(TAIL, last.encode());
        }
        if let Some(vote) = vote.filter(|_| vote != self.vote) {
            batch.insert(VOTE, frame(b'V', &[&VoteMessage::from(vote).encode_to_vec()]));
        }
        let news = self.to_be_committed != self.committed;
        if let Some(id) = self.to_be_committed.filter(|_| news) {
            batch.insert(COMMITTED, frame(b'C', &[&LogIdMessage::from(id).encode_to_vec()]));
        }
        let only_committed = ops.iter().all(|op| matches!(op, Op::Committed(_)));
        if only_committed && !(closing && news) {
            return Ok(());
        }
        self.commit(batch, Claim { last: last.map(|last| last.id), vote })?;
        self.last = last;
        self.vote = vote;
        self.committed = self.to_be_committed;
        if let Some(last) = last {
            lock(&self.tail).written(last.id.index);
        }
        Ok(())
    }

    /// Deletes from the tail backwards; the witness comes down first.
    fn truncate(&mut self, after: Option<LogId>) -> Result<(), StoreError> {
        let after = after.max(self.purged.map(|end| end.id));
        if after >= self.last.map(|last| last.id) {
            return Ok(());
        }
        let end = match after {
            None => None,
            Some(id) if self.purged.is_some_and(|purged| purged.id == id) => self.purged,
            Some(id) => Some(self.end_at(id)?),
        };
        let claim = self.witness.claim();
        self.witness.write(Claim { last: claim.last.min(after), ..claim })?;
        self.witness.sync()?;
        let mut batch = Batch::default();
        let first = after.map_or(0, |id| id.index + 1);
        for key in self.db.range(entry_key(first)..ENTRIES_END).keys().rev() {
            batch.remove(key.map_err(|error| engine_error(&self.dir, "truncate the log", error))?);
        }
        match end {
            Some(end) => batch.insert(TAIL, end.encode()),
            None => batch.remove(TAIL),
        }
        self.commit(batch, Claim { last: after, ..claim })?;
        self.last = end;
        Ok(())
    }

    /// Writes the mark. What lies before it does not count from then on and is deleted later.
    fn purge(&mut self, upto: LogId) -> Result<(), StoreError> {
        if self.purged.is_some_and(|purged| purged.id >= upto) {
            return Ok(());
        }
        let beyond = self.last.is_none_or(|last| last.id.index < upto.index);
        let end = if beyond { End::from_snapshot(upto) } else { self.end_at(upto)? };
        let mut batch = Batch::default();
        batch.insert(PURGED, end.encode());
        let last = if beyond { Some(end) } else { self.last };
        if beyond {
            batch.insert(TAIL, end.encode());
        }
        self.commit(batch, Claim { last: last.map(|last| last.id), ..self.witness.claim() })?;
        self.purged = Some(end);
        self.last = last;
        self.garbage = true;
        Ok(())
    }

    fn collect_garbage(&mut self) -> Result<(), StoreError> {
        let end = self.purged.map_or(0, |purged| purged.id.index + 1);
        let mut batch = Batch::default();
        let mut count = 0;
        for key in self.db.range(entry_key(0)..entry_key(end)).keys().take(GARBAGE_STEP) {
            batch.remove(key.map_err(|error| engine_error(&self.dir, "delete old entries", error))?);
            count += 1;
        }
        self.garbage = count == GARBAGE_STEP;
        // Without a flush: when it is lost, the next start collects again.
        self.db.apply_batch(batch).map_err(|error| engine_error(&self.dir, "delete old entries", error))
    }

    /// The batch is on stable storage when this returns, and the witness knows.
    fn commit(&mut self, batch: Batch, claim: Claim) -> Result<(), StoreError> {
        let failed = |error| engine_error(&self.dir, "write the log", error);
        self.db.apply_batch(batch).map_err(failed)?;
        let begun = Instant::now();
        self.db.flush().map_err(failed)?;
        self.sync.sync_data().map_err(StoreError::io("sync", self.dir.join("log/db")))?;
        self.timings.fsync.record(begun.elapsed());
        self.witness.write(claim)
    }

    fn encode(&self, before: &Digest, entry: &Entry, batch: &mut Batch) -> Result<Digest, StoreError> {
        self.sealer.encode(before, entry, |key, value| batch.insert(&key, value)).map_err(|length| {
            StoreError::Engine {
                doing: "write the log",
                why: format!("an entry of {length} octets is longer than {RECORD_LEN_MAX}"),
            }
        })
    }

    fn end_at(&self, id: LogId) -> Result<End, StoreError> {
        if let Some(last) = self.last.filter(|last| last.id == id) {
            return Ok(last);
        }
        match (self.record_at(id.index)?, self.record_at(id.index + 1)?) {
            (Some(record), _) if record.id == id => Ok(End { id, digest: record.digest }),
            // A log that begins right behind it.
            (None, Some(next)) => Ok(End { id, digest: next.before }),
            (found, _) => {
                let found = found.map_or("nothing".into(), |record| format!("entry {}", record.id));
                Err(StoreError::damaged(&self.dir, format!("entry {id} was asked for, and {found} is there")))
            }
        }
    }

    fn record_at(&self, index: u64) -> Result<Option<Record>, StoreError> {
        let mut assembler = Assembler::default();
        for pair in self.db.range(entry_key(index)..entry_key(index + 1)) {
            let (key, value) = pair.map_err(|error| engine_error(&self.dir, "read the log", error))?;
            let whole = assembler.add(&key, &value).map_err(|why| StoreError::damaged(&self.dir, why))?;
            if whole.is_some() {
                return Ok(whole);
            }
        }
        Ok(None)
    }
}

impl Op {
    pub fn fail(self, error: &StoreError) {
        self.done()(Err(error.clone()));
    }

    fn done(self) -> Done {
        match self {
            Op::Committed(_) => Box::new(drop),
            Op::Append { done, .. }
            | Op::Vote { done, .. }
            | Op::Truncate { done, .. }
            | Op::Purge { done, .. } => done,
        }
    }

    fn goes_alone(&self) -> bool {
        matches!(self, Op::Truncate { .. } | Op::Purge { .. })
    }

    fn weight(&self) -> usize {
        match self {
            Op::Append { entries, .. } => entries.iter().map(Entry::weight).sum(),
            _ => 0,
        }
    }
}
