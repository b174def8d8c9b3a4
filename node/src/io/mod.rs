//! The outside world of a worker thread: datagrams on one side, inner packets on the other, both in batches.
//!
//! ```text
//!   client --- UDP 4500, protocol 50 ---> [Outside] RecvBatch -> open in place -> Coalescer -> [Inside] TUN
//!   client <-- UDP 4500, protocol 50 ---- [Outside] SendBatch <- seal <- Segments <- InnerBatch <- [Inside] TUN
//! ```
//!
//! Two traits with Linux versions (`udp`, `raw`, `tun`) and memory versions (`fake`). The batches own all memory and
//! are reused, so nothing is allocated per call. What cannot be used is dropped and counted by reason (`Drops`).
//! This folder is the only place of the project with `unsafe`; each block says why it holds.
#![allow(unsafe_code)] // system calls: recvmmsg, sendmmsg, ioctl, epoll and clock_gettime have no safe wrapper in std

pub mod batch;
pub mod clock;
pub mod drops;
pub mod fake;
pub mod filter;
pub mod icmp;
pub mod linkwatch;
mod mmsg;
pub mod netlink;
pub mod nftables;
pub mod offload;
pub mod packet;
pub mod poll;
pub mod raw;
pub mod socket;
pub mod tun;
pub mod udp;

use std::io;
use std::os::fd::BorrowedFd;

pub use batch::{Datagram, InnerBatch, RecvBatch, Route, SendBatch};
pub use drops::{Drop, Drops};
pub use filter::Kept;
pub use linkwatch::LinkWatch;
pub use offload::{Coalescer, Malformed, Offload, Segments, VirtioNetHdr};
pub use poll::{Poller, Waker};
pub use raw::EspSocket;
pub use socket::OpenError;
pub use tun::{TunDevice, TunOptions};
pub use udp::{UdpHandle, UdpSocket};

/// A socket towards the clients: UDP at one port, or protocol 50, of one address family.
pub trait Outside: Send {
    /// Replaces what is in `batch` by what waits in the socket; the number of datagrams, 0 if nothing waits.
    /// Never blocks. An error means that the socket is of no further use.
    fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<usize>;

    /// Sends the whole batch and empties it; the number of datagrams that the kernel took. The others are counted
    /// in `drops`. Waits at most a few milliseconds for room in the send buffer.
    fn send(&mut self, batch: &mut SendBatch) -> usize;

    /// Lets the kernel throw away what belongs to other segments. `marked`: IKE stands behind a marker here.
    fn keep(&mut self, kept: &Kept, marked: bool) -> io::Result<()>;

    /// What was dropped since the start.
    fn drops(&self) -> &Drops;

    /// What to wait on until `receive` has something; `None` for a fake.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// The device towards the protected network.
pub trait Inside: Send {
    /// Replaces what is in `batch` by what waits in the device; the number of (super-)packets, 0 if nothing waits.
    /// Never blocks. An error means that the device is gone.
    fn receive(&mut self, batch: &mut InnerBatch) -> io::Result<usize>;

    /// Writes all packets of the coalescer, which are ranges of `arena`, and empties it; the number of packets
    /// (before coalescing) that the kernel took. The others are counted in `drops`.
    fn send(&mut self, arena: &mut [u8], packets: &mut Coalescer) -> usize;

    /// What the device can take in one write.
    fn offload(&self) -> Offload;

    /// What was dropped since the start.
    fn drops(&self) -> &Drops;

    /// What to wait on until `receive` has something; `None` for a fake.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;
