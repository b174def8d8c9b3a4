//! A gateway that cheats: what the client does when the other side is not who it says, or takes what was not offered.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::SocketAddr;

use common::gateway::{PSK, aead, ike_suite};
use common::world::config;
use crypto::Secret;
use crypto::cipher::{Cipher, OpenKey, SealKey};
use crypto::kex::{Group, PrivateKey};
use crypto::rng::SeededRng;
use ipsec::client::{Client, End, Event, Output};
use ipsec::datagram::Datagram;
use ipsec::ike::keys::{self, Nonces};
use ipsec::policy::{EspProposal, Identity, IkeProposal, Selector};
use ipsec::record::{IkeKeys, IkeSuite};
use ipsec::types::{ChildSpi, Millis, Spi};
use ipsec::wire::*;

/// How it cheats.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trick {
    None,
    WrongAuth,
    OtherIdentity,
    NoAuth,
    IkeProposalNotOffered,
    EspProposalNotOffered,
    WiderSelectors,
    ReservedSpi,
}

const SPI_R: Spi = Spi(0x0123_4567_89ab_cdef);

/// What the client made of it: its events, and the requests that it sent after IKE_AUTH.
struct Outcome {
    client: Client,
    events: Vec<Event>,
    after: Vec<Payloads>,
}

fn meet(trick: Trick) -> Outcome {
    let mut rng = SeededRng::new(3);
    let network = Selector::addresses("10.10.0.0".parse().unwrap(), "10.10.0.255".parse().unwrap());
    let config = ipsec::client::Config { remote_ts: vec![network], ..config() };
    let (mut client, output) = Client::new(config, Millis(0), &mut rng);
    let request = output.datagrams[0].octets.clone();
    let first = Message::parse(&request).unwrap();

    let suite = ike_suite();
    let private = PrivateKey::generate(suite.group, &mut rng);
    let shared = private.agree(&first.payloads.ke().unwrap().data).unwrap();
    let nonce_i = first.payloads.nonce().unwrap().0.clone();
    let nonce_r = Nonce::random(&mut rng);
    let taken = match trick {
        Trick::IkeProposalNotOffered => IkeProposal { protection: aead(Cipher::AesGcm128), ..suite },
        _ => suite,
    };
    let header = Header { spi_r: SPI_R, ..first.header.reply() };
    let answer = Message::new(header)
        .with(Sa::answer(Proposal::ike(1, None, &taken)))
        .with(Ke::new(suite.group, private.public()))
        .with(nonce_r.clone())
        .emit();
    let mut events = Vec::new();
    let output = deliver(&mut client, &mut events, answer.clone(), &mut rng);
    let Some(auth) = output.datagrams.first() else { return Outcome { client, events, after: vec![] } };

    let ike = IkeSuite { protection: suite.protection, prf: suite.prf, group: suite.group };
    let nonces = Nonces { initiator: &nonce_i, responder: &nonce_r.0 };
    let keys = keys::initial(ike, &shared, nonces, first.header.spi_i, SPI_R);
    let (mut seal, open) = ours(ike, &keys, &mut rng);
    let (auth_header, asked) = read(&auth.octets, &open);

    let identity = match trick {
        Trick::OtherIdentity => Identity::parse("evil.example.org"),
        _ => Identity::parse("gw.example.org"),
    };
    let id_r = Id::new(&identity);
    let psk = Secret::from_slice(if trick == Trick::WrongAuth { b"a guess" } else { PSK });
    let value = keys::auth_psk(suite.prf, &psk, &answer, &nonce_i, &keys.pr, &id_r.body());
    let esp = EspProposal {
        protection: aead(if trick == Trick::EspProposalNotOffered {
            Cipher::AesGcm256
        } else {
            Cipher::AesGcm128
        }),
        group: None,
        esn: Some(false),
    };
    let spi = ChildSpi(if trick == Trick::ReservedSpi { 255 } else { 0x5000 });
    let host = |text: &str| Selector::host(text.parse().unwrap());
    let narrow = vec![host("10.99.0.1")];
    let net = vec![host(if trick == Trick::WiderSelectors { "10.11.0.1" } else { "10.10.0.1" })];
    assert!(asked.sa().is_some() && asked.ts_i().is_some());
    let mut reply = Payloads::default().with(Payload::IdR(id_r));
    if trick != Trick::NoAuth {
        reply.push(Auth { method: AuthMethod::SHARED_KEY, data: value.as_bytes().to_vec() });
    }
    reply.push(Sa::answer(Proposal::esp(1, spi, &esp, false)));
    reply.push(Payload::TsI(Ts::new(narrow)));
    reply.push(Payload::TsR(Ts::new(net)));
    let octets =
        Message { header: auth_header.reply(), payloads: reply, encrypted: None }.seal(&mut seal).unwrap();
    let mut output = deliver(&mut client, &mut events, octets, &mut rng);
    let mut after = Vec::new();
    while let Some(datagram) = output.datagrams.pop() {
        let (header, payloads) = read(&datagram.octets, &open);
        after.push(payloads);
        let empty = Message::new(header.reply()).seal(&mut seal).unwrap();
        output = deliver(&mut client, &mut events, empty, &mut rng);
    }
    Outcome { client, events, after }
}

