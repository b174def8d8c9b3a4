//! A worker between fakes, lap by lap: a client's packets in, an inside's packets out, orders and reports.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crypto::Secret;
use crypto::cipher::{Cipher, Protection};
use crypto::rng::{Rng, SeededRng};
use ipsec::datagram::Datagram;
use ipsec::esp::{Arrival, DropReason, Event, Flow, Install, Origin, Replay, Table};
use ipsec::policy::{Network, Selector};
use ipsec::record::{Block, ChildKeys, ChildPhase, ChildRecord, EspSuite, Path, Side};
use ipsec::types::{ChildSpi, Epoch, EspSeq, Millis, Segment, Spi};
use tokio::sync::mpsc;

use super::counters::Counters;
use super::handle::{REPORTS_MAX, SeenByAll, Worker};
use super::message::{Order, Report};
use super::ports::{Carries, Port};
use super::relay::{Inlet, inlet};
use super::worker::{Lap, Next, Queues, Sources};
use crate::io::clock::{Clock, ManualClock};
use crate::io::fake::{FakeInside, FakeOutside, InsideHand, OutsideHand};
use crate::io::{Offload, Poller, Route, VirtioNetHdr};
use crate::lease::{Grip, Lease};

mod moves;
mod relay;

const SEGMENT: Segment = Segment(7);
const EPOCH: Epoch = Epoch(3);
const IKE: Spi = Spi(0x0700_0000_0000_0001);
const OURS: ChildSpi = ChildSpi(0x0700_0101);
const PEERS: ChildSpi = ChildSpi(0x0700_0202);

/// A worker with its surroundings.
struct Bench {
    lap: Lap<ManualClock>,
    clock: ManualClock,
    orders: mpsc::Sender<Vec<Order>>,
    reports: mpsc::Receiver<Report>,
    counters: Arc<Counters>,
    lease: Lease,
    ike: OutsideHand,
    nat_t: OutsideHand,
    esp: OutsideHand,
    inside: InsideHand,
    inlet: Inlet,
    client: Table,
}

fn address(text: &str) -> std::net::SocketAddr {
    text.parse().unwrap()
}

fn peer() -> Route {
    Route { peer: address("198.51.100.9:4500"), tos: 0 }
}

fn path() -> Path {
    Path { local: address("192.0.2.1:4500"), peer: peer().peer, peer_behind_nat: true, we_behind_nat: false }
}

fn block(last: u64) -> Block {
    Block { epoch: EPOCH, first: EspSeq(1), last: EspSeq(last) }
}

fn net(address: &str, prefix: u8) -> Selector {
    Selector::network(Network { address: address.parse().unwrap(), prefix })
}

fn child(block: Block) -> ChildRecord {
    let protection = Protection::new(Cipher::AesGcm128, None).unwrap();
    let mut rng = SeededRng::new(1);
    let mut key = || Secret::from(rng.vec(protection.encr_key_len()));
    ChildRecord {
        name: "net".into(),
        spi_in: OURS,
        spi_out: PEERS,
        suite: EspSuite { protection, esn: false, group: None },
        keys: ChildKeys {
            encr_in: key(),
            integ_in: Secret::from(vec![]),
            encr_out: key(),
            integ_out: Secret::from(vec![]),
        },
        local_ts: vec![net("10.1.0.0", 16)],
        remote_ts: vec![net("10.9.0.7", 32)],
        established_at: Millis(0),
        phase: ChildPhase::Live,
        initiator: Side::Us,
        replaces: None,
        block,
        granted: block.last,
        claimed: None,
    }
}

fn install(child: ChildRecord, path: Path) -> Install {
    Install {
        ike: IKE,
        child,
        path,
        rekey_octets: 0,
        path_mtu: 1_500,
        replay: Replay::Fresh,
        stats: Arc::default(),
    }
}

