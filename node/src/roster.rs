//! Follows the assignments: one actor for each segment that the log gives to this process, under its epoch.
//!
//! ```text
//!   Applied ─> grant names (this node, this incarnation), new epoch ─> stop the old actor, start a new one
//!           └> grant names somebody else                            ─> stop, Unserve
//!   an actor of a segment panics ─> Unserve ─> Assign to ourselves, epoch + 1 ─> as above
//!   a planned move               ─> Close: the actor ends, its epoch is over here ─> somebody else's grant, or Reclaim
//! ```
//!
//! A grant for another incarnation of this node is an old one, replayed from the log: it starts nothing (DESIGN 1).
//! `Routes` is where the rest of the node finds the actor of a segment; it changes only here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use ipsec::record::Guard;
use ipsec::types::{Epoch, Incarnation, Millis, Segment};
use raft::Applied;
use raft::state::{Assign, Cause, Command, Grant, NodeId, Touched};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::task::{Id, JoinSet};

use crate::actor::Mailbox;
use crate::datapath::Order;
use crate::io::clock::{Clock, SystemClock};
use crate::moves::wire::Part;
use crate::observe::{self, Event};
use crate::segment::{MAILBOX, Message, SegmentActor, Shared};

/// How long to wait before a refused or unknown re-assignment is tried again.
const REASSIGN_RETRY: Duration = Duration::from_millis(200);

/// The mailbox of each segment's actor on this node, where it has one.
#[derive(Clone)]
pub struct Routes(Arc<Table>);

struct Table {
    mailboxes: [ArcSwapOption<Mailbox<Message>>; Segment::COUNT],
    leaving: [AtomicBool; Segment::COUNT],
    address_moved: Notify,
    holds_addresses: AtomicBool,
}

impl Default for Routes {
    fn default() -> Self {
        let mailboxes = [const { ArcSwapOption::const_empty() }; Segment::COUNT];
        let leaving = [const { AtomicBool::new(false) }; Segment::COUNT];
        let (address_moved, holds_addresses) = (Notify::new(), AtomicBool::new(false));
        Routes(Arc::new(Table { mailboxes, leaving, address_moved, holds_addresses }))
    }
}

impl Routes {
    pub fn to(&self, segment: Segment) -> Option<Mailbox<Message>> {
        self.0.mailboxes[usize::from(segment.0)].load().as_deref().cloned()
    }

    /// Closed here, for a node that has not got it yet.
    pub fn is_leaving(&self, segment: Segment) -> bool {
        self.0.leaving[usize::from(segment.0)].load(Ordering::Relaxed)
    }

    fn set_leaving(&self, segment: Segment, leaving: bool) {
        self.0.leaving[usize::from(segment.0)].store(leaving, Ordering::Relaxed);
    }

    /// How many segments are served here.
    pub fn served(&self) -> usize {
        self.0.mailboxes.iter().filter(|route| route.load().is_some()).count()
    }

    /// Waits until segment 0, with which the service addresses go, is taken up or given up. For one waiter.
    pub async fn address_moved(&self) {
        self.0.address_moved.notified().await;
    }

    /// Whether the neighbours have been told that the service addresses are here. Behind segment 0 by a moment.
    pub fn holds_addresses(&self) -> bool {
        self.0.holds_addresses.load(Ordering::Relaxed)
    }

    pub fn set_holds_addresses(&self, holds: bool) {
        self.0.holds_addresses.store(holds, Ordering::Relaxed);
    }

    fn set(&self, segment: Segment, mailbox: Option<Mailbox<Message>>) {
        self.0.mailboxes[usize::from(segment.0)].store(mailbox.map(Arc::new));
        if segment == Segment(0) {
            self.0.address_moved.notify_one();
        }
    }
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Routes({} served)", self.served())
    }
}

/// What planned moves want (`moves`).
#[derive(Debug)]
pub enum Wish {
    /// Ends the actors of these segments, in the epochs named, and tells what the next owner needs. A segment that is
    /// not served in that epoch, or whose actor fails, is left out of the answer.
    Close { segments: Vec<(Segment, Epoch)>, to: NodeId, answer: oneshot::Sender<Vec<Part>> },
    /// Takes segments that were closed again, each under a new epoch, unless somebody else has got them. Answers when
    /// it is decided for all.
    Reclaim { segments: Vec<(Segment, Epoch)>, answer: oneshot::Sender<()> },
}

