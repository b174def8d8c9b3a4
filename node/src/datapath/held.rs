//! Packets for segments that are on their way to this node by a planned move: held, in order, until the segment is
//! served here and its children are installed (`moves`).
//!
//! ```text
//!   Open ─> from sockets, from the device, from other nodes ─> held ─┬─ Release ─> as if they had just come
//!                                                                   └─ Abandon, too late, too much ─> dropped, counted
//! ```
//!
//! An ESP packet that the owner before us has processed too is known by the exact window. An inner packet carries no
//! number: where both nodes see what the protected network sends, the one before us tells keyed digests of what it has
//! forwarded since we opened, and we forward the difference.

use std::collections::HashMap;

use crypto::hash::sha256;
use ipsec::types::{Epoch, Millis, Segment};
use tokio::sync::oneshot;

use super::relay::frame::{HOPS_MAX, Header, INNER_LEN, What};
use super::relay::inlet::Frames;

/// All that one worker holds: some milliseconds of its rate.
const OCTETS_MAX: usize = 16 << 20;

/// A move takes milliseconds; what has waited longer is of no use to its receiver.
const HELD_MS: u64 = 2_000;

/// Tells two inner packets apart, and equal ones together, without being the packet.
pub type Digest = u64;

/// Keys the digests of one move, so that nobody can choose packets that look alike.
pub type DigestKey = [u8; 32];

/// What the owner before us has forwarded since we opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    pub key: DigestKey,
    pub digests: Vec<Digest>,
}

