//! `RaftStateMachine` on `State`: applies commands, tells who waits, builds and installs snapshots.
//!
//! The state lives in memory; on disk it is the last snapshot and the log behind it. After each batch of entries the
//! new state is published first, then the proposers are answered: whoever has an answer finds its effect in the
//! published state.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt};
use openraft::entry::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{OptionalSend, RaftTypeConfig};
use tokio::sync::{broadcast, oneshot, watch};

use super::{
    Answer, OrLogId, OrSnapshotMeta, OrStoredMembership, Proposal, TypeConfig, log_id, members, meta,
    or_log_id, or_membership, or_meta,
};
use crate::state::{Command, Outcome, State, Touched};
use crate::store::snapshot::{Meta, SnapshotFile, Snapshots};
use crate::store::{LogId, Members, StoreError};

type OrSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Batches of `Applied` that a slow reader may lag behind before it is told that it missed some.
const APPLIED_BACKLOG: usize = 4096;

/// Outcomes that are kept for who awaits one.
const AWAITED_MAX: usize = 4096;

/// What changed at an index. Refused commands change nothing and are not told.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    Command {
        index: u64,
        touched: Arc<[Touched]>,
    },
    /// The whole state came from a snapshot: read everything again.
    Snapshot {
        index: u64,
    },
}

impl Applied {
    fn touches_members(&self) -> bool {
        match self {
            Applied::Command { touched, .. } => touched.contains(&Touched::Members),
            Applied::Snapshot { .. } => true,
        }
    }
}

/// Where the state machine shows what it has.
#[derive(Debug)]
pub struct Published {
    state: watch::Sender<Arc<State>>,
    applied: broadcast::Sender<Applied>,
    /// The last entry that is applied, be it a command or not.
    reached: watch::Sender<u64>,
    /// Changed when the replicated members do.
    members: watch::Sender<()>,
    awaited: Awaited,
    passing: Passing,
}

/// Those who want the state as it is right after one entry, to compare it with another node's.
#[derive(Debug, Default)]
struct Passing {
    waiting: AtomicUsize,
    wanted: Mutex<Vec<(u64, oneshot::Sender<Arc<State>>)>>,
}

/// Outcomes that somebody here waits for who knows their index only later: proposals that another node commits.
#[derive(Debug, Default)]
struct Awaited {
    waiting: AtomicUsize,
    outcomes: Mutex<VecDeque<Outcome>>,
}

/// Says that outcomes are awaited, as long as it lives.
#[derive(Debug)]
pub struct Awaiting(Arc<Published>);

impl Published {
    pub fn new() -> Arc<Published> {
        let (state, _) = watch::channel(Arc::new(State::default()));
        let (applied, _) = broadcast::channel(APPLIED_BACKLOG);
        let (reached, members, awaited, passing) = Default::default();
        Arc::new(Published { state, applied, reached, members, awaited, passing })
    }

    pub fn members_changed(&self) -> watch::Receiver<()> {
        self.members.subscribe()
    }

    /// Waits until the entry at `index` is applied.
    pub async fn reached(&self, index: u64) {
        // The sender lives as long as this.
        let _ = self.reached.subscribe().wait_for(|reached| *reached >= index).await;
    }

    /// The state right after the entry at `index`; `None` when that is past. Dropped unsent when it turns out to be.
    pub fn state_at(&self, index: u64) -> Option<oneshot::Receiver<Arc<State>>> {
        let (sender, receiver) = oneshot::channel();
        let mut wanted = self.passing.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.push((index, sender));
        self.passing.waiting.store(wanted.len(), Ordering::SeqCst);
        (*self.reached.borrow() < index).then_some(receiver)
    }

    /// The entry at `index` is applied to `state`.
    fn pass(&self, index: u64, state: &State) {
        if self.passing.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut wanted = self.passing.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, sender) in wanted.extract_if(.., |(at, _)| *at <= index) {
            if at == index {
                // Whoever does not wait any more needs no answer.
                let _ = sender.send(Arc::new(state.clone()));
            }
        }
        self.passing.waiting.store(wanted.len(), Ordering::SeqCst);
    }

    /// To be called before the proposal is sent.
    pub fn await_outcomes(self: &Arc<Self>) -> Awaiting {
        self.awaited.waiting.fetch_add(1, Ordering::SeqCst);
        Awaiting(self.clone())
    }

    fn keep_awaited<'a>(&self, outcomes: impl Iterator<Item = &'a Outcome>) {
        if self.awaited.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut kept = self.awaited.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(outcomes.cloned());
        let surplus = kept.len().saturating_sub(AWAITED_MAX);
        kept.drain(..surplus);
    }

    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    pub fn applied(&self) -> broadcast::Receiver<Applied> {
        self.applied.subscribe()
    }
}

impl Awaiting {
    /// What came of the command at `index`, which is applied. `None`: it came with a snapshot, or is too long ago.
    pub fn outcome(&self, index: u64) -> Option<Outcome> {
        let kept = self.0.awaited.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.binary_search_by_key(&index, |outcome| outcome.index).ok()?;
        Some(kept[place].clone())
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        let mut kept = self.0.awaited.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.awaited.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            kept.clear();
        }
    }
}

