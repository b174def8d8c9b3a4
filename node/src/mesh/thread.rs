//! The loop of the mesh thread: what came in first, then what is due, then wait.
//!
//! In this order, so that after a pause of our own the others are heard before anybody is found silent.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use ipsec::types::Millis;
use raft::state::NodeId;

use super::frame::{BACK, FRONT, Incoming, Kind, session_of};
use super::peers::{Keys, Peer};
use super::{Drop, Shared};
use crate::io::clock::{Clock, SystemClock};
use crate::io::{Outside, Poller, RecvBatch, Route, SendBatch, UdpSocket};

/// DSCP CS6, "internetwork control" (RFC 4594, 3.1).
const PROBE_TOS: u8 = 0xc0;

/// The socket's token.
const SOCKET: u32 = 0;

/// What probes and answers mean: leases, and who lives.
pub trait Pulse: Send {
    /// Before the probes of this round: `peers` are those that there are.
    fn round(&mut self, now: Millis, peers: &[NodeId]);

    /// What to ask `to` now.
    fn probe(&mut self, to: NodeId, now: Millis) -> Vec<u8>;

    /// The answer to a probe; `None` when it makes no sense.
    fn probed(&mut self, from: NodeId, probe: &[u8], now: Millis) -> Option<Vec<u8>>;

    fn answered(&mut self, from: NodeId, answer: &[u8], now: Millis);

    /// Any valid frame of that node came.
    fn heard(&mut self, from: NodeId, now: Millis);

    /// After all that has come in. When to be called again at the latest.
    fn due(&mut self, now: Millis) -> Option<Millis>;
}

/// One frame of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub from: NodeId,
    /// Where its text lies in the arena.
    pub text: Range<usize>,
}

/// Takes the frames of one kind, all that one wait brought together.
pub trait Sink: Send {
    fn take(&mut self, frames: &[Frame], arena: &mut [u8]);
}

impl<F: FnMut(&[Frame], &mut [u8]) + Send> Sink for F {
    fn take(&mut self, frames: &[Frame], arena: &mut [u8]) {
        self(frames, arena);
    }
}

pub(super) struct Thread {
    socket: UdpSocket,
    poller: Poller,
    shared: Arc<Shared>,
    keys: Arc<dyn Keys>,
    pulse: Box<dyn Pulse>,
    probe_ms: u64,
    received: RecvBatch,
    sending: SendBatch,
    incoming: HashMap<u64, Incoming>,
    frames: [Vec<Frame>; Kind::ALL.len()],
}

impl Thread {
    pub fn new(
        socket: UdpSocket,
        poller: Poller,
        shared: Arc<Shared>,
        keys: Arc<dyn Keys>,
        pulse: Box<dyn Pulse>,
        probe_ms: u64,
    ) -> io::Result<Thread> {
        if let Some(fd) = socket.fd() {
            poller.add(fd, SOCKET)?;
        }
        Ok(Thread {
            socket,
            poller,
            shared,
            keys,
            pulse,
            probe_ms,
            received: RecvBatch::new(),
            sending: SendBatch::new(),
            incoming: HashMap::new(),
            frames: Default::default(),
        })
    }

    /// Until the last handle is gone. A socket that fails is the end of the process: it would live on and serve nobody.
    pub fn run(mut self) {
        if let Err(error) = self.rounds() {
            tracing::error!(%error, "no more datagrams from other nodes");
            std::process::exit(crate::fault::Exit::Failed.code().into());
        }
    }

    fn rounds(&mut self) -> io::Result<()> {
        let mut next_round = SystemClock.now();
        let mut wait = Some(0);
        while !self.shared.stop.load(Ordering::Relaxed) {
            let ready = self.poller.wait(wait)?;
            if ready.woken {
                self.look();
            }
            while self.socket.receive(&mut self.received)? > 0 {
                self.take();
            }
            let now = SystemClock.now();
            if now >= next_round {
                self.probe(now);
                // A round that is late is not made up for.
                next_round = Millis(next_round.0 + self.probe_ms).max(now);
            }
            let now = SystemClock.now();
            let due = self.pulse.due(now).map_or(next_round, |due| due.min(next_round));
            wait = Some(due.since(now).min(self.probe_ms) as u32);
        }
        Ok(())
    }

