//! Records and changes as protobuf: the form in the log, in snapshots and between nodes.
//!
//! Tags are never used again for another meaning. A number that this version does not know is an error, never
//! skipped: a node that does not understand a change must stop rather than differ from the others.

use std::net::{IpAddr, SocketAddr};

use crypto::Secret;
use crypto::cipher::{Cipher, Integ, Protection};
use crypto::kex::Group;
use crypto::prf::Prf;
use prost::Message;

use crate::policy::{IdKind, Identity, Selector};
use crate::types::{ChildSpi, Epoch, EspSeq, Incarnation, MessageId, Millis, Revision, Segment, Spi};

use super::*;

/// Octets that are no record of a version that we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError(pub &'static str);

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot decode: {}", self.0)
    }
}

impl std::error::Error for DecodeError {}

type Result<T> = std::result::Result<T, DecodeError>;

impl IkeRecord {
    pub fn encode(&self) -> Vec<u8> {
        pb::Ike::from(self).encode_to_vec()
    }

    pub fn decode(octets: &[u8]) -> Result<IkeRecord> {
        pb::Ike::decode(octets).map_err(|_| DecodeError("an IKE record"))?.try_into()
    }
}

impl Change {
    pub fn encode(&self) -> Vec<u8> {
        pb::Change::from(self).encode_to_vec()
    }

    pub fn decode(octets: &[u8]) -> Result<Change> {
        pb::Change::decode(octets).map_err(|_| DecodeError("a change"))?.try_into()
    }
}

pub(crate) mod pb;
mod steps;

/// A number on disk for each value of an enum, from one table: both directions, never reused.
macro_rules! numbered {
    ($to:ident, $from:ident, $type:ty { $($number:literal = $value:path),+ $(,)? }) => {
        fn $to(value: $type) -> u32 {
            match value { $($value => $number),+ }
        }
        fn $from(number: u32) -> Result<$type> {
            match number {
                $($number => Ok($value),)+
                _ => Err(DecodeError(concat!("an unknown ", stringify!($type)))),
            }
        }
    };
}

numbered!(cipher_number, cipher_of, Cipher {
    1 = Cipher::AesGcm128,
    2 = Cipher::AesGcm256,
    3 = Cipher::ChaCha20Poly1305,
    4 = Cipher::AesCbc128,
    5 = Cipher::AesCbc256,
});
numbered!(integ_number, integ_of, Integ {
    1 = Integ::HmacSha256_128,
    2 = Integ::HmacSha384_192,
    3 = Integ::HmacSha512_256,
});
numbered!(prf_number, prf_of, Prf { 1 = Prf::HmacSha256, 2 = Prf::HmacSha384, 3 = Prf::HmacSha512 });
numbered!(group_number, group_of, Group {
    14 = Group::Modp2048,
    15 = Group::Modp3072,
    16 = Group::Modp4096,
    19 = Group::Ecp256,
    20 = Group::Ecp384,
    31 = Group::Curve25519,
});
numbered!(id_number, id_of, IdKind {
    1 = IdKind::Ipv4,
    2 = IdKind::Fqdn,
    3 = IdKind::Rfc822,
    5 = IdKind::Ipv6,
    9 = IdKind::Dn,
    11 = IdKind::KeyId,
});
numbered!(why_number, why_of, Why {
    1 = Why::PeerDeleted,
    2 = Why::Terminated,
    3 = Why::Rekeyed,
    4 = Why::PeerSilent,
    5 = Why::Superseded,
    6 = Why::Expired,
    7 = Why::Unconfigured,
    8 = Why::Misbehaved,
});

pub(crate) fn need<T>(field: Option<T>, what: &'static str) -> Result<T> {
    field.ok_or(DecodeError(what))
}

pub(crate) fn secret(secret: &Secret) -> Vec<u8> {
    secret.as_bytes().to_vec()
}

