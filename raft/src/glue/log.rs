//! `RaftLogStorage` on a `LogStore`.
//!
//! Appends go on while they are flushed; votes, truncations and purges are awaited. What openraft asks for in order
//! reaches the store in that order, and the store completes in that order.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::{OrEntry, OrLogId, OrVote, TypeConfig, entry, log_id, or_entry, or_log_id, or_vote, vote};
use crate::links::APPEND_LEN_MAX;
use crate::store::{Done, LogStore, StoreError};

/// Entries that are read at once on the way to the most that one append carries.
const READ_STEP: u64 = 64;

#[derive(Clone)]
pub struct Log {
    store: Arc<dyn LogStore>,
}

impl Log {
    pub fn new(store: Arc<dyn LogStore>) -> Log {
        Log { store }
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<OrEntry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&index) => index.saturating_add(1),
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<OrEntry>, io::Error> {
        let (mut entries, mut octets) = (Vec::new(), 0);
        while start + (entries.len() as u64) < end && octets < APPEND_LEN_MAX {
            let from = start + entries.len() as u64;
            let step = self.store.read(from..end.min(from + READ_STEP))?;
            if step.is_empty() {
                break;
            }
            for entry in step {
                // The one that is too much goes along: there is room for it, and the first must go in any case.
                if octets < APPEND_LEN_MAX {
                    octets += entry.weight();
                    entries.push(or_entry(entry).map_err(io::Error::other)?);
                }
            }
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<OrVote>, io::Error> {
        Ok(self.store.bounds().vote.map(or_vote))
    }
}

impl Log {
    fn read(&self, start: u64, end: u64) -> Result<Vec<OrEntry>, io::Error> {
        let entries = self.store.read(start..end)?;
        entries.into_iter().map(|entry| or_entry(entry).map_err(io::Error::other)).collect()
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let bounds = self.store.bounds();
        Ok(LogState {
            last_purged_log_id: bounds.purged.map(or_log_id),
            last_log_id: bounds.last.map(or_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, new: &OrVote) -> Result<(), io::Error> {
        let new = vote(new);
        self.durable(|store, done| store.save_vote(new, done)).await
    }

    async fn save_committed(&mut self, committed: Option<OrLogId>) -> Result<(), io::Error> {
        self.store.save_committed(committed.as_ref().map(log_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<OrLogId>, io::Error> {
        Ok(self.store.bounds().committed.map(or_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = OrEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(entry).collect();
        let done =
            move |outcome: Result<(), StoreError>| callback.io_completed(outcome.map_err(io::Error::from));
        self.store.append(entries, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<OrLogId>) -> Result<(), io::Error> {
        let after = last.as_ref().map(log_id);
        self.durable(|store, done| store.truncate(after, done)).await
    }

    async fn purge(&mut self, upto: OrLogId) -> Result<(), io::Error> {
        let upto = log_id(&upto);
        self.durable(|store, done| store.purge(upto, done)).await
    }
}

impl Log {
    async fn durable(&self, operation: impl FnOnce(&dyn LogStore, Done)) -> Result<(), io::Error> {
        let (done, outcome) = oneshot::channel();
        operation(
            &*self.store,
            // Nobody waits any more when the node is being stopped.
            Box::new(move |outcome| drop(done.send(outcome))),
        );
        match outcome.await {
            Ok(outcome) => outcome.map_err(io::Error::from),
            Err(_) => Err(io::Error::other("the log store dropped an operation")),
        }
    }
}
