//! IKE_AUTH, as responder, with a pre-shared key (RFC 7296, 1.2, 2.15, 2.16, 2.19).
//!
//! ```text
//!   IDi [IDr] AUTH [CP] SAi2 TSi TSr  ──>  choose connection ─> prove ─> lease ─> first child ─> Establish
//! ```
//!
//! Until AUTH is right, every failure is the same AUTHENTICATION_FAILED; a failed attempt ends its half-open SA.
//! Afterwards a failure of the child alone leaves the IKE SA up and is told by its own notify.

use std::net::IpAddr;
use std::sync::Arc;

use crypto::hash::ct_eq;

use crate::datagram::Datagram;
use crate::limits;
use crate::policy::{Auth, Connection, Identity, Unique};
use crate::record::{IkeRecord, Path, PeerSupports, Phase, Reply, Side, Step};
use crate::types::{MessageId, Revision, Spi};
use crate::wire::{
    self, AuthMethod, Config, ConfigAttribute, ConfigType, ExchangeType, Header, Id, Message, Notify,
    NotifyType, OpenError, Payload, Payloads,
};

use super::create_child::{ChildRequest, Made};
use super::half_open::HalfOpen;
use super::keys::{self, Nonces};
use super::{Context, Decision, DropReason, Endpoint, Event, ExchangeResult, Verdict, negotiate};

const FIRST_AUTH: MessageId = MessageId(1);

/// Shown by a value that only a verified AUTH payload yields.
struct PeerAuthenticated {
    peer_id: Identity,
}

impl Endpoint {
    /// A request for a half-open SA. The first thing that is encrypted.
    pub(super) fn auth(
        &mut self,
        header: &Header,
        datagram: &Datagram,
        ctx: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        let spi = header.spi_r;
        let half_open = self.half_open.get_mut(spi).ok_or(DropReason::UnknownSpi)?;
        if half_open.peer_spi != header.spi_i || header.response || !header.initiator {
            return Err(DropReason::UnknownSpi);
        }
        //= IK-19
        if header.exchange != ExchangeType::IKE_AUTH || header.message_id != FIRST_AUTH {
            return Err(DropReason::Window);
        }
        if half_open.busy {
            return Err(DropReason::Busy);
        }
        if let Some(failure) = &half_open.failure {
            let datagrams = vec![datagram.reply(failure.clone())];
            return Ok(Verdict::Send { datagrams, events: vec![exchange(ExchangeResult::Retransmitted)] });
        }
        let message = Message::parse(&datagram.octets).map_err(|_| DropReason::Malformed)?;
        let encrypted = message.encrypted.ok_or(DropReason::Malformed)?;
        let payloads = match encrypted.open(&datagram.octets, &half_open.open) {
            Ok(payloads) => payloads,
            //= IK-96
            Err(OpenError::Integrity) => {
                half_open.bad_messages += 1;
                if half_open.bad_messages >= limits::HALF_OPEN_BAD_MESSAGES {
                    self.half_open.remove(spi);
                }
                return Err(DropReason::Integrity);
            }
            Err(OpenError::Fragment) => return Err(DropReason::Malformed),
            Err(OpenError::Inside(error)) => {
                let notify = error.notify().unwrap_or(Notify::bare(NotifyType::INVALID_SYNTAX));
                return self.fail(spi, header, datagram, notify, None, "malformed IKE_AUTH", ctx);
            }
        };
        self.authenticate(header, datagram, &payloads, ctx)
    }

    fn authenticate(
        &mut self,
        header: &Header,
        datagram: &Datagram,
        payloads: &Payloads,
        ctx: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        let spi = header.spi_r;
        let half_open = self.half_open.get_mut(spi).ok_or(DropReason::UnknownSpi)?;
        let (connection, authenticated) = match prove(half_open, datagram, payloads, ctx) {
            Ok(proven) => proven,
            //= IK-51
            Err((peer, reason)) => {
                let notify = Notify::bare(NotifyType::AUTHENTICATION_FAILED);
                return self.fail(spi, header, datagram, notify, peer, reason, ctx);
            }
        };
        let connection = connection.clone();
        self.establish(header, datagram, payloads, &connection, authenticated, ctx)
    }

