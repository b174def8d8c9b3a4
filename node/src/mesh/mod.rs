//! Datagrams between nodes: sealed, on the UDP port of `advertise`, for what must neither wait for TCP nor be repeated.
//!
//! ```text
//!   mesh thread   every probe_ms ── Pulse::probe ──> each peer        worker, actors ── Way::seal, Mesh::send ──> peer
//!                 socket ─> open ─┬─ probe ──> Pulse::probed ─> answer, at once
//!                                 ├─ answer ─> Pulse::answered
//!                                 └─ others ─> the sink of their kind, in batches
//! ```
//!
//! The keys are those of the links: what A sends to B is sealed under the session of the TLS connection that A dialled
//! (`Keys`), so a datagram proves who sent it, and ends to be valid with the connection. What cannot be opened, or
//! comes twice, is a counted drop.
//!
//! One thread of its own, with nothing else to do: a probe that waits behind a flush or a packet batch is a false alarm.
//!
//! | file | its one idea |
//! |---|---|
//! | `frame` | the layout, sealing, opening, what comes twice |
//! | `peers` | whom we know, and the way to each |
//! | `thread` | the loop |
//! | `relay` | packets of the workers, there and back |

mod frame;
mod peers;
mod relay;
mod thread;

#[cfg(test)]
mod tests;

pub use frame::{BACK, FRONT, Kind, OVERHEAD, Outgoing, Sealing};
pub use peers::{Keys, Session, Way};
pub use thread::{Frame, Pulse, Sink};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use raft::state::NodeId;

use crate::io::{OpenError, Outside, Poller, UdpHandle, UdpSocket, Waker};
use peers::Peer;

/// Why a datagram of another node was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Drop {
    /// No frame: too short, or of a kind that we do not know.
    Malformed,
    /// Sealed under a session that we do not have: another cluster, or a connection that is gone.
    Session,
    Integrity,
    /// Received before, or too old.
    Replayed,
    /// Nobody here wants this kind.
    Unwanted,
    /// No session to that node, or no number left in it.
    NoWay,
}

impl Drop {
    pub const ALL: [Drop; 6] =
        [Drop::Malformed, Drop::Session, Drop::Integrity, Drop::Replayed, Drop::Unwanted, Drop::NoWay];

    pub fn label(self) -> &'static str {
        match self {
            Drop::Malformed => "mesh_malformed",
            Drop::Session => "mesh_session",
            Drop::Integrity => "mesh_integrity",
            Drop::Replayed => "mesh_replayed",
            Drop::Unwanted => "mesh_unwanted",
            Drop::NoWay => "mesh_no_way",
        }
    }
}

/// The datagrams of this node. Clones are one; when the last goes, the thread ends.
#[derive(Clone, Debug)]
pub struct Mesh(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    waker: Waker,
}

/// What the thread and the handles share.
struct Shared {
    peers: ArcSwap<BTreeMap<NodeId, Arc<Peer>>>,
    sinks: [Mutex<Option<Box<dyn Sink>>>; Kind::ALL.len()],
    dropped: [AtomicU64; Drop::ALL.len()],
    socket: UdpHandle,
    detour: ArcSwap<Detour>,
    stop: AtomicBool,
}

/// Around ways that are broken, for packets: by a node that hears those whom we do not hear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detour {
    pub unheard: BTreeSet<NodeId>,
    pub by: Option<NodeId>,
}

impl Detour {
    /// Whom to send what is for `to`. That node passes it on, since it does not serve it itself.
    fn toward(&self, to: NodeId) -> NodeId {
        self.by.filter(|_| self.unheard.contains(&to)).unwrap_or(to)
    }
}

/// What the thread sends with, to be opened before the rest of the node starts.
#[derive(Debug)]
pub struct Port(UdpSocket);

impl Port {
    pub fn open(advertise: SocketAddr) -> Result<Port, OpenError> {
        UdpSocket::open(advertise).map(Port)
    }

    pub fn local(&self) -> io::Result<SocketAddr> {
        self.0.local()
    }
}

impl Mesh {
    /// Starts the thread. `probe_ms`: how often each peer is probed.
    pub fn start(port: Port, keys: Arc<dyn Keys>, pulse: Box<dyn Pulse>, probe_ms: u64) -> io::Result<Mesh> {
        let poller = Poller::new()?;
        let shared = Arc::new(Shared {
            peers: ArcSwap::default(),
            sinks: [const { Mutex::new(None) }; Kind::ALL.len()],
            dropped: [const { AtomicU64::new(0) }; Drop::ALL.len()],
            socket: port.0.handle()?,
            detour: ArcSwap::default(),
            stop: AtomicBool::new(false),
        });
        let mesh = Mesh(Arc::new(Handle { shared: shared.clone(), waker: poller.waker() }));
        let thread = thread::Thread::new(port.0, poller, shared, keys, pulse, probe_ms)?;
        std::thread::Builder::new().name("mesh".into()).spawn(move || thread.run())?;
        Ok(mesh)
    }

    /// The sessions and addresses may have changed: look now, not at the next probe.
    pub fn look(&self) {
        self.0.waker.wake();
    }

    /// Sends one datagram, at once or not at all. False: there is no way to that node now.
    pub fn send(&self, to: NodeId, kind: Kind, octets: &[u8]) -> bool {
        let sent = self.way(to).is_some_and(|way| {
            let mut frame = vec![0; octets.len() + OVERHEAD];
            frame[FRONT..][..octets.len()].copy_from_slice(octets);
            way.session.batch(1).seal(kind, &mut frame).is_ok()
                && self.0.shared.socket.send(way.address, &frame).is_ok()
        });
        if !sent {
            self.0.shared.count(Drop::NoWay, 1);
        }
        sent
    }

    /// For who seals many and sends them himself, through a socket of `outside`.
    pub fn way(&self, to: NodeId) -> Option<Way> {
        self.0.shared.peers.load().get(&to)?.way()
    }

    /// The way for packets to that node: straight, or by another.
    pub fn way_or_detour(&self, to: NodeId) -> Option<Way> {
        self.way(self.0.shared.detour.load().toward(to)).or_else(|| self.way(to))
    }

    pub fn set_detour(&self, detour: Detour) {
        if **self.0.shared.detour.load() != detour {
            self.0.shared.detour.store(Arc::new(detour));
        }
    }

    /// Another handle of the socket, for a thread that sends batches. Only `send` is of use: what comes in is the mesh
    /// thread's.
    pub fn outside(&self) -> io::Result<Box<dyn Outside>> {
        Ok(Box::new(self.0.shared.socket.sender()?))
    }

    /// What is to be done with the frames of a kind, instead of what was before. Called in the mesh thread: to be quick.
    pub fn on(&self, kind: Kind, sink: impl Sink + 'static) {
        *self.0.shared.sinks[kind as usize].lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Box::new(sink));
    }

    /// Drops so far, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Drop::ALL.into_iter().map(|reason| (reason.label(), self.0.shared.dropped(reason)))
    }
}

impl Shared {
    fn count(&self, reason: Drop, number: u64) {
        self.dropped[reason as usize].fetch_add(number, Ordering::Relaxed);
    }

    fn dropped(&self, reason: Drop) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }
}

impl std::ops::Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("peers", &self.peers.load()).finish_non_exhaustive()
    }
}
