//! recvmmsg into a `RecvBatch`.
//!
//! What the kernel cut off is dropped: of a datagram (MSG_TRUNC) the rest is lost, and without the control data
//! (MSG_CTRUNC) nobody knows the size of the aggregated datagrams. Errors that an ICMP message caused are not ours.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::{Arrays, CMSG_HEADER, CONTROL_LEN, Kind, name, passes};
use crate::io::batch::{Filled, RECV_SLOTS, RecvBatch, SLOT_LEN};
use crate::io::drops::{Drop, Drops};

/// Slots offered while aggregates are large: more would only push each other out of the cache.
const SLOTS_LARGE: usize = 8;

/// From this mean size on, what comes in counts as large.
const LARGE: usize = 8_192;

/// Receives in batches.
pub(crate) struct Receiver {
    arrays: Arrays<RECV_SLOTS>,
    kind: Kind,
    /// How many slots the next call offers.
    slots: usize,
    /// The kernel's own count of datagrams lost for want of buffer, as last told.
    overflow: u32,
}

impl Receiver {
    pub fn new(kind: Kind) -> Receiver {
        Receiver { arrays: Arrays::new(), kind, slots: RECV_SLOTS, overflow: 0 }
    }

    /// Replaces the batch; the number of datagrams. Errors that pass by themselves count as nothing received.
    pub fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        batch: &mut RecvBatch,
        drops: &mut Drops,
    ) -> io::Result<usize> {
        batch.clear();
        for slot in 0..self.slots {
            self.arrays.set(slot, batch.slot(slot).as_mut_ptr(), SLOT_LEN, name::LEN, CONTROL_LEN);
        }
        // SAFETY: the first `slots` messages point to distinct memory of the batch and of our arrays, with its true
        // lengths; all of it outlives the call, and nothing else refers to it during the call.
        let number = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.arrays.messages.as_mut_ptr(),
                self.slots as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        if number < 0 {
            let error = io::Error::last_os_error();
            return if passes(&error) { Ok(0) } else { Err(error) };
        }
        let number = number as usize;
        let mut octets = 0;
        for slot in 0..number {
            octets += self.arrays.messages[slot].msg_len as usize;
            self.accept(slot, batch, drops);
        }
        let large = number > 0 && octets / number >= LARGE;
        self.slots = if large { SLOTS_LARGE } else { RECV_SLOTS };
        Ok(batch.len())
    }

    fn accept(&mut self, slot: usize, batch: &mut RecvBatch, drops: &mut Drops) {
        let message = &self.arrays.messages[slot];
        let (flags, len) = (message.msg_hdr.msg_flags, message.msg_len as usize);
        let control_len = message.msg_hdr.msg_controllen.min(CONTROL_LEN);
        let told = Told::parse(&self.arrays.controls[slot].0[..control_len]);
        if let Some(overflow) = told.overflow {
            drops.count(Drop::ReceiveQueue, u64::from(overflow.wrapping_sub(self.overflow)));
            self.overflow = overflow;
        }
        if flags & libc::MSG_TRUNC != 0 || len > SLOT_LEN {
            return drops.count(Drop::Oversized, 1);
        }
        if flags & libc::MSG_CTRUNC != 0 {
            return drops.count(Drop::ControlTruncated, 1);
        }
        let Some(mut peer) = self.arrays.names[slot].read(message.msg_hdr.msg_namelen as usize) else {
            return drops.count(Drop::BadSource, 1);
        };
        let mut filled = Filled { peer, tos: told.tos, skip: 0, len, stride: told.stride };
        match self.kind {
            // Nobody can be answered there.
            Kind::Udp if peer.port() == 0 => return drops.count(Drop::BadSource, 1),
            Kind::Udp => {}
            Kind::Esp => {
                // For raw sockets over IPv6 the kernel tells the protocol as port.
                peer.set_port(0);
                filled = Filled { peer, stride: 0, ..filled };
                if peer.is_ipv4() {
                    let Some((skip, tos)) = ipv4_header(&batch.slot(slot)[..len]) else {
                        return drops.count(Drop::BadHeader, 1);
                    };
                    filled = Filled { tos, skip, len: len - skip, ..filled };
                }
            }
        }
        batch.accept(slot, filled, drops);
    }
}

