//! What came of a command: its effect, or why it counted for nothing, and which parts of the state it touched.
//!
//! Every node computes the same outcome at the same index. The proposer takes its answer from it; the actors take
//! from `touched` what to read again.

use std::fmt;

use ipsec::record::{self, Block};
use ipsec::types::{ChildSpi, Epoch, Incarnation, Segment, Spi};

use super::members::NodeId;

#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub index: u64,
    /// Sorted, each part once. Empty after a refusal.
    pub touched: Vec<Touched>,
    pub result: Result<Effect, Refusal>,
}

/// A part of the state that has another value than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Touched {
    /// Name, version.
    Cluster,
    Members,
    /// Its grant; when the epoch is another, all its records too, since each child has a new block.
    Segment(Segment),
    /// The record of an IKE SA, made, changed or ended.
    Ike(Spi),
    Configuration,
    Cookies,
    Tokens,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Done,
    /// It was so before: saying it twice does no harm.
    Unchanged,
    /// The id of the new member.
    Joined(NodeId),
    /// The new epoch of each segment.
    Assigned(Vec<(Segment, Epoch)>),
    Reserved(Reserved),
    /// The new revision of the configuration.
    Configured(u64),
    /// The new version of the cookie secret.
    CookieSecret(u32),
}

/// What each child of a `Reserve` may use now, and which ones got nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reserved {
    pub granted: Vec<(ChildSpi, Block)>,
    /// Gone meanwhile, or at its last number.
    pub passed_over: Vec<(ChildSpi, record::Refusal)>,
}

/// Why a command counted for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Of a change to an SA, or of anything that carries a guard.
    Record(record::Refusal),
    /// `CreateCluster` comes first.
    NoCluster,
    AlreadyCreated,
    BadName,
    BadAddress,
    NameTaken,
    TooManyMembers,
    LastMember,
    /// Nobody would be left to vote.
    LastVoter,
    /// Another member has that key.
    KeyTaken,
    TokenUnknown,
    TokenExpired,
    TokenUsedUp,
    /// Without uses, without a lifetime, or with an id that is taken.
    BadToken,
    TooManyTokens,
    UnknownNode,
    /// Zero, of another node, or named by a grant: only fresh ones count.
    BadIncarnation,
    /// Another process of the node has started meanwhile.
    IncarnationChanged {
        current: Incarnation,
    },
    /// Another process of the node runs than the one named.
    NotRunning,
    /// Its segments must be assigned elsewhere first.
    OwnsSegments,
    SoftwareTooOld {
        needs: u32,
    },
    /// The node was pardoned since then.
    StandingChanged {
        current: u64,
    },
    /// Another process of the promising node runs, or it is no promise that counts.
    PromiseForgotten {
        node: NodeId,
    },
    /// The promisers are not in order.
    BadPromisers,
    /// The segments of an assignment are none, or not in order.
    BadSegments,
    /// The segment was assigned meanwhile.
    EpochChanged {
        segment: Segment,
        current: Epoch,
    },
    /// 2^24 epochs are used up.
    EpochsExhausted {
        segment: Segment,
    },
    /// The segment's state does not allow it.
    NotInThisState {
        segment: Segment,
    },
    /// The standby is the owner itself.
    StandbyIsOwner,
    ConfigurationChanged {
        current: u64,
    },
    TooLarge,
    CookieSecretChanged {
        current: u32,
    },
    BadCookieSecret,
    VersionNotHigher {
        current: u32,
    },
    VersionNotSpoken {
        node: NodeId,
    },
}

impl From<record::Refusal> for Refusal {
    fn from(refusal: record::Refusal) -> Self {
        Refusal::Record(refusal)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Record(refusal) => return refusal.fmt(f),
            Refusal::SoftwareTooOld { needs } => {
                return write!(f, "the node's software does not speak cluster version {needs}");
            }
            Refusal::EpochChanged { segment, current } => {
                return write!(f, "segment {segment} is at epoch {current} meanwhile");
            }
            Refusal::EpochsExhausted { segment } => {
                return write!(f, "segment {segment} has used up its epochs");
            }
            Refusal::NotInThisState { segment } => {
                return write!(f, "segment {segment} is not in a state that allows it");
            }
            Refusal::ConfigurationChanged { current } => {
                return write!(f, "the configuration is at revision {current} meanwhile");
            }
            Refusal::CookieSecretChanged { current } => {
                return write!(f, "the cookie secret is at version {current} meanwhile");
            }
            Refusal::IncarnationChanged { current } => {
                return write!(f, "process {current} of that node has started meanwhile");
            }
            Refusal::StandingChanged { current } => {
                return write!(f, "the node was pardoned meanwhile: its standing is {current}");
            }
            Refusal::PromiseForgotten { node } => {
                return write!(f, "node {node} has started anew, and forgotten its promise");
            }
            Refusal::VersionNotHigher { current } => {
                return write!(f, "the cluster is at version {current} already");
            }
            Refusal::VersionNotSpoken { node } => {
                return write!(f, "node {node} does not speak that version");
            }
            Refusal::NoCluster => "there is no cluster yet",
            Refusal::AlreadyCreated => "the cluster exists already",
            Refusal::BadName => "a name must be 1 to 64 printable characters without blanks",
            Refusal::BadAddress => "an address must be 1 to 256 printable characters without blanks",
            Refusal::NameTaken => "another member has that name",
            Refusal::TooManyMembers => "the cluster has its most members",
            Refusal::LastMember => "the last member stays",
            Refusal::LastVoter => "the last voter stays one",
            Refusal::KeyTaken => "another member has that key",
            Refusal::TokenUnknown => "the cluster knows no such token",
            Refusal::TokenExpired => "the token has expired",
            Refusal::TokenUsedUp => "the token is used up",
            Refusal::BadToken => "a token needs a use, a lifetime and an id of its own",
            Refusal::TooManyTokens => "there are too many tokens; wait until some have expired",
            Refusal::UnknownNode => "no such member",
            Refusal::BadIncarnation => "the incarnation is zero or was used before",
            Refusal::NotRunning => "another process of that node is running",
            Refusal::OwnsSegments => "the node still owns segments",
            Refusal::BadSegments => "the segments are none or not in order",
            Refusal::BadPromisers => "the promisers are not in order",
            Refusal::StandbyIsOwner => "the standby is the owner",
            Refusal::TooLarge => "it is too large",
            Refusal::BadCookieSecret => "a cookie secret has 32 octets",
        })
    }
}

impl std::error::Error for Refusal {}
