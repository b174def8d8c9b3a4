//! The TUN device: the way to the protected network, in super-packets.
//!
//! The `tun` crate creates and configures it (IFF_VNET_HDR); offloads are set on its descriptor, and we read and write
//! that directly. The device belongs to this process alone and vanishes with it: with it go the service address and
//! the routes through it, so a crashed node answers nothing. A device of that name that exists already is refused: if
//! it is persistent it would outlive us and keep the offloads of its last user, and if it is in use we would share it.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tun::AbstractDevice;

use super::socket::OpenError;
use super::{Coalescer, Drop, Drops, InnerBatch, Inside, Offload, VirtioNetHdr};

/// How a device is to be made.
#[derive(Clone, Debug)]
pub struct TunOptions {
    /// At most 15 octets, as for any device.
    pub name: String,
    /// In octets, of an inner packet.
    pub mtu: u16,
    /// Packets that the kernel keeps for us. The default of 500 loses bursts.
    pub queue_len: u32,
    /// Whether to ask for super-packets; without, every packet comes and goes alone.
    pub offload: bool,
}

impl TunOptions {
    pub fn new(name: &str, mtu: u16) -> TunOptions {
        TunOptions { name: name.to_owned(), mtu, queue_len: 2_000, offload: true }
    }
}

/// A TUN device of this process, up, without addresses.
pub struct TunDevice {
    device: tun::Device,
    name: String,
    offload: Offload,
    drops: Drops,
    parts: Vec<libc::iovec>,
}

// SAFETY: `parts` holds raw pointers only during `send`; between calls it is empty.
unsafe impl Send for TunDevice {}

impl std::fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TunDevice { name, offload, drops, .. } = self;
        f.debug_struct("TunDevice")
            .field("name", name)
            .field("offload", offload)
            .field("drops", drops)
            .finish()
    }
}

impl TunDevice {
    pub fn open(options: &TunOptions) -> Result<TunDevice, OpenError> {
        open(options).map_err(|source| OpenError {
            doing: format!("create the TUN device {}", options.name),
            help: match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
                    "/dev/net/tun is missing: load the module (modprobe tun), or pass the device to the container"
                }
                Some(libc::EACCES | libc::EPERM) => "run as root, or grant CAP_NET_ADMIN",
                Some(libc::EEXIST | libc::EBUSY) => {
                    "stop the other pontoon, delete the device (ip link delete), or take another name"
                }
                Some(libc::EINVAL) => "take a device name of at most 15 octets and an MTU of 68 or more",
                _ => "run `pontoon doctor`",
            },
            source,
        })
    }

    /// The name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, by which netlink knows it.
    pub fn index(&self) -> io::Result<u32> {
        match index_of(&self.name)? {
            Some(index) => Ok(index),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn read(&mut self, slot: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the kernel writes at most as many octets as the slot has.
        let len = unsafe { libc::read(self.device.as_raw_fd(), slot.as_mut_ptr().cast(), slot.len()) };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    }
}

impl Inside for TunDevice {
    fn receive(&mut self, batch: &mut InnerBatch) -> io::Result<usize> {
        batch.clear();
        while let Some(slot) = batch.slot() {
            match self.read(slot) {
                Ok(len) if batch.accept(len) => {}
                Ok(_) => self.drops.count(Drop::BadSuperPacket, 1),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::EINTR) => {}
                    // What was read before the device went away is still worth having; the next call tells.
                    _ if !batch.is_empty() => break,
                    _ => return Err(error),
                },
            }
        }
        Ok(batch.len())
    }

    fn send(&mut self, arena: &mut [u8], packets: &mut Coalescer) -> usize {
        let mut taken = 0;
        while let Some(write) = packets.next_write(arena) {
            let header = write.header.emit();
            self.parts.clear();
            self.parts.push(part(&header));
            self.parts.extend(write.pieces.iter().map(|piece| part(&arena[piece.clone()])));
            let expected = VirtioNetHdr::LEN + write.pieces.iter().map(|piece| piece.len()).sum::<usize>();
            let written = loop {
                // SAFETY: every part points to octets of `header` or `arena`, both alive and unchanged during the
                // call; the kernel only reads them, although the C struct has a pointer to mutable memory.
                let written = unsafe {
                    libc::writev(
                        self.device.as_raw_fd(),
                        self.parts.as_ptr(),
                        self.parts.len() as libc::c_int,
                    )
                };
                if written >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    break written;
                }
            };
            if usize::try_from(written) == Ok(expected) {
                taken += write.packets;
            } else {
                self.drops.count(Drop::DeviceRefused, write.packets as u64);
            }
        }
        self.parts.clear();
        packets.clear();
        taken
    }

    fn offload(&self) -> Offload {
        self.offload
    }

    fn drops(&self) -> &Drops {
        &self.drops
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the descriptor is open as long as the device lives, and the borrow ends before it.
        Some(unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) })
    }
}

