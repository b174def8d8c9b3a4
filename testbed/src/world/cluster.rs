//! Several nodes as one gateway, a client and a server: the machines of `fabric`, and verbs that read as a script.
//!
//! ```text
//!   let mut cluster = Cluster::start(bed, Shape::default(), &gateway.toml())?;
//!   let owner = cluster.owner_of(&sa)?;
//!   cluster.kill(owner)?;                 SIGKILL          cluster.restart(owner)?;
//!   cluster.pause(owner)?;                SIGSTOP          cluster.resume(owner)?;
//!   cluster.unplug(owner)?;               all its cables   cluster.plug(owner)?;
//!   cluster.partition(&[owner])?;         link cables only cluster.heal()?;
//!   cluster.wait_settled()?;              every segment is served by a node that is there
//! ```
//!
//! A node that a fault has taken away is not asked anything until the fault ends. What is done to nodes and networks is in
//! `faults`.

mod faults;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::capture::{Capture, Extent};
use super::echo::Echo;
use super::fabric::{Fabric, Net, Port};
use super::http::{self, Server};
use super::netns::Netns;
use super::pontoon::{Machine, Pontoon};
use super::pulse::Counted;
use super::{Bed, CLIENT, INNER_DEVICE, INSIDE, INSIDE6, OUTER_DEVICE, SERVER, SERVER6, eventually, sandbox};
use crate::charon::IkeSa;
use crate::ensure;
use crate::outcome::{Context, Result, Stop};

/// Of a client: strongSwan's libipsec makes it.
const TUNNEL_DEVICE: &str = "ipsec0";

/// The third device of a node: to the other nodes.
pub const LINK_DEVICE: &str = "eth2";
/// How long a cluster may take to come to rest after a fault; a debug build on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(40);

/// Longer than the leader lets pass between two looks at the placement.
const STILL: Duration = Duration::from_millis(600);

/// What a cluster looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Machines with a daemon.
    pub nodes: usize,
    /// How many of them form the cluster at first; all, where it is not said.
    pub members: Option<usize>,
    pub steering: &'static str,
    /// Of `[timing]`.
    pub profile: &'static str,
    /// Between the client and the outside: see `nat`.
    pub nat: bool,
    /// The seed of a rough fabric.
    pub rough: Option<u64>,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { nodes: 3, members: None, steering: "announce", profile: "lan", nat: false, rough: None }
    }
}

impl Shape {
    /// For planned steps, which lose nothing as long as nobody is taken for dead who only waits for a processor.
    pub fn unhurried() -> Shape {
        Shape { profile: "ci", ..Shape::default() }
    }
}

/// One of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge(usize);

impl Edge {
    pub fn named(name: &str) -> Result<Edge> {
        let number = name.strip_prefix("edge-").and_then(|number| number.parse::<usize>().ok());
        number.and_then(|number| number.checked_sub(1)).map(Edge).context(format!("{name} is no node's name"))
    }

    /// The last octet of its addresses.
    fn host(self) -> u8 {
        11 + self.0 as u8
    }

    /// Its own address on the outside network; not the service's.
    pub fn outside(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.host())
    }

    pub fn inside(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 10, 0, self.host())
    }

    pub fn link(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 0, self.host())
    }

    /// Where other nodes reach it.
    pub fn advertised(self) -> String {
        format!("{}:7400", self.link())
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "edge-{}", self.0 + 1)
    }
}

/// Where each segment is, by the word of one node.
#[derive(Clone, Debug)]
pub struct Placement {
    pub owner: Option<Edge>,
    pub epoch: u64,
}

/// The cluster and what it serves. Fields drop in order: what runs first, then the namespaces.
#[derive(Debug)]
pub struct Cluster {
    _web: Server,
    _echo: Echo,
    nodes: Vec<Pontoon>,
    away: BTreeSet<Edge>,
    pub client: Netns,
    pub nat: Option<Netns>,
    pub server: Netns,
    machines: Vec<Arc<Netns>>,
    pub fabric: Fabric,
    dir: PathBuf,
}

impl Cluster {
    /// Builds the networks, starts the nodes, joins them and applies the gateway configuration.
    pub fn start(bed: &Bed, shape: Shape, gateway_toml: &str) -> Result<Cluster> {
        let mut cluster = Cluster::build(bed, shape)?;
        cluster.form(shape.members.unwrap_or(shape.nodes), gateway_toml)?;
        Ok(cluster)
    }

