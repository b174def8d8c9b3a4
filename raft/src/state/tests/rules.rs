//! Members, segments, blocks, configuration, cookies, version: one table a rule.

use ipsec::limits::{FIRST_BLOCK, FIRST_CLAIM, LARGEST_BLOCK};
use ipsec::record::{self, Claimed};

use super::*;

const DEPOSED: Refusal = Refusal::Record(record::Refusal::Deposed);

fn one(epoch: u32) -> Vec<(Segment, Epoch)> {
    vec![(SEG, Epoch(epoch))]
}

#[test]
fn a_cluster_comes_first_and_once() {
    let mut world = World { index: 1, ..World::default() };
    for command in
        [add("b"), start_after(NONE, A, RUN_A), configure(0, ""), rotate(0, 1), Command::SetClusterVersion(2)]
    {
        assert_eq!(world.refused(command), Refusal::NoCluster);
    }
    world.done(create());
    assert_eq!(world.refused(create()), Refusal::AlreadyCreated);
    assert_eq!(world.state.cluster().expect("created").name, "bridge");
}

#[test]
fn the_founder_joined_before_the_state() {
    let mut world = World { index: 4, ..World::default() };
    let Command::CreateCluster(create) = create() else { panic!() };
    let of = |id| Command::CreateCluster(CreateCluster { founder: NodeId(id), ..create.clone() });
    assert_eq!(world.refused(of(9)), Refusal::UnknownNode);
    assert_eq!(world.done(of(1)), Effect::Joined(NodeId(1)));
}

#[test]
fn a_node_id_is_the_index_of_its_join_and_never_comes_back() {
    let mut world = World::new();
    let index = world.index + 1;
    assert_eq!(world.done(add("b")), Effect::Joined(NodeId(index)));
    let other = AddMember { key: key("b, a new disk"), ..add_with("b", OPEN) };
    assert_eq!(world.refused(Command::AddMember(other)), Refusal::NameTaken);
    world.done(Command::RemoveMember { node: NodeId(index) });
    let Effect::Joined(again) = world.done(add("b")) else { panic!() };
    assert!(again > NodeId(index));
    assert_eq!(world.refused(start_after(NONE, NodeId(index), RUN_B)), Refusal::UnknownNode);
}

#[test]
fn what_a_member_may_be() {
    let mut world = World::new();
    let member = |name: &str, address: &str, speaks| {
        let member = NewMember { name: name.into(), address: address.into(), software: "1".into(), speaks };
        Command::AddMember(AddMember { member, ..add_with("b", OPEN) })
    };
    let long = "x".repeat(65);
    for (name, address, speaks, refusal) in [
        ("", "h:1", 1, Refusal::BadName),
        ("a b", "h:1", 1, Refusal::BadName),
        (&long, "h:1", 1, Refusal::BadName),
        ("b", "", 1, Refusal::BadAddress),
        ("b", "h :1", 1, Refusal::BadAddress),
        ("b", "h:1", 0, Refusal::SoftwareTooOld { needs: 1 }),
    ] {
        assert_eq!(world.refused(member(name, address, speaks)), refusal, "{name:?} {address:?}");
    }
    for n in 1..limits::MEMBERS_MAX {
        world.done(add(&format!("n{n}")));
    }
    assert_eq!(world.refused(add("one-more")), Refusal::TooManyMembers);
}

