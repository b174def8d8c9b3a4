//! Keeps the kernel's filter of `shared-mac` in step with the log: which segments are this node's, and which inner
//! addresses belong to which segment. A segment that is on its way here by a planned move is let through early, since
//! what arrives for it is held (`moves`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use ipsec::types::{Epoch, Segment, Spi};
use raft::state::{State, Touched};
use raft::{Applied, Cluster};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};

use crate::daemon::Daemon;
use crate::observe::HealthCode;
use crate::steering::Filter;
use crate::whereabouts::remote_of;

/// Lets through what is for these segments, or no longer. Where nothing is filtered there is nothing to do.
#[derive(Clone, Debug)]
pub struct Opener(mpsc::Sender<Wish>);

/// What is asked of the filter; `done` when it is in force.
#[derive(Debug)]
pub struct Wish {
    /// With the epochs that are to end.
    segments: Vec<(Segment, Epoch)>,
    open: bool,
    done: oneshot::Sender<()>,
}

impl Opener {
    pub fn new() -> (Opener, mpsc::Receiver<Wish>) {
        let (wishes, wished) = mpsc::channel(WISHES);
        (Opener(wishes), wished)
    }

    /// Returns when it is in force. What is opened stays open until the log says whose it is after the given epoch.
    pub async fn set(&self, segments: &[(Segment, Epoch)], open: bool) {
        let (done, is_done) = oneshot::channel();
        let segments = segments.to_vec();
        if self.0.send(Wish { segments, open, done }).await.is_ok() {
            // Without an answer the filter is gone, and with it what it kept out.
            let _ = is_done.await;
        }
    }
}

/// Wishes that wait.
const WISHES: usize = 16;

/// From the day that this node is a member, until the log is gone.
pub async fn keep(filter: Filter, daemon: Arc<Daemon>, mut wished: mpsc::Receiver<Wish>) {
    let cluster = daemon.member_of().await;
    let mut applied = cluster.applied();
    let mut sieve = Sieve { filter, cluster, opened: Opened::default(), known: BTreeSet::new() };
    let mut done = sieve.all();
    loop {
        // A filter that the kernel did not take is behind, and stays so until it takes a later one as a whole.
        match &done {
            Ok(()) => daemon.observe.clear(HealthCode::SteeringFilter),
            Err(error) => daemon.observe.raise(HealthCode::SteeringFilter, error.to_string()),
        };
        done = tokio::select! {
            told = applied.recv() => match told {
                Ok(Applied::Command { touched, .. }) if done.is_ok() => sieve.touched(&touched),
                Ok(_) | Err(RecvError::Lagged(_)) => sieve.all(),
                Err(RecvError::Closed) => return,
            },
            Some(wish) = wished.recv() => sieve.wish(wish),
        };
    }
}

struct Sieve {
    filter: Filter,
    cluster: Cluster,
    opened: Opened,
    known: BTreeSet<Spi>,
}

impl Sieve {
    fn all(&mut self) -> io::Result<()> {
        let state = self.cluster.state();
        self.owned(&state)?;
        let now: BTreeSet<Spi> = state.records().map(|record| record.spi).collect();
        let gone: Vec<Spi> = self.known.difference(&now).copied().collect();
        self.reach(&state, gone.into_iter().chain(now))
    }

    fn touched(&mut self, touched: &[Touched]) -> io::Result<()> {
        let state = self.cluster.state();
        if touched.iter().any(|touched| matches!(touched, Touched::Segment(_))) {
            self.owned(&state)?;
        }
        let spis = touched.iter().filter_map(|touched| match touched {
            Touched::Ike(spi) => Some(*spi),
            _ => None,
        });
        self.reach(&state, spis)
    }

    fn wish(&mut self, Wish { segments, open, done }: Wish) -> io::Result<()> {
        for (segment, epoch) in segments {
            if open {
                self.opened.0.insert(segment, epoch)
            } else {
                self.opened.0.remove(&segment)
            };
        }
        let result = self.owned(&self.cluster.state());
        // Who has given up waiting has given up the move, too.
        let _ = done.send(());
        result
    }

    fn owned(&mut self, state: &State) -> io::Result<()> {
        self.opened.settle(|segment| state.segment(segment).epoch);
        let ours = |segment: &Segment| {
            let grant = state.segment(*segment);
            grant.state.is_served() && grant.owner.is_some_and(|owner| owner.node == self.cluster.node())
        };
        let opened = |segment: &Segment| self.opened.0.contains_key(segment);
        let shown = Segment::all().filter(|segment| ours(segment) || opened(segment)).collect();
        self.filter.set_owned(shown)
    }

    fn reach(&mut self, state: &State, spis: impl Iterator<Item = Spi>) -> io::Result<()> {
        let sas: BTreeMap<_, _> = spis.map(|spi| (spi, remote_of(state, spi))).collect();
        for (spi, remote) in &sas {
            if remote.is_empty() {
                self.known.remove(spi)
            } else {
                self.known.insert(*spi)
            };
        }
        if sas.is_empty() { Ok(()) } else { self.filter.set_reach(sas.into_iter()) }
    }
}

/// Segments on their way here, each from the owner of this epoch.
#[derive(Debug, Default)]
struct Opened(BTreeMap<Segment, Epoch>);

impl Opened {
    /// However a move ended, a later epoch says whose the segment is. Another standby, in the middle of it, does not.
    fn settle(&mut self, epoch_now: impl Fn(Segment) -> Epoch) {
        self.0.retain(|segment, epoch| epoch_now(*segment) <= *epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment that closed at a change of its standby lost what came until its new epoch was known here, too.
    #[test]
    fn what_is_on_its_way_here_stays_open_until_its_epoch_is_over() {
        let (ours, other) = (Segment(7), Segment(8));
        let mut opened = Opened(BTreeMap::from([(ours, Epoch(3)), (other, Epoch(5))]));
        opened.settle(|segment| if segment == ours { Epoch(3) } else { Epoch(6) });
        assert_eq!(opened.0.into_keys().collect::<Vec<_>>(), [ours]);
    }
}
