//! The child SAs of the segments that we serve, and which of them may send.
//!
//! ```text
//!   Serve(segment, epoch) ──> Install(child, block of that epoch) ──> packets both ways
//!          │                        └─ a grant of a newer block ──> more numbers
//!          └─ a new epoch: old blocks and sealing keys are void, windows stay
//! ```
//!
//! A sealing key is made once for each child and epoch, because its IV counter starts at zero (I1). Installing a known
//! child again keeps the key and its counter; a child that was removed gets no new key in the same epoch.
//!
//! Make before break (RFC 7296, 2.8): a child that the peer asked for is sent on once the peer has sent on it, or once
//! the child that it replaces is gone. Of the usable children that select a packet the newest is taken.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crypto::cipher::SealKey;
use crypto::rng::Rng;

use super::child::{Carried, Child, ChildStats, Kept};
use super::claim::Claim;
use super::hash::NumberHasher;
use super::lifetime::{Age, Limits};
use super::replay::WindowState;
use super::routes::Routes;
use super::selectors::Selectors;
use super::{DropReason, Drops, Flow};
use crate::record::{Block, ChildRecord, Path, Side};
use crate::types::{ChildSpi, Epoch, EspSeq, Millis, Segment, Spi};

/// Removed children of a segment that are remembered until its next epoch. They are refused a sealing key; the log
/// never brings back a deleted child, so this only guards against a stale message in a queue.
const REMOVED_PER_SEGMENT: usize = 4_096;

/// Windows of given-up segments that are kept, in case the segment comes back to this process: 268 octets each.
const WINDOWS_KEPT: usize = 16_384;

/// Events between two calls of `events`. What does not fit comes again later: each is raised by a lasting state.
const EVENTS_MAX: usize = 1_024;

/// The place of a child in a table. Good until the table is changed: not to be kept across batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildIndex(pub(super) u32);

/// What to install.
#[derive(Clone, Debug)]
pub struct Install {
    /// The IKE SA that it belongs to now.
    pub ike: Spi,
    pub child: ChildRecord,
    pub path: Path,
    /// Octets in one direction after which a rekey is asked for; 0: none but the suite's own.
    pub rekey_octets: u64,
    /// The largest packet that the way to the peer takes, outer headers included.
    pub path_mtu: usize,
    /// What is known of the numbers received so far. Counts only for a child that is not installed yet.
    pub replay: Replay,
    /// Counters that others may read.
    pub stats: Arc<ChildStats>,
}

/// Where the inbound window of a new child starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Nothing was received: a new SA.
    Fresh,
    /// Everything up to this number counts as seen: a takeover (CL-14).
    After(EspSeq),
    /// The window of the owner before us: a planned move (CL-13).
    Exact(WindowState),
}

/// What the table refused to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The segment was served under this epoch or a later one before, and then given up.
    OldEpoch,
    /// The segment is not served.
    NotServed,
    /// No such child.
    Unknown,
    /// Keys, SPI or window do not fit the suite.
    Unsound,
}

/// Something that the control side should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Half of the block is used: `count` further numbers are wanted.
    NeedBlock { ike: Spi, child: ChildSpi, count: u64 },
    /// Half of what was claimed has come in: numbers of the peer up to `upto` should be (CL-14).
    NeedClaim { ike: Spi, child: ChildSpi, upto: EspSeq },
    /// The peer of a child with `replay = "strict"` still sends numbers that an owner before us may have accepted. All of
    /// them are lost until it has passed those, or the child is rekeyed. Told once in an epoch.
    Stranded { ike: Spi, child: ChildSpi },
    /// The first good packet came in on this child.
    FirstInbound { ike: Spi, child: ChildSpi },
    /// A good packet with a new highest number came from a new address; we answer there from now on (CL-33).
    PeerMoved { ike: Spi, child: ChildSpi, peer: SocketAddr },
    /// A limit of packets or octets: rekey soon.
    SoftLimit { ike: Spi, child: ChildSpi },
    /// Nothing passes any more: delete it.
    HardLimit { ike: Spi, child: ChildSpi },
    /// A packet for an SPI of a served segment that we do not have. One in a batch is told.
    UnknownSpi { child: ChildSpi, peer: SocketAddr },
    /// A packet that failed, as RFC 4301 wants it auditable. One in a batch is told; all are counted.
    Audit { reason: DropReason, child: ChildSpi, number: u32, peer: SocketAddr },
}

