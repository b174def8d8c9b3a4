//! The system calls recvmmsg and sendmmsg with their arrays, shared by UDP and raw sockets.
//!
//! The arrays are allocated once per socket; their pointers are set right before each call and not used after it.
//! Control data and addresses are read and written as octets, so that `unsafe` is left for the calls themselves.

mod name;
mod recv;
mod send;

use std::io;
use std::ptr;

pub(super) use recv::Receiver;
pub(super) use send::Sender;

/// What a socket is, as far as its messages differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Udp,
    /// Protocol 50: no ports, no segmentation; over IPv4 each packet received begins with its IP header.
    Esp,
}

const CMSG_HEADER: usize = size_of::<libc::cmsghdr>();

/// Room for five entries of control data of up to eight octets each.
const CONTROL_LEN: usize = 5 * (CMSG_HEADER + 8);

/// Control data, aligned as the kernel wants it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// The kernel's arrays for one call of up to `N` messages.
struct Arrays<const N: usize> {
    messages: Box<[libc::mmsghdr]>,
    parts: Box<[libc::iovec]>,
    names: Box<[name::Name]>,
    controls: Box<[Control]>,
}

// SAFETY: the raw pointers inside are set before each call and mean nothing between calls, so the arrays may move to
// another thread together with the socket that owns them.
unsafe impl<const N: usize> Send for Arrays<N> {}

impl<const N: usize> Arrays<N> {
    fn new() -> Self {
        // SAFETY: both are plain C structs, for which all zeros (null pointers, zero lengths) is a valid value.
        let (message, part): (libc::mmsghdr, libc::iovec) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Arrays {
            messages: vec![message; N].into(),
            parts: vec![part; N].into(),
            names: vec![name::Name::default(); N].into(),
            controls: vec![Control([0; CONTROL_LEN]); N].into(),
        }
    }

    /// Sets message `at` up: its memory, and the lengths of its address and of its control data.
    fn set(&mut self, at: usize, memory: *mut u8, len: usize, name_len: usize, control_len: usize) {
        debug_assert!(control_len <= CONTROL_LEN && name_len <= name::LEN);
        self.parts[at] = libc::iovec { iov_base: memory.cast(), iov_len: len };
        let message = &mut self.messages[at];
        message.msg_len = 0;
        let header = &mut message.msg_hdr;
        header.msg_name = ptr::from_mut(&mut self.names[at]).cast();
        header.msg_namelen = name_len as libc::socklen_t;
        header.msg_iov = ptr::from_mut(&mut self.parts[at]);
        header.msg_iovlen = 1;
        header.msg_control = ptr::from_mut(&mut self.controls[at]).cast();
        header.msg_controllen = control_len as _;
        header.msg_flags = 0;
    }
}

/// Errors after which the socket goes on working: nothing there, interrupted, or what an ICMP message left behind.
fn passes(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAGAIN
                | libc::EINTR
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::EMSGSIZE
                | libc::EACCES
                | libc::EPERM
        )
    )
}
