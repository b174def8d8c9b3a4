//! The model of numbers and records: epochs, incarnations, blocks, revisions, and no clock at all.
//!
//! Any node may be assigned a segment at any time, and an owner acts as long as its own applied log says that it owns:
//! no lease, no promise, no wait. So every run that time allows is among these runs, and what holds here holds whatever
//! leases do (`takeover` says what they add). A process that crashes loses its actors; the next one has a fresh
//! incarnation and reads the log again from its start.
//!
//! What a node does is in `numbers` (ESP) and `records` (IKE). Neither looks at the other, so `Bounds` explores them
//! one at a time and together. Segments share nothing but the crashes of nodes.
//!
//! Nodes apply at once what can only add to what they may do, and lag behind as long as they like with what takes from
//! it. Three nodes are alike: states that differ in their names only count once.

mod action;
mod rules;
mod state;

use stateright::{Model, Property};

use self::action::Action;
use self::state::{Command, Ledger, Process, State, Wire};
pub use self::state::{Grant, Owner};
use super::log::{Log, NODES, Node};
use super::numbers::{self, NUMBERS_MAX};
use super::records::{self, Decision, REVISIONS_MAX};
use super::variants::Rule;

/// How far the exploration goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub segments: usize,
    pub epochs: u8,
    pub restarts: u8,
    /// Owners send ESP, and get so many further blocks.
    pub sends: bool,
    pub reserves: u8,
    /// Owners decide on so many revisions, so often in one epoch.
    pub revisions: u8,
    pub decisions: u8,
}

#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    pub without: Option<Rule>,
    pub bounds: Bounds,
    /// Nodes are told apart, so that a run can be shown.
    pub named: bool,
}

impl Ownership {
    /// What may be committed: by any leader, at any time, however old the proposal.
    fn commits(&self, state: &State, ledger: &Ledger, commits: &mut Vec<Command>) {
        for (segment, grant) in ledger.segments.iter().enumerate() {
            for (node, &incarnation) in ledger.running.iter().enumerate() {
                let to = Owner { node, incarnation };
                if grant.epoch < self.bounds.epochs {
                    commits.push(Command::Assign { segment, to, epoch: grant.epoch + 1 });
                }
                // Another leader had seen the epoch before this one, and counted one up from there.
                if !self.holds(Rule::EpochAtApply) && grant.epoch > 0 && grant.numbers.granted < NUMBERS_MAX {
                    commits.push(Command::Assign { segment, to, epoch: grant.epoch });
                }
            }
            if grant.owner.is_some() && grant.numbers.reserved < self.bounds.reserves {
                commits.push(Command::Reserve { segment });
            }
            let proposed = state.wire[segment].replies.proposed.iter();
            commits.extend(proposed.map(|&decision| Command::Change { segment, decision }));
        }
        for (node, process) in state.nodes.iter().enumerate() {
            let fresh = ledger.running[node] + 1..=process.incarnation;
            commits.extend(fresh.map(|incarnation| Command::Incarnate(Owner { node, incarnation })));
        }
    }

    /// What the owner of a segment, or who believes to be it, may do.
    fn acts(&self, state: &State, node: Node, segment: usize, actions: &mut Vec<Action>) {
        let Some(actor) = state.nodes[node].actors[segment] else { return };
        let grant = &state.log.seen_by(node).segments[segment];
        let wire = &state.wire[segment];
        let last = if self.holds(Rule::Blocks) { grant.numbers.granted } else { NUMBERS_MAX };
        if self.bounds.sends && actor.next <= last {
            actions.push(Action::Send(node, segment));
        }
        match actor.pending {
            Some(pending) => {
                if grant.record.counts(&pending) || !self.holds(Rule::ReplyAfterCommit) {
                    actions.push(Action::Reply(node, segment));
                }
                actions.push(Action::GiveUp(node, segment));
            }
            None if grant.record.revision < self.bounds.revisions
                && actor.replies < self.bounds.decisions =>
            {
                actions.push(Action::Decide(node, segment));
            }
            None => {}
        }
        if grant.record.last().is_some_and(|decision| !wire.replies.has_left(&decision)) {
            actions.push(Action::Repeat(node, segment));
        }
    }

    fn restarts(state: &State) -> u8 {
        state.nodes.iter().map(|process| process.incarnation - 1 + u8::from(!process.up)).sum()
    }
}

