//! The memory of one worker thread: datagrams received, datagrams to send, inner packets read. Safe code.
//!
//! ```text
//!   RecvBatch   [ slot 0: up to 64 KiB, several equal datagrams ][ slot 1 ]...      + a list of datagrams
//!   SendBatch   [ d d d d d d' ][ e ][ f f ]...  runs: one route, equal sizes, the last may be shorter
//!   InnerBatch  [ packet ][ super-packet of up to 64 KiB ][ packet ]...             + their offload headers
//! ```
//!
//! A slot must hold 64 KiB although most datagrams are small: with UDP_GRO the kernel hands over up to 64 KiB of equal
//! datagrams of one peer at once, and cuts off what does not fit.

use std::net::SocketAddr;
use std::ops::Range;

use super::drops::{Drop, Drops};
use super::offload::{Malformed, Segments, VirtioNetHdr};

/// Most octets in one datagram or aggregate: the limit of the IP length field.
pub const SLOT_LEN: usize = 65_536;

/// Datagrams or aggregates that one `receive` takes at most.
pub const RECV_SLOTS: usize = 32;

/// Distance of two slots: not a power of two, else the start of every slot falls into the same few cache sets.
const SLOT_STRIDE: usize = SLOT_LEN + 1_536;

/// Most datagrams of one aggregate: the kernel collects 64 (UDP_GRO_CNT_MAX), but passes on what a peer on the same
/// machine has sent with UDP_SEGMENT, and that may be 128 (UDP_MAX_SEGMENTS since Linux 6.9).
const GRO_DATAGRAMS_MAX: usize = 128;

/// Most datagrams in one batch.
pub const RECV_DATAGRAMS_MAX: usize = RECV_SLOTS * GRO_DATAGRAMS_MAX;

/// Most octets of one UDP datagram, or of one run for UDP_SEGMENT: 65,535 less the IPv4 and UDP headers.
pub const UDP_PAYLOAD_MAX: usize = 65_507;

/// Most datagrams in a run: the limit of UDP_SEGMENT before Linux 6.9.
pub const RUN_DATAGRAMS_MAX: usize = 64;

/// What the send arena holds: four full runs.
const SEND_ARENA: usize = 4 * SLOT_LEN;

/// Most runs in one batch.
const RUNS_MAX: usize = 256;

/// What the inner arena holds: small packets are packed, super-packets are few, and the whole stays in the L2 cache.
const INNER_ARENA: usize = 4 * INNER_SLOT;

/// Most packets in one inner batch.
pub const INNER_PACKETS_MAX: usize = 64;

/// Room for one read from the device: the offload header and a packet of at most 64 KiB.
pub const INNER_SLOT: usize = VirtioNetHdr::LEN + SLOT_LEN;

/// One received datagram: where it came from and where it lies in the arena of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The sender; port 0 for protocol 50.
    pub peer: SocketAddr,
    /// The TOS octet or traffic class of the outer header: DSCP and ECN.
    pub tos: u8,
    /// Came together with others in one aggregate (GRO): a filter in the kernel may have judged it by another's SPI.
    pub aggregated: bool,
    start: u32,
    len: u32,
}

