//! The votes follow the replicated members: an actor of every node that acts while the node leads.
//!
//! ```text
//!   a member that Raft does not know     ──> learner
//!   a learner that shall vote, caught up ──> voter, in the place of the member that it replaces
//!   a voter that shall not vote          ──> learner
//!   who is no member any more            ──> gone
//! ```
//!
//! Each step is computed anew from what is committed, so whoever leads goes on where the last leader stopped, and a
//! joint configuration that was left over is brought to its end. A joiner is caught up when its log is, and when it has
//! shown the same digest of the state at an index that this node chose (I10).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;

use crate::handle::{Cluster, ProposeError, RaftStatus, Role, WeakCluster};
use crate::links::{Lane, Reply, Request};
use crate::state::{Members, NodeId, Suffrage};
use crate::store::Peer;

/// A joiner whose log ends at most so many entries before ours is asked for its digest.
const NEAR: u64 = 256;

/// How many entries ahead the digests are compared, at first and at most: a busy log moves on while we ask.
const DIGEST_AHEAD_MIN: u64 = 2;
const DIGEST_AHEAD_MAX: u64 = 1024;

/// What Raft's own membership is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ballots {
    /// One set; two while a change is under way.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// All members, voters included.
    pub nodes: BTreeMap<NodeId, Peer>,
}

/// One change of Raft's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AddLearner(NodeId, Peer),
    /// `retain`: who votes no more stays a learner.
    SetVoters {
        voters: BTreeSet<NodeId>,
        retain: bool,
    },
    Remove(BTreeSet<NodeId>),
    /// Another address or name.
    SetNodes(BTreeMap<NodeId, Peer>),
}

/// What is to be done next, when `caught_up` of the learners may be given a vote.
pub fn next(members: &Members, ballots: &Ballots, caught_up: &BTreeSet<NodeId>) -> Option<Step> {
    // A change that goes on has its voters in the last set.
    let current = ballots.voters.last()?;
    let wants_vote = |node: NodeId| members.get(node).is_some_and(|it| it.suffrage == Suffrage::Voter);
    let shown: BTreeMap<NodeId, Peer> = members
        .iter()
        .map(|it| (it.id, Peer { name: it.name.clone(), address: it.address.clone() }))
        .collect();

    let newcomer = shown.iter().find(|(node, _)| !ballots.nodes.contains_key(node));
    if let Some((&node, peer)) = newcomer {
        return Some(Step::AddLearner(node, peer.clone()));
    }
    // Its vote passes to its successor in one change, once there is one that can use it.
    let awaits_heir = |node: NodeId| {
        let heir = members.iter().find(|it| it.replaces == Some(node) && wants_vote(it.id));
        heir.is_some_and(|heir| !current.contains(&heir.id) && !caught_up.contains(&heir.id))
    };
    let stays = |node: &NodeId| wants_vote(*node) || (!shown.contains_key(node) && awaits_heir(*node));
    let joins = |node: &NodeId| wants_vote(*node) && ballots.nodes.contains_key(node);
    let voters: BTreeSet<NodeId> = current
        .iter()
        .filter(|node| stays(node))
        .chain(caught_up.iter().filter(|node| joins(node)))
        .copied()
        .collect();
    let unfinished = ballots.voters.len() > 1;
    if !voters.is_empty() && (unfinished || voters != *current) {
        let retain = current.difference(&voters).any(|node| shown.contains_key(node));
        return Some(Step::SetVoters { voters, retain });
    }
    let gone: BTreeSet<NodeId> = ballots
        .nodes
        .keys()
        .filter(|node| !shown.contains_key(node) && !current.contains(node))
        .copied()
        .collect();
    if !gone.is_empty() {
        return Some(Step::Remove(gone));
    }
    let moved: BTreeMap<NodeId, Peer> =
        shown.into_iter().filter(|(node, peer)| ballots.nodes.get(node) != Some(peer)).collect();
    (!moved.is_empty()).then_some(Step::SetNodes(moved))
}

async fn follow(cluster: WeakCluster, mut changed: watch::Receiver<()>, every: Duration) {
    let mut caught_up = BTreeSet::new();
    let mut ahead = DIGEST_AHEAD_MIN;
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = changed.changed() => if changed.is_err() { return },
        }
        let Some(cluster) = cluster.upgrade() else { return };
        let status = cluster.status();
        if status.role != Role::Leader || cluster.state().cluster().is_none() {
            caught_up.clear();
            continue;
        }
        caught_up.retain(|node| status.learners.contains(node));
        if let Some(node) = candidate(&cluster, &status, &caught_up) {
            match compare(&cluster, node, ahead).await {
                Verdict::Same => {
                    ahead = DIGEST_AHEAD_MIN;
                    caught_up.insert(node);
                }
                Verdict::Differs => {
                    tracing::error!(%node, "its state differs from the leader's: it gets no vote");
                }
                Verdict::Passed => ahead = (4 * ahead).min(DIGEST_AHEAD_MAX),
                Verdict::Unknown(why) => tracing::debug!(%node, %why, "no digest yet"),
            }
        }
        while let Some(step) = next(cluster.state().members(), &cluster.inner.raft.ballots(), &caught_up) {
            tracing::info!(?step, "the votes follow the members");
            if let Err(error) = cluster.inner.raft.change_votes(step, cluster.inner.timing.proposal).await {
                tracing::warn!(%error, "the votes could not be changed now");
                break;
            }
        }
    }
}

