//! The owner's side of a planned move.

use crypto::rng::{OsRng, Rng};
use ipsec::types::{Epoch, Incarnation, Segment};
use raft::ProposeError;
use raft::state::{Assign, Cause, Command, NodeId};
use tokio::sync::oneshot;

use super::wire::{Part, Question};
use super::{Moves, STEP_WITHIN};
use crate::datapath::Order;
use crate::datapath::held::DigestKey;
use crate::io::clock::{Clock, SystemClock};
use crate::roster::Wish;

impl Moves {
    /// Gives these segments of ours to `to`, in the epochs named. On an error this node goes on serving them.
    pub(super) async fn give(
        &self,
        to: NodeId,
        segments: Vec<(Segment, Epoch)>,
        cause: Cause,
    ) -> Result<(), String> {
        let _turn = self.giving.lock().await;
        let state = self.cluster.state();
        let ours = |&&(segment, epoch): &&(Segment, Epoch)| {
            let grant = state.segment(segment);
            let owner = grant.owner.map(|owner| owner.node);
            grant.state.is_served() && owner == Some(self.cluster.node()) && grant.epoch == epoch
        };
        let segments: Vec<(Segment, Epoch)> = segments.iter().filter(ours).copied().collect();
        if segments.is_empty() {
            // Somebody was faster.
            return Ok(());
        }
        let member = state.members().get(to).ok_or("no such member")?;
        if to == self.cluster.node() {
            return Err("it owns them already".into());
        }
        let incarnation = member.incarnation;
        self.watch(&segments).await?;
        if let Err(why) = self.ask(to, &Question::open(&segments), STEP_WITHIN).await {
            // Nothing has left yet: this epoch goes on.
            self.abandon(&segments).await;
            return Err(why);
        }
        let parts = match self.close(&segments, to).await {
            Ok(parts) => parts,
            Err(why) => return Err(self.call_off(to, &segments, why).await),
        };
        for take in Question::takes(parts) {
            if let Err(why) = self.ask(to, &take, STEP_WITHIN).await {
                return Err(self.call_off(to, &segments, why).await);
            }
        }
        let assign = self.assign(&segments, to, incarnation, cause);
        match self.cluster.propose(Command::Assign(assign)).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Unknown) => {
                // Committed late or never: our own next epoch decides which of the two it was.
                let why = self.call_off(to, &segments, "not known to be committed".into()).await;
                if self.all_went_to(to, &segments) { Ok(()) } else { Err(why) }
            }
            Err(error) => Err(self.call_off(to, &segments, error.to_string()).await),
        }
    }

    /// Begins to note what is forwarded, before the next owner begins to see it, too.
    async fn watch(&self, segments: &[(Segment, Epoch)]) -> Result<(), String> {
        let mut key = DigestKey::default();
        OsRng.fill(&mut key);
        for &(segment, _) in segments {
            let (watched, begun) = oneshot::channel();
            let watch = vec![Order::Watch { segment, key, watched }];
            self.worker.tell(segment, watch).await.map_err(|error| error.to_string())?;
            begun.await.map_err(|_| "this node is being stopped".to_owned())?;
        }
        Ok(())
    }

    /// Nothing is sent or received for the segments any more; what the next owner needs.
    async fn close(&self, segments: &[(Segment, Epoch)], to: NodeId) -> Result<Vec<Part>, String> {
        let (answer, closed) = oneshot::channel();
        let wish = Wish::Close { segments: segments.to_vec(), to, answer };
        if !self.roster.send(wish).await {
            return Err("this node is being stopped".into());
        }
        let parts = closed.await.map_err(|_| "this node is being stopped".to_owned())?;
        if parts.len() < segments.len() {
            return Err("the actor of a segment has failed".into());
        }
        Ok(parts)
    }

    /// The epochs that were closed are over: this node takes the segments again under new ones, unless somebody else has
    /// them by then. Returns `why`.
    async fn call_off(&self, to: NodeId, segments: &[(Segment, Epoch)], why: String) -> String {
        let (answer, reclaimed) = oneshot::channel();
        if self.roster.send(Wish::Reclaim { segments: segments.to_vec(), answer }).await {
            // When the roster goes away, so does the process.
            let _ = reclaimed.await;
        }
        // It forgets by itself after a while, should this not arrive.
        let _ = self.ask(to, &Question::abandon(segments), STEP_WITHIN).await;
        tracing::warn!(%to, segments = segments.len(), why, "a planned move came to nothing");
        why
    }

    fn assign(
        &self,
        segments: &[(Segment, Epoch)],
        to: NodeId,
        incarnation: Incarnation,
        cause: Cause,
    ) -> Assign {
        let at = SystemClock.utc();
        Assign { segments: segments.to_vec(), to, incarnation, standby: None, cause, at, takeover: None }
    }

    fn all_went_to(&self, to: NodeId, segments: &[(Segment, Epoch)]) -> bool {
        let state = self.cluster.state();
        let mut owners = segments.iter().map(|&(segment, _)| state.segment(segment).owner);
        owners.all(|owner| owner.is_some_and(|owner| owner.node == to))
    }
}
