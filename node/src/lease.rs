//! The right to write to a socket or to the TUN: until `lease` after the *sending* of probes that a majority of the
//! voters has acknowledged (DESIGN 6). A node that cannot ask, or is not answered, falls silent by itself.
//!
//! ```text
//!   sent, of the newest acknowledged probe     V2: 130   V3: 110   V4: 145   we ourselves: now, 150     (5 voters)
//!   the third newest of 5 is 130               lease until 130 + lease_ms
//! ```
//!
//! Not through the leader, so that an election silences nobody. `Renewals` does the sums, in the mesh thread. `Lease` is
//! what the packet workers look at before each write: two atomics, no queue in between.
//!
//! A lapse ends a stretch of the lease, also one that nobody noticed while it lasted (a process that was stopped): what
//! was received in an earlier stretch is thrown away, since others may have dealt with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipsec::types::Millis;
use raft::state::NodeId;

/// The lease of this node. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<Terms>);

#[derive(Debug, Default)]
struct Terms {
    /// Nothing is written from this moment on (`Clock::now`). Zero at the start: no lease.
    until: AtomicU64,
    /// How often it has begun anew.
    stretch: AtomicU64,
}

/// The lease as one worker saw it at the start of a lap.
#[derive(Clone, Debug, Default)]
pub struct Grip {
    lease: Lease,
    stretch: u64,
}

impl Lease {
    /// Extends the lease, at `now`. After a lapse this begins a new stretch: true.
    pub fn extend(&self, until: Millis, now: Millis) -> bool {
        let before = Millis(self.0.until.load(Ordering::Acquire));
        if until <= before || until <= now {
            return false;
        }
        let anew = now >= before;
        if anew {
            // Before the time, so that who sees the new time sees the new stretch too.
            self.0.stretch.fetch_add(1, Ordering::AcqRel);
        }
        self.0.until.store(until.0, Ordering::Release);
        anew
    }

    pub fn until(&self) -> Millis {
        Millis(self.0.until.load(Ordering::Acquire))
    }

    pub fn holds(&self, now: Millis) -> bool {
        now < self.until()
    }
}

impl Grip {
    pub fn new(lease: Lease) -> Grip {
        Grip { lease, stretch: 0 }
    }

    /// A lease that has begun and was looked at, and how a worker holds it.
    #[cfg(test)]
    pub fn until(until: Millis, now: Millis) -> (Lease, Grip) {
        let lease = Lease::default();
        lease.extend(until, now);
        let mut grip = Grip::new(lease.clone());
        grip.look(now);
        (lease, grip)
    }

    /// At the start of a lap. False: what waits in sockets and queues is of an earlier stretch, or there is no lease.
    pub fn look(&mut self, now: Millis) -> bool {
        let holds = self.lease.holds(now);
        let stretch = self.lease.0.stretch.load(Ordering::Acquire);
        holds & (std::mem::replace(&mut self.stretch, stretch) == stretch)
    }

    /// May be written now what was read since the last `look`?
    pub fn holds(&self, now: Millis) -> bool {
        self.lease.holds(now) && self.lease.0.stretch.load(Ordering::Acquire) == self.stretch
    }
}

/// The newest acknowledged probe of each voter, by when it was sent.
#[derive(Debug, Default)]
pub struct Renewals {
    acknowledged: BTreeMap<NodeId, Millis>,
}

impl Renewals {
    pub fn acknowledged(&mut self, by: NodeId, sent: Millis) {
        let newest = self.acknowledged.entry(by).or_default();
        *newest = (*newest).max(sent);
    }

