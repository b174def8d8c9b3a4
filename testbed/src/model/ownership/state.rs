//! What there is: the ledger, the processes with their actors, and what has left them.

use super::super::log::{Log, NODES, Node, Replicated};
use super::super::numbers::{Grants, Sent};
use super::super::records::{Decision, Record, Replies};

/// A process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    pub node: Node,
    pub incarnation: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grant {
    pub epoch: u8,
    pub owner: Option<Owner>,
    pub numbers: Grants,
    pub record: Record,
}

/// What the log builds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ledger {
    pub running: [u8; NODES],
    pub segments: Vec<Grant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    Incarnate(Owner),
    Assign { segment: usize, to: Owner, epoch: u8 },
    Reserve { segment: usize },
    Change { segment: usize, decision: Decision },
}

/// Who serves a segment in one epoch. All of it is lost with its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Actor {
    pub epoch: u8,
    pub next: u8,
    pub packets: u8,
    pub replies: u8,
    pub pending: Option<Decision>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    pub up: bool,
    pub incarnation: u8,
    pub actors: Vec<Option<Actor>>,
}

/// What left the nodes for one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wire {
    pub sent: Sent,
    pub replies: Replies,
    /// Last number that the other nodes heard of: for the variant without blocks.
    pub seen: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub log: Log<Ledger>,
    pub nodes: [Process; NODES],
    pub wire: Vec<Wire>,
}

impl Replicated for Ledger {
    type Command = Command;

    fn apply(&mut self, command: &Command) {
        match *command {
            Command::Incarnate(process) => {
                self.running[process.node] = process.incarnation;
                let lost = |grant: &&mut Grant| grant.owner.is_some_and(|owner| owner.node == process.node);
                self.segments.iter_mut().filter(lost).for_each(|grant| grant.owner = None);
            }
            Command::Assign { segment, to, epoch } => {
                let grant = &mut self.segments[segment];
                (grant.epoch, grant.owner) = (epoch, Some(to));
                grant.numbers.renew(epoch);
            }
            Command::Reserve { segment } => {
                let grant = &mut self.segments[segment];
                grant.numbers.reserve(grant.epoch);
            }
            Command::Change { segment, decision } => self.segments[segment].record.count(decision),
        }
    }
}

impl State {
    pub fn is_sent_by_deposed(&self) -> bool {
        let committed = self.log.committed();
        let deposed = |actor: &Actor| {
            let grant = &committed.segments[0];
            actor.epoch < grant.epoch && actor.next < grant.numbers.first
        };
        self.nodes.iter().any(|node| node.actors[0].as_ref().is_some_and(deposed))
    }

    pub fn is_repeated(&self) -> bool {
        let grant = &self.log.committed().segments[0];
        let by_other = |decision: Decision| grant.owner.is_some_and(|owner| owner.node != decision.by.node);
        grant
            .record
            .last()
            .is_some_and(|decision| by_other(decision) && self.wire[0].replies.has_left(&decision))
    }

    /// Of all namings of the nodes the one whose state is smallest.
    pub fn smallest_by_name(self) -> State {
        const NAMINGS: [[Node; NODES]; 5] = [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let renamed = NAMINGS.map(|naming| self.renamed(naming));
        renamed
            .into_iter()
            .fold(self, |smallest, state| if state.key() < smallest.key() { state } else { smallest })
    }

    pub fn key(&self) -> impl Ord {
        (&self.nodes, &self.wire, self.log.key())
    }

    /// Node `naming[n]` is called `n`.
    pub fn renamed(&self, naming: [Node; NODES]) -> State {
        let mut names = [0; NODES];
        naming.into_iter().enumerate().for_each(|(name, node)| names[node] = name);
        let owner = |owner: Owner| Owner { node: names[owner.node], ..owner };
        let decision = |decision: Decision| Decision { by: owner(decision.by), ..decision };
        let ledger = |ledger: &Ledger| {
            let mut renamed = Ledger { running: naming.map(|node| ledger.running[node]), ..ledger.clone() };
            for grant in &mut renamed.segments {
                grant.owner = grant.owner.map(owner);
                grant.record.rename(decision);
            }
            renamed
        };
        let command = |command: &Command| match *command {
            Command::Incarnate(process) => Command::Incarnate(owner(process)),
            Command::Assign { segment, to, epoch } => Command::Assign { segment, to: owner(to), epoch },
            Command::Reserve { segment } => Command::Reserve { segment },
            Command::Change { segment, decision: change } => {
                Command::Change { segment, decision: decision(change) }
            }
        };
        let process = |node: Node| {
            let mut process = self.nodes[node].clone();
            let actors = process.actors.iter_mut().flatten();
            actors.for_each(|actor| actor.pending = actor.pending.map(decision));
            process
        };
        let mut wire = self.wire.clone();
        wire.iter_mut().for_each(|wire| wire.replies.rename(decision));
        State { log: self.log.renamed(ledger, command, naming), nodes: naming.map(process), wire }
    }
}
