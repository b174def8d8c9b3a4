//! S19: the control plane is one register. Each configuration that is put in force gets a revision, under the condition
//! that a certain one was in force before.
//!
//! Written apart from the code that it judges, and complete for such a register: with values that only grow by one, an order
//! that explains what everybody saw exists exactly if revisions are unique, each follows the one that it was conditional on,
//! and no operation that began after another had ended got an earlier one (Herlihy and Wing, 1990).

use std::collections::BTreeMap;

use super::Report;

/// One attempt to put a configuration in force. Times in microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub by: String,
    pub from_us: u64,
    pub to_us: u64,
    /// The condition.
    pub after: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In force, with this revision.
    Done(u64),
    /// Another revision was in force.
    Refused,
    /// It may have come about, or may yet.
    Unknown,
}

/// `first`: the revision that was in force when it began.
pub fn check(attempts: &[Attempt], first: u64) -> Report {
    let mut report = Report { judged: attempts.len() as u64, ..Report::default() };
    let mut known: BTreeMap<u64, &Attempt> = BTreeMap::new();
    for attempt in attempts {
        let Outcome::Done(revision) = attempt.outcome else { continue };
        if revision != attempt.after + 1 {
            report.violations.push(format!("{attempt:?} does not follow its condition"));
        }
        if let Some(other) = known.insert(revision, attempt) {
            report.violations.push(format!("{attempt:?} has the revision of {other:?}"));
        }
    }
    // By revision: whoever comes later must not have ended before an earlier one began.
    let mut latest: Option<&Attempt> = None;
    for attempt in known.values() {
        if let Some(before) = latest.filter(|before| attempt.to_us < before.from_us) {
            report
                .violations
                .push(format!("{attempt:?} ended before {before:?} began, and has a later revision"));
        }
        if latest.is_none_or(|before| before.from_us < attempt.from_us) {
            latest = Some(attempt);
        }
    }
    // A condition names a revision that was there: somebody made it, and began before this ended.
    for attempt in attempts.iter().filter(|attempt| attempt.after > first) {
        let made = |by: &Attempt| match by.outcome {
            Outcome::Done(revision) => revision == attempt.after,
            Outcome::Refused => false,
            Outcome::Unknown => by.after + 1 == attempt.after,
        };
        if !attempts.iter().any(|by| made(by) && by.from_us <= attempt.to_us) {
            report.violations.push(format!("{attempt:?} builds upon a revision that nobody has made"));
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(from_us: u64, to_us: u64, after: u64, outcome: Outcome) -> Attempt {
        Attempt { by: "edge-1".into(), from_us, to_us, after, outcome }
    }

    fn violations(attempts: &[Attempt]) -> usize {
        check(attempts, 1).violations.len()
    }

    #[test]
    fn what_one_register_may_do_passes() {
        let history = [
            attempt(0, 10, 1, Outcome::Done(2)),
            attempt(0, 12, 1, Outcome::Refused),
            attempt(5, 90, 2, Outcome::Unknown),
            attempt(20, 30, 3, Outcome::Done(4)),
            attempt(25, 40, 4, Outcome::Done(5)),
        ];
        assert_eq!(check(&history, 1), Report { judged: 5, violations: vec![] });
    }

    #[test]
    fn a_planted_fault_of_each_kind_is_caught() {
        let done = attempt(0, 10, 1, Outcome::Done(2));
        // Two have won, as with two leaders.
        assert_eq!(violations(&[done.clone(), attempt(5, 15, 1, Outcome::Done(2))]), 1);
        // A condition that was not looked at.
        assert_eq!(violations(&[done.clone(), attempt(20, 30, 1, Outcome::Done(3))]), 1);
        // An acknowledged one is lost, and its revision is given again.
        assert_eq!(violations(&[done.clone(), attempt(20, 30, 1, Outcome::Done(2))]), 1);
        // Time runs backwards.
        assert_eq!(
            violations(&[attempt(50, 60, 1, Outcome::Done(2)), attempt(10, 20, 2, Outcome::Done(3))]),
            2
        );
        // A revision out of nowhere.
        assert_eq!(violations(&[done, attempt(20, 30, 7, Outcome::Done(8))]), 1);
    }
}
