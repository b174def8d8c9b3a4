//! Which node serves which segment: decided by the Raft leader, put into force by the log.
//!
//! ```text
//!   owner's process gone, or never any  ──>  Assign { segments, to, epoch + 1 }
//!   too uneven                           ──>  Assign, as few as possible
//! ```
//!
//! `plan` is a pure function of the state. Who may be given segments is who has committed an incarnation; the
//! detector of silent nodes narrows that once there are links between nodes.

use std::collections::BTreeMap;

use ipsec::types::{Millis, Segment};
use raft::state::{Assign, Cause, Member, NodeId, SegmentState, State};

/// The assignments that this state calls for, by target. Empty when all is well.
pub fn plan(state: &State, at: Millis) -> Vec<Assign> {
    let able: Vec<&Member> = state.members().iter().filter(|member| member.incarnation.0 != 0).collect();
    if able.is_empty() {
        return Vec::new();
    }
    let mut load: BTreeMap<NodeId, usize> = able.iter().map(|member| (member.id, 0)).collect();
    let mut orphans = Vec::new();
    for segment in Segment::all() {
        let grant = state.segment(segment);
        let owner = grant
            .owner
            .filter(|owner| grant.state.is_served() && state.members().runs(owner.node, owner.incarnation));
        match owner {
            Some(owner) => *load.entry(owner.node).or_default() += 1,
            None => orphans.push((segment, grant)),
        }
    }

    let share = Segment::COUNT.div_ceil(able.len());
    let mut moves: BTreeMap<(NodeId, Cause), Vec<(Segment, ipsec::types::Epoch)>> = BTreeMap::new();
    for (segment, grant) in orphans {
        // A node that comes back gets its own segments again: their clients' addresses need not move.
        let before =
            grant.owner.map(|owner| owner.node).filter(|node| load.get(node).is_some_and(|&n| n < share));
        let least = load.iter().min_by_key(|&(node, n)| (*n, *node)).map(|(node, _)| *node);
        let Some(to) = before.or(least) else { continue };
        *load.entry(to).or_default() += 1;
        let cause = match grant.state {
            SegmentState::Unassigned => Cause::Created,
            _ if Some(to) == before => Cause::Restarted,
            _ => Cause::NodeSilent,
        };
        moves.entry((to, cause)).or_default().push((segment, grant.epoch));
    }
    moves
        .into_iter()
        .filter_map(|((to, cause), segments)| {
            let incarnation = state.members().get(to)?.incarnation;
            Some(Assign { segments, to, incarnation, standby: standby(&load, to), cause, at })
        })
        .collect()
}

/// The least loaded of the others.
fn standby(load: &BTreeMap<NodeId, usize>, owner: NodeId) -> Option<NodeId> {
    load.iter()
        .filter(|(node, _)| **node != owner)
        .min_by_key(|&(node, n)| (*n, *node))
        .map(|(node, _)| *node)
}