impl Datagram {
    /// Where the payload lies in the arena: the octets after the UDP header, or the ESP header of protocol 50.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Datagrams received in one go.
#[derive(Debug)]
pub struct RecvBatch {
    arena: Box<[u8]>,
    datagrams: Vec<Datagram>,
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl RecvBatch {
    pub fn new() -> RecvBatch {
        RecvBatch {
            arena: vec![0; RECV_SLOTS * SLOT_STRIDE].into_boxed_slice(),
            datagrams: Vec::with_capacity(RECV_DATAGRAMS_MAX),
        }
    }

    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    pub fn datagrams(&self) -> &[Datagram] {
        &self.datagrams
    }

    /// The list and the memory, to go through the one while changing the other in place:
    ///
    /// ```
    /// # let mut batch = node::io::RecvBatch::new();
    /// let (datagrams, arena) = batch.parts();
    /// for datagram in datagrams {
    ///     let octets: &mut [u8] = &mut arena[datagram.range()];
    ///     octets.reverse();
    /// }
    /// ```
    pub fn parts(&mut self) -> (&[Datagram], &mut [u8]) {
        (&self.datagrams, &mut self.arena)
    }

    /// The memory alone, for `Inside::send`.
    pub fn arena(&mut self) -> &mut [u8] {
        &mut self.arena
    }

    pub fn clear(&mut self) {
        self.datagrams.clear();
    }

    /// The memory of one slot, to be filled and then told with `accept`.
    pub(crate) fn slot(&mut self, slot: usize) -> &mut [u8] {
        &mut self.arena[slot * SLOT_STRIDE..][..SLOT_LEN]
    }

    /// Takes what the kernel wrote into a slot: `len` octets from `skip` on, cut into datagrams of `stride` octets (the
    /// last may be shorter; 0 for one datagram). What cannot be used is counted.
    pub(crate) fn accept(&mut self, slot: usize, filled: Filled, drops: &mut Drops) {
        let Filled { peer, tos, skip, len, stride } = filled;
        if len == 0 {
            return drops.count(Drop::Empty, 1);
        }
        if skip + len > SLOT_LEN {
            return drops.count(Drop::Oversized, 1);
        }
        let stride = if stride == 0 { len } else { stride.min(len) };
        let aggregated = stride < len;
        let start = slot * SLOT_STRIDE + skip;
        let mut at = 0;
        while at < len {
            if self.datagrams.len() == RECV_DATAGRAMS_MAX {
                // More pieces than the kernel promises to aggregate: refuse rather than grow.
                drops.count(Drop::Oversized, (len - at).div_ceil(stride) as u64);
                return;
            }
            let part = stride.min(len - at);
            self.datagrams.push(Datagram {
                peer,
                tos,
                aggregated,
                start: (start + at) as u32,
                len: part as u32,
            });
            at += part;
        }
    }
}

/// What the kernel said about one filled slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    pub peer: SocketAddr,
    pub tos: u8,
    pub skip: usize,
    pub len: usize,
    pub stride: usize,
}

/// Where a datagram goes and how it is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The receiver; the port is ignored for protocol 50.
    pub peer: SocketAddr,
    /// The TOS octet or traffic class of the outer header.
    pub tos: u8,
}

/// Datagrams of one route that lie side by side; all have `stride` octets, only the last may have fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub route: Route,
    pub start: usize,
    pub len: usize,
    pub stride: usize,
}

impl Run {
    pub fn count(&self) -> usize {
        self.len.div_ceil(self.stride)
    }

    /// Whether a datagram of `len` octets may follow: the run is still of equal sizes and within the kernel's limits.
    fn takes(&self, route: &Route, len: usize) -> bool {
        self.len.is_multiple_of(self.stride)
            && len <= self.stride
            && self.len + len <= UDP_PAYLOAD_MAX
            && self.count() < RUN_DATAGRAMS_MAX
            && self.route == *route
    }

    /// The datagrams of the run as ranges of the arena.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Run { start, len, stride, .. } = *self;
        (0..len).step_by(stride).map(move |at| start + at..start + len.min(at + stride))
    }
}

/// Datagrams to be sent in one go. Write each into the space that `slot` gives, then `commit` it:
///
/// ```
/// # use node::io::{SendBatch, Route};
/// # let mut batch = SendBatch::new();
/// let route = Route { peer: ([192, 0, 2, 1], 4500).into(), tos: 0 };
/// if let Some(slot) = batch.slot(1_400) {
///     slot[..4].copy_from_slice(b"ping");
///     batch.commit(route, 4);
/// } // else: send the batch first
/// ```
///
/// Neighbours of one route with equal sizes become one run, which leaves in one piece with UDP_SEGMENT. So seal the
/// packets of one client one after the other.
#[derive(Debug)]
pub struct SendBatch {
    arena: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
    datagrams: usize,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    pub fn new() -> SendBatch {
        SendBatch {
            arena: vec![0; SEND_ARENA].into_boxed_slice(),
            used: 0,
            runs: Vec::with_capacity(RUNS_MAX),
            datagrams: 0,
        }
    }

    /// Space for a datagram of at most `max` octets (more than `UDP_PAYLOAD_MAX` never fits). `None`: the batch is
    /// full, send it first. The space holds old octets.
    pub fn slot(&mut self, max: usize) -> Option<&mut [u8]> {
        if self.runs.len() == RUNS_MAX || max > UDP_PAYLOAD_MAX {
            return None;
        }
        self.arena.get_mut(self.used..self.used + max)
    }

    /// The first `len` octets of the space last given by `slot` are a datagram for `route`.
    ///
    /// # Panics
    /// If `len` is zero or more than the slot can have had: a mistake of the caller, not of a peer.
    pub fn commit(&mut self, route: Route, len: usize) {
        assert!(len > 0 && len <= UDP_PAYLOAD_MAX && self.used + len <= self.arena.len());
        match self.runs.last_mut() {
            Some(run) if run.takes(&route, len) => run.len += len,
            _ => self.runs.push(Run { route, start: self.used, len, stride: len }),
        }
        self.used += len;
        self.datagrams += 1;
    }

