//! The protobuf messages of snapshots. Tags are never used again for another meaning.

use super::codec::pb::{Authority, File};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    #[prost(message, tag = "1")]
    Header(Header),
    #[prost(message, tag = "2")]
    Cluster(Cluster),
    #[prost(message, tag = "3")]
    Member(Member),
    #[prost(message, tag = "4")]
    Segment(Segment),
    /// `ipsec::record::IkeRecord`
    #[prost(bytes, tag = "5")]
    Ike(Vec<u8>),
    #[prost(message, tag = "6")]
    Lease(Lease),
    #[prost(message, tag = "7")]
    Configuration(Configuration),
    #[prost(message, tag = "8")]
    Cookies(Cookies),
    #[prost(message, tag = "9")]
    End(End),
    #[prost(message, tag = "10")]
    Token(Token),
    #[prost(message, tag = "20")]
    Farewell(Farewell),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Farewell {
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(fixed64, tag = "2")]
    pub spi: u64,
    #[prost(uint32, tag = "3")]
    pub message_id: u32,
    #[prost(bytes = "vec", tag = "4")]
    pub octets: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub at: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Header {
    #[prost(uint64, tag = "1")]
    pub applied: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Cluster {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub id: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub created_at: u64,
    #[prost(uint32, tag = "4")]
    pub version: u32,
    #[prost(message, optional, tag = "5")]
    pub authority: Option<Authority>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Member {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub address: String,
    #[prost(string, tag = "4")]
    pub software: String,
    #[prost(uint32, tag = "5")]
    pub speaks: u32,
    #[prost(fixed64, tag = "6")]
    pub incarnation: u64,
    #[prost(uint64, tag = "7")]
    pub joined_at: u64,
    #[prost(uint64, tag = "8")]
    pub started_at: u64,
    #[prost(uint32, tag = "9")]
    pub draining: u32,
    #[prost(uint64, tag = "10")]
    pub standing: u64,
    #[prost(uint64, tag = "11")]
    pub taken_at: u64,
    #[prost(bytes = "vec", tag = "20")]
    pub key: Vec<u8>,
    #[prost(uint32, tag = "21")]
    pub suffrage: u32,
    #[prost(uint64, optional, tag = "22")]
    pub replaces: Option<u64>,
    #[prost(bool, tag = "30")]
    pub cut_off: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Token {
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub proof: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub role: u32,
    #[prost(uint32, tag = "4")]
    pub uses_left: u32,
    #[prost(uint64, tag = "5")]
    pub created_at: u64,
    #[prost(uint64, tag = "6")]
    pub expires_at: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Segment {
    #[prost(uint32, tag = "1")]
    pub segment: u32,
    #[prost(uint32, tag = "2")]
    pub state: u32,
    #[prost(message, optional, tag = "3")]
    pub owner: Option<Owner>,
    #[prost(uint64, optional, tag = "4")]
    pub standby: Option<u64>,
    #[prost(uint32, tag = "5")]
    pub epoch: u32,
    #[prost(uint32, tag = "6")]
    pub cause: u32,
    #[prost(uint64, tag = "7")]
    pub since: u64,
    #[prost(uint64, tag = "8")]
    pub silent_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Owner {
    #[prost(uint64, tag = "1")]
    pub node: u64,
    #[prost(fixed64, tag = "2")]
    pub incarnation: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Lease {
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    /// As in the ID payload (RFC 7296, 3.5).
    #[prost(uint32, tag = "2")]
    pub peer_kind: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub peer: Vec<u8>,
    /// Zero: released.
    #[prost(fixed64, tag = "4")]
    pub held_by: u64,
    #[prost(uint64, tag = "5")]
    pub released: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Configuration {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(string, tag = "2")]
    pub toml: String,
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
pub struct Cookies {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub current: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub previous: Option<Vec<u8>>,
    #[prost(uint64, tag = "4")]
    pub rotated_at: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct End {
    #[prost(uint64, tag = "1")]
    pub records: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub digest: Vec<u8>,
}
