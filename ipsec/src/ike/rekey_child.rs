//! Rekeying a child, both roles, and what happens when both sides do it at once (RFC 7296, 1.3.3, 2.8, 2.8.1).
//!
//! ```text
//!   the peer asks:  new child, old one `Replaced`: we receive on both, and send on the new one once the peer does
//!   we ask:         answer ─> new child, old one `Closing`, Delete of the old one in the same change
//!   both ask:       the child whose exchange had the lowest nonce goes again, deleted by who asked for it
//! ```

use crypto::kex::PrivateKey;

use crate::limits;
use crate::policy::EspProposal;
use crate::record::{Block, ChildPhase, ChildRecord, ChildRekey, IkeRecord, Purpose, Side, Step, Why};
use crate::types::{ChildSpi, EspSeq};
use crate::wire::{ExchangeType, Ke, Nonce, Notify, NotifyType, Payload, Payloads, Proposal, Sa, Ts};

use super::create_child::{Made, claimed};
use super::exchange::{Answer, Ask, Conclusion, ours_survives};
use super::inform::{being_deleted, delete_children};
use super::keys::{self, Nonces};
use super::{ChildName, Context, Endpoint, Event, Order, negotiate};

impl Endpoint {
    /// The peer's request. `rekeyed` names the child by the SPI that the peer receives on.
    //= IK-69
    //= IK-71
    //= IK-76
    pub(super) fn rekey_child(
        &mut self,
        record: &IkeRecord,
        rekeyed: &Notify,
        payloads: &Payloads,
        ctx: &mut Context<'_>,
    ) -> Answer {
        let Some(old) = rekeyed.child_spi().and_then(|spi| record.child_by_peer_spi(spi)) else {
            let kind = NotifyType::CHILD_SA_NOT_FOUND;
            return Answer::refuse(
                rekeyed.child_spi().map_or(Notify::bare(kind), |spi| Notify::about_child(kind, spi)),
            );
        };
        if matches!(old.phase, ChildPhase::Closing { .. }) || being_deleted(record, old.spi_in) {
            return Answer::refuse_with(NotifyType::TEMPORARY_FAILURE);
        }
        let Made { child, payloads: answer } = match self.answer_child(record, payloads, Some(old), ctx) {
            Ok(made) => made,
            Err(notify) => return Answer::refuse(notify),
        };
        let mut steps = Vec::new();
        if our_rekey_of(record, old.spi_in).is_some() {
            let nonces = Nonces {
                initiator: payloads.nonce().map_or(&[], |nonce| &nonce.0),
                responder: answer.nonce().map_or(&[], |nonce| &nonce.0),
            };
            steps.push(Step::Crossed { nonce: nonces.lower().to_vec(), spi: child.spi_in.0.into() });
        }
        steps.push(Step::SetChildPhase { spi_in: old.spi_in, phase: ChildPhase::Replaced });
        let events =
            vec![Event::ChildRekeyed { ike: record.into(), old: old.spi_in, child: (&child).into() }];
        steps.push(Step::AddChild(Box::new(child)));
        Answer { steps, payloads: answer, events, ..Answer::empty() }
    }

