//! The model of leases and takeovers: when may a segment be taken from an owner that does not answer?
//!
//! ```text
//!   node 0, the owner                  nodes 1 and 2, the voters             any would-be leader
//!   probe, sent at t ───────────────>  acknowledge, unless promised
//!   writes until t + LEASE  <────────
//!                                      promise: no more <──────────────────  suspects the owner
//!                                      "last acknowledged so long ago" ───>  waits until LEASE + MARGIN after that
//!   silent since then                                                        commits Assign (here: `Take`)
//! ```
//!
//! One node is watched, and two segments of it. What the others do with a segment between two of its epochs is left out:
//! whoever is given a segment is taken to write in the very moment of the commit, which is the worst that it can do. By
//! symmetry what holds for the watched node holds for each, against any others. Records and numbers do not matter here,
//! and no lease matters to them (`ownership`): so the two models together lose nothing.
//!
//! Messages are lost, late and repeated: an acknowledgement stays on its way after it was received; a probe may be late,
//! which only shortens the lease; a promise is known to every would-be leader for ever, as if each had asked and none
//! forgot; questions carry whatever the asker had applied, however old. A partition is the loss of all of them.

mod action;
mod rules;
mod state;

use stateright::{Model, Property};

use self::action::Action;
use self::state::{About, Command, Grant, Members, OWNER, Process, SEGMENTS, State, VOTERS};
use super::lease::Age;
use super::log::{Log, NODES, Node};
use super::variants::Rule;

pub const SILENT: &str = "I6  no older owner may write once a newer one is committed";
pub const NOT_SILENCED: &str = "an owner that a majority hears, accused by nobody, holds its lease";

/// How far the exploration goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub epochs: u8,
    pub restarts: u8,
    pub pardons: u8,
    pub moves: bool,
    pub elections: u8,
    /// The owner may pause between the check of its lease and the write.
    pub pauses: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    pub without: Option<Rule>,
    pub bounds: Bounds,
    /// The voters are told apart, so that a run can be shown.
    pub named: bool,
}

impl Takeover {
    fn commits(&self, state: &State, members: &Members, commits: &mut Vec<Command>) {
        for (segment, grant) in members.segments.iter().enumerate() {
            if grant.epoch >= self.bounds.epochs {
                continue;
            }
            match grant.owned {
                true if self.may_take(state, members) => commits.push(Command::Take(segment)),
                true => {}
                false => commits.push(Command::Give(segment)),
            }
            if state.offered[segment] != 0 {
                commits.push(Command::Move(segment));
            }
        }
        if members.standing < self.bounds.pardons {
            commits.push(Command::Pardon);
        }
        for (node, process) in state.nodes.iter().enumerate() {
            let fresh = members.running[node] + 1..=process.incarnation;
            commits.extend(fresh.map(|incarnation| Command::Incarnate(node, incarnation)));
        }
    }

    fn at_voter(&self, state: &State, voter: Node, actions: &mut Vec<Action>) {
        let (process, owner) = (&state.nodes[voter], &state.nodes[OWNER]);
        if process.up && owner.up && self.acknowledges(state, voter) {
            let grants = process.leads || self.holds(Rule::LeaseFromMajority);
            actions.push(if grants { Action::Acknowledge(voter) } else { Action::Refuse(voter) });
        }
        if process.answer.is_some() && owner.up {
            actions.push(Action::Receive(voter));
        }
        if process.up && !process.leads && state.elections < self.bounds.elections {
            actions.push(Action::Elect(voter));
        }
        if process.leads && state.elections > 0 {
            actions.push(Action::StepDown(voter));
        }
    }

    /// Questions by leaders that know at least what this node has applied; it says no to any that knows less.
    fn promises(&self, state: &State, node: Node, members: &Members, actions: &mut Vec<Action>) {
        let (process, seen) = (&state.nodes[node], state.log.seen_by(node));
        if !process.up || (node == OWNER && self.holds(Rule::OwnPromiseIsNone)) {
            return;
        }
        for standing in seen.standing..=members.standing {
            for incarnation in seen.running[OWNER]..=members.running[OWNER] {
                let about = About { incarnation, standing };
                let newer = process.promised.is_none_or(|before| before < about);
                if newer || (!self.holds(Rule::HighestPromiseStays) && process.promised != Some(about)) {
                    actions.push(Action::Promise(node, about));
                }
            }
        }
    }

    fn at_owner(&self, state: &State, actions: &mut Vec<Action>) {
        for segment in 0..SEGMENTS {
            let Some(epoch) = state.serves(segment) else { continue };
            let closed = state.closed[segment] == epoch;
            if closed && !self.holds(Rule::ClosedStaysClosed) {
                actions.push(Action::Reopen(segment));
            }
            if !closed && self.bounds.moves {
                actions.push(Action::Close(segment));
            }
        }
        if self.bounds.pauses && state.checked.is_some() {
            actions.push(Action::Write);
        } else if self.bounds.pauses && state.writes(0).is_some() {
            actions.push(Action::Check(0));
        }
    }
}

