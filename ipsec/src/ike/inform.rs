//! INFORMATIONAL, both roles: Delete, liveness, notifies (RFC 7296, 1.4 and 2.4).

use crate::record::{ChildPhase, IkeRecord, Phase, Purpose, Step, Why};
use crate::types::ChildSpi;
use crate::wire::{Config, ConfigType, Delete, ExchangeType, NotifyType, Payloads};

use super::exchange::{Answer, Ask, Conclusion, down};
use super::rekey_ike::{heir_spis, rekeyed};
use super::{Context, Endpoint, Event};

impl Endpoint {
    //= IK-83
    //= IK-84
    //= IK-86
    pub(super) fn inform(&mut self, record: &IkeRecord, payloads: &Payloads, ctx: &Context<'_>) -> Answer {
        let mut answer = Answer::empty();
        let gave_up = payloads.has_notify(NotifyType::AUTHENTICATION_FAILED);
        if gave_up || payloads.deletes().any(|delete| *delete == Delete::Ike) {
            return farewell(record, ctx);
        }
        let mut ours = Vec::new();
        for delete in payloads.deletes() {
            if let Delete::Esp(spis) = delete {
                spis.iter().for_each(|&spi_out| close_child(record, spi_out, &mut answer, &mut ours));
            }
        }
        if !ours.is_empty() {
            answer.payloads.push(Delete::Esp(ours));
        }
        //= IK-61
        if payloads.config().is_some_and(|config| config.kind == ConfigType::CFG_SET) {
            answer.payloads.push(Config::new(ConfigType::CFG_ACK, Vec::new()));
        }
        answer
    }

    pub(super) fn conclude_inform(&mut self, record: &IkeRecord, purpose: &Purpose) -> Conclusion {
        let mut conclusion = Conclusion::default();
        match purpose {
            Purpose::DeleteIke => {
                let why = match record.phase {
                    Phase::Closing { why } => why,
                    Phase::Replaced { .. } => Why::Rekeyed,
                    Phase::Established => Why::Terminated,
                };
                conclusion.steps.push(Step::Remove { why });
                if why != Why::Rekeyed {
                    conclusion.events.push(down(record, why));
                }
            }
            Purpose::DeleteChildren { spis_in } => {
                for child in spis_in.iter().filter_map(|&spi| record.child(spi)) {
                    let why = match child.phase {
                        ChildPhase::Closing { why } => why,
                        _ => Why::Rekeyed,
                    };
                    conclusion.steps.push(Step::RemoveChild { spi_in: child.spi_in, why });
                    conclusion.events.push(Event::ChildDown { ike: record.into(), child: child.into(), why });
                }
            }
            _ => {}
        }
        conclusion
    }
}

/// An empty request: are you there?
//= IK-87
pub(super) fn liveness() -> Ask {
    Ask { exchange: ExchangeType::INFORMATIONAL, payloads: Payloads::default(), purpose: Purpose::Liveness }
}

pub(super) fn delete_ike() -> Ask {
    Ask {
        exchange: ExchangeType::INFORMATIONAL,
        payloads: Payloads::default().with(Delete::Ike),
        purpose: Purpose::DeleteIke,
    }
}

/// Names our inbound SPIs, as the sender of a Delete does.
//= IK-84
pub(super) fn delete_children(spis_in: Vec<ChildSpi>) -> Ask {
    Ask {
        exchange: ExchangeType::INFORMATIONAL,
        payloads: Payloads::default().with(Delete::Esp(spis_in.clone())),
        purpose: Purpose::DeleteChildren { spis_in },
    }
}

/// The peer ends the IKE SA. Where its own rekey has crossed ours and was not decided yet, its new one inherits.
//= IK-86
fn farewell(record: &IkeRecord, ctx: &Context<'_>) -> Answer {
    let mut answer = Answer::empty();
    let why = match record.phase {
        Phase::Closing { why } => why,
        Phase::Replaced { .. } => Why::Rekeyed,
        Phase::Established => match crossed_heir(record) {
            Some(heir) => {
                answer.steps.push(Step::Inherit { by: heir });
                answer.events.extend(heir_spis(heir, ctx).map(|spis| rekeyed(record, spis)));
                Why::Rekeyed
            }
            None => Why::PeerDeleted,
        },
    };
    answer.steps.push(Step::Remove { why });
    if why != Why::Rekeyed {
        answer.events.push(down(record, why));
    }
    answer
}

/// The IKE SA that the peer's rekey has made while ours is under way: it may inherit from `record`.
pub(super) fn crossed_heir(record: &IkeRecord) -> Option<crate::types::Spi> {
    match record.outstanding.as_ref().map(|outstanding| &outstanding.purpose) {
        Some(Purpose::RekeyIke(rekey)) => rekey.crossed.as_ref().map(|(_, spi)| *spi),
        _ => None,
    }
}

/// One SPI of the peer's Delete. A child whose Delete of ours is under way goes without being named in the reply:
/// both sides have said it already (RFC 7296, 1.4.1).
//= IK-76
fn close_child(record: &IkeRecord, spi_out: ChildSpi, answer: &mut Answer, ours: &mut Vec<ChildSpi>) {
    let Some(child) = record.child_by_peer_spi(spi_out) else {
        return;
    };
    let removed = |step: &Step| matches!(step, Step::RemoveChild { spi_in, .. } if *spi_in == child.spi_in);
    if answer.steps.iter().any(removed) {
        return;
    }
    let why = match child.phase {
        ChildPhase::Closing { why } => why,
        ChildPhase::Replaced => Why::Rekeyed,
        ChildPhase::Live => Why::PeerDeleted,
    };
    answer.steps.push(Step::RemoveChild { spi_in: child.spi_in, why });
    answer.events.push(Event::ChildDown { ike: record.into(), child: child.into(), why });
    if !being_deleted(record, child.spi_in) {
        ours.push(child.spi_in);
    }
}

pub(super) fn being_deleted(record: &IkeRecord, spi_in: ChildSpi) -> bool {
    match record.outstanding.as_ref().map(|outstanding| &outstanding.purpose) {
        Some(Purpose::DeleteChildren { spis_in }) => spis_in.contains(&spi_in),
        _ => false,
    }
}
