//! Holds the service addresses on their links: one task per device and family that answers, announces, and notices
//! a stranger who claims the same address.
//!
//! ```text
//!   probe (200 ms apart, once or not at all) -> announce at 0, 50, 250 ms, 1 s, 3 s -> answer until dropped
//!                                                        └ before `start` returns
//! ```
//!
//! A stranger's claim is counted and logged, and our own repeated at most every ten seconds (RFC 5227, 2.4 c): the
//! address is ours by configuration, and two who shout at each other help nobody.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::neighbour::{self, Mac, Speaker};
use super::{Device, Entitled, Mode, PROBE_TIME, Probe, SteeringError};
use crate::io::packet::{FRAME_LEN_MAX, Frames, PacketSocket};

const PROBES: u32 = 2;
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
const _: () = assert!(PROBE_INTERVAL.as_millis() * PROBES as u128 <= PROBE_TIME.as_millis());

/// After the first announcement. More than one, since a link that has just come up swallows the first.
const ANNOUNCE_AGAIN_AT: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(3)];

/// How long the first announcement on a device may take.
const ANNOUNCE_WITHIN: Duration = Duration::from_millis(50);

const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// How long to let a device be that refuses to receive: it is down, or gone.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What the answering tasks did since `hold`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    pub answered: u64,
    pub announced: u64,
    /// Frames in which a stranger claimed an address of ours.
    pub conflicts: u64,
}

/// Answers until it is dropped.
#[derive(Debug)]
pub(super) struct Answering {
    tasks: Vec<JoinHandle<()>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    announced: AtomicU64,
    conflicts: AtomicU64,
}

