//! The whole state as a stream of records, and the digest over them.
//!
//! ```text
//!   header  cluster  member*  segment*  ike*  lease*  configuration*  cookies  farewell*  token*  end
//!           '----------------- the digest is over these -----------------------------------'
//! ```
//!
//! Each record is an octet of format version and a protobuf (tags are never used again), tables in the order above
//! and sorted within, so equal states have equal octets. `header` has the applied index, `end` the number of records
//! and the digest. A reader computes the digest anew from what it understood: anything cut off, damaged, skipped or
//! unknown shows. Sealing and files are the store's matter; records are handed over one by one.

use std::io::{self, Read, Write};

use crypto::Secret;
use crypto::hash::sha256;
use ipsec::policy::{IdKind, Identity};
use ipsec::record::IkeRecord;
use ipsec::types::{Epoch, Incarnation, Millis, Segment, Spi};
use prost::Message;

use super::State;
use super::codec::{self, DecodeError, FORMAT, Result, need, strip_format};
use super::config::Configuration;
use super::cookies::Cookies;
use super::limits::SNAPSHOT_RECORD_LEN_MAX;
use super::members::{Member, NodeId};
use super::pools::{Lease, Tenure};
use super::segments::{Grant, Owner};
use super::tokens::{Token, TokenId};
use super::version::Cluster;

/// Why octets are no snapshot of ours.
#[derive(Debug)]
pub enum SnapshotError {
    Io(io::Error),
    Decode(DecodeError),
    /// It ends before its end, or goes on behind it, or is in another order.
    Incomplete,
    /// An invariant that this state breaks.
    Unsound(&'static str),
    /// It is not the state that was written.
    DigestDiffers,
}

impl State {
    /// Nodes with the same applied index have the same digest (I10). It leaves out the applied index, so that what
    /// changes nothing does not change it. Reads the whole state: a matter of milliseconds per thousand SAs.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Digest::default();
        self.body().for_each(|record| digest.add(&record));
        digest.finish()
    }

    /// The records of a snapshot, in order. They hold keys in clear: whoever stores or sends them seals them.
    pub fn snapshot(&self) -> impl Iterator<Item = Vec<u8>> {
        let mut digest = Digest::default();
        let mut body = self.body();
        let mut records: u64 = 0;
        let mut ended = false;
        let header = octets(pb::Kind::Header(pb::Header { applied: self.applied }));
        std::iter::once(header).chain(std::iter::from_fn(move || {
            if let Some(record) = body.next() {
                digest.add(&record);
                records += 1;
                return Some(record);
            }
            let end = pb::End { records, digest: std::mem::take(&mut digest).finish().to_vec() };
            (!std::mem::replace(&mut ended, true)).then(|| octets(pb::Kind::End(end)))
        }))
    }

    /// Writes the records, each behind its length (four octets, big-endian).
    pub fn encode_snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        for record in self.snapshot() {
            let len = u32::try_from(record.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            out.write_all(&len.to_be_bytes())?;
            out.write_all(&record)?;
        }
        Ok(())
    }

    /// Reads what `encode_snapshot` wrote, up to its end record.
    pub fn decode_snapshot(input: &mut dyn Read) -> std::result::Result<State, SnapshotError> {
        let mut decoder = SnapshotDecoder::default();
        while !decoder.is_complete() {
            let mut len = [0; 4];
            input.read_exact(&mut len)?;
            let len = u32::from_be_bytes(len) as usize;
            if len > SNAPSHOT_RECORD_LEN_MAX {
                return Err(SnapshotError::Decode(DecodeError::Malformed("a record longer than any")));
            }
            let mut record = vec![0; len];
            input.read_exact(&mut record)?;
            decoder.push(&record)?;
        }
        decoder.finish()
    }

