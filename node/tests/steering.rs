//! Steering in real network namespaces: what clients on a link see of a node that holds, releases, loses and takes
//! over its service addresses.
//!
//! ```text
//!   client  192.0.2.50 ---- out0  gateway  in0 ---- 10.10.0.80  server
//!           2001:db8:1::50    192.0.2.1, 10.10.0.1        2001:db8:2::80
//!                             2001:db8:1::1, 2001:db8:2::1    (service addresses; .11 and ::11 are the node's own)
//! ```
//!
//! Each test runs itself again inside its gateway's namespace. Without the right to make namespaces it says so and
//! passes.
#![allow(clippy::unwrap_used)] // a test file: the helpers of tests may fail as tests do

use std::future::Future;
use std::net::IpAddr;
use std::process::{self, Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsec::policy::Network;
use node::io::netlink::{Netlink, Via};
use node::io::{InnerBatch, Inside, TunDevice, TunOptions};
use node::steering::{Config, Entitled, Mode, Probe, ServiceAddress, Side, Steering, SteeringError, Ways};

const INSIDE: &str = "PONTOON_TEST_WORLD";
const TUN: &str = "pontoon0";
const SERVICE: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];

#[test]
fn service_addresses_are_answered_while_they_are_held() {
    in_world("service_addresses_are_answered_while_they_are_held", async |world| {
        let _tun = open_tun();
        let (mut steering, _) = Steering::up(config()).await.unwrap();
        assert_eq!(steering.advice(), []);
        for ip in SERVICE {
            assert!(!world.client_reaches(ip).await, "{ip} before it is held");
        }
        world.forget_neighbours();
        steering.hold(Probe::Ask, always()).await.unwrap();
        let ours = mac_of(None, "out0");
        for ip in SERVICE {
            assert!(world.client_reaches(ip).await, "{ip} while it is held");
            assert_eq!(world.client_cache(ip).as_ref(), Some(&ours), "{ip}");
        }
        // Learned from the answer, not only from the announcement.
        world.forget_neighbours();
        for ip in SERVICE {
            assert!(world.client_reaches(ip).await, "{ip} asked for");
        }
        assert!(steering.answers().unwrap().answered >= 2);
        steering.release();
        world.forget_neighbours();
        for ip in SERVICE {
            assert!(!world.client_reaches(ip).await, "{ip} after release");
        }
        assert_eq!(steering.answers(), None);
        steering.down().await;
    });
}

