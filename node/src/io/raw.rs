//! Raw sockets at the service address for ESP without UDP: IP protocol 50 (RFC 4303, 3.1).
//!
//! The kernel reassembles fragments before it hands packets over and has no ESP of its own here, so it does not answer
//! for us. There is no segmentation offload for protocol 50: one datagram, one message, many in one call.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::mmsg::Kind;
use super::socket::{Bound, OpenError};
use super::{Drops, Kept, Outside, RecvBatch, SendBatch};

/// A socket for protocol 50 of one service address. Ports in routes mean nothing here.
#[derive(Debug)]
pub struct EspSocket(Bound);

impl EspSocket {
    /// Binds to `local`, which need not be assigned to a device yet.
    pub fn open(local: IpAddr) -> Result<EspSocket, OpenError> {
        Bound::open(Kind::Esp, SocketAddr::new(local, 0)).map(EspSocket)
    }
}

impl Outside for EspSocket {
    fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.0.receive(batch)
    }

    fn send(&mut self, batch: &mut SendBatch) -> usize {
        self.0.send(batch)
    }

    fn keep(&mut self, kept: &Kept, marked: bool) -> io::Result<()> {
        self.0.keep(kept, marked)
    }

    fn drops(&self) -> &Drops {
        &self.0.drops
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.fd())
    }
}
