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
use ipsec::types::{ChildSpi, Epoch, EspSeq, Incarnation, Millis, Segment, Spi};
use prost::Message;

use super::authority::{Authority, KeyHash};
use super::blocks::{Reserve, Wanted};
use super::command::{AddMember, Command, CreateCluster};
use super::config::Configure;
use super::cookies::RotateCookieSecret;
use super::members::{Draining, NewMember, NodeId, Pardon, Start, Suffrage};
use super::segments::{Assign, Cause, Owner, SegmentState, SetStandby, Takeover};
use super::tokens::{CreateToken, TokenId, TokenProof, TokenUse};
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

pub(super) mod pb;

impl From<&Command> for pb::Kind {
    fn from(command: &Command) -> Self {
        match command {
            Command::CreateCluster(it) => pb::Kind::CreateCluster(pb::CreateCluster {
                name: it.name.clone(),
                id: it.id.0.to_vec(),
                founder: it.founder.0,
                founder_as: Some((&it.founder_as).into()),
                at: it.at.0,
                founder_key: it.founder_key.0.to_vec(),
                authority: Some((&it.authority).into()),
            }),
            Command::AddMember(it) => pb::Kind::AddMember(pb::AddMember {
                member: Some((&it.member).into()),
                at: it.at.0,
                key: it.key.0.to_vec(),
                token: it.token.id.0,
                token_proof: it.token.proof.0.to_vec(),
                replaces: it.replaces.map(|node| node.0),
            }),
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
                takeover: it.takeover.as_ref().map(Into::into),
            }),
            Command::SetStandby(it) => pb::Kind::SetStandby(pb::SetStandby {
                segments: segment_epochs(&it.segments),
                standby: it.standby.map(|node| node.0),
            }),
            Command::SetCutOff { node, incarnation, cut_off } => pb::Kind::SetCutOff(pb::SetCutOff {
                node: node.0,
                incarnation: incarnation.0,
                cut_off: *cut_off,
            }),
            Command::SetDraining { node, draining } => {
                pb::Kind::SetDraining(pb::SetDraining { node: node.0, draining: *draining as u32 })
            }
            Command::Pardon(it) => pb::Kind::Pardon(pb::Pardon { node: it.node.0, standing: it.standing }),
            Command::Sa(change) => pb::Kind::Sa(change.encode()),
            Command::Reserve(it) => pb::Kind::Reserve(pb::Reserve {
                segment: it.guard.segment.0.into(),
                epoch: it.guard.epoch.0,
                incarnation: it.guard.incarnation.0,
                children: it
                    .children
                    .iter()
                    .map(|it| pb::Wanted {
                        ike: it.ike.0,
                        child: it.child.0,
                        count: it.count,
                        upto: it.upto.0,
                    })
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
            Command::CreateToken(it) => pb::Kind::CreateToken(pb::CreateToken {
                id: it.id.0,
                proof: it.proof.0.to_vec(),
                role: it.role as u32,
                uses: it.uses,
                expires_at: it.expires_at.0,
                at: it.at.0,
            }),
            Command::SetSuffrage { node, suffrage } => {
                pb::Kind::SetSuffrage(pb::SetSuffrage { node: node.0, suffrage: *suffrage as u32 })
            }
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
                founder_key: key_hash(&it.founder_key)?,
                authority: need(it.authority, "an authority")?.into(),
            }),
            pb::Kind::AddMember(it) => Command::AddMember(AddMember {
                member: need(it.member, "a member")?.into(),
                at: Millis(it.at),
                key: key_hash(&it.key)?,
                token: TokenUse { id: TokenId(it.token), proof: token_proof(&it.token_proof)? },
                replaces: it.replaces.map(NodeId),
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
                takeover: it.takeover.map(Into::into),
            }),
            pb::Kind::SetStandby(it) => Command::SetStandby(SetStandby {
                segments: segments(it.segments)?,
                standby: it.standby.map(NodeId),
            }),
            pb::Kind::SetCutOff(it) => Command::SetCutOff {
                node: NodeId(it.node),
                incarnation: Incarnation(it.incarnation),
                cut_off: it.cut_off,
            },
            pb::Kind::SetDraining(it) => {
                Command::SetDraining { node: NodeId(it.node), draining: draining(it.draining)? }
            }
            pb::Kind::Pardon(it) => Command::Pardon(Pardon { node: NodeId(it.node), standing: it.standing }),
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
                    .map(|it| Wanted {
                        ike: Spi(it.ike),
                        child: ChildSpi(it.child),
                        count: it.count,
                        upto: EspSeq(it.upto),
                    })
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
            pb::Kind::CreateToken(it) => Command::CreateToken(CreateToken {
                id: TokenId(it.id),
                proof: token_proof(&it.proof)?,
                role: suffrage(it.role)?,
                uses: it.uses,
                expires_at: Millis(it.expires_at),
                at: Millis(it.at),
            }),
            pb::Kind::SetSuffrage(it) => {
                Command::SetSuffrage { node: NodeId(it.node), suffrage: suffrage(it.suffrage)? }
            }
        })
    }
}

