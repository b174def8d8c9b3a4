//! Requirements that a well-behaved client never puts to the test: what the gateway does when a peer that knows the
//! keys, or is about to, says something unusual.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::gateway::{Gateway, aead, cbc, esp_suite, ike_suite, local, policy};
use common::world::{World, config};
use crypto::cipher::{Cipher, Integ};
use crypto::kex::{Group, PrivateKey};
use crypto::prf::Prf;
use crypto::rng::{Rng, SeededRng};
use ipsec::datagram::Datagram;
use ipsec::ike;
use ipsec::policy::{IkeProposal, Selector};
use ipsec::record::ChildPhase;
use ipsec::types::{ChildSpi, MessageId, Millis, Spi};
use ipsec::wire::*;

/// An IKE_SA_INIT request with an SA payload of the test's choice.
fn init(sa: Sa, group: Group) -> Message {
    let mut rng = SeededRng::new(5);
    let header = Header {
        spi_i: Spi(rng.u64()),
        spi_r: Spi(0),
        exchange: ExchangeType::IKE_SA_INIT,
        initiator: true,
        response: false,
        message_id: MessageId(0),
    };
    let private = PrivateKey::generate(group, &mut rng);
    Message::new(header).with(sa).with(Ke::new(group, private.public())).with(Nonce::random(&mut rng))
}

/// What the gateway says to it.
fn told(policy: ipsec::policy::Gateway, request: &Message) -> Payloads {
    let datagram = Datagram::new(local(), "198.51.100.7:500".parse().unwrap(), request.emit());
    let mut gateway = Gateway::new(policy, 1);
    let replies = gateway.handle(&datagram, Millis(1));
    let [reply] = &replies[..] else { panic!("one reply: {:?}", gateway.drops) };
    Message::parse(&reply.octets).unwrap().payloads
}

/// Padded with a vendor ID to sizes that must and should be understood.
//= test IK-1
#[test]
fn messages_of_1280_and_3000_octets() {
    for size in [1_280, 3_000] {
        let mut request = init(Sa::answer(Proposal::ike(1, None, &ike_suite())), Group::Ecp256);
        let missing = size - request.emit().len() - 4;
        request.payloads.push(Vendor(vec![7; missing]));
        assert_eq!(request.emit().len(), size);
        assert!(told(policy(), &request).sa().is_some(), "{size}");
    }
}

fn offer(transforms: Vec<Transform>) -> Proposal {
    Proposal { number: 1, protocol: ProtocolId::IKE, spi: vec![], transforms }
}