impl Answering {
    /// For the addresses of all devices of one mode. Their neighbours have been told when it
    /// returns, as far as the devices take it.
    pub(super) async fn start<'a>(
        devices: impl Iterator<Item = &'a Device>,
        probe: Probe,
        entitled: &Entitled,
    ) -> Result<Answering, SteeringError> {
        let counts = Arc::new(Counts::default());
        let mut voices = Vec::new();
        for device in devices {
            for frames in [Frames::Arp, Frames::Neighbour] {
                let of_family = |ip: &IpAddr| ip.is_ipv4() == (frames == Frames::Arp);
                let ips: Vec<IpAddr> = device.ips.iter().copied().filter(of_family).collect();
                // A device without a MAC and with service addresses was refused before.
                if let (false, Some(mac)) = (ips.is_empty(), device.link.mac) {
                    voices.push(Voice::open(device, mac, ips, frames, counts.clone(), entitled.clone())?);
                }
            }
        }
        if probe == Probe::Ask {
            let until = Instant::now() + PROBE_TIME;
            let asked = voices.iter().map(|voice| voice.probe(until));
            for result in futures_util::future::join_all(asked).await {
                result?;
            }
        }
        // Only now: nothing is claimed as long as one of the probes may fail.
        for voice in &voices {
            // A device that takes nothing is told of later, as the schedule says.
            let _ = tokio::time::timeout(ANNOUNCE_WITHIN, voice.announce_all()).await;
        }
        let tasks = voices.into_iter().map(|voice| tokio::spawn(voice.run())).collect();
        Ok(Answering { tasks, counts })
    }

    pub(super) fn answers(&self) -> Answers {
        Answers {
            answered: self.counts.answered.load(Ordering::Relaxed),
            announced: self.counts.announced.load(Ordering::Relaxed),
            conflicts: self.counts.conflicts.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One family of addresses on one device.
struct Voice {
    socket: PacketSocket,
    device: String,
    mode: Mode,
    mac: Mac,
    ips: Vec<IpAddr>,
    counts: Arc<Counts>,
    entitled: Entitled,
    defended: Option<Instant>,
}

impl Voice {
    fn open(
        device: &Device,
        mac: Mac,
        ips: Vec<IpAddr>,
        frames: Frames,
        counts: Arc<Counts>,
        entitled: Entitled,
    ) -> Result<Voice, SteeringError> {
        let failed = |source| {
            SteeringError::packet(format!("answer for the service address on {}", device.link.name), source)
        };
        let socket = PacketSocket::open(device.link.index, frames).map_err(failed)?;
        for group in ips.iter().filter_map(|ip| neighbour::question_group(*ip)) {
            socket.join(group).map_err(failed)?;
        }
        if device.mode == Mode::SharedMac {
            // The device lets frames to the shared address in as long as this socket lives.
            for ip in &ips {
                socket.join(neighbour::shared_mac(*ip)).map_err(failed)?;
            }
        }
        let (device, mode) = (device.link.name.clone(), device.mode);
        Ok(Voice { socket, device, mode, mac, ips, counts, entitled, defended: None })
    }

    /// An error when somebody else has one of the addresses, or is about to take it.
    async fn probe(&self, until: Instant) -> Result<(), SteeringError> {
        let failed =
            |source| SteeringError::packet(format!("ask on {} for the service address", self.device), source);
        for turn in 0..PROBES {
            for ip in &self.ips {
                self.socket.send(&neighbour::probe(self.mac, *ip)).await.map_err(failed)?;
            }
            let turn_ends = if turn + 1 == PROBES { until } else { Instant::now() + PROBE_INTERVAL };
            let mut frame = [0; FRAME_LEN_MAX];
            while let Ok(received) = timeout_at(turn_ends, self.socket.receive(&mut frame)).await {
                let heard = neighbour::hear(&frame[..received.map_err(failed)?]);
                let prober =
                    heard.asks.filter(|asks| asks.by.is_none()).map(|asks| (asks.about, asks.by_mac));
                if let Some((ip, by)) =
                    [heard.claims, prober].into_iter().flatten().find(|it| self.is_rival(*it))
                {
                    return Err(SteeringError::AddressTaken { ip, device: self.device.clone(), by });
                }
            }
        }
        Ok(())
    }

    async fn run(mut self) {
        let start = Instant::now();
        let mut announcements = ANNOUNCE_AGAIN_AT.into_iter().peekable();
        let mut frame = [0; FRAME_LEN_MAX];
        loop {
            let announce_at = announcements.peek().map(|after| start + *after);
            tokio::select! {
                received = self.socket.receive(&mut frame) => match received {
                    Ok(len) => self.heard(&frame[..len]).await,
                    Err(error) => {
                        tracing::debug!(device = self.device, %error, "cannot hear questions");
                        sleep(RETRY_INTERVAL).await;
                    }
                },
                () = sleep_until(announce_at.unwrap_or(start)), if announce_at.is_some() => {
                    announcements.next();
                    self.announce_all().await;
                }
            }
        }
    }

    async fn heard(&mut self, frame: &[u8]) {
        let heard = neighbour::hear(frame);
        if let Some(claim) = heard.claims.filter(|claim| self.is_rival(*claim)) {
            self.conflict(claim).await;
        }
        if let Some(question) = heard.asks.filter(|asks| self.ips.contains(&asks.about))
            && question.by_mac != self.mac
            && (self.entitled)()
            && let Some(answer) = neighbour::answer(self.speaker(question.about), question)
        {
            let result = self.socket.send(&answer).await;
            self.count(result, |counts| &counts.answered);
        }
    }

    fn speaker(&self, ip: IpAddr) -> Speaker {
        let told = match self.mode {
            Mode::SharedMac => neighbour::shared_mac(ip),
            Mode::Announce | Mode::External => self.mac,
        };
        Speaker { own: self.mac, told }
    }

    async fn conflict(&mut self, (ip, by): (IpAddr, Mac)) {
        self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if self.defended.is_none_or(|last| now >= last + DEFEND_INTERVAL) {
            self.defended = Some(now);
            tracing::warn!(%ip, device = self.device, ?by, "somebody else claims the service address");
            self.announce(ip).await;
        }
    }

    async fn announce_all(&self) {
        for ip in &self.ips {
            self.announce(*ip).await;
        }
    }

    async fn announce(&self, ip: IpAddr) {
        if !(self.entitled)() {
            return;
        }
        let result = self.socket.send(&neighbour::announcement(self.speaker(ip), ip)).await;
        self.count(result, |counts| &counts.announced);
    }

    fn is_rival(&self, (ip, mac): (IpAddr, Mac)) -> bool {
        mac != self.mac && self.ips.contains(&ip)
    }

    fn count(&self, sent: io::Result<()>, which: fn(&Counts) -> &AtomicU64) {
        match sent {
            Ok(()) => {
                which(&self.counts).fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => tracing::debug!(device = self.device, %error, "cannot answer or announce"),
        }
    }
}
