//! What a client that is up asks for, and what it makes of the answers: liveness, deletes, rekeys (RFC 7296, 1.3,
//! 1.4, 2.8).

use std::collections::VecDeque;

use crypto::kex::{Group, PrivateKey};
use crypto::rng::Rng;

use crate::ike::keys::{self, Nonces};
use crate::record::Side;
use crate::types::{ChildSpi, MessageId, Millis, Spi};
use crate::wire::{
    Delete, ExchangeType, Ke, Nonce, Notify, NotifyType, ParseError, Payload, Payloads, Proposal, Sa, Ts,
};

use super::auth::narrowed;
use super::sa::{Asked, IkeSa, Outstanding, RekeyChild, RekeyIke, Standing, Wish};
use super::{Child, ChildPhase, Client, End, Event, Tunnel, offer};

impl Client {
    /// Sends what waits on each IKE SA whose window is free. While an IKE SA that we replaced is not deleted yet,
    /// what is about children waits on its heir: for the gateway they may not have moved (RFC 7296, 2.25.2).
    pub(super) fn pump(&mut self, now: Millis, rng: &mut dyn Rng) {
        let moving = |sa: &IkeSa| sa.standing == Standing::Replaced && sa.outstanding.is_some();
        for at in 0..self.sas.len() {
            while self.sas[at].outstanding.is_none()
                && let Some(&wish) = self.sas[at].wishes.front()
                && !(wish.changes_sas() && self.sas.iter().any(moving))
            {
                self.sas[at].wishes.pop_front();
                let Some((exchange, payloads, asked)) = self.compose(at, wish, rng) else { continue };
                match self.sas[at].request(exchange, payloads, asked, (&self.config.retransmit, now)) {
                    Some(octets) => self.send(octets),
                    None => return self.finish(End::BadAnswer("an IKE SA is used up")),
                }
            }
        }
    }

    /// The request for a wish; `None` when it has become pointless.
    fn compose(
        &mut self,
        at: usize,
        wish: Wish,
        rng: &mut dyn Rng,
    ) -> Option<(ExchangeType, Payloads, Asked)> {
        let inform = |payloads, asked| Some((ExchangeType::INFORMATIONAL, payloads, asked));
        match wish {
            //= IK-87
            Wish::Liveness => inform(Payloads::default(), Asked::Liveness),
            Wish::DeleteIke => inform(Payloads::default().with(Delete::Ike), Asked::DeleteIke),
            //= IK-53
            Wish::Reject => {
                let notify = Notify::bare(NotifyType::AUTHENTICATION_FAILED);
                inform(Payloads::default().with(notify), Asked::Reject)
            }
            //= IK-84
            Wish::DeleteChild(spi) => {
                self.child_mut(spi)?.phase = ChildPhase::Closing;
                inform(Payloads::default().with(Delete::Esp(vec![spi])), Asked::DeleteChild(spi))
            }
            Wish::RekeyChild(spi) => self.compose_rekey_child(spi, rng),
            Wish::RekeyIke => self.compose_rekey_ike(at, rng),
        }
    }

    //= IK-69
    fn compose_rekey_child(
        &mut self,
        old: ChildSpi,
        rng: &mut dyn Rng,
    ) -> Option<(ExchangeType, Payloads, Asked)> {
        if !self.rekeyable(old) {
            return None;
        }
        let child = self.children.iter().find(|child| child.spi_in == old)?;
        let spi_in = self.fresh_child_spi(rng);
        let first = self.config.esp.first().and_then(|suite| suite.group);
        let preferred =
            self.preferred.filter(|&group| self.config.esp.iter().any(|it| it.group == Some(group)));
        let group = preferred.or(first);
        let proposals = (1..)
            .zip(&self.config.esp)
            .map(|(number, suite)| Proposal::esp(number, spi_in, suite, group.is_some()));
        let offer = Sa::new(proposals.collect());
        let private = group.map(|group| PrivateKey::generate(group, rng));
        let nonce = Nonce::random(rng);
        let mut payloads = Payloads::default()
            .with(Notify::about_child(NotifyType::REKEY_SA, old))
            .with(offer.clone())
            .with(nonce.clone());
        if let Some(private) = &private {
            payloads.push(Ke::new(private.group(), private.public()));
        }
        payloads.push(Payload::TsI(Ts::new(child.local_ts.clone())));
        payloads.push(Payload::TsR(Ts::new(child.remote_ts.clone())));
        let rekey = RekeyChild { old, spi_in, nonce: nonce.0, private, offer, crossed: None };
        Some((ExchangeType::CREATE_CHILD_SA, payloads, Asked::RekeyChild(Box::new(rekey))))
    }

