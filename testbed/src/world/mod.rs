//! A client, a gateway and a server, each in a network namespace, joined by virtual cables.
//!
//! ```text
//!   client ---------------- gateway ---------------- server        `World::new`
//!   198.51.100.10   .2/.1           .2/.1   10.10.0.9
//!                                           fd00:10::9
//!   client, client2 --- nat --- gateway --- server                 `World::behind_nat`
//!   192.168.77.11  .12      198.51.100.10
//! ```
//!
//! The gateway owns .2 on both sides; .1 is the service address, which belongs to what is tested. Everything that a
//! world made goes with it, also after a panic: namespaces and children are ended on drop, and `sandbox` makes sure
//! that even a killed testbed leaves nothing on the machine.

pub mod account;
pub mod capture;
pub mod cluster;
pub mod content;
pub mod echo;
pub mod exec;
pub mod fabric;
pub mod fault;
pub mod flood;
pub mod http;
pub mod nat;
pub mod netns;
pub mod pontoon;
pub mod pulse;
pub mod sandbox;
pub mod spray;
pub mod switch;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::ensure;
use crate::outcome::{Context, Result};
use capture::Capture;
use echo::Echo;
use http::Server;
use netns::Netns;
use pontoon::Machine;

/// Where the client sits when no NAT is in between; the outer address of the NAT otherwise.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The gateway's address that clients know.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The gateway machine's own outer address.
pub const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The gateway's inner service addresses: the server's route to the clients.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);
pub const INSIDE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 9);
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 9);
/// The protected network and the pools, as configuration files write them.
pub const NET: &str = "10.10.0.0/24";
pub const NET6: &str = "fd00:10::/64";
pub const POOL: &str = "10.99.0.0/16";
pub const POOL6: &str = "fd00:99::/64";

/// Names of the devices in the gateway's namespace.
pub const OUTER_DEVICE: &str = "eth0";
pub const INNER_DEVICE: &str = "eth1";

/// Where the worlds of one scenario keep their files; the caller decides whether the folder outlives them.
#[derive(Debug)]
pub struct Bed {
    dir: PathBuf,
    worlds: Cell<u32>,
    full: bool,
}

impl Bed {
    pub fn new(dir: &Path) -> Bed {
        Bed { dir: dir.to_owned(), worlds: Cell::new(0), full: false }
    }

    /// Whether scripts run at their full size.
    #[must_use]
    pub fn full(self, full: bool) -> Bed {
        Bed { full, ..self }
    }

    /// What a script does a small or a large number of times.
    pub fn choose<T>(&self, small: T, full: T) -> T {
        if self.full { full } else { small }
    }

    /// A folder for one more world.
    fn new_world(&self) -> Result<PathBuf> {
        self.worlds.set(self.worlds.get() + 1);
        let dir = self.path(&format!("world-{}", self.worlds.get()));
        std::fs::create_dir_all(&dir).context(dir.display())?;
        Ok(dir)
    }

    /// A path in the folder of the bed itself.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Tells the reader of the run something worth knowing: a figure, a choice.
    pub fn note(&self, text: impl std::fmt::Display) {
        println!("      {text}");
    }
}

/// One topology with its server. Fields drop in order: what runs first, then the namespaces.
#[derive(Debug)]
pub struct World {
    web: Option<Server>,
    echo: Option<Echo>,
    pub client: Netns,
    /// The second client behind the NAT.
    pub client2: Option<Netns>,
    pub nat: Option<Netns>,
    pub gateway: Arc<Netns>,
    pub server: Netns,
    dir: PathBuf,
}

impl World {
    /// client - gateway - server, with a web server and an echo on the server.
    pub fn new(bed: &Bed) -> Result<World> {
        World::build(bed, false)
    }

    /// Two clients behind one address translator, so that the gateway sees one outer address.
    pub fn behind_nat(bed: &Bed) -> Result<World> {
        World::build(bed, true)
    }

