//! Rekeying the IKE SA, both roles, and both at once (RFC 7296, 1.3.2, 2.8, 2.8.2, 2.18).
//!
//! The new IKE SA is a record of its own in the same segment. It inherits the children; the old one becomes
//! `Replaced` until the side that asked for the rekey deletes it. When both ask, the children wait with the old one
//! until our answer is there; then the nonces decide who inherits.

use crypto::kex::PrivateKey;

use crate::limits;
use crate::policy::IkeProposal;
use crate::record::{IkeKeys, IkeRecord, IkeRekey, IkeSuite, Phase, Purpose, Side, Step, Why};
use crate::types::{MessageId, Revision, Spi};
use crate::wire::{ExchangeType, Ke, Nonce, Notify, NotifyType, Payloads, Proposal, Sa};

use super::create_child::exchange_keys;
use super::exchange::{Answer, Ask, Conclusion, ours_survives};
use super::inform::{crossed_heir, delete_ike};
use super::keys::{self, Nonces};
use super::{Context, Endpoint, Event, Order, negotiate};

impl Endpoint {
    /// The peer's request.
    //= IK-69
    //= IK-73
    pub(super) fn rekey_ike(
        &mut self,
        record: &IkeRecord,
        payloads: &Payloads,
        ctx: &mut Context<'_>,
    ) -> Answer {
        match self.successor(record, payloads, ctx) {
            Ok((successor, answer)) => {
                let (new, spis) = (successor.spi, successor.spis());
                let mut steps = vec![Step::AddIke(Box::new(successor))];
                let mut events = Vec::new();
                if our_rekey(record).is_some() {
                    let nonces = Nonces {
                        initiator: payloads.nonce().map_or(&[], |nonce| &nonce.0),
                        responder: answer.nonce().map_or(&[], |nonce| &nonce.0),
                    };
                    steps.push(Step::Crossed { nonce: nonces.lower().to_vec(), spi: new.0 });
                } else {
                    steps.push(Step::Inherit { by: new });
                    events.push(rekeyed(record, spis));
                }
                Answer { steps, payloads: answer, events, ..Answer::empty() }
            }
            Err(notify) => Answer::refuse(notify),
        }
    }

