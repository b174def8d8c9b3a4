//! The replicated form of an IKE SA with its children: plain data, the same on every node.
//!
//! ```text
//!   ike decides ──> Change ──> log ──> State::apply ──> IkeRecord::apply   (the only code that changes a record)
//! ```
//!
//! What a new owner needs to go on at once stands here: keys, SPIs, selectors, message IDs, the octets of the last
//! reply and of an unanswered request, and how far ESP numbers have been granted. What it can do without (the NAT
//! port learned a second ago, byte counters, the inbound window) does not.
//!
//! The protobuf form of all this is in `codec`.

mod change;
pub(crate) mod codec;
mod numbers;
#[cfg(test)]
pub(crate) mod samples;
mod sealed;

pub use change::{Change, Guard, Refusal, Step};
pub use codec::DecodeError;
pub use sealed::Sealed;

use std::net::{IpAddr, SocketAddr};

use crypto::Secret;
use crypto::cipher::Protection;
use crypto::kex::Group;
use crypto::prf::Prf;

use crate::limits;
use crate::policy::{Identity, Selector};
use crate::types::{ChildSpi, Epoch, EspSeq, MessageId, Millis, Revision, Segment, Spi};

/// What stays of an IKE SA that has ended: its SPI, which is taken for a while, and the reply to the peer's last request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    pub spi: Spi,
    pub message_id: MessageId,
    /// Empty where the peer asked for nothing: it was ended by us.
    pub octets: Vec<u8>,
    /// UTC, chosen by the proposer.
    pub at: Millis,
}

/// An IKE SA. Keyed by our own SPI, whose top byte is its segment.
#[derive(Clone, Debug, PartialEq)]
pub struct IkeRecord {
    pub spi: Spi,
    pub peer_spi: Spi,
    /// Who sent the first message of this IKE SA: decides the Initiator flag and which keys are ours.
    pub initiator: Side,
    pub connection: String,
    pub local_id: Identity,
    pub peer_id: Identity,
    pub path: Path,
    pub suite: IkeSuite,
    pub keys: IkeKeys,
    /// UTC, chosen by the proposer: for people, and for lifetimes after a takeover.
    pub established_at: Millis,
    pub revision: Revision,
    pub phase: Phase,
    /// The next message ID that a request of ours takes.
    pub next_request: MessageId,
    /// Our request that is not answered yet. The window is one (RFC 7296, 2.3).
    pub outstanding: Option<Outstanding>,
    /// The next message ID that a request of the peer must have.
    pub expected: MessageId,
    /// The reply to the request before it, octet for octet.
    pub last_reply: Option<Reply>,
    pub children: Vec<ChildRecord>,
    /// Addresses leased to the peer; they go along when the IKE SA is rekeyed.
    pub inner_addresses: Vec<IpAddr>,
    /// The peer said ESP_TFC_PADDING_NOT_SUPPORTED or similar in IKE_AUTH.
    pub peer_supports: PeerSupports,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Us,
    Peer,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Us => Side::Peer,
            Side::Peer => Side::Us,
        }
    }
}

/// Where messages of an SA go and come from. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// What NAT detection found (RFC 7296, 2.23).
    pub peer_behind_nat: bool,
    pub we_behind_nat: bool,
}

impl Path {
    /// True when ESP travels in UDP: always on port 4500, never on 500.
    pub fn encapsulates(&self) -> bool {
        self.local.port() == crate::spec::PORT_NAT_T
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeSuite {
    pub protection: Protection,
    pub prf: Prf,
    pub group: Group,
}

/// The seven keys of RFC 7296, 2.14. Those of integrity are empty with an AEAD.
#[derive(Clone, Debug, PartialEq)]
pub struct IkeKeys {
    pub d: Secret,
    pub ai: Secret,
    pub ar: Secret,
    pub ei: Secret,
    pub er: Secret,
    pub pi: Secret,
    pub pr: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    Established,
    /// Replaced by a rekey: its children have gone over to `successor`; it waits for its Delete.
    Replaced {
        successor: Spi,
    },
    /// A Delete of ours must go out or is under way. No traffic passes.
    Closing {
        why: Why,
    },
}

/// Why an SA ended. The first reason wins and is what people see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Why {
    /// The peer sent a Delete.
    PeerDeleted = 1,
    /// `pontoon terminate`.
    Terminated = 2,
    /// It was rekeyed and its successor is in use.
    Rekeyed = 3,
    /// Our request stayed unanswered through all retransmissions.
    PeerSilent = 4,
    /// The same peer connected again (`unique = "replace"`, or INITIAL_CONTACT).
    Superseded = 5,
    /// It reached its hard lifetime without a rekey.
    Expired = 6,
    /// Its connection is no longer configured.
    Unconfigured = 7,
    /// The peer broke the protocol within an authenticated exchange.
    Misbehaved = 8,
}

/// The octets of a reply, from the IKE header on.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub message_id: MessageId,
    pub octets: Vec<u8>,
}

