//! I6: one owner per segment and epoch, and a deposed owner is silent.
//!
//! The upper 24 bits of the IV of an AEAD suite are the epoch of the sender (DESIGN 5), and the recording knows which
//! machine a packet came from. So for each SPI: an epoch has one sender, and after the first packet of a newer epoch no
//! packet of an older one.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::Report;
use super::pcap::{Packet, What, esp_header};

/// When one machine sent on one SPI under one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spell {
    pub spi: u32,
    pub epoch: u32,
    /// The number of the device where its packets came in.
    pub via: u32,
    pub first_us: u64,
    pub last_us: u64,
    pub packets: u64,
}

/// The spells of senders, by SPI and epoch.
pub fn spells(packets: &[Packet], us: IpAddr) -> Vec<Spell> {
    let mut found: BTreeMap<(u32, u32, u32), Spell> = BTreeMap::new();
    for packet in packets.iter().filter(|packet| packet.source == us) {
        let What::Esp(esp) = &packet.what else { continue };
        let (Some((spi, _)), Some(&[high, middle, low])) = (esp_header(esp), esp.get(8..11)) else {
            continue;
        };
        let (epoch, via, at) = (u32::from_be_bytes([0, high, middle, low]), packet.via, packet.at_us);
        let fresh = Spell { spi, epoch, via, first_us: at, last_us: at, packets: 0 };
        let spell = found.entry((spi, epoch, via)).or_insert(fresh);
        (spell.first_us, spell.last_us) = (spell.first_us.min(at), spell.last_us.max(at));
        spell.packets += 1;
    }
    found.into_values().collect()
}

/// Judges what left from `us` under an AEAD suite. A process that is stopped between its last look at the clock and the
/// write sends one batch late whatever it does: a script that pauses processes allows as many packets by `late_max`.
/// `slack_us`: how far apart from the sending the stamps of two machines' packets may be.
pub fn check(packets: &[Packet], us: IpAddr, late_max: u64, slack_us: u64) -> Report {
    let spells = spells(packets, us);
    let mut report =
        Report { judged: spells.iter().map(|spell| spell.packets).sum(), violations: Vec::new() };
    for (one, other) in spells.iter().zip(spells.iter().skip(1)) {
        if (one.spi, one.epoch) == (other.spi, other.epoch) {
            report.violations.push(format!(
                "SPI {:08x}: epoch {} has two senders, {} and {}",
                one.spi, one.epoch, one.via, other.via
            ));
        }
    }
    let mut late: HashMap<(u32, u32), Late> = HashMap::new();
    for packet in packets.iter().filter(|packet| packet.source == us) {
        let What::Esp(esp) = &packet.what else { continue };
        let (Some((spi, _)), Some(&[high, middle, low])) = (esp_header(esp), esp.get(8..11)) else {
            continue;
        };
        let epoch = u32::from_be_bytes([0, high, middle, low]);
        let newer = spells.iter().filter(|spell| spell.spi == spi && spell.epoch > epoch);
        if let Some(since) =
            newer.map(|spell| spell.first_us).filter(|&since| since + slack_us < packet.at_us).min()
        {
            let late = late.entry((spi, epoch)).or_default();
            late.packets += 1;
            late.longest_us = late.longest_us.max(packet.at_us - since);
        }
    }
    for ((spi, epoch), late) in late.into_iter().filter(|(_, late)| late.packets > late_max) {
        report.violations.push(format!(
            "SPI {spi:08x}: {} packets of epoch {epoch} after the next one, by up to {:.1} ms",
            late.packets,
            late.longest_us as f64 / 1e3
        ));
    }
    report
}

/// What left of an epoch once there was a newer one.
#[derive(Clone, Copy, Debug, Default)]
struct Late {
    packets: u64,
    longest_us: u64,
}

#[cfg(test)]
mod tests {
    use super::super::pcap::made;
    use super::*;

    fn sent(at_us: u64, via: u32, epoch: u64, counter: u64) -> Packet {
        Packet { via, ..made::esp(at_us, 256, counter as u32, epoch << 40 | counter, b"x") }
    }

    #[test]
    fn planted_second_senders_and_late_packets_are_caught() {
        let sound = [sent(1, 4, 1, 1), sent(2, 4, 1, 2), sent(9, 5, 2, 1), sent(12, 4, 3, 1)];
        assert_eq!(check(&sound, made::US, 0, 0), Report { judged: 4, violations: Vec::new() });
        let two = [sent(1, 4, 1, 1), sent(2, 5, 1, 2)];
        assert!(check(&two, made::US, 0, 0).violations[0].contains("two senders"));
        let late = [sent(1, 4, 1, 1), sent(9, 5, 2, 1), sent(10, 4, 1, 2)];
        assert!(check(&late, made::US, 0, 0).violations[0].contains("1 packets of epoch 1"));
        assert_eq!(check(&late, made::US, 1, 0).violations, Vec::<String>::new());
    }
}