    /// The networks and the daemons, no member of anything yet.
    pub fn build(bed: &Bed, shape: Shape) -> Result<Cluster> {
        sandbox::require_root()?;
        let dir = bed.new_world()?;
        let mut fabric = Fabric::new(shape.rough)?;
        let client = Netns::create("client")?;
        let server = Netns::create("server")?;
        let nat = match shape.nat {
            true => Some(super::nat::between(&mut fabric, &client)?),
            false => {
                fabric.connect(&Port::new(Net::Outside, "client"), &client, "eth0")?;
                client.address("eth0", &format!("{CLIENT}/24"))?;
                None
            }
        };
        fabric.connect(&Port::new(Net::Inside, "server"), &server, "eth0")?;
        server.address("eth0", &format!("{SERVER}/24"))?;
        server.address("eth0", &format!("{SERVER6}/64"))?;
        server.ip(&format!("route add default via {INSIDE}"))?;
        server.ip(&format!("-6 route add default via {INSIDE6}"))?;
        let _web = Server::start(&server, http::PORT)?;
        let _echo = Echo::start(&server)?;
        let (nodes, machines, away) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut cluster = Cluster { _web, _echo, nodes, away, client, nat, server, machines, fabric, dir };
        for edge in (0..shape.nodes).map(Edge) {
            cluster.add(edge, shape)?;
        }
        Ok(cluster)
    }