    /// Copies a datagram that lies elsewhere. `false`: the batch is full, or the datagram empty or too large.
    pub fn push(&mut self, route: Route, datagram: &[u8]) -> bool {
        if datagram.is_empty() {
            return false;
        }
        let Some(slot) = self.slot(datagram.len()) else { return false };
        slot.copy_from_slice(datagram);
        self.commit(route, datagram.len());
        true
    }

    /// The number of datagrams.
    pub fn len(&self) -> usize {
        self.datagrams
    }

    pub fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    pub fn clear(&mut self) {
        self.used = 0;
        self.datagrams = 0;
        self.runs.clear();
    }

    /// Every datagram in order.
    pub fn iter(&self) -> impl Iterator<Item = (Route, &[u8])> + '_ {
        self.runs.iter().flat_map(|run| run.datagrams().map(|range| (run.route, &self.arena[range])))
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(crate) fn arena(&self) -> &[u8] {
        &self.arena
    }
}

/// Inner packets read from the device; each may be a super-packet that stands for many.
#[derive(Debug)]
pub struct InnerBatch {
    arena: Box<[u8]>,
    used: usize,
    packets: Vec<InnerPacket>,
}

#[derive(Clone, Copy, Debug)]
struct InnerPacket {
    header: VirtioNetHdr,
    start: usize,
    len: usize,
}

impl Default for InnerBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl InnerBatch {
    pub fn new() -> InnerBatch {
        InnerBatch {
            arena: vec![0; INNER_ARENA].into_boxed_slice(),
            used: 0,
            packets: Vec::with_capacity(INNER_PACKETS_MAX),
        }
    }

    /// The number of (super-)packets.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The octets of a (super-)packet as the device gave them: good enough to look up the addresses and ports.
    pub fn packet(&self, index: usize) -> &[u8] {
        let packet = &self.packets[index];
        &self.arena[packet.start..packet.start + packet.len]
    }

