//! The loop of a worker thread: orders, sockets, device, reports; then wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crypto::rng::OsRng;
use ipsec::datagram::Datagram;
use ipsec::esp::{Arrival, DropReason, Event, Table};
use ipsec::types::Millis;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::counters::{Counters, Tally};
use super::inward::Inbox;
use super::message::{Order, Report};
use super::outward::Replies;
use super::ports::{self, Carries, Port};
use super::waiting::Waiting;
use crate::io::clock::Clock;
use crate::io::{Coalescer, InnerBatch, Inside, Poller, RecvBatch, Route};

/// Batches of orders in one lap; the packets get their turn in between.
const ORDERS_PER_LAP: usize = 64;

/// While packets wait for a grant, or events for room in the queue, a lap comes at least this often.
const RESTLESS_MS: u32 = 10;

/// Audit events at most this often: a flood of bad packets is one event, and a count.
const AUDIT_EVERY_MS: u64 = 100;

/// DSCP CS6, "internetwork control", for IKE (RFC 4594, 3.1).
const IKE_TOS: u8 = 0xc0;

/// The worker's ends of the queues.
pub(super) struct Queues {
    pub orders: mpsc::Receiver<Vec<Order>>,
    pub reports: mpsc::Sender<Report>,
    /// Set by who has woken us; cleared before the orders are looked at.
    pub woken: Arc<AtomicBool>,
}

/// What both directions work on.
pub(super) struct Core<C> {
    pub table: Table,
    pub ports: Vec<Port>,
    pub waiting: Waiting,
    pub tally: Tally,
    pub replies: Replies,
    pub clock: C,
    /// Nothing is written from this moment on. A worker starts without a lease.
    pub lease: Millis,
}

/// A worker between two waits.
pub(super) struct Lap<C> {
    pub core: Core<C>,
    pub inside: Box<dyn Inside>,
    pub received: RecvBatch,
    pub read: InnerBatch,
    pub arrivals: Vec<Arrival>,
    pub coalescer: Coalescer,
    pub inbox: Inbox,
    queues: Queues,
    counters: Arc<Counters>,
    audited: Option<Millis>,
}

/// Which sources may have something.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sources<'a> {
    #[cfg(test)]
    All,
    /// The ports by their place, and the device behind them.
    Some(&'a [u32]),
}

/// What a lap came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for the sources, at most so long.
    Wait(Option<u32>),
    /// The control side is gone.
    End,
}

impl<C: Clock> Lap<C> {
    pub fn new(
        ports: Vec<Port>,
        inside: Box<dyn Inside>,
        clock: C,
        counters: Arc<Counters>,
        queues: Queues,
    ) -> std::io::Result<Lap<C>> {
        let coalescer = Coalescer::new(inside.offload());
        Ok(Lap {
            core: Core {
                table: Table::new(),
                ports,
                waiting: Waiting::default(),
                tally: Tally::default(),
                replies: Replies::default(),
                clock,
                lease: Millis(0),
            },
            inside,
            received: RecvBatch::new(),
            read: InnerBatch::new(),
            arrivals: Vec::with_capacity(2_048),
            coalescer,
            inbox: Inbox::default(),
            queues,
            counters,
            audited: None,
        })
    }

    /// The life of the thread. Ends with the control side, or with a report when a socket or the device fails.
    pub fn run(mut self, poller: &Poller) {
        if let Err(error) = self.watch(poller).and_then(|()| self.laps(poller)) {
            tracing::error!(%error, "packet worker ends");
            // The queue may be full of packets' reports: this one is worth waiting for.
            let _ = self.queues.reports.blocking_send(Report::Failed(error.to_string()));
        }
    }

    fn watch(&self, poller: &Poller) -> std::io::Result<()> {
        for (place, port) in self.core.ports.iter().enumerate() {
            if let Some(fd) = port.outside.fd() {
                poller.add(fd, place as u32)?;
            }
        }
        self.inside.fd().map_or(Ok(()), |fd| poller.add(fd, self.core.ports.len() as u32))
    }

    fn laps(&mut self, poller: &Poller) -> std::io::Result<()> {
        let mut timeout = None;
        loop {
            let ready = poller.wait(timeout)?;
            match self.lap(Sources::Some(ready.tokens()))? {
                Next::Wait(ms) => timeout = ms,
                Next::End => return Ok(()),
            }
        }
    }

    /// One lap: orders, what came in from outside, what came in from inside, reports.
    pub fn lap(&mut self, sources: Sources<'_>) -> std::io::Result<Next> {
        let now = self.core.clock.now();
        let Some(more_orders) = self.take_orders(now) else { return Ok(Next::End) };
        let ports = self.core.ports.len();
        for port in 0..ports {
            if sources.holds(port) {
                self.inward(port, now)?;
            }
        }
        if sources.holds(ports) {
            self.outward(now)?;
        }
        let stale = self.core.waiting.expire(now);
        self.core.tally.drops.add(DropReason::Block, stale);
        for child in self.core.waiting.children() {
            self.core.table.nudge(child, now);
        }
        self.core.flush();
        self.write_replies();
        let restless = self.report(now) | (self.core.waiting.len() > 0);
        self.publish();
        Ok(Next::Wait(if more_orders {
            Some(0)
        } else if restless {
            Some(RESTLESS_MS)
        } else {
            None
        }))
    }

