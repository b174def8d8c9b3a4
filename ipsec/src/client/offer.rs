//! Offers and answers as the client sees them: what an answer means, and what it takes of the gateway's offers.

use crypto::cipher::Protection;

use crate::policy::{EspProposal, IkeProposal};
use crate::record::{EspSuite, IkeSuite};
use crate::types::ChildSpi;
use crate::wire::{Proposal, ProtocolId, Sa, Transform, TransformType};

/// The suite of an answer with one proposal for an IKE SA.
pub(super) fn ike_suite(answer: &Sa) -> Option<IkeSuite> {
    let taken = answer.accepted().filter(|taken| taken.protocol == ProtocolId::IKE)?;
    Some(IkeSuite {
        protection: protection(taken)?,
        prf: taken.single(TransformType::PRF)?.as_prf()?,
        group: taken.single(TransformType::KE)?.as_group()?,
    })
}

/// The suite of an answer with one proposal for a child, and the gateway's SPI.
pub(super) fn esp_suite(answer: &Sa) -> Option<(EspSuite, ChildSpi)> {
    let taken = answer.accepted().filter(|taken| taken.protocol == ProtocolId::ESP)?;
    let group = match taken.single(TransformType::KE) {
        Some(transform) if transform.is_none() => None,
        Some(transform) => Some(transform.as_group()?),
        None if taken.has(TransformType::KE) => return None,
        None => None,
    };
    let esn = taken.single(TransformType::SN)?.as_esn()?;
    Some((EspSuite { protection: protection(taken)?, esn, group }, taken.child_spi()?))
}

fn protection(taken: &Proposal) -> Option<Protection> {
    let cipher = taken.single(TransformType::ENCR)?.as_cipher()?;
    let integ = match taken.single(TransformType::INTEG) {
        Some(transform) if transform.is_none() => None,
        Some(transform) => Some(transform.as_integ()?),
        None => None,
    };
    Protection::new(cipher, integ)
}

/// What we take of the gateway's offer for an IKE rekey.
pub(super) fn take_ike(ours: &[IkeProposal], offer: &Sa) -> Option<Proposal> {
    ours.iter().find_map(|suite| {
        let wanted = Proposal::ike(0, None, suite).transforms;
        offer
            .proposals
            .iter()
            .filter(|proposal| proposal.protocol == ProtocolId::IKE)
            .find_map(|proposal| take(proposal, &wanted))
    })
}

/// What we take of the gateway's offer for a child in CREATE_CHILD_SA: with our group if it offers that, else without.
pub(super) fn take_esp(ours: &[EspProposal], offer: &Sa) -> Option<Proposal> {
    let variants = ours.iter().flat_map(|suite| {
        let groups = [suite.group, None];
        let numbers = suite.esn.map_or(vec![true, false], |esn| vec![esn]);
        groups.into_iter().flat_map(move |group| {
            numbers.clone().into_iter().map(move |esn| EspProposal { group, esn: Some(esn), ..*suite })
        })
    });
    let mut variants = variants;
    variants.find_map(|suite| {
        let wanted = Proposal::esp(0, ChildSpi(ChildSpi::FIRST), &suite, true).transforms;
        offer
            .proposals
            .iter()
            .filter(|proposal| proposal.protocol == ProtocolId::ESP)
            .find_map(|proposal| take(proposal, &wanted))
    })
}

/// The proposal cut down to `wanted`, when it offers all of that and demands no other type of transform.
//= IK-32
//= IK-33
fn take(proposal: &Proposal, wanted: &[Transform]) -> Option<Proposal> {
    let offered = wanted.iter().all(|transform| proposal.transforms.contains(transform));
    let demanded = proposal.transforms.iter().all(|transform| {
        wanted.iter().any(|ours| ours.kind == transform.kind)
            || proposal.of(transform.kind).any(Transform::is_none)
    });
    (offered && demanded).then(|| Proposal { transforms: wanted.to_vec(), ..proposal.clone() })
}