    fn body(&self) -> impl Iterator<Item = Vec<u8>> {
        let cluster = self.cluster.iter().map(|it| pb::Kind::Cluster(it.into()));
        let members = self.members.iter().map(|it| pb::Kind::Member(it.into()));
        let segments = self.segments.assigned().map(|it| pb::Kind::Segment(it.into()));
        let sas = self.sas.iter().map(|it| pb::Kind::Ike(it.encode()));
        let leases = self.leases.iter().map(|it| pb::Kind::Lease(it.into()));
        let history = self.configurations.history().map(|it| pb::Kind::Configuration((&**it).into()));
        let cookies = std::iter::once_with(|| pb::Kind::Cookies((&self.cookies).into()));
        let farewells = self.farewells.iter().map(|it| pb::Kind::Farewell(it.into()));
        let tokens = self.tokens.iter().map(|it| pb::Kind::Token(it.into()));
        cluster
            .chain(members)
            .chain(segments)
            .chain(sas)
            .chain(leases)
            .chain(history)
            .chain(cookies)
            .chain(farewells)
            .chain(tokens)
            .map(octets)
    }
}

/// Takes the records of a snapshot one by one.
#[derive(Debug, Default)]
pub struct SnapshotDecoder {
    state: State,
    records: u64,
    place: Place,
    digest: [u8; 32],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    Body,
    End,
}

impl SnapshotDecoder {
    pub fn is_complete(&self) -> bool {
        self.place == Place::End
    }

    pub fn push(&mut self, record: &[u8]) -> std::result::Result<(), SnapshotError> {
        let message = strip_format(record)?;
        let message = pb::Record::decode(message).map_err(|_| DecodeError::Malformed("a snapshot record"))?;
        match (self.place, message.kind.ok_or(DecodeError::Unknown)?) {
            (Place::Start, pb::Kind::Header(header)) => {
                self.state.applied = header.applied;
                self.place = Place::Body;
            }
            (Place::Body, pb::Kind::End(end)) => {
                if end.records != self.records {
                    return Err(SnapshotError::Incomplete);
                }
                self.digest = end.digest.try_into().map_err(|_| DecodeError::Malformed("a digest"))?;
                self.place = Place::End;
            }
            (Place::Body, kind) => {
                self.records += 1;
                self.restore(kind)?;
            }
            (Place::Start | Place::End, _) => return Err(SnapshotError::Incomplete),
        }
        Ok(())
    }

    pub fn finish(self) -> std::result::Result<State, SnapshotError> {
        if self.place != Place::End {
            return Err(SnapshotError::Incomplete);
        }
        self.state.check().map_err(SnapshotError::Unsound)?;
        if self.state.digest() != self.digest {
            return Err(SnapshotError::DigestDiffers);
        }
        Ok(self.state)
    }

    fn restore(&mut self, kind: pb::Kind) -> std::result::Result<(), SnapshotError> {
        let state = &mut self.state;
        let sound = match kind {
            pb::Kind::Header(_) | pb::Kind::End(_) => return Err(SnapshotError::Incomplete),
            pb::Kind::Cluster(it) => match state.cluster.replace(it.try_into()?) {
                None => Ok(()),
                Some(_) => Err("two clusters"),
            },
            pb::Kind::Member(it) => state.members.restore(it.try_into()?),
            pb::Kind::Token(it) => state.tokens.restore(it.try_into()?),
            pb::Kind::Segment(it) => {
                let (segment, grant) = it.try_into()?;
                state.segments.restore(segment, grant)
            }
            pb::Kind::Ike(it) => state.sas.restore(IkeRecord::decode(&it).map_err(DecodeError::from)?),
            pb::Kind::Lease(it) => state.leases.restore(it.try_into()?),
            pb::Kind::Configuration(it) => state.configurations.restore(it.into()),
            pb::Kind::Cookies(it) => {
                state.cookies = it.into();
                Ok(())
            }
            pb::Kind::Farewell(it) => state.farewells.restore(it.index, it.into()),
        };
        sound.map_err(SnapshotError::Unsound)
    }
}

/// Hash of the hashes of the records, so that their boundaries count too.
#[derive(Default)]
struct Digest(Vec<u8>);

