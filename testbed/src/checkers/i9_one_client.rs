//! I9: an inner address belongs to one client at a time.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Report;
use super::view::View;

/// Within each view no address has two peers. While an IKE SA is rekeyed, two SAs of one peer may hold it.
pub fn check(views: &[View]) -> Report {
    let mut report = Report::default();
    for view in views {
        let mut holders: HashMap<IpAddr, &str> = HashMap::new();
        for (ip, peer) in view.sas.iter().flat_map(|sa| sa.inner.iter().map(|ip| (*ip, sa.peer.as_str()))) {
            report.judged += 1;
            let holder = *holders.entry(ip).or_insert(peer);
            if holder != peer {
                report.violations.push(format!("{}: {ip} belongs to {holder} and to {peer}", view.whose));
            }
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::super::view::made::sa;
    use super::*;

    #[test]
    fn a_planted_second_holder_is_caught() {
        let first = sa(1, 256, "alice", [10, 99, 0, 1]);
        for (second, violations) in [
            (sa(3, 257, "bob", [10, 99, 0, 2]), 0),
            (sa(3, 257, "alice", [10, 99, 0, 1]), 0),
            (sa(3, 257, "bob", [10, 99, 0, 1]), 1),
        ] {
            let report = check(&[View::new("edge-1", vec![first.clone(), second])]);
            assert_eq!((report.judged, report.violations.len()), (2, violations), "{report:?}");
        }
    }
}
