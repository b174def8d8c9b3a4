//! Security Association (RFC 7296, 3.3): what may protect an SA.
//!
//! ```text
//!   SA ─ Proposal (last 0/2, length, number, protocol, SPI size, transforms, SPI)
//!          └ Transform (last 0/3, length, type, id)
//!               └ Attribute (kind with the TV bit, value or length and value)
//! ```
//!
//! Lengths, counts and the "last" markers all have to agree. What a transform means to us is asked for with the
//! conversions at the end: a transform that we do not know gives `None` and is simply never chosen.

use crypto::cipher::{Cipher, Integ, Protection};
use crypto::kex::Group;
use crypto::prf::Prf;

use super::error::Malformed;
use super::reader::{Reader, put_length};
use super::registry::{EncrId, GroupId, IntegId, PrfId, ProtocolId, SnId, TransformType};
use crate::limits::{PROPOSALS_MAX, TRANSFORM_ATTRIBUTES_MAX, TRANSFORMS_MAX};
use crate::policy::{EspProposal, IkeProposal};
use crate::spec::{CHILD_SPI_LEN, IKE_SPI_LEN};
use crate::types::{ChildSpi, Spi};

const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;
const LAST: u8 = 0;
const PROPOSAL_HEADER_LEN: usize = 8;
const TRANSFORM_HEADER_LEN: usize = 8;
const TV: u16 = 0x8000;
const KEY_LENGTH: u16 = 14;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sa {
    pub proposals: Vec<Proposal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// 1, 2, 3 … in an offer; in an answer the number of the proposal that was taken.
    pub number: u8,
    pub protocol: ProtocolId,
    /// Empty for the IKE SA of the initial exchange, 8 octets in an IKE rekey, 4 for ESP.
    pub spi: Vec<u8>,
    pub transforms: Vec<Transform>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    pub kind: TransformType,
    pub id: u16,
    pub attributes: Vec<Attribute>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Bits of a variable-length key.
    KeyLength(u16),
    /// Two octets of a kind that we do not know.
    Short { kind: u16, value: u16 },
    /// Any number of octets of a kind that we do not know.
    Long { kind: u16, value: Vec<u8> },
}

impl Sa {
    pub fn new(proposals: Vec<Proposal>) -> Sa {
        Sa { proposals }
    }

    /// An answer: the one proposal that was taken.
    pub fn answer(proposal: Proposal) -> Sa {
        Sa { proposals: vec![proposal] }
    }

    /// The only proposal of an answer; `None` when there is not exactly one.
    pub fn accepted(&self) -> Option<&Proposal> {
        match self.proposals.as_slice() {
            [proposal] => Some(proposal),
            _ => None,
        }
    }

    /// True when this answer takes one proposal of `offer`: the same number and protocol, and of each transform type
    /// in it exactly one transform, which was offered with the same attributes (RFC 7296, 3.3.6).
    //= IK-39
    pub fn answers(&self, offer: &Sa) -> bool {
        let Some(taken) = self.accepted() else { return false };
        let Some(offered) = offer.proposals.iter().find(|proposal| proposal.number == taken.number) else {
            return false;
        };
        let kinds = |proposal: &Proposal| {
            let mut kinds: Vec<_> = proposal.transforms.iter().map(|transform| transform.kind).collect();
            kinds.sort();
            kinds
        };
        let (taken_kinds, mut offered_kinds) = (kinds(taken), kinds(offered));
        offered_kinds.dedup();
        // A type that was only offered as "or none" may be left out.
        offered_kinds.retain(|&kind| {
            taken_kinds.contains(&kind) || !offered.of(kind).any(|transform| transform.is_none())
        });
        taken.protocol == offered.protocol
            && taken.spi.len() == offered.spi.len()
            && taken_kinds == offered_kinds
            && taken.transforms.iter().all(|transform| offered.transforms.contains(transform))
    }

