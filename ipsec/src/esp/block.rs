//! Outbound sequence numbers: they come only from a block that was committed to the epoch that sends (I2).
//!
//! ```text
//!   block   first ─────────────── half ─────────────── last
//!   take      └─> next ...          └ ask for more        └ nothing: packets wait until a grant
//! ```
//!
//! A grant extends the block of its epoch or, with a new epoch, replaces it. Grants may come twice, late or out of
//! order: the next number never steps back, whatever arrives.

use super::pace::Pace;
use crate::limits::{FIRST_BLOCK, LARGEST_BLOCK};
use crate::record::Block;
use crate::types::{Epoch, EspSeq, Millis};

/// A block should last this long at the SA's rate (DESIGN, Numbers).
const BLOCK_LASTS_MS: u64 = 2_000;

/// An unanswered ask is repeated after this time.
const ASK_AGAIN_MS: u64 = 250;

/// The numbers that one outbound SA may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    epoch: Epoch,
    next: u64,
    last: u64,
    pace: Pace,
}

/// Consecutive numbers that belong to the caller alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub first: EspSeq,
    pub count: u64,
}

/// The block was not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Of an epoch that another one has followed.
    OldEpoch,
    /// Of an epoch that is not the one that the segment is served under.
    NotServed,
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers::new()
    }
}

impl Numbers {
    /// Nothing may be sent yet.
    pub fn new() -> Numbers {
        Numbers { epoch: Epoch(0), next: 1, last: 0, pace: Pace::default() }
    }

    /// Takes over a committed block. `served` is the epoch under which our running incarnation has the segment.
    //= ES-9
    pub fn grant(&mut self, block: Block, served: Epoch) -> Result<(), Refused> {
        if block.epoch != served {
            return Err(Refused::NotServed);
        }
        if block.epoch < self.epoch {
            return Err(Refused::OldEpoch);
        }
        if block.epoch > self.epoch {
            // What is left of the old epoch's block is never used.
            self.last = self.next - 1;
            (self.epoch, self.pace) = (block.epoch, Pace::default());
        }
        if block.last.0 > self.last {
            self.next = self.next.max(block.first.0).max(1);
            self.last = block.last.0;
            self.pace.answered();
        }
        Ok(())
    }

    /// The segment went to a new epoch: the old block is void, at once.
    pub fn revoke(&mut self) {
        self.last = self.next - 1;
        self.pace.answered();
    }

    /// The next `count` numbers, or as many as are left; `None` when there are none.
    //= ES-14
    pub fn take(&mut self, count: u64) -> Option<Run> {
        let count = count.min(self.left());
        if count == 0 {
            return None;
        }
        let first = EspSeq(self.next);
        self.next += count;
        Some(Run { first, count })
    }

    /// How many numbers to ask for now; `None` while the block is less than half used or an ask is under way.
    pub fn ask(&mut self, now: Millis) -> Option<u64> {
        let size = self.wanted(now);
        if self.left() * 2 > size || !self.pace.ask(ASK_AGAIN_MS, now, self.next) {
            return None;
        }
        Some(size)
    }

    /// The epoch of the block, once there was one.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The next number that would be sent.
    pub fn next(&self) -> EspSeq {
        EspSeq(self.next)
    }

    /// Numbers that may be used before the next grant.
    pub fn left(&self) -> u64 {
        (self.last + 1).saturating_sub(self.next)
    }

