//! Several nodes on one bridge, each with its steering in a namespace and thread of its own, and a client beside them.
//!
//! ```text
//!   client 192.0.2.50, 2001:db8:1::50 ──┐
//!                                       bridge ── out0 of node 0, 1, 2   own addresses .11, .12, .13 and ::11, ::12, ::13
//!   (what passes the bridge is captured at the client)                   service addresses .1 and ::1 on each TUN
//! ```
//!
//! Without the right to make namespaces `World::build` says so and gives nothing.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, UdpSocket};
use std::process::{self, Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use node::io::{TunDevice, TunOptions};
use node::steering::{Config, Entitled, Filter, Mode, Probe, ServiceAddress, Side, Steering, Ways};

pub const TUN: &str = "pontoon0";
pub const SERVICE: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
pub const CLIENT: [&str; 2] = ["192.0.2.50", "2001:db8:1::50"];
pub const NODES: usize = 3;

/// What a node has, for the jobs that a test gives it.
pub struct Inner {
    pub steering: Steering,
    pub ways: Ways,
    pub filter: Option<Filter>,
    pub tun: TunDevice,
    pub runtime: tokio::runtime::Runtime,
}

type Job = Box<dyn FnOnce(&mut Inner) + Send>;

/// A gateway's steering, in its own namespace and thread.
pub struct Node {
    jobs: mpsc::Sender<Job>,
    pub entitled: Arc<AtomicBool>,
    pub mac: String,
    namespace: String,
}

impl Node {
    pub fn start(world: &World, at: usize, mode: Mode) -> Node {
        Node::try_start(world, at, mode).unwrap()
    }

    pub fn try_start(world: &World, at: usize, mode: Mode) -> Result<Node, String> {
        let namespace = world.node(at);
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, is_ready) = mpsc::channel();
        let inside = namespace.clone();
        std::thread::spawn(move || {
            enter(&inside);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let tun = TunDevice::open(&TunOptions { offload: false, ..TunOptions::new(TUN, 1_400) }).unwrap();
            let (mut steering, ways) = match runtime.block_on(Steering::up(config(mode))) {
                Ok(up) => up,
                Err(error) => return ready.send(Err(error.to_string())).unwrap(),
            };
            let filter = steering.take_filter();
            let mut inner = Inner { steering, ways, filter, tun, runtime };
            ready.send(Ok(())).unwrap();
            loop {
                // The answering tasks live between the jobs.
                inner.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
                match queue.try_recv() {
                    Ok(job) => job(&mut inner),
                    Err(mpsc::TryRecvError::Empty) => {}
                    Err(mpsc::TryRecvError::Disconnected) => {
                        let Inner { steering, ways, runtime, tun: _tun, filter: _filter } = inner;
                        return runtime.block_on(async {
                            ways.close().await;
                            steering.down().await;
                        });
                    }
                }
            }
        });
        is_ready.recv().unwrap()?;
        let shown = run(&format!("ip -n {namespace} link show out0"));
        let mac = word_after(&shown, "link/ether").unwrap();
        Ok(Node { jobs, entitled: Arc::new(AtomicBool::new(true)), mac, namespace })
    }

    /// Runs a job in the node's thread and namespace, between whose jobs its tasks go on.
    pub fn call<T: Send + 'static>(&self, job: impl FnOnce(&mut Inner) -> T + Send + 'static) -> T {
        let (done, is_done) = mpsc::channel();
        let job: Job = Box::new(move |inner| done.send(job(inner)).unwrap());
        self.jobs.send(job).unwrap();
        is_done.recv().unwrap()
    }

    fn right(&self) -> Entitled {
        let right = self.entitled.clone();
        Arc::new(move || right.load(Ordering::Relaxed))
    }

    pub fn hold(&self) {
        let right = self.right();
        self.call(move |inner| inner.runtime.block_on(inner.steering.hold(Probe::Skip, right)).unwrap());
    }

    pub fn share(&self) {
        let right = self.right();
        self.call(move |inner| inner.runtime.block_on(inner.steering.share(right)).unwrap());
    }

    pub fn release(&self) {
        self.call(|inner| inner.steering.release());
    }

    pub fn forget(&self) {
        forget(&self.namespace);
    }
}

/// A bridge with a client and nodes; removed at the end.
pub struct World {
    name: String,
}

impl World {
    pub fn build(test: &str) -> Option<World> {
        let world = World { name: format!("pc{}{test}", process::id()) };
        if !succeeds(&format!("ip netns add {}", world.client())) {
            println!("SKIPPED {test}: no permission to make network namespaces");
            return None;
        }
        let bridge = world.bridge();
        run(&format!("ip netns add {bridge}"));
        run(&format!("ip -n {bridge} link add br0 type bridge"));
        run(&format!("ip -n {bridge} link set br0 up"));
        world.attach(&world.client(), "eth0", CLIENT.map(str::to_owned));
        for at in 0..NODES {
            let node = world.node(at);
            run(&format!("ip netns add {node}"));
            for setting in [
                "net.ipv4.ip_forward=1",
                "net.ipv6.conf.all.forwarding=1",
                "net.ipv4.conf.all.arp_ignore=1",
                "net.ipv4.conf.all.arp_announce=2",
            ] {
                run(&format!("ip netns exec {node} sysctl -qw {setting}"));
            }
            world.attach(&node, "out0", [false, true].map(|v6| world.own(at, v6)));
        }
        Some(world)
    }