/// A learner that shall vote, and whose log is near ours.
fn candidate(cluster: &Cluster, status: &RaftStatus, caught_up: &BTreeSet<NodeId>) -> Option<NodeId> {
    let state = cluster.state();
    let matched = cluster.inner.raft.matched();
    let near = |node: NodeId| {
        let end = status.last_log.unwrap_or(0);
        matched.get(&node).copied().flatten().is_some_and(|matched| matched + NEAR >= end)
    };
    let shall_vote =
        |node: NodeId| state.members().get(node).is_some_and(|member| member.suffrage == Suffrage::Voter);
    status.learners.iter().copied().find(|&node| shall_vote(node) && near(node) && !caught_up.contains(&node))
}

enum Verdict {
    Same,
    Differs,
    /// One of the two was beyond the index already.
    Passed,
    Unknown(String),
}

/// Both nodes take the digest of their state at an index that lies a little ahead, and this one writes until the log
/// is there.
async fn compare(cluster: &Cluster, node: NodeId, ahead: u64) -> Verdict {
    let index = cluster.status().last_log.unwrap_or(0) + ahead;
    let ours = cluster.digest_at(index);
    let theirs = ask_digest(cluster, node, index);
    let write = async {
        // The question must be there before the entries are.
        tokio::time::sleep(cluster.inner.timing.heartbeat).await;
        while cluster.status().last_log.is_some_and(|last| last < index) {
            cluster.barrier().await?;
        }
        Ok::<(), ProposeError>(())
    };
    let (ours, theirs, written) = tokio::join!(ours, theirs, write);
    match (ours, theirs, written) {
        (_, _, Err(error)) => Verdict::Unknown(error.to_string()),
        (_, Err(error), _) => Verdict::Unknown(error),
        (Some(ours), Ok(Some(theirs)), _) if ours == theirs => Verdict::Same,
        (Some(_), Ok(Some(_)), _) => Verdict::Differs,
        (None, _, _) | (_, Ok(None), _) => Verdict::Passed,
    }
}

async fn ask_digest(cluster: &Cluster, node: NodeId, index: u64) -> Result<Option<[u8; 32]>, String> {
    let inner = &cluster.inner;
    let peer = cluster.roll().borrow().get(&node).cloned().ok_or("it is no member")?;
    let link = inner.links.link(node, &peer, Lane::Ask).ok_or("there is no link to it")?;
    match link.call(Request::Digest(index), inner.timing.proposal).await {
        Ok(Reply::Digest(digest)) => Ok(digest),
        Ok(_) => Err("the answer is to another question".into()),
        Err(error) => Err(error.to_string()),
    }
}

