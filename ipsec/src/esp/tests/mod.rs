//! Two tables and the packets between them: what leaves one side and is accepted, or not, by the other.

use std::sync::Arc;

use crypto::Secret;
use crypto::cipher::{Cipher, Integ, Protection};
use crypto::rng::{Rng, SeededRng};
use proptest::prelude::*;

use super::samples::{ipv4, udp};
use super::*;
use crate::policy::{Network, Selector};
use crate::record::{Block, ChildKeys, ChildPhase, ChildRecord, Claimed, EspSuite, Path, Side};
use crate::types::{ChildSpi, Epoch, EspSeq, Millis, Segment, Spi};

mod owning;
mod vectors;

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
        claimed: None,
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
    //= test ES-17
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

#[test]
fn inner_packets_that_fit_fill_the_path() {
    let (us, _) = pair(gcm());
    let child = us.table.find(OURS).unwrap();
    let outer = pmtu::Outer { ipv6: false, udp: true };
    assert!(outer.len(gcm().protection, child.inner_mtu()) <= 1_500);
    assert!(outer.len(gcm().protection, child.inner_mtu() + 1) > 1_500);
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
