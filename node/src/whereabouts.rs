//! Tells the packet workers where everything is: which node owns each segment, and what lies behind each IKE SA, as the
//! log says it. With that a worker passes a packet on that belongs elsewhere.
//!
//! A node that is alone is told only what it owns: nothing is elsewhere, and its SAs are in the workers' tables anyway.

use std::collections::{BTreeMap, BTreeSet};

use ipsec::policy::Selector;
use ipsec::types::{Segment, Spi};
use raft::state::{NodeId, State, Touched};
use raft::{Applied, Cluster};
use tokio::sync::broadcast::error::RecvError;

use crate::datapath::relay::Owner;
use crate::datapath::{Handle, Order, Stopped};

/// IKE SAs in one batch of orders: packets get their turn in between.
const SAS_PER_BATCH: usize = 256;

/// Until the log or the workers are gone.
pub async fn keep(cluster: Cluster, worker: Handle) {
    let mut applied = cluster.applied();
    let mut teller = Teller { me: cluster.node(), worker, told: None };
    let mut told = teller.all(&cluster.state()).await;
    while told.is_ok() {
        told = match applied.recv().await {
            Ok(Applied::Command { touched, .. }) => teller.touched(&cluster.state(), &touched).await,
            Ok(Applied::Snapshot { .. }) | Err(RecvError::Lagged(_)) => teller.all(&cluster.state()).await,
            Err(RecvError::Closed) => return,
        };
    }
}

struct Teller {
    me: NodeId,
    worker: Handle,
    /// The IKE SAs that the workers know of; `None` while this node is alone.
    told: Option<BTreeSet<Spi>>,
}

impl Teller {
    async fn all(&mut self, state: &State) -> Result<(), Stopped> {
        self.owners(state, &Segment::all().collect::<Vec<_>>()).await?;
        if state.members().len() < 2 {
            return Ok(());
        }
        let now: BTreeSet<Spi> = state.records().map(|record| record.spi).collect();
        let gone: Vec<Spi> = self.told.get_or_insert_default().difference(&now).copied().collect();
        self.sas(state, gone.into_iter().chain(now)).await
    }

    async fn touched(&mut self, state: &State, touched: &[Touched]) -> Result<(), Stopped> {
        if self.told.is_none() && state.members().len() > 1 {
            return self.all(state).await;
        }
        let of_segment = |touched: &Touched| match touched {
            Touched::Segment(segment) => Some(*segment),
            _ => None,
        };
        let of_sa = |touched: &Touched| match touched {
            Touched::Ike(spi) => Some(*spi),
            _ => None,
        };
        self.owners(state, &touched.iter().filter_map(of_segment).collect::<Vec<_>>()).await?;
        self.sas(state, touched.iter().filter_map(of_sa)).await
    }

    async fn owners(&self, state: &State, segments: &[Segment]) -> Result<(), Stopped> {
        if segments.is_empty() {
            return Ok(());
        }
        let owner = |segment: Segment| {
            let grant = state.segment(segment);
            let owner = grant.owner.filter(|owner| {
                grant.state.is_served() && state.members().runs(owner.node, owner.incarnation)
            })?;
            let node = (owner.node != self.me).then_some(owner.node);
            Some(Owner { node, epoch: grant.epoch })
        };
        let owners: Vec<_> = segments.iter().map(|&segment| (segment, owner(segment))).collect();
        self.worker.tell_all(|| Order::Owners(owners.clone())).await
    }

    async fn sas(&mut self, state: &State, spis: impl Iterator<Item = Spi>) -> Result<(), Stopped> {
        let Some(told) = &mut self.told else { return Ok(()) };
        let mut batch: BTreeMap<Spi, Vec<Selector>> = BTreeMap::new();
        for spi in spis {
            let remote = remote_of(state, spi);
            if remote.is_empty() {
                told.remove(&spi)
            } else {
                told.insert(spi)
            };
            batch.insert(spi, remote);
            if batch.len() == SAS_PER_BATCH {
                tell(&self.worker, std::mem::take(&mut batch)).await?;
            }
        }
        tell(&self.worker, batch).await
    }
}

async fn tell(worker: &Handle, batch: BTreeMap<Spi, Vec<Selector>>) -> Result<(), Stopped> {
    if batch.is_empty() {
        return Ok(());
    }
    let order = |(&ike, remote): (&Spi, &Vec<Selector>)| Order::Reaches { ike, remote: remote.clone() };
    worker.tell_each(|_| batch.iter().map(order).collect()).await
}

/// The networks behind the peer of an IKE SA, by its children; none when it is gone.
pub fn remote_of(state: &State, spi: Spi) -> Vec<Selector> {
    let children = state.record(spi).into_iter().flat_map(|record| &record.children);
    let mut remote: Vec<Selector> = Vec::new();
    for selector in children.flat_map(|child| &child.remote_ts) {
        if !remote.contains(selector) {
            remote.push(*selector);
        }
    }
    remote
}