fn ip_octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip(octets: &[u8]) -> Result<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Ok(v4.into());
    }
    <[u8; 16]>::try_from(octets).map(IpAddr::from).map_err(|_| DecodeError("an address"))
}

fn side(we: bool) -> Side {
    if we { Side::Us } else { Side::Peer }
}

fn address(address: SocketAddr) -> Option<pb::Address> {
    Some(pb::Address { ip: ip_octets(address.ip()), port: address.port().into() })
}

fn socket_address(address: Option<pb::Address>) -> Result<SocketAddr> {
    let address = need(address, "a path without an address")?;
    let port = u16::try_from(address.port).map_err(|_| DecodeError("a port"))?;
    Ok(SocketAddr::new(ip(&address.ip)?, port))
}

fn small<T: TryFrom<u32>>(number: u32) -> Result<T> {
    T::try_from(number).map_err(|_| DecodeError("a number out of range"))
}

impl From<&Identity> for pb::Id {
    fn from(id: &Identity) -> Self {
        pb::Id { kind: id_number(id.kind), data: id.data.clone() }
    }
}

impl TryFrom<pb::Id> for Identity {
    type Error = DecodeError;
    fn try_from(id: pb::Id) -> Result<Self> {
        Ok(Identity { kind: id_of(id.kind)?, data: id.data })
    }
}

impl From<&Path> for pb::Path {
    fn from(path: &Path) -> Self {
        pb::Path {
            local: address(path.local),
            peer: address(path.peer),
            peer_behind_nat: path.peer_behind_nat,
            we_behind_nat: path.we_behind_nat,
        }
    }
}

impl TryFrom<pb::Path> for Path {
    type Error = DecodeError;
    fn try_from(path: pb::Path) -> Result<Self> {
        Ok(Path {
            local: socket_address(path.local)?,
            peer: socket_address(path.peer)?,
            peer_behind_nat: path.peer_behind_nat,
            we_behind_nat: path.we_behind_nat,
        })
    }
}

fn protection(suite: &pb::Suite) -> Result<Protection> {
    let integ = if suite.integ == 0 { None } else { Some(integ_of(suite.integ)?) };
    Protection::new(cipher_of(suite.cipher)?, integ).ok_or(DecodeError("a cipher with a wrong integrity"))
}

fn optional_group(group: u32) -> Result<Option<Group>> {
    if group == 0 { Ok(None) } else { group_of(group).map(Some) }
}

impl From<&IkeSuite> for pb::Suite {
    fn from(suite: &IkeSuite) -> Self {
        pb::Suite {
            cipher: cipher_number(suite.protection.cipher()),
            integ: suite.protection.integ().map_or(0, integ_number),
            prf: prf_number(suite.prf),
            group: group_number(suite.group),
            esn: false,
        }
    }
}

impl TryFrom<pb::Suite> for IkeSuite {
    type Error = DecodeError;
    fn try_from(suite: pb::Suite) -> Result<Self> {
        Ok(IkeSuite {
            protection: protection(&suite)?,
            prf: prf_of(suite.prf)?,
            group: group_of(suite.group)?,
        })
    }
}

impl From<&EspSuite> for pb::Suite {
    fn from(suite: &EspSuite) -> Self {
        pb::Suite {
            cipher: cipher_number(suite.protection.cipher()),
            integ: suite.protection.integ().map_or(0, integ_number),
            prf: 0,
            group: suite.group.map_or(0, group_number),
            esn: suite.esn,
        }
    }
}

impl TryFrom<pb::Suite> for EspSuite {
    type Error = DecodeError;
    fn try_from(suite: pb::Suite) -> Result<Self> {
        Ok(EspSuite { protection: protection(&suite)?, esn: suite.esn, group: optional_group(suite.group)? })
    }
}

const LIVE: u32 = 1;
const REPLACED: u32 = 2;
const CLOSING: u32 = 3;

