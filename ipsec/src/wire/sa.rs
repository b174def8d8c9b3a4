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
            // The only proposal of an answer has the number of the one that it takes.
            let is_answer = proposals.is_empty() && !more;
            if !is_answer && usize::from(proposal.number) != proposals.len() + 1 {
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

#[cfg(test)]
mod tests {
    use super::*;

    const AES: &str = "0300000c 0100000c 800e0100"; // AES-CBC-256, more follow
    const DH: &str = "00000008 04000013"; // group 19, the last

    fn parse(text: &str) -> Result<Sa, Malformed> {
        Sa::parse(&hex::decode(text.replace(' ', "")).unwrap())
    }

    fn gcm() -> Protection {
        Protection::new(Cipher::AesGcm256, None).unwrap()
    }

    fn ike_suite() -> IkeProposal {
        IkeProposal { protection: gcm(), prf: Prf::HmacSha384, group: Group::Ecp384 }
    }

    //= test IK-6
    //= test IK-35
    #[test]
    fn lengths_counts_and_markers_must_agree() {
        let one = |marker: &str, length: &str, rest: &str| format!("{marker}00 {length} {rest}");
        for (text, fits, why) in [
            (one("00", "001c", &format!("01010002 {AES} {DH}")), true, "as it should be"),
            (one("02", "001c", &format!("01010002 {AES} {DH}")), false, "promises another proposal"),
            (one("03", "001c", &format!("01010002 {AES} {DH}")), false, "marker of a transform"),
            (one("00", "001b", &format!("01010002 {AES} {DH}")), false, "proposal cut short"),
            (one("00", "001d", &format!("01010002 {AES} {DH}")), false, "proposal runs over its parent"),
            (one("00", "001d", &format!("01010002 {AES} {DH} 00")), false, "octet behind the transforms"),
            (one("00", "001c", &format!("01010002 {AES} {DH} 00")), false, "octet behind the proposal"),
            (one("00", "001c", &format!("01010001 {AES} {DH}")), false, "fewer counted than there are"),
            (one("00", "001c", &format!("01010003 {AES} {DH}")), false, "more counted than there are"),
            (
                one("00", "001c", &format!("01010002 {} {DH}", AES.replacen("03", "00", 1))),
                false,
                "last too early",
            ),
            (
                one("00", "001c", &format!("01010002 {AES} {}", DH.replacen("00", "03", 1))),
                false,
                "no last one",
            ),
            (one("00", "0003", ""), false, "length below its header"),
            (one("00", "0010", "01030400 000001f4 0000"), false, "octets instead of transforms"),
            (
                one("00", "000c", "01030400 000001f4"),
                true,
                "an ESP proposal without transforms: useless, well-formed",
            ),
            (one("00", "000a", "01030200 01f4"), false, "ESP SPI of two octets"),
            (one("00", "000c", "01010400 000001f4"), false, "IKE SPI of four octets"),
            (one("00", "0010", "01010800 0102030405060708"), true, "IKE rekey"),
            (String::new(), false, "no proposal at all"),
        ] {
            assert_eq!(parse(&text).is_ok(), fits, "{why}: {text}");
        }
    }

    //= test IK-35
    #[test]
    fn offers_count_from_one_and_answers_may_name_any() {
        let esp = |marker: u8, number: u8| format!("{marker:02x}00000c {number:02x}030400 000001f4");
        for (numbers, fits) in [
            (&[1][..], true),
            (&[3], true),
            (&[1, 2, 3], true),
            (&[1, 1], false),
            (&[2, 3], false),
            (&[1, 3], false),
        ] {
            let last = numbers.len() - 1;
            let text: String =
                numbers.iter().enumerate().map(|(i, &n)| esp(if i == last { 0 } else { 2 }, n)).collect();
            assert_eq!(parse(&text).is_ok(), fits, "{numbers:?}");
        }
    }

    #[test]
    fn counts_are_bounded() {
        let transforms = |count: usize| {
            let kind = Transform::new(TransformType::PRF, 5);
            let proposal =
                Proposal { number: 1, protocol: ProtocolId::IKE, spi: vec![], transforms: vec![kind; count] };
            let mut out = Vec::new();
            Sa::answer(proposal).emit(&mut out);
            Sa::parse(&out).is_ok()
        };
        assert!(transforms(TRANSFORMS_MAX) && !transforms(TRANSFORMS_MAX + 1));
        let proposals = |count: u8| {
            let proposal =
                |number| Proposal { number, protocol: ProtocolId::IKE, spi: vec![], transforms: vec![] };
            let mut out = Vec::new();
            Sa::new((1..=count).map(proposal).collect()).emit(&mut out);
            Sa::parse(&out).is_ok()
        };
        assert!(proposals(PROPOSALS_MAX as u8) && !proposals(PROPOSALS_MAX as u8 + 1));
    }

    //= test IK-33
    #[test]
    fn an_unknown_attribute_spoils_its_transform_only() {
        let mut transform = Transform::encr(Cipher::AesGcm256);
        assert_eq!(transform.as_cipher(), Some(Cipher::AesGcm256));
        transform.attributes.push(Attribute::Short { kind: 99, value: 1 });
        assert_eq!(transform.as_cipher(), None);
        let mut prf = Transform::prf(Prf::HmacSha256);
        assert_eq!(prf.as_prf(), Some(Prf::HmacSha256));
        prf.attributes.push(Attribute::Long { kind: 99, value: vec![] });
        assert_eq!(prf.as_prf(), None);
        assert_eq!(Transform::new(TransformType(77), 5).as_prf(), None);
    }

    //= test IK-36
    #[test]
    fn an_aead_goes_without_integrity() {
        let aead = Proposal::ike(1, None, &ike_suite());
        assert!(!aead.has(TransformType::INTEG));
        let cbc = Protection::new(Cipher::AesCbc128, Some(Integ::HmacSha256_128)).unwrap();
        let cbc = Proposal::ike(1, None, &IkeProposal { protection: cbc, ..ike_suite() });
        assert_eq!(cbc.single(TransformType::INTEG).unwrap().as_integ(), Some(Integ::HmacSha256_128));
    }

    //= test IK-35
    //= test IK-38
    #[test]
    fn spis_of_the_three_uses() {
        assert!(Proposal::ike(1, None, &ike_suite()).spi.is_empty());
        let rekey = Proposal::ike(1, Some(Spi(7)), &ike_suite());
        assert_eq!((rekey.spi.len(), rekey.ike_spi()), (8, Some(Spi(7))));
        let suite = EspProposal { protection: gcm(), group: Some(Group::Ecp256), esn: None };
        let esp = Proposal::esp(1, ChildSpi(0x1234), &suite, false);
        assert_eq!((esp.spi.len(), esp.child_spi()), (4, Some(ChildSpi(0x1234))));
        assert!(
            !esp.has(TransformType::KE)
                && Proposal::esp(1, ChildSpi(0x1234), &suite, true).has(TransformType::KE)
        );
        assert_eq!(
            esp.of(TransformType::SN).filter_map(Transform::as_esn).collect::<Vec<_>>(),
            [true, false]
        );
        assert_eq!(Proposal::esp(1, ChildSpi(255), &suite, false).child_spi(), None, "reserved");
        assert_eq!(Proposal::ike(1, Some(Spi(0)), &ike_suite()).ike_spi(), None, "zero");
    }

    //= test IK-39
    #[test]
    fn answers_are_checked_against_the_offer() {
        let suite = EspProposal { protection: gcm(), group: None, esn: None };
        let offer = Sa::new(vec![
            Proposal::esp(1, ChildSpi(256), &suite, false),
            Proposal::esp(2, ChildSpi(256), &EspProposal { group: Some(Group::Ecp256), ..suite }, true),
        ]);
        let good = EspProposal { esn: Some(false), ..suite };
        let answer = |number, suite: &EspProposal| Proposal::esp(number, ChildSpi(999), suite, true);
        assert!(Sa::answer(answer(1, &good)).answers(&offer));
        assert!(Sa::answer(answer(2, &EspProposal { group: Some(Group::Ecp256), ..good })).answers(&offer));
        let other = Protection::new(Cipher::AesGcm128, None).unwrap();
        for (why, proposal) in [
            ("both kinds of numbers", answer(1, &suite)),
            ("a number that was not offered", answer(3, &good)),
            ("a key length that was not offered", answer(1, &EspProposal { protection: other, ..good })),
            ("a group that was not offered", answer(1, &EspProposal { group: Some(Group::Ecp256), ..good })),
            ("the offered group left out", answer(2, &good)),
            ("another group", answer(2, &EspProposal { group: Some(Group::Ecp384), ..good })),
            ("another protocol", Proposal { protocol: ProtocolId::AH, ..answer(1, &good) }),
            ("no SPI", Proposal { spi: vec![], ..answer(1, &good) }),
        ] {
            assert!(!Sa::answer(proposal).answers(&offer), "{why}");
        }
        assert!(!Sa::new(vec![answer(1, &good), answer(1, &good)]).answers(&offer), "two proposals");
    }
}
