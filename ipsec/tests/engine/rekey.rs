//! Rekeys of both kinds by both sides, crossing each other, waiting for each other, and by lifetime.

use crypto::kex::Group;
use ipsec::client::{self, Client};
use ipsec::datagram::Datagram;
use ipsec::ike::Order;

use crate::lab::{Lab, client_config, policy};

fn connected() -> (Lab, Client) {
    let mut lab = Lab::new();
    let client = lab.connect(client_config("anna"));
    (lab, client)
}

//= test IK-69
//= test IK-71
//= test IK-73
//= test IK-80
#[test]
fn each_side_rekeys_each_kind() {
    let (mut lab, mut client) = connected();
    for round in 0..20 {
        let (ike, child) = (lab.only().spi, lab.only().children[0].spi_in);
        let theirs = client.children()[0].spi_in;
        let started = match round % 4 {
            0 => lab.ask(&mut client, client::Order::RekeyChild(theirs)),
            1 => lab.ask(&mut client, client::Order::RekeyIke),
            2 => {
                let asked = lab.order(Order::RekeyChild(ike, child));
                lab.answer(&mut client, &asked)
            }
            _ => {
                let asked = lab.order(Order::RekeyIke(ike));
                lab.answer(&mut client, &asked)
            }
        };
        lab.settle(&mut client, started);
        lab.assert_in_step(&client);
        let record = lab.only();
        assert_eq!(record.children.len(), 1, "round {round}");
        assert_eq!(record.inner_addresses, client.addresses(), "IK-63: the lease goes along");
        match round % 2 {
            0 => assert!(record.spi == ike && record.children[0].spi_in != child, "round {round}"),
            _ => assert!(record.spi != ike && record.children[0].spi_in == child, "round {round}"),
        }
    }
}

//= test IK-70
#[test]
fn forward_secrecy_where_policy_asks_for_it() {
    let mut gateway = policy();
    gateway.connections[0].children[0].esp[0].group = Some(Group::Curve25519);
    let mut lab = Lab::with(gateway.clone());
    let mut config = client_config("anna");
    config.esp = gateway.connections[0].children[0].esp.clone();
    let mut client = lab.connect(config);
    assert_eq!(lab.only().children[0].suite.group, None, "IKE_AUTH carries no further key exchange");
    let record = lab.only();
    let asked = lab.order(Order::RekeyChild(record.spi, record.children[0].spi_in));
    let answers = lab.answer(&mut client, &asked);
    lab.settle(&mut client, answers);
    assert_eq!(lab.only().children[0].suite.group, Some(Group::Curve25519));
    lab.assert_in_step(&client);
}

/// Both ask before either hears of it. `ours_first`: whose request arrives first.
fn cross(lab: &mut Lab, client: &mut Client, ours: Vec<Datagram>, theirs: Vec<Datagram>, ours_first: bool) {
    let mut to_gateway = Vec::new();
    let mut to_client = Vec::new();
    if ours_first {
        to_gateway.extend(theirs);
        to_gateway.extend(lab.answer(client, &ours));
    } else {
        for datagram in &theirs {
            to_client.extend(lab.deliver(datagram));
        }
        to_client.extend(ours);
        to_gateway.extend(lab.answer(client, &to_client));
    }
    lab.settle(client, to_gateway);
    // What a busy side dropped comes again.
    for _ in 0..3 {
        lab.now += 2_000;
        let again = client.timeout(ipsec::types::Millis(lab.now), &mut lab.rng).datagrams;
        let ours = lab.sleep(0);
        let answers = lab.answer(client, &ours);
        lab.settle(client, again);
        lab.settle(client, answers);
    }
}

//= test IK-74
#[test]
fn crossing_child_rekeys_leave_one_child() {
    for seed in 0..8 {
        let (mut lab, mut client) = connected();
        lab.rng = crypto::rng::SeededRng::new(seed);
        let record = lab.only();
        let ours = lab.order(Order::RekeyChild(record.spi, record.children[0].spi_in));
        let theirs_spi = client.children()[0].spi_in;
        let theirs = lab.ask(&mut client, client::Order::RekeyChild(theirs_spi));
        cross(&mut lab, &mut client, ours, theirs, seed % 2 == 0);
        assert_eq!(lab.only().children.len(), 1, "seed {seed}");
        lab.assert_in_step(&client);
    }
}

//= test IK-75
#[test]
fn crossing_ike_rekeys_leave_one_ike_sa() {
    for seed in 0..8 {
        let (mut lab, mut client) = connected();
        lab.rng = crypto::rng::SeededRng::new(seed);
        let ours = lab.order(Order::RekeyIke(lab.only().spi));
        let theirs = lab.ask(&mut client, client::Order::RekeyIke);
        cross(&mut lab, &mut client, ours, theirs, seed % 2 == 0);
        lab.assert_in_step(&client);
        assert_eq!(lab.only().children.len(), 1, "seed {seed}");
    }
}

//= test IK-76
//= test IK-77
#[test]
fn what_clashes_waits() {
    let (mut lab, mut client) = connected();
    let record = lab.only();
    // We rekey the child, the peer the IKE SA: it is told to come again later.
    let ours = lab.order(Order::RekeyChild(record.spi, record.children[0].spi_in));
    let theirs = lab.ask(&mut client, client::Order::RekeyIke);
    let refused = lab.deliver(&theirs[0]);
    assert_eq!(lab.only().spi, record.spi);
    let mut answers = lab.answer(&mut client, &refused);
    answers.extend(lab.answer(&mut client, &ours));
    lab.settle(&mut client, answers);
    lab.assert_in_step(&client);
    assert_ne!(lab.only().children[0].spi_in, record.children[0].spi_in);
}

//= test IK-72
//= test IK-81
#[test]
fn lifetimes_rekey_by_themselves() {
    let mut gateway = policy();
    gateway.connections[0].rekey_ms = 3_600_000;
    gateway.connections[0].children[0].rekey_after_ms = 600_000;
    gateway.connections[0].dpd_ms = 0;
    let mut lab = Lab::with(gateway);
    let mut client = lab.connect(client_config("anna"));
    let (ike, child) = (lab.only().spi, lab.only().children[0].spi_in);
    let mut children = vec![child];
    for _ in 0..80 {
        let asked = lab.sleep(60_000);
        let answers = lab.answer(&mut client, &asked);
        lab.settle(&mut client, answers);
        children.push(lab.only().children[0].spi_in);
    }
    children.dedup();
    assert!((8..=10).contains(&children.len()), "80 minutes, a child lives 9 to 10: {}", children.len());
    assert_ne!(lab.only().spi, ike);
    assert_eq!(lab.only().suite.group, Group::Curve25519, "the group that the peer has shown to have");
    lab.assert_in_step(&client);
}

/// The peer has answered our rekey and then deleted the old child; its Delete overtakes its answer.
#[test]
fn a_rekey_whose_child_is_gone_ends_with_no_child() {
    let (mut lab, mut client) = connected();
    let record = lab.only();
    let ours = lab.order(Order::RekeyChild(record.spi, record.children[0].spi_in));
    let late_answer = lab.answer(&mut client, &ours);
    let old = client.children()[0].spi_in;
    let delete = lab.ask(&mut client, client::Order::DeleteChild(old));
    lab.settle(&mut client, delete);
    assert!(lab.only().children.is_empty());
    lab.settle(&mut client, late_answer);
    assert!(lab.only().children.is_empty() && client.children().is_empty(), "the new one goes too");
    assert_eq!(lab.only().spi, record.spi, "the IKE SA stays");
}
