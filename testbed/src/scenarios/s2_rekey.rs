//! Rekeys of both kinds from both sides, under traffic, and two hundred in a row.
//!
//! A rekey may lose what was in flight on the old SA when its delete arrived, no more; afterwards one pair is left.

use std::time::Duration;

use super::Scenario;
use super::common::{ALICE, Connected, MIB, both_ways, server};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::{Bed, echo, eventually};

pub(super) const LIST: &[Scenario] = &[
    Scenario {
        name: "s2-rekey-child",
        what: "child rekeys by the client and by us, under traffic",
        run: child,
    },
    Scenario { name: "s2-rekey-ike", what: "IKE rekeys by the client and by us, under traffic", run: ike },
    Scenario {
        name: "s2-two-hundred",
        what: "200 rekeys leave no residue in SAs, memory or log",
        run: two_hundred,
    },
];

/// A datagram this often, and so many of them may be in flight around one rekey.
const INTERVAL: Duration = Duration::from_millis(10);
const IN_FLIGHT: u32 = 2;

fn child(bed: &Bed) -> Result {
    under_traffic(bed, rekey_child_by_client, rekey_child_by_us)
}

fn ike(bed: &Bed) -> Result {
    under_traffic(bed, |connected| connected.client.rekey_ike(ALICE), rekey_ike_by_us)
}

fn under_traffic(bed: &Bed, by_client: fn(&Connected) -> Result, by_us: fn(&Connected) -> Result) -> Result {
    let connected = Connected::new(bed)?;
    connected.ping()?;
    for (who, rekey) in [("the client", by_client), ("us", by_us)] {
        let stream = echo::Stream::start(&connected.world.client, server(false), INTERVAL)?;
        std::thread::sleep(Duration::from_millis(300));
        for _ in 0..3 {
            rekey(&connected).context(format!("rekey by {who}"))?;
            std::thread::sleep(Duration::from_millis(200));
        }
        let echoed = stream.stop()?;
        bed.note(format_args!("three rekeys by {who}: {} of {} packets lost", echoed.lost(), echoed.sent));
        ensure!(echoed.lost() <= 3 * IN_FLIGHT, "{} of {} packets lost", echoed.lost(), echoed.sent);
        both_ways(&connected.world.client, server(false), MIB)?;
        one_pair_left(&connected)?;
    }
    Ok(())
}

fn two_hundred(bed: &Bed) -> Result {
    let connected = Connected::new(bed)?;
    // The first few reach the steady state of allocators and caches.
    rekey_in_turn(&connected, 20)?;
    let (memory, disk) = (connected.node.resident_kib()?, disk_kib(&connected)?);
    rekey_in_turn(&connected, 200)?;
    connected.ping()?;
    one_pair_left(&connected)?;
    let (memory_now, disk_now) = (connected.node.resident_kib()?, disk_kib(&connected)?);
    bed.note(format_args!("memory {memory} -> {memory_now} KiB, data {disk} -> {disk_now} KiB"));
    ensure!(memory_now < memory + 16 * 1024, "memory grew from {memory} to {memory_now} KiB");
    ensure!(disk_now < disk + 16 * 1024, "the data folder grew from {disk} to {disk_now} KiB");
    Ok(())
}

fn rekey_in_turn(connected: &Connected, count: u32) -> Result {
    for number in 0..count {
        let result = match number % 4 {
            0 => rekey_child_by_client(connected),
            1 => rekey_child_by_us(connected),
            2 => connected.client.rekey_ike(ALICE),
            _ => rekey_ike_by_us(connected),
        };
        result.context(format!("rekey number {number}"))?;
    }
    Ok(())
}

fn rekey_child_by_client(connected: &Connected) -> Result {
    connected.client.rekey_child(ALICE)
}

fn rekey_child_by_us(connected: &Connected) -> Result {
    let old = connected.client.only(ALICE)?.child()?.spi_in.clone();
    // The client's outbound SPI is our inbound one.
    let ours = connected.client.only(ALICE)?.child()?.spi_out.clone();
    connected.node.must(&["rekey", &format!("{ours:0>8}")])?;
    eventually(Duration::from_secs(10), || {
        let sa = connected.client.only(ALICE)?;
        let child = sa.child()?;
        ensure!(child.spi_in != old && child.state == "INSTALLED", "the client still has {child:?}");
        Ok(())
    })
}

fn rekey_ike_by_us(connected: &Connected) -> Result {
    let old = connected.client.only(ALICE)?;
    connected.node.must(&["rekey", &old.spi_r])?;
    eventually(Duration::from_secs(10), || {
        let now = connected.client.only(ALICE)?;
        ensure!(now.spi_r != old.spi_r && now.spi_i != old.spi_i, "the client still has {}", now.spi_i);
        ensure!(now.state == "ESTABLISHED", "the client's SA is {}", now.state);
        Ok(())
    })
}

/// One IKE SA with one child on both sides, the same ones.
pub fn one_pair_left(connected: &Connected) -> Result {
    eventually(Duration::from_secs(5), || {
        let theirs = connected.client.only(ALICE)?;
        let ours = connected.node.sas()?;
        ensure!(ours.len() == 1, "the gateway shows {} IKE SAs", ours.len());
        let children = ours[0]["children"].as_array().context("children")?;
        ensure!(children.len() == 1, "the gateway shows {} child SAs", children.len());
        let (spi, wanted) = (children[0]["spi_out"].as_str().unwrap_or(""), &theirs.child()?.spi_in);
        ensure!(
            spi.trim_start_matches('0') == wanted.trim_start_matches('0'),
            "ours is {spi}, theirs {wanted}"
        );
        Ok(())
    })
}

fn disk_kib(connected: &Connected) -> Result<u64> {
    let folder = connected.node.data_dir();
    let text = crate::world::exec::run(std::process::Command::new("du").arg("-sk").arg(folder))?;
    text.split_whitespace().next().and_then(|kib| kib.parse().ok()).context(text.clone())
}