    fn build(bed: &Bed, with_nat: bool) -> Result<World> {
        sandbox::require_root()?;
        let dir = bed.new_world()?;
        let client = Netns::create("client")?;
        let gateway = Arc::new(Netns::create("gateway")?);
        let server = Netns::create("server")?;
        let (client2, nat) = match with_nat {
            true => (Some(Netns::create("client2")?), Some(Netns::create("nat")?)),
            false => (None, None),
        };
        let mut world = World { web: None, echo: None, client, client2, nat, gateway, server, dir };
        match world.nat {
            Some(_) => world.cable_nat()?,
            None => {
                netns::cable(&world.client, "eth0", &world.gateway, OUTER_DEVICE)?;
                world.client.address("eth0", &format!("{CLIENT}/24"))?;
            }
        }
        world.gateway.address(OUTER_DEVICE, &format!("{NODE}/24"))?;
        // Replies to anyone else leave towards the client, which stands for the internet.
        world.gateway.ip(&format!("route add default via {CLIENT}"))?;

        netns::cable(&world.server, "eth0", &world.gateway, INNER_DEVICE)?;
        world.gateway.address(INNER_DEVICE, "10.10.0.2/24")?;
        world.gateway.address(INNER_DEVICE, "fd00:10::2/64")?;
        world.server.address("eth0", &format!("{SERVER}/24"))?;
        world.server.address("eth0", &format!("{SERVER6}/64"))?;
        world.server.ip(&format!("route add default via {INSIDE}"))?;
        world.server.ip(&format!("-6 route add default via {INSIDE6}"))?;
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            world.gateway.sysctl(key, "1")?;
        }
        world.web = Some(Server::start(&world.server, http::PORT)?);
        world.echo = Some(Echo::start(&world.server)?);
        Ok(world)
    }

    fn cable_nat(&mut self) -> Result {
        let (Some(nat), Some(client2)) = (&self.nat, &self.client2) else {
            return Err("the world has no NAT".into());
        };
        netns::cable(nat, "outer", &self.gateway, OUTER_DEVICE)?;
        nat.address("outer", &format!("{CLIENT}/24"))?;
        for (number, client) in [(1, &self.client), (2, client2)] {
            let device = format!("inner{number}");
            netns::cable(client, "eth0", nat, &device)?;
            nat.address(&device, &format!("192.168.{number}.1/24"))?;
            client.address("eth0", &format!("192.168.{number}.11/24"))?;
            client.ip(&format!("route add default via 192.168.{number}.1"))?;
        }
        nat.sysctl("net.ipv4.ip_forward", "1")?;
        nat.run(
            "nft",
            &["add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; \
               add rule ip nat post oifname outer masquerade"],
        )
        .map(drop)
    }

    /// Puts the service addresses on the gateway's own devices: for gateways that are the kernel's or strongSwan's.
    pub fn give_service_addresses_to_kernel(&self) -> Result {
        self.gateway.address(OUTER_DEVICE, &format!("{SERVICE}/24"))?;
        self.gateway.address(INNER_DEVICE, &format!("{INSIDE}/24"))?;
        self.gateway.address(INNER_DEVICE, &format!("{INSIDE6}/64"))
    }

    /// Makes packets on all cables as small as on a real wire: no segmentation offload on any end.
    pub fn turn_offloads_off(&self) -> Result {
        self.gateway.turn_offloads_off(&[OUTER_DEVICE, INNER_DEVICE])?;
        let ends = [Some(&self.client), Some(&self.server), self.client2.as_ref()];
        ends.into_iter().flatten().try_for_each(|end| end.turn_offloads_off(&["eth0"]))
    }

    /// Records what crosses the outer cable until the capture is stopped.
    pub fn capture_outside(&self) -> Result<Capture> {
        Capture::start(&self.gateway, OUTER_DEVICE, &self.path("outside.pcap"))
    }

    pub fn capture_inside(&self) -> Result<Capture> {
        Capture::start(&self.gateway, INNER_DEVICE, &self.path("inside.pcap"))
    }

    /// The machine between the cables, for a node of ours.
    pub fn machine(&self) -> Machine {
        Machine {
            namespace: self.gateway.clone(),
            name: "edge-1".into(),
            advertise: NODE,
            steering: "announce",
            profile: "lan",
            dir: self.path("node"),
        }
    }

    /// A path inside the world's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// One `ping`, then `count` datagrams that must all come back.
    pub fn ping(&self, to: IpAddr, count: u32) -> Result {
        self.client.run("ping", &["-n", "-q", "-c", "1", "-W", "3", &to.to_string()])?;
        echo_from(&self.client, to, None, count)
    }
}

/// Datagrams from `namespace`, all of which must come back.
pub fn echo_from(namespace: &Netns, to: IpAddr, from: Option<IpAddr>, count: u32) -> Result {
    let echoed = echo::series(namespace, to, from, count, Duration::from_millis(20))?;
    ensure!(echoed.lost() == 0, "{} of {} datagrams to {to} were lost", echoed.lost(), echoed.sent);
    Ok(())
}

/// Tries until it holds or the time is over; the last refusal is the error.
pub fn eventually<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = std::time::Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(stop) if stop.is_skip() || start.elapsed() >= limit => return Err(stop),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
