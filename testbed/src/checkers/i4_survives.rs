//! I4: an SA that a peer was told exists stays until it is deleted, rekeyed or expired.
//!
//! What was told is what the client had before; every view afterwards must show the same IKE SA with the same child,
//! and no other: one that is not among what was told is a new handshake or a rekey that somebody needed.

use super::Report;
use super::view::{Sa, View};

/// `told`: what must be there, all of it and nothing else.
pub fn check(told: &[Sa], views: &[View]) -> Report {
    let mut report = Report::default();
    for view in views {
        for sa in told {
            report.judged += 1;
            match view.sas.iter().find(|seen| seen.ike == sa.ike) {
                None => report.violations.push(format!("{}: {} is gone", view.whose, name(sa))),
                Some(seen) if seen.children != sa.children => report.violations.push(format!(
                    "{}: the children of {} are {:08x?}, they were {:08x?}",
                    view.whose,
                    name(sa),
                    seen.children,
                    sa.children
                )),
                Some(_) => {}
            }
        }
        let strangers = view.sas.iter().filter(|seen| told.iter().all(|sa| sa.ike != seen.ike));
        report.violations.extend(strangers.map(|sa| format!("{}: {} is new", view.whose, name(sa))));
    }
    report
}

fn name(sa: &Sa) -> String {
    format!("the IKE SA {:016x}-{:016x} of {}", sa.ike.0, sa.ike.1, sa.peer)
}

#[cfg(test)]
mod tests {
    use super::super::view::made::sa;
    use super::*;

    #[test]
    fn planted_losses_and_strangers_are_caught() {
        let alice = sa(7, 256, "alice", [10, 99, 0, 1]);
        let bob = sa(9, 257, "bob", [10, 99, 0, 2]);
        let rekeyed = sa(7, 300, "alice", [10, 99, 0, 1]);
        let told = [alice.clone(), bob.clone()];
        for (sas, wrong) in [
            (vec![bob.clone(), alice.clone()], None),
            (vec![alice.clone()], Some("is gone")),
            (vec![rekeyed, bob.clone()], Some("children")),
            (vec![alice, bob, sa(11, 258, "alice", [10, 99, 0, 1])], Some("is new")),
        ] {
            let report = check(&told, &[View::new("edge-1", sas)]);
            assert_eq!(report.judged, 2);
            match wrong {
                None => assert_eq!(report.violations, Vec::<String>::new()),
                Some(wrong) => assert!(report.violations[0].contains(wrong), "{report:?}"),
            }
        }
    }
}