    fn attach(&self, namespace: &str, device: &str, addresses: [String; 2]) {
        let bridge = self.bridge();
        let port = &namespace[namespace.len() - 2..];
        run(&format!("ip link add {device} netns {namespace} type veth peer name {port} netns {bridge}"));
        run(&format!("ip -n {bridge} link set {port} master br0 up"));
        run(&format!("ip -n {namespace} link set lo up"));
        run(&format!("ip -n {namespace} link set {device} up"));
        let [v4, v6] = addresses;
        run(&format!("ip -n {namespace} address add {v4}/24 dev {device}"));
        run(&format!("ip -n {namespace} address add {v6}/64 dev {device} nodad"));
    }

    pub fn client(&self) -> String {
        format!("{}-c", self.name)
    }

    fn bridge(&self) -> String {
        format!("{}-b", self.name)
    }

    pub fn node(&self, at: usize) -> String {
        format!("{}-{at}", self.name)
    }

    pub fn reaches(&self, ip: &str) -> bool {
        succeeds(&format!("ip netns exec {} ping -c 1 -W 1 {ip}", self.client()))
    }

    pub fn cache(&self, ip: &str) -> Option<String> {
        word_after(&run(&format!("ip -n {} neigh show {ip} dev eth0", self.client())), "lladdr")
    }

    pub fn forget(&self) {
        forget(&self.client());
    }

    pub fn within(&self, time: Duration, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < time, "it did not come about in {time:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The own address of a node.
    pub fn own(&self, at: usize, v6: bool) -> String {
        format!("{}{}", if v6 { "2001:db8:1::1" } else { "192.0.2.1" }, at + 1)
    }

    /// Changes how the bridge forwards.
    pub fn bridge_does(&self, settings: &str) {
        run(&format!("ip -n {} link set br0 type bridge {settings}", self.bridge()));
    }

    /// Answers beyond the first to a ping.
    pub fn duplicates(&self, ip: &str) -> usize {
        run(&format!("ip netns exec {} ping -c 3 -i 0.1 -W 1 {ip}", self.client())).matches("DUP!").count()
    }

    /// Runs a job in the client's namespace.
    pub fn at_client<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.client();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            job()
        });
        thread.join().unwrap()
    }

    /// A socket of the client.
    pub fn listen(&self, ip: &str) -> UdpSocket {
        let ip = ip.parse::<IpAddr>().unwrap();
        let socket = self.at_client(move || UdpSocket::bind((ip, 0)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let nodes = (0..NODES).map(|at| self.node(at));
        for namespace in nodes.chain([self.client(), self.bridge()]) {
            succeeds(&format!("ip netns del {namespace}"));
        }
    }
}

/// ARP and neighbour discovery as the client sees them.
pub struct Capture(Option<Child>);

impl Capture {
    pub fn start(namespace: &str) -> Capture {
        let child = Command::new("ip")
            .args(["netns", "exec", namespace, "tcpdump", "-lneti", "eth0", "--immediate-mode"])
            .arg("arp or (icmp6 and (ip6[40] == 135 or ip6[40] == 136))")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut capture = Capture(Some(child));
        // It says so when it listens.
        let mut told = [0; 1];
        capture.0.as_mut().unwrap().stderr.as_mut().unwrap().read_exact(&mut told).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        capture
    }

    /// Who said of which address that it is its own: an ARP sender, the target of an advertisement, the source of a
    /// solicitation.
    pub fn claims(mut self) -> Vec<(String, String)> {
        std::thread::sleep(Duration::from_millis(300));
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        text.lines().filter_map(claim).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn claim(line: &str) -> Option<(String, String)> {
    let mac = line.split_whitespace().next()?.to_owned();
    let clean = |word: String| word.trim_end_matches([',', ':']).to_owned();
    let ip = if line.contains("Request who-has") {
        word_after(line, "tell")
    } else if line.contains("Reply") {
        word_after(line, "Reply")
    } else if line.contains("neighbor advertisement") {
        word_after(line, "is")
    } else {
        line.split_once(": ").and_then(|(_, rest)| rest.split_whitespace().next()).map(str::to_owned)
    };
    Some((clean(ip?), mac))
}

fn config(mode: Mode) -> Config {
    let service = |ip: &str, prefix| ServiceAddress { ip: ip.parse().unwrap(), prefix };
    Config {
        tun: TUN.into(),
        mtu: 1_400,
        between: None,
        outside: Side {
            device: "out0".into(),
            addresses: vec![service(SERVICE[0], 24), service(SERVICE[1], 64)],
            mode,
        },
        inside: Side { device: "out0".into(), addresses: vec![], mode },
    }
}

/// Moves this thread into a namespace for the rest of its life.
pub fn enter(namespace: &str) {
    setns(File::open(format!("/run/netns/{namespace}")).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
}

fn forget(namespace: &str) {
    for family in ["-4", "-6"] {
        run(&format!("ip -n {namespace} {family} neigh flush all"));
    }
}

pub fn word_after(text: &str, word: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    words.find(|it| *it == word)?;
    words.next().map(str::to_owned)
}

pub fn succeeds(line: &str) -> bool {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().is_ok_and(|done| done.status.success())
}

pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let done = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
