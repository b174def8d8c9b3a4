//! A client of a gateway: the initiator of IKE_SA_INIT and IKE_AUTH with a pre-shared key, sans-IO.
//!
//! It is what `pontoon demo` connects with, and what load and fault tests are made of. It replicates nothing and
//! shares with the engine in `ike` only the wire formats and the key derivation, so that each checks the other.
//!
//! ```text
//!   Client::new ─> Init ──IKE_SA_INIT──> IKE_AUTH ──> up ──> down
//!                   ^ cookie, other group │            │ liveness, rekeys, deletes, both ways
//!                   └─────────────────────┘            └ seal / open: ESP in tunnel mode
//! ```
//!
//! The caller's contract: give every datagram with IKE in it to `handle`, call `timeout` when `next_timeout` has
//! come, and send what `Output` holds after each call. ESP packets go through `seal` and `open`.

mod answer;
mod auth;
mod init;
mod offer;
mod request;
mod sa;
mod tunnel;

pub use tunnel::Tunnel;

use std::net::{IpAddr, SocketAddr};

use crypto::Secret;
use crypto::kex::Group;
use crypto::rng::Rng;

use crate::datagram::Datagram;
use crate::limits;
use crate::policy::{EspProposal, Identity, IkeProposal, Selector};
use crate::record::{ChildKeys, EspSuite, IkeKeys, IkeSuite};
use crate::types::{ChildSpi, Millis, Spi};
use crate::wire::{ExchangeType, Header, NotifyType};

use init::Init;
use sa::{IkeSa, Repeat, Standing, Wish};

/// What the client is and what it wants.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where we write from and to at first, and after the move that NAT traversal asks for.
    pub local: SocketAddr,
    pub gateway: SocketAddr,
    pub local_nat_t: SocketAddr,
    pub gateway_nat_t: SocketAddr,
    pub local_id: Identity,
    /// Sent as IDr, and what the gateway must then prove to be; `None` takes any that knows the secret.
    pub gateway_id: Option<Identity>,
    pub psk: Secret,
    /// Best first. The first one's group goes into the KE payload.
    pub ike: Vec<IkeProposal>,
    pub esp: Vec<EspProposal>,
    /// Ask for an inner address of this family.
    pub ask_ip4: bool,
    pub ask_ip6: bool,
    /// Empty: everything of the families asked for, which the gateway narrows to what it leases.
    pub local_ts: Vec<Selector>,
    pub remote_ts: Vec<Selector>,
    /// Pretend to be behind a NAT, so that ESP travels in UDP and needs no raw socket.
    pub encapsulate: bool,
    pub initial_contact: bool,
    pub retransmit: Retransmit,
    /// Silence after which liveness is asked for; 0 never.
    pub dpd_ms: u64,
}

/// How an unanswered request is repeated.
#[derive(Clone, Copy, Debug)]
pub struct Retransmit {
    pub first_ms: u64,
    /// Each wait in percent of the one before.
    pub percent: u64,
    /// Repetitions before the gateway counts as gone.
    pub tries: u32,
}

impl Default for Retransmit {
    fn default() -> Self {
        Retransmit {
            first_ms: limits::RETRANSMIT_FIRST_MS,
            percent: limits::RETRANSMIT_PERCENT,
            tries: limits::RETRANSMIT_TRIES,
        }
    }
}

/// What a call has brought about.
#[derive(Debug, Default)]
pub struct Output {
    pub datagrams: Vec<Datagram>,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Authenticated both ways. `addresses`: what the gateway leased to us.
    Up {
        spi: Spi,
        gateway_spi: Spi,
        addresses: Vec<IpAddr>,
        dns: Vec<IpAddr>,
    },
    ChildUp {
        spi_in: ChildSpi,
        spi_out: ChildSpi,
        replaces: Option<ChildSpi>,
    },
    ChildDown {
        spi_in: ChildSpi,
    },
    IkeRekeyed {
        old: Spi,
        new: Spi,
    },
    /// The gateway has said no to a request of ours, the first child included.
    Refused {
        request: &'static str,
        notify: NotifyType,
    },
    /// An answer to a liveness check.
    Alive,
    /// The last event.
    Down(End),
}

