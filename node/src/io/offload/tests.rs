//! Splitting and coalescing, against a naive reference and against each other.

use proptest::prelude::*;

use super::*;

const ALL: Offload = Offload { tso: true, uso: true };

/// A packet built field by field; the reference for what is right.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub v6: bool,
    pub tcp: bool,
    pub ports: (u16, u16),
    pub id: u16,
    pub df: bool,
    pub tos: u8,
    pub ttl: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub flags: u8,
    pub options: usize,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn tcp(payload: &[u8]) -> Packet {
        Packet {
            v6: false,
            tcp: true,
            ports: (1_000, 80),
            id: 0xfffe,
            df: false,
            tos: 0,
            ttl: 61,
            seq: 0xffff_ff00,
            ack: 77,
            window: 8_192,
            flags: 0x10,
            options: 12,
            payload: payload.to_vec(),
        }
    }

    pub fn udp(payload: &[u8]) -> Packet {
        Packet { tcp: false, ..Packet::tcp(payload) }
    }

    fn ip_len(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn headers_len(&self) -> usize {
        self.ip_len() + if self.tcp { 20 + self.options } else { 8 }
    }

    /// The packet on the wire, with all checksums.
    pub fn emit(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.ports.0.to_be_bytes());
        transport.extend(self.ports.1.to_be_bytes());
        let checksum_at = if self.tcp {
            transport.extend(self.seq.to_be_bytes());
            transport.extend(self.ack.to_be_bytes());
            transport.extend([(5 + self.options as u8 / 4) << 4, self.flags]);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0; 4]);
            transport.extend((0..self.options).map(|_| 1));
            16
        } else {
            transport.extend((8 + self.payload.len() as u16).to_be_bytes());
            transport.extend([0, 0]);
            6
        };
        transport.extend(&self.payload);
        let protocol = if self.tcp { 6 } else { 17 };
        let len = transport.len() as u16;
        let mut packet = Vec::new();
        if self.v6 {
            packet.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 9]);
            packet.extend(len.to_be_bytes());
            packet.extend([protocol, self.ttl]);
            packet.extend([0x20; 16]);
            packet.extend([0x21; 16]);
        } else {
            packet.extend([0x45, self.tos]);
            packet.extend((len + 20).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([if self.df { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
            packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = naive(&[&packet]);
            packet[10..12].copy_from_slice(&sum);
        }
        let mut sum = naive(&[&pseudo(&packet, protocol, len), &transport]);
        if !self.tcp && sum == [0, 0] {
            sum = [0xff; 2];
        }
        transport[checksum_at..checksum_at + 2].copy_from_slice(&sum);
        packet.extend(transport);
        packet
    }

    /// The packets that a network card would make of it: RFC 9293 and the rules for FIN, PSH and CWR.
    fn split(&self, size: usize) -> Vec<Vec<u8>> {
        let parts: Vec<_> = self.payload.chunks(size).collect();
        let last = parts.len() - 1;
        let segment = |(index, part): (usize, &&[u8])| {
            let mut flags = self.flags;
            if index < last {
                flags &= !0x09;
            }
            if index > 0 {
                flags &= !0x80;
            }
            let id = self.id.wrapping_add(index as u16);
            let seq = self.seq.wrapping_add((index * size) as u32);
            Packet { id, seq, flags, payload: part.to_vec(), ..self.clone() }.emit()
        };
        parts.iter().enumerate().map(segment).collect()
    }

    /// The super-packet as the kernel hands it over: the checksum has the pseudo-header only.
    pub fn emit_super(&self, size: usize) -> (VirtioNetHdr, Vec<u8>) {
        let mut packet = self.emit();
        let (protocol, csum_offset) = if self.tcp { (6, 16) } else { (17, 6) };
        let len = (packet.len() - self.ip_len()) as u16;
        let [high, low] = naive(&[&pseudo(&packet, protocol, len)]);
        packet[self.ip_len() + csum_offset..][..2].copy_from_slice(&[!high, !low]);
        let header = VirtioNetHdr {
            flags: VirtioNetHdr::NEEDS_CSUM,
            gso_type: match (self.tcp, self.v6) {
                (true, false) => VirtioNetHdr::GSO_TCPV4,
                (true, true) => VirtioNetHdr::GSO_TCPV6,
                (false, _) => VirtioNetHdr::GSO_UDP_L4,
            },
            hdr_len: self.headers_len() as u16,
            gso_size: size as u16,
            csum_start: self.ip_len() as u16,
            csum_offset: csum_offset as u16,
        };
        (header, packet)
    }
}

fn pseudo(ip: &[u8], protocol: u8, len: u16) -> Vec<u8> {
    let mut out = if ip[0] >> 4 == 4 { ip[12..20].to_vec() } else { ip[8..40].to_vec() };
    out.extend([0, protocol]);
    out.extend(len.to_be_bytes());
    out
}

/// RFC 1071, word by word.
fn naive(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn split(header: VirtioNetHdr, packet: &mut [u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(header, packet).unwrap();
    let (count, longest) = (segments.len(), segments.longest());
    let mut out = Vec::new();
    while let Some(segment) = segments.next() {
        out.push(segment.to_vec());
    }
    assert_eq!(out.len(), count);
    assert_eq!(out.iter().map(Vec::len).max(), Some(longest));
    out
}

/// What a coalescer makes of packets that lie side by side with gaps between them.
fn coalesce(offload: Offload, packets: &[Vec<u8>]) -> Vec<(VirtioNetHdr, Vec<u8>)> {
    let mut arena = Vec::new();
    let mut coalescer = Coalescer::new(offload);
    let mut ranges = Vec::new();
    for packet in packets {
        arena.extend([0xee; 24]);
        ranges.push(arena.len()..arena.len() + packet.len());
        arena.extend(packet);
    }
    for range in ranges {
        coalescer.push(&arena, range);
    }
    assert_eq!(coalescer.len(), packets.len());
    let (mut out, mut counted) = (Vec::new(), 0);
    while let Some(write) = coalescer.next_write(&mut arena) {
        let (header, pieces) = (write.header, write.pieces.to_vec());
        counted += write.packets;
        out.push((header, pieces.into_iter().flat_map(|piece| arena[piece].to_vec()).collect()));
    }
    assert_eq!(counted, packets.len());
    coalescer.clear();
    assert!(coalescer.is_empty() && coalescer.next_write(&mut arena).is_none());
    out
}

fn packet() -> impl Strategy<Value = Packet> {
    let shape = (any::<bool>(), any::<bool>(), any::<(u16, u16)>(), any::<u16>(), any::<bool>(), any::<u8>());
    let tcp = (any::<u32>(), prop::sample::select(vec![0x10u8, 0x18, 0x11, 0x19, 0x50, 0x58]), 0usize..=10);
    (shape, tcp, prop::collection::vec(any::<u8>(), 1..5_000)).prop_map(|(shape, tcp, payload)| {
        let (v6, is_tcp, ports, id, df, tos) = shape;
        let (seq, flags, options) = tcp;
        let first = Packet::tcp(&payload);
        Packet { v6, tcp: is_tcp, ports, id, df, tos, seq, flags, options: options * 4, ..first }
    })
}

proptest! {
    #[test]
    fn splitting_agrees_with_the_reference(packet in packet(), size in 1usize..3_000, cwr: bool) {
        let packet = Packet { flags: packet.flags | if cwr { 0x80 } else { 0 }, ..packet };
        let (header, mut octets) = packet.emit_super(size);
        let segments = split(header, &mut octets);
        prop_assert_eq!(segments, packet.split(size));
    }

    #[test]
    fn coalescing_undoes_splitting(packet in packet(), size in 100usize..3_000) {
        let (header, octets) = packet.emit_super(size);
        let segments = packet.split(size);
        let writes = coalesce(ALL, &segments);
        if segments.len() == 1 {
            prop_assert_eq!(writes, vec![(VirtioNetHdr::default(), segments[0].clone())]);
        } else {
            prop_assert_eq!(writes, vec![(header, octets)]);
        }
    }

    /// Any mixture of flows, with losses: what comes out after splitting is what went in, flow by flow, in order.
    #[test]
    fn nothing_is_lost_or_reordered_within_a_flow(
        flows in prop::collection::vec((packet(), 100usize..1_500), 1..6),
        order in prop::collection::vec((0usize..6, any::<bool>()), 0..60),
        offload in (any::<bool>(), any::<bool>()).prop_map(|(tso, uso)| Offload { tso, uso }),
    ) {
        let mut waiting: Vec<_> = flows
            .iter()
            .enumerate()
            .map(|(at, (packet, size))| {
                let ports = (at as u16 + 1, 9);
                Packet { ports, ..packet.clone() }.split(*size).into_iter()
            })
            .collect();
        let mut packets = Vec::new();
        for (flow, lost) in order {
            let next = waiting.get_mut(flow).and_then(Iterator::next);
            packets.extend(next.filter(|_| !lost));
        }
        let writes = coalesce(offload, &packets);
        let mut back = Vec::new();
        for (header, mut octets) in writes {
            prop_assert!(offload.tso || !matches!(header.gso_type, 1 | 4));
            prop_assert!(offload.uso || header.gso_type != 5);
            back.extend(split(header, &mut octets));
        }
        let port = |packet: &Vec<u8>| packet[if packet[0] >> 4 == 4 { 21 } else { 41 }];
        packets.sort_by_key(port);
        back.sort_by_key(port);
        // Identifications may change where fragmentation is forbidden; here they go up by one, unless one was lost.
        for packet in packets.iter_mut().chain(&mut back) {
            if packet[0] == 0x45 && packet[6] & 0x40 != 0 {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
        }
        prop_assert_eq!(back, packets);
    }

    #[test]
    fn no_header_makes_it_panic(
        octets in prop::collection::vec(any::<u8>(), 0..300), first in prop::sample::select(vec![0x45u8, 0x46, 0x60]),
        len_right: bool, flags in 0u8..2, gso_type in 0u8..8, words in any::<[u16; 4]>(), small: bool,
    ) {
        let mut octets = octets;
        if let Some(octet) = octets.first_mut() {
            *octet = first;
        }
        let len = octets.len() as u16;
        if len_right && octets.len() >= 40 {
            let (at, len) = if first == 0x60 { (4, len - 40) } else { (2, len) };
            octets[at..at + 2].copy_from_slice(&len.to_be_bytes());
        }
        let [hdr_len, gso_size, csum_start, csum_offset] = words.map(|word| if small { word % 80 } else { word });
        let header = VirtioNetHdr { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset };
        let packet = octets.clone();
        if let Ok(mut segments) = Segments::new(header, &mut octets) {
            let mut number = segments.len();
            while segments.next().is_some() {
                number -= 1;
            }
            prop_assert_eq!(number, 0);
        }
        coalesce(ALL, &[packet.clone(), packet]);
    }
}

/// Each row: a change to the second of three packets of a flow, and how many writes there are then, IPv4 and IPv6.
#[test]
fn what_may_be_merged() {
    type Change = fn(&mut Packet);
    let rows: &[(&str, Change, [usize; 2])] = &[
        ("nothing", |_| (), [1, 1]),
        ("another port", |p| p.ports.0 += 1, [3, 3]),
        ("another TOS", |p| p.tos = 1, [3, 3]),
        ("another TTL", |p| p.ttl = 60, [3, 3]),
        ("another acknowledgement", |p| p.ack += 1, [3, 3]),
        ("another window", |p| p.window += 1, [3, 3]),
        ("DF", |p| p.df = true, [3, 1]),
        ("a jump of the identification", |p| p.id = p.id.wrapping_add(9), [3, 1]),
        ("a gap", |p| p.seq = p.seq.wrapping_add(1), [3, 3]),
        ("the same octets again", |p| p.seq = p.seq.wrapping_sub(100), [3, 3]),
        ("longer options", |p| p.options = 16, [3, 3]),
        ("SYN", |p| p.flags |= 0x02, [3, 3]),
        ("RST", |p| p.flags |= 0x04, [3, 3]),
        ("URG", |p| p.flags |= 0x20, [3, 3]),
        ("ECE", |p| p.flags |= 0x40, [3, 3]),
        ("CWR", |p| p.flags |= 0x80, [3, 3]),
        ("no ACK", |p| p.flags = 0, [3, 3]),
        ("PSH, which ends it", |p| p.flags |= 0x08, [2, 2]),
        ("FIN, which ends it", |p| p.flags |= 0x01, [2, 2]),
        ("shorter, which ends it", |p| p.payload.truncate(90), [2, 2]),
        ("longer", |p| p.payload.push(1), [3, 3]),
        ("empty", |p| p.payload.clear(), [3, 3]),
    ];
    for (name, change, writes) in rows {
        for (v6, writes) in [false, true].into_iter().zip(writes) {
            let mut packets = [0, 1, 2].map(|at: u16| {
                let first = Packet { v6, ..Packet::tcp(&[at as u8; 100]) };
                let (id, seq) = (first.id.wrapping_add(at), first.seq.wrapping_add(u32::from(at) * 100));
                Packet { id, seq, ..first }
            });
            change(&mut packets[1]);
            let got = coalesce(ALL, &packets.map(|packet| packet.emit()));
            let sizes: Vec<_> = got.iter().map(|(_, octets)| octets.len()).collect();
            assert_eq!(sizes.len(), *writes, "{name}, IPv6 {v6}: {sizes:?}");
        }
    }
}

#[test]
fn a_wrong_checksum_is_neither_repaired_nor_merged() {
    for v6 in [false, true] {
        for tcp in [false, true] {
            for broken in 0..3 {
                let whole = Packet { v6, tcp, ..Packet::tcp(&[5; 300]) };
                let mut packets = whole.split(100);
                let last = packets[broken].len() - 1;
                packets[broken][last] ^= 0x10;
                let writes = coalesce(ALL, &packets);
                assert!(
                    writes.iter().any(|(header, octets)| header.gso_type == 0 && *octets == packets[broken]),
                    "v6 {v6}, tcp {tcp}: packet {broken} must stay as it is"
                );
                let mut back = Vec::new();
                for (header, mut octets) in writes {
                    back.extend(split(header, &mut octets));
                }
                assert_eq!(back, packets);
            }
        }
    }
}

#[test]
fn a_broken_ip_checksum_is_not_repaired() {
    let mut packets = Packet::tcp(&[5; 300]).split(100);
    packets[1][10] ^= 1;
    let back: Vec<_> = coalesce(ALL, &packets).into_iter().map(|(_, octets)| octets).collect();
    assert_eq!(back, packets);
}

#[test]
fn a_super_packet_stays_below_64_kib_and_udp_below_65_datagrams() {
    let tcp = Packet { df: true, ..Packet::tcp(&[]) };
    let segments: Vec<_> = (0..100)
        .map(|at| {
            Packet { seq: tcp.seq.wrapping_add(at * 1_000), payload: vec![at as u8; 1_000], ..tcp.clone() }
                .emit()
        })
        .collect();
    let sizes: Vec<_> = coalesce(ALL, &segments).into_iter().map(|(_, octets)| octets.len()).collect();
    assert_eq!(sizes, [65_052, 35_052]);
    let udp = Packet { df: true, ..Packet::udp(&[1; 50]) };
    let datagrams: Vec<_> = (0..100).map(|_| udp.emit()).collect();
    let sizes: Vec<_> = coalesce(ALL, &datagrams).into_iter().map(|(_, octets)| octets.len()).collect();
    assert_eq!(sizes, [28 + 64 * 50, 28 + 36 * 50]);
}

#[test]
fn nothing_follows_a_shorter_one_in_a_super_packet() {
    let short = Packet { df: true, ..Packet::tcp(&[1; 90]) };
    let mut packets =
        Packet { df: true, seq: short.seq.wrapping_sub(200), ..Packet::tcp(&[1; 200]) }.split(100);
    packets.push(short.emit());
    packets.push(Packet { seq: short.seq.wrapping_add(90), ..short.clone() }.emit());
    let sizes: Vec<_> = coalesce(ALL, &packets).into_iter().map(|(_, octets)| octets.len()).collect();
    assert_eq!(sizes, [52 + 290, 52 + 90]);
}

#[test]
fn a_pure_acknowledgement_keeps_its_place() {
    let data = Packet::tcp(&[1; 300]).split(100);
    let ack = Packet { seq: 0xffff_ff00 + 200, ..Packet::tcp(&[]) }.emit();
    let order = [data[0].clone(), data[1].clone(), ack.clone(), data[2].clone()];
    let writes = coalesce(ALL, &order);
    let counts: Vec<_> = writes.iter().map(|(_, octets)| octets.len()).collect();
    assert_eq!(counts, [52 + 200, 52, 52 + 100]);
    assert_eq!(writes[1].1, ack);
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let mut packets = Packet { df: true, ..Packet::udp(&[1; 300]) }.split(100);
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    let back: Vec<_> = coalesce(ALL, &packets).into_iter().map(|(_, octets)| octets).collect();
    assert_eq!(back, packets);
}

#[test]
fn a_single_packet_gets_its_checksum() {
    for v6 in [false, true] {
        for tcp in [false, true] {
            let packet = Packet { v6, tcp, ..Packet::tcp(b"an odd number") };
            let (header, mut octets) = packet.emit_super(0);
            let header = VirtioNetHdr { gso_type: VirtioNetHdr::GSO_NONE, ..header };
            assert_eq!(split(header, &mut octets), [packet.emit()]);
        }
    }
}

/// A payload for which the sum over everything is 0xffff, so that the checksum comes out as zero.
#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    let mut packet = Packet::udp(&[0, 0, 1, 2]);
    let octets = packet.emit();
    packet.payload[..2].copy_from_slice(&octets[26..28]);
    let (header, mut octets) = packet.emit_super(0);
    let single = VirtioNetHdr { gso_type: VirtioNetHdr::GSO_NONE, ..header };
    assert_eq!(split(single, &mut octets)[0][26..28], [0xff, 0xff]);
    let (header, mut octets) = packet.emit_super(4);
    assert_eq!(split(header, &mut octets)[0][26..28], [0xff, 0xff]);
}

#[test]
fn what_cannot_be_split_says_why() {
    let (header, octets) = Packet::tcp(&[1; 500]).emit_super(100);
    type Change = fn(&mut VirtioNetHdr, &mut Vec<u8>);
    let rows: &[(Change, Malformed)] = &[
        (|_, p| p.clear(), Malformed::Truncated),
        (|_, p| p.truncate(19), Malformed::Truncated),
        (|_, p| p.truncate(500), Malformed::IpHeader),
        (|_, p| p[0] = 0x44, Malformed::IpHeader),
        (|_, p| p[0] = 0x15, Malformed::IpHeader),
        (|h, _| h.gso_type = VirtioNetHdr::GSO_TCPV6, Malformed::GsoType),
        (|h, _| h.gso_type = 3, Malformed::GsoType),
        (|_, p| p[9] = 17, Malformed::GsoType),
        (|_, p| p[6] = 0x20, Malformed::GsoHeader),
        (|h, _| h.gso_size = 0, Malformed::GsoHeader),
        (|h, _| h.flags = 0, Malformed::GsoHeader),
        (|h, _| h.csum_start = 24, Malformed::GsoHeader),
        (|h, _| h.csum_offset = 6, Malformed::GsoHeader),
        (|_, p| p[32] = 0x40, Malformed::GsoHeader),
        (|h, _| (h.gso_type, h.csum_offset) = (0, 5_000), Malformed::Truncated),
    ];
    for (row, (change, expected)) in rows.iter().enumerate() {
        let (mut header, mut octets) = (header, octets.clone());
        change(&mut header, &mut octets);
        assert_eq!(Segments::new(header, &mut octets).err(), Some(*expected), "row {row}");
    }
}

#[test]
fn the_ecn_bit_beside_the_type_is_no_type() {
    let packet = Packet { flags: 0x90, ..Packet::tcp(&[1; 500]) };
    let (mut header, mut octets) = packet.emit_super(100);
    header.gso_type |= VirtioNetHdr::GSO_ECN;
    assert_eq!(split(header, &mut octets), packet.split(100));
}

#[test]
fn the_offload_header_survives() {
    let header =
        VirtioNetHdr { flags: 1, gso_type: 4, hdr_len: 72, gso_size: 1_428, csum_start: 40, csum_offset: 16 };
    let octets = [&header.emit()[..], b"rest"].concat();
    assert_eq!(VirtioNetHdr::parse(&octets), Some((header, &b"rest"[..])));
    assert_eq!(VirtioNetHdr::parse(&octets[..9]), None);
}
