//! UDP sockets at the service address: IKE on port 500, IKE and ESP on port 4500 (RFC 3948).
//!
//! Received with recvmmsg and UDP_GRO: the kernel hands over up to 64 equal datagrams of a peer as one. It only
//! aggregates those with a checksum; peers that send zero checksums, as RFC 3948 allows over IPv4, come one by one. We
//! send with checksums: UDP_SEGMENT cannot do without, and where the network card does them they cost nothing.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::mmsg::Kind;
use super::socket::{Bound, OpenError};
use super::{Drops, Kept, Outside, RecvBatch, SendBatch};

/// A UDP socket of one service address and port.
#[derive(Debug)]
pub struct UdpSocket(Bound);

impl UdpSocket {
    /// Binds to `local`, which need not be assigned to a device yet. Port 0 takes any, for tests.
    pub fn open(local: SocketAddr) -> Result<UdpSocket, OpenError> {
        Bound::open(Kind::Udp, local).map(UdpSocket)
    }

    /// The address and port that it is bound to.
    pub fn local(&self) -> io::Result<SocketAddr> {
        let address = self.0.socket().local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// A handle for those who send now and then, from any thread: IKE replies.
    pub fn handle(&self) -> io::Result<UdpHandle> {
        Ok(UdpHandle(Arc::new(self.0.socket().try_clone()?.into())))
    }
}

impl Outside for UdpSocket {
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

/// Sends single datagrams from the address and port of a `UdpSocket`.
#[derive(Clone, Debug)]
pub struct UdpHandle(Arc<StdUdpSocket>);

impl UdpHandle {
    /// Sends one datagram, at once or not at all.
    pub fn send(&self, peer: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.0.send_to(datagram, peer).map(|_| ())
    }

    /// The same socket for a thread that sends batches.
    pub fn sender(&self) -> io::Result<UdpSocket> {
        Ok(UdpSocket(Bound::of(Kind::Udp, self.0.try_clone()?.into())))
    }
}