/// All children of the served segments of one worker.
#[derive(Debug)]
pub struct Table {
    served: [Option<Epoch>; Segment::COUNT],
    /// The highest epoch under which each segment was ever served here.
    reached: [Option<Epoch>; Segment::COUNT],
    pub(super) by_spi: HashMap<u32, ChildIndex, NumberHasher>,
    pub(super) children: Vec<Option<Box<Child>>>,
    free: Vec<ChildIndex>,
    routes: Routes<ChildIndex>,
    removed: HashMap<u8, VecDeque<ChildSpi>>,
    /// What was received on children of segments that were given up. With it a restarted actor goes on exactly.
    kept: HashMap<ChildSpi, Kept>,
    pub(super) drops: Drops,
    pub(super) events: Vec<Event>,
    installs: u64,
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

impl Table {
    pub fn new() -> Table {
        Table {
            served: [None; Segment::COUNT],
            reached: [None; Segment::COUNT],
            by_spi: HashMap::default(),
            children: Vec::new(),
            free: Vec::new(),
            routes: Routes::default(),
            removed: HashMap::new(),
            kept: HashMap::new(),
            drops: Drops::default(),
            events: Vec::with_capacity(EVENTS_MAX),
            installs: 0,
        }
    }

    /// The segment is assigned to our running incarnation under `epoch`. A higher epoch than before voids all blocks
    /// and sealing keys of the segment; an epoch that was given up never comes back.
    pub fn serve(&mut self, segment: Segment, epoch: Epoch) -> Result<(), Refused> {
        let at = usize::from(segment.0);
        if self.served[at] == Some(epoch) {
            return Ok(());
        }
        if self.reached[at].is_some_and(|reached| epoch <= reached) {
            return Err(Refused::OldEpoch);
        }
        (self.served[at], self.reached[at]) = (Some(epoch), Some(epoch));
        self.removed.remove(&segment.0);
        for child in self.children.iter_mut().flatten().filter(|child| child.spi_in.segment() == segment) {
            child.numbers.revoke();
            child.claim = child.claim.take().map(|_| Claim::new());
            child.seal = None;
        }
        Ok(())
    }

    /// The segment is no longer ours: its children and their keys go. What was received is remembered.
    pub fn unserve(&mut self, segment: Segment) {
        self.served[usize::from(segment.0)] = None;
        self.kept.retain(|spi, _| spi.segment() != segment);
        let gone: Vec<ChildSpi> = self
            .children
            .iter()
            .flatten()
            .map(|child| child.spi_in)
            .filter(|spi| spi.segment() == segment)
            .collect();
        for spi in gone {
            let Ok(child) = self.take(spi) else { continue };
            if self.kept.len() < WINDOWS_KEPT {
                self.kept.insert(spi, Kept::of(*child));
            }
        }
    }

    /// Gives the segment up to another node: nothing is sent or received for it from now on, and what that node needs to
    /// go on exactly is returned. This epoch is over here, whatever becomes of the move.
    //= CL-13
    pub fn close(&mut self, segment: Segment, now: Millis) -> Vec<Carried> {
        let own = self.children.iter().flatten().filter(|child| child.spi_in.segment() == segment);
        let carried = own.map(|child| child.carry(now)).collect();
        self.unserve(segment);
        carried
    }

    /// The highest epoch under which the segment was ever served here.
    pub fn reached(&self, segment: Segment) -> Option<Epoch> {
        self.reached[usize::from(segment.0)]
    }

    pub fn served(&self, segment: Segment) -> Option<Epoch> {
        self.served[usize::from(segment.0)]
    }