pub fn digest(key: &DigestKey, packet: &[u8]) -> Digest {
    let [a, b, c, d, e, f, g, h, ..] = sha256(&[key, packet]);
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The segments that are open, and what waits for them.
#[derive(Debug, Default)]
pub(super) struct Held {
    lines: HashMap<Segment, Line>,
    octets: usize,
    released: Vec<Frames>,
    /// Who waits until the kernel shows us what is for the opened segments.
    opened: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Line {
    epoch: Epoch,
    since: Millis,
    packets: Vec<Packet>,
}

/// A frame as it goes between nodes: the header tells where it came from.
#[derive(Debug)]
struct Packet {
    frame: Box<[u8]>,
    /// From our own device: the owner before us may have seen it too.
    seen_inside: bool,
}

impl Held {
    pub fn open(&mut self, segment: Segment, epoch: Epoch, now: Millis, opened: oneshot::Sender<()>) {
        self.lines.entry(segment).or_insert(Line { epoch, since: now, packets: Vec::new() }).epoch = epoch;
        self.opened.push(opened);
    }

    /// The filters are in force: whoever opened may be told.
    pub fn tell_opened(&mut self) {
        for opened in self.opened.drain(..) {
            // Who has given up waiting gives up the move, too.
            let _ = opened.send(());
        }
    }

    pub fn wants(&self, segment: Segment) -> bool {
        !self.lines.is_empty() && self.lines.contains_key(&segment)
    }

    /// Keeps a packet that came to this node itself. False: there is no room.
    pub fn hold(&mut self, segment: Segment, what: What, tos: u8, packet: &[u8]) -> bool {
        let Some(epoch) = self.lines.get(&segment).map(|line| line.epoch) else { return false };
        let header = Header { what, hops: HOPS_MAX, tos, segment, epoch };
        let mut frame = vec![0; header.emitted_len() + packet.len()];
        header.emit(&mut frame);
        frame[header.emitted_len()..].copy_from_slice(packet);
        self.keep(segment, frame.into(), what == What::Inner)
    }

    /// Keeps a frame of another node. False: there is no room, or it is of an epoch after the one that we open for.
    pub fn hold_frame(&mut self, header: &Header, frame: &[u8]) -> bool {
        let ours = self.lines.get(&header.segment).is_some_and(|line| header.epoch <= line.epoch);
        ours && self.keep(header.segment, frame.into(), false)
    }

    fn keep(&mut self, segment: Segment, frame: Box<[u8]>, seen_inside: bool) -> bool {
        let Some(line) = self.lines.get_mut(&segment) else { return false };
        let fits = self.octets + frame.len() <= OCTETS_MAX;
        if fits {
            self.octets += frame.len();
            line.packets.push(Packet { frame, seen_inside });
        }
        fits
    }

    /// The segment is served here now. How many packets the owner before us has forwarded already.
    pub fn release(&mut self, segment: Segment, forwarded: Forwarded) -> u64 {
        let Some(line) = self.lines.remove(&segment) else { return 0 };
        let mut twice = 0;
        let mut known: HashMap<Digest, usize> = HashMap::new();
        forwarded.digests.into_iter().for_each(|digest| *known.entry(digest).or_default() += 1);
        let mut frames = Frames { octets: Vec::new(), ranges: Vec::new() };
        for Packet { frame, seen_inside } in line.packets {
            self.octets -= frame.len();
            if seen_inside && !known.is_empty() {
                let inner = frame.get(INNER_LEN..).unwrap_or_default();
                if let Some(left @ 1..) = known.get_mut(&digest(&forwarded.key, inner)) {
                    *left -= 1;
                    twice += 1;
                    continue;
                }
            }
            let start = frames.octets.len();
            frames.octets.extend_from_slice(&frame);
            frames.ranges.push(start..frames.octets.len());
        }
        if !frames.ranges.is_empty() {
            self.released.push(frames);
        }
        twice
    }

    /// What was let go of since the last call.
    pub fn take_released(&mut self) -> Vec<Frames> {
        std::mem::take(&mut self.released)
    }

    /// Nothing comes of it. How many packets are lost by that.
    pub fn abandon(&mut self, segment: Segment) -> u64 {
        let Some(line) = self.lines.remove(&segment) else { return 0 };
        self.octets -= line.packets.iter().map(|packet| packet.frame.len()).sum::<usize>();
        line.packets.len() as u64
    }

    /// Gives up the segments that have not come in time.
    pub fn expire(&mut self, now: Millis) -> u64 {
        if self.lines.is_empty() {
            return 0;
        }
        let late =
            |(&segment, line): (&Segment, &Line)| (now.since(line.since) >= HELD_MS).then_some(segment);
        let late: Vec<Segment> = self.lines.iter().filter_map(late).collect();
        late.into_iter().map(|segment| self.abandon(segment)).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// What this node has forwarded of the segments that it is about to give away.
#[derive(Debug, Default)]
pub(super) struct Watched(HashMap<Segment, Forwarded>);

impl Watched {
    pub fn begin(&mut self, segment: Segment, key: DigestKey) {
        self.0.insert(segment, Forwarded { key, digests: Vec::new() });
    }

    pub fn end(&mut self, segment: Segment) -> Forwarded {
        self.0.remove(&segment).unwrap_or_default()
    }

    /// Where to note what is forwarded for this segment; as a rule nowhere.
    pub fn of(&mut self, segment: Segment) -> Option<&mut Forwarded> {
        if self.0.is_empty() { None } else { self.0.get_mut(&segment) }
    }
}

impl Forwarded {
    pub fn note(&mut self, packet: &[u8]) {
        self.digests.push(digest(&self.key, packet));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: Segment = Segment(7);

    fn opened() -> (Held, oneshot::Receiver<()>) {
        let (opened, told) = oneshot::channel();
        let mut held = Held::default();
        held.open(SEGMENT, Epoch(3), Millis(0), opened);
        (held, told)
    }

    #[test]
    fn the_difference_is_released_in_order() {
        let (mut held, mut told) = opened();
        assert!(told.try_recv().is_err());
        held.tell_opened();
        assert_eq!(told.try_recv(), Ok(()));
        for packet in [b"one", b"two", b"two", b"six"] {
            assert!(held.hold(SEGMENT, What::Inner, 0, packet));
        }
        assert!(!held.hold(Segment(8), What::Inner, 0, b"other"));
        let key = [5; 32];
        let digests = [b"two", b"one", b"ten"].map(|packet| digest(&key, packet)).to_vec();
        assert_eq!(held.release(SEGMENT, Forwarded { key, digests }), 2);
        let frames = held.take_released().remove(0);
        let left: Vec<&[u8]> =
            frames.ranges.iter().map(|range| &frames.octets[range.clone()][INNER_LEN..]).collect();
        assert_eq!(left, [b"two", b"six"], "of two equal ones, one was forwarded");
        assert!(held.is_empty() && held.octets == 0);
    }

    #[test]
    fn what_another_node_passes_on_was_forwarded_by_nobody() {
        let (mut held, _told) = opened();
        let header = Header { what: What::Inner, hops: 1, tos: 0, segment: SEGMENT, epoch: Epoch(3) };
        let mut frame = vec![0; header.emitted_len()];
        header.emit(&mut frame);
        frame.extend_from_slice(b"one");
        assert!(held.hold_frame(&header, &frame));
        assert!(!held.hold_frame(&Header { epoch: Epoch(4), ..header }, &frame), "of a later epoch");
        let key = [5; 32];
        let digests = vec![digest(&key, b"one")];
        assert_eq!(held.release(SEGMENT, Forwarded { key, digests }), 0);
        assert_eq!(held.take_released().len(), 1);
    }

    #[test]
    fn there_are_limits_of_time_and_size() {
        let (mut held, _told) = opened();
        let packet = vec![0; 60_000];
        let kept = (0..).take_while(|_| held.hold(SEGMENT, What::Inner, 0, &packet)).count();
        assert_eq!(kept, OCTETS_MAX / (60_000 + INNER_LEN));
        assert_eq!(held.expire(Millis(HELD_MS - 1)), 0);
        assert_eq!(held.expire(Millis(HELD_MS)), kept as u64);
        assert!(!held.wants(SEGMENT) && held.octets == 0);
    }
}
