//! The leader's part when an owner is silent: its segments go to others, and never to two at a time.
//!
//! ```text
//!   silent ──> promises of a majority ──> the lease that they may have left has passed ──> Assign ──> the others own
//!     │                                                                          ^
//!     ├── gone: nothing listens there, so nothing writes (I7 is bounded then) ───┘
//!     └── heard again before that ──> Pardon: promises and late assignments are void
//! ```
//!
//! A promise is an answer of a voter (`promise`): when it last acknowledged the owner. The lease of the owner has ended
//! `lease + margin` after the latest of a majority of these (DESIGN 6; the model in `testbed` says that it is so).
//! Apply refuses the assignment when the owner was pardoned, or a promiser has started anew.
//!
//! An owner that is gone needs no waiting: its process has ended, or somebody forges that. In the latter case I1 still
//! holds, by epochs and blocks, and the bound of `replay = "bounded"` covers what both accept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ipsec::types::{Incarnation, Millis};
use raft::state::{Assign, Command, NodeId, Owner, Pardon, State, Takeover};
use raft::{Cluster, ProposeError, Role};
use tokio::task::JoinSet;

use crate::asks::{Asks, Topic};
use crate::drain;
use crate::io::clock::{Clock, SystemClock};
use crate::liveness::Verdict;
use crate::lookout::Lookout;
use crate::placement::{self, Seen, Shift};
use crate::promise::{Book, Known, Wanted};
use crate::pulse::{Voters, voters};

/// How long a question for a promise may take, and how long until it is asked again.
const ASK_WITHIN: Duration = Duration::from_millis(200);
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// Nobody is heard anew more often than this, and nothing is looked at more rarely.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A leader that is deaf for so long gives up the lead: one that was only held up hears the others at once.
const RESIGN_AFTER: Duration = Duration::from_millis(100);
const RESIGN_AGAIN: Duration = Duration::from_secs(1);

/// Added to each lease before it counts as over: two readings of clocks in whole milliseconds, and clocks that run
/// differently, by at most a hundredth.
const MARGIN_MS: u64 = 2;
const DRIFT_DIVISOR: u64 = 100;

#[derive(Clone, Debug)]
pub struct Takeovers {
    pub cluster: Cluster,
    pub lookout: Lookout,
    pub asks: Asks,
    pub lease_ms: u64,
}

/// What a voter is asked. In the octets of `asks`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Question {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    standing: u64,
}

/// What it answers; without a promise when it knows better than who asks, or not enough yet.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Answer {
    #[prost(message, optional, tag = "1")]
    promise: Option<Given>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Given {
    #[prost(fixed64, tag = "1")]
    by: u64,
    #[prost(uint64, tag = "2")]
    ago_ms: u64,
}

/// Answers for promises out of this voter's book.
pub fn answer_for(asks: &Asks, cluster: Cluster, book: Arc<Book>) {
    asks.on(Topic::Promise, move |_, question: Question| {
        let (state, voters) = (cluster.state(), voters(&cluster));
        let known = Known { members: state.members(), voters_at: voters.at };
        let promised = book.promise(question.into(), known, SystemClock.now());
        let promise = promised.map(|promised| Given { by: promised.by.0, ago_ms: promised.ago_ms });
        std::future::ready(Answer { promise })
    });
}

/// A promise as the leader counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Promise {
    by: Incarnation,
    /// From then on no lease rests on this voter.
    free_at: Millis,
}

impl Takeovers {
    /// For ever; does something only while this node leads.
    pub async fn run(self) {
        let mut news = self.lookout.news();
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut under_way: BTreeSet<NodeId> = BTreeSet::new();
        let mut tasks: JoinSet<NodeId> = JoinSet::new();
        let mut resign_at = None;
        let mut settled = Settled { voters_at: 0, since: SystemClock.now() };
        loop {
            tokio::select! {
                _ = every.tick() => {}
                _ = news.changed() => {}
                Some(ended) = tasks.join_next() => match ended {
                    Ok(node) => {
                        under_way.remove(&node);
                    }
                    // Without knowing whose it was, all are looked at again.
                    Err(error) => {
                        tracing::error!(%error, "a takeover ended without an outcome");
                        tasks.shutdown().await;
                        under_way.clear();
                    }
                }
            }
            settled.follow(voters(&self.cluster).at, SystemClock.now());
            if self.cluster.status().role != Role::Leader {
                continue;
            }
            if self.lookout.deaf_here() {
                // To it all others look dead. Whoever hears the others is to lead, and to take what is ours.
                let due = *resign_at.get_or_insert_with(|| Instant::now() + RESIGN_AFTER);
                if Instant::now() >= due {
                    resign_at = Some(Instant::now() + RESIGN_AGAIN);
                    tokio::spawn(resign(self.cluster.clone(), self.asks.clone()));
                }
                continue;
            }
            resign_at = None;
            let state = self.cluster.state();
            for node in
                self.silent(&state).into_iter().filter(|&node| under_way.insert(node)).collect::<Vec<_>>()
            {
                let takeovers = self.clone();
                tasks.spawn(async move {
                    takeovers.take_from(node, settled).await;
                    node
                });
            }
            // This node too: it may have been found silent by the leader before it.
            let here = self.lookout.barred_here().then(|| self.cluster.node());
            for node in self.lookout.barred().into_iter().chain(here) {
                if under_way.insert(node) {
                    let takeovers = self.clone();
                    tasks.spawn(async move {
                        takeovers.pardon(node).await;
                        node
                    });
                }
            }
        }
    }

