//! Every checker must catch a fault planted into a recording, and into what nodes say, of a run that it has passed.

use std::net::IpAddr;

use super::Scenario;
use super::bridge::{Allowed, Bridge, Proof, grants, of_client, views};
use super::s6_proofs::{SLACK_US, inner_networks};
use crate::checkers::i5_stays_deleted::{self, Deleted};
use crate::checkers::i10_equal::{self, Sample};
use crate::checkers::pcap::{Packet, What, esp_header};
use crate::checkers::{
    Report, i1_no_repeats, i2_within_blocks, i3_same_bytes, i4_survives, i6_one_owner, i7_once, i8_closed,
    i9_one_client,
};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::capture::Extent;
use crate::world::cluster::Shape;
use crate::world::{Bed, SERVICE, echo};

pub(super) const LIST: &[Scenario] = &[Scenario {
    name: "c0-planted",
    what: "each checker catches a fault planted into a run that it passed",
    run: planted,
}];

const US: IpAddr = IpAddr::V4(SERVICE);

fn planted(bed: &Bed) -> Result {
    let mut bridge = Bridge::connected(bed, Shape::default())?;
    let proof = Proof::begin(&bridge, Extent::Whole)?;
    bridge.ping()?;
    let owner = bridge.owner()?;
    bridge.cluster.kill(owner)?;
    bridge.cluster.wait_settled()?;
    bridge.ping()?;
    bridge.client.rekey_child(super::common::ALICE)?;
    bridge.ping()?;
    bridge.cluster.restart(owner)?;
    bridge.cluster.wait_ready()?;
    let told = of_client(&bridge.client)?;
    let mut views = views(&bridge)?;
    let (_, applied, digest) = bridge.cluster.digest(owner)?;
    let seen = proof.end(bed, &bridge, Allowed { new_sas: true, ..Allowed::default() })?;

    let last =
        seen.outside.iter().rev().find(|packet| packet.source == US && matches!(packet.what, What::Esp(_)));
    let last = last.context("no ESP of ours")?.clone();
    let with = |packet: Packet| -> Vec<Packet> { seen.outside.iter().cloned().chain([packet]).collect() };
    let at = |octet: usize, value: u8| {
        let mut packet = last.clone();
        if let What::Esp(esp) = &mut packet.what {
            let at = if octet < esp.len() { octet } else { esp.len() - 1 };
            esp[at] ^= value;
        }
        packet
    };
    caught("I1: a number twice", &i1_no_repeats::check(&with(at(usize::MAX, 1))))?;
    let grants = grants(&bridge.cluster)?;
    let beyond = i2_within_blocks::check(&with(at(4, 0x7f)), US, &grants, SLACK_US);
    caught("I2: a number outside all blocks", &beyond)?;
    let other_sender = Packet { via: last.via + 1_000, ..last.clone() };
    caught("I6: a second sender", &i6_one_owner::check(&with(other_sender), US, 0, 0))?;
    // The first epoch speaks once more.
    let spells = i6_one_owner::spells(&seen.outside, US);
    let old = spells.iter().find(|one| spells.iter().any(|two| two.spi == one.spi && two.epoch > one.epoch));
    let old = old.context("no SPI was seen in two epochs")?;
    let mut late =
        seen.outside.iter().find(|packet| is_of(packet, old.spi, old.epoch)).context("a packet")?.clone();
    late.at_us = last.at_us + 1;
    caught("I6: a deposed owner", &i6_one_owner::check(&with(late), US, 0, 0))?;
    let clear = Packet { destination: told[0].inner[0], what: What::Other(6), ..last.clone() };
    caught("I8: a packet in clear", &i8_closed::check_outside(&with(clear), &inner_networks()?))?;
    let reply =
        seen.outside.iter().rev().find(|packet| packet.source == US && matches!(packet.what, What::Ike(_)));
    let mut reply = reply.context("no IKE message of ours")?.clone();
    if let What::Ike(message) = &mut reply.what
        && let Some(end) = message.last_mut()
    {
        *end ^= 1;
    }
    caught("I3: a changed reply", &i3_same_bytes::check(&with(reply), US, &[], &[], SLACK_US))?;
    let mut once = i7_once::Checker::default();
    for _ in 0..2 {
        seen.for_each_inside(&bridge, |frame| once.see(frame, echo::PORT))?;
    }
    caught("I7: everything delivered again", &once.finish(0))?;

    let gone = Deleted { sa: told[0].clone(), at_us: 0 };
    caught("I5: an SA that lives on", &i5_stays_deleted::check(&seen.outside, US, &[gone], &views))?;
    let mut second = told[0].clone();
    (second.peer, second.ike.0) = ("mallory".into(), 1);
    views[1].sas.push(second);
    caught("I9: an address with two clients", &i9_one_client::check(&views))?;
    views[1].sas.clear();
    caught("I4: an SA that is gone", &i4_survives::check(&told, &views))?;
    let sample = |node: &str, digest: &str| Sample { node: node.into(), applied, digest: digest.into() };
    caught("I10: another state", &i10_equal::check(&[sample("edge-1", &digest), sample("edge-2", "00")]))
}

fn is_of(packet: &Packet, wanted: u32, epoch: u32) -> bool {
    match &packet.what {
        What::Esp(esp) => {
            let found = esp.get(8..11).map(|high| u32::from_be_bytes([0, high[0], high[1], high[2]]));
            packet.source == US
                && esp_header(esp).is_some_and(|(spi, _)| spi == wanted)
                && found == Some(epoch)
        }
        _ => false,
    }
}

fn caught(what: &str, report: &Report) -> Result {
    ensure!(!report.violations.is_empty(), "not caught: {what}");
    Ok(())
}