#[test]
fn a_start_orphans_what_the_process_before_it_owned() {
    let mut world = World::new();
    world.establish(spi(SEG, 1), child_spi(SEG, 1), "alice", &[]);
    assert_eq!(world.done(start_after(NONE, A, RUN_A)), Effect::Unchanged, "a copy of it");
    assert_eq!(world.refused(start_after(RUN_A, A, NONE)), Refusal::BadIncarnation);

    let old = world.guard(SEG);
    let outcome = world.apply(start_after(RUN_A, A, Incarnation(0xa2)));
    assert_eq!(outcome.touched.len(), 257, "the members and all segments");
    assert_eq!(world.state.segment(SEG).state, SegmentState::Orphaned);
    assert!(!world.state.holds(&old));
    assert_eq!(world.refused(reserve(old, spi(SEG, 1), child_spi(SEG, 1), 5)), DEPOSED);
    let early = Guard { incarnation: Incarnation(0xa2), ..old };
    assert_eq!(world.refused(reserve(early, spi(SEG, 1), child_spi(SEG, 1), 5)), DEPOSED);

    // Neither a late copy of the old start nor the old number brings the old process back.
    let changed = Refusal::IncarnationChanged { current: Incarnation(0xa2) };
    assert_eq!(world.refused(start_after(NONE, A, RUN_A)), changed);
    assert_eq!(world.refused(start_after(Incarnation(0xa2), A, RUN_A)), Refusal::BadIncarnation);

    assert_eq!(world.refused(assign(one(1), A, RUN_A)), Refusal::NotRunning);
    world.done(assign(one(1), A, Incarnation(0xa2)));
    assert_eq!(world.state.segment(SEG).state, SegmentState::Owned);
    assert!(!world.state.holds(&early), "epoch 1 is over");
    assert!(world.state.holds(&Guard { epoch: Epoch(2), ..early }));
}

#[test]
fn two_nodes_share_no_incarnation() {
    let (mut world, b) = World::with_b();
    assert_eq!(world.refused(start_after(RUN_B, b, RUN_A)), Refusal::BadIncarnation);
    world.done(start_after(RUN_B, b, Incarnation(0xb2)));
}

#[test]
fn assignments_that_are_refused() {
    let (mut world, b) = World::with_b();
    let with_standby = |standby| {
        let Command::Assign(assign) = assign(one(1), b, RUN_B) else { panic!() };
        Command::Assign(Assign { standby, ..assign })
    };
    let twice = vec![(SEG, Epoch(1)), (SEG, Epoch(1))];
    let unsorted = vec![(Segment(9), Epoch(1)), (SEG, Epoch(1))];
    let changed = |current| Refusal::EpochChanged { segment: SEG, current: Epoch(current) };
    for (command, refusal) in [
        (assign(one(1), NodeId(999), RUN_B), Refusal::UnknownNode),
        (assign(one(1), b, RUN_A), Refusal::NotRunning),
        (assign(one(1), b, Incarnation(0)), Refusal::NotRunning),
        (assign(one(0), b, RUN_B), changed(1)),
        (assign(one(2), b, RUN_B), changed(1)),
        (assign(Vec::new(), b, RUN_B), Refusal::BadSegments),
        (assign(twice, b, RUN_B), Refusal::BadSegments),
        (assign(unsorted, b, RUN_B), Refusal::BadSegments),
        (assign(vec![(Segment(3), Epoch(1)), (SEG, Epoch(5))], b, RUN_B), changed(1)),
        (with_standby(Some(b)), Refusal::StandbyIsOwner),
        (with_standby(Some(NodeId(998))), Refusal::UnknownNode),
    ] {
        assert_eq!(world.refused(command.clone()), refusal, "{command:?}");
    }
    assert_eq!(world.done(with_standby(Some(A))), Effect::Assigned(vec![(SEG, Epoch(2))]));
    assert_eq!(world.refused(with_standby(Some(A))), changed(2));
}

#[test]
fn the_last_epoch_is_the_last() {
    let mut world = World::new();
    for state in [&mut world.state, &mut world.twin] {
        let mut segments = Segments::default();
        for (segment, grant) in state.segments.assigned() {
            segments.restore(segment, Grant { epoch: Epoch(Epoch::MAX.0 - 1), ..grant }).unwrap();
        }
        state.segments = segments;
    }
    world.done(assign(one(Epoch::MAX.0 - 1), A, RUN_A));
    let refusal = world.refused(assign(one(Epoch::MAX.0), A, RUN_A));
    assert_eq!(refusal, Refusal::EpochsExhausted { segment: SEG });
}

