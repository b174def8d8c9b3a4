//! I2: a sequence number is sent only if it lies in a block that was committed before the send.
//!
//! The blocks come from the gateway's own account (`pontoon events`), the packets from the cable; both clocks are this
//! machine's.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Report;
use super::pcap::{Packet, What, esp_header};

/// A range of outbound numbers of one SPI, usable from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The peer's SPI, which our packets carry.
    pub spi: u32,
    pub first: u64,
    pub last: u64,
    /// When it was committed, in microseconds since 1970.
    pub at_us: u64,
}

/// Judges the ESP packets that left from `us`. `slack_us` allows for the rounding of the account.
pub fn check(packets: &[Packet], us: IpAddr, grants: &[Grant], slack_us: u64) -> Report {
    let mut of_spi: HashMap<u32, Vec<Grant>> = HashMap::new();
    for grant in grants {
        of_spi.entry(grant.spi).or_default().push(*grant);
    }
    let mut report = Report::default();
    for packet in packets.iter().filter(|packet| packet.source == us) {
        let What::Esp(esp) = &packet.what else { continue };
        let Some((spi, seq)) = esp_header(esp) else { continue };
        report.judged += 1;
        let grant = of_spi.get(&spi).and_then(|grants| {
            grants.iter().find(|grant| (grant.first..=grant.last).contains(&u64::from(seq)))
        });
        match grant {
            None => report.violations.push(format!("SPI {spi:08x} number {seq} lies in no block")),
            Some(grant) if grant.at_us > packet.at_us + slack_us => report.violations.push(format!(
                "SPI {spi:08x} number {seq} left {} us before its block was committed",
                grant.at_us - packet.at_us
            )),
            Some(_) => {}
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::super::pcap::made;
    use super::*;

    #[test]
    fn planted_numbers_are_caught() {
        let grants = [
            Grant { spi: 256, first: 1, last: 10, at_us: 100 },
            Grant { spi: 256, first: 11, last: 20, at_us: 200 },
        ];
        // (SPI, number, moment), and what is wrong with it.
        for (spi, seq, at_us, wrong) in [
            (256, 1, 100, None),
            (256, 10, 150, None),
            (256, 11, 201, None),
            (256, 11, 195, None),
            (256, 11, 180, Some("before its block")),
            (256, 21, 300, Some("in no block")),
            (256, 0, 300, Some("in no block")),
            (257, 1, 300, Some("in no block")),
        ] {
            let report = check(&[made::esp(at_us, spi, seq, 1, b"x")], made::US, &grants, 5);
            assert_eq!(report.judged, 1);
            match wrong {
                None => assert_eq!(report.violations, Vec::<String>::new(), "{spi} {seq} {at_us}"),
                Some(wrong) => assert!(report.violations[0].contains(wrong), "{report:?}"),
            }
        }
    }
}