    /// Who is found dead and owns something.
    fn silent(&self, state: &State) -> Vec<NodeId> {
        let is_silent = |node: NodeId| {
            self.lookout.verdict(node).is_some_and(|verdict| verdict != Verdict::Alive) && serves(state, node)
        };
        state.members().iter().map(|member| member.id).filter(|&node| is_silent(node)).collect()
    }

    /// Takes over what `node` owns, unless it is heard again or this node ceases to lead.
    async fn take_from(&self, node: NodeId, settled: Settled) {
        let state = self.cluster.state();
        let Some(member) = state.members().get(node) else { return };
        let wanted = Wanted { node, incarnation: member.incarnation, standing: member.standing };
        let Some(promisers) = self.released(wanted, settled).await else { return };
        let silent_ms = self.lookout.heard_at(node).map_or(0, |heard| SystemClock.now().since(heard));
        let from = Owner { node, incarnation: wanted.incarnation };
        let takeover = Takeover { from, standing: wanted.standing, promisers, silent_ms };
        let state = self.cluster.state();
        let shifts = self.shifts(&state, node);
        let assigns = shifts.into_iter().filter_map(|shift| assign(&state, shift, &takeover));
        // Side by side: they share a flush.
        let proposed: FuturesUnordered<_> =
            assigns.map(|assign| self.cluster.propose(Command::Assign(assign))).collect();
        let outcomes: Vec<_> = proposed.collect().await;
        for error in outcomes.into_iter().filter_map(Result::err) {
            tracing::info!(%node, %error, "a takeover did not come about");
        }
    }

    /// Waits until nothing of that process can be written any more. Returns who has promised so: nobody, where the
    /// process is gone. `None`: it is heard again, has started anew, or we do not lead any more.
    async fn released(&self, wanted: Wanted, mut settled: Settled) -> Option<Vec<(NodeId, Incarnation)>> {
        let mut promises: BTreeMap<NodeId, Promise> = BTreeMap::new();
        loop {
            let lost = self.cluster.status().role != Role::Leader
                || self.lookout.deaf_here()
                || !is_current(&self.cluster.state(), wanted);
            match self.lookout.verdict(wanted.node) {
                _ if lost => return None,
                None | Some(Verdict::Alive) => return None,
                Some(Verdict::Gone) => return Some(Vec::new()),
                Some(Verdict::Silent) => {}
            }
            let voters = voters(&self.cluster);
            settled.follow(voters.at, SystemClock.now());
            if let Some(free_at) = free_at(&voters, &promises) {
                let now = SystemClock.now();
                let free_at =
                    free_at.max(settled.since.after(self.term_ms() + LOOK_EVERY.as_millis() as u64));
                if now >= free_at {
                    return Some(promises.iter().map(|(&node, promise)| (node, promise.by)).collect());
                }
                let left = Duration::from_millis(free_at.since(now)).min(LOOK_EVERY);
                tokio::time::sleep(left).await;
            } else {
                self.ask(&voters, wanted, &mut promises).await;
            }
        }
    }

