//! Two tables and the packets between them: what leaves one side and is accepted, or not, by the other.

use std::sync::Arc;

use crypto::Secret;
use crypto::cipher::{Cipher, Integ, Protection};
use crypto::rng::{Rng, SeededRng};
use proptest::prelude::*;

use super::samples::{ipv4, udp};
use super::*;
use crate::policy::{Network, Selector};
use crate::record::{Block, ChildKeys, ChildPhase, ChildRecord, EspSuite, Path, Side};
use crate::types::{ChildSpi, Epoch, EspSeq, Millis, Segment, Spi};

const SEGMENT: Segment = Segment(7);
const EPOCH: Epoch = Epoch(3);
const IKE: Spi = Spi(0x0700_0000_0000_0001);
const OURS: ChildSpi = ChildSpi(0x0700_0101);
const PEERS: ChildSpi = ChildSpi(0x0700_0202);
const NOW: Millis = Millis(1_000);

/// Us: 10.1.0.0/16 and 2001:db8:1::/48 behind 192.0.2.1. The peer: 10.9.0.7 and 2001:db8:9::7 behind 198.51.100.9.
struct End {
    table: Table,
    origin: Origin,
    rng: SeededRng,
}

fn net(text: &str) -> Selector {
    let (address, prefix) = text.split_once('/').unwrap();
    Selector::network(Network { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() })
}

fn path() -> Path {
    Path {
        local: "192.0.2.1:4500".parse().unwrap(),
        peer: "198.51.100.9:4500".parse().unwrap(),
        peer_behind_nat: true,
        we_behind_nat: false,
    }
}

fn block(epoch: Epoch, first: u64, last: u64) -> Block {
    Block { epoch, first: EspSeq(first), last: EspSeq(last) }
}

fn suite(protection: Protection, esn: bool) -> EspSuite {
    EspSuite { protection, esn, group: None }
}

fn gcm() -> EspSuite {
    suite(Protection::new(Cipher::AesGcm256, None).unwrap(), false)
}

/// Our record of a child; `mirror` makes the peer's.
fn child(suite: EspSuite, seed: u64) -> ChildRecord {
    let mut rng = SeededRng::new(seed);
    let mut key = |len: usize| Secret::from(rng.vec(len));
    let (encr, integ) = (suite.protection.encr_key_len(), suite.protection.integ_key_len());
    ChildRecord {
        name: "net".into(),
        spi_in: OURS,
        spi_out: PEERS,
        suite,
        keys: ChildKeys {
            encr_in: key(encr),
            integ_in: key(integ),
            encr_out: key(encr),
            integ_out: key(integ),
        },
        local_ts: vec![net("10.1.0.0/16"), net("2001:db8:1::/48")],
        remote_ts: vec![net("10.9.0.7/32"), net("2001:db8:9::7/128")],
        established_at: Millis(0),
        phase: ChildPhase::Live,
        initiator: Side::Us,
        replaces: None,
        block: block(EPOCH, 1, 10_000),
        granted: EspSeq(10_000),
    }
}

