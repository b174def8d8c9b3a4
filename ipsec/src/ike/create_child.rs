//! CREATE_CHILD_SA as responder: told apart by what the SA payload names and by REKEY_SA (RFC 7296, 1.3), and the
//! making of a child, which IKE_AUTH shares.
//!
//! | the peer wants | we have under way | we say | id |
//! |---|---|---|---|
//! | anything | Delete of the IKE SA, or it is replaced, or may still inherit | TEMPORARY_FAILURE | IK-76 |
//! | a child, new or rekeyed | rekey of the IKE SA | TEMPORARY_FAILURE | IK-76 |
//! | IKE rekey | rekey or Delete of a child | TEMPORARY_FAILURE | IK-76 |
//! | IKE rekey | rekey of the IKE SA | yes, and the nonces decide | IK-75 |
//! | rekey of a child | Delete of that child | TEMPORARY_FAILURE | IK-76 |
//! | rekey of a child | rekey of that child | yes, and the nonces decide | IK-74 |
//! | rekey of a child | (unknown child) | CHILD_SA_NOT_FOUND | IK-76 |

use std::net::IpAddr;

use crypto::kex::{Group, PrivateKey};

use crate::limits;
use crate::policy::{Connection, EspProposal, Selector};
use crate::record::{
    Block, ChildPhase, ChildRecord, Claimed, EspSuite, IkeRecord, Phase, Purpose, Side, Step,
};
use crate::types::{ChildSpi, EspSeq};
use crate::wire::{GroupId, Ke, Nonce, Notify, NotifyType, Payload, Payloads, Proposal, ProtocolId, Sa, Ts};

use super::exchange::Answer;
use super::keys::{self, Nonces};
use super::negotiate::{self, NoChild};
use super::rekey_ike::awaits_decision;
use super::{Context, Endpoint, Event};

const SPI_DRAWS: usize = 16;

/// What a peer asks for when it asks for a child.
pub(super) struct ChildRequest<'a> {
    pub payloads: &'a Payloads,
    pub nonces: Nonces<'a>,
    /// What "remote" means where policy leaves it open.
    pub inner_addresses: &'a [IpAddr],
    /// In CREATE_CHILD_SA a key exchange may go along, and our nonce goes back.
    pub create_child_sa: bool,
    pub replaces: Option<&'a ChildRecord>,
}

/// A child, and the payloads that tell the peer of it.
pub(super) struct Made {
    pub child: ChildRecord,
    pub payloads: Payloads,
}

struct Agreed {
    name: String,
    suite: EspSuite,
    answer: Proposal,
    local_ts: Vec<Selector>,
    remote_ts: Vec<Selector>,
}

impl Endpoint {
    //= IK-69
    pub(super) fn create_child(
        &mut self,
        record: &IkeRecord,
        payloads: &Payloads,
        ctx: &mut Context<'_>,
    ) -> Answer {
        let ours = record.outstanding.as_ref().map(|outstanding| &outstanding.purpose);
        //= IK-73
        let settled = record.phase == Phase::Established && !awaits_decision(record, ctx);
        if !settled || matches!(ours, Some(Purpose::DeleteIke)) {
            return Answer::refuse_with(NotifyType::TEMPORARY_FAILURE);
        }
        let (Some(offer), Some(_)) = (payloads.sa(), payloads.nonce()) else {
            return Answer::refuse_with(NotifyType::INVALID_SYNTAX);
        };
        let wants_ike = offer.proposals.first().is_some_and(|first| first.protocol == ProtocolId::IKE);
        //= IK-76
        let clashes = match ours {
            Some(Purpose::RekeyIke(_)) => !wants_ike,
            Some(Purpose::RekeyChild(_) | Purpose::DeleteChildren { .. }) => wants_ike,
            _ => false,
        };
        if clashes {
            return Answer::refuse_with(NotifyType::TEMPORARY_FAILURE);
        }
        if wants_ike {
            self.rekey_ike(record, payloads, ctx)
        } else if let Some(rekeyed) = payloads.notify(NotifyType::REKEY_SA) {
            self.rekey_child(record, rekeyed, payloads, ctx)
        } else {
            self.new_child(record, payloads, ctx)
        }
    }

