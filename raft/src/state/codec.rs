//! Commands as octets: the form in the log and between nodes.
//!
//! ```text
//!   | format version (1 octet) | protobuf of `pb::Command` |
//! ```
//!
//! The version stands outside of the protobuf, whose decoders skip what they do not know: a node that skipped a
//! command, or a field of one, would differ from the others without knowing. So a foreign version, an unknown
//! command and an unknown field are errors, and a node that meets one stops. The last is found by encoding again:
//! equal meaning has equal octets, and no others.
//!
//! Tags are never used again for another meaning.

use std::collections::BTreeMap;

use crypto::Secret;
use ipsec::record::{self, Change, Guard};
use ipsec::types::{ChildSpi, Epoch, Incarnation, Millis, Segment, Spi};
use prost::Message;

use super::blocks::{Reserve, Wanted};
use super::command::{AddMember, Command, CreateCluster};
use super::config::Configure;
use super::cookies::RotateCookieSecret;
use super::members::{NewMember, NodeId, Start};
use super::segments::{Assign, Cause, Drain, SegmentState};
use super::version::ClusterId;

/// The format that this binary writes, and the only one there is so far.
pub(super) const FORMAT: u8 = 1;

/// Octets that are no command of a version that we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Written by a newer binary, or damaged.
    Format(Option<u8>),
    Malformed(&'static str),
    /// It has parts that this binary does not know.
    Unknown,
    Record(record::DecodeError),
}

pub(super) type Result<T> = std::result::Result<T, DecodeError>;

impl Command {
    pub fn encode(&self) -> Vec<u8> {
        let message = pb::Command { kind: Some(self.into()) };
        let mut octets = Vec::with_capacity(1 + message.encoded_len());
        octets.push(FORMAT);
        message.encode_raw(&mut octets);
        octets
    }

    pub fn decode(octets: &[u8]) -> Result<Command> {
        let message = strip_format(octets)?;
        let message = pb::Command::decode(message).map_err(|_| DecodeError::Malformed("a command"))?;
        let command: Command = message.kind.ok_or(DecodeError::Unknown)?.try_into()?;
        if command.encode() == octets { Ok(command) } else { Err(DecodeError::Unknown) }
    }
}

pub(super) fn strip_format(octets: &[u8]) -> Result<&[u8]> {
    match octets.split_first() {
        Some((&FORMAT, message)) => Ok(message),
        other => Err(DecodeError::Format(other.map(|(&format, _)| format))),
    }
}