impl Cluster {
    /// Keeps Raft's own membership what the replicated members say it shall be. Works while the node runs.
    pub fn follow_members(&self) -> impl Future<Output = ()> + Send + 'static {
        let changed = self.inner.published.members_changed();
        follow(self.downgrade(), changed, self.inner.timing.election_min)
    }

    /// The digest of the state right after the entry at `index`; `None` when that is past, or does not come soon.
    pub(crate) async fn digest_at(&self, index: u64) -> Option<[u8; 32]> {
        let passing = self.inner.published.state_at(index)?;
        let state = tokio::time::timeout(self.inner.timing.proposal, passing).await.ok()?.ok()?;
        // Reads the whole state.
        tokio::task::spawn_blocking(move || state.digest()).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{
        AddMember, Authority, ClusterId, Command, CreateCluster, CreateToken, Effect, KeyHash, NewMember,
        State, TokenId, TokenProof, TokenUse,
    };
    use ipsec::types::Millis;

    const TOKEN: TokenUse = TokenUse { id: TokenId(1), proof: TokenProof([1; 32]) };

    /// A replicated state, Raft's membership, and who has caught up.
    struct World {
        state: State,
        ballots: Ballots,
        caught_up: BTreeSet<NodeId>,
    }

    impl World {
        /// One member, its founder, who votes.
        fn new() -> World {
            let mut world =
                World { state: State::default(), ballots: Ballots::default(), caught_up: BTreeSet::new() };
            // Before its cluster, a state refuses everything: that moves the index behind the founder's.
            world.state.apply(1, &Command::SetClusterVersion(1)).result.unwrap_err();
            world.apply(Command::CreateCluster(CreateCluster {
                name: "c".into(),
                id: ClusterId([1; 16]),
                founder: NodeId(1),
                founder_as: member("a"),
                founder_key: KeyHash([0; 32]),
                authority: Authority { certificate: vec![1], key: crypto::Secret::from([1; 32]) },
                at: Millis(1),
            }));
            let TokenUse { id, proof } = TOKEN;
            let (role, uses, expires_at) = (Suffrage::Voter, 99, Millis(u64::MAX));
            world.apply(Command::CreateToken(CreateToken {
                id,
                proof,
                role,
                uses,
                expires_at,
                at: Millis(1),
            }));
            world.ballots.voters = vec![ids(&[1])];
            world.ballots.nodes = BTreeMap::from([(NodeId(1), peer("a"))]);
            world
        }

        fn apply(&mut self, command: Command) -> Effect {
            let index = self.state.applied() + 1;
            self.state.apply(index, &command).result.unwrap()
        }

        fn add(&mut self, name: &str, replaces: Option<NodeId>) -> NodeId {
            let key = KeyHash(crypto::hash::sha256(&[&self.state.applied().to_be_bytes()]));
            let add = AddMember { member: member(name), key, token: TOKEN, replaces, at: Millis(2) };
            let Effect::Joined(node) = self.apply(Command::AddMember(add)) else { panic!("it joined") };
            node
        }

        /// Takes one step as Raft would, whole.
        fn step(&mut self) -> Option<Step> {
            let step = next(self.state.members(), &self.ballots, &self.caught_up)?;
            match step.clone() {
                Step::AddLearner(node, peer) => drop(self.ballots.nodes.insert(node, peer)),
                Step::SetVoters { voters, retain } => {
                    let before = self.ballots.voters.iter().flatten().copied().collect::<BTreeSet<_>>();
                    if !retain {
                        self.ballots.nodes.retain(|node, _| voters.contains(node) || !before.contains(node));
                    }
                    self.ballots.voters = vec![voters];
                }
                Step::Remove(nodes) => self.ballots.nodes.retain(|node, _| !nodes.contains(node)),
                Step::SetNodes(nodes) => self.ballots.nodes.extend(nodes),
            }
            Some(step)
        }
    }

    fn member(name: &str) -> NewMember {
        NewMember { name: name.into(), address: "h:1".into(), software: "1".into(), speaks: 1 }
    }

    fn peer(name: &str) -> Peer {
        Peer { name: name.into(), address: "h:1".into() }
    }

    fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    fn voters(of: &[NodeId]) -> BTreeSet<NodeId> {
        of.iter().copied().collect()
    }

    #[test]
    fn a_newcomer_listens_until_it_has_caught_up() {
        let mut world = World::new();
        assert_eq!(world.step(), None);
        let b = world.add("b", None);
        assert_eq!(world.step(), Some(Step::AddLearner(b, peer("b"))));
        assert_eq!(world.step(), None, "no vote yet");
        world.caught_up.insert(b);
        let both = Step::SetVoters { voters: voters(&[NodeId(1), b]), retain: false };
        assert_eq!(world.step(), Some(both));
        assert_eq!(world.step(), None);
    }

    #[test]
    fn a_vote_passes_to_the_successor_in_one_change() {
        let mut world = World::new();
        let b = world.add("b", None);
        world.caught_up.insert(b);
        while world.step().is_some() {}
        let heir = world.add("b", Some(b));
        assert_eq!(world.step(), Some(Step::AddLearner(heir, peer("b"))));
        assert_eq!(world.step(), None, "the dead one keeps its vote until then");
        world.caught_up.insert(heir);
        let change = Step::SetVoters { voters: voters(&[NodeId(1), heir]), retain: false };
        assert_eq!(world.step(), Some(change));
        assert_eq!(world.step(), None);
        assert!(!world.ballots.nodes.contains_key(&b));
    }

    #[test]
    fn who_shall_not_vote_listens_and_who_is_removed_is_gone() {
        let mut world = World::new();
        let b = world.add("b", None);
        world.caught_up.insert(b);
        while world.step().is_some() {}
        world.caught_up.clear();
        world.apply(Command::SetSuffrage { node: b, suffrage: Suffrage::Learner });
        let change = Step::SetVoters { voters: ids(&[1]), retain: true };
        assert_eq!(world.step(), Some(change));
        assert_eq!(world.step(), None);
        world.apply(Command::RemoveMember { node: b });
        assert_eq!(world.step(), Some(Step::Remove(voters(&[b]))));
        assert_eq!(world.step(), None);
    }

    #[test]
    fn a_change_that_was_cut_off_is_finished() {
        let mut world = World::new();
        let b = world.add("b", None);
        world.ballots.nodes.insert(b, peer("b"));
        // The leader that began it is gone, and with it its knowledge of who has caught up.
        world.ballots.voters = vec![ids(&[1]), voters(&[NodeId(1), b])];
        let change = Step::SetVoters { voters: voters(&[NodeId(1), b]), retain: false };
        assert_eq!(world.step(), Some(change));
        assert_eq!(world.step(), None);
    }

    #[test]
    fn an_address_that_changed_is_told_to_raft() {
        let mut world = World::new();
        world.ballots.nodes.insert(NodeId(1), Peer { name: "a".into(), address: "old:1".into() });
        assert_eq!(world.step(), Some(Step::SetNodes([(NodeId(1), peer("a"))].into())));
        assert_eq!(world.step(), None);
    }
}
