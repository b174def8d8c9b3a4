//! What the engine does by itself when a deadline has passed: send again, give up, ask, close.
//!
//! One thing at a time for each IKE SA, the most final first. The window of our requests is one, so an unanswered
//! request holds back everything but its own retransmission (IK-16).

use std::sync::Arc;

use crate::datagram::Datagram;
use crate::limits;
use crate::record::{ChildPhase, IkeRecord, Phase, Step, Why};
use crate::types::{ChildSpi, Spi};
use crate::wire::ExchangeType;

use super::exchange::{Ask, down};
use super::inform::{delete_children, delete_ike, liveness};
use super::rekey_ike::awaits_decision;
use super::{Context, Endpoint, Event, ExchangeResult, Order, Verdict};

impl Endpoint {
    pub(super) fn due(&mut self, spi: Spi, ctx: &mut Context<'_>) -> Option<Verdict> {
        let Some(record) = ctx.view.record(spi) else {
            self.sas.remove(&spi);
            return None;
        };
        if record.outstanding.is_some() {
            return self.retransmit(&record, ctx);
        }
        let verdict = self.next_request(&record, ctx);
        if verdict.is_none()
            && let Some(sa) = self.sas.get_mut(&spi)
        {
            sa.schedule(&record, ctx);
        }
        verdict
    }

    /// The same octets again, with growing patience; at last the peer is taken for gone (RFC 7296, 2.4).
    //= IK-14
    //= IK-18
    fn retransmit(&mut self, record: &Arc<IkeRecord>, ctx: &mut Context<'_>) -> Option<Verdict> {
        let outstanding = record.outstanding.as_ref()?;
        let sa = self.sas.get_mut(&record.spi)?;
        let timer = sa.timers.retransmit.as_mut()?;
        if timer.at > ctx.now {
            sa.schedule(record, ctx);
            return None;
        }
        timer.tries += 1;
        if timer.tries > limits::RETRANSMIT_TRIES {
            sa.busy = true;
            let why = match record.phase {
                Phase::Closing { why } => why,
                _ => Why::PeerSilent,
            };
            let timed_out =
                Event::Exchange { exchange: ExchangeType::INFORMATIONAL, result: ExchangeResult::TimedOut };
            let events = vec![timed_out, down(record, why)];
            return Some(self.commit(record, vec![Step::Remove { why }], Vec::new(), events, ctx));
        }
        timer.wait_ms = timer.wait_ms * limits::RETRANSMIT_PERCENT / 100;
        timer.at = ctx.now.after(timer.wait_ms);
        let tries = timer.tries;
        sa.schedule(record, ctx);
        let datagram = Datagram::new(record.path.local, record.path.peer, outstanding.octets.clone());
        Some(Verdict::Send {
            datagrams: vec![datagram],
            events: vec![Event::Retransmit { spi: record.spi, tries }],
        })
    }

    /// The most urgent request that is due, if any.
    fn next_request(&mut self, record: &Arc<IkeRecord>, ctx: &mut Context<'_>) -> Option<Verdict> {
        let sa = self.sas.get_mut(&record.spi)?;
        let now = ctx.now;
        let passed = |deadline: Option<crate::types::Millis>| deadline.is_some_and(|at| at <= now);

        let close = match record.phase {
            Phase::Closing { why } => Some(why),
            Phase::Replaced { .. } => passed(sa.timers.ike.leftover).then_some(Why::Rekeyed),
            //= IK-72
            Phase::Established => sa.timers.close.or(passed(sa.timers.ike.expiry).then_some(Why::Expired)),
        };
        if let Some(why) = close {
            let steps = vec![Step::SetPhase(Phase::Closing { why })];
            return self.request_with(record, steps, delete_ike(), ctx);
        }
        if record.phase != Phase::Established {
            sa.timers.wishes.clear();
            return None;
        }
        if let Some(order) = (!sa.timers.wishes.is_empty()).then(|| sa.timers.wishes.remove(0)) {
            if let Some(verdict) = self.carry_out(record, order, ctx) {
                return Some(verdict);
            }
            self.sas.get_mut(&record.spi)?.wake();
            return None;
        }
        let ending: Vec<(ChildSpi, Why)> = record
            .children
            .iter()
            .filter_map(|child| {
                let lifetime = sa.timers.children.get(&child.spi_in)?;
                match child.phase {
                    ChildPhase::Closing { why } => Some((child.spi_in, why)),
                    ChildPhase::Replaced => passed(lifetime.leftover).then_some((child.spi_in, Why::Rekeyed)),
                    ChildPhase::Live => passed(lifetime.expiry).then_some((child.spi_in, Why::Expired)),
                }
            })
            .collect();
        if !ending.is_empty() {
            return self.close_children(record, &ending, ctx);
        }
        if passed(sa.timers.ike.rekey) {
            sa.timers.ike.rekey = None;
            return self.carry_out(record, Order::RekeyIke(record.spi), ctx);
        }
        let stale = record.children.iter().find(|child| {
            child.phase == ChildPhase::Live
                && sa.timers.children.get(&child.spi_in).is_some_and(|lifetime| passed(lifetime.rekey))
        });
        if let Some(child) = stale {
            if let Some(lifetime) = sa.timers.children.get_mut(&child.spi_in) {
                lifetime.rekey = None;
            }
            return self.carry_out(record, Order::RekeyChild(record.spi, child.spi_in), ctx);
        }
        self.ask_liveness(record, ctx)
    }