/// The other end of the tunnel.
fn client() -> Table {
    let ours = child(block(100_000));
    let keys = ours.keys.clone();
    let mirrored = ChildRecord {
        spi_in: PEERS,
        spi_out: OURS,
        keys: ChildKeys {
            encr_in: keys.encr_out,
            integ_in: keys.integ_out,
            encr_out: keys.encr_in,
            integ_out: keys.integ_in,
        },
        local_ts: ours.remote_ts.clone(),
        remote_ts: ours.local_ts.clone(),
        ..ours
    };
    let mut table = Table::new();
    table.serve(SEGMENT, EPOCH).unwrap();
    let back = Path { local: path().peer, peer: path().local, ..path() };
    table.install(install(mirrored, back), &mut SeededRng::new(2)).unwrap();
    table
}

impl Bench {
    fn new() -> Bench {
        let (ike, ike_hand) = FakeOutside::new();
        let (nat_t, nat_t_hand) = FakeOutside::new();
        let (esp, esp_hand) = FakeOutside::new();
        let (inside, inside_hand) = FakeInside::new(Offload { tso: true, uso: true });
        let ports = vec![
            Port::new(address("192.0.2.1:500"), Carries::Ike, Box::new(ike)),
            Port::new(address("192.0.2.1:4500"), Carries::NatT, Box::new(nat_t)),
            Port::new(address("192.0.2.1:0"), Carries::Esp, Box::new(esp)),
        ];
        let (orders, queue) = mpsc::channel(16);
        let (report, reports) = mpsc::channel(REPORTS_MAX);
        let woken = Arc::new(AtomicBool::new(false));
        let lease = Lease::default();
        let queues = Queues { orders: queue, reports: report, woken, lease: lease.clone() };
        let (clock, counters) = (ManualClock::default(), Arc::new(Counters::default()));
        clock.advance(1_000);
        let (line, outlet) = inlet::way(Poller::new().unwrap().waker(), Arc::default(), Arc::default());
        let worker = Worker { ports, inside: Box::new(inside), seen_by_all: SeenByAll::default() };
        let lap = Lap::new(worker, clock.clone(), counters.clone(), queues, outlet).unwrap();
        Bench {
            lap,
            clock,
            orders,
            reports,
            counters,
            lease,
            ike: ike_hand,
            nat_t: nat_t_hand,
            esp: esp_hand,
            inside: inside_hand,
            inlet: Inlet::new(vec![line]),
            client: client(),
        }
    }

    /// With a lease, all segments and a child that may use numbers up to `last`.
    fn serving(last: u64) -> Bench {
        let mut bench = Bench::new();
        bench.hold_lease(Millis(u64::MAX));
        let mut orders: Vec<_> =
            Segment::all().map(|segment| Order::Serve { segment, epoch: EPOCH }).collect();
        orders.push(Order::Install(Box::new(install(child(block(last)), path()))));
        bench.order(orders);
        bench
    }

    /// From now on, with nothing left of what came before.
    fn hold_lease(&mut self, until: Millis) {
        assert!(self.lease.extend(until, self.clock.now()), "it begins anew");
        self.lap();
    }

    fn order(&mut self, orders: Vec<Order>) {
        self.orders.try_send(orders).unwrap();
        self.lap();
    }

    fn lap(&mut self) -> Next {
        self.lap.lap(Sources::All).unwrap()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.dropped(reason)
    }

    fn reported(&mut self) -> Vec<Report> {
        std::iter::from_fn(|| self.reports.try_recv().ok()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        let events = |report| match report {
            Report::Events(events) => events,
            _ => vec![],
        };
        self.reported().into_iter().flat_map(events).collect()
    }

    fn client_seals(&mut self, inner: &[u8]) -> Vec<u8> {
        let index = self.client.select(&Flow::of(inner).unwrap()).unwrap();
        let mut sealer = self.client.sealer(index, Millis(0)).unwrap();
        let mut packet = vec![0; sealer.sealed_len(inner.len())];
        sealer.seal(inner, &mut packet).unwrap();
        packet
    }

    /// What the client makes of everything that was sent to it.
    fn client_opens(&mut self) -> Vec<Vec<u8>> {
        let mut inner = Vec::new();
        for (_, mut packet) in self.nat_t.take() {
            let arrival = Arrival { range: 0..packet.len(), peer: path().local, tos: 0 };
            let origin = Origin { local: path().peer, udp: true };
            self.client.open(Millis(0), origin, &mut packet, &[arrival], &mut |arena, range| {
                inner.push(arena[range].to_vec());
            });
        }
        inner
    }
}

/// A UDP datagram in IPv4 with right lengths and checksums, which may be cut on its way.
fn udp(source: [u8; 4], destination: [u8; 4], payload: usize, dont_fragment: bool) -> Vec<u8> {
    let total = (28 + payload) as u16;
    let flags = if dont_fragment { 0x40 } else { 0 };
    let mut packet = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 1, flags, 0, 63, 17, 0, 0];
    packet.extend(source);
    packet.extend(destination);
    let sum = ipsec::esp::checksum::of(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0x10, 0, 0, 53]);
    packet.extend((payload as u16 + 8).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend((0..payload).map(|at| at as u8));
    packet
}

