//! Packets that landed on the wrong node: they go on to the owner of their segment, sealed, and the owner treats them
//! as if they had come to itself.
//!
//! ```text
//!   outer   socket ─> segment not served here ──────────┐                           ┌─> opened, or handed to IKE
//!   inner   device ─> the SA is served elsewhere ───────┴─> frame ─ link ─> frame ──┴─> sealed; straight to the client
//! ```
//!
//! Which node owns a segment, and which SA an inner address belongs to, the control side tells as the log says it
//! (`Order::Owners`, `Order::Reaches`). A packet whose owner is not known, or that was passed on often enough, is
//! dropped and counted; nothing waits. What the wrong node sees of a packet it learns nothing from: no window, no
//! address, no state changes there.

pub mod frame;
pub(super) mod inlet;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipsec::esp::{DropReason, Flow, Routes};
use ipsec::policy::Selector;
use ipsec::types::{Epoch, Segment, Spi};
use raft::state::NodeId;

use super::outward::Packets;
use super::worker::Core;
use crate::io::clock::Clock;
use crate::io::{Outside, Route, SendBatch};
use frame::{Header, What};

pub use inlet::Inlet;

/// Keeps DSCP and no ECN for the way between nodes: the mark of the client's way travels inside (RFC 6040, 4.1).
const DSCP: u8 = 0xfc;

/// The process that the log names for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `None`: this node.
    pub node: Option<NodeId>,
    pub epoch: Epoch,
}

/// Seals frames for other nodes. One for each worker.
pub trait Seal: Send {
    /// Octets that sealing needs before and behind what is sealed.
    fn room(&self) -> (usize, usize);

    /// Seals what lies in `frame` between the room before and behind, in place; where it is to be sent. `None`: there
    /// is no session with that node now.
    fn seal(&mut self, to: NodeId, frame: &mut [u8]) -> Option<SocketAddr>;

    /// A batch has gone; what was looked up for it may have changed.
    fn flushed(&mut self);
}

/// The way to the other nodes: what seals, and the socket that the frames leave by. Its receiving side is not used.
pub struct Link {
    pub seal: Box<dyn Seal>,
    pub outside: Box<dyn Outside>,
}

/// Why a packet was not passed on, or a frame not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RelayDrop {
    /// There is no session with the owner's node now.
    NoSession,
    /// It was passed on as often as may be.
    Hops,
    /// The sender knows an epoch that has not arrived here: only the log can tell whose the packet is.
    Ahead,
    /// A frame that we do not understand.
    BadFrame,
    /// Every node has seen the packet; its owner takes it from there.
    SeenByAll,
    /// It was held for a segment that did not come, or not in time, or there was no more room.
    Held,
}

impl RelayDrop {
    pub const ALL: [RelayDrop; 6] = [
        RelayDrop::NoSession,
        RelayDrop::Hops,
        RelayDrop::Ahead,
        RelayDrop::BadFrame,
        RelayDrop::SeenByAll,
        RelayDrop::Held,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            RelayDrop::NoSession => "relay_no_session",
            RelayDrop::Hops => "relay_hops",
            RelayDrop::Ahead => "relay_ahead",
            RelayDrop::BadFrame => "relay_bad_frame",
            RelayDrop::SeenByAll => "seen_by_all",
            RelayDrop::Held => "held_in_vain",
        }
    }
}

/// What a worker knows of the other nodes.
pub(super) struct Relay {
    owners: [Option<Owner>; Segment::COUNT],
    /// Where the remote selectors of all IKE SAs of the cluster lead.
    places: Routes<Spi>,
    known: HashMap<Spi, Vec<Selector>>,
    link: Option<Link>,
    batch: SendBatch,
}

impl Relay {
    pub fn new() -> Relay {
        Relay {
            owners: [None; Segment::COUNT],
            places: Routes::default(),
            known: HashMap::new(),
            link: None,
            batch: SendBatch::new(),
        }
    }

    pub fn set_link(&mut self, link: Link) {
        self.batch.clear();
        self.link = Some(link);
    }

    /// An earlier epoch than the one that is known is old news: the log still names this node while a segment that was
    /// closed here is on its way to the next owner.
    pub fn set_owner(&mut self, segment: Segment, owner: Option<Owner>) {
        let known = &mut self.owners[usize::from(segment.0)];
        let is_old = known.zip(owner).is_some_and(|(known, owner)| owner.epoch < known.epoch);
        if !is_old {
            *known = owner;
        }
    }

    /// What lies behind an IKE SA; nothing when it is gone.
    pub fn set_reach(&mut self, ike: Spi, remote: Vec<Selector>) {
        for selector in self.known.remove(&ike).unwrap_or_default() {
            self.places.remove(&selector, ike);
        }
        for selector in &remote {
            self.places.insert(selector, ike);
        }
        if !remote.is_empty() {
            self.known.insert(ike, remote);
        }
    }

