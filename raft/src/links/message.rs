//! The protobuf messages of the links, and their translation to and from our own types.
//!
//! Rules as on disk: a tag is never used again or given another type, a new field is optional and its default means
//! the old behaviour. The version is agreed in `Hello`, before anything else is said.
//!
//! Commands hold keys, so what carries them is wiped after use: octets are `Secret`s on both sides of a message.

use std::sync::Arc;

use crypto::Secret;
use prost::Message;

use super::{
    Append, Appended, Ballot, BallotAnswer, Reply, Request, TransferLeader, Transferred, Unproposed,
};
use crate::state::NodeId;
use crate::store::codec::{LogIdMessage, MemberMessage, MembersMessage, PayloadMessage, VoteMessage};
use crate::store::snapshot::Meta;
use crate::store::{Entry, LogId, Members, Payload, Peer, Vote};

/// A message, and which request it belongs to.
#[derive(Clone, PartialEq, Message)]
pub struct Frame {
    /// Chosen by the dialling side, the same in the answer.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(
        oneof = "Body",
        tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24"
    )]
    pub body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    #[prost(message, tag = "2")]
    Hello(Hello),
    #[prost(message, tag = "3")]
    Welcome(Welcome),
    /// Why the connection is of no use. Nothing follows.
    #[prost(string, tag = "4")]
    Refused(String),
    #[prost(message, tag = "5")]
    Ping(Nothing),
    #[prost(message, tag = "6")]
    Pong(Nothing),
    /// The request could not be served.
    #[prost(string, tag = "7")]
    Failed(String),

    #[prost(message, tag = "8")]
    Append(AppendMessage),
    #[prost(message, tag = "9")]
    Vote(BallotMessage),
    #[prost(message, tag = "10")]
    PreVote(BallotMessage),
    #[prost(message, tag = "11")]
    TransferLeader(TransferLeaderMessage),
    /// An encoded command.
    #[prost(bytes = "vec", tag = "12")]
    Propose(Vec<u8>),
    #[prost(message, tag = "13")]
    Barrier(Nothing),
    #[prost(bytes = "vec", tag = "14")]
    Ask(Vec<u8>),

    #[prost(message, tag = "15")]
    Appended(AppendedMessage),
    #[prost(message, tag = "16")]
    Voted(BallotAnswerMessage),
    #[prost(message, tag = "17")]
    Transferred(TransferredMessage),
    #[prost(message, tag = "18")]
    Proposed(ProposedMessage),
    #[prost(bytes = "vec", tag = "19")]
    Answer(Vec<u8>),

    #[prost(message, tag = "20")]
    SnapshotPiece(SnapshotPiece),
    #[prost(message, tag = "21")]
    SnapshotEnd(SnapshotEnd),
    #[prost(message, tag = "22")]
    SnapshotTaken(VoteMessage),

    #[prost(uint64, tag = "23")]
    Digest(u64),
    /// Empty: that index is past.
    #[prost(bytes = "vec", tag = "24")]
    DigestIs(Vec<u8>),
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Nothing {}

