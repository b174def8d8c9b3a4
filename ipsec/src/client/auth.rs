//! IKE_AUTH as initiator, with a pre-shared key both ways, a request for inner addresses, and the first child
//! (RFC 7296, 1.2, 2.15, 2.19).

use std::net::IpAddr;

use crypto::hash::ct_eq;
use crypto::rng::Rng;

use crate::ike::keys::{self, Nonces};
use crate::policy::Selector;
use crate::record::Side;
use crate::types::{ChildSpi, Millis};
use crate::wire::{
    Auth, AuthMethod, Config, ConfigAttribute, ConfigType, ExchangeType, Id, Notify, NotifyType, Payload,
    Payloads, Proposal, Sa, Ts,
};

use super::sa::{Asked, IkeSa, Wish};
use super::{Child, ChildPhase, Client, End, Event, Tunnel, offer};

/// The first messages as they were on the wire, and their nonces: what AUTH covers.
pub(super) struct FirstMessages {
    pub request: Vec<u8>,
    pub answer: Vec<u8>,
    pub nonce_i: Vec<u8>,
    pub nonce_r: Vec<u8>,
}

/// What the answer to our IKE_AUTH needs.
pub(super) struct Authenticating {
    first: FirstMessages,
    spi_in: ChildSpi,
    offer: Sa,
    local_ts: Vec<Selector>,
}

impl Client {
    //= IK-42
    //= IK-43
    //= IK-62
    pub(super) fn ask_auth(&mut self, mut sa: IkeSa, first: FirstMessages, now: Millis, rng: &mut dyn Rng) {
        let id_i = Id::new(&self.config.local_id);
        let value = keys::auth_psk(
            sa.suite.prf,
            &self.config.psk,
            &first.request,
            &first.nonce_r,
            &sa.keys.pi,
            &id_i.body(),
        );
        let spi_in = self.fresh_child_spi(rng);
        let proposals =
            (1..).zip(&self.config.esp).map(|(number, suite)| Proposal::esp(number, spi_in, suite, false));
        let offer = Sa::new(proposals.collect());
        let local_ts = self.own_selectors();

        let mut payloads = Payloads::default().with(Payload::IdI(id_i));
        //= IK-54
        if self.config.initial_contact {
            payloads.push(Notify::bare(NotifyType::INITIAL_CONTACT));
        }
        if let Some(id) = &self.config.gateway_id {
            payloads.push(Payload::IdR(Id::new(id)));
        }
        payloads.push(Auth { method: AuthMethod::SHARED_KEY, data: value.as_bytes().to_vec() });
        if let Some(config) = self.address_request() {
            payloads.push(config);
        }
        payloads.push(Notify::bare(NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED));
        payloads.push(offer.clone());
        payloads.push(Payload::TsI(Ts::new(local_ts.clone())));
        payloads.push(Payload::TsR(Ts::new(self.config.remote_ts.clone())));
        let asked = Asked::Authentication(Box::new(Authenticating { first, spi_in, offer, local_ts }));
        match sa.request(ExchangeType::IKE_AUTH, payloads, asked, (&self.config.retransmit, now)) {
            Some(octets) => {
                self.send(octets);
                self.sas.push(sa);
            }
            None => self.finish(End::BadAnswer("the request could not be sealed")),
        }
    }

    /// The answer to IKE_AUTH on the IKE SA `at`.
    //= IK-42
    //= IK-51
    //= IK-53
    pub(super) fn authenticated(
        &mut self,
        at: usize,
        asked: Authenticating,
        payloads: &Payloads,
        now: Millis,
        rng: &mut dyn Rng,
    ) {
        let sa = &self.sas[at];
        let (Some(id_r), Some(auth)) = (payloads.id_r(), payloads.auth()) else {
            let refused = payloads.error().map(|notify| End::Refused(notify.kind));
            return self.finish(refused.unwrap_or(End::BadAnswer("IDr or AUTH is missing")));
        };
        let expected = keys::auth_psk(
            sa.suite.prf,
            &self.config.psk,
            &asked.first.answer,
            &asked.first.nonce_i,
            &sa.keys.pr,
            &id_r.body(),
        );
        let wanted = self.config.gateway_id.as_ref();
        let proven = auth.method == AuthMethod::SHARED_KEY
            && ct_eq(expected.as_bytes(), &auth.data)
            && wanted.is_none_or(|wanted| id_r.identity().as_ref() == Some(wanted));
        if !proven {
            self.sas[at].wishes.push_front(Wish::Reject);
            return;
        }
        (self.up, self.heard) = (true, now);
        let (spi, gateway_spi) = (sa.spi, sa.peer_spi);
        let (addresses, dns) = leased(payloads);
        self.addresses.clone_from(&addresses);
        self.out.events.push(Event::Up { spi, gateway_spi, addresses, dns });
        //= IK-52
        if let Some(error) = payloads.error() {
            self.out.events.push(Event::Refused { request: "child", notify: error.kind });
            return;
        }
        match self.first_child(at, &asked, payloads, rng) {
            Ok(child) => self.add_child(child, None),
            Err(what) => {
                //= IK-39
                self.sas[at].wish(Wish::DeleteIke);
                self.out.events.push(Event::Refused { request: what, notify: NotifyType::INVALID_SYNTAX });
            }
        }
    }

