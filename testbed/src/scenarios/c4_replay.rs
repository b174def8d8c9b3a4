//! Everything that was captured before a takeover is sent again after it: what comes through is within the bound of
//! `replay = "bounded"`, or nothing with `"strict"`.
//!
//! The client falls silent with its old owner, so that nothing but the mirrored marks (or the claimed edge) can tell the
//! new owner what was seen.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::Scenario;
use super::bridge::{Allowed, Bridge, Proof};
use super::common::{ALICE, Gateway};
use crate::charon::Settings;
use crate::checkers::{i7_once, pcap};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::capture::Extent;
use crate::world::cluster::Shape;
use crate::world::fabric::{Net, Port};
use crate::world::pulse::Pulse;
use crate::world::{Bed, SERVICE, echo, eventually};

pub(super) const LIST: &[Scenario] = &[
    Scenario {
        name: "c4-replay-bounded",
        what: "a replay after a crash stays within the bound",
        run: bounded,
    },
    Scenario { name: "c4-replay-strict", what: "a replay after a crash brings nothing in", run: strict },
    Scenario {
        name: "c4-replay-drained",
        what: "a replay after a planned move brings nothing in",
        run: drained,
    },
    Scenario { name: "c4-five-nodes", what: "a replay after a crash, with five nodes", run: five_nodes },
];

/// One datagram this often before the crash.
const EVERY: Duration = Duration::from_millis(2);
/// Marks are mirrored every few milliseconds; a busy machine may be late by some more. Stated as time, counted in packets.
const BOUND: Duration = Duration::from_millis(100);
const BOUND_PACKETS: u64 = (BOUND.as_millis() / EVERY.as_millis()) as u64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    Crash,
    Drain,
}

fn bounded(bed: &Bed) -> Result {
    replay(bed, Shape::default(), "bounded", Move::Crash, BOUND_PACKETS)
}

fn strict(bed: &Bed) -> Result {
    replay(bed, Shape::default(), "strict", Move::Crash, 0)
}

fn drained(bed: &Bed) -> Result {
    replay(bed, Shape::default(), "bounded", Move::Drain, 0)
}

fn five_nodes(bed: &Bed) -> Result {
    replay(bed, Shape { nodes: 5, ..Shape::default() }, "bounded", Move::Crash, BOUND_PACKETS)
}

fn replay(bed: &Bed, shape: Shape, mode: &'static str, how: Move, bound: u64) -> Result {
    let gateway = Gateway { replay: mode, ..Gateway::default() };
    let mut bridge = Bridge::loaded(bed, shape, &gateway, &Settings::default())?;
    bridge.client.initiate(ALICE)?;
    bridge.ping()?;
    let before = bridge.client.only(ALICE)?;
    let mark = bridge.client.log_length();
    let proof = Proof::begin(&bridge, Extent::Whole)?;
    let recording = bridge.cluster.fabric.capture(&bridge.cluster.path("replayed.pcap"), Extent::Whole)?;
    let owner = bridge.owner()?;
    let pulse = Pulse::start(&bridge.cluster.client, bridge.inner()?, EVERY)?;
    std::thread::sleep(Duration::from_millis(1_500));
    bridge.cluster.fabric.rule(&format!("iifname {} drop", Port::new(Net::Outside, "client")))?;
    match how {
        Move::Crash => bridge.cluster.kill(owner)?,
        Move::Drain => bridge.cluster.drain(owner)?,
    }
    drop(pulse);
    bridge.cluster.wait_settled()?;
    let file = recording.stop()?;
    bridge.cluster.fabric.heal()?;

    let packets = esp_of_client(&bridge, &file)?;
    let sent = packets.len();
    replay_all(&bridge, packets)?;
    match how {
        Move::Crash => bridge.cluster.restart(owner)?,
        Move::Drain => bridge.cluster.undrain(owner)?,
    }
    bridge.cluster.wait_ready()?;
    bridge.ping()?;

    // What is taken for a replay though it is the client's brings one rekey about, of the child alone.
    let after = bridge.client.only(ALICE)?;
    ensure!((&before.spi_i, &before.spi_r) == (&after.spi_i, &after.spi_r), "the IKE SA is another one");
    let rekeys = bridge.client.log_since(mark).matches("parsed CREATE_CHILD_SA request").count();
    ensure!(rekeys == usize::from(mode == "strict"), "{rekeys} rekeys of the child");
    let allowed = Allowed { new_sas: mode == "strict", ..Allowed::default() };
    let seen = proof.end(bed, &bridge, allowed)?;
    let mut once = i7_once::Checker::default();
    seen.for_each_inside(&bridge, |frame| once.see(frame, echo::PORT))?;
    bed.note(format_args!("{mode}: {} of {sent} replayed packets came through again", once.again()));
    ensure!(sent > 500, "only {sent} packets to replay");
    once.finish(bound).must_hold("I7")
}

/// The ESP packets of the client in a recording, as they were.
pub fn esp_of_client(bridge: &Bridge, file: &Path) -> Result<Vec<Vec<u8>>> {
    let ports = bridge.cluster.fabric.ports()?;
    let client = Port::new(Net::Outside, "client");
    let mut packets = Vec::new();
    pcap::for_each_frame(file, |frame| {
        // UDP to port 4500, without the marker of IKE.
        let is_esp = frame.ip.get(9) == Some(&17)
            && frame.ip.get(22..24) == Some(&4500u16.to_be_bytes())
            && frame.ip.get(28..32) != Some(&[0; 4]);
        if is_esp && ports.get(&frame.via) == Some(&client) {
            packets.push(frame.ip.to_vec());
        }
        Ok(())
    })?;
    Ok(packets)
}

/// Sends the client's packets again, and waits until the nodes have judged them: a replay that arrives nowhere proves
/// nothing.
pub fn replay_all(bridge: &Bridge, packets: Vec<Vec<u8>>) -> Result {
    let (before, count) = (bridge.cluster.judged()?, packets.len() as u64);
    bridge.cluster.client.within(move || send_again(&packets))??;
    eventually(PATIENCE, || {
        let judged = bridge.cluster.judged()? - before;
        ensure!(judged >= count, "{judged} of {count} replayed packets were judged");
        Ok(())
    })
}

/// Sends whole IPv4 packets with UDP inside to the gateway, from the calling thread's namespace.
fn send_again(packets: &[Vec<u8>]) -> Result {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).context("raw socket")?;
    let to = SocketAddr::from((SERVICE, 0)).into();
    for packet in packets {
        let mut packet = packet.clone();
        // What was recorded on its way out has no checksum yet, where a device would have made it. None is as good.
        packet[UDP_CHECKSUM].fill(0);
        socket.send_to(&packet, &to).context("send a packet again")?;
        // Slow enough for a queue not to lose what should be judged.
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// In IPv4 without options.
const UDP_CHECKSUM: std::ops::Range<usize> = 26..28;
const PATIENCE: Duration = Duration::from_secs(5);
