//! Waiting: one epoll per worker thread, and a waker with which other threads end its wait.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Most sources that one wait reports; the others are reported by the next.
const EVENTS_MAX: usize = 16;

/// The token of the waker, not free for sources.
const WAKER: u64 = u64::MAX;

/// Waits for any of several sources to have something to read (level-triggered: as long as they have).
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    waker: Waker,
}

/// Ends the wait of the poller it came from. Cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

/// What a wait ended with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    tokens: [u32; EVENTS_MAX],
    len: usize,
    /// A waker was used since the last wait.
    pub woken: bool,
}

impl Ready {
    /// The tokens of the sources that can be read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..self.len]
    }
}

impl Poller {
    pub fn new() -> io::Result<Poller> {
        // SAFETY: no memory is involved; the descriptor is checked, new and owned by nobody else.
        let epoll = unsafe { owned(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }?;
        // SAFETY: as above.
        let event = unsafe { owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }?;
        let poller = Poller { epoll, waker: Waker(Arc::new(event)) };
        poller.register(poller.waker.0.as_raw_fd(), WAKER)?;
        Ok(poller)
    }

    /// Reports `token` whenever the source can be read. The source leaves by being closed.
    pub fn add(&self, source: BorrowedFd<'_>, token: u32) -> io::Result<()> {
        self.register(source.as_raw_fd(), u64::from(token))
    }

    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits until a source can be read, a waker is used or `timeout_ms` are over; `None` waits for ever. A signal may
    /// end the wait early.
    pub fn wait(&self, timeout_ms: Option<u32>) -> io::Result<Ready> {
        let timeout = timeout_ms.map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        // SAFETY: the kernel writes at most EVENTS_MAX events to an array of that length.
        let number = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS_MAX as libc::c_int, timeout)
        };
        let mut ready = Ready::default();
        if number < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(ready) } else { Err(error) };
        }
        for event in &events[..number as usize] {
            if event.u64 == WAKER {
                self.waker.reset();
                ready.woken = true;
            } else {
                ready.tokens[ready.len] = event.u64 as u32;
                ready.len += 1;
            }
        }
        Ok(ready)
    }

    fn register(&self, fd: libc::c_int, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: the kernel reads one event from a valid place and checks both descriptors.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Waker {
    /// Ends the current wait, or the next one if none is going on. Many calls before a wait count as one.
    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: the kernel reads eight octets from a valid place. It fails only when the counter is full, and then
        // the poller will wake anyway.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    fn reset(&self) {
        let mut count = 0u64;
        // SAFETY: the kernel writes eight octets to a valid place. It fails only when the counter is zero already.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }
}

/// Takes what a system call returned.
///
/// # Safety
/// A descriptor that is not negative must be new and owned by nobody else.
unsafe fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: promised by the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_source_is_reported_as_long_as_it_can_be_read() {
        let poller = Poller::new().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        poller.add(near.as_fd(), 7).unwrap();
        assert!(poller.wait(Some(0)).unwrap().tokens().is_empty());
        far.write_all(b"x").unwrap();
        for _ in 0..2 {
            let ready = poller.wait(Some(1_000)).unwrap();
            assert_eq!((ready.tokens(), ready.woken), (&[7][..], false));
        }
    }

    #[test]
    fn a_waker_ends_one_wait_from_another_thread() {
        let poller = Poller::new().unwrap();
        let waker = poller.waker();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            waker.wake();
            waker.wake();
        });
        let started = Instant::now();
        assert!(poller.wait(Some(10_000)).unwrap().woken);
        assert!(started.elapsed() < Duration::from_secs(9));
        thread.join().unwrap();
        poller.wait(Some(0)).unwrap();
        assert!(!poller.wait(Some(0)).unwrap().woken);
    }

    #[test]
    fn more_sources_than_one_wait_reports_are_all_reported() {
        let poller = Poller::new().unwrap();
        let pairs: Vec<_> = (0..40).map(|_| UnixStream::pair().unwrap()).collect();
        for (token, (near, far)) in pairs.iter().enumerate() {
            poller.add(near.as_fd(), token as u32).unwrap();
            (&*far).write_all(b"x").unwrap();
        }
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10 {
            seen.extend(poller.wait(Some(0)).unwrap().tokens().iter().copied());
        }
        assert_eq!(seen.len(), 40);
    }
}
