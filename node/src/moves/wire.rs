//! What two nodes say to each other about segments that move.

use std::net::SocketAddr;

use crypto::Secret;
use ipsec::esp::Carried;
use ipsec::esp::replay::WindowState;
use ipsec::types::{ChildSpi, Epoch, EspSeq, Segment};
use prost::Message as _;
use raft::state::{Cause, NodeId};

use super::luggage::Bag;
use crate::datapath::Closed;
use crate::datapath::held::Forwarded;

/// Octets of luggage in one question: a part of one segment may be longer, and then goes alone. About 3,000 children.
const TAKE_LEN_MAX: usize = 1 << 20;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Question {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// To the owner: give these away.
    #[prost(message, tag = "1")]
    Give(Give),
    /// To the next owner: hold what arrives for these.
    #[prost(message, tag = "2")]
    Open(Segments),
    /// To the next owner: this comes along.
    #[prost(message, tag = "3")]
    Take(Take),
    /// To who was to be the next owner: nothing comes of it.
    #[prost(message, tag = "4")]
    Abandon(Segments),
}

/// Each with the epoch that it has now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Segments {
    #[prost(message, repeated, tag = "1")]
    pub segments: Vec<SegmentEpoch>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SegmentEpoch {
    #[prost(uint32, tag = "1")]
    pub segment: u32,
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Give {
    #[prost(message, optional, tag = "1")]
    pub segments: Option<Segments>,
    #[prost(uint64, tag = "2")]
    pub to: u64,
    #[prost(uint32, tag = "3")]
    pub cause: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Take {
    #[prost(message, repeated, tag = "1")]
    pub parts: Vec<Part>,
}

/// Of one segment.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Part {
    #[prost(uint32, tag = "1")]
    pub segment: u32,
    /// That is over at the sender.
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    #[prost(message, repeated, tag = "3")]
    pub children: Vec<Child>,
    #[prost(bytes = "vec", tag = "4")]
    pub ike: Vec<u8>,
    /// Keyed digests of inner packets that the sender has forwarded although the receiver saw them, too.
    #[prost(bytes = "vec", tag = "5")]
    pub digest_key: Vec<u8>,
    #[prost(fixed64, repeated, tag = "6")]
    pub digests: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Child {
    #[prost(fixed32, tag = "1")]
    pub spi_in: u32,
    #[prost(uint64, tag = "2")]
    pub edge: u64,
    #[prost(fixed64, repeated, tag = "3")]
    pub seen: Vec<u64>,
    #[prost(bool, tag = "4")]
    pub confirmed: bool,
    #[prost(string, tag = "5")]
    pub peer: String,
    #[prost(uint64, tag = "6")]
    pub packets_in: u64,
    #[prost(uint64, tag = "7")]
    pub octets_in: u64,
    #[prost(uint64, tag = "8")]
    pub packets_out: u64,
    #[prost(uint64, tag = "9")]
    pub octets_out: u64,
    #[prost(uint64, optional, tag = "10")]
    pub heard_ago_ms: Option<u64>,
}

/// Done, or why not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    #[prost(string, optional, tag = "1")]
    pub refused: Option<String>,
}

impl Answer {
    pub fn of(result: Result<(), String>) -> Answer {
        Answer { refused: result.err() }
    }

    pub fn result(self) -> Result<(), String> {
        self.refused.map_or(Ok(()), Err)
    }
}

impl Question {
    pub fn give(segments: &[(Segment, Epoch)], to: NodeId, cause: Cause) -> Question {
        let give = Give { segments: Some(segments.into()), to: to.0, cause: cause as u32 };
        Question { kind: Some(Kind::Give(give)) }
    }

    pub fn open(segments: &[(Segment, Epoch)]) -> Question {
        Question { kind: Some(Kind::Open(segments.into())) }
    }

    /// As many as it takes to keep each within the length of a question.
    pub fn takes(parts: Vec<Part>) -> Vec<Question> {
        let mut takes: Vec<(usize, Take)> = Vec::new();
        for part in parts {
            let len = part.encoded_len();
            match takes.last_mut() {
                Some((filled, take)) if *filled + len <= TAKE_LEN_MAX => {
                    *filled += len;
                    take.parts.push(part);
                }
                _ => takes.push((len, Take { parts: vec![part] })),
            }
        }
        takes.into_iter().map(|(_, take)| Question { kind: Some(Kind::Take(take)) }).collect()
    }

    pub fn abandon(segments: &[(Segment, Epoch)]) -> Question {
        Question { kind: Some(Kind::Abandon(segments.into())) }
    }
}

impl From<&[(Segment, Epoch)]> for Segments {
    fn from(segments: &[(Segment, Epoch)]) -> Segments {
        let written =
            |&(segment, epoch): &(Segment, Epoch)| SegmentEpoch { segment: segment.0.into(), epoch: epoch.0 };
        Segments { segments: segments.iter().map(written).collect() }
    }
}

impl Segments {
    /// `None`: a segment that there is not.
    pub fn read(&self) -> Option<Vec<(Segment, Epoch)>> {
        let read = |it: &SegmentEpoch| Some((segment(it.segment)?, Epoch(it.epoch)));
        self.segments.iter().map(read).collect()
    }
}

pub fn segment(number: u32) -> Option<Segment> {
    u8::try_from(number).ok().map(Segment)
}

/// The causes of planned moves.
pub fn cause(number: u32) -> Option<Cause> {
    [Cause::Drained, Cause::Rebalanced, Cause::Moved].into_iter().find(|&cause| cause as u32 == number)
}

impl Part {
    pub fn new(segment: Segment, epoch: Epoch, closed: Closed, ike: &Secret) -> Part {
        Part {
            segment: segment.0.into(),
            epoch: epoch.0,
            children: closed.children.iter().map(Child::from).collect(),
            ike: ike.as_bytes().to_vec(),
            digest_key: closed.forwarded.key.to_vec(),
            digests: closed.forwarded.digests,
        }
    }

    /// The segment, the epoch that is over, and what comes along.
    pub fn read(self) -> Option<(Segment, Epoch, Bag)> {
        let children: Option<Vec<Carried>> = self.children.into_iter().map(Child::read).collect();
        let children = children?.into_iter().map(|child| (child.spi_in, child)).collect();
        let forwarded = Forwarded { key: self.digest_key.try_into().ok()?, digests: self.digests };
        let bag = Bag { children, ike: vec![Secret::from(self.ike)], forwarded };
        Some((segment(self.segment)?, Epoch(self.epoch), bag))
    }
}

impl From<&Carried> for Child {
    fn from(it: &Carried) -> Child {
        Child {
            spi_in: it.spi_in.0,
            edge: it.window.edge.0,
            seen: it.window.seen.clone(),
            confirmed: it.confirmed,
            peer: it.peer.to_string(),
            packets_in: it.packets_in,
            octets_in: it.octets_in,
            packets_out: it.packets_out,
            octets_out: it.octets_out,
            heard_ago_ms: it.heard_ago_ms,
        }
    }
}

impl Child {
    fn read(self) -> Option<Carried> {
        Some(Carried {
            spi_in: ChildSpi(self.spi_in),
            window: WindowState { edge: EspSeq(self.edge), seen: self.seen },
            confirmed: self.confirmed,
            peer: self.peer.parse::<SocketAddr>().ok()?,
            packets_in: self.packets_in,
            octets_in: self.octets_in,
            packets_out: self.packets_out,
            octets_out: self.octets_out,
            heard_ago_ms: self.heard_ago_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_along_arrives_as_it_was() {
        let carried = Carried {
            spi_in: ChildSpi(0x0700_0001),
            window: WindowState { edge: EspSeq(0x1_0000_0002), seen: vec![u64::MAX; 33] },
            confirmed: true,
            peer: "[2001:db8::9]:4500".parse().unwrap(),
            packets_in: 1,
            octets_in: 2,
            packets_out: 3,
            octets_out: 4,
            heard_ago_ms: Some(0),
        };
        let forwarded = Forwarded { key: [7; 32], digests: vec![1, u64::MAX] };
        let closed = Closed { children: vec![carried.clone()], forwarded: forwarded.clone() };
        let part = Part::new(Segment(7), Epoch(3), closed, &Secret::from(vec![9, 9]));
        let question = Question::takes(vec![part]).remove(0).encode_to_vec();
        let Some(Kind::Take(mut take)) = Question::decode(&question[..]).unwrap().kind else { panic!() };
        let (segment, epoch, bag) = take.parts.remove(0).read().unwrap();
        assert_eq!((segment, epoch, &bag.children[&carried.spi_in]), (Segment(7), Epoch(3), &carried));
        assert_eq!((bag.ike, bag.forwarded), (vec![Secret::from(vec![9, 9])], forwarded));
    }

    #[test]
    fn much_luggage_goes_in_several_questions_and_all_of_it() {
        let part = |octets: usize| Part { ike: vec![0; octets], ..Part::default() };
        let takes = Question::takes([400_000, 500_000, 300_000, 3_000_000, 1].map(part).to_vec());
        let sizes = takes.iter().map(|take| match &take.kind {
            Some(Kind::Take(take)) => take.parts.iter().map(|part| part.ike.len()).collect(),
            _ => Vec::new(),
        });
        assert_eq!(
            sizes.collect::<Vec<_>>(),
            [vec![400_000, 500_000], vec![300_000], vec![3_000_000], vec![1]]
        );
        assert!(Question::takes(Vec::new()).is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(Segments { segments: vec![SegmentEpoch { segment: 256, epoch: 1 }] }.read(), None);
        assert!(Part { segment: 1, children: vec![Child::default()], ..Part::default() }.read().is_none());
        assert_eq!((cause(Cause::Moved as u32), cause(Cause::NodeSilent as u32)), (Some(Cause::Moved), None));
    }
}
