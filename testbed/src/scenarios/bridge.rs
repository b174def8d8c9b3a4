//! What scripts with several nodes begin and end with: a cluster with a client that is connected to it, and the proof of
//! the invariants over everything that was seen.
//!
//! ```text
//!   let mut bridge = Bridge::connected(bed, Shape::default())?;
//!   let proof = Proof::begin(&bridge, Extent::Heads)?;
//!   ... faults ...
//!   proof.end(bed, &bridge, Allowed::default())?;         I1 to I4, I6, I8 to I10, and not a word of IKE
//! ```

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::common::{ALICE, Gateway, server};
use super::s6_proofs::{SLACK_US, inner_networks, networks};
use crate::charon::{Charon, Connection, IkeSa, Settings};
use crate::checkers::i2_within_blocks::Grant;
use crate::checkers::i10_equal::Sample;
use crate::checkers::pcap::{self, Packet};
use crate::checkers::view::{Sa, View};
use crate::checkers::{
    Report, i1_no_repeats, i2_within_blocks, i3_same_bytes, i4_survives, i6_one_owner, i8_closed,
    i9_one_client, i10_equal,
};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::capture::{Capture, Extent};
use crate::world::cluster::{Cluster, Edge, Shape};
use crate::world::fabric::Net;
use crate::world::{Bed, NET, NET6, POOL, POOL6, SERVICE, account};

/// A cluster and a client of it.
pub struct Bridge {
    pub client: Charon,
    pub cluster: Cluster,
}

impl Bridge {
    /// A cluster with a client that is connected as "alice".
    pub fn connected(bed: &Bed, shape: Shape) -> Result<Bridge> {
        let bridge = Bridge::loaded(bed, shape, &Gateway::default(), &Settings::default())?;
        bridge.client.initiate(ALICE)?;
        bridge.ping()?;
        Ok(bridge)
    }

    /// As `connected`, but not connected yet.
    pub fn loaded(bed: &Bed, shape: Shape, gateway: &Gateway, settings: &Settings) -> Result<Bridge> {
        let cluster = Cluster::start(bed, shape, &gateway.toml())?;
        let client = Charon::start(&cluster.client, &cluster.path("client"), settings)?;
        client.load(&Connection::client(ALICE))?;
        Ok(Bridge { client, cluster })
    }

    pub fn ping(&self) -> Result {
        self.cluster.ping(server(false), 3)
    }

    /// Which node processes alice's tunnel.
    pub fn owner(&self) -> Result<Edge> {
        self.cluster.owner_of(&self.client.only(ALICE)?)
    }

    /// Alice's inner address.
    pub fn inner(&self) -> Result<IpAddr> {
        let addresses = self.client.only(ALICE)?.virtual_addresses;
        let first = addresses.iter().find(|address| !address.contains(':')).context("no inner address")?;
        first.parse().context(first)
    }

    /// Connects anew until a node with this property owns the tunnel.
    pub fn reconnect_until(&self, wanted: impl Fn(Edge) -> Result<bool>) -> Result<Edge> {
        for _ in 0..ATTEMPTS {
            let owner = self.owner()?;
            if wanted(owner)? {
                return Ok(owner);
            }
            self.client.terminate(ALICE)?;
            self.client.initiate(ALICE)?;
        }
        Err(format!("in {ATTEMPTS} attempts no such node got the tunnel").into())
    }
}

/// The chance that all of these fail at three nodes is one in a million.
const ATTEMPTS: u32 = 36;

/// What a script may cause besides what it wants to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// Packets of a deposed owner after the first of its successor: only where processes are stopped and go on.
    pub late_max: u64,
    /// The SAs may be others than at the beginning: the script compares them itself.
    pub new_sas: bool,
}

/// A recording under way, and what the client had when it began.
pub struct Proof {
    capture: Capture,
    told: Vec<Sa>,
    mark: usize,
    samples: Vec<Sample>,
}

impl Proof {
    pub fn begin(bridge: &Bridge, extent: Extent) -> Result<Proof> {
        bridge.cluster.turn_offloads_off()?;
        let capture = bridge.cluster.capture(extent)?;
        let told = of_client(&bridge.client)?;
        Ok(Proof { capture, told, mark: bridge.client.log_length(), samples: Vec::new() })
    }