impl From<Phase> for pb::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Established => pb::Phase { kind: LIVE, successor: 0, why: 0 },
            Phase::Replaced { successor } => pb::Phase { kind: REPLACED, successor: successor.0, why: 0 },
            Phase::Closing { why } => pb::Phase { kind: CLOSING, successor: 0, why: why_number(why) },
        }
    }
}

impl TryFrom<pb::Phase> for Phase {
    type Error = DecodeError;
    fn try_from(phase: pb::Phase) -> Result<Self> {
        Ok(match phase.kind {
            LIVE => Phase::Established,
            REPLACED => Phase::Replaced { successor: Spi(phase.successor) },
            CLOSING => Phase::Closing { why: why_of(phase.why)? },
            _ => return Err(DecodeError("an unknown phase")),
        })
    }
}

impl From<ChildPhase> for pb::Phase {
    fn from(phase: ChildPhase) -> Self {
        match phase {
            ChildPhase::Live => pb::Phase { kind: LIVE, successor: 0, why: 0 },
            ChildPhase::Replaced => pb::Phase { kind: REPLACED, successor: 0, why: 0 },
            ChildPhase::Closing { why } => pb::Phase { kind: CLOSING, successor: 0, why: why_number(why) },
        }
    }
}

impl TryFrom<pb::Phase> for ChildPhase {
    type Error = DecodeError;
    fn try_from(phase: pb::Phase) -> Result<Self> {
        Ok(match phase.kind {
            LIVE => ChildPhase::Live,
            REPLACED => ChildPhase::Replaced,
            CLOSING => ChildPhase::Closing { why: why_of(phase.why)? },
            _ => return Err(DecodeError("an unknown phase")),
        })
    }
}

impl From<&IkeRecord> for pb::Ike {
    fn from(record: &IkeRecord) -> Self {
        let IkeKeys { d, ai, ar, ei, er, pi, pr } = &record.keys;
        pb::Ike {
            spi: record.spi.0,
            peer_spi: record.peer_spi.0,
            we_initiated: record.initiator == Side::Us,
            connection: record.connection.clone(),
            local_id: Some((&record.local_id).into()),
            peer_id: Some((&record.peer_id).into()),
            path: Some((&record.path).into()),
            suite: Some((&record.suite).into()),
            keys: [d, ai, ar, ei, er, pi, pr].map(secret).to_vec(),
            established_at: record.established_at.0,
            revision: record.revision.0,
            phase: Some(record.phase.into()),
            next_request: record.next_request.0,
            outstanding: record.outstanding.as_ref().map(Into::into),
            expected: record.expected.0,
            last_reply: record
                .last_reply
                .as_ref()
                .map(|reply| pb::Reply { message_id: reply.message_id.0, octets: reply.octets.clone() }),
            children: record.children.iter().map(Into::into).collect(),
            inner_addresses: record.inner_addresses.iter().map(|&ip| ip_octets(ip)).collect(),
            tfc_padding: record.peer_supports.tfc_padding,
            non_first_fragments: record.peer_supports.non_first_fragments,
        }
    }
}

