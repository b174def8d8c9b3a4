//! Properties of a plan, on states that real commands made.

use std::collections::BTreeMap;

use ipsec::types::Incarnation;
use proptest::prelude::*;
use raft::state::{
    AddMember, Authority, ClusterId, Command, CreateCluster, CreateToken, Effect, KeyHash, NewMember, Start,
    Suffrage, TokenId, TokenProof, TokenUse,
};

use super::*;
use crate::liveness::{Signs, Verdict};

/// A cluster whose log is this test.
struct World {
    state: State,
    index: u64,
    voters: Vec<NodeId>,
    liveness: Liveness,
    runs: u64,
}

const TOKEN: TokenUse = TokenUse { id: TokenId(1), proof: TokenProof([1; 32]) };

/// Ahead of every log of these tests.
const CAUGHT_UP: u64 = u64::MAX;

impl World {
    fn new(nodes: u64) -> World {
        let mut world = World {
            state: State::default(),
            index: 1,
            voters: Vec::new(),
            liveness: Liveness::default(),
            runs: 0x1000,
        };
        let create = CreateCluster {
            name: "lab".into(),
            id: ClusterId([1; 16]),
            founder: NodeId(1),
            founder_as: member(1),
            founder_key: KeyHash([1; 32]),
            authority: Authority { certificate: vec![1], key: crypto::Secret::from([1; 32]) },
            at: Millis(0),
        };
        world.apply(Command::CreateCluster(create));
        let TokenUse { id, proof } = TOKEN;
        let (role, uses, expires_at) = (Suffrage::Voter, u32::MAX, Millis(u64::MAX));
        world.apply(Command::CreateToken(CreateToken { id, proof, role, uses, expires_at, at: Millis(0) }));
        world.start(NodeId(1));
        world.settle();
        for n in 2..=nodes {
            world.join(n);
        }
        world
    }

    fn join(&mut self, n: u64) -> NodeId {
        let key = KeyHash(crypto::hash::sha256(&[&self.index.to_be_bytes()]));
        let add = AddMember { member: member(n), key, token: TOKEN, replaces: None, at: Millis(0) };
        let add = Command::AddMember(add);
        let Effect::Joined(node) = self.apply(add) else { panic!("it joined") };
        self.start(node);
        node
    }

    fn apply(&mut self, command: Command) -> Effect {
        self.index += 1;
        let outcome = self.state.apply(self.index, &command);
        assert_eq!(self.state.check(), Ok(()));
        outcome.result.unwrap_or_else(|refusal| panic!("{command:?}: {refusal}"))
    }

    /// A process of `node` starts; what an earlier one served is orphaned.
    fn start(&mut self, node: NodeId) {
        let expected = self.state.members().get(node).map_or(Incarnation(0), |member| member.incarnation);
        self.runs += 1;
        let NewMember { address, software, speaks, .. } = member(node.0);
        let incarnation = Incarnation(self.runs);
        let start = Start { incarnation, address, software, speaks, at: Millis(0) };
        self.apply(Command::Incarnate { node, expected, start });
        if !self.voters.contains(&node) {
            self.voters.push(node);
        }
        self.sign(node, Verdict::Alive, CAUGHT_UP);
    }

    /// The log grows by so many entries that are none of ours.
    fn idle(&mut self, entries: u64) {
        self.index += entries;
        self.drain(NodeId(1), Draining::No);
    }

    /// What the leader hears of `node` from now on.
    fn sign(&mut self, node: NodeId, verdict: Verdict, applied: u64) {
        let incarnation = self.state.members().get(node).expect("a member").incarnation;
        self.liveness.nodes.insert(node, Signs { verdict, incarnation, applied });
    }

    fn silence(&mut self, node: NodeId) {
        self.sign(node, Verdict::Silent, CAUGHT_UP);
    }

    fn nodes(&self) -> Nodes {
        Nodes::of(&self.state, Seen { voters: &self.voters, liveness: &self.liveness })
    }

    fn drain(&mut self, node: NodeId, draining: Draining) {
        self.apply(Command::SetDraining { node, draining });
    }

    fn plan(&self) -> Plan {
        plan(&self.state, Seen { voters: &self.voters, liveness: &self.liveness }, Millis(0))
    }

