//! One datagram between nodes:
//!
//! ```text
//!   | session (8) | kind (1) | number (8) | text, encrypted | ICV (16) |
//!   '--- authenticated -----'
//! ```
//!
//! The number is the nonce, so it is authentic too. It is checked against the window before the frame is opened, and
//! taken as seen only afterwards.

use std::ops::Range;

use crypto::Secret;
use crypto::cipher::{Batch, OpenKey, SHARED_OVERHEAD, SealError, SharedSealKey};
use ipsec::esp::replay::Window;
use ipsec::types::EspSeq;
use raft::state::NodeId;

use super::Drop;

const SESSION: usize = 8;
const HEADER: usize = SESSION + 1;
const NUMBER: usize = 8;

/// Octets before and behind the text.
pub const FRONT: usize = HEADER + NUMBER;
pub const BACK: usize = OVERHEAD - FRONT;
pub const OVERHEAD: usize = HEADER + SHARED_OVERHEAD;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    Probe,
    Answer,
    /// How far children have received, for the standby.
    Marks,
    /// A packet for the owner of its segment: see `datapath::relay`.
    Packet,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Probe, Kind::Answer, Kind::Marks, Kind::Packet];

    fn of(octet: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(octet)).copied()
    }
}

/// A session that we seal under.
#[derive(Debug)]
pub struct Outgoing {
    pub(super) id: u64,
    key: SharedSealKey,
}

/// A stretch of the numbers of a session.
#[derive(Debug)]
pub struct Sealing<'a> {
    session: u64,
    batch: Batch<'a>,
}

impl Outgoing {
    /// To be made once for each session: a second one would use its numbers again.
    pub(super) fn new(id: u64, secret: &Secret) -> Outgoing {
        Outgoing { id, key: SharedSealKey::new(secret) }
    }

    /// The right to seal `count` frames: one atomic addition.
    pub fn batch(&self, count: u32) -> Sealing<'_> {
        Sealing { session: self.id, batch: self.key.batch(count) }
    }
}

impl Sealing<'_> {
    /// Seals in place. `frame` is `FRONT` octets, the text, `BACK` octets.
    pub fn seal(&mut self, kind: Kind, frame: &mut [u8]) -> Result<(), SealError> {
        let header = frame.first_chunk_mut::<HEADER>().ok_or(SealError::Layout)?;
        header[..SESSION].copy_from_slice(&self.session.to_be_bytes());
        header[SESSION] = kind as u8;
        self.batch.seal(frame, HEADER)
    }
}

/// A session that we open.
#[derive(Debug)]
pub(super) struct Incoming {
    pub from: NodeId,
    key: OpenKey,
    window: Window,
}

impl Incoming {
    pub fn new(from: NodeId, secret: &Secret) -> Incoming {
        Incoming { from, key: OpenKey::shared(secret), window: Window::new(true) }
    }

    /// Opens in place; the kind and where the text lies in `frame`.
    pub fn open(&mut self, frame: &mut [u8]) -> Result<(Kind, Range<usize>), Drop> {
        let number: [u8; NUMBER] =
            frame.get(HEADER..FRONT).and_then(|octets| octets.try_into().ok()).ok_or(Drop::Malformed)?;
        let number = EspSeq(u64::from_be_bytes(number));
        let kind = Kind::of(frame[SESSION]).ok_or(Drop::Malformed)?;
        self.window.check(number).map_err(|_| Drop::Replayed)?;
        let len = self.key.open(None, frame, HEADER).map_err(|_| Drop::Integrity)?.len();
        self.window.update(number);
        Ok((kind, FRONT..FRONT + len))
    }
}

/// Under which session a frame is sealed, as it says.
pub(super) fn session_of(frame: &[u8]) -> Option<u64> {
    frame.first_chunk::<SESSION>().map(|octets| u64::from_be_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; FRONT + text.len() + BACK];
        frame[FRONT..][..text.len()].copy_from_slice(text);
        frame
    }

    #[test]
    fn what_is_sealed_is_opened_once_and_unchanged() {
        let secret = Secret::from([5; 32]);
        let (ours, mut theirs) = (Outgoing::new(9, &secret), Incoming::new(NodeId(2), &secret));
        let mut sealed = frame(b"inner packet");
        ours.batch(1).seal(Kind::Packet, &mut sealed).unwrap();
        assert_eq!((session_of(&sealed), sealed.len()), (Some(9), 12 + OVERHEAD));
        for octet in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[octet] ^= 0x80;
            // The window is not touched by any of them.
            assert!(theirs.open(&mut damaged).is_err(), "octet {octet}");
        }
        let mut first = sealed.clone();
        let (kind, text) = theirs.open(&mut first).unwrap();
        assert_eq!((kind, &first[text]), (Kind::Packet, &b"inner packet"[..]));
        assert_eq!(theirs.open(&mut sealed), Err(Drop::Replayed));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut incoming = Incoming::new(NodeId(2), &Secret::from([5; 32]));
        for len in 0..OVERHEAD {
            assert!(incoming.open(&mut vec![0; len]).is_err(), "{len}");
        }
        let mut strange = frame(b"");
        strange[SESSION] = Kind::ALL.len() as u8;
        assert_eq!(incoming.open(&mut strange), Err(Drop::Malformed));
        assert_eq!(session_of(&[0; 7]), None);
    }
}
