//! Inner packets whose SA has no committed number left: they wait for the grant, within limits, in order.
//!
//! Where a packet of a child waits, later ones queue behind it, so that a flow stays in order. This is the slow path
//! and the only place of a worker that copies packets to the heap.

use std::collections::{HashMap, VecDeque};

use ipsec::types::{ChildSpi, Millis};

/// All packets that wait in one worker.
const OCTETS_MAX: usize = 4 << 20;

/// Those of one child: about one super-packet and what follows it.
const PACKETS_PER_CHILD: usize = 256;

/// A packet that waited longer is of no use to its sender.
const STALE_MS: u64 = 1_000;

/// The packets of one child in their order, each with when it came.
type Line = VecDeque<(Millis, Box<[u8]>)>;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    children: HashMap<ChildSpi, Line>,
    octets: usize,
    packets: usize,
}

impl Waiting {
    /// Keeps a copy of `packet`. False: there is no room.
    pub fn push(&mut self, child: ChildSpi, now: Millis, packet: &[u8]) -> bool {
        let queue = self.children.entry(child).or_default();
        let fits = self.octets + packet.len() <= OCTETS_MAX && queue.len() < PACKETS_PER_CHILD;
        if fits {
            queue.push_back((now, packet.into()));
            self.octets += packet.len();
            self.packets += 1;
        } else if queue.is_empty() {
            self.children.remove(&child);
        }
        fits
    }

    pub fn holds(&self, child: ChildSpi) -> bool {
        self.packets > 0 && self.children.contains_key(&child)
    }

    /// Takes out what waits for `child`, oldest first.
    pub fn take(&mut self, child: ChildSpi) -> impl Iterator<Item = Box<[u8]>> + use<> {
        let queue = self.children.remove(&child).unwrap_or_default();
        self.packets -= queue.len();
        self.octets -= queue.iter().map(|(_, packet)| packet.len()).sum::<usize>();
        queue.into_iter().map(|(_, packet)| packet)
    }

    /// Throws away what waited too long; how many.
    pub fn expire(&mut self, now: Millis) -> u64 {
        let before = self.packets;
        if before == 0 {
            return 0;
        }
        let (octets, packets) = (&mut self.octets, &mut self.packets);
        self.children.retain(|_, queue| {
            while let Some((_, packet)) = queue.pop_front_if(|(since, _)| now.since(*since) >= STALE_MS) {
                *octets -= packet.len();
                *packets -= 1;
            }
            !queue.is_empty()
        });
        (before - self.packets) as u64
    }

    /// Throws everything away; how many.
    pub fn clear(&mut self) -> u64 {
        let packets = std::mem::take(self).packets;
        packets as u64
    }

    /// The children that packets wait for.
    pub fn children(&self) -> impl Iterator<Item = ChildSpi> + '_ {
        self.children.keys().copied()
    }

    pub fn len(&self) -> usize {
        self.packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ChildSpi = ChildSpi(0x0100_0001);
    const B: ChildSpi = ChildSpi(0x0100_0002);

    #[test]
    fn packets_come_out_in_order_and_only_their_own() {
        let mut waiting = Waiting::default();
        for (child, octet) in [(A, 1), (B, 2), (A, 3)] {
            assert!(waiting.push(child, Millis(0), &[octet]));
        }
        assert_eq!(waiting.len(), 3);
        let taken: Vec<_> = waiting.take(A).map(|packet| packet[0]).collect();
        assert_eq!((taken, waiting.len()), (vec![1, 3], 1));
        assert!(!waiting.holds(A) && waiting.holds(B));
    }

    #[test]
    fn there_are_limits_of_number_size_and_time() {
        let mut waiting = Waiting::default();
        let mut kept = 0;
        while waiting.push(A, Millis(5), &[0; 100]) {
            kept += 1;
        }
        assert_eq!(kept, PACKETS_PER_CHILD);
        while waiting.push(ChildSpi(1_000 + kept as u32), Millis(900), &[0; 60_000]) {
            kept += 1;
        }
        assert!(waiting.octets <= OCTETS_MAX && waiting.octets > OCTETS_MAX - 60_000);
        assert_eq!(waiting.expire(Millis(1_004)), 0);
        assert_eq!(waiting.expire(Millis(1_005)), PACKETS_PER_CHILD as u64);
        assert!(!waiting.holds(A));
        waiting.expire(Millis(5_000));
        assert_eq!((waiting.len(), waiting.octets, waiting.children.len()), (0, 0, 0));
    }
}
