//! What ties a member to the others: datagrams, the lease that they renew, who is found dead by them, and what follows
//! from that. Started once the incarnation is committed.
//!
//! ```text
//!   links ── sessions ──> mesh ── probes, answers ──> pulse ──┬── lease ──> packet workers
//!     │                                                       └── lookout ──┬── takeover    (while we lead)
//!     └── closed, refused ────────────────────────────────────────────────────┴── succession  (while we follow)
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipsec::types::Incarnation;
use raft::links::TlsLinks;
use raft::state::NodeId;
use raft::{Cluster, WeakCluster};
use tokio::sync::watch;

use crate::actor;
use crate::config::Timing;
use crate::io::clock::{Clock, SystemClock};
use crate::liveness::Verdict;
use crate::lookout::Lookout;
use crate::marks::mirrored;
use crate::mesh::{Detour, Keys, Mesh, Port, Session};
use crate::observe::Observe;
use crate::promise::Book;
use crate::pulse::{Parts, Pulse};
use crate::segment::Shared;
use crate::succession;
use crate::takeover::{self, Takeovers};

/// How often what is counted is brought into the metrics.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked who leads.
const DETOUR_EVERY: Duration = Duration::from_millis(20);

/// What a lifeline is made of, beside what all of the node share.
#[derive(Debug)]
pub struct Wires {
    pub port: Port,
    pub links: TlsLinks,
    pub timing: Timing,
}

/// Starts everything. From now on this node acknowledges others, and may write when they acknowledge it.
pub async fn start(
    shared: &Shared,
    incarnation: Incarnation,
    wires: Wires,
    stop: &watch::Receiver<bool>,
) -> io::Result<()> {
    let Wires { port, links, timing } = wires;
    let lookout = shared.lookout.clone();
    let (cluster, worker, asks) = (shared.cluster.clone(), shared.worker.clone(), shared.asks.clone());
    let me = cluster.node();
    let book = Arc::new(Book::new(me, incarnation, SystemClock.now()));
    let lease = worker.lease().clone();
    let waked = worker.clone();
    let parts = Parts {
        me,
        incarnation,
        lease_ms: timing.lease_ms,
        lease,
        book: book.clone(),
        lookout: lookout.clone(),
        regained: Box::new(move || waked.wake_all()),
    };
    let keys = Arc::new(Wired { cluster: cluster.downgrade(), links: links.clone() });
    let pulse = Box::new(Pulse::new(cluster.downgrade(), parts));
    let mesh = Mesh::start(port, keys, pulse, timing.probe_ms)?;
    mesh.serve_workers(&worker).await?;

    takeover::answer_for(&asks, cluster.clone(), book);
    let takeovers =
        Takeovers { cluster: cluster.clone(), lookout: lookout.clone(), asks, lease_ms: timing.lease_ms };
    actor::spawn_vital("takeover", stop.clone(), takeovers.run());
    actor::spawn_vital("succession", stop.clone(), succession::run(cluster, lookout.clone()));
    actor::spawn_vital("links-watch", stop.clone(), lookout.clone().follow(links.peers()));
    actor::spawn_vital("detour", stop.clone(), detour(mesh.clone(), shared.cluster.clone(), lookout.clone()));
    actor::spawn_vital("sessions", stop.clone(), look(mesh.clone(), links));
    let marks = mirrored::send(shared.marks.clone(), shared.cluster.clone(), worker, mesh.clone());
    actor::spawn_vital("mirrored-marks", stop.clone(), marks);
    actor::spawn_vital("lifeline", stop.clone(), watch(shared.observe.clone(), mesh, lookout));
    Ok(())
}

/// Lets the mesh take up a session as soon as its connection is there.
async fn look(mesh: Mesh, links: TlsLinks) {
    let mut peers = links.peers();
    while peers.changed().await.is_ok() {
        mesh.look();
    }
}

/// A packet for an owner that we do not hear goes by the leader, who has given the segment to a node that it hears: in a
/// network that is broken in parts, the holder of the service addresses need not reach every owner. Not heard counts as not
/// reached, and the detour is one of the two hops that a packet has: a planned move in such a network may lose some.
async fn detour(mesh: Mesh, cluster: Cluster, lookout: Lookout) {
    let mut news = lookout.news();
    let mut every = tokio::time::interval(DETOUR_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            _ = news.changed() => {}
        }
        let (me, state, leader) = (cluster.node(), cluster.state(), cluster.status().leader);
        let is_heard = |node: NodeId| lookout.verdict(node) == Some(Verdict::Alive);
        let others = state.members().iter().map(|member| member.id).filter(|node| *node != me);
        mesh.set_detour(Detour {
            unheard: others.filter(|node| !is_heard(*node)).collect(),
            by: leader.filter(|leader| is_heard(*leader)),
        });
    }
}

/// Brings what is counted here into the metrics.
async fn watch(observe: Observe, mesh: Mesh, lookout: Lookout) {
    let mut every = tokio::time::interval(WATCH_EVERY);
    let (mut dropped, mut suspected) = (BTreeMap::new(), 0);
    loop {
        every.tick().await;
        let metrics = observe.metrics();
        for (reason, now) in mesh.drops() {
            let before = dropped.insert(reason, now).unwrap_or(0);
            if now > before {
                metrics.esp_dropped(reason, now - before);
            }
        }
        let now = lookout.false_suspicions();
        metrics.false_suspicions.inc_by(now - std::mem::replace(&mut suspected, now));
    }
}

/// Members from the applied state, sessions from the links.
struct Wired {
    cluster: WeakCluster,
    links: TlsLinks,
}

impl Keys for Wired {
    fn peers(&self) -> Vec<(NodeId, SocketAddr)> {
        let Some(cluster) = self.cluster.upgrade() else { return Vec::new() };
        let (me, state) = (cluster.node(), cluster.state());
        let others = state.members().iter().filter(|member| member.id != me);
        // `advertise` is an address with a port; another form would be of a later version, and is not reached.
        others.filter_map(|member| Some((member.id, member.address.parse().ok()?))).collect()
    }

    fn to(&self, node: NodeId) -> Option<Session> {
        let session = self.links.session_to(node)?;
        Some(Session { id: session.id, node, secret: session.key.clone() })
    }

    fn from(&self, id: u64) -> Option<Session> {
        let session = self.links.session(id)?;
        Some(Session { id, node: session.node, secret: session.key.clone() })
    }
}