    /// Our request for a new child in place of `old`; `None` when policy has none like it any more.
    pub(super) fn ask_child_rekey(
        &mut self,
        record: &IkeRecord,
        old: &ChildRecord,
        ctx: &mut Context<'_>,
    ) -> Option<Ask> {
        let esp = esp_policy(record, old, ctx)?;
        let preferred = self.sas.get(&record.spi).and_then(|sa| sa.preferred_group);
        let group = preferred
            .filter(|group| esp.iter().any(|suite| suite.group == Some(*group)))
            .or_else(|| esp.first().and_then(|suite| suite.group));
        let spi_in = self.fresh_child_spi(record, ctx)?;
        let proposals =
            (1..).zip(esp).map(|(number, suite)| Proposal::esp(number, spi_in, suite, group.is_some()));
        let nonce = Nonce::random(ctx.rng);
        let private = group.map(|group| PrivateKey::generate(group, ctx.rng));
        let mut payloads = Payloads::default()
            .with(Notify::about_child(NotifyType::REKEY_SA, old.spi_in))
            .with(Sa::new(proposals.collect()))
            .with(nonce.clone());
        if let Some(private) = &private {
            payloads.push(Ke::new(private.group(), private.public()));
        }
        payloads.push(Payload::TsI(Ts::new(old.local_ts.clone())));
        payloads.push(Payload::TsR(Ts::new(old.remote_ts.clone())));
        let rekey = ChildRekey {
            old_spi_in: old.spi_in,
            new_spi_in: spi_in,
            nonce: nonce.0,
            private: private.map(|private| (private.group(), private.export())),
            crossed: None,
        };
        Some(Ask {
            exchange: ExchangeType::CREATE_CHILD_SA,
            payloads,
            purpose: Purpose::RekeyChild(Box::new(rekey)),
        })
    }

    /// The peer's answer to our request.
    pub(super) fn conclude_child_rekey(
        &mut self,
        record: &IkeRecord,
        rekey: &ChildRekey,
        payloads: &Payloads,
        ctx: &mut Context<'_>,
    ) -> Conclusion {
        if let Some(error) = payloads.error() {
            return self.child_rekey_refused(record, rekey, error, ctx);
        }
        let heir = rekey.crossed.as_ref().and_then(|(_, spi)| record.child(*spi));
        if record.child(rekey.old_spi_in).is_none() && heir.is_none() {
            // All that it could take the place of was deleted meanwhile: so is it.
            return Conclusion {
                ask: Some(delete_children(vec![rekey.new_spi_in])),
                ..Conclusion::default()
            };
        }
        let Some((child, lower)) = made_of_answer(record, rekey, payloads, ctx) else {
            // The peer may believe in a child that we cannot agree to: only the end of the IKE SA is sure to end it.
            return Conclusion {
                steps: vec![Step::SetPhase(crate::record::Phase::Closing { why: Why::Misbehaved })],
                refused: true,
                ..Conclusion::default()
            };
        };
        let (new, name) = (child.spi_in, ChildName::from(&child));
        let mut steps = vec![Step::AddChild(Box::new(child))];
        //= IK-74
        if let Some((their_lower, _)) = &rekey.crossed
            && !ours_survives(&lower, their_lower)
        {
            let why = Why::Rekeyed;
            steps.push(Step::SetChildPhase { spi_in: new, phase: ChildPhase::Closing { why } });
            return Conclusion { steps, ask: Some(delete_children(vec![new])), ..Conclusion::default() };
        }
        let mut ask = None;
        if record.child(rekey.old_spi_in).is_some() {
            let phase = ChildPhase::Closing { why: Why::Rekeyed };
            steps.push(Step::SetChildPhase { spi_in: rekey.old_spi_in, phase });
            ask = Some(delete_children(vec![rekey.old_spi_in]));
        }
        let events = vec![Event::ChildRekeyed { ike: record.into(), old: rekey.old_spi_in, child: name }];
        Conclusion { steps, events, ask, refused: false }
    }

