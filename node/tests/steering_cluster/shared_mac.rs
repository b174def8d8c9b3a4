//! Mode `shared-mac`: all nodes answer with one Ethernet address, all are shown all, and each packet has one taker.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use ipsec::policy::{Network, Selector};
use ipsec::types::{Segment, Spi};
use node::io::{EspSocket, InnerBatch, Inside, Kept, Outside, RecvBatch};
use node::steering::Mode;

use crate::nodes::{CLIENT, Capture, NODES, Node, SERVICE, World, run, succeeds};

const SHARED: [&str; 2] = ["01:00:5e:40:02:01", "33:33:40:00:00:01"];

/// Segments are dealt out in turn.
fn owned(at: usize) -> impl Iterator<Item = Segment> {
    Segment::all().filter(move |segment| usize::from(segment.0) % NODES == at)
}

/// Nodes that answer, each with its own segments.
fn sharing(world: &World) -> Vec<Node> {
    let nodes: Vec<Node> = (0..NODES).map(|at| Node::start(world, at, Mode::SharedMac)).collect();
    for (at, node) in nodes.iter().enumerate() {
        node.share();
        own(node, owned(at).collect());
    }
    nodes
}

fn own(node: &Node, segments: BTreeSet<Segment>) {
    node.call(move |inner| inner.filter.as_mut().unwrap().set_owned(segments).unwrap());
}

#[test]
fn all_answer_with_one_address_and_one_answers_a_ping() {
    let Some(world) = World::build("ping") else { return };
    let nodes = sharing(&world);
    let capture = Capture::start(&world.client());
    for (ip, mac) in SERVICE.into_iter().zip(SHARED) {
        world.within(Duration::from_secs(5), || world.reaches(ip));
        assert_eq!(world.cache(ip).as_deref(), Some(mac), "{ip}");
        assert_eq!(world.duplicates(ip), 0, "{ip}");
    }
    // A takeover tells nobody anything: only what the kernels let through changes.
    own(&nodes[0], BTreeSet::new());
    for ip in SERVICE {
        assert!(!world.reaches(ip), "{ip}: segment 0 is nobody's");
    }
    own(&nodes[1], owned(0).chain(owned(1)).collect());
    world.forget();
    for ip in SERVICE {
        assert!(world.reaches(ip), "{ip} at the new owner");
        assert_eq!(world.duplicates(ip), 0, "{ip}");
    }
    for (ip, mac) in capture.claims() {
        let own = nodes.iter().any(|node| node.mac == mac);
        assert!(
            !SERVICE.contains(&ip.as_str()) || own,
            "a frame of {mac} about {ip}: stations speak, groups do not"
        );
    }
    // The filter goes with the process. An administrator can list it.
    let tables = |at: usize| run(&format!("ip netns exec {} nft list ruleset", world.node(at)));
    assert!(tables(2).contains("table inet pontoon") && tables(2).contains("meta pkttype set host"));
    nodes[2].call(|inner| inner.filter = None);
    assert!(!tables(2).contains("pontoon"));
}

/// Each datagram reaches one node: the owner of its segment.
#[test]
fn the_kernel_shows_a_socket_only_what_is_served_there() {
    let Some(world) = World::build("sockets") else { return };
    let nodes = sharing(&world);
    for (service, client) in SERVICE.into_iter().zip(CLIENT) {
        world.within(Duration::from_secs(5), || world.reaches(service));
        let service: IpAddr = service.parse().unwrap();
        let sender = world.listen(client);
        let from = sender.local_addr().unwrap();
        let (mut expected, mut sent) = (vec![Vec::new(); NODES], Vec::new());
        for number in 0..=255u8 {
            for (port, datagram, segment) in [
                (4500, esp(number), Segment(number)),
                (4500, [&[0; 4][..], &ike([number; 8], [7; 8], 0)].concat(), Segment(number)),
                (500, ike([1; 8], [number.max(1); 8], 8), Segment(number.max(1))),
                // The first octet of an SPI may be zero.
                (500, ike([1; 8], [0, 0, 0, 0, 0, 0, 0, 9], 8), Segment(0)),
                (
                    500,
                    ike([number; 8], [0; 8], 8),
                    Segment::of_initiator(from, Spi(u64::from_be_bytes([number; 8]))),
                ),
            ] {
                expected[usize::from(segment.0) % NODES].push(datagram.clone());
                sent.push((SocketAddr::new(service, port), datagram));
            }
        }
        let receivers: Vec<_> =
            nodes.iter().enumerate().map(|(at, node)| receiver(node, at, service)).collect();
        for (to, datagram) in &sent {
            sender.send_to(datagram, to).unwrap();
        }
        // Too short to be judged.
        sender.send_to(&[0xff], SocketAddr::new(service, 4500)).unwrap();
        for ((node, receiver), mut expected) in nodes.iter().zip(receivers).zip(expected) {
            let mut got = node.call(move |_| receiver());
            got.sort();
            expected.sort();
            assert_eq!(got.len(), expected.len(), "{service}");
            assert_eq!(got, expected, "{service}");
        }
    }
}