impl Model for Ownership {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        assert!(usize::from(self.bounds.revisions) <= REVISIONS_MAX);
        let segments = self.bounds.segments;
        let process = Process { up: true, incarnation: 1, actors: vec![None; segments] };
        let mut grant = Grant::default();
        grant.numbers.first = 1;
        vec![State {
            log: Log::new(Ledger { running: [1; NODES], segments: vec![grant; segments] }),
            nodes: [process.clone(), process.clone(), process],
            wire: vec![Wire::default(); segments],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let ledger = state.log.committed();
        let mut commits = Vec::new();
        self.commits(state, &ledger, &mut commits);
        actions.extend(commits.into_iter().map(Action::Commit));
        for (node, process) in state.nodes.iter().enumerate() {
            if !process.up {
                actions.push(Action::Start(node));
                continue;
            }
            if state.log.next(node).is_some() {
                actions.push(Action::Apply(node));
            }
            if Self::restarts(state) < self.bounds.restarts {
                actions.push(Action::Crash(node));
            }
            (0..self.bounds.segments).for_each(|segment| self.acts(state, node, segment, actions));
        }
        if !self.holds(Rule::Blocks) {
            actions.extend((0..self.bounds.segments).map(Action::Mirror));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Commit(command) => {
                if let Command::Change { segment, decision } = command {
                    let grant = &state.log.committed().segments[segment];
                    state.wire[segment].replies.judge_commit(&decision, &grant.record, grant);
                }
                state.log.commit(command);
            }
            Action::Apply(node) => state.log.apply_next(node),
            Action::Crash(node) => {
                state.nodes[node].up = false;
                state.nodes[node].actors.fill(None);
            }
            Action::Start(node) => {
                state.nodes[node].up = true;
                state.nodes[node].incarnation += 1;
                state.log.replay(node);
            }
            Action::Send(node, segment) => {
                let committed = state.log.committed();
                let actor = state.nodes[node].actors[segment].as_mut()?;
                let grants = &committed.segments[segment].numbers;
                state.wire[segment].sent.leave(actor.next, actor.epoch, actor.packets, grants);
                actor.next += 1;
                actor.packets += 1;
            }
            Action::Mirror(segment) => {
                let owner = state.log.committed().segments[segment].owner?;
                state.wire[segment].seen = state.nodes[owner.node].actors[segment]?.next - 1;
            }
            Action::Decide(node, segment) => {
                let revision = state.log.seen_by(node).segments[segment].record.revision;
                let by = Owner { node, incarnation: state.nodes[node].incarnation };
                let actor = state.nodes[node].actors[segment].as_mut()?;
                let decision = Decision { by, epoch: actor.epoch, revision, counter: actor.replies };
                actor.replies += 1;
                actor.pending = Some(decision);
                state.wire[segment].replies.proposed.push(decision);
            }
            Action::GiveUp(node, segment) => state.nodes[node].actors[segment].as_mut()?.pending = None,
            Action::Reply(node, segment) => {
                let decision = state.nodes[node].actors[segment].as_mut()?.pending.take()?;
                let committed = state.log.committed();
                state.wire[segment].replies.leave(decision, &committed.segments[segment].record);
            }
            Action::Repeat(node, segment) => {
                let decision = state.log.seen_by(node).segments[segment].record.last()?;
                let committed = state.log.committed();
                state.wire[segment].replies.leave(decision, &committed.segments[segment].record);
            }
        }
        let state = self.settle(state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = Vec::new();
        if self.bounds.sends {
            properties.extend([
                Property::always(numbers::NUMBERS_ONCE, |_, state: &State| {
                    state.wire.iter().all(|wire| !wire.sent.twice)
                }),
                Property::always(numbers::IVS_ONCE, |_, state: &State| {
                    state.wire.iter().all(|wire| !wire.sent.ivs.twice)
                }),
                Property::always(numbers::WITHIN_BLOCK, |_, state: &State| {
                    state.wire.iter().all(|wire| !wire.sent.outside)
                }),
                Property::sometimes(
                    "a deposed owner can still send, and harms nothing",
                    |_, state: &State| state.is_sent_by_deposed(),
                ),
            ]);
        }
        if self.bounds.revisions > 0 {
            properties.extend([
                Property::always(records::ONE_COUNTS, |_, state: &State| {
                    state.wire.iter().all(|wire| wire.replies.one_counts())
                }),
                Property::always(records::REPLY_COMMITTED, |_, state: &State| {
                    state.wire.iter().all(|wire| wire.replies.are_committed())
                }),
                Property::always(records::SEALED_ONCE, |_, state: &State| {
                    state.wire.iter().all(|wire| wire.replies.are_sealed_once())
                }),
                Property::always(records::OLD_EPOCH_IS_VOID, |_, state: &State| {
                    state.wire.iter().all(|wire| wire.replies.old_epoch_is_void())
                }),
                Property::sometimes("a new owner repeats the reply of the old one", |_, state: &State| {
                    state.is_repeated()
                }),
            ]);
        }
        if self.bounds.decisions > 1 {
            properties.push(Property::sometimes(
                "two decisions on one revision are on their way",
                |_, state: &State| state.wire[0].replies.proposed.len() > 1,
            ));
        }
        if self.bounds.restarts > 0 && self.bounds.epochs > 1 {
            properties.push(Property::sometimes(
                "a restarted node takes its segment again",
                |_, state: &State| {
                    state.nodes.iter().any(|node| {
                        node.incarnation > 1 && node.actors[0].is_some_and(|actor| actor.epoch == 2)
                    })
                },
            ));
        }
        properties
    }
}
