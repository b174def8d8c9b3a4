//! I8: no inner packet crosses the outer cable unprotected, and nothing comes in from outside its SA's selectors.

use std::net::IpAddr;

use super::pcap::{Packet, What};
use super::{Network, Report};

/// Judges the outer cable: every packet with an inner address on it, in either place, is a leak.
pub fn check_outside(packets: &[Packet], inner: &[Network]) -> Report {
    let mut report = Report::default();
    for packet in packets {
        report.judged += 1;
        let leaks = |ip: IpAddr| inner.iter().any(|network| network.contains(ip));
        if leaks(packet.source) || leaks(packet.destination) {
            report.violations.push(format!(
                "{} -> {} in clear at {} us: {:?}",
                packet.source,
                packet.destination,
                packet.at_us,
                kind(packet)
            ));
        }
    }
    report
}

/// Judges the inner cable: what comes from a pool must come from a leased address and go to the protected network.
pub fn check_inside(
    packets: &[Packet],
    pools: &[Network],
    leased: &[IpAddr],
    protected: &[Network],
) -> Report {
    let mut report = Report::default();
    for packet in packets.iter().filter(|packet| pools.iter().any(|pool| pool.contains(packet.source))) {
        report.judged += 1;
        let allowed = leased.contains(&packet.source)
            && protected.iter().any(|network| network.contains(packet.destination));
        if !allowed {
            report.violations.push(format!("{} -> {} fits no SA", packet.source, packet.destination));
        }
    }
    report
}

fn kind(packet: &Packet) -> String {
    match &packet.what {
        What::Ike(_) => "IKE".into(),
        What::Esp(_) => "ESP".into(),
        What::Keepalive => "keepalive".into(),
        What::Other(protocol) => format!("protocol {protocol}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pcap::made;
    use super::*;

    fn net(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn clear(source: &str, destination: &str) -> Packet {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Packet { at_us: 1, source, destination, what: What::Other(6), via: 0 }
    }

    #[test]
    fn a_planted_leak_is_caught() {
        let inner = [net("10.10.0.0/24"), net("10.99.0.0/16"), net("fd00:99::/64")];
        assert_eq!(check_outside(&[made::esp(1, 256, 1, 1, b"x")], &inner).violations, Vec::<String>::new());
        for (source, destination) in
            [("10.10.0.9", "10.99.0.1"), ("198.51.100.1", "10.99.0.1"), ("fd00:99::1", "2001:db8::1")]
        {
            assert_eq!(check_outside(&[clear(source, destination)], &inner).violations.len(), 1, "{source}");
        }
    }

    #[test]
    fn a_planted_stranger_is_caught() {
        let (pools, protected) = ([net("10.99.0.0/16")], [net("10.10.0.0/24")]);
        let leased = ["10.99.0.1".parse().unwrap()];
        for (source, destination, violations) in [
            ("10.99.0.1", "10.10.0.9", 0),
            ("10.99.0.2", "10.10.0.9", 1),
            ("10.99.0.1", "10.20.0.9", 1),
            ("10.10.0.9", "10.99.0.1", 0),
        ] {
            let report = check_inside(&[clear(source, destination)], &pools, &leased, &protected);
            assert_eq!(report.violations.len(), violations, "{source} {destination}");
        }
    }
}
