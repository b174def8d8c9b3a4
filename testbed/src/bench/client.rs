//! Our own initiator as a load: many clients that connect at once, or one with a device that carries traffic.
//!
//! All clients of a crowd share one UDP socket and write to port 4500 from the first message on, as RFC 7296, 2.23
//! allows; the initiator's SPI tells them apart. They pretend to be behind a NAT, so ESP travels in UDP.
//!
//! ```text
//!   4500 ─┬─ IKE ──> by SPI ──> Client::handle ──> replies
//!         └─ ESP ──> the first client's `open` ──> TUN        TUN ──> its `seal` ──> 4500
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crypto::Secret;
use crypto::cipher::{Cipher, Protection};
use crypto::kex::Group;
use crypto::prf::Prf;
use crypto::rng::OsRng;
use ipsec::client::{Client, Config, Event, Order, Output, Retransmit};
use ipsec::datagram::Datagram;
use ipsec::policy::{EspProposal, Identity, IkeProposal, Network, Selector};
use ipsec::spec::{NON_ESP_MARKER, PORT_NAT_T};
use ipsec::types::Spi;
use ipsec::wire::{Class, Header, Port, classify};
use node::io::clock::{Clock, SystemClock};
use node::io::{
    Coalescer, InnerBatch, Inside, Outside, Poller, RecvBatch, Route, SendBatch, TunDevice, TunOptions,
    UdpSocket, Waker,
};

use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::netns::Netns;
use crate::world::pontoon::PSK;
use crate::world::{CLIENT, NET, SERVER, SERVICE, World};

/// The suites of all benchmarks, for every contender.
pub const IKE: &str = "aes128gcm16-prfsha256-x25519";
pub const ESP: &str = "aes128gcm16";

const SOCKET: u32 = 0;
const DEVICE: u32 = 1;
const DEVICE_NAME: &str = "bench0";
/// As strongSwan's libipsec has it.
const MTU: u16 = 1_400;
/// How long a whole crowd may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Clients that share a socket.
pub struct Crowd {
    members: Vec<Member>,
    by_spi: HashMap<Spi, usize>,
    /// Members whose timers matter: those that connect or disconnect.
    busy: Vec<usize>,
    /// Requests that had to be sent again.
    repeated: u64,
    socket: UdpSocket,
    device: Option<TunDevice>,
    poller: Poller,
    received: RecvBatch,
    read: InnerBatch,
    coalescer: Coalescer,
    sending: SendBatch,
    sealed: Vec<u8>,
}

struct Member {
    client: Client,
    begun: Instant,
    /// From the first request to the answer that authenticates.
    took: Option<Duration>,
}

/// What connecting a crowd came to.
#[derive(Clone, Debug)]
pub struct Connected {
    /// From IKE_SA_INIT to the reply of IKE_AUTH, of each.
    pub took_ms: Vec<f64>,
    pub elapsed: Duration,
    pub repeated: u64,
}

impl Crowd {
    /// To be called inside the client's namespace.
    pub fn open() -> Result<Crowd> {
        let socket = UdpSocket::open(local()).context("the client's socket")?;
        let poller = Poller::new()?;
        socket.fd().map_or(Ok(()), |fd| poller.add(fd, SOCKET))?;
        Ok(Crowd {
            members: Vec::new(),
            by_spi: HashMap::new(),
            busy: Vec::new(),
            repeated: 0,
            socket,
            device: None,
            poller,
            received: RecvBatch::new(),
            read: InnerBatch::new(),
            coalescer: Coalescer::new(Default::default()),
            sending: SendBatch::new(),
            sealed: Vec::new(),
        })
    }

    /// Connects `count` more, `at_once` at any time; returns when all are up.
    pub fn connect(&mut self, count: usize, at_once: usize) -> Result<Connected> {
        let (begun, first) = (Instant::now(), self.members.len());
        let repeated_before = self.repeated;
        loop {
            while self.members.len() < first + count && self.busy.len() < at_once {
                self.begin()?;
            }
            if self.busy.is_empty() {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "{} clients do not come up", self.busy.len());
            self.turn(None)?;
        }
        let elapsed = begun.elapsed();
        let took = self.members[first..].iter().filter_map(|member| member.took);
        Ok(Connected {
            took_ms: took.map(|took| took.as_secs_f64() * 1e3).collect(),
            elapsed,
            repeated: self.repeated - repeated_before,
        })
    }

