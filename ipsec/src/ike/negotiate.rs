//! Choosing: a connection, a proposal, traffic selectors. Pure functions of policy and offer.
//!
//! We choose by our own order. The answer is made of the peer's own transforms, so that its attributes come back
//! as they were sent (RFC 7296, 2.7 and 3.3.6).

use std::net::IpAddr;

use crypto::kex::Group;

use crate::limits;
use crate::policy::{Child, Connection, EspProposal, Gateway, Identity, IkeProposal, Selector};
use crate::record::{EspSuite, IkeSuite};
use crate::wire::{Proposal, ProtocolId, Sa, Transform, TransformType, Ts};

/// True when some connection may be meant by a stranger at this address.
pub(super) fn expects(gateway: &Gateway, peer: IpAddr) -> bool {
    open_to(gateway, peer).next().is_some()
}

fn open_to(gateway: &Gateway, peer: IpAddr) -> impl Iterator<Item = &Connection> {
    gateway.connections.iter().filter(move |connection| {
        connection.remote_address.is_none_or(|address| address == peer.to_canonical())
    })
}

/// The IKE suite for an offer, over all connections that may be meant: the first of ours whose group is the one of
/// the KE payload, else the first of ours at all (then the peer has to try again with that group).
//= IK-24
//= IK-32
//= IK-41
pub(super) fn ike(
    gateway: &Gateway,
    peer: IpAddr,
    offer: &Sa,
    offered: Option<Group>,
) -> Option<(IkeProposal, Proposal)> {
    let ours = || open_to(gateway, peer).flat_map(|connection| &connection.ike);
    let fit = |suite: &IkeProposal| {
        let answer = offer.proposals.iter().find_map(|proposal| take_ike(proposal, suite))?;
        Some((*suite, answer))
    };
    ours().filter(|suite| Some(suite.group) == offered).find_map(fit).or_else(|| ours().find_map(fit))
}

/// The same for the rekey of an IKE SA of one connection.
pub(super) fn ike_rekey(
    connection: &Connection,
    offer: &Sa,
    offered: Option<Group>,
) -> Option<(IkeProposal, Proposal)> {
    let fit = |suite: &IkeProposal| {
        let answer = offer.proposals.iter().find_map(|proposal| take_ike(proposal, suite))?;
        Some((*suite, answer))
    };
    let ours = || connection.ike.iter();
    ours().filter(|suite| Some(suite.group) == offered).find_map(fit).or_else(|| ours().find_map(fit))
}

/// The connection for a peer that has shown its identity: the first that fits all that is known.
pub(super) fn connection<'a>(
    gateway: &'a Gateway,
    suite: &IkeSuite,
    peer: IpAddr,
    peer_id: &Identity,
    asked_for: Option<&Identity>,
) -> Option<&'a Connection> {
    let suite = IkeProposal { protection: suite.protection, prf: suite.prf, group: suite.group };
    open_to(gateway, peer).find(|connection| {
        connection.remote_id.matches(peer_id)
            && asked_for.is_none_or(|id| *id == connection.local_id)
            && connection.ike.contains(&suite)
    })
}

/// What was agreed for a child.
pub(super) struct ChildChoice<'a> {
    pub policy: &'a Child,
    pub suite: EspSuite,
    /// The answer's proposal, still with the peer's SPI.
    pub answer: Proposal,
    pub local_ts: Vec<Selector>,
    pub remote_ts: Vec<Selector>,
}

/// Why there is no child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoChild {
    TrafficSelectors,
    Proposal,
}

/// The first child of the connection whose selectors and proposals meet the offer. `with_group`: the exchange may
/// carry a key exchange (CREATE_CHILD_SA). `dynamic`: what "remote" means where the policy leaves it open.
pub(super) fn child<'a>(
    connection: &'a Connection,
    offer: &Sa,
    ts_peer: &Ts,
    ts_ours: &Ts,
    dynamic: &[Selector],
    with_group: bool,
) -> Result<ChildChoice<'a>, NoChild> {
    let mut met = false;
    for policy in &connection.children {
        let remote = if policy.remote_ts.is_empty() { dynamic } else { &policy.remote_ts };
        let (local_ts, remote_ts) = (narrow(ts_ours, &policy.local_ts), narrow(ts_peer, remote));
        if local_ts.is_empty() || remote_ts.is_empty() {
            continue;
        }
        met = true;
        if let Some((suite, answer)) = esp(&policy.esp, offer, with_group) {
            return Ok(ChildChoice { policy, suite, answer, local_ts, remote_ts });
        }
    }
    Err(if met { NoChild::Proposal } else { NoChild::TrafficSelectors })
}

/// The suite for an ESP offer, by our order.
//= IK-32
//= IK-38
pub(super) fn esp(ours: &[EspProposal], offer: &Sa, with_group: bool) -> Option<(EspSuite, Proposal)> {
    ours.iter()
        .find_map(|suite| offer.proposals.iter().find_map(|proposal| take_esp(proposal, suite, with_group)))
}