/// Wishes that wait.
pub const WISHES: usize = 16;

pub struct Roster {
    shared: Shared,
    me: NodeId,
    incarnation: Incarnation,
    routes: Routes,
    running: BTreeMap<Segment, Epoch>,
    /// Closed for a planned move: these epochs are over here.
    closed: BTreeMap<Segment, Epoch>,
    /// Who owned each segment, as the last grant said: whom a handover comes from.
    owners: BTreeMap<Segment, NodeId>,
    actors: JoinSet<()>,
    /// Whose end a task's end is.
    segments: HashMap<Id, (Segment, Epoch)>,
}

impl Roster {
    pub fn new(shared: Shared, incarnation: Incarnation, routes: Routes) -> Roster {
        let me = shared.cluster.node();
        Roster {
            shared,
            me,
            incarnation,
            routes,
            running: BTreeMap::new(),
            closed: BTreeMap::new(),
            owners: BTreeMap::new(),
            actors: JoinSet::new(),
            segments: HashMap::new(),
        }
    }

    /// For ever. `applied` was subscribed to before the incarnation was proposed, so no grant is missed.
    pub async fn run(mut self, mut applied: broadcast::Receiver<Applied>, mut wishes: mpsc::Receiver<Wish>) {
        let mut enforced = self.shared.gateway.enforced();
        self.follow_all().await;
        loop {
            tokio::select! {
                Ok(()) = enforced.changed() => {
                    self.follow_all().await;
                    self.to_all(|| Message::Reconfigured).await;
                }
                told = applied.recv() => match told {
                    Ok(Applied::Command { touched, .. }) => self.touched(&touched).await,
                    Ok(Applied::Snapshot { .. }) | Err(RecvError::Lagged(_)) => {
                        self.follow_all().await;
                        self.shared.gateway.follow(&self.shared.cluster.state());
                        self.to_all(|| Message::TouchedAll).await;
                    }
                    Err(RecvError::Closed) => return,
                },
                Some(wish) = wishes.recv() => self.fulfil(wish).await,
                Some(ended) = self.actors.join_next_with_id() => {
                    let (id, how) = match ended {
                        Ok((id, ())) => (id, None),
                        Err(error) => (error.id(), Some(error.to_string())),
                    };
                    self.ended(id, how).await;
                }
            }
        }
    }

    async fn touched(&mut self, touched: &[Touched]) {
        let mut grants = Vec::new();
        for touched in touched {
            match *touched {
                Touched::Segment(segment) => grants.push(segment),
                Touched::Ike(spi) => {
                    if let Some(mailbox) = self.routes.to(spi.segment()) {
                        mailbox.send(Message::Touched(spi)).await;
                    }
                }
                Touched::Configuration => self.shared.gateway.follow(&self.shared.cluster.state()),
                Touched::Cluster | Touched::Members | Touched::Cookies | Touched::Tokens => {}
            }
        }
        self.follow(&grants).await;
    }

    async fn follow_all(&mut self) {
        let all: Vec<Segment> = Segment::all().collect();
        self.follow(&all).await;
    }

    /// Starts and stops actors until they are what the grants of these segments say.
    async fn follow(&mut self, segments: &[Segment]) {
        let (begun, now) = (Instant::now(), SystemClock.now());
        let state = self.shared.cluster.state();
        let mut started: BTreeMap<(Cause, Option<NodeId>), (usize, Grant)> = BTreeMap::new();
        for &segment in segments {
            let grant = state.segment(segment);
            let before = match grant.owner {
                Some(owner) => self.owners.insert(segment, owner.node),
                None => self.owners.remove(&segment),
            };
            if self.closed.get(&segment).is_some_and(|&epoch| epoch >= grant.epoch) {
                continue;
            }
            if self.closed.remove(&segment).is_some() {
                self.routes.set_leaving(segment, false);
            }
            let ours = grant.state.is_served()
                && grant
                    .owner
                    .is_some_and(|owner| (owner.node, owner.incarnation) == (self.me, self.incarnation));
            match self.running.get(&segment) {
                Some(&epoch) if ours && epoch == grant.epoch => continue,
                Some(_) => self.stop(segment).await,
                None => {}
            }
            // Taken up once a configuration is in force, and not given up for the want of one: an epoch that was given up
            // never comes back.
            if ours && self.shared.gateway.may_serve() {
                self.start(segment, grant.epoch).await;
                started.entry((grant.cause, before)).or_insert((0, grant)).0 += 1;
            }
        }
        self.shared.observe.metrics().segments_owned.set(self.running.len() as i64);
        for ((cause, from), (count, grant)) in started {
            // What this process has never seen owned was its own before its start.
            let from = from.or((cause == Cause::Restarted).then_some(self.me));
            let name = |node: NodeId| state.members().get(node).map(|member| member.name.clone());
            self.shared.observe.emit(Event::Handover {
                from: from.and_then(name),
                to: name(self.me).unwrap_or_default(),
                segments: count as u32,
                cause: cause_of(cause),
                detect_ms: grant.silent_ms as f64,
                commit_ms: self.commit_ms(grant, from, now) as f64,
                resume_ms: begun.elapsed().as_secs_f64() * 1e3,
            });
        }
    }

