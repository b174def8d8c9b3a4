//! The client's packets: two UDP sockets, a TUN device, and `ipsec::client` between them. ESP travels in UDP.
//!
//! ```text
//!   500, 4500 ─┬─ IKE ──> Client::handle ──> replies
//!              └─ ESP ──> record ──> Client::open ──> TUN        TUN ──> Client::seal ──> 4500
//! ```
//!
//! Every ESP packet is recorded before it is judged: a repeat would be dropped as a replay and never be seen else.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crypto::Secret;
use crypto::cipher::{Cipher, Protection};
use crypto::kex::Group;
use crypto::prf::Prf;
use crypto::rng::OsRng;
use ipsec::client::{Client, Config, Event, Output, Retransmit};
use ipsec::datagram::Datagram;
use ipsec::policy::{EspProposal, Identity, IkeProposal, Network, Selector};
use ipsec::spec::{NON_ESP_MARKER, PORT_IKE, PORT_NAT_T};
use ipsec::wire::{Class, Port, classify};

use super::ledger::Wire;
use super::net::{CLIENT, NET, SERVICE};
use super::protocol::Resumed;
use crate::fault::Fault;
use crate::io::clock::{Clock, SystemClock};
use crate::io::{
    Coalescer, InnerBatch, Inside, Outside, Poller, RecvBatch, Route, SendBatch, TunDevice, UdpSocket, Waker,
};

pub const CLIENT_ID: &str = "anna@example.org";
pub const GATEWAY_ID: &str = "gw.example.org";

/// Sources of the poller.
const IKE: u32 = 0;
const NAT_T: u32 = 1;
const DEVICE: u32 = 2;

pub struct Tunnel {
    client: Client,
    ike: UdpSocket,
    nat_t: UdpSocket,
    device: Option<TunDevice>,
    poller: Poller,
    received: RecvBatch,
    read: InnerBatch,
    coalescer: Coalescer,
    sending: SendBatch,
    sealed: Vec<u8>,
    wire: Wire,
}

/// What a turn has brought.
#[derive(Debug)]
pub enum Happened {
    Ike(Event),
    Resumed(Resumed),
}

impl Tunnel {
    /// Opens the sockets and sends the first request.
    pub fn open(psk: &str) -> Result<Tunnel, Fault> {
        let at = |port| SocketAddr::new(CLIENT.into(), port);
        let socket = |port| {
            UdpSocket::open(at(port))
                .map_err(|error| Fault::failed(format!("the client: {error}")).why(error.help))
        };
        let (ike, nat_t) = (socket(PORT_IKE)?, socket(PORT_NAT_T)?);
        let poller = Poller::new().map_err(broken)?;
        for (socket, token) in [(&ike, IKE), (&nat_t, NAT_T)] {
            socket.fd().map_or(Ok(()), |fd| poller.add(fd, token)).map_err(broken)?;
        }
        let (client, output) = Client::new(config(psk), SystemClock.now(), &mut OsRng);
        let mut tunnel = Tunnel {
            client,
            ike,
            nat_t,
            device: None,
            poller,
            received: RecvBatch::new(),
            read: InnerBatch::new(),
            coalescer: Coalescer::new(Default::default()),
            sending: SendBatch::new(),
            sealed: Vec::new(),
            wire: Wire::default(),
        };
        tunnel.absorb(output, &mut Vec::new())?;
        Ok(tunnel)
    }

    /// Gives it the device of the inner side. From now on IKE messages count as events of the tunnel.
    pub fn attach(&mut self, device: TunDevice) -> Result<(), Fault> {
        device.fd().map_or(Ok(()), |fd| self.poller.add(fd, DEVICE)).map_err(broken)?;
        self.coalescer = Coalescer::new(device.offload());
        self.device = Some(device);
        Ok(())
    }

    pub fn waker(&self) -> Waker {
        self.poller.waker()
    }

    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits for a packet, a timer, the waker or `most_ms`, and does what there is to do.
    pub fn turn(&mut self, most_ms: Option<u32>) -> Result<Vec<Happened>, Fault> {
        let now = SystemClock.now();
        let due = self.client.next_timeout().map(|at| u32::try_from(at.since(now)).unwrap_or(u32::MAX));
        let ready = self.poller.wait(due.into_iter().chain(most_ms).min()).map_err(broken)?;
        let mut happened = Vec::new();
        for &token in ready.tokens() {
            match token {
                DEVICE => self.outward()?,
                socket => self.inward(socket, &mut happened)?,
            }
        }
        let now = SystemClock.now();
        if self.client.next_timeout().is_some_and(|at| at <= now) {
            let output = self.client.timeout(now, &mut OsRng);
            self.absorb(output, &mut happened)?;
        }
        Ok(happened)
    }

