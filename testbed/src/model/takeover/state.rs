//! What there is: the nodes, what they know, and what is on its way between them.

use super::super::lease::Age;
use super::super::log::{Log, NODES, Node, Replicated};

/// The node that is watched.
pub const OWNER: Node = 0;
/// The others. With the owner's own vote any one of them is a majority.
pub const VOTERS: [Node; 2] = [1, 2];
pub const SEGMENTS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grant {
    pub epoch: u8,
    /// By the owner's running process; otherwise it is with somebody else, or with nobody.
    pub owned: bool,
}

/// What the log builds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Members {
    pub segments: [Grant; SEGMENTS],
    pub running: [u8; NODES],
    /// Of the owner: pardons so far.
    pub standing: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    /// An `Assign` that takes the segment from the owner after promises.
    Take(usize),
    /// A planned one, after the owner has closed the segment.
    Move(usize),
    /// One to the owner.
    Give(usize),
    Pardon,
    Incarnate(Node, u8),
}

/// What a promise is about: acknowledge this process of the owner no more, unless pardoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct About {
    pub incarnation: u8,
    pub standing: u8,
}

/// As the would-be leaders have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Promise {
    /// The promiser's incarnation.
    pub by: u8,
    pub about: About,
    /// Since the promiser last acknowledged the owner, as it says.
    pub ago: Age,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    pub up: bool,
    pub incarnation: u8,
    /// Forgotten in a crash.
    pub promised: Option<About>,
    pub acknowledged: Age,
    /// On the way to the owner: an acknowledgement, with the age of the probe that it answers.
    pub answer: Option<Age>,
    /// Sending time of the newest probe that the owner knows to be acknowledged by this node.
    pub lease_from: Age,
    /// Sending time of the newest probe that this node answered in any way.
    pub heard: Age,
    pub leads: bool,
    pub promises: Vec<Promise>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub log: Log<Members>,
    pub nodes: [Process; NODES],
    /// The epoch in which the owner has closed a segment for a planned move; 0 for none.
    pub closed: [u8; SEGMENTS],
    /// The epoch that the proposal of that move expects.
    pub offered: [u8; SEGMENTS],
    pub elections: u8,
    /// Since the last election, if the owner had its lease all the time.
    pub elected: Option<Age>,
    /// Segment and epoch of a write that was checked and has not left yet.
    pub checked: Option<(usize, u8)>,
    pub left_late: bool,
}

impl Replicated for Members {
    type Command = Command;

    fn apply(&mut self, command: &Command) {
        match *command {
            Command::Take(segment) | Command::Move(segment) => self.segments[segment].next(false),
            Command::Give(segment) => self.segments[segment].next(true),
            Command::Pardon => self.standing += 1,
            Command::Incarnate(node, incarnation) => {
                self.running[node] = incarnation;
                if node == OWNER {
                    self.segments.iter_mut().for_each(|grant| grant.owned = false);
                }
            }
        }
    }
}

impl Grant {
    pub fn next(&mut self, owned: bool) {
        *self = Grant { epoch: self.epoch + 1, owned };
    }
}

impl State {
    /// What the owner checks before each write. Its own vote counts as now, so one more makes the majority.
    pub fn holds_lease(&self) -> bool {
        VOTERS.iter().any(|&voter| self.nodes[voter].lease_from.is_within_lease())
    }

    /// The epoch in which the owner serves the segment, as far as it knows.
    pub fn serves(&self, segment: usize) -> Option<u8> {
        let (process, seen) = (&self.nodes[OWNER], self.log.seen_by(OWNER));
        let Grant { epoch, owned } = seen.segments[segment];
        (process.up && owned && seen.running[OWNER] == process.incarnation).then_some(epoch)
    }

    /// The epoch in which the owner would write for the segment now.
    pub fn writes(&self, segment: usize) -> Option<u8> {
        self.serves(segment).filter(|&epoch| self.holds_lease() && self.closed[segment] != epoch)
    }

    pub fn is_silent_where_deposed(&self) -> bool {
        let committed = self.log.committed();
        (0..SEGMENTS).all(|at| self.writes(at).is_none_or(|epoch| epoch == committed.segments[at].epoch))
    }

    pub fn restarts(&self) -> u8 {
        self.nodes.iter().map(|process| process.incarnation - 1 + u8::from(!process.up)).sum()
    }

    /// The voters are alike: of the two namings the smaller one.
    pub fn smaller_by_name(self) -> State {
        const SWAPPED: [Node; NODES] = [0, 2, 1];
        let members = |members: &Members| Members {
            running: SWAPPED.map(|node| members.running[node]),
            ..members.clone()
        };
        let command = |command: &Command| match *command {
            Command::Incarnate(node, incarnation) => Command::Incarnate(SWAPPED[node], incarnation),
            command => command,
        };
        let mut swapped = State { log: self.log.renamed(members, command, SWAPPED), ..self.clone() };
        swapped.nodes.swap(VOTERS[0], VOTERS[1]);
        if (&swapped.nodes, swapped.log.key()) < (&self.nodes, self.log.key()) { swapped } else { self }
    }
}

impl State {
    pub fn tick(&mut self) {
        for process in &mut self.nodes {
            let stamps = [&mut process.acknowledged, &mut process.lease_from, &mut process.heard];
            stamps.into_iter().chain(&mut process.answer).for_each(Age::tick);
            process.promises.iter_mut().for_each(|promise| promise.ago.tick());
        }
        self.elected.iter_mut().for_each(Age::tick);
    }

    pub fn crash(&mut self, node: Node) {
        let process = &mut self.nodes[node];
        (process.up, process.promised, process.leads) = (false, None, false);
        if node == OWNER {
            self.checked = None;
            for voter in &mut self.nodes {
                (voter.answer, voter.lease_from, voter.heard) = (None, Age::OLD, Age::OLD);
            }
        }
    }
}

impl Process {
    pub fn promise(&mut self, about: About, own: bool) {
        self.promised = Some(about);
        let ago = if own { Age::NOW } else { self.acknowledged };
        let same = |promise: &Promise| promise.by == self.incarnation && promise.about == about;
        if !self.promises.iter().any(same) {
            self.promises.push(Promise { by: self.incarnation, about, ago });
        }
    }
}
