//! Inbound sequence numbers where nothing may be taken in twice (`replay = "strict"`): a number is accepted only once it
//! is claimed in the log for the epoch that accepts it (CL-14).
//!
//! ```text
//!   claim   floor ........ highest received ....... half ....... ceiling
//!            │ the window judges      │                └ claim more   └ nothing: dropped until a claim is committed
//!            └ a new epoch begins at the ceiling of the old one
//! ```

use super::pace::Pace;
use crate::limits::{FIRST_CLAIM, LARGEST_CLAIM};
use crate::record::Claimed;
use crate::types::{EspSeq, Millis};

/// A claim should last this long at the peer's rate: so much of what the peer sends is lost after a crash.
const CLAIM_LASTS_MS: u64 = 200;

/// An unanswered claim is repeated after this time.
const ASK_AGAIN_MS: u64 = 50;

/// The numbers that one inbound SA may accept in one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    floor: EspSeq,
    ceiling: EspSeq,
    stranded: bool,
    pace: Pace,
}

impl Claim {
    /// Nothing may be accepted yet.
    pub fn new() -> Claim {
        Claim::default()
    }

    /// Takes over a committed claim of the served epoch. Claims may come twice, late or out of order.
    pub fn raise(&mut self, claimed: Claimed) {
        self.floor = self.floor.max(claimed.floor);
        if claimed.ceiling > self.ceiling {
            self.ceiling = claimed.ceiling;
            self.pace.answered();
        }
    }

    pub fn covers(&self, number: EspSeq) -> bool {
        number <= self.ceiling
    }

    /// Whether a peer that sends `number`, and nothing past `edge` so far, is stranded, and that was not noted yet: what
    /// it sends is taken for a replay until it has passed the floor.
    pub fn strands(&self, number: EspSeq, edge: EspSeq) -> bool {
        number <= self.floor && edge == self.floor && !self.stranded
    }

    pub fn note_stranded(&mut self) {
        self.stranded = true;
    }

    /// How far to claim now that `number` has come in; `None` while less than half is used or a claim is under way.
    pub fn ask(&mut self, number: EspSeq, now: Millis) -> Option<EspSeq> {
        let wanted = self.pace.numbers_of(CLAIM_LASTS_MS, now, number.0).unwrap_or(FIRST_CLAIM);
        let wanted = wanted.clamp(FIRST_CLAIM, LARGEST_CLAIM);
        let left = self.ceiling.0.saturating_sub(number.0);
        if left * 2 > wanted || !self.pace.ask(ASK_AGAIN_MS, now, number.0) {
            return None;
        }
        Some(EspSeq(number.0.saturating_add(wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upto(ceiling: u64) -> Claimed {
        Claimed { ceiling: EspSeq(ceiling), ..Claimed::FIRST }
    }

    #[test]
    fn nothing_is_covered_before_a_claim_and_none_falls() {
        let mut claim = Claim::new();
        assert!(!claim.covers(EspSeq(1)));
        claim.raise(upto(16));
        assert!(claim.covers(EspSeq(16)) && !claim.covers(EspSeq(17)));
        claim.raise(upto(9));
        assert!(claim.covers(EspSeq(16)), "a claim that came late");
    }

    //= test CL-14
    #[test]
    fn a_claim_is_asked_for_in_time_and_once() {
        let mut claim = Claim::new();
        claim.raise(upto(16));
        assert_eq!(claim.ask(EspSeq(7), Millis(1)), None, "more than half is left");
        assert_eq!(claim.ask(EspSeq(8), Millis(1)), Some(EspSeq(24)));
        assert_eq!(claim.ask(EspSeq(12), Millis(2)), None, "it is under way");
        assert_eq!(claim.ask(EspSeq(9), Millis(51)), Some(EspSeq(25)), "it got lost");
    }

    #[test]
    fn a_claim_follows_the_rate_of_the_peer() {
        let mut claim = Claim::new();
        claim.raise(upto(16));
        let (mut number, mut asks) = (0, 0);
        // 20 numbers a millisecond; each claim takes three milliseconds.
        let mut under_way = None;
        for ms in 1..=1_000 {
            if let Some((_, ceiling)) = under_way.take_if(|(at, _)| *at <= ms) {
                claim.raise(upto(ceiling));
            }
            for _ in 0..20 {
                number += 1;
                if let Some(EspSeq(ceiling)) = claim.ask(EspSeq(number), Millis(ms)) {
                    assert!(ceiling - number <= 4_400, "{} ahead at {ms} ms", ceiling - number);
                    (under_way, asks) = (Some((ms + 3, ceiling)), asks + 1);
                }
                assert!(ms < 20 || claim.covers(EspSeq(number)), "number {number} at {ms} ms waits");
            }
        }
        assert!(asks < 20, "{asks} entries of the log in a second");
    }
}
