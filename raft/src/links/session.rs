//! Keys for datagrams between two nodes, taken from their TLS sessions (RFC 8446, 7.5; RFC 5705).
//!
//! ```text
//!   A dials B, urgent lane:   A: session_to(B)  ── seals what A sends to B
//!                             B: session(id)    ── opens what came from A
//! ```
//!
//! A session outlives its connection: a datagram must not fail because a TCP connection is being replaced. What A
//! seals with is replaced by its next dial; B keeps the last few of each node, and none of a node that was removed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crypto::Secret;

use crate::state::NodeId;

/// Octets of a session's key.
pub const KEY_LEN: usize = 32;

/// Sessions of one node that are kept to open its datagrams with: one per dial, so one, and a few that a flapping
/// connection has left.
const KEPT_PER_NODE: usize = 4;

/// One direction between two nodes.
#[derive(PartialEq, Eq)]
pub struct Session {
    /// Public: names the session in each datagram.
    pub id: u64,
    /// Who seals with it.
    pub node: NodeId,
    pub key: Secret,
}

/// The sessions of this node.
#[derive(Debug, Default)]
pub struct Sessions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    to: BTreeMap<NodeId, Arc<Session>>,
    from: HashMap<u64, Arc<Session>>,
    /// The ids in `from` of each node, oldest first.
    order: BTreeMap<NodeId, Vec<u64>>,
}

impl Session {
    /// What both ends export, cut up.
    pub fn new(node: NodeId, exported: &[u8; 8 + KEY_LEN]) -> Session {
        let (id, key) = exported.split_at(8);
        let id = id.iter().fold(0, |id, octet| id << 8 | u64::from(*octet));
        Session { id, node, key: Secret::from_slice(key) }
    }
}

impl Sessions {
    /// To seal with.
    pub fn to(&self, node: NodeId) -> Option<Arc<Session>> {
        self.table().to.get(&node).cloned()
    }

    /// To open with.
    pub fn from(&self, id: u64) -> Option<Arc<Session>> {
        self.table().from.get(&id).cloned()
    }

    /// This node has dialled `to`.
    pub fn dialled(&self, to: NodeId, session: Session) {
        self.table().to.insert(to, Arc::new(session));
    }

    /// `session.node` has dialled this node.
    pub fn accepted(&self, session: Session) {
        let mut table = self.table();
        let order = table.order.entry(session.node).or_default();
        order.push(session.id);
        let oldest = (order.len() > KEPT_PER_NODE).then(|| order.remove(0));
        table.from.insert(session.id, Arc::new(session));
        if let Some(oldest) = oldest {
            table.from.remove(&oldest);
        }
    }

    /// A node was removed: none of its datagrams is opened any more.
    pub fn forget(&self, node: NodeId) {
        let mut table = self.table();
        table.to.remove(&node);
        for id in table.order.remove(&node).unwrap_or_default() {
            table.from.remove(&id);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change leaves a whole table behind, also one that was cut short.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({:016x} of node {})", self.id, self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(node: u64, id: u8) -> Session {
        let mut exported = [id; 40];
        exported[..8].copy_from_slice(&[0, 0, 0, 0, 0, 0, node as u8, id]);
        Session::new(NodeId(node), &exported)
    }

    #[test]
    fn the_last_few_sessions_of_each_node_are_kept() {
        let sessions = Sessions::default();
        for id in 0..6 {
            sessions.accepted(session(1, id));
        }
        sessions.accepted(session(2, 0));
        let kept: Vec<u8> = (0..6).filter(|&id| sessions.from(0x100 | u64::from(id)).is_some()).collect();
        assert_eq!(kept, [2, 3, 4, 5]);
        assert_eq!(sessions.from(0x200).unwrap().node, NodeId(2));
        sessions.forget(NodeId(1));
        assert!(sessions.from(0x105).is_none() && sessions.from(0x200).is_some());
    }

    #[test]
    fn a_dial_replaces_what_is_sealed_with() {
        let sessions = Sessions::default();
        assert!(sessions.to(NodeId(2)).is_none());
        sessions.dialled(NodeId(2), session(1, 7));
        sessions.dialled(NodeId(2), session(1, 8));
        assert_eq!(sessions.to(NodeId(2)).unwrap().id, 0x108);
        assert!(!format!("{:?}", sessions.to(NodeId(2))).contains("8, 8"));
        sessions.forget(NodeId(2));
        assert!(sessions.to(NodeId(2)).is_none());
    }
}
