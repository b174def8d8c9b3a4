//! The rules of the protocol, and what breaks without each of them.
//!
//! A model is right with all rules. A wrong variant leaves one out, and must break the property that stands beside it:
//! a rule that can be left out unnoticed is either not needed or not modelled.

use super::{numbers, records, takeover};

/// One rule of the protocol. DESIGN calls most of them by these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    // Of leases and takeovers.
    LeaseFromSending,
    LeaseFromMajority,
    LeaderWaits,
    PromiserNamed,
    OwnerNamed,
    Standing,
    HighestPromiseStays,
    PromiseOutlivesAssign,
    UptimeBoundsAgo,
    OwnPromiseIsNone,
    KnowsWhatWasTaken,
    CommittedFirst,
    ClosedStaysClosed,
    // Of numbers and records.
    Blocks,
    IncarnationInGrant,
    EpochAtApply,
    OneDecisionCounts,
    ReplyAfterCommit,
}

/// The protocol without one rule.
#[derive(Clone, Copy, Debug)]
pub struct Wrong {
    pub without: Rule,
    /// What is done instead.
    pub instead: &'static str,
    /// The property that fails.
    pub breaks: &'static str,
}

const fn wrong(without: Rule, instead: &'static str, breaks: &'static str) -> Wrong {
    Wrong { without, instead, breaks }
}

pub const OF_TAKEOVER: [Wrong; 14] = [
    wrong(Rule::LeaseFromSending, "the lease is counted from the receipt of the answer", takeover::SILENT),
    wrong(
        Rule::LeaseFromMajority,
        "the lease comes from the leader: a stale one extends it",
        takeover::SILENT,
    ),
    wrong(
        Rule::LeaseFromMajority,
        "the lease comes from the leader: an election silences",
        takeover::NOT_SILENCED,
    ),
    wrong(Rule::LeaderWaits, "the leader does not wait after the promises", takeover::SILENT),
    wrong(Rule::PromiserNamed, "Assign does not name the promisers' incarnations", takeover::SILENT),
    wrong(Rule::OwnerNamed, "Assign does not name the incarnation promised about", takeover::SILENT),
    wrong(Rule::Standing, "Assign does not name the standing: a pardon does not stop it", takeover::SILENT),
    wrong(Rule::HighestPromiseStays, "a late question replaces a newer promise", takeover::SILENT),
    wrong(Rule::PromiseOutlivesAssign, "a promise ends when an Assign is applied", takeover::SILENT),
    wrong(Rule::UptimeBoundsAgo, "a restarted voter says that it never acknowledged", takeover::SILENT),
    wrong(Rule::OwnPromiseIsNone, "the owner's own promise counts", takeover::SILENT),
    wrong(Rule::KnowsWhatWasTaken, "who has not applied a loss is acknowledged", takeover::SILENT),
    wrong(Rule::CommittedFirst, "a voter acknowledges before its incarnation is committed", takeover::SILENT),
    wrong(Rule::ClosedStaysClosed, "a segment closed for a move is opened again", takeover::SILENT),
];

pub const OF_OWNERSHIP: [Wrong; 5] = [
    wrong(Rule::Blocks, "no blocks: the new owner starts at last seen + skip", numbers::NUMBERS_ONCE),
    wrong(Rule::IncarnationInGrant, "a grant names epoch and node, not the incarnation", numbers::IVS_ONCE),
    wrong(Rule::EpochAtApply, "the epoch is checked only when proposed", numbers::IVS_ONCE),
    wrong(Rule::OneDecisionCounts, "two decisions on one revision count", records::ONE_COUNTS),
    wrong(Rule::ReplyAfterCommit, "a reply leaves before its commit", records::REPLY_COMMITTED),
];
