//! `Cluster`: this node's part in the cluster, as the rest of the gateway sees it.
//!
//! ```text
//!   open ─┬─> Vacant ──init──> Cluster ── propose, commit ──> the log ──> state, applied
//!         └──────────────────> Cluster ── fatal: the process ends
//! ```
//!
//! Any node may propose: a follower sends the command on to the leader and takes the outcome from its own apply.
//!
//! The one file that opens `Sealed` replies: after the change that they go with was committed and applied here (I3).
//! A proposal has three ends: its effect, a final refusal, or an unknown outcome. The last one is never taken for a
//! failure: the entry may still be committed by another leader (DESIGN 3). `barrier` makes it known.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crypto::Secret;
use ipsec::record::{Change, Sealed};
use ipsec::types::Millis;
use tokio::sync::{Semaphore, broadcast, watch};

use crate::forward;
use crate::glue::{Answer, Applied, Machine, Membership, Node, Proposal, Published};
use crate::links::pki::{self, PkiError};
use crate::links::{Attachment, Links, Reply, Request, Roll, Unproposed};
use crate::state::{Authority, Command, CreateCluster, Effect, NewMember, NodeId, Outcome, Refusal, State};
use crate::store::credentials::{self, Kept};
use crate::store::identity::{DataDir, Identity, Phase};
use crate::store::seal::Vault;
use crate::store::sled::{Obituary, SledLog};
use crate::store::snapshot::{SnapshotFile, Snapshots};
use crate::store::{LogStore, Peer, StoreError, Vote};
use crate::timing::Timing;
use crate::timings::Timings;

/// The id of a cluster's first member. Joins have higher log indices: 0 is Raft's first membership, 1 the entry of
/// the first leader.
pub const FOUNDER: NodeId = NodeId(1);

/// Proposals under way at a time; more wait.
pub const PROPOSALS_MAX: usize = 4096;

/// Entries behind the last snapshot that ask for the next one.
pub const SNAPSHOT_EVERY: u64 = 10_000;

/// How long a snapshot and the purge behind it may take.
const COMPACTION_WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked at whether a snapshot is due.
const SNAPSHOT_CHECK: Duration = Duration::from_secs(1);

pub struct Options {
    pub data_dir: PathBuf,
    /// Where the storage key is, when not inside `data_dir`.
    pub storage_key_file: Option<PathBuf>,
    pub timing: Timing,
    pub links: Arc<dyn Links>,
}

/// What was found in `data_dir`.
#[derive(Debug)]
pub enum Opened {
    /// No cluster has this node yet.
    Vacant(Vacant),
    Member(Cluster),
}

/// A node that belongs to no cluster. Holds the lock of its directory.
pub struct Vacant {
    pub(crate) options: Options,
    pub(crate) dir: DataDir,
}

/// A handle; clones are of the same node. Its tasks run on the tokio runtime that opened it.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) inner: Arc<Inner>,
}

/// A handle that does not keep the node open.
#[derive(Clone)]
pub struct WeakCluster(Weak<Inner>);

pub(crate) struct Inner {
    pub(crate) identity: Identity,
    pub(crate) raft: Node,
    pub(crate) published: Arc<Published>,
    pub(crate) links: Arc<dyn Links>,
    pub(crate) timing: Timing,
    timings: Arc<Timings>,
    snapshots: Arc<Snapshots>,
    roll: watch::Sender<Roll>,
    log: Weak<SledLog>,
    obituary: Obituary,
    proposals: Semaphore,
    authority: [u8; 32],
    vault: Arc<Vault>,
    /// Held until the end, so that no other process opens the directory.
    dir: DataDir,
}

