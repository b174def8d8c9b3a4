//! One child SA: both directions, with what it has carried.
//!
//! Inbound it has an opening key and a window from its start; outbound it has nothing until a block of the served epoch
//! is granted: then a sealing key, made once for that epoch, and numbers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crypto::cipher::{OpenKey, Protection, SealKey};

use super::block::Numbers;
use super::claim::Claim;
use super::lifetime::{Age, Limits};
use super::pmtu::Outer;
use super::replay::{Window, WindowState};
use super::selectors::Selectors;
use super::table::{Event, Install, Refused, Replay, raise};
use crate::record::{ChildPhase, Path};
use crate::types::{ChildSpi, EspSeq, Millis, Spi};

/// Counters of one child. Written by one thread, read by any.
#[derive(Debug, Default)]
pub struct ChildStats {
    pub packets_in: AtomicU64,
    pub octets_in: AtomicU64,
    pub packets_out: AtomicU64,
    pub octets_out: AtomicU64,
    /// The next number that would be sent.
    pub next_number: AtomicU64,
    /// The highest number received.
    pub edge: AtomicU64,
    /// When the last good packet came in, in the milliseconds of the caller's clock; 0: never.
    pub heard_ms: AtomicU64,
}

/// What a planned move takes along of a child (CL-13): what was received, exactly, and what was counted. Numbers stay
/// behind: the new epoch has a block of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    pub spi_in: ChildSpi,
    pub window: WindowState,
    /// The peer has used this child.
    pub confirmed: bool,
    /// Where the peer is, as its packets say.
    pub peer: SocketAddr,
    pub packets_in: u64,
    pub octets_in: u64,
    pub packets_out: u64,
    pub octets_out: u64,
    /// How long ago the last good packet came in.
    pub heard_ago_ms: Option<u64>,
}

/// One child SA.
pub struct Child {
    pub(super) ike: Spi,
    pub(super) spi_in: ChildSpi,
    pub(super) spi_out: ChildSpi,
    pub(super) path: Path,
    pub(super) open: OpenKey,
    pub(super) window: Window,
    /// `None`: `replay = "bounded"`.
    pub(super) claim: Option<Claim>,
    pub(super) seal: Option<SealKey>,
    pub(super) numbers: Numbers,
    pub(super) selectors: Selectors,
    pub(super) limits: Limits,
    pub(super) heard: bool,
    pub(super) reported: Age,
    pub(super) octets_in: u64,
    pub(super) octets_out: u64,
    pub(super) inner_mtu: usize,
    pub(super) stats: Arc<ChildStats>,
    /// As installed: the path of the record, the keys for the next epoch, the selectors for removal.
    pub(super) installed: Install,
    order: u64,
}

/// A window without its SA, and what tells that it is the same one when it comes back.
#[derive(Debug)]
pub(super) struct Kept {
    spi_out: ChildSpi,
    established_at: Millis,
    window: Window,
}

impl ChildStats {
    /// Goes on counting where the owner before us ended.
    pub fn go_on(&self, carried: &Carried, now: Millis) {
        self.packets_in.store(carried.packets_in, Relaxed);
        self.octets_in.store(carried.octets_in, Relaxed);
        self.packets_out.store(carried.packets_out, Relaxed);
        self.octets_out.store(carried.octets_out, Relaxed);
        self.edge.store(carried.window.edge.0, Relaxed);
        let heard_ms = carried.heard_ago_ms.map_or(0, |ago| now.0.saturating_sub(ago).max(1));
        self.heard_ms.store(heard_ms, Relaxed);
    }
}

