//! The rules: whose grant it is, what apply accepts, when an actor starts and ends, what a node may learn late.
//!
//! Each condition that a variant leaves out names its rule beside it.

use super::super::log::{NODES, Node};
use super::super::numbers::SKIP;
use super::super::records::Decision;
use super::super::variants::Rule;
use super::Ownership;
use super::state::{Actor, Command, Grant, Owner, Process, State};

impl Ownership {
    pub fn holds(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    pub fn owns(&self, grant: &Grant, node: Node, incarnation: u8) -> bool {
        let named = |owner: Owner| owner.incarnation == incarnation || !self.holds(Rule::IncarnationInGrant);
        grant.owner.is_some_and(|owner| owner.node == node && named(owner))
    }

    /// The guard of a change, when it is applied.
    pub fn accepts(&self, grant: &Grant, decision: &Decision) -> bool {
        let Owner { node, incarnation } = decision.by;
        let epoch = grant.epoch == decision.epoch && self.owns(grant, node, incarnation);
        let revision = grant.record.revision == decision.revision;
        (epoch || !self.holds(Rule::EpochAtApply))
            && (revision || !self.holds(Rule::OneDecisionCounts))
            && !grant.record.counts(decision)
    }

    /// Starts and ends actors as the node's own log says.
    pub fn follow(&self, state: &mut State, node: Node) {
        let ledger = state.log.seen_by(node);
        let process = &mut state.nodes[node];
        for (segment, grant) in ledger.segments.iter().enumerate() {
            let actor = &mut process.actors[segment];
            if !self.owns(grant, node, process.incarnation) {
                *actor = None;
            } else if actor.is_none_or(|actor| actor.epoch != grant.epoch) {
                let blocks = self.holds(Rule::Blocks) || grant.epoch == 1;
                let next = if blocks { grant.numbers.first } else { state.wire[segment].seen + SKIP + 1 };
                *actor = Some(Actor { epoch: grant.epoch, next, packets: 0, replies: 0, pending: None });
            } else if let Some(actor) = actor {
                let lost = |pending: &Decision| {
                    grant.record.revision > pending.revision && !grant.record.counts(pending)
                };
                actor.pending = actor.pending.filter(|pending| !lost(pending));
            }
        }
    }

    /// True for what takes from the node something that it uses: this it may learn late.
    pub fn takes(&self, process: &Process, node: Node, command: &Command) -> bool {
        match *command {
            Command::Incarnate(started) => started.node == node && process.actors.iter().any(Option::is_some),
            Command::Assign { segment, .. } => process.actors[segment].is_some(),
            Command::Reserve { .. } => false,
            Command::Change { segment, decision } => {
                process.actors[segment].is_some_and(|actor| actor.pending != Some(decision))
            }
        }
    }

    /// What happens without a choice, then the one form of what is the same.
    pub fn settle(&self, mut state: State) -> State {
        for node in 0..NODES {
            if !state.nodes[node].up {
                state.log.catch_up(node);
                continue;
            }
            self.follow(&mut state, node);
            while state.log.next(node).is_some_and(|next| !self.takes(&state.nodes[node], node, next)) {
                state.log.apply_next(node);
                self.follow(&mut state, node);
            }
        }
        state.log.fold();
        let ledger = state.log.committed();
        for (grant, wire) in ledger.segments.iter().zip(&mut state.wire) {
            wire.replies.proposed.retain(|decision| self.accepts(grant, decision));
            wire.replies.proposed.sort();
        }
        if self.named { state } else { state.smallest_by_name() }
    }
}