    /// Notes what the nodes say of their state now; at the end equal indexes must have equal digests.
    pub fn sample(&mut self, cluster: &Cluster) {
        // A node that does not answer in the middle of a fault is asked again later.
        let told = cluster.present().into_iter().filter_map(|edge| cluster.digest(edge).ok());
        self.samples.extend(told.map(|(edge, applied, digest)| Sample {
            node: edge.to_string(),
            applied,
            digest,
        }));
    }

    /// Waits until the cluster is at rest, and wants every invariant. Gives what was recorded, for more questions.
    pub fn end(mut self, bed: &Bed, bridge: &Bridge, allowed: Allowed) -> Result<Seen> {
        bridge.cluster.wait_settled()?;
        let digests = bridge.cluster.digests()?;
        self.samples.extend(digests.into_iter().map(|(edge, applied, digest)| Sample {
            node: edge.to_string(),
            applied,
            digest,
        }));
        let views = views(bridge)?;
        let log = bridge.client.log_since(self.mark);
        let file = self.capture.stop()?;
        let seen = Seen::read(bridge, file)?;
        let sas: Vec<Sa> = self.told.iter().chain(&views[0].sas).cloned().collect();
        seen.prove(bridge, &sas, &leased(&bridge.client.log())?, allowed.late_max)?;
        if !allowed.new_sas {
            i4_survives::check(&self.told, &views).must_hold("I4")?;
            for unwanted in ["initiating IKE_SA", "CREATE_CHILD_SA", "rekey"] {
                ensure!(!log.contains(unwanted), "the client logged \"{unwanted}\"");
            }
        }
        // After a last delete nobody holds anything.
        let i9 = i9_one_client::check(&views);
        ensure!(i9.violations.is_empty(), "I9: {:?}", i9.violations);
        let equal = i10_equal::check(&self.samples);
        match bridge.cluster.present().len() {
            // Nobody to compare with.
            1 => ensure!(equal.violations.is_empty(), "I10: {:?}", equal.violations),
            _ => equal.must_hold("I10")?,
        }
        bed.note(format_args!(
            "I1 to I4, I6 and I8 to I10 hold for {} packets on the outside",
            seen.outside.len()
        ));
        Ok(seen)
    }
}

/// What crossed the networks.
pub struct Seen {
    pub file: PathBuf,
    /// What came in on the outside, from nodes and clients.
    pub outside: Vec<Packet>,
    inside: Vec<Packet>,
    link: Vec<Packet>,
}

impl Seen {
    pub fn read(bridge: &Bridge, file: PathBuf) -> Result<Seen> {
        let ports = bridge.cluster.fabric.ports()?;
        let mut seen = Seen { file, outside: Vec::new(), inside: Vec::new(), link: Vec::new() };
        for file in std::iter::once(seen.file.clone()).chain(bridge.cluster.fabric.recorded()?) {
            pcap::for_each(&file, |packet| {
                match ports.get(&packet.via).map(|port| port.net) {
                    Some(Net::Outside) => seen.outside.push(packet),
                    Some(Net::Inside) => seen.inside.push(packet),
                    Some(Net::Link) => seen.link.push(packet),
                    // A bridge itself: what it flooded came in at a port before.
                    None => {}
                }
                Ok(())
            })?;
        }
        Ok(seen)
    }

