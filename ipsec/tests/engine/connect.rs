//! Getting in: inner addresses, another group asked for, a repeated first request, cookies, coming back.

use crypto::cipher::Cipher;
use crypto::kex::Group;
use crypto::prf::Prf;
use ipsec::ike::Event;
use ipsec::policy::IkeProposal;
use ipsec::types::EspSeq;

use crate::lab::{Lab, aead, client_config, policy};

//= test IK-31
//= test IK-32
//= test IK-42
//= test IK-43
//= test IK-56
//= test IK-66
//= test IK-80
#[test]
fn a_client_gets_in_with_an_inner_address() {
    let mut lab = Lab::new();
    let client = lab.connect(client_config("anna"));
    let record = lab.only();
    assert_eq!(record.inner_addresses, client.addresses());
    assert_eq!(record.children[0].remote_ts[0].to_string(), "10.99.0.1/32", "narrowed to the lease");
    assert_eq!(record.children[0].local_ts[0].to_string(), "10.10.0.0/24");
    assert_eq!(record.children[0].granted, EspSeq(ipsec::limits::FIRST_BLOCK), "the first block comes along");
    assert!(lab.events.iter().any(|event| matches!(event, Event::Up { .. })));
    lab.assert_in_step(&client);
}

//= test IK-58
//= test IK-60
#[test]
fn both_families_are_leased_and_one_when_the_other_is_not_there() {
    let mut lab = Lab::new();
    let client = lab.connect(ipsec::client::Config { ask_ip6: true, ..client_config("anna") });
    assert_eq!(client.addresses().len(), 2);
    assert_eq!(lab.only().children[0].remote_ts.len(), 2, "one selector for each lease");

    let mut gateway = policy();
    gateway.pools[0].addresses.truncate(1);
    let mut lab = Lab::with(gateway);
    let client = lab.connect(ipsec::client::Config { ask_ip6: true, ..client_config("anna") });
    assert_eq!(client.addresses().len(), 1);
}

//= test IK-23
#[test]
fn another_group_is_asked_for_and_taken() {
    let mut lab = Lab::new();
    let mut config = client_config("anna");
    let other =
        IkeProposal { protection: aead(Cipher::AesGcm256), prf: Prf::HmacSha256, group: Group::Ecp384 };
    config.ike.insert(0, other);
    let client = lab.connect(config);
    assert_eq!(lab.only().suite.group, Group::Curve25519);
    lab.assert_in_step(&client);
}

//= test IK-15
#[test]
fn a_repeated_first_request_gets_the_same_octets() {
    let mut lab = Lab::new();
    let (_, first) = lab.client(client_config("anna"));
    let replies = (lab.deliver(&first[0]), lab.deliver(&first[0]));
    assert_eq!(replies.0, replies.1);
    assert_eq!(lab.endpoint.as_ref().unwrap().half_open(), 1);
}

//= test IK-20
//= test IK-22
#[test]
fn under_load_an_address_must_be_proven() {
    let mut lab = Lab::new();
    for number in 0..ipsec::limits::HALF_OPEN_BEFORE_COOKIE {
        let (_, first) = lab.client(client_config(&format!("flood{number}")));
        lab.deliver(&first[0]);
    }
    let before = lab.endpoint.as_ref().unwrap().half_open();
    let (_, first) = lab.client(client_config("stranger"));
    let reply = lab.deliver(&first[0]);
    assert!(reply[0].octets.len() < 100, "a cookie and nothing else");
    assert_eq!(lab.endpoint.as_ref().unwrap().half_open(), before, "no state for an unproven address");
    lab.connect(client_config("anna"));
}

//= test IK-54
#[test]
fn who_connects_again_keeps_the_address_and_the_old_sa_goes() {
    for initial_contact in [true, false] {
        let mut lab = Lab::new();
        let mut old = lab.connect(client_config("anna"));
        let config = ipsec::client::Config { initial_contact, ..client_config("anna") };
        let (mut new, first) = lab.client(config);
        lab.settle(&mut new, first);
        assert_eq!(new.addresses(), old.addresses());
        let told = lab.sent.len();
        let deletes = lab.sleep(0);
        assert_eq!(deletes.is_empty(), initial_contact || told == lab.sent.len());
        let left: Vec<_> = lab.sent.iter().rev().take(2).cloned().collect();
        let answers = lab.answer(&mut old, &left.iter().map(flip).collect::<Vec<_>>());
        answers.iter().for_each(|answer| {
            lab.deliver(answer);
        });
        assert_eq!(lab.records.len(), 1, "initial_contact: {initial_contact}");
    }
}

fn flip(datagram: &ipsec::datagram::Datagram) -> ipsec::datagram::Datagram {
    ipsec::datagram::Datagram::new(datagram.peer, datagram.local, datagram.octets.clone())
}
