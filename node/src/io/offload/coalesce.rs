//! From consecutive packets of a flow to one super-packet (what the kernel calls GRO), without copying a payload.
//!
//! ```text
//!   arena:   | IP TCP payload 0 |  ...  | IP TCP payload 1 |  ...  | IP TCP payload 2 |     as they were decrypted
//!   write:     offload header, IP TCP payload 0, payload 1, payload 2                       pieces of one writev
//! ```
//!
//! The rules are those of `tcp_gro_receive` and of wireguard-go: same addresses, ports, TTL, TOS and TCP options, same
//! flags, acknowledgement and window, sequence numbers without a gap, all payloads of one size but for a shorter last.
//! A super-packet gets new checksums, so those of its packets are verified first: a broken packet goes on alone and
//! broken, for the receiver to see. Packets of one flow keep their order; flows may pass each other.

use std::ops::Range;

use super::checksum::Sum;
use super::{Offload, VirtioNetHdr};
use crate::io::batch::RECV_DATAGRAMS_MAX;

/// Most octets of a super-packet with its headers.
const SUPER_MAX: usize = 65_535;

/// Most UDP datagrams of a super-packet: the limit of the kernel that splits it again (UDP_MAX_SEGMENTS, once 64).
const UDP_PACKETS_MAX: u32 = 64;

/// Most TCP segments of a super-packet: a limit for the pieces of one write.
const TCP_PACKETS_MAX: u32 = 512;

/// Flows remembered while a batch is collected, a power of two. Two flows at one place only cost the merging.
const FLOWS: usize = 256;

const NONE: u32 = u32::MAX;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// Collects inner packets, which are ranges of one arena, for one `Inside::send`.
#[derive(Debug)]
pub struct Coalescer {
    offload: Offload,
    /// What will be written, in order.
    items: Vec<Item>,
    /// Payloads that follow the first packet of an item.
    tails: Vec<Tail>,
    /// The latest item of a flow, by the flow's hash.
    flows: Box<[u32; FLOWS]>,
    packets: usize,
    written: usize,
    pieces: Vec<Range<usize>>,
}

/// One write: a packet, or a super-packet that begins with it.
#[derive(Debug)]
struct Item {
    start: usize,
    len: usize,
    /// Set for the packets that may be merged.
    flow: Option<Flow>,
    /// Nothing may follow any more.
    closed: bool,
    /// The checksum of the first packet is known to be right.
    verified: bool,
    count: u32,
    /// Octets of the super-packet with its headers.
    total: usize,
    /// FIN and PSH of the last segment.
    last_flags: u8,
    first_tail: u32,
    last_tail: u32,
}

#[derive(Debug)]
struct Tail {
    start: usize,
    len: usize,
    next: u32,
}

/// Where things are in a packet that may be merged.
#[derive(Clone, Copy, Debug)]
struct Flow {
    tcp: bool,
    /// Where the TCP or UDP header begins.
    transport: usize,
    /// Where the payload begins.
    payload: usize,
    /// The place of the flow in the table.
    place: usize,
    /// May start or continue a super-packet; else it only ends that of its flow.
    mergeable: bool,
    /// Nothing may follow it.
    last: bool,
}

impl Coalescer {
    /// Builds no super-packet that the device would not take.
    pub fn new(offload: Offload) -> Coalescer {
        Coalescer {
            offload,
            items: Vec::with_capacity(RECV_DATAGRAMS_MAX),
            tails: Vec::with_capacity(RECV_DATAGRAMS_MAX),
            flows: Box::new([NONE; FLOWS]),
            packets: 0,
            written: 0,
            pieces: Vec::with_capacity(TCP_PACKETS_MAX as usize),
        }
    }

    /// Adds an inner packet: `range` of the arena, from its IP header to its end without ESP padding. The octets must
    /// stay as they are until the packets are sent.
    pub fn push(&mut self, arena: &[u8], range: Range<usize>) {
        self.packets += 1;
        let packet = &arena[range.clone()];
        let flow = Flow::of(packet, self.offload);
        let item = self.items.len() as u32;
        let mut verified = false;
        if let Some(flow) = flow {
            match self.append(arena, range.clone(), flow) {
                Appended::Yes => return,
                Appended::No { right } => verified = right,
            }
            self.flows[flow.place] = item;
        }
        self.items.push(Item {
            start: range.start,
            len: range.len(),
            flow,
            closed: flow.is_none_or(|flow| !flow.mergeable || flow.last),
            verified,
            count: 1,
            total: range.len(),
            last_flags: 0,
            first_tail: NONE,
            last_tail: NONE,
        });
    }

    /// The number of packets pushed since it was last emptied.
    pub fn len(&self) -> usize {
        self.packets
    }

    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    pub fn clear(&mut self) {
        self.items.clear();
        self.tails.clear();
        self.flows.fill(NONE);
        self.packets = 0;
        self.written = 0;
    }

