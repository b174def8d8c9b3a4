//! A numbered datagram to the echo every so often, and when each came back: silence, losses and doubles as a client
//! sees them, apart from the timers of TCP.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::netns::Netns;
use super::{SERVER, echo, eventually};
use crate::ensure;
use crate::outcome::{Context, Result};

/// How long an answer may take before it counts as lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The datagrams of one client, until it is dropped.
#[derive(Debug)]
pub struct Pulse {
    answers: Arc<Mutex<Answers>>,
    sent: Arc<AtomicU64>,
    pausing: Arc<AtomicBool>,
    _sender: Loop,
    _receiver: Loop,
}

#[derive(Debug, Default)]
struct Answers {
    at: Vec<Instant>,
    /// How often each number came.
    times: HashMap<u64, u32>,
}

/// What a series came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub sent: u64,
    pub lost: u64,
    /// Answers beyond the first of each.
    pub doubled: u64,
}

impl Counted {
    /// Of several series together.
    pub fn all(pulses: &[Pulse]) -> Counted {
        pulses.iter().map(Pulse::count).fold(Counted::default(), |sum, one| Counted {
            sent: sum.sent + one.sent,
            lost: sum.lost + one.lost,
            doubled: sum.doubled + one.doubled,
        })
    }
}

impl Pulse {
    /// From the inner address `from` to the server, one `every` so often.
    pub fn start(client: &Netns, from: IpAddr, every: Duration) -> Result<Pulse> {
        let socket = Arc::new(bound(client, SocketAddr::new(from, 0))?);
        let (answers, sent) = (Arc::new(Mutex::new(Answers::default())), Arc::new(AtomicU64::new(0)));
        let pausing = Arc::new(AtomicBool::new(false));
        let (sending, number, paused) = (socket.clone(), sent.clone(), pausing.clone());
        let mut next = Instant::now();
        let _sender = Loop::start(client, move || {
            if !paused.load(Ordering::Relaxed) {
                let number = number.fetch_add(1, Ordering::Relaxed);
                // One that does not leave is one that is not answered.
                let _ = sending.send_to(&number.to_be_bytes(), (SERVER, echo::PORT));
            }
            next = (next + every).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        })?;
        let seen = answers.clone();
        let mut buffer = [0; 8];
        let _receiver = Loop::start(client, move || {
            if socket.recv_from(&mut buffer).is_ok() {
                let mut answers = seen.lock().unwrap_or_else(PoisonError::into_inner);
                answers.at.push(Instant::now());
                *answers.times.entry(u64::from_be_bytes(buffer)).or_default() += 1;
            }
        })?;
        Ok(Pulse { answers, sent, pausing, _sender, _receiver })
    }

    /// Returns when `count` answers have come after `since`.
    pub fn wait_for(&self, since: Instant, count: usize, patience: Duration) -> Result {
        eventually(patience, || {
            let come = self.with(|answers| answers.at.len() - answers.at.partition_point(|&at| at < since));
            ensure!(come >= count, "{come} answers within {} s", patience.as_secs());
            Ok(())
        })
    }

    /// The longest time between two answers since then, the last one before included.
    pub fn longest_silence(&self, since: Instant) -> Duration {
        self.with(|answers| {
            let first = answers.at.partition_point(|&at| at < since).saturating_sub(1);
            answers.at[first..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
        })
    }

    /// All datagrams so far, once those on their way have had their time. Sending stops for as long.
    pub fn count(&self) -> Counted {
        self.pausing.store(true, Ordering::Relaxed);
        let until = Instant::now() + ANSWER_WITHIN;
        let counted = loop {
            std::thread::sleep(Duration::from_millis(20));
            let sent = self.sent.load(Ordering::Relaxed);
            let counted = self.with(|answers| Counted {
                sent,
                lost: sent.saturating_sub(answers.times.len() as u64),
                doubled: answers.times.values().map(|&times| u64::from(times) - 1).sum(),
            });
            if counted.lost == 0 || Instant::now() >= until {
                break counted;
            }
        };
        self.pausing.store(false, Ordering::Relaxed);
        counted
    }

    /// The numbers that did not come back, as ranges.
    pub fn lost(&self) -> Vec<(u64, u64)> {
        let sent = self.sent.load(Ordering::Relaxed);
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        self.with(|answers| {
            for number in (0..sent).filter(|number| !answers.times.contains_key(number)) {
                match ranges.last_mut() {
                    Some((_, last)) if *last + 1 == number => *last = number,
                    _ => ranges.push((number, number)),
                }
            }
        });
        ranges
    }

    fn with<T>(&self, look: impl FnOnce(&Answers) -> T) -> T {
        look(&self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A thread in a namespace, until it is dropped.
#[derive(Debug)]
struct Loop {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Loop {
    fn start(namespace: &Netns, mut step: impl FnMut() + Send + 'static) -> Result<Loop> {
        let ending = Arc::new(AtomicBool::new(false));
        let seen = ending.clone();
        let thread = namespace.spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                step();
            }
        })?;
        Ok(Loop { ending, thread: Some(thread) })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket in the namespace; reading ends after a moment, so that a thread can see that it should end.
fn bound(namespace: &Netns, local: SocketAddr) -> Result<UdpSocket> {
    namespace.within(move || -> Result<UdpSocket> {
        let socket = UdpSocket::bind(local).context(local)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(socket)
    })?
}