#[test]
fn an_assignment_gives_every_child_a_fresh_block() {
    let (mut world, b) = World::with_b();
    let other = Segment(8);
    world.establish(spi(SEG, 1), child_spi(SEG, 1), "alice", &[]);
    world.establish(spi(other, 1), child_spi(other, 1), "bob", &[]);
    let old = world.guard(SEG);
    world.done(reserve(old, spi(SEG, 1), child_spi(SEG, 1), 500));
    let block = |world: &World, segment| world.state.find_child(child_spi(segment, 1)).unwrap().1.block;
    let first = |epoch, first, last| Block { epoch: Epoch(epoch), first: EspSeq(first), last: EspSeq(last) };
    assert_eq!(block(&world, SEG), first(1, 1, FIRST_BLOCK + 500));

    world.done(assign(one(1), b, RUN_B));
    assert_eq!(block(&world, SEG), first(2, FIRST_BLOCK + 501, 2 * FIRST_BLOCK + 500));
    assert_eq!(block(&world, other), first(1, 1, FIRST_BLOCK), "other segments keep theirs");
    assert_eq!(world.refused(reserve(old, spi(SEG, 1), child_spi(SEG, 1), 5)), DEPOSED);
    let guard = world.guard(SEG);
    world.done(reserve(guard, spi(SEG, 1), child_spi(SEG, 1), 5));
    assert_eq!(block(&world, SEG), first(2, FIRST_BLOCK + 501, 2 * FIRST_BLOCK + 505), "it grows");
}

#[test]
fn guards_name_segment_epoch_and_incarnation() {
    let mut world = World::new();
    world.establish(spi(SEG, 1), child_spi(SEG, 1), "alice", &[]);
    let right = world.guard(SEG);
    let wrong = [
        Guard { epoch: Epoch(0), ..right },
        Guard { epoch: Epoch(2), ..right },
        Guard { incarnation: RUN_B, ..right },
        Guard { incarnation: Incarnation(0), ..right },
    ];
    for guard in wrong {
        assert_eq!(world.refused(reserve(guard, spi(SEG, 1), child_spi(SEG, 1), 5)), DEPOSED);
        let change = Change { guard, ..world.change(spi(SEG, 1), vec![]) };
        assert_eq!(world.refused(Command::Sa(change)), DEPOSED);
    }
    // A guard for another segment than that of the SA opens nothing.
    let elsewhere = world.guard(Segment(8));
    let spi_taken = Refusal::Record(record::Refusal::SpiTaken);
    assert_eq!(world.refused(reserve(elsewhere, spi(SEG, 1), child_spi(SEG, 1), 5)), spi_taken);
    let change = Change { guard: elsewhere, ..world.change(spi(SEG, 1), vec![]) };
    assert_eq!(world.refused(Command::Sa(change)), spi_taken);
}

//= test ES-9
#[test]
fn numbers_without_esn_end_at_the_32_bit_limit() {
    let mut world = World::new();
    let (ike, child) = (spi(SEG, 1), child_spi(SEG, 1));
    world.establish(ike, child, "alice", &[]);
    let guard = world.guard(SEG);
    let last = u64::from(u32::MAX);
    let mut granted = FIRST_BLOCK;
    while granted < last {
        let Effect::Reserved(reserved) = world.done(reserve(guard, ike, child, u64::MAX)) else { panic!() };
        let block = reserved.granted[0].1;
        assert_eq!(block.last.0, (granted + LARGEST_BLOCK).min(last));
        granted = block.last.0;
    }
    let Effect::Reserved(reserved) = world.done(reserve(guard, ike, child, 1)) else { panic!() };
    assert_eq!(reserved.passed_over, [(child, record::Refusal::Exhausted)]);
    // A new owner gets an empty block: it sends nothing.
    world.done(assign(one(1), A, RUN_A));
    let block = world.state.find_child(child).unwrap().1.block;
    assert!(block.epoch == Epoch(2) && block.first > block.last);
}

