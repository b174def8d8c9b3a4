//! When to ask for more numbers, and for how many: so that they last a given time at the rate of late.

use crate::types::Millis;

/// The asks for the numbers of one direction of an SA. The number where the counter stood at one ask and at a later one
/// gives the rate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pace {
    /// When more was asked for, while that is unanswered.
    asked: Option<Millis>,
    mark: Option<(Millis, u64)>,
}

impl Pace {
    /// The numbers of `lasts_ms` at the rate since the mark; `None` while there was no ask.
    pub fn numbers_of(&self, lasts_ms: u64, now: Millis, number: u64) -> Option<u64> {
        let (at, marked) = self.mark?;
        let elapsed = now.since(at).max(1);
        Some(number.saturating_sub(marked).saturating_mul(lasts_ms) / elapsed)
    }

    /// Whether to ask now: not while an ask is under way, unless it has had `again_ms`.
    pub fn ask(&mut self, again_ms: u64, now: Millis, number: u64) -> bool {
        if self.asked.is_some_and(|asked| now.since(asked) < again_ms) {
            return false;
        }
        self.asked = Some(now);
        if self.mark.is_none_or(|(at, _)| now.since(at) >= again_ms) {
            self.mark = Some((now, number));
        }
        true
    }

    pub fn answered(&mut self) {
        self.asked = None;
    }
}