    fn new_child(&mut self, record: &IkeRecord, payloads: &Payloads, ctx: &mut Context<'_>) -> Answer {
        match self.answer_child(record, payloads, None, ctx) {
            Ok(Made { child, payloads }) => Answer {
                events: vec![Event::ChildUp {
                    ike: record.into(),
                    child: (&child).into(),
                    suite: child.suite,
                }],
                steps: vec![Step::AddChild(Box::new(child))],
                payloads,
                ..Answer::empty()
            },
            //= IK-82
            Err(notify) => Answer::refuse(notify),
        }
    }

    /// A child for a request in CREATE_CHILD_SA.
    pub(super) fn answer_child(
        &mut self,
        record: &IkeRecord,
        payloads: &Payloads,
        replaces: Option<&ChildRecord>,
        ctx: &mut Context<'_>,
    ) -> Result<Made, Notify> {
        let gateway = ctx.gateway;
        let connection =
            gateway.connection(&record.connection).ok_or(Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN))?;
        if record.children.len() >= limits::CHILDREN_PER_IKE_SA {
            return Err(Notify::bare(NotifyType::NO_ADDITIONAL_SAS));
        }
        let nonce_i = payloads.nonce().ok_or(Notify::bare(NotifyType::INVALID_SYNTAX))?;
        if !nonce_i.fits(record.suite.prf) {
            return Err(Notify::bare(NotifyType::INVALID_SYNTAX));
        }
        let nonce_r = Nonce::random(ctx.rng);
        let request = ChildRequest {
            payloads,
            nonces: Nonces { initiator: &nonce_i.0, responder: &nonce_r.0 },
            inner_addresses: &record.inner_addresses,
            create_child_sa: true,
            replaces,
        };
        self.make_child(connection, record, &request, ctx)
    }

    /// Agrees on a child and makes its keys; the notify says why not.
    pub(super) fn make_child(
        &self,
        connection: &Connection,
        record: &IkeRecord,
        request: &ChildRequest<'_>,
        ctx: &mut Context<'_>,
    ) -> Result<Made, Notify> {
        let invalid = || Notify::bare(NotifyType::INVALID_SYNTAX);
        let payloads = request.payloads;
        let (Some(offer), Some(ts_i), Some(ts_r)) = (payloads.sa(), payloads.ts_i(), payloads.ts_r()) else {
            return Err(invalid());
        };
        let agreed = match request.replaces {
            Some(old) => agree_rekey(connection, old, offer, ts_i, ts_r, request.create_child_sa)?,
            None => {
                let dynamic = dynamic(record, request.inner_addresses);
                agree_new(connection, offer, ts_i, ts_r, &dynamic, request.create_child_sa)?
            }
        };
        let exchange = match agreed.suite.group {
            Some(group) => Some(exchange_keys(group, payloads.ke(), ctx)?),
            None => None,
        };
        let spi_out = agreed.answer.child_spi().ok_or(Notify::bare(NotifyType::INVALID_SYNTAX))?;
        let spi_in = self.fresh_child_spi(record, ctx).ok_or(Notify::bare(NotifyType::NO_ADDITIONAL_SAS))?;
        let shared = exchange.as_ref().map(|(_, shared)| shared);
        let claimed = claimed(Some(connection), &agreed.name);
        let child = ChildRecord {
            name: agreed.name,
            spi_in,
            spi_out,
            suite: agreed.suite,
            keys: keys::child(
                record.suite.prf,
                &record.keys.d,
                agreed.suite,
                shared,
                request.nonces,
                Side::Peer,
            ),
            local_ts: agreed.local_ts.clone(),
            remote_ts: agreed.remote_ts.clone(),
            established_at: ctx.utc,
            phase: ChildPhase::Live,
            initiator: Side::Peer,
            replaces: request.replaces.map(|old| old.spi_in),
            block: Block::NONE,
            granted: EspSeq(0),
            claimed,
        };
        // No notify of an offer comes back: not compression, not transport mode.
        //= IK-92
        //= IK-93
        let mut answer =
            Payloads::default().with(Sa::answer(agreed.answer.with_spi(spi_in.0.to_be_bytes().to_vec())));
        if request.create_child_sa {
            answer.push(Nonce(request.nonces.responder.to_vec()));
        }
        if let Some((ke, _)) = exchange {
            answer.push(ke);
        }
        answer.push(Payload::TsI(Ts::new(agreed.remote_ts)));
        answer.push(Payload::TsR(Ts::new(agreed.local_ts)));
        Ok(Made { child, payloads: answer })
    }

    //= IK-85
    pub(super) fn fresh_child_spi(&self, record: &IkeRecord, ctx: &mut Context<'_>) -> Option<ChildSpi> {
        (0..SPI_DRAWS)
            .map(|_| ChildSpi::random(record.segment(), ctx.rng))
            .find(|&spi| !ctx.view.child_spi_taken(spi))
    }
}

