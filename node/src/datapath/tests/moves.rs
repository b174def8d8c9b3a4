//! A planned move between two workers: every packet arrives, none of them twice, whoever saw it.

use ipsec::esp::Replay;
use tokio::sync::oneshot;

use super::relay::{Marks, OTHER, carry, owned_by};
use super::*;
use crate::datapath::Closed;
use crate::datapath::held::Forwarded;
use crate::datapath::relay::{Link, Owner, RelayDrop};

const NEXT: Epoch = Epoch(EPOCH.0 + 1);

/// The owner, the next owner, and what the first one sends to the second.
struct Move {
    owner: Bench,
    next: Bench,
    passed_on: OutsideHand,
    seen_by_all: bool,
}

impl Move {
    fn new(seen_by_all: bool) -> Move {
        let (mut owner, mut next) = (Bench::serving(1_000), Bench::new());
        let (outside, passed_on) = FakeOutside::new();
        let link = Order::Link(Link { seal: Box::new(Marks), outside: Box::new(outside) });
        let reaches = || Order::Reaches { ike: IKE, remote: vec![net("10.9.0.7", 32)] };
        owner.order(vec![link, reaches()]);
        next.hold_lease(Millis(u64::MAX));
        next.order(vec![reaches(), Order::Owners(vec![(SEGMENT, owned_by(OTHER))])]);
        for bench in [&mut owner, &mut next] {
            bench.lap.core.seen_by_all = SeenByAll { outside: seen_by_all, inside: seen_by_all };
        }
        Move { owner, next, passed_on, seen_by_all }
    }

    fn open(&mut self) {
        let (watched, mut begun) = oneshot::channel();
        self.owner.order(vec![Order::Watch { segment: SEGMENT, key: [9; 32], watched }]);
        begun.try_recv().expect("from now on it is noted what is forwarded");
        let (opened, mut told) = oneshot::channel();
        self.next.order(vec![Order::Open { segment: SEGMENT, epoch: NEXT, opened }]);
        told.try_recv().expect("from now on the next owner sees what comes");
    }

    fn close(&mut self) -> Closed {
        let (closed, mut told) = oneshot::channel();
        let next = Owner { node: Some(OTHER), epoch: NEXT };
        self.owner.order(vec![Order::Close { segment: SEGMENT, next, closed }]);
        told.try_recv().expect("what the next owner needs")
    }

    fn take(&mut self, closed: &Closed) {
        let block = Block { epoch: NEXT, first: EspSeq(1_001), last: EspSeq(2_000) };
        let [carried] = &closed.children[..] else { panic!("one child") };
        let install =
            Install { replay: Replay::Exact(carried.window.clone()), ..install(child(block), path()) };
        install.stats.go_on(carried, Millis(1_000));
        let forwarded = closed.forwarded.clone();
        self.next.order(vec![
            Order::Serve { segment: SEGMENT, epoch: NEXT },
            Order::Install(Box::new(install)),
            Order::Release { segment: SEGMENT, forwarded },
        ]);
    }

    /// A packet of the client: where all see it at both, else where the address is, at the owner before.
    fn client_sends(&mut self, packet: &[u8]) {
        self.owner.nat_t.deliver(peer(), packet);
        if self.seen_by_all {
            self.next.nat_t.deliver(peer(), packet);
        }
        self.pass();
    }

    fn inside_sends(&mut self, packet: &[u8]) {
        self.owner.inside.deliver(packet);
        if self.seen_by_all {
            self.next.inside.deliver(packet);
        }
        self.pass();
    }

    fn pass(&mut self) {
        self.owner.lap();
        self.next.lap();
        carry(&self.passed_on, &mut self.next);
    }
}

//= test CL-13
#[test]
fn nothing_is_lost_and_nothing_comes_twice() {
    for seen_by_all in [false, true] {
        let mut it = Move::new(seen_by_all);
        let sealed: Vec<Vec<u8>> = (0..5).map(|n| it.owner.client_seals(&up(100 + n))).collect();
        it.client_sends(&sealed[0]);
        it.open();
        it.client_sends(&sealed[1]);
        it.inside_sends(&down(1));
        let closed = it.close();
        // The segment gets another standby in the middle of it: the log still names the owner that has closed it.
        it.owner.order(vec![Order::Owners(vec![(SEGMENT, Some(Owner { node: None, epoch: EPOCH }))])]);
        it.client_sends(&sealed[2]);
        it.inside_sends(&down(2));
        it.client_sends(&sealed[1]);
        assert!(it.next.inside.take().is_empty(), "held until the log says whose it is");
        it.take(&closed);
        it.next.nat_t.deliver(peer(), &sealed[3]);
        it.next.inside.deliver(&down(3));
        it.next.lap();
        assert_eq!(it.owner.inside.take(), [up(100), up(101)]);
        assert_eq!(it.next.inside.take(), [up(102), up(103)], "seen by all: {seen_by_all}");
        assert_eq!(it.owner.client_opens(), [down(1)]);
        assert_eq!(it.next.client_opens(), [down(2), down(3)], "seen by all: {seen_by_all}");
        assert!(it.next.dropped(DropReason::Replay) >= 1, "what was received before is known");
        assert_eq!(it.next.counters.relay_dropped(RelayDrop::Held), 0);
    }
}

#[test]
fn packets_that_wait_for_numbers_go_along() {
    for seen_by_all in [false, true] {
        let mut it = Move::new(seen_by_all);
        it.open();
        for n in 0..1_003 {
            it.inside_sends(&down(n));
        }
        assert_eq!(it.owner.client_opens().len(), 1_000, "the block is used up");
        let closed = it.close();
        it.pass();
        it.take(&closed);
        assert_eq!(it.next.client_opens(), [down(1_000), down(1_001), down(1_002)]);
        assert_eq!(it.owner.dropped(DropReason::Block), 0);
    }
}

#[test]
fn a_move_that_comes_to_nothing_costs_what_was_held_and_no_more() {
    let mut it = Move::new(false);
    it.open();
    let sealed: Vec<Vec<u8>> = (0..3).map(|n| it.owner.client_seals(&up(100 + n))).collect();
    it.close();
    it.client_sends(&sealed[0]);
    it.next.order(vec![Order::Abandon { segment: SEGMENT }]);
    assert_eq!(it.next.counters.relay_dropped(RelayDrop::Held), 1);
    // The owner takes it again, one epoch later.
    let block = Block { epoch: NEXT, first: EspSeq(1_001), last: EspSeq(2_000) };
    it.owner.order(vec![
        Order::Serve { segment: SEGMENT, epoch: NEXT },
        Order::Owners(vec![(SEGMENT, Some(Owner { node: None, epoch: NEXT }))]),
        Order::Install(Box::new(install(child(block), path()))),
        Order::Release { segment: SEGMENT, forwarded: Forwarded::default() },
    ]);
    it.client_sends(&sealed[1]);
    it.inside_sends(&down(1));
    assert_eq!(it.owner.inside.take(), [up(101)]);
    assert_eq!(it.owner.client_opens(), [down(1)]);
}
