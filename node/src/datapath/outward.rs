//! From the device: inner packets, sealed straight into the slots of a send batch, or passed on to the node that
//! serves their SA.
//!
//! ```text
//!   (super-)packet ─ select ─> child ─┬─ fits ──────> segments ─> seal ─> slot ─> one run, one send
//!                                     ├─ no number ─> waits for the grant
//!                                     └─ too long ──> the sender is told, or it is cut
//! ```
//!
//! The segments of a super-packet have equal sizes and one route, so they leave in one piece (UDP_SEGMENT).

use std::io;

use ipsec::esp::pmtu::{self, Fragments, TooLong};
use ipsec::esp::{DropReason, Flow, Sealer, tunnel};
use ipsec::types::{ChildSpi, Millis};

use super::counters::Tally;
use super::held::Forwarded;
use super::ports::{self, Port};
use super::relay::RelayDrop;
use super::relay::frame::What;
use super::waiting::Waiting;
use super::worker::{Core, Lap};
use crate::io::clock::Clock;
use crate::io::{Route, Segments};
use crate::lease::Grip;

/// ICMP answers that one lap writes; the senders of the others try again.
const REPLIES_PER_LAP: usize = 8;

/// ICMP answers in a second.
const REPLIES_PER_SECOND: u64 = 200;

impl<C: Clock> Lap<C> {
    /// Takes what waits in the device.
    pub fn outward(&mut self, now: Millis) -> io::Result<()> {
        let packets = self.inside.receive(&mut self.read)?;
        for index in 0..packets {
            let Ok(flow) = Flow::of(self.read.packet(index)) else {
                self.core.tally.drops.count(DropReason::Malformed);
                continue;
            };
            let Lap { core, read, .. } = self;
            let table = &core.table;
            let elsewhere = core.relay.elsewhere(flow.destination, |segment| table.served(segment).is_some());
            match (read.segments(index), elsewhere) {
                (Ok(mut segments), None) => core.send(now, &flow, &mut segments),
                (Ok(mut segments), Some(segment)) if core.held.wants(segment) => {
                    while let Some(packet) = segments.next() {
                        core.hold(segment, What::Inner, flow.tos, packet);
                    }
                }
                (Ok(mut segments), Some(_)) if core.seen_by_all.inside => {
                    while segments.next().is_some() {
                        core.tally.count_relay(RelayDrop::SeenByAll);
                    }
                }
                (Ok(mut segments), Some(segment)) => core.pass_on_inner(segment, &flow, &mut segments),
                (Err(_), _) => core.tally.drops.count(DropReason::Malformed),
            }
        }
        Ok(())
    }

    /// Writes the ICMP answers of this lap to the device.
    pub fn write_replies(&mut self) {
        let holds = self.core.holds_lease();
        let replies = &mut self.core.replies;
        if replies.ranges.is_empty() {
            return;
        }
        for range in replies.ranges.drain(..) {
            self.coalescer.push(&replies.octets, range);
        }
        if holds {
            self.inside.send(&mut replies.octets, &mut self.coalescer);
        } else {
            self.coalescer.clear();
        }
        replies.octets.clear();
    }
}

impl<C: Clock> Core<C> {
    /// Sends the packets of one flow.
    pub fn send<P: Packets>(&mut self, now: Millis, flow: &Flow, packets: &mut P) {
        if let Err(reason) = self.try_send(now, flow, packets) {
            self.tally.drops.add(reason, packets.left() as u64);
        }
    }

    /// Sends what waited for the numbers of `child`.
    pub fn resume(&mut self, child: ChildSpi, now: Millis) {
        if !self.waiting.holds(child) {
            return;
        }
        for packet in self.waiting.take(child) {
            match Flow::of(&packet) {
                Ok(flow) => self.send(now, &flow, &mut One(Some(&packet))),
                Err(_) => self.tally.drops.count(DropReason::Malformed),
            }
        }
    }

    /// After an error the packets that are left are to be counted.
    fn try_send<P: Packets>(&mut self, now: Millis, flow: &Flow, packets: &mut P) -> Result<(), DropReason> {
        let index = self.table.select(flow)?;
        let mut sealer = self.table.sealer(index, now)?;
        let child = sealer.child().spi_in();
        let place = ports::for_esp(&self.ports, sealer.path()).ok_or(DropReason::NoSocket)?;
        let mut way = Way {
            port: &mut self.ports[place],
            route: Route { peer: sealer.path().peer, tos: tunnel::outer_tos(flow.tos) },
            tally: &mut self.tally,
            clock: &self.clock,
            lease: &self.lease,
            forwarded: self.watched.of(child.segment()),
        };
        let mtu = sealer.child().inner_mtu();
        if packets.longest() > mtu {
            return match pmtu::too_long(flow) {
                TooLong::Tell => {
                    if let Some(packet) = packets.next() {
                        self.replies.too_big(now, packet, flow, mtu);
                        way.tally.drops.count(DropReason::TooBig);
                    }
                    Err(DropReason::TooBig)
                }
                TooLong::Cut => way.cut(&mut sealer, packets, mtu),
            };
        }
        let mut parked = self.waiting.holds(child);
        while let Some(packet) = packets.next() {
            let outcome = if parked { Err(DropReason::Block) } else { way.seal(&mut sealer, packet) };
            match outcome {
                Ok(()) => way.note(packet),
                Err(DropReason::Block) => {
                    parked = true;
                    way.park(&mut self.waiting, child, now, packet);
                }
                Err(reason) => way.tally.drops.count(reason),
            }
        }
        Ok(())
    }
}