/// A command that counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Its place in the log.
    pub index: u64,
    pub effect: Effect,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Committed, applied, and refused there. Final.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// Not proposed: this node does not lead, or has lost touch with the majority. The leader, when it is known.
    #[error("{}", not_leader(.0))]
    NotLeader(Option<(NodeId, Peer)>),
    /// It may be committed later, or never. Not to be taken for a failure.
    #[error("the outcome is not known yet")]
    Unknown,
    /// This node has stopped for good; see `Cluster::fatal`. The outcome is unknown.
    #[error("this node has stopped: {0}")]
    Fatal(String),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Raft does not start: {0}")]
    Raft(String),
    #[error("the cluster cannot be made: {0}")]
    Found(#[from] ProposeError),
    #[error(transparent)]
    Pki(#[from] PkiError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Learner,
    Follower,
    Candidate,
    Leader,
    /// Being stopped.
    Shutdown,
}

/// Why a node has stopped for good.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fatal {
    #[error(transparent)]
    Store(StoreError),
    #[error("{0}")]
    Raft(String),
}

/// Where this node is in the log and among the members.
#[derive(Clone, Debug, PartialEq)]
pub struct RaftStatus {
    pub node: NodeId,
    pub role: Role,
    pub term: u64,
    /// As far as this node knows. Not a fence: an isolated leader goes on calling itself one.
    pub leader: Option<NodeId>,
    pub last_log: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub snapshot: Option<u64>,
    pub purged: Option<u64>,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// The voters by set: two while they are being changed, and then a majority of each is needed.
    pub voter_sets: Vec<BTreeSet<NodeId>>,
    /// The log index of the entry that names them, committed or not.
    pub voters_at: u64,
    /// For a leader: how long ago a majority confirmed it.
    pub quorum_acked: Option<Duration>,
}

impl Cluster {
    /// Opens `data_dir` and starts this node's part in Raft, when it belongs to a cluster. Damage puts the directory
    /// into quarantine.
    pub async fn open(options: Options) -> Result<Opened, OpenError> {
        let dir = DataDir::take(&options.data_dir, options.storage_key_file.as_deref())?;
        match dir.identity().map_err(|error| dir.quarantine(error))? {
            None => Ok(Opened::Vacant(Vacant { options, dir })),
            Some((identity, vault)) => start(&options, dir, identity, vault).await.map(Opened::Member),
        }
    }

    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// The fingerprint of the authority that this node trusts.
    pub fn authority(&self) -> [u8; 32] {
        self.inner.authority
    }

    pub fn node(&self) -> NodeId {
        self.inner.identity.node
    }

    /// What is applied here. A value of its own: later entries do not change it.
    pub fn state(&self) -> Arc<State> {
        self.inner.published.state()
    }

    /// What is applied from now on. A reader that lags too far is told so and reads the whole state again.
    pub fn applied(&self) -> broadcast::Receiver<Applied> {
        self.inner.published.applied()
    }

