//! What came along with segments that this node is about to own: exact windows and counters of a planned move, or the
//! half-open IKE SAs that their owner has mirrored to its standby.
//!
//! Exact luggage belongs to one epoch. Who sends it never serves its own epoch again, so whoever brought the next epoch
//! about, the move or a crash in the middle of it, nothing was received since. For any other epoch it is worthless.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crypto::Secret;
use ipsec::esp::Carried;
use ipsec::limits::{HALF_OPEN_BEFORE_COOKIE, HALF_OPEN_MS};
use ipsec::types::{ChildSpi, Epoch, Millis, Segment};

use crate::datapath::held::Forwarded;

/// Batches of mirrored half-open IKE SAs of one segment; the oldest gives way. Under load nothing is mirrored.
const MIRRORED_MAX: usize = 4 * HALF_OPEN_BEFORE_COOKIE;

/// Of one segment.
#[derive(Debug, Default)]
pub struct Bag {
    pub children: HashMap<ChildSpi, Carried>,
    /// For `ipsec::ike::Endpoint::import`.
    pub ike: Vec<Secret>,
    pub forwarded: Forwarded,
}

/// Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Luggage(Arc<Mutex<Shelf>>);

#[derive(Debug, Default)]
struct Shelf {
    exact: HashMap<Segment, (Epoch, Bag)>,
    mirrored: HashMap<Segment, Vec<(Millis, Secret)>>,
}

impl Luggage {
    /// Of a planned move that makes `epoch` of the segment begin here.
    pub fn put(&self, segment: Segment, epoch: Epoch, bag: Bag) {
        self.lock().exact.insert(segment, (epoch, bag));
    }

    /// Nothing comes of that move.
    pub fn forget(&self, segment: Segment) {
        self.lock().exact.remove(&segment);
    }

    pub fn mirror(&self, segment: Segment, half_open: Secret, now: Millis) {
        let mut shelf = self.lock();
        let line = shelf.mirrored.entry(segment).or_default();
        line.retain(|(since, _)| now.since(*since) < HALF_OPEN_MS);
        if line.len() == MIRRORED_MAX {
            line.remove(0);
        }
        line.push((now, half_open));
    }

    /// What there is for this epoch of the segment. True: it is exact.
    pub fn take(&self, segment: Segment, epoch: Epoch, now: Millis) -> (Bag, bool) {
        let mut shelf = self.lock();
        let mirrored = shelf.mirrored.remove(&segment).unwrap_or_default();
        match shelf.exact.remove(&segment) {
            Some((of, bag)) if of == epoch => (bag, true),
            _ => {
                let young = mirrored.into_iter().filter(|(since, _)| now.since(*since) < HALF_OPEN_MS);
                (Bag { ike: young.map(|(_, it)| it).collect(), ..Bag::default() }, false)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: Segment = Segment(7);

    fn note(octet: u8) -> Secret {
        Secret::from(vec![octet])
    }

    #[test]
    fn exact_luggage_is_of_one_epoch_and_taken_once() {
        let luggage = Luggage::default();
        let bag = || Bag { ike: vec![note(1)], ..Bag::default() };
        luggage.put(SEGMENT, Epoch(5), bag());
        let (taken, exact) = luggage.take(SEGMENT, Epoch(5), Millis(0));
        assert!(exact && taken.ike == [note(1)]);
        assert!(!luggage.take(SEGMENT, Epoch(5), Millis(0)).1, "once");
        luggage.put(SEGMENT, Epoch(5), bag());
        let (taken, exact) = luggage.take(SEGMENT, Epoch(6), Millis(0));
        assert!(!exact && taken.ike.is_empty(), "somebody has served it since");
        assert!(!luggage.take(SEGMENT, Epoch(5), Millis(0)).1, "and it is thrown away");
    }

    #[test]
    fn what_was_mirrored_is_bounded_and_ages() {
        let luggage = Luggage::default();
        for n in 0..=MIRRORED_MAX {
            luggage.mirror(SEGMENT, note(n as u8), Millis(n as u64));
        }
        let (bag, exact) = luggage.take(SEGMENT, Epoch(2), Millis(HALF_OPEN_MS + 2));
        assert!(!exact);
        assert_eq!((bag.ike.len(), bag.ike.first()), (MIRRORED_MAX - 2, Some(&note(3))));
        assert!(luggage.take(SEGMENT, Epoch(2), Millis(0)).0.ike.is_empty());
    }
}
