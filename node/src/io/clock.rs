//! Time, read once per batch: milliseconds that never step back, and UTC for people and certificates.
//!
//! Leases and timers use `Now::ms`. It counts on while the machine is suspended (CLOCK_BOOTTIME), so that a lease does
//! not survive a sleep.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use ipsec::types::Millis;

/// Where a worker takes the time from.
pub trait Clock {
    /// Milliseconds since some fixed moment, the same for all threads and processes of the machine until it boots.
    fn now(&self) -> Millis;

    /// Milliseconds of UTC since 1970. May step.
    fn utc(&self) -> Millis;
}

/// The machine's own clocks: no system call (vDSO), about 25 ns each.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes one timespec to a valid place. It cannot fail: the clock exists since Linux 2.6.39.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
        Millis(time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000)
    }

    fn utc(&self) -> Millis {
        Millis(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
    }
}

/// A clock that a test moves by hand. Its clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now: Rc<Cell<u64>>,
}

impl ManualClock {
    /// What `utc` says when `now` says zero: 2025-01-01.
    pub const UTC_START: u64 = 1_735_689_600_000;

    pub fn advance(&self, millis: u64) {
        self.now.set(self.now.get() + millis);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Millis {
        Millis(self.now.get())
    }

    fn utc(&self) -> Millis {
        Millis(Self::UTC_START + self.now.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_goes_forward_and_knows_the_year() {
        let first = SystemClock.now();
        std::thread::sleep(std::time::Duration::from_millis(3));
        let later = SystemClock.now().since(first);
        assert!((2..5_000).contains(&later), "{later} ms");
        assert!(SystemClock.utc() > Millis(ManualClock::UTC_START));
    }

    #[test]
    fn clones_of_a_manual_clock_move_together() {
        let clock = ManualClock::default();
        let copy = clock.clone();
        clock.advance(5);
        assert_eq!((copy.now(), copy.utc()), (Millis(5), Millis(ManualClock::UTC_START + 5)));
    }
}
