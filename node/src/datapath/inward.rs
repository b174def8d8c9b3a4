//! From the sockets: ESP to the device, IKE to the control side, and what another node serves to that node.
//!
//! A flood of IKE must not starve ESP, and a flood of new initiators must not starve known ones: messages of existing
//! IKE SAs (SPIr is set) go first, new ones get a small share of each lap and of the queue. The rest is a counted drop;
//! honest initiators retransmit.

use std::io;
use std::net::SocketAddr;

use ipsec::datagram::Datagram;
use ipsec::esp::{Arrival, DropReason, Origin};
use ipsec::ike;
use ipsec::types::Millis;
use ipsec::wire::Class;
use tokio::sync::mpsc;

use super::counters::Tally;
use super::message::Report;
use super::ports::{self, Carries};
use super::relay::RelayDrop;
use super::relay::frame::What;
use super::worker::{Core, Lap};
use crate::io::clock::Clock;
use crate::io::{Coalescer, Inside};

/// Messages with both SPIs that one lap passes on.
const KNOWN_PER_LAP: usize = 128;

/// Messages of new initiators that one lap passes on.
const INITIAL_PER_LAP: usize = 32;

/// The messages of one lap.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    known: Vec<Datagram>,
    initial: Vec<Datagram>,
}

impl<C: Clock> Lap<C> {
    /// Takes what waits in one socket.
    pub fn inward(&mut self, place: usize, now: Millis) -> io::Result<()> {
        let core = &mut self.core;
        let port = &mut core.ports[place];
        if port.outside.receive(&mut self.received)? == 0 {
            return Ok(());
        }
        let (local, carries) = (port.local, port.carries);
        let (datagrams, arena) = self.received.parts();
        self.arrivals.clear();
        for datagram in datagrams {
            let octets = &arena[datagram.range()];
            let class = ports::classify(carries, octets);
            let segment = match class {
                Class::Esp { spi } => Some(spi.segment()),
                Class::Ike { at } => ike::segment_of(datagram.peer, &octets[at..]),
                Class::Keepalive | Class::Drop(_) => None,
            };
            if let Some(segment) = segment.filter(|segment| !core.serves(*segment)) {
                let what = What::Outer { carries, peer: datagram.peer, local: local.ip() };
                // A filter judges an aggregate by its first packet: the owner may have been shown none of the others.
                if core.held.wants(segment) {
                    core.hold(segment, what, datagram.tos, octets);
                } else if core.seen_by_all.outside && !datagram.aggregated {
                    core.tally.count_relay(RelayDrop::SeenByAll);
                } else {
                    core.pass_on_outer(segment, what, datagram.tos, octets);
                }
                continue;
            }
            match class {
                Class::Esp { .. } => {
                    let (range, peer, tos) = (datagram.range(), datagram.peer, datagram.tos);
                    self.arrivals.push(Arrival { range, peer, tos });
                }
                class => self.inbox.take_in(class, local, datagram.peer, octets, &mut core.tally),
            }
        }
        self.open_received(now, Origin { local, udp: carries == Carries::NatT });
        Ok(())
    }

    fn open_received(&mut self, now: Millis, origin: Origin) {
        let Lap { core, inside, received, arrivals, coalescer, .. } = self;
        open(core, &mut **inside, coalescer, now, origin, received.arena(), arrivals);
    }

    /// Opens the arrivals, which lie in `arena`, and writes what was in them to the device.
    pub fn open(&mut self, now: Millis, origin: Origin, arena: &mut [u8]) {
        let Lap { core, inside, arrivals, coalescer, .. } = self;
        open(core, &mut **inside, coalescer, now, origin, arena, arrivals);
    }
}

fn open<C: Clock>(
    core: &mut Core<C>,
    inside: &mut dyn Inside,
    coalescer: &mut Coalescer,
    now: Millis,
    origin: Origin,
    arena: &mut [u8],
    arrivals: &[Arrival],
) {
    if arrivals.is_empty() {
        return;
    }
    let tally = &mut core.tally;
    core.table.open(now, origin, arena, arrivals, &mut |arena, inner| {
        tally.packets_in += 1;
        tally.octets_in += inner.len() as u64;
        coalescer.push(arena, inner);
    });
    if coalescer.is_empty() {
        return;
    }
    // The lease counts at the moment of writing.
    if core.holds_lease() {
        inside.send(arena, coalescer);
    } else {
        core.tally.drops.add(DropReason::NotOwner, coalescer.len() as u64);
        coalescer.clear();
    }
}

impl Inbox {
    /// What is no ESP: IKE is kept, the rest counted.
    pub fn take_in(
        &mut self,
        class: Class,
        local: SocketAddr,
        peer: SocketAddr,
        octets: &[u8],
        tally: &mut Tally,
    ) {
        match class {
            Class::Ike { at } => {
                tally.ike_in += 1;
                if !self.push(local, peer, &octets[at..]) {
                    tally.drops.count(DropReason::IkeOverload);
                }
            }
            //= CL-36
            Class::Keepalive => tally.drops.count(DropReason::Keepalive),
            Class::Drop(reason) => tally.count_wire(reason),
            Class::Esp { .. } => {}
        }
    }

    /// Keeps a copy of an IKE message (from its header on); false: this lap has enough of its kind.
    fn push(&mut self, local: SocketAddr, peer: SocketAddr, octets: &[u8]) -> bool {
        let is_initial = octets.get(8..16).is_none_or(|spi_r| spi_r == [0; 8]);
        let (list, most) =
            if is_initial { (&mut self.initial, INITIAL_PER_LAP) } else { (&mut self.known, KNOWN_PER_LAP) };
        let fits = list.len() < most;
        if fits {
            list.push(Datagram::new(local, peer, octets.to_vec()));
        }
        fits
    }

    /// What may be reported, as far as the queue has room: new initiators leave half of it to the others, and all IKE
    /// messages leave an eighth to events.
    pub fn take(&mut self, reports: &mpsc::Sender<Report>, tally: &mut Tally) -> Option<Vec<Datagram>> {
        if self.known.is_empty() && self.initial.is_empty() {
            return None;
        }
        let (room, most) = (reports.capacity(), reports.max_capacity());
        let mut refuse = |list: &mut Vec<Datagram>| {
            tally.drops.add(DropReason::IkeOverload, list.len() as u64);
            list.clear();
        };
        if room < most / 2 {
            refuse(&mut self.initial);
        }
        if room < most / 8 {
            refuse(&mut self.known);
        }
        let mut batch = std::mem::take(&mut self.known);
        batch.append(&mut self.initial);
        (!batch.is_empty()).then_some(batch)
    }
}