    /// Adds a child, or brings a known one up to date: path, phase, IKE SA, block. A known one keeps its window and its
    /// sealing key. The random source seeds the IVs of AES-CBC.
    pub fn install(&mut self, install: Install, rng: &mut dyn Rng) -> Result<(), Refused> {
        let spi_in = install.child.spi_in;
        let served = self.served(spi_in.segment()).ok_or(Refused::NotServed)?;
        if spi_in.0 < ChildSpi::FIRST || install.child.spi_out.0 < ChildSpi::FIRST {
            return Err(Refused::Unsound);
        }
        let block = install.child.block;
        if let Some(index) = self.by_spi.get(&spi_in.0).copied() {
            let known =
                self.child(index).is_some_and(|child| child.installed.child.keys == install.child.keys);
            if known {
                self.update(index, install);
            } else {
                self.remove(spi_in)?;
                self.add(install)?;
            }
        } else {
            self.add(install)?;
        }
        // A block of another epoch is no error here: the record may be ahead of or behind the assignment.
        if block.epoch != served {
            return Ok(());
        }
        if let Some(child) = self.child_mut(spi_in) {
            child.take_claim();
        }
        self.grant(spi_in, block, rng)
    }

    /// Further numbers for a child, or the first ones of a new epoch. A grant that came before changes nothing.
    pub fn grant(&mut self, spi_in: ChildSpi, block: Block, rng: &mut dyn Rng) -> Result<(), Refused> {
        let served = self.served(spi_in.segment()).ok_or(Refused::NotServed)?;
        let removed = self.removed.get(&spi_in.segment().0).is_some_and(|gone| gone.contains(&spi_in));
        let child = self.child_mut(spi_in).ok_or(Refused::Unknown)?;
        if removed {
            return Err(Refused::OldEpoch);
        }
        child.numbers.grant(block, served).map_err(|_| Refused::OldEpoch)?;
        if child.seal.is_none() {
            let record = &child.installed.child;
            let (encr, integ) = (record.keys.encr_out.as_bytes(), record.keys.integ_out.as_bytes());
            let key = SealKey::new(record.suite.protection, encr, integ, served.0, rng);
            child.seal = Some(key.map_err(|_| Refused::Unsound)?);
        }
        child.stats.next_number.store(child.numbers.next().0, Relaxed);
        Ok(())
    }

    /// Deletes a child and its keys.
    pub fn remove(&mut self, spi_in: ChildSpi) -> Result<(), Refused> {
        self.kept.remove(&spi_in);
        self.take(spi_in)?;
        Ok(())
    }

    /// The path of an IKE SA was changed in its record: all its children follow.
    pub fn moved(&mut self, ike: Spi, path: Path) {
        for child in self.children.iter_mut().flatten().filter(|child| child.ike == ike) {
            child.installed.path = path;
            child.set_path(path);
        }
    }

    /// The peer is known to use this child, though no packet came in yet: it may be sent on.
    pub fn confirm(&mut self, spi_in: ChildSpi) -> Result<(), Refused> {
        self.child_mut(spi_in).ok_or(Refused::Unknown)?.heard = true;
        Ok(())
    }

    /// Everything up to `edge` counts as received: from a mark of the owner before us.
    pub fn raise_edge(&mut self, spi_in: ChildSpi, edge: EspSeq) -> Result<(), Refused> {
        self.child_mut(spi_in).ok_or(Refused::Unknown)?.window.raise(edge);
        Ok(())
    }

    /// The way to the peer takes packets of at most `path_mtu` octets.
    pub fn set_path_mtu(&mut self, ike: Spi, path_mtu: usize) {
        for child in self.children.iter_mut().flatten().filter(|child| child.ike == ike) {
            child.installed.path_mtu = path_mtu;
            child.set_path(child.path);
        }
    }

    /// Asks again for numbers for a child that packets wait for.
    pub fn nudge(&mut self, spi_in: ChildSpi, now: Millis) {
        let Some(index) = self.by_spi.get(&spi_in.0).copied() else { return };
        // A sealer that seals nothing still asks.
        drop(self.sealer(index, now));
    }

    pub fn find(&self, spi_in: ChildSpi) -> Option<&Child> {
        self.child(*self.by_spi.get(&spi_in.0)?)
    }

    pub fn len(&self) -> usize {
        self.by_spi.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_spi.is_empty()
    }

    /// Counts since the start; the caller adds its own.
    pub fn drops(&mut self) -> &mut Drops {
        &mut self.drops
    }

    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What happened since the last call.
    pub fn events(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.events.drain(..)
    }