fn up(payload: usize) -> Vec<u8> {
    udp([10, 9, 0, 7], [10, 1, 2, 3], payload, true)
}

fn down(payload: usize) -> Vec<u8> {
    udp([10, 1, 2, 3], [10, 9, 0, 7], payload, true)
}

/// An IKE header and something behind it.
fn ike_message(spi_r: u64, tag: u8) -> Vec<u8> {
    let mut message = vec![0x11; 8];
    message.extend(spi_r.to_be_bytes());
    message.extend([tag; 24]);
    message
}

#[test]
fn packets_pass_both_ways() {
    let mut bench = Bench::serving(1_000);
    let packet = bench.client_seals(&up(100));
    bench.nat_t.deliver(peer(), &packet);
    bench.inside.deliver(&down(200));
    bench.lap();
    assert_eq!(bench.inside.take(), [up(100)]);
    assert_eq!(bench.client_opens(), [down(200)]);
    assert!(bench.esp.take().is_empty() && bench.ike.take().is_empty());
    assert!(bench.events().contains(&Event::FirstInbound { ike: IKE, child: OURS }));
    let packets = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((packets(&bench.counters.packets_in), packets(&bench.counters.octets_in)), (1, 128));
    assert_eq!((packets(&bench.counters.packets_out), packets(&bench.counters.octets_out)), (1, 228));
}

//= test CL-44
#[test]
fn protocol_50_goes_through_its_own_socket() {
    let mut bench = Bench::serving(1_000);
    let packet = bench.client_seals(&up(100));
    bench.esp.deliver(Route { peer: address("198.51.100.9:0"), tos: 0 }, &packet);
    bench.lap();
    assert_eq!(bench.inside.take(), [up(100)], "plain ESP is taken although the path is in UDP");
    let plain = Path { local: address("192.0.2.1:500"), peer: address("198.51.100.9:500"), ..path() };
    bench.order(vec![Order::Moved { ike: IKE, path: plain }]);
    bench.inside.deliver(&down(10));
    bench.lap();
    let sent = bench.esp.take();
    assert_eq!((sent.len(), sent[0].0.peer.ip()), (1, plain.peer.ip()));
    assert_eq!(sent[0].1[..4], PEERS.0.to_be_bytes());
}

//= test ES-14
#[test]
fn an_aggregate_is_opened_and_a_super_packet_is_split() {
    let mut bench = Bench::serving(1_000);
    let mut aggregate = Vec::new();
    for _ in 0..5 {
        aggregate.extend(bench.client_seals(&up(100)));
    }
    let stride = aggregate.len() / 5;
    bench.nat_t.deliver_aggregate(peer(), &aggregate, stride);

    // 3 segments of 500 octets and one of 120.
    let mut super_packet = down(1_620);
    let pseudo: u32 = [&super_packet[12..20], &[0, 17], &1_628u16.to_be_bytes()]
        .iter()
        .map(|part| ipsec::esp::checksum::sum(part))
        .sum();
    super_packet[26..28].copy_from_slice(&ipsec::esp::checksum::fold(pseudo).to_be_bytes());
    let header = VirtioNetHdr {
        flags: VirtioNetHdr::NEEDS_CSUM,
        gso_type: VirtioNetHdr::GSO_UDP_L4,
        hdr_len: 28,
        gso_size: 500,
        csum_start: 20,
        csum_offset: 6,
    };
    bench.inside.deliver_super(header, &super_packet);
    bench.lap();
    assert_eq!(bench.inside.take().len(), 5);
    let inner = bench.client_opens();
    assert_eq!(inner.iter().map(Vec::len).collect::<Vec<_>>(), [528, 528, 528, 148]);
    let payload: Vec<u8> = inner.iter().flat_map(|packet| packet[28..].to_vec()).collect();
    assert_eq!(payload, super_packet[28..]);
}

