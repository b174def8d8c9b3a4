//! An outside and an inside made of memory, for tests of what lies between them.
//!
//! A fake is a pair of queues: the test holds the `Hand`, the code under test the socket or the device. A hand can be
//! cloned and may live on another thread.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::batch::Filled;
use super::{
    Coalescer, Drops, InnerBatch, Inside, Kept, Offload, Outside, RecvBatch, Route, SendBatch, VirtioNetHdr,
};

/// A datagram with where it came from or goes to.
pub type Sent = (Route, Vec<u8>);

#[derive(Debug)]
struct Queues<I, O> {
    to_code: VecDeque<I>,
    from_code: Vec<O>,
}

impl<I, O> Default for Queues<I, O> {
    fn default() -> Self {
        Queues { to_code: VecDeque::new(), from_code: Vec::new() }
    }
}

type Shared<I, O> = Arc<Mutex<Queues<I, O>>>;

fn lock<I, O>(shared: &Shared<I, O>) -> MutexGuard<'_, Queues<I, O>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One aggregate: equal datagrams of one sender, the last may be shorter.
#[derive(Debug)]
struct Aggregate {
    from: Route,
    octets: Vec<u8>,
    stride: usize,
}

/// A socket without a network.
#[derive(Debug)]
pub struct FakeOutside {
    shared: Shared<Aggregate, Sent>,
    kept: Arc<Mutex<Option<Kept>>>,
    drops: Drops,
}

/// The test's end of a `FakeOutside`.
#[derive(Clone, Debug)]
pub struct OutsideHand {
    shared: Shared<Aggregate, Sent>,
    kept: Arc<Mutex<Option<Kept>>>,
}

impl FakeOutside {
    pub fn new() -> (FakeOutside, OutsideHand) {
        let (shared, kept) = (Shared::default(), Arc::default());
        let hand = OutsideHand { shared, kept };
        let OutsideHand { shared, kept } = hand.clone();
        (FakeOutside { shared, kept, drops: Drops::default() }, hand)
    }
}

impl OutsideHand {
    /// Lets the code receive a datagram.
    pub fn deliver(&self, from: Route, datagram: &[u8]) {
        self.deliver_aggregate(from, datagram, 0);
    }

    /// Lets the code receive datagrams of `stride` octets as one aggregate.
    pub fn deliver_aggregate(&self, from: Route, octets: &[u8], stride: usize) {
        lock(&self.shared).to_code.push_back(Aggregate { from, octets: octets.to_vec(), stride });
    }

    /// What the code has asked the kernel to keep, if anything.
    pub fn kept(&self) -> Option<Kept> {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the code has sent since the last call.
    pub fn take(&self) -> Vec<Sent> {
        std::mem::take(&mut lock(&self.shared).from_code)
    }
}

impl Outside for FakeOutside {
    fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.clear();
        let mut queues = lock(&self.shared);
        for slot in 0..super::batch::RECV_SLOTS {
            let Some(Aggregate { from, octets, stride }) = queues.to_code.pop_front() else { break };
            let len = octets.len();
            let room = batch.slot(slot);
            let fits = len.min(room.len());
            room[..fits].copy_from_slice(&octets[..fits]);
            let filled = Filled { peer: from.peer, tos: from.tos, skip: 0, len, stride };
            batch.accept(slot, filled, &mut self.drops);
        }
        Ok(batch.len())
    }

    fn send(&mut self, batch: &mut SendBatch) -> usize {
        let sent = batch.len();
        lock(&self.shared).from_code.extend(batch.iter().map(|(route, datagram)| (route, datagram.to_vec())));
        batch.clear();
        sent
    }

    fn keep(&mut self, kept: &Kept, _marked: bool) -> io::Result<()> {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(*kept);
        Ok(())
    }

    fn drops(&self) -> &Drops {
        &self.drops
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A device without a kernel.
#[derive(Debug)]
pub struct FakeInside {
    shared: Shared<(VirtioNetHdr, Vec<u8>), (VirtioNetHdr, Vec<u8>)>,
    offload: Offload,
    drops: Drops,
}

/// The test's end of a `FakeInside`.
#[derive(Clone, Debug)]
pub struct InsideHand(Shared<(VirtioNetHdr, Vec<u8>), (VirtioNetHdr, Vec<u8>)>);

impl FakeInside {
    pub fn new(offload: Offload) -> (FakeInside, InsideHand) {
        let shared = Shared::default();
        (FakeInside { shared: shared.clone(), offload, drops: Drops::default() }, InsideHand(shared))
    }
}

impl InsideHand {
    /// Lets the code read a packet.
    pub fn deliver(&self, packet: &[u8]) {
        self.deliver_super(VirtioNetHdr::default(), packet);
    }

    /// Lets the code read a (super-)packet with its offload header.
    pub fn deliver_super(&self, header: VirtioNetHdr, packet: &[u8]) {
        lock(&self.0).to_code.push_back((header, packet.to_vec()));
    }

    /// What the code has written since the last call, super-packets as they were written.
    pub fn take_super(&self) -> Vec<(VirtioNetHdr, Vec<u8>)> {
        std::mem::take(&mut lock(&self.0).from_code)
    }

    /// What the code has written since the last call, super-packets split up.
    ///
    /// # Panics
    /// If the code wrote a super-packet that cannot be split.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (header, mut packet) in self.take_super() {
            let mut segments =
                super::Segments::new(header, &mut packet).expect("a super-packet that was built here");
            while let Some(segment) = segments.next() {
                packets.push(segment.to_vec());
            }
        }
        packets
    }
}

impl Inside for FakeInside {
    fn receive(&mut self, batch: &mut InnerBatch) -> io::Result<usize> {
        batch.clear();
        let mut queues = lock(&self.shared);
        while let Some((header, packet)) = queues.to_code.front() {
            if batch.slot().is_none() {
                break;
            }
            if !batch.push(*header, packet) {
                self.drops.count(super::Drop::BadSuperPacket, 1);
            }
            queues.to_code.pop_front();
        }
        Ok(batch.len())
    }

    fn send(&mut self, arena: &mut [u8], packets: &mut Coalescer) -> usize {
        let taken = packets.len();
        let mut queues = lock(&self.shared);
        while let Some(write) = packets.next_write(arena) {
            let octets = write.pieces.iter().flat_map(|piece| arena[piece.clone()].iter().copied()).collect();
            queues.from_code.push((write.header, octets));
        }
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
        None
    }
}
