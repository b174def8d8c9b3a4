//! Which node serves which segment: decided by the Raft leader, put into force by the log.
//!
//! ```text
//!   nobody serves it             ──> orphans     Assign, at once; to the node that had it, else to its standby
//!   its owner is silent          ──> takeovers   promises of a majority, then Assign (`takeover`)
//!   its owner drains, or has
//!   more than its share          ──> moves       exact handover, then Assign (`moves`)
//!   its standby is not one       ──> standbys    SetStandby
//! ```
//!
//! `plan` is a pure function of the replicated state and of what the leader knows of each node. It spreads the 256
//! segments evenly and moves as few as possible, so the plan for its own result has no move in it: nothing flaps.
//! The standbys of one owner are spread evenly too, so that its failure adds the same to each of the others.

use std::collections::{BTreeMap, BTreeSet};

use ipsec::types::{Epoch, Millis, Segment};
use raft::state::{Assign, Cause, Draining, Grant, Member, NodeId, SetStandby, State};

use crate::liveness::Liveness;

/// Entries that a node may lag behind the leader and still be given segments: what is on its way in a busy moment.
/// It acts on an assignment only once it has applied all that came before, so this is about time, not safety.
pub const BEHIND_MAX: u64 = 1_000;

/// What the leader knows beside the state.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Only voters own segments.
    pub voters: &'a [NodeId],
    pub liveness: &'a Liveness,
}

/// What is to be done, most urgent first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub orphans: Vec<Assign>,
    pub takeovers: Vec<Shift>,
    pub moves: Vec<Shift>,
    pub standbys: Vec<SetStandby>,
}

/// Segments that go from one node to another, with the epochs that they have now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    pub from: NodeId,
    pub to: NodeId,
    pub segments: Vec<(Segment, Epoch)>,
    pub cause: Cause,
    /// They are of no use where they are: the clients' packets do not get there.
    pub urgent: bool,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        *self == Plan::default()
    }
}

/// What this state calls for. Empty when all is well, or when no node can serve anything.
pub fn plan(state: &State, seen: Seen<'_>, at: Millis) -> Plan {
    let nodes = Nodes::of(state, seen);
    if nodes.shares.is_empty() {
        return Plan::default();
    }
    let mut board = Board::new(state, &nodes);
    board.place_orphans(state, &nodes);
    board.take_over(&nodes);
    board.drain(&nodes);
    board.level(&nodes);
    Plan {
        orphans: board.assigns(state, at),
        takeovers: board.shifts(state, Why::Silent),
        moves: board.shifts(state, Why::Planned),
        standbys: standbys(state, &nodes),
    }
}

/// The nodes by what may be asked of them.
struct Nodes {
    /// Their process runs and is heard.
    serving: BTreeSet<NodeId>,
    /// Serving, and they have a share. Where nobody else is left, a node that drains goes on.
    shares: BTreeSet<NodeId>,
    /// Of those: they can be given more now.
    takers: BTreeSet<NodeId>,
}

impl Nodes {
    fn of(state: &State, seen: Seen<'_>) -> Nodes {
        let serves = |member: &&Member| {
            member.incarnation.0 != 0
                && seen.voters.contains(&member.id)
                && !seen.liveness.is_silent(member.id)
        };
        let members: Vec<&Member> = state.members().iter().filter(serves).collect();
        let serving: BTreeSet<NodeId> = members.iter().map(|member| member.id).collect();
        let wanted = members.iter().filter(|member| member.draining == Draining::No && !member.cut_off);
        let mut shares: BTreeSet<NodeId> = wanted.map(|member| member.id).collect();
        if shares.is_empty() {
            shares.clone_from(&serving);
        }
        let able = |node: &NodeId| seen.liveness.is_able(state, *node, BEHIND_MAX);
        let takers = shares.iter().copied().filter(able).collect();
        Nodes { serving, shares, takers }
    }
}

/// Why a segment changes hands on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Orphan,
    Silent,
    Planned,
}

/// A segment on the board: where it is, and where it is to go.
struct Piece {
    segment: Segment,
    grant: Grant,
    owner: Option<NodeId>,
    to: Option<(NodeId, Why, Cause)>,
}

impl Piece {
    fn holder(&self) -> Option<NodeId> {
        self.to.map(|(node, ..)| node).or(self.owner)
    }
}

struct Board {
    pieces: Vec<Piece>,
    /// Segments of each node that has a share, as they will be.
    load: BTreeMap<NodeId, usize>,
}

