//! The way of frames from the thread that opens them to the worker of their segment: bounded queues of batches.
//!
//! A batch is one piece of memory with frames side by side; it goes back to where it came from when its frames are
//! done with, so that nothing is allocated once the queues have been full. A worker that is behind loses frames, which
//! are counted, and never keeps the thread that also answers probes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::frame::SEGMENT_AT;
use crate::io::Waker;

/// Batches on their way to one worker.
const BATCHES_MAX: usize = 16;

/// Frames of one batch, and their octets.
const FRAMES_MAX: usize = 256;
const OCTETS_MAX: usize = 256 * 1_024;

/// Frames that belong to one worker.
#[derive(Debug)]
pub(in crate::datapath) struct Frames {
    pub octets: Vec<u8>,
    pub ranges: Vec<Range<usize>>,
}

impl Frames {
    fn new() -> Frames {
        Frames { octets: Vec::with_capacity(OCTETS_MAX), ranges: Vec::with_capacity(FRAMES_MAX) }
    }

    fn takes(&self, len: usize) -> bool {
        self.ranges.len() < FRAMES_MAX && self.octets.len() + len <= OCTETS_MAX
    }
}

/// The worker's ends.
#[derive(Debug)]
pub(in crate::datapath) struct Outlet {
    frames: mpsc::Receiver<Frames>,
    spare: mpsc::Sender<Frames>,
}

impl Outlet {
    pub fn take(&mut self) -> Option<Frames> {
        self.frames.try_recv().ok()
    }

    /// Gives the memory back.
    pub fn done(&self, mut frames: Frames) {
        frames.octets.clear();
        frames.ranges.clear();
        // There are never more batches than the queue has room for; should there be, this one is freed.
        let _ = self.spare.try_send(frames);
    }
}

/// Where frames of other nodes go in. Belongs to one thread.
#[derive(Debug)]
pub struct Inlet {
    lines: Vec<Line>,
}

#[derive(Debug)]
pub(in crate::datapath) struct Line {
    filling: Option<Frames>,
    queue: mpsc::Sender<Frames>,
    spare: mpsc::Receiver<Frames>,
    made: usize,
    lost: Arc<AtomicU64>,
    waker: Waker,
    woken: Arc<AtomicBool>,
}

/// The two ends of the way to one worker. `lost` counts frames for which there was no room.
pub(in crate::datapath) fn way(waker: Waker, woken: Arc<AtomicBool>, lost: Arc<AtomicU64>) -> (Line, Outlet) {
    let (queue, frames) = mpsc::channel(BATCHES_MAX);
    let (spare, returned) = mpsc::channel(BATCHES_MAX);
    (Line { filling: None, queue, spare: returned, made: 0, lost, waker, woken }, Outlet { frames, spare })
}

impl Inlet {
    pub(in crate::datapath) fn new(lines: Vec<Line>) -> Inlet {
        Inlet { lines }
    }

    /// Keeps a copy of an opened frame for the worker of its segment, until `flush`.
    pub fn push(&mut self, frame: &[u8]) {
        let segment = frame.get(SEGMENT_AT).map_or(0, |segment| usize::from(*segment));
        let workers = self.lines.len();
        if let Some(line) = self.lines.get_mut(segment % workers.max(1)) {
            line.push(frame);
        }
    }

    /// Hands over what was pushed: to be called after each batch.
    pub fn flush(&mut self) {
        self.lines.iter_mut().for_each(Line::flush);
    }
}

impl Line {
    fn push(&mut self, frame: &[u8]) {
        if self.filling.as_ref().is_some_and(|filling| !filling.takes(frame.len())) {
            self.flush();
        }
        if self.filling.is_none() {
            self.filling = self.spare.try_recv().ok().or_else(|| {
                let may_make = self.made < BATCHES_MAX;
                self.made += usize::from(may_make);
                may_make.then(Frames::new)
            });
        }
        match &mut self.filling {
            Some(filling) if filling.takes(frame.len()) => {
                let start = filling.octets.len();
                filling.octets.extend_from_slice(frame);
                filling.ranges.push(start..start + frame.len());
            }
            _ => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn flush(&mut self) {
        let Some(filling) = self.filling.take() else { return };
        // There are as many batches as the queue has places: it is never full. It is closed when the worker has ended.
        if self.queue.try_send(filling).is_ok() && !self.woken.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Poller;

    #[test]
    fn memory_goes_round_and_what_finds_no_room_is_counted() {
        let (poller, woken, lost) = (Poller::new().unwrap(), Arc::default(), Arc::<AtomicU64>::default());
        let (line, mut outlet) = way(poller.waker(), woken, lost.clone());
        let mut inlet = Inlet::new(vec![line]);
        for round in 0..3 * BATCHES_MAX {
            inlet.push(&[round as u8; 40]);
            inlet.push(&[round as u8; 50]);
            inlet.flush();
            let frames = outlet.take().unwrap();
            assert_eq!(frames.ranges, [0..40, 40..90]);
            outlet.done(frames);
        }
        assert!(poller.wait(Some(0)).unwrap().woken);
        let sent = BATCHES_MAX * FRAMES_MAX + 7;
        (0..sent).for_each(|_| inlet.push(&[1; 60]));
        inlet.flush();
        let taken: usize = std::iter::from_fn(|| outlet.take()).map(|frames| frames.ranges.len()).sum();
        assert_eq!((taken, lost.load(Ordering::Relaxed)), (sent - 7, 7));
        inlet.push(&vec![0; OCTETS_MAX + 1]);
        assert_eq!(lost.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn each_frame_goes_to_the_worker_of_its_segment() {
        let poller = Poller::new().unwrap();
        let (lines, mut outlets): (Vec<_>, Vec<_>) =
            (0..2).map(|_| way(poller.waker(), Arc::default(), Arc::default())).unzip();
        let mut inlet = Inlet::new(lines);
        for segment in [0, 1, 7, 6] {
            inlet.push(&[4, 2, 0, segment, 9]);
        }
        inlet.flush();
        let segments = outlets.iter_mut().map(|outlet| {
            let frames = outlet.take().unwrap();
            frames.ranges.iter().map(|range| frames.octets[range.clone()][SEGMENT_AT]).collect::<Vec<_>>()
        });
        assert_eq!(segments.collect::<Vec<_>>(), [vec![0, 6], vec![1, 7]]);
    }
}
