//! What a newcomer and a member say to each other: one request, one answer, each behind its length (four octets,
//! big-endian). A tag is never used again.

use std::io;

use crypto::Secret;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Of this protocol.
pub const VERSION: u32 = 1;

/// Octets of a request, and of an answer.
const LEN_MAX: usize = 16 * 1024;

#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(fixed64, tag = "2")]
    pub token: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub secret: Vec<u8>,
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(string, tag = "5")]
    pub address: String,
    #[prost(string, tag = "6")]
    pub software: String,
    #[prost(uint32, tag = "7")]
    pub speaks: u32,
    /// A point of P-256, uncompressed.
    #[prost(bytes = "vec", tag = "8")]
    pub public_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    #[prost(oneof = "Outcome", tags = "1, 2")]
    pub outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Outcome {
    #[prost(message, tag = "1")]
    Admitted(Admitted),
    #[prost(message, tag = "2")]
    Refused(Refused),
}

#[derive(Clone, PartialEq, Message)]
pub struct Admitted {
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    #[prost(uint64, tag = "2")]
    pub node: u64,
    /// DER; the id of the cluster stands in it.
    #[prost(bytes = "vec", tag = "3")]
    pub certificate: Vec<u8>,
    /// DER.
    #[prost(bytes = "vec", tag = "4")]
    pub authority: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// For people.
    #[prost(string, tag = "2")]
    pub why: String,
}

/// What a refused newcomer can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RefusalKind {
    /// Asking again is of no use.
    Final = 1,
    /// Nothing was decided for want of a leader or a majority.
    NoQuorum = 2,
    /// Not yet: asking again soon may help.
    Later = 3,
}

impl RefusalKind {
    pub fn from_number(number: u32) -> RefusalKind {
        let all = [RefusalKind::NoQuorum, RefusalKind::Later];
        all.into_iter().find(|kind| *kind as u32 == number).unwrap_or(RefusalKind::Final)
    }
}

pub async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    // It may hold the secret of a token.
    let body = Secret::from(message.encode_to_vec());
    stream.write_all(&(body.len() as u32).to_be_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.flush().await
}

pub async fn receive<M: Message + Default>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<M> {
    let len = stream.read_u32().await? as usize;
    if len > LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message longer than any"));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    let body = Secret::from(body);
    M::decode(body.as_bytes()).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no message of ours"))
}
