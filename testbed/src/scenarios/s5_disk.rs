//! The disk of the node fills up: it stops with a clear message before it promises what it cannot keep, and with room
//! again it goes on with the same SAs.

use std::io::{ErrorKind, Write};
use std::process::Command;
use std::time::Duration;

use super::Scenario;
use super::common::{ALICE, Connected, Gateway};
use crate::charon::{Charon, Connection, Settings};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::pontoon::Pontoon;
use crate::world::{Bed, World, exec};

pub(super) const LIST: &[Scenario] = &[Scenario {
    name: "s5-disk-full",
    what: "no room for the log: a clear end, and the same SAs afterwards",
    run: disk_full,
}];

/// Room enough for a log, little enough to fill.
const DISK: &str = "size=8m";

/// Changes that may still find room: the log has reserved some ahead.
const CHANGES_MAX: u32 = 2_000;

fn disk_full(bed: &Bed) -> Result {
    let world = World::new(bed)?;
    let data = world.path("node").join("data");
    std::fs::create_dir_all(&data).context(data.display())?;
    exec::run(Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "none"]).arg(&data))?;
    let gateway = Gateway::default();
    let node = Pontoon::start(&world, &gateway.toml())?;
    let client = Charon::start(&world.client, &world.path("client"), &Settings::default())?;
    client.load(&Connection::client(ALICE))?;
    client.initiate(ALICE)?;
    let mut connected = Connected { client, node, world };
    connected.ping()?;
    let before = connected.client.only(ALICE)?;

    let filler = data.join("filler");
    let mut file = std::fs::File::create(&filler).context("filler")?;
    let full = (0..).find_map(|_| file.write_all(&[0; 4096]).err()).context("an error in the end")?;
    ensure!(full.kind() == ErrorKind::StorageFull, "filling the disk ended with {full}");
    let mut changes = 0;
    let ended = loop {
        let told = connected.node.tell(&["config", "rollback", "1"])?;
        match told.code {
            Some(0) if changes < CHANGES_MAX => changes += 1,
            Some(0) => return Err("the full disk still takes changes".into()),
            _ => break connected.node.wait_end(Duration::from_secs(10))?,
        }
    };
    ensure!(ended.code() == Some(1), "it ended with {ended}");
    let last = exec::tail(&connected.node.log(), 4);
    bed.note(format_args!("after {changes} more changes it said:\n{last}"));
    for told in ["no space left on the disk of", "make room and start again"] {
        ensure!(last.contains(told), "it did not say {told:?} but:\n{last}");
    }

    // An open file keeps its room.
    drop(file);
    std::fs::remove_file(&filler).context("filler")?;
    connected.node.restart()?;
    connected.node.wait_ready_again()?;
    connected.ping()?;
    let after = connected.client.only(ALICE)?;
    ensure!(before.spi_i == after.spi_i && before.spi_r == after.spi_r, "the IKE SA is another one");
    ensure!(before.child()?.spi_in == after.child()?.spi_in, "the child SA is another one");
    connected.client.rekey_child(ALICE)?;
    connected.ping()?;
    let revision = connected.node.json(&["status"])?["config_revision"].as_u64().unwrap_or(0);
    ensure!(revision > u64::from(changes), "{changes} acknowledged changes, and the revision is {revision}");
    connected.node.stop()?;
    exec::run(Command::new("umount").arg(&data)).map(drop)
}