    //= IK-6
    //= IK-35
    pub fn parse(body: &[u8]) -> Result<Sa, Malformed> {
        let mut reader = Reader::new(body);
        let mut proposals = Vec::new();
        loop {
            let (more, proposal) = Proposal::parse(&mut reader)?;
            if usize::from(proposal.number) != proposals.len() + 1 && !(proposals.is_empty() && !more) {
                return Err(Malformed("proposals are not numbered 1, 2, 3"));
            }
            proposals.push(proposal);
            if !more {
                break;
            }
            if proposals.len() == PROPOSALS_MAX {
                return Err(Malformed("too many proposals"));
            }
        }
        reader.end()?;
        Ok(Sa { proposals })
    }

    //= IK-35
    pub fn emit(&self, out: &mut Vec<u8>) {
        for (index, proposal) in self.proposals.iter().enumerate() {
            proposal.emit(index + 1 < self.proposals.len(), out);
        }
    }
}

impl Proposal {
    /// What we offer or take for an IKE SA. `spi` is ours in an IKE rekey, `None` in the initial exchange.
    pub fn ike(number: u8, spi: Option<Spi>, suite: &IkeProposal) -> Proposal {
        let mut transforms = of_protection(suite.protection);
        transforms.push(Transform::prf(suite.prf));
        transforms.push(Transform::group(suite.group));
        let spi = spi.map(|spi| spi.0.to_be_bytes().to_vec()).unwrap_or_default();
        Proposal { number, protocol: ProtocolId::IKE, spi, transforms }
    }

    /// What we offer for a child SA: both kinds of sequence numbers when `suite.esn` leaves it open. `with_group` is
    /// false in IKE_AUTH, where no key exchange can go along.
    pub fn esp(number: u8, spi: ChildSpi, suite: &EspProposal, with_group: bool) -> Proposal {
        let mut transforms = of_protection(suite.protection);
        transforms.extend(suite.group.filter(|_| with_group).map(Transform::group));
        match suite.esn {
            Some(esn) => transforms.push(Transform::esn(esn)),
            None => transforms.extend([Transform::esn(true), Transform::esn(false)]),
        }
        Proposal { number, protocol: ProtocolId::ESP, spi: spi.0.to_be_bytes().to_vec(), transforms }
    }

    /// The same with another SPI: how an answer is made of what was chosen.
    #[must_use]
    pub fn with_spi(mut self, spi: impl Into<Vec<u8>>) -> Proposal {
        self.spi = spi.into();
        self
    }

    /// The SPI of a child SA, unless it is reserved.
    pub fn child_spi(&self) -> Option<ChildSpi> {
        let octets: [u8; CHILD_SPI_LEN] = self.spi.as_slice().try_into().ok()?;
        let spi = u32::from_be_bytes(octets);
        (spi >= ChildSpi::FIRST).then_some(ChildSpi(spi))
    }

    /// The SPI of an IKE SA in a rekey, unless it is zero.
    pub fn ike_spi(&self) -> Option<Spi> {
        let octets: [u8; IKE_SPI_LEN] = self.spi.as_slice().try_into().ok()?;
        let spi = Spi(u64::from_be_bytes(octets));
        (!spi.is_zero()).then_some(spi)
    }

    /// The transforms of one type, in the sender's order.
    pub fn of(&self, kind: TransformType) -> impl Iterator<Item = &Transform> {
        self.transforms.iter().filter(move |transform| transform.kind == kind)
    }

    /// True when it has transforms of this type.
    pub fn has(&self, kind: TransformType) -> bool {
        self.of(kind).next().is_some()
    }

    /// The only transform of a type, as in an answer; `None` when there is none or a choice.
    pub fn single(&self, kind: TransformType) -> Option<&Transform> {
        let mut all = self.of(kind);
        let first = all.next()?;
        all.next().is_none().then_some(first)
    }