/// What is asked for, cut to what is allowed, in the peer's order (RFC 7296, 2.9).
//= IK-64
//= IK-66
pub(super) fn narrow(asked: &Ts, allowed: &[Selector]) -> Vec<Selector> {
    let mut result: Vec<Selector> = Vec::new();
    for asked in &asked.selectors {
        for common in allowed.iter().filter_map(|allowed| asked.intersect(allowed)) {
            if result.len() < limits::SELECTORS_PER_SIDE && !result.iter().any(|known| known.covers(&common))
            {
                result.retain(|known| !common.covers(known));
                result.push(common);
            }
        }
    }
    result
}

//= IK-33
//= IK-37
fn take_ike(proposal: &Proposal, suite: &IkeProposal) -> Option<Proposal> {
    let mut answer = Answer::to(proposal, ProtocolId::IKE)?;
    answer.protection(suite.protection)?;
    answer.one(TransformType::PRF, |transform| transform.as_prf() == Some(suite.prf))?;
    answer.one(TransformType::KE, |transform| transform.as_group() == Some(suite.group))?;
    answer.rest()
}

fn take_esp(proposal: &Proposal, suite: &EspProposal, with_group: bool) -> Option<(EspSuite, Proposal)> {
    let mut answer = Answer::to(proposal, ProtocolId::ESP)?;
    answer.protection(suite.protection)?;
    //= ES-13
    let esn = match suite.esn {
        Some(esn) => esn,
        None => proposal.of(TransformType::SN).any(|transform| transform.as_esn() == Some(true)),
    };
    answer.one(TransformType::SN, |transform| transform.as_esn() == Some(esn))?;
    let group = if with_group { answer.group(suite.group)? } else { None };
    Some((EspSuite { protection: suite.protection, esn, group }, answer.rest()?))
}

/// An answer in the making: one transform of each type of the peer's proposal.
struct Answer<'a> {
    offer: &'a Proposal,
    taken: Vec<Transform>,
}

impl<'a> Answer<'a> {
    fn to(offer: &'a Proposal, protocol: ProtocolId) -> Option<Answer<'a>> {
        (offer.protocol == protocol).then_some(Answer { offer, taken: Vec::new() })
    }

    fn one(&mut self, kind: TransformType, fits: impl Fn(&Transform) -> bool) -> Option<()> {
        self.taken.push(self.offer.of(kind).find(|transform| fits(transform))?.clone());
        Some(())
    }

    //= IK-34
    //= IK-36
    fn protection(&mut self, protection: crypto::cipher::Protection) -> Option<()> {
        self.one(TransformType::ENCR, |transform| transform.as_cipher() == Some(protection.cipher()))?;
        match protection.integ() {
            Some(integ) => self.one(TransformType::INTEG, |transform| transform.as_integ() == Some(integ)),
            None if self.offer.has(TransformType::INTEG) => {
                self.one(TransformType::INTEG, Transform::is_none)
            }
            None => Some(()),
        }
    }

    /// A key exchange of the child's own: ours where offered, else none where that is offered, else (when policy
    /// asks for none) any that we know. The outer `None`: not acceptable.
    //= IK-70
    fn group(&mut self, wanted: Option<Group>) -> Option<Option<Group>> {
        let offered = || self.offer.of(TransformType::KE);
        let ours = offered().find(|transform| wanted.is_some() && transform.as_group() == wanted);
        let chosen = ours
            .or_else(|| offered().find(|transform| transform.is_none()))
            .or_else(|| offered().find(|transform| wanted.is_none() && transform.as_group().is_some()));
        match chosen {
            Some(transform) => {
                self.taken.push(transform.clone());
                Some(transform.as_group())
            }
            None => (!self.offer.has(TransformType::KE)).then_some(None),
        }
    }

    /// Types that nothing was chosen of make the proposal unacceptable, unless "none" will do. Groups in IKE_AUTH
    /// are passed over: there is no key exchange to do.
    fn rest(mut self) -> Option<Proposal> {
        for transform in &self.offer.transforms {
            let settled = self.taken.iter().any(|taken| taken.kind == transform.kind);
            let moot = transform.kind == TransformType::KE && self.offer.protocol == ProtocolId::ESP;
            if !settled && !moot {
                self.one(transform.kind, Transform::is_none)?;
            }
        }
        Some(Proposal { transforms: self.taken, ..self.offer.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Selector {
        let (address, prefix) = text.split_once('/').unwrap();
        Selector::network(crate::policy::Network {
            address: address.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
        })
    }

    //= test IK-64
    //= test IK-66
    #[test]
    fn selectors_are_cut_to_policy() {
        let allowed = [net("10.10.0.0/24"), net("10.20.0.0/16")];
        for (asked, result) in [
            (vec![net("0.0.0.0/0")], vec![net("10.10.0.0/24"), net("10.20.0.0/16")]),
            (vec![net("10.10.0.5/32"), net("0.0.0.0/0")], vec![net("10.10.0.0/24"), net("10.20.0.0/16")]),
            (vec![net("10.20.1.0/24")], vec![net("10.20.1.0/24")]),
            (vec![net("192.168.0.0/16")], vec![]),
            (vec![net("::/0")], vec![]),
        ] {
            assert_eq!(narrow(&Ts::new(asked.clone()), &allowed), result, "{asked:?}");
        }
    }
}
