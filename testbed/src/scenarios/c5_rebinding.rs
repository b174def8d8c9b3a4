//! A NAT gives the client another port, and the owner dies within 50 ms: the downlink flows to the new port.
//!
//! After the one packet that shows the new port the client is silent, so that only what the old owner has committed can
//! tell the new one where the client is.

use std::net::UdpSocket;
use std::time::Duration;

use super::Scenario;
use super::bridge::{Allowed, Bridge, Proof};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::capture::Extent;
use crate::world::cluster::Shape;
use crate::world::{Bed, SERVER, echo, nat};

pub(super) const LIST: &[Scenario] = &[
    Scenario {
        name: "c5-rebinding",
        what: "the client's NAT changes its port, the owner dies within 50 ms",
        run: rebinding,
    },
    Scenario { name: "c5-five-nodes", what: "the same with five nodes", run: five_nodes },
];

const DIES_AFTER: Duration = Duration::from_millis(50);
const DOWNLINK_PORT: u16 = 5_005;

fn rebinding(bed: &Bed) -> Result {
    rebound(bed, Shape::default())
}

fn five_nodes(bed: &Bed) -> Result {
    rebound(bed, Shape { nodes: 5, ..Shape::default() })
}

fn rebound(bed: &Bed, shape: Shape) -> Result {
    let mut bridge = Bridge::connected(bed, Shape { nat: true, ..shape })?;
    let proof = Proof::begin(&bridge, Extent::Whole)?;
    let inner = bridge.inner()?;
    let receiver = bridge.cluster.client.within(move || -> Result<UdpSocket> {
        let socket = UdpSocket::bind((inner, DOWNLINK_PORT)).context("the client's socket")?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    })??;
    let sender = bridge.cluster.server.within(move || -> Result<UdpSocket> {
        let socket = UdpSocket::bind((SERVER, 0)).context("the server's socket")?;
        socket.connect((inner, DOWNLINK_PORT))?;
        Ok(socket)
    })??;
    arrives(&sender, &receiver, 3)?;
    for port in [nat::FIRST_PORT + 7, nat::FIRST_PORT + 8] {
        let owner = bridge.owner()?;
        nat::map(bridge.cluster.nat.as_ref().context("a NAT")?, port)?;
        receiver.send_to(b"here I am", (SERVER, echo::PORT)).context("the uplink")?;
        std::thread::sleep(DIES_AFTER);
        bridge.cluster.kill(owner)?;
        bridge.cluster.wait_settled()?;
        arrives(&sender, &receiver, 20).context(format!("the downlink to port {port}"))?;
        bridge.cluster.restart(owner)?;
        bridge.cluster.wait_ready()?;
        bridge.cluster.wait_balanced()?;
    }
    proof.end(bed, &bridge, Allowed::default()).map(drop)
}

/// Sends so many numbered datagrams down; each must come.
fn arrives(sender: &UdpSocket, receiver: &UdpSocket, count: u32) -> Result {
    for number in 0..count {
        sender.send(&number.to_be_bytes())?;
        let mut buffer = [0; 16];
        // The answer to an uplink packet may come in between.
        let found = loop {
            match receiver.recv(&mut buffer) {
                Ok(4) => break u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) == number,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        ensure!(found, "datagram {number} did not come");
    }
    Ok(())
}