    /// Since when a majority stands behind us, in each set of voters (two while they are being changed). `ourselves`: the
    /// moment of our own acknowledgement, if we may give it. `None` without a majority.
    pub fn since(&self, sets: &[BTreeSet<NodeId>], me: NodeId, ourselves: Option<Millis>) -> Option<Millis> {
        let newest = |voter: &NodeId| {
            if *voter == me { ourselves } else { self.acknowledged.get(voter).copied() }
        };
        let majority = |voters: &BTreeSet<NodeId>| {
            let mut sent: Vec<Millis> = voters.iter().filter_map(newest).collect();
            sent.sort_unstable_by(|a, b| b.cmp(a));
            sent.get(voters.len() / 2).copied()
        };
        let each: Option<Vec<Millis>> = sets.iter().map(majority).collect();
        each?.into_iter().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|&id| NodeId(id)).collect()
    }

    #[test]
    fn the_lease_counts_from_the_majority_th_newest_sending() {
        let now = Some(Millis(150));
        for (voters, acknowledged, ourselves, since) in [
            (&[&[1][..]][..], &[][..], now, Some(150)),
            (&[&[1]], &[], None, None),
            (&[], &[], now, None),
            (&[&[]], &[], now, None),
            (&[&[1, 2]], &[], now, None),
            (&[&[1, 2]], &[(2, 140)], now, Some(140)),
            (&[&[1, 2, 3]], &[], now, None),
            (&[&[1, 2, 3]], &[(3, 120)], now, Some(120)),
            (&[&[1, 2, 3]], &[(2, 130), (3, 120)], now, Some(130)),
            (&[&[1, 2, 3]], &[(2, 130), (3, 120)], None, Some(120)),
            (&[&[1, 2, 3]], &[(3, 120)], None, None),
            (&[&[1, 2, 3]], &[(4, 149), (5, 149)], now, None),
            (&[&[1, 2, 3, 4, 5]], &[(2, 130), (3, 110), (4, 145)], now, Some(130)),
            // A learner needs two of three voters.
            (&[&[2, 3, 4]], &[(3, 120)], now, None),
            (&[&[2, 3, 4]], &[(3, 120), (4, 100)], now, Some(100)),
            // Both the old and the new voters.
            (&[&[1, 2, 3], &[1, 4, 5]], &[(2, 140)], now, None),
            (&[&[1, 2, 3], &[1, 4, 5]], &[(2, 140), (4, 90)], now, Some(90)),
        ] {
            let sets: Vec<_> = voters.iter().map(|set| ids(set)).collect();
            let mut renewals = Renewals::default();
            for &(voter, sent) in acknowledged {
                renewals.acknowledged(NodeId(voter), Millis(sent));
            }
            let found = renewals.since(&sets, NodeId(1), ourselves);
            assert_eq!(found, since.map(Millis), "{voters:?} {acknowledged:?} {ourselves:?}");
        }
    }

    #[test]
    fn a_late_answer_takes_nothing_back() {
        let mut renewals = Renewals::default();
        renewals.acknowledged(NodeId(2), Millis(100));
        renewals.acknowledged(NodeId(2), Millis(80));
        let since = |renewals: &Renewals| renewals.since(&[ids(&[1, 2])], NodeId(1), Some(Millis(500)));
        assert_eq!(since(&renewals), Some(Millis(100)));
    }

    #[test]
    fn a_lapse_begins_a_new_stretch() {
        let lease = Lease::default();
        let mut grip = Grip::new(lease.clone());
        assert!(!grip.look(Millis(5)) && !grip.holds(Millis(5)), "none at the start");
        assert!(lease.extend(Millis(60), Millis(5)));
        assert!(!grip.look(Millis(6)), "what waited at the start is thrown away");
        assert!(grip.look(Millis(7)) && grip.holds(Millis(59)) && !grip.holds(Millis(60)));
        assert!(!lease.extend(Millis(90), Millis(30)), "in time: the same stretch");
        assert!(grip.look(Millis(70)));

        // Stopped at 75, continued at 500. Renewed before the worker looks: its packets are from before.
        assert!(lease.extend(Millis(560), Millis(500)));
        assert!(!grip.holds(Millis(501)), "what was read before the lapse");
        assert!(!grip.look(Millis(501)), "what waited during it");
        assert!(grip.look(Millis(502)));
    }

    #[test]
    fn a_lease_is_never_shortened_nor_given_for_the_past() {
        let lease = Lease::default();
        assert!(!lease.extend(Millis(60), Millis(60)));
        lease.extend(Millis(100), Millis(50));
        assert!(!lease.extend(Millis(90), Millis(60)));
        assert_eq!(lease.until(), Millis(100));
        assert!(!lease.extend(Millis(130), Millis(140)), "too late to count");
        assert!(!lease.holds(Millis(140)));
    }
}