/// Each offer has one proposal; `None`: it is not acceptable.
//= test IK-32
//= test IK-33
//= test IK-36
//= test IK-37
#[test]
fn offers_of_every_kind() {
    let cbc_suite = IkeProposal { protection: cbc(Cipher::AesCbc256, Integ::HmacSha256_128), ..ike_suite() };
    let mut policy = policy();
    policy.connections[0].ike = vec![ike_suite(), cbc_suite];
    let encr = || Transform::encr(Cipher::AesGcm256);
    let (prf, ke) = (|| Transform::prf(Prf::HmacSha384), || Transform::group(Group::Ecp256));
    let none = |kind| Transform::new(kind, 0);
    let cbc = || Transform::encr(Cipher::AesCbc256);
    let odd = |kind| Transform { attributes: vec![Attribute::Short { kind: 99, value: 1 }], ..kind };
    for (why, transforms, taken) in [
        ("an AEAD", vec![encr(), prf(), ke()], Some(3)),
        ("an AEAD with integrity NONE", vec![encr(), prf(), none(TransformType::INTEG), ke()], Some(4)),
        ("an AEAD with integrity", vec![encr(), prf(), Transform::integ(Integ::HmacSha256_128), ke()], None),
        ("CBC with integrity", vec![cbc(), prf(), Transform::integ(Integ::HmacSha256_128), ke()], Some(4)),
        ("CBC without integrity", vec![cbc(), prf(), ke()], None),
        ("CBC with integrity NONE", vec![cbc(), prf(), none(TransformType::INTEG), ke()], None),
        (
            "no encryption",
            vec![
                Transform::new(TransformType::ENCR, EncrId::NULL.0),
                prf(),
                Transform::integ(Integ::HmacSha256_128),
                ke(),
            ],
            None,
        ),
        ("no key exchange", vec![encr(), prf()], None),
        ("key exchange NONE", vec![encr(), prf(), none(TransformType::KE)], None),
        ("no PRF", vec![encr(), ke()], None),
        ("an unknown type", vec![encr(), prf(), ke(), Transform::new(TransformType(200), 1)], None),
        (
            "unknown transforms beside",
            vec![
                Transform::new(TransformType::ENCR, 999),
                encr(),
                Transform::new(TransformType::PRF, 999),
                prf(),
                ke(),
            ],
            Some(3),
        ),
        ("a cipher with an unknown attribute", vec![odd(encr()), prf(), ke()], None),
        ("the same beside a good one", vec![odd(encr()), encr(), prf(), ke()], Some(3)),
        (
            "a key length missing",
            vec![Transform::new(TransformType::ENCR, EncrId::AES_GCM_16.0), prf(), ke()],
            None,
        ),
        (
            "a choice of everything",
            vec![encr(), cbc(), prf(), Transform::prf(Prf::HmacSha256), ke()],
            Some(3),
        ),
    ] {
        let offered = Sa::answer(offer(transforms));
        let answer = told(policy.clone(), &init(offered.clone(), Group::Ecp256));
        match (answer.sa(), taken) {
            (Some(sa), Some(count)) => {
                assert!(sa.answers(&offered), "{why}: {sa:?}");
                assert_eq!(sa.accepted().unwrap().transforms.len(), count, "{why}: {sa:?}");
            }
            (None, None) => assert!(answer.has_notify(NotifyType::NO_PROPOSAL_CHOSEN), "{why}: {answer:?}"),
            (other, _) => panic!("{why}: {other:?}"),
        }
    }
}

/// The second of two proposals is taken under its own number.
//= test IK-32
#[test]
fn the_number_of_the_proposal_comes_back() {
    let other = IkeProposal { protection: aead(Cipher::ChaCha20Poly1305), ..ike_suite() };
    let offered = Sa::new(vec![Proposal::ike(1, None, &other), Proposal::ike(2, None, &ike_suite())]);
    let answer = told(policy(), &init(offered.clone(), Group::Ecp256));
    assert_eq!(answer.sa().unwrap().accepted().unwrap().number, 2);
    assert!(answer.sa().unwrap().answers(&offered));
}

/// MODP-1024 and MODP-1536, which some clients still offer, are as unknown to us as any other number.
//= test IK-30
#[test]
fn weak_groups_are_never_taken() {
    for group in [GroupId::MODP_768, GroupId::MODP_1024, GroupId::MODP_1536] {
        let transforms = vec![
            Transform::encr(Cipher::AesGcm256),
            Transform::prf(Prf::HmacSha384),
            Transform::new(TransformType::KE, group.0),
        ];
        let mut request = init(Sa::answer(offer(transforms)), Group::Ecp256);
        request.payloads = request
            .payloads
            .iter()
            .map(|payload| match payload {
                Payload::Ke(_) => Payload::Ke(Ke { group, data: vec![2; 128] }),
                other => other.clone(),
            })
            .collect();
        assert!(told(policy(), &request).has_notify(NotifyType::NO_PROPOSAL_CHOSEN), "{group}");
    }
}

fn rekey_of_the_ike_sa(transforms: Vec<Transform>) -> Payloads {
    let mut rng = SeededRng::new(6);
    let proposal = Proposal { spi: 77u64.to_be_bytes().to_vec(), ..offer(transforms) };
    Payloads::default().with(Sa::answer(proposal)).with(Nonce::random(&mut rng))
}

