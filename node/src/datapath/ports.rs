//! The sockets of a worker, found by local address and by what they carry.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipsec::record::Path;
use ipsec::wire;

use crate::io::{Outside, SendBatch};

/// What travels through a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// UDP 500: IKE.
    Ike,
    /// UDP 4500: IKE behind a marker, ESP, keepalives.
    NatT,
    /// IP protocol 50.
    Esp,
}

/// A socket with its place in the world and what waits to be sent through it.
pub struct Port {
    /// The address that peers see. The port counts for UDP only.
    pub local: SocketAddr,
    pub carries: Carries,
    pub(super) outside: Box<dyn Outside>,
    pub(super) batch: SendBatch,
}

impl Port {
    pub fn new(local: SocketAddr, carries: Carries, outside: Box<dyn Outside>) -> Port {
        Port { local, carries, outside, batch: SendBatch::new() }
    }
}

/// What a datagram is that came this way.
pub(super) fn classify(carries: Carries, datagram: &[u8]) -> wire::Class {
    match carries {
        Carries::Ike => wire::classify(wire::Port::Ike, datagram),
        Carries::NatT => wire::classify(wire::Port::NatT, datagram),
        Carries::Esp => wire::classify_esp(datagram),
    }
}

/// The port of this service address and kind.
pub(super) fn at(ports: &[Port], local: IpAddr, carries: Carries) -> Option<&Port> {
    ports.iter().find(|port| port.carries == carries && port.local.ip() == local)
}

/// The port through which ESP packets of `path` leave.
pub(super) fn for_esp(ports: &[Port], path: &Path) -> Option<usize> {
    ports.iter().position(|port| match port.carries {
        Carries::NatT => path.encapsulates() && port.local == path.local,
        Carries::Esp => !path.encapsulates() && port.local.ip() == path.local.ip(),
        Carries::Ike => false,
    })
}

/// The port through which an IKE message leaves that goes out from `local`.
pub(super) fn for_ike(ports: &[Port], local: SocketAddr) -> Option<usize> {
    ports.iter().position(|port| port.carries != Carries::Esp && port.local == local)
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port({} {:?})", self.local, self.carries)
    }
}
