//! The loop of a worker thread: orders, sockets, device, reports; then wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crypto::rng::OsRng;
use ipsec::datagram::Datagram;
use ipsec::esp::{Arrival, DropReason, Event, Flow, Table};
use ipsec::types::{Millis, Segment};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::counters::{Counters, Tally};
use super::handle::{SeenByAll, Worker};
use super::held::{Held, Watched};
use super::inward::Inbox;
use super::message::Closed;
use super::message::{Order, Report};
use super::outward::{One, Replies};
use super::ports::{self, Carries, Port};
use super::relay::frame::What;
use super::relay::inlet::Outlet;
use super::relay::{Owner, Relay, RelayDrop};
use super::waiting::Waiting;
use crate::io::clock::Clock;
use crate::io::{Coalescer, InnerBatch, Inside, Kept, Poller, RecvBatch, Route};
use crate::lease::{Grip, Lease};

/// Batches of orders in one lap; the packets get their turn in between.
const ORDERS_PER_LAP: usize = 64;

/// While packets wait for a grant, or events for room in the queue, a lap comes at least this often.
const RESTLESS_MS: u32 = 10;

/// Audit events at most this often: a flood of bad packets is one event, and a count.
const AUDIT_EVERY_MS: u64 = 100;

/// Batches that are thrown away from one source in a lap: more than a full buffer of the kernel holds.
const THROWN_BATCHES_MAX: usize = 1_024;

/// DSCP CS6, "internetwork control", for IKE (RFC 4594, 3.1).
const IKE_TOS: u8 = 0xc0;

/// The worker's ends of the queues.
pub(super) struct Queues {
    pub orders: mpsc::Receiver<Vec<Order>>,
    pub reports: mpsc::Sender<Report>,
    /// Set by who has woken us; cleared before the orders are looked at.
    pub woken: Arc<AtomicBool>,
    pub lease: Lease,
}

