//! Changes to IKE SAs: what crosses records.

use ipsec::record::Outstanding;
use ipsec::record::{Purpose, Refusal as R, Reply, Why};

use super::*;

const ALICE: Spi = Spi(0x0700_0000_0000_0001);
const BOB: Spi = Spi(0x0700_0000_0000_0002);

fn refused(world: &mut World, command: Command) -> R {
    match world.refused(command) {
        Refusal::Record(refusal) => refusal,
        other => panic!("refused for {other}"),
    }
}

fn add_child(spi_in: ChildSpi) -> Step {
    Step::AddChild(Box::new(a_child(spi_in)))
}

fn establish(record: IkeRecord) -> Step {
    Step::Establish(Box::new(record))
}

/// Alice and Bob, each with a child and an address.
fn two() -> World {
    let mut world = World::new();
    world.establish(ALICE, child_spi(SEG, 1), "alice", &["10.99.0.1"]);
    world.establish(BOB, child_spi(SEG, 2), "bob", &["10.99.0.2"]);
    world
}

#[test]
fn readers_find_what_was_established() {
    let mut world = two();
    world.establish(spi(Segment(8), 1), child_spi(Segment(8), 1), "carol", &[]);
    let state = &world.state;
    let all: Vec<Spi> = state.records().map(|record| record.spi).collect();
    assert_eq!(all, [ALICE, BOB, spi(Segment(8), 1)]);
    let of = |segment| state.records_of(segment).map(|record| record.spi).collect::<Vec<_>>();
    assert_eq!(of(SEG), [ALICE, BOB]);
    assert_eq!(of(Segment(8)), [spi(Segment(8), 1)]);
    assert_eq!(of(Segment(255)), []);
    let bob = Identity::parse("bob");
    let of_peer = state.records_of_peer(&bob).map(|record| record.spi);
    assert_eq!(of_peer.collect::<Vec<_>>(), [BOB]);
    let (record, child) = state.find_child(child_spi(SEG, 2)).expect("found");
    assert_eq!((record.spi, child.spi_in), (BOB, child_spi(SEG, 2)));
    assert!(state.find_child(child_spi(SEG, 3)).is_none());
    assert_eq!((state.sas().len(), state.sas().children_len()), (3, 3));
    assert_eq!(state.lease(ip("10.99.0.2")).and_then(Lease::holder), Some(BOB));
}

#[test]
fn a_reader_keeps_what_it_holds() {
    let mut world = two();
    let held = world.state.clone();
    let command = world.sa(ALICE, vec![Step::Remove { why: Why::Terminated }]);
    let outcome = world.apply(command);
    assert_eq!(outcome.touched, [Touched::Ike(ALICE)]);
    assert!(world.state.record(ALICE).is_none() && held.record(ALICE).is_some());
    assert!(world.state.find_child(child_spi(SEG, 1)).is_none());
}

//= test CL-20
#[test]
fn what_has_ended_does_not_begin_again_while_its_messages_may_be_about() {
    let mut world = two();
    let command = world.sa(ALICE, vec![Step::Remove { why: Why::Terminated }]);
    world.done(command);
    let again = world.sa(ALICE, vec![establish(record(ALICE, "alice", &[]))]);
    assert_eq!(refused(&mut world, again), R::SpiTaken);
    let other = world.sa(spi(SEG, 9), vec![establish(record(spi(SEG, 9), "alice", &[]))]);
    world.done(other);
}

#[test]
fn of_two_decisions_on_one_revision_one_counts() {
    let mut world = two();
    let answer = |octet| Step::Answered { message_id: MessageId(2), octets: vec![octet] };
    let first = world.sa(ALICE, vec![answer(1)]);
    let second = world.sa(ALICE, vec![answer(2)]);
    world.done(first.clone());
    assert_eq!(refused(&mut world, second), R::Stale);
    assert_eq!(refused(&mut world, first), R::Stale);
    assert_eq!(world.state.record(ALICE).unwrap().last_reply.as_ref().unwrap().octets, [1]);
}

#[test]
fn child_spis_are_unique_in_the_cluster() {
    let mut world = two();
    let fresh = spi(SEG, 9);
    let with = |children: &[u32]| {
        let mut record = record(fresh, "carol", &[]);
        record.children = children.iter().map(|&n| a_child(child_spi(SEG, n))).collect();
        establish(record)
    };
    let add_ike_with = |child| {
        let mut record = record(fresh, "alice", &[]);
        record.children = vec![a_child(child_spi(SEG, child))];
        Step::AddIke(Box::new(record))
    };
    let other_segment = ChildSpi(child_spi(Segment(8), 3).0);
    for (spi, steps, refusal) in [
        (ALICE, vec![add_child(child_spi(SEG, 2))], R::SpiTaken),
        (ALICE, vec![add_child(child_spi(SEG, 1))], R::SpiTaken),
        (ALICE, vec![add_child(other_segment)], R::SpiTaken),
        (fresh, vec![with(&[3, 3])], R::SpiTaken),
        (fresh, vec![with(&[1])], R::SpiTaken),
        (ALICE, vec![establish(record(ALICE, "alice", &[]))], R::SpiTaken),
        // Its numbers would start again.
        (
            ALICE,
            vec![
                Step::RemoveChild { spi_in: child_spi(SEG, 1), why: Why::Rekeyed },
                add_child(child_spi(SEG, 1)),
            ],
            R::SpiTaken,
        ),
        (fresh, vec![establish(record(spi(SEG, 10), "carol", &[]))], R::SpiTaken),
        (ALICE, vec![add_child(child_spi(SEG, 3)), add_ike_with(3)], R::SpiTaken),
        (fresh, vec![add_child(child_spi(SEG, 3))], R::NotFound),
    ] {
        let command = world.sa(spi, steps);
        assert_eq!(refused(&mut world, command.clone()), refusal, "{command:?}");
    }
    let command = world.sa(fresh, vec![with(&[3, 4])]);
    world.done(command);
}

