//! What the gateway asks of us on an IKE SA that is up (RFC 7296, 1.3, 1.4, 2.8, 2.25).
//!
//! | the gateway wants | we have under way | we say |
//! |---|---|---|
//! | a new child | anything | NO_ADDITIONAL_SAS: a client has the children that it asked for |
//! | rekey of a child | its Delete, or an IKE rekey | TEMPORARY_FAILURE |
//! | rekey of a child | its rekey | yes, and the nonces decide |
//! | rekey of an unknown child | anything | CHILD_SA_NOT_FOUND |
//! | IKE rekey | a child's rekey or Delete, the IKE SA's Delete | TEMPORARY_FAILURE |
//! | IKE rekey | IKE rekey | yes, and the nonces decide |

use crypto::kex::{Group, PrivateKey};
use crypto::rng::Rng;

use crate::datagram::Datagram;
use crate::ike::keys::{self, Nonces};
use crate::record::Side;
use crate::types::{ChildSpi, MessageId, Millis, Spi};
use crate::wire::{
    Delete, ExchangeType, GroupId, Header, Ke, Nonce, Notify, NotifyType, Payload, Payloads, ProtocolId, Sa,
    Ts,
};

use super::sa::{Asked, Came, IkeSa, Outstanding, Standing};
use super::{Child, ChildPhase, Client, End, Ignored, Tunnel, offer};

/// A refusal: nothing but the window moves.
fn refuse(kind: NotifyType) -> Notify {
    Notify::bare(kind)
}

impl Client {
    /// A message on an IKE SA: an answer to us, a request to us, or a request that came again.
    pub(super) fn protected(
        &mut self,
        header: &Header,
        datagram: &Datagram,
        now: Millis,
        rng: &mut dyn Rng,
    ) -> Result<(), Ignored> {
        let at = self.sas.iter().position(|sa| {
            (sa.spi, sa.peer_spi, !sa.ours) == (header.receiver_spi(), header.sender_spi(), header.initiator)
        });
        let at = at.ok_or(Ignored::UnknownSpi)?;
        let came = self.sas[at].take(header, &datagram.octets)?;
        self.heard = now;
        match came {
            Came::Repeated(reply) => self.out.datagrams.push(datagram.reply(reply)),
            Came::Answer(outstanding, payloads) => self.answered(at, outstanding, payloads, now, rng),
            Came::Request(Ok(payloads)) => self.request(at, header, datagram, &payloads, now, rng),
            Came::Request(Err(error)) => {
                let notify = error.notify().unwrap_or(refuse(NotifyType::INVALID_SYNTAX));
                self.reply(at, header, datagram, Payloads::default().with(notify));
            }
        }
        Ok(())
    }

    fn request(
        &mut self,
        at: usize,
        header: &Header,
        datagram: &Datagram,
        payloads: &Payloads,
        now: Millis,
        rng: &mut dyn Rng,
    ) {
        // The window is one: who asks again has our answer to the request before.
        self.confirm(self.sas[at].spi);
        match header.exchange {
            //= IK-83
            ExchangeType::INFORMATIONAL => self.inform(at, header, datagram, payloads),
            ExchangeType::CREATE_CHILD_SA => {
                let answer = self.create_child(at, payloads, now, rng);
                let answer = answer.unwrap_or_else(|notify| Payloads::default().with(notify));
                self.reply(at, header, datagram, answer);
            }
            _ => {
                let notify = refuse(NotifyType::INVALID_SYNTAX);
                self.reply(at, header, datagram, Payloads::default().with(notify));
            }
        }
    }

    //= IK-84
    //= IK-86
    fn inform(&mut self, at: usize, header: &Header, datagram: &Datagram, payloads: &Payloads) {
        if payloads.deletes().any(|delete| *delete == Delete::Ike) {
            self.reply(at, header, datagram, Payloads::default());
            if self.end.is_some() {
                return;
            }
            let replaced = self.sas[at].standing == Standing::Replaced;
            let heir =
                self.sas.iter().enumerate().any(|(other, sa)| other != at && sa.standing == Standing::Live);
            if replaced || heir {
                self.retire(at);
            } else {
                self.finish(End::GatewayDeleted);
            }
            return;
        }
        let mut ours = Vec::new();
        let spis: Vec<ChildSpi> = payloads
            .deletes()
            .filter_map(|delete| if let Delete::Esp(spis) = delete { Some(spis) } else { None })
            .flatten()
            .copied()
            .collect();
        for spi_out in spis {
            let Some(child) = self.children.iter().find(|child| child.spi_out == spi_out) else { continue };
            let spi_in = child.spi_in;
            //= IK-76
            if !self.deleting(spi_in) {
                ours.push(spi_in);
            }
            self.remove_child(spi_in);
        }
        let answer =
            if ours.is_empty() { Payloads::default() } else { Payloads::default().with(Delete::Esp(ours)) };
        self.reply(at, header, datagram, answer);
    }

