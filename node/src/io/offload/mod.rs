//! Segmentation offload of the TUN device, in safe code: super-packets in, super-packets out.
//!
//! ```text
//!   read:   virtio_net_hdr | IP | TCP | 64 KiB of payload      -> Segments: one inner packet after the other
//!   write:  IP|TCP|payload, IP|TCP|payload, ...                -> Coalescer: one super-packet per flow
//! ```
//!
//! ESP must see single packets, since each has its own sequence number, IV and ICV; the device and the stack behind it
//! want few large ones, since every packet costs a walk through the kernel. So we do here what a network card does
//! (TSO, USO) and what the kernel does on receive (GRO). The header is `struct virtio_net_hdr` (VIRTIO 1.2, 5.1.6), in
//! the byte order of the machine.

pub(super) mod checksum;
mod coalesce;
mod split;

use std::fmt;

pub use checksum::Sum;
pub use coalesce::Coalescer;
pub use split::Segments;

/// What the device takes and gives in one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// TCP super-packets (TSO), IPv4 and IPv6.
    pub tso: bool,
    /// UDP super-packets (USO, Linux 6.2 and later).
    pub uso: bool,
}

/// The offload header in front of each packet that is read from or written to the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioNetHdr {
    pub flags: u8,
    pub gso_type: u8,
    /// Length of all headers of a super-packet. Not to be trusted when read: forwarded packets carry other values.
    pub hdr_len: u16,
    /// Payload octets of each segment.
    pub gso_size: u16,
    /// Where the checksum begins: at the TCP or UDP header.
    pub csum_start: u16,
    /// Where it goes, counted from `csum_start`.
    pub csum_offset: u16,
}

impl VirtioNetHdr {
    pub const LEN: usize = 10;

    /// The checksum field holds the sum of the pseudo-header only.
    pub const NEEDS_CSUM: u8 = 1;

    pub const GSO_NONE: u8 = 0;
    pub const GSO_TCPV4: u8 = 1;
    pub const GSO_TCPV6: u8 = 4;
    pub const GSO_UDP_L4: u8 = 5;
    /// A bit beside the type: the flow uses ECN.
    pub const GSO_ECN: u8 = 0x80;

    /// The header and what follows it; `None` if there are too few octets.
    pub fn parse(octets: &[u8]) -> Option<(VirtioNetHdr, &[u8])> {
        let (header, rest) = octets.split_first_chunk::<{ Self::LEN }>()?;
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let header = VirtioNetHdr {
            flags: header[0],
            gso_type: header[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        };
        Some((header, rest))
    }

    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = self.flags;
        out[1] = self.gso_type;
        for (at, word) in
            [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset].into_iter().enumerate()
        {
            out[2 + 2 * at..][..2].copy_from_slice(&word.to_ne_bytes());
        }
        out
    }
}

/// Why a (super-)packet cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its own headers, or than where its checksum should go.
    Truncated,
    /// Neither IPv4 nor IPv6, or an IP header whose lengths contradict each other or the packet.
    IpHeader,
    /// A kind of segmentation that was not asked for, or that does not fit the IP version or the protocol.
    GsoType,
    /// A super-packet without a segment size or without the request to complete its checksum.
    GsoHeader,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Truncated => "the packet is shorter than its headers",
            Malformed::IpHeader => "no consistent IPv4 or IPv6 header",
            Malformed::GsoType => "a kind of segmentation that does not fit the packet",
            Malformed::GsoHeader => "an incomplete segmentation header",
        })
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
pub(crate) mod tests;
