//! The way of frames from the thread that opens them to the worker of their segment: one tray that both sides swap.
//!
//! ```text
//!   push ─> filling ── flush: swapped, or added ──> tray ── take: swapped ──> worker ── done ──> spare
//! ```
//!
//! What a tray holds is bounded by frames and octets, never by how many batches they came in: a worker that waits for a
//! processor is flushed to for every single frame. Three pieces of memory go round for each worker, so that nothing is
//! allocated once they have been full. A worker that is behind loses frames, which are counted; the thread that also answers
//! probes waits for it no longer than the swap of two pointers takes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::frame::SEGMENT_AT;
use crate::io::Waker;

/// Frames that wait for one worker, and their octets: some milliseconds of what it can do.
const FRAMES_MAX: usize = 4_096;
const OCTETS_MAX: usize = 4 << 20;

/// Frames that belong to one worker, side by side.
#[derive(Debug, Default)]
pub(in crate::datapath) struct Frames {
    pub octets: Vec<u8>,
    pub ranges: Vec<Range<usize>>,
}

impl Frames {
    fn takes(&self, len: usize) -> bool {
        self.ranges.len() < FRAMES_MAX && self.octets.len() + len <= OCTETS_MAX
    }

    /// False: there is no room.
    fn add(&mut self, frame: &[u8]) -> bool {
        let takes = self.takes(frame.len());
        if takes {
            let start = self.octets.len();
            self.octets.extend_from_slice(frame);
            self.ranges.push(start..start + frame.len());
        }
        takes
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.ranges.clear();
    }
}

/// What waits for one worker. Locked once for a batch, and on the worker's side for a swap of two pointers.
type Tray = Arc<Mutex<Frames>>;

fn lock(tray: &Tray) -> MutexGuard<'_, Frames> {
    tray.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The worker's end.
#[derive(Debug)]
pub(in crate::datapath) struct Outlet {
    tray: Tray,
    spare: Frames,
}

impl Outlet {
    /// All that waits; to be given back to `done`.
    pub fn take(&mut self) -> Option<Frames> {
        let mut tray = lock(&self.tray);
        (!tray.ranges.is_empty()).then(|| std::mem::replace(&mut *tray, std::mem::take(&mut self.spare)))
    }

    /// Gives the memory back.
    pub fn done(&mut self, mut frames: Frames) {
        frames.clear();
        self.spare = frames;
    }
}

/// Where frames of other nodes go in. Belongs to one thread.
#[derive(Debug)]
pub struct Inlet {
    lines: Vec<Line>,
}

#[derive(Debug)]
pub(in crate::datapath) struct Line {
    filling: Frames,
    tray: Tray,
    lost: Arc<AtomicU64>,
    waker: Waker,
    woken: Arc<AtomicBool>,
}

/// The two ends of the way to one worker. `lost` counts frames for which there was no room.
pub(in crate::datapath) fn way(waker: Waker, woken: Arc<AtomicBool>, lost: Arc<AtomicU64>) -> (Line, Outlet) {
    let tray = Tray::default();
    let line = Line { filling: Frames::default(), tray: tray.clone(), lost, waker, woken };
    (line, Outlet { tray, spare: Frames::default() })
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
        if !self.filling.takes(frame.len()) {
            self.flush();
        }
        if !self.filling.add(frame) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&mut self) {
        if self.filling.ranges.is_empty() {
            return;
        }
        let mut tray = lock(&self.tray);
        if tray.ranges.is_empty() {
            std::mem::swap(&mut *tray, &mut self.filling);
        } else {
            let Frames { octets, ranges } = &self.filling;
            let refused = ranges.iter().filter(|range| !tray.add(&octets[(*range).clone()])).count();
            self.lost.fetch_add(refused as u64, Ordering::Relaxed);
        }
        drop(tray);
        self.filling.clear();
        if !self.woken.swap(true, Ordering::AcqRel) {
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
        let mut places = std::collections::BTreeSet::new();
        for round in 0..30 {
            inlet.push(&[round; 40]);
            inlet.push(&[round; 50]);
            inlet.flush();
            let frames = outlet.take().unwrap();
            assert_eq!(frames.ranges, [0..40, 40..90]);
            places.insert(frames.octets.as_ptr());
            outlet.done(frames);
        }
        assert_eq!(places.len(), 3, "nothing is allocated after the first round");
        assert!(outlet.take().is_none());
        assert!(poller.wait(Some(0)).unwrap().woken);
        inlet.push(&vec![0; OCTETS_MAX + 1]);
        assert_eq!(lost.load(Ordering::Relaxed), 1);
    }

    /// As many small batches as frames: a worker without a processor lost all but the first 16 of them.
    #[test]
    fn what_waits_is_bounded_by_frames_and_not_by_batches() {
        let (poller, lost) = (Poller::new().unwrap(), Arc::<AtomicU64>::default());
        let (line, mut outlet) = way(poller.waker(), Arc::default(), lost.clone());
        let mut inlet = Inlet::new(vec![line]);
        for number in 0..FRAMES_MAX + 7 {
            inlet.push(&[number as u8; 60]);
            inlet.flush();
        }
        let frames = outlet.take().unwrap();
        assert_eq!((frames.ranges.len(), lost.load(Ordering::Relaxed)), (FRAMES_MAX, 7));
        let first_octets = frames.ranges.iter().map(|range| frames.octets[range.start]);
        assert!(first_octets.eq((0..FRAMES_MAX).map(|number| number as u8)), "in order");
        outlet.done(frames);
        // The same in one batch.
        (0..2 * FRAMES_MAX + 7).for_each(|_| inlet.push(&[1; 60]));
        inlet.flush();
        let taken = outlet.take().map_or(0, |frames| frames.ranges.len());
        assert_eq!((taken, lost.load(Ordering::Relaxed)), (FRAMES_MAX, 7 + FRAMES_MAX as u64 + 7));
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
