//! From ESP packets to inner packets (RFC 4303, 3.4).
//!
//! ```text
//!   SPI ─> segment served? ─> child ─> number fresh? ─> integrity, decrypt in place ─> number is taken
//!     ─> trailer ─> selectors ─> congestion mark ─> deliver
//! ```
//!
//! Nothing in a packet is believed before its integrity value was right; only then the window, the peer's address and
//! "last heard" change. Everything else is a counted drop.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use super::child::Child;
use super::lifetime::Age;
use super::table::{Event, Table, raise};
use super::tunnel;
use super::{DropReason, Flow};
use crate::spec::{ESP_HEADER_LEN, ESP_TRAILER_LEN};
use crate::types::{EspSeq, Millis};
use crate::wire;

/// One packet of a batch: where it lies in the arena, from the SPI on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub range: Range<usize>,
    pub peer: SocketAddr,
    /// The outer TOS octet or traffic class.
    pub tos: u8,
}

/// Which socket a batch came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Our address; the port counts only with UDP.
    pub local: SocketAddr,
    /// In UDP (RFC 3948), else protocol 50. Both are accepted at any time, whatever NAT detection found.
    pub udp: bool,
}

impl Table {
    /// Opens a batch of packets in place. `deliver` gets the arena and where each inner packet lies in it, in order.
    /// Drops are counted; what the control side should know is in `events`.
    pub fn open(
        &mut self,
        now: Millis,
        origin: Origin,
        arena: &mut [u8],
        arrivals: &[Arrival],
        deliver: &mut impl FnMut(&[u8], Range<usize>),
    ) {
        let mut told = false;
        for arrival in arrivals {
            let Some(packet) = arena.get_mut(arrival.range.clone()) else {
                self.drops.count(DropReason::Malformed);
                continue;
            };
            match self.open_one(now, origin, arrival, packet) {
                Ok(inner) => {
                    let start = arrival.range.start;
                    deliver(arena, start + inner.start..start + inner.end);
                }
                Err(reason) => {
                    self.drops.count(reason);
                    if !told {
                        told = audit(reason, packet, arrival.peer)
                            .is_some_and(|event| raise(&mut self.events, event));
                    }
                }
            }
        }
    }

    /// Where the inner packet lies in `packet`.
    //= IK-97
    //= CL-44
    fn open_one(
        &mut self,
        now: Millis,
        origin: Origin,
        arrival: &Arrival,
        packet: &mut [u8],
    ) -> Result<Range<usize>, DropReason> {
        let header = wire::esp::Packet::new(packet).map_err(|_| DropReason::Malformed)?;
        let spi = header.spi();
        if self.served(spi.segment()).is_none() {
            return Err(DropReason::NotOwner);
        }
        let index = self.by_spi.get(&spi.0).ok_or(DropReason::UnknownSpi)?;
        let Some(Some(child)) = self.children.get_mut(index.0 as usize) else {
            return Err(DropReason::UnknownSpi);
        };
        let seq = child.window.infer(header.seq_low());
        if child.window.check(seq).is_err() {
            stranded(child, seq, packet, &mut self.events);
            return Err(DropReason::Replay);
        }
        if child.reported == Age::Hard {
            return Err(DropReason::Expired);
        }
        let protection = child.protection();
        // Shorter than an empty payload: not worth a key.
        //= ES-28
        if packet.len() < ESP_HEADER_LEN + protection.iv_len() + ESP_TRAILER_LEN + protection.icv_len() {
            return Err(DropReason::Malformed);
        }
        let len = packet.len();
        let high = child.esn().then_some((seq.0 >> 32) as u32);
        //= ES-3
        let plain = child.open.open(high, packet, ESP_HEADER_LEN).map_err(|_| DropReason::Integrity)?;

        // From here on the packet is the peer's.
        claimed(child, seq, now, &mut self.events)?;
        let advances = child.window.update(seq);
        child.octets_in += len as u64;
        heard(child, now, &mut self.events, advances.then_some((origin, arrival.peer)));
        child.grow(child.octets_in, seq.0, &mut self.events);

        let inner = tunnel::read_trailer(plain)?;
        let inner = &mut plain[..inner];
        let flow = Flow::of(inner).map_err(|_| DropReason::Malformed)?;
        child.selectors.admit_inbound(&flow)?;
        tunnel::merge_ecn(inner, flow.tos, arrival.tos)?;
        let start = ESP_HEADER_LEN + protection.iv_len();
        Ok(start..start + inner.len())
    }
}

/// After a takeover with `replay = "strict"`, of a packet that is taken for a replay: tells if its sender is the peer. Who
/// repeats old packets brings about that one event too, and nothing more.
//= CL-14
fn stranded(child: &mut Child, seq: EspSeq, packet: &mut [u8], events: &mut Vec<Event>) {
    let edge = child.window.edge();
    let Some(claim) = child.claim.as_mut().filter(|claim| claim.strands(seq, edge)) else { return };
    let high = child.installed.child.suite.esn.then_some((seq.0 >> 32) as u32);
    let (ike, spi_in) = (child.ike, child.spi_in);
    if child.open.open(high, packet, ESP_HEADER_LEN).is_ok()
        && raise(events, Event::Stranded { ike, child: spi_in })
    {
        claim.note_stranded();
    }
}

/// With `replay = "strict"`: whether this epoch has claimed the number. Asks for more in time.
//= CL-14
fn claimed(child: &mut Child, seq: EspSeq, now: Millis, events: &mut Vec<Event>) -> Result<(), DropReason> {
    let Some(claim) = &mut child.claim else { return Ok(()) };
    if let Some(upto) = claim.ask(seq, now) {
        raise(events, Event::NeedClaim { ike: child.ike, child: child.spi_in, upto });
    }
    if claim.covers(seq) { Ok(()) } else { Err(DropReason::Claim) }
}

/// Counts a good packet; notes that the peer uses this child, and from where (`moves`: only a packet that advances the
/// window may move the peer, else an old one that was held back would).
//= CL-33
//= IK-99
fn heard(child: &mut Child, now: Millis, events: &mut Vec<Event>, moves: Option<(Origin, SocketAddr)>) {
    let stats = &child.stats;
    stats.packets_in.store(stats.packets_in.load(Relaxed) + 1, Relaxed);
    stats.octets_in.store(child.octets_in, Relaxed);
    stats.edge.store(child.window.edge().0, Relaxed);
    stats.heard_ms.store(now.0, Relaxed);
    let (ike, spi_in) = (child.ike, child.spi_in);
    if !child.heard {
        child.heard = raise(events, Event::FirstInbound { ike, child: spi_in });
    }
    let Some((origin, peer)) = moves else { return };
    let path = child.path;
    let learns = origin.udp && path.encapsulates() && !path.we_behind_nat && origin.local == path.local;
    if learns && peer != path.peer && raise(events, Event::PeerMoved { ike, child: spi_in, peer }) {
        child.set_path(crate::record::Path { peer, ..path });
    }
}

/// What RFC 4301 and 4303 want auditable, with SPI, sequence number and sender.
//= ES-27
fn audit(reason: DropReason, packet: &[u8], peer: SocketAddr) -> Option<Event> {
    let header = wire::esp::Packet::new(packet).ok()?;
    let (child, number) = (header.spi(), header.seq_low());
    match reason {
        DropReason::UnknownSpi => Some(Event::UnknownSpi { child, peer }),
        DropReason::Dummy | DropReason::NotOwner | DropReason::Ecn | DropReason::Claim => None,
        _ => Some(Event::Audit { reason, child, number, peer }),
    }
}