//= test CL-14
#[test]
fn a_claim_is_committed_and_a_new_owner_begins_above_it() {
    let (mut world, b) = World::with_b();
    let (ike, child) = (spi(SEG, 1), child_spi(SEG, 1));
    let mut established = record(ike, "alice", &[]);
    // What a proposer says of it counts for nothing: a child begins at the beginning.
    let claimed = Some(Claimed { floor: EspSeq(7), ceiling: EspSeq(u64::MAX) });
    established.children = vec![ChildRecord { claimed, ..a_child(child) }];
    let establish = world.sa(ike, vec![Step::Establish(Box::new(established))]);
    world.done(establish);
    let claimed = |world: &World| {
        let Claimed { floor, ceiling } = world.state.find_child(child).unwrap().1.claimed.unwrap();
        (floor.0, ceiling.0)
    };
    assert_eq!(claimed(&world), (0, FIRST_CLAIM));
    let claim = |world: &World, upto| {
        let children = vec![Wanted { ike, child, count: 0, upto: EspSeq(upto) }];
        Command::Reserve(Reserve { guard: world.guard(SEG), children })
    };
    let block = world.state.find_child(child).unwrap().1.block;
    let Effect::Reserved(reserved) = world.done(claim(&world, 500)) else { panic!() };
    assert_eq!(reserved.granted, [(child, block)], "nothing more to send on, but the worker is told");
    assert_eq!(claimed(&world), (0, 500));
    world.done(claim(&world, 400));
    assert_eq!(claimed(&world), (0, 500), "what was claimed may have been accepted");
    let deposed = claim(&world, 10_000);
    world.done(assign(one(1), b, world.state.members().get(b).unwrap().incarnation));
    assert_eq!(claimed(&world), (500, 500 + FIRST_CLAIM));
    assert_eq!(world.refused(deposed), Refusal::Record(record::Refusal::Deposed));
    assert_eq!(claimed(&world), (500, 500 + FIRST_CLAIM), "the owner before claims nothing any more");
    // Without ESN there is an end.
    world.done(claim(&world, u64::MAX));
    assert_eq!(claimed(&world).1, u64::from(u32::MAX));
    world.state.check().unwrap();
}

#[test]
fn a_reservation_passes_over_what_is_gone() {
    let mut world = World::new();
    world.establish(spi(SEG, 1), child_spi(SEG, 1), "alice", &[]);
    world.establish(spi(SEG, 2), child_spi(SEG, 2), "bob", &[]);
    let wanted = |ike, child, count| Wanted {
        ike: spi(SEG, ike),
        child: child_spi(SEG, child),
        count,
        upto: EspSeq(0),
    };
    let children = vec![wanted(1, 1, 7), wanted(1, 9, 7), wanted(1, 2, 7), wanted(3, 3, 7), wanted(2, 2, 0)];
    let command = Command::Reserve(Reserve { guard: world.guard(SEG), children });
    let outcome = world.apply(command);
    let Ok(Effect::Reserved(reserved)) = outcome.result else { panic!() };
    let granted: Vec<ChildSpi> = reserved.granted.iter().map(|(child, _)| *child).collect();
    assert_eq!(granted, [child_spi(SEG, 1)]);
    assert_eq!(reserved.passed_over.len(), 4);
    assert_eq!(outcome.touched, [Touched::Ike(spi(SEG, 1))]);
}

#[test]
fn a_standby_is_named_and_forgotten() {
    let (mut world, b) = World::with_b();
    let stand = |standby, epoch| Command::SetStandby(SetStandby { segments: one(epoch), standby });
    assert_eq!(world.refused(stand(Some(A), 1)), Refusal::StandbyIsOwner);
    assert_eq!(world.refused(stand(Some(NodeId(999)), 1)), Refusal::UnknownNode);
    assert!(matches!(world.refused(stand(Some(b), 0)), Refusal::EpochChanged { .. }));
    let guard = world.guard(SEG);
    world.done(stand(Some(b), 1));
    assert_eq!(world.state.segment(SEG).standby, Some(b));
    assert!(world.state.holds(&guard), "the owner goes on, in its epoch");
    world.done(stand(None, 1));
    assert_eq!(world.state.segment(SEG).standby, None);
    world.done(stand(Some(b), 1));
    world.done(Command::RemoveMember { node: b });
    assert_eq!(world.state.segment(SEG).standby, None, "it stands by for nothing any more");
}

