//! What may happen to a record, and the only code that makes it happen.
//!
//! A `Change` is decided on one revision of one record by the owner of its segment, goes through the log, and is
//! applied on every node. Apply is all or nothing: it works on copies and returns what to write, or a `Refusal`
//! that leaves everything as it was. So of two changes decided on one revision at most one counts, and nothing of
//! a deposed owner counts at all.
//!
//! Input from a proposer that does not fit is refused; what can only be wrong by our own fault is asserted.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::limits;
use crate::types::{ChildSpi, Epoch, EspSeq, Incarnation, MessageId, Millis, Revision, Segment, Spi};

use super::{
    Block, ChildPhase, ChildRecord, Claimed, Farewell, IkeRecord, Outstanding, Path, Phase, Purpose, Reply,
    Why,
};

/// In whose name a command acts. Checked when it is applied, not only when it is proposed (I6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    pub segment: Segment,
    pub epoch: Epoch,
    pub incarnation: Incarnation,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub guard: Guard,
    /// The record that it was decided on, by our SPI.
    pub spi: Spi,
    /// Its revision then; zero: there was none.
    pub revision: Revision,
    /// UTC, chosen by the proposer.
    pub at: Millis,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A new IKE SA under the change's own SPI.
    Establish(Box<IkeRecord>),
    /// Another, older IKE SA of the same peer gives way. Silently: the peer has forgotten it (INITIAL_CONTACT).
    Supersede {
        spi: Spi,
        silently: bool,
    },
    /// A request of the peer was processed; these octets answer it.
    Answered {
        message_id: MessageId,
        octets: Vec<u8>,
    },
    /// Our request; it may be sent once this is applied.
    Asked(Box<Outstanding>),
    /// Our request was answered, or given up.
    Concluded {
        message_id: MessageId,
    },
    /// The peer rekeyed what we are rekeying too: noted for the choice between the two.
    Crossed {
        nonce: Vec<u8>,
        spi: u64,
    },
    AddChild(Box<ChildRecord>),
    SetChildPhase {
        spi_in: ChildSpi,
        phase: ChildPhase,
    },
    RemoveChild {
        spi_in: ChildSpi,
        why: Why,
    },
    /// A further IKE SA, made by a rekey of this one; it starts without children.
    AddIke(Box<IkeRecord>),
    /// Children and inner addresses go over; this record becomes `Replaced`.
    Inherit {
        by: Spi,
    },
    SetPhase(Phase),
    Moved(Path),
    /// The IKE SA ends with all its children.
    Remove {
        why: Why,
    },
}

/// Why a command counted for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Another epoch or incarnation owns the segment.
    Deposed,
    /// The record has changed since, or is gone, or exists already.
    Stale,
    /// An SPI, or an SPI's segment, is not the proposer's to use.
    SpiTaken,
    /// Another client holds the inner address.
    AddressTaken,
    /// A message ID that is not next.
    OutOfOrder,
    /// The steps do not fit the record's phase.
    NotInThisPhase,
    /// The block that was asked for does not exist: the SA's numbers are used up.
    Exhausted,
    /// It names something that does not exist.
    NotFound,
    /// A limit of ours is reached.
    LimitReached,
}

/// What apply found: the new value of each record that changed, `None` where it ended.
pub type Writes = BTreeMap<Spi, Option<IkeRecord>>;

impl Change {
    /// Applies to copies of the records that `lookup` finds.
    ///
    /// The caller has checked the guard; it still has to check what crosses records (SPIs in use, leases) before
    /// it writes. Errors leave nothing behind.
    pub fn apply(&self, lookup: &dyn Fn(Spi) -> Option<Arc<IkeRecord>>) -> Result<Writes, Refusal> {
        if self.spi.segment() != self.guard.segment {
            return Err(Refusal::SpiTaken);
        }
        let before = lookup(self.spi);
        if before.as_ref().map_or(Revision::default(), |record| record.revision) != self.revision {
            return Err(Refusal::Stale);
        }
        let mut draft = Draft { change: self, lookup, writes: Writes::new() };
        for step in &self.steps {
            draft.step(step)?;
        }
        let writes = draft.finish();
        for record in writes.values().flatten() {
            record.assert_sound();
        }
        Ok(writes)
    }