    /// The next write: its offload header and the pieces of the arena that follow it. Rewrites the headers of a
    /// super-packet in the arena.
    pub(crate) fn next_write(&mut self, arena: &mut [u8]) -> Option<Write<'_>> {
        let item = self.items.get(self.written)?;
        self.written += 1;
        self.pieces.clear();
        self.pieces.push(item.start..item.start + item.len);
        let mut tail = item.first_tail;
        while let Some(Tail { start, len, next }) = self.tails.get(tail as usize) {
            self.pieces.push(*start..start + len);
            tail = *next;
        }
        let header = match item.flow {
            Some(flow) if item.count > 1 => {
                write_super_headers(&mut arena[item.start..][..item.len], item, flow)
            }
            _ => VirtioNetHdr::default(),
        };
        Some(Write { header, pieces: &self.pieces, packets: item.count as usize })
    }

    /// Appends a packet to the latest super-packet of its flow, if it is the next one there.
    fn append(&mut self, arena: &[u8], range: Range<usize>, flow: Flow) -> Appended {
        const NO: Appended = Appended::No { right: false };
        let packet = &arena[range.clone()];
        let Some(item) = self.items.get_mut(self.flows[flow.place] as usize) else { return NO };
        let head = &arena[item.start..item.start + item.len];
        let Some(head_flow) = item.flow else { return NO };
        if item.closed || !flow.mergeable || !is_next(head, head_flow, item, packet, flow) {
            return NO;
        }
        if !flow.is_right(packet) {
            return NO;
        }
        if !item.verified {
            item.verified = head_flow.is_right(head);
            if !item.verified {
                return Appended::No { right: true };
            }
        }
        let size = item.len - head_flow.payload;
        let len = range.len() - flow.payload;
        let tail = self.tails.len() as u32;
        self.tails.push(Tail { start: range.start + flow.payload, len, next: NONE });
        match self.tails.get_mut(item.last_tail as usize) {
            Some(last) => last.next = tail,
            None => item.first_tail = tail,
        }
        item.last_tail = tail;
        item.total += len;
        item.count += 1;
        item.closed = flow.last || len < size;
        if flow.tcp {
            item.last_flags = packet[flow.transport + 13] & (FIN | PSH);
        }
        Appended::Yes
    }
}

enum Appended {
    Yes,
    /// `right`: the checksum of the packet was found right nevertheless.
    No {
        right: bool,
    },
}

/// One write to the device.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub header: VirtioNetHdr,
    pub pieces: &'a [Range<usize>],
    /// How many of the packets that were pushed it stands for.
    pub packets: usize,
}

impl Flow {
    /// `None`: not TCP or UDP in a plain IP header, or of a kind that the device does not take as super-packet.
    fn of(packet: &[u8], offload: Offload) -> Option<Flow> {
        let (transport, protocol) = match packet.first()? {
            // No IP options, no fragments.
            0x45 if packet.len() >= 20 => {
                let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff;
                (total == packet.len() && fragment == 0).then_some((20, packet[9]))?
            }
            0x60..=0x6f if packet.len() >= 40 => {
                let payload = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
                (payload + 40 == packet.len()).then_some((40, packet[6]))?
            }
            _ => return None,
        };
        let addresses = if transport == 20 { &packet[12..20] } else { &packet[8..40] };
        let header = &packet[transport..];
        let (payload, mergeable, last) = match protocol {
            TCP if offload.tso && header.len() >= 20 => {
                let header_len = usize::from(header[12] >> 4) * 4;
                if header_len < 20 || header_len > header.len() {
                    return None;
                }
                let flags = header[13];
                // CWR, too: it marks the first segment after a reduction, not a whole super-packet.
                let usual = flags & !(FIN | PSH | ECE) == ACK;
                (transport + header_len, usual && header.len() > header_len, flags & (FIN | PSH) != 0)
            }
            UDP if offload.uso && header.len() >= 8 => {
                let whole = usize::from(u16::from_be_bytes([header[4], header[5]])) == header.len();
                // Without a checksum it must stay without one.
                let summed = header[6..8] != [0; 2];
                (transport + 8, whole && summed && header.len() > 8, false)
            }
            _ => return None,
        };
        let place = place(addresses, &header[..4], protocol);
        Some(Flow { tcp: protocol == TCP, transport, payload, place, mergeable, last })
    }

    /// The sum of the pseudo-header of a packet whose transport part has `len` octets (RFC 9293, 3.1; RFC 8200, 8.1).
    fn pseudo(&self, packet: &[u8], len: usize) -> Sum {
        let addresses = if self.transport == 20 { &packet[12..20] } else { &packet[8..40] };
        let protocol = if self.tcp { TCP } else { UDP };
        Sum::default().octets(addresses).word(u16::from(protocol)).word(len as u16)
    }