    /// Proposes a command and waits until it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Committed, ProposeError> {
        let outcome = self.outcome(command).await?;
        match outcome.result {
            Ok(effect) => Ok(Committed { index: outcome.index, effect }),
            Err(refusal) => Err(ProposeError::Refused(refusal)),
        }
    }

    /// Commits a change to an IKE SA and opens the replies that go with it. Returns its log index too. On any error they are dropped unopened.
    pub async fn commit<T>(&self, change: Change, replies: Sealed<T>) -> Result<(u64, T), ProposeError> {
        let committed = self.propose(Command::Sa(change)).await?;
        Ok((committed.index, replies.open()))
    }

    /// Waits until all that was committed before is applied here. Afterwards the state tells what became of a proposal
    /// whose outcome was unknown, unless it is still on its way to a leader: it may count yet, and then whatever is
    /// decided anew on the same revision does not.
    pub async fn barrier(&self) -> Result<(), ProposeError> {
        forward::barrier(&self.inner).await
    }

    /// Who belongs to the cluster as far as this node knows, and where each one is.
    pub fn roll(&self) -> watch::Receiver<Roll> {
        self.inner.roll.subscribe()
    }

    pub fn downgrade(&self) -> WeakCluster {
        WeakCluster(Arc::downgrade(&self.inner))
    }

    /// Waits until this node has applied all that it may have applied before its last start. Before that, `state` may
    /// be older than what it once was.
    pub async fn recovered(&self, within: Duration) -> Result<(), ProposeError> {
        self.inner.raft.recovered(within).await
    }

    /// Makes the cluster in the replicated state, when it is not there yet: the second half of `Vacant::init`, for a
    /// founder that was stopped between the two. Others have nothing to do here.
    pub async fn found(&self, me: NewMember, at: Millis) -> Result<(), OpenError> {
        let Kept { credentials, authority_key } = credentials::load(&self.inner.dir, &self.inner.vault)?;
        let Some(key) = authority_key else { return Ok(()) };
        let Identity { cluster, cluster_name, node, .. } = self.identity();
        let create = CreateCluster {
            name: cluster_name.clone(),
            id: *cluster,
            founder: *node,
            founder_as: me,
            founder_key: credentials.subject()?.key,
            authority: Authority { certificate: credentials.authority.clone(), key },
            at,
        };
        match self.propose(Command::CreateCluster(create)).await {
            Ok(_) | Err(ProposeError::Refused(Refusal::AlreadyCreated)) => {}
            Err(error) => return Err(error.into()),
        }
        // From now on the authority's key is in the replicated state and nowhere else.
        let kept = Kept { credentials, authority_key: None };
        Ok(credentials::save(&self.inner.dir, &self.inner.vault, &kept)?)
    }

    /// Clears away what this node has of its cluster, after `shutdown`: it is vacant again, under the same storage key.
    pub fn forget(&self) -> Result<(), StoreError> {
        self.inner.dir.leave()
    }

    pub fn status(&self) -> RaftStatus {
        self.inner.raft.status()
    }

    /// Campaigns now, if a majority would have it: while the lease of a leader runs, nothing happens.
    pub async fn campaign(&self) -> Result<(), String> {
        self.inner.raft.campaign().await
    }

    /// Campaigns now in the place of `leader`, as if it had handed over: its lease counts for nothing. For who knows that
    /// its process is gone; where that is wrong it costs an election, and nothing that Raft promises.
    pub async fn succeed(&self, leader: NodeId) -> Result<(), String> {
        self.inner.raft.succeed(leader).await
    }

    /// Lets `to`, a voter that has all of the log, lead instead of this node, without an election timeout. Returns when
    /// this node has stopped to lead, or after a proposal's time: then it still does.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ProposeError> {
        self.inner.raft.transfer_leader(to).await?;
        let led = async {
            while self.status().role == Role::Leader {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(self.inner.timing.proposal, led).await.map_err(|_| ProposeError::Unknown)
    }

    /// How long flushes and commits took since the start.
    pub fn timings(&self) -> Arc<Timings> {
        self.inner.timings.clone()
    }

    /// Octets of the log on disk.
    pub fn log_octets(&self) -> Option<u64> {
        self.inner.log.upgrade().and_then(|log| log.disk_octets().ok())
    }

    /// Takes a snapshot of what is applied now, and removes the entries that lie more than `keep` behind it.
    pub async fn compact(&self, keep: u64) -> Result<(), ProposeError> {
        let Some(applied) = self.status().applied else { return Ok(()) };
        self.inner.raft.snapshot().await?;
        self.inner.raft.snapshot_covers(applied, COMPACTION_WITHIN).await?;
        match applied.checked_sub(keep) {
            Some(upto) => self.inner.raft.purge(upto, COMPACTION_WITHIN).await,
            None => Ok(()),
        }
    }

    /// Answers a request that came over a link.
    pub async fn serve(&self, request: Request) -> Result<Reply, String> {
        let index = match request {
            Request::Propose(octets) => {
                // What cannot be read must not get into the log: every node would stop at it.
                Command::decode(octets.as_bytes()).map_err(|error| error.to_string())?;
                self.here(Proposal(octets)).await.map(|outcome| outcome.index)
            }
            Request::Barrier => self.inner.raft.write_blank().await,
            Request::Digest(index) => return Ok(Reply::Digest(self.digest_at(index).await)),
            request => return self.inner.raft.serve(request).await,
        };
        Ok(Reply::Proposed(match index {
            Ok(index) => Ok(index),
            Err(ProposeError::NotLeader(leader)) => Err(Unproposed::NotLeader(leader)),
            Err(_) => Err(Unproposed::Unknown),
        }))
    }

    /// Where a snapshot that comes over a link is written.
    pub(crate) fn snapshots(&self) -> Arc<Snapshots> {
        self.inner.snapshots.clone()
    }

    /// There is a connection to `node` again: what waits to be replicated to it need not wait longer.
    pub(crate) async fn reachable_again(&self, node: NodeId) {
        self.inner.raft.reachable_again(node).await;
    }

    /// Installs a snapshot that the leader of `vote` sent; the vote of this node afterwards.
    pub async fn install_snapshot(&self, vote: Vote, snapshot: SnapshotFile) -> Result<Vote, String> {
        self.inner.raft.install_snapshot(vote, snapshot).await
    }

    /// Resolves when this node has stopped for good: the process must end, since its peers would take it for alive.
    pub async fn fatal(&self) -> Fatal {
        let why = self.inner.raft.fatal().await;
        self.inner.obituary.cause().map_or(Fatal::Raft(why), Fatal::Store)
    }

    /// Stops, and returns when all is on disk. The directory is free for another process when the last clone is gone.
    pub async fn shutdown(&self) {
        self.inner.links.detach();
        self.inner.raft.shutdown().await;
        // The tasks of openraft let go of the log a moment after its core has ended.
        while self.inner.log.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn outcome(&self, command: Command) -> Result<Outcome, ProposeError> {
        let begun = Instant::now();
        let proposal = Proposal(Arc::new(Secret::from(command.encode())));
        let outcome = forward::propose(self, proposal).await?;
        self.inner.timings.commit.record(begun.elapsed());
        Ok(outcome)
    }

    /// Proposes to this node's own log.
    pub(crate) async fn here(&self, proposal: Proposal) -> Result<Outcome, ProposeError> {
        let Ok(_slot) = self.inner.proposals.acquire().await else {
            return Err(ProposeError::Fatal("it is being stopped".into()));
        };
        // A proposal that is given up is not taken back: it may be in the log already.
        let write = self.inner.raft.write(proposal);
        match tokio::time::timeout(self.inner.timing.proposal, write).await {
            Err(_) => Err(ProposeError::Unknown),
            Ok(Ok(Answer(Some(outcome)))) => Ok(outcome),
            Ok(Ok(Answer(None))) => unreachable!("a command has an outcome"),
            Ok(Err(ProposeError::Fatal(why))) => {
                let cause = self.inner.obituary.cause().map_or(why, |error| error.to_string());
                Err(ProposeError::Fatal(cause))
            }
            Ok(Err(error)) => Err(error),
        }
    }
}

impl WeakCluster {
    pub fn upgrade(&self) -> Option<Cluster> {
        self.0.upgrade().map(|inner| Cluster { inner })
    }
}

pub(crate) async fn start(
    options: &Options,
    dir: DataDir,
    mut identity: Identity,
    vault: Vault,
) -> Result<Cluster, OpenError> {
    let timings = Arc::new(Timings::default());
    let published = Published::new();
    let vault = Arc::new(vault);
    // Reads all of the log and the snapshot, so not on a thread that others wait for.
    let open = {
        let (vault, timings, published) = (vault.clone(), timings.clone(), published.clone());
        let identity = identity.clone();
        move || match open_files(&dir, &identity, vault, timings, published) {
            Ok((log, machine, snapshots)) => Ok((dir, Arc::new(log), machine, snapshots)),
            Err(error) => Err(dir.quarantine(error)),
        }
    };
    let opened = tokio::task::spawn_blocking(open).await;
    let (dir, log, machine, snapshots) = opened.map_err(|error| OpenError::Raft(error.to_string()))??;
    if identity.phase == Phase::Joining {
        // Before anything can be acknowledged: from here on an empty log is a lost one.
        identity.phase = Phase::Member;
        dir.bind(&identity)?;
    }
    let Kept { credentials, .. } = credentials::load(&dir, &vault).map_err(|error| dir.quarantine(error))?;
    options.links.identify(&credentials)?;
    let (weak, obituary) = (Arc::downgrade(&log), log.obituary());
    let links = options.links.clone();
    let started = Node::start(&identity, &options.timing, links, log, machine).await;
    let raft = started.map_err(OpenError::Raft)?;
    if identity.phase == Phase::Founding {
        raft.initialize([(identity.node, identity.me.clone())].into()).await.map_err(OpenError::Raft)?;
        identity.phase = Phase::Member;
        dir.bind(&identity)?;
    }
    raft.campaign_if_alone().await.map_err(OpenError::Raft)?;
    let inner = Arc::new(Inner {
        identity,
        raft,
        published,
        links: options.links.clone(),
        timing: options.timing,
        timings,
        snapshots,
        roll: watch::Sender::default(),
        log: weak,
        obituary,
        proposals: Semaphore::new(PROPOSALS_MAX),
        authority: pki::fingerprint(&credentials.authority),
        vault,
        dir,
    });
    tokio::spawn(take_snapshots(Arc::downgrade(&inner)));
    let members = inner.published.members_changed();
    let votes = inner.raft.membership_changes();
    tokio::spawn(call_the_roll(Arc::downgrade(&inner), members, votes));
    let cluster = Cluster { inner };
    let Identity { cluster: id, node, .. } = *cluster.identity();
    let (roll, weak) = (cluster.roll(), cluster.downgrade());
    options.links.attach(Attachment { id, node, roll, cluster: weak });
    Ok(cluster)
}

fn open_files(
    dir: &DataDir,
    identity: &Identity,
    vault: Arc<Vault>,
    timings: Arc<Timings>,
    published: Arc<Published>,
) -> Result<(SledLog, Machine, Arc<Snapshots>), StoreError> {
    let log = SledLog::open(dir, identity, vault.clone(), timings)?;
    let snapshots = Arc::new(Snapshots::open(&dir.file("snapshots"), identity, vault)?);
    let machine = Machine::open(snapshots.clone(), published)?;
    check_snapshot(dir, &log, &machine)?;
    Ok((log, machine, snapshots))
}

/// The log begins where a snapshot ends: without that snapshot something acknowledged is lost.
fn check_snapshot(dir: &DataDir, log: &SledLog, machine: &Machine) -> Result<(), StoreError> {
    let covered = machine.last().map(|last| last.index);
    match log.bounds().purged {
        Some(purged) if covered < Some(purged.index) => {
            let what = format!("the log begins behind entry {purged}, and no snapshot reaches so far");
            Err(StoreError::damaged(dir.path(), what))
        }
        _ => Ok(()),
    }
}

/// Takes a snapshot when enough has been applied since the last one and nothing committed waits to be applied.
async fn take_snapshots(inner: Weak<Inner>) {
    let mut check = tokio::time::interval(SNAPSHOT_CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        check.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let status = inner.raft.status();
        let behind = status.applied.unwrap_or(0).saturating_sub(status.snapshot.unwrap_or(0));
        if behind >= SNAPSHOT_EVERY
            && status.applied == status.committed
            && let Err(error) = inner.raft.snapshot().await
        {
            tracing::debug!(%error, "no snapshot, since Raft has stopped");
            return;
        }
    }
}

/// Keeps the roll up to date. The replicated members tell where each node is now; openraft's know a node that was
/// added before its own state tells of it, as a newcomer does.
async fn call_the_roll(inner: Weak<Inner>, mut members: watch::Receiver<()>, mut votes: Membership) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        members.borrow_and_update();
        let mut roll = votes.current();
        for member in inner.published.state().members().iter() {
            roll.insert(member.id, Peer { name: member.name.clone(), address: member.address.clone() });
        }
        inner.roll.send_if_modified(|known| {
            let news = **known != roll;
            *known = Arc::new(roll);
            news
        });
        drop(inner);
        let alive = tokio::select! {
            changed = members.changed() => changed.is_ok(),
            alive = votes.changed() => alive,
        };
        if !alive {
            return;
        }
    }
}

fn not_leader(leader: &Option<(NodeId, Peer)>) -> String {
    match leader {
        Some((node, peer)) => format!("not proposed: node {node} ({peer}) leads"),
        None => "not proposed: no leader is known".into(),
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("identity", &self.inner.identity).finish_non_exhaustive()
    }
}

impl fmt::Debug for WeakCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakCluster")
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("data_dir", &self.data_dir)
            .field("storage_key_file", &self.storage_key_file)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Vacant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vacant").field("dir", &self.dir).finish_non_exhaustive()
    }
}