    /// From the decision to its apply here. Where the owner before was silent that is what is left of the time since we
    /// heard it last, by our own clock; else by the clock of who decided.
    fn commit_ms(&self, grant: Grant, from: Option<NodeId>, now: Millis) -> u64 {
        let heard = from.and_then(|node| self.shared.lookout.heard_at(node));
        match heard.filter(|_| grant.cause == Cause::NodeSilent && grant.silent_ms > 0) {
            Some(heard) => now.since(heard).saturating_sub(grant.silent_ms),
            None => {
                let applied = SystemClock.utc().0.saturating_sub(SystemClock.now().since(now));
                applied.saturating_sub(grant.since.0)
            }
        }
    }

    async fn start(&mut self, segment: Segment, epoch: Epoch) {
        let guard = Guard { segment, epoch, incarnation: self.incarnation };
        let (mailbox, receiver) = Mailbox::new("segment", MAILBOX);
        let actor = SegmentActor::new(self.shared.clone(), guard).await;
        let task = self.actors.spawn(actor.run(receiver));
        self.segments.insert(task.id(), (segment, epoch));
        self.running.insert(segment, epoch);
        self.routes.set(segment, Some(mailbox));
    }

    /// Closes the mailbox; the actor ends by itself. What it has in flight is refused at apply.
    async fn stop(&mut self, segment: Segment) {
        self.running.remove(&segment);
        self.routes.set(segment, None);
        if self.shared.worker.tell(segment, vec![Order::Unserve { segment }]).await.is_err() {
            tracing::debug!(%segment, "the packet worker is gone");
        }
    }

    /// An actor is gone. Where nobody stopped it, it has panicked: the segment is silent until an assignment with a
    /// new epoch is applied.
    async fn ended(&mut self, id: Id, how: Option<String>) {
        let Some((segment, epoch)) = self.segments.remove(&id) else { return };
        if self.running.get(&segment) != Some(&epoch) {
            return;
        }
        tracing::error!(%segment, %epoch, how = how.as_deref().unwrap_or("ended"), "the actor of a segment is gone");
        self.stop(segment).await;
        tokio::spawn(self.take_again(segment, epoch, Cause::ActorFailed));
    }

    /// Until somebody, we or the leader, has given the segment a new epoch.
    fn take_again(
        &self,
        segment: Segment,
        epoch: Epoch,
        cause: Cause,
    ) -> impl Future<Output = ()> + Send + 'static {
        let cluster = self.shared.cluster.clone();
        let assign = Command::Assign(Assign {
            segments: vec![(segment, epoch)],
            to: self.me,
            incarnation: self.incarnation,
            standby: cluster.state().segment(segment).standby,
            cause,
            at: SystemClock.utc(),
            takeover: None,
        });
        async move {
            while cluster.state().segment(segment).epoch == epoch {
                if cluster.propose(assign.clone()).await.is_err() {
                    tokio::time::sleep(REASSIGN_RETRY).await;
                }
            }
        }
    }

    async fn fulfil(&mut self, wish: Wish) {
        match wish {
            Wish::Close { segments, to, answer } => {
                let mut parts = JoinSet::new();
                for (segment, epoch) in segments {
                    if self.running.get(&segment) != Some(&epoch) {
                        continue;
                    }
                    let Some(mailbox) = self.routes.to(segment) else { continue };
                    self.running.remove(&segment);
                    self.routes.set(segment, None);
                    self.closed.insert(segment, epoch);
                    self.routes.set_leaving(segment, true);
                    parts.spawn(async move {
                        let (answer, part) = oneshot::channel();
                        mailbox.send(Message::Close { to, answer }).await;
                        part.await.ok()
                    });
                }
                self.shared.observe.metrics().segments_owned.set(self.running.len() as i64);
                tokio::spawn(async move {
                    let parts: Vec<Part> = parts.join_all().await.into_iter().flatten().collect();
                    // Who has asked may be gone; what was closed is reclaimed by who finds it so.
                    let _ = answer.send(parts);
                });
            }
            Wish::Reclaim { segments, answer } => {
                let mut again = JoinSet::new();
                for (segment, epoch) in segments {
                    // Also where the actor was never reached: nothing else would bring it back.
                    self.running.remove(&segment);
                    self.routes.set(segment, None);
                    self.closed.insert(segment, epoch);
                    self.routes.set_leaving(segment, true);
                    again.spawn(self.take_again(segment, epoch, Cause::Moved));
                }
                tokio::spawn(async move {
                    again.join_all().await;
                    let _ = answer.send(());
                });
            }
        }
    }

    async fn to_all(&self, message: impl Fn() -> Message) {
        for mailbox in self.running.keys().filter_map(|&segment| self.routes.to(segment)) {
            mailbox.send(message()).await;
        }
    }
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Roster({} of {} segments run)", self.running.len(), Segment::COUNT)
    }
}