/// Length and TOS octet of the IPv4 header that a raw socket gets; `None` if it is not whole.
fn ipv4_header(packet: &[u8]) -> Option<(usize, u8)> {
    let first = *packet.first()?;
    let len = usize::from(first & 0x0f) * 4;
    (first >> 4 == 4 && len >= 20 && len <= packet.len()).then(|| (len, packet[1]))
}

/// What the control data of a message says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Octets of each aggregated datagram; 0: not aggregated.
    stride: usize,
    tos: u8,
    overflow: Option<u32>,
}

impl Told {
    fn parse(mut control: &[u8]) -> Told {
        let mut told = Told::default();
        while let Some((level, kind, data)) = next_entry(&mut control) {
            let number = data.first_chunk().map(|octets| i32::from_ne_bytes(*octets));
            match (level, kind, number) {
                (libc::SOL_UDP, libc::UDP_GRO, Some(stride)) => {
                    told.stride = usize::try_from(stride).unwrap_or(0)
                }
                // One octet for IPv4, an int for IPv6.
                (libc::IPPROTO_IP, libc::IP_TOS, _) => told.tos = data.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, Some(class)) => told.tos = class as u8,
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, Some(count)) => told.overflow = Some(count as u32),
                _ => {}
            }
        }
        told
    }
}

