//! Messages of established IKE SAs: window, integrity, dispatch, and the reply that waits for its commit.
//!
//! ```text
//!   request   ID = expected      open ─> answer() ─> steps + payloads ─> Commit, reply sealed
//!             ID = the one before  ─> Send the committed octets
//!   response  ID = outstanding   open ─> conclude() ─> steps ─> Commit
//!   any other ID                   ─> Drop(window)
//! ```

use std::sync::Arc;

use crate::datagram::Datagram;
use crate::limits;
use crate::record::{IkeRecord, Outstanding, Path, Phase, Purpose, Side, Step, Why};
use crate::wire::{ExchangeType, Header, Message, Notify, NotifyType, OpenError, ParseError, Payloads};

use super::{Context, DropReason, Endpoint, Event, ExchangeResult, Verdict};

/// What a request of the peer comes to.
pub(super) struct Answer {
    pub steps: Vec<Step>,
    pub payloads: Payloads,
    pub events: Vec<Event>,
    pub result: ExchangeResult,
}

impl Answer {
    pub fn empty() -> Answer {
        Answer {
            steps: Vec::new(),
            payloads: Payloads::default(),
            events: Vec::new(),
            result: ExchangeResult::Done,
        }
    }

    /// The request is refused; nothing but the window moves.
    pub fn refuse(notify: Notify) -> Answer {
        Answer {
            payloads: Payloads::default().with(notify),
            result: ExchangeResult::Refused,
            ..Answer::empty()
        }
    }

    pub fn refuse_with(kind: NotifyType) -> Answer {
        Answer::refuse(Notify::bare(kind))
    }
}

/// What the answer to a request of ours comes to.
#[derive(Default)]
pub(super) struct Conclusion {
    pub steps: Vec<Step>,
    pub events: Vec<Event>,
    /// The next request, in the same change.
    pub ask: Option<Ask>,
    pub refused: bool,
}

/// A request of ours, before it has an ID.
pub(super) struct Ask {
    pub exchange: ExchangeType,
    pub payloads: Payloads,
    pub purpose: Purpose,
}

impl Endpoint {
    pub(super) fn protected(
        &mut self,
        header: &Header,
        datagram: &Datagram,
        ctx: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        // Our SPI alone tells the SA: addresses and SPIs of theirs may be the same for many (NAT).
        //= IK-100
        let Some(record) = ctx.view.record(header.receiver_spi()) else {
            return self.without_record(header, datagram, ctx);
        };
        if record.peer_spi != header.sender_spi() || header.initiator != (record.initiator == Side::Peer) {
            return Err(DropReason::UnknownSpi);
        }
        if header.response {
            self.response(&record, header, datagram, ctx)
        } else {
            self.request(&record, header, datagram, ctx)
        }
    }

    fn without_record(
        &mut self,
        header: &Header,
        datagram: &Datagram,
        ctx: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        let spi = header.receiver_spi();
        if self.half_open.contains(spi) {
            return self.auth(header, datagram, ctx);
        }
        if header.response {
            return Err(DropReason::Unsolicited);
        }
        //= IK-15
        let ended = ctx.view.farewell(spi).filter(|farewell| {
            let asked = !farewell.octets.is_empty() && farewell.message_id == header.message_id;
            asked && ctx.utc.since(farewell.at) < limits::FAREWELL_MS
        });
        if let Some(farewell) = ended {
            return Ok(Verdict::Send {
                datagrams: vec![datagram.reply(farewell.octets.clone())],
                events: vec![exchange(header, ExchangeResult::Retransmitted)],
            });
        }
        //= IK-89
        if !self.may_send_stray(ctx) {
            return Err(DropReason::UnknownSpi);
        }
        let octets = Message::notification(header, Notify::bare(NotifyType::INVALID_IKE_SPI)).emit();
        Ok(Verdict::Send {
            datagrams: vec![datagram.reply(octets)],
            events: vec![exchange(header, ExchangeResult::Refused)],
        })
    }

