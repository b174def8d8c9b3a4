//! IKE_SA_INIT, as responder (RFC 7296, 1.2 and 2.6): cookies, proposal and key exchange, NAT detection.
//!
//! Nothing here is authenticated, so nothing here is committed. The order is that of rising cost: duplicate, shape,
//! cookie, proposal, and only then a key exchange.

use crypto::hash::sha256;
use crypto::kex::PrivateKey;

use crate::datagram::Datagram;
use crate::policy::IkeProposal;
use crate::record::{IkeSuite, Path, Side};
use crate::types::{MessageId, Spi};
use crate::wire::{GroupId, Header, Ke, Message, Nonce, Notify, NotifyType, ParseError, Proposal, Sa};

use super::half_open::HalfOpen;
use super::keys::{self, Nonces};
use super::{Context, DropReason, Endpoint, Event, ExchangeResult, Verdict, nat, negotiate, sa};

/// Our SPI is redrawn this often before we call it a fault of ours.
const SPI_DRAWS: usize = 16;

impl Endpoint {
    pub(super) fn init(
        &mut self,
        header: &Header,
        datagram: &Datagram,
        ctx: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        //= IK-5
        if header.response {
            return Err(DropReason::Unsolicited);
        }
        //= IK-2
        //= IK-13
        if !header.initiator || !header.spi_r.is_zero() || header.message_id != MessageId(0) {
            return Err(DropReason::Malformed);
        }
        let key = (datagram.peer, sha256(&[&datagram.octets]));
        //= IK-15
        if let Some(half_open) = self.half_open.made_by(&key) {
            return Ok(say(datagram.reply(half_open.reply.clone()), ExchangeResult::Retransmitted));
        }
        if !negotiate::expects(ctx.gateway, datagram.peer.ip()) {
            return Err(DropReason::NoConnection);
        }
        let message = match Message::parse(&datagram.octets) {
            Ok(message) => message,
            Err(error) => return self.refuse_unread(header, &error, datagram, ctx),
        };
        let payloads = &message.payloads;
        let (Some(offer), Some(ke), Some(nonce)) = (payloads.sa(), payloads.ke(), payloads.nonce()) else {
            let missing = ParseError::InvalidSyntax {
                payload: crate::wire::PayloadType::NONE,
                what: "SA, KE or Ni is missing",
            };
            return self.refuse_unread(header, &missing, datagram, ctx);
        };

        //= IK-20
        //= IK-22
        if self.half_open.under_load() {
            let secrets = ctx.view.cookie_secrets();
            let shown = payloads.notify(NotifyType::COOKIE);
            let proven = shown
                .is_some_and(|cookie| secrets.accept(&cookie.data, datagram.peer, header.spi_i, &nonce.0));
            if !proven {
                let cookie =
                    secrets.make(datagram.peer, header.spi_i, &nonce.0).ok_or(DropReason::Overload)?;
                let notify = Notify::new(NotifyType::COOKIE, cookie);
                return Ok(refusal(header, datagram, notify, ExchangeResult::Cookie, None));
            }
        }

        let offered = ke.group.group();
        let Some((chosen, answer)) = negotiate::ike(ctx.gateway, datagram.peer.ip(), offer, offered) else {
            //= IK-24
            let notify = Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN);
            let reason = Some("no IKE proposal in common");
            return Ok(refusal(header, datagram, notify, ExchangeResult::NoProposal, reason));
        };
        if offered != Some(chosen.group) {
            //= IK-23
            let notify = Notify::invalid_ke(GroupId::of(chosen.group));
            return Ok(refusal(header, datagram, notify, ExchangeResult::InvalidKe, None));
        }
        //= IK-25
        if !nonce.fits(chosen.prf) {
            let notify = Notify::bare(NotifyType::INVALID_SYNTAX);
            return Ok(refusal(header, datagram, notify, ExchangeResult::Refused, Some("nonce too short")));
        }
        self.half_open_for(header, datagram, &message, (chosen, answer), key, ctx)
    }

    /// All is agreed: exchanges keys, remembers the half-open SA and replies.
    fn half_open_for(
        &mut self,
        header: &Header,
        datagram: &Datagram,
        message: &Message,
        (chosen, answer): (IkeProposal, Proposal),
        key: super::half_open::InitKey,
        ctx: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        let suite = IkeSuite { protection: chosen.protection, prf: chosen.prf, group: chosen.group };
        let nonce_i = message.payloads.nonce().map(|nonce| nonce.0.clone()).unwrap_or_default();
        let peer_public = message.payloads.ke().map(|ke| ke.data.as_slice()).unwrap_or_default();
        let private = PrivateKey::generate(suite.group, ctx.rng);
        //= IK-26
        let shared = private.agree(peer_public).map_err(|_| DropReason::PublicValue)?;
        let nonce_r = Nonce::random(ctx.rng);
        let spi = self.fresh_spi(ctx).ok_or(DropReason::Internal)?;
        let nonces = Nonces { initiator: &nonce_i, responder: &nonce_r.0 };
        let sk = keys::initial(suite, &shared, nonces, header.spi_i, spi);
        let (seal, open) =
            sa::keys(&sk, suite.protection, Side::Peer, self.guard.epoch, ctx).ok_or(DropReason::Internal)?;

        let (peer_behind_nat, we_behind_nat) =
            nat::detect(header, &message.payloads, datagram.local, datagram.peer);
        let mut reply = Message::new(Header { spi_r: spi, ..header.reply() })
            .with(Sa::answer(answer))
            .with(Ke::new(suite.group, private.public()))
            .with(nonce_r.clone());
        if message.payloads.has_notify(NotifyType::NAT_DETECTION_SOURCE_IP) {
            for notify in nat::notifies(header.spi_i, spi, datagram.local, datagram.peer) {
                reply = reply.with(notify);
            }
        }
        let reply = reply.emit();
        self.half_open.make(
            key,
            HalfOpen {
                spi,
                peer_spi: header.spi_i,
                path: Path { local: datagram.local, peer: datagram.peer, peer_behind_nat, we_behind_nat },
                suite,
                keys: sk,
                seal,
                open,
                request: datagram.octets.clone(),
                reply: reply.clone(),
                nonce_i,
                nonce_r: nonce_r.0,
                created: ctx.now,
                busy: false,
                bad_messages: 0,
                failure: None,
            },
        );
        Ok(say(datagram.reply(reply), ExchangeResult::Done))
    }

    pub(super) fn fresh_spi(&self, ctx: &mut Context<'_>) -> Option<Spi> {
        (0..SPI_DRAWS)
            .map(|_| Spi::random(self.guard.segment, ctx.rng))
            .find(|&spi| !ctx.view.ike_spi_taken(spi) && !self.half_open.contains(spi))
    }

    /// Octets whose header is wrong already. Only a wrong version is worth an answer (RFC 7296, 2.5).
    //= IK-3
    pub(super) fn unreadable(
        &mut self,
        error: &ParseError,
        datagram: &Datagram,
        ctx: &Context<'_>,
    ) -> Verdict {
        match (error, Header::peek(&datagram.octets)) {
            (ParseError::UnsupportedVersion(_), Some(header)) => self
                .refuse_unread(&header, error, datagram, ctx)
                .unwrap_or(Verdict::Drop(DropReason::Version)),
            _ => Verdict::Drop(DropReason::Malformed),
        }
    }

    /// Answers a request that could not be read, in clear and within the ration of unprotected notifies.
    //= IK-5
    //= IK-8
    pub(super) fn refuse_unread(
        &mut self,
        header: &Header,
        error: &ParseError,
        datagram: &Datagram,
        ctx: &Context<'_>,
    ) -> Result<Verdict, DropReason> {
        match error.notify() {
            Some(notify) if !header.response && self.may_send_stray(ctx) => {
                Ok(refusal(header, datagram, notify, ExchangeResult::Refused, Some("malformed message")))
            }
            _ => Err(DropReason::Malformed),
        }
    }
}

/// A reply in clear that says only `notify`.
fn refusal(
    header: &Header,
    datagram: &Datagram,
    notify: Notify,
    result: ExchangeResult,
    reason: Option<&'static str>,
) -> Verdict {
    let kind = notify.kind;
    let reply = datagram.reply(Message::notification(header, notify).emit());
    let refused =
        reason.map(|reason| Event::Refused { address: reply.peer, peer: None, notify: kind, reason });
    let mut verdict = say(reply, result);
    if let Verdict::Send { events, .. } = &mut verdict {
        events.extend(refused);
    }
    verdict
}

fn say(reply: Datagram, result: ExchangeResult) -> Verdict {
    let exchange = crate::wire::ExchangeType::IKE_SA_INIT;
    Verdict::Send { datagrams: vec![reply], events: vec![Event::Exchange { exchange, result }] }
}
