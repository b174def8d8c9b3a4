//! Two workers and what goes between them: a packet that lands on the wrong node ends where it would have ended on
//! the right one.

use ipsec::types::Segment;
use raft::state::NodeId;

use super::*;
use crate::datapath::relay::frame::{HOPS_MAX, Header, INNER_LEN, What};
use crate::datapath::relay::{Link, Owner, RelayDrop, Seal};

pub(super) const OTHER: NodeId = NodeId(2);
const GONE: NodeId = NodeId(9);
const OTHER_AT: &str = "198.18.0.12:7400";
const BEFORE: usize = 3;
const BEHIND: usize = 2;

/// Puts a mark before and behind; has a session with `OTHER` alone.
pub(super) struct Marks;

impl Seal for Marks {
    fn room(&self) -> (usize, usize) {
        (BEFORE, BEHIND)
    }

    fn seal(&mut self, to: NodeId, frame: &mut [u8]) -> Option<std::net::SocketAddr> {
        frame[..BEFORE].fill(0xaa);
        let len = frame.len();
        frame[len - BEHIND..].fill(0xbb);
        (to == OTHER).then(|| address(OTHER_AT))
    }

    fn flushed(&mut self) {}
}

/// A node that serves nothing and knows `OTHER` as the owner, with the test's end of its way to others.
pub(super) fn wrong_node() -> (Bench, OutsideHand) {
    let mut bench = Bench::new();
    let (outside, hand) = FakeOutside::new();
    bench.hold_lease(Millis(u64::MAX));
    bench.order(vec![
        Order::Link(Link { seal: Box::new(Marks), outside: Box::new(outside) }),
        Order::Owners(Segment::all().map(|segment| (segment, owned_by(OTHER))).collect()),
        Order::Reaches { ike: IKE, remote: vec![net("10.9.0.7", 32)] },
    ]);
    (bench, hand)
}

pub(super) fn owned_by(node: NodeId) -> Option<Owner> {
    Some(Owner { node: Some(node), epoch: EPOCH })
}

/// What one node has sent to another arrives there.
pub(super) fn carry(hand: &OutsideHand, to: &mut Bench) -> Vec<Header> {
    let headers = sent(hand).into_iter().map(|(route, frame)| {
        assert_eq!(route.peer, address(OTHER_AT));
        to.inlet.push(&frame);
        Header::parse(&frame).unwrap()
    });
    let headers = headers.collect();
    to.inlet.flush();
    to.lap();
    headers
}

/// The frames without the marks of the seal.
fn sent(hand: &OutsideHand) -> Vec<(Route, Vec<u8>)> {
    let strip = |(route, frame): (Route, Vec<u8>)| {
        let (before, rest) = frame.split_at(BEFORE);
        let (frame, behind) = rest.split_at(rest.len() - BEHIND);
        assert_eq!((before, behind), (&[0xaa; BEFORE][..], &[0xbb; BEHIND][..]));
        (route, frame.to_vec())
    };
    hand.take().into_iter().map(strip).collect()
}

fn relay_dropped(bench: &Bench, reason: RelayDrop) -> u64 {
    bench.counters.relay_dropped(reason)
}

