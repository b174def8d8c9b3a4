//! I5: a deleted SA stays deleted: nothing is sent on it again, and nobody shows it, also after a later failover.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Report;
use super::pcap::{IkeHeader, Packet, What, esp_header};
use super::view::{Sa, View};

/// An SA and when its peer had the answer to the delete, in microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub sa: Sa,
    pub at_us: u64,
}

/// Judges what left from `us`, and views that were taken after all of the deletes. A reply that was sent once may be
/// repeated for as long as a peer may ask again, so IKE messages count only when they are requests.
pub fn check(packets: &[Packet], us: IpAddr, deleted: &[Deleted], views: &[View]) -> Report {
    let children: HashMap<u32, u64> =
        deleted.iter().flat_map(|one| one.sa.children.iter().map(|&spi| (spi, one.at_us))).collect();
    let ikes: HashMap<(u64, u64), u64> = deleted.iter().map(|one| (one.sa.ike, one.at_us)).collect();
    let mut report = Report::default();
    for packet in packets.iter().filter(|packet| packet.source == us) {
        let (gone_us, what) = match &packet.what {
            What::Esp(esp) => match esp_header(esp) {
                Some((spi, seq)) => (children.get(&spi), format!("SPI {spi:08x} number {seq}")),
                None => continue,
            },
            What::Ike(message) => match IkeHeader::read(message) {
                Some(header) if !header.is_response => {
                    let ike = (header.spi_i, header.spi_r);
                    (ikes.get(&ike), format!("request {} of {:016x}", header.message_id, header.spi_i))
                }
                _ => continue,
            },
            _ => continue,
        };
        report.judged += 1;
        if let Some(&gone_us) = gone_us.filter(|&&gone_us| packet.at_us > gone_us) {
            report.violations.push(format!("{what} left {} us after its delete", packet.at_us - gone_us));
        }
    }
    for view in views {
        report.judged += 1;
        let again = view.sas.iter().filter(|sa| ikes.contains_key(&sa.ike));
        report.violations.extend(again.map(|sa| format!("{} shows {:016x} again", view.whose, sa.ike.0)));
        let spis = view.sas.iter().flat_map(|sa| &sa.children).filter(|spi| children.contains_key(spi));
        report.violations.extend(spis.map(|spi| format!("{} shows the child {spi:08x} again", view.whose)));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::super::pcap::made;
    use super::super::view::made::sa;
    use super::*;

    #[test]
    fn planted_revivals_are_caught() {
        let gone = Deleted { sa: sa(7, 256, "alice", [10, 99, 0, 1]), at_us: 100 };
        let other = sa(20, 257, "bob", [10, 99, 0, 2]);
        let ike = |at_us, flags| {
            let mut packet = made::ike(at_us, 37, flags, 3, 1, b"x");
            if let What::Ike(message) = &mut packet.what {
                message[8..16].copy_from_slice(&8u64.to_be_bytes());
            }
            packet
        };
        for (packet, sas, wrong) in [
            (made::esp(99, 256, 5, 5, b"before"), vec![other.clone()], None),
            (made::esp(200, 257, 5, 5, b"another"), vec![], None),
            (ike(200, 0x20), vec![], None),
            (made::esp(101, 256, 5, 5, b"after"), vec![], Some("number 5")),
            (ike(101, 0), vec![], Some("request 3")),
            (made::esp(99, 256, 5, 5, b"before"), vec![gone.sa.clone()], Some("again")),
        ] {
            let report = check(&[packet], made::US, std::slice::from_ref(&gone), &[View::new("edge-1", sas)]);
            match wrong {
                None => assert_eq!(report.violations, Vec::<String>::new()),
                Some(wrong) => assert!(report.violations[0].contains(wrong), "{report:?}"),
            }
        }
    }
}
