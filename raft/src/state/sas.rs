//! The IKE SAs with their children: all records of the cluster, on every node.
//!
//! `ipsec::record` is the only code that changes a record; this file decides whether its result may be written:
//! what concerns one record is checked there, what crosses records is checked here.
//!
//! Invariants: a record stands under its own SPI; an inbound child SPI belongs to one record, in the segment of
//! that record; the indices by child and by peer list exactly the records; a revision rises with every write and `granted` never falls; what a
//! record holds of the pools is what the leases say it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipsec::policy::Identity;
use ipsec::record::{Change, ChildRecord, Claimed, IkeRecord, Refusal, Step};
use ipsec::types::{ChildSpi, EspSeq, Revision, Segment, Spi};

use super::limits::LEASES_PER_SA_MAX;
use super::members::ensure;
use super::pools::Leases;

#[derive(Clone, Debug, Default)]
pub struct Sas {
    records: OrdMap<Spi, Arc<IkeRecord>>,
    /// Our inbound child SPIs, with the IKE SA that has them.
    children: OrdMap<ChildSpi, Spi>,
    by_peer: OrdSet<(Identity, Spi)>,
}

/// New value of each record that a change touches, `None` where it ends.
type Writes = BTreeMap<Spi, Option<IkeRecord>>;

impl Sas {
    pub fn get(&self, spi: Spi) -> Option<&Arc<IkeRecord>> {
        self.records.get(&spi)
    }