    /// Whether the checksums of IP, TCP and UDP are right.
    fn is_right(&self, packet: &[u8]) -> bool {
        let transport = &packet[self.transport..];
        let ip_right = self.transport == 40 || Sum::default().octets(&packet[..20]).is_right();
        ip_right && self.pseudo(packet, transport.len()).octets(transport).is_right()
    }
}

/// A place in the table for a flow. Not secret: who makes places collide only loses the merging of his own flows and
/// slows those that share the place.
fn place(addresses: &[u8], ports: &[u8], protocol: u8) -> usize {
    let mut hash = u32::from(protocol);
    for word in addresses.as_chunks::<4>().0.iter().chain(ports.as_chunks::<4>().0) {
        hash = (hash ^ u32::from_ne_bytes(*word)).wrapping_mul(0x9e37_79b1).rotate_left(13);
    }
    hash = hash.wrapping_mul(0x9e37_79b1);
    (hash >> (u32::BITS - FLOWS.ilog2())) as usize
}

/// Whether `packet` continues the super-packet that begins with `head`.
fn is_next(head: &[u8], head_flow: Flow, item: &Item, packet: &[u8], flow: Flow) -> bool {
    let size = head.len() - head_flow.payload;
    let len = packet.len() - flow.payload;
    let most = if flow.tcp { TCP_PACKETS_MAX } else { UDP_PACKETS_MAX };
    flow.tcp == head_flow.tcp
        && flow.transport == head_flow.transport
        && flow.payload == head_flow.payload
        && len <= size
        && item.total + len <= SUPER_MAX
        && item.count < most
        && same_ip(head, packet, item.count)
        && if flow.tcp {
            let headers = flow.transport..flow.payload;
            next_segment(&head[headers.clone()], &packet[headers], item.total - flow.payload)
        } else {
            head[flow.transport..][..4] == packet[flow.transport..][..4]
        }
}

/// Same addresses and the same treatment on the way. The identification must go up by one, as it will when the
/// super-packet is split again; where fragmentation is forbidden it means nothing (RFC 6864, 4.1).
fn same_ip(head: &[u8], packet: &[u8], count: u32) -> bool {
    if head[0] != packet[0] {
        return false;
    }
    if head[0] >> 4 == 6 {
        return head[1..4] == packet[1..4] && head[6..40] == packet[6..40];
    }
    const DF: u8 = 0x40;
    let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
    head[1] == packet[1]
        && head[6..10] == packet[6..10]
        && head[12..20] == packet[12..20]
        && (head[6] & DF != 0 || id(packet) == id(head).wrapping_add(count as u16))
}

/// Same ports, acknowledgement, flags, window and options, and the sequence number after `payload` octets.
fn next_segment(head: &[u8], segment: &[u8], payload: usize) -> bool {
    let seq = |header: &[u8]| u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    head[..4] == segment[..4]
        && head[8..13] == segment[8..13]
        && (head[13] ^ segment[13]) & !(FIN | PSH) == 0
        && head[14..16] == segment[14..16]
        && head[18..] == segment[18..]
        && seq(segment) == seq(head).wrapping_add(payload as u32)
}

/// Makes the first packet's headers those of the super-packet; what the device is told about it.
fn write_super_headers(packet: &mut [u8], item: &Item, flow: Flow) -> VirtioNetHdr {
    let size = packet.len() - flow.payload;
    let transport_len = item.total - flow.transport;
    let (gso_type, csum_offset) = match (flow.tcp, flow.transport) {
        (true, 20) => (VirtioNetHdr::GSO_TCPV4, 16),
        (true, _) => (VirtioNetHdr::GSO_TCPV6, 16),
        (false, _) => (VirtioNetHdr::GSO_UDP_L4, 6),
    };
    if flow.transport == 20 {
        packet[2..4].copy_from_slice(&(item.total as u16).to_be_bytes());
        packet[10..12].fill(0);
        let checksum = Sum::default().octets(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum);
    } else {
        packet[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
    }
    if flow.tcp {
        packet[flow.transport + 13] |= item.last_flags;
    } else {
        packet[flow.transport + 4..][..2].copy_from_slice(&(transport_len as u16).to_be_bytes());
    }
    // The device completes it: the field has the pseudo-header's sum, not complemented.
    let pseudo = flow.pseudo(packet, transport_len).folded();
    packet[flow.transport + csum_offset..][..2].copy_from_slice(&pseudo);
    VirtioNetHdr {
        flags: VirtioNetHdr::NEEDS_CSUM,
        gso_type,
        hdr_len: flow.payload as u16,
        gso_size: size as u16,
        csum_start: flow.transport as u16,
        csum_offset: csum_offset as u16,
    }
}
