//! Who owns which segment, and since which epoch.
//!
//! ```text
//!                 Assign              Incarnate of the owner, or a later process of it
//!   Unassigned ───────────> Owned ─────────────────────────────────────────────> Orphaned
//!                            ^ ^                                                    │
//!                     Assign └─┘ └──────────────────── Assign ──────────────────────┘
//! ```
//!
//! A planned move is no state of its own: owner and target settle it between them, and one `Assign` ends it.
//!
//! `Assign` raises the epoch by one, always: also when the same node takes the segment again. A guard holds only
//! while its segment is served in exactly its epoch by exactly its incarnation (I6).
//!
//! Invariants: an epoch never falls; an owner is a member and, while the segment is served, its running process;
//! a standby is a member and not the owner; a segment has an owner if and only if its epoch is not zero.

use std::collections::BTreeSet;

use imbl::OrdMap;
use ipsec::record::{self, Guard};
use ipsec::types::{Epoch, Incarnation, Millis, Segment};

use super::members::{Members, NodeId, ensure};
use super::outcome::Refusal;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SegmentState {
    /// Never assigned.
    Unassigned = 1,
    Owned = 2,
    /// The owner's process is gone; nobody serves it until the next assignment.
    Orphaned = 3,
}

/// Why a segment was given to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Cause {
    /// First assignment.
    Created = 1,
    /// A new process of the same node.
    Restarted = 2,
    /// The segment's actor failed and starts again.
    ActorFailed = 3,
    /// The owner fell silent.
    NodeSilent = 4,
    /// An orderly move off a node that drains or leaves.
    Drained = 5,
    /// To spread segments evenly.
    Rebalanced = 6,
    /// An administrator asked for it.
    Moved = 7,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    pub node: NodeId,
    pub incarnation: Incarnation,
}

/// The grant of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub state: SegmentState,
    pub owner: Option<Owner>,
    pub standby: Option<NodeId>,
    pub epoch: Epoch,
    /// Why and when (UTC) this epoch began.
    pub cause: Cause,
    pub since: Millis,
    /// How long the owner before this one was silent when the leader decided to give the segment to another.
    pub silent_ms: u64,
}

/// Gives segments to a node: all of them or, if one does not fit, none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assign {
    /// Sorted, each once, with the epoch that the proposer saw.
    pub segments: Vec<(Segment, Epoch)>,
    pub to: NodeId,
    /// Of the process that shall act on it.
    pub incarnation: Incarnation,
    pub standby: Option<NodeId>,
    pub cause: Cause,
    /// UTC.
    pub at: Millis,
    /// From whom, where the owner has not given the segments up itself.
    pub takeover: Option<Takeover>,
}

/// What the leader knew of a silent owner when it decided to move its segments. When any of it has changed meanwhile
/// the owner may be at work again, and the assignment counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// The process that owned all of the segments.
    pub from: Owner,
    /// Of its member: a `Pardon` has raised it where the owner came back in time.
    pub standing: u64,
    /// The voters that promised to acknowledge that process no more, with the process of each that promised: another
    /// one has forgotten it. Sorted. None, where the owner is taken for dead without asking.
    pub promisers: Vec<(NodeId, Incarnation)>,
    /// How long the owner was silent by then, for people.
    pub silent_ms: u64,
}

/// Names who takes segments over when their owner fails. Owner and epoch stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetStandby {
    /// Sorted, each once, with the epoch that the proposer saw.
    pub segments: Vec<(Segment, Epoch)>,
    pub standby: Option<NodeId>,
}

#[derive(Clone, Debug, Default)]
pub struct Segments {
    /// Those that were ever assigned.
    table: OrdMap<Segment, Grant>,
}

impl SegmentState {
    /// Which state may follow which; see the drawing above.
    pub fn may_become(self, next: SegmentState) -> bool {
        use SegmentState::{Orphaned, Owned, Unassigned};
        match (self, next) {
            (_, Unassigned) => false,
            (_, Owned) | (Owned, Orphaned) => true,
            (Unassigned | Orphaned, Orphaned) => false,
        }
    }

    /// True when the owner may act on the segment.
    pub fn is_served(self) -> bool {
        self == SegmentState::Owned
    }
}

impl Grant {
    pub const NONE: Grant = Grant {
        state: SegmentState::Unassigned,
        owner: None,
        standby: None,
        epoch: Epoch(0),
        cause: Cause::Created,
        since: Millis(0),
        silent_ms: 0,
    };
}

