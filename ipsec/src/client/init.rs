//! IKE_SA_INIT as initiator (RFC 7296, 1.2 and 2.6): again with a cookie, again with another group, in any order.

use crypto::kex::PrivateKey;
use crypto::rng::Rng;

use crate::datagram::Datagram;
use crate::ike::keys::{self, Nonces};
use crate::ike::nat;
use crate::policy::IkeProposal;
use crate::spec::{COOKIE_LEN_MAX, COOKIE_LEN_MIN};
use crate::types::{MessageId, Millis, Spi};
use crate::wire::{ExchangeType, Header, Ke, Message, Nonce, Notify, NotifyType, Payloads, Proposal, Sa};

use super::auth::FirstMessages;
use super::offer;
use super::sa::{IkeSa, Repeat};
use super::{Client, End, Ignored};

/// Cookies and groups that we go along with before we give up.
const ROUNDS_MAX: u32 = 6;

pub(super) struct Init {
    spi: Spi,
    nonce: Nonce,
    private: PrivateKey,
    cookie: Option<Notify>,
    rounds: u32,
    request: Vec<u8>,
    pub repeat: Repeat,
}

impl Client {
    pub(super) fn start(&mut self, now: Millis, rng: &mut dyn Rng) {
        let Some(first) = self.config.ike.first() else {
            return self.finish(End::BadAnswer("no IKE proposal is configured"));
        };
        let private = PrivateKey::generate(first.group, rng);
        let spi = loop {
            let spi = Spi(rng.u64());
            if !spi.is_zero() {
                break spi;
            }
        };
        let nonce = Nonce::random(rng);
        self.ask_init(spi, nonce, private, None, 0, now);
    }

    /// Sends the request, the first time or once more with what the gateway asked for. Everything else stays as it
    /// was, all proposals included: else somebody between us could choose for us.
    //= IK-21
    //= IK-23
    fn ask_init(
        &mut self,
        spi: Spi,
        nonce: Nonce,
        private: PrivateKey,
        cookie: Option<Notify>,
        rounds: u32,
        now: Millis,
    ) {
        if rounds > ROUNDS_MAX {
            return self.finish(End::TooManyRounds);
        }
        let header = Header {
            spi_i: spi,
            spi_r: Spi(0),
            exchange: ExchangeType::IKE_SA_INIT,
            initiator: true,
            response: false,
            message_id: MessageId(0),
        };
        let mut payloads: Payloads = cookie.iter().cloned().map(Into::into).collect();
        payloads.push(self.ike_offer(None));
        payloads.push(Ke::new(private.group(), private.public()));
        payloads.push(nonce.clone());
        //= IK-27
        let mut local = self.local;
        if self.config.encapsulate {
            local.set_port(0); // no port of ours: the gateway finds a NAT in between
        }
        nat::notifies(spi, Spi(0), local, self.gateway).into_iter().for_each(|it| payloads.push(it));
        let request = Message { header, payloads, encrypted: None }.emit();
        let repeat = Repeat::new(request.clone(), &self.config.retransmit, now);
        self.send(request.clone());
        self.init = Some(Box::new(Init { spi, nonce, private, cookie, rounds, request, repeat }));
    }

    pub(super) fn ike_offer(&self, spi: Option<Spi>) -> Sa {
        Sa::new(
            (1..).zip(&self.config.ike).map(|(number, suite)| Proposal::ike(number, spi, suite)).collect(),
        )
    }

