//! A packet socket on one device: Ethernet frames of one kind, for answering ARP and neighbour discovery, and for tests
//! of reception.
//!
//! The kernel filters: the socket wakes only for ARP, or only for neighbour discovery. packet(7).

use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

/// The longest frame that we read; both kinds are far shorter.
pub const FRAME_LEN_MAX: usize = 1_514;

/// Which frames a socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    Arp,
    /// ICMPv6 neighbour solicitations and advertisements without extension headers (RFC 4861, 4.3 and 4.4).
    Neighbour,
    /// IP packets of `TEST_PROTOCOL`.
    Test4,
    Test6,
}

/// For experiments (RFC 3692, 2.1): no host has a use for it.
pub const TEST_PROTOCOL: u8 = 253;

/// Sends and receives Ethernet frames of one device.
#[derive(Debug)]
pub struct PacketSocket {
    socket: AsyncFd<Socket>,
    link: i32,
}

impl PacketSocket {
    /// Needs CAP_NET_RAW and a tokio runtime; works in the network namespace of the calling thread.
    pub fn open(link: u32, frames: Frames) -> io::Result<PacketSocket> {
        let link = i32::try_from(link).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Protocol 0 receives nothing: the filter stands before the first frame can come.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&filter(frames))?;
        socket.bind(&address(link, frames)?)?;
        // SAFETY: the socket owns its descriptor, which stays open and the same until the `AsyncFd` is dropped.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(PacketSocket { socket, link })
    }

    /// Lets frames to a multicast address in, as long as the socket lives.
    pub fn join(&self, group: [u8; 6]) -> io::Result<()> {
        let mut request = libc::packet_mreq {
            mr_ifindex: self.link,
            mr_type: libc::PACKET_MR_MULTICAST as u16,
            mr_alen: group.len() as u16,
            mr_address: [0; 8],
        };
        request.mr_address[..group.len()].copy_from_slice(&group);
        // SAFETY: the pointer and the length describe `request`, which lives until the call returns.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                mem::size_of_val(&request) as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for a frame; the number of its octets. A longer frame than `frame` is cut.
    pub async fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(result) = ready.try_io(|socket| socket.get_ref().read(frame)) {
                return result;
            }
        }
    }

    /// Sends a frame with its Ethernet header.
    pub async fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            let mut ready = self.socket.writable().await?;
            if let Ok(result) = ready.try_io(|socket| socket.get_ref().write(frame)) {
                return result.map(|_| ());
            }
        }
    }
}

fn ethertype(frames: Frames) -> i32 {
    match frames {
        Frames::Arp => libc::ETH_P_ARP,
        Frames::Test4 => libc::ETH_P_IP,
        Frames::Neighbour | Frames::Test6 => libc::ETH_P_IPV6,
    }
}

fn address(link: i32, frames: Frames) -> io::Result<SockAddr> {
    // SAFETY: the storage is zeroed and larger than a `sockaddr_ll`, which has no padding that must be set and is
    // valid for all zeros; the length written is that of the type.
    let (_, address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_protocol = (ethertype(frames) as u16).to_be();
            (*address).sll_ifindex = link;
            *len = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}

/// Classic BPF over the frame from its Ethernet header on.
fn filter(frames: Frames) -> Vec<SockFilter> {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let accept = SockFilter::new(RETURN, 0, 0, FRAME_LEN_MAX as u32);
    let reject = SockFilter::new(RETURN, 0, 0, 0);
    match frames {
        Frames::Arp => vec![
            SockFilter::new(LOAD_HALF, 0, 0, 12),
            SockFilter::new(JUMP_EQUAL, 0, 1, libc::ETH_P_ARP as u32),
            accept,
            reject,
        ],
        // The protocol, or the next header, behind 14 octets of Ethernet.
        Frames::Test4 | Frames::Test6 => vec![
            SockFilter::new(LOAD_BYTE, 0, 0, if frames == Frames::Test4 { 14 + 9 } else { 14 + 6 }),
            SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(TEST_PROTOCOL)),
            accept,
            reject,
        ],
        Frames::Neighbour => vec![
            SockFilter::new(LOAD_HALF, 0, 0, 12),
            SockFilter::new(JUMP_EQUAL, 0, 6, libc::ETH_P_IPV6 as u32),
            // Next header, behind 14 octets of Ethernet.
            SockFilter::new(LOAD_BYTE, 0, 0, 14 + 6),
            SockFilter::new(JUMP_EQUAL, 0, 4, libc::IPPROTO_ICMPV6 as u32),
            // Type, behind 40 octets of IPv6.
            SockFilter::new(LOAD_BYTE, 0, 0, 14 + 40),
            SockFilter::new(JUMP_EQUAL, 1, 0, 135),
            SockFilter::new(JUMP_EQUAL, 0, 1, 136),
            accept,
            reject,
        ],
    }
}