    /// The segment of the newest SA among those with the longest prefix; `None` when one of these `is_here`, or none
    /// is known.
    pub fn elsewhere(&self, destination: IpAddr, is_here: impl Fn(Segment) -> bool) -> Option<Segment> {
        if self.places.is_empty() {
            return None;
        }
        let candidates = self.places.candidates(destination).next()?;
        let here = candidates.iter().any(|spi| is_here(spi.segment()));
        candidates.last().filter(|_| !here).map(|spi| spi.segment())
    }

    fn owner(&self, segment: Segment) -> Option<Owner> {
        self.owners[usize::from(segment.0)]
    }
}

/// Why a packet stays here.
enum Stays {
    Owner(DropReason),
    Relay(RelayDrop),
}

impl<C: Clock> Core<C> {
    //= CL-18
    pub fn serves(&self, segment: Segment) -> bool {
        self.table.served(segment).is_some()
    }

    /// A packet from a client for a segment that is not served here.
    pub fn pass_on_outer(&mut self, segment: Segment, what: What, tos: u8, packet: &[u8]) {
        self.pass_on(segment, what, tos, frame::HOPS_MAX, packet);
    }

    /// Inner packets of one flow whose SA is served elsewhere.
    pub fn pass_on_inner<P: Packets>(&mut self, segment: Segment, flow: &Flow, packets: &mut P) {
        while let Some(packet) = packets.next() {
            self.pass_on(segment, What::Inner, flow.tos, frame::HOPS_MAX, packet);
        }
    }

    /// What was heard of the way to a peer, wherever its SA is served.
    pub fn path_mtu(&mut self, ike: Spi, octets: usize) {
        if self.serves(ike.segment()) {
            self.table.set_path_mtu(ike, octets);
        } else {
            let content = frame::emit_path_mtu(ike, octets);
            self.pass_on(ike.segment(), What::PathMtu, 0, frame::HOPS_MAX, &content);
        }
    }

    /// A frame of another node for a segment that is not served here: the owner has changed, and one of us two does
    /// not know it yet.
    pub fn pass_on_frame(&mut self, header: Header, packet: &[u8]) {
        if self.relay.owner(header.segment).is_none_or(|owner| owner.epoch < header.epoch) {
            return self.tally.count_relay(RelayDrop::Ahead);
        }
        match header.hops.min(frame::HOPS_MAX).checked_sub(1) {
            None | Some(0) => self.tally.count_relay(RelayDrop::Hops),
            Some(hops) => self.pass_on(header.segment, header.what, header.tos, hops, packet),
        }
    }

    fn pass_on(&mut self, segment: Segment, what: What, tos: u8, hops: u8, packet: &[u8]) {
        match self.seal_for_owner(segment, what, tos, hops, packet) {
            Ok(()) => self.tally.relayed += 1,
            Err(Stays::Owner(reason)) => self.tally.drops.count(reason),
            Err(Stays::Relay(reason)) => self.tally.count_relay(reason),
        }
    }

    fn seal_for_owner(
        &mut self,
        segment: Segment,
        what: What,
        tos: u8,
        hops: u8,
        packet: &[u8],
    ) -> Result<(), Stays> {
        // Ours, but not taken up yet, counts as nobody's.
        let owner = self.relay.owner(segment).ok_or(Stays::Owner(DropReason::NotOwner))?;
        let node = owner.node.ok_or(Stays::Owner(DropReason::NotOwner))?;
        let Some(link) = &self.relay.link else { return Err(Stays::Relay(RelayDrop::NoSession)) };
        let header = Header { what, hops, tos, segment, epoch: owner.epoch };
        let (before, behind) = link.seal.room();
        let len = before + header.emitted_len() + packet.len() + behind;
        if self.relay.batch.slot(len).is_none() {
            self.flush_relay();
        }
        let Relay { batch, link: Some(link), .. } = &mut self.relay else {
            return Err(Stays::Relay(RelayDrop::NoSession));
        };
        let frame = batch.slot(len).ok_or(Stays::Owner(DropReason::TooBig))?;
        let content = &mut frame[before..len - behind];
        header.emit(content);
        content[header.emitted_len()..].copy_from_slice(packet);
        let peer = link.seal.seal(node, frame).ok_or(Stays::Relay(RelayDrop::NoSession))?;
        batch.commit(Route { peer, tos: tos & DSCP }, len);
        Ok(())
    }

    /// Sends what is ready for other nodes. A node that has lost its lease has lost its say: what it queued is old.
    pub fn flush_relay(&mut self) {
        let holds = self.holds_lease();
        let Relay { batch, link, .. } = &mut self.relay;
        match link {
            Some(link) if holds && !batch.is_empty() => {
                link.outside.send(batch);
                link.seal.flushed();
            }
            _ => {
                self.tally.drops.add(DropReason::NotOwner, batch.len() as u64);
                batch.clear();
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}
