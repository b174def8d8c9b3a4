//! Whom this node exchanges datagrams with, and the way to each: an address, and a session to seal under.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use crypto::Secret;
use raft::state::NodeId;

use super::frame::Outgoing;

/// What both ends of a connection between nodes know: made from its TLS session, for one direction.
#[derive(Clone, Debug)]
pub struct Session {
    /// Public: stands in each frame.
    pub id: u64,
    /// The other end.
    pub node: NodeId,
    pub secret: Secret,
}

/// Where addresses and sessions come from: the replicated members, and the links.
pub trait Keys: Send + Sync {
    /// The other members and where they are reached.
    fn peers(&self) -> Vec<(NodeId, SocketAddr)>;

    /// The session of the connection that we dialled: to seal under.
    fn to(&self, node: NodeId) -> Option<Session>;

    /// A session of a connection that we accepted: to open.
    fn from(&self, id: u64) -> Option<Session>;
}

/// How to reach a node now.
#[derive(Clone, Debug)]
pub struct Way {
    pub address: SocketAddr,
    pub session: Arc<Outgoing>,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub address: SocketAddr,
    session: ArcSwapOption<Outgoing>,
}

impl Peer {
    /// As before, where it was known: its session goes on with its numbers.
    pub fn new(address: SocketAddr, before: Option<&Peer>) -> Peer {
        Peer { address, session: ArcSwapOption::new(before.and_then(|peer| peer.session.load_full())) }
    }

    /// Takes up the session of a new connection. The one at hand is kept while there is none: the other end drops what
    /// it cannot open.
    pub fn follow(&self, session: Option<Session>) {
        let known = self.session.load().as_ref().map(|session| session.id);
        if let Some(session) = session.filter(|session| Some(session.id) != known) {
            self.session.store(Some(Arc::new(Outgoing::new(session.id, &session.secret))));
        }
    }

    pub fn way(&self) -> Option<Way> {
        Some(Way { address: self.address, session: self.session.load_full()? })
    }
}
