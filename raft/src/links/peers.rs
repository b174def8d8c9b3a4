//! Whom this node reaches: a table that others watch, changed the moment that a connection is made or lost.
//!
//! ```text
//!           handshake done                connection closed, timed out
//!   Down ───────────────────> Up ──────────────────────────────────────> Down
//!     └──── nobody listens ──> Refused ──── anything else ────────────────^
//! ```
//!
//! `Refused` means that the host answers and says that no process listens there: after `Up` a strong hint that the
//! process has ended. A firewall can forge it, so it proves nothing (DESIGN 6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::state::NodeId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkState {
    Up,
    Down,
    /// Down, and the last attempt to connect was refused by the host.
    Refused,
}

/// The urgent connection to one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLink {
    pub state: LinkState,
    /// When it came to be in `state`.
    pub since: Instant,
    pub address: String,
    /// Why it is not up, for people.
    pub why: Option<Arc<str>>,
}

/// What a member says to one that is none any more, at the end of its refusal.
pub(super) const REMOVED: &str = "is no member any more";

impl PeerLink {
    /// The member at the other end, whose word its certificate proves, says that this node was removed.
    pub fn says_removed(&self) -> bool {
        self.state != LinkState::Up && self.why.as_deref().is_some_and(|why| why.ends_with(REMOVED))
    }
}

pub type Peers = Arc<BTreeMap<NodeId, PeerLink>>;

#[derive(Debug)]
pub struct Board {
    peers: watch::Sender<Peers>,
}

impl Default for Board {
    fn default() -> Self {
        Board { peers: watch::Sender::new(Peers::default()) }
    }
}

impl Board {
    pub fn watch(&self) -> watch::Receiver<Peers> {
        self.peers.subscribe()
    }

    /// A member is dialled from now on, or at another address.
    pub fn add(&self, node: NodeId, address: &str) {
        self.change(|peers| {
            let link = peers.entry(node).or_insert_with(|| PeerLink {
                state: LinkState::Down,
                since: Instant::now(),
                address: String::new(),
                why: Some("not connected yet".into()),
            });
            address.clone_into(&mut link.address);
            true
        });
    }

    pub fn remove(&self, node: NodeId) {
        self.change(|peers| peers.remove(&node).is_some());
    }

    /// True when that is news. `since` stays when the state does.
    pub fn set(&self, node: NodeId, state: LinkState, why: Option<&str>) -> bool {
        self.change(|peers| {
            let Some(link) = peers.get_mut(&node) else { return false };
            if link.state == state && link.why.as_deref() == why {
                return false;
            }
            if link.state != state {
                link.since = Instant::now();
            }
            link.state = state;
            link.why = why.map(Arc::from);
            true
        })
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<NodeId, PeerLink>) -> bool) -> bool {
        self.peers.send_if_modified(|peers| change(Arc::make_mut(peers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_are_told_of_changes_and_of_nothing_else() {
        let board = Board::default();
        let mut seen = board.watch();
        board.add(NodeId(2), "127.0.0.1:1");
        assert!(seen.has_changed().unwrap());
        let since = seen.borrow_and_update()[&NodeId(2)].since;
        board.set(NodeId(2), LinkState::Down, Some("not connected yet"));
        board.set(NodeId(3), LinkState::Up, None);
        assert!(!seen.has_changed().unwrap());
        board.set(NodeId(2), LinkState::Down, Some("timed out"));
        assert_eq!(seen.borrow_and_update()[&NodeId(2)].since, since, "the state is the same");
        board.set(NodeId(2), LinkState::Up, None);
        assert_eq!(seen.borrow_and_update()[&NodeId(2)].state, LinkState::Up);
        board.remove(NodeId(2));
        assert!(seen.borrow_and_update().is_empty());
    }
}
