//! Three nodes in one process, linked by function calls that a test can cut: what one node alone cannot show.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crypto::Secret;
use ipsec::types::Millis;

use super::{Machine, Node, Proposal, Published};
use crate::handle::{ProposeError, Role};
use crate::links::{BoxFuture, Lane, Link, LinkError, Links, Reply, Request};
use crate::state::{
    Authority, ClusterId, Command, CreateCluster, KeyHash, NewMember, NodeId, RotateCookieSecret, SPEAKS,
};
use crate::store::identity::{DataDir, Identity, Phase};
use crate::store::sled::SledLog;
use crate::store::snapshot::{SnapshotFile, Snapshots};
use crate::store::{Peer, Vote};
use crate::timing;
use crate::timings::Timings;

const ALL: [u64; 3] = [1, 2, 3];
const WITHIN: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Wire {
    nodes: OnceLock<Vec<Arc<Node>>>,
    cut: Mutex<BTreeSet<u64>>,
}

/// What node `from` sees of the wire.
struct Port {
    wire: Arc<Wire>,
    from: u64,
}

struct Cable {
    wire: Arc<Wire>,
    from: u64,
    to: u64,
}

impl Wire {
    fn passes(&self, from: u64, to: u64) -> bool {
        let cut = self.cut.lock().unwrap();
        !cut.contains(&from) && !cut.contains(&to)
    }
}

impl Links for Port {
    fn link(&self, to: NodeId, _: &Peer, _: Lane) -> Option<Arc<dyn Link>> {
        let cable = Cable { wire: self.wire.clone(), from: self.from, to: to.0 };
        self.wire.passes(self.from, to.0).then(|| Arc::new(cable) as Arc<dyn Link>)
    }
}

impl Cable {
    fn far_end(&self) -> Result<&Node, LinkError> {
        let nodes = self.wire.nodes.get().ok_or(LinkError::Unreachable("not up yet".into()))?;
        Ok(&nodes[self.to as usize - 1])
    }

    fn check(&self) -> Result<(), LinkError> {
        if self.wire.passes(self.from, self.to) { Ok(()) } else { Err(LinkError::Failed("cut".into())) }
    }
}

impl Link for Cable {
    fn call(&self, request: Request, _: Duration) -> BoxFuture<'_, Result<Reply, LinkError>> {
        Box::pin(async move {
            let reply = self.far_end()?.serve(request).await.map_err(LinkError::Failed)?;
            self.check()?;
            Ok(reply)
        })
    }

    fn send_snapshot(&self, vote: Vote, snapshot: SnapshotFile) -> BoxFuture<'_, Result<Vote, LinkError>> {
        Box::pin(async move {
            let installed = self.far_end()?.install_snapshot(vote, snapshot).await;
            self.check()?;
            installed.map_err(LinkError::Failed)
        })
    }
}

struct Three {
    wire: Arc<Wire>,
    published: Vec<Arc<Published>>,
    _dirs: Vec<(tempfile::TempDir, DataDir)>,
}

impl Three {
    async fn start() -> Three {
        let wire = Arc::new(Wire::default());
        let (mut nodes, mut published, mut dirs) = (Vec::new(), Vec::new(), Vec::new());
        for id in 1..=3 {
            let dir = tempfile::tempdir().unwrap();
            let held = DataDir::take(dir.path(), None).unwrap();
            let identity = Identity {
                cluster: ClusterId([1; 16]),
                cluster_name: "three".into(),
                node: NodeId(id),
                me: peer(id),
                phase: Phase::Founding,
            };
            let vault = Arc::new(held.bind(&identity).unwrap());
            let log = SledLog::open(&held, &identity, vault.clone(), Arc::new(Timings::default())).unwrap();
            let snapshots = Snapshots::open(&held.file("snapshots"), &identity, vault).unwrap();
            let shown = Published::new();
            let machine = Machine::open(Arc::new(snapshots), shown.clone()).unwrap();
            let links = Arc::new(Port { wire: wire.clone(), from: id });
            nodes.push(Arc::new(
                Node::start(&identity, &timing::CI, links, Arc::new(log), machine).await.unwrap(),
            ));
            published.push(shown);
            dirs.push((dir, held));
        }
        assert!(wire.nodes.set(nodes).is_ok());
        let three = Three { wire, published, _dirs: dirs };
        let members: BTreeMap<u64, Peer> = (1..=3).map(|id| (id, peer(id))).collect();
        three.node(1).raft.initialize(members).await.unwrap();
        three.commit(&ALL, create()).await;
        three
    }