//= test IK-37
#[test]
fn an_ike_rekey_without_a_key_exchange_is_refused() {
    let (encr, prf) = (Transform::encr(Cipher::AesGcm256), Transform::prf(Prf::HmacSha384));
    for transforms in [
        vec![encr.clone(), prf.clone()],
        vec![encr.clone(), prf.clone(), Transform::new(TransformType::KE, 0)],
    ] {
        let mut world = World::up(config(), policy());
        let answer = world.say(ExchangeType::CREATE_CHILD_SA, rekey_of_the_ike_sa(transforms));
        assert!(answer.has_notify(NotifyType::NO_PROPOSAL_CHOSEN), "{answer:?}");
        assert_eq!(world.gateway.records.all().len(), 1);
    }
}

//= test IK-61
#[test]
fn cfg_set_is_acknowledged_without_taking_anything() {
    let mut world = World::up(config(), policy());
    let wish = ConfigAttribute::Ip4Address(Some([10, 99, 0, 200].into()));
    let set = Payloads::default().with(Config::new(ConfigType::CFG_SET, vec![wish]));
    let answer = world.say(ExchangeType::INFORMATIONAL, set);
    assert_eq!(answer.config(), Some(&Config::new(ConfigType::CFG_ACK, vec![])));
    assert_eq!(answer.len(), 1);
}

//= test IK-62
#[test]
fn cp_stands_before_sa() {
    let mut world = World::new(config(), policy(), 2);
    for _ in 0..2 {
        world.deliver_to_gateway();
        if world.established().is_empty() {
            world.deliver_to_client();
        }
    }
    let reply = world.to_client.pop_front().expect("the reply to IKE_AUTH");
    let payloads = world.read(&world.established()[0].clone(), &reply.octets);
    let kinds: Vec<PayloadType> = payloads.iter().map(Payload::kind).collect();
    let at = |kind| kinds.iter().position(|&it| it == kind).unwrap_or_else(|| panic!("{kind} in {kinds:?}"));
    assert!(at(PayloadType::CP) < at(PayloadType::SA), "{kinds:?}");
    assert_eq!(&kinds[..2], &[PayloadType::IDr, PayloadType::AUTH], "the documented order");
}

//= test IK-63
#[test]
fn leases_follow_the_rekeyed_ike_sa_and_end_with_it() {
    let mut world = World::up(config(), policy());
    let leased = world.established()[0].inner_addresses.clone();
    assert_eq!(leased.len(), 2);
    world.order(ipsec::client::Order::RekeyIke);
    world.settle();
    let records = world.gateway.records.all();
    assert_eq!((records.len(), &records[0].inner_addresses), (1, &leased));
    world.order(ipsec::client::Order::Delete);
    world.settle();
    assert!(world.gateway.records.all().is_empty(), "and with the record its leases");
}

/// From the moment that our Delete is decided the child carries nothing and its SPI is nobody else's.
//= test IK-85
#[test]
fn a_child_being_deleted_is_not_used_and_keeps_its_spi() {
    let mut world = World::up(config(), policy());
    let record = world.established().pop().unwrap();
    let spi = record.children[0].spi_in;
    world.order_gateway(ike::Order::TerminateChild(record.spi, spi));
    let child = world.established()[0].child(spi).cloned().expect("until the peer has answered");
    assert!(matches!(child.phase, ChildPhase::Closing { .. }));
    assert!(ike::View::child_spi_taken(&world.gateway.records, spi));
    // A rekey of it comes too late.
    let suite = ipsec::policy::EspProposal { group: None, ..esp_suite() };
    let everything = || Ts::new(world.client.children()[0].remote_ts.clone());
    let rekey = Payloads::default()
        .with(Notify::about_child(NotifyType::REKEY_SA, child.spi_out))
        .with(Sa::answer(Proposal::esp(1, ChildSpi(0x7000), &suite, true)))
        .with(Nonce(vec![4; 32]))
        .with(Payload::TsI(everything()))
        .with(Payload::TsR(everything()));
    let answer = world.say(ExchangeType::CREATE_CHILD_SA, rekey);
    assert!(answer.has_notify(NotifyType::TEMPORARY_FAILURE), "{answer:?}");
    world.settle();
    assert!(!ike::View::child_spi_taken(&world.gateway.records, spi));
}