    /// I1, I2, I3, I6 and I8 over what the nodes sent. `sas`: those that came about, whose replies of IKE_AUTH must not
    /// have changed. `leased`: the inner addresses that alone may appear on the inside.
    fn prove(&self, bridge: &Bridge, sas: &[Sa], leased: &[IpAddr], late_max: u64) -> Result {
        let us = IpAddr::V4(SERVICE);
        let grants = grants(&bridge.cluster)?;
        let connected: Vec<u64> = sas.iter().map(|sa| sa.ike.0).collect();
        i1_no_repeats::check(&self.outside).must_hold("I1")?;
        i2_within_blocks::check(&self.outside, us, &grants, SLACK_US).must_hold("I2")?;
        let i3 = i3_same_bytes::check(&self.outside, us, &connected, &[], SLACK_US);
        ensure!(i3.violations.is_empty(), "I3: {:?}", i3.violations);
        i6_one_owner::check(&self.outside, us, late_max, bridge.cluster.fabric.stamp_slack_us())
            .must_hold("I6")?;
        i8_closed::check_outside(&self.outside, &inner_networks()?).must_hold("I8 outside")?;
        let link: Report = i8_closed::check_outside(&self.link, &inner_networks()?);
        ensure!(link.violations.is_empty(), "I8 between nodes: {:?}", link.violations);
        let (pools, protected) = (networks(&[POOL, POOL6])?, networks(&[NET, NET6])?);
        i8_closed::check_inside(&self.inside, &pools, leased, &protected).must_hold("I8 inside")?;
        Ok(())
    }

    /// The octets that nodes sent into the protected network, for I7.
    pub fn for_each_inside(&self, bridge: &Bridge, mut see: impl FnMut(&pcap::Frame<'_>)) -> Result {
        let ports = bridge.cluster.fabric.ports()?;
        pcap::for_each_frame(&self.file, |frame| {
            let port = ports.get(&frame.via);
            if port.is_some_and(|port| port.net == Net::Inside && port.machine != "server") {
                see(&frame);
            }
            Ok(())
        })
    }
}

/// The blocks by the account of all nodes, living or not.
pub fn grants(cluster: &Cluster) -> Result<Vec<Grant>> {
    let mut all = Vec::new();
    for (_, log) in cluster.logs() {
        all.extend(account::grants(&log)?);
    }
    ensure!(!all.is_empty(), "the nodes tell of no block");
    Ok(all)
}

/// The inner addresses that a client has had, by its own log.
fn leased(log: &str) -> Result<Vec<IpAddr>> {
    let told =
        log.lines().filter_map(|line| line.split_once("installing new virtual IP ")).map(|(_, ip)| ip.trim());
    told.map(|ip| ip.parse().context(ip)).collect()
}

/// The client's view and that of every node that is there.
pub fn views(bridge: &Bridge) -> Result<Vec<View>> {
    let mut views = vec![View::new("the client", of_client(&bridge.client)?)];
    for edge in bridge.cluster.present() {
        let sas = bridge.cluster.node(edge).sas()?;
        views.push(View::new(edge, sas.iter().map(of_node).collect::<Result<_>>()?));
    }
    Ok(views)
}

/// The IKE SAs of a client.
pub fn of_client(client: &Charon) -> Result<Vec<Sa>> {
    client.sas()?.iter().filter(|sa| sa.state == "ESTABLISHED").map(of_charon).collect()
}

fn of_charon(sa: &IkeSa) -> Result<Sa> {
    let children = sa.children.iter().filter(|child| child.state != "DELETED");
    Ok(Sa {
        ike: (hex(&sa.spi_i)?, hex(&sa.spi_r)?),
        children: children.map(|child| Ok(hex(&child.spi_in)? as u32)).collect::<Result<_>>()?,
        peer: sa.name.clone(),
        inner: sa.virtual_addresses.iter().map(|ip| ip.parse().context(ip)).collect::<Result<_>>()?,
    })
}

fn of_node(sa: &Value) -> Result<Sa> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let children = sa["children"].as_array().context("children")?;
    let inner = sa["inner_addresses"].as_array().context("inner addresses")?;
    Ok(Sa {
        ike: (hex(&text(&sa["spi_i"]))?, hex(&text(&sa["spi_r"]))?),
        children: children
            .iter()
            .map(|child| Ok(hex(&text(&child["spi_out"]))? as u32))
            .collect::<Result<_>>()?,
        peer: text(&sa["peer_id"]),
        inner: inner.iter().map(|ip| text(ip).parse().context(ip)).collect::<Result<_>>()?,
    })
}

fn hex(spi: &str) -> Result<u64> {
    u64::from_str_radix(spi, 16).context(spi)
}