    fn node(&self, id: u64) -> &Node {
        &self.wire.nodes.get().unwrap()[id as usize - 1]
    }

    fn cut(&self, id: u64) {
        self.wire.cut.lock().unwrap().insert(id);
    }

    fn heal(&self) {
        self.wire.cut.lock().unwrap().clear();
    }

    async fn propose(&self, id: u64, command: Command) -> Result<u64, ProposeError> {
        let proposal = Proposal(Arc::new(Secret::from(command.encode())));
        let write = self.node(id).write(proposal);
        let answer = tokio::time::timeout(Duration::from_secs(2), write).await;
        answer.unwrap_or(Err(ProposeError::Unknown)).map(|answer| answer.0.unwrap().index)
    }

    /// The one among `ids` that the others of them follow.
    async fn leader_among(&self, ids: &[u64]) -> u64 {
        let mut found = None;
        eventually("a leader", || {
            let leaders: BTreeSet<_> = ids.iter().map(|&id| self.node(id).status().leader).collect();
            found = leaders.first().copied().flatten().map(|leader| leader.0);
            leaders.len() == 1
                && found.is_some_and(|leader| {
                    ids.contains(&leader) && self.node(leader).status().role == Role::Leader
                })
        })
        .await;
        found.unwrap()
    }

    /// Proposes to the leader among `ids` until it is committed. On a busy machine leaders change; a command that was
    /// committed after all is refused the second time and changes nothing.
    async fn commit(&self, ids: &[u64], command: Command) -> u64 {
        loop {
            let leader = self.leader_among(ids).await;
            match self.propose(leader, command.clone()).await {
                Ok(index) => return index,
                Err(ProposeError::NotLeader(_) | ProposeError::Unknown) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn alike(&self) {
        let mut states = Vec::new();
        eventually("equally much applied", || {
            // What openraft says of a node runs ahead of its state, or lags behind it: only a state knows its index.
            states = self.published.iter().map(|shown| shown.state()).collect();
            let applied: BTreeSet<_> = states.iter().map(|state| state.applied()).collect();
            let told: BTreeSet<_> = (1..=3).map(|id| self.node(id).status().applied).collect();
            applied.len() == 1 && told.len() == 1
        })
        .await;
        // I10
        let digests: BTreeSet<_> = states.iter().map(|state| state.digest()).collect();
        assert_eq!(digests.len(), 1);
    }

    async fn stop(self) {
        for id in 1..=3 {
            self.node(id).shutdown().await;
        }
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn peer(id: u64) -> Peer {
    Peer { name: format!("n{id}"), address: format!("198.18.0.1{id}:7400") }
}

fn create() -> Command {
    let founder_as = NewMember {
        name: "n1".into(),
        address: "198.18.0.11:7400".into(),
        software: "test".into(),
        speaks: SPEAKS,
    };
    let (name, id, at) = ("three".into(), ClusterId([1; 16]), Millis(1));
    let authority = Authority { certificate: vec![1], key: Secret::from([1; 32]) };
    let (founder, founder_key) = (NodeId(1), KeyHash([1; 32]));
    Command::CreateCluster(CreateCluster { name, id, founder, founder_as, founder_key, authority, at })
}

fn rotate(version: u32) -> Command {
    let secret = Secret::from([version as u8; 32]);
    Command::RotateCookieSecret(RotateCookieSecret { expected_version: version, secret, at: Millis(1) })
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

#[test]
fn a_cut_off_leader_commits_nothing_and_finds_back() {
    run(async {
        let three = Three::start().await;
        three.commit(&ALL, rotate(0)).await;
        three.alike().await;
        let old = three.leader_among(&ALL).await;

        three.cut(old);
        let outcome = three.propose(old, rotate(1)).await;
        assert!(matches!(outcome, Err(ProposeError::Unknown | ProposeError::NotLeader(_))), "{outcome:?}");
        let others = ALL.map(|id| if id == old { old % 3 + 1 } else { id });
        three.commit(&others, rotate(1)).await;
        // By now its lease is over, and it says so before anything is appended.
        let outcome = three.propose(old, rotate(2)).await;
        assert!(matches!(outcome, Err(ProposeError::NotLeader(_))), "{outcome:?}");

        three.heal();
        three.commit(&ALL, rotate(1)).await;
        three.alike().await;
        assert_eq!(three.published[0].state().cookies().version, 2);
        three.stop().await;
    });
}

/// A campaign before the lease of the leader is over changes nothing; in its name it succeeds at once.
#[test]
fn a_leader_that_is_gone_is_succeeded_within_its_lease() {
    run(async {
        let three = Three::start().await;
        let old = three.leader_among(&ALL).await;
        three.commit(&ALL, rotate(0)).await;
        let next = old % 3 + 1;
        let term = three.node(next).status().term;
        three.node(next).campaign().await.unwrap();
        assert_eq!(three.leader_among(&ALL).await, old);

        three.cut(old);
        let begun = std::time::Instant::now();
        assert!(three.node(next).succeed(NodeId(next)).await.is_err(), "it is not the leader");
        three.node(next).succeed(NodeId(old)).await.unwrap();
        let others = ALL.map(|id| if id == old { next } else { id });
        eventually("the next one leads", || three.node(next).status().role == crate::Role::Leader).await;
        let natural = timing::CI.election_max + timing::CI.election_min - timing::CI.heartbeat;
        assert!(begun.elapsed() < natural, "{:?}", begun.elapsed());
        assert_eq!(three.node(next).status().term, term + 1);
        three.commit(&others, rotate(1)).await;
        three.heal();
        three.alike().await;
        three.stop().await;
    });
}

/// Fails when `pre_vote` is left to openraft's default, which grants without asking anybody.
#[test]
fn a_cut_off_follower_does_not_raise_the_term() {
    run(async {
        let three = Three::start().await;
        let leader = three.leader_among(&ALL).await;
        let lonely = leader % 3 + 1;
        three.cut(lonely);
        // What was under way arrives yet.
        tokio::time::sleep(timing::CI.election_max).await;
        let term = three.node(lonely).status().term;
        tokio::time::sleep(8 * timing::CI.election_max).await;
        assert_eq!(three.node(lonely).status().term, term, "it voted for itself");
        three.heal();
        three.commit(&ALL, rotate(0)).await;
        three.alike().await;
        three.stop().await;
    });
}

#[test]
fn who_was_away_too_long_gets_a_snapshot() {
    run(async {
        let three = Three::start().await;
        three.alike().await;
        let away = three.leader_among(&ALL).await % 3 + 1;
        let others = ALL.map(|id| if id == away { away % 3 + 1 } else { id });
        three.cut(away);
        let mut index = 0;
        for version in 0..50 {
            index = three.commit(&others, rotate(version)).await;
        }
        for id in others {
            eventually("all applied", || three.node(id).status().applied >= Some(index)).await;
            three.node(id).snapshot().await.unwrap();
            three.node(id).snapshot_covers(index, WITHIN).await.unwrap();
            three.node(id).purge(index, WITHIN).await.unwrap();
        }
        three.heal();
        three.commit(&ALL, rotate(50)).await;
        three.alike().await;
        let status = three.node(away).status();
        assert!(status.snapshot >= Some(index), "{status:?}");
        three.stop().await;
    });
}
