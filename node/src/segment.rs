//! The actor of one owned segment for one epoch: feeds the IKE engine, commits what it decides, and keeps the
//! packet side in step with the records.
//!
//! ```text
//!   datagrams, orders, touched records, timeouts ─> Endpoint ─> Verdict
//!        Send    ─────────────────────────────────────────────> worker
//!        Commit  ─> Cluster::commit ─> reconcile: Install / Remove to the worker, then the opened replies
//! ```
//!
//! The replies go down the same queue as the installs before them, so a child receives before its peer hears of it
//! (RFC 7296, 2.8). Commits of different IKE SAs run side by side and share a flush; of one IKE SA there is never
//! more than one under way. A commit whose outcome is unknown keeps its IKE SA busy until a barrier has told it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crypto::rng::OsRng;
use ipsec::datagram::Datagram;
use ipsec::esp::{Install, Replay};
use ipsec::ike::{Context, Decision, Endpoint, Order, Verdict};
use ipsec::limits;
use ipsec::record::{Block, Change, ChildRecord, Guard, IkeRecord, Path, Step};
use ipsec::types::{ChildSpi, EspSeq, Millis, Segment, Spi};
use raft::state::{Command, NodeId, Reserve, State, Wanted};
use raft::{Cluster, ProposeError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::asks::{Asks, Topic};
use crate::datapath::relay::Owner;
use crate::datapath::{Handle, Order as WorkerOrder};
use crate::gateway::CurrentGateway;
use crate::io::clock::{Clock, SystemClock};
use crate::lookout::Lookout;
use crate::marks::Marks;
use crate::mirror;
use crate::moves::wire::Part;
use crate::moves::{Bag, Luggage};
use crate::observe::Observe;
use crate::report;
use crate::sieve::Opener;
use crate::view::{Pledge, Promised, SegmentView};

/// Messages that a segment's actor lets wait; datagrams beyond are dropped, all else waits for room.
pub const MAILBOX: usize = 512;

/// Outer packets larger than this are not sent where nothing is known of the way.
pub const PATH_MTU: usize = 1500;

/// How long a planned move waits for what is on its way through the log.
const SETTLE_WITHIN: Duration = Duration::from_millis(250);

/// How long to wait before asking again what became of a proposal.
const BARRIER_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub enum Message {
    Datagrams(Vec<Datagram>),
    /// A record of this segment has another value, or is gone.
    Touched(Spi),
    /// Any record may have.
    TouchedAll,
    /// Numbers to send on, or to accept.
    NeedNumbers(Vec<Wanted>),
    PeerMoved {
        ike: Spi,
        peer: std::net::SocketAddr,
    },
    Order(Order, Option<oneshot::Sender<bool>>),
    /// The last one: a planned move to another node.
    Close {
        to: NodeId,
        answer: oneshot::Sender<Part>,
    },
    Reconfigured,
    /// A fault of ours, for tests.
    #[cfg(test)]
    Panic,
}

/// What all segments of a node share.
#[derive(Clone)]
pub struct Shared {
    pub cluster: Cluster,
    pub gateway: CurrentGateway,
    pub worker: Handle,
    pub observe: Observe,
    pub promised: Promised,
    pub marks: Marks,
    pub luggage: Luggage,
    pub asks: Asks,
    pub lookout: Lookout,
    pub opener: Opener,
}

pub struct SegmentActor {
    shared: Shared,
    guard: Guard,
    endpoint: Endpoint,
    /// What the worker was told, by our inbound SPI.
    installed: HashMap<ChildSpi, Installed>,
    commits: JoinSet<Settled>,
    /// Children whose request for numbers is under way.
    reserving: bool,
    wanted: HashMap<ChildSpi, Wanted>,
    half_open_told: i64,
}

#[derive(PartialEq)]
struct Installed {
    ike: Spi,
    child: ChildRecord,
    path: Path,
}

/// How a proposal ended.
enum Settled {
    Change { spi: Spi, fate: Fate, events: Vec<ipsec::ike::Event>, pledge: Pledge, begun: Instant },
    Reserve,
}

enum Fate {
    Applied {
        index: u64,
        datagrams: Vec<Datagram>,
    },
    /// It counts for nothing.
    Refused(ProposeError),
    /// Decided by now, one way or the other; the record tells. The peer's retransmission gets the reply.
    Known,
}

impl SegmentActor {
    /// Takes up the segment under `guard`: tells the worker of every child and starts the engine.
    pub async fn new(shared: Shared, guard: Guard) -> SegmentActor {
        let (bag, exact) = shared.luggage.take(guard.segment, guard.epoch, SystemClock.now());
        let endpoint = engine(&shared, guard.segment, |ctx| {
            let mut endpoint = Endpoint::new(guard, ctx);
            for left in &bag.ike {
                if let Err(error) = endpoint.import(left, ctx) {
                    tracing::warn!(segment = %guard.segment, %error, "what the owner before has left is not readable");
                }
            }
            endpoint
        });
        let mut actor = SegmentActor {
            shared,
            guard,
            endpoint,
            installed: HashMap::new(),
            commits: JoinSet::new(),
            reserving: false,
            wanted: HashMap::new(),
            half_open_told: 0,
        };
        let state = actor.shared.cluster.state();
        let mut orders = vec![WorkerOrder::Serve { segment: guard.segment, epoch: guard.epoch }];
        for record in state.records_of(guard.segment) {
            actor.reconcile(record, Some(&bag), &mut orders);
        }
        // What was held for the segment meanwhile is judged by what is installed now.
        let forwarded = bag.forwarded.clone();
        orders.push(WorkerOrder::Release { segment: guard.segment, forwarded });
        actor.tell(orders).await;
        tracing::debug!(segment = %guard.segment, epoch = %guard.epoch, exact, "taken up");
        actor.follow_peers(&state, &bag).await;
        actor
    }

    /// Where packets of a peer came from, when its owner before us had no time to have that committed.
    async fn follow_peers(&mut self, state: &State, bag: &Bag) {
        for record in state.records_of(self.guard.segment) {
            let carried = record.children.iter().filter_map(|child| bag.children.get(&child.spi_in));
            if let Some(moved) = carried.filter(|it| it.confirmed).find(|it| it.peer != record.path.peer) {
                self.message(Message::PeerMoved { ike: record.spi, peer: moved.peer }).await;
            }
        }
    }

    /// Ends for a planned move. What is on its way through the log is waited for, but not long: it counts or not, and
    /// its peer asks again in either case.
    async fn close(mut self, to: NodeId, answer: oneshot::Sender<Part>) {
        let deadline = tokio::time::Instant::now() + SETTLE_WITHIN;
        while let Ok(Some(Ok(settled))) = tokio::time::timeout_at(deadline, self.commits.join_next()).await {
            self.wanted.clear();
            self.settled(settled).await;
        }
        let Guard { segment, epoch, .. } = self.guard;
        // At the last epoch there is no move: nothing would come after it.
        let Some(next) = epoch.next() else { return };
        let next = Owner { node: Some(to), epoch: next };
        let (closed, told) = oneshot::channel();
        self.tell(vec![WorkerOrder::Close { segment, next, closed }]).await;
        // Without an answer there is no worker any more, and the process ends.
        let Ok(closed) = told.await else { return };
        let ike = self.engine(|endpoint, ctx| endpoint.export(ctx));
        // Who asked may have given up; then the segment comes back under a new epoch.
        let _ = answer.send(Part::new(segment, epoch, closed, &ike));
    }

    /// Tells the standby of half-open IKE SAs, so that their clients get in after a crash of this node with no more
    /// than a retransmission. Best effort: a link that is slow or down costs the client a new start, as ever.
    fn mirror(&mut self) {
        let Some(fresh) = self.engine(|endpoint, ctx| endpoint.take_fresh(ctx)) else { return };
        let Some(standby) = self.shared.cluster.state().segment(self.guard.segment).standby else { return };
        let asks = self.shared.asks.clone();
        let half_open = mirror::HalfOpen::new(self.guard.segment, &fresh);
        tokio::spawn(async move {
            let told: Result<mirror::Kept, _> =
                asks.ask(standby, Topic::Mirror, &half_open, mirror::WITHIN).await;
            if let Err(error) = told {
                tracing::debug!(%standby, %error, "half-open IKE SAs are not mirrored");
            }
        });
    }

    /// Until the mailbox closes.
    pub async fn run(mut self, mut mailbox: mpsc::Receiver<Message>) {
        loop {
            let timeout = self.endpoint.next_timeout();
            tokio::select! {
                message = mailbox.recv() => match message {
                    Some(Message::Close { to, answer }) => return self.close(to, answer).await,
                    Some(message) => self.message(message).await,
                    None => return,
                },
                // A task that panics takes the actor with it: its outcome is not known here.
                Some(settled) = self.commits.join_next() => match settled {
                    Ok(settled) => self.settled(settled).await,
                    Err(error) => return tracing::error!(%error, "a commit ended without an outcome"),
                },
                () = until(timeout) => {}
            }
            self.timeouts().await;
            self.mirror();
            self.tell_half_open();
        }
    }

    /// The gauge is of all segments together; each adds its own difference.
    fn tell_half_open(&mut self) {
        let now = self.endpoint.half_open() as i64;
        self.shared.observe.metrics().ike_half_open.inc_by(now - self.half_open_told);
        self.half_open_told = now;
    }

    async fn message(&mut self, message: Message) {
        match message {
            Message::Datagrams(datagrams) => {
                for datagram in datagrams {
                    let verdict = self.engine(|endpoint, ctx| endpoint.handle(&datagram, ctx));
                    self.carry_out(verdict).await;
                }
            }
            Message::Touched(spi) => self.touched(spi).await,
            Message::TouchedAll => self.touched_all().await,
            Message::NeedNumbers(needs) => {
                needs.into_iter().for_each(|wanted| self.want(wanted));
                self.reserve();
            }
            Message::PeerMoved { ike, peer } => {
                let verdict = self.engine(|endpoint, ctx| {
                    let path = ctx.view.record(ike)?.path;
                    endpoint.peer_moved(ike, Path { peer, ..path }, ctx)
                });
                if let Some(verdict) = verdict {
                    self.carry_out(verdict).await;
                }
            }
            Message::Order(order, answer) => {
                let taken = self.engine(|endpoint, ctx| endpoint.order(order, ctx));
                if let Some(answer) = answer {
                    // Who asked may have gone away: nothing is owed then.
                    let _ = answer.send(taken);
                }
            }
            // Taken out of the mailbox by `run`: nothing follows it.
            Message::Close { .. } => {}
            Message::Reconfigured => self.engine(|endpoint, ctx| endpoint.reconfigured(ctx)),
            #[cfg(test)]
            Message::Panic => panic!("as a test wants it"),
        }
    }

    async fn timeouts(&mut self) {
        while let Some(verdict) = self.engine(|endpoint, ctx| endpoint.timeout(ctx)) {
            self.carry_out(verdict).await;
        }
    }

    async fn carry_out(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Drop(reason) => self.shared.observe.metrics().esp_dropped(reason.label(), 1),
            Verdict::Send { datagrams, events } => {
                self.tell(vec![WorkerOrder::Send(datagrams)]).await;
                report::all(&self.shared.observe, events, 0);
            }
            Verdict::Commit(decision) => self.commit(decision),
        }
    }

    /// Sends the change through the log; `settled` goes on when its outcome is known.
    fn commit(&mut self, Decision { change, replies, events }: Decision) {
        let spi = change.spi;
        let Some(pledge) = self.shared.promised.take(addresses_of(&change)) else {
            // Another segment was faster; the peer's retransmission decides anew.
            self.endpoint.refused(spi);
            return;
        };
        let cluster = self.shared.cluster.clone();
        self.commits.spawn(async move {
            let begun = Instant::now();
            let fate = match cluster.commit(change, replies).await {
                Ok((index, datagrams)) => Fate::Applied { index, datagrams },
                Err(ProposeError::Unknown) => {
                    while cluster.barrier().await.is_err() {
                        tokio::time::sleep(BARRIER_RETRY).await;
                    }
                    Fate::Known
                }
                Err(error) => Fate::Refused(error),
            };
            Settled::Change { spi, fate, events, pledge, begun }
        });
    }

    async fn settled(&mut self, settled: Settled) {
        let (spi, fate, events, pledge, begun) = match settled {
            Settled::Reserve => {
                self.reserving = false;
                return self.reserve();
            }
            Settled::Change { spi, fate, events, pledge, begun } => (spi, fate, events, pledge, begun),
        };
        drop(pledge);
        match fate {
            Fate::Applied { index, datagrams } => {
                self.shared.observe.metrics().ike_reply_waited(begun.elapsed());
                let mut orders = self.follow(&self.shared.cluster.state(), spi);
                orders.push(WorkerOrder::Send(datagrams));
                self.tell(orders).await;
                self.engine(|endpoint, ctx| endpoint.committed(spi, ctx));
                report::all(&self.shared.observe, events, index);
            }
            Fate::Known => {
                self.touched(spi).await;
                self.engine(|endpoint, ctx| endpoint.committed(spi, ctx));
            }
            Fate::Refused(error) => {
                tracing::debug!(%spi, %error, "a decision counts for nothing");
                self.endpoint.refused(spi);
            }
        }
    }

    /// The last wish for either direction counts.
    fn want(&mut self, wanted: Wanted) {
        let known = self.wanted.entry(wanted.child).or_insert(wanted);
        known.ike = wanted.ike;
        known.upto = known.upto.max(wanted.upto);
        if wanted.count > 0 {
            known.count = wanted.count;
        }
    }

    /// Asks for all that is wanted in one entry; further wishes wait for its end.
    fn reserve(&mut self) {
        if self.reserving || self.wanted.is_empty() {
            return;
        }
        self.reserving = true;
        let children = self.wanted.drain().map(|(_, wanted)| wanted).take(RESERVE_BATCH).collect();
        let command = Command::Reserve(Reserve { guard: self.guard, children });
        let cluster = self.shared.cluster.clone();
        self.commits.spawn(async move {
            // Whatever became of it: the worker asks again for what it did not get.
            if let Err(error) = cluster.propose(command).await {
                tracing::debug!(%error, "no further numbers");
            }
            Settled::Reserve
        });
    }

    async fn touched(&mut self, spi: Spi) {
        let orders = self.follow(&self.shared.cluster.state(), spi);
        self.tell(orders).await;
        self.engine(|endpoint, ctx| endpoint.refresh(spi, ctx));
    }

    async fn touched_all(&mut self) {
        let state = self.shared.cluster.state();
        let mut spis: Vec<Spi> = state.records_of(self.guard.segment).map(|record| record.spi).collect();
        spis.extend(self.installed.values().map(|installed| installed.ike));
        spis.sort();
        spis.dedup();
        for spi in spis {
            self.touched(spi).await;
        }
    }

    /// What brings the worker in step with one record.
    fn follow(&mut self, state: &State, spi: Spi) -> Vec<WorkerOrder> {
        let record = state.record(spi).filter(|record| record.segment() == self.guard.segment);
        let gone: Vec<ChildSpi> = self
            .installed
            .iter()
            .filter(|(child, installed)| {
                installed.ike == spi && record.is_none_or(|record| record.child(**child).is_none())
            })
            .map(|(&child, _)| child)
            .collect();
        let mut orders = Vec::new();
        if let Some(record) = record {
            self.reconcile(record, None, &mut orders);
        }
        for child in gone {
            // It may have gone over to a successor, which tells the worker itself.
            if state.find_child(child).is_none() {
                self.installed.remove(&child);
                self.shared.marks.forget(child);
                orders.push(WorkerOrder::Remove { child });
            }
        }
        orders
    }

    /// Installs what is new or different. `taken_up`: the segment comes from an earlier epoch, so of a child that is not
    /// in the bag of a planned move (CL-13) what was received up to the last mark counts as seen, or all that could have
    /// been accepted where nothing may come twice (CL-14).
    fn reconcile(&mut self, record: &IkeRecord, taken_up: Option<&Bag>, orders: &mut Vec<WorkerOrder>) {
        for child in &record.children {
            let now = Installed { ike: record.spi, child: child.clone(), path: record.path };
            if self.installed.get(&child.spi_in) == Some(&now) {
                continue;
            }
            let carried = taken_up.and_then(|bag| bag.children.get(&child.spi_in));
            let stats = self.shared.worker.stats(child.spi_in);
            let replay = match (carried, taken_up) {
                (Some(carried), _) => {
                    stats.go_on(carried, SystemClock.now());
                    Replay::Exact(carried.window.clone())
                }
                (None, Some(_)) => {
                    let floor = child.claimed.map(|claimed| claimed.floor);
                    let mark = || self.shared.marks.last(child.spi_in);
                    Replay::After(floor.or_else(mark).unwrap_or(EspSeq(0)))
                }
                (None, None) => Replay::Fresh,
            };
            let told = self.installed.insert(child.spi_in, now).map(|installed| installed.child.block);
            if told != Some(child.block) {
                let Block { epoch, first, last } = child.block;
                tracing::debug!(target: "pontoon::block", spi_out = %child.spi_out, %epoch, %first, %last, "block granted");
            }
            orders.push(WorkerOrder::Install(Box::new(Install {
                ike: record.spi,
                child: child.clone(),
                path: record.path,
                rekey_octets: self.rekey_octets(record, child),
                path_mtu: PATH_MTU,
                replay,
                stats,
            })));
            if carried.is_some_and(|carried| carried.confirmed) {
                orders.push(WorkerOrder::Confirm { child: child.spi_in });
            }
        }
    }

    fn rekey_octets(&self, record: &IkeRecord, child: &ChildRecord) -> u64 {
        let gateway = self.shared.gateway.load();
        let policy = gateway
            .connection(&record.connection)
            .and_then(|connection| connection.children.iter().find(|policy| policy.name == child.name));
        policy.map_or(0, |policy| policy.rekey_bytes)
    }

    /// A worker that has ended has told so by itself, and the process ends with it.
    async fn tell(&self, orders: Vec<WorkerOrder>) {
        if self.shared.worker.tell(self.guard.segment, orders).await.is_err() {
            tracing::debug!(segment = %self.guard.segment, "the packet worker is gone");
        }
    }

    fn engine<T>(&mut self, run: impl FnOnce(&mut Endpoint, &mut Context<'_>) -> T) -> T {
        let endpoint = &mut self.endpoint;
        engine(&self.shared, self.guard.segment, |ctx| run(endpoint, ctx))
    }
}

impl Drop for SegmentActor {
    fn drop(&mut self) {
        self.shared.observe.metrics().ike_half_open.dec_by(self.half_open_told);
    }
}

impl std::fmt::Debug for SegmentActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentActor({:?}, {:?})", self.guard, self.endpoint)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared(node {:?})", self.cluster.node())
    }
}

/// Children in one request for numbers.
const RESERVE_BATCH: usize = 256;

const _: () = assert!(limits::CHILDREN_PER_IKE_SA <= RESERVE_BATCH);

/// Calls the engine with time, randomness, policy and state as they are now.
fn engine<T>(shared: &Shared, segment: Segment, run: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let gateway = shared.gateway.load();
    let view = SegmentView {
        state: shared.cluster.state(),
        segment,
        promised: &shared.promised,
        worker: &shared.worker,
    };
    let (now, utc) = (SystemClock.now(), SystemClock.utc());
    run(&mut Context { now, utc, rng: &mut OsRng, gateway: &gateway, view: &view })
}

fn addresses_of(change: &Change) -> Vec<IpAddr> {
    let of_step = |step: &Step| match step {
        Step::Establish(record) => record.inner_addresses.clone(),
        _ => Vec::new(),
    };
    change.steps.iter().flat_map(of_step).collect()
}

/// Sleeps until the engine's deadline; for ever where there is none.
async fn until(deadline: Option<Millis>) {
    match deadline {
        Some(deadline) => {
            let left = deadline.since(SystemClock.now());
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        None => std::future::pending().await,
    }
}
