//! What others may read while packets pass: totals and drops by reason.
//!
//! A worker counts in plain integers of its own and writes them here once per lap; it is the only writer, so a store is
//! enough. Readers take the difference to what they saw last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ipsec::esp::DropReason;
use ipsec::wire;

use super::relay::RelayDrop;
use crate::io;
use crate::observe::{Direction, Metrics, Queue};

const ESP: usize = DropReason::ALL.len();
const WIRE: usize = wire::DropReason::ALL.len();
const IO: usize = io::Drop::ALL.len();
const RELAY: usize = RelayDrop::ALL.len();

/// The counters of one worker.
#[derive(Debug)]
pub struct Counters {
    pub packets_in: AtomicU64,
    /// Octets of inner packets.
    pub octets_in: AtomicU64,
    pub packets_out: AtomicU64,
    pub octets_out: AtomicU64,
    pub ike_in: AtomicU64,
    pub ike_out: AtomicU64,
    /// Times that a packet had to wait for a grant.
    pub block_waits: AtomicU64,
    /// Packets that wait for one now.
    pub waiting: AtomicU64,
    /// Packets passed on to the owner of their segment.
    pub relayed: AtomicU64,
    /// Packets of other nodes for which the worker had no room. Counted by who brings them.
    pub relay_lost: Arc<AtomicU64>,
    esp: [AtomicU64; ESP],
    wire: [AtomicU64; WIRE],
    io: [AtomicU64; IO],
    relay: [AtomicU64; RELAY],
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            packets_in: AtomicU64::new(0),
            octets_in: AtomicU64::new(0),
            packets_out: AtomicU64::new(0),
            octets_out: AtomicU64::new(0),
            ike_in: AtomicU64::new(0),
            ike_out: AtomicU64::new(0),
            block_waits: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            relayed: AtomicU64::new(0),
            relay_lost: Arc::default(),
            relay: [const { AtomicU64::new(0) }; RELAY],
            esp: [const { AtomicU64::new(0) }; ESP],
            wire: [const { AtomicU64::new(0) }; WIRE],
            io: [const { AtomicU64::new(0) }; IO],
        }
    }
}

/// What a worker counts during a lap; never reset.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub packets_in: u64,
    pub octets_in: u64,
    pub packets_out: u64,
    pub octets_out: u64,
    pub ike_in: u64,
    pub ike_out: u64,
    pub block_waits: u64,
    pub relayed: u64,
    pub wire: [u64; WIRE],
    pub relay: [u64; RELAY],
    /// What the table has not counted itself.
    pub drops: ipsec::esp::Drops,
}

impl Tally {
    pub fn count_wire(&mut self, reason: wire::DropReason) {
        self.wire[reason as usize] += 1;
    }

    pub fn count_relay(&mut self, reason: RelayDrop) {
        self.relay[reason as usize] += 1;
    }
}

impl Counters {
    pub(super) fn publish(&self, tally: &Tally, waiting: usize, esp: &ipsec::esp::Drops) {
        for (shared, own) in [
            (&self.packets_in, tally.packets_in),
            (&self.octets_in, tally.octets_in),
            (&self.packets_out, tally.packets_out),
            (&self.octets_out, tally.octets_out),
            (&self.ike_in, tally.ike_in),
            (&self.ike_out, tally.ike_out),
            (&self.block_waits, tally.block_waits),
            (&self.waiting, waiting as u64),
            (&self.relayed, tally.relayed),
        ] {
            shared.store(own, Relaxed);
        }
        for (shared, own) in self.wire.iter().zip(tally.wire) {
            shared.store(own, Relaxed);
        }
        for (shared, own) in self.relay.iter().zip(tally.relay) {
            shared.store(own, Relaxed);
        }
        for (reason, own) in esp.iter() {
            self.esp[reason as usize].store(own, Relaxed);
        }
    }

