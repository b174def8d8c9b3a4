//! The leader's side of planned moves: has each owner give away what the plan says, one batch after the other.
//!
//! Nothing is remembered but who is busy: after each batch the plan is made anew from the state, so a plan that has
//! become wrong meanwhile is never carried on with.

use std::collections::BTreeMap;
use std::time::Duration;

use raft::state::NodeId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{BATCH, Moves};
use crate::placement::Shift;

/// An owner that could not give is not asked again at once: its reason may last.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Shifts {
    moves: Moves,
    running: JoinSet<(NodeId, Result<(), String>)>,
    /// Owners that are giving now, or are left alone until then.
    busy: BTreeMap<NodeId, Option<Instant>>,
}

impl Shifts {
    pub fn new(moves: Moves) -> Shifts {
        Shifts { moves, running: JoinSet::new(), busy: BTreeMap::new() }
    }

    /// Begins what can begin: one batch of each owner that gives nothing yet.
    pub fn begin(&mut self, shifts: Vec<Shift>) {
        let now = Instant::now();
        self.busy.retain(|_, until| until.is_none_or(|until| until > now));
        for shift in shifts {
            if self.busy.contains_key(&shift.from) {
                continue;
            }
            self.busy.insert(shift.from, None);
            let moves = self.moves.clone();
            let most = if shift.urgent { shift.segments.len() } else { BATCH };
            let batch: Vec<_> = shift.segments.into_iter().take(most).collect();
            self.running.spawn(async move {
                (shift.from, moves.shift(shift.from, shift.to, &batch, shift.cause).await)
            });
        }
    }

    /// One batch has ended, well or not; never, while none is under way.
    pub async fn ended(&mut self) {
        let Some(ended) = self.running.join_next().await else { return std::future::pending().await };
        match ended {
            Ok((from, Ok(()))) => {
                self.busy.remove(&from);
            }
            Ok((from, Err(why))) => {
                tracing::info!(%from, why, "segments stay where they are for now");
                self.busy.insert(from, Some(Instant::now() + AFTER_FAILURE));
            }
            Err(error) => tracing::error!(%error, "a planned move ended without an outcome"),
        }
    }
}
