//! A UDP datagram with IKE in it, as the engine sees it: two endpoints and the octets.
//!
//! The octets start at the IKE header. The non-ESP marker of port 4500 (RFC 3948, 2.2) belongs to the transport:
//! whoever owns the sockets removes it on the way in and adds it on the way out, by the local port.

use std::net::SocketAddr;

/// One IKE message between `local` (an address of ours) and `peer`, in either direction.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Datagram {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// From the IKE header on.
    pub octets: Vec<u8>,
}

impl Datagram {
    pub fn new(local: SocketAddr, peer: SocketAddr, octets: Vec<u8>) -> Datagram {
        Datagram { local, peer, octets }
    }

    /// A datagram that goes back where this one came from.
    pub fn reply(&self, octets: Vec<u8>) -> Datagram {
        Datagram { local: self.local, peer: self.peer, octets }
    }
}

/// Messages are long and mostly ciphertext: their length is what helps.
impl std::fmt::Debug for Datagram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Datagram({} <-> {}, {} octets)", self.local, self.peer, self.octets.len())
    }
}
