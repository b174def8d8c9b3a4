//! What routers say to a service address about packets of ours: a raw ICMP socket that hears "too big" and nothing else.
//!
//! The kernel hears it too, and cuts what it sends by itself; that helps only the node at which the message arrived.

use std::io::{self, Read};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

/// The longest message that is looked at: what routers quote is at most 1,280 octets, and the headers are all we need.
pub const MESSAGE_LEN_MAX: usize = 1_500;

/// linux/icmp.h, linux/icmpv6.h: a set bit blocks a type.
const SOL_RAW: libc::c_int = 255;
const FILTER: libc::c_int = 1;
const DESTINATION_UNREACHABLE: u32 = 3;
const PACKET_TOO_BIG: u32 = 2;

/// Hears "too big" of one family at one address.
#[derive(Debug)]
pub struct IcmpSocket {
    socket: AsyncFd<Socket>,
    ipv6: bool,
}

impl IcmpSocket {
    /// Needs CAP_NET_RAW and a tokio runtime. The address need not be assigned yet.
    pub fn open(local: IpAddr) -> io::Result<IcmpSocket> {
        let ipv6 = local.is_ipv6();
        let address = SocketAddr::new(local, 0);
        let protocol = if ipv6 { Protocol::ICMPV6 } else { Protocol::ICMPV4 };
        let socket = Socket::new(Domain::for_address(address), Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        if ipv6 {
            let mut blocked = [u32::MAX; 8];
            blocked[0] &= !(1 << PACKET_TOO_BIG);
            set(&socket, libc::IPPROTO_ICMPV6, &blocked)?;
            socket.set_freebind_v6(true)?;
        } else {
            set(&socket, SOL_RAW, &!(1u32 << DESTINATION_UNREACHABLE))?;
            socket.set_freebind_v4(true)?;
        }
        socket.bind(&address.into())?;
        // SAFETY: the socket owns its descriptor, which stays open and the same until the `AsyncFd` is dropped.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(IcmpSocket { socket, ipv6 })
    }

    /// Waits for a message; what of `buffer` it fills, from the ICMP header on.
    pub async fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let len = loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(result) = ready.try_io(|socket| socket.get_ref().read(buffer)) {
                break result?;
            }
        };
        let message = &buffer[..len];
        // A raw IPv4 socket gives the IP header as well.
        let header =
            if self.ipv6 { 0 } else { usize::from(message.first().map_or(0, |first| first & 15)) * 4 };
        Ok(message.get(header..).unwrap_or_default())
    }
}

fn set<T>(socket: &Socket, level: libc::c_int, value: &T) -> io::Result<()> {
    let len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives until the call returns; the kernel only reads it.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, FILTER, std::ptr::from_ref(value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
