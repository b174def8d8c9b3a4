//! What the client has seen of the gateway on the wire: every sequence number and every IV, each at most once (I1).
//!
//! The numbers of a sender come in order, so a set of them is a few intervals, whatever the size of the file. The
//! upper 24 bits of an IV are the epoch (DESIGN, 5): a packet of a new epoch comes from another process.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::protocol::Resumed;

/// Octets of SPI, number and explicit IV.
const HEAD: usize = 16;
/// Bits of the counter behind the epoch in an IV.
const COUNTER_BITS: u32 = 40;

/// A set of numbers, kept as intervals: first to last, both inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    intervals: BTreeMap<u64, u64>,
}

impl Numbers {
    /// False when it was there already.
    pub fn insert(&mut self, number: u64) -> bool {
        let below = self.intervals.range(..=number).next_back().map(|(&first, &last)| (first, last));
        if below.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let first = match below {
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let above = number.checked_add(1).and_then(|next| self.intervals.remove(&next));
        self.intervals.insert(first, above.unwrap_or(number));
        true
    }

    /// How many intervals there are: one more than there are holes.
    #[cfg(test)]
    fn pieces(&self) -> usize {
        self.intervals.len()
    }
}

/// The record of one client.
#[derive(Debug, Default)]
pub struct Wire {
    senders: HashMap<u32, Sender>,
    report: WireReport,
    last_packet: Option<Instant>,
    newest: Option<(u32, u32)>,
}

#[derive(Debug, Default)]
struct Sender {
    numbers: Numbers,
    ivs: Numbers,
}

/// The sum of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WireReport {
    /// ESP packets from the gateway.
    pub esp_packets: u64,
    pub numbers_twice: u64,
    pub ivs_twice: u64,
    /// IKE messages since the tunnel came up, both directions.
    pub ike_messages: u64,
    pub longest_silence_ms: f64,
}

impl Wire {
    /// An IKE message, in either direction, since the tunnel came up.
    pub fn ike(&mut self) {
        self.report.ike_messages += 1;
    }

    /// An ESP packet from the gateway, still sealed. Tells when it is the first of a new epoch.
    pub fn esp(&mut self, packet: &[u8], now: Instant) -> Option<Resumed> {
        let head: &[u8; HEAD] = packet.first_chunk()?;
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (spi, number) = (word(0), word(4));
        let iv = u64::from(word(8)) << 32 | u64::from(word(12));
        self.report.esp_packets += 1;
        let sender = self.senders.entry(spi).or_default();
        self.report.numbers_twice += u64::from(!sender.numbers.insert(number.into()));
        self.report.ivs_twice += u64::from(!sender.ivs.insert(iv));

        let silence_ms = self.last_packet.map_or(0.0, |last| (now - last).as_secs_f64() * 1e3);
        self.last_packet = Some(now);
        self.report.longest_silence_ms = self.report.longest_silence_ms.max(silence_ms);
        let epoch = (iv >> COUNTER_BITS) as u32;
        let before = self.newest.replace((epoch, number));
        let (old, last) = before?;
        (epoch > old).then_some(Resumed { silence_ms, epoch, last, first: number })
    }

    pub fn report(&self) -> WireReport {
        self.report.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn packet(spi: u32, number: u32, epoch: u64, counter: u64) -> Vec<u8> {
        let iv = epoch << COUNTER_BITS | counter;
        [&spi.to_be_bytes()[..], &number.to_be_bytes(), &iv.to_be_bytes(), &[0; 30]].concat()
    }

    #[test]
    fn neighbours_become_one_interval() {
        let mut numbers = Numbers::default();
        for (number, new, pieces) in [
            (5, true, 1),
            (7, true, 2),
            (6, true, 1),
            (6, false, 1),
            (5, false, 1),
            (4, true, 1),
            (u64::MAX, true, 2),
            (u64::MAX, false, 2),
            (0, true, 3),
        ] {
            assert_eq!((numbers.insert(number), numbers.pieces()), (new, pieces), "{number}");
        }
    }

    proptest! {
        #[test]
        fn a_set_is_a_set(numbers in prop::collection::vec(0u64..40, 0..80)) {
            let (mut ours, mut std) = (Numbers::default(), std::collections::BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(ours.insert(number), std.insert(number));
            }
            let holes = std.iter().zip(std.iter().skip(1)).filter(|(a, b)| *a + 1 < **b).count();
            prop_assert_eq!(ours.pieces(), if std.is_empty() { 0 } else { holes + 1 });
        }
    }

    #[test]
    fn repeats_are_found_per_spi() {
        let mut wire = Wire::default();
        let now = Instant::now();
        for packet in [
            packet(256, 1, 1, 0),
            packet(256, 2, 1, 1),
            // Another key: the same numbers are fine.
            packet(257, 1, 1, 0),
            packet(256, 2, 1, 2),
            packet(256, 3, 1, 2),
        ] {
            wire.esp(&packet, now);
        }
        let report = wire.report();
        assert_eq!((report.esp_packets, report.numbers_twice, report.ivs_twice), (5, 1, 1));
        assert_eq!(wire.esp(&[0; HEAD - 1], now), None, "too short for a packet");
        assert_eq!(wire.report().esp_packets, 5);
    }

    #[test]
    fn a_new_epoch_is_told_with_the_silence_before_it() {
        let mut wire = Wire::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(wire.esp(&packet(256, 1, 3, 0), at(0)), None, "nothing was before");
        assert_eq!(wire.esp(&packet(256, 2, 3, 1), at(10)), None);
        let resumed = wire.esp(&packet(256, 10_001, 4, 0), at(60));
        assert_eq!(resumed, Some(Resumed { silence_ms: 50.0, epoch: 4, last: 2, first: 10_001 }));
        assert_eq!(wire.esp(&packet(256, 10_002, 4, 1), at(61)), None);
        assert_eq!(wire.report().longest_silence_ms, 50.0);
    }
}
