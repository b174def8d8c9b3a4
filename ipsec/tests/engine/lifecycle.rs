//! Deletes by either side and by both at once, silence, a new NAT mapping, a connection that left the configuration.

use ipsec::client::{self, End};
use ipsec::ike::{Event, Order};
use ipsec::record::Why;
use ipsec::types::Millis;

use crate::lab::{Lab, client_config};

//= test IK-84
//= test IK-86
#[test]
fn the_peer_deletes() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    let child = client.children()[0].spi_in;
    let asked = lab.ask(&mut client, client::Order::DeleteChild(child));
    lab.settle(&mut client, asked);
    assert!(lab.only().children.is_empty() && client.children().is_empty());

    let asked = lab.ask(&mut client, client::Order::Delete);
    let reply = lab.deliver(&asked[0]);
    assert!(lab.records.is_empty());
    assert_eq!(lab.deliver(&asked[0]), reply, "also after the end a lost reply is repeated");
    lab.answer(&mut client, &reply);
    assert_eq!(client.ended(), Some(End::WeDeleted));
}

//= test IK-84
//= test IK-86
#[test]
fn we_delete() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    let (ike, child) = (lab.only().spi, lab.only().children[0].spi_in);
    let asked = lab.order(Order::TerminateChild(ike, child));
    let answers = lab.answer(&mut client, &asked);
    lab.settle(&mut client, answers);
    assert!(lab.only().children.is_empty() && client.children().is_empty());

    let asked = lab.order(Order::Terminate(ike));
    let answers = lab.answer(&mut client, &asked);
    lab.settle(&mut client, answers);
    assert!(lab.records.is_empty());
    assert_eq!(client.ended(), Some(End::GatewayDeleted));
    assert!(lab.events.iter().any(|event| matches!(event, Event::Down { why: Why::Terminated, .. })));
}

//= test IK-76
#[test]
fn crossing_deletes_end_quietly() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    let (ike, child) = (lab.only().spi, lab.only().children[0].spi_in);
    let ours = lab.order(Order::TerminateChild(ike, child));
    let theirs_spi = client.children()[0].spi_in;
    let theirs = lab.ask(&mut client, client::Order::DeleteChild(theirs_spi));
    let mut answers = lab.answer(&mut client, &ours);
    answers.extend(theirs);
    lab.settle(&mut client, answers);
    assert!(lab.only().children.is_empty() && client.children().is_empty());
    assert!(lab.only().outstanding.is_none());
}

//= test IK-14
//= test IK-18
//= test IK-87
#[test]
fn silence_is_asked_about_and_then_believed() {
    let mut lab = Lab::new();
    let client = lab.connect(client_config("anna"));
    assert!(lab.sleep(29_000).is_empty());
    let asked = lab.sleep(2_000);
    assert_eq!(asked.len(), 1);
    assert!(lab.only().outstanding.is_some(), "committed before it leaves");
    let mut copies = Vec::new();
    for _ in 0..200 {
        copies.extend(lab.sleep(1_000));
    }
    assert!(copies.iter().all(|copy| copy.octets == asked[0].octets), "the same octets each time");
    assert_eq!(copies.len(), ipsec::limits::RETRANSMIT_TRIES as usize);
    assert!(lab.records.is_empty());
    assert!(lab.events.iter().any(|event| matches!(event, Event::Down { why: Why::PeerSilent, .. })));
    drop(client);
}

//= test IK-87
#[test]
fn packets_prove_life() {
    let mut lab = Lab::new();
    let _client = lab.connect(client_config("anna"));
    let child = lab.only().children[0].spi_in;
    for _ in 0..10 {
        lab.last_inbound.insert(child, Millis(lab.now));
        assert!(lab.sleep(29_000).is_empty());
    }
    assert!(!lab.sleep(31_000).is_empty());
}

#[test]
fn a_connection_that_is_no_longer_configured_ends() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    lab.gateway.connections.clear();
    lab.engine(|endpoint, ctx| endpoint.reconfigured(ctx));
    let asked = lab.sleep(0);
    let answers = lab.answer(&mut client, &asked);
    lab.settle(&mut client, answers);
    assert!(lab.records.is_empty());
    assert_eq!(client.ended(), Some(End::GatewayDeleted));
}

//= test IK-99
#[test]
fn a_new_nat_mapping_is_followed_and_replicated() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    let mut asked = lab.ask(&mut client, client::Order::Liveness);
    asked[0].local.set_port(61_000);
    let reply = lab.deliver(&asked[0]);
    assert_eq!(reply[0].local.port(), 61_000, "answered where it came from");
    assert_eq!(lab.only().path.peer.port(), 61_000);
}
