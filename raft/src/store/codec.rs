//! The protobuf messages of everything on disk that is Raft's: log ids, votes, members, payloads.
//!
//! Ours, not openraft's. Rules: a tag is never used again or given another type, a new field is optional and its
//! default means the old behaviour, maps are written in order. The format version stands outside, in the frame of
//! each record or file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crypto::Secret;
use prost::Message;

use super::{LogId, Members, Payload, Peer, Vote};

/// Octets that are no message of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a message: {0}")]
    Protobuf(#[from] prost::DecodeError),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct LogIdMessage {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub node: u64,
    #[prost(uint64, tag = "3")]
    pub index: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct VoteMessage {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub node: u64,
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct MembersMessage {
    #[prost(message, repeated, tag = "1")]
    pub voters: Vec<VotersMessage>,
    #[prost(message, repeated, tag = "2")]
    pub nodes: Vec<MemberMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub struct VotersMessage {
    #[prost(uint64, repeated, tag = "1")]
    pub ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct MemberMessage {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub address: String,
}

/// One of: nothing (a blank entry), a command, members.
#[derive(Clone, PartialEq, Message)]
pub struct PayloadMessage {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub command: Option<Vec<u8>>,
    #[prost(message, optional, tag = "2")]
    pub members: Option<MembersMessage>,
}

impl From<LogId> for LogIdMessage {
    fn from(id: LogId) -> Self {
        LogIdMessage { term: id.term, node: id.node, index: id.index }
    }
}

impl From<LogIdMessage> for LogId {
    fn from(id: LogIdMessage) -> Self {
        LogId { term: id.term, node: id.node, index: id.index }
    }
}

impl From<Vote> for VoteMessage {
    fn from(vote: Vote) -> Self {
        VoteMessage { term: vote.term, node: vote.node, committed: vote.committed }
    }
}

impl From<VoteMessage> for Vote {
    fn from(vote: VoteMessage) -> Self {
        Vote { term: vote.term, node: vote.node, committed: vote.committed }
    }
}

impl From<&Members> for MembersMessage {
    fn from(members: &Members) -> Self {
        MembersMessage {
            voters: members
                .voters
                .iter()
                .map(|set| VotersMessage { ids: set.iter().copied().collect() })
                .collect(),
            nodes: members
                .nodes
                .iter()
                .map(|(&id, peer)| MemberMessage {
                    id,
                    name: peer.name.clone(),
                    address: peer.address.clone(),
                })
                .collect(),
        }
    }
}

impl From<MembersMessage> for Members {
    fn from(message: MembersMessage) -> Self {
        let voters =
            message.voters.into_iter().map(|set| set.ids.into_iter().collect::<BTreeSet<_>>()).collect();
        let nodes = message
            .nodes
            .into_iter()
            .map(|node| (node.id, Peer { name: node.name, address: node.address }))
            .collect::<BTreeMap<_, _>>();
        Members { voters, nodes }
    }
}

impl Payload {
    /// The octets hold what the command holds: keys.
    pub fn encode(&self) -> Secret {
        let message = PayloadMessage::from(self);
        let encoded = Secret::from(message.encode_to_vec());
        message.wipe();
        encoded
    }

    pub fn decode(octets: &[u8]) -> Result<Payload, DecodeError> {
        Ok(PayloadMessage::decode(octets)?.into())
    }
}

impl PayloadMessage {
    /// Hands the command's octets to a holder that wipes them.
    pub(crate) fn wipe(self) {
        drop(self.command.map(Secret::from));
    }
}

impl From<&Payload> for PayloadMessage {
    /// The caller wipes it.
    fn from(payload: &Payload) -> PayloadMessage {
        match payload {
            Payload::Blank => PayloadMessage::default(),
            Payload::Command(octets) => {
                PayloadMessage { command: Some(octets.as_bytes().to_vec()), members: None }
            }
            Payload::Members(members) => PayloadMessage { command: None, members: Some(members.into()) },
        }
    }
}

impl From<PayloadMessage> for Payload {
    fn from(message: PayloadMessage) -> Payload {
        match (message.command, message.members) {
            (Some(octets), _) => Payload::Command(Arc::new(Secret::from(octets))),
            (None, Some(members)) => Payload::Members(members.into()),
            (None, None) => Payload::Blank,
        }
    }
}