    /// Deletes all SAs; returns when the gateway has answered.
    pub fn disconnect(&mut self) -> Result {
        const AT_ONCE: usize = 64;
        let begun = Instant::now();
        let mut waiting = 0..self.members.len();
        loop {
            while self.busy.len() < AT_ONCE
                && let Some(at) = waiting.next()
            {
                let (_, output) = self.members[at].client.order(Order::Delete, SystemClock.now(), &mut OsRng);
                self.busy.push(at);
                self.absorb(at, output)?;
            }
            self.busy.retain(|&at| self.members[at].client.ended().is_none());
            if self.busy.is_empty() && waiting.is_empty() {
                self.members.clear();
                self.by_spi.clear();
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "{} clients do not end", self.busy.len());
            self.turn(None)?;
        }
    }

    fn begin(&mut self) -> Result {
        let at = self.members.len();
        let begun = Instant::now();
        let (client, output) = Client::new(config(&format!("client{at}"))?, SystemClock.now(), &mut OsRng);
        self.members.push(Member { client, begun, took: None });
        self.busy.push(at);
        self.absorb(at, output)
    }

    /// Gives the first member a device.
    fn attach(&mut self) -> Result {
        let device = TunDevice::open(&TunOptions::new(DEVICE_NAME, MTU)).context("the client's TUN")?;
        device.fd().map_or(Ok(()), |fd| self.poller.add(fd, DEVICE))?;
        self.coalescer = Coalescer::new(device.offload());
        self.device = Some(device);
        Ok(())
    }

    /// Waits for a packet, a timer, the waker or `most_ms`, and does what there is to do.
    fn turn(&mut self, most_ms: Option<u32>) -> Result {
        let now = SystemClock.now();
        let due = self.busy.iter().filter_map(|&at| self.members[at].client.next_timeout()).min();
        let due = due.map(|at| u32::try_from(at.since(now)).unwrap_or(u32::MAX).max(1));
        let ready = self.poller.wait(due.into_iter().chain(most_ms).min())?;
        for &token in ready.tokens() {
            match token {
                DEVICE => self.outward()?,
                _ => self.inward()?,
            }
        }
        let now = SystemClock.now();
        for at in self.busy.clone() {
            if self.members[at].client.next_timeout().is_some_and(|due| due <= now) {
                let output = self.members[at].client.timeout(now, &mut OsRng);
                self.repeated += output.datagrams.len() as u64;
                self.absorb(at, output)?;
            }
        }
        Ok(())
    }

    fn inward(&mut self) -> Result {
        self.socket.receive(&mut self.received)?;
        let now = SystemClock.now();
        let mut messages = Vec::new();
        let (datagrams, arena) = self.received.parts();
        for datagram in datagrams {
            let range = datagram.range();
            match classify(Port::NatT, &arena[range.clone()]) {
                Class::Esp { .. } => {
                    let Some(member) = self.members.first_mut() else { continue };
                    let packet = &mut arena[range.clone()];
                    let start = packet.as_ptr().addr();
                    let inner = member.client.open(packet, now);
                    // Where the inner packet begins within the arena.
                    if let Some((at, len)) = inner.map(|inner| (inner.as_ptr().addr() - start, inner.len()))
                        && len > 0
                    {
                        let at = range.start + at;
                        self.coalescer.push(arena, at..at + len);
                    }
                }
                Class::Ike { at } => {
                    let octets = arena[range.start + at..range.end].to_vec();
                    messages.push(Datagram::new(local(), datagram.peer, octets));
                }
                Class::Keepalive | Class::Drop(_) => {}
            }
        }
        match &mut self.device {
            Some(device) => {
                device.send(self.received.arena(), &mut self.coalescer);
            }
            None => self.coalescer.clear(),
        }
        for message in messages {
            let spi = Header::peek(&message.octets).map(|header| header.spi_i);
            let Some(&at) = spi.and_then(|spi| self.by_spi.get(&spi)) else { continue };
            // What the client does not take changes nothing.
            if let Ok(output) = self.members[at].client.handle(&message, now, &mut OsRng) {
                self.absorb(at, output)?;
            }
        }
        Ok(())
    }