impl Board {
    fn new(state: &State, nodes: &Nodes) -> Board {
        let mut load: BTreeMap<NodeId, usize> = nodes.shares.iter().map(|&node| (node, 0)).collect();
        let pieces = Segment::all().map(|segment| {
            let grant = state.segment(segment);
            let served = grant.owner.filter(|owner| {
                grant.state.is_served() && state.members().runs(owner.node, owner.incarnation)
            });
            Piece { segment, grant, owner: served.map(|owner| owner.node), to: None }
        });
        let pieces: Vec<Piece> = pieces.collect();
        for owner in pieces.iter().filter_map(|piece| piece.owner) {
            if let Some(count) = load.get_mut(&owner) {
                *count += 1;
            }
        }
        Board { pieces, load }
    }

    /// A node that comes back gets its own segments again: the clients' packets go there already.
    fn place_orphans(&mut self, state: &State, nodes: &Nodes) {
        for at in 0..self.pieces.len() {
            let piece = &self.pieces[at];
            if piece.owner.is_some() {
                continue;
            }
            let before = piece.grant.owner.map(|owner| owner.node);
            let back = before.filter(|node| nodes.shares.contains(node));
            let cause = match before {
                None => Cause::Created,
                Some(_) if back.is_some() => Cause::Restarted,
                Some(_) => Cause::NodeSilent,
            };
            let standby = piece.grant.standby.filter(|node| nodes.takers.contains(node));
            // With nobody caught up, one that lags is better than nobody.
            let to =
                back.or(standby).or_else(|| self.least(&nodes.takers)).or_else(|| self.least(&nodes.shares));
            if let Some(to) = to.filter(|to| state.members().get(*to).is_some()) {
                self.put(at, to, Why::Orphan, cause);
            }
        }
    }

    /// The standby has what the silent owner mirrored: it takes all that it stood by for.
    fn take_over(&mut self, nodes: &Nodes) {
        for at in 0..self.pieces.len() {
            let piece = &self.pieces[at];
            if piece.owner.is_none_or(|owner| nodes.serving.contains(&owner)) {
                continue;
            }
            let standby = piece.grant.standby.filter(|node| nodes.takers.contains(node));
            let to = standby.or_else(|| self.least(&nodes.takers)).or_else(|| self.least(&nodes.shares));
            if let Some(to) = to {
                self.put(at, to, Why::Silent, Cause::NodeSilent);
            }
        }
    }

    /// Off the nodes that drain, as far as somebody can take it.
    fn drain(&mut self, nodes: &Nodes) {
        for at in 0..self.pieces.len() {
            let Some(owner) = self.pieces[at].holder() else { continue };
            if nodes.shares.contains(&owner) || !nodes.serving.contains(&owner) {
                continue;
            }
            if let Some(to) = self.least(&nodes.takers) {
                self.put(at, to, Why::Planned, Cause::Drained);
            }
        }
    }

    /// From who has too many to who has too few, one by one. The nodes that have most keep the odd ones.
    fn level(&mut self, nodes: &Nodes) {
        let quota = self.quotas();
        // What an administrator has placed goes last, and what is on its way already not at all.
        let mut order: Vec<usize> =
            (0..self.pieces.len()).filter(|&at| self.pieces[at].to.is_none()).collect();
        order.sort_by_key(|&at| (self.pieces[at].grant.cause == Cause::Moved, self.pieces[at].segment));
        for at in order {
            let Some(owner) = self.pieces[at].owner else { continue };
            if self.load.get(&owner).is_none_or(|load| *load <= quota[&owner]) {
                continue;
            }
            let short = nodes.takers.iter().copied().filter(|node| self.load[node] < quota[node]);
            // The standby is as good as any other, and knows more of the segment.
            let standby = self.pieces[at].grant.standby;
            let to = short.max_by_key(|node| {
                (quota[node] - self.load[node], Some(*node) == standby, std::cmp::Reverse(*node))
            });
            if let Some(to) = to {
                self.put(at, to, Why::Planned, Cause::Rebalanced);
            }
        }
    }

    /// How many each node is to have: equal but for the odd ones.
    fn quotas(&self) -> BTreeMap<NodeId, usize> {
        let placed: usize = self.load.values().sum();
        let (each, odd) = (placed / self.load.len(), placed % self.load.len());
        let mut by_load: Vec<(NodeId, usize)> = self.load.iter().map(|(&node, &load)| (node, load)).collect();
        by_load.sort_by_key(|&(node, load)| (std::cmp::Reverse(load), node));
        let odd_ones = by_load.into_iter().enumerate();
        odd_ones.map(|(place, (node, _))| (node, each + usize::from(place < odd))).collect()
    }

    fn least(&self, of: &BTreeSet<NodeId>) -> Option<NodeId> {
        of.iter().copied().min_by_key(|node| (self.load.get(node).copied().unwrap_or(0), *node))
    }

    fn put(&mut self, at: usize, to: NodeId, why: Why, cause: Cause) {
        let piece = &mut self.pieces[at];
        if let Some(count) = piece.holder().and_then(|holder| self.load.get_mut(&holder)) {
            *count -= 1;
        }
        piece.to = Some((to, why, cause));
        *self.load.entry(to).or_default() += 1;
    }