/// Our own request, committed before it is first sent, so that any node can send the same octets again.
#[derive(Clone, Debug, PartialEq)]
pub struct Outstanding {
    pub message_id: MessageId,
    pub octets: Vec<u8>,
    pub purpose: Purpose,
}

/// What our request wants, with all that is needed to process its answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Purpose {
    Liveness,
    DeleteIke,
    DeleteChildren { spis_in: Vec<ChildSpi> },
    RekeyChild(Box<ChildRekey>),
    RekeyIke(Box<IkeRekey>),
}

/// Our rekey of a child: what we offered and chose.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildRekey {
    pub old_spi_in: ChildSpi,
    pub new_spi_in: ChildSpi,
    pub nonce: Vec<u8>,
    pub private: Option<(Group, Secret)>,
    /// Set when the peer rekeyed the same child meanwhile: the lower of the nonces of *its* exchange, and the SPI
    /// (ours, inbound) of the child that its exchange made (RFC 7296, 2.8.1).
    pub crossed: Option<(Vec<u8>, ChildSpi)>,
}

/// Our rekey of the IKE SA.
#[derive(Clone, Debug, PartialEq)]
pub struct IkeRekey {
    pub new_spi: Spi,
    pub nonce: Vec<u8>,
    pub private: (Group, Secret),
    /// As in `ChildRekey`, with the IKE SPI of the IKE SA that the peer's exchange made (RFC 7296, 2.8.2).
    pub crossed: Option<(Vec<u8>, Spi)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSupports {
    pub tfc_padding: bool,
    pub non_first_fragments: bool,
}

/// A pair of ESP SAs.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildRecord {
    pub name: String,
    /// Ours: what the peer puts on packets to us.
    pub spi_in: ChildSpi,
    pub spi_out: ChildSpi,
    pub suite: EspSuite,
    pub keys: ChildKeys,
    pub local_ts: Vec<Selector>,
    pub remote_ts: Vec<Selector>,
    /// UTC, chosen by the proposer.
    pub established_at: Millis,
    pub phase: ChildPhase,
    /// Who asked for this child: the responder sends on it only once the peer does (RFC 7296, 2.8).
    pub initiator: Side,
    /// The child that this one replaces, by our SPI.
    pub replaces: Option<ChildSpi>,
    /// What may be sent now.
    pub block: Block,
    /// Every number up to this one was granted at some time and is never granted again.
    pub granted: EspSeq,
    /// `None`: `replay = "bounded"`.
    pub claimed: Option<Claimed>,
}

/// Which numbers of the peer the owner of a child with `replay = "strict"` may accept: `floor + 1 ..= ceiling`. A new
/// epoch begins above all that an older one could have accepted, so that nothing is taken in twice (CL-14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Every number up to this one counts as received.
    pub floor: EspSeq,
    pub ceiling: EspSeq,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildPhase {
    Live,
    /// A newer one takes its place; still receives until it is deleted.
    Replaced,
    /// Our Delete for it is under way: nothing is sent on it.
    Closing {
        why: Why,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspSuite {
    pub protection: Protection,
    pub esn: bool,
    /// The group of its own key exchange, when it had one.
    pub group: Option<Group>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChildKeys {
    pub encr_in: Secret,
    pub integ_in: Secret,
    pub encr_out: Secret,
    pub integ_out: Secret,
}

/// A range of outbound ESP numbers that one epoch may use: `first..=last`. Empty when `first > last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub epoch: Epoch,
    pub first: EspSeq,
    pub last: EspSeq,
}

impl Block {
    pub const NONE: Block = Block { epoch: Epoch(0), first: EspSeq(1), last: EspSeq(0) };
}

impl Claimed {
    pub const FIRST: Claimed = Claimed { floor: EspSeq(0), ceiling: EspSeq(limits::FIRST_CLAIM) };
}

impl IkeRecord {
    pub fn segment(&self) -> Segment {
        self.spi.segment()
    }

    pub fn child(&self, spi_in: ChildSpi) -> Option<&ChildRecord> {
        self.children.iter().find(|child| child.spi_in == spi_in)
    }

    pub fn child_by_peer_spi(&self, spi_out: ChildSpi) -> Option<&ChildRecord> {
        self.children.iter().find(|child| child.spi_out == spi_out)
    }

    /// (initiator's, responder's), as the header carries them.
    pub fn spis(&self) -> (Spi, Spi) {
        match self.initiator {
            Side::Us => (self.spi, self.peer_spi),
            Side::Peer => (self.peer_spi, self.spi),
        }
    }
}
