//! Follows the assignments: one actor for each segment that the log gives to this process, under its epoch.
//!
//! ```text
//!   Applied ─> grant names (this node, this incarnation), new epoch ─> stop the old actor, start a new one
//!           └> grant names somebody else                            ─> stop, Unserve
//!   an actor of a segment panics ─> Unserve ─> Assign to ourselves, epoch + 1 ─> as above
//! ```
//!
//! A grant for another incarnation of this node is an old one, replayed from the log: it starts nothing (DESIGN 1).
//! `Routes` is where the rest of the node finds the actor of a segment; it changes only here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use ipsec::record::Guard;
use ipsec::types::{Epoch, Incarnation, Segment};
use raft::Applied;
use raft::state::{Assign, Cause, Command, Grant, NodeId, Touched};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{Id, JoinSet};

use crate::actor::Mailbox;
use crate::datapath::Order;
use crate::io::clock::{Clock, SystemClock};
use crate::observe::{self, Event};
use crate::segment::{MAILBOX, Message, SegmentActor, Shared};

/// How long to wait before a refused or unknown re-assignment is tried again.
const REASSIGN_RETRY: Duration = Duration::from_millis(200);

/// The mailbox of each segment's actor on this node, where it has one.
#[derive(Clone)]
pub struct Routes(Arc<[ArcSwapOption<Mailbox<Message>>]>);

impl Default for Routes {
    fn default() -> Self {
        Routes((0..Segment::COUNT).map(|_| ArcSwapOption::empty()).collect())
    }
}

impl Routes {
    pub fn to(&self, segment: Segment) -> Option<Mailbox<Message>> {
        self.0[usize::from(segment.0)].load().as_deref().cloned()
    }

    /// How many segments are served here.
    pub fn served(&self) -> usize {
        self.0.iter().filter(|route| route.load().is_some()).count()
    }

    fn set(&self, segment: Segment, mailbox: Option<Mailbox<Message>>) {
        self.0[usize::from(segment.0)].store(mailbox.map(Arc::new));
    }
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Routes({} served)", self.served())
    }
}

pub struct Roster {
    shared: Shared,
    me: NodeId,
    name: String,
    incarnation: Incarnation,
    routes: Routes,
    running: BTreeMap<Segment, Epoch>,
    actors: JoinSet<()>,
    /// Whose end a task's end is.
    segments: HashMap<Id, (Segment, Epoch)>,
}

impl Roster {
    pub fn new(shared: Shared, name: String, incarnation: Incarnation, routes: Routes) -> Roster {
        let me = shared.cluster.node();
        Roster {
            shared,
            me,
            name,
            incarnation,
            routes,
            running: BTreeMap::new(),
            actors: JoinSet::new(),
            segments: HashMap::new(),
        }
    }

    /// For ever. `applied` was subscribed to before the incarnation was proposed, so no grant is missed.
    pub async fn run(mut self, mut applied: broadcast::Receiver<Applied>) {
        self.follow_all().await;
        loop {
            tokio::select! {
                told = applied.recv() => match told {
                    Ok(Applied::Command { touched, .. }) => self.touched(&touched).await,
                    Ok(Applied::Snapshot { .. }) | Err(RecvError::Lagged(_)) => {
                        self.follow_all().await;
                        self.shared.gateway.follow(&self.shared.cluster.state());
                        self.to_all(|| Message::Reconfigured).await;
                        self.to_all(|| Message::TouchedAll).await;
                    }
                    Err(RecvError::Closed) => return,
                },
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
                Touched::Configuration => {
                    self.shared.gateway.follow(&self.shared.cluster.state());
                    self.to_all(|| Message::Reconfigured).await;
                }
                Touched::Cluster | Touched::Members | Touched::Cookies => {}
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
        let begun = Instant::now();
        let state = self.shared.cluster.state();
        let mut started: BTreeMap<Cause, (usize, Grant)> = BTreeMap::new();
        for &segment in segments {
            let grant = state.segment(segment);
            let ours = grant.state.is_served()
                && grant
                    .owner
                    .is_some_and(|owner| (owner.node, owner.incarnation) == (self.me, self.incarnation));
            match self.running.get(&segment) {
                Some(&epoch) if ours && epoch == grant.epoch => continue,
                Some(_) => self.stop(segment).await,
                None => {}
            }
            if ours {
                self.start(segment, grant.epoch).await;
                started.entry(grant.cause).or_insert((0, grant)).0 += 1;
            }
        }
        self.shared.observe.metrics().segments_owned.set(self.running.len() as i64);
        for (cause, (count, grant)) in started {
            self.shared.observe.emit(Event::Handover {
                from: (cause != Cause::Created).then(|| self.name.clone()),
                to: self.name.clone(),
                segments: count as u32,
                cause: cause_of(cause),
                detect_ms: 0.0,
                commit_ms: SystemClock
                    .utc()
                    .since(grant.since)
                    .saturating_sub(begun.elapsed().as_millis() as u64) as f64,
                resume_ms: begun.elapsed().as_secs_f64() * 1e3,
            });
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
        let assign = Command::Assign(Assign {
            segments: vec![(segment, epoch)],
            to: self.me,
            incarnation: self.incarnation,
            standby: self.shared.cluster.state().segment(segment).standby,
            cause: Cause::ActorFailed,
            at: SystemClock.utc(),
        });
        let cluster = self.shared.cluster.clone();
        tokio::spawn(async move {
            // Until somebody, we or the leader, has given the segment a new epoch.
            while cluster.state().segment(segment).epoch == epoch {
                if cluster.propose(assign.clone()).await.is_err() {
                    tokio::time::sleep(REASSIGN_RETRY).await;
                }
            }
        });
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
mod tests {
    use std::time::Duration;

    use ipsec::types::Segment;
    use raft::state::NewMember;
    use raft::{Cluster, Opened, Options};
    use tokio::sync::watch;

    use super::*;
    use crate::datapath::{self, Worker};
    use crate::gateway::CurrentGateway;
    use crate::io::Offload;
    use crate::io::fake::FakeInside;
    use crate::marks::Marks;
    use crate::member;
    use crate::observe::Observe;
    use crate::view::Promised;

    /// A member whose packet side has no sockets. The directory must outlive it.
    async fn member(dir: &std::path::Path) -> (Shared, Routes, watch::Sender<bool>) {
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
        let worker = Worker { ports: Vec::new(), inside: Box::new(inside) };
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
        };
        let routes = Routes::default();
        let stop = watch::Sender::new(false);
        member::start(shared.clone(), me, routes.clone(), 200, stop.subscribe()).await.unwrap();
        (shared, routes, stop)
    }

    async fn until(mut holds: impl FnMut() -> bool) {
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
        let (shared, routes, _stop) = member(dir.path()).await;
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
                stop.send_replace(true);
                shared.cluster.shutdown().await;
                (grant.owner.unwrap().incarnation, grant.epoch)
            }));
        }
        let (incarnations, epochs): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
        assert_eq!(epochs, [Epoch(1), Epoch(2), Epoch(3)]);
        assert!(incarnations[0] != incarnations[1] && incarnations[1] != incarnations[2]);
    }
}