    //= IK-69
    fn compose_rekey_ike(&mut self, at: usize, rng: &mut dyn Rng) -> Option<(ExchangeType, Payloads, Asked)> {
        let sa = &self.sas[at];
        if sa.standing != Standing::Live {
            return None;
        }
        let spi = Spi(rng.u64().max(1));
        let preferred = self.preferred.filter(|&group| self.config.ike.iter().any(|it| it.group == group));
        let private = PrivateKey::generate(preferred.unwrap_or(sa.suite.group), rng);
        let nonce = Nonce::random(rng);
        let offer = self.ike_offer(Some(spi));
        let payloads = Payloads::default()
            .with(offer.clone())
            .with(nonce.clone())
            .with(Ke::new(private.group(), private.public()));
        let rekey = RekeyIke { spi, nonce: nonce.0, private, offer, crossed: None };
        Some((ExchangeType::CREATE_CHILD_SA, payloads, Asked::RekeyIke(Box::new(rekey))))
    }

    /// An authentic answer to a request on the IKE SA `at`.
    pub(super) fn answered(
        &mut self,
        at: usize,
        outstanding: Outstanding,
        payloads: Result<Payloads, ParseError>,
        now: Millis,
        rng: &mut dyn Rng,
    ) {
        //= IK-88
        let Ok(payloads) = payloads else {
            return self.finish(End::BadAnswer("an answer that breaks the syntax"));
        };
        match outstanding.asked {
            Asked::Authentication(asked) => self.authenticated(at, *asked, &payloads, now, rng),
            Asked::Liveness => self.out.events.push(Event::Alive),
            Asked::Reject => self.finish(End::NotAuthentic),
            Asked::DeleteIke => self.ike_deleted(at),
            Asked::DeleteChild(spi) => self.remove_child(spi),
            Asked::RekeyChild(rekey) => match self.child_rekeyed(at, *rekey, &payloads, rng) {
                Ok(()) => {}
                Err(what) => self.finish(End::BadAnswer(what)),
            },
            Asked::RekeyIke(rekey) => match self.ike_rekeyed(at, *rekey, &payloads, now, rng) {
                Ok(()) => {}
                Err(what) => self.finish(End::BadAnswer(what)),
            },
        }
    }

    //= IK-86
    fn ike_deleted(&mut self, at: usize) {
        if self.sas[at].standing == Standing::Live {
            return self.finish(End::WeDeleted);
        }
        self.retire(at);
    }

    /// The gateway has all our answers on this IKE SA.
    pub(super) fn confirm(&mut self, ike: Spi) {
        for child in self.children.iter_mut().filter(|child| child.unconfirmed == Some(ike)) {
            child.unconfirmed = None;
        }
    }

    /// The IKE SA `at` is gone and another one is there. What it had still to do to children is for that one.
    pub(super) fn retire(&mut self, at: usize) {
        let gone = self.sas.remove(at);
        self.confirm(gone.spi);
        let unfinished = match gone.outstanding.map(|outstanding| outstanding.asked) {
            Some(Asked::DeleteChild(spi)) => Some(Wish::DeleteChild(spi)),
            _ => None,
        };
        if let Some(heir) = self.current() {
            unfinished
                .into_iter()
                .chain(gone.wishes)
                .filter(|wish| wish.changes_sas())
                .for_each(|it| heir.wish(it));
        }
    }

