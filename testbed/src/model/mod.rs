//! Who may write, with which numbers, and whose decision counts: the protocol as a model, every reachable state visited.
//!
//! ```text
//!   takeover    leases, promises, pardons, the wait       I6   time matters, numbers do not
//!   ownership   epochs and incarnations at apply          I6   numbers matter, time does not
//!     numbers     blocks, IVs                             I1 I2
//!     records     revisions, sealed replies               I1 I3
//!   log         one committed sequence, applied at each node's own pace
//!   lease       time, as ages in whole ticks
//!   variants    each rule left out, and the property that then fails
//!   report      explores, and says what was found
//! ```
//!
//! **Why two models are enough.** What `ownership` shows holds with no lease at all, so with any lease. What `takeover`
//! shows reads no number and no record. A state of the whole is a state of each, and no property needs both.
//!
//! Both have three nodes, two segments and three epochs, crashes with restarts, lost, late and repeated messages, and
//! any number of would-be leaders. `cargo model` goes as far as `Extent::Full`; the tests stay below it, and are as
//! exhaustive within their bounds.

pub mod lease;
pub mod log;
pub mod numbers;
pub mod ownership;
pub mod records;
pub mod report;
pub mod takeover;
pub mod variants;

use ownership::Ownership;
use report::{Explored, Failed};
use takeover::Takeover;
use variants::{OF_OWNERSHIP, OF_TAKEOVER};

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What the tests explore.
    Small,
    /// More restarts, revisions and blocks, in minutes.
    Full,
}

/// Explores the right protocol; in the order of the table that is printed.
pub fn right(extent: Extent) -> impl Iterator<Item = Explored> {
    let takeovers = takeovers(extent).into_iter().map(|(name, bounds)| {
        report::explore(name, bounds.to_string(), Takeover { without: None, bounds, named: false })
    });
    let ownerships = ownerships(extent).into_iter().map(|(name, bounds)| {
        report::explore(name, bounds.to_string(), Ownership { without: None, bounds, named: false })
    });
    takeovers.chain(ownerships)
}

/// Looks for the shortest run that shows what is wrong without each rule.
pub fn wrong() -> impl Iterator<Item = Failed> {
    let takeover =
        takeover::Bounds { epochs: 3, restarts: 1, pardons: 1, moves: true, elections: 1, pauses: false };
    let ownership = ownership::Bounds {
        segments: 1,
        epochs: 3,
        restarts: 1,
        sends: true,
        reserves: 1,
        revisions: 1,
        decisions: 2,
    };
    let takeovers = OF_TAKEOVER.iter().map(move |wrong| {
        report::shortest(wrong, Takeover { without: Some(wrong.without), bounds: takeover, named: true })
    });
    let ownerships = OF_OWNERSHIP.iter().map(move |wrong| {
        report::shortest(wrong, Ownership { without: Some(wrong.without), bounds: ownership, named: true })
    });
    takeovers.chain(ownerships)
}

/// `cargo model`: true when the protocol holds and each rule is needed.
pub fn run(extent: Extent) -> bool {
    let mut good = true;
    for explored in right(extent) {
        println!("{explored}");
        good &= explored.holds();
    }
    println!("Each rule left out, and a shortest run that shows why it is there\n");
    for failed in wrong() {
        println!("{failed}");
        good &= failed.run.is_some();
    }
    good
}

fn takeovers(extent: Extent) -> Vec<(&'static str, takeover::Bounds)> {
    let base =
        takeover::Bounds { epochs: 3, restarts: 0, pardons: 1, moves: false, elections: 0, pauses: false };
    let restarts = match extent {
        Extent::Small => 1,
        Extent::Full => 2,
    };
    vec![
        ("takeover", takeover::Bounds { restarts, ..base }),
        ("takeover", takeover::Bounds { moves: true, restarts: restarts - 1, ..base }),
        ("takeover", takeover::Bounds { elections: 2, epochs: 2, ..base }),
        ("takeover", takeover::Bounds { pauses: true, ..base }),
    ]
}

fn ownerships(extent: Extent) -> Vec<(&'static str, ownership::Bounds)> {
    let none = ownership::Bounds {
        segments: 2,
        epochs: 3,
        restarts: 0,
        sends: false,
        reserves: 0,
        revisions: 0,
        decisions: 0,
    };
    let numbers = ownership::Bounds { sends: true, ..none };
    let records = ownership::Bounds { revisions: 1, decisions: 2, ..none };
    let one = |bounds: ownership::Bounds| ownership::Bounds { segments: 1, ..bounds };
    match extent {
        Extent::Small => vec![
            ("numbers", numbers),
            ("numbers", one(ownership::Bounds { restarts: 2, reserves: 1, ..numbers })),
            ("records", ownership::Bounds { epochs: 2, decisions: 1, ..records }),
            ("records", one(ownership::Bounds { restarts: 1, ..records })),
        ],
        Extent::Full => vec![
            ("numbers", ownership::Bounds { restarts: 1, ..numbers }),
            ("numbers", one(ownership::Bounds { restarts: 3, reserves: 2, ..numbers })),
            ("records", ownership::Bounds { decisions: 1, ..records }),
            ("records", one(ownership::Bounds { restarts: 2, revisions: 2, ..records })),
            (
                "numbers and records",
                one(ownership::Bounds { sends: true, reserves: 1, restarts: 1, ..records }),
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_holds() {
        for explored in right(Extent::Small) {
            println!("{explored}");
            assert!(explored.holds(), "{explored}");
        }
    }

    #[test]
    fn every_rule_is_needed() {
        for failed in wrong() {
            println!("{failed}");
            assert!(failed.run.is_some(), "nothing fails although {}", failed.instead);
        }
    }
}
