//! The next owner's side of a planned move. It promises nothing: whether it owns a segment, the log says.

use ipsec::types::{Epoch, Segment};
use raft::state::NodeId;
use tokio::sync::oneshot;

use super::Moves;
use super::wire::{Part, Take};
use crate::datapath::Order;

impl Moves {
    /// From now on what arrives for these segments is held.
    pub(super) async fn open(&self, from: NodeId, segments: &[(Segment, Epoch)]) -> Result<(), String> {
        self.check(from, segments)?;
        let mut all_opened = Vec::new();
        for &(segment, epoch) in segments {
            let epoch = epoch.next().ok_or("its epochs are used up")?;
            let (opened, told) = oneshot::channel();
            let open = vec![Order::Open { segment, epoch, opened }];
            self.worker.tell(segment, open).await.map_err(|error| error.to_string())?;
            all_opened.push(told);
        }
        self.opener.set(segments, true).await;
        // Only then may the owner close: what neither of us took would be lost.
        for opened in all_opened {
            opened.await.map_err(|_| "this node is being stopped".to_owned())?;
        }
        Ok(())
    }

    pub(super) fn take(&self, from: NodeId, take: Take) -> Result<(), String> {
        let parts: Option<Vec<_>> = take.parts.into_iter().map(Part::read).collect();
        let parts = parts.ok_or("not understood")?;
        let segments: Vec<_> = parts.iter().map(|(segment, epoch, _)| (*segment, *epoch)).collect();
        self.check(from, &segments)?;
        for (segment, epoch, bag) in parts {
            let next = epoch.next().ok_or("its epochs are used up")?;
            self.luggage.put(segment, next, bag);
        }
        Ok(())
    }

    pub(super) async fn abandon(&self, segments: &[(Segment, Epoch)]) {
        self.opener.set(segments, false).await;
        for &(segment, _) in segments {
            self.luggage.forget(segment);
            // A worker that has ended holds nothing.
            let _ = self.worker.tell(segment, vec![Order::Abandon { segment }]).await;
        }
    }

    /// The sender must own what it gives, as far as this node knows: it may lag behind, but not be ahead.
    fn check(&self, from: NodeId, segments: &[(Segment, Epoch)]) -> Result<(), String> {
        let state = self.cluster.state();
        if state.members().get(from).is_none() {
            return Err("you are no member here".into());
        }
        match segments.iter().find(|(segment, epoch)| state.segment(*segment).epoch > *epoch) {
            Some((segment, _)) => Err(format!("segment {segment} is in a later epoch already")),
            None => Ok(()),
        }
    }
}