fn deliver(client: &mut Client, events: &mut Vec<Event>, octets: Vec<u8>, rng: &mut SeededRng) -> Output {
    let (local, gateway): (SocketAddr, SocketAddr) = client.path();
    let output =
        client.handle(&Datagram::new(local, gateway, octets), Millis(1), rng).expect("a message for it");
    events.extend(output.events.iter().cloned());
    output
}

fn ours(suite: IkeSuite, keys: &IkeKeys, rng: &mut SeededRng) -> (SealKey, OpenKey) {
    let (sent, came) = (keys.sent_by_responder(), keys.sent_by_initiator());
    let seal = SealKey::reference(suite.protection, sent.0.as_bytes(), sent.1.as_bytes(), 0, rng).unwrap();
    (seal, OpenKey::reference(suite.protection, came.0.as_bytes(), came.1.as_bytes()).unwrap())
}

fn read(octets: &[u8], open: &OpenKey) -> (Header, Payloads) {
    let message = Message::parse(octets).unwrap();
    let payloads = message.encrypted.expect("a protected request").open(octets, open).unwrap();
    (message.header, payloads)
}

/// The honest case, so that the others fail for their reason only.
#[test]
fn without_a_trick_the_client_comes_up() {
    let outcome = meet(Trick::None);
    assert!(outcome.client.is_up() && outcome.after.is_empty(), "{:?}", outcome.events);
    assert_eq!(outcome.client.children().len(), 1);
}

//= test IK-42
//= test IK-53
#[test]
fn a_gateway_that_does_not_know_the_secret_or_is_another() {
    for trick in [Trick::WrongAuth, Trick::OtherIdentity] {
        let outcome = meet(trick);
        assert_eq!(outcome.client.ended(), Some(End::NotAuthentic), "{trick:?}");
        assert_eq!(outcome.events, [Event::Down(End::NotAuthentic)], "{trick:?}: it never came up");
        let [told] = &outcome.after[..] else { panic!("{trick:?}: one request") };
        assert!(told.has_notify(NotifyType::AUTHENTICATION_FAILED), "{trick:?}: the gateway is told");
    }
    let outcome = meet(Trick::NoAuth);
    assert_eq!(outcome.client.ended(), Some(End::BadAnswer("IDr or AUTH is missing")));
}

//= test IK-39
#[test]
fn an_answer_that_was_not_offered_is_torn_down() {
    let outcome = meet(Trick::IkeProposalNotOffered);
    assert!(matches!(outcome.client.ended(), Some(End::BadAnswer(_))), "{:?}", outcome.events);
    for trick in [Trick::EspProposalNotOffered, Trick::WiderSelectors, Trick::ReservedSpi] {
        let outcome = meet(trick);
        assert!(outcome.client.children().is_empty(), "{trick:?}");
        let [told] = &outcome.after[..] else { panic!("{trick:?}: one request, {:?}", outcome.events) };
        assert!(told.deletes().any(|delete| *delete == Delete::Ike), "{trick:?}");
        assert_eq!(outcome.client.ended(), Some(End::WeDeleted), "{trick:?}");
    }
}

/// Somebody in between answers in clear: a group that was not offered, or the one that we have sent already.
//= test IK-23
#[test]
fn a_weaker_group_is_not_taken() {
    for group in [GroupId::MODP_1024, GroupId::MODP_2048, GroupId::of(Group::Ecp256)] {
        let mut rng = SeededRng::new(4);
        let ike = vec![ike_suite(), IkeProposal { group: Group::Curve25519, ..ike_suite() }];
        let config = ipsec::client::Config { ike, ..config() };
        let (mut client, output) = Client::new(config, Millis(0), &mut rng);
        let header = Header::peek(&output.datagrams[0].octets).unwrap();
        let octets = Message::notification(&header, Notify::invalid_ke(group)).emit();
        let (local, gateway) = client.path();
        assert!(
            client.handle(&Datagram::new(local, gateway, octets), Millis(1), &mut rng).is_err(),
            "{group}"
        );
        assert_eq!(client.ended(), None, "it still waits for the gateway");
    }
}

//= test IK-21
#[test]
fn cookies_without_end() {
    let mut rng = SeededRng::new(4);
    let (mut client, mut output) = Client::new(config(), Millis(0), &mut rng);
    let mut rounds = 0;
    while let Some(datagram) = output.datagrams.pop() {
        let header = Header::peek(&datagram.octets).unwrap();
        let cookie = Notify::new(NotifyType::COOKIE, vec![rounds; 16]);
        let octets = Message::notification(&header, cookie).emit();
        output = client.handle(&datagram.reply(octets), Millis(1), &mut rng).unwrap();
        rounds += 1;
        assert!(rounds < 20, "bounded");
    }
    assert_eq!(client.ended(), Some(End::TooManyRounds));
}
