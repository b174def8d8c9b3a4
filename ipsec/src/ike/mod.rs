//! The IKEv2 engine of one segment: it decides, and changes nothing that is replicated.
//!
//! ```text
//!   datagram ─┐                        ┌─ Drop(reason)           counted
//!   timeout  ─┼─> Endpoint ─> Verdict ─┼─ Send(datagrams)        replies that imply no state, or committed octets
//!   order    ─┘    reads View          └─ Commit(Decision)       change for the log; replies sealed until then
//! ```
//!
//! An `Endpoint` belongs to one epoch of its segment and dies with it: the IV counters of IKE keys start at zero
//! for each (key, epoch) and live in here. After `Commit` its IKE SA is busy until the caller says `committed` or
//! `refused`; meanwhile messages for that SA are dropped, and the peer's retransmission finds it free again.
//!
//! One exchange a file, both roles side by side: `init`, `auth`, `create_child` (with `rekey_child` and
//! `rekey_ike`), `inform`. IKE_SA_INIT leaves half-open state here only (I11); everything later is a `Change`.

pub mod cookie;
pub mod keys;

mod auth;
mod create_child;
mod due;
mod event;
mod exchange;
mod half_open;
mod handover;
mod inform;
mod init;
pub(crate) mod nat;
mod negotiate;
mod rekey_child;
mod rekey_ike;
mod sa;
mod timer;

pub use event::{ChildName, DropReason, Event, ExchangeResult, IkeName};

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crypto::rng::Rng;

use crate::datagram::Datagram;
use crate::limits;
use crate::policy::{Gateway, Identity, Pool};
use crate::record::{Change, Farewell, Guard, IkeRecord, Path, Sealed, Step, Why};
use crate::types::{ChildSpi, Millis, Segment, Spi};
use crate::wire;
use crate::wire::ExchangeType;

use cookie::CookieSecrets;
use half_open::HalfOpenTable;
use sa::Sa;

/// The segment that an IKE message from `peer` belongs to, by what anybody can see of it: the top byte of our own SPI, or for the
/// first message of a stranger a hash of where it came from (DESIGN 7). `None`: not an IKE header.
pub fn segment_of(peer: SocketAddr, message: &[u8]) -> Option<Segment> {
    let header = wire::Header::peek(message)?;
    let ours = header.receiver_spi();
    Some(if ours.is_zero() { Segment::of_initiator(peer, header.spi_i) } else { ours.segment() })
}

/// What the engine reads of the replicated state, and what the packet side knows. Reading changes nothing.
pub trait View {
    fn record(&self, spi: Spi) -> Option<Arc<IkeRecord>>;
    /// What stays of an IKE SA that has ended.
    fn farewell(&self, spi: Spi) -> Option<Arc<Farewell>>;
    /// All IKE SAs of the engine's segment.
    fn records(&self) -> Vec<Arc<IkeRecord>>;
    /// The IKE SAs of this peer identity and connection, in all segments.
    fn of_peer(&self, connection: &str, peer: &Identity) -> Vec<Arc<IkeRecord>>;
    /// By an IKE SA, or by one that has ended a short while ago: what was sent to that one must not reach another.
    fn ike_spi_taken(&self, spi: Spi) -> bool;
    fn child_spi_taken(&self, spi: ChildSpi) -> bool;
    /// An address of `pool` for `peer`: the one it had before where possible, else `wish` if free, else any free
    /// one of that family.
    fn free_address(&self, pool: &Pool, peer: &Identity, wish: Option<IpAddr>, v4: bool) -> Option<IpAddr>;
    fn cookie_secrets(&self) -> CookieSecrets;
    /// When a packet of this child was last received, on the caller's monotonic clock.
    fn last_inbound(&self, child: ChildSpi) -> Option<Millis>;
}

/// What the caller brings to each call.
pub struct Context<'a> {
    /// Monotonic: all timers.
    pub now: Millis,
    /// UTC: only written into records.
    pub utc: Millis,
    pub rng: &'a mut dyn Rng,
    pub gateway: &'a Gateway,
    pub view: &'a dyn View,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context(now {}, configuration {})", self.now.0, self.gateway.revision)
    }
}

/// What is to be done. `Send` goes out at once; `Commit` only through the log.
#[derive(Debug)]
pub enum Verdict {
    Drop(DropReason),
    Send { datagrams: Vec<Datagram>, events: Vec<Event> },
    Commit(Decision),
}

/// A change, and what may be told to the peer once it is committed.
#[derive(Debug)]
pub struct Decision {
    pub change: Change,
    pub replies: Sealed<Vec<Datagram>>,
    pub events: Vec<Event>,
}

/// What an administrator or the packet side wants of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Terminate(Spi),
    TerminateChild(Spi, ChildSpi),
    RekeyIke(Spi),
    RekeyChild(Spi, ChildSpi),
}

pub struct Endpoint {
    guard: Guard,
    half_open: HalfOpenTable,
    sas: BTreeMap<Spi, Sa>,
    /// (second, replies in it): unprotected notifies are rationed.
    strays: (u64, u32),
}

impl Endpoint {
    /// The engine of `guard.segment` for this epoch. Takes up the IKE SAs of the segment; their idle times start
    /// now (CL-30).
    pub fn new(guard: Guard, ctx: &mut Context<'_>) -> Endpoint {
        let mut endpoint =
            Endpoint { guard, half_open: HalfOpenTable::default(), sas: BTreeMap::new(), strays: (0, 0) };
        for record in ctx.view.records() {
            endpoint.take_up(&record, ctx);
        }
        endpoint
    }

