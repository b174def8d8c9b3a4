//! I3: every retransmission of a message is the same octets, and a reply leaves after its commit.
//!
//! Replies of IKE_SA_INIT, and IKE_AUTH replies that refuse, are exempt by the design: they may be made anew.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::pcap::{IKE_AUTH, IKE_SA_INIT, IkeHeader, Packet, What};
use super::{Report, fingerprint};

/// When the state that a reply implies was committed, by the gateway's own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub spi_i: u64,
    pub spi_r: u64,
    pub message_id: u32,
    /// Microseconds since 1970.
    pub at_us: u64,
}

/// Judges what left from `us`. IKE_AUTH is judged only for the SAs in `established` (by the initiator's SPI), since a
/// refusal may differ. A commit that is not in the list is not judged.
pub fn check(
    packets: &[Packet],
    us: IpAddr,
    established: &[u64],
    commits: &[Commit],
    slack_us: u64,
) -> Report {
    let established: HashSet<u64> = established.iter().copied().collect();
    let commits: HashMap<_, _> = commits
        .iter()
        .map(|commit| ((commit.spi_i, commit.spi_r, commit.message_id), commit.at_us))
        .collect();
    let mut seen = HashMap::new();
    let mut report = Report::default();
    for packet in packets.iter().filter(|packet| packet.source == us) {
        let What::Ike(message) = &packet.what else { continue };
        let Some(header) = IkeHeader::read(message) else { continue };
        let exempt = header.exchange == IKE_SA_INIT
            || header.exchange == IKE_AUTH && !established.contains(&header.spi_i);
        if exempt {
            continue;
        }
        report.judged += 1;
        let key = (header.spi_i, header.spi_r, header.is_response, header.message_id, header.fragment);
        let print = fingerprint(message);
        if *seen.entry(key).or_insert(print) != print {
            report.violations.push(format!("message {} of {:016x} changed", header.message_id, header.spi_i));
        }
        let commit = commits.get(&(header.spi_i, header.spi_r, header.message_id));
        if let Some(&at_us) = commit.filter(|&&at_us| header.is_response && at_us > packet.at_us + slack_us) {
            report.violations.push(format!(
                "reply {} of {:016x} left {} us before its commit",
                header.message_id,
                header.spi_i,
                at_us - packet.at_us
            ));
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::super::pcap::made;
    use super::*;

    const REPLY: u8 = 0x20;

    #[test]
    fn the_same_octets_pass() {
        let packets = [
            made::ike(1, 35, REPLY, 1, 1, b"reply"),
            made::ike(2, 35, REPLY, 1, 1, b"reply"),
            made::ike(3, 37, REPLY, 2, 2, b"next"),
            made::ike(4, 37, 0, 2, 3, b"a request with the same number"),
        ];
        assert_eq!(check(&packets, made::US, &[7], &[], 0), Report { judged: 4, violations: Vec::new() });
    }

    #[test]
    fn planted_changes_are_caught() {
        let changed = [made::ike(1, 37, REPLY, 2, 1, b"reply"), made::ike(2, 37, REPLY, 2, 2, b"other")];
        assert_eq!(check(&changed, made::US, &[7], &[], 0).violations.len(), 1);
        let refused = [made::ike(1, 35, REPLY, 1, 1, b"no"), made::ike(2, 35, REPLY, 1, 2, b"no again")];
        assert_eq!(check(&refused, made::US, &[], &[], 0).judged, 0);
        assert_eq!(check(&refused, made::US, &[7], &[], 0).violations.len(), 1);
    }

    #[test]
    fn a_planted_early_reply_is_caught() {
        let reply = [made::ike(100, 37, REPLY, 2, 1, b"reply")];
        for (at_us, violations) in [(90, 0), (104, 0), (120, 1)] {
            let commit = Commit { spi_i: 7, spi_r: 9, message_id: 2, at_us };
            assert_eq!(check(&reply, made::US, &[7], &[commit], 5).violations.len(), violations, "{at_us}");
        }
    }
}
