//! Which ESP numbers of a child its owner may send, and which it may accept: both only ever grow.

use crate::limits;
use crate::types::{Epoch, EspSeq};

use super::{Block, ChildRecord, Claimed};

impl ChildRecord {
    /// The last number that may ever be sent: without ESN the counter must not cycle (RFC 4303, 3.3.3).
    pub fn last_number(&self) -> EspSeq {
        if self.suite.esn { EspSeq(u64::MAX - 1) } else { EspSeq(u64::from(u32::MAX)) }
    }

    /// Grants the next `count` numbers to `epoch` and returns the block that this epoch may now use: a longer one
    /// of the same epoch, or the first of a new epoch. Granted numbers are never granted again, whether used or
    /// not. `None` when there are none left.
    //= ES-9
    pub fn grant(&mut self, epoch: Epoch, count: u64) -> Option<Block> {
        let first = EspSeq(self.granted.0 + 1);
        let last = EspSeq(self.granted.0.saturating_add(count).min(self.last_number().0));
        if count == 0 || first > last {
            return None;
        }
        assert!(epoch >= self.block.epoch, "blocks are granted to epochs in their order");
        let goes_on = self.block != Block::NONE && self.block.epoch == epoch;
        self.block = Block { epoch, first: if goes_on { self.block.first } else { first }, last };
        self.granted = last;
        Some(self.block)
    }

    /// Lets the present owner accept numbers of the peer up to `upto`; what was claimed stays claimed. Nothing happens
    /// to a child with `replay = "bounded"`.
    //= CL-14
    pub fn claim(&mut self, upto: EspSeq) {
        let last = self.last_number();
        if let Some(claimed) = &mut self.claimed {
            claimed.ceiling = claimed.ceiling.max(upto.min(last));
        }
    }

    /// A new epoch begins: whatever an older one could have accepted counts as received.
    //= CL-14
    pub fn claim_anew(&mut self) {
        if let Some(claimed) = &mut self.claimed {
            claimed.floor = claimed.ceiling;
        }
        if let Some(Claimed { floor, .. }) = self.claimed {
            self.claim(EspSeq(floor.0.saturating_add(limits::FIRST_CLAIM)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::samples;

    //= test ES-9
    #[test]
    fn granted_numbers_are_never_granted_again() {
        let mut child = samples::child(1);
        child.granted = EspSeq(0);
        child.block = Block::NONE;
        let block = |epoch, first, last| {
            Some(Block { epoch: Epoch(epoch), first: EspSeq(first), last: EspSeq(last) })
        };
        assert_eq!(child.grant(Epoch(3), 10), block(3, 1, 10));
        assert_eq!(child.grant(Epoch(3), 5), block(3, 1, 15), "of one epoch: a longer block");
        assert_eq!(child.grant(Epoch(4), 5), block(4, 16, 20), "of a new epoch: a fresh one");
        assert_eq!(child.grant(Epoch(4), 0), None);
        child.suite.esn = false;
        child.granted = EspSeq(u64::from(u32::MAX) - 2);
        assert_eq!(child.grant(Epoch(5), 100), block(5, u64::from(u32::MAX) - 1, u64::from(u32::MAX)));
        assert_eq!(child.grant(Epoch(5), 1), None, "without ESN the counter does not cycle");
    }
}