/// Each is a bad request on an SA whose peer is known: it gets an answer that says so.
//= test IK-88
#[test]
fn bad_requests_get_an_error() {
    let nonce = || Nonce(vec![4; 32]);
    let esp = |spi: u32| {
        let suite = ipsec::policy::EspProposal { group: None, ..esp_suite() };
        Sa::answer(Proposal::esp(1, ChildSpi(spi), &suite, true))
    };
    let host = |text: &str| Ts::new(vec![Selector::host(text.parse().unwrap())]);
    for (why, exchange, payloads, error) in [
        (
            "no SA",
            ExchangeType::CREATE_CHILD_SA,
            Payloads::default().with(nonce()),
            NotifyType::INVALID_SYNTAX,
        ),
        (
            "no nonce",
            ExchangeType::CREATE_CHILD_SA,
            Payloads::default().with(esp(999)),
            NotifyType::INVALID_SYNTAX,
        ),
        (
            "no selectors",
            ExchangeType::CREATE_CHILD_SA,
            Payloads::default().with(esp(999)).with(nonce()),
            NotifyType::INVALID_SYNTAX,
        ),
        (
            "foreign selectors",
            ExchangeType::CREATE_CHILD_SA,
            Payloads::default()
                .with(esp(999))
                .with(nonce())
                .with(Payload::TsI(host("203.0.113.1")))
                .with(Payload::TsR(host("203.0.113.2"))),
            NotifyType::TS_UNACCEPTABLE,
        ),
        (
            "a reserved SPI",
            ExchangeType::CREATE_CHILD_SA,
            Payloads::default()
                .with(esp(255))
                .with(nonce())
                .with(Payload::TsI(host("10.99.0.1")))
                .with(Payload::TsR(host("10.10.0.1"))),
            NotifyType::INVALID_SYNTAX,
        ),
        (
            "a child that nobody knows",
            ExchangeType::CREATE_CHILD_SA,
            Payloads::default()
                .with(Notify::about_child(NotifyType::REKEY_SA, ChildSpi(0x4711)))
                .with(esp(999))
                .with(nonce()),
            NotifyType::CHILD_SA_NOT_FOUND,
        ),
        ("IKE_AUTH once more", ExchangeType::IKE_AUTH, Payloads::default(), NotifyType::INVALID_SYNTAX),
        ("an unknown exchange", ExchangeType(99), Payloads::default(), NotifyType::INVALID_SYNTAX),
    ] {
        let mut world = World::up(config(), policy());
        let answer = world.say(exchange, payloads);
        assert_eq!(answer.error().map(|notify| notify.kind), Some(error), "{why}");
        assert_eq!(answer.len(), 1, "{why}: nothing else is told");
    }
}

//= test IK-91
#[test]
fn what_the_peer_does_not_support_is_noted() {
    let world = World::up(config(), policy());
    let supports = world.established()[0].peer_supports;
    assert!(!supports.tfc_padding, "our client cannot cut it off and says so");
    assert!(!supports.non_first_fragments);
}

//= test IK-92
//= test IK-93
#[test]
fn compression_and_transport_mode_are_not_answered() {
    let mut world = World::up(config(), policy());
    let child = world.established()[0].children[0].clone();
    let suite = ipsec::policy::EspProposal { group: None, ..esp_suite() };
    let request = Payloads::default()
        .with(Notify::new(NotifyType::IPCOMP_SUPPORTED, vec![0x12, 0x34, 2]))
        .with(Notify::bare(NotifyType::USE_TRANSPORT_MODE))
        .with(Sa::answer(Proposal::esp(1, ChildSpi(0x7000), &suite, true)))
        .with(Nonce(vec![4; 32]))
        .with(Payload::TsI(Ts::new(child.remote_ts.clone())))
        .with(Payload::TsR(Ts::new(child.local_ts.clone())));
    let answer = world.say(ExchangeType::CREATE_CHILD_SA, request);
    assert!(answer.sa().is_some(), "a child in tunnel mode: {answer:?}");
    assert_eq!(answer.notifies().count(), 0, "{answer:?}");
    assert_eq!(world.established()[0].children.len(), 2);
}