fn mirror(child: &ChildRecord) -> ChildRecord {
    let keys = child.keys.clone();
    ChildRecord {
        spi_in: child.spi_out,
        spi_out: child.spi_in,
        keys: ChildKeys {
            encr_in: keys.encr_out,
            integ_in: keys.integ_out,
            encr_out: keys.encr_in,
            integ_out: keys.integ_in,
        },
        local_ts: child.remote_ts.clone(),
        remote_ts: child.local_ts.clone(),
        initiator: child.initiator.other(),
        ..child.clone()
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

impl End {
    fn new(local: Path) -> End {
        let mut table = Table::new();
        table.serve(SEGMENT, EPOCH).unwrap();
        End { table, origin: Origin { local: local.local, udp: true }, rng: SeededRng::new(1) }
    }

    fn install(&mut self, child: ChildRecord, path: Path) {
        self.table.install(install(child, path), &mut self.rng).unwrap();
    }

    fn seal(&mut self, inner: &[u8]) -> Result<Vec<u8>, DropReason> {
        let flow = Flow::of(inner).map_err(|_| DropReason::Malformed)?;
        let index = self.table.select(&flow)?;
        let mut sealer = self.table.sealer(index, NOW)?;
        let mut slot = vec![0xee; sealer.sealed_len(inner.len()) + 5];
        let len = sealer.seal(inner, &mut slot)?;
        slot.truncate(len);
        Ok(slot)
    }

    /// What is delivered, or why not.
    fn open_from(&mut self, packet: &[u8], peer: &str, tos: u8) -> Result<Vec<u8>, DropReason> {
        let before = self.table.drops().clone();
        let mut arena = [&[0xaa; 3], packet, &[0xbb; 2]].concat();
        let arrival = Arrival { range: 3..3 + packet.len(), peer: peer.parse().unwrap(), tos };
        let mut delivered = None;
        self.table.open(NOW, self.origin, &mut arena, &[arrival], &mut |arena, inner| {
            assert!(delivered.replace(arena[inner].to_vec()).is_none());
        });
        assert_eq!((&arena[..3], &arena[3 + packet.len()..]), (&[0xaa; 3][..], &[0xbb; 2][..]));
        delivered.ok_or_else(|| {
            let after = self.table.drops().clone();
            DropReason::ALL.into_iter().find(|&reason| after.of(reason) > before.of(reason)).unwrap()
        })
    }

    fn open(&mut self, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
        self.open_from(packet, "198.51.100.9:4500", 0)
    }

    fn events(&mut self) -> Vec<Event> {
        self.table.events().collect()
    }
}

/// We and the peer, with one child between us.
fn pair(suite: EspSuite) -> (End, End) {
    let ours = child(suite, 5);
    let theirs = mirror(&ours);
    let back = Path { local: path().peer, peer: path().local, peer_behind_nat: false, we_behind_nat: true };
    let (mut us, mut peer) = (End::new(path()), End::new(back));
    us.install(ours, path());
    peer.install(theirs, back);
    (us, peer)
}

fn down() -> Vec<u8> {
    udp("10.1.2.3", "10.9.0.7", (53, 4_000), 40)
}

fn up() -> Vec<u8> {
    udp("10.9.0.7", "10.1.2.3", (4_000, 53), 40)
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[4..8].try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    //= test ES-2
    //= test ES-4
    //= test ES-5
    //= test ES-6
    //= test ES-21
    #[test]
    fn what_is_sealed_opens_and_nothing_else_does(
        which in 0usize..9, esn: bool, six: bool, payload in 0usize..1_500, flip: prop::sample::Index, bit in 0u8..8,
    ) {
        let protection = Protection::all().nth(which).unwrap();
        let (mut us, mut peer) = pair(suite(protection, esn));
        let inner = if six {
            udp("2001:db8:1::5", "2001:db8:9::7", (1, 2), payload)
        } else {
            udp("10.1.2.3", "10.9.0.7", (1, 2), payload)
        };
        let packet = us.seal(&inner).unwrap();
        let outer = pmtu::Outer { ipv6: false, udp: true };
        prop_assert_eq!(packet.len() + 28, outer.len(protection, inner.len()));
        prop_assert_eq!(&packet[..8], &[7, 0, 2, 2, 0, 0, 0, 1][..]);

        // One wrong bit anywhere: no delivery, and the window has not moved.
        let mut forged = packet.clone();
        forged[flip.index(packet.len())] ^= 1 << bit;
        prop_assert!(peer.open(&forged).is_err());
        prop_assert_eq!(peer.table.find(PEERS).unwrap().edge(), EspSeq(0));

        prop_assert_eq!(peer.open(&packet), Ok(inner));
        prop_assert_eq!(peer.open(&packet), Err(DropReason::Replay));
    }

    //= test ES-3
    #[test]
    fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..200), known: bool) {
        let (mut us, _) = pair(gcm());
        let mut packet = octets;
        if known && packet.len() >= 4 {
            packet[..4].copy_from_slice(&OURS.0.to_be_bytes());
        }
        prop_assert!(us.open(&packet).is_err());
    }
}

//= test ES-3
//= test ES-4
//= test ES-11
//= test ES-12
#[test]
fn the_high_half_is_authenticated_though_not_sent() {
    let protection = Protection::new(Cipher::AesGcm128, None).unwrap();
    for protection in [protection, Protection::new(Cipher::AesCbc128, Some(Integ::HmacSha256_128)).unwrap()] {
        let border = 1u64 << 32;
        let ours = ChildRecord {
            block: block(EPOCH, border - 1, border + 10),
            granted: EspSeq(border + 10),
            ..child(suite(protection, true), 5)
        };
        let (mut us, mut peer) = (End::new(path()), End::new(path()));
        us.install(ours.clone(), path());
        let receiver =
            Install { replay: Replay::After(EspSeq(border - 2)), ..install(mirror(&ours), path()) };
        peer.table.install(receiver, &mut SeededRng::new(2)).unwrap();
        for low in [u32::MAX, 0, 1] {
            let packet = us.seal(&down()).unwrap();
            assert_eq!(number(&packet), low);
            // A receiver that guesses another high half finds the integrity value wrong.
            let (_, mut fresh) = pair(suite(protection, true));
            if low < 5 && low > 0 {
                assert_eq!(fresh.open(&packet), Err(DropReason::Integrity), "{protection}");
            }
            assert_eq!(peer.open(&packet), Ok(down()), "{protection}");
        }
        assert_eq!(peer.table.find(PEERS).unwrap().edge(), EspSeq(border + 1));
    }
}

