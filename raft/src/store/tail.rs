//! The end of the log in memory: what is not on disk yet must be readable, and what was just written is read again
//! soon (to be applied, and to be sent to the other nodes).
//!
//! ```text
//!     purged                 front                 written              last
//!   ─────┬─────────────────────┬──────────────────────┬───────────────────┐
//!        │   on disk only      │  on disk and here    │   here only       │
//! ```
//!
//! Entries leave at the front once they are on disk and the tail is heavier than `TAIL_LEN_MAX`.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::error::StoreError;
use super::{Bounds, Entry, LogId};

/// Octets of entries kept in memory.
const TAIL_LEN_MAX: usize = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct Tail {
    pub bounds: Bounds,
    /// Set by the first error, and by nothing after it.
    pub failed: Option<Arc<StoreError>>,
    /// Without a hole; the last one is `bounds.last`.
    entries: VecDeque<Entry>,
    weight: usize,
    /// The index of the first entry, or where it would be.
    first: u64,
    /// The first index that is not on disk yet.
    unwritten: u64,
}

/// Where the entries of a range are.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    /// To be read from disk.
    pub on_disk: Range<u64>,
    /// Those that follow.
    pub here: Vec<Entry>,
}

impl Tail {
    /// Of a log on disk whose first entry has the index `first`.
    pub fn new(bounds: Bounds, first: u64) -> Tail {
        Tail { bounds, first, unwritten: bounds.last.map_or(0, |last| last.index + 1), ..Tail::default() }
    }

    pub fn last_index(&self) -> Option<u64> {
        self.bounds.last.map(|last| last.index)
    }

    pub fn check(&self) -> Result<(), StoreError> {
        match &self.failed {
            None => Ok(()),
            Some(error) => Err(StoreError::Stopped(error.clone())),
        }
    }

    pub fn push(&mut self, entry: Entry) {
        match self.bounds.last {
            Some(last) => assert_eq!(entry.id.index, last.index + 1, "the log has no hole"),
            None => self.first = entry.id.index,
        }
        self.bounds.last = Some(entry.id);
        self.weight += entry.weight();
        self.entries.push_back(entry);
    }

    pub fn truncate(&mut self, after: Option<LogId>) {
        let keep_to = after.map(|id| id.index);
        if keep_to >= self.last_index() {
            return;
        }
        while self.entries.back().is_some_and(|entry| Some(entry.id.index) > keep_to) {
            self.weight -= self.entries.pop_back().map_or(0, |entry| entry.weight());
        }
        self.bounds.last = after.max(self.bounds.purged);
        self.unwritten = self.unwritten.min(self.last_index().map_or(0, |last| last + 1));
    }

    pub fn purge(&mut self, upto: LogId) {
        while self.entries.front().is_some_and(|entry| entry.id.index <= upto.index) {
            self.weight -= self.entries.pop_front().map_or(0, |entry| entry.weight());
        }
        self.bounds.purged = self.bounds.purged.max(Some(upto));
        self.first = self.first.max(upto.index + 1);
        if self.last_index() < Some(upto.index) {
            self.bounds.last = Some(upto);
        }
    }

    /// Entries up to `index` are on disk; lets go of what is too much.
    pub fn written(&mut self, index: u64) {
        self.unwritten = self.unwritten.max(index + 1);
        while self.weight > TAIL_LEN_MAX
            && self.entries.front().is_some_and(|entry| entry.id.index < self.unwritten)
        {
            self.weight -= self.entries.pop_front().map_or(0, |entry| entry.weight());
        }
    }

    /// The part of `range` that the log has, and where it is.
    pub fn find(&self, range: Range<u64>) -> Found {
        let end = self.last_index().map_or(0, |last| last + 1);
        let (start, end) = (range.start.max(self.first), range.end.min(end));
        if start >= end {
            return Found { on_disk: 0..0, here: Vec::new() };
        }
        let front = self.entries.front().map_or(end, |entry| entry.id.index);
        let from = start.max(front);
        let here = if from < end {
            let (skip, take) = ((from - front) as usize, (end - from) as usize);
            self.entries.range(skip..skip + take).cloned().collect()
        } else {
            Vec::new()
        };
        Found { on_disk: start..front.clamp(start, end), here }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Payload;
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: 1, node: 1, index }
    }

    fn entry(index: u64) -> Entry {
        Entry { id: id(index), payload: Payload::Blank }
    }

    fn indices(found: &Found) -> Vec<u64> {
        found.here.iter().map(|entry| entry.id.index).collect()
    }

    #[test]
    fn a_range_is_split_between_disk_and_memory() {
        let bounds = Bounds { purged: Some(id(10)), last: Some(id(20)), ..Bounds::default() };
        let mut tail = Tail::new(bounds, 11);
        (21..=25).for_each(|index| tail.push(entry(index)));
        for (range, on_disk, here) in [
            (0..100, 11..21, vec![21, 22, 23, 24, 25]),
            (15..22, 15..21, vec![21]),
            (11..15, 11..15, vec![]),
            (23..25, 23..23, vec![23, 24]),
            (0..11, 0..0, vec![]),
            (26..30, 0..0, vec![]),
        ] {
            let found = tail.find(range.clone());
            assert_eq!(found.on_disk, on_disk, "{range:?}");
            assert_eq!(indices(&found), here, "{range:?}");
        }
    }

    #[test]
    fn purge_and_truncate_move_the_ends() {
        let mut tail = Tail::new(Bounds::default(), 0);
        (0..10).for_each(|index| tail.push(entry(index)));
        tail.truncate(Some(id(6)));
        assert_eq!(tail.bounds.last, Some(id(6)));
        tail.purge(id(3));
        assert_eq!(indices(&tail.find(0..100)), [4, 5, 6]);
        tail.purge(id(50));
        assert_eq!(tail.bounds.last, Some(id(50)));
        assert_eq!(tail.weight, 0);
        tail.push(entry(51));
        tail.truncate(None);
        assert_eq!(tail.bounds.last, Some(id(50)));
    }

    #[test]
    fn only_what_is_on_disk_leaves_memory() {
        let mut tail = Tail::new(Bounds::default(), 0);
        let heavy = Payload::Command(Arc::new(crypto::Secret::from(vec![0; TAIL_LEN_MAX / 4])));
        (0..8).for_each(|index| tail.push(Entry { id: id(index), payload: heavy.clone() }));
        assert_eq!(tail.find(0..8).here.len(), 8);
        tail.written(2);
        assert_eq!(tail.find(0..8).on_disk, 0..3);
        tail.written(7);
        assert_eq!(tail.find(0..8).on_disk, 0..5);
    }
}
