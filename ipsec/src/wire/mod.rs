//! Bytes and their meaning: IKEv2 messages (RFC 7296, 3) and ESP packets (RFC 4303, 2).
//!
//! ```text
//!   datagram ─ classify ─┬─ Esp       ─ esp::Packet
//!                        ├─ Keepalive
//!                        ├─ Drop(reason)
//!                        └─ Ike ─ Message::parse ─ header ─ chain ─ one file per payload
//!                                                            └─ encrypted (SK) ─ open ─ chain again
//! ```
//!
//! Every payload has the same skeleton: a type with the meaning, `parse(body)` from the octets after the generic
//! header, and `emit(out)` that appends them. Parsing is strict (each length against its parent, each count against
//! `limits`), and returns an error for any octets that it does not take; nothing here panics on input, and nothing
//! knows an SA. Anything emitted parses back to an equal value.

pub mod auth;
pub mod cert;
pub mod chain;
pub mod config;
pub mod delete;
pub mod eap;
pub mod encrypted;
mod error;
pub mod esp;
pub mod fragment;
pub mod header;
pub mod id;
pub mod ke;
mod message;
pub mod nonce;
pub mod notify;
mod reader;
pub mod registry;
pub mod sa;
pub mod ts;
pub mod vendor;

pub use auth::Auth;
pub use cert::{Cert, CertReq};
pub use chain::{Payload, Payloads};
pub use config::{Config, ConfigAttribute};
pub use delete::Delete;
pub use eap::Eap;
pub use encrypted::{Encrypted, OpenError};
pub use error::ParseError;
pub use fragment::Fragment;
pub use header::Header;
pub use id::Id;
pub use ke::Ke;
pub use message::Message;
pub use nonce::Nonce;
pub use notify::Notify;
pub use registry::*;
pub use sa::{Attribute, Proposal, Sa, Transform};
pub use ts::Ts;
pub use vendor::Vendor;

use crate::limits::IKE_MESSAGE_LEN_MAX;
use crate::spec::{IKE_HEADER_LEN, NAT_KEEPALIVE, NON_ESP_MARKER};
use crate::types::ChildSpi;

/// Which of our two UDP ports a datagram came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// 500: IKE and nothing else.
    Ike,
    /// 4500: IKE behind the non-ESP marker, ESP, keepalives.
    NatT,
}

/// What a UDP datagram is, by its first octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An IKE message that starts at octet `at` (behind the marker on port 4500).
    Ike {
        at: usize,
    },
    /// A whole ESP packet.
    Esp {
        spi: ChildSpi,
    },
    /// A NAT keepalive: keeps a mapping in the peer's NAT, says nothing to us.
    Keepalive,
    Drop(DropReason),
}

/// Why a datagram is none of the above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    Empty,
    /// Too short to tell what it is.
    Runt,
    /// Shorter than an IKE header.
    IkeTruncated,
    /// Longer than `limits::IKE_MESSAGE_LEN_MAX`.
    IkeOversized,
    /// Shorter than an ESP packet can be.
    EspTruncated,
    /// An ESP SPI from 1 to 255, which no SA has.
    EspReservedSpi,
}

impl DropReason {
    pub const ALL: [DropReason; 6] = [
        DropReason::Empty,
        DropReason::Runt,
        DropReason::IkeTruncated,
        DropReason::IkeOversized,
        DropReason::EspTruncated,
        DropReason::EspReservedSpi,
    ];

    /// A metric label.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Empty => "empty",
            DropReason::Runt => "runt",
            DropReason::IkeTruncated => "ike_truncated",
            DropReason::IkeOversized => "ike_oversized",
            DropReason::EspTruncated => "esp_truncated",
            DropReason::EspReservedSpi => "esp_reserved_spi",
        }
    }
}

/// Tells what a datagram is without looking further than its first octets and its length (RFC 3948, 2).
//= IK-12
//= IK-98
//= ES-1
//= ES-28
pub fn classify(port: Port, datagram: &[u8]) -> Class {
    if datagram.is_empty() {
        return Class::Drop(DropReason::Empty);
    }
    if port == Port::Ike {
        return ike(datagram, 0);
    }
    if datagram == [NAT_KEEPALIVE] {
        return Class::Keepalive;
    }
    let Some((start, _)) = datagram.split_first_chunk::<4>() else {
        return Class::Drop(DropReason::Runt);
    };
    if *start == NON_ESP_MARKER {
        return ike(datagram, NON_ESP_MARKER.len());
    }
    classify_esp(datagram)
}

/// The same for a packet of IP protocol 50, which is ESP or nothing.
pub fn classify_esp(packet: &[u8]) -> Class {
    match esp::Packet::new(packet) {
        Ok(packet) => Class::Esp { spi: packet.spi() },
        Err(reason) => Class::Drop(reason),
    }
}

fn ike(datagram: &[u8], at: usize) -> Class {
    match datagram.len() - at {
        0..IKE_HEADER_LEN => Class::Drop(DropReason::IkeTruncated),
        IKE_HEADER_LEN..=IKE_MESSAGE_LEN_MAX => Class::Ike { at },
        _ => Class::Drop(DropReason::IkeOversized),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= test IK-12
    //= test IK-98
    //= test ES-1
    //= test ES-28
    #[test]
    fn datagrams_by_port_and_first_octets() {
        let zeros = |n: usize| vec![0u8; n];
        let esp = |spi: u32, n: usize| [&spi.to_be_bytes()[..], &vec![1; n - 4]].concat();
        for (port, datagram, class) in [
            (Port::Ike, vec![], Class::Drop(DropReason::Empty)),
            (Port::NatT, vec![], Class::Drop(DropReason::Empty)),
            (Port::Ike, zeros(27), Class::Drop(DropReason::IkeTruncated)),
            (Port::Ike, zeros(28), Class::Ike { at: 0 }),
            (Port::Ike, vec![0xff], Class::Drop(DropReason::IkeTruncated)),
            (Port::Ike, zeros(IKE_MESSAGE_LEN_MAX + 1), Class::Drop(DropReason::IkeOversized)),
            (Port::NatT, vec![0xff], Class::Keepalive),
            (Port::NatT, vec![0xfe], Class::Drop(DropReason::Runt)),
            (Port::NatT, vec![0xff, 0xff], Class::Drop(DropReason::Runt)),
            (Port::NatT, zeros(4), Class::Drop(DropReason::IkeTruncated)),
            (Port::NatT, zeros(31), Class::Drop(DropReason::IkeTruncated)),
            (Port::NatT, zeros(32), Class::Ike { at: 4 }),
            (Port::NatT, zeros(IKE_MESSAGE_LEN_MAX + 4), Class::Ike { at: 4 }),
            (Port::NatT, zeros(IKE_MESSAGE_LEN_MAX + 5), Class::Drop(DropReason::IkeOversized)),
            (Port::NatT, esp(1, 100), Class::Drop(DropReason::EspReservedSpi)),
            (Port::NatT, esp(255, 100), Class::Drop(DropReason::EspReservedSpi)),
            (Port::NatT, esp(256, esp::PACKET_LEN_MIN), Class::Esp { spi: ChildSpi(256) }),
            (Port::NatT, esp(256, esp::PACKET_LEN_MIN - 1), Class::Drop(DropReason::EspTruncated)),
            (Port::NatT, esp(0xffff_ffff, 100), Class::Esp { spi: ChildSpi(0xffff_ffff) }),
        ] {
            assert_eq!(classify(port, &datagram), class, "{port:?} {} octets", datagram.len());
        }
        assert_eq!(classify_esp(&zeros(100)), Class::Drop(DropReason::EspReservedSpi));
    }
}