    /// What stays of an IKE SA that this change has ended: the reply, where the change answers the request that ends it.
    pub fn farewell(&self, ended: Spi) -> Farewell {
        let reply = self.steps.iter().filter(|_| ended == self.spi).find_map(|step| match step {
            Step::Answered { message_id, octets } => Some((*message_id, octets.clone())),
            _ => None,
        });
        let (message_id, octets) = reply.unwrap_or_default();
        Farewell { spi: ended, message_id, octets, at: self.at }
    }

    /// The IKE SAs that begin with this change.
    pub fn begins(&self) -> impl Iterator<Item = Spi> + '_ {
        self.steps.iter().filter_map(|step| match step {
            Step::Establish(_) => Some(self.spi),
            Step::AddIke(record) => Some(record.spi),
            _ => None,
        })
    }
}

struct Draft<'a> {
    change: &'a Change,
    lookup: &'a dyn Fn(Spi) -> Option<Arc<IkeRecord>>,
    writes: Writes,
}

impl Draft<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Refusal> {
        match step {
            Step::Establish(record) => self.establish(self.change.spi, record),
            Step::AddIke(record) => {
                self.record()?;
                self.establish(record.spi, record)
            }
            Step::Supersede { spi, silently } => self.supersede(*spi, *silently),
            Step::Answered { message_id, octets } => self.record()?.answered(*message_id, octets),
            Step::Asked(outstanding) => self.record()?.asked(outstanding),
            Step::Concluded { message_id } => self.record()?.concluded(*message_id),
            Step::Crossed { nonce, spi } => self.record()?.crossed(nonce, *spi),
            Step::AddChild(child) => {
                let epoch = self.change.guard.epoch;
                self.record()?.add_child(child, epoch)
            }
            Step::SetChildPhase { spi_in, phase } => self.record()?.set_child_phase(*spi_in, *phase),
            Step::RemoveChild { spi_in, .. } => self.record()?.remove_child(*spi_in),
            Step::Inherit { by } => self.inherit(*by),
            Step::SetPhase(phase) => self.record()?.set_phase(*phase),
            Step::Moved(path) => {
                self.record()?.path = *path;
                Ok(())
            }
            Step::Remove { .. } => {
                self.record()?;
                self.writes.insert(self.change.spi, None);
                Ok(())
            }
        }
    }

    /// The copy of the change's own record.
    fn record(&mut self) -> Result<&mut IkeRecord, Refusal> {
        self.copy_of(self.change.spi)
    }

    fn copy_of(&mut self, spi: Spi) -> Result<&mut IkeRecord, Refusal> {
        if !self.writes.contains_key(&spi) {
            let record = (self.lookup)(spi).ok_or(Refusal::NotFound)?;
            self.writes.insert(spi, Some((*record).clone()));
        }
        self.writes.get_mut(&spi).and_then(Option::as_mut).ok_or(Refusal::NotFound)
    }

    fn establish(&mut self, spi: Spi, record: &IkeRecord) -> Result<(), Refusal> {
        let taken = self.writes.contains_key(&spi) || (self.lookup)(spi).is_some();
        if taken || record.spi != spi || spi.is_zero() || spi.segment() != self.change.guard.segment {
            return Err(Refusal::SpiTaken);
        }
        let mut record = record.clone();
        record.revision = Revision::default();
        let children = std::mem::take(&mut record.children);
        for child in &children {
            record.add_child(child, self.change.guard.epoch)?;
        }
        self.writes.insert(spi, Some(record));
        Ok(())
    }

    /// Older SAs may be in segments of other owners. It is safe without their epoch: an end needs no revision.
    fn supersede(&mut self, spi: Spi, silently: bool) -> Result<(), Refusal> {
        if spi == self.change.spi {
            return Err(Refusal::NotFound);
        }
        let Ok(old) = self.copy_of(spi) else {
            return Ok(());
        };
        if silently {
            self.writes.insert(spi, None);
        } else {
            old.inner_addresses.clear();
            old.children.clear();
            old.close(Why::Superseded);
        }
        Ok(())
    }

    fn inherit(&mut self, by: Spi) -> Result<(), Refusal> {
        let old = self.record()?;
        if old.phase != Phase::Established {
            return Err(Refusal::NotInThisPhase);
        }
        let children = std::mem::take(&mut old.children);
        let inner_addresses = std::mem::take(&mut old.inner_addresses);
        old.phase = Phase::Replaced { successor: by };
        let heir = self.copy_of(by)?;
        if heir.phase != Phase::Established || !heir.children.is_empty() {
            return Err(Refusal::NotInThisPhase);
        }
        heir.children = children;
        heir.inner_addresses = inner_addresses;
        Ok(())
    }

    fn finish(mut self) -> Writes {
        for record in self.writes.values_mut().flatten() {
            record.revision = record.revision.next();
        }
        self.writes
    }
}

