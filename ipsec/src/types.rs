//! Distinct types for distinct numbers, so that a message ID is never taken for a sequence number.
//!
//! A segment is the top byte of every SPI that we allocate (DESIGN, Words): any node finds the segment of any
//! packet without knowing its SA.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crypto::rng::Rng;

/// The SPI of an IKE SA: eight octets, never zero once the SA exists (RFC 7296, 3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Spi(pub u64);

/// The SPI of a child SA: four octets; 0 to 255 are reserved (RFC 4303, 2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChildSpi(pub u32);

/// The number of an IKE exchange in one direction (RFC 7296, 2.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct MessageId(pub u32);

/// A full 64-bit ESP sequence number; the wire carries the low half (RFC 4303, 2.2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct EspSeq(pub u64);

/// One of 256 shares of the clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Segment(pub u8);

/// Counts the owners of a segment; it is one higher at every change of owner, restart of a node or of an actor.
/// 24 bits, because it is the upper part of every IV.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Epoch(pub u32);

/// A fresh random number that each process start commits to the log. Zero names no process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Incarnation(pub u64);

/// Counts the changes of one record. Zero: the record does not exist yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Revision(pub u64);

/// A point in time in milliseconds, as told by the caller. The engine compares them and adds to them, nothing more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Millis(pub u64);

impl Spi {
    pub fn segment(self) -> Segment {
        Segment((self.0 >> 56) as u8)
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// A random SPI of `segment` with at least one bit set.
    pub fn random(segment: Segment, rng: &mut dyn Rng) -> Spi {
        loop {
            let spi = Spi((u64::from(segment.0) << 56) | (rng.u64() >> 8));
            if !spi.is_zero() {
                return spi;
            }
        }
    }
}

impl ChildSpi {
    /// SPIs below this one are reserved by IANA and never on the wire.
    pub const FIRST: u32 = 256;

    pub fn segment(self) -> Segment {
        Segment((self.0 >> 24) as u8)
    }

    /// A random SPI of `segment`; those of segment 0 are redrawn below 256.
    pub fn random(segment: Segment, rng: &mut dyn Rng) -> ChildSpi {
        loop {
            let spi = (u32::from(segment.0) << 24) | (rng.u32() >> 8);
            if spi >= Self::FIRST {
                return ChildSpi(spi);
            }
        }
    }
}

impl Segment {
    pub const COUNT: usize = 256;

    /// FNV-1a: what it starts with, and the factor for each octet.
    pub const HASH_START: u32 = 0x811c_9dc5;
    pub const HASH_FACTOR: u32 = 0x0100_0193;

    pub fn all() -> impl Iterator<Item = Segment> {
        (0..=255).map(Segment)
    }

    /// The segment that serves an IKE_SA_INIT request: a fixed hash of where it came from and the initiator's SPI.
    /// FNV-1a: all nodes must agree, and nothing depends on strangers being unable to choose their segment.
    pub fn of_initiator(peer: SocketAddr, spi_i: Spi) -> Segment {
        let mut hash = Segment::HASH_START;
        let mut mix = |octets: &[u8]| {
            for &octet in octets {
                hash = (hash ^ u32::from(octet)).wrapping_mul(Segment::HASH_FACTOR);
            }
        };
        match peer.ip().to_canonical() {
            IpAddr::V4(ip) => mix(&ip.octets()),
            IpAddr::V6(ip) => mix(&ip.octets()),
        }
        mix(&peer.port().to_be_bytes());
        mix(&spi_i.0.to_be_bytes());
        Segment((hash ^ (hash >> 8) ^ (hash >> 16) ^ (hash >> 24)) as u8)
    }
}

impl Epoch {
    /// The last epoch that an IV can carry.
    pub const MAX: Epoch = Epoch(0x00ff_ffff);

    pub fn next(self) -> Option<Epoch> {
        (self < Epoch::MAX).then_some(Epoch(self.0 + 1))
    }
}

impl MessageId {
    /// The following ID; `None` when the SA must have been rekeyed long before.
    pub fn next(self) -> Option<MessageId> {
        self.0.checked_add(1).map(MessageId)
    }
}

impl Revision {
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl Millis {
    pub fn after(self, millis: u64) -> Millis {
        Millis(self.0.saturating_add(millis))
    }

    pub fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

macro_rules! shown_as {
    ($type:ty, $format:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}
shown_as!(Spi, "{:016x}");
shown_as!(ChildSpi, "{:08x}");
shown_as!(MessageId, "{}");
shown_as!(EspSeq, "{}");
shown_as!(Segment, "{}");
shown_as!(Epoch, "{}");
shown_as!(Incarnation, "{:016x}");
shown_as!(Revision, "{}");

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({self})")
    }
}

impl fmt::Debug for ChildSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChildSpi({self})")
    }
}