#[test]
fn what_an_administrator_drains_stays_drained() {
    use Draining::{No, UntilStart, UntilUndrain};
    let (mut world, b) = World::with_b();
    let drain = |draining| Command::SetDraining { node: b, draining };
    assert_eq!(world.refused(Command::SetDraining { node: NodeId(999), draining: No }), Refusal::UnknownNode);
    // What is wanted in turn, a start of the process or not, what holds then.
    let mut run = RUN_B;
    for (wanted, starts, holds) in [
        (UntilStart, false, UntilStart),
        (UntilStart, true, No),
        (UntilUndrain, true, UntilUndrain),
        (UntilStart, true, UntilUndrain),
        (No, false, No),
    ] {
        world.apply(drain(wanted)).result.expect("a member");
        if starts {
            let next = Incarnation(run.0 + 1);
            world.done(start_after(run, b, next));
            run = next;
        }
        let member = world.state.members().get(b).expect("it is one");
        assert_eq!(member.draining, holds, "{wanted:?}, start {starts}");
    }
}

#[test]
fn only_the_running_process_tells_of_its_devices() {
    let (mut world, b) = World::with_b();
    let tell = |incarnation, cut_off| Command::SetCutOff { node: b, incarnation, cut_off };
    let cut_off = |world: &World| world.state.members().get(b).expect("it is one").cut_off;
    world.done(tell(RUN_B, true));
    assert!(cut_off(&world));
    assert_eq!(world.apply(tell(RUN_B, true)).result, Ok(Effect::Unchanged));
    world.done(start_after(RUN_B, b, RUN_C));
    assert!(!cut_off(&world), "the next process has not looked yet");
    assert_eq!(world.refused(tell(RUN_B, true)), Refusal::NotRunning);
    assert!(!cut_off(&world));
}

/// A takeover of `from`'s segment 7 by `to`, decided on these promises.
fn take_over(
    epoch: u32,
    (from, run): (NodeId, Incarnation),
    (to, incarnation): (NodeId, Incarnation),
    standing: u64,
    promisers: &[(NodeId, Incarnation)],
) -> Command {
    let Command::Assign(plain) = assign(one(epoch), to, incarnation) else { panic!() };
    let from = Owner { node: from, incarnation: run };
    let takeover = Some(Takeover { from, standing, promisers: promisers.to_vec(), silent_ms: 57 });
    Command::Assign(Assign { takeover, cause: Cause::NodeSilent, ..plain })
}