impl IkeRecord {
    fn answered(&mut self, message_id: MessageId, octets: &[u8]) -> Result<(), Refusal> {
        if message_id != self.expected {
            return Err(Refusal::OutOfOrder);
        }
        self.expected = message_id.next().ok_or(Refusal::Exhausted)?;
        self.last_reply = Some(Reply { message_id, octets: octets.to_vec() });
        Ok(())
    }

    fn asked(&mut self, outstanding: &Outstanding) -> Result<(), Refusal> {
        if self.outstanding.is_some() || outstanding.message_id != self.next_request {
            return Err(Refusal::OutOfOrder);
        }
        self.next_request = outstanding.message_id.next().ok_or(Refusal::Exhausted)?;
        self.outstanding = Some(outstanding.clone());
        Ok(())
    }

    fn concluded(&mut self, message_id: MessageId) -> Result<(), Refusal> {
        match &self.outstanding {
            Some(outstanding) if outstanding.message_id == message_id => {
                self.outstanding = None;
                Ok(())
            }
            _ => Err(Refusal::OutOfOrder),
        }
    }

    fn crossed(&mut self, nonce: &[u8], spi: u64) -> Result<(), Refusal> {
        match self.outstanding.as_mut().map(|outstanding| &mut outstanding.purpose) {
            Some(Purpose::RekeyChild(rekey)) => {
                let spi = u32::try_from(spi).map_err(|_| Refusal::NotFound)?;
                rekey.crossed = Some((nonce.to_vec(), ChildSpi(spi)));
                Ok(())
            }
            Some(Purpose::RekeyIke(rekey)) => {
                rekey.crossed = Some((nonce.to_vec(), Spi(spi)));
                Ok(())
            }
            _ => Err(Refusal::NotInThisPhase),
        }
    }

    /// The first block comes with the child: one commit both makes it and lets it send.
    fn add_child(&mut self, child: &ChildRecord, epoch: Epoch) -> Result<(), Refusal> {
        if child.spi_in.segment() != self.spi.segment() || child.spi_in.0 < ChildSpi::FIRST {
            return Err(Refusal::SpiTaken);
        }
        if self.child(child.spi_in).is_some() {
            return Err(Refusal::SpiTaken);
        }
        if self.children.len() >= limits::CHILDREN_PER_IKE_SA {
            return Err(Refusal::LimitReached);
        }
        let mut child = child.clone();
        child.granted = EspSeq(0);
        child.block = Block::NONE;
        child.claimed = child.claimed.map(|_| Claimed::FIRST);
        child.grant(epoch, limits::FIRST_BLOCK).ok_or(Refusal::Exhausted)?;
        self.children.push(child);
        Ok(())
    }

    fn set_child_phase(&mut self, spi_in: ChildSpi, phase: ChildPhase) -> Result<(), Refusal> {
        let child = self.children.iter_mut().find(|child| child.spi_in == spi_in).ok_or(Refusal::NotFound)?;
        child.phase = match (child.phase, phase) {
            (ChildPhase::Closing { why }, _) => ChildPhase::Closing { why },
            (ChildPhase::Replaced, ChildPhase::Live) => return Err(Refusal::NotInThisPhase),
            (_, next) => next,
        };
        Ok(())
    }

    fn remove_child(&mut self, spi_in: ChildSpi) -> Result<(), Refusal> {
        let before = self.children.len();
        self.children.retain(|child| child.spi_in != spi_in);
        if self.children.len() == before { Err(Refusal::NotFound) } else { Ok(()) }
    }

