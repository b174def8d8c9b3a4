//! Three members over TLS on loopback: real sockets, real certificates, real logs.

mod cluster;
mod load;
mod relay;
mod strangers;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::Secret;
use ipsec::types::Millis;

use super::pki::{self, Credentials, NodeKey};
use super::{Attachment, LinkState, Links, Refused, TlsLinks};
use crate::handle::{Cluster, Opened, Options, Role};
use crate::state::{
    Authority, ClusterId, Command, CreateCluster, NewMember, NodeId, RotateCookieSecret, SPEAKS,
};
use crate::store::credentials::Kept;
use crate::store::identity::{DataDir, Identity, Phase};
use crate::store::sled::SledLog;
use crate::store::{self, Peer};
use crate::timing;
use crate::timings::Timings;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const WITHIN: Duration = Duration::from_secs(30);

/// One member.
struct Site {
    cluster: Cluster,
    links: TlsLinks,
    credentials: Credentials,
    _dir: tempfile::TempDir,
}

/// All members; node ids are places plus one.
struct Sites {
    sites: Vec<Site>,
    authority: Authority,
}

impl Sites {
    /// Members 1 to `count`, connected, with a leader and a replicated cluster.
    async fn start(count: u64) -> Sites {
        Sites::start_with(count, async |_, address| address).await
    }

    /// `reached` tells at which address the others look for a node.
    async fn start_with(count: u64, mut reached: impl AsyncFnMut(u64, SocketAddr) -> SocketAddr) -> Sites {
        let authority = pki::found(CLUSTER).unwrap();
        let mut bound = Vec::new();
        for id in 1..=count {
            let links = TlsLinks::bind(loopback(), &timing::CI).await.unwrap();
            bound.push((id, links));
        }
        let mut members = BTreeMap::new();
        for (id, links) in &bound {
            members.insert(NodeId(*id), peer(*id, reached(*id, links.address()).await));
        }
        let mut sites = Vec::new();
        for (id, links) in bound {
            let me = members[&NodeId(id)].clone();
            sites.push(Site::open(id, me, links, credentials(&authority, CLUSTER, id)).await);
        }
        sites[0].cluster.inner.raft.initialize(members).await.unwrap();
        let sites = Sites { sites, authority };
        sites.first().propose(create(&sites)).await.unwrap();
        sites
    }

    fn first(&self) -> &Cluster {
        &self.sites[0].cluster
    }

    fn node(&self, id: u64) -> &Cluster {
        &self.sites[id as usize - 1].cluster
    }

    fn links(&self, id: u64) -> &TlsLinks {
        &self.sites[id as usize - 1].links
    }

    fn ids(&self) -> Vec<u64> {
        (1..=self.sites.len() as u64).collect()
    }

    /// What `a` sees of `b`.
    fn state(&self, a: u64, b: u64) -> Option<LinkState> {
        self.links(a).peers().borrow().get(&NodeId(b)).map(|link| link.state)
    }

    async fn connected(&self, ids: &[u64]) {
        eventually("links between all", || {
            let mut pairs = ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
            pairs.all(|(a, b)| a == b || self.state(a, b) == Some(LinkState::Up))
        })
        .await;
    }

    /// The one among `ids` that the others of them follow.
    async fn leader_among(&self, ids: &[u64]) -> u64 {
        let mut found = None;
        eventually("a leader", || {
            let leaders: BTreeSet<_> = ids.iter().map(|&id| self.node(id).status().leader).collect();
            found = leaders.first().copied().flatten().map(|leader| leader.0);
            leaders.len() == 1
                && found.is_some_and(|id| ids.contains(&id) && self.node(id).status().role == Role::Leader)
        })
        .await;
        found.unwrap()
    }

    /// Waits until all are equally far. Nodes that are so have equal states at any time (I10).
    async fn alike(&self) {
        eventually("equal progress", || {
            let states = self.sites.iter().map(|site| site.cluster.state());
            let mut digests: BTreeMap<u64, BTreeSet<_>> = BTreeMap::new();
            for state in states {
                digests.entry(state.applied()).or_default().insert(state.digest());
            }
            for (applied, digests) in &digests {
                assert_eq!(digests.len(), 1, "different states at index {applied}");
            }
            digests.len() == 1
        })
        .await;
    }

    /// Like the death of its process, for the others: all its sockets are gone.
    fn cut(&self, id: u64) {
        self.links(id).detach();
    }

    fn mend(&self, id: u64) {
        let Site { cluster, links, credentials, .. } = &self.sites[id as usize - 1];
        links.identify(credentials).unwrap();
        let Identity { cluster: cluster_id, node, .. } = *cluster.identity();
        let (roll, weak) = (cluster.roll(), cluster.downgrade());
        links.attach(Attachment { id: cluster_id, node, roll, cluster: weak });
    }

    async fn stop(self) {
        for site in self.sites {
            site.cluster.shutdown().await;
        }
    }
}

impl Site {
    async fn open(id: u64, me: Peer, links: TlsLinks, credentials: Credentials) -> Site {
        let dir = tempfile::tempdir().unwrap();
        begin_log(dir.path(), id, &me, &credentials);
        links.identify(&credentials).unwrap();
        let options = Options {
            data_dir: dir.path().to_owned(),
            storage_key_file: None,
            timing: timing::CI,
            links: Arc::new(links.clone()),
        };
        let Opened::Member(cluster) = Cluster::open(options).await.unwrap() else { panic!("a member") };
        Site { cluster, links, credentials, _dir: dir }
    }
}

/// An empty log of a member: all three begin together here, where otherwise one founds and the others join.
fn begin_log(dir: &std::path::Path, id: u64, me: &Peer, credentials: &Credentials) {
    let held = DataDir::take(dir, None).unwrap();
    let mut identity = Identity {
        cluster: CLUSTER,
        cluster_name: "three".into(),
        node: NodeId(id),
        me: me.clone(),
        phase: Phase::Founding,
    };
    let vault = Arc::new(held.bind(&identity).unwrap());
    let kept = Kept { credentials: credentials.clone(), authority_key: None };
    store::credentials::save(&held, &vault, &kept).unwrap();
    drop(SledLog::open(&held, &identity, vault, Arc::new(Timings::default())).unwrap());
    identity.phase = Phase::Member;
    held.bind(&identity).unwrap();
}

fn credentials(authority: &Authority, cluster: ClusterId, id: u64) -> Credentials {
    let key = NodeKey::generate().unwrap();
    let certificate = pki::issue(cluster, authority, NodeId(id), &key.public()).unwrap();
    Credentials { authority: authority.certificate.clone(), certificate, key: key.to_pkcs8() }
}

fn peer(id: u64, address: SocketAddr) -> Peer {
    Peer { name: format!("n{id}"), address: address.to_string() }
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn create(sites: &Sites) -> Command {
    let founder_as = NewMember {
        name: "n1".into(),
        address: sites.links(1).address().to_string(),
        software: "test".into(),
        speaks: SPEAKS,
    };
    Command::CreateCluster(CreateCluster {
        name: "three".into(),
        id: CLUSTER,
        founder: NodeId(1),
        founder_as,
        founder_key: sites.sites[0].credentials.subject().unwrap().key,
        authority: sites.authority.clone(),
        at: Millis(1),
    })
}

/// Counts when `version` is the current one.
fn rotate(version: u32) -> Command {
    let secret = Secret::from([version as u8; 32]);
    Command::RotateCookieSecret(RotateCookieSecret { expected_version: version, secret, at: Millis(1) })
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}
