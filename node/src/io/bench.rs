//! How quick the IO layer is, printed and never asserted:
//!
//! ```text
//!   cargo test --release -p node --lib io::bench -- --ignored --nocapture
//! ```
//!
//! The figures of a run belong together; compare them with each other, not with those of another day.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::offload::tests::Packet;
use super::tests::{in_namespace, ip};
use super::*;

const PACKET: usize = 1_400;
const SUPER: usize = 46 * PACKET;

/// Prints the nanoseconds per unit of the best of several rounds.
fn report(what: &str, units: u64, mut work: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..30 {
        let started = Instant::now();
        work();
        best = best.min(started.elapsed().as_nanos() as f64 / units as f64);
    }
    println!("{what:<60} {best:>9.1} ns");
}

#[test]
#[ignore = "a measurement"]
fn without_a_kernel() {
    let octets = vec![0x5a; SUPER];
    report("checksum of 1,400 octets", 46 * 100, || {
        for _ in 0..100 {
            for part in octets.chunks(PACKET) {
                black_box(offload::checksum::Sum::default().octets(black_box(part)).checksum());
            }
        }
    });
    for (name, v6, tcp) in [("TCP/IPv4", false, true), ("TCP/IPv6", true, true), ("UDP/IPv4", false, false)] {
        let whole = Packet { v6, tcp, df: true, ..Packet::tcp(&vec![7; 46 * 1_300]) };
        let (header, original) = whole.emit_super(1_300);
        let mut batch = InnerBatch::new();
        report(&format!("split a packet of 1,300 off a super-packet, {name}"), 46 * 10, || {
            for _ in 0..10 {
                batch.clear();
                assert!(batch.push(header, &original));
                let mut segments = batch.segments(0).unwrap();
                while let Some(segment) = segments.next() {
                    black_box(&segment);
                }
            }
        });
        let mut arena = Vec::new();
        let mut ranges = Vec::new();
        batch.clear();
        assert!(batch.push(header, &original));
        let mut segments = batch.segments(0).unwrap();
        while let Some(segment) = segments.next() {
            ranges.push(arena.len()..arena.len() + segment.len());
            arena.extend_from_slice(segment);
        }
        let (pristine, mut packets) = (arena.clone(), Coalescer::new(Offload { tso: true, uso: true }));
        let mut writes = 0;
        report(&format!("merge a packet of 1,300 into a super-packet, {name}"), 46 * 10, || {
            for _ in 0..10 {
                arena[..100].copy_from_slice(&pristine[..100]);
                for range in &ranges {
                    packets.push(&arena, range.clone());
                }
                writes = 0;
                while let Some(write) = packets.next_write(&mut arena) {
                    black_box(write.pieces);
                    writes += 1;
                }
                packets.clear();
            }
        });
        println!("{:<60} {writes:>9}", "  in so many writes");
    }
}

#[test]
#[ignore = "a measurement"]
fn through_sockets_and_a_device() {
    in_namespace("through_sockets_and_a_device", || {
        for (name, run) in [("in runs of 45", 45), ("one by one", 1)] {
            let mut near = UdpSocket::open(SocketAddr::from(([127, 0, 0, 1], 4500))).unwrap();
            let mut far = UdpSocket::open(SocketAddr::from(([127, 0, 0, 1], 4501))).unwrap();
            let mut sending = Duration::ZERO;
            let mut receiving = Duration::ZERO;
            let (mut out, mut inward, mut number) = (SendBatch::new(), RecvBatch::new(), 0);
            for _ in 0..2_000 {
                for at in 0..45 {
                    let peer = far.local().unwrap();
                    // Another mark ends a run.
                    let tos = if run == 1 { at as u8 & 1 } else { 0 };
                    assert!(out.push(Route { peer, tos }, &[1; PACKET]));
                }
                let started = Instant::now();
                near.send(&mut out);
                let sent = Instant::now();
                loop {
                    let got = far.receive(&mut inward).unwrap();
                    if got == 0 {
                        break;
                    }
                    number += got as u32;
                }
                sending += sent - started;
                receiving += sent.elapsed();
            }
            println!(
                "{:<60} {:>9} ns",
                format!("send a datagram of 1,400, {name}"),
                (sending / number).as_nanos()
            );
            println!(
                "{:<60} {:>9} ns",
                format!("receive a datagram of 1,400, {name}"),
                (receiving / number).as_nanos()
            );
        }
        let mut device = TunDevice::open(&TunOptions::new("pontoon0", 1_500)).unwrap();
        ip("address add 10.0.0.2/24 dev pontoon0");
        let plain = std::net::UdpSocket::bind("10.0.0.2:9").unwrap();
        for size in [1_400, 0] {
            super::tests::set_int(&plain, libc::SOL_UDP, libc::UDP_SEGMENT, size);
            let (mut reading, mut number, mut batch) = (Duration::ZERO, 0, InnerBatch::new());
            for _ in 0..1_000 {
                for _ in 0..if size == 0 { 45 } else { 1 } {
                    plain
                        .send_to(&vec![1; if size == 0 { PACKET } else { 45 * PACKET }], "10.0.0.1:9")
                        .unwrap();
                }
                let started = Instant::now();
                while device.receive(&mut batch).unwrap() > 0 {
                    for at in 0..batch.len() {
                        let mut segments = batch.segments(at).unwrap();
                        while let Some(segment) = segments.next() {
                            number += u32::from(segment.len() > PACKET);
                        }
                    }
                }
                reading += started.elapsed();
            }
            let how = if size == 0 { "one by one" } else { "as super-packet" };
            println!(
                "{:<60} {:>9} ns",
                format!("read and split a packet of 1,400, {how}"),
                (reading / number).as_nanos()
            );
        }
        // To nobody: what the kernel does after the device took it is dropping.
        for (how, offload) in
            [("as super-packet", Offload { tso: true, uso: true }), ("one by one", Offload::default())]
        {
            let mut arena = Vec::new();
            let mut ranges = Vec::new();
            let first = Packet { df: true, ..Packet::tcp(&[1; PACKET]) };
            for at in 0..45 {
                let octets =
                    Packet { seq: first.seq.wrapping_add(at * PACKET as u32), ..first.clone() }.emit();
                ranges.push(arena.len()..arena.len() + octets.len());
                arena.extend(octets);
            }
            let (pristine, mut packets) = (arena.clone(), Coalescer::new(offload));
            let mut writing = Duration::ZERO;
            for _ in 0..1_000 {
                arena.copy_from_slice(&pristine);
                let started = Instant::now();
                for range in &ranges {
                    packets.push(&arena, range.clone());
                }
                assert_eq!(device.send(&mut arena, &mut packets), 45);
                writing += started.elapsed();
            }
            println!(
                "{:<60} {:>9} ns",
                format!("merge and write a packet of 1,400, {how}"),
                (writing / 45_000).as_nanos()
            );
        }
    });
}