    fn successor(
        &mut self,
        record: &IkeRecord,
        payloads: &Payloads,
        ctx: &mut Context<'_>,
    ) -> Result<(IkeRecord, Payloads), Notify> {
        let invalid = || Notify::bare(NotifyType::INVALID_SYNTAX);
        let refused = || Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN);
        let connection = ctx.gateway.connection(&record.connection).ok_or_else(refused)?;
        let (offer, nonce_i) = (payloads.sa().ok_or_else(invalid)?, payloads.nonce().ok_or_else(invalid)?);
        let offered = payloads.ke().and_then(|ke| ke.group.group());
        //= IK-37
        let (chosen, answer) = negotiate::ike_rekey(connection, offer, offered).ok_or_else(refused)?;
        if !nonce_i.fits(chosen.prf) {
            return Err(invalid());
        }
        let peer_spi = answer.ike_spi().ok_or_else(invalid)?;
        //= IK-70
        let (ke, shared) = exchange_keys(chosen.group, payloads.ke(), ctx)?;
        let nonce_r = Nonce::random(ctx.rng);
        let spi = self.fresh_spi(ctx).ok_or(Notify::bare(NotifyType::TEMPORARY_FAILURE))?;
        let suite = suite_of(chosen);
        let nonces = Nonces { initiator: &nonce_i.0, responder: &nonce_r.0 };
        let keys = keys::rekeyed((record.suite.prf, &record.keys.d), suite, &shared, nonces, peer_spi, spi);
        let payloads = Payloads::default()
            .with(Sa::answer(answer.with_spi(spi.0.to_be_bytes().to_vec())))
            .with(nonce_r)
            .with(ke);
        Ok((heir(record, Side::Peer, (spi, peer_spi), suite, keys, ctx), payloads))
    }

    /// Our request. The group that the SA was made with comes first: some peers cannot be told another (IK-81).
    pub(super) fn ask_ike_rekey(&mut self, record: &IkeRecord, ctx: &mut Context<'_>) -> Option<Ask> {
        let connection = ctx.gateway.connection(&record.connection)?;
        let preferred = self.sas.get(&record.spi).and_then(|sa| sa.preferred_group);
        let group = preferred
            .filter(|group| connection.ike.iter().any(|suite| suite.group == *group))
            .unwrap_or(record.suite.group);
        let current = IkeProposal { group, protection: record.suite.protection, prf: record.suite.prf };
        let mut suites: Vec<&IkeProposal> = connection.ike.iter().collect();
        suites.sort_by_key(|suite| (**suite != current, suite.group != group));
        let spi = self.fresh_spi(ctx)?;
        let proposals = (1..).zip(suites).map(|(number, suite)| Proposal::ike(number, Some(spi), suite));
        let nonce = Nonce::random(ctx.rng);
        let private = PrivateKey::generate(group, ctx.rng);
        let payloads = Payloads::default()
            .with(Sa::new(proposals.take(limits::PROPOSALS_MAX).collect()))
            .with(nonce.clone())
            .with(Ke::new(group, private.public()));
        let rekey =
            IkeRekey { new_spi: spi, nonce: nonce.0, private: (group, private.export()), crossed: None };
        Some(Ask {
            exchange: ExchangeType::CREATE_CHILD_SA,
            payloads,
            purpose: Purpose::RekeyIke(Box::new(rekey)),
        })
    }

    /// The peer's answer to our request.
    pub(super) fn conclude_ike_rekey(
        &mut self,
        record: &IkeRecord,
        rekey: &IkeRekey,
        payloads: &Payloads,
        ctx: &mut Context<'_>,
    ) -> Conclusion {
        let crossed = rekey.crossed.as_ref();
        if let Some(error) = payloads.error() {
            let mut conclusion = Conclusion { refused: true, ..Conclusion::default() };
            match crossed {
                Some((_, heir)) => hand_over(record, *heir, heir_spis(*heir, ctx), &mut conclusion),
                None => self.ike_rekey_refused(record, rekey, error, ctx),
            }
            return conclusion;
        }
        let Some((successor, lower)) = made_of_answer(record, rekey, payloads, ctx) else {
            return Conclusion {
                steps: vec![Step::SetPhase(Phase::Closing { why: Why::Misbehaved })],
                refused: true,
                ..Conclusion::default()
            };
        };
        let (new, spis) = (successor.spi, successor.spis());
        let mut conclusion = Conclusion::default();
        match crossed {
            //= IK-75
            Some((their_lower, heir)) if !ours_survives(&lower, their_lower) => {
                let loser = IkeRecord { phase: Phase::Closing { why: Why::Rekeyed }, ..successor };
                conclusion.steps.push(Step::AddIke(Box::new(loser)));
                hand_over(record, *heir, heir_spis(*heir, ctx), &mut conclusion);
            }
            _ => {
                conclusion.steps.push(Step::AddIke(Box::new(successor)));
                hand_over(record, new, Some(spis), &mut conclusion);
                conclusion.ask = Some(delete_ike());
            }
        }
        conclusion
    }

    //= IK-77
    fn ike_rekey_refused(
        &mut self,
        record: &IkeRecord,
        rekey: &IkeRekey,
        error: &Notify,
        ctx: &mut Context<'_>,
    ) {
        let Some(sa) = self.sas.get_mut(&record.spi) else {
            return;
        };
        let other = error.group().and_then(|group| group.group()).filter(|group| *group != rekey.private.0);
        if error.kind == NotifyType::INVALID_KE_PAYLOAD && other.is_some() {
            sa.preferred_group = other;
            sa.timers.wish(Order::RekeyIke(record.spi));
        } else {
            sa.timers.ike.rekey = Some(ctx.now.after(limits::TEMPORARY_FAILURE_WAIT_MS));
        }
    }
}