    /// Two seconds' worth at the rate since the last ask, within the limits of a block.
    fn wanted(&self, now: Millis) -> u64 {
        let numbers = self.pace.numbers_of(BLOCK_LASTS_MS, now, self.next).unwrap_or(FIRST_BLOCK);
        numbers.clamp(FIRST_BLOCK, LARGEST_BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const E1: Epoch = Epoch(1);
    const E2: Epoch = Epoch(2);

    fn block(epoch: Epoch, first: u64, last: u64) -> Block {
        Block { epoch, first: EspSeq(first), last: EspSeq(last) }
    }

    //= test ES-9
    #[test]
    fn the_first_number_is_one_and_none_comes_without_a_block() {
        let mut numbers = Numbers::new();
        assert_eq!(numbers.take(1), None);
        numbers.grant(block(E1, 1, 3), E1).unwrap();
        assert_eq!(numbers.take(2), Some(Run { first: EspSeq(1), count: 2 }));
        assert_eq!(numbers.take(2), Some(Run { first: EspSeq(3), count: 1 }), "a run ends with its block");
        assert_eq!(numbers.take(1), None);
    }

    #[test]
    fn grants_by_table() {
        // Starting from block 1..=100 of epoch 1 with 10 used: (grant, served) -> outcome, next, left.
        for (granted, served, outcome, next, left, why) in [
            (block(E1, 1, 200), E1, Ok(()), 11, 190, "the same block, extended"),
            (block(E1, 1, 100), E1, Ok(()), 11, 90, "a grant that came twice"),
            (block(E1, 1, 50), E1, Ok(()), 11, 90, "a grant that came late"),
            (block(E1, 150, 200), E1, Ok(()), 150, 51, "a gap is skipped, not filled"),
            (block(E2, 101, 200), E2, Ok(()), 101, 100, "a new epoch drops the rest"),
            (block(E2, 5, 200), E2, Ok(()), 11, 190, "not even a new epoch steps back"),
            (block(E2, 101, 200), E1, Err(Refused::NotServed), 11, 90, "an epoch that we do not serve"),
            (block(Epoch(0), 1, 999), Epoch(0), Err(Refused::OldEpoch), 11, 90, "an old epoch"),
            (block(E2, 1, 0), E2, Ok(()), 11, 0, "an empty block of a new epoch"),
        ] {
            let mut numbers = Numbers::new();
            numbers.grant(block(E1, 1, 100), E1).unwrap();
            numbers.take(10);
            assert_eq!(numbers.grant(granted, served), outcome, "{why}");
            assert_eq!((numbers.next().0, numbers.left()), (next, left), "{why}");
        }
    }

    #[test]
    fn more_is_asked_for_at_half_and_asked_again_in_time() {
        let mut numbers = Numbers::new();
        numbers.grant(block(E1, 1, FIRST_BLOCK), E1).unwrap();
        numbers.take(FIRST_BLOCK / 2 - 1);
        assert_eq!(numbers.ask(Millis(0)), None);
        numbers.take(1);
        assert_eq!(numbers.ask(Millis(1)), Some(FIRST_BLOCK));
        assert_eq!(numbers.ask(Millis(100)), None, "one ask is under way");
        assert!(numbers.ask(Millis(1 + ASK_AGAIN_MS)).is_some(), "it may have been lost");
        numbers.grant(block(E1, 1, 2 * FIRST_BLOCK), E1).unwrap();
        assert_eq!(numbers.ask(Millis(600)), None, "answered");
    }

    #[test]
    fn blocks_grow_to_two_seconds_of_the_rate() {
        let mut numbers = Numbers::new();
        let (mut last, mut largest) = (FIRST_BLOCK, 0);
        numbers.grant(block(E1, 1, last), E1).unwrap();
        // 100,000 numbers a second for five seconds.
        for now in 0..5_000 {
            assert!(numbers.take(100).is_some_and(|run| run.count == 100), "dry at {now} ms");
            if let Some(count) = numbers.ask(Millis(now)) {
                last += count;
                largest = largest.max(count);
                numbers.grant(block(E1, 1, last), E1).unwrap();
            }
        }
        assert!((150_000..=250_000).contains(&largest), "{largest}");
    }

    proptest! {
        //= test ES-9
        #[test]
        fn no_number_comes_twice(steps in prop::collection::vec((0u8..3, 0u64..400, 0u64..400, 0u32..4), 0..60)) {
            let mut numbers = Numbers::new();
            let mut highest = 0;
            for (kind, a, b, epoch) in steps {
                match kind {
                    0 => { let _ = numbers.grant(block(Epoch(epoch), a, b), Epoch(epoch)); }
                    1 => numbers.revoke(),
                    _ => if let Some(run) = numbers.take(a) {
                        prop_assert!(run.first.0 > highest);
                        highest = run.first.0 + run.count - 1;
                    },
                }
            }
        }
    }
}
