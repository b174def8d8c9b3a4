//! The anti-replay window of an inbound SA (RFC 4303, 3.4.3), as the ring bitmap of RFC 6479.
//!
//! ```text
//!   number  ─┬─ too old ── drop      ┌──────────── WINDOW ────────────┐
//!            ├─ bit set ── drop      │ . 1 1 . 1 1 1 1 . . 1 1 1 1 1 T  -> newer numbers move the edge T
//!            └─ else: open the packet; only its good integrity value updates the window
//! ```
//!
//! The ring holds one word more than the window, so the edge moves by clearing whole words and nothing is shifted.
//! With extended sequence numbers the wire carries the low half only; the high half is inferred from the edge
//! (RFC 4303, appendix A).

use crate::types::EspSeq;

/// How far behind the highest number a packet may come. Must stay below 2^31, for the inference of the high half.
pub const WINDOW: u64 = 2048;

const WORD: u64 = 64;
const WORDS: usize = (WINDOW / WORD) as usize + 1;
const _: () = assert!(WINDOW.is_multiple_of(WORD) && WINDOW >= 1024 && WINDOW < 1 << 31);

/// What was received on one SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The highest number that a good packet had; 0 before the first.
    top: u64,
    esn: bool,
    seen: [u64; WORDS],
}

/// A window as it is handed over at a planned move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowState {
    pub edge: EspSeq,
    /// `WINDOW` bits and a spare word, as they lie in the ring.
    pub seen: Vec<u64>,
}

/// A number was seen before, is too old, or is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed;

impl Window {
    pub fn new(esn: bool) -> Window {
        Window { top: 0, esn, seen: [0; WORDS] }
    }

    /// A window that takes everything up to `edge` as seen: what a new owner knows after a crash (CL-14).
    pub fn after(edge: EspSeq, esn: bool) -> Window {
        let mut window = Window { top: edge.0, esn, seen: [u64::MAX; WORDS] };
        // Numbers above the edge that share its word are not seen yet.
        window.seen[word(edge.0)] = u64::MAX >> (WORD - 1 - edge.0 % WORD);
        window
    }

    pub fn import(state: &WindowState, esn: bool) -> Option<Window> {
        let seen = <[u64; WORDS]>::try_from(state.seen.as_slice()).ok()?;
        (esn || state.edge.0 <= u64::from(u32::MAX)).then_some(Window { top: state.edge.0, esn, seen })
    }

    pub fn export(&self) -> WindowState {
        WindowState { edge: self.edge(), seen: self.seen.to_vec() }
    }

    /// The highest number received.
    pub fn edge(&self) -> EspSeq {
        EspSeq(self.top)
    }

    /// Moves the edge up to `edge`, with everything below taken as seen. Never moves it down.
    pub fn raise(&mut self, edge: EspSeq) {
        if edge.0 > self.top {
            *self = Window::after(edge, self.esn);
        }
    }

    /// The full number that `low` stands for (RFC 4303, appendix A2.2).
    //= ES-12
    pub fn infer(&self, low: u32) -> EspSeq {
        if !self.esn {
            return EspSeq(u64::from(low));
        }
        let (top_high, top_low) = (self.top >> 32, self.top & 0xffff_ffff);
        let low = u64::from(low);
        let high = if top_low >= WINDOW - 1 {
            // The window lies in one subspace: what is below it belongs to the next.
            if low + WINDOW > top_low { top_high } else { top_high + 1 }
        } else {
            // The window reaches back into the subspace before, if there is one.
            let bottom = (top_low + (1 << 32)) - (WINDOW - 1);
            if low >= bottom && top_high > 0 { top_high - 1 } else { top_high }
        };
        EspSeq((high << 32) | low)
    }

    /// The cheap check before the packet is opened. Changes nothing.
    //= ES-11
    pub fn check(&self, seq: EspSeq) -> Result<(), Replayed> {
        let seq = seq.0;
        if seq == 0 {
            return Err(Replayed);
        }
        if seq > self.top {
            return Ok(());
        }
        if self.top - seq >= WINDOW || self.seen[word(seq)] & bit(seq) != 0 {
            return Err(Replayed);
        }
        Ok(())
    }

    /// Marks `seq` as received: only for a packet whose integrity value was right. True when it moved the edge.
    //= ES-10
    pub fn update(&mut self, seq: EspSeq) -> bool {
        let seq = seq.0;
        debug_assert!(self.check(EspSeq(seq)).is_ok(), "an update follows a check");
        let advances = seq > self.top;
        if advances {
            let words = (seq / WORD - self.top / WORD).min(WORDS as u64);
            for step in 1..=words {
                self.seen[((self.top / WORD + step) % WORDS as u64) as usize] = 0;
            }
            self.top = seq;
        }
        self.seen[word(seq)] |= bit(seq);
        advances
    }
}

fn word(seq: u64) -> usize {
    ((seq / WORD) % WORDS as u64) as usize
}