#[test]
fn a_takeover_holds_while_nothing_that_it_was_decided_on_has_changed() {
    let (mut world, b) = World::with_b();
    let Effect::Joined(c) = world.done(add("c")) else { panic!() };
    let run_c = Incarnation(0xc1);
    world.done(start_after(NONE, c, run_c));
    let (a, b, c) = ((A, RUN_A), (b, RUN_B), (c, run_c));
    for (command, refusal) in [
        (take_over(1, a, b, 1, &[b, c]), Refusal::StandingChanged { current: 0 }),
        (take_over(1, (A, RUN_B), b, 0, &[b, c]), Refusal::NotRunning),
        (take_over(1, (NodeId(999), RUN_A), b, 0, &[b, c]), Refusal::UnknownNode),
        (take_over(1, c, b, 0, &[b]), Refusal::NotInThisState { segment: SEG }),
        (take_over(1, a, b, 0, &[b, (c.0, RUN_A)]), Refusal::PromiseForgotten { node: c.0 }),
        (take_over(1, a, b, 0, &[b, (NodeId(999), run_c)]), Refusal::PromiseForgotten { node: NodeId(999) }),
        (take_over(1, a, b, 0, &[a, b]), Refusal::PromiseForgotten { node: A }),
        (take_over(1, a, b, 0, &[c, b]), Refusal::BadPromisers),
        (take_over(1, a, b, 0, &[b, b]), Refusal::BadPromisers),
    ] {
        assert_eq!(world.refused(command.clone()), refusal, "{command:?}");
    }
    // A voter that has started anew may acknowledge the owner again.
    let restarted = (c.0, Incarnation(0xc2));
    world.done(start_after(c.1, restarted.0, restarted.1));
    assert_eq!(world.refused(take_over(1, a, b, 0, &[b, c])), Refusal::PromiseForgotten { node: c.0 });
    world.done(take_over(1, a, b, 0, &[b, restarted]));
    assert_eq!(world.state.segment(SEG).owner.map(|owner| owner.node), Some(b.0));
    // Those of one takeover come one after the other, under one standing.
    let Command::Assign(second) = take_over(1, a, b, 0, &[]) else { panic!() };
    world.done(Command::Assign(Assign { segments: vec![(Segment(8), Epoch(1))], ..second }));
}

#[test]
fn a_pardon_makes_a_late_takeover_count_for_nothing() {
    let (mut world, b) = World::with_b();
    let pardon = |standing| Command::Pardon(Pardon { node: A, standing });
    world.done(pardon(0));
    assert_eq!(world.refused(pardon(0)), Refusal::StandingChanged { current: 1 });
    assert_eq!(
        world.refused(Command::Pardon(Pardon { node: NodeId(999), standing: 0 })),
        Refusal::UnknownNode
    );
    let late = take_over(1, (A, RUN_A), (b, RUN_B), 0, &[(b, RUN_B)]);
    assert_eq!(world.refused(late), Refusal::StandingChanged { current: 1 });
    // A new process of the node keeps the standing: promises name both.
    world.done(start_after(RUN_A, A, Incarnation(0xa2)));
    assert_eq!(world.state.members().get(A).map(|member| member.standing), Some(1));
}

#[test]
fn who_lost_a_segment_that_it_served_must_know_it() {
    let (mut world, b) = World::with_b();
    let taken_at = |world: &World, node| world.state.members().get(node).map_or(0, |member| member.taken_at);
    world.done(assign(one(1), A, RUN_A));
    assert_eq!(taken_at(&world, A), 0, "it goes on itself");
    let outcome = world.apply(assign(one(2), b, RUN_B));
    assert_eq!(outcome.touched, [Touched::Members, Touched::Segment(SEG)]);
    assert_eq!((taken_at(&world, A), taken_at(&world, b)), (world.index, 0));
    let before = taken_at(&world, A);
    // What a process that is gone has left was not served by anybody.
    world.done(start_after(RUN_A, A, Incarnation(0xa2)));
    world.done(assign(vec![(Segment(8), Epoch(1))], b, RUN_B));
    assert_eq!(taken_at(&world, A), before);
}

#[test]
fn an_owner_is_not_removed() {
    let (mut world, b) = World::with_b();
    assert_eq!(world.refused(Command::RemoveMember { node: NodeId(999) }), Refusal::UnknownNode);
    world.done(assign(one(1), b, RUN_B));
    assert_eq!(world.refused(Command::RemoveMember { node: b }), Refusal::OwnsSegments);
    world.done(assign(one(2), A, RUN_A));
    world.done(Command::RemoveMember { node: b });
    let mut alone = World { index: 1, ..World::default() };
    alone.done(create());
    assert_eq!(alone.refused(Command::RemoveMember { node: A }), Refusal::LastMember);
}