    fn child_rekeyed(
        &mut self,
        at: usize,
        rekey: RekeyChild,
        payloads: &Payloads,
        rng: &mut dyn Rng,
    ) -> Result<(), &'static str> {
        if let Some(error) = payloads.error() {
            let tried = rekey.private.as_ref().map(PrivateKey::group);
            if self.try_group(at, error, tried, Wish::RekeyChild(rekey.old)) {
                return Ok(());
            }
            self.out.events.push(Event::Refused { request: "child rekey", notify: error.kind });
            //= IK-78
            if error.kind == NotifyType::CHILD_SA_NOT_FOUND {
                self.remove_child(rekey.old);
            }
            return Ok(());
        }
        let sa = &self.sas[at];
        let answer = payloads.sa().filter(|answer| answer.answers(&rekey.offer));
        let answer = answer.ok_or("the gateway took an ESP proposal that we did not offer")?;
        let (suite, spi_out) = offer::esp_suite(answer).ok_or("an ESP proposal that we do not know")?;
        let nonce =
            payloads.nonce().filter(|nonce| nonce.fits(sa.suite.prf)).ok_or("Nr is missing or short")?;
        let shared = match (suite.group, &rekey.private) {
            (None, _) => None,
            (Some(group), Some(private)) if private.group() == group => {
                let ke = payloads.ke().filter(|ke| ke.group.group() == Some(group)).ok_or("KE is missing")?;
                Some(private.agree(&ke.data).map_err(|_| "bad public value")?)
            }
            (Some(_), _) => return Err("a group for which we sent no KE"),
        };
        // The old child may have gone meanwhile, when both sides rekeyed it: its heir has the same selectors. When that
        // has gone too, ours comes too late and goes at once.
        let heir = rekey.crossed.as_ref().map(|(_, spi)| *spi);
        let model =
            self.children.iter().find(|child| child.spi_in == rekey.old || Some(child.spi_in) == heir);
        let late = model.is_none();
        let (local_ts, remote_ts) = match model {
            Some(model) => narrowed(payloads, &model.local_ts, &model.remote_ts)?,
            None => (Vec::new(), Vec::new()),
        };
        let nonces = Nonces { initiator: &rekey.nonce, responder: &nonce.0 };
        let keys = keys::child(sa.suite.prf, &sa.keys.d, suite, shared.as_ref(), nonces, Side::Us);
        let tunnel = Tunnel::new(spi_out, suite, &keys, rng).ok_or("keys that do not fit the suite")?;
        //= IK-74
        let loses =
            late || rekey.crossed.as_ref().is_some_and(|(theirs, _)| nonces.lower() < theirs.as_slice());
        let child = Child {
            spi_in: rekey.spi_in,
            spi_out,
            suite,
            keys,
            local_ts,
            remote_ts,
            tunnel,
            phase: if loses { ChildPhase::Closing } else { ChildPhase::Live },
            waits_for_peer: false,
            unconfirmed: None,
        };
        self.add_child(child, Some(rekey.old));
        let goes = if loses { rekey.spi_in } else { rekey.old };
        if let Some(child) = self.child_mut(goes) {
            child.phase = ChildPhase::Closing;
            self.sas[at].wish(Wish::DeleteChild(goes));
        }
        Ok(())
    }

    fn ike_rekeyed(
        &mut self,
        at: usize,
        rekey: RekeyIke,
        payloads: &Payloads,
        now: Millis,
        rng: &mut dyn Rng,
    ) -> Result<(), &'static str> {
        if let Some(error) = payloads.error() {
            if self.try_group(at, error, Some(rekey.private.group()), Wish::RekeyIke) {
                return Ok(());
            }
            self.out.events.push(Event::Refused { request: "IKE rekey", notify: error.kind });
            if let Some((_, theirs)) = rekey.crossed {
                self.hand_over(at, theirs, now);
            }
            return Ok(());
        }
        let old = &self.sas[at];
        let answer = payloads.sa().filter(|answer| answer.answers(&rekey.offer));
        let answer = answer.ok_or("the gateway took an IKE proposal that we did not offer")?;
        let suite = offer::ike_suite(answer).ok_or("an IKE proposal that we do not know")?;
        let peer_spi = answer.accepted().and_then(Proposal::ike_spi).ok_or("the new SPI is missing")?;
        let nonce = payloads.nonce().filter(|nonce| nonce.fits(suite.prf)).ok_or("Nr is missing or short")?;
        let ke = payloads.ke().filter(|ke| ke.group.group() == Some(suite.group)).ok_or("KE is missing")?;
        if rekey.private.group() != suite.group {
            return Err("another group than our KE's");
        }
        let shared = rekey.private.agree(&ke.data).map_err(|_| "bad public value")?;
        let nonces = Nonces { initiator: &rekey.nonce, responder: &nonce.0 };
        let keys = keys::rekeyed((old.suite.prf, &old.keys.d), suite, &shared, nonces, rekey.spi, peer_spi);
        let mut new = IkeSa::new((rekey.spi, peer_spi), true, suite, keys, MessageId(0), rng)
            .ok_or("keys that do not fit the suite")?;
        //= IK-75
        let loses = rekey.crossed.as_ref().is_some_and(|(theirs, _)| nonces.lower() < theirs.as_slice());
        if loses {
            // Ours goes again; the gateway, whose SA stays, deletes the old one.
            new.replaced(now);
            new.wish(Wish::DeleteIke);
            if let Some((_, theirs)) = rekey.crossed {
                self.hand_over(at, theirs, now);
            }
        } else {
            if let Some((_, theirs)) = rekey.crossed {
                // The gateway deletes its own.
                self.sas.iter_mut().filter(|sa| sa.spi == theirs).for_each(|sa| sa.replaced(now));
            }
            new.wishes = self.replace(at, new.spi, now);
            //= IK-73
            self.sas[at].wish(Wish::DeleteIke);
        }
        self.sas.push(new);
        Ok(())
    }

    /// The IKE SA `at` gives way to another one that is there already.
    fn hand_over(&mut self, at: usize, to: Spi, now: Millis) {
        let wishes = self.replace(at, to, now);
        self.sas.iter_mut().filter(|sa| sa.spi == to).for_each(|sa| sa.wishes.extend(&wishes));
    }

    /// The IKE SA `at` gives way to `new`; what it had still to do is for that one.
    pub(super) fn replace(&mut self, at: usize, new: Spi, now: Millis) -> VecDeque<Wish> {
        let old = &mut self.sas[at];
        old.replaced(now);
        let event = Event::IkeRekeyed { old: old.spi, new };
        self.out.events.push(event);
        std::mem::take(&mut self.sas[at].wishes)
    }

    /// The gateway wants another group: once more with that one, where we offered it and have not tried it yet.
    //= IK-70
    fn try_group(&mut self, at: usize, error: &Notify, tried: Option<Group>, wish: Wish) -> bool {
        let wanted = error.group().and_then(|id| id.group());
        let esp = self.config.esp.iter().filter_map(|suite| suite.group);
        let ike = self.config.ike.iter().map(|suite| suite.group);
        let offered = match wish {
            Wish::RekeyIke => ike.collect::<Vec<_>>(),
            _ => esp.collect(),
        };
        let again = error.kind == NotifyType::INVALID_KE_PAYLOAD
            && wanted != tried
            && wanted.is_some_and(|group| offered.contains(&group));
        if again {
            self.preferred = wanted;
            self.sas[at].wishes.push_front(wish);
        }
        again
    }
}