    /// The drops of sockets and device, summed up by the caller.
    pub(super) fn publish_io(&self, drops: &io::Drops) {
        for (reason, own) in drops.iter() {
            self.io[reason as usize].store(own, Relaxed);
        }
    }

    pub fn relay_dropped(&self, reason: RelayDrop) -> u64 {
        self.relay[reason as usize].load(Relaxed)
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.esp[reason as usize].load(Relaxed)
    }

    /// Every reason of every layer with its label.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let esp = DropReason::ALL.iter().map(|reason| reason.label()).zip(&self.esp);
        let wire = wire::DropReason::ALL.iter().map(|reason| reason.name()).zip(&self.wire);
        let io = io::Drop::ALL.iter().map(|reason| reason.as_str()).zip(&self.io);
        let relay = RelayDrop::ALL.iter().map(|reason| reason.label()).zip(&self.relay);
        let lost = std::iter::once(("relay_overload", &*self.relay_lost));
        esp.chain(wire).chain(io).chain(relay).chain(lost).map(|(label, count)| (label, count.load(Relaxed)))
    }

    /// Adds what happened since the last call to the metrics. `seen` is the caller's memory of that call.
    pub fn export(&self, metrics: &Metrics, seen: &mut Seen) {
        let mut grown = |place: usize, now: u64| {
            let before = std::mem::replace(&mut seen.0[place], now);
            now.wrapping_sub(before)
        };
        let packets_in = grown(0, self.packets_in.load(Relaxed));
        metrics.esp(Direction::In, packets_in, grown(1, self.octets_in.load(Relaxed)));
        let packets_out = grown(2, self.packets_out.load(Relaxed));
        metrics.esp(Direction::Out, packets_out, grown(3, self.octets_out.load(Relaxed)));
        metrics.esp_block_waits.inc_by(grown(4, self.block_waits.load(Relaxed)));
        metrics.queue_length(Queue::Block, self.waiting.load(Relaxed) as usize);
        metrics.esp_relayed_packets.inc_by(grown(5, self.relayed.load(Relaxed)));
        for (place, (label, now)) in self.drops().enumerate() {
            let dropped = grown(TOTALS + place, now);
            if dropped > 0 {
                metrics.esp_dropped(label, dropped);
            }
        }
    }
}

/// What a reader of `Counters` saw last.
#[derive(Clone, Debug)]
pub struct Seen([u64; TOTALS + ESP + WIRE + IO + RELAY + 1]);

/// Totals that `export` tells besides the drops.
const TOTALS: usize = 6;

impl Default for Seen {
    fn default() -> Self {
        Seen([0; TOTALS + ESP + WIRE + IO + RELAY + 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A label of two layers means one thing: an empty datagram, whether it has no UDP payload or nothing at all.
    #[test]
    fn labels_of_all_layers_differ() {
        let counters = Counters::default();
        let mut labels: Vec<_> = counters.drops().map(|(label, _)| label).collect();
        labels.sort_unstable();
        let shared: Vec<_> =
            labels.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        assert_eq!((labels.len(), shared), (ESP + WIRE + IO + RELAY + 1, vec!["empty"]));
    }

    #[test]
    fn metrics_get_the_difference() {
        let (counters, metrics, mut seen) = (Counters::default(), Metrics::new(), Seen::default());
        let mut drops = ipsec::esp::Drops::default();
        let mut tally = Tally { packets_in: 3, ..Tally::default() };
        drops.add(DropReason::Replay, 2);
        counters.publish(&tally, 0, &drops);
        counters.export(&metrics, &mut seen);
        tally.packets_in = 5;
        counters.publish(&tally, 0, &drops);
        counters.export(&metrics, &mut seen);
        counters.export(&metrics, &mut seen);
        let text = metrics.encode().unwrap();
        assert!(text.contains("pontoon_esp_packets_total{direction=\"in\"} 5"), "{text}");
        assert!(text.contains("pontoon_esp_dropped_packets_total{reason=\"replay\"} 2"), "{text}");
    }
}