fn cause_of(cause: Cause) -> observe::Cause {
    match cause {
        Cause::Created => observe::Cause::Join,
        Cause::Restarted => observe::Cause::Restart,
        Cause::ActorFailed => observe::Cause::Actor,
        Cause::NodeSilent => observe::Cause::Failure,
        Cause::Drained => observe::Cause::Drain,
        Cause::Rebalanced => observe::Cause::Rebalance,
        Cause::Moved => observe::Cause::Manual,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use ipsec::types::Segment;
    use raft::links::TlsLinks;
    use raft::state::{Configure, NewMember, SetStandby};
    use raft::{Cluster, Opened, Options};
    use tokio::sync::watch;

    use super::*;
    use crate::asks::{Asks, Nobody};
    use crate::config::Timing;
    use crate::datapath::{self, Worker};
    use crate::gateway::CurrentGateway;
    use crate::io::Offload;
    use crate::io::fake::FakeInside;
    use crate::lifeline::Wires;
    use crate::lookout::Lookout;
    use crate::marks::Marks;
    use crate::moves::Luggage;
    use crate::observe::Observe;
    use crate::view::Promised;
    use crate::{member, mesh};

    async fn member(dir: &std::path::Path) -> (Shared, Routes, watch::Sender<bool>) {
        member_with(dir, Asks::new(Arc::new(Nobody))).await
    }

    /// A member whose packet side has no sockets. The directory must outlive it.
    pub(crate) async fn member_with(
        dir: &std::path::Path,
        asks: Asks,
    ) -> (Shared, Routes, watch::Sender<bool>) {
        let options = Options {
            data_dir: dir.to_owned(),
            storage_key_file: None,
            timing: raft::timing::CI,
            links: Arc::new(raft::links::NoLinks),
        };
        let me = NewMember {
            name: "edge-1".into(),
            address: "192.0.2.1:7400".into(),
            software: "0.1.0".into(),
            speaks: raft::state::SPEAKS,
        };
        let cluster: Cluster = match Cluster::open(options).await.unwrap() {
            Opened::Vacant(vacant) => vacant.init("lab", me.clone(), SystemClock.utc()).await.unwrap(),
            Opened::Member(cluster) => cluster,
        };
        let (inside, _hand) = FakeInside::new(Offload::default());
        let worker = Worker { ports: Vec::new(), inside: Box::new(inside), seen_by_all: Default::default() };
        let (worker, reports, _threads) = datapath::start(vec![worker]).unwrap();
        tokio::spawn(async move {
            let mut reports = reports;
            while reports.recv().await.is_some() {}
        });
        let shared = Shared {
            cluster,
            gateway: CurrentGateway::default(),
            worker,
            observe: Observe::new(),
            promised: Promised::default(),
            marks: Marks::open(dir),
            luggage: Luggage::default(),
            asks,
            lookout: Lookout::new(Timing::CI.suspect_ms, Timing::CI.probe_ms),
            opener: crate::sieve::Opener::new().0,
        };
        let routes = Routes::default();
        let stop = watch::Sender::new(false);
        let wires = Wires {
            port: mesh::Port::open("127.0.0.1:0".parse().unwrap()).unwrap(),
            links: TlsLinks::bind("127.0.0.1:0".parse().unwrap(), &raft::timing::CI).await.unwrap(),
            timing: Timing::CI,
        };
        member::start(shared.clone(), me, routes.clone(), wires, stop.subscribe()).await.unwrap();
        (shared, routes, stop)
    }

    /// As a daemon ends: no actor takes the end of the others for a fault and ends the process with it.
    async fn end(shared: &Shared, stop: &watch::Sender<bool>) {
        stop.send_replace(true);
        shared.asks.leave();
        shared.cluster.shutdown().await;
    }

    pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
        for _ in 0..2_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it never came about");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_segment_whose_actor_panics_comes_back_under_a_new_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, routes, stop) = member(dir.path()).await;
        until(|| routes.served() == Segment::COUNT).await;
        let (broken, other) = (Segment(7), Segment(8));
        let epoch = |segment| shared.cluster.state().segment(segment).epoch;
        let (before, unaffected) = (epoch(broken), epoch(other));

        routes.to(broken).unwrap().send(Message::Panic).await;
        until(|| epoch(broken) > before).await;
        assert_eq!(shared.cluster.state().segment(broken).cause, Cause::ActorFailed);
        until(|| routes.served() == Segment::COUNT).await;
        assert_eq!(epoch(broken).0, before.0 + 1, "one assignment, not several");
        assert_eq!(epoch(other), unaffected);
        end(&shared, &stop).await;
    }

    /// What steering does once the networks are routed.
    fn enforce(shared: &Shared) {
        shared.gateway.enforce(shared.gateway.next().unwrap());
    }

    /// Else the first packets for its clients would leave in clear (I8).
    #[test]
    fn nothing_is_served_by_a_configuration_before_its_networks_are_routed() {
        let dir = tempfile::tempdir().unwrap();
        let start = async || {
            let (shared, routes, stop) = member(dir.path()).await;
            let state = shared.cluster.state();
            (shared, routes, stop, state)
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (shared, routes, stop, state) = start().await;
            assert!(shared.gateway.has(&state), "none is wanted and none is there");
            until(|| routes.served() == Segment::COUNT).await;
            let configure = Configure {
                expected_revision: 0,
                toml: "version = 1\n".into(),
                files: Default::default(),
                comment: String::new(),
                at: SystemClock.utc(),
                by: "edge-1".into(),
            };
            shared.cluster.propose(Command::Configure(configure)).await.unwrap();
            until(|| shared.gateway.next().is_some()).await;
            assert_eq!(shared.gateway.load().revision, 0, "agreed on, not in force");
            assert!(!shared.gateway.has(&shared.cluster.state()));
            // What runs goes on when its grant is looked at again.
            let standby =
                Command::SetStandby(SetStandby { segments: vec![(Segment(3), Epoch(1))], standby: None });
            shared.cluster.propose(standby).await.unwrap();
            shared.cluster.barrier().await.unwrap();
            assert_eq!(routes.served(), Segment::COUNT);
            enforce(&shared);
            assert_eq!(shared.gateway.load().revision, 1);
            assert!(shared.gateway.has(&shared.cluster.state()));
            end(&shared, &stop).await;
        });
        drop(runtime);
        // With a start the configuration is in the log, and the routes of the process before are gone.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (shared, routes, stop, _) = start().await;
            let ours = || shared.cluster.state().segment(Segment(255)).epoch == Epoch(2);
            until(ours).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(routes.served(), 0);
            enforce(&shared);
            until(|| routes.served() == Segment::COUNT).await;
            end(&shared, &stop).await;
        });
    }

    /// The grants of the process before are in the log; its incarnation is not ours.
    #[test]
    fn each_start_has_an_incarnation_and_epochs_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            // A runtime for each start: with it the actors end, as with a process.
            let runtime = tokio::runtime::Runtime::new().unwrap();
            seen.push(runtime.block_on(async {
                let (shared, routes, stop) = member(dir.path()).await;
                until(|| routes.served() == Segment::COUNT).await;
                let grant = shared.cluster.state().segment(Segment(0));
                end(&shared, &stop).await;
                (grant.owner.unwrap().incarnation, grant.epoch)
            }));
        }
        let (incarnations, epochs): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
        assert_eq!(epochs, [Epoch(1), Epoch(2), Epoch(3)]);
        assert!(incarnations[0] != incarnations[1] && incarnations[1] != incarnations[2]);
    }
}
