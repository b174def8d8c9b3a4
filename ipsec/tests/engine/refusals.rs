//! What a client is told when it cannot be served, and what a forger gets: nothing that costs the peer.

use crypto::Secret;
use crypto::cipher::Cipher;
use crypto::kex::Group;
use crypto::prf::Prf;
use ipsec::client::{Config, End, Event as ClientEvent};
use ipsec::ike::{DropReason, Event};
use ipsec::policy::*;
use ipsec::types::Millis;
use ipsec::wire::NotifyType;

use crate::lab::{CLIENT, Lab, aead, client_config, net, policy};

//= test IK-24
//= test IK-41
//= test IK-51
#[test]
fn what_a_client_is_told() {
    let odd = IkeProposal {
        protection: aead(Cipher::ChaCha20Poly1305),
        prf: Prf::HmacSha512,
        group: Group::Modp2048,
    };
    for (what, config, notify, reason) in [
        (
            "wrong secret",
            Config { psk: Secret::from(b"another".to_vec()), ..client_config("anna") },
            NotifyType::AUTHENTICATION_FAILED,
            "wrong pre-shared key",
        ),
        (
            "wrong identity",
            Config { local_id: Identity::parse("anna@elsewhere.org"), ..client_config("anna") },
            NotifyType::AUTHENTICATION_FAILED,
            "no connection for these identities",
        ),
        (
            "asks for another gateway",
            Config { gateway_id: Some(Identity::parse("other.example.org")), ..client_config("anna") },
            NotifyType::AUTHENTICATION_FAILED,
            "no connection for these identities",
        ),
        (
            "no common proposal",
            Config { ike: vec![odd], ..client_config("anna") },
            NotifyType::NO_PROPOSAL_CHOSEN,
            "no IKE proposal in common",
        ),
    ] {
        let mut lab = Lab::new();
        let (mut client, first) = lab.client(config);
        lab.settle(&mut client, first);
        assert_eq!(client.ended(), Some(End::Refused(notify)), "{what}");
        assert!(lab.records.is_empty(), "{what}: nothing is committed for a stranger (I11)");
        let told = |event: &Event| matches!(event, Event::Refused { reason: told, .. } if *told == reason);
        assert!(lab.events.iter().any(told), "{what}: {:?}", lab.events);
    }
}

//= test IK-52
//= test IK-57
//= test IK-58
//= test IK-64
//= test IK-82
#[test]
fn a_refused_child_leaves_the_ike_sa() {
    let esp = EspProposal { protection: aead(Cipher::ChaCha20Poly1305), group: None, esn: Some(false) };
    let mut no_pool = policy();
    no_pool.pools[0].addresses.clear();
    for (what, gateway, config, notify) in [
        ("pool", no_pool, client_config("anna"), NotifyType::INTERNAL_ADDRESS_FAILURE),
        (
            "no CFG_REQUEST",
            policy(),
            Config { ask_ip4: false, ..client_config("anna") },
            NotifyType::FAILED_CP_REQUIRED,
        ),
        (
            "selectors",
            policy(),
            Config { remote_ts: vec![Selector::network(net("172.16.0.0/12"))], ..client_config("anna") },
            NotifyType::TS_UNACCEPTABLE,
        ),
        (
            "proposal",
            policy(),
            Config { esp: vec![esp], ..client_config("anna") },
            NotifyType::NO_PROPOSAL_CHOSEN,
        ),
    ] {
        let mut lab = Lab::with(gateway);
        let (mut client, first) = lab.client(config);
        let reply = lab.deliver(&first[0]);
        let auth = lab.answer(&mut client, &reply);
        let reply = lab.deliver(&auth[0]);
        let output = client.handle(&reply[0], Millis(lab.now), &mut lab.rng).unwrap();
        let refused = |event: &ClientEvent| matches!(event, ClientEvent::Refused { notify: told, .. } if *told == notify);
        assert!(output.events.iter().any(refused), "{what}: {:?}", output.events);
        assert!(lab.only().children.is_empty(), "{what}");
    }
}

//= test IK-96
#[test]
fn a_forged_ike_auth_costs_the_peer_nothing() {
    let mut lab = Lab::new();
    let (mut client, first) = lab.client(client_config("anna"));
    let reply = lab.deliver(&first[0]);
    let auth = lab.answer(&mut client, &reply);
    let mut forged = auth[0].clone();
    *forged.octets.last_mut().unwrap() ^= 1;
    assert!(lab.deliver(&forged).is_empty());
    assert_eq!(lab.drops, [DropReason::Integrity]);
    lab.settle(&mut client, auth);
    assert!(client.is_up());
}

//= test IK-51
#[test]
fn a_failed_attempt_is_over_and_answered_alike() {
    let mut lab = Lab::new();
    let (mut client, first) =
        lab.client(Config { psk: Secret::from(b"another".to_vec()), ..client_config("anna") });
    let reply = lab.deliver(&first[0]);
    let auth = lab.answer(&mut client, &reply);
    let (once, again) = (lab.deliver(&auth[0]), lab.deliver(&auth[0]));
    assert!(!once.is_empty());
    assert_eq!(once, again);
}

//= test IK-3
//= test IK-5
#[test]
fn other_versions_and_stray_responses() {
    let mut lab = Lab::new();
    let (_, first) = lab.client(client_config("anna"));
    let mut newer = first[0].clone();
    newer.octets[17] = 0x30;
    let reply = lab.deliver(&newer);
    assert_eq!(reply.len(), 1, "told which version we speak");
    let mut response = first[0].clone();
    response.octets[19] |= 0x20;
    assert!(lab.deliver(&response).is_empty(), "a response is never answered");
}

#[test]
fn nobody_is_expected_from_that_address() {
    let mut gateway = policy();
    gateway.connections[0].remote_address = Some("203.0.113.9".parse().unwrap());
    let mut lab = Lab::with(gateway);
    let (_, first) = lab.client(client_config("anna"));
    assert!(lab.deliver(&first[0]).is_empty());
    assert_eq!(lab.drops, [DropReason::NoConnection]);
    assert_eq!(first[0].local.ip(), CLIENT.parse::<std::net::IpAddr>().unwrap());
}
