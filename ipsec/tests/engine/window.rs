//! Message IDs: exact repetition, what lies outside the window, a reply that waits for its commit.

use ipsec::client::Order;
use ipsec::ike::DropReason;
use ipsec::record::Refusal;

use crate::lab::{Lab, client_config};

//= test IK-15
//= test IK-83
//= test IK-87
#[test]
fn a_lost_reply_is_repeated_octet_for_octet() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    let request = lab.ask(&mut client, Order::Liveness);
    let (first, second) = (lab.deliver(&request[0]), lab.deliver(&request[0]));
    assert_eq!(first.len(), 1);
    assert_eq!(first, second);
    lab.answer(&mut client, &first);
    lab.assert_in_step(&client);
}

//= test IK-17
#[test]
fn ids_outside_the_window_are_dropped() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    let old = lab.ask(&mut client, Order::Liveness);
    lab.settle(&mut client, old.clone());
    let next = lab.ask(&mut client, Order::Liveness);
    lab.settle(&mut client, next);
    let before = lab.only();
    assert!(lab.deliver(&old[0]).is_empty());
    assert_eq!(lab.drops, [DropReason::Window]);
    let mut ahead = old[0].clone();
    ahead.octets[23] = 200;
    assert!(lab.deliver(&ahead).is_empty());
    assert_eq!(lab.only(), before);
}

/// I3: nothing leaves before the commit, and what is refused never leaves.
#[test]
fn a_reply_waits_for_its_commit() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    lab.hold = true;
    let request = lab.ask(&mut client, Order::Liveness);
    assert!(lab.deliver(&request[0]).is_empty());
    assert!(lab.deliver(&request[0]).is_empty(), "busy");
    assert_eq!(lab.drops, [DropReason::Busy]);
    let decision = lab.held.pop().unwrap();
    lab.hold = false;
    let reply = lab.commit(decision).unwrap();
    lab.settle(&mut client, vec![]);
    lab.answer(&mut client, &reply);
    lab.assert_in_step(&client);
}

#[test]
fn a_refused_decision_leaves_the_next_try_free() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    lab.hold = true;
    let request = lab.ask(&mut client, Order::Liveness);
    lab.deliver(&request[0]);
    let mut decision = lab.held.pop().unwrap();
    decision.change.revision = ipsec::types::Revision(77);
    assert_eq!(lab.commit(decision).unwrap_err(), Refusal::Stale);
    lab.hold = false;
    lab.settle(&mut client, request);
    lab.assert_in_step(&client);
}

//= test IK-89
#[test]
fn unknown_spis_are_answered_within_a_ration() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    let mut stray = lab.ask(&mut client, Order::Liveness)[0].clone();
    stray.octets[15] ^= 0xff;
    let answered = (0..20).filter(|_| !lab.deliver(&stray).is_empty()).count();
    assert_eq!(answered, ipsec::limits::STRAY_REPLIES_PER_SECOND as usize);
    assert_eq!(lab.records.len(), 1);
}

//= test IK-96
#[test]
fn a_damaged_message_does_not_move_the_window() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    let request = lab.ask(&mut client, Order::Liveness);
    let before = lab.only();
    for at in [28, 40, request[0].octets.len() - 1] {
        let mut damaged = request[0].clone();
        damaged.octets[at] ^= 0x55;
        assert!(lab.deliver(&damaged).is_empty(), "octet {at}");
    }
    assert_eq!(lab.only(), before);
    lab.settle(&mut client, request);
}
