//! What may be sent and received as epochs, blocks, peers and rekeys come and go.

use super::*;

//= test ES-9
#[test]
fn numbers_come_from_blocks_only() {
    let mut us = End::new(path());
    let old = ChildRecord { block: block(Epoch(2), 1, 10_000), ..child(gcm(), 5) };
    us.install(old, path());
    assert_eq!(us.seal(&down()), Err(DropReason::Block), "a block of an old epoch is none");
    let asked = us.events().into_iter().any(|event| matches!(event, Event::NeedBlock { child: OURS, .. }));
    assert!(asked);
    let grant = |us: &mut End, block| us.table.grant(OURS, block, &mut SeededRng::new(4));
    assert_eq!(grant(&mut us, block(Epoch(2), 1, 20_000)), Err(Refused::OldEpoch));
    grant(&mut us, block(EPOCH, 10_001, 10_002)).unwrap();
    assert_eq!(number(&us.seal(&down()).unwrap()), 10_001);
    assert_eq!(number(&us.seal(&down()).unwrap()), 10_002);
    assert_eq!(us.seal(&down()), Err(DropReason::Block));
    grant(&mut us, block(EPOCH, 10_001, 10_003)).unwrap();
    assert_eq!(number(&us.seal(&down()).unwrap()), 10_003);
}

/// (IV, number) of a sealed packet: neither may ever come twice under one key.
fn fingerprint(packet: &[u8]) -> ([u8; 8], u32) {
    (packet[8..16].try_into().unwrap(), number(packet))
}

//= test ES-9
//= test AL-2
#[test]
fn no_iv_and_no_number_comes_twice_whatever_is_ordered() {
    let mut us = End::new(path());
    let mut seen = std::collections::HashSet::new();
    let mut send = |us: &mut End| {
        let packet = us.seal(&down())?;
        let (iv, number) = fingerprint(&packet);
        assert!(seen.insert(iv.to_vec()) && seen.insert(number.to_be_bytes().to_vec()), "{iv:?} {number}");
        Ok::<_, DropReason>(u32::from_be_bytes([0, iv[0], iv[1], iv[2]]))
    };
    us.install(child(gcm(), 5), path());
    assert_eq!(send(&mut us), Ok(EPOCH.0));
    // The same record again, as after every change of it.
    us.install(child(gcm(), 5), path());
    assert_eq!(send(&mut us), Ok(EPOCH.0));
    // Removed, and brought back by a stale order in the same epoch: it receives, but never sends again.
    us.table.remove(OURS).unwrap();
    let stale = us.table.install(install(child(gcm(), 5), path()), &mut SeededRng::new(1));
    assert_eq!(stale, Err(Refused::OldEpoch));
    assert_eq!(send(&mut us), Err(DropReason::Block));
    // The segment is given up and comes back under the same epoch: refused.
    us.table.unserve(SEGMENT);
    assert_eq!(us.table.serve(SEGMENT, EPOCH), Err(Refused::OldEpoch));
    assert_eq!(
        us.table.install(install(child(gcm(), 5), path()), &mut SeededRng::new(1)),
        Err(Refused::NotServed)
    );
    // A new epoch with its own block: a new key, other IVs, other numbers.
    us.table.serve(SEGMENT, Epoch(4)).unwrap();
    us.install(ChildRecord { block: block(Epoch(4), 10_001, 20_000), ..child(gcm(), 5) }, path());
    assert_eq!(send(&mut us), Ok(4));
    // The next epoch while the child is installed: the old key and block are void at once.
    us.table.serve(SEGMENT, Epoch(5)).unwrap();
    assert_eq!(send(&mut us), Err(DropReason::Block));
    us.table.grant(OURS, block(Epoch(5), 20_001, 30_000), &mut SeededRng::new(1)).unwrap();
    assert_eq!(send(&mut us), Ok(5));
}

