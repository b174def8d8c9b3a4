//! Planned moves: segments go from a living owner to another node, and no packet is lost or comes twice (CL-13).
//!
//! ```text
//!   leader, or who was asked        owner (give)                      next owner (take)
//!      Give ────────────────────────> Open ───────────────────────────> holds what arrives for them
//!                                     closes: sends and receives no more;
//!                                       what still comes is passed on ~~> held
//!                                     Take: windows, counters, IKE ────> keeps it for the next epoch
//!                                     Assign ──> the log ──────────────> starts from records and luggage,
//!      done <───────────────────────  applied                            then lets go of what it held
//! ```
//!
//! **An owner that has told what comes along never serves that epoch again**: the Assign may be committed late, by
//! whichever leader. Where it does not know, or knows that nothing came of it, it assigns the segment to itself, one
//! epoch later, which refuses the late one. So luggage is exact for the epoch that follows, whoever brought that about:
//! also when the owner dies in the middle and the next owner takes over as the standby it is.
//!
//! | what fails | then |
//! |---|---|
//! | the next owner does not open, or not in time | nothing has happened: the owner goes on in its epoch |
//! | it dies later, or the Assign is refused | the owner assigns to itself, and goes on in the next epoch |
//! | the owner dies | takeover, as ever; with the luggage if it had left |
//! | the leader changes | the owner, not the leader, carries the move; its Assign goes to the new leader |
//!
//! | file | its one idea |
//! |---|---|
//! | `give`, `take` | the two sides |
//! | `shifts` | the leader, who has it done |
//! | `luggage` | what came along |
//! | `wire` | what they say |

mod give;
mod luggage;
mod shifts;
mod take;
pub mod wire;

pub use luggage::{Bag, Luggage};
pub use shifts::Shifts;

use std::sync::Arc;
use std::time::Duration;

use ipsec::types::{Epoch, Segment};
use raft::Cluster;
use raft::state::{Cause, NodeId};
use tokio::sync::Mutex;

use crate::actor::Mailbox;
use crate::asks::{Asks, Topic};
use crate::datapath::Handle;
use crate::roster::Wish;
use crate::sieve::Opener;
use wire::{Answer, Question};

/// Segments that move together, where there is no hurry: few enough that none stands still for long, many enough to share a commit.
pub const BATCH: usize = 16;

/// How long one step of a move may take on the other node: a round trip, and work of some milliseconds.
const STEP_WITHIN: Duration = Duration::from_secs(2);

/// How long an owner may take for a batch.
const GIVE_WITHIN: Duration = Duration::from_secs(20);

/// Has `from` give these segments to `to`, all together; returns when that is applied there, or with what kept it.
pub async fn shift(
    asks: &Asks,
    from: NodeId,
    to: NodeId,
    segments: &[(Segment, Epoch)],
    cause: Cause,
) -> Result<(), String> {
    ask(asks, from, &Question::give(segments, to, cause), GIVE_WITHIN).await
}

async fn ask(asks: &Asks, node: NodeId, question: &Question, within: Duration) -> Result<(), String> {
    let answer: Result<Answer, _> = asks.ask(node, Topic::Move, question, within).await;
    answer.map_err(|error| error.to_string())?.result()
}

/// This node's part in planned moves. Clones are one.
#[derive(Clone, Debug)]
pub struct Moves {
    cluster: Cluster,
    asks: Asks,
    worker: Handle,
    roster: Mailbox<Wish>,
    luggage: Luggage,
    opener: Opener,
    /// One batch leaves at a time: what a node passes on and tells is bounded.
    giving: Arc<Mutex<()>>,
}

impl Moves {
    pub fn new(
        cluster: Cluster,
        asks: Asks,
        worker: Handle,
        roster: Mailbox<Wish>,
        luggage: Luggage,
        opener: Opener,
    ) -> Moves {
        let moves = Moves { cluster, asks, worker, roster, luggage, opener, giving: Arc::default() };
        let desk = moves.clone();
        moves.asks.on(Topic::Move, move |from, question: Question| {
            let moves = desk.clone();
            async move { Answer::of(moves.answer(from, question).await) }
        });
        moves
    }

    /// The same for who holds a `Moves`.
    pub async fn shift(
        &self,
        from: NodeId,
        to: NodeId,
        segments: &[(Segment, Epoch)],
        cause: Cause,
    ) -> Result<(), String> {
        shift(&self.asks, from, to, segments, cause).await
    }

    async fn ask(&self, node: NodeId, question: &Question, within: Duration) -> Result<(), String> {
        ask(&self.asks, node, question, within).await
    }

    async fn answer(&self, from: NodeId, question: Question) -> Result<(), String> {
        let unreadable = || "not understood".to_owned();
        match question.kind.ok_or_else(unreadable)? {
            wire::Kind::Give(give) => {
                let segments = give.segments.as_ref().and_then(wire::Segments::read);
                let cause = wire::cause(give.cause);
                let (Some(segments), Some(cause)) = (segments, cause) else { return Err(unreadable()) };
                // It must be carried through also when nobody waits for the answer any more.
                let moves = self.clone();
                let given = tokio::spawn(async move { moves.give(NodeId(give.to), segments, cause).await });
                given.await.map_err(|error| error.to_string())?
            }
            wire::Kind::Open(segments) => self.open(from, &segments.read().ok_or_else(unreadable)?).await,
            wire::Kind::Take(take) => self.take(from, take),
            wire::Kind::Abandon(segments) => {
                self.abandon(&segments.read().ok_or_else(unreadable)?).await;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