    /// The packets that a (super-)packet stands for, whole and with right checksums. Works in place: can be asked for
    /// once per packet.
    pub fn segments(&mut self, index: usize) -> Result<Segments<'_>, Malformed> {
        let packet = self.packets[index];
        Segments::new(packet.header, &mut self.arena[packet.start..packet.start + packet.len])
    }

    pub fn clear(&mut self) {
        self.used = 0;
        self.packets.clear();
    }

    /// Space for one read (offload header and packet), or `None` if the batch is full.
    pub(crate) fn slot(&mut self) -> Option<&mut [u8]> {
        if self.packets.len() == INNER_PACKETS_MAX {
            return None;
        }
        self.arena.get_mut(self.used..self.used + INNER_SLOT)
    }

    /// Takes the `len` octets read into the last slot. `false` if they are too short for a header and an IP packet.
    pub(crate) fn accept(&mut self, len: usize) -> bool {
        let Some((header, _)) = VirtioNetHdr::parse(&self.arena[self.used..self.used + len]) else {
            return false;
        };
        let start = self.used + VirtioNetHdr::LEN;
        let len = len - VirtioNetHdr::LEN;
        if len == 0 {
            return false;
        }
        self.packets.push(InnerPacket { header, start, len });
        // The next one starts at a cache line.
        self.used = (start + len).next_multiple_of(64);
        true
    }

    /// Adds a packet that lies elsewhere, as a test or a relay does. `false`: the batch is full or the packet too long.
    pub fn push(&mut self, header: VirtioNetHdr, packet: &[u8]) -> bool {
        if packet.len() > SLOT_LEN {
            return false;
        }
        let Some(slot) = self.slot() else { return false };
        slot[..VirtioNetHdr::LEN].copy_from_slice(&header.emit());
        slot[VirtioNetHdr::LEN..][..packet.len()].copy_from_slice(packet);
        self.accept(VirtioNetHdr::LEN + packet.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(port: u16) -> Route {
        Route { peer: ([192, 0, 2, 7], port).into(), tos: 0 }
    }

    fn filled(skip: usize, len: usize, stride: usize) -> Filled {
        Filled { peer: route(4500).peer, tos: 1, skip, len, stride }
    }

    #[test]
    fn an_aggregate_is_cut_at_its_stride() {
        // (octets, stride) -> sizes
        for (len, stride, sizes) in [
            (100, 0, vec![100]),
            (100, 100, vec![100]),
            (100, 200, vec![100]),
            (100, 40, vec![40, 40, 20]),
            (120, 40, vec![40, 40, 40]),
            (65_536, 0, vec![65_536]),
            (1, 1, vec![1]),
        ] {
            let (mut batch, mut drops) = (RecvBatch::new(), Drops::default());
            batch.accept(3, filled(0, len, stride), &mut drops);
            let got: Vec<_> = batch.datagrams().iter().map(Datagram::len).collect();
            assert_eq!(got, sizes, "{len} by {stride}");
            assert!(batch.datagrams().iter().all(|d| d.aggregated == (sizes.len() > 1)));
            assert_eq!(drops.total(), 0);
        }
    }

    #[test]
    fn datagrams_lie_side_by_side_in_their_slot() {
        let (mut batch, mut drops) = (RecvBatch::new(), Drops::default());
        for (at, octet) in batch.slot(2)[20..].iter_mut().enumerate() {
            *octet = at as u8;
        }
        batch.accept(2, filled(20, 7, 3), &mut drops);
        let (datagrams, arena) = batch.parts();
        let parts: Vec<_> = datagrams.iter().map(|d| arena[d.range()].to_vec()).collect();
        assert_eq!(parts, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    }

    #[test]
    fn bad_slots_are_counted_not_taken() {
        let (mut batch, mut drops) = (RecvBatch::new(), Drops::default());
        batch.accept(0, filled(0, 0, 0), &mut drops);
        batch.accept(0, filled(20, SLOT_LEN - 19, 0), &mut drops);
        assert_eq!((drops.get(Drop::Empty), drops.get(Drop::Oversized)), (1, 1));
        // 65,536 datagrams of one octet: more than any batch holds.
        batch.accept(0, filled(0, SLOT_LEN, 1), &mut drops);
        assert_eq!(batch.len(), RECV_DATAGRAMS_MAX);
        assert_eq!(drops.get(Drop::Oversized), 1 + (SLOT_LEN - RECV_DATAGRAMS_MAX) as u64);
    }

    #[test]
    fn equal_neighbours_of_one_route_become_a_run() {
        // (route, length) of each datagram -> (count, stride) of each run
        type Case = (&'static [(u16, usize)], &'static [(usize, usize)]);
        let cases: &[Case] = &[
            (&[(1, 100), (1, 100), (1, 100)], &[(3, 100)]),
            (&[(1, 100), (1, 100), (1, 60), (1, 100)], &[(3, 100), (1, 100)]),
            (&[(1, 60), (1, 100), (1, 100)], &[(1, 60), (2, 100)]),
            (&[(1, 100), (2, 100), (1, 100)], &[(1, 100), (1, 100), (1, 100)]),
            (&[(1, 100), (1, 60), (1, 60)], &[(2, 100), (1, 60)]),
            (&[(1, 30_000), (1, 30_000), (1, 30_000)], &[(2, 30_000), (1, 30_000)]),
        ];
        for (datagrams, runs) in cases {
            let mut batch = SendBatch::new();
            for &(port, len) in *datagrams {
                assert!(batch.push(route(port), &vec![port as u8; len]));
            }
            let got: Vec<_> = batch.runs().iter().map(|run| (run.count(), run.stride)).collect();
            assert_eq!(got, *runs, "{datagrams:?}");
            let back: Vec<_> = batch.iter().map(|(route, d)| (route.peer.port(), d.len())).collect();
            assert_eq!(back, *datagrams);
        }
    }

    #[test]
    fn a_run_has_at_most_64_datagrams_and_a_mark_of_its_own() {
        let mut batch = SendBatch::new();
        for _ in 0..65 {
            assert!(batch.push(route(1), &[0; 20]));
        }
        assert!(batch.push(Route { tos: 2, ..route(1) }, &[0; 20]));
        let got: Vec<_> = batch.runs().iter().map(Run::count).collect();
        assert_eq!(got, [64, 1, 1]);
    }

    #[test]
    fn a_full_batch_says_so() {
        let mut batch = SendBatch::new();
        assert!(batch.slot(UDP_PAYLOAD_MAX + 1).is_none());
        assert!(!batch.push(route(1), &[]));
        let mut taken = 0;
        while batch.push(route(1), &[7; 1_400]) {
            taken += 1;
        }
        assert_eq!(taken, SEND_ARENA / 1_400);
        batch.clear();
        let mut runs = 0;
        while batch.push(route(runs as u16), &[7; 8]) {
            runs += 1;
        }
        assert_eq!(runs, RUNS_MAX);
    }
}