#[derive(Debug)]
pub struct Machine {
    state: State,
    last: Option<LogId>,
    members: Members,
    members_at: Option<LogId>,
    snapshots: Arc<Snapshots>,
    published: Arc<Published>,
}

/// A view of the state that later entries do not change.
#[derive(Debug)]
pub struct Builder {
    state: State,
    meta: Meta,
    snapshots: Arc<Snapshots>,
}

impl Machine {
    /// Starts with the newest snapshot. The log behind it is applied by openraft.
    pub fn open(snapshots: Arc<Snapshots>, published: Arc<Published>) -> Result<Machine, StoreError> {
        let (state, meta) = match snapshots.latest()? {
            Some(file) => (file.state()?, file.meta),
            None => (State::default(), Meta::default()),
        };
        let Meta { last, members, members_at } = meta;
        let machine = Machine { state, last, members, members_at, snapshots, published };
        machine.publish(std::iter::empty());
        Ok(machine)
    }

    /// The last entry that is applied.
    pub fn last(&self) -> Option<LogId> {
        self.last
    }

    fn apply_one(
        &mut self,
        id: LogId,
        payload: EntryPayload<Proposal, u64, crate::store::Peer>,
    ) -> io::Result<Answer> {
        self.last = Some(id);
        match payload {
            EntryPayload::Blank => Ok(Answer(None)),
            EntryPayload::Normal(Proposal(octets)) => {
                // An entry that this version cannot read must not be skipped: the states would differ from here on.
                let command = Command::decode(octets.as_bytes())
                    .map_err(|error| io::Error::other(format!("entry {id} cannot be read: {error}")))?;
                let outcome = catch_unwind(AssertUnwindSafe(|| self.state.apply(id.index, &command)))
                    .map_err(|_| io::Error::other(format!("entry {id} broke an invariant of the state")))?;
                Ok(Answer(Some(outcome)))
            }
            EntryPayload::Membership(membership) => {
                self.members = members(&membership);
                self.members_at = Some(id);
                Ok(Answer(None))
            }
        }
    }

    fn publish(&self, outcomes: impl Iterator<Item = Applied>) {
        self.published.state.send_replace(Arc::new(self.state.clone()));
        for applied in outcomes {
            if applied.touches_members() {
                self.published.members.send_replace(());
            }
            // An error means that nobody listens.
            drop(self.published.applied.send(applied));
        }
        self.published.reached.send_replace(self.last.map_or(0, |last| last.index));
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<OrLogId>, OrStoredMembership), io::Error> {
        let membership = or_membership(self.members.clone()).map_err(io::Error::other)?;
        let stored = OrStoredMembership::new(self.members_at.map(or_log_id), membership);
        Ok((self.last.map(or_log_id), stored))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        let mut failed = None;
        while let Some(item) = entries.next().await {
            let applied = item.and_then(|(entry, responder)| {
                let id = log_id(&entry.log_id);
                let answer = self.apply_one(id, entry.payload)?;
                self.published.pass(id.index, &self.state);
                Ok((answer, responder))
            });
            match applied {
                Ok(applied) => answers.push(applied),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.published.keep_awaited(answers.iter().filter_map(|(answer, _)| answer.0.as_ref()));
        self.publish(answers.iter().filter_map(|(answer, _)| news(answer.0.as_ref()?)));
        for (answer, responder) in answers {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.state.clone(),
            meta: Meta { last: self.last, members: self.members.clone(), members_at: self.members_at },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        or: &OrSnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let meta = meta(or);
        if meta != snapshot.meta {
            return Err(io::Error::other("the snapshot is of another log id than it was announced for"));
        }
        let snapshots = self.snapshots.clone();
        let take = move || {
            let state = snapshot.state()?;
            snapshots.adopt(&snapshot)?;
            Ok::<_, io::Error>(state)
        };
        self.state = tokio::task::spawn_blocking(take).await.map_err(io::Error::other)??;
        self.last = meta.last;
        self.members = meta.members;
        self.members_at = meta.members_at;
        let index = self.last.map_or(0, |last| last.index);
        self.publish(std::iter::once(Applied::Snapshot { index }));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<OrSnapshot>, io::Error> {
        let Some(file) = self.snapshots.latest()? else { return Ok(None) };
        Ok(Some(Snapshot { meta: or_meta(&file.meta).map_err(io::Error::other)?, snapshot: file }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<OrSnapshot, io::Error> {
        let (state, meta, snapshots) = (self.state.clone(), self.meta.clone(), self.snapshots.clone());
        let write = move || snapshots.create(meta, |out| state.encode_snapshot(out));
        let file = tokio::task::spawn_blocking(write).await.map_err(io::Error::other)??;
        Ok(Snapshot { meta: or_meta(&file.meta).map_err(io::Error::other)?, snapshot: file })
    }
}

fn news(outcome: &Outcome) -> Option<Applied> {
    let touched = outcome.result.is_ok() && !outcome.touched.is_empty();
    touched.then(|| Applied::Command { index: outcome.index, touched: outcome.touched.as_slice().into() })
}

const _: fn() = || {
    fn is_type_config<C: RaftTypeConfig>() {}
    is_type_config::<TypeConfig>();
};
