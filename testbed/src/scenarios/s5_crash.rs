//! The node is killed in the middle of a download and started again on its data: the same SAs go on.
//!
//! The client does no handshake and no rekey, the file is whole, and nothing repeats on the wire although the crashed
//! process knew numbers that nobody else does.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::Scenario;
use super::common::{ALICE, Connected, MIB, server};
use super::s6_proofs::prove;
use crate::ensure;
use crate::outcome::Result;
use crate::world::http::{self, Job};
use crate::world::{Bed, eventually};

pub(super) const LIST: &[Scenario] = &[
    Scenario { name: "s5-kill", what: "kill -9 in a download, restart at once", run: kill_once },
    Scenario {
        name: "s5-kill-quickly",
        what: "kill -9 four times, each 300 ms after the start",
        run: kill_quickly,
    },
];

const BYTES: u64 = 256 * MIB;

fn kill_once(bed: &Bed) -> Result {
    crash(bed, &[Duration::from_secs(1)])
}

fn kill_quickly(bed: &Bed) -> Result {
    crash(
        bed,
        &[
            Duration::from_secs(1),
            Duration::from_millis(300),
            Duration::from_millis(300),
            Duration::from_millis(300),
        ],
    )
}

/// Kills after each of the given spells of life.
fn crash(bed: &Bed, lives: &[Duration]) -> Result {
    let mut connected = Connected::new(bed)?;
    connected.world.turn_offloads_off()?;
    let capture = connected.world.capture_outside()?;
    connected.ping()?;
    let before = connected.client.only(ALICE)?;
    let epochs_before = epochs(&connected)?;
    let mark = connected.client.log_length();

    let job = Job { server: server(false), from: None, bytes: BYTES, seed: 5, in_flight: None };
    let download = http::download_in_background(&connected.world.client, job)?;
    for life in lives {
        std::thread::sleep(*life);
        ensure!(!download.is_finished(), "the download ended before the crash");
        connected.node.kill()?;
        connected.node.restart()?;
    }
    let restarted = Instant::now();
    connected.node.wait_ready_again()?;
    let ready = restarted.elapsed();
    let transfer = http::finish(download)?;
    bed.note(format_args!(
        "{} crashes: longest silence {:.0} ms, ready {:.0} ms after the last start, {:.0} Mbit/s overall",
        lives.len(),
        transfer.longest_silence.as_secs_f64() * 1e3,
        ready.as_secs_f64() * 1e3,
        transfer.megabits_per_second()
    ));
    connected.ping()?;

    let after = connected.client.only(ALICE)?;
    ensure!(before.spi_i == after.spi_i && before.spi_r == after.spi_r, "the IKE SA is another one");
    ensure!(before.child()?.spi_in == after.child()?.spi_in, "the child SA is another one");
    let log = connected.client.log_since(mark);
    for unwanted in ["initiating IKE_SA", "CREATE_CHILD_SA", "rekey"] {
        ensure!(!log.contains(unwanted), "the client logged \"{unwanted}\"");
    }
    let epochs_after = epochs(&connected)?;
    ensure!(
        epochs_before.is_disjoint(&epochs_after),
        "an epoch lives on: {epochs_before:?} {epochs_after:?}"
    );
    // The SA still works as one: both kinds of exchange, from the message IDs that the log kept.
    connected.client.rekey_child(ALICE)?;
    connected.ping()?;
    connected.client.rekey_ike(ALICE)?;
    connected.ping()?;
    eventually(Duration::from_secs(5), || super::s2_rekey::one_pair_left(&connected))?;
    let file = capture.stop()?;
    prove(bed, &connected, &file, &[])
}

/// (segment, epoch) of every SA.
fn epochs(connected: &Connected) -> Result<HashSet<(u64, u64)>> {
    let sas = connected.node.sas()?;
    let pairs = sas.iter().map(|sa| (sa["segment"].as_u64().unwrap_or(0), sa["epoch"].as_u64().unwrap_or(0)));
    Ok(pairs.collect())
}