//= test ES-1
//= test ES-27
//= test ES-28
#[test]
fn packets_without_an_sa_are_told_once_a_batch() {
    let (mut us, mut peer) = pair(gcm());
    let good = peer.seal(&up()).unwrap();
    for (spi, reason) in [
        (0u32, DropReason::Malformed),
        (255, DropReason::Malformed),
        (0x0700_0102, DropReason::UnknownSpi),
        (0x0800_0101, DropReason::NotOwner),
    ] {
        let mut packet = good.clone();
        packet[..4].copy_from_slice(&spi.to_be_bytes());
        assert_eq!(us.open(&packet), Err(reason), "{spi:#x}");
    }
    assert_eq!(us.open(&good[..30]), Err(DropReason::Malformed), "shorter than any packet");
    us.events();

    let mut arena = [good.clone(), good.clone(), good].concat();
    let len = arena.len() / 3;
    arena[3] = 9; // The first: another SPI. The third is a replay of the second.
    let peer_address = "198.51.100.9:4500".parse().unwrap();
    let arrivals: Vec<_> = (0..3)
        .map(|index| Arrival { range: index * len..(index + 1) * len, peer: peer_address, tos: 0 })
        .collect();
    let origin = us.origin;
    let mut delivered = 0;
    us.table.open(NOW, origin, &mut arena, &arrivals, &mut |_, _| delivered += 1);
    assert_eq!(delivered, 1);
    let events = us.events();
    assert!(events.contains(&Event::UnknownSpi { child: ChildSpi(0x0700_0109), peer: peer_address }));
    assert!(!events.iter().any(|event| matches!(event, Event::Audit { .. })), "one in a batch: {events:?}");
    assert_eq!(us.table.drops().of(DropReason::Replay), 1);
}

//= test ES-27
#[test]
fn a_failure_is_auditable() {
    let (mut us, mut peer) = pair(gcm());
    let mut packet = peer.seal(&up()).unwrap();
    packet[20] ^= 1;
    us.open(&packet).unwrap_err();
    let told = Event::Audit {
        reason: DropReason::Integrity,
        child: OURS,
        number: 1,
        peer: "198.51.100.9:4500".parse().unwrap(),
    };
    assert_eq!(us.events(), [told]);
}

//= test ES-15
//= test ES-16
#[test]
fn packets_outside_the_selectors_do_not_pass() {
    let (mut us, mut peer) = pair(gcm());
    for (inner, why) in [
        (udp("10.2.0.1", "10.9.0.7", (1, 2), 1), "not from our network"),
        (udp("10.1.0.1", "10.9.0.8", (1, 2), 1), "not to the client"),
        (udp("2001:db8:2::1", "2001:db8:9::7", (1, 2), 1), "nor in the other family"),
    ] {
        assert_eq!(us.seal(&inner), Err(DropReason::NoPolicy), "{why}");
    }
    // A peer with wider selectors than agreed on sends what we did not agree to.
    let wide = ChildRecord {
        local_ts: vec![net("0.0.0.0/0")],
        remote_ts: vec![net("0.0.0.0/0")],
        ..mirror(&child(gcm(), 5))
    };
    peer.install(wide, path());
    let spoofed = peer.seal(&udp("10.9.0.8", "10.1.2.3", (1, 2), 1)).unwrap();
    assert_eq!(us.open(&spoofed), Err(DropReason::Selectors));
    assert_eq!(us.table.find(OURS).unwrap().edge(), EspSeq(1), "its number is spent all the same");
}

