//! A client and a gateway with a network between them that the test holds in its hand.

use std::collections::VecDeque;

use crypto::Secret;
use crypto::cipher::{OpenKey, SealKey};
use crypto::rng::{Rng, SeededRng};
use ipsec::client::{self, Client};
use ipsec::datagram::Datagram;
use ipsec::ike::Order;
use ipsec::policy::Identity;
use ipsec::record::{ChildRecord, IkeRecord, Phase, Side};
use ipsec::types::Millis;
use ipsec::wire::{ExchangeType, Header, Message, Payloads};

use super::gateway::{self, Gateway};

pub struct World {
    pub client: Client,
    pub gateway: Gateway,
    pub rng: SeededRng,
    pub now: Millis,
    pub to_gateway: VecDeque<Datagram>,
    pub to_client: VecDeque<Datagram>,
    pub events: Vec<client::Event>,
    /// Every message that ever left, for whether a message ID always carried the same octets.
    pub sent: Vec<Vec<u8>>,
}

pub fn config() -> client::Config {
    client::Config {
        local: "198.51.100.7:500".parse().unwrap(),
        gateway: gateway::local(),
        local_nat_t: "198.51.100.7:4500".parse().unwrap(),
        gateway_nat_t: "192.0.2.1:4500".parse().unwrap(),
        local_id: Identity::parse("alice@example.org"),
        gateway_id: Some(Identity::parse("gw.example.org")),
        psk: Secret::from_slice(gateway::PSK),
        ike: vec![gateway::ike_suite()],
        esp: vec![gateway::esp_suite()],
        ask_ip4: true,
        ask_ip6: true,
        local_ts: vec![],
        remote_ts: vec![
            ipsec::policy::Selector::addresses(
                "0.0.0.0".parse().unwrap(),
                "255.255.255.255".parse().unwrap(),
            ),
            ipsec::policy::Selector::addresses(
                "::".parse().unwrap(),
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
            ),
        ],
        encapsulate: false,
        initial_contact: true,
        retransmit: client::Retransmit::default(),
        dpd_ms: 0,
    }
}

impl World {
    pub fn new(config: client::Config, policy: ipsec::policy::Gateway, seed: u64) -> World {
        let mut rng = SeededRng::new(seed);
        let now = Millis(1_000);
        let (client, output) = Client::new(config, now, &mut rng);
        let mut world = World {
            client,
            gateway: Gateway::new(policy, seed + 1),
            rng,
            now,
            to_gateway: VecDeque::new(),
            to_client: VecDeque::new(),
            events: Vec::new(),
            sent: Vec::new(),
        };
        world.take(output);
        world
    }

    /// A client that is connected.
    pub fn up(config: client::Config, policy: ipsec::policy::Gateway) -> World {
        let mut world = World::new(config, policy, 11);
        world.settle();
        assert!(world.client.is_up(), "{:?} {:?}", world.events, world.gateway.events);
        world
    }

    /// Delivers everything, and what that brings about, until the network is empty.
    pub fn settle(&mut self) {
        while self.deliver_to_gateway() || self.deliver_to_client() {}
    }

    pub fn deliver_to_gateway(&mut self) -> bool {
        let Some(mut datagram) = self.to_gateway.pop_front() else { return false };
        (datagram.local, datagram.peer) = (datagram.peer, datagram.local);
        let replies = self.gateway.handle(&datagram, self.now);
        self.arrive(replies);
        true
    }

    pub fn deliver_to_client(&mut self) -> bool {
        let Some(mut datagram) = self.to_client.pop_front() else { return false };
        (datagram.local, datagram.peer) = (datagram.peer, datagram.local);
        if let Ok(output) = self.client.handle(&datagram, self.now, &mut self.rng) {
            self.take(output);
        }
        true
    }

    pub fn order(&mut self, order: client::Order) -> bool {
        let (known, output) = self.client.order(order, self.now, &mut self.rng);
        self.take(output);
        known
    }

    pub fn order_gateway(&mut self, order: Order) {
        let datagrams = self.gateway.order(order, self.now);
        self.arrive(datagrams);
    }

    /// Lets time pass on both sides.
    pub fn pass(&mut self, millis: u64) {
        self.now = self.now.after(millis);
        let output = self.client.timeout(self.now, &mut self.rng);
        self.take(output);
        let datagrams = self.gateway.timeout(self.now);
        self.arrive(datagrams);
    }

    pub fn take(&mut self, output: client::Output) {
        self.events.extend(output.events);
        self.sent.extend(output.datagrams.iter().map(|datagram| datagram.octets.clone()));
        self.to_gateway.extend(output.datagrams);
    }

    fn arrive(&mut self, datagrams: Vec<Datagram>) {
        self.sent.extend(datagrams.iter().map(|datagram| datagram.octets.clone()));
        self.to_client.extend(datagrams);
    }

    /// The IKE SAs of the gateway that carry on.
    pub fn established(&self) -> Vec<std::sync::Arc<IkeRecord>> {
        let mut records = self.gateway.records.all();
        records.retain(|record| record.phase == Phase::Established);
        records
    }