    fn set_phase(&mut self, phase: Phase) -> Result<(), Refusal> {
        match phase {
            Phase::Closing { why } => self.close(why),
            Phase::Replaced { .. } if self.phase == Phase::Established => self.phase = phase,
            _ => return Err(Refusal::NotInThisPhase),
        }
        Ok(())
    }

    /// The first reason wins.
    fn close(&mut self, why: Why) {
        if !matches!(self.phase, Phase::Closing { .. }) {
            self.phase = Phase::Closing { why };
        }
    }

    /// What only our own fault could break.
    fn assert_sound(&self) {
        assert!(!self.spi.is_zero(), "an IKE SA has an SPI");
        if let Some(reply) = &self.last_reply {
            assert!(reply.message_id < self.expected, "the last reply is older than the next request");
        }
        if let Some(outstanding) = &self.outstanding {
            assert!(outstanding.message_id < self.next_request, "an outstanding request has used its ID");
        }
        for child in &self.children {
            assert_eq!(
                child.spi_in.segment(),
                self.spi.segment(),
                "children live in the segment of their IKE SA"
            );
            assert!(child.block.last <= child.granted, "a block lies in what was granted");
            let claimed = child.claimed.unwrap_or(Claimed::FIRST);
            assert!(claimed.floor <= claimed.ceiling, "a claim does not end below its beginning");
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refusal::Deposed => "another epoch owns the segment",
            Refusal::Stale => "the record has changed meanwhile",
            Refusal::SpiTaken => "the SPI is taken or of another segment",
            Refusal::AddressTaken => "another client holds the inner address",
            Refusal::OutOfOrder => "the message ID is not next",
            Refusal::NotInThisPhase => "not possible in this phase",
            Refusal::Exhausted => "the SA's numbers are used up",
            Refusal::NotFound => "no such SA",
            Refusal::LimitReached => "a limit is reached",
        })
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::samples;

    type Shelf = BTreeMap<Spi, Arc<IkeRecord>>;

    fn shelf(records: &[&IkeRecord]) -> Shelf {
        records.iter().map(|&record| (record.spi, Arc::new(record.clone()))).collect()
    }

    fn change(record: &IkeRecord, steps: Vec<Step>) -> Change {
        let guard = Guard { segment: record.segment(), epoch: Epoch(3), incarnation: Incarnation(9) };
        Change { guard, spi: record.spi, revision: record.revision, at: Millis(0), steps }
    }

    fn apply(shelf: &Shelf, change: &Change) -> Result<Writes, Refusal> {
        change.apply(&|spi| shelf.get(&spi).cloned())
    }

    #[test]
    fn of_two_changes_on_one_revision_one_counts() {
        let record = samples::record(1);
        let mut shelf = shelf(&[&record]);
        let first = change(&record, vec![Step::Answered { message_id: record.expected, octets: vec![1] }]);
        let second = change(&record, vec![Step::Answered { message_id: record.expected, octets: vec![2] }]);
        let writes = apply(&shelf, &first).unwrap();
        let written = writes[&record.spi].clone().unwrap();
        assert_eq!(written.revision, record.revision.next());
        shelf.insert(record.spi, Arc::new(written));
        assert_eq!(apply(&shelf, &second), Err(Refusal::Stale));
    }

    //= test IK-13
    //= test IK-16
    #[test]
    fn message_ids_move_by_one_and_one_request_is_outstanding() {
        let record = samples::record(1);
        let shelf = shelf(&[&record]);
        let ask = |id| {
            Step::Asked(Box::new(Outstanding { message_id: id, octets: vec![7], purpose: Purpose::Liveness }))
        };
        let next = record.next_request;
        for (steps, result) in [
            (vec![ask(next)], Ok(())),
            (vec![ask(next.next().unwrap())], Err(Refusal::OutOfOrder)),
            (vec![ask(next), ask(next.next().unwrap())], Err(Refusal::OutOfOrder)),
            (vec![ask(next), Step::Concluded { message_id: next }, ask(next.next().unwrap())], Ok(())),
            (vec![Step::Concluded { message_id: next }], Err(Refusal::OutOfOrder)),
            (
                vec![Step::Answered { message_id: record.expected.next().unwrap(), octets: vec![] }],
                Err(Refusal::OutOfOrder),
            ),
        ] {
            assert_eq!(apply(&shelf, &change(&record, steps.clone())).map(|_| ()), result, "{steps:?}");
        }
    }