fn bit(seq: u64) -> u64 {
    1 << (seq % WORD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn accept(window: &mut Window, seq: u64) -> bool {
        let fresh = window.check(EspSeq(seq)).is_ok();
        if fresh {
            window.update(EspSeq(seq));
        }
        fresh
    }

    //= test ES-10
    #[test]
    fn the_window_by_table() {
        let mut window = Window::new(false);
        for (seq, accepted, why) in [
            (0, false, "zero is never sent"),
            (1, true, "the first"),
            (1, false, "again"),
            (3, true, "a gap"),
            (2, true, "the gap is filled"),
            (2, false, "once"),
            (WINDOW + 3, true, "a whole window ahead"),
            (3, false, "just out of the window"),
            (4, true, "the oldest place of the window"),
            (4, false, "that place again"),
            (10 * WINDOW, true, "far ahead: all words are cleared"),
            (9 * WINDOW, false, "just out again"),
            (9 * WINDOW + 1, true, "never seen, although its word was used before"),
            (u64::from(u32::MAX), true, "the last number there is"),
            (u64::from(u32::MAX), false, "and no further"),
        ] {
            assert_eq!(accept(&mut window, seq), accepted, "{seq}: {why}");
        }
    }

    //= test ES-11
    #[test]
    fn a_check_alone_changes_nothing() {
        let window = Window::new(false);
        let before = window.clone();
        assert!(window.check(EspSeq(7)).is_ok());
        assert_eq!(window, before);
    }

    //= test ES-12
    #[test]
    fn the_high_half_by_table() {
        let high = 1u64 << 32;
        for (top, low, full) in [
            (0, 1, 1),
            (0, u32::MAX, u64::from(u32::MAX)),
            // The window within one subspace.
            (5000, 5001, 5001),
            (5000, (5000 - WINDOW + 1) as u32, 5000 - WINDOW + 1),
            (5000, (5000 - WINDOW) as u32, high + 5000 - WINDOW),
            (WINDOW - 1, 0, 0),
            (3 * high + 5000, 10, 4 * high + 10),
            (high - 1, 0, high),
            (high - 1, u32::MAX, high - 1),
            // The window across the border of two.
            (high, 0, high),
            (high, u32::MAX, high - 1),
            (high + 5, (high + 6 - WINDOW) as u32, high + 6 - WINDOW),
            (high + 5, (high + 5 - WINDOW) as u32, 2 * high + 5 - WINDOW),
            (high + WINDOW - 2, u32::MAX, high - 1),
            (high + WINDOW - 1, u32::MAX, 2 * high - 1),
        ] {
            let window = Window::after(EspSeq(top), true);
            assert_eq!(window.infer(low).0, full, "edge {top:#x}, low half {low:#x}");
        }
        assert_eq!(Window::after(EspSeq(high - 1), false).infer(0).0, 0, "no ESN: no high half");
    }

    #[test]
    fn a_new_owner_takes_all_up_to_the_edge_as_seen() {
        for edge in [0, 1, 63, 64, 65, 5000, 1 << 20] {
            let mut window = Window::after(EspSeq(edge), false);
            for seq in edge.saturating_sub(2 * WINDOW)..=edge {
                assert!(!accept(&mut window, seq), "edge {edge}, {seq}");
            }
            assert!(accept(&mut window, edge + 70), "edge {edge}");
            for seq in edge + 1..edge + 70 {
                assert!(accept(&mut window, seq), "edge {edge}, {seq}");
            }
        }
    }

    #[test]
    fn a_moved_window_is_the_same_window() {
        let mut window = Window::new(false);
        for seq in [1, 5, 6, 9000, 8999, 8000] {
            accept(&mut window, seq);
        }
        assert_eq!(Window::import(&window.export(), false), Some(window.clone()));
        let short = WindowState { edge: EspSeq(9), seen: vec![0; 3] };
        assert_eq!(Window::import(&short, false), None);
        window.raise(EspSeq(10));
        assert_eq!(window.edge(), EspSeq(9000), "the edge never moves down");
        window.raise(EspSeq(9500));
        assert!(!accept(&mut window, 9400));
    }

    proptest! {
        //= test ES-10
        #[test]
        fn the_ring_behaves_like_a_set(
            start in prop_oneof![Just(0u64), Just((1 << 32) - 3000), any::<u32>().prop_map(u64::from)],
            steps in prop::collection::vec(-3000i64..4000, 1..400),
        ) {
            let mut window = Window::after(EspSeq(start), true);
            let mut seen = BTreeSet::new();
            let mut top = start;
            for step in steps {
                let seq = (top as i64 + step).max(0) as u64;
                let fresh = seq > start && !seen.contains(&seq) && (seq > top || top - seq < WINDOW);
                prop_assert_eq!(window.check(EspSeq(seq)).is_ok(), fresh);
                if fresh {
                    prop_assert_eq!(window.infer(seq as u32), EspSeq(seq));
                    prop_assert_eq!(window.update(EspSeq(seq)), seq > top);
                    seen.insert(seq);
                    top = top.max(seq);
                }
            }
        }
    }
}