    fn assigns(&self, state: &State, at: Millis) -> Vec<Assign> {
        let groups = self.groups(Why::Orphan, |_| ());
        let assign = |(((), to, cause), segments)| {
            let incarnation = state.members().get(to)?.incarnation;
            Some(Assign { segments, to, incarnation, standby: None, cause, at, takeover: None })
        };
        groups.into_iter().filter_map(assign).collect()
    }

    fn shifts(&self, state: &State, why: Why) -> Vec<Shift> {
        let groups = self.groups(why, |piece| piece.owner);
        let shift = |((from, to, cause), segments): ((Option<NodeId>, _, _), _)| {
            let from = from?;
            let urgent = state.members().get(from).is_some_and(|member| member.cut_off);
            Some(Shift { from, to, segments, cause, urgent })
        };
        groups.into_iter().filter_map(shift).collect()
    }

    fn groups<K: Ord>(
        &self,
        why: Why,
        key: impl Fn(&Piece) -> K,
    ) -> BTreeMap<(K, NodeId, Cause), Vec<(Segment, Epoch)>> {
        let mut groups: BTreeMap<_, Vec<(Segment, Epoch)>> = BTreeMap::new();
        for piece in &self.pieces {
            let Some((to, _, cause)) = piece.to.filter(|(_, it, _)| *it == why) else { continue };
            groups.entry((key(piece), to, cause)).or_default().push((piece.segment, piece.grant.epoch));
        }
        groups
    }
}

/// A standby for each served segment, of each owner evenly; those that are right stay.
fn standbys(state: &State, nodes: &Nodes) -> Vec<SetStandby> {
    let mut of_owner: BTreeMap<NodeId, Vec<(Segment, Grant)>> = BTreeMap::new();
    for (segment, grant) in state.segments().iter() {
        if let Some(owner) = grant.owner.filter(|_| grant.state.is_served()) {
            of_owner.entry(owner.node).or_default().push((segment, grant));
        }
    }
    // How many segments each node owns or stands by for: evens out the odd ones.
    let mut all: BTreeMap<NodeId, usize> =
        of_owner.iter().map(|(&owner, segments)| (owner, segments.len() * Segment::COUNT)).collect();
    let mut wrong: BTreeMap<Option<NodeId>, Vec<(Segment, Epoch)>> = BTreeMap::new();
    for (owner, segments) in of_owner {
        let others: Vec<NodeId> = nodes.shares.iter().copied().filter(|&node| node != owner).collect();
        let chosen = spread(&segments, &others, &all);
        for (&(segment, grant), standby) in segments.iter().zip(chosen) {
            if let Some(standby) = standby {
                *all.entry(standby).or_default() += 1;
            }
            if standby != grant.standby {
                wrong.entry(standby).or_default().push((segment, grant.epoch));
            }
        }
    }
    let in_order = |(standby, mut segments): (_, Vec<(Segment, Epoch)>)| {
        segments.sort_unstable();
        SetStandby { segments, standby }
    };
    wrong.into_iter().map(in_order).collect()
}

/// The standby of each of these segments of one owner.
fn spread(
    segments: &[(Segment, Grant)],
    others: &[NodeId],
    all: &BTreeMap<NodeId, usize>,
) -> Vec<Option<NodeId>> {
    if others.is_empty() {
        return vec![None; segments.len()];
    }
    let of_all = |node: &NodeId| all.get(node).copied().unwrap_or(0);
    let now = |node: NodeId| segments.iter().filter(|(_, grant)| grant.standby == Some(node)).count();
    // The odd ones go to those who have them already, else to who owns least, else to who stands by for least.
    let (each, odd) = (segments.len() / others.len(), segments.len() % others.len());
    let mut ranked = others.to_vec();
    ranked.sort_by_key(|&node| (std::cmp::Reverse(now(node).min(each + 1)), of_all(&node), node));
    let quotas = ranked.iter().enumerate().map(|(place, &node)| (node, each + usize::from(place < odd)));
    let mut left: BTreeMap<NodeId, usize> = quotas.collect();
    let mut chosen: Vec<Option<NodeId>> = vec![None; segments.len()];
    for (at, (_, grant)) in segments.iter().enumerate() {
        if let Some(standby) = grant.standby
            && let Some(room @ 1..) = left.get_mut(&standby)
        {
            *room -= 1;
            chosen[at] = Some(standby);
        }
    }
    for slot in chosen.iter_mut().filter(|slot| slot.is_none()) {
        let most = left.iter_mut().max_by_key(|(node, room)| (**room, std::cmp::Reverse(**node)));
        if let Some((&node, room)) = most {
            *room -= 1;
            *slot = Some(node);
        }
    }
    chosen
}

#[cfg(test)]
mod tests;