    //= IK-69
    //= IK-76
    fn create_child(
        &mut self,
        at: usize,
        payloads: &Payloads,
        now: Millis,
        rng: &mut dyn Rng,
    ) -> Result<Payloads, Notify> {
        let sa = payloads.sa().ok_or(refuse(NotifyType::INVALID_SYNTAX))?;
        let wants_ike = sa.proposals.iter().any(|proposal| proposal.protocol == ProtocolId::IKE);
        let asked = self.sas[at].outstanding.as_ref().map(|outstanding| &outstanding.asked);
        let clash = match asked {
            Some(Asked::DeleteIke) => true,
            Some(Asked::RekeyIke(_)) => !wants_ike,
            Some(Asked::RekeyChild(_) | Asked::DeleteChild(_)) => wants_ike,
            _ => false,
        };
        if clash || self.sas[at].standing != Standing::Live {
            return Err(refuse(NotifyType::TEMPORARY_FAILURE));
        }
        if wants_ike {
            self.give_ike_rekey(at, payloads, now, rng)
        } else if let Some(rekeyed) = payloads.notify(NotifyType::REKEY_SA) {
            self.give_child_rekey(at, rekeyed, payloads, rng)
        } else {
            Err(refuse(NotifyType::NO_ADDITIONAL_SAS))
        }
    }

    fn give_child_rekey(
        &mut self,
        at: usize,
        rekeyed: &Notify,
        payloads: &Payloads,
        rng: &mut dyn Rng,
    ) -> Result<Payloads, Notify> {
        let invalid = || refuse(NotifyType::INVALID_SYNTAX);
        let spi_out = rekeyed.child_spi().ok_or_else(invalid)?;
        let not_found = Notify::about_child(NotifyType::CHILD_SA_NOT_FOUND, spi_out);
        let old = self.children.iter().find(|child| child.spi_out == spi_out).ok_or(not_found)?;
        if old.phase == ChildPhase::Closing {
            return Err(refuse(NotifyType::TEMPORARY_FAILURE));
        }
        let (offer, nonce_i) = payloads.sa().zip(payloads.nonce()).ok_or_else(invalid)?;
        let (ts_i, ts_r) = payloads.ts_i().zip(payloads.ts_r()).ok_or_else(invalid)?;
        let taken = offer::take_esp(&self.config.esp, offer);
        let taken = taken.ok_or(refuse(NotifyType::NO_PROPOSAL_CHOSEN))?;
        let known = offer::esp_suite(&Sa::answer(taken.clone()));
        let (suite, new_spi_out) = known.ok_or(refuse(NotifyType::NO_PROPOSAL_CHOSEN))?;
        //= IK-68
        let local_ts: Vec<_> = meet(&ts_r.selectors, &old.local_ts);
        let remote_ts: Vec<_> = meet(&ts_i.selectors, &old.remote_ts);
        if local_ts.is_empty() || remote_ts.is_empty() {
            return Err(refuse(NotifyType::TS_UNACCEPTABLE));
        }
        let old_spi_in = old.spi_in;
        let exchange = suite.group.map(|group| agree(group, payloads.ke(), rng)).transpose()?;
        let nonce_r = Nonce::random(rng);
        let spi_in = self.fresh_child_spi(rng);
        let sa = &mut self.sas[at];
        let ike = sa.spi;
        let nonces = Nonces { initiator: &nonce_i.0, responder: &nonce_r.0 };
        let shared = exchange.as_ref().map(|(_, shared)| shared);
        let keys = keys::child(sa.suite.prf, &sa.keys.d, suite, shared, nonces, Side::Peer);
        let tunnel = Tunnel::new(new_spi_out, suite, &keys, rng).ok_or_else(invalid)?;
        if let Some(Outstanding { asked: Asked::RekeyChild(ours), .. }) = &mut sa.outstanding
            && ours.old == old_spi_in
        {
            ours.crossed = Some((nonces.lower().to_vec(), spi_in));
        }
        let mut answer =
            Payloads::default().with(Sa::answer(taken.with_spi(spi_in.0.to_be_bytes()))).with(nonce_r);
        if let Some((ke, _)) = exchange {
            answer.push(ke);
        }
        answer.push(Payload::TsI(Ts::new(remote_ts.clone())));
        answer.push(Payload::TsR(Ts::new(local_ts.clone())));
        let child = Child {
            spi_in,
            spi_out: new_spi_out,
            suite,
            keys,
            local_ts,
            remote_ts,
            tunnel,
            phase: ChildPhase::Live,
            waits_for_peer: true,
            unconfirmed: Some(ike),
        };
        if let Some(old) = self.child_mut(old_spi_in) {
            old.phase = ChildPhase::Replaced;
        }
        self.add_child(child, Some(old_spi_in));
        Ok(answer)
    }

