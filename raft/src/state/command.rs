//! Everything that can be done to the replicated state. One command is one log entry.
//!
//! The proposer chooses time, randomness and order and writes them down here; apply adds nothing of its own. Where
//! a command depends on what its proposer saw, it says so (a guard, an expected epoch, revision or version), and
//! apply refuses it when that has changed meanwhile.
//!
//! The form in the log is in `codec`.

use ipsec::record::Change;
use ipsec::types::{Incarnation, Millis};

use super::authority::{Authority, KeyHash};
use super::blocks::Reserve;
use super::config::Configure;
use super::cookies::RotateCookieSecret;
use super::members::{Draining, NewMember, NodeId, Pardon, Start, Suffrage};
use super::segments::{Assign, SetStandby};
use super::tokens::{CreateToken, TokenUse};
use super::version::ClusterId;

#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// The first of all.
    CreateCluster(CreateCluster),
    /// The id of the new member is this command's log index. Saying it again with the same key adds nobody.
    AddMember(AddMember),
    /// A process of a member has started. `expected`: the one before it, so that a late copy of an older start
    /// does not depose a younger process.
    Incarnate {
        node: NodeId,
        expected: Incarnation,
        start: Start,
    },
    /// It must own nothing any more.
    RemoveMember {
        node: NodeId,
    },
    Assign(Assign),
    SetStandby(SetStandby),
    /// A process tells whether a device of its outside or inside has lost its carrier.
    SetCutOff {
        node: NodeId,
        incarnation: Incarnation,
        cut_off: bool,
    },
    SetDraining {
        node: NodeId,
        draining: Draining,
    },
    Pardon(Pardon),
    /// A change to an IKE SA.
    Sa(Change),
    Reserve(Reserve),
    Configure(Configure),
    RotateCookieSecret(RotateCookieSecret),
    SetClusterVersion(u32),
    CreateToken(CreateToken),
    /// Whether the member shall vote. The Raft leader follows.
    SetSuffrage {
        node: NodeId,
        suffrage: Suffrage,
    },
}

/// What `init` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateCluster {
    pub name: String,
    pub id: ClusterId,
    /// The first member joined before there was a state: with Raft's initial membership, so below this index.
    pub founder: NodeId,
    pub founder_as: NewMember,
    pub founder_key: KeyHash,
    pub authority: Authority,
    /// UTC.
    pub at: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddMember {
    pub member: NewMember,
    /// Of the key that its certificate is for.
    pub key: KeyHash,
    pub token: TokenUse,
    /// The member of that name, which is gone for good: removed in the same step.
    pub replaces: Option<NodeId>,
    /// UTC.
    pub at: Millis,
}

impl Command {
    /// One word for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Command::CreateCluster(_) => "create-cluster",
            Command::AddMember(_) => "add-member",
            Command::Incarnate { .. } => "incarnate",
            Command::RemoveMember { .. } => "remove-member",
            Command::Assign(_) => "assign",
            Command::SetStandby(_) => "set-standby",
            Command::SetCutOff { .. } => "set-cut-off",
            Command::SetDraining { .. } => "set-draining",
            Command::Pardon(_) => "pardon",
            Command::Sa(_) => "sa",
            Command::Reserve(_) => "reserve",
            Command::Configure(_) => "configure",
            Command::RotateCookieSecret(_) => "rotate-cookie-secret",
            Command::SetClusterVersion(_) => "set-cluster-version",
            Command::CreateToken(_) => "create-token",
            Command::SetSuffrage { .. } => "set-suffrage",
        }
    }
}
