//! What was deleted stays deleted: through the death of every node, one after the other, and a replay of all that the
//! client ever sent.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::Scenario;
use super::bridge::{Allowed, Bridge, Proof, of_client, views};
use super::c4_replay::{esp_of_client, replay_all};
use super::common::ALICE;
use crate::charon::Connection;
use crate::checkers::i5_stays_deleted::{self, Deleted};
use crate::checkers::i7_once;
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::capture::Extent;
use crate::world::cluster::{Edge, Shape};
use crate::world::{Bed, SERVICE, echo};

pub(super) const LIST: &[Scenario] = &[Scenario {
    name: "c8-deleted",
    what: "a deleted SA stays deleted through the death of every node and a replay",
    run: deleted,
}];

const BOB: &str = "bob";

fn deleted(bed: &Bed) -> Result {
    let mut bridge = Bridge::connected(bed, Shape::default())?;
    // One who stays, so that there is always an SA to look at.
    bridge.client.load(&Connection::client(BOB))?;
    let recording = bridge.cluster.fabric.capture(&bridge.cluster.path("replayed.pcap"), Extent::Whole)?;
    bridge.client.initiate(BOB)?;
    let inner: IpAddr = {
        let addresses = bridge.client.only(BOB)?.virtual_addresses;
        addresses.first().context("no inner address")?.parse().context("inner address")?
    };
    crate::world::echo_from(&bridge.cluster.client, super::common::server(false), Some(inner), 20)?;
    let gone = of_client(&bridge.client)?.into_iter().find(|sa| sa.peer == BOB).context("bob has no SA")?;
    bridge.client.terminate(BOB)?;
    let proof = Proof::begin(&bridge, Extent::Whole)?;
    let at_us = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("clock")?.as_micros() as u64;
    let file = recording.stop()?;
    let packets = esp_of_client(&bridge, &file)?;
    ensure!(packets.len() >= 20, "only {} packets to replay", packets.len());

    let edges: Vec<Edge> = bridge.cluster.edges().collect();
    for edge in edges {
        bridge.cluster.kill(edge)?;
        bridge.cluster.wait_settled()?;
        replay_all(&bridge, packets.clone())?;
        bridge.cluster.restart(edge)?;
        bridge.cluster.wait_ready()?;
        bridge.cluster.wait_balanced()?;
    }
    std::thread::sleep(Duration::from_millis(300));
    bridge.ping()?;
    ensure!(bridge.client.sas()?.iter().all(|sa| sa.name == ALICE), "the client has more than alice's SA");
    let views = views(&bridge)?;
    let seen = proof.end(bed, &bridge, Allowed::default())?;
    let deleted = [Deleted { sa: gone, at_us }];
    i5_stays_deleted::check(&seen.outside, SERVICE.into(), &deleted, &views).must_hold("I5")?;
    // Nothing of bob's came in: only what alice sent since is on the inside.
    let mut once = i7_once::Checker::default();
    seen.for_each_inside(&bridge, |frame| {
        if frame.ip.get(12..16) == ip_octets(inner).as_deref() {
            once.see(frame, echo::PORT);
        }
    })?;
    let report = once.finish(0);
    ensure!(report.judged == 0, "{} datagrams of a deleted SA came in", report.judged);
    Ok(())
}

fn ip_octets(ip: IpAddr) -> Option<Vec<u8>> {
    match ip {
        IpAddr::V4(ip) => Some(ip.octets().to_vec()),
        IpAddr::V6(_) => None,
    }
}