/// Why there is no connection any more, or why none came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The gateway refused IKE_SA_INIT or IKE_AUTH.
    Refused(NotifyType),
    /// The gateway did not prove to know the secret, or to be who it should be.
    NotAuthentic,
    /// Its answer does not fit what we offered.
    BadAnswer(&'static str),
    /// Cookies and other groups, one after the other, without end.
    TooManyRounds,
    /// A request stayed unanswered.
    Silent,
    GatewayDeleted,
    WeDeleted,
}

/// What the caller may ask of a client that is up. Requests wait for each other: the window is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Liveness,
    RekeyChild(ChildSpi),
    RekeyIke,
    DeleteChild(ChildSpi),
    Delete,
}

/// Why a datagram was not taken. It changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    Malformed,
    UnknownSpi,
    Integrity,
    Window,
    Unsolicited,
}

/// A child SA of ours.
#[derive(Debug)]
pub struct Child {
    pub spi_in: ChildSpi,
    pub spi_out: ChildSpi,
    pub suite: EspSuite,
    pub keys: ChildKeys,
    pub local_ts: Vec<Selector>,
    pub remote_ts: Vec<Selector>,
    pub tunnel: Tunnel,
    phase: ChildPhase,
    /// The gateway asked for it: we send on it once the gateway does, or the old one goes (RFC 7296, 2.8).
    waits_for_peer: bool,
    /// The IKE SA on which we answered the gateway's request for this child, until something shows that the answer
    /// has come: before, the child does not exist for the gateway, and we cannot ask for its rekey.
    unconfirmed: Option<Spi>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChildPhase {
    Live,
    /// The gateway rekeyed it and will delete it; a rekey of ours would come too late.
    Replaced,
    /// Our Delete for it is asked for or under way: nothing is sent on it.
    Closing,
}

#[derive(Debug)]
pub struct Client {
    config: Config,
    init: Option<Box<Init>>,
    /// The newest last. Older ones wait for their Delete.
    sas: Vec<IkeSa>,
    children: Vec<Child>,
    addresses: Vec<IpAddr>,
    local: SocketAddr,
    gateway: SocketAddr,
    nat_t: bool,
    up: bool,
    /// The group that the gateway asked for in a rekey.
    preferred: Option<Group>,
    heard: Millis,
    end: Option<End>,
    out: Output,
}

impl Client {
    /// Starts to connect: the output holds the first request.
    pub fn new(config: Config, now: Millis, rng: &mut dyn Rng) -> (Client, Output) {
        let mut client = Client {
            local: config.local,
            gateway: config.gateway,
            config,
            init: None,
            sas: Vec::new(),
            children: Vec::new(),
            addresses: Vec::new(),
            nat_t: false,
            up: false,
            preferred: None,
            heard: now,
            end: None,
            out: Output::default(),
        };
        client.start(now, rng);
        let output = client.take();
        (client, output)
    }

    /// One datagram with IKE in it, without the marker.
    pub fn handle(&mut self, datagram: &Datagram, now: Millis, rng: &mut dyn Rng) -> Result<Output, Ignored> {
        let (header, _) = Header::parse(&datagram.octets).map_err(|_| Ignored::Malformed)?;
        if self.end.is_some() {
            return Err(Ignored::UnknownSpi);
        }
        if header.exchange == ExchangeType::IKE_SA_INIT {
            self.init_answer(&header, datagram, now, rng)?;
        } else {
            self.protected(&header, datagram, now, rng)?;
        }
        self.pump(now, rng);
        Ok(self.take())
    }