    /// In the order of their SPIs, so segment by segment.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<IkeRecord>> {
        self.records.values()
    }

    pub fn of_segment(&self, segment: Segment) -> impl Iterator<Item = &Arc<IkeRecord>> {
        let first = Spi(u64::from(segment.0) << 56);
        let last = Spi(first.0 | (u64::MAX >> 8));
        self.records.range(first..=last).map(|(_, record)| record)
    }

    pub fn of_peer(&self, peer: &Identity) -> impl Iterator<Item = &Arc<IkeRecord>> {
        let (first, last) = ((peer.clone(), Spi(0)), (peer.clone(), Spi(u64::MAX)));
        self.by_peer.range(first..=last).filter_map(|(_, spi)| self.get(*spi))
    }

    pub fn find_child(&self, spi_in: ChildSpi) -> Option<(&Arc<IkeRecord>, &ChildRecord)> {
        let record = self.get(*self.children.get(&spi_in)?)?;
        record.child(spi_in).map(|child| (record, child))
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn children_len(&self) -> usize {
        self.children.len()
    }

    /// Applies a change whose guard was checked; `index` is its place in the log. Returns which records it wrote.
    /// A refusal may leave `self` and `leases` half changed: the caller works on copies.
    pub(super) fn apply(
        &mut self,
        leases: &mut Leases,
        index: u64,
        change: &Change,
    ) -> Result<Vec<Spi>, Refusal> {
        change.steps.iter().try_for_each(|step| self.check_step(change, step))?;
        let writes = change.apply(&|spi| self.records.get(&spi).cloned())?;
        check_child_spis(&writes)?;
        self.move_leases(leases, index, &writes)?;
        let written = writes.keys().copied().collect();
        self.write(writes);
        Ok(written)
    }

    /// What would be our own fault once it stood in a record is refused while it is still a proposal.
    fn check_step(&self, change: &Change, step: &Step) -> Result<(), Refusal> {
        match step {
            Step::Establish(record) | Step::AddIke(record) => {
                let replied = record.last_reply.as_ref().is_none_or(|last| last.message_id < record.expected);
                let asked =
                    record.outstanding.as_ref().is_none_or(|ours| ours.message_id < record.next_request);
                if !replied || !asked {
                    return Err(Refusal::OutOfOrder);
                }
                if record.inner_addresses.len() > LEASES_PER_SA_MAX {
                    return Err(Refusal::LimitReached);
                }
                record.children.iter().try_for_each(|child| self.check_new_child(child))
            }
            Step::AddChild(child) => self.check_new_child(child),
            Step::Inherit { by } if by.segment() != change.guard.segment => Err(Refusal::SpiTaken),
            _ => Ok(()),
        }
    }

    /// Also an SPI that the same change gives up is not free: its numbers would start again.
    fn check_new_child(&self, child: &ChildRecord) -> Result<(), Refusal> {
        if self.children.contains_key(&child.spi_in) { Err(Refusal::SpiTaken) } else { Ok(()) }
    }

    /// What the records hold of the pools goes where the records say.
    //= IK-63
    fn move_leases(&self, leases: &mut Leases, index: u64, writes: &Writes) -> Result<(), Refusal> {
        let mut held: BTreeMap<IpAddr, Spi> = BTreeMap::new();
        for record in writes.keys().filter_map(|&spi| self.get(spi)) {
            held.extend(record.inner_addresses.iter().map(|&address| (address, record.spi)));
        }
        let mut wanted: BTreeMap<IpAddr, &IkeRecord> = BTreeMap::new();
        for record in writes.values().flatten() {
            for &address in &record.inner_addresses {
                if wanted.insert(address, record).is_some() {
                    return Err(Refusal::AddressTaken);
                }
            }
        }
        for (&address, &spi) in &held {
            leases.release(address, spi, index);
        }
        wanted.iter().try_for_each(|(&address, record)| leases.take(address, record.spi, &record.peer_id))
    }

    fn write(&mut self, writes: Writes) {
        let mut granted: BTreeMap<ChildSpi, EspSeq> = BTreeMap::new();
        let mut revisions: BTreeMap<Spi, Revision> = BTreeMap::new();
        for &spi in writes.keys() {
            let Some(old) = self.records.remove(&spi) else { continue };
            revisions.insert(spi, old.revision);
            let listed = self.by_peer.remove(&(old.peer_id.clone(), spi));
            assert!(listed.is_some(), "each record is listed under its peer");
            for child in &old.children {
                let holder = self.children.remove(&child.spi_in);
                assert_eq!(holder, Some(spi), "the index knows each child");
                granted.insert(child.spi_in, child.granted);
            }
        }
        for (spi, record) in writes {
            let Some(record) = record else { continue };
            assert_eq!(record.spi, spi, "a record stands under its own SPI");
            assert!(revisions.get(&spi).is_none_or(|&old| old < record.revision), "a revision rises");
            for child in &record.children {
                let before = granted.get(&child.spi_in).copied().unwrap_or_default();
                assert!(child.granted >= before, "granted numbers never fall");
                let holder = self.children.insert(child.spi_in, spi);
                assert_eq!(holder, None, "an inbound SPI belongs to one record");
            }
            self.by_peer.insert((record.peer_id.clone(), spi));
            self.records.insert(spi, Arc::new(record));
        }
    }

    /// Lets the blocks of a child be changed; `None` when there is no such child. The revision stays: blocks and
    /// decisions do not race.
    pub(super) fn with_child<T>(
        &mut self,
        ike: Spi,
        spi_in: ChildSpi,
        change: impl FnOnce(&mut ChildRecord) -> T,
    ) -> Option<T> {
        if self.children.get(&spi_in) != Some(&ike) {
            return None;
        }
        let record = Arc::make_mut(self.records.get_mut(&ike).expect("the index names a record"));
        let child = record.children.iter_mut().find(|child| child.spi_in == spi_in);
        Some(change(child.expect("the index names a child of it")))
    }

    /// The same for all records of a segment.
    pub(super) fn with_records(&mut self, segment: Segment, mut change: impl FnMut(&mut IkeRecord)) {
        let spis: Vec<Spi> = self.of_segment(segment).map(|record| record.spi).collect();
        for spi in spis {
            change(Arc::make_mut(self.records.get_mut(&spi).expect("it was there a moment ago")));
        }
    }

    /// From a snapshot.
    pub(super) fn restore(&mut self, record: IkeRecord) -> Result<(), &'static str> {
        let spi = record.spi;
        for child in &record.children {
            ensure(self.children.insert(child.spi_in, spi).is_none(), "an inbound SPI twice")?;
        }
        self.by_peer.insert((record.peer_id.clone(), spi));
        ensure(self.records.insert(spi, Arc::new(record)).is_none(), "an IKE SPI twice")
    }

    pub(super) fn check(&self, leases: &Leases) -> Result<(), &'static str> {
        let mut children = 0;
        let mut held = 0;
        for (&spi, record) in &self.records {
            ensure(record.spi == spi && !spi.is_zero(), "a record under another SPI")?;
            ensure(record.revision > Revision(0), "a record without a revision")?;
            ensure(self.by_peer.contains(&(record.peer_id.clone(), spi)), "a record that its peer lacks")?;
            for child in &record.children {
                ensure(self.children.get(&child.spi_in) == Some(&spi), "a child that the index lacks")?;
                ensure(child.spi_in.segment() == spi.segment(), "a child in another segment")?;
                ensure(child.granted <= child.last_number(), "numbers granted past the last")?;
                ensure(child.block.last <= child.granted, "a block past what was granted")?;
                let sound = |claimed: Claimed| claimed.floor <= claimed.ceiling;
                ensure(child.claimed.is_none_or(sound), "a claim that ends below its beginning")?;
            }
            for &address in &record.inner_addresses {
                ensure(leases.holder(address) == Some(spi), "an inner address without a lease")?;
            }
            children += record.children.len();
            held += record.inner_addresses.len();
        }
        ensure(self.by_peer.len() == self.records.len(), "a peer's entry without a record")?;
        ensure(self.children.len() == children, "an index entry without a child")?;
        ensure(leases.held_len() == held, "a lease without a holder")
    }
}

/// New SPIs were free before, moved ones come from these very records: so each must only occur once.
fn check_child_spis(writes: &Writes) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    let mut children = writes.values().flatten().flat_map(|record| &record.children);
    if children.all(|child| seen.insert(child.spi_in)) { Ok(()) } else { Err(Refusal::SpiTaken) }
}