    /// Any packet of its children proves the peer alive (RFC 7296, 2.4).
    //= IK-87
    fn ask_liveness(&mut self, record: &Arc<IkeRecord>, ctx: &mut Context<'_>) -> Option<Verdict> {
        let dpd_ms = ctx.gateway.connection(&record.connection).map_or(0, |connection| connection.dpd_ms);
        let sa = self.sas.get_mut(&record.spi)?;
        let packets = record.children.iter().filter_map(|child| ctx.view.last_inbound(child.spi_in)).max();
        sa.timers.heard = sa.timers.heard.max(packets.unwrap_or_default());
        if dpd_ms == 0 || sa.timers.heard.after(dpd_ms) > ctx.now {
            return None;
        }
        sa.timers.heard = ctx.now;
        self.request_with(record, Vec::new(), liveness(), ctx)
    }

    fn carry_out(&mut self, record: &Arc<IkeRecord>, order: Order, ctx: &mut Context<'_>) -> Option<Verdict> {
        match order {
            Order::Terminate(_) => {
                let steps = vec![Step::SetPhase(Phase::Closing { why: Why::Terminated })];
                self.request_with(record, steps, delete_ike(), ctx)
            }
            Order::TerminateChild(_, spi_in) => {
                record.child(spi_in)?;
                self.close_children(record, &[(spi_in, Why::Terminated)], ctx)
            }
            Order::RekeyIke(_) => {
                if awaits_decision(record, ctx) {
                    let again = ctx.now.after(limits::TEMPORARY_FAILURE_WAIT_MS);
                    self.sas.get_mut(&record.spi)?.timers.ike.rekey = Some(again);
                    return None;
                }
                let ask = self.ask_ike_rekey(record, ctx)?;
                self.request_with(record, Vec::new(), ask, ctx)
            }
            Order::RekeyChild(_, spi_in) => {
                let old = record.child(spi_in).filter(|child| child.phase == ChildPhase::Live)?;
                let ask = self.ask_child_rekey(record, old, ctx)?;
                self.request_with(record, Vec::new(), ask, ctx)
            }
        }
    }

    fn close_children(
        &mut self,
        record: &Arc<IkeRecord>,
        ending: &[(ChildSpi, Why)],
        ctx: &mut Context<'_>,
    ) -> Option<Verdict> {
        let phase = |&(spi_in, why): &(ChildSpi, Why)| Step::SetChildPhase {
            spi_in,
            phase: ChildPhase::Closing { why },
        };
        let steps = ending.iter().map(phase).collect();
        let ask = delete_children(ending.iter().map(|(spi_in, _)| *spi_in).collect());
        self.request_with(record, steps, ask, ctx)
    }

    /// Commits the request, with what it implies; it leaves after the commit.
    fn request_with(
        &mut self,
        record: &Arc<IkeRecord>,
        mut steps: Vec<Step>,
        ask: Ask,
        ctx: &mut Context<'_>,
    ) -> Option<Verdict> {
        let (step, datagram) = self.ask(record, ask)?;
        steps.push(step);
        self.sas.get_mut(&record.spi)?.busy = true;
        Some(self.commit(record, steps, vec![datagram], Vec::new(), ctx))
    }
}