#[test]
fn a_window_outlives_a_new_epoch_and_a_record_update() {
    let (mut us, mut peer) = pair(gcm());
    let packet = peer.seal(&up()).unwrap();
    us.open(&packet).unwrap();
    us.table.serve(SEGMENT, Epoch(4)).unwrap();
    us.install(ChildRecord { block: block(Epoch(4), 10_001, 20_000), ..child(gcm(), 5) }, path());
    assert_eq!(us.open(&packet), Err(DropReason::Replay));
}

#[test]
fn a_segment_that_comes_back_remembers_what_was_received() {
    let (mut us, mut peer) = pair(gcm());
    let [first, second, third] = [(); 3].map(|()| peer.seal(&up()).unwrap());
    us.open(&first).unwrap();
    us.open(&third).unwrap();
    let again = |us: &mut End, replay| {
        us.table.unserve(SEGMENT);
        let epoch = Epoch(us.table.reached(SEGMENT).unwrap().0 + 1);
        us.table.serve(SEGMENT, epoch).unwrap();
        let record = ChildRecord { block: block(epoch, 10_001, 20_000), ..child(gcm(), 5) };
        us.table.install(Install { replay, ..install(record, path()) }, &mut SeededRng::new(1)).unwrap();
    };
    again(&mut us, Replay::After(EspSeq(0)));
    assert_eq!(us.open(&first), Err(DropReason::Replay));
    assert_eq!(us.open(&third), Err(DropReason::Replay));
    assert_eq!(us.open(&second), Ok(up()), "exactly: what was not received still may be");
    // Somebody else had the segment meanwhile, and saw more.
    again(&mut us, Replay::After(EspSeq(9)));
    assert_eq!(us.table.find(OURS).unwrap().edge(), EspSeq(9));
    // Deleted, it is forgotten.
    us.table.remove(OURS).unwrap();
    again(&mut us, Replay::Fresh);
    assert_eq!(us.table.find(OURS).unwrap().edge(), EspSeq(0));
}

//= test CL-18
#[test]
fn nothing_passes_without_an_assignment() {
    let (mut us, mut peer) = pair(gcm());
    let packet = peer.seal(&up()).unwrap();
    us.table.unserve(SEGMENT);
    assert_eq!(us.open(&packet), Err(DropReason::NotOwner));
    assert_eq!(us.seal(&down()), Err(DropReason::NoPolicy));
    assert!(us.table.is_empty(), "no key is left");
}

//= test CL-33
//= test CL-35
//= test IK-99
#[test]
fn a_peer_moves_by_its_newest_packet_only() {
    let (mut us, mut peer) = pair(gcm());
    let [first, second, third] = [(); 3].map(|()| peer.seal(&up()).unwrap());
    let at = |us: &End| us.table.find(OURS).unwrap().path().peer.to_string();
    us.open_from(&second, "198.51.100.9:4500", 0).unwrap();
    us.events();
    // An old packet from elsewhere, held back on its way.
    us.open_from(&first, "203.0.113.5:999", 0).unwrap();
    assert_eq!(at(&us), "198.51.100.9:4500");
    // A forged one.
    let mut forged = third.clone();
    forged[30] ^= 1;
    us.open_from(&forged, "203.0.113.5:999", 0).unwrap_err();
    assert_eq!(at(&us), "198.51.100.9:4500");
    // The NAT has a new mapping.
    us.open_from(&third, "198.51.100.9:61000", 0).unwrap();
    assert_eq!(at(&us), "198.51.100.9:61000");
    let moved = "198.51.100.9:61000".parse().unwrap();
    assert!(us.events().contains(&Event::PeerMoved { ike: IKE, child: OURS, peer: moved }));
    // A record that does not know yet does not undo it; one that knows of another place does.
    us.install(child(gcm(), 5), path());
    assert_eq!(at(&us), "198.51.100.9:61000");
    us.install(child(gcm(), 5), Path { peer: "198.51.100.9:5".parse().unwrap(), ..path() });
    assert_eq!(at(&us), "198.51.100.9:5");
    us.table.moved(IKE, path());
    assert_eq!(at(&us), "198.51.100.9:4500");
    // Behind a NAT ourselves we do not follow.
    let back = "192.0.2.77:4500";
    let answer = us.seal(&down()).unwrap();
    peer.open_from(&answer, back, 0).unwrap();
    assert_eq!(peer.table.find(PEERS).unwrap().path().peer.to_string(), "192.0.2.1:4500");
}