    /// Asks the voters that have not promised yet, until one more has.
    async fn ask(&self, voters: &Voters, wanted: Wanted, promises: &mut BTreeMap<NodeId, Promise>) {
        let all = voters.sets.iter().flatten().copied().collect::<BTreeSet<_>>();
        let asked = all.into_iter().filter(|voter| *voter != wanted.node && !promises.contains_key(voter));
        let question = Question::from(wanted);
        let mut answers: FuturesUnordered<_> = asked
            .map(|voter| async move {
                let answer = self.asks.ask::<Answer>(voter, Topic::Promise, &question, ASK_WITHIN).await;
                (voter, answer.ok().and_then(|answer| answer.promise))
            })
            .collect();
        let mut any = false;
        while let Some((voter, given)) = answers.next().await {
            if let Some(Given { by, ago_ms }) = given {
                let last = SystemClock.now().0.saturating_sub(ago_ms);
                let free_at = Millis(last).after(self.term_ms());
                promises.insert(voter, Promise { by: Incarnation(by), free_at });
                any = true;
            }
            if free_at(voters, promises).is_some() {
                return;
            }
        }
        if !any {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// How long a lease may last after an acknowledgement, by our clock.
    fn term_ms(&self) -> u64 {
        self.lease_ms + self.lease_ms / DRIFT_DIVISOR + MARGIN_MS
    }

    fn shifts(&self, state: &State, from: NodeId) -> Vec<Shift> {
        let voters = self.cluster.status().voters;
        let liveness = self.lookout.liveness(&self.cluster);
        let seen = Seen { voters: &voters, liveness: &liveness };
        let plan = placement::plan(state, seen, SystemClock.utc());
        plan.takeovers.into_iter().filter(|shift| shift.from == from).collect()
    }

    /// The node is there, and some voter has promised to acknowledge it no more.
    async fn pardon(&self, node: NodeId) {
        let Some(standing) = self.cluster.state().members().get(node).map(|member| member.standing) else {
            return;
        };
        match self.cluster.propose(Command::Pardon(Pardon { node, standing })).await {
            Ok(_) => tracing::info!(%node, "pardoned: it is heard again"),
            Err(ProposeError::Refused(_)) => {}
            Err(error) => tracing::debug!(%node, %error, "not pardoned"),
        }
        // It tells of it in its next probes, once the voters have applied this.
        tokio::time::sleep(ASK_WITHIN).await;
    }
}

async fn resign(cluster: Cluster, asks: Asks) {
    tracing::warn!("this node hears no majority: it gives up the lead");
    drain::hand_over_lead(&cluster, &asks).await;
}

/// Since when this node goes by the same voters. A lease may rest on a majority of those before as long as it lasts, and
/// promises of a majority of the new ones say nothing of it.
#[derive(Clone, Copy, Debug)]
struct Settled {
    voters_at: u64,
    since: Millis,
}

impl Settled {
    fn follow(&mut self, voters_at: u64, now: Millis) {
        if self.voters_at != voters_at {
            *self = Settled { voters_at, since: now };
        }
    }
}

fn serves(state: &State, node: NodeId) -> bool {
    state.segments().owned_by(node).any(|(_, grant)| grant.state.is_served())
}

fn is_current(state: &State, wanted: Wanted) -> bool {
    state.members().runs(wanted.node, wanted.incarnation)
        && state.members().get(wanted.node).is_some_and(|member| member.standing == wanted.standing)
}

fn assign(state: &State, shift: Shift, takeover: &Takeover) -> Option<Assign> {
    let Shift { to, segments, cause, .. } = shift;
    let incarnation = state.members().get(to)?.incarnation;
    let takeover = Some(takeover.clone());
    Some(Assign { segments, to, incarnation, standby: None, cause, at: SystemClock.utc(), takeover })
}

/// When the leases that rest on these voters are over; `None` before a majority (of each set) has promised.
fn free_at(voters: &Voters, promises: &BTreeMap<NodeId, Promise>) -> Option<Millis> {
    let of = |set: &BTreeSet<NodeId>| {
        let free: Vec<Millis> =
            set.iter().filter_map(|voter| promises.get(voter)).map(|promise| promise.free_at).collect();
        (free.len() > set.len() / 2).then(|| free.into_iter().max()).flatten()
    };
    let each: Option<Vec<Millis>> = voters.sets.iter().map(of).collect();
    each?.into_iter().max()
}

impl From<Wanted> for Question {
    fn from(it: Wanted) -> Question {
        Question { node: it.node.0, incarnation: it.incarnation.0, standing: it.standing }
    }
}

impl From<Question> for Wanted {
    fn from(it: Question) -> Wanted {
        Wanted { node: NodeId(it.node), incarnation: Incarnation(it.incarnation), standing: it.standing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_each_set_must_have_promised_and_be_free() {
        for (sets, promised, free) in [
            (&[&[1u64, 2, 3][..]][..], &[(1u64, 100u64)][..], None),
            (&[&[1, 2, 3]], &[(1, 100), (2, 140)], Some(140)),
            (&[&[1, 2, 3]], &[(1, 100), (4, 140)], None),
            (&[&[1, 2, 3, 4, 5]], &[(1, 100), (2, 90), (3, 80)], Some(100)),
            (&[&[1, 2, 3], &[1, 4, 5]], &[(1, 100), (2, 90)], None),
            (&[&[1, 2, 3], &[1, 4, 5]], &[(1, 100), (2, 90), (5, 170)], Some(170)),
            (&[&[]], &[(1, 100)], None),
        ] {
            let sets = sets.iter().map(|set| set.iter().map(|&id| NodeId(id)).collect()).collect();
            let promise =
                |&(id, at): &(u64, u64)| (NodeId(id), Promise { by: Incarnation(id), free_at: Millis(at) });
            let promises = promised.iter().map(promise).collect();
            let voters = Voters { sets, at: 1 };
            assert_eq!(free_at(&voters, &promises), free.map(Millis), "{voters:?} {promised:?}");
        }
    }
}