    fn parse(reader: &mut Reader<'_>) -> Result<(bool, Proposal), Malformed> {
        let more = marker(reader.u8()?, MORE_PROPOSALS)?;
        reader.u8()?;
        let length = usize::from(reader.u16()?);
        let body_len = length.checked_sub(4).ok_or(Malformed("proposal length below its header"))?;
        let mut body = Reader::new(reader.take(body_len)?);
        let number = body.u8()?;
        let protocol = ProtocolId(body.u8()?);
        let spi_len = usize::from(body.u8()?);
        let count = usize::from(body.u8()?);
        let fits = match protocol {
            ProtocolId::IKE => spi_len == 0 || spi_len == IKE_SPI_LEN,
            ProtocolId::ESP | ProtocolId::AH => spi_len == CHILD_SPI_LEN,
            _ => true,
        };
        if !fits {
            return Err(Malformed("SPI size does not fit the protocol"));
        }
        let spi = body.take(spi_len)?.to_vec();
        if count > TRANSFORMS_MAX {
            return Err(Malformed("too many transforms"));
        }
        let mut transforms = Vec::with_capacity(count);
        for index in 0..count {
            let (more, transform) = Transform::parse(&mut body)?;
            if more != (index + 1 < count) {
                return Err(Malformed("last transform is not where the count says"));
            }
            transforms.push(transform);
        }
        body.end()?;
        Ok((more, Proposal { number, protocol, spi, transforms }))
    }

    fn emit(&self, more: bool, out: &mut Vec<u8>) {
        let from = out.len();
        let spi_len = u8::try_from(self.spi.len()).expect("an SPI has eight octets at most");
        let count =
            u8::try_from(self.transforms.len()).expect("a proposal has at most TRANSFORMS_MAX transforms");
        out.extend([if more { MORE_PROPOSALS } else { LAST }, 0, 0, 0]);
        out.extend([self.number, self.protocol.0, spi_len, count]);
        debug_assert_eq!(out.len() - from, PROPOSAL_HEADER_LEN);
        out.extend(&self.spi);
        for (index, transform) in self.transforms.iter().enumerate() {
            transform.emit(index + 1 < self.transforms.len(), out);
        }
        put_length(out, from, from + 2);
    }
}

impl Transform {
    pub fn new(kind: TransformType, id: u16) -> Transform {
        Transform { kind, id, attributes: Vec::new() }
    }

    pub fn encr(cipher: Cipher) -> Transform {
        let (id, key_length) = EncrId::of(cipher);
        let attributes = key_length.map(Attribute::KeyLength).into_iter().collect();
        Transform { kind: TransformType::ENCR, id: id.0, attributes }
    }

    pub fn prf(prf: Prf) -> Transform {
        Transform::new(TransformType::PRF, PrfId::of(prf).0)
    }

    pub fn integ(integ: Integ) -> Transform {
        Transform::new(TransformType::INTEG, IntegId::of(integ).0)
    }

    pub fn group(group: Group) -> Transform {
        Transform::new(TransformType::KE, GroupId::of(group).0)
    }

    pub fn esn(esn: bool) -> Transform {
        Transform::new(TransformType::SN, if esn { SnId::ESN } else { SnId::NO_ESN }.0)
    }

    /// True for "none" of a type that has such a value: integrity and key exchange.
    pub fn is_none(&self) -> bool {
        let has_none = self.kind == TransformType::INTEG
            || self.kind == TransformType::KE
            || (TransformType::ADDKE1..=TransformType::ADDKE7).contains(&self.kind);
        has_none && self.id == 0 && self.attributes.is_empty()
    }

    //= IK-33
    //= IK-34
    pub fn as_cipher(&self) -> Option<Cipher> {
        let key_length = match self.attributes.as_slice() {
            [] => None,
            [Attribute::KeyLength(bits)] => Some(*bits),
            _ => return None,
        };
        EncrId(self.id).cipher(key_length).filter(|_| self.kind == TransformType::ENCR)
    }

