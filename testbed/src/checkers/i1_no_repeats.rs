//! I1: no (SPI, sequence number) and no (key, IV) leaves twice with different content; IKE's encrypted payloads too.
//!
//! The SPI stands for the key: both name one direction of one SA. The same packet seen twice is no repeat, since a
//! retransmission is the same octets. For AES-CBC the first half of the random IV is compared, which is strict enough:
//! 2^32 packets would have to pass before two halves meet by chance.

use std::collections::HashMap;
use std::net::IpAddr;

use super::pcap::{IkeHeader, Packet, What, esp_header};
use super::{Report, fingerprint};

/// Feeds on packets one by one, so that captures may be large.
#[derive(Debug, Default)]
pub struct Checker {
    numbers: HashMap<(IpAddr, u32, u32), (usize, u64)>,
    ivs: HashMap<(IpAddr, u32, u64), (usize, u64)>,
    ike_ivs: HashMap<(u64, u64, bool, u64), (usize, u64)>,
    report: Report,
}

impl Checker {
    pub fn see(&mut self, packet: &Packet) {
        match &packet.what {
            What::Esp(esp) => self.see_esp(packet.destination, esp, packet.at_us),
            What::Ike(message) => self.see_ike(message, packet.at_us),
            _ => {}
        }
    }

    pub fn finish(self) -> Report {
        self.report
    }

    fn see_esp(&mut self, to: IpAddr, esp: &[u8], at_us: u64) {
        let Some((spi, seq)) = esp_header(esp) else { return };
        let Some(iv) = esp.get(8..16).and_then(|iv| iv.try_into().ok()).map(u64::from_be_bytes) else {
            return;
        };
        self.report.judged += 1;
        let print = fingerprint(esp);
        if *self.numbers.entry((to, spi, seq)).or_insert(print) != print {
            self.report
                .violations
                .push(format!("SPI {spi:08x} number {seq} left twice, again at {at_us} us"));
        }
        if *self.ivs.entry((to, spi, iv)).or_insert(print) != print {
            self.report
                .violations
                .push(format!("SPI {spi:08x} IV {iv:016x} left twice, again at {at_us} us"));
        }
    }

    fn see_ike(&mut self, message: &[u8], at_us: u64) {
        let Some(header) = IkeHeader::read(message) else { return };
        let Some(iv) = header.iv else { return };
        self.report.judged += 1;
        let print = fingerprint(message);
        let key = (header.spi_i, header.spi_r, header.from_initiator, iv);
        if *self.ike_ivs.entry(key).or_insert(print) != print {
            self.report.violations.push(format!(
                "IKE SA {:016x} IV {iv:016x} left twice, again at {at_us} us in message {}",
                header.spi_i, header.message_id
            ));
        }
    }
}

/// All packets at once.
pub fn check(packets: &[Packet]) -> Report {
    let mut checker = Checker::default();
    packets.iter().for_each(|packet| checker.see(packet));
    checker.finish()
}

#[cfg(test)]
mod tests {
    use super::super::pcap::made;
    use super::*;

    #[test]
    fn sound_traffic_passes() {
        let packets = [
            made::esp(1, 256, 1, 1, b"one"),
            made::esp(2, 256, 2, 2, b"two"),
            made::esp(3, 257, 1, 1, b"another key"),
            made::esp(4, 256, 2, 2, b"two"),
            made::ike(5, 35, 0x20, 1, 1, b"reply"),
            made::ike(6, 35, 0x20, 1, 1, b"reply"),
        ];
        assert_eq!(check(&packets), Report { judged: 6, violations: Vec::new() });
    }

    #[test]
    fn planted_repeats_are_caught() {
        let repeats = [
            ("number", [made::esp(1, 256, 1, 1, b"one"), made::esp(2, 256, 1, 2, b"two")]),
            ("IV", [made::esp(1, 256, 1, 1, b"one"), made::esp(2, 256, 2, 1, b"two")]),
            ("IV", [made::ike(1, 35, 0x20, 1, 1, b"one"), made::ike(2, 37, 0x20, 2, 1, b"two")]),
        ];
        for (what, packets) in repeats {
            let report = check(&packets);
            assert_eq!(report.violations.len(), 1, "{report:?}");
            assert!(report.violations[0].contains(what), "{report:?}");
        }
    }
}