    /// Carries a plan out; how many segments changed hands.
    fn carry_out(&mut self, plan: Plan) -> usize {
        let mut moved = 0;
        for assign in plan.orphans {
            moved += assign.segments.len();
            self.apply(Command::Assign(assign));
        }
        for Shift { to, segments, cause, .. } in plan.takeovers.into_iter().chain(plan.moves) {
            moved += segments.len();
            let incarnation = self.state.members().get(to).expect("a member").incarnation;
            let standby = None;
            self.apply(Command::Assign(Assign {
                segments,
                to,
                incarnation,
                standby,
                cause,
                at: Millis(0),
                takeover: None,
            }));
        }
        for set in plan.standbys {
            // Of another epoch by now: the next plan names it.
            let current = |&(segment, epoch): &(Segment, Epoch)| self.state.segment(segment).epoch == epoch;
            let segments: Vec<_> = set.segments.into_iter().filter(current).collect();
            if !segments.is_empty() {
                self.apply(Command::SetStandby(SetStandby { segments, ..set }));
            }
        }
        moved
    }

    /// One round of owners, one of standbys, and then there is nothing left to do. How many segments changed hands.
    fn settle(&mut self) -> usize {
        let plan = self.plan();
        let moved = self.carry_out(plan);
        let plan = self.plan();
        assert!(plan.orphans.is_empty() && plan.takeovers.is_empty() && plan.moves.is_empty(), "{plan:?}");
        self.carry_out(plan);
        assert_eq!(self.plan(), Plan::default(), "the plan of the result is empty");
        moved
    }

    fn load(&self) -> BTreeMap<NodeId, usize> {
        let mut load = BTreeMap::new();
        for (_, grant) in self.state.segments().iter() {
            *load.entry(grant.owner.expect("an owner").node).or_default() += 1;
        }
        load
    }

    fn loads(&self) -> Vec<usize> {
        self.load().into_values().collect()
    }

    /// Every segment is served by a node that may, evenly, with standbys spread evenly.
    fn check(&self) {
        let nodes = self.nodes();
        let (load, n) = (self.load(), nodes.shares.len());
        assert!(load.keys().all(|node| nodes.shares.contains(node)), "{load:?} of {:?}", nodes.shares);
        let (least, most) = (Segment::COUNT / n, Segment::COUNT.div_ceil(n));
        assert!(nodes.shares.iter().all(|node| (least..=most).contains(&load[node])), "{load:?}");
        let mut standing: BTreeMap<(NodeId, NodeId), usize> = BTreeMap::new();
        for (segment, grant) in self.state.segments().iter() {
            let owner = grant.owner.expect("an owner").node;
            match grant.standby {
                None => assert_eq!(n, 1, "segment {segment} has no standby"),
                Some(standby) => {
                    assert!(standby != owner && nodes.shares.contains(&standby));
                    *standing.entry((owner, standby)).or_default() += 1;
                }
            }
        }
        for ((owner, _), &count) in &standing {
            let (least, most) = (load[owner] / (n - 1), load[owner].div_ceil(n - 1));
            assert!((least..=most).contains(&count), "standbys of {owner}: {standing:?}");
        }
    }
}

fn member(n: u64) -> NewMember {
    NewMember {
        name: format!("edge-{n}"),
        address: format!("192.0.2.{n}:7400"),
        software: "0.1.0".into(),
        speaks: raft::state::SPEAKS,
    }
}

fn ids(world: &World) -> Vec<NodeId> {
    world.state.members().iter().map(|member| member.id).collect()
}

#[test]
fn segments_are_spread_over_one_three_five_and_seven_nodes() {
    for (nodes, loads) in [
        (1, vec![256]),
        (3, vec![86, 85, 85]),
        (5, vec![52, 51, 51, 51, 51]),
        (7, vec![37, 37, 37, 37, 36, 36, 36]),
    ] {
        let mut world = World::new(nodes);
        world.settle();
        world.check();
        let mut found = world.loads();
        found.sort_by_key(|&load| std::cmp::Reverse(load));
        assert_eq!(found, loads);
    }
}

#[test]
fn a_node_that_joins_gets_its_share_and_nothing_else_moves() {
    let mut world = World::new(3);
    world.settle();
    world.join(4);
    assert_eq!(world.settle(), 64);
    world.check();
}