impl Digest {
    fn add(&mut self, record: &[u8]) {
        self.0.extend_from_slice(&sha256(&[record]));
    }

    fn finish(self) -> [u8; 32] {
        sha256(&[&self.0])
    }
}

fn octets(kind: pb::Kind) -> Vec<u8> {
    let message = pb::Record { kind: Some(kind) };
    let mut octets = Vec::with_capacity(1 + message.encoded_len());
    octets.push(FORMAT);
    message.encode_raw(&mut octets);
    octets
}

pub(super) mod pb;

impl From<&Cluster> for pb::Cluster {
    fn from(it: &Cluster) -> Self {
        let created_at = it.created_at.0;
        pb::Cluster {
            name: it.name.clone(),
            id: it.id.0.to_vec(),
            created_at,
            version: it.version,
            authority: Some((&it.authority).into()),
        }
    }
}

impl TryFrom<pb::Cluster> for Cluster {
    type Error = DecodeError;
    fn try_from(it: pb::Cluster) -> Result<Self> {
        let id = codec::cluster_id(&it.id)?;
        let authority = need(it.authority, "an authority")?.into();
        Ok(Cluster { name: it.name, id, created_at: Millis(it.created_at), version: it.version, authority })
    }
}

impl From<&Member> for pb::Member {
    fn from(it: &Member) -> Self {
        pb::Member {
            id: it.id.0,
            name: it.name.clone(),
            address: it.address.clone(),
            software: it.software.clone(),
            speaks: it.speaks,
            incarnation: it.incarnation.0,
            joined_at: it.joined_at.0,
            started_at: it.started_at.0,
            draining: it.draining as u32,
            standing: it.standing,
            taken_at: it.taken_at,
            key: it.key.0.to_vec(),
            suffrage: it.suffrage as u32,
            replaces: it.replaces.map(|node| node.0),
            cut_off: it.cut_off,
        }
    }
}

impl TryFrom<pb::Member> for Member {
    type Error = DecodeError;
    fn try_from(it: pb::Member) -> Result<Self> {
        Ok(Member {
            id: NodeId(it.id),
            name: it.name,
            address: it.address,
            software: it.software,
            speaks: it.speaks,
            incarnation: Incarnation(it.incarnation),
            joined_at: Millis(it.joined_at),
            started_at: Millis(it.started_at),
            draining: codec::draining(it.draining)?,
            standing: it.standing,
            taken_at: it.taken_at,
            key: codec::key_hash(&it.key)?,
            suffrage: codec::suffrage(it.suffrage)?,
            replaces: it.replaces.map(NodeId),
            cut_off: it.cut_off,
        })
    }
}

impl From<&Token> for pb::Token {
    fn from(it: &Token) -> Self {
        pb::Token {
            id: it.id.0,
            proof: it.proof.0.to_vec(),
            role: it.role as u32,
            uses_left: it.uses_left,
            created_at: it.created_at.0,
            expires_at: it.expires_at.0,
        }
    }
}

impl TryFrom<pb::Token> for Token {
    type Error = DecodeError;
    fn try_from(it: pb::Token) -> Result<Self> {
        Ok(Token {
            id: TokenId(it.id),
            proof: codec::token_proof(&it.proof)?,
            role: codec::suffrage(it.role)?,
            uses_left: it.uses_left,
            created_at: Millis(it.created_at),
            expires_at: Millis(it.expires_at),
        })
    }
}

impl From<(Segment, Grant)> for pb::Segment {
    fn from((segment, grant): (Segment, Grant)) -> Self {
        let owner = |it: Owner| pb::Owner { node: it.node.0, incarnation: it.incarnation.0 };
        pb::Segment {
            segment: segment.0.into(),
            state: grant.state as u32,
            owner: grant.owner.map(owner),
            standby: grant.standby.map(|node| node.0),
            epoch: grant.epoch.0,
            cause: grant.cause as u32,
            since: grant.since.0,
            silent_ms: grant.silent_ms,
        }
    }
}

