//! A new owner of the segment goes on from the committed records, at every moment of an exchange.

use ipsec::client;
use ipsec::ike::Order;
use ipsec::limits;
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

/// The record is gone with its keys, the reply is not: the peer would ask in vain until it gives up.
#[test]
fn the_reply_to_the_last_delete_is_given_by_the_next_owner() {
    let mut lab = Lab::new();
    let mut client = lab.connect(client_config("anna"));
    let asked = lab.ask(&mut client, client::Order::Delete);
    let reply = lab.deliver(&asked[0]);
    assert!(lab.records.is_empty() && reply.len() == 1);
    lab.take_over();
    assert_eq!(lab.deliver(&asked[0]), reply);
    lab.sleep(limits::FAREWELL_MS);
    assert_ne!(lab.deliver(&asked[0]), reply, "its time is over");
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

/// A planned move takes half-open SAs along, a standby has them mirrored: the client notices nothing of either.
#[test]
fn a_half_open_sa_goes_along_and_the_client_gets_in() {
    for planned in [true, false] {
        let mut lab = Lab::new();
        let (mut client, first) = lab.client(client_config("anna"));
        let reply = lab.deliver(&first[0]);
        lab.take_over_with(
            |engine, ctx| if planned { Some(engine.export(ctx)) } else { engine.take_fresh(ctx) },
        );
        assert_eq!(lab.deliver(&first[0]), reply, "the same answer to the same IKE_SA_INIT");
        let auth = lab.answer(&mut client, &reply);
        lab.settle(&mut client, auth);
        lab.assert_in_step(&client);
    }
}

#[test]
fn a_half_open_sa_that_failed_fails_the_same_way_under_the_next_owner() {
    let mut lab = Lab::new();
    let mut config = client_config("anna");
    config.psk = crypto::Secret::from(b"not the shared secret".to_vec());
    let (mut client, first) = lab.client(config);
    let reply = lab.deliver(&first[0]);
    let auth = lab.answer(&mut client, &reply);
    let refusal = lab.deliver(&auth[0]);
    lab.take_over_with(|engine, ctx| Some(engine.export(ctx)));
    assert_eq!(lab.deliver(&auth[0]), refusal);
    assert!(lab.records.is_empty());
}

#[test]
fn what_was_mirrored_and_is_established_by_now_is_passed_over() {
    let mut lab = Lab::new();
    let (mut client, first) = lab.client(client_config("anna"));
    let reply = lab.deliver(&first[0]);
    let mirrored = lab.engine(|engine, ctx| engine.take_fresh(ctx));
    assert!(lab.engine(|engine, ctx| engine.take_fresh(ctx)).is_none(), "told once");
    let auth = lab.answer(&mut client, &reply);
    lab.settle(&mut client, auth);
    lab.take_over_with(|_, _| mirrored);
    assert_eq!(lab.endpoint.as_ref().unwrap().half_open(), 0);
    let asked = lab.ask(&mut client, client::Order::Liveness);
    lab.settle(&mut client, asked);
    lab.assert_in_step(&client);
}

/// What was mirrored of a connection that has been made and ended since: the client's Delete is answered as before, and
/// its IKE_AUTH, sent again by who has recorded it, makes nothing.
#[test]
fn what_was_mirrored_and_has_ended_by_now_stays_ended() {
    for by_us in [false, true] {
        let mut lab = Lab::new();
        let (mut client, first) = lab.client(client_config("anna"));
        let reply = lab.deliver(&first[0]);
        let mirrored = lab.engine(|engine, ctx| engine.take_fresh(ctx));
        let auth = lab.answer(&mut client, &reply);
        lab.settle(&mut client, auth.clone());
        let spi = lab.only().spi;
        let last = if by_us {
            let asked = lab.order(Order::Terminate(spi));
            let answers = lab.answer(&mut client, &asked);
            lab.settle(&mut client, answers);
            None
        } else {
            let asked = lab.ask(&mut client, client::Order::Delete);
            let reply = lab.deliver(&asked[0]);
            Some((asked, reply))
        };
        assert!(lab.records.is_empty());
        lab.take_over_with(|_, _| mirrored);
        if let Some((asked, reply)) = last {
            assert_eq!(lab.deliver(&asked[0]), reply);
        }
        lab.deliver(&auth[0]);
        assert!(lab.records.is_empty(), "it is back");
    }
}

#[test]
fn what_is_no_handover_is_refused() {
    let mut lab = Lab::new();
    for octets in [&b"\xff\xff"[..], &[0x0a, 2, 0x08, 1], &[0x0a, 9, 0x09, 1, 0, 0, 0, 0, 0, 0, 0]] {
        let octets = crypto::Secret::from_slice(octets);
        assert!(lab.engine(|engine, ctx| engine.import(&octets, ctx)).is_err(), "{octets:?}");
    }
}

#[test]
fn numbers_are_granted_with_the_child_and_its_epoch() {
    let mut lab = Lab::new();
    lab.connect(client_config("anna"));
    let child = lab.only().children[0].clone();
    assert_eq!((child.block.epoch, child.block.first), (lab.guard.epoch, EspSeq(1)));
}