fn agree_new(
    connection: &Connection,
    offer: &Sa,
    ts_i: &Ts,
    ts_r: &Ts,
    dynamic: &[Selector],
    with_group: bool,
) -> Result<Agreed, Notify> {
    match negotiate::child(connection, offer, ts_i, ts_r, dynamic, with_group) {
        Ok(choice) => Ok(Agreed {
            name: choice.policy.name.clone(),
            suite: choice.suite,
            answer: choice.answer,
            local_ts: choice.local_ts,
            remote_ts: choice.remote_ts,
        }),
        //= IK-64
        Err(NoChild::TrafficSelectors) => Err(Notify::bare(NotifyType::TS_UNACCEPTABLE)),
        Err(NoChild::Proposal) => Err(Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN)),
    }
}

/// A rekeyed child carries what the old one carried, also where the peer asks for more.
//= IK-68
fn agree_rekey(
    connection: &Connection,
    old: &ChildRecord,
    offer: &Sa,
    ts_i: &Ts,
    ts_r: &Ts,
    with_group: bool,
) -> Result<Agreed, Notify> {
    let policy = connection.children.iter().find(|policy| policy.name == old.name);
    let esp: &[EspProposal] = policy.map_or(&[], |policy| &policy.esp);
    let (suite, answer) =
        negotiate::esp(esp, offer, with_group).ok_or(Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN))?;
    let (local_ts, remote_ts) =
        (negotiate::narrow(ts_r, &old.local_ts), negotiate::narrow(ts_i, &old.remote_ts));
    if local_ts.is_empty() || remote_ts.is_empty() {
        return Err(Notify::bare(NotifyType::TS_UNACCEPTABLE));
    }
    Ok(Agreed { name: old.name.clone(), suite, answer, local_ts, remote_ts })
}

/// What a new child called `name` may accept, by the policy of today.
pub(super) fn claimed(connection: Option<&Connection>, name: &str) -> Option<Claimed> {
    let policy = connection?.children.iter().find(|policy| policy.name == name)?;
    policy.strict_replay.then_some(Claimed::FIRST)
}

/// The leased addresses, or without a pool the peer itself.
fn dynamic(record: &IkeRecord, inner_addresses: &[IpAddr]) -> Vec<Selector> {
    if inner_addresses.is_empty() {
        vec![Selector::host(record.path.peer.ip().to_canonical())]
    } else {
        inner_addresses.iter().map(|&ip| Selector::host(ip)).collect()
    }
}

/// Our half of a key exchange in CREATE_CHILD_SA, and the shared secret.
//= IK-70
pub(super) fn exchange_keys(
    group: Group,
    theirs: Option<&Ke>,
    ctx: &mut Context<'_>,
) -> Result<(Ke, crypto::Secret), Notify> {
    let ke = theirs.filter(|ke| ke.group.group() == Some(group));
    let ke = ke.ok_or_else(|| Notify::invalid_ke(GroupId::of(group)))?;
    let private = PrivateKey::generate(group, ctx.rng);
    let shared = private.agree(&ke.data).map_err(|_| Notify::bare(NotifyType::INVALID_SYNTAX))?;
    Ok((Ke::new(group, private.public()), shared))
}
