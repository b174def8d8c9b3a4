//! One IKE SA for each segment: decisions on a revision of its record, of which one counts, and the sealed replies.
//!
//! ```text
//!   decide on revision r ─> proposal ──(lost, late, twice)──> apply: epoch, incarnation and revision still so? ─> r + 1
//!          │ the outcome stays unknown: decide anew                          │
//!          v                                                                 v
//!   another proposal on r ───────────────────────────────────> refused      the reply leaves, and may be repeated
//! ```
//!
//! Proposals are on their way from the decision on until they can count no more; each may be committed at any time, also
//! after its owner has given up waiting, has crashed, or was deposed.

use super::numbers::Ivs;
use super::ownership::{Grant, Owner};

/// Room for revisions; `Bounds` says how many are used.
pub const REVISIONS_MAX: usize = 2;

pub const ONE_COUNTS: &str = "I3  of two decisions on one revision at most one counts";
pub const REPLY_COMMITTED: &str = "I3  a reply leaves after its commit, and only one";
pub const SEALED_ONCE: &str = "I1  no IV seals two replies";
pub const OLD_EPOCH_IS_VOID: &str = "I6  a decision of an older epoch changes nothing";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Decision {
    pub by: Owner,
    pub epoch: u8,
    /// That it was taken on.
    pub revision: u8,
    /// Of the IV that seals its reply; tells decisions of one actor apart.
    pub counter: u8,
}

/// What the log says of the SA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    pub revision: u8,
    counted: [Option<Decision>; REVISIONS_MAX],
}

/// Proposals on their way, and what left the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replies {
    pub proposed: Vec<Decision>,
    left: [Option<Decision>; REVISIONS_MAX],
    ivs: Ivs,
    two_count: bool,
    uncommitted: bool,
    old_epoch: bool,
}

impl Record {
    pub fn count(&mut self, decision: Decision) {
        self.revision = self.revision.max(decision.revision + 1);
        self.counted[usize::from(decision.revision)] = Some(decision);
    }

    pub fn counts(&self, decision: &Decision) -> bool {
        self.counted[usize::from(decision.revision)] == Some(*decision)
    }

    /// Whose reply answers a retransmission.
    pub fn last(&self) -> Option<Decision> {
        self.counted.into_iter().flatten().last()
    }
}

impl Replies {
    /// The log is about to count this decision.
    pub fn judge_commit(&mut self, decision: &Decision, record: &Record, grant: &Grant) {
        self.two_count |=
            record.counted[usize::from(decision.revision)].is_some_and(|other| other != *decision);
        self.old_epoch |= grant.epoch != decision.epoch;
    }

    /// A reply leaves. A repetition of the same octets is none of the wire's business.
    pub fn leave(&mut self, decision: Decision, committed: &Record) {
        let before = self.left[usize::from(decision.revision)].replace(decision);
        if before != Some(decision) {
            self.ivs.leave(decision.epoch, decision.counter);
            self.uncommitted |= before.is_some() || !committed.counts(&decision);
        }
    }

    pub fn has_left(&self, decision: &Decision) -> bool {
        self.left[usize::from(decision.revision)] == Some(*decision)
    }

    pub fn one_counts(&self) -> bool {
        !self.two_count
    }

    pub fn are_committed(&self) -> bool {
        !self.uncommitted
    }

    pub fn are_sealed_once(&self) -> bool {
        !self.ivs.twice
    }

    pub fn old_epoch_is_void(&self) -> bool {
        !self.old_epoch
    }

    /// Nodes get other names.
    pub fn rename(&mut self, name: impl Fn(Decision) -> Decision) {
        self.proposed.iter_mut().for_each(|decision| *decision = name(*decision));
        self.proposed.sort();
        self.left = self.left.map(|left| left.map(&name));
    }
}

impl Record {
    /// Nodes get other names.
    pub fn rename(&mut self, name: impl Fn(Decision) -> Decision) {
        self.counted = self.counted.map(|counted| counted.map(&name));
    }
}
