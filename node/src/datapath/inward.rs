//! From the sockets: ESP to the device, IKE to the control side.
//!
//! A flood of IKE must not starve ESP, and a flood of new initiators must not starve known ones: messages of existing
//! IKE SAs (SPIr is set) go first, new ones get a small share of each lap and of the queue. The rest is a counted drop;
//! honest initiators retransmit.

use std::io;

use ipsec::datagram::Datagram;
use ipsec::esp::{Arrival, DropReason, Origin};
use ipsec::types::Millis;
use ipsec::wire::Class;
use tokio::sync::mpsc;

use super::counters::Tally;
use super::message::Report;
use super::ports::Carries;
use super::worker::Lap;
use crate::io::clock::Clock;

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
        let (datagrams, arena) = self.received.parts();
        self.arrivals.clear();
        for datagram in datagrams {
            let octets = &arena[datagram.range()];
            match port.classify(octets) {
                Class::Esp { .. } => {
                    self.arrivals.push(Arrival {
                        range: datagram.range(),
                        peer: datagram.peer,
                        tos: datagram.tos,
                    });
                }
                Class::Ike { at } => {
                    core.tally.ike_in += 1;
                    if !self.inbox.push(port.local, datagram.peer, &octets[at..]) {
                        core.tally.drops.count(DropReason::IkeOverload);
                    }
                }
                //= CL-36
                Class::Keepalive => core.tally.drops.count(DropReason::Keepalive),
                Class::Drop(reason) => core.tally.count_wire(reason),
            }
        }
        if self.arrivals.is_empty() {
            return Ok(());
        }
        let origin = Origin { local: port.local, udp: port.carries == Carries::NatT };
        let (tally, coalescer) = (&mut core.tally, &mut self.coalescer);
        core.table.open(now, origin, arena, &self.arrivals, &mut |arena, inner| {
            tally.packets_in += 1;
            tally.octets_in += inner.len() as u64;
            coalescer.push(arena, inner);
        });
        self.write_inside();
        Ok(())
    }

    /// Writes what was opened to the device, if we hold the lease at this moment.
    fn write_inside(&mut self) {
        if self.coalescer.is_empty() {
            return;
        }
        if self.core.holds_lease() {
            self.inside.send(self.received.arena(), &mut self.coalescer);
        } else {
            self.core.tally.drops.add(DropReason::NotOwner, self.coalescer.len() as u64);
            self.coalescer.clear();
        }
    }
}

impl Inbox {
    /// Keeps a copy of an IKE message (from its header on); false: this lap has enough of its kind.
    fn push(&mut self, local: std::net::SocketAddr, peer: std::net::SocketAddr, octets: &[u8]) -> bool {
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