    fn outward(&mut self) -> Result {
        let (Some(device), Some(member)) = (&mut self.device, self.members.first_mut()) else {
            return Ok(());
        };
        let packets = device.receive(&mut self.read)?;
        let route = Route { peer: gateway(), tos: 0 };
        for index in 0..packets {
            let Ok(mut segments) = self.read.segments(index) else { continue };
            while let Some(packet) = segments.next() {
                if member.client.seal(packet, &mut self.sealed) && !self.sending.push(route, &self.sealed) {
                    self.socket.send(&mut self.sending);
                    self.sending.push(route, &self.sealed);
                }
            }
        }
        self.socket.send(&mut self.sending);
        Ok(())
    }

    /// Sends what a client wants sent, and notes when it is up.
    fn absorb(&mut self, at: usize, output: Output) -> Result {
        for Datagram { peer, octets, .. } in output.datagrams {
            if let Some(header) = Header::peek(&octets) {
                self.by_spi.insert(header.spi_i, at);
            }
            self.sending.push(Route { peer, tos: 0 }, &[&NON_ESP_MARKER[..], &octets].concat());
            // What the kernel does not take, the client's timer sends again.
            self.socket.send(&mut self.sending);
        }
        for event in output.events {
            match event {
                Event::Up { .. } => {
                    let member = &mut self.members[at];
                    member.took = Some(member.begun.elapsed());
                    self.busy.retain(|&busy| busy != at);
                }
                Event::Down(end) if self.members[at].took.is_none() => {
                    return Err(format!("a client does not come up: {end:?}").into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// One client of ours with a device in the client's namespace, carried by a thread until it is dropped.
pub struct Tunnel {
    pub inner: IpAddr,
    ending: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<Result<Result>>>,
}

impl Tunnel {
    /// To the gateway of a world, and through it to the server.
    pub fn up(world: &World) -> Result<Tunnel> {
        let tunnel = Tunnel::open(&world.client)?;
        world.ping(SERVER.into(), 3)?;
        Ok(tunnel)
    }

    /// To the gateway that a client's namespace reaches.
    pub fn open(client: &Netns) -> Result<Tunnel> {
        let ending = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let seen = ending.clone();
        let thread = client.spawn(move || -> Result {
            let mut crowd = Crowd::open()?;
            crowd.connect(1, 1)?;
            crowd.attach()?;
            let inner = crowd.members[0].client.addresses().iter().copied().find(IpAddr::is_ipv4);
            // Whoever started us may have given up.
            let _ = sender.send((inner, crowd.poller.waker()));
            while !seen.load(Ordering::Relaxed) {
                crowd.turn(None)?;
            }
            Ok(())
        })?;
        let Ok((inner, waker)) = receiver.recv() else {
            let ended = thread.join().map_err(|_| "the client panicked")?;
            return Err(ended?.err().unwrap_or_else(|| "the client ended".into()));
        };
        let tunnel = Tunnel {
            inner: inner.context("the gateway leased no IPv4 address")?,
            ending,
            waker,
            thread: Some(thread),
        };
        client.address(DEVICE_NAME, &format!("{}/32", tunnel.inner))?;
        client.ip(&format!("route add {NET} dev {DEVICE_NAME}"))?;
        Ok(tunnel)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn local() -> SocketAddr {
    SocketAddr::new(CLIENT.into(), PORT_NAT_T)
}

fn gateway() -> SocketAddr {
    SocketAddr::new(SERVICE.into(), PORT_NAT_T)
}

fn config(name: &str) -> Result<Config> {
    let protection = Protection::new(Cipher::AesGcm128, None).context("AES-128-GCM")?;
    let (address, prefix) = NET.split_once('/').context(NET)?;
    let network = Network { address: address.parse().context(NET)?, prefix: prefix.parse().context(NET)? };
    Ok(Config {
        local: local(),
        gateway: gateway(),
        local_nat_t: local(),
        gateway_nat_t: gateway(),
        local_id: Identity::parse(name),
        gateway_id: Some(Identity::parse("gw")),
        psk: Secret::from_slice(PSK.as_bytes()),
        ike: vec![IkeProposal { protection, prf: Prf::HmacSha256, group: Group::Curve25519 }],
        esp: vec![EspProposal { protection, group: None, esn: Some(false) }],
        ask_ip4: true,
        ask_ip6: false,
        local_ts: Vec::new(),
        remote_ts: vec![Selector::network(network)],
        encapsulate: true,
        initial_contact: false,
        retransmit: Retransmit::default(),
        dpd_ms: 0,
    })
}
