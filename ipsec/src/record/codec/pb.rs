//! The messages themselves: their tags are the format, and none is used again for another meaning.
//!
//! SPIs, keys and addresses are plain numbers and octets here; `codec` gives them their types and checks them.

#[derive(Clone, PartialEq, prost::Message)]
pub struct Ike {
    #[prost(fixed64, tag = "1")]
    pub spi: u64,
    #[prost(fixed64, tag = "2")]
    pub peer_spi: u64,
    #[prost(bool, tag = "3")]
    pub we_initiated: bool,
    #[prost(string, tag = "4")]
    pub connection: String,
    #[prost(message, optional, tag = "5")]
    pub local_id: Option<Id>,
    #[prost(message, optional, tag = "6")]
    pub peer_id: Option<Id>,
    #[prost(message, optional, tag = "7")]
    pub path: Option<Path>,
    #[prost(message, optional, tag = "8")]
    pub suite: Option<Suite>,
    /// d, ai, ar, ei, er, pi, pr
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub keys: Vec<Vec<u8>>,
    #[prost(uint64, tag = "10")]
    pub established_at: u64,
    #[prost(uint64, tag = "11")]
    pub revision: u64,
    #[prost(message, optional, tag = "12")]
    pub phase: Option<Phase>,
    #[prost(uint32, tag = "13")]
    pub next_request: u32,
    #[prost(message, optional, tag = "14")]
    pub outstanding: Option<Outstanding>,
    #[prost(uint32, tag = "15")]
    pub expected: u32,
    #[prost(message, optional, tag = "16")]
    pub last_reply: Option<Reply>,
    #[prost(message, repeated, tag = "17")]
    pub children: Vec<Child>,
    #[prost(bytes = "vec", repeated, tag = "18")]
    pub inner_addresses: Vec<Vec<u8>>,
    #[prost(bool, tag = "19")]
    pub tfc_padding: bool,
    #[prost(bool, tag = "20")]
    pub non_first_fragments: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Id {
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Path {
    #[prost(message, optional, tag = "1")]
    pub local: Option<Address>,
    #[prost(message, optional, tag = "2")]
    pub peer: Option<Address>,
    #[prost(bool, tag = "3")]
    pub peer_behind_nat: bool,
    #[prost(bool, tag = "4")]
    pub we_behind_nat: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    #[prost(bytes = "vec", tag = "1")]
    pub ip: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// Of an IKE SA (all but esn) or of a child (no prf; group 0: none).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Suite {
    #[prost(uint32, tag = "1")]
    pub cipher: u32,
    #[prost(uint32, tag = "2")]
    pub integ: u32,
    #[prost(uint32, tag = "3")]
    pub prf: u32,
    #[prost(uint32, tag = "4")]
    pub group: u32,
    #[prost(bool, tag = "5")]
    pub esn: bool,
}

/// kind 1: live/established, 2: replaced (by `successor`), 3: closing (`why`)
#[derive(Clone, PartialEq, prost::Message)]
pub struct Phase {
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    #[prost(fixed64, tag = "2")]
    pub successor: u64,
    #[prost(uint32, tag = "3")]
    pub why: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    #[prost(uint32, tag = "1")]
    pub message_id: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub octets: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Outstanding {
    #[prost(uint32, tag = "1")]
    pub message_id: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub octets: Vec<u8>,
    /// 1 liveness, 2 delete IKE, 3 delete children, 4 rekey child, 5 rekey IKE
    #[prost(uint32, tag = "3")]
    pub purpose: u32,
    #[prost(fixed32, repeated, tag = "4")]
    pub children: Vec<u32>,
    #[prost(message, optional, tag = "5")]
    pub rekey: Option<Rekey>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Rekey {
    #[prost(fixed64, tag = "1")]
    pub old_spi: u64,
    #[prost(fixed64, tag = "2")]
    pub new_spi: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub nonce: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub group: u32,
    #[prost(bytes = "vec", tag = "5")]
    pub private: Vec<u8>,
    #[prost(message, optional, tag = "6")]
    pub crossed: Option<Crossed>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Crossed {
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    pub spi: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Child {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(fixed32, tag = "2")]
    pub spi_in: u32,
    #[prost(fixed32, tag = "3")]
    pub spi_out: u32,
    #[prost(message, optional, tag = "4")]
    pub suite: Option<Suite>,
    /// encr_in, integ_in, encr_out, integ_out
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub keys: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "6")]
    pub local_ts: Vec<Selector>,
    #[prost(message, repeated, tag = "7")]
    pub remote_ts: Vec<Selector>,
    #[prost(uint64, tag = "8")]
    pub established_at: u64,
    #[prost(message, optional, tag = "9")]
    pub phase: Option<Phase>,
    #[prost(bool, tag = "10")]
    pub we_initiated: bool,
    #[prost(fixed32, tag = "11")]
    pub replaces: u32,
    #[prost(uint32, tag = "12")]
    pub block_epoch: u32,
    #[prost(uint64, tag = "13")]
    pub block_first: u64,
    #[prost(uint64, tag = "14")]
    pub block_last: u64,
    #[prost(uint64, tag = "15")]
    pub granted: u64,
    #[prost(message, optional, tag = "16")]
    pub claimed: Option<Claimed>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Claimed {
    #[prost(uint64, tag = "1")]
    pub floor: u64,
    #[prost(uint64, tag = "2")]
    pub ceiling: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Selector {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(uint32, tag = "2")]
    pub start_port: u32,
    #[prost(uint32, tag = "3")]
    pub end_port: u32,
    #[prost(bytes = "vec", tag = "4")]
    pub start: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub end: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Change {
    #[prost(uint32, tag = "1")]
    pub segment: u32,
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    #[prost(fixed64, tag = "3")]
    pub incarnation: u64,
    #[prost(fixed64, tag = "4")]
    pub spi: u64,
    #[prost(uint64, tag = "5")]
    pub revision: u64,
    #[prost(uint64, tag = "6")]
    pub at: u64,
    #[prost(message, repeated, tag = "7")]
    pub steps: Vec<Step>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Step {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    #[prost(message, tag = "1")]
    Establish(Ike),
    #[prost(message, tag = "2")]
    Supersede(Supersede),
    #[prost(message, tag = "3")]
    Answered(Reply),
    #[prost(message, tag = "4")]
    Asked(Outstanding),
    #[prost(uint32, tag = "5")]
    Concluded(u32),
    #[prost(message, tag = "6")]
    Crossed(Crossed),
    #[prost(message, tag = "7")]
    AddChild(Child),
    #[prost(message, tag = "8")]
    SetChildPhase(SetChildPhase),
    #[prost(message, tag = "9")]
    RemoveChild(RemoveChild),
    #[prost(message, tag = "10")]
    AddIke(Ike),
    #[prost(fixed64, tag = "11")]
    Inherit(u64),
    #[prost(message, tag = "12")]
    SetPhase(Phase),
    #[prost(message, tag = "13")]
    Moved(Path),
    #[prost(uint32, tag = "14")]
    Remove(u32),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Supersede {
    #[prost(fixed64, tag = "1")]
    pub spi: u64,
    #[prost(bool, tag = "2")]
    pub silently: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SetChildPhase {
    #[prost(fixed32, tag = "1")]
    pub spi_in: u32,
    #[prost(message, optional, tag = "2")]
    pub phase: Option<Phase>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RemoveChild {
    #[prost(fixed32, tag = "1")]
    pub spi_in: u32,
    #[prost(uint32, tag = "2")]
    pub why: u32,
}