    /// The peer is who it says: the IKE SA comes up, with its first child where that can be agreed.
    fn establish(
        &mut self,
        header: &Header,
        datagram: &Datagram,
        payloads: &Payloads,
        connection: &Connection,
        PeerAuthenticated { peer_id }: PeerAuthenticated,
        ctx: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        let spi = header.spi_r;
        let older = superseded(connection, &peer_id, payloads, ctx);
        let half_open = self.half_open.get_mut(spi).ok_or(DropReason::UnknownSpi)?;
        let mut record = record_of(half_open, connection, peer_id, datagram, payloads, ctx);

        let mut reply = Payloads::default().with(Payload::IdR(Id::new(&connection.local_id)));
        reply.push(own_auth(half_open, connection, &record, ctx).ok_or(DropReason::Internal)?);

        let nonces = (half_open.nonce_i.clone(), half_open.nonce_r.clone());
        let leases = lease(connection, &record.peer_id, payloads.config(), &older, ctx);
        let request = ChildRequest {
            payloads,
            nonces: Nonces { initiator: &nonces.0, responder: &nonces.1 },
            inner_addresses: leases.as_ref().map_or(&[][..], |leases| &leases.addresses),
            create_child_sa: false,
            replaces: None,
        };
        let child = match &leases {
            Ok(_) => self.make_child(connection, &record, &request, ctx),
            Err(notify) => Err(notify.clone()),
        };
        let mut events = vec![exchange(ExchangeResult::Done)];
        match child {
            Ok(Made { child, payloads: child_payloads }) => {
                if let Ok(leases) = &leases {
                    record.inner_addresses.clone_from(&leases.addresses);
                    //= IK-62
                    leases.reply.iter().for_each(|config| reply.push(config.clone()));
                }
                events.push(Event::ChildUp {
                    ike: (&record).into(),
                    child: (&child).into(),
                    suite: child.suite,
                });
                record.children.push(child);
                child_payloads.iter().for_each(|payload| reply.push(payload.clone()));
            }
            //= IK-52
            //= IK-82
            Err(notify) => {
                events.push(Event::Refused {
                    address: datagram.peer,
                    peer: Some(record.peer_id.clone()),
                    notify: notify.kind,
                    reason: "no child SA",
                });
                reply.push(notify);
            }
        }
        events.insert(
            1,
            Event::Up {
                ike: (&record).into(),
                address: datagram.peer,
                suite: record.suite,
                inner: record.inner_addresses.clone(),
            },
        );

        let half_open = self.half_open.get_mut(spi).ok_or(DropReason::UnknownSpi)?;
        let octets = seal(half_open, header, reply).ok_or(DropReason::Internal)?;
        half_open.busy = true;
        record.last_reply = Some(Reply { message_id: FIRST_AUTH, octets: octets.clone() });
        let silently = payloads.has_notify(NotifyType::INITIAL_CONTACT);
        let mut steps: Vec<Step> =
            older.iter().map(|old| Step::Supersede { spi: old.spi, silently }).collect();
        for old in &older {
            events.push(Event::Down { ike: (&**old).into(), why: crate::record::Why::Superseded });
        }
        steps.push(Step::Establish(Box::new(record)));
        let change = crate::record::Change {
            guard: self.guard,
            spi,
            revision: Revision::default(),
            at: ctx.utc,
            steps,
        };
        let replies = crate::record::Sealed::new(vec![datagram.reply(octets)]);
        Ok(Verdict::Commit(Decision { change, replies, events }))
    }

    /// This attempt is over: the same octets answer its retransmissions until the half-open SA expires.
    #[allow(clippy::too_many_arguments)]
    fn fail(
        &mut self,
        spi: Spi,
        header: &Header,
        datagram: &Datagram,
        notify: Notify,
        peer: Option<Identity>,
        reason: &'static str,
        _ctx: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        let half_open = self.half_open.get_mut(spi).ok_or(DropReason::UnknownSpi)?;
        let kind = notify.kind;
        let octets = seal(half_open, header, Payloads::default().with(notify)).ok_or(DropReason::Internal)?;
        half_open.failure = Some(octets.clone());
        Ok(Verdict::Send {
            datagrams: vec![datagram.reply(octets)],
            events: vec![
                exchange(ExchangeResult::AuthenticationFailed),
                Event::Refused { address: datagram.peer, peer, notify: kind, reason },
            ],
        })
    }
}