//= test ES-7
//= test ES-8
#[test]
fn dummies_and_padding_of_the_peer_are_taken() {
    let (mut us, _) = pair(gcm());
    let keys = child(gcm(), 5).keys;
    let mut key = crypto::cipher::SealKey::new(
        gcm().protection,
        keys.encr_in.as_bytes(),
        keys.integ_in.as_bytes(),
        1,
        &mut SeededRng::new(3),
    )
    .unwrap();
    let mut packet = |number: u32, plain: &[u8]| {
        let mut packet = [OURS.0.to_be_bytes(), number.to_be_bytes(), [0; 4], [0; 4]].concat();
        packet.extend(plain);
        packet.extend([0; 16]);
        key.seal(None, &mut packet, 8).unwrap();
        packet
    };
    let dummy = packet(1, &[0x55, 0x55, 0, 59]);
    assert_eq!(us.open(&dummy), Err(DropReason::Dummy));
    assert_eq!(us.open(&dummy), Err(DropReason::Replay), "a dummy moves the window");
    let padded = packet(2, &[&up()[..], &[0x33; 100], &[1, 2, 2, 4]].concat());
    assert_eq!(us.open(&padded), Ok(up()), "the end is what the inner header says");
    let transport = packet(3, &[&up()[..], &[1, 2, 2, 17]].concat());
    assert_eq!(us.open(&transport), Err(DropReason::NextHeader));
}

//= test ES-19
#[test]
fn congestion_marks_come_through() {
    let (mut us, mut peer) = pair(gcm());
    let plain = peer.seal(&up()).unwrap();
    assert_eq!(us.open_from(&plain, "198.51.100.9:4500", 3), Err(DropReason::Ecn));
    let mut capable = up();
    capable[1] = 2;
    capable[10..12].fill(0);
    let sum = checksum::of(&capable[..20]);
    capable[10..12].copy_from_slice(&sum.to_be_bytes());
    let packet = peer.seal(&capable).unwrap();
    let marked = us.open_from(&packet, "198.51.100.9:4500", 3).unwrap();
    assert_eq!(marked[1], 3);
    assert_eq!(checksum::fold(checksum::sum(&marked[..20])), 0xffff);
}

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

#[test]
fn inner_packets_that_fit_fill_the_path() {
    let (us, _) = pair(gcm());
    let child = us.table.find(OURS).unwrap();
    let outer = pmtu::Outer { ipv6: false, udp: true };
    assert!(outer.len(gcm().protection, child.inner_mtu()) <= 1_500);
    assert!(outer.len(gcm().protection, child.inner_mtu() + 1) > 1_500);
}

/// Whole packets of others through the open path: the child is installed with the vector's keys and number.
mod vectors {
    use super::*;
    use serde_json::Value;