    /// The child that an inner packet leaves on: the longest prefix, then the newest that may be used.
    //= ES-16
    pub fn select(&self, flow: &Flow) -> Result<ChildIndex, DropReason> {
        let mut reason = DropReason::NoPolicy;
        for candidates in self.routes.candidates(flow.destination) {
            let mut best: Option<(&Child, ChildIndex)> = None;
            for &index in candidates {
                let Some(child) = self.child(index) else { continue };
                match child.selectors.admit_outbound(flow) {
                    Err(DropReason::Fragment) => reason = DropReason::Fragment,
                    Err(_) => {}
                    Ok(()) if child.reported == Age::Hard => reason = DropReason::Expired,
                    Ok(()) if !self.may_send_on(child) => {}
                    Ok(()) if best.is_some_and(|(other, _)| other.seniority() > child.seniority()) => {}
                    Ok(()) => best = Some((child, index)),
                }
            }
            if let Some((_, index)) = best {
                return Ok(index);
            }
        }
        Err(reason)
    }

    /// Make before break.
    //= IK-71
    fn may_send_on(&self, child: &Child) -> bool {
        let record = &child.installed.child;
        let confirmed = child.heard
            || record.initiator == Side::Us
            || record.replaces.is_none_or(|old| self.find(old).is_none_or(|old| !old.is_live()));
        confirmed && child.is_live()
    }

    fn take(&mut self, spi_in: ChildSpi) -> Result<Box<Child>, Refused> {
        let index = self.by_spi.remove(&spi_in.0).ok_or(Refused::Unknown)?;
        let child = self.children[index.0 as usize].take().ok_or(Refused::Unknown)?;
        for selector in &child.installed.child.remote_ts {
            self.routes.remove(selector, index);
        }
        self.free.push(index);
        let removed = self.removed.entry(spi_in.segment().0).or_default();
        if removed.len() == REMOVED_PER_SEGMENT {
            removed.pop_front();
        }
        removed.push_back(spi_in);
        Ok(child)
    }

    fn add(&mut self, install: Install) -> Result<(), Refused> {
        self.installs += 1;
        let mut child = Box::new(Child::new(install, self.installs)?);
        if let Some(kept) = self.kept.remove(&child.spi_in) {
            kept.give_to(&mut child);
        }
        let index = self.free.pop().unwrap_or(ChildIndex(self.children.len() as u32));
        if index.0 as usize == self.children.len() {
            self.children.push(None);
        }
        for selector in &child.installed.child.remote_ts {
            self.routes.insert(selector, index);
        }
        self.by_spi.insert(child.spi_in.0, index);
        self.children[index.0 as usize] = Some(child);
        Ok(())
    }

    fn update(&mut self, index: ChildIndex, install: Install) {
        let Some(child) = self.children.get_mut(index.0 as usize).and_then(Option::as_mut) else { return };
        if child.installed.child.remote_ts != install.child.remote_ts {
            for selector in &child.installed.child.remote_ts {
                self.routes.remove(selector, index);
            }
            for selector in &install.child.remote_ts {
                self.routes.insert(selector, index);
            }
        }
        child.ike = install.ike;
        child.selectors = Selectors::new(&install.child.local_ts, &install.child.remote_ts);
        child.limits = Limits::new(&install.child.suite, install.rekey_octets);
        // An address learned from a packet outlives a record that does not know of it yet.
        let path = if install.path == child.installed.path { child.path } else { install.path };
        // Somebody else may have served the child between our epochs.
        if let (Some(_), Replay::After(edge)) = (&child.claim, &install.replay) {
            child.window.raise(*edge);
        }
        let stats = child.stats.clone();
        child.installed = Install { stats, ..install };
        child.set_path(path);
    }

    pub(super) fn child(&self, index: ChildIndex) -> Option<&Child> {
        self.children.get(index.0 as usize)?.as_deref()
    }

    fn child_mut(&mut self, spi_in: ChildSpi) -> Option<&mut Child> {
        let index = self.by_spi.get(&spi_in.0)?;
        self.children.get_mut(index.0 as usize)?.as_deref_mut()
    }
}

/// Adds an event if there is room; false: it has to come again.
pub(super) fn raise(events: &mut Vec<Event>, event: Event) -> bool {
    let room = events.len() < EVENTS_MAX;
    if room {
        events.push(event);
    }
    room
}