    /// Something is due.
    pub fn timeout(&mut self, now: Millis, rng: &mut dyn Rng) -> Output {
        if self.end.is_none() {
            self.retransmit(now);
            let silent = self.config.dpd_ms > 0 && self.heard.after(self.config.dpd_ms) <= now;
            if silent && let Some(sa) = self.current() {
                sa.wish(Wish::Liveness);
            }
            self.pump(now, rng);
        }
        self.take()
    }

    /// When `timeout` wants to be called next.
    pub fn next_timeout(&self) -> Option<Millis> {
        if self.end.is_some() {
            return None;
        }
        let init = self.init.as_ref().map(|init| init.repeat.at);
        let requests = self.sas.iter().filter_map(|sa| sa.outstanding.as_ref()).map(|asked| asked.repeat.at);
        let waiting = self.sas.iter().filter(|sa| sa.outstanding.is_none());
        let leftovers = waiting.filter_map(|sa| sa.leftover);
        let next = requests.chain(init).chain(leftovers).min();
        let idle = next.is_none() && self.config.dpd_ms > 0;
        next.or(idle.then(|| self.heard.after(self.config.dpd_ms)))
    }

    /// Asks for something; it is done once the requests before it are answered. False: there is no such SA, or the
    /// gateway may not know it yet.
    pub fn order(&mut self, order: Order, now: Millis, rng: &mut dyn Rng) -> (bool, Output) {
        let known = |spi: ChildSpi| self.children.iter().any(|child| child.spi_in == spi);
        let wish = match order {
            Order::Liveness => Wish::Liveness,
            Order::RekeyIke => Wish::RekeyIke,
            Order::Delete => Wish::DeleteIke,
            Order::RekeyChild(spi) if self.rekeyable(spi) => Wish::RekeyChild(spi),
            Order::DeleteChild(spi) if known(spi) => Wish::DeleteChild(spi),
            Order::RekeyChild(_) | Order::DeleteChild(_) => return (false, Output::default()),
        };
        let up = self.is_up();
        let Some(sa) = self.current().filter(|_| up) else { return (false, Output::default()) };
        sa.wish(wish);
        self.pump(now, rng);
        (true, self.take())
    }

    /// Authenticated, and not yet ended.
    pub fn is_up(&self) -> bool {
        self.up && self.end.is_none()
    }

    pub fn ended(&self) -> Option<End> {
        self.end
    }

    /// What the gateway leased to us.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    pub fn children(&self) -> &[Child] {
        &self.children
    }

    /// (local, gateway): where messages and encapsulated packets go now.
    pub fn path(&self) -> (SocketAddr, SocketAddr) {
        (self.local, self.gateway)
    }

    /// True when ESP travels in UDP.
    pub fn encapsulates(&self) -> bool {
        self.nat_t
    }

    /// The IKE SAs with their keys, for decoding a capture: (our SPI, the gateway's, suite, keys).
    pub fn ike_keys(&self) -> impl Iterator<Item = (Spi, Spi, IkeSuite, &IkeKeys)> {
        self.sas.iter().map(|sa| (sa.spi, sa.peer_spi, sa.suite, &sa.keys))
    }

    /// Seals an inner packet into `out`, which is overwritten, as an ESP packet of the child that carries traffic
    /// now. False: there is none, or its numbers are used up.
    pub fn seal(&mut self, inner: &[u8], out: &mut Vec<u8>) -> bool {
        self.sending().is_some_and(|child| child.tunnel.seal(inner, out))
    }

