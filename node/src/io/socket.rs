//! What UDP and raw sockets have in common: how they are opened, and what to tell the administrator if that fails.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{RecvBatch, SendBatch};
use super::drops::Drops;
use super::filter::{self, Kept};
use super::mmsg::{Kind, Receiver, Sender};

/// Receive and send buffers in octets: 10 Gbit/s for 6 ms, as wireguard-go has it.
pub const BUFFER_LEN: usize = 7 << 20;

/// Something of the outside world could not be opened: what, why, and what to do.
#[derive(Debug)]
pub struct OpenError {
    pub doing: String,
    pub source: io::Error,
    pub help: &'static str,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.doing, self.source)
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A bound socket with its arrays and counters.
pub(super) struct Bound {
    kind: Kind,
    socket: Socket,
    receiver: Receiver,
    sender: Sender,
    pub drops: Drops,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("socket", &self.socket)
            .field("drops", &self.drops)
            .finish_non_exhaustive()
    }
}

impl Bound {
    /// Opens a non-blocking socket at `local`, which need not exist yet on this machine (IP_FREEBIND).
    pub fn open(kind: Kind, local: SocketAddr) -> Result<Bound, OpenError> {
        open(kind, local).map_err(|source| OpenError {
            doing: match kind {
                Kind::Udp => format!("listen on UDP {local}"),
                Kind::Esp => format!("listen for protocol 50 on {}", local.ip()),
            },
            help: help(&source),
            source,
        })
    }

    /// A socket that is open and bound already.
    pub fn of(kind: Kind, socket: Socket) -> Bound {
        Bound {
            kind,
            socket,
            receiver: Receiver::new(kind),
            sender: Sender::new(kind),
            drops: Drops::default(),
        }
    }

    pub fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.receiver.receive(self.socket.as_fd(), batch, &mut self.drops)
    }

    pub fn send(&mut self, batch: &mut SendBatch) -> usize {
        self.sender.send(self.socket.as_fd(), batch, &mut self.drops)
    }

    /// See `filter`.
    pub fn keep(&self, kept: &Kept, marked: bool) -> io::Result<()> {
        let ipv6 = self.socket.domain()? == Domain::IPV6;
        self.socket.attach_filter(&filter::program(self.kind, ipv6, marked, kept))
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(kind: Kind, local: SocketAddr) -> io::Result<Bound> {
    let (kind_type, protocol) = match kind {
        Kind::Udp => (Type::DGRAM, Protocol::UDP),
        Kind::Esp => (Type::RAW, Protocol::from(libc::IPPROTO_ESP)),
    };
    let socket = Socket::new(Domain::for_address(local), kind_type, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // Datagrams may be fragmented on their way (DF clear), at the path MTU that the kernel knows of: what leaves here
    // is sealed already, and a gateway that drops it would stop the tunnel.
    if local.is_ipv4() {
        socket.set_freebind_v4(true)?;
        socket.set_recv_tos_v4(true)?;
        set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    } else {
        if kind == Kind::Udp {
            // For raw sockets it is so without asking.
            socket.set_only_v6(true)?;
        }
        socket.set_freebind_v6(true)?;
        socket.set_recv_tclass_v6(true)?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT)?;
    }
    set(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    if kind == Kind::Udp {
        // Missing before Linux 5.0: then every datagram comes alone. UDP_ENCAP is another thing and never set here: it
        // would give what is not IKE to the kernel's own IPsec.
        let _ = set(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    }
    // The forced forms go beyond the system's limit, which is small, but need CAP_NET_ADMIN.
    if set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER_LEN as i32).is_err() {
        socket.set_recv_buffer_size(BUFFER_LEN)?;
    }
    if set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER_LEN as i32).is_err() {
        socket.set_send_buffer_size(BUFFER_LEN)?;
    }
    socket.bind(&local.into())?;
    Ok(Bound::of(kind, socket))
}

fn set(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one int from a place that outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn help(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "another IKE daemon uses it: stop it (systemctl stop strongswan, ss -ulpn)",
        Some(libc::EACCES | libc::EPERM) => {
            "run as root, or grant CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE"
        }
        Some(libc::EAFNOSUPPORT) => {
            "this kernel has no such address family: remove the service address of that family"
        }
        Some(libc::EADDRNOTAVAIL) => "take an address that a host can have",
        _ => "run `pontoon doctor`",
    }
}