    fn load(name: &str) -> Option<Value> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors/rfc/").to_owned() + name;
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(serde_json::from_str(&text).unwrap()),
            Err(_) => {
                println!("skipped: {name} is not there");
                None
            }
        }
    }

    fn octets(value: &Value, field: &str) -> Vec<u8> {
        hex::decode(value[field].as_str().unwrap_or_else(|| panic!("{field}"))).unwrap()
    }

    /// A table that expects the packet of `case`, whose SPIs are too low for us: both SPI and its place are checked
    /// by the AEAD, so they cannot be changed. Segment 0 has SPIs from 256 on.
    fn receiver(case: &Value, protection: Protection, keymat: &[u8], integ: &[u8]) -> Table {
        let word = |field| u64::from_str_radix(case[field].as_str().unwrap(), 16).unwrap();
        let esn = case["esn"].as_bool().unwrap_or(false);
        let low = word(if case["seq_lo"].is_string() { "seq_lo" } else { "seq" });
        let number = if esn { (word("seq_hi") << 32) | low } else { low };
        let spi_in = ChildSpi(word("spi") as u32);
        let mut table = Table::new();
        table.serve(spi_in.segment(), EPOCH).unwrap();
        let mut record = child(suite(protection, esn), 1);
        record.keys.encr_in = Secret::from(keymat.to_vec());
        record.keys.integ_in = Secret::from(integ.to_vec());
        record.spi_in = spi_in;
        record.local_ts = vec![net("0.0.0.0/0"), net("::/0")];
        record.remote_ts = record.local_ts.clone();
        let replay = Replay::After(EspSeq(number - 1));
        table.install(Install { replay, ..install(record, path()) }, &mut SeededRng::new(1)).unwrap();
        table
    }

    fn deliver(table: &mut Table, mut packet: Vec<u8>) -> Result<Vec<u8>, DropReason> {
        let arrival = Arrival { range: 0..packet.len(), peer: path().peer, tos: 0 };
        let origin = Origin { local: path().local, udp: true };
        let mut delivered = None;
        table.open(NOW, origin, &mut packet, &[arrival], &mut |arena, inner| {
            delivered = Some(arena[inner].to_vec());
        });
        let drops = table.drops();
        delivered.ok_or_else(|| DropReason::ALL.into_iter().find(|&reason| drops.of(reason) > 0).unwrap())
    }

    //= test ES-4
    #[test]
    fn rfc_4106() {
        let Some(file) = load("rfc4106-esp-aes-gcm.json") else { return };
        let mut opened = 0;
        for case in file["tests"].as_array().unwrap() {
            let cipher = match case["key_bits"].as_u64() {
                Some(128) => Cipher::AesGcm128,
                Some(256) => Cipher::AesGcm256,
                _ => continue,
            };
            let protection = Protection::new(cipher, None).unwrap();
            let mut table = receiver(case, protection, &octets(case, "keymat"), &[]);
            // They open, since the integrity value is right; then the next header 1 is none of a tunnel.
            let reason = deliver(&mut table, octets(case, "esp_packet")).unwrap_err();
            let id = &case["id"];
            assert!(
                matches!(reason, DropReason::NextHeader | DropReason::Dummy | DropReason::Malformed),
                "{id}: {reason:?}"
            );
            if case["next_header"] == 1 && case["pad_length"].as_u64() < Some(4) {
                assert_eq!(reason, DropReason::NextHeader, "{id}");
            }
            let mut forged = octets(case, "esp_packet");
            *forged.last_mut().unwrap() ^= 1;
            let mut table = receiver(case, protection, &octets(case, "keymat"), &[]);
            assert_eq!(deliver(&mut table, forged), Err(DropReason::Integrity), "{id}");
            opened += 1;
        }
        assert!(opened >= 10, "{opened}");
    }

    //= test ES-4
    #[test]
    fn rfc_7634() {
        let Some(file) = load("rfc7634-chacha20poly1305.json") else { return };
        let case = &file["esp"];
        let protection = Protection::new(Cipher::ChaCha20Poly1305, None).unwrap();
        let mut table = receiver(case, protection, &octets(case, "keymat"), &[]);
        assert_eq!(deliver(&mut table, octets(case, "esp_packet")), Ok(octets(case, "inner_packet")));
    }

    /// The packets of RFC 3602 have no integrity value; one is added, so that the whole path is walked.
    //= test ES-6
    #[test]
    fn rfc_3602() {
        let Some(file) = load("rfc3602-aes-cbc.json") else { return };
        let text = file.to_string();
        assert!(text.contains("tunnel"));
        let integ = Integ::HmacSha256_128;
        let protection = Protection::new(Cipher::AesCbc128, Some(integ)).unwrap();
        let mut opened = 0;
        let cases = file.as_object().unwrap().values().filter_map(Value::as_array).flatten();
        for case in cases.filter(|case| case["mode"] == "tunnel") {
            let mac_key = [7; 32];
            let mut packet = octets(case, "esp_packet");
            let mac = crypto::prf::Prf::HmacSha256.prf(&mac_key, &[&packet]);
            packet.extend(&mac.as_bytes()[..16]);
            let mut table = receiver(case, protection, &octets(case, "key"), &mac_key);
            let inner = [octets(case, "original_ipv4_header"), octets(case, "original_data")].concat();
            assert_eq!(deliver(&mut table, packet), Ok(inner), "{}", case["id"]);
            opened += 1;
        }
        assert_eq!(opened, 2);
    }
}

//= test ES-22
#[test]
fn fragments_pass_where_no_port_is_selected() {
    let (mut us, mut peer) = pair(gcm());
    let mut fragment = ipv4("10.9.0.7", "10.1.2.3", 17, &[9; 64]);
    fragment[6..8].copy_from_slice(&0x2010u16.to_be_bytes());
    fragment[10..12].fill(0);
    let sum = checksum::of(&fragment[..20]);
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    let packet = peer.seal(&fragment).unwrap();
    assert_eq!(us.open(&packet), Ok(fragment.clone()));
    let dns = |record: ChildRecord, local: bool| {
        let ports =
            |selector: &Selector| Selector { protocol: 17, start_port: 53, end_port: 53, ..*selector };
        let (mut record, own) = (record, |ts: &[Selector]| ts.iter().map(ports).collect::<Vec<_>>());
        if local {
            record.local_ts = own(&record.local_ts);
        } else {
            record.remote_ts = own(&record.remote_ts);
        }
        record
    };
    us.install(dns(child(gcm(), 5), true), path());
    let packet = peer.seal(&fragment).unwrap();
    assert_eq!(us.open(&packet), Err(DropReason::Fragment));
    peer.install(dns(mirror(&child(gcm(), 5)), false), path());
    assert_eq!(peer.seal(&fragment), Err(DropReason::Fragment));
}