#[test]
fn protocol_50_too() {
    let Some(world) = World::build("esp") else { return };
    let nodes = sharing(&world);
    for (service, client) in SERVICE.into_iter().zip(CLIENT) {
        world.within(Duration::from_secs(5), || world.reaches(service));
        let (service, client): (IpAddr, IpAddr) = (service.parse().unwrap(), client.parse().unwrap());
        let sockets: Vec<_> = nodes
            .iter()
            .enumerate()
            .map(|(at, node)| {
                node.call(move |_| {
                    let mut socket = EspSocket::open(service).unwrap();
                    socket.keep(&Kept::of(owned(at)), false).unwrap();
                    socket
                })
            })
            .collect();
        world.at_client(move || {
            let mut socket = EspSocket::open(client).unwrap();
            let mut batch = node::io::SendBatch::new();
            let route = node::io::Route { peer: SocketAddr::new(service, 0), tos: 0 };
            (0..=255).for_each(|number| assert!(batch.push(route, &esp(number))));
            assert_eq!(socket.send(&mut batch), 256);
        });
        for (at, mut socket) in sockets.into_iter().enumerate() {
            let mut got = receive(&mut socket);
            got.sort();
            assert_eq!(got, owned(at).map(|segment| esp(segment.0)).collect::<Vec<_>>(), "{service}");
        }
    }
}

/// The client is the protected network here: its packets for tunnels go to the service address.
#[test]
fn an_inner_packet_enters_the_device_of_its_owner_alone() {
    let Some(world) = World::build("inner") else { return };
    let mut nodes = sharing(&world);
    let networks = ["10.99.0.0/16", "10.98.0.0/16", "2001:db8:99::/64"];
    let host = |ip: &str| {
        Selector::network(Network {
            address: ip.parse().unwrap(),
            prefix: if ip.contains(':') { 128 } else { 32 },
        })
    };
    let spi = |segment: u8| Spi(u64::from(segment) << 56 | 5);
    // A site, a part of it that belongs to another peer, and clients with an address each, one inside of the site.
    let reach = vec![
        (spi(0), vec![Selector::network(network("10.98.0.0/16"))]),
        (spi(1), vec![Selector::network(network("10.98.7.0/24")), host("10.98.200.1")]),
        (spi(4), vec![host("10.99.0.4"), host("2001:db8:99::4")]),
        (spi(5), vec![host("10.99.0.5"), host("2001:db8:99::5")]),
    ];
    for node in &nodes {
        let (reach, networks) = (reach.clone(), networks.map(network));
        node.call(move |inner| {
            inner.runtime.block_on(inner.ways.set(&networks)).unwrap();
            inner.filter.as_mut().unwrap().set_reach(reach.into_iter()).unwrap();
        });
    }
    for (to, via) in [("10.96.0.0/14", SERVICE[0]), ("2001:db8:99::/64", SERVICE[1])] {
        run(&format!("ip -n {} route add {to} via {via}", world.client()));
    }
    for ip in SERVICE {
        world.within(Duration::from_secs(5), || world.reaches(ip));
    }
    let table = [
        ("10.98.0.9", Some(0)),
        ("10.98.7.9", Some(1)),
        ("10.98.8.0", Some(0)),
        ("10.98.200.1", Some(1)),
        ("10.99.0.4", Some(1)),
        ("2001:db8:99::4", Some(1)),
        ("2001:db8:99::5", Some(2)),
        ("10.99.0.5", Some(2)),
        ("10.99.0.6", None),
        ("2001:db8:99::6", None),
    ];
    check_inner(&world, &nodes, &table);
    // Segments 1 and 4 move, an SA ends, another gets what it had.
    own(&nodes[1], BTreeSet::new());
    own(&nodes[2], owned(1).chain(owned(2)).collect());
    for node in &nodes {
        let reach = vec![(spi(5), vec![]), (spi(0), vec![host("10.99.0.5")])];
        node.call(move |inner| inner.filter.as_mut().unwrap().set_reach(reach.into_iter()).unwrap());
    }
    let table = [
        ("10.98.0.9", None),
        ("10.98.7.9", Some(2)),
        ("10.99.0.4", Some(2)),
        ("2001:db8:99::5", None),
        ("10.99.0.5", Some(0)),
    ];
    check_inner(&world, &nodes, &table);
    // Without the filter nothing is forwarded at all.
    nodes.truncate(1);
    nodes[0].call(|inner| inner.filter = None);
    check_inner(&world, &nodes, &[("10.99.0.5", None)]);
}