    //= IK-13
    //= IK-15
    //= IK-17
    fn request(
        &mut self,
        record: &Arc<IkeRecord>,
        header: &Header,
        datagram: &Datagram,
        ctx: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        if let Some(reply) = record.last_reply.as_ref().filter(|reply| reply.message_id == header.message_id)
        {
            return Ok(Verdict::Send {
                datagrams: vec![datagram.reply(reply.octets.clone())],
                events: vec![exchange(header, ExchangeResult::Retransmitted)],
            });
        }
        if header.message_id != record.expected {
            return Err(DropReason::Window);
        }
        //= IK-83
        //= IK-88
        let answer = match self.open(record, datagram, ctx)? {
            Ok(payloads) => match header.exchange {
                ExchangeType::CREATE_CHILD_SA => self.create_child(record, &payloads, ctx),
                ExchangeType::INFORMATIONAL => self.inform(record, &payloads, ctx),
                _ => misbehaved(record),
            },
            Err(ParseError::UnsupportedCritical(kind)) => {
                Answer::refuse(Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind]))
            }
            Err(_) => misbehaved(record),
        };
        let reply = Message { header: header.reply(), payloads: answer.payloads, encrypted: None };
        let sa = self.sas.get_mut(&record.spi).ok_or(DropReason::Busy)?;
        let octets = reply.seal(&mut sa.seal).map_err(|_| DropReason::Internal)?;
        sa.busy = true;
        let mut steps = vec![Step::Answered { message_id: header.message_id, octets: octets.clone() }];
        let mut events = vec![exchange(header, answer.result)];
        if let Some(path) = new_path(record, datagram) {
            events.push(Event::Moved { spi: record.spi, from: record.path.peer, to: path.peer });
            steps.push(Step::Moved(path));
        }
        steps.extend(answer.steps);
        events.extend(answer.events);
        Ok(self.commit(record, steps, vec![datagram.reply(octets)], events, ctx))
    }

    fn response(
        &mut self,
        record: &Arc<IkeRecord>,
        header: &Header,
        datagram: &Datagram,
        ctx: &mut Context<'_>,
    ) -> Result<Verdict, DropReason> {
        let outstanding = record.outstanding.as_ref().filter(|it| it.message_id == header.message_id);
        let outstanding = outstanding.ok_or(DropReason::Unsolicited)?;
        let conclusion = match self.open(record, datagram, ctx)? {
            Ok(payloads) => self.conclude(record, outstanding, &payloads, ctx),
            //= IK-88
            Err(_) => Conclusion {
                steps: vec![Step::SetPhase(Phase::Closing { why: Why::Misbehaved })],
                refused: true,
                ..Conclusion::default()
            },
        };
        let result = if conclusion.refused { ExchangeResult::PeerRefused } else { ExchangeResult::Done };
        let mut events = vec![exchange(header, result)];
        events.extend(conclusion.events);
        let mut steps = vec![Step::Concluded { message_id: header.message_id }];
        steps.extend(conclusion.steps);
        let mut datagrams = Vec::new();
        if let Some(ask) = conclusion.ask {
            let (step, datagram) = self.ask(record, ask).ok_or(DropReason::Internal)?;
            steps.push(step);
            datagrams.push(datagram);
        }
        if let Some(sa) = self.sas.get_mut(&record.spi) {
            sa.busy = true;
        }
        Ok(self.commit(record, steps, datagrams, events, ctx))
    }

    fn conclude(
        &mut self,
        record: &IkeRecord,
        outstanding: &Outstanding,
        payloads: &Payloads,
        ctx: &mut Context<'_>,
    ) -> Conclusion {
        match &outstanding.purpose {
            Purpose::Liveness | Purpose::DeleteIke | Purpose::DeleteChildren { .. } => {
                self.conclude_inform(record, &outstanding.purpose)
            }
            Purpose::RekeyChild(rekey) => self.conclude_child_rekey(record, rekey, payloads, ctx),
            Purpose::RekeyIke(rekey) => self.conclude_ike_rekey(record, rekey, payloads, ctx),
        }
    }

    /// The payloads of an authentic message. The inner error is one that the peer may be told.
    //= IK-96
    fn open(
        &mut self,
        record: &IkeRecord,
        datagram: &Datagram,
        ctx: &Context<'_>,
    ) -> Result<Result<Payloads, ParseError>, DropReason> {
        let sa = self.sas.get_mut(&record.spi).ok_or(DropReason::Busy)?;
        if sa.busy {
            return Err(DropReason::Busy);
        }
        let message = Message::parse(&datagram.octets).map_err(|_| DropReason::Malformed)?;
        let encrypted = message.encrypted.ok_or(DropReason::Malformed)?;
        let payloads = match encrypted.open(&datagram.octets, &sa.open) {
            Ok(payloads) => Ok(payloads),
            Err(OpenError::Integrity) => return Err(DropReason::Integrity),
            Err(OpenError::Fragment) => return Err(DropReason::Malformed),
            Err(OpenError::Inside(error)) => Err(error),
        };
        sa.heard(record, ctx);
        Ok(payloads)
    }

    /// Gives `ask` the next message ID and seals it. To be sent only once the step is committed (CL-7).
    //= IK-14
    pub(super) fn ask(&mut self, record: &IkeRecord, ask: Ask) -> Option<(Step, Datagram)> {
        let sa = self.sas.get_mut(&record.spi)?;
        let (spi_i, spi_r) = record.spis();
        let header = Header {
            spi_i,
            spi_r,
            exchange: ask.exchange,
            initiator: record.initiator == Side::Us,
            response: false,
            message_id: record.next_request,
        };
        let octets = Message { header, payloads: ask.payloads, encrypted: None }.seal(&mut sa.seal).ok()?;
        let datagram = Datagram::new(record.path.local, record.path.peer, octets.clone());
        let outstanding = Outstanding { message_id: record.next_request, octets, purpose: ask.purpose };
        Some((Step::Asked(Box::new(outstanding)), datagram))
    }
}

/// The peer broke the syntax inside an authenticated message: fatal for the SA (RFC 7296, 2.21.3).
fn misbehaved(record: &IkeRecord) -> Answer {
    let why = Why::Misbehaved;
    Answer {
        steps: vec![Step::Remove { why }],
        events: vec![down(record, why)],
        ..Answer::refuse_with(NotifyType::INVALID_SYNTAX)
    }
}

pub(super) fn down(record: &IkeRecord, why: Why) -> Event {
    Event::Down { ike: record.into(), why }
}

/// A peer behind a NAT wrote from another address: its mapping has changed (RFC 7296, 2.23).
//= IK-99
fn new_path(record: &IkeRecord, datagram: &Datagram) -> Option<Path> {
    let moved = datagram.peer != record.path.peer || datagram.local != record.path.local;
    (moved && record.path.peer_behind_nat && !record.path.we_behind_nat).then_some(Path {
        local: datagram.local,
        peer: datagram.peer,
        ..record.path
    })
}

fn exchange(header: &Header, result: ExchangeResult) -> Event {
    Event::Exchange { exchange: header.exchange, result }
}

/// Which of two SAs made by crossing rekeys survives: not the one whose exchange had the lowest nonce of the four
/// (RFC 7296, 2.8.1). True when it is ours.
//= IK-74
//= IK-75
pub(super) fn ours_survives(our_lower: &[u8], their_lower: &[u8]) -> bool {
    our_lower > their_lower
}