//= test IK-98
//= test CL-36
#[test]
fn ike_comes_without_its_marker_and_leaves_with_it() {
    let mut bench = Bench::serving(1_000);
    let message = ike_message(9, 1);
    bench.ike.deliver(peer(), &message);
    bench.nat_t.deliver(peer(), &[&[0; 4], &message[..]].concat());
    bench.nat_t.deliver(peer(), &[0xff]);
    bench.lap();
    let datagrams: Vec<_> = bench
        .reported()
        .into_iter()
        .flat_map(|report| if let Report::Ike(batch) = report { batch } else { vec![] })
        .collect();
    let expected = |local| Datagram::new(address(local), peer().peer, message.clone());
    assert_eq!(datagrams, [expected("192.0.2.1:500"), expected("192.0.2.1:4500")]);
    assert_eq!(bench.dropped(DropReason::Keepalive), 1);

    bench.order(vec![Order::Send(datagrams.iter().map(|datagram| datagram.reply(vec![7; 40])).collect())]);
    assert_eq!(bench.ike.take()[0].1, [7; 40]);
    assert_eq!(bench.nat_t.take()[0].1, [&[0; 4][..], &[7; 40]].concat());
    let stranger = Datagram::new(address("192.0.2.250:500"), peer().peer, vec![7; 40]);
    bench.order(vec![Order::Send(vec![stranger])]);
    assert_eq!(bench.dropped(DropReason::NoSocket), 1);
}

#[test]
fn an_install_before_a_reply_is_in_effect_when_it_leaves() {
    let mut bench = Bench::new();
    bench.hold_lease(Millis(u64::MAX));
    bench.order(vec![Order::Serve { segment: SEGMENT, epoch: EPOCH }]);
    let packet = bench.client_seals(&up(10));
    let reply = Datagram::new(path().local, path().peer, ike_message(9, 2));
    let orders = vec![Order::Install(Box::new(install(child(block(10)), path()))), Order::Send(vec![reply])];
    bench.orders.try_send(orders).unwrap();
    // The client's first packet is there already when the order is carried out.
    bench.nat_t.deliver(peer(), &packet);
    bench.lap();
    assert_eq!((bench.nat_t.take().len(), bench.inside.take().len()), (1, 1));
}

#[test]
fn packets_wait_for_numbers_in_order_and_not_for_ever() {
    let mut bench = Bench::serving(2);
    for payload in 1..=5 {
        bench.inside.deliver(&down(payload));
    }
    assert_eq!(bench.lap(), Next::Wait(Some(10)), "restless while packets wait");
    assert_eq!(bench.client_opens(), [down(1), down(2)]);
    assert!(bench.events().iter().any(|event| matches!(event, Event::NeedBlock { child: OURS, .. })));
    // A later packet queues behind the others.
    bench.inside.deliver(&down(6));
    bench.orders.try_send(vec![Order::Grant { child: OURS, block: block(100) }]).unwrap();
    bench.lap();
    assert_eq!(bench.client_opens(), (3..=6).map(down).collect::<Vec<_>>());
    assert_eq!(bench.lap(), Next::Wait(None));

    let mut bench = Bench::serving(1);
    for payload in 1..=3 {
        bench.inside.deliver(&down(payload));
    }
    bench.lap();
    let asks = bench.events().len();
    assert_eq!(asks, 1);
    bench.clock.advance(300);
    bench.lap();
    assert_eq!(bench.events().len(), 1, "it asks again");
    bench.clock.advance(900);
    bench.lap();
    assert_eq!(bench.dropped(DropReason::Block), 2);
}