fn part(octets: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: octets.as_ptr().cast_mut().cast(), iov_len: octets.len() }
}

fn open(options: &TunOptions) -> io::Result<TunDevice> {
    if index_of(&options.name)?.is_some() {
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(&options.name).mtu(options.mtu).up();
    configuration.platform_config(|platform| {
        platform.vnet_hdr(true);
    });
    let device = tun::create(&configuration).map_err(plain)?;
    let name = device.tun_name().map_err(plain)?;
    device.set_nonblock()?;
    let fd = device.as_raw_fd();

    let mut header_len = VirtioNetHdr::LEN as libc::c_int;
    // SAFETY: the kernel reads one int from a valid place.
    check(unsafe { libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw mut header_len) })?;
    let offload = set_offload(fd, options.offload)?;
    set_queue_len(index_of(&name)?.unwrap_or_default(), options.queue_len)?;
    // The longest write: the offload header, and as many pieces as the shortest segments of a super-packet.
    let parts = Vec::with_capacity(1_024);
    Ok(TunDevice { device, name, offload, drops: Drops::default(), parts })
}

/// Asks for as much as the kernel has: super-packets for TCP and UDP, then for TCP alone, then none.
fn set_offload(fd: libc::c_int, wanted: bool) -> io::Result<Offload> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let choices = [
        (tcp | udp, Offload { tso: true, uso: true }),
        (tcp, Offload { tso: true, uso: false }),
        (0, Offload::default()),
    ];
    let choices = if wanted { &choices[..] } else { &choices[2..] };
    let mut result = Ok(Offload::default());
    for &(flags, offload) in choices {
        // SAFETY: this request takes its flags by value.
        result = check(unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
            .map(|()| offload);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Over netlink (RTM_NEWLINK with IFLA_TXQLEN), since the ioctl is not allowed to the root of a user namespace.
fn set_queue_len(index: u32, len: u32) -> io::Result<()> {
    const LEN: u32 = 16 + 16 + 8;
    let mut socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    let mut request = Vec::with_capacity(LEN as usize);
    // struct nlmsghdr, ifinfomsg (any family and type, no flags changed), rtattr.
    request.extend(LEN.to_ne_bytes());
    request.extend(libc::RTM_NEWLINK.to_ne_bytes());
    request.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    request.extend([0; 8 + 4]);
    request.extend(index.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(8u16.to_ne_bytes());
    request.extend(libc::IFLA_TXQLEN.to_ne_bytes());
    request.extend(len.to_ne_bytes());
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.send(&request)?;
    let mut reply = [0; 256];
    let read = socket.read(&mut reply)?;
    // struct nlmsgerr: the error follows the header, zero for an acknowledgement.
    let error =
        reply[..read].get(16..).and_then(|rest| rest.first_chunk()).map(|octets| i32::from_ne_bytes(*octets));
    match error {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn index_of(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the kernel reads a string that ends with zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    Ok((index != 0).then_some(index))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The system's error inside the crate's own.
fn plain(error: tun::Error) -> io::Error {
    match error {
        tun::Error::Io(error) => error,
        tun::Error::NameTooLong => io::Error::from_raw_os_error(libc::EINVAL),
        other => io::Error::other(other),
    }
}