#[test]
fn a_node_that_lags_is_given_nothing_yet_and_keeps_what_it_has() {
    let mut world = World::new(2);
    world.settle();
    let late = world.join(3);
    world.idle(2 * BEHIND_MAX);
    world.sign(late, Verdict::Alive, 0);
    assert_eq!(world.settle(), 0);
    world.sign(late, Verdict::Alive, world.index);
    assert_eq!(world.settle(), 85);
    world.idle(2 * BEHIND_MAX);
    world.sign(late, Verdict::Alive, 0);
    assert_eq!(world.settle(), 0, "a node that is slow for a moment loses nothing by it");
}

#[test]
fn the_standbys_take_over_and_the_share_comes_back() {
    for nodes in [3, 5, 7] {
        let mut world = World::new(nodes);
        world.settle();
        let before: Vec<Grant> = world.state.segments().iter().map(|(_, grant)| grant).collect();
        let silent = *ids(&world).last().expect("one");
        let share = world.load()[&silent];
        world.silence(silent);
        let plan = world.plan();
        assert!(plan.orphans.is_empty() && plan.moves.is_empty());
        for shift in &plan.takeovers {
            assert_eq!((shift.from, shift.cause), (silent, Cause::NodeSilent));
            let standby = |&(segment, _): &(Segment, Epoch)| before[usize::from(segment.0)].standby;
            assert!(shift.segments.iter().all(|it| standby(it) == Some(shift.to)));
        }
        assert_eq!(world.settle(), share, "only what was the silent node's moves");
        world.check();
        world.start(silent);
        assert_eq!(world.settle(), Segment::COUNT / nodes as usize, "and as much comes back");
        world.check();
    }
}

#[test]
fn a_restart_gives_a_node_its_own_segments_again() {
    let mut world = World::new(3);
    world.settle();
    let node = ids(&world)[1];
    let owned = |world: &World| -> Vec<Segment> {
        world.state.segments().owned_by(node).map(|(segment, _)| segment).collect()
    };
    let before = owned(&world);
    world.start(node);
    let plan = world.plan();
    assert!(plan.orphans.iter().all(|assign| (assign.to, assign.cause) == (node, Cause::Restarted)));
    assert_eq!(world.settle(), before.len());
    assert_eq!(owned(&world), before);
}

#[test]
fn a_node_that_has_lost_a_carrier_owns_nothing_until_it_is_back() {
    let mut world = World::new(3);
    world.settle();
    let node = ids(&world)[0];
    let incarnation = world.state.members().get(node).expect("a member").incarnation;
    for (cut_off, owns) in [(true, false), (false, true)] {
        world.apply(Command::SetCutOff { node, incarnation, cut_off });
        world.settle();
        world.check();
        assert_eq!(world.load().contains_key(&node), owns);
    }
    for node in ids(&world) {
        let incarnation = world.state.members().get(node).expect("a member").incarnation;
        world.apply(Command::SetCutOff { node, incarnation, cut_off: true });
    }
    assert_eq!(world.settle(), 0, "all of them: nothing moves");
}

#[test]
fn a_node_that_drains_owns_nothing_until_it_is_undrained() {
    let mut world = World::new(3);
    world.settle();
    let node = ids(&world)[0];
    let share = world.load()[&node];
    world.drain(node, Draining::UntilUndrain);
    let plan = world.plan();
    assert!(plan.moves.iter().all(|shift| (shift.from, shift.cause) == (node, Cause::Drained)));
    assert_eq!(world.settle(), share);
    assert_eq!(world.loads(), [128, 128]);
    world.check();
    world.start(node);
    assert_eq!(world.settle(), 0, "a start is no undrain");
    world.drain(node, Draining::No);
    assert_eq!(world.settle(), 85);
    world.check();
}

#[test]
fn the_last_node_goes_on_although_it_drains() {
    let mut world = World::new(2);
    world.settle();
    let nodes = ids(&world);
    world.drain(nodes[0], Draining::UntilUndrain);
    world.settle();
    world.drain(nodes[1], Draining::UntilUndrain);
    world.settle();
    assert_eq!(world.load().values().sum::<usize>(), Segment::COUNT);
    let owner = *world.load().keys().next().expect("one");
    world.silence(owner);
    world.settle();
    assert!(!world.load().contains_key(&owner));
}