impl Model for Takeover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let process = Process {
            up: true,
            incarnation: 1,
            promised: None,
            acknowledged: Age::OLD,
            answer: None,
            lease_from: Age::OLD,
            heard: Age::OLD,
            leads: false,
            promises: Vec::new(),
        };
        let leader = Process { leads: self.bounds.elections > 0, ..process.clone() };
        let segments = [Grant { epoch: 1, owned: true }; SEGMENTS];
        vec![State {
            log: Log::new(Members { segments, running: [1; NODES], standing: 0 }),
            nodes: [process.clone(), leader, process],
            closed: [0; SEGMENTS],
            offered: [0; SEGMENTS],
            elections: 0,
            elected: None,
            checked: None,
            left_late: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let members = state.log.committed();
        let mut commits = Vec::new();
        self.commits(state, &members, &mut commits);
        actions.push(Action::Tick);
        actions.extend(commits.into_iter().map(Action::Commit));
        VOTERS.into_iter().for_each(|voter| self.at_voter(state, voter, actions));
        self.at_owner(state, actions);
        for (node, process) in state.nodes.iter().enumerate() {
            self.promises(state, node, &members, actions);
            if !process.up {
                actions.push(Action::Start(node));
                continue;
            }
            if state.log.next(node).is_some() {
                actions.push(Action::Apply(node));
            }
            if state.restarts() < self.bounds.restarts {
                actions.push(Action::Crash(node));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => state.tick(),
            Action::Acknowledge(voter) => {
                state.nodes[voter].acknowledged = Age::NOW;
                state.nodes[voter].answer = Some(Age::NOW);
            }
            Action::Refuse(voter) => state.nodes[voter].heard = Age::NOW,
            Action::Receive(voter) => {
                let process = &mut state.nodes[voter];
                let sent = process.answer?;
                let from = if self.holds(Rule::LeaseFromSending) { sent } else { Age::NOW };
                process.lease_from = process.lease_from.min(from);
                process.heard = process.heard.min(sent);
            }
            Action::Promise(node, about) => state.nodes[node].promise(about, node == OWNER),
            Action::Commit(command) => state.log.commit(command),
            Action::Apply(node) => {
                state.log.apply_next(node);
                if !self.holds(Rule::PromiseOutlivesAssign) {
                    state.nodes[node].promised = None;
                }
            }
            Action::Crash(node) => state.crash(node),
            Action::Start(node) => {
                let process = &mut state.nodes[node];
                process.up = true;
                process.incarnation += 1;
                process.acknowledged = if self.holds(Rule::UptimeBoundsAgo) { Age::NOW } else { Age::OLD };
                state.log.replay(node);
            }
            Action::Close(segment) => {
                let epoch = state.serves(segment)?;
                (state.closed[segment], state.offered[segment]) = (epoch, epoch);
            }
            Action::Reopen(segment) => state.closed[segment] = 0,
            Action::Elect(voter) => {
                state.nodes[voter].leads = true;
                state.elections += 1;
                state.elected = Some(Age::NOW);
            }
            Action::StepDown(voter) => state.nodes[voter].leads = false,
            Action::Check(segment) => state.checked = state.writes(segment).map(|epoch| (segment, epoch)),
            Action::Write => {
                let (segment, epoch) = state.checked.take()?;
                state.left_late |= epoch < state.log.committed().segments[segment].epoch;
            }
        }
        let state = self.settle(state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(SILENT, |_, state: &State| state.is_silent_where_deposed()),
            Property::sometimes("a running owner loses a segment to another", |_, state: &State| {
                let members = state.log.committed();
                state.nodes[OWNER].up && members.running[OWNER] == 1 && !members.segments[0].owned
            }),
        ];
        if self.bounds.pardons > 0 {
            properties
                .push(Property::sometimes("a pardoned owner goes on in its epoch", |_, state: &State| {
                    state.log.committed().standing > 0 && state.writes(0) == Some(1)
                }));
        }
        if self.bounds.pardons > 0 && self.bounds.epochs > 2 {
            properties.push(Property::sometimes(
                "a taken segment comes back to the same process",
                |_, state: &State| state.nodes[OWNER].incarnation == 1 && state.writes(0) == Some(3),
            ));
        }
        if self.bounds.restarts > 0 {
            properties
                .push(Property::sometimes("a restarted node takes its segment again", |_, state: &State| {
                    state.nodes[OWNER].incarnation > 1 && state.writes(0).is_some()
                }));
        }
        if self.bounds.elections > 0 {
            properties.push(Property::always(NOT_SILENCED, |_, state: &State| {
                let heard = VOTERS.iter().any(|&voter| state.nodes[voter].heard.is_within_lease());
                let accused = state.nodes.iter().any(|process| !process.promises.is_empty());
                !heard || accused || state.holds_lease()
            }));
            properties.push(Property::sometimes(
                "an owner keeps its lease through an election",
                |_, state: &State| state.elected == Some(Age::OLD) && state.holds_lease(),
            ));
        }
        if self.bounds.pauses {
            properties.push(Property::sometimes(
                "a write leaves late, after a pause behind its check",
                |_, state: &State| state.left_late,
            ));
        }
        properties
    }
}