#[test]
fn somebody_always_votes() {
    let (mut world, b) = World::with_b();
    let set = |node, suffrage| Command::SetSuffrage { node, suffrage };
    assert_eq!(world.refused(set(NodeId(999), Suffrage::Learner)), Refusal::UnknownNode);
    assert_eq!(world.done(set(b, Suffrage::Voter)), Effect::Unchanged);
    world.done(set(b, Suffrage::Learner));
    assert_eq!(world.refused(set(A, Suffrage::Learner)), Refusal::LastVoter);
    world.done(assign(Segment::all().map(|segment| (segment, Epoch(1))).collect(), b, RUN_B));
    assert_eq!(world.refused(Command::RemoveMember { node: A }), Refusal::LastVoter);
    world.done(set(b, Suffrage::Voter));
    world.done(Command::RemoveMember { node: A });
}

#[test]
fn configuration_revisions() {
    let mut world = World::new();
    assert_eq!(world.refused(configure(1, "x")), Refusal::ConfigurationChanged { current: 0 });
    for revision in 1..=40 {
        let text = format!("version = {revision}");
        assert_eq!(world.done(configure(revision - 1, &text)), Effect::Configured(revision));
    }
    assert_eq!(world.refused(configure(39, "x")), Refusal::ConfigurationChanged { current: 40 });
    let too_large = "x".repeat(limits::CONFIGURATION_LEN_MAX + 1);
    assert_eq!(world.refused(configure(40, &too_large)), Refusal::TooLarge);
    let kept: Vec<u64> = world.state.history().map(|it| it.revision).collect();
    assert_eq!(kept, (9..=40).collect::<Vec<u64>>());
    let old = world.state.revision(9).expect("kept").clone();
    assert_eq!(old.files["b.psk"], secret(5));
    assert!(world.state.revision(8).is_none());
    // A rollback is the old text under a new number.
    world.done(configure(40, &old.toml));
    assert_eq!(world.state.configuration().expect("one").toml, "version = 9");
}

#[test]
fn cookie_secrets() {
    let mut world = World::new();
    let short = RotateCookieSecret { expected_version: 0, secret: secret(1), at: Millis(1) };
    assert_eq!(world.refused(Command::RotateCookieSecret(short)), Refusal::BadCookieSecret);
    for version in 1..=3 {
        assert_eq!(world.done(rotate(version - 1, version as u8)), Effect::CookieSecret(version));
    }
    assert_eq!(world.refused(rotate(2, 9)), Refusal::CookieSecretChanged { current: 3 });
    assert_eq!(world.refused(rotate(3, 3)), Refusal::BadCookieSecret, "a rotation brings another secret");
    let cookies = world.state.cookies();
    for (version, octet) in [(0, None), (1, None), (2, Some(2)), (3, Some(3)), (4, None)] {
        let first = cookies.secret(version).map(|secret| secret.as_bytes()[0]);
        assert_eq!(first, octet, "version {version}");
    }
}

#[test]
fn a_version_starts_when_all_speak_it() {
    let (mut world, b) = World::with_b();
    let upgraded = |expected, node, incarnation, speaks| {
        let Command::Incarnate { node, expected, start } = start_after(expected, node, incarnation) else {
            panic!("a start")
        };
        Command::Incarnate { node, expected, start: Start { speaks, ..start } }
    };
    let set = Command::SetClusterVersion(2);
    assert_eq!(world.refused(Command::SetClusterVersion(1)), Refusal::VersionNotHigher { current: 1 });
    assert_eq!(world.refused(set.clone()), Refusal::VersionNotSpoken { node: A });
    world.done(upgraded(RUN_A, A, Incarnation(0xa2), 2));
    assert_eq!(world.refused(set.clone()), Refusal::VersionNotSpoken { node: b });
    world.done(upgraded(RUN_B, b, Incarnation(0xb2), 3));
    world.done(set.clone());
    assert_eq!(world.refused(set), Refusal::VersionNotHigher { current: 2 });
    let too_old = Refusal::SoftwareTooOld { needs: 2 };
    assert_eq!(world.refused(upgraded(Incarnation(0xb2), b, Incarnation(0xb3), 1)), too_old);
    assert_eq!(world.refused(add("c")), too_old);
}