#[test]
fn a_takeover_is_announced_to_who_knew_the_former_holder() {
    in_world("a_takeover_is_announced_to_who_knew_the_former_holder", async |world| {
        let _tun = open_tun();
        let (mut steering, _) = Steering::up(config()).await.unwrap();
        for ip in SERVICE {
            world.client(&format!("ip neigh replace {ip} lladdr 02:00:00:00:00:99 dev eth0 nud reachable"));
        }
        steering.hold(Probe::Skip, always()).await.unwrap();
        let ours = mac_of(None, "out0");
        let start = Instant::now();
        // Linux keeps an entry that is younger than a second: then a later announcement counts.
        while !SERVICE.iter().all(|ip| world.client_cache(ip).as_ref() == Some(&ours)) {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{:?}",
                SERVICE.map(|ip| world.client_cache(ip))
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("caches follow after {:?}", start.elapsed());
        assert_eq!(steering.answers().unwrap().answered, 0);
    });
}

#[test]
fn an_address_that_somebody_else_has_is_not_taken() {
    in_world("an_address_that_somebody_else_has_is_not_taken", async |world| {
        let _tun = open_tun();
        let (mut steering, _) = Steering::up(config()).await.unwrap();
        let stranger = mac_of(Some(&world.namespace("c")), "eth0");
        for (ip, prefix, nodad) in [(SERVICE[0], 24, ""), (SERVICE[1], 64, "nodad")] {
            world.client(&format!("ip address add {ip}/{prefix} dev eth0 {nodad}"));
            let error = steering.hold(Probe::Ask, always()).await.unwrap_err();
            let text = error.to_string();
            let SteeringError::AddressTaken { ip: taken, .. } = error else { panic!("{text}") };
            assert_eq!(taken.to_string(), ip);
            assert!(text.contains(&stranger), "{text}");
            assert_eq!(steering.answers(), None);
            world.client(&format!("ip address del {ip}/{prefix} dev eth0"));
        }
        steering.hold(Probe::Ask, always()).await.unwrap();
    });
}

#[test]
fn a_stranger_who_claims_a_held_address_is_noticed_and_answered() {
    in_world("a_stranger_who_claims_a_held_address_is_noticed_and_answered", async |world| {
        let _tun = open_tun();
        let (mut steering, _) = Steering::up(config()).await.unwrap();
        steering.hold(Probe::Skip, always()).await.unwrap();
        world.client("ip address add 192.0.2.1/24 dev eth0");
        let before = steering.answers().unwrap();
        assert_eq!(before.conflicts, 0);
        // Asking for a neighbour with the address as source claims it.
        world.forget_neighbours();
        in_background(format!(
            "ip netns exec {} ping -c 1 -W 1 -I 192.0.2.1 192.0.2.11",
            world.namespace("c")
        ))
        .await;
        let after = steering.answers().unwrap();
        assert!(after.conflicts >= 1 && after.announced > before.announced, "{after:?}");
    });
}

#[test]
fn routes_open_with_the_tun_and_stay_closed_without_it() {
    in_world("routes_open_with_the_tun_and_stay_closed_without_it", async |_| {
        let pools = [network("10.99.0.0/16"), network("2001:db8:99::/64")];
        let inner = ["10.99.1.1", "2001:db8:99::1"];
        // A default route, into which traffic would leak.
        run("ip route add default via 192.0.2.50");
        run("ip route add default via 2001:db8:1::50");
        let tun = open_tun();
        let (mut steering, mut ways) = Steering::up(config()).await.unwrap();
        ways.set(&pools).await.unwrap();
        for ip in inner {
            assert_eq!(device_towards(ip).as_deref(), Some(TUN), "{ip}");
        }
        assert_eq!(ours().await, (2, 2));

        // As after kill -9: the TUN goes, nobody cleans up.
        steering.release();
        std::mem::forget((steering, ways));
        drop(tun);
        for ip in inner {
            assert_eq!(device_towards(ip), None, "{ip} must not take the default route");
        }
        assert_eq!(ours().await, (0, 2));

        // The next start takes over what it finds.
        let _tun = open_tun();
        let (steering, mut ways) = Steering::up(config()).await.unwrap();
        assert_eq!(ours().await, (0, 2), "closed until the networks are known again");
        ways.set(&pools).await.unwrap();
        assert_eq!(ours().await, (2, 2));
        ways.set(&[network("10.98.0.0/16")]).await.unwrap();
        assert_eq!(device_towards("10.98.0.1").as_deref(), Some(TUN));
        assert_eq!(device_towards(inner[0]).as_deref(), Some("out0"), "no pool any more");
        assert_eq!(ours().await, (1, 1));

        ways.close().await;
        steering.down().await;
        assert_eq!(device_towards("10.98.0.1"), None);
        assert_eq!(ours().await, (0, 1));
        assert!(!text("ip address show dev pontoon0").contains("192.0.2.1"));
        Ways::purge().await.unwrap();
        assert_eq!(ours().await, (0, 0));
        assert!(text("ip route").contains("default via 192.0.2.50"), "routes of others are not touched");
    });
}

#[test]
fn a_steering_that_is_only_dropped_cleans_up_too() {
    in_world("a_steering_that_is_only_dropped_cleans_up_too", async |_| {
        let _tun = open_tun();
        let (steering, _) = Steering::up(config()).await.unwrap();
        assert!(text("ip address show dev pontoon0").contains("192.0.2.1/32"));
        assert!(text("ip -6 address show dev pontoon0").contains("2001:db8:1::1/128"));
        assert!(text("ip link show dev pontoon0").contains("mtu 1400"));
        drop(steering);
        let start = Instant::now();
        while text("ip address show dev pontoon0").contains("192.0.2.1") {
            assert!(start.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn packets_for_clients_come_through_the_inside_service_address_into_the_tun() {
    in_world("packets_for_clients_come_through_the_inside_service_address_into_the_tun", async |world| {
        let mut tun = open_tun();
        let (mut steering, mut ways) = Steering::up(config()).await.unwrap();
        ways.set(&[network("10.99.0.0/16")]).await.unwrap();
        steering.hold(Probe::Skip, always()).await.unwrap();
        let server = world.namespace("s");
        run(&format!("ip -n {server} route add 10.99.0.0/16 via 10.10.0.1"));
        let ping = tokio::spawn(in_background(format!("ip netns exec {server} ping -c 2 -W 1 10.99.0.5")));
        let start = Instant::now();
        let mut batch = InnerBatch::new();
        let packet = loop {
            assert!(start.elapsed() < Duration::from_secs(5), "nothing was forwarded");
            tokio::time::sleep(Duration::from_millis(10)).await;
            tun.receive(&mut batch).unwrap();
            let is_ours = |packet: &&[u8]| packet[0] >> 4 == 4 && packet[16..20] == [10, 99, 0, 5];
            if let Some(packet) = (0..batch.len()).map(|index| batch.packet(index)).find(is_ours) {
                break packet.to_vec();
            }
        };
        ping.await.unwrap();
        assert_eq!(packet[12..16], [10, 10, 0, 80]);
    });
}

/// What one node passes on to another must fit the link between them.
//= test CL-39
#[test]
fn the_device_leaves_room_for_the_way_between_nodes() {
    in_world("the_device_leaves_room_for_the_way_between_nodes", async |_| {
        let _tun = open_tun();
        for (link, own, mtu) in [
            (1_500, "192.0.2.11", 1_400),
            (1_450, "192.0.2.11", 1_381),
            (1_450, "2001:db8:1::11", 1_361),
            (1_300, "192.0.2.11", 1_280),
            (1_300, "198.51.100.1", 1_400),
        ] {
            run(&format!("ip link set out0 mtu {link}"));
            let between = Some(own.parse().unwrap());
            let (steering, _) = Steering::up(Config { between, ..config() }).await.unwrap();
            let shown = text("ip link show dev pontoon0");
            assert!(shown.contains(&format!("mtu {mtu} ")), "{own} of a link of {link}: {shown}");
            steering.down().await;
        }
    });
}

#[test]
fn what_does_not_fit_is_told_with_a_fix_and_changes_nothing() {
    in_world("what_does_not_fit_is_told_with_a_fix_and_changes_nothing", async |_| {
        let _tun = open_tun();
        let with = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            config
        };
        let refused = async |config: Config, expected: &str, fix: &str| {
            let error = Steering::up(config).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.fix().unwrap().contains(fix), "{:?}", error.fix());
            assert!(!text("ip address show dev pontoon0").contains("192.0.2.1"), "{expected}");
        };
        refused(with(|c| c.tun = "tun9".into()), "no device tun9", "inside.tun").await;
        refused(with(|c| c.outside.device = "eth9".into()), "no device eth9", "outside.device").await;
        refused(with(|c| c.inside.device = TUN.into()), "pontoon0 is no Ethernet device", "external").await;
        let moved = with(|c| c.outside.addresses[0] = service("198.51.100.1", 24));
        refused(moved, "no own address on out0", "ip address add").await;
        let own = with(|c| c.outside.addresses[0] = service("192.0.2.11", 24));
        refused(own, "192.0.2.11 is already installed on out0", "remove").await;
        run("sysctl -qw net.ipv4.conf.in0.forwarding=0");
        refused(config(), "net.ipv4.conf.in0.forwarding = 0", "net.ipv4.ip_forward=1").await;
        run("sysctl -qw net.ipv4.conf.in0.forwarding=1");
        run("ip link set in0 down");
        refused(config(), "in0 is down", "ip link set in0 up").await;
        run("ip link set in0 up");
        run("ip address replace 2001:db8:2::11/64 dev in0 nodad");

        let (_steering, mut ways) = Steering::up(config()).await.unwrap();
        for (wide, expected) in [
            ("0.0.0.0/0", "is everything"),
            ("::/0", "is everything"),
            ("192.0.2.0/24", "contains 192.0.2."),
            ("10.10.0.0/25", "contains 10.10.0."),
        ] {
            let error = ways.set(&[network("10.99.0.0/16"), network(wide)]).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(ours().await, (0, 0), "{wide}: all or nothing");
        }
        // Part of the link, but with none of our addresses in it.
        ways.set(&[network("10.10.0.128/25"), network("10.0.0.0/8")]).await.unwrap();
        run("sysctl -qw net.ipv6.conf.all.forwarding=0");
        let error = ways.set(&[network("2001:db8:99::/64")]).await.unwrap_err();
        assert!(error.to_string().contains("net.ipv6.conf.all.forwarding"), "{error}");
    });
}

#[test]
fn settings_that_only_hurt_several_nodes_are_advised_of() {
    in_world("settings_that_only_hurt_several_nodes_are_advised_of", async |_| {
        let _tun = open_tun();
        run("sysctl -qw net.ipv4.conf.all.arp_announce=0");
        run("sysctl -qw net.ipv4.conf.in0.arp_announce=2");
        let (steering, _) = Steering::up(config()).await.unwrap();
        let advice = steering.advice();
        let keys: Vec<_> = advice.iter().map(|advice| advice.key.as_str()).collect();
        assert_eq!(keys, ["net.ipv4.conf.out0.arp_announce"]);
        assert_eq!(advice[0].fix, "sysctl -w net.ipv4.conf.out0.arp_announce=2");
    });
}

/// Three namespaces; who made them removes them.
struct World {
    name: String,
    made_here: bool,
}

/// Runs `body` in a gateway of its own.
fn in_world<F: Future<Output = ()>>(test: &str, body: impl FnOnce(World) -> F) {
    if let Ok(name) = std::env::var(INSIDE) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(body(World { name, made_here: false }));
    }
    let short: String = test.chars().filter(char::is_ascii_alphabetic).take(12).collect();
    let Some(world) = World::build(format!("pt{}{short}", process::id())) else {
        println!("SKIPPED {test}: no permission to make network namespaces");
        return;
    };
    let status = Command::new("ip")
        .args(["netns", "exec", &world.namespace("g")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, &world.name)
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespace");
}

impl World {
    fn build(name: String) -> Option<World> {
        if !succeeds(&format!("ip netns add {name}g")) {
            return None;
        }
        let world = World { name, made_here: true };
        let [gateway, client, server] = ["g", "c", "s"].map(|role| world.namespace(role));
        run(&format!("ip netns add {client}"));
        run(&format!("ip netns add {server}"));
        let out = ["192.0.2.11/24", "2001:db8:1::11/64", "192.0.2.50/24", "2001:db8:1::50/64"];
        let into = ["10.10.0.11/24", "2001:db8:2::11/64", "10.10.0.80/24", "2001:db8:2::80/64"];
        for (peer, device, addresses) in [(&client, "out0", out), (&server, "in0", into)] {
            run(&format!("ip link add {device} netns {gateway} type veth peer name eth0 netns {peer}"));
            let (own, theirs) = addresses.split_at(2);
            for (namespace, device, addresses) in [(&gateway, device, own), (peer, "eth0", theirs)] {
                run(&format!("ip -n {namespace} link set lo up"));
                run(&format!("ip -n {namespace} link set {device} up"));
                for address in addresses {
                    let nodad = if address.contains(':') { "nodad" } else { "" };
                    run(&format!("ip -n {namespace} address add {address} dev {device} {nodad}"));
                }
            }
        }
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv4.conf.all.arp_ignore=1",
            "net.ipv4.conf.all.arp_announce=2",
            "net.ipv4.conf.all.rp_filter=0",
        ] {
            run(&format!("ip netns exec {gateway} sysctl -qw {setting}"));
        }
        Some(world)
    }

    /// `role`: g, c or s.
    fn namespace(&self, role: &str) -> String {
        format!("{}{role}", self.name)
    }

    fn client(&self, command: &str) -> String {
        let line = format!("ip netns exec {} {command}", self.namespace("c"));
        run(&line)
    }

    async fn client_reaches(&self, ip: &str) -> bool {
        in_background(format!("ip netns exec {} ping -c 1 -W 1 {ip}", self.namespace("c"))).await
    }

    /// The Ethernet address that the client has in its cache for `ip`.
    fn client_cache(&self, ip: &str) -> Option<String> {
        word_after(&self.client(&format!("ip neigh show {ip} dev eth0")), "lladdr")
    }

    fn forget_neighbours(&self) {
        for family in ["-4", "-6"] {
            self.client(&format!("ip {family} neigh flush all"));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.made_here {
            for role in ["g", "c", "s"] {
                succeeds(&format!("ip netns del {}", self.namespace(role)));
            }
        }
    }
}

fn always() -> Entitled {
    Arc::new(|| true)
}

fn config() -> Config {
    Config {
        tun: TUN.into(),
        mtu: 1_400,
        between: None,
        outside: Side {
            device: "out0".into(),
            addresses: vec![service(SERVICE[0], 24), service(SERVICE[1], 64)],
            mode: Mode::Announce,
        },
        inside: Side {
            device: "in0".into(),
            addresses: vec![service("10.10.0.1", 24), service("2001:db8:2::1", 64)],
            mode: Mode::Announce,
        },
    }
}

fn service(ip: &str, prefix: u8) -> ServiceAddress {
    ServiceAddress { ip: ip.parse().unwrap(), prefix }
}

fn network(text: &str) -> Network {
    let (address, prefix) = text.split_once('/').unwrap();
    Network { address: address.parse::<IpAddr>().unwrap(), prefix: prefix.parse().unwrap() }
}

/// Goes away when it is dropped, as the node's own does when the process ends.
fn open_tun() -> TunDevice {
    TunDevice::open(&TunOptions { offload: false, ..TunOptions::new(TUN, 1_500) }).unwrap()
}

/// Routes of ours: (into the TUN, blackholes).
async fn ours() -> (usize, usize) {
    let routes = Netlink::open().unwrap().routes().await.unwrap();
    let closed = routes.iter().filter(|route| route.via == Via::Blackhole).count();
    (routes.len() - closed, closed)
}

/// Where a packet would leave; `None` when it would not.
fn device_towards(ip: &str) -> Option<String> {
    let shown = output(&format!("ip route get {ip}"));
    let text = String::from_utf8(shown.stdout).unwrap();
    if !shown.status.success() || text.starts_with("blackhole") {
        return None;
    }
    word_after(&text, "dev")
}

fn mac_of(namespace: Option<&str>, device: &str) -> String {
    let within = namespace.map_or(String::new(), |namespace| format!("-n {namespace}"));
    word_after(&run(&format!("ip {within} link show {device}")), "link/ether").unwrap()
}

fn word_after(text: &str, word: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    words.find(|it| *it == word)?;
    words.next().map(str::to_owned)
}

/// Whether the command succeeds. The runtime goes on answering meanwhile.
async fn in_background(line: String) -> bool {
    tokio::task::spawn_blocking(move || succeeds(&line)).await.unwrap()
}

fn succeeds(line: &str) -> bool {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().is_ok_and(|done| done.status.success())
}

fn run(line: &str) -> String {
    let done = output(line);
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn text(line: &str) -> String {
    String::from_utf8(output(line).stdout).unwrap()
}

fn output(line: &str) -> Output {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().unwrap()
}
