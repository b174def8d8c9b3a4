//! sendmmsg from a `SendBatch`: one message for each run with UDP_SEGMENT, else one for each datagram.
//!
//! The kernel refuses UDP_SEGMENT where a datagram does not fit the path (it would have to be fragmented) or where the
//! egress device cannot do checksums. That is a property of the route and may change: the datagrams of that run are
//! sent one by one, and the route pauses with segmentation for a while. The socket as a whole never stops using it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipsec::types::Millis;

use super::{Arrays, CMSG_HEADER, Control, Kind};
use crate::io::batch::{Route, Run, SendBatch};
use crate::io::clock::{Clock, SystemClock};
use crate::io::drops::{Drop, Drops};

/// Messages of one sendmmsg.
const MESSAGES: usize = 64;

/// How long to wait for room in the send buffer, in milliseconds. Short: the owner's lease was checked before.
const WAIT_MS: libc::c_int = 2;

/// How long a route goes without UDP_SEGMENT after a refusal, in milliseconds.
const PAUSE_MS: u64 = 10_000;

/// Most routes remembered as refused; the oldest makes room.
const PAUSES_MAX: usize = 64;

/// Sends in batches.
pub(crate) struct Sender {
    arrays: Arrays<MESSAGES>,
    kind: Kind,
    queue: Vec<Message>,
    pauses: Vec<(SocketAddr, Millis)>,
}

/// One message: octets of the batch's arena for one route, in datagrams of `stride`.
#[derive(Clone, Copy, Debug)]
struct Message {
    route: Route,
    start: usize,
    len: usize,
    stride: usize,
}

impl Message {
    fn count(&self) -> u64 {
        self.len.div_ceil(self.stride) as u64
    }

    fn is_segmented(&self) -> bool {
        self.len > self.stride
    }
}

impl Sender {
    pub fn new(kind: Kind) -> Sender {
        Sender {
            arrays: Arrays::new(),
            kind,
            queue: Vec::with_capacity(MESSAGES),
            pauses: Vec::with_capacity(PAUSES_MAX),
        }
    }

    /// Sends and empties the batch; the number of datagrams taken by the kernel.
    pub fn send(&mut self, fd: BorrowedFd<'_>, batch: &mut SendBatch, drops: &mut Drops) -> usize {
        let mut sent = 0;
        for run in batch.runs() {
            let Run { route, start, len, stride } = *run;
            if self.kind == Kind::Udp && run.count() > 1 && !self.is_paused(route.peer) {
                sent += self.enqueue(fd, batch.arena(), Message { route, start, len, stride }, drops);
                continue;
            }
            for part in run.datagrams() {
                let message = Message { route, start: part.start, len: part.len(), stride: part.len() };
                sent += self.enqueue(fd, batch.arena(), message, drops);
            }
        }
        sent += self.flush(fd, batch.arena(), drops);
        batch.clear();
        sent as usize
    }

    fn enqueue(&mut self, fd: BorrowedFd<'_>, arena: &[u8], message: Message, drops: &mut Drops) -> u64 {
        self.queue.push(message);
        if self.queue.len() == MESSAGES { self.flush(fd, arena, drops) } else { 0 }
    }

