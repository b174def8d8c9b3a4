//! Ten thousand spoofed IKE_SA_INIT requests a second for ten seconds: an established tunnel keeps its pace, memory
//! stays bounded, the log does not grow, and a new honest client still gets in.

use std::time::Duration;

use super::Scenario;
use super::common::{ALICE, Connected, MIB, server};
use crate::charon::Connection;
use crate::ensure;
use crate::outcome::Result;
use crate::world::flood::Flood;
use crate::world::http::{self, Job};
use crate::world::{Bed, SERVICE};

pub(super) const LIST: &[Scenario] =
    &[Scenario { name: "s7-flood", what: "10,000 spoofed IKE_SA_INIT a second for ten seconds", run: flood }];

fn flood(bed: &Bed) -> Result {
    let connected = Connected::new(bed)?;
    connected.client.load(&Connection::client("bob"))?;
    let job = |bytes| Job { server: server(false), from: None, bytes, seed: 7, in_flight: None };
    let quiet = http::download(&connected.world.client, job(32 * MIB))?;
    // About three quiet seconds, so that it ends well within the flood.
    let bytes = (quiet.megabits_per_second() * 3.0 / 8.0) as u64 * MIB;
    let (memory, applied) = (connected.node.resident_kib()?, applied(&connected)?);

    let flood = Flood { to: SERVICE, from: [203, 0], per_second: 10_000, lasting: Duration::from_secs(10) };
    let flooding = connected.world.client.spawn(move || flood.run())?;
    std::thread::sleep(Duration::from_millis(500));
    let under_flood = http::download(&connected.world.client, job(bytes))?;
    let log_under_flood = self::applied(&connected)?;
    connected.client.initiate("bob")?;
    ensure!(!flooding.is_finished(), "the flood ended before the honest client came");
    let sent = flooding.join().map_err(|_| "the flood panicked")???;
    let memory_now = connected.node.resident_kib()?;
    bed.note(format_args!(
        "{sent} requests; download {:.0} -> {:.0} Mbit/s on this machine's shared cores; memory {memory} -> {memory_now} KiB",
        quiet.megabits_per_second(),
        under_flood.megabits_per_second()
    ));
    ensure!(sent >= 90_000, "only {sent} requests left");
    // Sender, receiver, client and server share the cores: what is lost here is an upper bound.
    let kept = under_flood.megabits_per_second() / quiet.megabits_per_second();
    ensure!(kept > 0.5, "the tunnel kept {:.0} % of its pace", kept * 100.0);
    ensure!(memory_now < memory + 64 * 1024, "memory grew from {memory} to {memory_now} KiB");
    // The download takes blocks of numbers; nothing else may be written.
    let grew = log_under_flood - applied;
    ensure!(grew < 100, "the log grew by {grew} entries under the flood");
    connected.ping()?;
    connected.client.terminate(ALICE)
}

fn applied(connected: &Connected) -> Result<u64> {
    Ok(connected.node.json(&["status"])?["nodes"][0]["applied"].as_u64().unwrap_or(0))
}