impl Segments {
    pub fn get(&self, segment: Segment) -> Grant {
        self.table.get(&segment).copied().unwrap_or(Grant::NONE)
    }

    /// All 256, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Segment, Grant)> {
        Segment::all().map(|segment| (segment, self.get(segment)))
    }

    /// Those that were ever assigned, in order.
    pub(super) fn assigned(&self) -> impl Iterator<Item = (Segment, Grant)> {
        self.table.iter().map(|(&segment, &grant)| (segment, grant))
    }

    /// What `node` owns, in whatever state.
    pub fn owned_by(&self, node: NodeId) -> impl Iterator<Item = (Segment, Grant)> {
        self.assigned().filter(move |(_, grant)| grant.owner.is_some_and(|owner| owner.node == node))
    }

    /// True when the guard's process may act on its segment now.
    pub fn holds(&self, guard: &Guard) -> bool {
        let grant = self.get(guard.segment);
        grant.state.is_served()
            && grant.epoch == guard.epoch
            && grant.owner.is_some_and(|owner| owner.incarnation == guard.incarnation)
    }

    /// The first check of everything that carries a guard.
    pub(super) fn check_guard(&self, guard: &Guard, members: &Members) -> Result<(), Refusal> {
        if !self.holds(guard) {
            return Err(record::Refusal::Deposed.into());
        }
        let owner = self.get(guard.segment).owner.expect("a served segment has an owner");
        assert!(members.runs(owner.node, owner.incarnation), "a served segment is with a running process");
        Ok(())
    }

    /// Returns the new epoch of each segment.
    pub(super) fn assign(
        &mut self,
        assign: &Assign,
        members: &Members,
    ) -> Result<Vec<(Segment, Epoch)>, Refusal> {
        let member = members.get(assign.to).ok_or(Refusal::UnknownNode)?;
        if !members.runs(member.id, assign.incarnation) {
            return Err(Refusal::NotRunning);
        }
        check_standby(assign.standby, assign.to, members)?;
        self.check_expected(&assign.segments)?;
        if let Some(takeover) = &assign.takeover {
            self.check_takeover(takeover, &assign.segments, members)?;
        }
        let owner = Owner { node: assign.to, incarnation: assign.incarnation };
        assign
            .segments
            .iter()
            .map(|&(segment, _)| {
                let before = self.get(segment);
                let epoch = before.epoch.next().ok_or(Refusal::EpochsExhausted { segment })?;
                self.set(
                    segment,
                    Grant {
                        state: SegmentState::Owned,
                        owner: Some(owner),
                        standby: assign.standby,
                        epoch,
                        cause: assign.cause,
                        since: assign.at,
                        silent_ms: assign.takeover.as_ref().map_or(0, |takeover| takeover.silent_ms),
                    },
                )?;
                Ok((segment, epoch))
            })
            .collect()
    }

    /// The processes from which an assignment takes segments that they serve.
    pub(super) fn deposed_by(&self, assign: &Assign) -> BTreeSet<NodeId> {
        let to = Owner { node: assign.to, incarnation: assign.incarnation };
        let grants = assign.segments.iter().map(|&(segment, _)| self.get(segment));
        grants
            .filter(|grant| grant.state.is_served())
            .filter_map(|grant| grant.owner)
            .filter(|owner| *owner != to)
            .map(|owner| owner.node)
            .collect()
    }

    fn check_takeover(
        &self,
        takeover: &Takeover,
        segments: &[(Segment, Epoch)],
        members: &Members,
    ) -> Result<(), Refusal> {
        let Takeover { from, standing, promisers, .. } = takeover;
        let member = members.get(from.node).ok_or(Refusal::UnknownNode)?;
        if !members.runs(from.node, from.incarnation) {
            return Err(Refusal::NotRunning);
        }
        if member.standing != *standing {
            return Err(Refusal::StandingChanged { current: member.standing });
        }
        if !promisers.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(Refusal::BadPromisers);
        }
        // A promise of the owner itself is worth nothing: it is the others who must not acknowledge it.
        let stale = promisers.iter().find(|(node, run)| *node == from.node || !members.runs(*node, *run));
        if let Some(&(node, _)) = stale {
            return Err(Refusal::PromiseForgotten { node });
        }
        let of_another = segments.iter().find(|(segment, _)| self.get(*segment).owner != Some(*from));
        match of_another {
            Some(&(segment, _)) => Err(Refusal::NotInThisState { segment }),
            None => Ok(()),
        }
    }

    pub(super) fn set_standby(&mut self, set: &SetStandby, members: &Members) -> Result<(), Refusal> {
        self.check_expected(&set.segments)?;
        for &(segment, _) in &set.segments {
            let grant = self.get(segment);
            let owner = grant.owner.ok_or(Refusal::NotInThisState { segment })?;
            check_standby(set.standby, owner.node, members)?;
            self.table.insert(segment, Grant { standby: set.standby, ..grant });
        }
        Ok(())
    }

    /// A new process of `node` runs: what an earlier one served is without a server. Returns which.
    pub(super) fn orphan(&mut self, node: NodeId, running: Incarnation) -> Result<Vec<Segment>, Refusal> {
        let owner = Owner { node, incarnation: running };
        if self.assigned().any(|(_, grant)| grant.owner == Some(owner)) {
            return Err(Refusal::BadIncarnation);
        }
        let left: Vec<(Segment, Grant)> =
            self.owned_by(node).filter(|(_, grant)| grant.state.is_served()).collect();
        for &(segment, grant) in &left {
            self.set(segment, Grant { state: SegmentState::Orphaned, ..grant })?;
        }
        Ok(left.into_iter().map(|(segment, _)| segment).collect())
    }

    /// A member leaves: it must own nothing, and is standby for nothing any more. Returns which it stood by for.
    pub(super) fn forget(&mut self, node: NodeId) -> Result<Vec<Segment>, Refusal> {
        if self.owned_by(node).next().is_some() {
            return Err(Refusal::OwnsSegments);
        }
        let stood_by: Vec<(Segment, Grant)> =
            self.assigned().filter(|(_, grant)| grant.standby == Some(node)).collect();
        for &(segment, grant) in &stood_by {
            self.table.insert(segment, Grant { standby: None, ..grant });
        }
        Ok(stood_by.into_iter().map(|(segment, _)| segment).collect())
    }

    fn check_expected(&self, segments: &[(Segment, Epoch)]) -> Result<(), Refusal> {
        if segments.is_empty() || !segments.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(Refusal::BadSegments);
        }
        segments.iter().try_for_each(|&(segment, expected)| {
            let current = self.get(segment).epoch;
            if current == expected { Ok(()) } else { Err(Refusal::EpochChanged { segment, current }) }
        })
    }

    fn set(&mut self, segment: Segment, grant: Grant) -> Result<(), Refusal> {
        let before = self.get(segment);
        if !before.state.may_become(grant.state) {
            return Err(Refusal::NotInThisState { segment });
        }
        assert!(grant.epoch >= before.epoch, "an epoch never falls");
        assert!(grant.epoch > before.epoch || grant.owner == before.owner, "one owner an epoch");
        self.table.insert(segment, grant);
        Ok(())
    }

    /// From a snapshot.
    pub(super) fn restore(&mut self, segment: Segment, grant: Grant) -> Result<(), &'static str> {
        ensure(self.table.insert(segment, grant).is_none(), "a segment twice")
    }

    pub(super) fn check(&self, members: &Members) -> Result<(), &'static str> {
        for (_, grant) in self.assigned() {
            let owner = grant.owner.ok_or("an assigned segment without an owner")?;
            ensure(grant.state != SegmentState::Unassigned, "an assigned segment in state unassigned")?;
            ensure(grant.epoch > Epoch(0) && grant.epoch <= Epoch::MAX, "an epoch out of range")?;
            ensure(members.get(owner.node).is_some(), "a segment owned by a stranger")?;
            let running = members.runs(owner.node, owner.incarnation);
            ensure(running == grant.state.is_served(), "a segment is served if its owner's process runs")?;
            if let Some(standby) = grant.standby {
                ensure(members.get(standby).is_some(), "a stranger as standby")?;
                ensure(standby != owner.node, "an owner as its own standby")?;
            }
        }
        Ok(())
    }
}

fn check_standby(standby: Option<NodeId>, owner: NodeId, members: &Members) -> Result<(), Refusal> {
    match standby {
        Some(standby) if standby == owner => Err(Refusal::StandbyIsOwner),
        Some(standby) if members.get(standby).is_none() => Err(Refusal::UnknownNode),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        use SegmentState::{Orphaned, Owned, Unassigned};
        let all = [Unassigned, Owned, Orphaned];
        let allowed = [(Unassigned, vec![Owned]), (Owned, vec![Owned, Orphaned]), (Orphaned, vec![Owned])];
        for (from, to) in allowed {
            for next in all {
                assert_eq!(from.may_become(next), to.contains(&next), "{from:?} -> {next:?}");
            }
        }
    }
}
