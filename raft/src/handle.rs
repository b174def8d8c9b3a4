//! `Cluster`: this node's part in the cluster, as the rest of the gateway sees it.
//!
//! ```text
//!   open ─┬─> Vacant ──init──> Cluster ── propose, commit ──> the log ──> state, applied
//!         └──────────────────> Cluster ── fatal: the process ends
//! ```
//!
//! The one file that opens `Sealed` replies: after the change that they go with was committed and applied here (I3).
//! A proposal has three ends: its effect, a final refusal, or an unknown outcome. The last one is never taken for a
//! failure: the entry may still be committed by another leader (DESIGN 3). `barrier` makes it known.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crypto::Secret;
use crypto::rng::{OsRng, Rng};
use ipsec::record::{Change, Sealed};
use ipsec::types::Millis;
use tokio::sync::{Semaphore, broadcast};

use crate::glue::{Answer, Applied, Machine, Node, Proposal, Published};
use crate::links::{Links, Reply, Request};
use crate::state::{ClusterId, Command, CreateCluster, Effect, NewMember, NodeId, Outcome, Refusal, State};
use crate::store::identity::{DataDir, Identity, Phase};
use crate::store::seal::Vault;
use crate::store::sled::SledLog;
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
    options: Options,
    dir: DataDir,
}

/// A handle; clones are of the same node. Its tasks run on the tokio runtime that opened it.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    raft: Node,
    published: Arc<Published>,
    timings: Arc<Timings>,
    timing: Timing,
    log: Weak<SledLog>,
    proposals: Semaphore,
    /// Held until the end, so that no other process opens the directory.
    _dir: DataDir,
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

    /// Waits until everything that this node proposed before is decided and, where it was committed, applied here.
    /// Afterwards the state tells what became of a proposal whose outcome was unknown.
    pub async fn barrier(&self) -> Result<(), ProposeError> {
        match tokio::time::timeout(self.inner.timing.proposal, self.inner.raft.write_blank()).await {
            Err(_) => Err(ProposeError::Unknown),
            Ok(written) => written,
        }
    }

    /// Waits until this node has applied all that it may have applied before its last start. Before that, `state` may
    /// be older than what it once was.
    pub async fn recovered(&self, within: Duration) -> Result<(), ProposeError> {
        self.inner.raft.recovered(within).await
    }

    /// Makes the cluster in the replicated state, when it is not there yet: the second half of `Vacant::init`, for a
    /// founder that was stopped between the two.
    pub async fn found(&self, me: NewMember, at: Millis) -> Result<(), ProposeError> {
        if self.state().cluster().is_some() {
            return Ok(());
        }
        let Identity { cluster, cluster_name, node, .. } = self.identity();
        let create =
            CreateCluster { name: cluster_name.clone(), id: *cluster, founder: *node, founder_as: me, at };
        match self.propose(Command::CreateCluster(create)).await {
            Ok(_) | Err(ProposeError::Refused(Refusal::AlreadyCreated)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub fn status(&self) -> RaftStatus {
        self.inner.raft.status()
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
        self.inner.raft.serve(request).await
    }

    /// Installs a snapshot that the leader of `vote` sent; the vote of this node afterwards.
    pub async fn install_snapshot(&self, vote: Vote, snapshot: SnapshotFile) -> Result<Vote, String> {
        self.inner.raft.install_snapshot(vote, snapshot).await
    }

    /// Resolves when this node has stopped for good: the process must end, since its peers would take it for alive.
    pub async fn fatal(&self) -> String {
        self.inner.raft.fatal().await
    }

    /// Stops, and returns when all is on disk. The directory is free for another process when the last clone is gone.
    pub async fn shutdown(&self) {
        self.inner.raft.shutdown().await;
        // The tasks of openraft let go of the log a moment after its core has ended.
        while self.inner.log.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn outcome(&self, command: Command) -> Result<Outcome, ProposeError> {
        let begun = Instant::now();
        let proposal = Proposal(Arc::new(Secret::from(command.encode())));
        let Ok(_slot) = self.inner.proposals.acquire().await else {
            return Err(ProposeError::Fatal("it is being stopped".into()));
        };
        // A proposal that is given up is not taken back: it may be in the log already.
        let write = self.inner.raft.write(proposal);
        let answer = match tokio::time::timeout(self.inner.timing.proposal, write).await {
            Err(_) => return Err(ProposeError::Unknown),
            Ok(written) => written?,
        };
        self.inner.timings.commit.record(begun.elapsed());
        match answer {
            Answer(Some(outcome)) => Ok(outcome),
            Answer(None) => unreachable!("a command has an outcome"),
        }
    }
}

impl Vacant {
    /// Makes a cluster whose first member is this node. `at` is UTC, as the proposer sees it.
    pub async fn init(self, name: &str, me: NewMember, at: Millis) -> Result<Cluster, OpenError> {
        let mut id = [0; 16];
        OsRng.fill(&mut id);
        let identity = Identity {
            cluster: ClusterId(id),
            cluster_name: name.to_owned(),
            node: FOUNDER,
            me: Peer { name: me.name.clone(), address: me.address.clone() },
            phase: Phase::Founding,
        };
        let vault = self.dir.bind(&identity)?;
        let cluster = start(&self.options, self.dir, identity, vault).await?;
        cluster.recovered(self.options.timing.proposal).await?;
        cluster.found(me, at).await?;
        Ok(cluster)
    }
}

async fn start(
    options: &Options,
    dir: DataDir,
    mut identity: Identity,
    vault: Vault,
) -> Result<Cluster, OpenError> {
    let timings = Arc::new(Timings::default());
    let published = Published::new();
    // Reads all of the log and the snapshot, so not on a thread that others wait for.
    let open = {
        let (vault, timings, published) = (Arc::new(vault), timings.clone(), published.clone());
        let identity = identity.clone();
        move || match open_files(&dir, &identity, vault, timings, published) {
            Ok((log, machine)) => Ok((dir, Arc::new(log), machine)),
            Err(error) => Err(dir.quarantine(error)),
        }
    };
    let opened = tokio::task::spawn_blocking(open).await;
    let (dir, log, machine) = opened.map_err(|error| OpenError::Raft(error.to_string()))??;
    let weak = Arc::downgrade(&log);
    let links = options.links.clone();
    let started = Node::start(&identity, &options.timing, links, log, machine).await;
    let raft = started.map_err(OpenError::Raft)?;
    if identity.phase == Phase::Founding {
        raft.initialize(&identity).await.map_err(OpenError::Raft)?;
        identity.phase = Phase::Member;
        dir.bind(&identity)?;
    }
    raft.campaign_if_alone().await.map_err(OpenError::Raft)?;
    let inner = Arc::new(Inner {
        identity,
        raft,
        published,
        timings,
        timing: options.timing,
        log: weak,
        proposals: Semaphore::new(PROPOSALS_MAX),
        _dir: dir,
    });
    tokio::spawn(take_snapshots(Arc::downgrade(&inner)));
    Ok(Cluster { inner })
}

fn open_files(
    dir: &DataDir,
    identity: &Identity,
    vault: Arc<Vault>,
    timings: Arc<Timings>,
    published: Arc<Published>,
) -> Result<(SledLog, Machine), StoreError> {
    let log = SledLog::open(dir, identity, vault.clone(), timings)?;
    let snapshots = Snapshots::open(&dir.file("snapshots"), identity, vault)?;
    let machine = Machine::open(Arc::new(snapshots), published)?;
    check_snapshot(dir, &log, &machine)?;
    Ok((log, machine))
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