    pub fn as_prf(&self) -> Option<Prf> {
        PrfId(self.plain(TransformType::PRF)?).prf()
    }

    pub fn as_integ(&self) -> Option<Integ> {
        IntegId(self.plain(TransformType::INTEG)?).integ()
    }

    pub fn as_group(&self) -> Option<Group> {
        GroupId(self.plain(TransformType::KE)?).group()
    }

    pub fn as_esn(&self) -> Option<bool> {
        match SnId(self.plain(TransformType::SN)?) {
            SnId::NO_ESN => Some(false),
            SnId::ESN => Some(true),
            _ => None,
        }
    }

    /// The id, when it is of this type and has no attribute: an attribute that we do not know changes the meaning.
    //= IK-33
    fn plain(&self, kind: TransformType) -> Option<u16> {
        (self.kind == kind && self.attributes.is_empty()).then_some(self.id)
    }

    fn parse(reader: &mut Reader<'_>) -> Result<(bool, Transform), Malformed> {
        let more = marker(reader.u8()?, MORE_TRANSFORMS)?;
        reader.u8()?;
        let length = usize::from(reader.u16()?);
        let body_len = length.checked_sub(4).ok_or(Malformed("transform length below its header"))?;
        let mut body = Reader::new(reader.take(body_len)?);
        let kind = TransformType(body.u8()?);
        body.u8()?;
        let id = body.u16()?;
        let mut attributes = Vec::new();
        while !body.is_empty() {
            if attributes.len() == TRANSFORM_ATTRIBUTES_MAX {
                return Err(Malformed("too many attributes"));
            }
            attributes.push(Attribute::parse(&mut body)?);
        }
        Ok((more, Transform { kind, id, attributes }))
    }

    fn emit(&self, more: bool, out: &mut Vec<u8>) {
        let from = out.len();
        out.extend([if more { MORE_TRANSFORMS } else { LAST }, 0, 0, 0, self.kind.0, 0]);
        out.extend(self.id.to_be_bytes());
        debug_assert_eq!(out.len() - from, TRANSFORM_HEADER_LEN);
        for attribute in &self.attributes {
            attribute.emit(out);
        }
        put_length(out, from, from + 2);
    }
}

impl Attribute {
    fn parse(reader: &mut Reader<'_>) -> Result<Attribute, Malformed> {
        let kind = reader.u16()?;
        if kind & TV != 0 {
            let value = reader.u16()?;
            return Ok(match kind & !TV {
                KEY_LENGTH => Attribute::KeyLength(value),
                kind => Attribute::Short { kind, value },
            });
        }
        let length = usize::from(reader.u16()?);
        Ok(Attribute::Long { kind, value: reader.take(length)?.to_vec() })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Attribute::KeyLength(bits) => {
                out.extend((TV | KEY_LENGTH).to_be_bytes());
                out.extend(bits.to_be_bytes());
            }
            Attribute::Short { kind, value } => {
                out.extend((TV | kind).to_be_bytes());
                out.extend(value.to_be_bytes());
            }
            Attribute::Long { kind, value } => {
                let length = u16::try_from(value.len()).expect("it came out of a 16-bit length");
                out.extend((kind & !TV).to_be_bytes());
                out.extend(length.to_be_bytes());
                out.extend(value);
            }
        }
    }
}

/// Encryption, and integrity where the cipher has none of its own: an AEAD goes without the transform.
//= IK-36
fn of_protection(protection: Protection) -> Vec<Transform> {
    let integ = protection.integ().map(Transform::integ);
    std::iter::once(Transform::encr(protection.cipher())).chain(integ).collect()
}

fn marker(octet: u8, more: u8) -> Result<bool, Malformed> {
    match octet {
        LAST => Ok(false),
        octet if octet == more => Ok(true),
        _ => Err(Malformed("unknown last-substructure marker")),
    }
}
