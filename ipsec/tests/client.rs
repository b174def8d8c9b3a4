//! The client against the engine: two implementations that share only the wire formats and the key derivation.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::gateway::{aead, cbc, esp_suite, ike_suite, policy};
use common::world::{World, config};
use crypto::Secret;
use crypto::cipher::{Cipher, Integ};
use crypto::kex::Group;
use crypto::prf::Prf;
use ipsec::client::{End, Event, Order};
use ipsec::ike;
use ipsec::policy::{EspProposal, IkeProposal};
use ipsec::types::Spi;
use ipsec::wire::{Header, Message, NotifyType};

fn gateway_spi(world: &World) -> Spi {
    let [record] = &world.established()[..] else { panic!("one IKE SA: {:?}", world.established()) };
    record.spi
}

//= test IK-31
//= test IK-42
//= test IK-43
//= test IK-56
#[test]
fn connects_and_gets_addresses_of_both_families() {
    let mut world = World::up(config(), policy());
    let [Event::Up { addresses, dns, .. }, Event::ChildUp { replaces: None, .. }] = &world.events[..] else {
        panic!("{:?}", world.events);
    };
    assert_eq!(
        addresses,
        &["10.99.0.1".parse::<std::net::IpAddr>().unwrap(), "2001:db8:99::1".parse().unwrap()]
    );
    assert_eq!(dns, &["10.10.0.53".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!world.client.encapsulates());
    world.assert_children_agree();
}

//= test IK-80
#[test]
fn every_algorithm_pairwise() {
    let protections = [
        aead(Cipher::AesGcm128),
        aead(Cipher::AesGcm256),
        aead(Cipher::ChaCha20Poly1305),
        cbc(Cipher::AesCbc128, Integ::HmacSha256_128),
        cbc(Cipher::AesCbc256, Integ::HmacSha384_192),
        cbc(Cipher::AesCbc256, Integ::HmacSha512_256),
    ];
    let prfs = [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];
    let groups =
        [Group::Curve25519, Group::Ecp256, Group::Ecp384, Group::Modp2048, Group::Modp3072, Group::Modp4096];
    for (at, &protection) in protections.iter().enumerate() {
        let ike = IkeProposal { protection, prf: prfs[at % 3], group: groups[at] };
        let esp = EspProposal {
            protection: protections[(at + 2) % 6],
            group: (at % 2 == 0).then_some(groups[(at + 3) % 3]),
            esn: [None, Some(true), Some(false)][at % 3],
        };
        let mut policy = policy();
        policy.connections[0].ike = vec![ike];
        policy.connections[0].children[0].esp = vec![esp];
        let config = ipsec::client::Config { ike: vec![ike], esp: vec![esp], ..config() };
        let mut world = World::up(config, policy);
        world.assert_children_agree();
        let old = world.client.children()[0].spi_in;
        assert!(world.order(Order::RekeyChild(old)) && world.order(Order::RekeyIke));
        world.settle();
        assert_ne!(world.client.children()[0].spi_in, old, "{protection}");
        world.assert_children_agree();
        assert_eq!(world.established().len(), 1);
    }
}

//= test IK-27
//= test IK-28
#[test]
fn behind_a_nat_everything_moves_to_4500() {
    let mut world = World::up(ipsec::client::Config { encapsulate: true, ..config() }, policy());
    assert!(world.client.encapsulates());
    let (local, gateway) = world.client.path();
    assert_eq!((local.port(), gateway.port()), (4500, 4500));
    assert!(world.established()[0].path.encapsulates() && world.established()[0].path.peer_behind_nat);
    world.assert_children_agree();
}

/// Each message of a whole session is lost once, then comes twice: the same octets do it.
//= test IK-14
//= test IK-15
#[test]
fn every_message_lost_once_and_doubled_once() {
    let mut world = World::new(config(), policy(), 3);
    for step in 0..6 {
        for _ in 0..40 {
            // Lose what is under way, then let both sides repeat it.
            world.to_gateway.clear();
            world.to_client.clear();
            world.pass(2_000);
            let copies = (world.to_gateway.clone(), world.to_client.clone());
            world.to_gateway.extend(copies.0);
            world.to_client.extend(copies.1);
            world.deliver_to_gateway();
            world.to_client.clear();
            world.pass(2_000);
            world.settle();
            if world.to_gateway.is_empty() && world.client.is_up() {
                break;
            }
        }
        assert!(world.client.is_up(), "step {step}: {:?}", world.events);
        let child = world.client.children().last().unwrap().spi_in;
        match step {
            0 => assert!(world.order(Order::Liveness)),
            1 => assert!(world.order(Order::RekeyChild(child))),
            2 => assert!(world.order(Order::RekeyIke)),
            3 => world.order_gateway(ike::Order::RekeyIke(gateway_spi(&world))),
            _ => {
                let spi_in = world.established()[0].children[0].spi_in;
                world.order_gateway(ike::Order::RekeyChild(gateway_spi(&world), spi_in));
            }
        }
    }
    for _ in 0..10 {
        world.pass(3_000);
        world.settle();
    }
    world.assert_children_agree();
    world.assert_retransmissions_are_exact();
    assert_eq!(world.client.children().len(), 1);
}

//= test IK-23
#[test]
fn another_group_with_the_same_proposals() {
    let (ecp, curve) = (ike_suite(), IkeProposal { group: Group::Curve25519, ..ike_suite() });
    let mut gateway = policy();
    gateway.connections[0].ike = vec![curve];
    let mut world = World::new(ipsec::client::Config { ike: vec![ecp, curve], ..config() }, gateway, 1);
    world.settle();
    assert!(world.client.is_up());
    let init = |octets: &Vec<u8>| Message::parse(octets).unwrap();
    let (first, again) = (init(&world.sent[0]), init(&world.sent[2]));
    assert_eq!(first.payloads.sa(), again.payloads.sa(), "the full unchanged proposals");
    assert_ne!(first.payloads.ke().unwrap().group, again.payloads.ke().unwrap().group);
    assert_eq!(first.header, again.header);
}

//= test IK-20
//= test IK-21
#[test]
fn a_cookie_comes_back_first_and_all_else_unchanged() {
    let mut world = World::new(config(), policy(), 1);
    // Strangers fill the gateway with half-open SAs.
    for seed in 100..200 {
        let stranger = World::new(config(), policy(), seed);
        let mut request = stranger.to_gateway[0].clone();
        (request.local, request.peer) = (request.peer, "203.0.113.9:500".parse().unwrap());
        request.peer.set_port(1000 + seed as u16);
        world.gateway.handle(&request, world.now);
    }
    world.settle();
    assert!(world.client.is_up(), "{:?}", world.events);
    let (first, again) = (Message::parse(&world.sent[0]).unwrap(), Message::parse(&world.sent[2]).unwrap());
    let notify = again.payloads.iter().next().unwrap();
    assert!(matches!(notify, ipsec::wire::Payload::Notify(notify) if notify.kind == NotifyType::COOKIE));
    let rest: ipsec::wire::Payloads = again.payloads.iter().skip(1).cloned().collect();
    assert_eq!(rest, first.payloads);
    assert_eq!(again.header, first.header);
}

//= test IK-51
//= test IK-52
//= test IK-24
//= test IK-58
#[test]
fn what_the_client_is_told_when_it_cannot_come_in() {
    let told = |config: ipsec::client::Config, policy: ipsec::policy::Gateway| {
        let mut world = World::new(config, policy, 1);
        world.settle();
        (world.client.ended(), world.events)
    };
    let wrong_psk = ipsec::client::Config { psk: Secret::from_slice(b"another secret"), ..config() };
    assert_eq!(told(wrong_psk, policy()).0, Some(End::Refused(NotifyType::AUTHENTICATION_FAILED)));
    let mut only_bob = policy();
    only_bob.connections[0].remote_id = ipsec::policy::IdPattern("bob@example.org".into());
    assert_eq!(told(config(), only_bob).0, Some(End::Refused(NotifyType::AUTHENTICATION_FAILED)));
    let other = IkeProposal { protection: aead(Cipher::ChaCha20Poly1305), ..ike_suite() };
    let no_ike = ipsec::client::Config { ike: vec![other], ..config() };
    assert_eq!(told(no_ike, policy()).0, Some(End::Refused(NotifyType::NO_PROPOSAL_CHOSEN)));

    let refused = |events: &[Event]| {
        events
            .iter()
            .find_map(|event| if let Event::Refused { notify, .. } = event { Some(*notify) } else { None })
    };
    let no_esp = ipsec::client::Config {
        esp: vec![EspProposal { protection: aead(Cipher::ChaCha20Poly1305), ..esp_suite() }],
        ..config()
    };
    let (ended, events) = told(no_esp, policy());
    assert_eq!((ended, refused(&events)), (None, Some(NotifyType::NO_PROPOSAL_CHOSEN)), "the IKE SA stays");
    let mut empty_pool = policy();
    empty_pool.pools[0].addresses.clear();
    let (ended, events) = told(config(), empty_pool);
    assert_eq!((ended, refused(&events)), (None, Some(NotifyType::INTERNAL_ADDRESS_FAILURE)));
}

//= test IK-83
//= test IK-87
#[test]
fn liveness_both_ways() {
    let mut world = World::up(config(), policy());
    world.order(Order::Liveness);
    world.settle();
    assert_eq!(world.events.last(), Some(&Event::Alive));

    let mut asking = policy();
    asking.connections[0].dpd_ms = 5_000;
    let mut world = World::up(config(), asking);
    world.pass(6_000);
    assert_eq!(world.to_client.len(), 1, "the gateway asks");
    world.settle();
    assert_eq!(world.established()[0].outstanding, None, "and is answered");
}

//= test IK-18
#[test]
fn a_silent_gateway_is_given_up_after_all_tries() {
    let mut world = World::up(ipsec::client::Config { dpd_ms: 1_000, ..config() }, policy());
    for _ in 0..60 {
        let Some(at) = world.client.next_timeout() else { break };
        world.now = at;
        let output = world.client.timeout(at, &mut world.rng);
        world.take(output);
        world.to_gateway.clear();
    }
    assert_eq!(world.client.ended(), Some(End::Silent));
    assert!(world.client.children().is_empty());
    world.assert_retransmissions_are_exact();
}

//= test IK-84
//= test IK-86
#[test]
fn deletes_both_ways() {
    let mut world = World::up(config(), policy());
    let child = world.client.children()[0].spi_in;
    world.order(Order::DeleteChild(child));
    world.settle();
    assert!(world.client.children().is_empty() && world.established()[0].children.is_empty());
    world.order(Order::Delete);
    world.settle();
    assert_eq!(world.client.ended(), Some(End::WeDeleted));
    assert!(world.gateway.records.all().is_empty());

    let mut world = World::up(config(), policy());
    let (spi, child) = (gateway_spi(&world), world.established()[0].children[0].spi_in);
    world.order_gateway(ike::Order::TerminateChild(spi, child));
    world.settle();
    assert!(world.client.children().is_empty() && world.established()[0].children.is_empty());
    world.order_gateway(ike::Order::Terminate(spi));
    world.settle();
    assert_eq!(world.client.ended(), Some(End::GatewayDeleted));
    assert!(world.gateway.records.all().is_empty());
}

//= test IK-69
//= test IK-73
//= test IK-80
#[test]
fn two_hundred_rekeys_leave_nothing_behind() {
    let mut world = World::up(config(), policy());
    for round in 0..50 {
        let child = world.client.children()[0].spi_in;
        world.order(Order::RekeyChild(child));
        world.settle();
        world.order(Order::RekeyIke);
        world.settle();
        world.order_gateway(ike::Order::RekeyIke(gateway_spi(&world)));
        world.settle();
        let child = world.established()[0].children[0].spi_in;
        world.order_gateway(ike::Order::RekeyChild(gateway_spi(&world), child));
        world.settle();
        assert_eq!(world.gateway.records.all().len(), 1, "round {round}");
        assert_eq!(world.client.ike_keys().count(), 1, "round {round}");
        assert_eq!(world.client.children().len(), 1, "round {round}");
        world.assert_children_agree();
    }
    world.assert_retransmissions_are_exact();
}

/// Both ask before either has heard of the other: one pair stays, whoever had the lowest nonce.
//= test IK-74
#[test]
fn crossing_child_rekeys() {
    for seed in 0..24 {
        let mut world = World::new(config(), policy(), seed);
        world.settle();
        let (ours, theirs) = (world.client.children()[0].spi_in, world.established()[0].children[0].spi_in);
        world.order(Order::RekeyChild(ours));
        world.order_gateway(ike::Order::RekeyChild(gateway_spi(&world), theirs));
        if seed % 2 == 0 {
            world.deliver_to_client()
        } else {
            world.deliver_to_gateway()
        };
        world.settle();
        for _ in 0..5 {
            world.pass(5_000);
            world.settle();
        }
        assert_eq!(world.client.children().len(), 1, "seed {seed}: {:?}", world.events);
        world.assert_children_agree();
        world.assert_retransmissions_are_exact();
    }
}

//= test IK-75
#[test]
fn crossing_ike_rekeys() {
    for seed in 0..24 {
        let mut world = World::new(config(), policy(), seed);
        world.settle();
        world.order(Order::RekeyIke);
        world.order_gateway(ike::Order::RekeyIke(gateway_spi(&world)));
        if seed % 2 == 0 {
            world.deliver_to_client()
        } else {
            world.deliver_to_gateway()
        };
        world.settle();
        for _ in 0..5 {
            world.pass(5_000);
            world.settle();
        }
        assert_eq!(world.gateway.records.all().len(), 1, "seed {seed}: {:?}", world.gateway.events);
        assert_eq!(world.client.ike_keys().count(), 1, "seed {seed}: {:?}", world.events);
        world.assert_children_agree();
        world.order(Order::Liveness);
        world.settle();
        assert_eq!(world.events.last(), Some(&Event::Alive), "seed {seed}");
        world.assert_retransmissions_are_exact();
    }
}

/// A message that no SA of ours has, or that was changed on the way, changes nothing.
//= test IK-96
#[test]
fn damaged_messages_change_nothing() {
    let mut world = World::up(config(), policy());
    world.order(Order::Liveness);
    world.deliver_to_gateway();
    let mut answer = world.to_client.pop_front().unwrap();
    (answer.local, answer.peer) = (answer.peer, answer.local);
    let good = answer.octets.clone();
    for at in 0..good.len() {
        answer.octets = good.clone();
        answer.octets[at] ^= 0x10;
        let (now, events) = (world.now, world.events.len());
        if let Ok(output) = world.client.handle(&answer, now, &mut world.rng) {
            // Flags and versions that are to be ignored are authenticated too.
            panic!("octet {at}: {output:?} {:?}", Header::peek(&answer.octets));
        }
        assert_eq!(world.events.len(), events);
    }
    answer.octets = good;
    let output = world.client.handle(&answer, world.now, &mut world.rng).unwrap();
    assert_eq!(output.events, [Event::Alive]);
}