//= test CL-44
//= test IK-97
#[test]
fn both_encapsulations_are_accepted_but_plain_ones_move_nobody() {
    let (mut us, mut peer) = pair(gcm());
    let packet = peer.seal(&up()).unwrap();
    us.origin.udp = false;
    assert_eq!(us.open_from(&packet, "203.0.113.5:0", 0), Ok(up()));
    assert_eq!(*us.table.find(OURS).unwrap().path(), path());
}

/// A rekey by the peer: the new child replaces `OURS`.
fn successor(initiator: Side) -> ChildRecord {
    ChildRecord {
        spi_in: ChildSpi(0x0700_0303),
        spi_out: ChildSpi(0x0700_0404),
        initiator,
        replaces: Some(OURS),
        established_at: Millis(10),
        ..child(gcm(), 6)
    }
}

//= test IK-71
#[test]
fn make_before_break() {
    let new_spi = successor(Side::Us).spi_in;
    let used = |us: &mut End| {
        let packet = us.seal(&down()).unwrap();
        u32::from_be_bytes(packet[..4].try_into().unwrap())
    };
    let (old, new) = (PEERS.0, successor(Side::Us).spi_out.0);
    let ready = |initiator| {
        let (mut us, _) = pair(gcm());
        us.install(successor(initiator), path());
        us.install(ChildRecord { phase: ChildPhase::Replaced, ..child(gcm(), 5) }, path());
        us
    };

    assert_eq!(used(&mut ready(Side::Us)), new, "ours: at once");

    let mut us = ready(Side::Peer);
    assert_eq!(used(&mut us), old, "the peer's: not before it uses it");
    let mut peer = End::new(path());
    peer.install(mirror(&successor(Side::Peer)), path());
    let packet = peer.seal(&up()).unwrap();
    assert_eq!(us.open(&packet), Ok(up()), "it receives from the start");
    assert!(us.events().contains(&Event::FirstInbound { ike: IKE, child: new_spi }));
    assert_eq!(used(&mut us), new);

    let mut us = ready(Side::Peer);
    us.table.remove(OURS).unwrap();
    assert_eq!(used(&mut us), new, "the old one is gone");

    let mut us = ready(Side::Peer);
    let closing = ChildPhase::Closing { why: crate::record::Why::Rekeyed };
    us.install(ChildRecord { phase: closing, ..child(gcm(), 5) }, path());
    assert_eq!(used(&mut us), new, "the old one is closing");

    let mut us = ready(Side::Peer);
    us.table.confirm(new_spi).unwrap();
    assert_eq!(used(&mut us), new, "we were told");
}

//= test IK-71
#[test]
fn the_newest_of_equals_and_the_longest_prefix_win() {
    let (mut us, _) = pair(gcm());
    let other = |spi: u32, at: u64, remote: &str| ChildRecord {
        spi_in: ChildSpi(spi),
        spi_out: ChildSpi(spi),
        established_at: Millis(at),
        remote_ts: vec![net(remote)],
        ..child(gcm(), 9)
    };
    let used = |us: &mut End| {
        let packet = us.seal(&down()).unwrap();
        u32::from_be_bytes(packet[..4].try_into().unwrap())
    };
    us.install(other(0x0700_0900, 99, "10.9.0.0/16"), path());
    assert_eq!(used(&mut us), PEERS.0, "newer, but less specific");
    us.install(other(0x0700_0901, 20, "10.9.0.7/32"), path());
    us.install(other(0x0700_0902, 10, "10.9.0.7/32"), path());
    assert_eq!(used(&mut us), 0x0700_0901);
    us.table.remove(ChildSpi(0x0700_0901)).unwrap();
    us.table.remove(OURS).unwrap();
    assert_eq!(used(&mut us), 0x0700_0902);
    us.table.remove(ChildSpi(0x0700_0902)).unwrap();
    assert_eq!(used(&mut us), 0x0700_0900);
}