    //= IK-77
    //= IK-78
    fn child_rekey_refused(
        &mut self,
        record: &IkeRecord,
        rekey: &ChildRekey,
        error: &Notify,
        ctx: &mut Context<'_>,
    ) -> Conclusion {
        let mut conclusion = Conclusion { refused: true, ..Conclusion::default() };
        let old = record.child(rekey.old_spi_in);
        if error.kind == NotifyType::CHILD_SA_NOT_FOUND {
            if let Some(old) = old {
                let why = Why::PeerDeleted;
                conclusion.steps.push(Step::RemoveChild { spi_in: old.spi_in, why });
                conclusion.events.push(Event::ChildDown { ike: record.into(), child: old.into(), why });
            }
            return conclusion;
        }
        let Some(sa) = self.sas.get_mut(&record.spi) else {
            return conclusion;
        };
        let asked = rekey.private.as_ref().map(|(group, _)| *group);
        let other = error.group().and_then(|group| group.group()).filter(|group| Some(*group) != asked);
        if error.kind == NotifyType::INVALID_KE_PAYLOAD && other.is_some() {
            sa.preferred_group = other;
            sa.timers.wish(Order::RekeyChild(record.spi, rekey.old_spi_in));
        } else if old.is_some_and(|old| old.phase == ChildPhase::Live)
            && let Some(lifetime) = sa.timers.children.get_mut(&rekey.old_spi_in)
        {
            lifetime.rekey = Some(ctx.now.after(limits::TEMPORARY_FAILURE_WAIT_MS));
        }
        conclusion
    }
}

/// Our own rekey of this child that is under way.
pub(super) fn our_rekey_of(record: &IkeRecord, spi_in: ChildSpi) -> Option<&ChildRekey> {
    match record.outstanding.as_ref().map(|outstanding| &outstanding.purpose) {
        Some(Purpose::RekeyChild(rekey)) if rekey.old_spi_in == spi_in => Some(rekey),
        _ => None,
    }
}

fn esp_policy<'a>(record: &IkeRecord, child: &ChildRecord, ctx: &Context<'a>) -> Option<&'a [EspProposal]> {
    let connection = ctx.gateway.connection(&record.connection)?;
    let policy = connection.children.iter().find(|policy| policy.name == child.name)?;
    Some(&policy.esp)
}

/// The child of a good answer and the lower nonce of its exchange. `None`: the answer is not one to our offer.
//= IK-39
fn made_of_answer(
    record: &IkeRecord,
    rekey: &ChildRekey,
    payloads: &Payloads,
    ctx: &Context<'_>,
) -> Option<(ChildRecord, Vec<u8>)> {
    let old = record.child(rekey.old_spi_in);
    let answer = payloads.sa()?;
    let accepted = answer.accepted()?;
    let nonce_r = payloads.nonce().filter(|nonce| nonce.fits(record.suite.prf))?;
    // With the old child gone meanwhile, the one that the peer made in its place tells name and selectors.
    let model = old.or_else(|| rekey.crossed.as_ref().and_then(|(_, spi)| record.child(*spi)))?;
    let (suite, _) = negotiate::esp(esp_policy(record, model, ctx)?, answer, rekey.private.is_some())?;
    let shared = match (suite.group, &rekey.private) {
        (None, _) => None,
        (Some(group), Some((ours, private))) if *ours == group => {
            let ke = payloads.ke().filter(|ke| ke.group.group() == Some(group))?;
            Some(PrivateKey::import(group, private.as_bytes()).ok()?.agree(&ke.data).ok()?)
        }
        (Some(_), _) => return None,
    };
    let local_ts = negotiate::narrow(payloads.ts_i()?, &model.local_ts);
    let remote_ts = negotiate::narrow(payloads.ts_r()?, &model.remote_ts);
    if local_ts.is_empty() || remote_ts.is_empty() {
        return None;
    }
    let nonces = Nonces { initiator: &rekey.nonce, responder: &nonce_r.0 };
    let child = ChildRecord {
        name: model.name.clone(),
        spi_in: rekey.new_spi_in,
        spi_out: accepted.child_spi()?,
        suite,
        keys: keys::child(record.suite.prf, &record.keys.d, suite, shared.as_ref(), nonces, Side::Us),
        local_ts,
        remote_ts,
        established_at: ctx.utc,
        phase: ChildPhase::Live,
        initiator: Side::Us,
        replaces: old.map(|old| old.spi_in),
        block: Block::NONE,
        granted: EspSeq(0),
        claimed: claimed(ctx.gateway.connection(&record.connection), &model.name),
    };
    Some((child, nonces.lower().to_vec()))
}
