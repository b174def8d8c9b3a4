//! A new owner of the segment goes on from the committed records, at every moment of an exchange.

use ipsec::client;
use ipsec::ike::Order;
use ipsec::record::Refusal;
use ipsec::types::EspSeq;

use crate::lab::{Lab, client_config};

#[test]
fn the_next_owner_goes_on_at_once() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    lab.take_over();
    for _ in 0..3 {
        let asked = lab.ask(&mut client, client::Order::Liveness);
        lab.settle(&mut client, asked);
        let asked = lab.ask(&mut client, client::Order::RekeyIke);
        lab.settle(&mut client, asked);
        lab.assert_in_step(&client);
        lab.take_over();
    }
}

/// CL-6: a reply that was committed but lost with its sender.
#[test]
fn a_committed_reply_is_given_by_the_next_owner() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    let asked = lab.ask(&mut client, client::Order::Liveness);
    let reply = lab.deliver(&asked[0]);
    lab.take_over();
    assert_eq!(lab.deliver(&asked[0]), reply);
    lab.answer(&mut client, &reply);
    lab.assert_in_step(&client);
}

/// CL-22: processed, but not committed.
#[test]
fn an_uncommitted_answer_is_decided_anew() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    lab.hold = true;
    let asked = lab.ask(&mut client, client::Order::RekeyIke);
    assert!(lab.deliver(&asked[0]).is_empty());
    let late = lab.held.pop().unwrap();
    lab.take_over();
    lab.hold = false;
    assert_eq!(lab.apply(&late.change), Err(Refusal::Deposed), "of the old epoch: refused at apply");
    lab.settle(&mut client, asked);
    lab.assert_in_step(&client);
}

/// CL-7: our request, its ID and its secrets are committed before it leaves.
#[test]
fn an_unanswered_request_goes_on_under_the_next_owner() {
    for rekey_ike in [true, false] {
        let mut lab = Lab::new();
        let mut client = lab.connect(client_config("anna"));
        let record = lab.only();
        let lost = lab.order(if rekey_ike {
            Order::RekeyIke(record.spi)
        } else {
            Order::RekeyChild(record.spi, record.children[0].spi_in)
        });
        lab.take_over();
        let again = lab.sleep(1_000);
        assert_eq!(again, lost, "the same octets");
        let answers = lab.answer(&mut client, &again);
        lab.settle(&mut client, answers);
        lab.assert_in_step(&client);
    }
}

#[test]
fn a_half_open_sa_is_gone_and_the_client_begins_anew() {
    let mut lab = Lab::new();
    let (mut client, first) = lab.client(client_config("anna"));
    let reply = lab.deliver(&first[0]);
    let auth = lab.answer(&mut client, &reply);
    lab.take_over();
    lab.deliver(&auth[0]);
    assert!(lab.records.is_empty());
    lab.connect(client_config("anna"));
}

#[test]
fn numbers_are_granted_with_the_child_and_its_epoch() {
    let mut lab = Lab::new();
    lab.connect(client_config("anna"));
    let child = lab.only().children[0].clone();
    assert_eq!((child.block.epoch, child.block.first), (lab.guard.epoch, EspSeq(1)));
}