    pub fn guard(&self) -> Guard {
        self.guard
    }

    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// One datagram from a peer.
    pub fn handle(&mut self, datagram: &Datagram, ctx: &mut Context<'_>) -> Verdict {
        let header = match wire::Header::parse(&datagram.octets) {
            Ok((header, _)) => header,
            Err(error) => return self.unreadable(&error, datagram, ctx),
        };
        let verdict = match header.exchange {
            ExchangeType::IKE_SA_INIT => self.init(&header, datagram, ctx),
            _ => self.protected(&header, datagram, ctx),
        };
        verdict.unwrap_or_else(Verdict::Drop)
    }

    /// The change that was decided for `spi` is applied here.
    pub fn committed(&mut self, spi: Spi, ctx: &mut Context<'_>) {
        self.refresh(spi, ctx);
        if let Some(sa) = self.sas.get_mut(&spi) {
            sa.busy = false;
        }
    }

    /// The decision for `spi` counts for nothing; its replies are dropped and the next input may try again.
    pub fn refused(&mut self, spi: Spi) {
        self.half_open.free(spi);
        if let Some(sa) = self.sas.get_mut(&spi) {
            sa.busy = false;
        }
    }

    /// The record of `spi` has changed, by a change of ours or of another segment's owner.
    pub fn refresh(&mut self, spi: Spi, ctx: &mut Context<'_>) {
        match ctx.view.record(spi) {
            Some(record) => match self.sas.get_mut(&spi) {
                Some(sa) => sa.refresh(&record, ctx),
                None => self.take_up(&record, ctx),
            },
            None => {
                self.sas.remove(&spi);
            }
        }
    }

    /// Something is due. Call until it returns nothing.
    pub fn timeout(&mut self, ctx: &mut Context<'_>) -> Option<Verdict> {
        self.half_open.expire(ctx.now);
        let due: Vec<Spi> = self
            .sas
            .iter()
            .filter(|(_, sa)| !sa.busy && sa.next_timeout() <= ctx.now)
            .map(|(&spi, _)| spi)
            .collect();
        due.into_iter().find_map(|spi| self.due(spi, ctx))
    }

    /// When `timeout` wants to be called next.
    pub fn next_timeout(&self) -> Option<Millis> {
        let sas = self.sas.values().filter(|sa| !sa.busy).map(Sa::next_timeout);
        sas.chain(self.half_open.next_expiry()).min()
    }

    /// An order. It is remembered where the SA is busy or has an unanswered request of ours, and carried out as
    /// soon as it is free. False: there is no such SA.
    pub fn order(&mut self, order: Order, ctx: &mut Context<'_>) -> bool {
        let (Order::Terminate(spi)
        | Order::TerminateChild(spi, _)
        | Order::RekeyIke(spi)
        | Order::RekeyChild(spi, _)) = order;
        let (Some(record), Some(sa)) = (ctx.view.record(spi), self.sas.get_mut(&spi)) else {
            return false;
        };
        match order {
            Order::TerminateChild(_, child) | Order::RekeyChild(_, child)
                if record.child(child).is_none() =>
            {
                false
            }
            _ => {
                sa.timers.wish(order);
                sa.wake();
                true
            }
        }
    }

    /// A packet that advanced the replay window came from a new address (RFC 7296, 2.23; CL-33).
    //= IK-99
    pub fn peer_moved(&mut self, spi: Spi, path: Path, ctx: &mut Context<'_>) -> Option<Verdict> {
        let record = ctx.view.record(spi)?;
        let sa = self.sas.get_mut(&spi)?;
        if sa.busy || record.path.we_behind_nat || record.path == path {
            return None;
        }
        sa.busy = true;
        let event = Event::Moved { spi, from: record.path.peer, to: path.peer };
        Some(self.commit(&record, vec![Step::Moved(path)], Vec::new(), vec![event], ctx))
    }

    /// The gateway configuration changed: SAs whose connection is gone are closed.
    pub fn reconfigured(&mut self, ctx: &mut Context<'_>) {
        for (spi, sa) in &mut self.sas {
            let gone = ctx
                .view
                .record(*spi)
                .is_some_and(|record| ctx.gateway.connection(&record.connection).is_none());
            if gone {
                sa.timers.close(Why::Unconfigured);
                sa.wake();
            }
        }
    }

    fn take_up(&mut self, record: &Arc<IkeRecord>, ctx: &mut Context<'_>) {
        // The half-open SA has sealed with these keys: its counter goes on, a second one would repeat IVs.
        let sa = match self.half_open.remove(record.spi) {
            Some(half_open) => Some(Sa::with_keys(half_open.seal, half_open.open, record, ctx)),
            None => Sa::new(record, self.guard.epoch, ctx),
        };
        match sa {
            Some(sa) => {
                self.sas.insert(record.spi, sa);
            }
            None => debug_assert!(false, "a record carries keys of its suite's lengths"),
        }
    }

    /// The decision on `record`: marks nothing, the caller has set `busy`.
    fn commit(
        &self,
        record: &IkeRecord,
        steps: Vec<Step>,
        replies: Vec<Datagram>,
        events: Vec<Event>,
        ctx: &Context<'_>,
    ) -> Verdict {
        let change =
            Change { guard: self.guard, spi: record.spi, revision: record.revision, at: ctx.utc, steps };
        Verdict::Commit(Decision { change, replies: Sealed::new(replies), events })
    }

    /// True when one more unprotected notify may be sent in this second.
    fn may_send_stray(&mut self, ctx: &Context<'_>) -> bool {
        let second = ctx.now.0 / 1_000;
        if self.strays.0 != second {
            self.strays = (second, 0);
        }
        self.strays.1 += 1;
        self.strays.1 <= limits::STRAY_REPLIES_PER_SECOND
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Endpoint({:?}, {} IKE SAs, {} half-open)",
            self.guard,
            self.sas.len(),
            self.half_open.len()
        )
    }
}
