//! From inner packets to ESP packets (RFC 4303, 3.3).
//!
//! ```text
//!   select(flow) ─> child ─> sealer(child) ─> seal(packet, slot) ─> seal(packet, slot) ─> ... ─> dropped: counts, asks
//! ```
//!
//! A sealer serves the packets of one flow or super-packet, which all leave on one child. The caller owns the memory:
//! it lends the inner packet and a slot of `sealed_len` octets, and sends what was sealed to `path` with `tos`.

use std::sync::atomic::Ordering::Relaxed;

use super::DropReason;
use super::child::Child;
use super::lifetime::Age;
use super::table::{ChildIndex, Event, Table, raise};
use super::tunnel::{Layout, Trailer};
use crate::record::Path;
use crate::spec::ESP_HEADER_LEN;
use crate::types::Millis;
use crate::wire;

/// Seals packets for one child. Dropping it publishes the child's counters and asks for more numbers if needed.
#[derive(Debug)]
pub struct Sealer<'a> {
    child: &'a mut Child,
    events: &'a mut Vec<Event>,
    now: Millis,
    packets: u64,
}

impl Table {
    /// A sealer for `child`, as `select` found it.
    pub fn sealer(&mut self, child: ChildIndex, now: Millis) -> Result<Sealer<'_>, DropReason> {
        let Some(Some(child)) = self.children.get_mut(child.0 as usize) else {
            return Err(DropReason::NoPolicy);
        };
        Ok(Sealer { child, events: &mut self.events, now, packets: 0 })
    }
}

impl Sealer<'_> {
    /// Where the packets go.
    pub fn path(&self) -> &Path {
        &self.child.path
    }

    pub fn child(&self) -> &Child {
        self.child
    }

    /// The length of the ESP packet around `inner` octets.
    pub fn sealed_len(&self, inner: usize) -> usize {
        Layout::new(self.child.protection(), inner).total
    }

    /// How many numbers may be used now.
    pub fn numbers_left(&self) -> u64 {
        if self.child.seal.is_some() { self.child.numbers.left() } else { 0 }
    }

    /// Writes the ESP packet around `inner` into the start of `slot` (at least `sealed_len` octets); its length.
    /// `Block`: no number is left, wait for a grant. `Expired`: the SA is at its hard limit.
    //= ES-9
    //= ES-17
    pub fn seal(&mut self, inner: &[u8], slot: &mut [u8]) -> Result<usize, DropReason> {
        let child = &mut *self.child;
        let layout = Layout::new(child.protection(), inner.len());
        let Some(packet) = slot.get_mut(..layout.total) else { return Err(DropReason::TooBig) };
        if inner.is_empty() {
            return Err(DropReason::Malformed);
        }
        let octets = child.octets_out + layout.total as u64;
        if child.grow(octets, child.numbers.next().0, self.events) == Age::Hard {
            return Err(DropReason::Expired);
        }
        let esn = child.esn();
        let Some(key) = &mut child.seal else { return Err(DropReason::Block) };
        let number = child.numbers.take(1).ok_or(DropReason::Block)?.first.0;
        let header = packet.first_chunk_mut().ok_or(DropReason::TooBig)?;
        wire::esp::Packet::write(child.spi_out, number as u32, header);
        let trailer = Trailer::new(layout, inner);
        let high = esn.then_some((number >> 32) as u32);
        //= AL-2
        key.seal_from(high, packet, ESP_HEADER_LEN, inner, trailer.as_slice())
            .map_err(|_| DropReason::Expired)?;
        child.octets_out = octets;
        self.packets += 1;
        Ok(layout.total)
    }
}

impl Drop for Sealer<'_> {
    fn drop(&mut self) {
        let child = &mut *self.child;
        if self.packets > 0 {
            let stats = &child.stats;
            stats.packets_out.store(stats.packets_out.load(Relaxed) + self.packets, Relaxed);
            stats.octets_out.store(child.octets_out, Relaxed);
            stats.next_number.store(child.numbers.next().0, Relaxed);
        }
        if self.events.len() < self.events.capacity()
            && let Some(count) = child.numbers.ask(self.now)
        {
            raise(self.events, Event::NeedBlock { ike: child.ike, child: child.spi_in, count });
        }
    }
}
