//! Who lives, as this node sees it: what probes and links tell, in one value that changes as a whole.
//!
//! An opinion, never a proof: a node that is found silent may be at work behind a broken cable. What is decided on it
//! is made safe by promises and leases (`takeover`), incarnations and epochs.

use std::collections::BTreeMap;

use ipsec::types::Incarnation;
use raft::state::{NodeId, State};

/// What is known of the members. This node itself is always among those heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    pub nodes: BTreeMap<NodeId, Signs>,
}

/// The signs of life of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    pub verdict: Verdict,
    /// The process that its last probe was of.
    pub incarnation: Incarnation,
    /// How far its last probe said that it has applied the log.
    pub applied: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Alive,
    /// Not heard of for the suspect time, or deaf for as long.
    Silent,
    /// Its connections are closed and new ones are refused: nothing listens there.
    Gone,
}

impl Liveness {
    /// True when the running process of `node` is heard, and is at most `behind` entries behind this node's state.
    pub fn is_able(&self, state: &State, node: NodeId, behind: u64) -> bool {
        let signs = self.nodes.get(&node);
        signs.is_some_and(|signs| {
            signs.verdict == Verdict::Alive
                && state.members().runs(node, signs.incarnation)
                && signs.applied.saturating_add(behind) >= state.applied()
        })
    }

    /// `None`: never heard of.
    pub fn verdict(&self, node: NodeId) -> Option<Verdict> {
        self.nodes.get(&node).map(|signs| signs.verdict)
    }

    pub fn is_silent(&self, node: NodeId) -> bool {
        self.verdict(node).is_none_or(|verdict| verdict != Verdict::Alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_never_heard_is_silent() {
        let alive = Signs { verdict: Verdict::Alive, incarnation: Incarnation(7), applied: 5 };
        let gone = Signs { verdict: Verdict::Gone, ..alive };
        let liveness = Liveness { nodes: [(NodeId(1), alive), (NodeId(2), gone)].into() };
        assert!(!liveness.is_silent(NodeId(1)));
        assert!(liveness.is_silent(NodeId(2)) && liveness.is_silent(NodeId(3)));
        assert!(!liveness.is_able(&State::default(), NodeId(1), 0), "no member of this state");
    }
}
