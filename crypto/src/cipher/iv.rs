//! The IV of an AEAD: `epoch (24 bit) | counter (40 bit)`.
//!
//! The only source of nonces for sealing. The epoch is new at every change of owner and at every restart of an
//! actor, the counter starts at 0 and only goes up; so two senders never share an IV under one key, even if all
//! other fences failed (DESIGN, section 5). It is neither `Clone` nor `Copy`: a copy would repeat.

/// What the next IV is.
#[derive(Debug)]
pub(super) struct EpochIv {
    epoch: u32,
    /// Of the next IV; `COUNTER_END` when there is none.
    counter: u64,
}

/// The epochs and counters that fit.
const EPOCH_END: u32 = 1 << 24;
pub(super) const COUNTER_END: u64 = 1 << 40;

impl EpochIv {
    /// `None` when the epoch has more than 24 bits.
    //= AL-2
    pub(super) fn new(epoch: u32) -> Option<EpochIv> {
        (epoch < EPOCH_END).then_some(EpochIv { epoch, counter: 0 })
    }

    /// An IV that this value never gave before; `None` when the counter has reached its end, from then on for good.
    //= AL-3
    pub(super) fn take(&mut self) -> Option<[u8; 8]> {
        if self.counter == COUNTER_END {
            return None;
        }
        let iv = (u64::from(self.epoch) << 40) | self.counter;
        self.counter += 1;
        Some(iv.to_be_bytes())
    }

    /// How many were taken.
    pub(super) fn taken(&self) -> u64 {
        self.counter
    }

    /// As if so many had been taken: nobody can take 2^40 in a test.
    #[cfg(test)]
    pub(super) fn skip_to(&mut self, counter: u64) {
        assert!(counter >= self.counter, "the counter never steps back");
        self.counter = counter;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    //= test AL-2
    #[test]
    fn layout_is_epoch_then_counter() {
        let mut iv = EpochIv::new(0x00ab_cdef).unwrap();
        assert_eq!(iv.take(), Some([0xab, 0xcd, 0xef, 0, 0, 0, 0, 0]));
        assert_eq!(iv.take(), Some([0xab, 0xcd, 0xef, 0, 0, 0, 0, 1]));
        iv.skip_to(0x01_0203_0405);
        assert_eq!(iv.take(), Some([0xab, 0xcd, 0xef, 1, 2, 3, 4, 5]));
    }

    //= test AL-2
    #[test]
    fn an_epoch_of_25_bits_is_refused() {
        assert!(EpochIv::new(EPOCH_END - 1).is_some());
        assert!(EpochIv::new(EPOCH_END).is_none());
        assert!(EpochIv::new(u32::MAX).is_none());
    }

    //= test AL-3
    #[test]
    fn the_counter_ends_before_it_would_repeat() {
        let mut iv = EpochIv::new(7).unwrap();
        iv.skip_to(COUNTER_END - 2);
        assert_eq!(iv.take(), Some([0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0xfe]));
        assert_eq!(iv.take(), Some([0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0xff]));
        for _ in 0..3 {
            assert_eq!(iv.take(), None);
        }
        assert_eq!(iv.taken(), COUNTER_END);
    }

    proptest! {
        //= test AL-2
        #[test]
        fn epochs_never_share_an_iv(
            a in 0..EPOCH_END, b in 0..EPOCH_END, at_a in 0..COUNTER_END, at_b in 0..COUNTER_END,
        ) {
            let [first, second] = [(a, at_a), (b, at_b)].map(|(epoch, at)| {
                let mut iv = EpochIv::new(epoch).unwrap();
                iv.skip_to(at);
                iv.take().unwrap()
            });
            prop_assert_eq!(first == second, (a, at_a) == (b, at_b));
        }

        //= test AL-2
        #[test]
        fn the_counter_only_goes_up(epoch in 0..EPOCH_END, from in 0..COUNTER_END - 1_000, count in 2..1_000) {
            let mut iv = EpochIv::new(epoch).unwrap();
            iv.skip_to(from);
            let taken: Vec<u64> = (0..count).map(|_| u64::from_be_bytes(iv.take().unwrap())).collect();
            prop_assert!(taken.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
