//! The replicated log, as far as the models need it: one committed sequence, which every node applies at its own pace.
//!
//! ```text
//!   base ── command ── command ── command          committed by a majority, in this order, for ever
//!                 ^ node 1      ^ nodes 0 and 2    each node sees the prefix that it has applied
//! ```
//!
//! Raft itself is not modelled: it gives exactly this. What it does not give is in here: a node may lag behind by any
//! number of commands, and a proposal may be lost, may come late, twice, or from a leader that was deposed long ago.
//! Such proposals are not stored. Apply judges a proposal by the guards that it carries, so a late copy that apply
//! accepts could as well have been proposed in this moment; the models let one commit whenever its guards hold, no
//! matter who believes to lead. A rule that guards too little lets more commit: this is how the wrong variants work.
//!
//! Refused commands change nothing and are left out. What all nodes have applied is folded into `base`: runs that
//! differ in their past only are one state.

use std::fmt::Debug;
use std::hash::Hash;

/// Nodes of the models; all are voters.
pub const NODES: usize = 3;

pub type Node = usize;

/// What the commands build.
pub trait Replicated: Clone + Debug + Eq + Hash {
    type Command: Clone + Debug + Eq + Hash;

    fn apply(&mut self, command: &Self::Command);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log<R: Replicated> {
    base: R,
    tail: Vec<R::Command>,
    applied: [usize; NODES],
}

impl<R: Replicated> Log<R> {
    pub fn new(base: R) -> Self {
        Log { base, tail: Vec::new(), applied: [0; NODES] }
    }

    /// The state as of the last committed command.
    pub fn committed(&self) -> R {
        self.prefix(self.tail.len())
    }

    /// The state as this node has applied it.
    pub fn seen_by(&self, node: Node) -> R {
        self.prefix(self.applied[node])
    }

    pub fn commit(&mut self, command: R::Command) {
        self.tail.push(command);
    }

    /// What the node would apply next.
    pub fn next(&self, node: Node) -> Option<&R::Command> {
        self.tail.get(self.applied[node])
    }

    pub fn apply_next(&mut self, node: Node) {
        assert!(self.applied[node] < self.tail.len(), "only what is committed is applied");
        self.applied[node] += 1;
    }

    /// The node lags behind no longer.
    pub fn catch_up(&mut self, node: Node) {
        self.applied[node] = self.tail.len();
    }

    /// True when `ahead` has applied all that `node` has, up to the last command there that `matters`.
    pub fn knows(&self, ahead: Node, node: Node, matters: impl Fn(&R::Command) -> bool) -> bool {
        let last = self.tail[..self.applied[node]].iter().rposition(matters);
        last.is_none_or(|index| self.applied[ahead] > index)
    }

    /// A restarted node reads its log again.
    pub fn replay(&mut self, node: Node) {
        self.applied[node] = 0;
    }

    pub fn key(&self) -> (&R, &[R::Command], &[usize; NODES]) {
        (&self.base, &self.tail, &self.applied)
    }

    /// Folds what all have applied.
    pub fn fold(&mut self) {
        let all = self.applied.into_iter().min().unwrap_or(0);
        for command in self.tail.drain(..all) {
            self.base.apply(&command);
        }
        self.applied.iter_mut().for_each(|applied| *applied -= all);
    }

    /// Gives nodes other names.
    pub fn renamed(
        &self,
        base: impl Fn(&R) -> R,
        command: impl Fn(&R::Command) -> R::Command,
        of: [Node; NODES],
    ) -> Self {
        Log {
            base: base(&self.base),
            tail: self.tail.iter().map(command).collect(),
            applied: of.map(|node| self.applied[node]),
        }
    }

    fn prefix(&self, length: usize) -> R {
        let mut state = self.base.clone();
        self.tail[..length].iter().for_each(|command| state.apply(command));
        state
    }
}