    /// Both sides have the same children, keys included: a packet each way over every one.
    pub fn assert_children_agree(&mut self) {
        let mut theirs: Vec<ChildRecord> =
            self.gateway.records.all().iter().flat_map(|record| record.children.clone()).collect();
        theirs.sort_by_key(|child| child.spi_in);
        let mut ours: Vec<_> =
            self.client.children().iter().map(|child| (child.spi_out, child.spi_in)).collect();
        ours.sort();
        let pairs: Vec<_> = theirs.iter().map(|child| (child.spi_in, child.spi_out)).collect();
        assert_eq!(ours, pairs, "the children of client and gateway");
        let inner = inner_packet();
        for child in &theirs {
            let mut packet = self.seal_as(child, &inner);
            assert_eq!(self.client.open(&mut packet, self.now), Some(&inner[..]), "gateway to client");
        }
        let mut packet = Vec::new();
        assert!(self.client.seal(&inner, &mut packet), "client to gateway");
        let spi = ipsec::wire::esp::Packet::new(&packet).unwrap().spi();
        let child = theirs.iter().find(|child| child.spi_in == spi).expect("an SPI that the gateway knows");
        let keys = (&child.keys.encr_in, &child.keys.integ_in);
        let open = OpenKey::new(child.suite.protection, keys.0.as_bytes(), keys.1.as_bytes()).unwrap();
        let high = child.suite.esn.then_some(0);
        let plain = open.open(high, &mut packet, 8).expect("the gateway's key opens it");
        assert_eq!(&plain[..inner.len()], inner);
    }

    /// A packet as the gateway would send it on this child. Each call uses an epoch of its own.
    fn seal_as(&mut self, child: &ChildRecord, inner: &[u8]) -> Vec<u8> {
        let epoch = self.rng.u32() >> 8;
        let (encr, integ) = (child.keys.encr_out.as_bytes(), child.keys.integ_out.as_bytes());
        let protection = child.suite.protection;
        let mut seal = SealKey::new(protection, encr, integ, epoch, &mut self.rng).unwrap();
        let seq = self.client.children().iter().find(|ours| ours.spi_in == child.spi_out);
        let seq = seq.map_or(1, |ours| ours.tunnel.received().0 + 1);
        let pad = (inner.len() + 2).next_multiple_of(protection.align()) - inner.len() - 2;
        let mut packet = child.spi_out.0.to_be_bytes().to_vec();
        packet.extend((seq as u32).to_be_bytes());
        packet.resize(8 + protection.iv_len(), 0);
        packet.extend(inner);
        packet.extend((1..=pad).map(|count| count as u8));
        packet.extend([pad as u8, 4]);
        packet.resize(packet.len() + protection.icv_len(), 0);
        seal.seal(child.suite.esn.then_some((seq >> 32) as u32), &mut packet, 8).unwrap();
        packet
    }

    /// I1 and I3 for IKE: one message ID of one SA and direction carries one sequence of octets, however often.
    pub fn assert_retransmissions_are_exact(&self) {
        let mut seen = std::collections::BTreeMap::new();
        for octets in &self.sent {
            let header = Header::peek(octets).unwrap();
            // What is not encrypted belongs to no SA yet, or is a notify about an unknown one.
            if Message::parse(octets).unwrap().encrypted.is_none() {
                continue;
            }
            let key = (header.spi_i, header.spi_r, header.initiator, header.response, header.message_id);
            assert_eq!(seen.entry(key).or_insert(octets), &octets, "{header:?}");
        }
    }
}

/// An IPv4 packet with one octet in UDP, from the first address of the pool to the protected network.
pub fn inner_packet() -> Vec<u8> {
    let ip = [0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 0, 1, 10, 10, 0, 1];
    let udp = [0x30, 0x39, 0, 53, 0, 9, 0, 0];
    [&ip[..], &udp, &[0xaa]].concat()
}

/// Somebody who knows the keys of the client and says what a client never would.
impl World {
    /// Sends a request with these payloads on the gateway's only IKE SA; returns what the gateway answers.
    pub fn say(&mut self, exchange: ExchangeType, payloads: Payloads) -> Payloads {
        let record = self.established().pop().expect("an IKE SA");
        let (spi_i, spi_r) = record.spis();
        let header = Header {
            spi_i,
            spi_r,
            exchange,
            initiator: record.initiator == Side::Peer,
            response: false,
            message_id: record.expected,
        };
        let protection = record.suite.protection;
        let (ours, theirs) = match record.initiator {
            Side::Peer => (record.keys.sent_by_initiator(), record.keys.sent_by_responder()),
            Side::Us => (record.keys.sent_by_responder(), record.keys.sent_by_initiator()),
        };
        let epoch = self.rng.u32() >> 8;
        let (encr, integ) = (ours.0.as_bytes(), ours.1.as_bytes());
        let mut seal = SealKey::reference(protection, encr, integ, epoch, &mut self.rng).unwrap();
        let octets = Message { header, payloads, encrypted: None }.seal(&mut seal).unwrap();
        let datagram = Datagram::new(record.path.local, record.path.peer, octets);
        let replies = self.gateway.handle(&datagram, self.now);
        let [reply] = &replies[..] else { panic!("one reply: {replies:?} {:?}", self.gateway.drops) };
        let open = OpenKey::reference(protection, theirs.0.as_bytes(), theirs.1.as_bytes()).unwrap();
        let message = Message::parse(&reply.octets).unwrap();
        message.encrypted.expect("a protected reply").open(&reply.octets, &open).unwrap()
    }

    /// The payloads of a message that the gateway sent on an IKE SA of this record's keys.
    pub fn read(&self, record: &IkeRecord, octets: &[u8]) -> Payloads {
        let keys = match record.initiator {
            Side::Peer => record.keys.sent_by_responder(),
            Side::Us => record.keys.sent_by_initiator(),
        };
        let (encr, integ) = (keys.0.as_bytes(), keys.1.as_bytes());
        let open = OpenKey::reference(record.suite.protection, encr, integ).unwrap();
        Message::parse(octets).unwrap().encrypted.unwrap().open(octets, &open).unwrap()
    }
}