fn check_inner(world: &World, nodes: &[Node], table: &[(&'static str, Option<usize>)]) {
    for &(ip, owner) in table {
        let ip: IpAddr = ip.parse().unwrap();
        world.at_client(move || {
            let any: IpAddr = if ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            UdpSocket::bind((any, 0)).unwrap().send_to(b"inner", (ip, 9)).unwrap();
        });
        std::thread::sleep(Duration::from_millis(30));
        for (at, node) in nodes.iter().enumerate() {
            let packets = node.call(move |inner| {
                let mut batch = InnerBatch::new();
                inner.tun.receive(&mut batch).unwrap();
                (0..batch.len()).filter(|index| destination(batch.packet(*index)) == Some(ip)).count()
            });
            assert_eq!(packets, usize::from(owner == Some(at)), "{ip} at node {at}");
        }
    }
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet[0] >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).ok()?)),
    }
}

type Got = Vec<Vec<u8>>;

/// Opens the UDP sockets of a node; what is given back receives from them.
fn receiver(node: &Node, at: usize, service: IpAddr) -> Box<dyn FnOnce() -> Got + Send> {
    node.call(move |_| {
        let sockets = [(500, false), (4500, true)].map(|(port, marked)| {
            let mut socket = node::io::UdpSocket::open(SocketAddr::new(service, port)).unwrap();
            socket.keep(&Kept::of(owned(at)), marked).unwrap();
            socket
        });
        let receive = move || sockets.into_iter().flat_map(|mut socket| receive(&mut socket)).collect();
        Box::new(receive) as Box<dyn FnOnce() -> Got + Send>
    })
}

fn receive(socket: &mut dyn Outside) -> Got {
    let (mut got, mut batch) = (Vec::new(), RecvBatch::new());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        socket.receive(&mut batch).unwrap();
        let (datagrams, arena) = batch.parts();
        got.extend(datagrams.iter().map(|datagram| arena[datagram.range()].to_vec()));
    }
    got
}

fn esp(segment: u8) -> Vec<u8> {
    let mut packet = vec![segment; 60];
    packet[..4].copy_from_slice(&[segment, 1, 2, 3]);
    packet
}

fn ike(spi_i: [u8; 8], spi_r: [u8; 8], flags: u8) -> Vec<u8> {
    [&spi_i[..], &spi_r, &[33, 0x20, 34, flags], &[0; 12]].concat()
}

fn network(text: &str) -> Network {
    let (address, prefix) = text.split_once('/').unwrap();
    Network { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
}

/// A bridge that snoops, with a querier, passes ARP and drops what clients send: each node notices.
#[test]
fn a_bridge_that_keeps_group_frames_back_is_noticed() {
    let Some(world) = World::build("snoop") else { return };
    let nodes = sharing(&world);
    let deaf = |node: &Node| node.call(|inner| inner.steering.deaf());
    std::thread::sleep(Duration::from_secs(6));
    assert!(nodes.iter().all(|node| deaf(node).is_empty()), "a bridge as it comes");
    world.bridge_does(
        "mcast_snooping 1 mcast_querier 1 mcast_query_response_interval 1 mcast_query_interval 1",
    );
    world.within(Duration::from_secs(30), || nodes.iter().all(|node| deaf(node).len() == 2));
    let told = deaf(&nodes[0]).remove(0).text;
    assert!(
        told.contains("on out0") && told.contains(SHARED[0]) && told.contains("mcast_snooping 0"),
        "{told}"
    );
    // The advice is right.
    world.bridge_does("mcast_snooping 0");
    world.within(Duration::from_secs(10), || nodes.iter().all(|node| deaf(node).is_empty()));
}

/// All kernels see what nobody listens to, and none may say so for the others.
#[test]
fn no_node_refuses_for_the_others() {
    let Some(world) = World::build("silent") else { return };
    let _nodes = sharing(&world);
    for service in SERVICE {
        world.within(Duration::from_secs(5), || world.reaches(service));
        let closed = SocketAddr::new(service.parse().unwrap(), 9_999);
        let (udp, tcp) = world.at_client(move || {
            let any = if closed.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(closed).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket.send(b"anybody?").unwrap();
            let udp = socket.recv(&mut [0; 1]).unwrap_err().kind();
            (udp, TcpStream::connect_timeout(&closed, Duration::from_millis(500)).unwrap_err().kind())
        });
        assert_eq!((udp, tcp), (ErrorKind::WouldBlock, ErrorKind::TimedOut), "{service}");
    }
}

#[test]
fn a_kernel_that_wants_no_packets_in_group_frames_is_told_of() {
    let Some(world) = World::build("deaf") else { return };
    let node = world.node(0);
    assert!(succeeds(&format!(
        "ip netns exec {node} sysctl -qw net.ipv4.conf.out0.drop_unicast_in_l2_multicast=1"
    )));
    let error = Node::try_start(&world, 0, Mode::SharedMac).err().unwrap();
    assert!(error.contains("drop_unicast_in_l2_multicast = 1"), "{error}");
}