/// Level, type and data of the next entry. Ends at the first that is not whole.
fn next_entry<'a>(control: &mut &'a [u8]) -> Option<(i32, i32, &'a [u8])> {
    const WORD: usize = size_of::<usize>();
    let whole: &'a [u8] = control;
    let len = usize::from_ne_bytes(*whole.first_chunk::<WORD>()?);
    let int = |at: usize| Some(i32::from_ne_bytes(*whole.get(at..)?.first_chunk()?));
    let (level, kind) = (int(WORD)?, int(WORD + 4)?);
    let data = whole.get(CMSG_HEADER..len)?;
    *control = whole.get(len.next_multiple_of(WORD)..).unwrap_or_default();
    Some((level, kind, data))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let len = CMSG_HEADER + data.len();
        let mut out = len.to_ne_bytes().to_vec();
        out.extend(level.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(data);
        out.resize(len.next_multiple_of(8), 0);
        out
    }

    #[test]
    fn control_data_is_read_in_any_order() {
        let stride = entry(libc::SOL_UDP, libc::UDP_GRO, &1_432i32.to_ne_bytes());
        let tos = entry(libc::IPPROTO_IP, libc::IP_TOS, &[0x2e]);
        let class = entry(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &3i32.to_ne_bytes());
        let lost = entry(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7u32.to_ne_bytes());
        let told = Told { stride: 1_432, tos: 0x2e, overflow: Some(7) };
        assert_eq!(Told::parse(&[stride.clone(), tos.clone(), lost.clone()].concat()), told);
        assert_eq!(Told::parse(&[lost, tos, stride].concat()), told);
        assert_eq!(Told::parse(&class).tos, 3);
        assert_eq!(Told::parse(&[]), Told::default());
    }

    /// Lets the receiver find `len` octets in slot 0, with the given flags, address and control data.
    fn accept(kind: Kind, flags: i32, len: u32, from: Option<&str>, control: &[u8]) -> (RecvBatch, Drops) {
        let (mut receiver, mut batch, mut drops) = (Receiver::new(kind), RecvBatch::new(), Drops::default());
        batch.slot(0)[..20]
            .copy_from_slice(&[0x45, 2, 0, 40, 0, 0, 0, 0, 9, 50, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
        if let Some(from) = from {
            let from: std::net::SocketAddr = from.parse().unwrap();
            let len = receiver.arrays.names[0].write(from, from.port());
            receiver.arrays.messages[0].msg_hdr.msg_namelen = len as u32;
        }
        receiver.arrays.controls[0].0[..control.len()].copy_from_slice(control);
        let message = &mut receiver.arrays.messages[0];
        (message.msg_len, message.msg_hdr.msg_flags) = (len, flags);
        message.msg_hdr.msg_controllen = control.len();
        receiver.accept(0, &mut batch, &mut drops);
        (batch, drops)
    }

    #[test]
    fn what_cannot_be_used_is_counted_by_reason() {
        let from = Some("192.0.2.1:4500");
        let udp = Kind::Udp;
        let rows = [
            (udp, libc::MSG_TRUNC, 65_536, from, Drop::Oversized),
            (udp, 0, 65_537, from, Drop::Oversized),
            (udp, 0, u32::MAX, from, Drop::Oversized),
            (udp, libc::MSG_CTRUNC, 2_000, from, Drop::ControlTruncated),
            (udp, 0, 2_000, None, Drop::BadSource),
            (udp, 0, 2_000, Some("192.0.2.1:0"), Drop::BadSource),
            (udp, 0, 0, from, Drop::Empty),
            (Kind::Esp, 0, 19, Some("192.0.2.1:0"), Drop::BadHeader),
            (Kind::Esp, 0, 20, Some("192.0.2.1:0"), Drop::Empty),
            (Kind::Esp, 0, 0, Some("[2001:db8::1]:50"), Drop::Empty),
        ];
        for (kind, flags, len, from, reason) in rows {
            let (batch, drops) = accept(kind, flags, len, from, &[]);
            assert!(batch.is_empty());
            assert_eq!((drops.get(reason), drops.total()), (1, 1), "{kind:?} {flags} {len} {from:?}");
        }
        let (batch, drops) = accept(Kind::Esp, 0, 40, Some("192.0.2.1:0"), &[]);
        assert_eq!((batch.datagrams()[0].len(), batch.datagrams()[0].tos, drops.total()), (20, 2, 0));
    }

    #[test]
    fn what_the_kernel_lost_is_counted_once() {
        let lost = entry(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7u32.to_ne_bytes());
        let (batch, drops) = accept(Kind::Udp, 0, 100, Some("192.0.2.1:1"), &lost);
        assert_eq!((batch.len(), drops.get(Drop::ReceiveQueue)), (1, 7));
    }

    proptest! {
        #[test]
        fn no_control_data_makes_it_panic(
            flags in prop::sample::select(vec![0, libc::MSG_TRUNC, libc::MSG_CTRUNC]), len in 0u32..70_000,
            control in prop::collection::vec(any::<u8>(), 0..CONTROL_LEN), stride: i32, small in 0i32..100, esp: bool,
        ) {
            let kind = if esp { Kind::Esp } else { Kind::Udp };
            accept(kind, flags, len, Some("192.0.2.1:9"), &control);
            for stride in [stride, small] {
                let control = entry(libc::SOL_UDP, libc::UDP_GRO, &stride.to_ne_bytes());
                let (batch, drops) = accept(Kind::Udp, 0, len, Some("192.0.2.1:9"), &control);
                let taken: usize = batch.datagrams().iter().map(|datagram| datagram.len()).sum();
                prop_assert!(drops.total() > 0 || taken == len as usize);
            }
        }
    }

    #[test]
    fn broken_control_data_says_nothing() {
        let good = entry(libc::SOL_UDP, libc::UDP_GRO, &1_432i32.to_ne_bytes());
        for cut in 0..CMSG_HEADER + 4 {
            assert_eq!(Told::parse(&good[..cut]).stride, 0, "cut to {cut}");
        }
        for len in [0, 1, 15, 16, 19, 1_000, usize::MAX] {
            let mut bad = good.clone();
            bad[..8].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(Told::parse(&bad).stride, 0, "length {len}");
        }
        let negative = entry(libc::SOL_UDP, libc::UDP_GRO, &(-1i32).to_ne_bytes());
        assert_eq!(Told::parse(&negative).stride, 0);
    }

    #[test]
    fn an_ipv4_header_must_be_whole() {
        let packet = |first: u8, len: usize| {
            let mut packet = vec![0; len];
            packet[0] = first;
            packet[1] = 9;
            packet
        };
        assert_eq!(ipv4_header(&packet(0x45, 28)), Some((20, 9)));
        assert_eq!(ipv4_header(&packet(0x46, 28)), Some((24, 9)));
        for bad in [packet(0x45, 19), packet(0x4f, 28), packet(0x44, 28), packet(0x65, 60)] {
            assert_eq!(ipv4_header(&bad), None, "{bad:?}");
        }
        assert_eq!(ipv4_header(&[]), None);
    }
}