pub(super) mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Command {
        #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
        pub kind: Option<Kind>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        CreateCluster(CreateCluster),
        #[prost(message, tag = "2")]
        AddMember(AddMember),
        #[prost(message, tag = "3")]
        Incarnate(Incarnate),
        #[prost(uint64, tag = "4")]
        RemoveMember(u64),
        #[prost(message, tag = "5")]
        Assign(Assign),
        #[prost(message, tag = "6")]
        Drain(Drain),
        /// `ipsec::record::Change`
        #[prost(bytes, tag = "7")]
        Sa(Vec<u8>),
        #[prost(message, tag = "8")]
        Reserve(Reserve),
        #[prost(message, tag = "9")]
        Configure(Configure),
        #[prost(message, tag = "10")]
        RotateCookieSecret(RotateCookieSecret),
        #[prost(uint32, tag = "11")]
        SetClusterVersion(u32),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct CreateCluster {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(bytes = "vec", tag = "2")]
        pub id: Vec<u8>,
        #[prost(uint64, tag = "3")]
        pub founder: u64,
        #[prost(message, optional, tag = "4")]
        pub founder_as: Option<NewMember>,
        #[prost(uint64, tag = "5")]
        pub at: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct NewMember {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub address: String,
        #[prost(string, tag = "3")]
        pub software: String,
        #[prost(uint32, tag = "4")]
        pub speaks: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AddMember {
        #[prost(message, optional, tag = "1")]
        pub member: Option<NewMember>,
        #[prost(uint64, tag = "2")]
        pub at: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Incarnate {
        #[prost(uint64, tag = "1")]
        pub node: u64,
        #[prost(fixed64, tag = "2")]
        pub incarnation: u64,
        #[prost(string, tag = "3")]
        pub address: String,
        #[prost(string, tag = "4")]
        pub software: String,
        #[prost(uint32, tag = "5")]
        pub speaks: u32,
        #[prost(uint64, tag = "6")]
        pub at: u64,
        #[prost(fixed64, tag = "7")]
        pub expected: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SegmentEpoch {
        #[prost(uint32, tag = "1")]
        pub segment: u32,
        #[prost(uint32, tag = "2")]
        pub epoch: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Assign {
        #[prost(message, repeated, tag = "1")]
        pub segments: Vec<SegmentEpoch>,
        #[prost(uint64, tag = "2")]
        pub to: u64,
        #[prost(fixed64, tag = "3")]
        pub incarnation: u64,
        #[prost(uint64, optional, tag = "4")]
        pub standby: Option<u64>,
        #[prost(uint32, tag = "5")]
        pub cause: u32,
        #[prost(uint64, tag = "6")]
        pub at: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Drain {
        #[prost(message, repeated, tag = "1")]
        pub segments: Vec<SegmentEpoch>,
        #[prost(uint64, tag = "2")]
        pub to: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Reserve {
        #[prost(uint32, tag = "1")]
        pub segment: u32,
        #[prost(uint32, tag = "2")]
        pub epoch: u32,
        #[prost(fixed64, tag = "3")]
        pub incarnation: u64,
        #[prost(message, repeated, tag = "4")]
        pub children: Vec<Wanted>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Wanted {
        #[prost(fixed64, tag = "1")]
        pub ike: u64,
        #[prost(fixed32, tag = "2")]
        pub child: u32,
        #[prost(uint64, tag = "3")]
        pub count: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Configure {
        #[prost(uint64, tag = "1")]
        pub expected_revision: u64,
        #[prost(string, tag = "2")]
        pub toml: String,
        /// Sorted by name, each once.
        #[prost(message, repeated, tag = "3")]
        pub files: Vec<File>,
        #[prost(string, tag = "4")]
        pub comment: String,
        #[prost(uint64, tag = "5")]
        pub at: u64,
        #[prost(string, tag = "6")]
        pub by: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct File {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(bytes = "vec", tag = "2")]
        pub octets: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RotateCookieSecret {
        #[prost(uint32, tag = "1")]
        pub expected_version: u32,
        #[prost(bytes = "vec", tag = "2")]
        pub secret: Vec<u8>,
        #[prost(uint64, tag = "3")]
        pub at: u64,
    }
}

impl From<&Command> for pb::Kind {
    fn from(command: &Command) -> Self {
        match command {
            Command::CreateCluster(it) => pb::Kind::CreateCluster(pb::CreateCluster {
                name: it.name.clone(),
                id: it.id.0.to_vec(),
                founder: it.founder.0,
                founder_as: Some((&it.founder_as).into()),
                at: it.at.0,
            }),
            Command::AddMember(it) => {
                pb::Kind::AddMember(pb::AddMember { member: Some((&it.member).into()), at: it.at.0 })
            }
            Command::Incarnate { node, expected, start } => pb::Kind::Incarnate(pb::Incarnate {
                node: node.0,
                incarnation: start.incarnation.0,
                address: start.address.clone(),
                software: start.software.clone(),
                speaks: start.speaks,
                at: start.at.0,
                expected: expected.0,
            }),
            Command::RemoveMember { node } => pb::Kind::RemoveMember(node.0),
            Command::Assign(it) => pb::Kind::Assign(pb::Assign {
                segments: segment_epochs(&it.segments),
                to: it.to.0,
                incarnation: it.incarnation.0,
                standby: it.standby.map(|node| node.0),
                cause: it.cause as u32,
                at: it.at.0,
            }),
            Command::Drain(it) => {
                pb::Kind::Drain(pb::Drain { segments: segment_epochs(&it.segments), to: it.to.0 })
            }
            Command::Sa(change) => pb::Kind::Sa(change.encode()),
            Command::Reserve(it) => pb::Kind::Reserve(pb::Reserve {
                segment: it.guard.segment.0.into(),
                epoch: it.guard.epoch.0,
                incarnation: it.guard.incarnation.0,
                children: it
                    .children
                    .iter()
                    .map(|it| pb::Wanted { ike: it.ike.0, child: it.child.0, count: it.count })
                    .collect(),
            }),
            Command::Configure(it) => pb::Kind::Configure(pb::Configure {
                expected_revision: it.expected_revision,
                toml: it.toml.clone(),
                files: files(&it.files),
                comment: it.comment.clone(),
                at: it.at.0,
                by: it.by.clone(),
            }),
            Command::RotateCookieSecret(it) => pb::Kind::RotateCookieSecret(pb::RotateCookieSecret {
                expected_version: it.expected_version,
                secret: it.secret.as_bytes().to_vec(),
                at: it.at.0,
            }),
            Command::SetClusterVersion(version) => pb::Kind::SetClusterVersion(*version),
        }
    }
}

impl TryFrom<pb::Kind> for Command {
    type Error = DecodeError;
    fn try_from(kind: pb::Kind) -> Result<Self> {
        Ok(match kind {
            pb::Kind::CreateCluster(it) => Command::CreateCluster(CreateCluster {
                name: it.name,
                id: cluster_id(&it.id)?,
                founder: NodeId(it.founder),
                founder_as: need(it.founder_as, "a founder")?.into(),
                at: Millis(it.at),
            }),
            pb::Kind::AddMember(it) => Command::AddMember(AddMember {
                member: need(it.member, "a member")?.into(),
                at: Millis(it.at),
            }),
            pb::Kind::Incarnate(it) => Command::Incarnate {
                node: NodeId(it.node),
                expected: Incarnation(it.expected),
                start: Start {
                    incarnation: Incarnation(it.incarnation),
                    address: it.address,
                    software: it.software,
                    speaks: it.speaks,
                    at: Millis(it.at),
                },
            },
            pb::Kind::RemoveMember(node) => Command::RemoveMember { node: NodeId(node) },
            pb::Kind::Assign(it) => Command::Assign(Assign {
                segments: segments(it.segments)?,
                to: NodeId(it.to),
                incarnation: Incarnation(it.incarnation),
                standby: it.standby.map(NodeId),
                cause: cause(it.cause)?,
                at: Millis(it.at),
            }),
            pb::Kind::Drain(it) => {
                Command::Drain(Drain { segments: segments(it.segments)?, to: NodeId(it.to) })
            }
            pb::Kind::Sa(change) => Command::Sa(Change::decode(&change)?),
            pb::Kind::Reserve(it) => Command::Reserve(Reserve {
                guard: Guard {
                    segment: segment(it.segment)?,
                    epoch: Epoch(it.epoch),
                    incarnation: Incarnation(it.incarnation),
                },
                children: it
                    .children
                    .into_iter()
                    .map(|it| Wanted { ike: Spi(it.ike), child: ChildSpi(it.child), count: it.count })
                    .collect(),
            }),
            pb::Kind::Configure(it) => Command::Configure(Configure {
                expected_revision: it.expected_revision,
                toml: it.toml,
                files: secrets(it.files),
                comment: it.comment,
                at: Millis(it.at),
                by: it.by,
            }),
            pb::Kind::RotateCookieSecret(it) => Command::RotateCookieSecret(RotateCookieSecret {
                expected_version: it.expected_version,
                secret: Secret::from(it.secret),
                at: Millis(it.at),
            }),
            pb::Kind::SetClusterVersion(version) => Command::SetClusterVersion(version),
        })
    }
}

impl From<&NewMember> for pb::NewMember {
    fn from(it: &NewMember) -> Self {
        pb::NewMember {
            name: it.name.clone(),
            address: it.address.clone(),
            software: it.software.clone(),
            speaks: it.speaks,
        }
    }
}

impl From<pb::NewMember> for NewMember {
    fn from(it: pb::NewMember) -> Self {
        NewMember { name: it.name, address: it.address, software: it.software, speaks: it.speaks }
    }
}

pub(super) fn need<T>(field: Option<T>, what: &'static str) -> Result<T> {
    field.ok_or(DecodeError::Malformed(what))
}

pub(super) fn cluster_id(octets: &[u8]) -> Result<ClusterId> {
    octets.try_into().map(ClusterId).map_err(|_| DecodeError::Malformed("a cluster id"))
}

pub(super) fn segment(number: u32) -> Result<Segment> {
    u8::try_from(number).map(Segment).map_err(|_| DecodeError::Malformed("a segment"))
}

fn segment_epochs(segments: &[(Segment, Epoch)]) -> Vec<pb::SegmentEpoch> {
    segments
        .iter()
        .map(|(segment, epoch)| pb::SegmentEpoch { segment: segment.0.into(), epoch: epoch.0 })
        .collect()
}

fn segments(segments: Vec<pb::SegmentEpoch>) -> Result<Vec<(Segment, Epoch)>> {
    segments.into_iter().map(|it| Ok((segment(it.segment)?, Epoch(it.epoch)))).collect()
}

pub(super) fn files(files: &BTreeMap<String, Secret>) -> Vec<pb::File> {
    files
        .iter()
        .map(|(name, octets)| pb::File { name: name.clone(), octets: octets.as_bytes().to_vec() })
        .collect()
}

pub(super) fn secrets(files: Vec<pb::File>) -> BTreeMap<String, Secret> {
    files.into_iter().map(|file| (file.name, Secret::from(file.octets))).collect()
}

pub(super) fn cause(number: u32) -> Result<Cause> {
    const ALL: [Cause; 7] = [
        Cause::Created,
        Cause::Restarted,
        Cause::ActorFailed,
        Cause::NodeSilent,
        Cause::Drained,
        Cause::Rebalanced,
        Cause::Moved,
    ];
    let found = ALL.into_iter().find(|&cause| cause as u32 == number);
    found.ok_or(DecodeError::Malformed("an unknown cause"))
}

pub(super) fn segment_state(number: u32) -> Result<SegmentState> {
    const ALL: [SegmentState; 4] =
        [SegmentState::Unassigned, SegmentState::Owned, SegmentState::Draining, SegmentState::Orphaned];
    let found = ALL.into_iter().find(|&state| state as u32 == number);
    found.ok_or(DecodeError::Malformed("an unknown segment state"))
}

impl From<record::DecodeError> for DecodeError {
    fn from(error: record::DecodeError) -> Self {
        DecodeError::Record(error)
    }
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DecodeError::Format(Some(format)) => {
                write!(f, "format {format} is not known here, only {FORMAT}")
            }
            DecodeError::Format(None) => f.write_str("cannot decode: nothing there"),
            DecodeError::Malformed(what) => write!(f, "cannot decode: {what}"),
            DecodeError::Unknown => f.write_str("it has parts that this version does not know"),
            DecodeError::Record(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DecodeError {}