impl TryFrom<pb::Ike> for IkeRecord {
    type Error = DecodeError;
    fn try_from(ike: pb::Ike) -> Result<Self> {
        let keys: [Vec<u8>; 7] = ike.keys.try_into().map_err(|_| DecodeError("seven IKE keys"))?;
        let [d, ai, ar, ei, er, pi, pr] = keys.map(Secret::from);
        Ok(IkeRecord {
            spi: Spi(ike.spi),
            peer_spi: Spi(ike.peer_spi),
            initiator: side(ike.we_initiated),
            connection: ike.connection,
            local_id: need(ike.local_id, "a local identity")?.try_into()?,
            peer_id: need(ike.peer_id, "a peer identity")?.try_into()?,
            path: need(ike.path, "a path")?.try_into()?,
            suite: need(ike.suite, "a suite")?.try_into()?,
            keys: IkeKeys { d, ai, ar, ei, er, pi, pr },
            established_at: Millis(ike.established_at),
            revision: Revision(ike.revision),
            phase: need(ike.phase, "a phase")?.try_into()?,
            next_request: MessageId(ike.next_request),
            outstanding: ike.outstanding.map(TryInto::try_into).transpose()?,
            expected: MessageId(ike.expected),
            last_reply: ike
                .last_reply
                .map(|reply| Reply { message_id: MessageId(reply.message_id), octets: reply.octets }),
            children: ike.children.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            inner_addresses: ike.inner_addresses.iter().map(|octets| ip(octets)).collect::<Result<_>>()?,
            peer_supports: PeerSupports {
                tfc_padding: ike.tfc_padding,
                non_first_fragments: ike.non_first_fragments,
            },
        })
    }
}

impl From<&Outstanding> for pb::Outstanding {
    fn from(outstanding: &Outstanding) -> Self {
        let (purpose, children, rekey) = match &outstanding.purpose {
            Purpose::Liveness => (1, Vec::new(), None),
            Purpose::DeleteIke => (2, Vec::new(), None),
            Purpose::DeleteChildren { spis_in } => (3, spis_in.iter().map(|spi| spi.0).collect(), None),
            Purpose::RekeyChild(rekey) => {
                let private = rekey.private.as_ref();
                let rekey = pb::Rekey {
                    old_spi: rekey.old_spi_in.0.into(),
                    new_spi: rekey.new_spi_in.0.into(),
                    nonce: rekey.nonce.clone(),
                    group: private.map_or(0, |(group, _)| group_number(*group)),
                    private: private.map_or(Vec::new(), |(_, key)| secret(key)),
                    crossed: rekey
                        .crossed
                        .as_ref()
                        .map(|(nonce, spi)| pb::Crossed { nonce: nonce.clone(), spi: spi.0.into() }),
                };
                (4, Vec::new(), Some(rekey))
            }
            Purpose::RekeyIke(rekey) => {
                let rekey = pb::Rekey {
                    old_spi: 0,
                    new_spi: rekey.new_spi.0,
                    nonce: rekey.nonce.clone(),
                    group: group_number(rekey.private.0),
                    private: secret(&rekey.private.1),
                    crossed: rekey
                        .crossed
                        .as_ref()
                        .map(|(nonce, spi)| pb::Crossed { nonce: nonce.clone(), spi: spi.0 }),
                };
                (5, Vec::new(), Some(rekey))
            }
        };
        pb::Outstanding {
            message_id: outstanding.message_id.0,
            octets: outstanding.octets.clone(),
            purpose,
            children,
            rekey,
        }
    }
}

impl TryFrom<pb::Outstanding> for Outstanding {
    type Error = DecodeError;
    fn try_from(outstanding: pb::Outstanding) -> Result<Self> {
        let rekey = outstanding.rekey.ok_or(DecodeError("a rekey"));
        let purpose = match outstanding.purpose {
            1 => Purpose::Liveness,
            2 => Purpose::DeleteIke,
            3 => {
                Purpose::DeleteChildren { spis_in: outstanding.children.into_iter().map(ChildSpi).collect() }
            }
            4 => {
                let rekey = rekey?;
                let private = optional_group(rekey.group)?.map(|group| (group, Secret::from(rekey.private)));
                Purpose::RekeyChild(Box::new(ChildRekey {
                    old_spi_in: child_spi(rekey.old_spi)?,
                    new_spi_in: child_spi(rekey.new_spi)?,
                    nonce: rekey.nonce,
                    private,
                    crossed: rekey
                        .crossed
                        .map(|crossed| Ok((crossed.nonce, child_spi(crossed.spi)?)))
                        .transpose()?,
                }))
            }
            5 => {
                let rekey = rekey?;
                Purpose::RekeyIke(Box::new(IkeRekey {
                    new_spi: Spi(rekey.new_spi),
                    nonce: rekey.nonce,
                    private: (group_of(rekey.group)?, Secret::from(rekey.private)),
                    crossed: rekey.crossed.map(|crossed| (crossed.nonce, Spi(crossed.spi))),
                }))
            }
            _ => return Err(DecodeError("an unknown purpose")),
        };
        Ok(Outstanding { message_id: MessageId(outstanding.message_id), octets: outstanding.octets, purpose })
    }
}

