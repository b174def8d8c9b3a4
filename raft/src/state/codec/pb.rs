//! The protobuf messages of commands. Tags are never used again for another meaning.

#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20, 21, 22")]
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
    SetStandby(SetStandby),
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
    #[prost(message, tag = "12")]
    SetDraining(SetDraining),
    #[prost(message, tag = "13")]
    Pardon(Pardon),
    #[prost(message, tag = "20")]
    CreateToken(CreateToken),
    #[prost(message, tag = "21")]
    SetSuffrage(SetSuffrage),
    #[prost(message, tag = "22")]
    SetCutOff(SetCutOff),
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
    #[prost(bytes = "vec", tag = "6")]
    pub founder_key: Vec<u8>,
    #[prost(message, optional, tag = "7")]
    pub authority: Option<Authority>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Authority {
    #[prost(bytes = "vec", tag = "1")]
    pub certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateToken {
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub proof: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub role: u32,
    #[prost(uint32, tag = "4")]
    pub uses: u32,
    #[prost(uint64, tag = "5")]
    pub expires_at: u64,
    #[prost(uint64, tag = "6")]
    pub at: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSuffrage {
    #[prost(uint64, tag = "1")]
    pub node: u64,
    #[prost(uint32, tag = "2")]
    pub suffrage: u32,
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
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    #[prost(fixed64, tag = "4")]
    pub token: u64,
    #[prost(bytes = "vec", tag = "5")]
    pub token_proof: Vec<u8>,
    #[prost(uint64, optional, tag = "6")]
    pub replaces: Option<u64>,
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
    #[prost(message, optional, tag = "7")]
    pub takeover: Option<Takeover>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Takeover {
    #[prost(uint64, tag = "1")]
    pub node: u64,
    #[prost(fixed64, tag = "2")]
    pub incarnation: u64,
    #[prost(uint64, tag = "3")]
    pub standing: u64,
    #[prost(message, repeated, tag = "4")]
    pub promisers: Vec<Promiser>,
    #[prost(uint64, tag = "5")]
    pub silent_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Promiser {
    #[prost(uint64, tag = "1")]
    pub node: u64,
    #[prost(fixed64, tag = "2")]
    pub incarnation: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Pardon {
    #[prost(uint64, tag = "1")]
    pub node: u64,
    #[prost(uint64, tag = "2")]
    pub standing: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SetStandby {
    #[prost(message, repeated, tag = "1")]
    pub segments: Vec<SegmentEpoch>,
    #[prost(uint64, optional, tag = "2")]
    pub standby: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SetCutOff {
    #[prost(uint64, tag = "1")]
    pub node: u64,
    #[prost(fixed64, tag = "2")]
    pub incarnation: u64,
    #[prost(bool, tag = "3")]
    pub cut_off: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SetDraining {
    #[prost(uint64, tag = "1")]
    pub node: u64,
    #[prost(uint32, tag = "2")]
    pub draining: u32,
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
    #[prost(uint64, tag = "4")]
    pub upto: u64,
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