    fn add(&mut self, edge: Edge, shape: Shape) -> Result {
        let name = edge.to_string();
        let machine = Arc::new(Netns::create(&name)?);
        let devices = [(Net::Outside, OUTER_DEVICE), (Net::Inside, INNER_DEVICE), (Net::Link, LINK_DEVICE)];
        for (net, device) in devices {
            self.fabric.connect(&Port::new(net, &name), &machine, device)?;
        }
        machine.address(OUTER_DEVICE, &format!("{}/24", edge.outside()))?;
        machine.address(INNER_DEVICE, &format!("{}/24", edge.inside()))?;
        machine.address(INNER_DEVICE, &format!("fd00:10::{}/64", edge.host()))?;
        machine.address(LINK_DEVICE, &format!("{}/24", edge.link()))?;
        // Replies to anyone else leave towards the client, which stands for the internet.
        machine.ip(&format!("route add default via {CLIENT}"))?;
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.arp_ignore", "1"),
            ("net.ipv4.conf.all.arp_announce", "2"),
        ] {
            machine.sysctl(key, value)?;
        }
        self.nodes.push(Pontoon::on(Machine {
            namespace: machine.clone(),
            dir: self.dir.join(&name),
            name,
            advertise: edge.link(),
            steering: shape.steering,
            profile: shape.profile,
        })?);
        self.machines.push(machine);
        Ok(())
    }

    fn form(&mut self, members: usize, gateway_toml: &str) -> Result {
        self.away = self.edges().skip(1).collect();
        self.node(Edge(0)).must(&["init", "--name", "test"])?;
        for edge in self.edges().take(members).skip(1) {
            self.join(edge)?;
        }
        self.node(Edge(0)).apply(gateway_toml)?;
        self.wait_ready()?;
        self.wait_settled()
    }

    // --------------------------------------------------------------------------------------- grow and shrink

    /// Takes a node in that is no member; returns when it is a caught-up voter.
    pub fn join(&mut self, edge: Edge) -> Result {
        let host = self.present().into_iter().next().context("no node is left")?;
        let token = self.node(host).must(&["token", "create"])?;
        let node = self.node(edge);
        node.must(&["join", &host.advertised(), "--token", token.trim()]).context(node.name())?;
        self.away.remove(&edge);
        Ok(())
    }

    /// Has a node leave; its daemon goes on as a member of nothing.
    pub fn leave(&mut self, edge: Edge) -> Result {
        self.node(edge).must(&["leave"])?;
        self.away.insert(edge);
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ who is who

    pub fn edges(&self) -> impl Iterator<Item = Edge> + use<> {
        (0..self.nodes.len()).map(Edge)
    }

    /// The nodes that no fault has taken away.
    pub fn present(&self) -> Vec<Edge> {
        self.edges().filter(|edge| !self.away.contains(edge)).collect()
    }

    pub fn node(&self, edge: Edge) -> &Pontoon {
        &self.nodes[edge.0]
    }

    pub fn machine(&self, edge: Edge) -> &Netns {
        &self.machines[edge.0]
    }

    /// Any node that can be asked.
    pub fn any(&self) -> Result<&Pontoon> {
        let edge = self.present().into_iter().next().context("no node is left")?;
        Ok(self.node(edge))
    }

    pub fn leader(&self) -> Result<Edge> {
        eventually(PATIENCE, || {
            let status = self.any()?.json(&["status"])?;
            let leader = Edge::named(status["leader"].as_str().context("no leader")?)?;
            ensure!(!self.away.contains(&leader), "{leader} is not there and counts as the leader");
            Ok(leader)
        })
    }

    /// The gateway's own line about an IKE SA of a client.
    pub fn sa(&self, tunnel: &IkeSa) -> Result<Value> {
        let sas = self.any()?.sas()?;
        let same = |sa: &&Value| sa["spi_i"] == *tunnel.spi_i && sa["spi_r"] == *tunnel.spi_r;
        sas.iter().find(same).cloned().context(format!("the gateway knows no IKE SA {}", tunnel.spi_r))
    }

    /// Who processes a client's tunnel.
    pub fn owner_of(&self, tunnel: &IkeSa) -> Result<Edge> {
        Edge::named(self.sa(tunnel)?["owner"].as_str().context("the tunnel has no owner")?)
    }

    /// All 256 segments, as one node sees them.
    pub fn placement(&self) -> Result<Vec<Placement>> {
        let document = self.any()?.json(&["segments"])?;
        let rows = document["segments"].as_array().context("no list of segments")?;
        let read = |row: &Value| {
            let served = row["state"] != "unowned";
            let owner = row["owner"].as_str().filter(|_| served).map(Edge::named).transpose()?;
            Ok(Placement { owner, epoch: row["epoch"].as_u64().context("epoch")? })
        };
        rows.iter().map(read).collect()
    }

    // --------------------------------------------------------------------------------------------- waiting

    pub fn wait_ready(&mut self) -> Result {
        for edge in self.present() {
            self.nodes[edge.0].wait_ready_again().context(edge)?;
        }
        Ok(())
    }

    /// Until every segment is served by a node that is there, and all nodes that are there have the same state. Where it
    /// changes all the time, that never is.
    pub fn wait_settled(&self) -> Result {
        self.wait_served()?;
        self.digests().map(drop)
    }

    /// Until every segment is served by a node that is there.
    pub fn wait_served(&self) -> Result {
        eventually(PATIENCE, || {
            let placement = self.placement()?;
            let lost = |place: &&Placement| place.owner.is_none_or(|owner| self.away.contains(&owner));
            let lost = placement.iter().filter(lost).count();
            ensure!(lost == 0, "{lost} segments are served by nobody that is there");
            Ok(())
        })
    }

    /// Until each of the present nodes owns something: a node that came back has taken its share again.
    pub fn wait_balanced(&self) -> Result {
        eventually(PATIENCE, || {
            let placement = self.placement()?;
            for edge in self.present() {
                let owned = placement.iter().filter(|place| place.owner == Some(edge)).count();
                ensure!(owned > 0, "{edge} owns nothing");
            }
            Ok(())
        })
    }

    /// Until no segment has moved for a while: whoever came back has all of its share.
    pub fn wait_still(&self) -> Result {
        eventually(PATIENCE, || {
            let look =
                || -> Result<Vec<u64>> { Ok(self.placement()?.iter().map(|place| place.epoch).collect()) };
            let before = look()?;
            std::thread::sleep(STILL);
            ensure!(look()? == before, "segments still move");
            Ok(())
        })
    }

    /// What each present node says of its replicated state at one and the same log index.
    pub fn digests(&self) -> Result<Vec<(Edge, u64, String)>> {
        eventually(PATIENCE, || {
            let told: Vec<(Edge, u64, String)> =
                self.present().into_iter().map(|edge| self.digest(edge)).collect::<Result<_>>()?;
            let (least, most) = (told.iter().map(|of| of.1).min(), told.iter().map(|of| of.1).max());
            ensure!(least == most, "the nodes have applied {least:?} to {most:?}");
            Ok(told)
        })
    }

    /// The applied index of a node and the digest there, by its own word.
    pub fn digest(&self, edge: Edge) -> Result<(Edge, u64, String)> {
        let status = self.node(edge).json(&["status"])?;
        let nodes = status["nodes"].as_array().context("no list of nodes")?;
        let own =
            nodes.iter().find(|node| node["name"] == *edge.to_string()).context("not in its own list")?;
        let applied = own["applied"].as_u64().context("no applied index")?;
        Ok((edge, applied, own["digest"].as_str().context("no digest")?.to_owned()))
    }

    // --------------------------------------------------------------------------------------------- records

    /// Makes packets on all networks as small as on a real wire.
    pub fn turn_offloads_off(&self) -> Result {
        let devices = [OUTER_DEVICE, INNER_DEVICE, LINK_DEVICE];
        self.machines.iter().try_for_each(|machine| machine.turn_offloads_off(&devices))?;
        [&self.client, &self.server].iter().try_for_each(|end| end.turn_offloads_off(&["eth0"]))
    }

    /// Records every frame where it enters the networks.
    pub fn capture(&self, extent: Extent) -> Result<Capture> {
        self.fabric.capture(&self.path("wire.pcap"), extent)
    }

    /// How many ESP packets the nodes that are there have judged by an SA, or missed the SA for.
    pub fn judged(&self) -> Result<u64> {
        let counts = [
            "pontoon_esp_packets_total{direction=\"in\"} ",
            "pontoon_esp_dropped_packets_total{reason=\"replay\"} ",
            "pontoon_esp_dropped_packets_total{reason=\"unknown_spi\"} ",
            // With `replay = "strict"`: fresh, but beyond what the owner has claimed of the peer's numbers.
            "pontoon_esp_dropped_packets_total{reason=\"claim\"} ",
        ];
        let mut judged = 0;
        for edge in self.present() {
            let metrics = self.node(edge).metrics()?;
            let found =
                metrics.lines().filter_map(|line| counts.iter().find_map(|name| line.strip_prefix(name)));
            for count in found {
                judged += count.parse::<u64>().context(count)?;
            }
        }
        Ok(judged)
    }

    /// Datagrams that the kernels of all machines dropped for want of room: before a socket, or before a TUN.
    pub fn overflowed(&self) -> Result<u64> {
        let ends = [&self.client, &self.server];
        let mut sum = 0;
        for machine in self.machines.iter().map(|machine| &**machine).chain(ends) {
            let snmp = machine.run("cat", &["/proc/net/snmp"])?;
            let mut udp = snmp.lines().filter(|line| line.starts_with("Udp:"));
            let (names, values) = (udp.next().unwrap_or_default(), udp.next().unwrap_or_default());
            let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RcvbufErrors");
            sum += found.map_or(Ok(0), |(_, count)| count.parse::<u64>().context(count))?;
            // A node has the one, a client the other, the server none.
            for tun in ["pontoon0", TUNNEL_DEVICE] {
                let count = machine.run("cat", &[&format!("/sys/class/net/{tun}/statistics/tx_dropped")]);
                sum += count.ok().and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(sum)
    }

    /// The logs of all nodes, each with all its lives.
    pub fn logs(&self) -> Vec<(Edge, String)> {
        self.edges().map(|edge| (edge, self.node(edge).log())).collect()
    }

    /// The events of the nodes that are there: those of a killed process are gone with it.
    pub fn events(&self) -> Result<Vec<(Edge, Value)>> {
        let mut all = Vec::new();
        for edge in self.present() {
            all.extend(self.node(edge).events()?.into_iter().map(|event| (edge, event)));
        }
        Ok(all)
    }

    /// A path inside the cluster's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One `ping`, then `count` datagrams that must all come back; on loss the error names what the nodes dropped.
    pub fn ping(&self, to: IpAddr, count: u32) -> Result {
        let sent = self.client.run("ping", &["-n", "-q", "-c", "1", "-W", "3", &to.to_string()]);
        sent.and_then(|_| super::echo_from(&self.client, to, None, count))
            .map_err(|stop| Stop::Failed(format!("{stop}; {}", self.drops())))
    }

    /// Planned steps lose nothing and double nothing. A machine that stands still for a while fills its queues, whether
    /// something moves or not: the kernels count that (`overflowed`). The error names what the nodes dropped.
    pub fn nothing_lost(&self, counted: Counted, overflowed: u64) -> Result {
        ensure!(
            counted.lost <= overflowed && counted.doubled == 0,
            "planned steps: {counted:?}, by full queues of kernels {overflowed}; {}",
            self.drops()
        );
        Ok(())
    }

    /// What the nodes say that they have dropped, as far as they live.
    fn drops(&self) -> String {
        let all = self.present().into_iter().filter_map(|edge| Some((edge, self.node(edge).drops().ok()?)));
        let told: Vec<String> = all.map(|(edge, drops)| format!("{edge} counts {drops:?}")).collect();
        told.join("; ")
    }
}