impl TryFrom<pb::Segment> for (Segment, Grant) {
    type Error = DecodeError;
    fn try_from(it: pb::Segment) -> Result<Self> {
        let owner = |it: pb::Owner| Owner { node: NodeId(it.node), incarnation: Incarnation(it.incarnation) };
        let grant = Grant {
            state: codec::segment_state(it.state)?,
            owner: it.owner.map(owner),
            standby: it.standby.map(NodeId),
            epoch: Epoch(it.epoch),
            cause: codec::cause(it.cause)?,
            since: Millis(it.since),
            silent_ms: it.silent_ms,
        };
        Ok((codec::segment(it.segment)?, grant))
    }
}

impl From<&Lease> for pb::Lease {
    fn from(it: &Lease) -> Self {
        let address = match it.address {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let (held_by, released) = match it.tenure {
            Tenure::Held(spi) => (spi.0, 0),
            Tenure::Released(index) => (0, index),
        };
        pb::Lease { address, peer_kind: it.peer.kind as u32, peer: it.peer.data.clone(), held_by, released }
    }
}

impl TryFrom<pb::Lease> for Lease {
    type Error = DecodeError;
    fn try_from(it: pb::Lease) -> Result<Self> {
        const KINDS: [IdKind; 6] =
            [IdKind::Ipv4, IdKind::Fqdn, IdKind::Rfc822, IdKind::Ipv6, IdKind::Dn, IdKind::KeyId];
        let address = match (<[u8; 4]>::try_from(&it.address[..]), <[u8; 16]>::try_from(&it.address[..])) {
            (Ok(v4), _) => v4.into(),
            (_, Ok(v6)) => v6.into(),
            _ => return Err(DecodeError::Malformed("an address")),
        };
        let kind = KINDS.into_iter().find(|&kind| kind as u32 == it.peer_kind);
        let kind = need(kind, "an unknown kind of identity")?;
        let tenure =
            if it.held_by == 0 { Tenure::Released(it.released) } else { Tenure::Held(Spi(it.held_by)) };
        Ok(Lease { address, peer: Identity { kind, data: it.peer }, tenure })
    }
}

impl From<&Configuration> for pb::Configuration {
    fn from(it: &Configuration) -> Self {
        pb::Configuration {
            revision: it.revision,
            toml: it.toml.clone(),
            files: codec::files(&it.files),
            comment: it.comment.clone(),
            at: it.at.0,
            by: it.by.clone(),
        }
    }
}

impl From<pb::Configuration> for Configuration {
    fn from(it: pb::Configuration) -> Self {
        Configuration {
            revision: it.revision,
            toml: it.toml,
            files: codec::secrets(it.files),
            comment: it.comment,
            at: Millis(it.at),
            by: it.by,
        }
    }
}

impl From<&Cookies> for pb::Cookies {
    fn from(it: &Cookies) -> Self {
        let secret = |secret: &Secret| secret.as_bytes().to_vec();
        pb::Cookies {
            version: it.version,
            current: it.current.as_ref().map(secret),
            previous: it.previous.as_ref().map(secret),
            rotated_at: it.rotated_at.0,
        }
    }
}

impl From<pb::Cookies> for Cookies {
    fn from(it: pb::Cookies) -> Self {
        Cookies {
            version: it.version,
            current: it.current.map(Secret::from),
            previous: it.previous.map(Secret::from),
            rotated_at: Millis(it.rotated_at),
        }
    }
}

impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> Self {
        SnapshotError::Io(error)
    }
}

impl From<DecodeError> for SnapshotError {
    fn from(error: DecodeError) -> Self {
        SnapshotError::Decode(error)
    }
}

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SnapshotError::Io(error) => error.fmt(f),
            SnapshotError::Decode(error) => error.fmt(f),
            SnapshotError::Incomplete => f.write_str("the snapshot is cut off or out of order"),
            SnapshotError::Unsound(what) => write!(f, "the snapshot has {what}"),
            SnapshotError::DigestDiffers => f.write_str("the snapshot is not what was written"),
        }
    }
}

impl std::error::Error for SnapshotError {}
