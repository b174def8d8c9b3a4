//! The sockets and the device on a real kernel, each test in a network namespace of its own.
//!
//! That needs root, also that of a user namespace (`unshare -Urnm`); without it a test says that it is skipped.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket as Plain};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use super::batch::UDP_PAYLOAD_MAX;
use super::offload::tests::Packet;
use super::*;

/// Runs a test on a thread in a new network namespace, with loopback up.
pub(super) fn in_namespace(name: &str, test: fn()) {
    let thread = std::thread::spawn(move || {
        // SAFETY: no memory is involved; it concerns this thread alone, which ends with the test.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Some(io::Error::last_os_error().to_string());
        }
        if !Command::new("ip").args(["link", "set", "lo", "up"]).status().is_ok_and(|status| status.success())
        {
            return Some("no `ip` command".to_owned());
        }
        test();
        None
    });
    match thread.join() {
        Ok(None) => {}
        Ok(Some(reason)) => eprintln!("skipped: {name}: {reason}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

macro_rules! in_namespace {
    ($name:ident $body:block) => {
        #[test]
        fn $name() {
            in_namespace(stringify!($name), || $body);
        }
    };
}

pub(super) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Receives until `wanted` datagrams have come: where from, marked how, aggregated or not, and their octets.
fn receive(socket: &mut dyn Outside, wanted: usize) -> Vec<(Datagram, Vec<u8>)> {
    receive_within(socket, wanted, 1_000)
}

/// The same, giving up after `quiet_ms` without any.
fn receive_within(socket: &mut dyn Outside, wanted: usize, quiet_ms: u32) -> Vec<(Datagram, Vec<u8>)> {
    let poller = Poller::new().unwrap();
    poller.add(socket.fd().unwrap(), 0).unwrap();
    let mut batch = RecvBatch::new();
    let mut out = Vec::new();
    while out.len() < wanted && !poller.wait(Some(quiet_ms)).unwrap().tokens().is_empty() {
        socket.receive(&mut batch).unwrap();
        let (datagrams, arena) = batch.parts();
        out.extend(datagrams.iter().map(|datagram| (*datagram, arena[datagram.range()].to_vec())));
    }
    out
}

/// Reads until `wanted` (super-)packets have come, without what the kernel says to all its neighbours over IPv6.
fn read(device: &mut dyn Inside, wanted: usize) -> Vec<(bool, Vec<Vec<u8>>)> {
    let poller = Poller::new().unwrap();
    poller.add(device.fd().unwrap(), 0).unwrap();
    let mut batch = InnerBatch::new();
    let mut out = Vec::new();
    while out.len() < wanted && !poller.wait(Some(1_000)).unwrap().tokens().is_empty() {
        device.receive(&mut batch).unwrap();
        for at in 0..batch.len() {
            let mut segments = batch.segments(at).unwrap();
            let (is_super, mut packets) = (segments.len() > 1, Vec::new());
            while let Some(segment) = segments.next() {
                packets.push(segment.to_vec());
            }
            let multicast = packets[0][0] >> 4 == 6 && packets[0][24] == 0xff;
            if !multicast {
                out.push((is_super, packets));
            }
        }
    }
    out
}

fn octets(datagrams: Vec<(Datagram, Vec<u8>)>) -> Vec<Vec<u8>> {
    datagrams.into_iter().map(|(_, octets)| octets).collect()
}

pub(super) fn set_int(socket: &impl AsRawFd, level: i32, name: i32, value: i32) {
    // SAFETY: the kernel reads one int from a valid place.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

in_namespace! { runs_arrive_as_they_were_sent {
    for host in ["127.0.0.1", "::1"] {
        let host: IpAddr = host.parse().unwrap();
        let mut near = UdpSocket::open(SocketAddr::new(host, 0)).unwrap();
        let mut far = UdpSocket::open(SocketAddr::new(host, 4500)).unwrap();
        let (route, plain) = (Route { peer: far.local().unwrap(), tos: 0x2d }, far.local().unwrap());
        let mut batch = SendBatch::new();
        let mut expected = Vec::new();
        // A run with a shorter last, a run of another mark, single ones, and more datagrams than one call takes.
        for (number, len, tos) in [(5, 1_400, 0x2d), (1, 700, 0x2d), (2, 500, 0x03), (1, 1, 0), (45, 1_432, 0)] {
            for at in 0..number {
                let datagram = vec![at as u8 + 1; len];
                assert!(batch.push(Route { tos, ..route }, &datagram));
                expected.push((tos, datagram));
            }
        }
        assert_eq!(near.send(&mut batch), expected.len());
        assert!(batch.is_empty());
        let got = receive(&mut far, expected.len());
        assert!(got.iter().all(|(datagram, _)| datagram.peer == near.local().unwrap()));
        assert!(got[0].0.aggregated && !got[8].0.aggregated, "a run of six in one piece, a single one alone");
        let got: Vec<_> = got.into_iter().map(|(datagram, octets)| (datagram.tos, octets)).collect();
        assert_eq!(got, expected, "{host}");
        near.handle().unwrap().send(plain, b"reply").unwrap();
        assert_eq!(octets(receive(&mut far, 1)), [b"reply"]);
        assert_eq!((near.drops().total(), far.drops().total()), (0, 0));
    }
}}

in_namespace! { an_address_that_does_not_exist_yet_can_be_bound {
    for host in ["192.0.2.1", "2001:db8::1"] {
        let local = SocketAddr::new(host.parse().unwrap(), 500);
        let mut early = UdpSocket::open(local).unwrap();
        let mut esp = EspSocket::open(local.ip()).unwrap();
        let (length, extra) = if local.is_ipv4() { (32, "") } else { (128, " nodad") };
        ip(&format!("address add {host}/{length} dev lo{extra}"));
        // An IPv6 address gets its route a moment after `ip` has returned, also without duplicate address detection.
        let got = (0..100).find_map(|_| {
            let _ = Plain::bind((local.ip(), 0)).and_then(|plain| plain.send_to(b"hello", local));
            octets(receive_within(&mut early, 1, 20)).pop()
        });
        assert_eq!(got.as_deref(), Some(&b"hello"[..]), "{host}");
        let mut batch = SendBatch::new();
        batch.push(Route { peer: local, tos: 0 }, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(esp.send(&mut batch), 1);
        assert_eq!(octets(receive(&mut esp, 1)), [[1, 2, 3, 4, 5, 6, 7, 8]]);
    }
}}

// The kernel takes an IPv6 address into use a moment after it has acknowledged it.
in_namespace! { an_address_is_in_use_when_it_was_added {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let device = TunDevice::open(&TunOptions::new("pontoon0", 1_400)).unwrap();
    runtime.block_on(async {
        let netlink = netlink::Netlink::open().unwrap();
        let link = device.index().unwrap();
        for round in 0..200 {
            for host in ["2001:db8::1", "192.0.2.1"] {
                let host: IpAddr = host.parse().unwrap();
                netlink.add_host_address(link, host).await.unwrap();
                let near = Plain::bind((host, 0)).unwrap();
                near.send_to(b"to ourselves", near.local_addr().unwrap()).unwrap();
                near.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                assert!(near.recv_from(&mut [0; 20]).is_ok(), "{host} in round {round}");
                netlink.remove_host_address(link, host).await.unwrap();
            }
        }
    });
}}

in_namespace! { a_port_in_use_is_told_with_what_to_do {
    let local = SocketAddr::from(([127, 0, 0, 1], 4500));
    let _first = UdpSocket::open(local).unwrap();
    let error = UdpSocket::open(local).unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on UDP 127.0.0.1:4500"), "{error}");
    assert!(error.help.contains("another IKE daemon"));
}}

in_namespace! { protocol_50_arrives_without_its_ip_header {
    for host in ["127.0.0.1", "::1"] {
        let host: IpAddr = host.parse().unwrap();
        let mut socket = EspSocket::open(host).unwrap();
        let mut batch = SendBatch::new();
        let mut expected = Vec::new();
        for at in 0..100u8 {
            let packet = vec![at; 1_000];
            // The port means nothing.
            assert!(batch.push(Route { peer: SocketAddr::new(host, u16::from(at)), tos: at & 3 }, &packet));
            expected.push((at & 3, packet));
        }
        assert_eq!(socket.send(&mut batch), 100);
        let got = receive(&mut socket, 100);
        assert!(got.iter().all(|(datagram, _)| datagram.peer == SocketAddr::new(host, 0) && !datagram.aggregated));
        let got: Vec<_> = got.into_iter().map(|(datagram, octets)| (datagram.tos, octets)).collect();
        assert_eq!(got, expected, "{host}");
        assert_eq!(socket.drops().total(), 0);
    }
}}

in_namespace! { a_zero_checksum_is_accepted {
    let mut socket = UdpSocket::open(SocketAddr::from(([127, 0, 0, 1], 4500))).unwrap();
    let peer = Plain::bind("127.0.0.1:0").unwrap();
    set_int(&peer, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
    peer.send_to(b"as RFC 3948 allows", socket.local().unwrap()).unwrap();
    assert_eq!(octets(receive(&mut socket, 1)), [b"as RFC 3948 allows"]);
}}

in_namespace! { a_route_that_refuses_segmentation_gets_single_datagrams {
    ip("link set lo mtu 1500");
    for host in ["127.0.0.1", "::1"] {
        let host: IpAddr = host.parse().unwrap();
        let mut near = UdpSocket::open(SocketAddr::new(host, 0)).unwrap();
        let mut far = UdpSocket::open(SocketAddr::new(host, 4500)).unwrap();
        let route = Route { peer: far.local().unwrap(), tos: 1 };
        let mut batch = SendBatch::new();
        // Too large for the device, so for UDP_SEGMENT; then a run that would go, while the route pauses; then after.
        for (round, (len, aggregated)) in [(2_000, false), (1_000, false)].into_iter().enumerate() {
            let expected: Vec<_> = (0..20).map(|at| vec![at + round as u8; len]).collect();
            for datagram in &expected {
                assert!(batch.push(route, datagram));
            }
            assert_eq!(near.send(&mut batch), 20, "{host}: {:?}", near.drops());
            let got = receive(&mut far, 20);
            assert!(got.iter().all(|(datagram, _)| datagram.aggregated == aggregated && datagram.tos == 1));
            assert_eq!(octets(got), expected);
        }
        // Another route is not concerned.
        let mut other = UdpSocket::open(SocketAddr::new(host, 4501)).unwrap();
        for _ in 0..4 {
            assert!(batch.push(Route { peer: other.local().unwrap(), tos: 0 }, &[9; 1_000]));
        }
        near.send(&mut batch);
        assert!(receive(&mut other, 4).iter().all(|(datagram, _)| datagram.aggregated));
        assert_eq!(near.drops().total(), 0);
    }
}}

in_namespace! { the_largest_datagram_fits_and_an_empty_one_is_counted {
    let mut socket = UdpSocket::open(SocketAddr::from(([127, 0, 0, 1], 4500))).unwrap();
    let local = socket.local().unwrap();
    let mut batch = SendBatch::new();
    assert!(batch.push(Route { peer: local, tos: 0 }, &[7; UDP_PAYLOAD_MAX]));
    assert!(!batch.push(Route { peer: local, tos: 0 }, &[7; UDP_PAYLOAD_MAX + 1]));
    assert_eq!(socket.send(&mut batch), 1);
    Plain::bind("127.0.0.1:0").unwrap().send_to(b"", local).unwrap();
    assert_eq!(octets(receive(&mut socket, 1)), [[7; UDP_PAYLOAD_MAX]]);
    assert!(receive(&mut socket, 0).is_empty());
    let mut batch = RecvBatch::new();
    assert_eq!(socket.receive(&mut batch).unwrap(), 0);
    assert_eq!((socket.drops().get(Drop::Empty), socket.drops().total()), (1, 1));
}}

in_namespace! { what_cannot_be_sent_is_counted_and_the_rest_goes {
    let mut socket = UdpSocket::open(SocketAddr::from(([127, 0, 0, 1], 4500))).unwrap();
    let local = socket.local().unwrap();
    let good = Route { peer: local, tos: 0 };
    let mut batch = SendBatch::new();
    assert!(batch.push(good, b"first"));
    for _ in 0..3 {
        assert!(batch.push(Route { peer: ([203, 0, 113, 1], 4500).into(), tos: 0 }, b"nowhere"));
    }
    assert!(batch.push(good, b"last"));
    assert_eq!(socket.send(&mut batch), 2);
    assert_eq!((socket.drops().get(Drop::Unreachable), socket.drops().total()), (3, 3));
    assert_eq!(octets(receive(&mut socket, 2)), [&b"first"[..], b"last"]);
    // An IPv6 peer on an IPv4 socket: a mistake of ours, but no more than a lost datagram.
    assert!(batch.push(Route { peer: "[2001:db8::1]:4500".parse().unwrap(), tos: 0 }, b"wrong family"));
    assert_eq!(socket.send(&mut batch), 0);
    assert_eq!(socket.drops().get(Drop::SendFailed), 1);
}}

in_namespace! { a_full_receive_buffer_is_noticed {
    let mut socket = UdpSocket::open(SocketAddr::from(([127, 0, 0, 1], 4500))).unwrap();
    let peer = Plain::bind("127.0.0.1:0").unwrap();
    let flood = 400;
    for _ in 0..flood {
        let _ = peer.send_to(&[1; 60_000], socket.local().unwrap());
    }
    let got = receive(&mut socket, flood).len();
    // The kernel tells with the next one that does arrive.
    peer.send_to(b"x", socket.local().unwrap()).unwrap();
    assert_eq!(receive(&mut socket, 1).len(), 1);
    assert!(got < flood);
    assert_eq!(socket.drops().get(Drop::ReceiveQueue), (flood - got) as u64);
}}

in_namespace! { a_device_is_ours_alone_and_vanishes_with_us {
    let device = TunDevice::open(&TunOptions::new("pontoon0", 1_400)).unwrap();
    assert!(device.index().unwrap() > 0);
    assert_eq!(device.offload(), Offload { tso: true, uso: true });
    let shown = String::from_utf8(Command::new("ip").args(["link", "show", "pontoon0"]).output().unwrap().stdout).unwrap();
    assert!(shown.contains("mtu 1400") && shown.contains("qlen 2000") && shown.contains("UP"), "{shown}");
    let error = TunDevice::open(&TunOptions::new("pontoon0", 1_400)).unwrap_err();
    assert!(error.to_string().starts_with("cannot create the TUN device pontoon0"), "{error}");
    assert!(error.help.contains("another name"), "{error:?}");
    drop(device);
    assert!(!Command::new("ip").args(["link", "show", "pontoon0"]).output().unwrap().status.success());
    let again = TunDevice::open(&TunOptions { offload: false, ..TunOptions::new("pontoon0", 1_400) }).unwrap();
    assert_eq!(again.offload(), Offload::default());
    // A persistent one would outlive us and may have the offloads of its last user.
    ip("tuntap add dev other mode tun");
    assert!(TunDevice::open(&TunOptions::new("other", 1_400)).unwrap_err().help.contains("another name"));
    let error = TunDevice::open(&TunOptions::new("a-name-that-is-too-long", 1_400)).unwrap_err();
    assert!(error.help.contains("15 octets"), "{error:?}");
}}

in_namespace! { the_device_gives_super_packets_and_takes_them {
    let mut device = TunDevice::open(&TunOptions::new("pontoon0", 1_400)).unwrap();
    ip("address add 10.0.0.2/24 dev pontoon0");
    let socket = Plain::bind("10.0.0.2:80").unwrap();
    set_int(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, 100);
    socket.send_to(&[3; 1_000], "10.0.0.1:1000").unwrap();
    let (is_super, packets) = read(&mut device, 1).remove(0);
    assert!(is_super);
    assert_eq!(packets.len(), 10);
    assert!(packets.iter().all(|packet| packet.len() == 128 && packet[28..] == [3; 100]));

    // In: ten datagrams for the socket in one write, with checksums that the kernel checks.
    let mut arena = Vec::new();
    let mut packets = Coalescer::new(device.offload());
    let mut ranges = Vec::new();
    for packet in (0..10).map(|at| Packet { ports: (1_000, 80), df: true, ..Packet::udp(&[at; 100]) }.emit()) {
        ranges.push(arena.len()..arena.len() + packet.len());
        arena.extend(packet);
    }
    for range in ranges {
        packets.push(&arena, range);
    }
    assert_eq!(device.send(&mut arena, &mut packets), 10);
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for at in 0..10 {
        let mut buffer = [0; 200];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 100);
        assert_eq!(buffer[..100], [at; 100]);
    }
    assert_eq!(device.drops().total(), 0);
}}

in_namespace! { a_refused_write_is_counted {
    let mut device = TunDevice::open(&TunOptions::new("pontoon0", 1_400)).unwrap();
    let mut packets = Coalescer::new(device.offload());
    // Neither IPv4 nor IPv6.
    let mut arena = vec![0; 64];
    packets.push(&arena, 0..64);
    assert_eq!(device.send(&mut arena, &mut packets), 0);
    ip("link set pontoon0 down");
    packets.push(&Packet::udp(&[1]).emit(), 0..29);
    arena[..29].copy_from_slice(&Packet::udp(&[1]).emit());
    assert_eq!(device.send(&mut arena, &mut packets), 0);
    assert_eq!((device.drops().get(Drop::DeviceRefused), device.drops().total()), (2, 2));
}}

in_namespace! { a_device_that_was_deleted_is_an_error {
    let mut device = TunDevice::open(&TunOptions::new("pontoon0", 1_400)).unwrap();
    ip("link delete pontoon0");
    assert!(device.receive(&mut InnerBatch::new()).is_err());
}}

in_namespace! { a_completed_checksum_is_the_kernels {
    let mut device = TunDevice::open(&TunOptions::new("pontoon0", 1_400)).unwrap();
    ip("address add 10.0.0.2/24 dev pontoon0");
    std::thread::scope(|scope| {
        scope.spawn(|| TcpStream::connect_timeout(&"10.0.0.1:80".parse().unwrap(), Duration::from_millis(300)).is_ok());
        let syn = read(&mut device, 1).remove(0).1.remove(0);
        let mut sum = 0u32;
        let pseudo = [0, 6, 0, (syn.len() - 20) as u8];
        for pair in syn[12..].chunks(2).chain(pseudo.chunks(2)) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair[1]);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    });
}}

// The kernel as the reference: it forwards a super-packet to a device without offloads, and so must split it.
in_namespace! { splitting_agrees_with_the_kernel {
    let mut from = TunDevice::open(&TunOptions::new("from", 1_400)).unwrap();
    let mut to = TunDevice::open(&TunOptions { offload: false, ..TunOptions::new("to", 1_400) }).unwrap();
    for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        if let Err(error) = std::fs::write(format!("/proc/sys/net/{forwarding}"), "1") {
            return eprintln!("skipped: splitting_agrees_with_the_kernel: {error}");
        }
    }
    ip("route add 10.0.0.1/32 dev from");
    ip("route add 10.0.0.2/32 dev to");
    ip("-6 route add 2020:2020:2020:2020:2020:2020:2020:2020/128 dev from");
    ip("-6 route add 2121:2121:2121:2121:2121:2121:2121:2121/128 dev to");
    let payload: Vec<u8> = (0..10_000u32).map(|at| ((at * at) >> 3) as u8).collect();
    for v6 in [false, true] {
        for tcp in [false, true] {
            for (df, flags, len) in [(true, 0x18, 10_000), (false, 0x11, 9_999), (true, 0x90, 2_500)] {
                let whole = Packet { v6, tcp, df, flags, id: 0xfffd, ..Packet::tcp(&payload[..len]) };
                let (header, mut octets) = whole.emit_super(1_200);
                let mut segments = Segments::new(header, &mut octets).unwrap();
                let mut expected = Vec::new();
                while let Some(segment) = segments.next() {
                    expected.push(segment.to_vec());
                }
                // The forwarding takes one from the TTL; everything else must be what we make of it.
                for packet in &mut expected {
                    *packet = Packet { ttl: 60, ..reparse(packet) }.emit();
                }
                // The way in takes our own coalescer, except for CWR, which it does not merge.
                let (header, octets) = whole.emit_super(1_200);
                write(&from, header, &octets);
                let got = read(&mut to, expected.len());
                let got: Vec<_> = got.into_iter().map(|(_, mut packets)| packets.remove(0)).collect();
                assert_eq!(got.len(), expected.len(), "IPv6 {v6}, TCP {tcp}, flags {flags:x}");
                for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    assert_eq!(got, expected, "IPv6 {v6}, TCP {tcp}, flags {flags:x}, segment {at}");
                }
            }
        }
    }
    assert!(read(&mut from, 0).is_empty());
}}

fn write(device: &TunDevice, header: VirtioNetHdr, packet: &[u8]) {
    let octets = [&header.emit()[..], packet].concat();
    let fd = device.fd().unwrap().try_clone_to_owned().unwrap();
    let len = std::io::Write::write(&mut std::fs::File::from(fd), &octets).unwrap();
    assert_eq!(len, octets.len());
}

/// The fields of a packet that was built by `Packet`.
fn reparse(octets: &[u8]) -> Packet {
    let v6 = octets[0] >> 4 == 6;
    let (tcp, transport) = if v6 { (octets[6] == 6, 40) } else { (octets[9] == 6, 20) };
    let word = |at: usize| u16::from_be_bytes([octets[at], octets[at + 1]]);
    let blank = Packet::tcp(&[]);
    let options = if tcp { usize::from(octets[transport + 12] >> 4) * 4 - 20 } else { 0 };
    let payload = octets[transport + if tcp { 20 + options } else { 8 }..].to_vec();
    Packet {
        v6,
        tcp,
        ports: (word(transport), word(transport + 2)),
        id: if v6 { 0 } else { word(4) },
        df: !v6 && octets[6] & 0x40 != 0,
        seq: if tcp { u32::from(word(transport + 4)) << 16 | u32::from(word(transport + 6)) } else { 0 },
        flags: if tcp { octets[transport + 13] } else { 0 },
        options,
        payload,
        ..blank
    }
}
