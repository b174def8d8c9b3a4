//! The rules: what a voter acknowledges, which promises an `Assign` may lean on, what a node may learn late.
//!
//! Each condition that a variant leaves out names its rule beside it.

use super::super::lease::Age;
use super::super::log::{NODES, Node};
use super::super::variants::Rule;
use super::Takeover;
use super::state::{About, Command, Members, OWNER, Promise, State, VOTERS};

impl Takeover {
    pub fn holds(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// The voter's four conditions.
    pub fn acknowledges(&self, state: &State, voter: Node) -> bool {
        let (process, owner) = (&state.nodes[voter], &state.nodes[OWNER]);
        let seen = state.log.seen_by(voter);
        let itself = seen.running[voter] == process.incarnation || !self.holds(Rule::CommittedFirst);
        let runs = seen.running[OWNER] == owner.incarnation;
        let knows = state.log.knows(OWNER, voter, |command| matches!(command, Command::Take(_)));
        let promised = process.promised.is_some_and(|about| about.incarnation == owner.incarnation);
        itself && runs && (knows || !self.holds(Rule::KnowsWhatWasTaken)) && !promised
    }

    /// True when apply accepts an `Assign` that leans on this promise, and the leader has waited for it.
    pub fn counts(&self, promise: &Promise, node: Node, members: &Members) -> bool {
        let Promise { by, about, ago } = promise;
        (*by == members.running[node] || !self.holds(Rule::PromiserNamed))
            && (about.incarnation == members.running[OWNER] || !self.holds(Rule::OwnerNamed))
            && (about.standing == members.standing || !self.holds(Rule::Standing))
            && (ago.is_past_margin() || !self.holds(Rule::LeaderWaits))
    }

    /// It will never count again: what it names is of the past.
    pub fn is_void(&self, promise: &Promise, node: Node, members: &Members) -> bool {
        (promise.by < members.running[node] && self.holds(Rule::PromiserNamed))
            || (promise.about.incarnation < members.running[OWNER] && self.holds(Rule::OwnerNamed))
            || (promise.about.standing < members.standing && self.holds(Rule::Standing))
    }

    pub fn may_take(&self, state: &State, members: &Members) -> bool {
        let promised = |node: Node| {
            let process = &state.nodes[node];
            let leads = process.leads || self.holds(Rule::LeaseFromMajority);
            leads && process.promises.iter().any(|promise| self.counts(promise, node, members))
        };
        let asked = if self.holds(Rule::OwnPromiseIsNone) { VOTERS[0]..NODES } else { OWNER..NODES };
        let count = asked.filter(|&node| promised(node)).count();
        // A leader that grants leases by itself needs nobody's promise but its own.
        let enough = if self.holds(Rule::LeaseFromMajority) { NODES / 2 + 1 } else { 1 };
        count >= enough
    }

    /// What happens without a choice, then the one form of what is the same.
    pub fn settle(&self, mut state: State) -> State {
        let members = state.log.committed();
        for node in 0..NODES {
            self.apply_what_gives(&mut state, node);
            let seen = state.log.seen_by(node);
            let process = &mut state.nodes[node];
            let ended =
                |about: &About| about.standing < seen.standing || about.incarnation < seen.running[OWNER];
            process.promised = process.promised.filter(|about| !ended(about));
            let useless = |age: &Age| age.is_past_margin() && self.holds(Rule::LeaseFromSending);
            process.answer = process.answer.filter(|age| !useless(age));
            process.promises.retain(|promise| !self.is_void(promise, node, &members));
            process.promises.sort();
        }
        state.log.fold();
        for (segment, grant) in members.segments.iter().enumerate() {
            let served = state.serves(segment);
            state.closed[segment] =
                Some(state.closed[segment]).filter(|epoch| served == Some(*epoch)).unwrap_or(0);
            let offered = grant.owned && grant.epoch == state.offered[segment];
            state.offered[segment] = if offered { grant.epoch } else { 0 };
        }
        state.elected = state.elected.filter(|_| state.holds_lease());
        if self.named { state } else { state.smaller_by_name() }
    }

    /// A node applies at once what can only add to what it may do, and learns losses as late as it likes. One that is
    /// down, or whose start is not committed yet, does nothing that depends on it.
    pub fn apply_what_gives(&self, state: &mut State, node: Node) {
        let waits = state.log.committed().running[node] != state.nodes[node].incarnation;
        if !state.nodes[node].up || (waits && self.holds(Rule::CommittedFirst)) {
            state.log.catch_up(node);
        }
        while let Some(command) = state.log.next(node) {
            let loses = match *command {
                Command::Take(segment) => node != OWNER || state.serves(segment).is_some(),
                Command::Move(segment) => node == OWNER && state.serves(segment).is_some(),
                _ => false,
            };
            if loses {
                break;
            }
            state.log.apply_next(node);
        }
    }
}
