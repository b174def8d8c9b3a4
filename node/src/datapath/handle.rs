//! The control side's end of the datapath.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use ipsec::esp::ChildStats;
use ipsec::types::{ChildSpi, EspSeq, Segment};
use tokio::sync::mpsc;

use super::counters::Counters;
use super::message::{Order, Report};
use super::ports::Port;
use super::relay::{Inlet, inlet};
use super::worker::{Lap, Queues};
use crate::io::clock::{Clock, SystemClock};
use crate::io::{Inside, Poller, Waker};
use crate::lease::Lease;

/// Batches of orders that may wait for one worker; who orders more waits.
const ORDERS_MAX: usize = 1_024;

/// Reports that may wait for the control side. Events wait in the worker when it is full; IKE messages are dropped.
pub(super) const REPORTS_MAX: usize = 1_024;

/// What one worker thread owns.
pub struct Worker {
    pub ports: Vec<Port>,
    pub inside: Box<dyn Inside>,
    pub seen_by_all: SeenByAll,
}

/// On which sides every node is shown every packet (steering `shared-mac`), so that the owner needs nobody's help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeenByAll {
    pub outside: bool,
    pub inside: bool,
}

/// The reports of all workers. Ends when all have ended.
pub type Reports = mpsc::Receiver<Report>;

/// The worker has ended: its thread failed, or the process is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Gives orders to the workers. Clones share everything; when the last one goes, the workers end.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    workers: Vec<Line>,
    stats: Mutex<HashMap<ChildSpi, Arc<ChildStats>>>,
    inlet: Mutex<Option<Inlet>>,
    lease: Lease,
}

/// The line to one worker.
#[derive(Debug)]
struct Line {
    /// Taken when the handle goes, so that the queue is closed before the worker is woken.
    orders: Option<mpsc::Sender<Vec<Order>>>,
    waker: Waker,
    woken: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

/// Starts a thread for each worker. They serve nothing until they are told to.
pub fn start(workers: Vec<Worker>) -> std::io::Result<(Handle, Reports, Vec<JoinHandle<()>>)> {
    let (report, reports) = mpsc::channel(REPORTS_MAX);
    let (mut lines, mut ways, mut threads) = (Vec::new(), Vec::new(), Vec::new());
    let lease = Lease::default();
    for (number, worker) in workers.into_iter().enumerate() {
        let poller = Poller::new()?;
        let waker = poller.waker();
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let (counters, woken) = (Arc::new(Counters::default()), Arc::new(AtomicBool::new(false)));
        let queues =
            Queues { orders: queue, reports: report.clone(), woken: woken.clone(), lease: lease.clone() };
        let (way, outlet) = inlet::way(waker.clone(), woken.clone(), counters.relay_lost.clone());
        ways.push(way);
        let lap = Lap::new(worker, SystemClock, counters.clone(), queues, outlet)?;
        let run = move || lap.run(&poller);
        threads.push(std::thread::Builder::new().name(format!("worker-{number}")).spawn(run)?);
        lines.push(Line { orders: Some(orders), waker, woken, counters });
    }
    let shared =
        Shared { workers: lines, stats: Mutex::default(), inlet: Mutex::new(Some(Inlet::new(ways))), lease };
    Ok((Handle(Arc::new(shared)), reports, threads))
}

impl Handle {
    /// Gives orders to the worker of `segment`: all of them together, in order. Waits for room in its queue.
    pub async fn tell(&self, segment: Segment, orders: Vec<Order>) -> Result<(), Stopped> {
        if orders.is_empty() {
            return Ok(());
        }
        self.forget_stats(&orders);
        let line = &self.0.workers[usize::from(segment.0) % self.0.workers.len()];
        line.orders.as_ref().ok_or(Stopped)?.send(orders).await.map_err(|_| Stopped)?;
        line.wake();
        Ok(())
    }

    /// What the workers look at before each write.
    pub fn lease(&self) -> &Lease {
        &self.0.lease
    }

    /// Lets every worker look at its orders and at the lease.
    pub fn wake_all(&self) {
        self.0.workers.iter().for_each(Line::wake);
    }

    /// Gives the same kind of order to every worker.
    pub async fn tell_all(&self, order: impl Fn() -> Order) -> Result<(), Stopped> {
        self.tell_each(|_| vec![order()]).await
    }

    /// The counters of a child, new ones for a child not heard of before: to be put into its `Install`.
    pub fn stats(&self, child: ChildSpi) -> Arc<ChildStats> {
        self.lock_stats().entry(child).or_default().clone()
    }

    /// The counters of a child that was installed.
    pub fn known_stats(&self, child: ChildSpi) -> Option<Arc<ChildStats>> {
        self.lock_stats().get(&child).cloned()
    }

    /// How far each child has received.
    pub fn edges(&self, mut tell: impl FnMut(ChildSpi, EspSeq)) {
        for (&child, stats) in self.lock_stats().iter() {
            tell(child, EspSeq(stats.edge.load(Ordering::Relaxed)));
        }
    }

    /// Whether a worker would write something now.
    pub fn holds_lease(&self) -> bool {
        self.0.lease.holds(SystemClock.now())
    }

    /// Where the frames of other nodes go in. There is one, for whoever asks first.
    pub fn inlet(&self) -> Option<Inlet> {
        self.0.inlet.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.0.workers.len()
    }

    /// Gives each worker orders of its own, by its place.
    pub async fn tell_each(&self, mut orders: impl FnMut(usize) -> Vec<Order>) -> Result<(), Stopped> {
        for (place, line) in self.0.workers.iter().enumerate() {
            line.orders.as_ref().ok_or(Stopped)?.send(orders(place)).await.map_err(|_| Stopped)?;
            line.wake();
        }
        Ok(())
    }

    /// The counters of each worker.
    pub fn counters(&self) -> impl Iterator<Item = &Counters> + '_ {
        self.0.workers.iter().map(|line| &*line.counters)
    }

    fn forget_stats(&self, orders: &[Order]) {
        for order in orders {
            match order {
                Order::Remove { child } => {
                    self.lock_stats().remove(child);
                }
                Order::Unserve { segment } | Order::Close { segment, .. } => {
                    self.lock_stats().retain(|child, _| child.segment() != *segment)
                }
                _ => {}
            }
        }
    }

    fn lock_stats(&self) -> MutexGuard<'_, HashMap<ChildSpi, Arc<ChildStats>>> {
        self.0.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// One system call however many orders come before the worker looks.
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for line in &mut self.workers {
            line.orders = None;
            line.waker.wake();
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the packet worker has ended")
    }
}

impl std::error::Error for Stopped {}
