//! Numbered datagrams and their echoes: what was lost, exactly.
//!
//! `ping` gives up two round trips after its last packet, so on a busy machine it takes a late answer for a lost one.
//! Here every datagram has a number and a second to come back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::netns::Netns;
use crate::outcome::{Context, Result};

/// The echo service (RFC 862).
pub const PORT: u16 = 7;

/// How long an echo may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns every datagram to its sender until dropped.
#[derive(Debug)]
pub struct Echo {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Echo {
    pub fn start(namespace: &Netns) -> Result<Echo> {
        let socket = namespace.within(|| -> Result<UdpSocket> {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
            socket.set_only_v6(false)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(socket.into())
        })??;
        let ending = Arc::new(AtomicBool::new(false));
        let seen = ending.clone();
        let thread = namespace.spawn(move || {
            let mut buffer = [0; 2048];
            while !seen.load(Ordering::Relaxed) {
                if let Ok((count, from)) = socket.recv_from(&mut buffer) {
                    // An answer that cannot leave shows as a loss.
                    let _ = socket.send_to(&buffer[..count], from);
                }
            }
        })?;
        Ok(Echo { ending, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What became of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echoed {
    pub sent: u32,
    pub received: u32,
}

impl Echoed {
    pub fn lost(self) -> u32 {
        self.sent - self.received
    }
}

/// Sends `count` datagrams, one every `interval`, and waits for the echoes.
pub fn series(
    namespace: &Netns,
    to: IpAddr,
    from: Option<IpAddr>,
    count: u32,
    interval: Duration,
) -> Result<Echoed> {
    let ending = AtomicBool::new(false);
    namespace.within(move || exchange(to, from, count, interval, &ending))?
}

/// A series without an end.
#[derive(Debug)]
pub struct Stream {
    ending: Arc<AtomicBool>,
    thread: JoinHandle<Result<Result<Echoed>>>,
}

impl Stream {
    pub fn start(namespace: &Netns, to: IpAddr, interval: Duration) -> Result<Stream> {
        let ending = Arc::new(AtomicBool::new(false));
        let seen = ending.clone();
        let thread = namespace.spawn(move || exchange(to, None, u32::MAX, interval, &seen))?;
        Ok(Stream { ending, thread })
    }

    /// Ends it when the last echoes are in.
    pub fn stop(self) -> Result<Echoed> {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the stream panicked")??
    }
}

fn exchange(
    to: IpAddr,
    from: Option<IpAddr>,
    count: u32,
    interval: Duration,
    ending: &AtomicBool,
) -> Result<Echoed> {
    let any =
        if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0)).context("bind")?;
    socket.connect((to, PORT)).context(format!("route to {to}"))?;
    let mut seen = std::collections::HashSet::new();
    let mut echoed = Echoed::default();
    let start = Instant::now();
    let mut give_up = start + PATIENCE;
    loop {
        let now = Instant::now();
        let sending = echoed.sent < count && !ending.load(Ordering::Relaxed);
        if !sending && (echoed.received == echoed.sent || now >= give_up) {
            return Ok(echoed);
        }
        let next = start + interval * echoed.sent;
        if sending && now >= next {
            // A refusal of an earlier one may be told here; it is a loss like others.
            let _ = socket.send(&echoed.sent.to_be_bytes());
            echoed.sent += 1;
            give_up = now + PATIENCE;
            continue;
        }
        let until = if sending { next } else { give_up };
        let wait =
            until.saturating_duration_since(now).clamp(Duration::from_millis(1), Duration::from_millis(50));
        socket.set_read_timeout(Some(wait))?;
        let mut buffer = [0; 16];
        if let Ok(4) = socket.recv(&mut buffer)
            && seen.insert(u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]))
        {
            echoed.received += 1;
        }
    }
}