impl From<&Takeover> for pb::Takeover {
    fn from(it: &Takeover) -> Self {
        let promiser =
            |&(node, run): &(NodeId, Incarnation)| pb::Promiser { node: node.0, incarnation: run.0 };
        pb::Takeover {
            node: it.from.node.0,
            incarnation: it.from.incarnation.0,
            standing: it.standing,
            promisers: it.promisers.iter().map(promiser).collect(),
            silent_ms: it.silent_ms,
        }
    }
}

impl From<pb::Takeover> for Takeover {
    fn from(it: pb::Takeover) -> Self {
        let promiser = |it: pb::Promiser| (NodeId(it.node), Incarnation(it.incarnation));
        Takeover {
            from: Owner { node: NodeId(it.node), incarnation: Incarnation(it.incarnation) },
            standing: it.standing,
            promisers: it.promisers.into_iter().map(promiser).collect(),
            silent_ms: it.silent_ms,
        }
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

impl From<&Authority> for pb::Authority {
    fn from(it: &Authority) -> Self {
        pb::Authority { certificate: it.certificate.clone(), key: it.key.as_bytes().to_vec() }
    }
}

impl From<pb::Authority> for Authority {
    fn from(it: pb::Authority) -> Self {
        Authority { certificate: it.certificate, key: Secret::from(it.key) }
    }
}

pub(super) fn need<T>(field: Option<T>, what: &'static str) -> Result<T> {
    field.ok_or(DecodeError::Malformed(what))
}

pub(super) fn cluster_id(octets: &[u8]) -> Result<ClusterId> {
    octets.try_into().map(ClusterId).map_err(|_| DecodeError::Malformed("a cluster id"))
}

pub(super) fn key_hash(octets: &[u8]) -> Result<KeyHash> {
    octets.try_into().map(KeyHash).map_err(|_| DecodeError::Malformed("the hash of a key"))
}

pub(super) fn token_proof(octets: &[u8]) -> Result<TokenProof> {
    octets.try_into().map(TokenProof).map_err(|_| DecodeError::Malformed("the proof of a token"))
}

pub(super) fn suffrage(number: u32) -> Result<Suffrage> {
    let found = [Suffrage::Voter, Suffrage::Learner].into_iter().find(|&it| it as u32 == number);
    found.ok_or(DecodeError::Malformed("an unknown suffrage"))
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
    const ALL: [SegmentState; 3] = [SegmentState::Unassigned, SegmentState::Owned, SegmentState::Orphaned];
    let found = ALL.into_iter().find(|&state| state as u32 == number);
    found.ok_or(DecodeError::Malformed("an unknown segment state"))
}

pub(super) fn draining(number: u32) -> Result<Draining> {
    const ALL: [Draining; 3] = [Draining::No, Draining::UntilStart, Draining::UntilUndrain];
    let found = ALL.into_iter().find(|&draining| draining as u32 == number);
    found.ok_or(DecodeError::Malformed("an unknown kind of draining"))
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