    fn first_child(
        &self,
        at: usize,
        asked: &Authenticating,
        payloads: &Payloads,
        rng: &mut dyn Rng,
    ) -> Result<Child, &'static str> {
        let sa = &self.sas[at];
        let answer = payloads.sa().ok_or("no SA payload for the child")?;
        if !answer.answers(&asked.offer) {
            return Err("the gateway took an ESP proposal that we did not offer");
        }
        let (suite, spi_out) = offer::esp_suite(answer).ok_or("an ESP proposal that we do not know")?;
        let (local_ts, remote_ts) = narrowed(payloads, &asked.local_ts, &self.config.remote_ts)?;
        let nonces = Nonces { initiator: &asked.first.nonce_i, responder: &asked.first.nonce_r };
        let keys = keys::child(sa.suite.prf, &sa.keys.d, suite, None, nonces, Side::Us);
        let tunnel = Tunnel::new(spi_out, suite, &keys, rng).ok_or("keys that do not fit the suite")?;
        Ok(Child {
            spi_in: asked.spi_in,
            spi_out,
            suite,
            keys,
            local_ts,
            remote_ts,
            tunnel,
            phase: ChildPhase::Live,
            waits_for_peer: false,
            unconfirmed: None,
        })
    }

    fn own_selectors(&self) -> Vec<Selector> {
        if !self.config.local_ts.is_empty() {
            return self.config.local_ts.clone();
        }
        let any = [("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")];
        let asked = [self.config.ask_ip4, self.config.ask_ip6];
        let everything = any.iter().zip(asked).filter(|(_, asked)| *asked).filter_map(|((start, end), _)| {
            Some(Selector::addresses(start.parse().ok()?, end.parse().ok()?))
        });
        let everything: Vec<Selector> = everything.collect();
        if everything.is_empty() { vec![Selector::host(self.local.ip())] } else { everything }
    }

    fn address_request(&self) -> Option<Config> {
        let mut attributes = Vec::new();
        if self.config.ask_ip4 {
            attributes.extend([ConfigAttribute::Ip4Address(None), ConfigAttribute::Ip4Dns(None)]);
        }
        if self.config.ask_ip6 {
            attributes.extend([ConfigAttribute::Ip6Address(None), ConfigAttribute::Ip6Dns(None)]);
        }
        (!attributes.is_empty()).then(|| Config::new(ConfigType::CFG_REQUEST, attributes))
    }
}

/// The selectors of an answer, ours first; each must lie within what we asked for.
pub(super) fn narrowed(
    payloads: &Payloads,
    local: &[Selector],
    remote: &[Selector],
) -> Result<(Vec<Selector>, Vec<Selector>), &'static str> {
    let (ts_i, ts_r) = payloads.ts_i().zip(payloads.ts_r()).ok_or("TSi or TSr is missing")?;
    let within = |told: &Ts, asked: &[Selector]| {
        !told.selectors.is_empty()
            && told.selectors.iter().all(|selector| asked.iter().any(|wide| wide.covers(selector)))
    };
    if !within(ts_i, local) || !within(ts_r, remote) {
        return Err("the gateway answered with wider selectors");
    }
    Ok((ts_i.selectors.clone(), ts_r.selectors.clone()))
}

/// (addresses, name servers) of a CFG_REPLY.
fn leased(payloads: &Payloads) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let (mut addresses, mut dns) = (Vec::new(), Vec::new());
    let reply = payloads.config().filter(|config| config.kind == ConfigType::CFG_REPLY);
    for attribute in reply.iter().flat_map(|config| &config.attributes) {
        match attribute {
            ConfigAttribute::Ip4Address(Some(ip)) => addresses.push((*ip).into()),
            ConfigAttribute::Ip6Address(Some((ip, _))) => addresses.push((*ip).into()),
            ConfigAttribute::Ip4Dns(Some(ip)) => dns.push((*ip).into()),
            ConfigAttribute::Ip6Dns(Some(ip)) => dns.push((*ip).into()),
            _ => {}
        }
    }
    (addresses, dns)
}