    /// Carries out what waits in the queue. Whether more waits; `None` when the control side is gone.
    fn take_orders(&mut self, now: Millis) -> Option<bool> {
        self.queues.woken.store(false, Ordering::SeqCst);
        for _ in 0..ORDERS_PER_LAP {
            match self.queues.orders.try_recv() {
                Ok(orders) => orders.into_iter().for_each(|order| self.core.obey(order, now)),
                Err(TryRecvError::Empty) => return Some(false),
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        Some(true)
    }

    /// Hands over events and IKE messages; true: some events still wait for room.
    fn report(&mut self, now: Millis) -> bool {
        if let Some(batch) = self.inbox.take(&self.queues.reports, &mut self.core.tally) {
            // There was room a moment ago, and we are not the only worker.
            if let Err(error) = self.queues.reports.try_send(Report::Ike(batch))
                && let Report::Ike(batch) = error.into_inner()
            {
                self.core.tally.drops.add(DropReason::IkeOverload, batch.len() as u64);
            }
        }
        if !self.core.table.has_events() {
            return false;
        }
        let Ok(room) = self.queues.reports.try_reserve() else { return true };
        let mut may_audit = self.audited.is_none_or(|last| now.since(last) >= AUDIT_EVERY_MS);
        let mut events: Vec<Event> = Vec::new();
        for event in self.core.table.events() {
            if matches!(event, Event::UnknownSpi { .. } | Event::Audit { .. }) {
                if !may_audit {
                    continue;
                }
                (may_audit, self.audited) = (false, Some(now));
            }
            events.push(event);
        }
        if !events.is_empty() {
            room.send(Report::Events(events));
        }
        false
    }

    /// Fills the queue to the control side; with how many reports.
    #[cfg(test)]
    pub fn fill_reports(&self) -> usize {
        (0..).take_while(|_| self.queues.reports.try_send(Report::Events(vec![])).is_ok()).count()
    }

    fn publish(&mut self) {
        let core = &mut self.core;
        let mut drops = core.table.drops().clone();
        drops.merge(&core.tally.drops);
        self.counters.publish(&core.tally, core.waiting.len(), &drops);
        let mut io = *self.inside.drops();
        core.ports.iter().for_each(|port| io.merge(port.outside.drops()));
        self.counters.publish_io(&io);
    }
}

impl<C: Clock> Core<C> {
    /// An order that no longer fits is ignored: the log has moved on, and later orders say where to.
    fn obey(&mut self, order: Order, now: Millis) {
        let outcome = match order {
            Order::Serve { segment, epoch } => self.table.serve(segment, epoch),
            Order::Unserve { segment } => {
                self.table.unserve(segment);
                Ok(())
            }
            Order::Install(install) => {
                let child = install.child.spi_in;
                let outcome = self.table.install(*install, &mut OsRng);
                self.resume(child, now);
                outcome
            }
            Order::Grant { child, block } => {
                let outcome = self.table.grant(child, block, &mut OsRng);
                self.resume(child, now);
                outcome
            }
            Order::Remove { child } => {
                let lost = self.waiting.take(child).count();
                self.tally.drops.add(DropReason::Block, lost as u64);
                self.table.remove(child)
            }
            Order::Moved { ike, path } => {
                self.table.moved(ike, path);
                Ok(())
            }
            Order::Confirm { child } => self.table.confirm(child),
            Order::RaiseEdge { child, edge } => self.table.raise_edge(child, edge),
            Order::PathMtu { ike, octets } => {
                self.table.set_path_mtu(ike, octets);
                Ok(())
            }
            Order::Send(datagrams) => {
                datagrams.iter().for_each(|datagram| self.send_ike(datagram));
                Ok(())
            }
            Order::Lease { until } => {
                self.lease = until;
                Ok(())
            }
        };
        if let Err(refused) = outcome {
            tracing::debug!(?refused, "order not carried out");
        }
    }

    fn send_ike(&mut self, datagram: &Datagram) {
        let Some(place) = ports::for_ike(&self.ports, datagram.local) else {
            return self.tally.drops.count(DropReason::NoSocket);
        };
        let marker: &[u8] = match self.ports[place].carries {
            Carries::NatT => &ipsec::spec::NON_ESP_MARKER,
            _ => &[],
        };
        let len = marker.len() + datagram.octets.len();
        if self.ports[place].batch.slot(len).is_none() {
            self.flush_port(place);
        }
        let port = &mut self.ports[place];
        let Some(slot) = port.batch.slot(len) else { return self.tally.drops.count(DropReason::TooBig) };
        slot[..marker.len()].copy_from_slice(marker);
        slot[marker.len()..].copy_from_slice(&datagram.octets);
        port.batch.commit(Route { peer: datagram.peer, tos: IKE_TOS }, len);
        self.tally.ike_out += 1;
    }

    /// Sends what is ready in every port.
    pub fn flush(&mut self) {
        for place in 0..self.ports.len() {
            self.flush_port(place);
        }
    }

    /// Sends what is ready in one port, if we hold the lease at this moment.
    //= CL-18
    pub fn flush_port(&mut self, place: usize) {
        if self.ports[place].batch.is_empty() {
            return;
        }
        let holds = self.holds_lease();
        let port = &mut self.ports[place];
        if holds {
            port.outside.send(&mut port.batch);
        } else {
            self.tally.drops.add(DropReason::NotOwner, port.batch.len() as u64);
            port.batch.clear();
        }
    }

    pub fn holds_lease(&self) -> bool {
        self.clock.now() < self.lease
    }
}

impl Sources<'_> {
    fn holds(self, place: usize) -> bool {
        match self {
            #[cfg(test)]
            Sources::All => true,
            Sources::Some(tokens) => tokens.contains(&(place as u32)),
        }
    }
}