//= test CL-18
#[test]
fn nothing_leaves_without_a_lease() {
    let mut bench = Bench::serving(1_000);
    (bench.lease, bench.lap.core.lease) = Grip::until(Millis(2_000), Millis(1_000));
    bench.inside.deliver(&down(1));
    bench.lap();
    assert_eq!(bench.client_opens().len(), 1);
    bench.clock.advance(1_000);
    bench.inside.deliver(&down(2));
    let packet = bench.client_seals(&up(1));
    bench.nat_t.deliver(peer(), &packet);
    let reply = Datagram::new(path().local, path().peer, ike_message(9, 2));
    bench.order(vec![Order::Send(vec![reply])]);
    bench.lap();
    assert!(bench.nat_t.take().is_empty() && bench.inside.take().is_empty());
    assert_eq!(bench.dropped(DropReason::NotOwner), 3);
    // What was thrown away does not come back with a new lease, nor what waited until it began.
    bench.inside.deliver(&down(3));
    bench.nat_t.deliver(peer(), &packet);
    bench.hold_lease(Millis(9_000));
    bench.lap();
    assert!(bench.nat_t.take().is_empty() && bench.inside.take().is_empty());
    assert_eq!(bench.dropped(DropReason::NotOwner), 5);
    bench.inside.deliver(&down(4));
    bench.lap();
    assert_eq!(bench.client_opens().len(), 1);
}

/// A process that was stopped while its lease ran out, and has it again before its worker looks.
//= test CL-18
#[test]
fn what_waited_while_the_process_was_stopped_is_thrown_away() {
    let mut bench = Bench::serving(1_000);
    (bench.lease, bench.lap.core.lease) = Grip::until(Millis(2_000), Millis(1_000));
    bench.lap();
    bench.inside.deliver(&down(1));
    let packet = bench.client_seals(&up(1));
    bench.nat_t.deliver(peer(), &packet);
    bench.clock.advance(5_000);
    bench.hold_lease(Millis(6_060));
    assert!(bench.nat_t.take().is_empty() && bench.inside.take().is_empty());
    assert_eq!(bench.dropped(DropReason::NotOwner), 2);
}

#[test]
fn a_flood_of_initiators_leaves_room_for_the_others() {
    let mut bench = Bench::serving(1_000);
    let initial = ike_message(0, 1);
    let aggregate = initial.repeat(60);
    for _ in 0..20 {
        bench.ike.deliver_aggregate(peer(), &aggregate, initial.len());
    }
    bench.ike.deliver(peer(), &ike_message(9, 2));
    let packet = bench.client_seals(&up(5));
    bench.nat_t.deliver(peer(), &packet);
    bench.lap();
    assert_eq!(bench.inside.take().len(), 1, "ESP passes in the same lap");
    let Some(Report::Ike(batch)) =
        bench.reported().into_iter().find(|report| matches!(report, Report::Ike(_)))
    else {
        panic!("no IKE")
    };
    assert_eq!(batch[0].octets, ike_message(9, 2), "the known one goes first");
    assert_eq!(batch.len(), 33);
    assert_eq!(bench.dropped(DropReason::IkeOverload), 1_200 - 32);

    // The control side does not keep up: initiators are refused first, events never.
    let mut laps = 0;
    while laps < 2 * REPORTS_MAX {
        bench.ike.deliver(peer(), &initial);
        bench.lap();
        laps += 1;
    }
    assert!(bench.reports.len() <= REPORTS_MAX / 2 + 1, "{}", bench.reports.len());
    bench.ike.deliver(peer(), &ike_message(9, 3));
    bench.lap();
    let last = bench.reported().pop();
    assert!(matches!(last, Some(Report::Ike(batch)) if batch[0].octets == ike_message(9, 3)));
}

#[test]
fn a_full_queue_delays_events_and_loses_none() {
    let mut bench = Bench::serving(1_000);
    let filler = bench.lap.fill_reports();
    assert!(filler > 0);
    let packet = bench.client_seals(&up(5));
    bench.nat_t.deliver(peer(), &packet);
    assert_eq!(bench.lap(), Next::Wait(Some(10)));
    bench.reported();
    bench.lap();
    assert!(bench.events().contains(&Event::FirstInbound { ike: IKE, child: OURS }));
}

