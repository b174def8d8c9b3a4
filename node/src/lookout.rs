//! What this node sees of the others, for all who decide: the detector behind one door, and word when its verdicts change.
//!
//! ```text
//!   mesh thread ── heard, told, look ──┐                  ┌──> takeover (the leader's), succession (the followers')
//!   links ── refused ──────────────────┴──> Lookout ──────┴──> placement, status
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipsec::types::Millis;
use raft::Cluster;
use raft::links::{LinkState, Peers};
use raft::state::NodeId;
use tokio::sync::watch;

use crate::detector::Detector;
use crate::io::clock::{Clock, SystemClock};
use crate::liveness::{Liveness, Signs, Verdict};

/// Clones are one.
#[derive(Clone, Debug)]
pub struct Lookout(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    detector: Mutex<Detector>,
    /// A promise keeps others from acknowledging this node itself.
    barred_here: AtomicBool,
    /// This node itself has no answers from a majority.
    deaf_here: AtomicBool,
    /// Of probes.
    rounds: AtomicU64,
    news: watch::Sender<()>,
}

impl Lookout {
    /// Nobody is seen before the probes begin.
    pub fn new(suspect_ms: u64, probe_ms: u64) -> Lookout {
        let detector = Mutex::new(Detector::new(suspect_ms, probe_ms));
        Lookout(Arc::new(Inner {
            detector,
            barred_here: AtomicBool::new(false),
            deaf_here: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            news: watch::Sender::new(()),
        }))
    }

    /// Changes whenever a verdict does, or somebody wants to be pardoned.
    pub fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }

    /// All members, this node among them.
    pub fn liveness(&self, cluster: &Cluster) -> Liveness {
        let mut liveness = self.detector().liveness();
        let (me, state) = (cluster.node(), cluster.state());
        let incarnation = state.members().get(me).map(|member| member.incarnation).unwrap_or_default();
        let here = Signs { verdict: Verdict::Alive, incarnation, applied: state.applied() };
        liveness.nodes.insert(me, here);
        liveness
    }

    /// `None` for this node itself, and for who is no member.
    pub fn verdict(&self, node: NodeId) -> Option<Verdict> {
        self.detector().verdict(node)
    }

    /// When `node` was heard last.
    pub fn heard_at(&self, node: NodeId) -> Option<Millis> {
        self.detector().heard_at(node)
    }

    /// Who is alive and not acknowledged because of a promise: to be pardoned.
    pub fn barred(&self) -> Vec<NodeId> {
        self.detector().barred()
    }

    /// Whether this node is not acknowledged because of a promise. A leader that was found silent by the leader before it
    /// must pardon itself: nobody else does.
    pub fn barred_here(&self) -> bool {
        self.0.barred_here.load(Ordering::Relaxed)
    }

    /// For the mesh thread.
    pub fn bar_here(&self, barred: bool) {
        if !self.0.barred_here.swap(barred, Ordering::Relaxed) && barred {
            self.0.news.send_replace(());
        }
    }

    /// Whether this node hears nobody. Who is deaf accuses nobody: it is he who is cut off.
    pub fn deaf_here(&self) -> bool {
        self.0.deaf_here.load(Ordering::Relaxed)
    }

    /// Rounds of probes so far: the sign of life of the mesh thread.
    pub fn rounds(&self) -> u64 {
        self.0.rounds.load(Ordering::Relaxed)
    }

    /// For the mesh thread, at each round.
    pub fn probe_round(&self, deaf: bool) {
        self.0.rounds.fetch_add(1, Ordering::Relaxed);
        if self.0.deaf_here.swap(deaf, Ordering::Relaxed) != deaf {
            self.0.news.send_replace(());
        }
    }

    /// How often somebody was found silent who was not dead.
    pub fn false_suspicions(&self) -> u64 {
        self.detector().false_suspicions()
    }

    /// For the mesh thread. `change` says whether there is news.
    pub fn see(&self, change: impl FnOnce(&mut Detector) -> bool) {
        if change(&mut self.detector()) {
            self.0.news.send_replace(());
        }
    }

    /// When to look again at the latest.
    pub fn next(&self) -> Option<Millis> {
        self.detector().next()
    }

    /// Takes in what the links see, for ever.
    pub async fn follow(self, mut peers: watch::Receiver<Peers>) {
        loop {
            let now = SystemClock.now();
            let refused: Vec<(NodeId, Millis)> = peers
                .borrow_and_update()
                .iter()
                .filter(|(_, link)| link.state == LinkState::Refused)
                .map(|(&node, link)| {
                    (node, Millis(now.0.saturating_sub(link.since.elapsed().as_millis() as u64)))
                })
                .collect();
            for (node, since) in refused {
                self.see(|detector| detector.refused(node, since));
            }
            if peers.changed().await.is_err() {
                return;
            }
        }
    }

    fn detector(&self) -> MutexGuard<'_, Detector> {
        // Each change leaves a whole detector behind.
        self.0.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