fn our_rekey(record: &IkeRecord) -> Option<&IkeRekey> {
    match record.outstanding.as_ref().map(|outstanding| &outstanding.purpose) {
        Some(Purpose::RekeyIke(rekey)) => Some(rekey),
        _ => None,
    }
}

fn hand_over(record: &IkeRecord, heir: Spi, spis: Option<(Spi, Spi)>, conclusion: &mut Conclusion) {
    if record.phase == Phase::Established {
        conclusion.steps.push(Step::Inherit { by: heir });
        conclusion.events.extend(spis.map(|spis| rekeyed(record, spis)));
    }
}

/// Initiator's and responder's SPI of the IKE SA that the peer's crossing rekey has made.
pub(super) fn heir_spis(heir: Spi, ctx: &Context<'_>) -> Option<(Spi, Spi)> {
    ctx.view.record(heir).map(|record| record.spis())
}

/// True while it is not decided whether this IKE SA inherits the children of the one that two rekeys have crossed on.
pub(super) fn awaits_decision(record: &IkeRecord, ctx: &Context<'_>) -> bool {
    record.children.is_empty()
        && ctx.view.records().iter().any(|other| crossed_heir(other) == Some(record.spi))
}

pub(super) fn rekeyed(old: &IkeRecord, (new_spi_i, new_spi_r): (Spi, Spi)) -> Event {
    Event::Rekeyed { old: old.into(), new_spi_i, new_spi_r }
}

fn suite_of(chosen: IkeProposal) -> IkeSuite {
    IkeSuite { protection: chosen.protection, prf: chosen.prf, group: chosen.group }
}

/// The record of a new IKE SA in place of `old`, with counters from zero and no children yet (CL-43, IK-13).
//= IK-13
//= IK-63
fn heir(
    old: &IkeRecord,
    initiator: Side,
    (spi, peer_spi): (Spi, Spi),
    suite: IkeSuite,
    keys: IkeKeys,
    ctx: &Context<'_>,
) -> IkeRecord {
    IkeRecord {
        spi,
        peer_spi,
        initiator,
        connection: old.connection.clone(),
        local_id: old.local_id.clone(),
        peer_id: old.peer_id.clone(),
        path: old.path,
        suite,
        keys,
        established_at: ctx.utc,
        revision: Revision::default(),
        phase: Phase::Established,
        next_request: MessageId(0),
        outstanding: None,
        expected: MessageId(0),
        last_reply: None,
        children: Vec::new(),
        inner_addresses: Vec::new(),
        peer_supports: old.peer_supports,
    }
}

/// The IKE SA of a good answer and the lower nonce of its exchange.
//= IK-39
fn made_of_answer(
    record: &IkeRecord,
    rekey: &IkeRekey,
    payloads: &Payloads,
    ctx: &Context<'_>,
) -> Option<(IkeRecord, Vec<u8>)> {
    let connection = ctx.gateway.connection(&record.connection)?;
    let answer = payloads.sa()?;
    let accepted = answer.accepted()?;
    let (group, private) = &rekey.private;
    let (chosen, _) = negotiate::ike_rekey(connection, answer, Some(*group))
        .filter(|(chosen, _)| chosen.group == *group)?;
    let peer_spi = accepted.ike_spi()?;
    let nonce_r = payloads.nonce().filter(|nonce| nonce.fits(chosen.prf))?;
    let ke = payloads.ke().filter(|ke| ke.group.group() == Some(*group))?;
    let shared = PrivateKey::import(*group, private.as_bytes()).ok()?.agree(&ke.data).ok()?;
    let suite = suite_of(chosen);
    let nonces = Nonces { initiator: &rekey.nonce, responder: &nonce_r.0 };
    let keys =
        keys::rekeyed((record.suite.prf, &record.keys.d), suite, &shared, nonces, rekey.new_spi, peer_spi);
    Some((heir(record, Side::Us, (rekey.new_spi, peer_spi), suite, keys, ctx), nonces.lower().to_vec()))
}