impl Child {
    pub(super) fn new(install: Install, order: u64) -> Result<Child, Refused> {
        let record = &install.child;
        let suite = record.suite;
        let (encr, integ) = (record.keys.encr_in.as_bytes(), record.keys.integ_in.as_bytes());
        let open = OpenKey::new(suite.protection, encr, integ).map_err(|_| Refused::Unsound)?;
        let window = match &install.replay {
            Replay::Fresh => Window::new(suite.esn),
            Replay::After(edge) => Window::after(*edge, suite.esn),
            Replay::Exact(state) => Window::import(state, suite.esn).ok_or(Refused::Unsound)?,
        };
        let mut child = Child {
            ike: install.ike,
            spi_in: record.spi_in,
            spi_out: record.spi_out,
            path: install.path,
            open,
            window,
            claim: record.claimed.map(|_| Claim::new()),
            seal: None,
            numbers: Numbers::new(),
            selectors: Selectors::new(&record.local_ts, &record.remote_ts),
            limits: Limits::new(&suite, install.rekey_octets),
            heard: false,
            reported: Age::Fresh,
            // What its owner before us has counted, when that is known: limits of volume are of the SA, not of a node.
            octets_in: install.stats.octets_in.load(Relaxed),
            octets_out: install.stats.octets_out.load(Relaxed),
            inner_mtu: 0,
            stats: install.stats.clone(),
            order,
            installed: install,
        };
        child.set_path(child.path);
        Ok(child)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn ike(&self) -> Spi {
        self.ike
    }

    pub fn spi_in(&self) -> ChildSpi {
        self.spi_in
    }

    /// The highest number received.
    pub fn edge(&self) -> EspSeq {
        self.window.edge()
    }

    /// The exact window, for a planned move.
    pub fn export_window(&self) -> WindowState {
        self.window.export()
    }

    /// What a planned move takes along.
    pub fn carry(&self, now: Millis) -> Carried {
        let stats = &self.stats;
        let heard_ms = stats.heard_ms.load(Relaxed);
        Carried {
            spi_in: self.spi_in,
            window: self.window.export(),
            confirmed: self.heard,
            peer: self.path.peer,
            packets_in: stats.packets_in.load(Relaxed),
            octets_in: self.octets_in,
            packets_out: stats.packets_out.load(Relaxed),
            octets_out: self.octets_out,
            heard_ago_ms: (heard_ms != 0).then(|| now.since(Millis(heard_ms))),
        }
    }

    /// The next number that would be sent, and how many may follow before a grant.
    pub fn numbers(&self) -> (EspSeq, u64) {
        (self.numbers.next(), self.numbers.left())
    }

    /// The longest inner packet that fits the path.
    pub fn inner_mtu(&self) -> usize {
        self.inner_mtu
    }

    /// Takes over what was claimed for the epoch that is served.
    pub(super) fn take_claim(&mut self) {
        if let (Some(claim), Some(claimed)) = (&mut self.claim, self.installed.child.claimed) {
            claim.raise(claimed);
        }
    }

    pub(super) fn esn(&self) -> bool {
        self.installed.child.suite.esn
    }

    pub(super) fn protection(&self) -> Protection {
        self.installed.child.suite.protection
    }

    pub(super) fn set_path(&mut self, path: Path) {
        self.path = path;
        let outer = Outer { ipv6: path.peer.is_ipv6(), udp: path.encapsulates() };
        self.inner_mtu = outer.inner_mtu(self.protection(), self.installed.path_mtu);
    }

    /// True while something may be sent on it, were there numbers.
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.installed.child.phase, ChildPhase::Closing { .. }) && self.reported != Age::Hard
    }

    /// Which of two children is newer.
    pub(super) fn seniority(&self) -> (Millis, u64) {
        (self.installed.child.established_at, self.order)
    }

    /// Notes how old the SA is with `octets` carried one way and `number` in use, and tells of a change once.
    pub(super) fn grow(&mut self, octets: u64, number: u64, events: &mut Vec<Event>) -> Age {
        let age = self.limits.age(octets, number).max(self.reported);
        if age > self.reported {
            let (ike, child) = (self.ike, self.spi_in);
            let event = match age {
                Age::Hard => Event::HardLimit { ike, child },
                _ => Event::SoftLimit { ike, child },
            };
            if raise(events, event) {
                self.reported = age;
            }
        }
        age
    }
}

impl Kept {
    pub fn of(child: Child) -> Kept {
        let established_at = child.installed.child.established_at;
        Kept { spi_out: child.spi_out, established_at, window: child.window }
    }

    /// Whoever knows more of what was received: we of the time before, or who installs of the time since.
    pub fn give_to(self, child: &mut Child) {
        let same =
            (self.spi_out, self.established_at) == (child.spi_out, child.installed.child.established_at);
        if !same || matches!(child.installed.replay, Replay::Exact(_)) {
            return;
        }
        let known = child.window.edge();
        child.window = self.window;
        child.window.raise(known);
    }
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Child({} of {}, numbers {:?}, edge {})", self.spi_in, self.ike, self.numbers, self.edge())
    }
}