/// The packets of one flow, lent one after the other.
pub(super) trait Packets {
    fn next(&mut self) -> Option<&[u8]>;
    fn longest(&self) -> usize;
    /// How many are still to come.
    fn left(&self) -> usize;
}

impl Packets for Segments<'_> {
    fn next(&mut self) -> Option<&[u8]> {
        Segments::next(self).map(|segment| &*segment)
    }

    fn longest(&self) -> usize {
        Segments::longest(self)
    }

    fn left(&self) -> usize {
        self.len()
    }
}

/// A single packet.
pub(super) struct One<'a>(pub Option<&'a [u8]>);

impl Packets for One<'_> {
    fn next(&mut self) -> Option<&[u8]> {
        self.0.take()
    }

    fn longest(&self) -> usize {
        self.0.map_or(0, <[u8]>::len)
    }

    fn left(&self) -> usize {
        usize::from(self.0.is_some())
    }
}

/// Where the packets of one flow go.
struct Way<'a, C> {
    port: &'a mut Port,
    route: Route,
    tally: &'a mut Tally,
    clock: &'a C,
    lease: &'a Grip,
    /// Where it is noted what was forwarded, when its segment is about to go elsewhere.
    forwarded: Option<&'a mut Forwarded>,
}

impl<C: Clock> Way<'_, C> {
    fn seal(&mut self, sealer: &mut Sealer<'_>, packet: &[u8]) -> Result<(), DropReason> {
        let room = sealer.sealed_len(packet.len());
        if self.port.batch.slot(room).is_none() {
            self.flush();
        }
        let slot = self.port.batch.slot(room).ok_or(DropReason::TooBig)?;
        let len = sealer.seal(packet, slot)?;
        self.port.batch.commit(self.route, len);
        self.tally.packets_out += 1;
        self.tally.octets_out += packet.len() as u64;
        Ok(())
    }

    /// Cuts what is too long into fragments and seals these.
    //= ES-20
    fn cut<P: Packets>(
        &mut self,
        sealer: &mut Sealer<'_>,
        packets: &mut P,
        mtu: usize,
    ) -> Result<(), DropReason> {
        let mut fragment = [0; 2_048];
        while let Some(packet) = packets.next() {
            let room = mtu.min(fragment.len());
            let Some(mut fragments) = Fragments::new(packet, room) else {
                self.tally.drops.count(DropReason::TooBig);
                continue;
            };
            while let Some(len) = fragments.next_into(&mut fragment) {
                if let Err(reason) = self.seal(sealer, &fragment[..len]) {
                    // Without one of its parts the packet is lost.
                    self.tally.drops.count(reason);
                    break;
                }
            }
            self.note(packet);
        }
        Ok(())
    }

    fn note(&mut self, packet: &[u8]) {
        if let Some(forwarded) = &mut self.forwarded {
            forwarded.note(packet);
        }
    }

    fn park(&mut self, waiting: &mut Waiting, child: ChildSpi, now: Millis, packet: &[u8]) {
        if waiting.push(child, now, packet) {
            self.tally.block_waits += 1;
        } else {
            self.tally.drops.count(DropReason::Block);
        }
    }

    fn flush(&mut self) {
        if self.lease.holds(self.clock.now()) {
            self.port.outside.send(&mut self.port.batch);
        } else {
            self.tally.drops.add(DropReason::NotOwner, self.port.batch.len() as u64);
            self.port.batch.clear();
        }
    }
}

/// ICMP answers to the inside, at a limited rate (RFC 1812, 4.3.2.8; RFC 4443, 2.4 f).
#[derive(Debug, Default)]
pub(super) struct Replies {
    octets: Vec<u8>,
    ranges: Vec<std::ops::Range<usize>>,
    second: u64,
    in_second: u64,
}

impl Replies {
    fn too_big(&mut self, now: Millis, packet: &[u8], flow: &Flow, mtu: usize) {
        if self.second != now.0 / 1_000 {
            (self.second, self.in_second) = (now.0 / 1_000, 0);
        }
        if self.ranges.len() == REPLIES_PER_LAP || self.in_second == REPLIES_PER_SECOND {
            return;
        }
        let start = self.octets.len();
        self.octets.resize(start + pmtu::ICMP_LEN_MAX, 0);
        let len = pmtu::too_big_reply(packet, flow, mtu, &mut self.octets[start..]);
        self.octets.truncate(start + len.unwrap_or(0));
        if let Some(len) = len {
            self.ranges.push(start..start + len);
            self.in_second += 1;
        }
    }
}