/// Finds the connection for the identities and verifies AUTH. The error tells the administrator why.
//= IK-42
//= IK-43
//= IK-47
//= IK-51
fn prove<'a>(
    half_open: &HalfOpen,
    datagram: &Datagram,
    payloads: &Payloads,
    ctx: &Context<'a>,
) -> Result<(&'a Connection, PeerAuthenticated), (Option<Identity>, &'static str)> {
    let id_i = payloads.id_i().ok_or((None, "no IDi"))?;
    let peer_id = id_i.identity().ok_or((None, "an identity type that we do not know"))?;
    let failed = |reason| (Some(peer_id.clone()), reason);
    let asked_for = match payloads.id_r() {
        Some(id) => Some(id.identity().ok_or(failed("an identity type that we do not know"))?),
        None => None,
    };
    let connection = negotiate::connection(
        ctx.gateway,
        &half_open.suite,
        datagram.peer.ip(),
        &peer_id,
        asked_for.as_ref(),
    )
    .ok_or(failed("no connection for these identities"))?;
    let auth = payloads.auth().ok_or(failed("no AUTH: the peer wants EAP"))?;
    let (Auth::Psk, AuthMethod::SHARED_KEY) = (connection.remote_auth, auth.method) else {
        return Err(failed("another authentication method than configured"));
    };
    let psk = ctx.gateway.psk(&peer_id).ok_or(failed("no secret for this identity"))?;
    let expected = keys::auth_psk(
        half_open.suite.prf,
        psk,
        &half_open.request,
        &half_open.nonce_r,
        &half_open.keys.pi,
        &id_i.body(),
    );
    if !ct_eq(expected.as_bytes(), &auth.data) {
        return Err(failed("wrong pre-shared key"));
    }
    Ok((connection, PeerAuthenticated { peer_id }))
}

/// Our AUTH payload. With PSK both sides prove the same secret, the one for the peer's identity.
fn own_auth(
    half_open: &HalfOpen,
    connection: &Connection,
    record: &IkeRecord,
    ctx: &Context<'_>,
) -> Option<wire::Auth> {
    let Auth::Psk = connection.local_auth;
    let psk = ctx.gateway.psk(&record.peer_id)?;
    let value = keys::auth_psk(
        half_open.suite.prf,
        psk,
        &half_open.reply,
        &half_open.nonce_i,
        &half_open.keys.pr,
        &Id::new(&connection.local_id).body(),
    );
    Some(wire::Auth { method: AuthMethod::SHARED_KEY, data: value.as_bytes().to_vec() })
}

fn record_of(
    half_open: &HalfOpen,
    connection: &Connection,
    peer_id: Identity,
    datagram: &Datagram,
    payloads: &Payloads,
    ctx: &Context<'_>,
) -> IkeRecord {
    IkeRecord {
        spi: half_open.spi,
        peer_spi: half_open.peer_spi,
        initiator: Side::Peer,
        connection: connection.name.clone(),
        local_id: connection.local_id.clone(),
        peer_id,
        //= IK-12
        //= IK-28
        path: Path { local: datagram.local, peer: datagram.peer, ..half_open.path },
        suite: half_open.suite,
        keys: half_open.keys.clone(),
        established_at: ctx.utc,
        revision: Revision::default(),
        phase: Phase::Established,
        next_request: MessageId(0),
        outstanding: None,
        expected: MessageId(FIRST_AUTH.0 + 1),
        last_reply: None,
        children: Vec::new(),
        inner_addresses: Vec::new(),
        //= IK-91
        peer_supports: PeerSupports {
            tfc_padding: !payloads.has_notify(NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED),
            non_first_fragments: payloads.has_notify(NotifyType::NON_FIRST_FRAGMENTS_ALSO),
        },
    }
}