    /// Sends what is queued. An error concerns the first message not sent; after it the others go on.
    fn flush(&mut self, fd: BorrowedFd<'_>, arena: &[u8], drops: &mut Drops) -> u64 {
        for at in 0..self.queue.len() {
            self.prepare(at, arena);
        }
        let mut sent = 0;
        let mut at = 0;
        while at < self.queue.len() {
            match self.call(fd, at, self.queue.len()) {
                Ok(number) => {
                    sent += self.queue[at..at + number].iter().map(Message::count).sum::<u64>();
                    at += number;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) if wait_for_room(fd) => {}
                    Some(libc::EAGAIN) => {
                        drops.count(Drop::SendQueue, self.queue[at..].iter().map(Message::count).sum());
                        break;
                    }
                    Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE) if self.queue[at].is_segmented() => {
                        sent += self.send_singly(fd, arena, at, drops);
                        at += 1;
                    }
                    _ => {
                        drops.count(reason(&error), self.queue[at].count());
                        at += 1;
                    }
                },
            }
        }
        self.queue.clear();
        sent
    }

    /// Sends the datagrams of a refused run one by one, and lets its route pause. Uses the message's own entry of the
    /// arrays, so the others stay prepared.
    fn send_singly(&mut self, fd: BorrowedFd<'_>, arena: &[u8], at: usize, drops: &mut Drops) -> u64 {
        let whole = self.queue[at];
        self.pause(whole.route.peer);
        let mut sent = 0;
        for start in (0..whole.len).step_by(whole.stride) {
            let len = whole.stride.min(whole.len - start);
            self.queue[at] = Message { route: whole.route, start: whole.start + start, len, stride: len };
            self.prepare(at, arena);
            loop {
                match self.call(fd, at, at + 1) {
                    Ok(_) => sent += 1,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait_for_room(fd) => continue,
                    Err(error) => drops.count(reason(&error), 1),
                }
                break;
            }
        }
        sent
    }

    fn prepare(&mut self, at: usize, arena: &[u8]) {
        let message = self.queue[at];
        let port = if self.kind == Kind::Esp { 0 } else { message.route.peer.port() };
        let name_len = self.arrays.names[at].write(message.route.peer, port);
        let control_len = write_control(&mut self.arrays.controls[at], &message);
        let memory = &arena[message.start..message.start + message.len];
        // The kernel only reads what is sent, although the C struct has a pointer to mutable memory.
        self.arrays.set(at, memory.as_ptr().cast_mut(), memory.len(), name_len, control_len);
    }

    /// One system call for the prepared messages `from..to`; how many it sent, at least one.
    fn call(&mut self, fd: BorrowedFd<'_>, from: usize, to: usize) -> io::Result<usize> {
        let messages = &mut self.arrays.messages[from..to];
        // SAFETY: the messages were prepared with the true lengths of the batch's arena and of our arrays; `flush`
        // holds both until after the last call, and the kernel writes only to the message headers.
        let number = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        match number {
            1.. => Ok(number as usize),
            0 => Err(io::ErrorKind::WriteZero.into()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn is_paused(&self, peer: SocketAddr) -> bool {
        if self.pauses.is_empty() {
            return false;
        }
        let now = SystemClock.now();
        self.pauses.iter().any(|&(paused, until)| paused == peer && now < until)
    }

    fn pause(&mut self, peer: SocketAddr) {
        let now = SystemClock.now();
        self.pauses.retain(|&(paused, until)| paused != peer && now < until);
        if self.pauses.len() == PAUSES_MAX {
            self.pauses.remove(0);
        }
        self.pauses.push((peer, now.after(PAUSE_MS)));
    }
}

fn reason(error: &io::Error) -> Drop {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Drop::SendQueue,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL) => {
            Drop::Unreachable
        }
        Some(libc::EPERM | libc::EACCES) => Drop::Refused,
        Some(libc::EMSGSIZE) => Drop::TooLarge,
        _ => Drop::SendFailed,
    }
}

/// Writes the control data of a message; its length. Marks and sizes that are the default need none.
fn write_control(control: &mut Control, message: &Message) -> usize {
    let mut len = 0;
    let mut entry = |level: i32, kind: i32, data: &[u8]| {
        let out = &mut control.0[len..];
        out[..8].copy_from_slice(&((CMSG_HEADER + data.len()) as u64).to_ne_bytes());
        out[8..12].copy_from_slice(&level.to_ne_bytes());
        out[12..16].copy_from_slice(&kind.to_ne_bytes());
        out[CMSG_HEADER..][..data.len()].copy_from_slice(data);
        len += (CMSG_HEADER + data.len()).next_multiple_of(8);
    };
    if message.is_segmented() {
        entry(libc::SOL_UDP, libc::UDP_SEGMENT, &(message.stride as u16).to_ne_bytes());
    }
    if message.route.tos != 0 {
        let tos = i32::from(message.route.tos).to_ne_bytes();
        match message.route.peer {
            SocketAddr::V4(_) => entry(libc::IPPROTO_IP, libc::IP_TOS, &tos),
            SocketAddr::V6(_) => entry(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos),
        }
    }
    len
}

/// Waits a moment until the socket takes more; whether it does.
fn wait_for_room(fd: BorrowedFd<'_>) -> bool {
    let mut wanted = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, valid for the call.
    let ready = unsafe { libc::poll(&mut wanted, 1, WAIT_MS) };
    ready == 1 && wanted.revents & libc::POLLOUT != 0
}