//= test ES-20
#[test]
fn long_packets_are_cut_or_answered() {
    let mut bench = Bench::serving(1_000);
    bench.inside.deliver(&down(1_472));
    bench.lap();
    let replies = bench.inside.take();
    assert_eq!(replies.len(), 1);
    assert_eq!((replies[0][9], &replies[0][20..22]), (1, &[3, 4][..]), "fragmentation needed");
    let mtu = usize::from(u16::from_be_bytes([replies[0][26], replies[0][27]]));
    assert_eq!(bench.dropped(DropReason::TooBig), 1);
    bench.inside.deliver(&down(mtu - 28));
    bench.lap();
    assert_eq!(bench.client_opens().len(), 1, "what was told fits");

    bench.inside.deliver(&udp([10, 1, 2, 3], [10, 9, 0, 7], 1_472, false));
    bench.lap();
    let parts = bench.client_opens();
    assert_eq!(parts.len(), 2);
    assert_eq!(parts.iter().map(|part| part.len() - 20).sum::<usize>(), 1_480);
    assert!(bench.inside.take().is_empty());
}

//= test ES-16
#[test]
fn what_has_no_sa_stays_inside() {
    let mut bench = Bench::serving(1_000);
    bench.inside.deliver(&udp([10, 1, 2, 3], [10, 9, 0, 8], 10, true));
    bench.inside.deliver(&udp([10, 2, 2, 3], [10, 9, 0, 7], 10, true));
    bench.order(vec![Order::Remove { child: OURS }]);
    bench.inside.deliver(&down(10));
    bench.lap();
    assert_eq!(bench.dropped(DropReason::NoPolicy), 3);
    assert!(bench.nat_t.take().is_empty() && bench.esp.take().is_empty() && bench.ike.take().is_empty());
}

#[test]
fn a_flood_of_bad_packets_is_one_event() {
    let mut bench = Bench::serving(1_000);
    for number in 0..50u8 {
        let mut packet = vec![number; 100];
        packet[..4].copy_from_slice(&[7, 9, 9, 9]);
        bench.nat_t.deliver(peer(), &packet);
        bench.lap();
    }
    assert_eq!(bench.dropped(DropReason::UnknownSpi), 50);
    assert_eq!(bench.events().len(), 1);
    bench.clock.advance(150);
    bench.nat_t.deliver(peer(), &[7; 100]);
    bench.lap();
    assert_eq!(bench.events().len(), 1);
}

#[test]
fn a_worker_ends_with_the_control_side() {
    let mut bench = Bench::serving(1_000);
    let (orders, _) = mpsc::channel(1);
    bench.orders = orders;
    assert_eq!(bench.lap(), Next::End);
}

/// A worker thread with real time, woken by its handle.
#[tokio::test]
async fn a_thread_obeys_its_handle() {
    let (nat_t, hand) = FakeOutside::new();
    let (inside, _) = FakeInside::new(Offload::default());
    let ports = vec![Port::new(path().local, Carries::NatT, Box::new(nat_t))];
    let worker = Worker { ports, inside: Box::new(inside), seen_by_all: SeenByAll::default() };
    let (handle, mut reports, threads) = super::start(vec![worker]).unwrap();
    let message = Datagram::new(path().local, path().peer, vec![5; 30]);
    handle.lease().extend(Millis(u64::MAX), Millis(0));
    handle.tell(SEGMENT, vec![Order::Send(vec![message])]).await.unwrap();
    for _ in 0..500 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        let sent = hand.take();
        if !sent.is_empty() {
            assert_eq!(sent[0].1, [&[0; 4][..], &[5; 30]].concat());
            let stats = handle.stats(OURS);
            assert!(Arc::ptr_eq(&stats, &handle.known_stats(OURS).unwrap()));
            handle.tell(SEGMENT, vec![Order::Remove { child: OURS }]).await.unwrap();
            assert!(handle.known_stats(OURS).is_none());
            drop(handle);
            assert!(reports.recv().await.is_none(), "the reports end with the worker");
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            return;
        }
    }
    panic!("nothing was sent");
}