fn child_spi(number: u64) -> Result<ChildSpi> {
    u32::try_from(number).map(ChildSpi).map_err(|_| DecodeError("a child SPI"))
}

impl From<&Selector> for pb::Selector {
    fn from(selector: &Selector) -> Self {
        pb::Selector {
            protocol: selector.protocol.into(),
            start_port: selector.start_port.into(),
            end_port: selector.end_port.into(),
            start: ip_octets(selector.start),
            end: ip_octets(selector.end),
        }
    }
}

impl TryFrom<pb::Selector> for Selector {
    type Error = DecodeError;
    fn try_from(selector: pb::Selector) -> Result<Self> {
        Ok(Selector {
            protocol: small(selector.protocol)?,
            start_port: small(selector.start_port)?,
            end_port: small(selector.end_port)?,
            start: ip(&selector.start)?,
            end: ip(&selector.end)?,
        })
    }
}

impl From<&ChildRecord> for pb::Child {
    fn from(child: &ChildRecord) -> Self {
        let ChildKeys { encr_in, integ_in, encr_out, integ_out } = &child.keys;
        pb::Child {
            name: child.name.clone(),
            spi_in: child.spi_in.0,
            spi_out: child.spi_out.0,
            suite: Some((&child.suite).into()),
            keys: [encr_in, integ_in, encr_out, integ_out].map(secret).to_vec(),
            local_ts: child.local_ts.iter().map(Into::into).collect(),
            remote_ts: child.remote_ts.iter().map(Into::into).collect(),
            established_at: child.established_at.0,
            phase: Some(child.phase.into()),
            we_initiated: child.initiator == Side::Us,
            replaces: child.replaces.map_or(0, |spi| spi.0),
            block_epoch: child.block.epoch.0,
            block_first: child.block.first.0,
            block_last: child.block.last.0,
            granted: child.granted.0,
            claimed: child
                .claimed
                .map(|Claimed { floor, ceiling }| pb::Claimed { floor: floor.0, ceiling: ceiling.0 }),
        }
    }
}

impl TryFrom<pb::Child> for ChildRecord {
    type Error = DecodeError;
    fn try_from(child: pb::Child) -> Result<Self> {
        let keys: [Vec<u8>; 4] = child.keys.try_into().map_err(|_| DecodeError("four ESP keys"))?;
        let [encr_in, integ_in, encr_out, integ_out] = keys.map(Secret::from);
        Ok(ChildRecord {
            name: child.name,
            spi_in: ChildSpi(child.spi_in),
            spi_out: ChildSpi(child.spi_out),
            suite: need(child.suite, "a suite")?.try_into()?,
            keys: ChildKeys { encr_in, integ_in, encr_out, integ_out },
            local_ts: child.local_ts.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            remote_ts: child.remote_ts.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            established_at: Millis(child.established_at),
            phase: need(child.phase, "a phase")?.try_into()?,
            initiator: side(child.we_initiated),
            replaces: (child.replaces != 0).then_some(ChildSpi(child.replaces)),
            block: Block {
                epoch: Epoch(child.block_epoch),
                first: EspSeq(child.block_first),
                last: EspSeq(child.block_last),
            },
            granted: EspSeq(child.granted),
            claimed: child.claimed.map(|it| Claimed { floor: EspSeq(it.floor), ceiling: EspSeq(it.ceiling) }),
        })
    }
}