    /// Opens an ESP packet in place. `None`: unknown SPI, replayed, or not authentic. An empty inner packet was a
    /// dummy.
    pub fn open<'a>(&mut self, packet: &'a mut [u8], now: Millis) -> Option<&'a [u8]> {
        let spi = crate::wire::esp::Packet::new(packet).ok()?.spi();
        let child = self.children.iter_mut().find(|child| child.spi_in == spi)?;
        let inner = child.tunnel.open(packet)?;
        (child.waits_for_peer, child.unconfirmed) = (false, None);
        self.heard = now;
        Some(inner)
    }

    /// The newest child that may send; one that the gateway asked for only after the gateway has used it.
    fn sending(&mut self) -> Option<&mut Child> {
        let ready = self.children.iter().rposition(|child| child.may_send() && !child.waits_for_peer);
        let any = || self.children.iter().rposition(Child::may_send);
        let at = ready.or_else(any)?;
        self.children.get_mut(at)
    }

    /// The IKE SA that new requests go on.
    fn current(&mut self) -> Option<&mut IkeSa> {
        self.sas.iter_mut().rev().find(|sa| sa.standing == Standing::Live)
    }

    /// Repeats what is unanswered. An IKE SA whose place another one took may go in silence; the last one may not.
    //= IK-18
    fn retransmit(&mut self, now: Millis) {
        let retransmit = self.config.retransmit;
        let (local, gateway) = (self.local, self.gateway);
        let mut out = Vec::new();
        let mut answers = |repeat: &mut Repeat| match (repeat.at <= now, repeat) {
            (false, _) => true,
            (true, repeat) => {
                let octets = repeat.again(&retransmit, now);
                out.extend(octets.iter().map(|octets| Datagram::new(local, gateway, octets.clone())));
                octets.is_some()
            }
        };
        let mut silent = self.init.as_mut().is_some_and(|init| !answers(&mut init.repeat));
        self.sas.retain_mut(|sa| {
            let alive = sa.outstanding.as_mut().is_none_or(|asked| answers(&mut asked.repeat));
            silent |= !alive && sa.standing == Standing::Live;
            alive
        });
        self.out.datagrams.extend(out);
        if silent {
            self.finish(End::Silent);
        }
        for sa in self.sas.iter_mut().filter(|sa| sa.outstanding.is_none()) {
            if sa.leftover.is_some_and(|at| at <= now) {
                sa.wish(Wish::DeleteIke);
            }
        }
    }

    /// The first reason wins.
    fn finish(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        for child in std::mem::take(&mut self.children) {
            self.out.events.push(Event::ChildDown { spi_in: child.spi_in });
        }
        self.init = None;
        self.sas.clear();
        self.end = Some(end);
        self.out.events.push(Event::Down(end));
    }

    fn remove_child(&mut self, spi_in: ChildSpi) {
        let before = self.children.len();
        self.children.retain(|child| child.spi_in != spi_in);
        if self.children.len() < before {
            self.out.events.push(Event::ChildDown { spi_in });
        }
    }

    fn add_child(&mut self, child: Child, replaces: Option<ChildSpi>) {
        self.out.events.push(Event::ChildUp { spi_in: child.spi_in, spi_out: child.spi_out, replaces });
        self.children.push(child);
    }

    /// True when we may ask for the rekey of this child. While the gateway may still wait for our answer to a rekey
    /// of its own we do not: it would ask for what it finds gone.
    fn rekeyable(&self, spi_in: ChildSpi) -> bool {
        let live = |child: &Child| child.spi_in == spi_in && child.phase == ChildPhase::Live;
        self.children.iter().any(live) && !self.children.iter().any(|child| child.unconfirmed.is_some())
    }

    fn child_mut(&mut self, spi_in: ChildSpi) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.spi_in == spi_in)
    }

    fn fresh_child_spi(&self, rng: &mut dyn Rng) -> ChildSpi {
        loop {
            let spi = ChildSpi(rng.u32());
            if spi.0 >= ChildSpi::FIRST && self.children.iter().all(|child| child.spi_in != spi) {
                return spi;
            }
        }
    }

    fn send(&mut self, octets: Vec<u8>) {
        self.out.datagrams.push(Datagram::new(self.local, self.gateway, octets));
    }

    fn take(&mut self) -> Output {
        std::mem::take(&mut self.out)
    }
}

impl Child {
    fn may_send(&self) -> bool {
        self.phase != ChildPhase::Closing
    }
}