    fn give_ike_rekey(
        &mut self,
        at: usize,
        payloads: &Payloads,
        now: Millis,
        rng: &mut dyn Rng,
    ) -> Result<Payloads, Notify> {
        let invalid = || refuse(NotifyType::INVALID_SYNTAX);
        let (offer, nonce_i) = payloads.sa().zip(payloads.nonce()).ok_or_else(invalid)?;
        let taken = offer::take_ike(&self.config.ike, offer).ok_or(refuse(NotifyType::NO_PROPOSAL_CHOSEN))?;
        let suite = offer::ike_suite(&Sa::answer(taken.clone())).ok_or_else(invalid)?;
        let peer_spi = taken.ike_spi().ok_or_else(invalid)?;
        if !nonce_i.fits(suite.prf) {
            return Err(invalid());
        }
        let (ke, shared) = agree(suite.group, payloads.ke(), rng)?;
        let nonce_r = Nonce::random(rng);
        let spi = Spi(rng.u64().max(1));
        let nonces = Nonces { initiator: &nonce_i.0, responder: &nonce_r.0 };
        let old = &mut self.sas[at];
        let keys = keys::rekeyed((old.suite.prf, &old.keys.d), suite, &shared, nonces, peer_spi, spi);
        let mut new =
            IkeSa::new((spi, peer_spi), false, suite, keys, MessageId(0), rng).ok_or_else(invalid)?;
        if let Some(Outstanding { asked: Asked::RekeyIke(ours), .. }) = &mut old.outstanding {
            ours.crossed = Some((nonces.lower().to_vec(), spi));
        } else {
            new.wishes = self.replace(at, spi, now);
        }
        self.sas.push(new);
        Ok(Payloads::default().with(Sa::answer(taken.with_spi(spi.0.to_be_bytes()))).with(nonce_r).with(ke))
    }

    fn reply(&mut self, at: usize, header: &Header, datagram: &Datagram, payloads: Payloads) {
        match self.sas[at].reply(header, payloads) {
            //= IK-12
            Some(octets) => self.out.datagrams.push(datagram.reply(octets)),
            None => self.finish(End::BadAnswer("an IKE SA is used up")),
        }
    }

    /// Our Delete for this child is under way.
    fn deleting(&self, spi_in: ChildSpi) -> bool {
        self.sas.iter().any(|sa| {
            matches!(&sa.outstanding, Some(Outstanding { asked: Asked::DeleteChild(spi), .. }) if *spi == spi_in)
        })
    }
}

fn meet(told: &[crate::policy::Selector], ours: &[crate::policy::Selector]) -> Vec<crate::policy::Selector> {
    told.iter().flat_map(|told| ours.iter().filter_map(|ours| told.intersect(ours))).collect()
}

/// Our half of a key exchange, and what both halves make.
//= IK-70
fn agree(group: Group, ke: Option<&Ke>, rng: &mut dyn Rng) -> Result<(Ke, crypto::Secret), Notify> {
    let ke = ke.filter(|ke| ke.group.group() == Some(group));
    let ke = ke.ok_or(Notify::invalid_ke(GroupId::of(group)))?;
    let private = PrivateKey::generate(group, rng);
    let shared = private.agree(&ke.data).map_err(|_| refuse(NotifyType::INVALID_SYNTAX))?;
    Ok((Ke::new(group, private.public()), shared))
}
