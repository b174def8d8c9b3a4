//! A proposal on its way to whoever leads.
//!
//! ```text
//!   propose ──> own log ── not the leader ──> link to the leader ──> its log ──> index
//!                  │                                                               │
//!                  └──> outcome <──── applied here, up to that index <─────────────┘
//! ```
//!
//! The leader answers with the index only: what a command did every node computes alike, so the outcome comes from this
//! node's own apply, and the published state has it by then.
//!
//! What was certainly not appended anywhere is tried again until there is a leader, for a short time. What may have been
//! is `Unknown`. A leader appends what is forwarded to it or refuses; it never forwards again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::glue::Proposal;
use crate::handle::{Cluster, Inner, ProposeError};
use crate::links::{Lane, LinkError, Reply, Request, Unproposed};
use crate::state::{NodeId, Outcome};
use crate::store::Peer;

/// How many election timeouts a proposal waits for a leader: an election that goes well takes two.
const ELECTIONS: u32 = 4;

type Leader = (NodeId, Peer);

pub async fn propose(cluster: &Cluster, proposal: Proposal) -> Result<Outcome, ProposeError> {
    let inner = &cluster.inner;
    let mut patience = Patience::new(inner);
    loop {
        let refused = match cluster.here(proposal.clone()).await {
            Err(ProposeError::NotLeader(Some(leader))) if leader.0 != inner.identity.node => {
                let awaiting = inner.published.await_outcomes();
                match forward(inner, &leader, Request::Propose(proposal.0.clone())).await {
                    Ok(index) => return awaiting.outcome(index).ok_or(ProposeError::Unknown),
                    Err(error) => error,
                }
            }
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        patience.wait_for_leader(refused).await?;
    }
}

pub async fn barrier(inner: &Arc<Inner>) -> Result<(), ProposeError> {
    let mut patience = Patience::new(inner);
    loop {
        let written = tokio::time::timeout(inner.timing.proposal, inner.raft.write_blank()).await;
        let refused = match written.unwrap_or(Err(ProposeError::Unknown)) {
            Err(ProposeError::NotLeader(Some(leader))) if leader.0 != inner.identity.node => {
                match forward(inner, &leader, Request::Barrier).await {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                }
            }
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        patience.wait_for_leader(refused).await?;
    }
}

/// Sends it to the leader; the index of its entry, which is applied here when this returns.
async fn forward(inner: &Inner, (leader, peer): &Leader, request: Request) -> Result<u64, ProposeError> {
    let deadline = Instant::now() + inner.timing.proposal;
    let nobody = || ProposeError::NotLeader(Some((*leader, peer.clone())));
    let link = inner.links.link(*leader, peer, Lane::Append).ok_or_else(nobody)?;
    let index = match link.call(request, inner.timing.proposal).await {
        Ok(Reply::Proposed(Ok(index))) => index,
        Ok(Reply::Proposed(Err(Unproposed::NotLeader(other)))) => return Err(ProposeError::NotLeader(other)),
        Err(LinkError::Unreachable(_)) => return Err(nobody()),
        Ok(_) | Err(LinkError::Failed(_) | LinkError::TimedOut) => return Err(ProposeError::Unknown),
    };
    let applied = tokio::time::timeout_at(deadline, inner.published.reached(index)).await;
    applied.map(|()| index).map_err(|_| ProposeError::Unknown)
}

/// For how long what was not proposed is tried again.
struct Patience<'a> {
    inner: &'a Inner,
    until: Instant,
}

impl Patience<'_> {
    fn new(inner: &Inner) -> Patience<'_> {
        Patience { inner, until: Instant::now() + ELECTIONS * inner.timing.election_max }
    }

    /// Returns when it is worth another try: what `refused` says is old then.
    async fn wait_for_leader(&mut self, refused: ProposeError) -> Result<(), ProposeError> {
        let ProposeError::NotLeader(_) = refused else { return Err(refused) };
        let left = self.until.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return Err(refused);
        }
        // A change of leader or members, or a link that came up meanwhile.
        let mut changes = self.inner.raft.membership_changes();
        let pause = left.min(self.inner.timing.heartbeat);
        let _ = tokio::time::timeout(pause, changes.changed()).await;
        Ok(())
    }
}