    pub(super) fn init_answer(
        &mut self,
        header: &Header,
        datagram: &Datagram,
        now: Millis,
        rng: &mut dyn Rng,
    ) -> Result<(), Ignored> {
        let ours = self.init.as_ref().is_some_and(|init| init.spi == header.spi_i);
        if !ours || !header.response || header.initiator || header.message_id != MessageId(0) {
            return Err(Ignored::Unsolicited);
        }
        let message = Message::parse(&datagram.octets).map_err(|_| Ignored::Malformed)?;
        let payloads = &message.payloads;
        let cookie = payloads.notify(NotifyType::COOKIE);
        if payloads.sa().is_none() {
            if let Some(cookie) = cookie {
                if !(COOKIE_LEN_MIN..=COOKIE_LEN_MAX).contains(&cookie.data.len()) {
                    return Err(Ignored::Malformed);
                }
                let Some(init) = self.init.take() else { return Err(Ignored::Unsolicited) };
                let Init { spi, nonce, private, rounds, .. } = *init;
                self.ask_init(spi, nonce, private, Some(cookie.clone()), rounds + 1, now);
                return Ok(());
            }
            let Some(error) = payloads.error() else { return Err(Ignored::Malformed) };
            if error.kind == NotifyType::INVALID_KE_PAYLOAD {
                return self.other_group(error, now, rng);
            }
            self.finish(End::Refused(error.kind));
            return Ok(());
        }
        match self.agree(header, datagram, payloads, now, rng) {
            Ok(()) => {}
            Err(what) => self.finish(End::BadAnswer(what)),
        }
        Ok(())
    }

    /// The gateway wants another group: ours, if we offered it. Else somebody tries to weaken us.
    //= IK-23
    fn other_group(&mut self, error: &Notify, now: Millis, rng: &mut dyn Rng) -> Result<(), Ignored> {
        let group = error.group().and_then(|id| id.group());
        let Some(init) = self.init.as_ref() else { return Err(Ignored::Unsolicited) };
        let offered = |suite: &IkeProposal| Some(suite.group) == group;
        let Some(suite) = self.config.ike.iter().find(|suite| offered(suite)) else {
            return Err(Ignored::Malformed);
        };
        if suite.group == init.private.group() {
            return Err(Ignored::Malformed);
        }
        let private = PrivateKey::generate(suite.group, rng);
        let Some(init) = self.init.take() else { return Err(Ignored::Unsolicited) };
        let Init { spi, nonce, cookie, rounds, .. } = *init;
        self.ask_init(spi, nonce, private, cookie, rounds + 1, now);
        Ok(())
    }

    /// The answer proper: makes the keys, moves to the NAT traversal port where needed, and asks for authentication.
    //= IK-28
    //= IK-39
    fn agree(
        &mut self,
        header: &Header,
        datagram: &Datagram,
        payloads: &Payloads,
        now: Millis,
        rng: &mut dyn Rng,
    ) -> Result<(), &'static str> {
        let init = self.init.take().ok_or("nothing was asked")?;
        let answer = payloads.sa().ok_or("no SA payload")?;
        let (Some(ke), Some(nonce)) = (payloads.ke(), payloads.nonce()) else {
            return Err("KE or Nr is missing");
        };
        if header.spi_r.is_zero() {
            return Err("the gateway's SPI is zero");
        }
        if !answer.answers(&self.ike_offer(None)) {
            return Err("the gateway took what we did not offer");
        }
        let suite = offer::ike_suite(answer).ok_or("the gateway took what we do not know")?;
        if ke.group.group() != Some(suite.group) || init.private.group() != suite.group {
            return Err("KE of another group than the proposal's");
        }
        if !nonce.fits(suite.prf) {
            return Err("nonce too short for the PRF");
        }
        let shared = init.private.agree(&ke.data).map_err(|_| "bad public value")?;
        let nonces = Nonces { initiator: &init.nonce.0, responder: &nonce.0 };
        let keys = keys::initial(suite, &shared, nonces, init.spi, header.spi_r);
        let (gateway_behind_nat, we_behind_nat) =
            nat::detect(header, payloads, datagram.local, datagram.peer);
        if gateway_behind_nat || we_behind_nat || self.config.encapsulate {
            self.nat_t = true;
            (self.local, self.gateway) = (self.config.local_nat_t, self.config.gateway_nat_t);
        }
        let first = FirstMessages {
            request: init.request,
            answer: datagram.octets.clone(),
            nonce_i: init.nonce.0,
            nonce_r: nonce.0.clone(),
        };
        let sa = IkeSa::new((init.spi, header.spi_r), true, suite, keys, MessageId(1), rng)
            .ok_or("keys that do not fit the suite")?;
        self.ask_auth(sa, first, now, rng);
        Ok(())
    }
}

/// Only what is no secret.
impl std::fmt::Debug for Init {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Init({}, {:?}, round {})", self.spi, self.private.group(), self.rounds)
    }
}