/// What both directions work on.
pub(super) struct Core<C> {
    pub table: Table,
    pub ports: Vec<Port>,
    pub waiting: Waiting,
    pub tally: Tally,
    pub replies: Replies,
    pub relay: Relay,
    pub held: Held,
    pub watched: Watched,
    pub seen_by_all: SeenByAll,
    /// Since the kernel was told what to show us. True at first: a worker that serves nothing is shown nothing.
    pub served_changed: bool,
    pub clock: C,
    /// Nothing is written without it.
    pub lease: Grip,
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
    pub outlet: Outlet,
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
        worker: Worker,
        clock: C,
        counters: Arc<Counters>,
        queues: Queues,
        outlet: Outlet,
    ) -> std::io::Result<Lap<C>> {
        let Worker { ports, inside, seen_by_all } = worker;
        let coalescer = Coalescer::new(inside.offload());
        Ok(Lap {
            core: Core {
                table: Table::new(),
                ports,
                waiting: Waiting::default(),
                tally: Tally::default(),
                replies: Replies::default(),
                relay: Relay::new(),
                held: Held::default(),
                watched: Watched::default(),
                seen_by_all,
                served_changed: true,
                clock,
                lease: Grip::new(queues.lease.clone()),
            },
            inside,
            received: RecvBatch::new(),
            read: InnerBatch::new(),
            arrivals: Vec::with_capacity(2_048),
            coalescer,
            inbox: Inbox::default(),
            outlet,
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

    /// One lap: orders, what came in from outside, from other nodes and from inside, reports.
    pub fn lap(&mut self, sources: Sources<'_>) -> std::io::Result<Next> {
        let now = self.core.clock.now();
        let Some(more_orders) = self.take_orders(now) else { return Ok(Next::End) };
        self.narrow()?;
        self.core.held.tell_opened();
        self.let_go(now);
        if self.core.lease.look(now) {
            self.take_packets(sources, now)?;
        } else {
            self.throw_away()?;
        }
        let late = self.core.held.expire(now);
        self.core.tally.relay[RelayDrop::Held as usize] += late;
        let stale = self.core.waiting.expire(now);
        self.core.tally.drops.add(DropReason::Block, stale);
        for child in self.core.waiting.children() {
            self.core.table.nudge(child, now);
        }
        self.core.flush();
        self.core.flush_relay();
        self.write_replies();
        let restless = self.report(now) | (self.core.waiting.len() > 0) | !self.core.held.is_empty();
        self.publish();
        Ok(Next::Wait(if more_orders {
            Some(0)
        } else if restless {
            Some(RESTLESS_MS)
        } else {
            None
        }))
    }

    /// What came in from outside, from other nodes and from inside.
    fn take_packets(&mut self, sources: Sources<'_>, now: Millis) -> std::io::Result<()> {
        let ports = self.core.ports.len();
        for port in 0..ports {
            if sources.holds(port) {
                self.inward(port, now)?;
            }
        }
        self.relayed(now);
        if sources.holds(ports) {
            self.outward(now)?;
        }
        Ok(())
    }

    /// Without a lease, and for what waited when one begins anew: others may have dealt with these packets already.
    fn throw_away(&mut self) -> std::io::Result<()> {
        let mut thrown = self.core.waiting.clear();
        for port in &mut self.core.ports {
            for _ in 0..THROWN_BATCHES_MAX {
                match port.outside.receive(&mut self.received)? {
                    0 => break,
                    datagrams => thrown += datagrams as u64,
                }
            }
        }
        for _ in 0..THROWN_BATCHES_MAX {
            match self.inside.receive(&mut self.read)? {
                0 => break,
                packets => thrown += packets as u64,
            }
        }
        if let Some(frames) = self.outlet.take() {
            thrown += frames.ranges.len() as u64;
            self.outlet.done(frames);
        }
        self.core.tally.drops.add(DropReason::NotOwner, thrown);
        Ok(())
    }

    /// Lets the kernel show us only what we serve, where everybody is shown everything.
    fn narrow(&mut self) -> std::io::Result<()> {
        let core = &mut self.core;
        if !core.seen_by_all.outside || !std::mem::take(&mut core.served_changed) {
            return Ok(());
        }
        let shown = |segment: &Segment| core.table.served(*segment).is_some() || core.held.wants(*segment);
        let kept = Kept::of(Segment::all().filter(shown));
        for port in &mut core.ports {
            port.outside.keep(&kept, port.carries == Carries::NatT)?;
        }
        Ok(())
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
            Order::Serve { segment, epoch } => {
                self.served_changed = true;
                self.table.serve(segment, epoch)
            }
            Order::Unserve { segment } => {
                self.served_changed = true;
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
                self.path_mtu(ike, octets);
                Ok(())
            }
            Order::Send(datagrams) => {
                datagrams.iter().for_each(|datagram| self.send_ike(datagram));
                Ok(())
            }
            Order::Link(link) => {
                self.relay.set_link(link);
                Ok(())
            }
            Order::Owners(owners) => {
                owners.into_iter().for_each(|(segment, owner)| self.relay.set_owner(segment, owner));
                Ok(())
            }
            Order::Open { segment, epoch, opened } => {
                self.served_changed = true;
                self.held.open(segment, epoch, now, opened);
                Ok(())
            }
            Order::Release { segment, forwarded } => {
                let twice = self.held.release(segment, forwarded);
                self.tally.relay[RelayDrop::SeenByAll as usize] += twice;
                Ok(())
            }
            Order::Abandon { segment } => {
                self.served_changed = true;
                let lost = self.held.abandon(segment);
                self.tally.relay[RelayDrop::Held as usize] += lost;
                self.watched.end(segment);
                Ok(())
            }
            Order::Watch { segment, key, watched } => {
                if self.seen_by_all.inside {
                    self.watched.begin(segment, key);
                }
                // Who has given up waiting gives up the move, too.
                let _ = watched.send(());
                Ok(())
            }
            Order::Close { segment, next, closed } => {
                // Without an answer the segment comes back under a new epoch.
                let _ = closed.send(self.close(segment, next, now));
                Ok(())
            }
            Order::Turn(taken) => {
                // Who has given up waiting needs no answer.
                let _ = taken.send(());
                Ok(())
            }
            Order::Reaches { ike, remote } => {
                self.relay.set_reach(ike, remote);
                Ok(())
            }
        };
        if let Err(refused) = outcome {
            tracing::debug!(?refused, "order not carried out");
        }
    }

    /// Gives the segment up to `next`, and with it the packets that wait for numbers here.
    fn close(&mut self, segment: Segment, next: Owner, now: Millis) -> Closed {
        self.served_changed = true;
        self.flush();
        let children = self.table.close(segment, now);
        self.relay.set_owner(segment, Some(next));
        let mut forwarded = self.watched.end(segment);
        for child in &children {
            for packet in self.waiting.take(child.spi_in) {
                // The next owner may have seen it, too: it gets it from us.
                if self.seen_by_all.inside {
                    forwarded.note(&packet);
                }
                match Flow::of(&packet) {
                    Ok(flow) => self.pass_on_inner(segment, &flow, &mut One(Some(&packet))),
                    Err(_) => self.tally.drops.count(DropReason::Malformed),
                }
            }
        }
        Closed { children, forwarded }
    }

    /// Keeps a packet for a segment that is on its way here.
    pub fn hold(&mut self, segment: Segment, what: What, tos: u8, packet: &[u8]) {
        if !self.held.hold(segment, what, tos, packet) {
            self.tally.count_relay(RelayDrop::Held);
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
        self.lease.holds(self.clock.now())
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
