//! How long traffic stands still when the only node is killed and started again at once.
//!
//! A datagram goes through the tunnel to an echo on the server every millisecond; the gap is the longest time between
//! two answers around the kill. It holds the end of the process, its start by a supervisor that does not wait, reading
//! the log, and the commit of the new incarnation: nothing of the SA is made anew.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Extent;
use super::client::Tunnel;
use super::setup::gateway;
use super::table::{Cell, Table, quantile, sorted};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::netns::Netns;
use crate::world::pontoon::Pontoon;
use crate::world::{Bed, SERVER, World, echo, eventually};

const EVERY: Duration = Duration::from_millis(1);
/// Answers in a row after which the traffic counts as flowing again.
const FLOWING: usize = 200;
const PATIENCE: Duration = Duration::from_secs(20);

pub fn run(bed: &Bed, extent: Extent) -> Result<Vec<Table>> {
    let kills = extent.choose(3, 20);
    let world = World::new(bed)?;
    let mut node = Pontoon::start(&world, &gateway().toml())?;
    let tunnel = Tunnel::up(&world)?;
    let stream = Stream::start(&world.client, tunnel.inner)?;
    let (mut gaps_ms, mut calm_ms) = (Vec::new(), Vec::new());
    for _ in 0..kills {
        let calm = Instant::now();
        stream.wait_for(calm, FLOWING)?;
        calm_ms.push(stream.longest_silence_ms(calm));
        let killed = Instant::now();
        node.kill()?;
        node.restart()?;
        stream.wait_for(killed + Duration::from_millis(5), FLOWING).context("after a kill")?;
        gaps_ms.push(stream.longest_silence_ms(killed - Duration::from_millis(5)));
        node.wait_ready_again()?;
    }
    let mut table = Table::new(
        format!("kill -9 and restart at once, {kills} times, one datagram a millisecond"),
        &["silence at the client", "p50 ms", "p95 ms", "max ms", "min ms"],
    )
    .note("in a calm time: the longest silence in 200 answers before each kill, which is the machine's own");
    for (name, values) in [("around a kill", &gaps_ms), ("in a calm time", &calm_ms)] {
        let sorted = sorted(values);
        let at = |q| Cell::from(quantile(&sorted, q));
        table.row(vec![name.into(), at(0.5), at(0.95), at(1.0), at(0.0)]);
    }
    Ok(vec![table])
}

/// A thread in a namespace, until it is dropped.
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

/// A datagram every millisecond, and the moments of the answers.
struct Stream {
    answers: Arc<Mutex<Vec<Instant>>>,
    _sender: Loop,
    _receiver: Loop,
}

impl Stream {
    fn start(client: &Netns, from: IpAddr) -> Result<Stream> {
        let socket = Arc::new(bound(client, SocketAddr::new(from, 0))?);
        let answers = Arc::new(Mutex::new(Vec::with_capacity(1 << 16)));
        let (sending, seen) = (socket.clone(), answers.clone());
        let mut next = Instant::now();
        let _sender = Loop::start(client, move || {
            // One that does not leave is one that is not answered.
            let _ = sending.send_to(b"still there?", (SERVER, echo::PORT));
            next = (next + EVERY).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        })?;
        let mut buffer = [0; 64];
        let _receiver = Loop::start(client, move || {
            if socket.recv_from(&mut buffer).is_ok() {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
        })?;
        Ok(Stream { answers, _sender, _receiver })
    }

    /// Returns when `count` answers have come after `since`.
    fn wait_for(&self, since: Instant, count: usize) -> Result {
        eventually(PATIENCE, || {
            let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let come = answers.len() - answers.partition_point(|&at| at < since);
            ensure!(come >= count, "{come} answers within {} s", PATIENCE.as_secs());
            Ok(())
        })
    }

    /// The longest time between two answers since then, the last one before included.
    fn longest_silence_ms(&self, since: Instant) -> f64 {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let first = answers.partition_point(|&at| at < since).saturating_sub(1);
        let silences = answers[first..].windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3);
        silences.fold(0.0, f64::max)
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