/// The same address, the same SPI of theirs, even the same nonce; only the port differs, and our SPI.
//= test IK-100
#[test]
fn two_clients_behind_one_nat() {
    let mut gateway = Gateway::new(policy(), 1);
    let mut clients = Vec::new();
    for (port, name) in [(40_001, "alice@example.org"), (40_002, "bob@example.org")] {
        let local = format!("198.51.100.7:{port}").parse().unwrap();
        let config = ipsec::client::Config {
            local,
            local_nat_t: local,
            local_id: ipsec::policy::Identity::parse(name),
            encapsulate: true,
            ..config()
        };
        let mut rng = SeededRng::new(42);
        let (mut client, mut output) = ipsec::client::Client::new(config, Millis(0), &mut rng);
        for _ in 0..2 {
            let sent = output.datagrams.pop().expect("a request");
            let came = Datagram::new(sent.peer, sent.local, sent.octets);
            let reply = gateway.handle(&came, Millis(0)).pop().expect("a reply");
            output =
                client.handle(&Datagram::new(local, reply.local, reply.octets), Millis(0), &mut rng).unwrap();
        }
        assert!(client.is_up());
        clients.push(client);
    }
    let records = gateway.records.all();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].peer_spi, records[1].peer_spi, "the clients' SPIs are the same");
    assert_ne!(records[0].spi, records[1].spi);
    assert_ne!(records[0].path.peer, records[1].path.peer);
    assert_ne!(clients[0].addresses(), clients[1].addresses());
}

/// The client's tunnel against the gateway's packet path: in UDP, without it, and back.
//= test IK-97
//= test CL-44
//= test ES-28
#[test]
fn esp_with_and_without_udp() {
    use ipsec::esp::{Arrival, ChildStats, Flow, Install, Origin, Replay, Table};
    use ipsec::record::Block;
    use ipsec::types::{Epoch, EspSeq, Segment};

    let mut world = World::up(config(), policy());
    let record = world.established().pop().unwrap();
    let child = record.children[0].clone();
    let (spi_in, mut table) = (child.spi_in, Table::new());
    table.serve(Segment(5), Epoch(1)).unwrap();
    let install = Install {
        ike: record.spi,
        child,
        path: record.path,
        rekey_octets: 0,
        path_mtu: 1500,
        replay: Replay::Fresh,
        stats: std::sync::Arc::new(ChildStats::default()),
    };
    table.install(install, &mut world.rng).unwrap();
    let inner = common::world::inner_packet();
    let mut delivered = Vec::new();
    for udp in [true, false, true, false] {
        let mut arena = Vec::new();
        assert!(world.client.seal(&inner, &mut arena));
        let arrivals = [Arrival { range: 0..arena.len(), peer: record.path.peer, tos: 0 }];
        let origin = Origin { local: record.path.local, udp };
        table.open(world.now, origin, &mut arena, &arrivals, &mut |arena, range| {
            delivered.push(arena[range].to_vec());
        });
    }
    assert_eq!(delivered, vec![inner; 4]);

    let block = Block { epoch: Epoch(1), first: EspSeq(1), last: EspSeq(100) };
    table.grant(spi_in, block, &mut world.rng).unwrap();
    let mut back = common::world::inner_packet();
    let (source, destination) = ([10, 10, 0, 1], [10, 99, 0, 1]);
    back[12..16].copy_from_slice(&source);
    back[16..20].copy_from_slice(&destination);
    let index = table.select(&Flow::of(&back).unwrap()).unwrap();
    let mut sealer = table.sealer(index, world.now).unwrap();
    let mut packet = vec![0; sealer.sealed_len(back.len())];
    let len = sealer.seal(&back, &mut packet).unwrap();
    assert_eq!(world.client.open(&mut packet[..len], world.now), Some(&back[..]));
    assert_eq!(world.client.open(&mut packet[..len], world.now), None, "and once only");
}