/// The older IKE SAs of this peer that give way: all of them when it says INITIAL_CONTACT or the connection wants
/// one at a time.
//= IK-54
fn superseded(
    connection: &Connection,
    peer: &Identity,
    payloads: &Payloads,
    ctx: &Context<'_>,
) -> Vec<Arc<IkeRecord>> {
    let replaces = match connection.unique {
        Unique::Replace => true,
        Unique::Keep => payloads.has_notify(NotifyType::INITIAL_CONTACT),
        Unique::Never => false,
    };
    if !replaces {
        return Vec::new();
    }
    let mut older = ctx.view.of_peer(&connection.name, peer);
    older.retain(|record| !matches!(record.phase, Phase::Closing { .. }));
    older
}

struct Leases {
    addresses: Vec<IpAddr>,
    reply: Option<Config>,
}

/// Inner addresses for what the peer asked, or the notify that its child is refused with.
//= IK-56
//= IK-57
//= IK-58
//= IK-59
fn lease(
    connection: &Connection,
    peer: &Identity,
    request: Option<&Config>,
    older: &[Arc<IkeRecord>],
    ctx: &Context<'_>,
) -> Result<Leases, Notify> {
    let pool = connection.pool.as_deref().and_then(|name| ctx.gateway.pool(name));
    let Some(pool) = pool else {
        return Ok(Leases { addresses: Vec::new(), reply: None });
    };
    let request = request
        .filter(|config| config.kind == ConfigType::CFG_REQUEST)
        .ok_or(Notify::bare(NotifyType::FAILED_CP_REQUIRED))?;
    let mut addresses = Vec::new();
    for v4 in [true, false] {
        for wish in wishes(request, v4).into_iter().take(limits::ADDRESSES_PER_FAMILY) {
            let kept = older
                .iter()
                .flat_map(|old| &old.inner_addresses)
                .find(|ip| ip.is_ipv4() == v4 && pool.addresses.iter().any(|network| network.contains(**ip)));
            let leased = kept.copied().or_else(|| ctx.view.free_address(pool, peer, wish, v4));
            addresses.extend(leased);
        }
    }
    if addresses.is_empty() {
        return Err(Notify::bare(NotifyType::INTERNAL_ADDRESS_FAILURE));
    }
    let reply = Some(configuration(&addresses, &pool.dns));
    Ok(Leases { addresses, reply })
}

/// The addresses of one family that the request asks for; `None` is "any" (RFC 7296, 3.15.1).
fn wishes(request: &Config, v4: bool) -> Vec<Option<IpAddr>> {
    let wish = |attribute: &ConfigAttribute| match attribute {
        ConfigAttribute::Ip4Address(wish) if v4 => Some(wish.map(IpAddr::from)),
        ConfigAttribute::Ip6Address(wish) if !v4 => Some(wish.map(|(ip, _)| ip.into())),
        _ => None,
    };
    request.attributes.iter().filter_map(wish).collect()
}

/// The reply: the leased addresses, and the pool's name servers of the same families.
//= IK-60
fn configuration(addresses: &[IpAddr], dns: &[IpAddr]) -> Config {
    let address = |ip: &IpAddr| match *ip {
        IpAddr::V4(ip) => ConfigAttribute::Ip4Address(Some(ip)),
        IpAddr::V6(ip) => ConfigAttribute::Ip6Address(Some((ip, 128))),
    };
    let server = |ip: &IpAddr| match *ip {
        IpAddr::V4(ip) => ConfigAttribute::Ip4Dns(Some(ip)),
        IpAddr::V6(ip) => ConfigAttribute::Ip6Dns(Some(ip)),
    };
    let of_leased_family = |ip: &&IpAddr| addresses.iter().any(|leased| leased.is_ipv4() == ip.is_ipv4());
    let attributes = addresses.iter().map(address).chain(dns.iter().filter(of_leased_family).map(server));
    Config::new(ConfigType::CFG_REPLY, attributes.collect())
}

/// The reply to the half-open SA's IKE_AUTH.
fn seal(half_open: &mut HalfOpen, request: &Header, payloads: Payloads) -> Option<Vec<u8>> {
    let message = Message { header: request.reply(), payloads, encrypted: None };
    message.seal(&mut half_open.seal).ok()
}

fn exchange(result: ExchangeResult) -> Event {
    Event::Exchange { exchange: ExchangeType::IKE_AUTH, result }
}