#[test]
fn a_record_that_makes_no_sense_is_refused_and_not_asserted() {
    let mut world = World::new();
    let reply = Some(Reply { message_id: MessageId(2), octets: vec![1] });
    let outstanding = Outstanding { message_id: MessageId(0), octets: vec![1], purpose: Purpose::Liveness };
    let sound = record(ALICE, "alice", &[]);
    let too_many: Vec<IpAddr> = (1..=9).map(|n| IpAddr::from([10, 99, 0, n])).collect();
    for (record, refusal) in [
        (IkeRecord { last_reply: reply, ..sound.clone() }, R::OutOfOrder),
        (IkeRecord { outstanding: Some(outstanding), ..sound.clone() }, R::OutOfOrder),
        (IkeRecord { inner_addresses: too_many, ..sound.clone() }, R::LimitReached),
        (IkeRecord { inner_addresses: vec![ip("10.99.0.1"); 2], ..sound.clone() }, R::AddressTaken),
    ] {
        let command = world.sa(ALICE, vec![establish(record)]);
        assert_eq!(refused(&mut world, command), refusal);
    }
}

//= test IK-63
#[test]
fn an_ike_rekey_hands_over_children_and_leases() {
    let mut world = two();
    let heir = spi(SEG, 5);
    let guard = world.guard(SEG);
    world.done(reserve(guard, ALICE, child_spi(SEG, 1), 100));
    let before = world.state.find_child(child_spi(SEG, 1)).unwrap().1.clone();

    let steps = vec![Step::AddIke(Box::new(record(heir, "alice", &[]))), Step::Inherit { by: heir }];
    let command = world.sa(ALICE, steps);
    let outcome = world.apply(command);
    assert_eq!(outcome.touched, [Touched::Ike(ALICE), Touched::Ike(heir)]);
    let (record, child) = world.state.find_child(child_spi(SEG, 1)).expect("it lives on");
    assert_eq!((record.spi, child), (heir, &before), "same block, same numbers");
    assert_eq!(record.inner_addresses, [ip("10.99.0.1")]);
    assert_eq!(world.state.lease(ip("10.99.0.1")).and_then(Lease::holder), Some(heir));
    let old = world.state.record(ALICE).expect("it waits for its delete");
    assert_eq!(old.phase, Phase::Replaced { successor: heir });
    assert!(old.children.is_empty() && old.inner_addresses.is_empty());

    // The end of the old one takes nothing along.
    let command = world.sa(ALICE, vec![Step::Remove { why: Why::Rekeyed }]);
    world.done(command);
    assert_eq!(world.state.lease(ip("10.99.0.1")).and_then(Lease::holder), Some(heir));
    assert!(world.state.find_child(child_spi(SEG, 1)).is_some());
}

#[test]
fn an_heir_must_be_of_the_segment() {
    let mut world = two();
    let elsewhere = spi(Segment(8), 1);
    let command = world.sa(elsewhere, vec![establish(record(elsewhere, "alice", &[]))]);
    world.done(command);
    for by in [elsewhere, BOB, ALICE, spi(SEG, 99)] {
        let command = world.sa(ALICE, vec![Step::Inherit { by }]);
        refused(&mut world, command);
    }
}

#[test]
fn an_older_sa_gives_way() {
    for silently in [true, false] {
        let mut world = two();
        let newer = spi(Segment(9), 1);
        let steps =
            vec![Step::Supersede { spi: ALICE, silently }, establish(record(newer, "alice", &["10.99.0.1"]))];
        let command = world.sa(newer, steps);
        let outcome = world.apply(command);
        assert_eq!(outcome.touched, [Touched::Ike(ALICE), Touched::Ike(newer)]);
        assert_eq!(world.state.lease(ip("10.99.0.1")).and_then(Lease::holder), Some(newer));
        assert!(world.state.find_child(child_spi(SEG, 1)).is_none());
        let old = world.state.record(ALICE).map(|record| record.phase);
        let closing = Phase::Closing { why: Why::Superseded };
        assert_eq!(old, (!silently).then_some(closing));
    }
}
