//! Sequence numbers and IVs of one child SA for each segment: what is granted, what is sent, what must never be.
//!
//! ```text
//!   numbers   1 | 2 | 3 4 | 5           each belongs to the epoch that it was granted to, for ever
//!   epochs    1 | 2 | 2   | 3           an Assign grants a block, a Reserve lengthens it
//!   IVs       (epoch, counter)          the counter starts at 0 with the actor
//! ```
//!
//! No clock and no lease is in here: an owner sends whenever it believes to own. Timing may cost packets, never these.

/// Numbers in a block. One is enough: what matters is whose block a number is in, not how many there are.
pub const BLOCK: u8 = 1;
/// What the variant without blocks adds to the last number that it saw.
pub const SKIP: u8 = 1;
/// No configuration grants more.
pub const NUMBERS_MAX: u8 = 7;
/// Counters of one epoch that the model can tell apart.
const COUNTERS_MAX: u8 = 8;

pub const NUMBERS_ONCE: &str = "I1  no sequence number leaves twice";
pub const IVS_ONCE: &str = "I1  no IV leaves twice under one key";
pub const WITHIN_BLOCK: &str = "I2  a number is sent only from a block of that epoch";

/// What the log says of a child's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grants {
    /// First number of the current block.
    pub first: u8,
    /// Last number ever granted, so of the current block.
    pub granted: u8,
    pub reserved: u8,
    /// The epoch of each granted number.
    epochs: [u8; NUMBERS_MAX as usize],
}

/// What left the nodes under one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ivs {
    used: u32,
    pub twice: bool,
}

/// What left the nodes as ESP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sent {
    numbers: u16,
    pub ivs: Ivs,
    pub twice: bool,
    pub outside: bool,
}

impl Grants {
    /// A new epoch: a fresh block behind all that was ever granted.
    pub fn renew(&mut self, epoch: u8) {
        self.first = self.granted + 1;
        self.lengthen(epoch);
    }

    pub fn reserve(&mut self, epoch: u8) {
        self.reserved += 1;
        self.lengthen(epoch);
    }

    fn lengthen(&mut self, epoch: u8) {
        let first = usize::from(self.granted);
        self.granted += BLOCK;
        self.epochs[first..usize::from(self.granted)].fill(epoch);
    }

    fn epoch_of(&self, number: u8) -> u8 {
        self.epochs[usize::from(number) - 1]
    }
}

impl Ivs {
    pub fn leave(&mut self, epoch: u8, counter: u8) {
        assert!(epoch > 0 && counter < COUNTERS_MAX, "the bounds are too wide for this set");
        let bit = 1 << ((epoch - 1) * COUNTERS_MAX + counter);
        self.twice |= self.used & bit != 0;
        self.used |= bit;
    }
}

impl Sent {
    /// A packet leaves; `grants` is what is committed by then.
    pub fn leave(&mut self, number: u8, epoch: u8, counter: u8, grants: &Grants) {
        self.twice |= self.numbers & (1 << number) != 0;
        self.numbers |= 1 << number;
        self.outside |= grants.epoch_of(number) != epoch;
        self.ivs.leave(epoch, counter);
    }
}