#[test]
fn what_an_administrator_has_placed_stays_and_another_goes_in_exchange() {
    let mut world = World::new(3);
    world.settle();
    let nodes = ids(&world);
    let segment =
        world.state.segments().owned_by(nodes[0]).map(|(segment, _)| segment).next().expect("it owns some");
    let epoch = world.state.segment(segment).epoch;
    let incarnation = world.state.members().get(nodes[1]).expect("a member").incarnation;
    let (segments, to, standby) = (vec![(segment, epoch)], nodes[1], None);
    let assign =
        Assign { segments, to, incarnation, standby, cause: Cause::Moved, at: Millis(0), takeover: None };
    world.apply(Command::Assign(assign));
    assert!(world.settle() <= 1);
    assert_eq!(world.state.segment(segment).owner.map(|owner| owner.node), Some(nodes[1]));
    world.check();
}

#[test]
fn without_anybody_able_there_is_no_plan() {
    let mut world = World::new(3);
    world.settle();
    for node in ids(&world) {
        world.silence(node);
    }
    assert!(world.plan().is_empty());
    for node in ids(&world) {
        world.sign(node, Verdict::Alive, CAUGHT_UP);
    }
    world.voters.clear();
    assert!(world.plan().is_empty(), "a learner owns nothing");
}

/// What befalls a node: the kind, and which.
type Blow = (u8, u8);

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to whom: all is served, evenly, by as few moves as there must be, and then it is quiet.
    #[test]
    fn whatever_happens(nodes in 1u64..=7, blows in proptest::collection::vec(any::<Blow>(), 1..12)) {
        let mut world = World::new(nodes);
        world.settle();
        for (kind, which) in blows {
            let all = ids(&world);
            let node = all[usize::from(which) % all.len()];
            match kind % 6 {
                0 => world.silence(node),
                1 => world.start(node),
                2 => world.drain(node, Draining::UntilUndrain),
                3 => world.drain(node, Draining::UntilStart),
                4 => world.drain(node, Draining::No),
                _ if all.len() < 9 => {
                    world.join(all.len() as u64 + 1);
                }
                _ => {}
            }
            let shares = world.nodes().shares;
            if shares.is_empty() {
                prop_assert!(world.plan().is_empty());
                continue;
            }
            let must = least_moves(&world, &shares);
            let moved = world.settle();
            prop_assert!(moved == must, "{moved} moved, {must} had to");
            world.check();
        }
    }
}

/// What is without a server that may stay, and what an even share asks for above that.
fn least_moves(world: &World, shares: &BTreeSet<NodeId>) -> usize {
    let mut homeless = 0;
    let mut load: BTreeMap<NodeId, usize> = shares.iter().map(|&node| (node, 0)).collect();
    let mut landed: BTreeMap<NodeId, usize> = BTreeMap::new();
    for shift in world.plan().orphans {
        *landed.entry(shift.to).or_default() += shift.segments.len();
    }
    for shift in world.plan().takeovers {
        *landed.entry(shift.to).or_default() += shift.segments.len();
    }
    for (_, grant) in world.state.segments().iter() {
        let owner = grant.owner.expect("an owner");
        let served = grant.state.is_served() && shares.contains(&owner.node);
        match load.get_mut(&owner.node).filter(|_| served) {
            Some(count) => *count += 1,
            None => homeless += 1,
        }
    }
    // Orphans and what is taken over land where they must; only then are shares evened out, by what can be moved.
    let mut full: Vec<usize> =
        shares.iter().map(|node| load[node] + landed.get(node).unwrap_or(&0)).collect();
    let placed_by_drain = Segment::COUNT - full.iter().sum::<usize>();
    for _ in 0..placed_by_drain {
        *full.iter_mut().min().expect("one") += 1;
    }
    full.sort_by_key(|&count| std::cmp::Reverse(count));
    let (each, odd) = (Segment::COUNT / full.len(), Segment::COUNT % full.len());
    let surplus =
        full.iter().enumerate().map(|(place, &count)| count.saturating_sub(each + usize::from(place < odd)));
    homeless + surplus.sum::<usize>()
}