/// The first thing that the dialling side says.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hello {
    /// The protocol versions that it speaks.
    #[prost(uint32, tag = "1")]
    pub speaks_min: u32,
    #[prost(uint32, tag = "2")]
    pub speaks_max: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub cluster: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub from: u64,
    /// Whom it means to have dialled.
    #[prost(uint64, tag = "5")]
    pub to: u64,
    #[prost(uint32, tag = "6")]
    pub lane: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Welcome {
    #[prost(uint32, tag = "1")]
    pub version: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct EntryMessage {
    #[prost(message, required, tag = "1")]
    pub id: LogIdMessage,
    #[prost(message, required, tag = "2")]
    pub payload: PayloadMessage,
}

#[derive(Clone, PartialEq, Message)]
pub struct AppendMessage {
    #[prost(message, required, tag = "1")]
    pub vote: VoteMessage,
    #[prost(message, optional, tag = "2")]
    pub previous: Option<LogIdMessage>,
    #[prost(message, repeated, tag = "3")]
    pub entries: Vec<EntryMessage>,
    #[prost(message, optional, tag = "4")]
    pub committed: Option<LogIdMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct AppendedMessage {
    #[prost(oneof = "AppendedKind", tags = "1, 2, 3, 4")]
    pub kind: Option<AppendedKind>,
}

#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum AppendedKind {
    #[prost(message, tag = "1")]
    All(Nothing),
    #[prost(message, tag = "2")]
    Part(MaybeLogId),
    #[prost(message, tag = "3")]
    Conflict(Nothing),
    #[prost(message, tag = "4")]
    HigherVote(VoteMessage),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct MaybeLogId {
    #[prost(message, optional, tag = "1")]
    pub id: Option<LogIdMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct BallotMessage {
    #[prost(message, required, tag = "1")]
    pub vote: VoteMessage,
    #[prost(message, optional, tag = "2")]
    pub last: Option<LogIdMessage>,
    #[prost(bool, tag = "3")]
    pub transfer: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct BallotAnswerMessage {
    #[prost(message, required, tag = "1")]
    pub vote: VoteMessage,
    #[prost(bool, tag = "2")]
    pub granted: bool,
    #[prost(message, optional, tag = "3")]
    pub last: Option<LogIdMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct TransferLeaderMessage {
    #[prost(message, required, tag = "1")]
    pub from: VoteMessage,
    #[prost(uint64, tag = "2")]
    pub to: u64,
    #[prost(message, optional, tag = "3")]
    pub last: Option<LogIdMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct TransferredMessage {
    #[prost(oneof = "TransferredKind", tags = "1, 2, 3")]
    pub kind: Option<TransferredKind>,
}

#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum TransferredKind {
    #[prost(message, tag = "1")]
    Accepted(Nothing),
    #[prost(message, tag = "2")]
    VoteChanged(VotesMessage),
    #[prost(message, tag = "3")]
    NotFlushed(LogIdsMessage),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct VotesMessage {
    #[prost(message, required, tag = "1")]
    pub expected: VoteMessage,
    #[prost(message, required, tag = "2")]
    pub actual: VoteMessage,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct LogIdsMessage {
    #[prost(message, optional, tag = "1")]
    pub expected: Option<LogIdMessage>,
    #[prost(message, optional, tag = "2")]
    pub actual: Option<LogIdMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ProposedMessage {
    #[prost(oneof = "ProposedKind", tags = "1, 2, 3")]
    pub kind: Option<ProposedKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ProposedKind {
    #[prost(uint64, tag = "1")]
    At(u64),
    #[prost(message, tag = "2")]
    NotLeader(NotLeaderMessage),
    #[prost(message, tag = "3")]
    Unknown(Nothing),
}

#[derive(Clone, PartialEq, Message)]
pub struct NotLeaderMessage {
    #[prost(message, optional, tag = "1")]
    pub leader: Option<MemberMessage>,
}

/// A part of a snapshot. The first one says what it is of.
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotPiece {
    #[prost(message, optional, tag = "1")]
    pub begin: Option<SnapshotBegin>,
    #[prost(bytes = "vec", tag = "2")]
    pub octets: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SnapshotBegin {
    #[prost(message, required, tag = "1")]
    pub vote: VoteMessage,
    #[prost(message, optional, tag = "2")]
    pub last: Option<LogIdMessage>,
    #[prost(message, required, tag = "3")]
    pub members: MembersMessage,
    #[prost(message, optional, tag = "4")]
    pub members_at: Option<LogIdMessage>,
}

/// All pieces were sent: how many octets, and their SHA-256.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SnapshotEnd {
    #[prost(uint64, tag = "1")]
    pub length: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub digest: Vec<u8>,
}

/// Octets that are no message, or the wrong one at this place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Strange(pub &'static str);

impl Frame {
    pub fn new(id: u64, body: Body) -> Frame {
        Frame { id, body: Some(body) }
    }

    pub fn decode_wiping(octets: Secret) -> Result<(u64, Body), Strange> {
        let frame = Frame::decode(octets.as_bytes()).map_err(|_| Strange("no message"))?;
        Ok((frame.id, frame.body.ok_or(Strange("a message of an unknown kind"))?))
    }

    /// Takes what may hold keys along into holders that wipe.
    pub fn wipe(self) {
        match self.body {
            Some(Body::Append(append)) => append.entries.into_iter().for_each(|entry| entry.payload.wipe()),
            Some(Body::Propose(octets) | Body::Ask(octets) | Body::Answer(octets)) => {
                drop(Secret::from(octets));
            }
            Some(Body::SnapshotPiece(piece)) => drop(Secret::from(piece.octets)),
            _ => {}
        }
    }
}

impl From<&Request> for Body {
    fn from(request: &Request) -> Body {
        match request {
            Request::Append(append) => Body::Append(append.into()),
            Request::Vote(ballot) => Body::Vote(ballot.into()),
            Request::PreVote(ballot) => Body::PreVote(ballot.into()),
            Request::TransferLeader(transfer) => Body::TransferLeader(TransferLeaderMessage {
                from: transfer.from.into(),
                to: transfer.to.0,
                last: transfer.last.map(Into::into),
            }),
            Request::Propose(command) => Body::Propose(command.as_bytes().to_vec()),
            Request::Barrier => Body::Barrier(Nothing {}),
            Request::Digest(index) => Body::Digest(*index),
        }
    }
}

impl TryFrom<Body> for Request {
    type Error = Strange;

    fn try_from(body: Body) -> Result<Request, Strange> {
        Ok(match body {
            Body::Append(append) => Request::Append(append.into()),
            Body::Vote(ballot) => Request::Vote(ballot.into()),
            Body::PreVote(ballot) => Request::PreVote(ballot.into()),
            Body::TransferLeader(transfer) => Request::TransferLeader(TransferLeader {
                from: transfer.from.into(),
                to: NodeId(transfer.to),
                last: transfer.last.map(Into::into),
            }),
            Body::Propose(octets) => Request::Propose(Arc::new(Secret::from(octets))),
            Body::Barrier(Nothing {}) => Request::Barrier,
            Body::Digest(index) => Request::Digest(index),
            _ => return Err(Strange("no request")),
        })
    }
}

impl From<&Reply> for Body {
    fn from(reply: &Reply) -> Body {
        match reply {
            Reply::Append(appended) => Body::Appended(AppendedMessage {
                kind: Some(match *appended {
                    Appended::All => AppendedKind::All(Nothing {}),
                    Appended::Part(upto) => AppendedKind::Part(MaybeLogId { id: upto.map(Into::into) }),
                    Appended::Conflict => AppendedKind::Conflict(Nothing {}),
                    Appended::HigherVote(vote) => AppendedKind::HigherVote(vote.into()),
                }),
            }),
            Reply::Vote(answer) => Body::Voted(BallotAnswerMessage {
                vote: answer.vote.into(),
                granted: answer.granted,
                last: answer.last.map(Into::into),
            }),
            Reply::TransferLeader(transferred) => Body::Transferred(TransferredMessage {
                kind: Some(match *transferred {
                    Transferred::Accepted => TransferredKind::Accepted(Nothing {}),
                    Transferred::VoteChanged { expected, actual } => {
                        TransferredKind::VoteChanged(VotesMessage {
                            expected: expected.into(),
                            actual: actual.into(),
                        })
                    }
                    Transferred::NotFlushed { expected, actual } => {
                        TransferredKind::NotFlushed(LogIdsMessage {
                            expected: expected.map(Into::into),
                            actual: actual.map(Into::into),
                        })
                    }
                }),
            }),
            Reply::Digest(digest) => Body::DigestIs(digest.map_or_else(Vec::new, |digest| digest.to_vec())),
            Reply::Proposed(outcome) => Body::Proposed(ProposedMessage {
                kind: Some(match outcome {
                    Ok(index) => ProposedKind::At(*index),
                    Err(Unproposed::NotLeader(leader)) => {
                        let leader = leader.as_ref().map(|(node, peer)| MemberMessage {
                            id: node.0,
                            name: peer.name.clone(),
                            address: peer.address.clone(),
                        });
                        ProposedKind::NotLeader(NotLeaderMessage { leader })
                    }
                    Err(Unproposed::Unknown) => ProposedKind::Unknown(Nothing {}),
                }),
            }),
        }
    }
}

impl TryFrom<Body> for Reply {
    type Error = Strange;

    fn try_from(body: Body) -> Result<Reply, Strange> {
        const EMPTY: Strange = Strange("an answer of an unknown kind");
        Ok(match body {
            Body::Appended(message) => Reply::Append(match message.kind.ok_or(EMPTY)? {
                AppendedKind::All(Nothing {}) => Appended::All,
                AppendedKind::Part(upto) => Appended::Part(upto.id.map(Into::into)),
                AppendedKind::Conflict(Nothing {}) => Appended::Conflict,
                AppendedKind::HigherVote(vote) => Appended::HigherVote(vote.into()),
            }),
            Body::Voted(answer) => Reply::Vote(BallotAnswer {
                vote: answer.vote.into(),
                granted: answer.granted,
                last: answer.last.map(Into::into),
            }),
            Body::Transferred(message) => Reply::TransferLeader(match message.kind.ok_or(EMPTY)? {
                TransferredKind::Accepted(Nothing {}) => Transferred::Accepted,
                TransferredKind::VoteChanged(votes) => {
                    Transferred::VoteChanged { expected: votes.expected.into(), actual: votes.actual.into() }
                }
                TransferredKind::NotFlushed(ids) => Transferred::NotFlushed {
                    expected: ids.expected.map(Into::into),
                    actual: ids.actual.map(Into::into),
                },
            }),
            Body::DigestIs(octets) if octets.is_empty() => Reply::Digest(None),
            Body::DigestIs(octets) => {
                let digest = octets.try_into().map_err(|_| Strange("a digest of another length"))?;
                Reply::Digest(Some(digest))
            }
            Body::Proposed(message) => Reply::Proposed(match message.kind.ok_or(EMPTY)? {
                ProposedKind::At(index) => Ok(index),
                ProposedKind::NotLeader(NotLeaderMessage { leader }) => {
                    let leader = leader.map(|member| {
                        (NodeId(member.id), Peer { name: member.name, address: member.address })
                    });
                    Err(Unproposed::NotLeader(leader))
                }
                ProposedKind::Unknown(Nothing {}) => Err(Unproposed::Unknown),
            }),
            _ => return Err(Strange("the answer is to another question")),
        })
    }
}

impl From<&Append> for AppendMessage {
    fn from(append: &Append) -> Self {
        let entry = |entry: &Entry| EntryMessage { id: entry.id.into(), payload: (&entry.payload).into() };
        AppendMessage {
            vote: append.vote.into(),
            previous: append.previous.map(Into::into),
            entries: append.entries.iter().map(entry).collect(),
            committed: append.committed.map(Into::into),
        }
    }
}

impl From<AppendMessage> for Append {
    fn from(message: AppendMessage) -> Self {
        let entry =
            |entry: EntryMessage| Entry { id: entry.id.into(), payload: Payload::from(entry.payload) };
        Append {
            vote: message.vote.into(),
            previous: message.previous.map(Into::into),
            entries: message.entries.into_iter().map(entry).collect(),
            committed: message.committed.map(Into::into),
        }
    }
}

impl From<&Ballot> for BallotMessage {
    fn from(ballot: &Ballot) -> Self {
        BallotMessage {
            vote: ballot.vote.into(),
            last: ballot.last.map(Into::into),
            transfer: ballot.transfer,
        }
    }
}

impl From<BallotMessage> for Ballot {
    fn from(message: BallotMessage) -> Self {
        Ballot { vote: message.vote.into(), last: message.last.map(Into::into), transfer: message.transfer }
    }
}

impl SnapshotBegin {
    pub fn new(vote: Vote, meta: &Meta) -> SnapshotBegin {
        SnapshotBegin {
            vote: vote.into(),
            last: meta.last.map(Into::into),
            members: (&meta.members).into(),
            members_at: meta.members_at.map(Into::into),
        }
    }

    pub fn into_parts(self) -> (Vote, Meta) {
        let meta = Meta {
            last: self.last.map(LogId::from),
            members: Members::from(self.members),
            members_at: self.members_at.map(LogId::from),
        };
        (self.vote.into(), meta)
    }
}
