//! S19: the control plane is one register. Each configuration that is put in force gets a revision, under the condition
//! that a certain one was in force before.
//!
//! Written apart from the code that it judges, and exact for the changes of such a register: values only grow by one, so an
//! order that explains what everybody saw is the order of the revisions, and it exists exactly if each revision has one maker
//! that began before everything with a later revision had ended (Herlihy and Wing, 1990). Where the maker of a revision has
//! heard nothing, the earliest of those who may be it is taken. Refusals are not judged: a node refuses by what it has
//! applied, which may be behind.

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

/// `first` was in force when it began, `last` is in the end.
pub fn check(attempts: &[Attempt], first: u64, last: u64) -> Report {
    let mut report = Report { judged: attempts.len() as u64, ..Report::default() };
    let mut done: BTreeMap<u64, &Attempt> = BTreeMap::new();
    // By the revision that it would have made.
    let mut unknown: BTreeMap<u64, &Attempt> = BTreeMap::new();
    for attempt in attempts {
        match attempt.outcome {
            Outcome::Done(revision) => {
                if revision != attempt.after + 1 || revision <= first {
                    report.violations.push(format!("{attempt:?} does not follow its condition, or {first}"));
                }
                if let Some(other) = done.insert(revision, attempt) {
                    report.violations.push(format!("{attempt:?} has the revision of {other:?}"));
                }
            }
            Outcome::Unknown => {
                let earliest = unknown.entry(attempt.after + 1).or_insert(attempt);
                if attempt.from_us < earliest.from_us {
                    *earliest = attempt;
                }
            }
            Outcome::Refused => {}
        }
    }
    if let Some((lost, attempt)) = done.iter().next_back().filter(|(revision, _)| **revision > last) {
        report.violations.push(format!("revision {lost} of {attempt:?} is lost: in the end it is {last}"));
    }
    let highest = done.keys().next_back().copied().unwrap_or(first).max(last);
    let mut deadline_us = u64::MAX;
    for revision in (first + 1..=highest).rev() {
        let acknowledged = done.get(&revision);
        match acknowledged.or_else(|| unknown.get(&revision)) {
            None => report.violations.push(format!("nobody has made revision {revision}")),
            Some(maker) if maker.from_us > deadline_us => {
                report.violations.push(format!("{maker:?} began after a later revision was acknowledged"));
            }
            Some(_) => {}
        }
        deadline_us = acknowledged.map_or(deadline_us, |attempt| deadline_us.min(attempt.to_us));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(from_us: u64, to_us: u64, after: u64, outcome: Outcome) -> Attempt {
        Attempt { by: "edge-1".into(), from_us, to_us, after, outcome }
    }

    fn violations(attempts: &[Attempt], last: u64) -> usize {
        check(attempts, 1, last).violations.len()
    }

    #[test]
    fn what_one_register_may_do_passes() {
        let history = [
            attempt(0, 10, 1, Outcome::Done(2)),
            attempt(0, 12, 1, Outcome::Refused),
            attempt(5, 90, 2, Outcome::Unknown),
            attempt(20, 30, 3, Outcome::Done(4)),
            attempt(25, 40, 4, Outcome::Done(5)),
            attempt(50, 99, 5, Outcome::Unknown),
        ];
        for last in [5, 6] {
            assert_eq!(check(&history, 1, last), Report { judged: 6, violations: vec![] });
        }
    }

    #[test]
    fn a_planted_fault_of_each_kind_is_caught() {
        let done = attempt(0, 10, 1, Outcome::Done(2));
        // Two have won, as with two leaders.
        assert_eq!(violations(&[done.clone(), attempt(5, 15, 1, Outcome::Done(2))], 2), 1);
        // A condition that was not looked at.
        assert_eq!(violations(&[done.clone(), attempt(20, 30, 1, Outcome::Done(3))], 3), 1);
        assert_eq!(violations(&[attempt(0, 10, 0, Outcome::Done(1))], 1), 1);
        // An acknowledged one is lost: its revision is given again, or is not there in the end.
        assert_eq!(violations(&[done.clone(), attempt(20, 30, 1, Outcome::Done(2))], 2), 1);
        assert_eq!(violations(std::slice::from_ref(&done), 1), 1);
        // Time runs backwards, by one that is known and by one that is not.
        let later = attempt(10, 20, 2, Outcome::Done(3));
        assert_eq!(violations(&[attempt(50, 60, 1, Outcome::Done(2)), later], 3), 1);
        let history = [
            done.clone(),
            attempt(100, 110, 2, Outcome::Unknown),
            attempt(20, 200, 3, Outcome::Done(4)),
            attempt(25, 30, 4, Outcome::Done(5)),
        ];
        assert_eq!(violations(&history, 5), 1);
        // A revision out of nowhere.
        assert_eq!(violations(&[done, attempt(20, 30, 3, Outcome::Done(4))], 4), 1);
    }
}
