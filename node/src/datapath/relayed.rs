//! From other nodes: frames that they sealed for us, opened already. Outer packets go the way of those from our own
//! sockets, inner packets that of those from our own device.

use ipsec::esp::{Arrival, DropReason, Flow, Origin};
use ipsec::types::Millis;
use ipsec::wire::Class;

use super::outward::One;
use super::ports::{self, Carries};
use super::relay::RelayDrop;
use super::relay::frame::{self, Header, What};
use super::relay::inlet::Frames;
use super::worker::Lap;
use crate::io::clock::Clock;

impl<C: Clock> Lap<C> {
    /// Takes what other nodes have passed on to us.
    pub fn relayed(&mut self, now: Millis) {
        if let Some(mut frames) = self.outlet.take() {
            self.take_frames(now, &mut frames);
            self.outlet.done(frames);
        }
    }

    /// What was held for segments that are served here now, before anything that comes later.
    pub fn let_go(&mut self, now: Millis) {
        for mut frames in self.core.held.take_released() {
            self.take_frames(now, &mut frames);
        }
    }

    fn take_frames(&mut self, now: Millis, frames: &mut Frames) {
        self.arrivals.clear();
        let mut pending: Option<Origin> = None;
        for index in 0..frames.ranges.len() {
            let Some((origin, arrival)) = self.take_frame(now, frames, index) else { continue };
            if let Some(before) = pending.replace(origin).filter(|before| *before != origin) {
                self.open(now, before, &mut frames.octets);
                self.arrivals.clear();
            }
            self.arrivals.push(arrival);
        }
        if let Some(origin) = pending {
            self.open(now, origin, &mut frames.octets);
        }
    }

    /// An ESP packet that is left to be opened; everything else is dealt with.
    fn take_frame(&mut self, now: Millis, frames: &Frames, index: usize) -> Option<(Origin, Arrival)> {
        let core = &mut self.core;
        let range = frames.ranges[index].clone();
        let Some(header) = Header::parse(&frames.octets[range.clone()]) else {
            core.tally.count_relay(RelayDrop::BadFrame);
            return None;
        };
        let range = range.start + header.emitted_len()..range.end;
        let packet = &frames.octets[range.clone()];
        match core.table.served(header.segment) {
            None if core.held.wants(header.segment) => {
                if !core.held.hold_frame(&header, &frames.octets[frames.ranges[index].clone()]) {
                    core.tally.count_relay(RelayDrop::Held);
                }
                return None;
            }
            None => {
                core.pass_on_frame(header, packet);
                return None;
            }
            // Somebody has the segment after us, and we have not heard of it yet.
            Some(epoch) if epoch < header.epoch => {
                core.tally.count_relay(RelayDrop::Ahead);
                return None;
            }
            Some(_) => {}
        }
        let (carries, peer, local) = match header.what {
            What::Outer { carries, peer, local } => (carries, peer, local),
            What::Inner => {
                match Flow::of(packet) {
                    Ok(flow) => core.send(now, &flow, &mut One(Some(packet))),
                    Err(_) => core.tally.drops.count(DropReason::Malformed),
                }
                return None;
            }
            What::PathMtu => {
                match frame::parse_path_mtu(packet) {
                    Some((ike, octets)) => core.table.set_path_mtu(ike, octets),
                    None => core.tally.count_relay(RelayDrop::BadFrame),
                }
                return None;
            }
        };
        let Some(local) = ports::at(&core.ports, local, carries).map(|port| port.local) else {
            core.tally.drops.count(DropReason::NoSocket);
            return None;
        };
        match ports::classify(carries, packet) {
            Class::Esp { .. } => {
                let origin = Origin { local, udp: carries == Carries::NatT };
                Some((origin, Arrival { range, peer, tos: header.tos }))
            }
            class => {
                self.inbox.take_in(class, local, peer, packet, &mut core.tally);
                None
            }
        }
    }
}