    /// Takes up new members, addresses and sessions, and forgets sessions whose connection is gone.
    fn look(&mut self) {
        let known = self.shared.peers.load_full();
        let peers: BTreeMap<NodeId, Arc<Peer>> = self
            .keys
            .peers()
            .into_iter()
            .map(|(node, address)| {
                let peer = match known.get(&node) {
                    Some(peer) if peer.address == address => peer.clone(),
                    before => Arc::new(Peer::new(address, before.map(Arc::as_ref))),
                };
                peer.follow(self.keys.to(node));
                (node, peer)
            })
            .collect();
        // A connection that is gone does not come back: what was received on it is forgotten with its window.
        self.incoming.retain(|&id, _| self.keys.from(id).is_some());
        self.shared.peers.store(Arc::new(peers));
    }

    fn probe(&mut self, now: Millis) {
        self.look();
        let peers = self.shared.peers.load_full();
        let nodes: Vec<NodeId> = peers.keys().copied().collect();
        self.pulse.round(now, &nodes);
        for (&node, peer) in peers.iter() {
            let probe = self.pulse.probe(node, now);
            self.seal(node, peer, Kind::Probe, &probe);
        }
        self.socket.send(&mut self.sending);
    }

    /// Opens what was received, answers probes and hands over the rest.
    fn take(&mut self) {
        let peers = self.shared.peers.load_full();
        let now = SystemClock.now();
        let (datagrams, arena) = self.received.parts();
        let mut answers = Vec::new();
        for datagram in datagrams {
            let range = datagram.range();
            let opened = open(&mut self.incoming, &*self.keys, &mut arena[range.clone()]);
            let (from, kind, text) = match opened {
                Ok(opened) => opened,
                Err(reason) => {
                    self.shared.count(reason, 1);
                    continue;
                }
            };
            let text = range.start + text.start..range.start + text.end;
            self.pulse.heard(from, now);
            match kind {
                Kind::Probe => match self.pulse.probed(from, &arena[text], now) {
                    Some(answer) => answers.push((from, answer)),
                    None => self.shared.count(Drop::Malformed, 1),
                },
                Kind::Answer => self.pulse.answered(from, &arena[text], now),
                _ => self.frames[kind as usize].push(Frame { from, text }),
            }
        }
        for (to, answer) in answers {
            if let Some(peer) = peers.get(&to) {
                self.seal(to, peer, Kind::Answer, &answer);
            }
        }
        self.socket.send(&mut self.sending);
        self.hand_over();
    }

    fn hand_over(&mut self) {
        for (frames, sink) in self.frames.iter_mut().zip(&self.shared.sinks) {
            if frames.is_empty() {
                continue;
            }
            match &mut *sink.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(sink) => sink.take(frames, self.received.arena()),
                None => self.shared.count(Drop::Unwanted, frames.len() as u64),
            }
            frames.clear();
        }
    }

    fn seal(&mut self, to: NodeId, peer: &Peer, kind: Kind, text: &[u8]) {
        let Some(way) = peer.way() else { return self.shared.count(Drop::NoWay, 1) };
        let len = FRONT + text.len() + BACK;
        if self.sending.slot(len).is_none() {
            self.socket.send(&mut self.sending);
        }
        let Some(slot) = self.sending.slot(len) else { return self.shared.count(Drop::NoWay, 1) };
        slot[FRONT..][..text.len()].copy_from_slice(text);
        match way.session.batch(1).seal(kind, &mut slot[..len]) {
            Ok(()) => self.sending.commit(Route { peer: way.address, tos: PROBE_TOS }, len),
            Err(error) => {
                tracing::debug!(%to, %error, "a session is used up");
                self.shared.count(Drop::NoWay, 1);
            }
        }
    }
}

/// Opens a frame under the session that it names; a session seen for the first time is asked for.
fn open(
    incoming: &mut HashMap<u64, Incoming>,
    keys: &dyn Keys,
    frame: &mut [u8],
) -> Result<(NodeId, Kind, Range<usize>), Drop> {
    let id = session_of(frame).ok_or(Drop::Malformed)?;
    let session = match incoming.entry(id) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => {
            let session = keys.from(id).ok_or(Drop::Session)?;
            unknown.insert(Incoming::new(session.node, &session.secret))
        }
    };
    let (kind, text) = session.open(frame)?;
    Ok((session.from, kind, text))
}
