//! `RaftStateMachine` on `State`: applies commands, tells who waits, builds and installs snapshots.
//!
//! The state lives in memory; on disk it is the last snapshot and the log behind it. After each batch of entries the
//! new state is published first, then the proposers are answered: whoever has an answer finds its effect in the
//! published state.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::entry::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{OptionalSend, RaftTypeConfig};
use tokio::sync::{broadcast, watch};

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

/// Where the state machine shows what it has.
#[derive(Debug)]
pub struct Published {
    state: watch::Sender<Arc<State>>,
    applied: broadcast::Sender<Applied>,
}

impl Published {
    pub fn new() -> Arc<Published> {
        let (state, _) = watch::channel(Arc::new(State::default()));
        let (applied, _) = broadcast::channel(APPLIED_BACKLOG);
        Arc::new(Published { state, applied })
    }

    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    pub fn applied(&self) -> broadcast::Receiver<Applied> {
        self.applied.subscribe()
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
        // An error means that nobody listens.
        outcomes.for_each(|applied| drop(self.published.applied.send(applied)));
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
                let answer = self.apply_one(log_id(&entry.log_id), entry.payload)?;
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