    fn inward(&mut self, token: u32, happened: &mut Vec<Happened>) -> Result<(), Fault> {
        let (socket, port) = match token {
            IKE => (&mut self.ike, Port::Ike),
            _ => (&mut self.nat_t, Port::NatT),
        };
        socket.receive(&mut self.received).map_err(broken)?;
        let local = socket.local().map_err(broken)?;
        let (arrived, now) = (Instant::now(), SystemClock.now());
        let mut messages = Vec::new();
        let (datagrams, arena) = self.received.parts();
        for datagram in datagrams {
            let range = datagram.range();
            match classify(port, &arena[range.clone()]) {
                Class::Esp { .. } => {
                    happened.extend(self.wire.esp(&arena[range.clone()], arrived).map(Happened::Resumed));
                    let packet = &mut arena[range.clone()];
                    let start = packet.as_ptr().addr();
                    let inner = self.client.open(packet, now);
                    // Where the inner packet begins within its packet, and so within the arena.
                    if let Some((at, len)) = inner.map(|inner| (inner.as_ptr().addr() - start, inner.len()))
                        && len > 0
                    {
                        let at = range.start + at;
                        self.coalescer.push(arena, at..at + len);
                    }
                }
                Class::Ike { at } => {
                    let octets = arena[range.start + at..range.end].to_vec();
                    messages.push(Datagram::new(local, datagram.peer, octets));
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
            self.count_ike();
            // What the client does not take changes nothing, and a replay is counted all the same.
            if let Ok(output) = self.client.handle(&message, now, &mut OsRng) {
                self.absorb(output, happened)?;
            }
        }
        Ok(())
    }

    fn outward(&mut self) -> Result<(), Fault> {
        let Some(device) = &mut self.device else { return Ok(()) };
        let packets = device.receive(&mut self.read).map_err(broken)?;
        let route = Route { peer: self.client.path().1, tos: 0 };
        for index in 0..packets {
            let Ok(mut segments) = self.read.segments(index) else { continue };
            while let Some(packet) = segments.next() {
                if !self.client.seal(packet, &mut self.sealed) {
                    continue;
                }
                if !self.sending.push(route, &self.sealed) {
                    self.nat_t.send(&mut self.sending);
                    self.sending.push(route, &self.sealed);
                }
            }
        }
        self.nat_t.send(&mut self.sending);
        Ok(())
    }

    /// Sends what the client wants sent, and keeps what it tells.
    fn absorb(&mut self, output: Output, happened: &mut Vec<Happened>) -> Result<(), Fault> {
        for Datagram { local, peer, octets } in output.datagrams {
            self.count_ike();
            let (socket, octets) = match local.port() {
                PORT_NAT_T => (&mut self.nat_t, [&NON_ESP_MARKER[..], &octets].concat()),
                _ => (&mut self.ike, octets),
            };
            self.sending.push(Route { peer, tos: 0 }, &octets);
            // One that the kernel does not take is sent again by the client's timer.
            socket.send(&mut self.sending);
        }
        happened.extend(output.events.into_iter().map(Happened::Ike));
        Ok(())
    }

    fn count_ike(&mut self) {
        if self.device.is_some() {
            self.wire.ike();
        }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("client", &self.client).finish_non_exhaustive()
    }
}

fn config(psk: &str) -> Config {
    let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
    let protection = |cipher| Protection::new(cipher, None);
    let (address, prefix) = NET;
    let network = Network { address: address.into(), prefix };
    Config {
        local: at(CLIENT.into(), PORT_IKE),
        gateway: at(SERVICE.into(), PORT_IKE),
        local_nat_t: at(CLIENT.into(), PORT_NAT_T),
        gateway_nat_t: at(SERVICE.into(), PORT_NAT_T),
        local_id: Identity::parse(CLIENT_ID),
        gateway_id: Some(Identity::parse(GATEWAY_ID)),
        psk: Secret::from_slice(psk.as_bytes()),
        ike: protection(Cipher::AesGcm256)
            .map(|protection| IkeProposal { protection, prf: Prf::HmacSha256, group: Group::Curve25519 })
            .into_iter()
            .collect(),
        esp: protection(Cipher::AesGcm256)
            .map(|protection| EspProposal { protection, group: None, esn: Some(false) })
            .into_iter()
            .collect(),
        ask_ip4: true,
        ask_ip6: false,
        local_ts: Vec::new(),
        remote_ts: vec![Selector::network(network)],
        encapsulate: true,
        initial_contact: false,
        retransmit: Retransmit::default(),
        dpd_ms: 0,
    }
}

fn broken(error: std::io::Error) -> Fault {
    Fault::failed("the client has lost a socket or its device").why(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_offers_something_and_asks_for_one_address() {
        let config = config("secret");
        assert_eq!((config.ike.len(), config.esp.len()), (1, 1));
        assert!(config.encapsulate && config.ask_ip4 && !config.ask_ip6);
    }
}
