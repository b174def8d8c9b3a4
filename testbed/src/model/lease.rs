//! Time as leases need it: how old a stamp is, in whole ticks.
//!
//! ```text
//!   tick      0          1          2 and later
//!   lease     |== valid ==|== valid ==|  lapsed                 the owner writes while its stamp is not older than LEASE
//!   wait      |           |           |== takeover allowed ==   the leader waits for LEASE + MARGIN
//! ```
//!
//! A state holds ages and no clock, and all ages past the last one that matters are one: so time may run for ever in a
//! finite model. Whole ticks lose nothing: every comparison is "at most" or "at least" a whole number, and then a run
//! in real time exists only if one with its stamps rounded does, too (Henzinger, Manna, Pnueli: What good are digital
//! clocks?, 1992). Clocks run at the same speed here; their real drift is what the margin pays for.
//!
//! A pause is nothing special: any number of ticks in which a node does nothing.

/// How long an acknowledged probe lets the owner write, counted from its sending.
const LEASE: u8 = 1;
/// How much longer the leader waits.
const MARGIN: u8 = 1;

/// How long ago something was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age(u8);

impl Age {
    pub const NOW: Age = Age(0);
    /// Also of what never was.
    pub const OLD: Age = Age(LEASE + MARGIN);

    pub fn tick(&mut self) {
        self.0 = (self.0 + 1).min(Self::OLD.0);
    }

    /// A lease counted from this stamp is valid.
    pub fn is_within_lease(self) -> bool {
        self.0 <= LEASE
    }

    /// A lease counted from this stamp has lapsed on every clock.
    pub fn is_past_margin(self) -> bool {
        self.0 >= LEASE + MARGIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_stamp_is_both_valid_and_waited_for() {
        let mut age = Age::NOW;
        for (valid, waited) in [(true, false), (true, false), (false, true), (false, true)] {
            assert_eq!((age.is_within_lease(), age.is_past_margin()), (valid, waited), "{age:?}");
            age.tick();
        }
    }
}