    #[test]
    fn a_refused_step_undoes_those_before_it() {
        let record = samples::record(1);
        let shelf = shelf(&[&record]);
        let steps = vec![
            Step::Answered { message_id: record.expected, octets: vec![1] },
            Step::RemoveChild { spi_in: ChildSpi(0x0100_ffff), why: Why::PeerDeleted },
        ];
        assert_eq!(apply(&shelf, &change(&record, steps)), Err(Refusal::NotFound));
        assert_eq!(*shelf[&record.spi], record);
    }

    #[test]
    fn a_successor_inherits_children_and_addresses() {
        let record = samples::record(1);
        let mut successor = samples::record(1);
        successor.spi = Spi(record.spi.0 + 1);
        successor.children.clear();
        successor.inner_addresses.clear();
        let shelf = shelf(&[&record]);
        let steps = vec![Step::AddIke(Box::new(successor.clone())), Step::Inherit { by: successor.spi }];
        let writes = apply(&shelf, &change(&record, steps)).unwrap();
        let (old, new) = (writes[&record.spi].as_ref().unwrap(), writes[&successor.spi].as_ref().unwrap());
        assert_eq!(old.phase, Phase::Replaced { successor: successor.spi });
        assert!(old.children.is_empty() && old.inner_addresses.is_empty());
        assert_eq!(new.children, record.children, "numbers and keys go along unchanged");
        assert_eq!(new.inner_addresses, record.inner_addresses);
    }

    #[test]
    fn the_first_reason_of_an_end_stays() {
        let record = samples::record(1);
        let shelf = shelf(&[&record]);
        let close = |why| Step::SetPhase(Phase::Closing { why });
        let writes =
            apply(&shelf, &change(&record, vec![close(Why::Expired), close(Why::Terminated)])).unwrap();
        assert_eq!(writes[&record.spi].as_ref().unwrap().phase, Phase::Closing { why: Why::Expired });
    }

    #[test]
    fn superseding_is_silent_or_told() {
        let (old, new) = (samples::record(1), samples::record(2));
        let shelf = shelf(&[&old]);
        for (silently, left) in [(true, false), (false, true)] {
            let mut establish = change(
                &new,
                vec![Step::Supersede { spi: old.spi, silently }, Step::Establish(Box::new(new.clone()))],
            );
            establish.revision = Revision(0);
            let writes = apply(&shelf, &establish).unwrap();
            assert_eq!(writes[&old.spi].is_some(), left);
            if let Some(old) = &writes[&old.spi] {
                assert_eq!(old.phase, Phase::Closing { why: Why::Superseded });
                assert!(old.children.is_empty() && old.inner_addresses.is_empty());
            }
        }
    }

    #[test]
    fn changes_keep_their_meaning_on_disk() {
        let record = samples::record(1);
        let all = vec![
            Step::Establish(Box::new(record.clone())),
            Step::Supersede { spi: Spi(5), silently: true },
            Step::Answered { message_id: MessageId(3), octets: vec![1, 2] },
            Step::Asked(Box::new(samples::child_rekey())),
            Step::Asked(Box::new(samples::ike_rekey())),
            Step::Concluded { message_id: MessageId(4) },
            Step::Crossed { nonce: vec![8; 32], spi: 77 },
            Step::AddChild(Box::new(samples::child(1))),
            Step::SetChildPhase { spi_in: ChildSpi(300), phase: ChildPhase::Replaced },
            Step::RemoveChild { spi_in: ChildSpi(300), why: Why::Rekeyed },
            Step::AddIke(Box::new(record.clone())),
            Step::Inherit { by: Spi(6) },
            Step::SetPhase(Phase::Replaced { successor: Spi(7) }),
            Step::Moved(record.path),
            Step::Remove { why: Why::PeerSilent },
        ];
        let change = change(&record, all);
        assert_eq!(Change::decode(&change.encode()).unwrap(), change);
        assert!(Change::decode(&change.encode()[1..]).is_err());
        assert_eq!(IkeRecord::decode(&record.encode()).unwrap(), record);
    }
}