//= test CL-18
//= test CL-19
//= test CL-44
#[test]
fn a_clients_packets_are_opened_by_the_owner_and_answered_by_it() {
    let (mut wrong, hand) = wrong_node();
    let mut owner = Bench::serving(1_000);
    let (first, second) = (owner.client_seals(&up(100)), owner.client_seals(&up(200)));
    wrong.nat_t.deliver(Route { tos: 0xb8, ..peer() }, &first);
    // Protocol 50, too: the owner takes it as it came.
    wrong.esp.deliver(Route { peer: address("198.51.100.9:0"), tos: 0 }, &second);
    wrong.lap();
    assert!(wrong.inside.take().is_empty(), "nothing is opened here");
    let headers = carry(&hand, &mut owner);
    assert_eq!(
        headers.iter().map(|header| (header.segment, header.epoch)).collect::<Vec<_>>(),
        [(SEGMENT, EPOCH); 2]
    );
    assert_eq!(owner.inside.take(), [up(100), up(200)]);
    // The client's address is learned from the frame, not from who relayed it.
    assert!(!owner.events().iter().any(|event| matches!(event, Event::PeerMoved { .. })));
    let moved = owner.client_seals(&up(1));
    wrong.nat_t.deliver(Route { peer: address("198.51.100.9:61000"), tos: 0 }, &moved);
    wrong.lap();
    carry(&hand, &mut owner);
    owner.inside.deliver(&down(300));
    owner.lap();
    let answers = owner.nat_t.take();
    assert_eq!((answers.len(), answers[0].0.peer), (1, address("198.51.100.9:61000")));
    assert_eq!(wrong.counters.relayed.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[test]
fn congestion_on_the_clients_way_is_kept() {
    let (mut wrong, hand) = wrong_node();
    let mut owner = Bench::serving(1_000);
    let mut inner = up(100);
    // ECT(0), with its checksum.
    inner[1] = 2;
    inner[10..12].fill(0);
    let sum = ipsec::esp::checksum::of(&inner[..20]);
    inner[10..12].copy_from_slice(&sum.to_be_bytes());
    let packet = owner.client_seals(&inner);
    wrong.nat_t.deliver(Route { tos: 3, ..peer() }, &packet);
    wrong.lap();
    carry(&hand, &mut owner);
    assert_eq!(owner.inside.take()[0][1], 3, "congestion experienced");
}

#[test]
fn ike_reaches_the_owner_with_the_addresses_of_the_client() {
    let (mut wrong, hand) = wrong_node();
    let mut owner = Bench::serving(1_000);
    // The flag of the initiator, and no SPI of ours yet.
    let message = ike_message(0, 8);
    wrong.ike.deliver(Route { peer: address("198.51.100.9:500"), tos: 0 }, &message);
    wrong.nat_t.deliver(peer(), &[&[0; 4], &ike_message(9, 1)[..]].concat());
    wrong.lap();
    assert!(wrong.reported().is_empty());
    let headers = carry(&hand, &mut owner);
    // A stranger's first message: the segment is the hash of where it came from.
    let spi_i = Spi(0x1111_1111_1111_1111);
    assert_eq!(headers[0].segment, Segment::of_initiator(address("198.51.100.9:500"), spi_i));
    assert_eq!(headers[1].segment, Segment(0x11));
    let Some(Report::Ike(datagrams)) = owner.reported().pop() else { panic!("no IKE message") };
    assert_eq!(
        datagrams,
        [
            Datagram::new(path().local, path().peer, ike_message(9, 1)),
            Datagram::new(address("192.0.2.1:500"), address("198.51.100.9:500"), message),
        ]
    );
}

#[test]
fn an_inner_packet_goes_to_the_owner_of_its_sa_and_from_there_to_the_client() {
    let (mut wrong, hand) = wrong_node();
    let mut owner = Bench::serving(1_000);
    wrong.inside.deliver(&down(100));
    wrong.inside.deliver(&udp([10, 1, 2, 3], [10, 9, 0, 8], 10, true));
    wrong.lap();
    assert_eq!(wrong.dropped(DropReason::NoPolicy), 1, "nobody's address");
    carry(&hand, &mut owner);
    assert_eq!(owner.client_opens(), [down(100)]);
    wrong.order(vec![Order::Reaches { ike: IKE, remote: vec![] }]);
    wrong.inside.deliver(&down(100));
    wrong.lap();
    assert_eq!((sent(&hand).len(), wrong.dropped(DropReason::NoPolicy)), (0, 2), "the SA is gone");
}

#[test]
fn the_longest_prefix_of_the_whole_cluster_decides() {
    let (mut wrong, hand) = wrong_node();
    let site = Spi(0x0800_0000_0000_0009);
    let wide = ChildRecord {
        spi_in: ChildSpi(0x0800_0101),
        remote_ts: vec![net("10.9.0.0", 16)],
        ..child(block(100))
    };
    wrong.order(vec![
        Order::Serve { segment: site.segment(), epoch: EPOCH },
        Order::Install(Box::new(Install { ike: site, ..install(wide, path()) })),
        Order::Reaches { ike: site, remote: vec![net("10.9.0.0", 16)] },
    ]);
    wrong.inside.deliver(&down(100));
    wrong.inside.deliver(&udp([10, 1, 2, 3], [10, 9, 0, 8], 10, true));
    wrong.lap();
    let relayed = sent(&hand);
    assert_eq!((relayed.len(), &relayed[0].1[INNER_LEN..]), (1, &down(100)[..]));
    assert_eq!(wrong.nat_t.take().len(), 1, "the rest of the network is served here");
}

#[test]
fn a_frame_goes_on_once_when_the_owner_has_changed() {
    let (mut wrong, first) = wrong_node();
    let (mut former, second) = wrong_node();
    let (mut lost, third) = wrong_node();
    let packet = wrong.client_seals(&up(100));
    wrong.nat_t.deliver(peer(), &packet);
    wrong.lap();
    let hops: Vec<u8> = carry(&first, &mut former).iter().map(|header| header.hops).collect();
    assert_eq!(hops, [HOPS_MAX]);
    let hops: Vec<u8> = carry(&second, &mut lost).iter().map(|header| header.hops).collect();
    assert_eq!(hops, [HOPS_MAX - 1]);
    assert!(sent(&third).is_empty());
    assert_eq!((relay_dropped(&former, RelayDrop::Hops), relay_dropped(&lost, RelayDrop::Hops)), (0, 1));
    let (mut wrong, hand) = wrong_node();
    let forged = Header { what: What::Inner, hops: 255, tos: 0, segment: SEGMENT, epoch: EPOCH };
    let mut frame = vec![0; INNER_LEN + 20];
    forged.emit(&mut frame);
    wrong.inlet.push(&frame);
    wrong.inlet.flush();
    wrong.lap();
    assert_eq!(Header::parse(&sent(&hand)[0].1).unwrap().hops, HOPS_MAX - 1);
}

/// Whoever is behind the log neither opens nor passes on.
#[test]
fn a_newer_epoch_is_left_to_who_knows_it() {
    let newer = Epoch(EPOCH.0 + 1);
    let (mut wrong, hand) = wrong_node();
    let mut owner = Bench::serving(1_000);
    let packet = owner.client_seals(&up(100));
    wrong.order(vec![Order::Owners(vec![(SEGMENT, Some(Owner { node: Some(OTHER), epoch: newer }))])]);
    wrong.nat_t.deliver(peer(), &packet);
    wrong.lap();
    let frames = hand.clone();
    carry(&frames, &mut owner);
    assert!(owner.inside.take().is_empty());
    assert_eq!(relay_dropped(&owner, RelayDrop::Ahead), 1);
    // Not served, and known under an older epoch.
    let (mut behind, hand) = wrong_node();
    wrong.nat_t.deliver(peer(), &packet);
    wrong.lap();
    carry(&frames, &mut behind);
    assert_eq!((sent(&hand).len(), relay_dropped(&behind, RelayDrop::Ahead)), (0, 1));
    // An older epoch than ours: the sender is behind, and right all the same.
    owner.order(vec![Order::Serve { segment: SEGMENT, epoch: Epoch(newer.0 + 1) }]);
    wrong.nat_t.deliver(peer(), &packet);
    wrong.lap();
    carry(&frames, &mut owner);
    assert_eq!(owner.inside.take(), [up(100)]);
}

#[test]
fn without_an_owner_a_session_or_a_lease_it_is_dropped() {
    let (mut wrong, hand) = wrong_node();
    let packet = wrong.client_seals(&up(100));
    let deliver = |bench: &mut Bench| {
        bench.nat_t.deliver(peer(), &packet);
        bench.lap();
        bench.dropped(DropReason::NotOwner)
    };
    wrong.order(vec![Order::Owners(vec![(SEGMENT, None)])]);
    assert_eq!(deliver(&mut wrong), 1, "nobody's");
    wrong.order(vec![Order::Owners(vec![(SEGMENT, Some(Owner { node: None, epoch: EPOCH }))])]);
    assert_eq!(deliver(&mut wrong), 2, "ours, but not taken up yet");
    wrong.order(vec![Order::Owners(vec![(SEGMENT, owned_by(GONE))])]);
    assert_eq!((deliver(&mut wrong), relay_dropped(&wrong, RelayDrop::NoSession)), (2, 1));
    for frame in [&[][..], &[9; 40]] {
        wrong.inlet.push(frame);
    }
    wrong.inlet.flush();
    wrong.lap();
    assert_eq!(relay_dropped(&wrong, RelayDrop::BadFrame), 2);
    wrong.order(vec![Order::Owners(vec![(SEGMENT, owned_by(OTHER))])]);
    wrong.lap.core.lease = Grip::default();
    assert_eq!(deliver(&mut wrong), 3, "no lease");
    assert!(sent(&hand).is_empty());
}

#[test]
fn what_all_have_seen_is_left_to_its_owner_unless_it_came_in_an_aggregate() {
    let (mut wrong, hand) = wrong_node();
    let (one, two) = (wrong.client_seals(&up(100)), wrong.client_seals(&up(100)));
    wrong.lap.core.seen_by_all = SeenByAll { outside: true, inside: true };
    wrong.nat_t.deliver(peer(), &one);
    wrong.inside.deliver(&down(100));
    wrong.lap();
    assert_eq!((sent(&hand).len(), relay_dropped(&wrong, RelayDrop::SeenByAll)), (0, 2));
    wrong.nat_t.deliver_aggregate(peer(), &[&one[..], &two].concat(), one.len());
    wrong.lap();
    assert_eq!(sent(&hand).len(), 2);
}

/// A router's word reaches the node that heeds it.
//= test CL-38
#[test]
fn how_narrow_a_way_is_reaches_the_owner() {
    let (mut wrong, hand) = wrong_node();
    let mut owner = Bench::serving(1_000);
    wrong.order(vec![Order::PathMtu { ike: IKE, octets: 700 }]);
    carry(&hand, &mut owner);
    owner.inside.deliver(&down(1_000));
    owner.lap();
    assert_eq!((owner.dropped(DropReason::TooBig), owner.nat_t.take().len()), (1, 0));
    assert_eq!(owner.inside.take().len(), 1, "the sender is told");
}

#[test]
fn a_burst_leaves_in_runs_and_none_is_lost_at_the_end_of_the_memory() {
    let (mut wrong, hand) = wrong_node();
    let mut owner = Bench::serving(10_000);
    let packets: Vec<_> = (0..400).map(|_| owner.client_seals(&up(1_300))).collect();
    for burst in packets.chunks(20) {
        for packet in burst {
            wrong.nat_t.deliver(peer(), packet);
        }
        wrong.lap();
    }
    while !matches!(carry(&hand, &mut owner).len(), 0) {}
    assert_eq!(owner.inside.take().len(), 400);
}