//= test ES-26
#[test]
fn an_sa_asks_for_a_rekey_and_then_stops() {
    let (mut us, mut peer) = pair(gcm());
    let limited = Install { rekey_octets: 1_000, ..install(child(gcm(), 5), path()) };
    us.table.install(limited, &mut SeededRng::new(1)).unwrap();
    let mut soft_after = None;
    let mut sent = 0;
    loop {
        match us.seal(&down()) {
            Ok(_) => sent += 1,
            Err(reason) => {
                assert_eq!((reason, us.seal(&down())), (DropReason::Expired, Err(DropReason::Expired)));
                break;
            }
        }
        for event in us.events() {
            match event {
                Event::SoftLimit { child: OURS, .. } => {
                    assert!(soft_after.replace(sent).is_none(), "told once")
                }
                Event::HardLimit { child: OURS, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        if sent > 100 {
            panic!("no limit");
        }
    }
    // 104 octets each: 68 inner, 2 + 2 trailer, 16 header and IV, 16 ICV.
    assert_eq!((soft_after, sent), (Some(10), 14));
    let late = peer.seal(&up()).unwrap();
    assert_eq!(us.open(&late), Err(DropReason::Expired));
}

#[test]
fn counters_are_there_to_be_read() {
    let (mut us, mut peer) = pair(gcm());
    let stats = Arc::<ChildStats>::default();
    us.table.remove(OURS).unwrap();
    us.table.unserve(SEGMENT);
    us.table.serve(SEGMENT, Epoch(9)).unwrap();
    let record = ChildRecord { block: block(Epoch(9), 50, 60), ..child(gcm(), 5) };
    let with_stats = Install { stats: stats.clone(), ..install(record, path()) };
    us.table.install(with_stats, &mut SeededRng::new(1)).unwrap();
    let packet = us.seal(&down()).unwrap();
    us.open(&peer.seal(&up()).unwrap()).unwrap();
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((read(&stats.packets_out), read(&stats.octets_out)), (1, packet.len() as u64));
    assert_eq!((read(&stats.packets_in), read(&stats.octets_in)), (1, packet.len() as u64));
    assert_eq!((read(&stats.next_number), read(&stats.edge), read(&stats.heard_ms)), (51, 1, NOW.0));
}

/// What a queue may bring, in any order and more than once; `Reserve` and `Assign` stand for the log, which never
/// grants a number twice and never goes back to an epoch.
#[derive(Clone, Copy, Debug)]
enum Step {
    Assign,
    Reserve(u64),
    Remove,
    Unserve,
    Send(u64),
    /// An order of the past comes again.
    Again(usize),
}

#[derive(Clone, Debug)]
enum Ordered {
    Serve(Epoch),
    Install(Block),
    Grant(Block),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Assign),
        4 => (1u64..30).prop_map(Step::Reserve),
        1 => Just(Step::Remove),
        1 => Just(Step::Unserve),
        6 => (1u64..20).prop_map(Step::Send),
        6 => any::<usize>().prop_map(Step::Again),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    //= test ES-9
    //= test AL-2
    #[test]
    fn stale_orders_make_no_number_and_no_iv_come_twice(steps in steps()) {
        let mut us = End { table: Table::new(), ..End::new(path()) };
        let mut rng = SeededRng::new(1);
        let (mut epoch, mut granted) = (Epoch(0), 0);
        let (mut current, mut orders) = (block(Epoch(0), 1, 0), Vec::<Ordered>::new());
        let (mut ivs, mut numbers) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        let mut blocks: Vec<Block> = Vec::new();
        let obey = |us: &mut End, order: &Ordered, rng: &mut SeededRng| {
            let _ = match order {
                Ordered::Serve(epoch) => us.table.serve(SEGMENT, *epoch),
                Ordered::Install(block) => {
                    let record = ChildRecord { block: *block, ..child(gcm(), 5) };
                    us.table.install(install(record, path()), rng)
                }
                Ordered::Grant(block) => us.table.grant(OURS, *block, rng),
            };
        };
        for step in steps {
            let fresh = match step {
                Step::Assign => {
                    epoch = Epoch(epoch.0 + 1);
                    current = block(epoch, granted + 1, granted + 10);
                    granted += 10;
                    vec![Ordered::Serve(epoch), Ordered::Install(current)]
                }
                Step::Reserve(count) if epoch > Epoch(0) => {
                    granted += count;
                    current.last = EspSeq(granted);
                    vec![Ordered::Grant(current)]
                }
                Step::Again(which) if !orders.is_empty() => {
                    vec![orders[which % orders.len()].clone()]
                }
                Step::Remove => {
                    let _ = us.table.remove(OURS);
                    vec![]
                }
                Step::Unserve => {
                    us.table.unserve(SEGMENT);
                    vec![]
                }
                Step::Send(count) => {
                    for _ in 0..count {
                        let Ok(packet) = us.seal(&down()) else { continue };
                        let (iv, number) = fingerprint(&packet);
                        prop_assert!(ivs.insert(iv) && numbers.insert(number), "{iv:?} {number}");
                        let served = us.table.served(SEGMENT).unwrap();
                        let number = EspSeq(u64::from(number));
                        let committed = |block: &Block| {
                            block.epoch == served && block.first <= number && number <= block.last
                        };
                        prop_assert!(blocks.iter().any(committed), "{number} in {served}");
                        prop_assert_eq!(iv[..3].to_vec(), served.0.to_be_bytes()[1..].to_vec());
                    }
                    vec![]
                }
                _ => vec![],
            };
            if epoch > Epoch(0) {
                blocks.push(current);
            }
            for order in fresh {
                obey(&mut us, &order, &mut rng);
                orders.push(order);
            }
        }
    }
}

/// A planned move: what was received is received nowhere else again, what is late still is, and counters go on.
//= test CL-13
#[test]
fn a_closed_segment_goes_on_exactly_elsewhere() {
    let (mut us, mut peer) = pair(gcm());
    let packets: Vec<Vec<u8>> = (0..6).map(|_| peer.seal(&up()).unwrap()).collect();
    for at in [0, 1, 4] {
        us.open(&packets[at]).unwrap();
    }
    us.seal(&down()).unwrap();
    let carried = us.table.close(SEGMENT, NOW);
    assert_eq!(us.open(&packets[5]), Err(DropReason::NotOwner), "closed is closed");
    assert_eq!(us.seal(&down()), Err(DropReason::NoPolicy));
    assert_eq!(us.table.serve(SEGMENT, EPOCH), Err(Refused::OldEpoch), "also when the move comes to nothing");

    let [moved] = &carried[..] else { panic!("one child") };
    assert_eq!((moved.spi_in, moved.packets_in, moved.packets_out, moved.confirmed), (OURS, 3, 1, true));
    let mut next = End::new(path());
    let epoch = Epoch(EPOCH.0 + 1);
    next.table.serve(SEGMENT, epoch).unwrap();
    let record = ChildRecord { block: block(epoch, 10_001, 20_000), ..child(gcm(), 5) };
    let install = Install { replay: Replay::Exact(moved.window.clone()), ..install(record, path()) };
    install.stats.go_on(moved, NOW);
    let stats = install.stats.clone();
    next.table.install(install, &mut SeededRng::new(3)).unwrap();
    for (at, taken) in [(0, false), (1, false), (2, true), (3, true), (4, false), (5, true), (2, false)] {
        let opened = next.open(&packets[at]);
        assert_eq!(opened.is_ok(), taken, "packet {at}: {opened:?}");
    }
    assert_eq!(number(&next.seal(&down()).unwrap()), 10_001);
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((count(&stats.packets_in), count(&stats.packets_out)), (6, 2));
    assert!(count(&stats.octets_in) > moved.octets_in && count(&stats.octets_out) > moved.octets_out);
}

//= test CL-14
#[test]
fn a_strict_child_takes_only_what_was_claimed() {
    let claimed = |floor, ceiling| Some(Claimed { floor: EspSeq(floor), ceiling: EspSeq(ceiling) });
    let strict = |epoch, claimed| ChildRecord {
        claimed,
        block: block(epoch, u64::from(epoch.0) * 10_000, u64::from(epoch.0) * 10_000 + 9_999),
        ..child(gcm(), 5)
    };
    let (mut us, mut peer) = pair(gcm());
    let packets: Vec<Vec<u8>> = (0..40).map(|_| peer.seal(&up()).unwrap()).collect();
    us.table.remove(OURS).unwrap();
    us.table.serve(SEGMENT, Epoch(4)).unwrap();
    // A record of another epoch allows nothing.
    us.install(strict(EPOCH, claimed(0, 16)), path());
    assert_eq!(us.open(&packets[0]), Err(DropReason::Claim));
    us.install(strict(Epoch(4), claimed(0, 16)), path());
    assert_eq!(us.open(&packets[0]), Ok(up()), "what was dropped was not seen");
    for (number, packet) in (2..=16).zip(&packets[1..]) {
        assert_eq!(us.open(packet), Ok(up()), "{number}");
    }
    assert_eq!(us.open(&packets[16]), Err(DropReason::Claim));
    let asked: Vec<EspSeq> = us
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::NeedClaim { child: OURS, upto, .. } => Some(*upto),
            _ => None,
        })
        .collect();
    assert!(asked.iter().any(|upto| upto.0 > 16), "{asked:?}");
    us.install(strict(Epoch(4), claimed(0, 20)), path());
    assert_eq!(us.open(&packets[16]), Ok(up()));
    assert_eq!(us.open(&packets[16]), Err(DropReason::Replay));

    // The next owner begins above it, whatever was received; so does the one before, should it own the segment again.
    let again = |end: &mut End| {
        let record = strict(Epoch(5), claimed(20, 36));
        let install = Install { replay: Replay::After(EspSeq(20)), ..install(record, path()) };
        end.table.install(install, &mut SeededRng::new(2)).unwrap();
        // Told once, and not for what is no packet of the peer.
        let stranded = |end: &mut End| {
            let events = end.events();
            events.iter().filter(|event| matches!(event, Event::Stranded { child: OURS, .. })).count()
        };
        let mut forged = packets[3].clone();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(end.open(&forged), Err(DropReason::Replay));
        assert_eq!(stranded(end), 0);
        for packet in &packets[..20] {
            assert_eq!(end.open(packet), Err(DropReason::Replay));
        }
        assert_eq!(stranded(end), 1);
        assert_eq!(end.open(&packets[20]), Ok(up()));
        assert_eq!(end.open(&packets[36]), Err(DropReason::Claim));
    };
    us.table.serve(SEGMENT, Epoch(5)).unwrap();
    assert_eq!(us.open(&packets[17]), Err(DropReason::Claim), "the claims of the old epoch are void");
    again(&mut us);
    let mut next = End::new(path());
    next.table.serve(SEGMENT, Epoch(5)).unwrap();
    again(&mut next);

    // A planned move knows the window: nobody is stranded, and an old packet is an old packet.
    let window = next.table.find(OURS).unwrap().export_window();
    let mut moved = End::new(path());
    moved.table.serve(SEGMENT, Epoch(6)).unwrap();
    let record = strict(Epoch(6), claimed(36, 52));
    let install = Install { replay: Replay::Exact(window), ..install(record, path()) };
    moved.table.install(install, &mut SeededRng::new(2)).unwrap();
    assert_eq!(moved.open(&packets[20]), Err(DropReason::Replay));
    assert_eq!(moved.open(&packets[22]), Ok(up()));
    assert!(moved.events().iter().all(|event| !matches!(event, Event::Stranded { .. })));
}
