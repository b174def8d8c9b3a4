//! A gateway of one segment and a client, joined by hand.
//!
//! The gateway's records live in a map that only `Change::apply` writes, as the replicated state does it. All that
//! the gateway has sent is kept, for the checks at the end of each script: no IV twice under one key (I1), and one
//! answer for each request (I3).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crypto::Secret;
use crypto::cipher::{Cipher, Protection};
use crypto::kex::Group;
use crypto::prf::Prf;
use crypto::rng::SeededRng;
use ipsec::client::{self, Client};
use ipsec::datagram::Datagram;
use ipsec::ike::cookie::CookieSecrets;
use ipsec::ike::{Context, Decision, DropReason, Endpoint, Event, Order, Verdict, View};
use ipsec::policy::*;
use ipsec::record::{Change, Farewell, Guard, IkeRecord, Phase, Refusal};
use ipsec::types::*;
use ipsec::wire::Header;

pub const GATEWAY: &str = "192.0.2.1";
pub const CLIENT: &str = "198.51.100.7";

pub struct Lab {
    pub gateway: Gateway,
    pub endpoint: Option<Endpoint>,
    pub records: BTreeMap<Spi, Arc<IkeRecord>>,
    pub farewells: BTreeMap<Spi, Arc<Farewell>>,
    pub guard: Guard,
    pub now: u64,
    pub rng: SeededRng,
    pub events: Vec<Event>,
    pub drops: Vec<DropReason>,
    /// Decisions that are not committed yet, when `hold` is set.
    pub held: Vec<Decision>,
    pub hold: bool,
    /// Everything that the gateway has sent.
    pub sent: Vec<Datagram>,
    pub last_inbound: HashMap<ChildSpi, Millis>,
}

struct Shelf<'a> {
    records: &'a BTreeMap<Spi, Arc<IkeRecord>>,
    farewells: &'a BTreeMap<Spi, Arc<Farewell>>,
    last_inbound: &'a HashMap<ChildSpi, Millis>,
}

impl View for Shelf<'_> {
    fn record(&self, spi: Spi) -> Option<Arc<IkeRecord>> {
        self.records.get(&spi).cloned()
    }
    fn farewell(&self, spi: Spi) -> Option<Arc<Farewell>> {
        self.farewells.get(&spi).cloned()
    }
    fn records(&self) -> Vec<Arc<IkeRecord>> {
        self.records.values().cloned().collect()
    }
    fn of_peer(&self, connection: &str, peer: &Identity) -> Vec<Arc<IkeRecord>> {
        let same = |record: &&Arc<IkeRecord>| {
            record.connection == connection && record.peer_id == *peer && record.phase == Phase::Established
        };
        self.records.values().filter(same).cloned().collect()
    }
    fn ike_spi_taken(&self, spi: Spi) -> bool {
        self.records.contains_key(&spi) || self.farewells.contains_key(&spi)
    }
    fn child_spi_taken(&self, spi: ChildSpi) -> bool {
        self.records.values().any(|record| record.child(spi).is_some())
    }
    fn free_address(&self, pool: &Pool, _: &Identity, wish: Option<IpAddr>, v4: bool) -> Option<IpAddr> {
        let taken: BTreeSet<IpAddr> =
            self.records.values().flat_map(|record| record.inner_addresses.clone()).collect();
        let network = pool.addresses.iter().find(|network| network.address.is_ipv4() == v4)?;
        let all = (1..=6u8).map(|host| match network.address {
            IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + u32::from(host)).to_be_bytes()),
            IpAddr::V6(ip) => IpAddr::from((u128::from(ip) + u128::from(host)).to_be_bytes()),
        });
        wish.into_iter().filter(|ip| network.contains(*ip)).chain(all).find(|ip| !taken.contains(ip))
    }
    fn cookie_secrets(&self) -> CookieSecrets {
        CookieSecrets { current: Some((1, Secret::from(vec![7; 32]))), previous: None }
    }
    fn last_inbound(&self, child: ChildSpi) -> Option<Millis> {
        self.last_inbound.get(&child).copied()
    }
}

pub fn aead(cipher: Cipher) -> Protection {
    Protection::new(cipher, None).unwrap()
}

pub fn net(text: &str) -> Network {
    let (address, prefix) = text.split_once('/').unwrap();
    Network { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
}

pub fn policy() -> Gateway {
    let ike = |cipher, group| IkeProposal { protection: aead(cipher), prf: Prf::HmacSha256, group };
    let esp = |group| EspProposal { protection: aead(Cipher::AesGcm128), group, esn: Some(false) };
    Gateway {
        revision: 1,
        connections: vec![Connection {
            name: "staff".into(),
            local_id: Identity::parse("gw.example.org"),
            local_auth: Auth::Psk,
            remote_address: None,
            remote_id: IdPattern("*@example.org".into()),
            remote_auth: Auth::Psk,
            ike: vec![ike(Cipher::AesGcm256, Group::Curve25519), ike(Cipher::AesGcm128, Group::Ecp256)],
            pool: Some("staff".into()),
            unique: Unique::Replace,
            dpd_ms: 30_000,
            rekey_ms: 0,
            children: vec![Child {
                name: "net".into(),
                local_ts: vec![Selector::network(net("10.10.0.0/24"))],
                remote_ts: vec![],
                esp: vec![esp(None)],
                rekey_after_ms: 0,
                rekey_bytes: 0,
                strict_replay: false,
            }],
        }],
        pools: vec![Pool {
            name: "staff".into(),
            addresses: vec![net("10.99.0.0/24"), net("2001:db8:99::/64")],
            dns: vec!["10.10.0.53".parse().unwrap()],
        }],
        secrets: vec![SharedSecret {
            name: "all".into(),
            ids: vec![IdPattern("*".into())],
            psk: Secret::from(b"a long shared secret".to_vec()),
        }],
    }
}

pub fn client_config(name: &str) -> client::Config {
    let address = |ip: &str, port: u16| SocketAddr::new(ip.parse().unwrap(), port);
    let gateway = policy();
    let connection = &gateway.connections[0];
    client::Config {
        local: address(CLIENT, 500),
        gateway: address(GATEWAY, 500),
        local_nat_t: address(CLIENT, 4500),
        gateway_nat_t: address(GATEWAY, 4500),
        local_id: Identity::parse(&format!("{name}@example.org")),
        gateway_id: Some(Identity::parse("gw.example.org")),
        psk: Secret::from(b"a long shared secret".to_vec()),
        ike: connection.ike.clone(),
        esp: connection.children[0].esp.clone(),
        ask_ip4: true,
        ask_ip6: false,
        local_ts: vec![],
        remote_ts: vec![Selector::network(net("0.0.0.0/0"))],
        encapsulate: true,
        initial_contact: false,
        retransmit: client::Retransmit::default(),
        dpd_ms: 0,
    }
}

impl Lab {
    pub fn new() -> Lab {
        Lab::with(policy())
    }

    pub fn with(gateway: Gateway) -> Lab {
        let guard = Guard { segment: Segment(0), epoch: Epoch(1), incarnation: Incarnation(1) };
        let mut lab = Lab {
            gateway,
            endpoint: None,
            records: BTreeMap::new(),
            farewells: BTreeMap::new(),
            guard,
            now: 1_000,
            rng: SeededRng::new(42),
            events: Vec::new(),
            drops: Vec::new(),
            held: Vec::new(),
            hold: false,
            sent: Vec::new(),
            last_inbound: HashMap::new(),
        };
        lab.take_over();
        lab
    }

    /// The owner is gone with all its memory; the next one starts from the records, one epoch later.
    pub fn take_over(&mut self) {
        self.endpoint = None;
        self.held.clear();
        self.guard.epoch = self.guard.epoch.next().unwrap();
        let guard = self.guard;
        let endpoint = self.context(|ctx| Endpoint::new(guard, ctx));
        self.endpoint = Some(endpoint);
    }

    /// The same with what the owner has left to the next one besides the records.
    pub fn take_over_with(&mut self, leave: impl FnOnce(&mut Endpoint, &mut Context<'_>) -> Option<Secret>) {
        let mut old = self.endpoint.take().expect("an owner");
        let left = self.context(|ctx| leave(&mut old, ctx));
        self.take_over();
        let mut next = self.endpoint.take().expect("the next owner");
        if let Some(left) = left {
            self.context(|ctx| next.import(&left, ctx)).expect("what one engine writes another reads");
        }
        self.endpoint = Some(next);
    }

    fn context<T>(&mut self, run: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let view =
            Shelf { records: &self.records, farewells: &self.farewells, last_inbound: &self.last_inbound };
        run(&mut Context {
            now: Millis(self.now),
            utc: Millis(1_700_000_000_000 + self.now),
            rng: &mut self.rng,
            gateway: &self.gateway,
            view: &view,
        })
    }

    pub fn engine<T>(&mut self, run: impl FnOnce(&mut Endpoint, &mut Context<'_>) -> T) -> T {
        let mut endpoint = self.endpoint.take().unwrap();
        let result = self.context(|ctx| run(&mut endpoint, ctx));
        self.endpoint = Some(endpoint);
        result
    }

    /// A datagram as the client sent it; what the gateway sends in return.
    pub fn deliver(&mut self, datagram: &Datagram) -> Vec<Datagram> {
        let arrived = turned(datagram);
        let verdict = self.engine(|endpoint, ctx| endpoint.handle(&arrived, ctx));
        self.carry_out(verdict)
    }

    fn carry_out(&mut self, verdict: Verdict) -> Vec<Datagram> {
        match verdict {
            Verdict::Drop(reason) => {
                self.drops.push(reason);
                Vec::new()
            }
            Verdict::Send { datagrams, events } => {
                self.events.extend(events);
                self.send(datagrams)
            }
            Verdict::Commit(decision) if self.hold => {
                self.held.push(decision);
                Vec::new()
            }
            Verdict::Commit(decision) => self.commit(decision).expect("nothing else has changed the record"),
        }
    }

    /// Applies a decision and opens its replies.
    pub fn commit(&mut self, decision: Decision) -> Result<Vec<Datagram>, Refusal> {
        let Decision { change, replies, events } = decision;
        let spi = change.spi;
        match self.apply(&change) {
            Ok(()) => {
                self.engine(|endpoint, ctx| endpoint.committed(spi, ctx));
                self.events.extend(events);
                Ok(self.send(replies.open()))
            }
            Err(refusal) => {
                self.engine(|endpoint, _| endpoint.refused(spi));
                Err(refusal)
            }
        }
    }

    pub fn apply(&mut self, change: &Change) -> Result<(), Refusal> {
        if change.guard != self.guard {
            return Err(Refusal::Deposed);
        }
        let writes = change.apply(&|spi| self.records.get(&spi).cloned())?;
        let touched: Vec<Spi> = writes.keys().copied().collect();
        let ended = writes.iter().filter(|(_, record)| record.is_none());
        self.farewells.extend(ended.map(|(&spi, _)| (spi, Arc::new(change.farewell(spi)))));
        for (spi, record) in writes {
            match record {
                Some(record) => self.records.insert(spi, Arc::new(record)),
                None => self.records.remove(&spi),
            };
        }
        for spi in touched {
            self.engine(|endpoint, ctx| endpoint.refresh(spi, ctx));
        }
        Ok(())
    }

    fn send(&mut self, datagrams: Vec<Datagram>) -> Vec<Datagram> {
        self.sent.extend(datagrams.clone());
        datagrams.iter().map(turned).collect()
    }

    /// Time passes; what the gateway sends by itself.
    pub fn sleep(&mut self, millis: u64) -> Vec<Datagram> {
        self.now += millis;
        let mut sent = Vec::new();
        while let Some(verdict) = self.engine(|endpoint, ctx| endpoint.timeout(ctx)) {
            sent.extend(self.carry_out(verdict));
        }
        sent
    }

    pub fn order(&mut self, order: Order) -> Vec<Datagram> {
        assert!(self.engine(|endpoint, ctx| endpoint.order(order, ctx)));
        self.sleep(0)
    }

    /// Starts a client; its first request.
    pub fn client(&mut self, config: client::Config) -> (Client, Vec<Datagram>) {
        let (client, output) = Client::new(config, Millis(self.now), &mut self.rng);
        (client, output.datagrams)
    }

    /// What the client answers to these.
    pub fn answer(&mut self, client: &mut Client, datagrams: &[Datagram]) -> Vec<Datagram> {
        let mut sent = Vec::new();
        for datagram in datagrams {
            if let Ok(output) = client.handle(datagram, Millis(self.now), &mut self.rng) {
                sent.extend(output.datagrams);
            }
        }
        sent
    }

    /// Passes messages to and fro until both are silent.
    pub fn settle(&mut self, client: &mut Client, mut to_gateway: Vec<Datagram>) {
        for _ in 0..64 {
            let mut to_client = Vec::new();
            for datagram in &to_gateway {
                to_client.extend(self.deliver(datagram));
            }
            to_client.extend(self.sleep(0));
            if to_client.is_empty() {
                return;
            }
            to_gateway = self.answer(client, &to_client);
        }
        panic!("they never come to rest");
    }

    /// A client that is up.
    pub fn connect(&mut self, config: client::Config) -> Client {
        let (mut client, first) = self.client(config);
        self.settle(&mut client, first);
        assert!(client.is_up(), "{:?} {:?}", client.ended(), self.drops);
        client
    }

    pub fn ask(&mut self, client: &mut Client, order: client::Order) -> Vec<Datagram> {
        let (taken, output) = client.order(order, Millis(self.now), &mut self.rng);
        assert!(taken);
        output.datagrams
    }

    /// The one IKE SA that is established.
    pub fn only(&self) -> Arc<IkeRecord> {
        let mut live = self.records.values().filter(|record| record.phase == Phase::Established);
        let first = live.next().expect("an IKE SA").clone();
        assert!(live.next().is_none(), "one IKE SA only");
        first
    }

    /// Both have the same SAs with the same keys, and nothing is left over.
    pub fn assert_in_step(&self, client: &Client) {
        assert_eq!(self.records.len(), 1, "no residue");
        let record = self.only();
        let (_, gateway_spi, _, keys) = client.ike_keys().last().unwrap();
        assert_eq!(gateway_spi, record.spi);
        assert_eq!(*keys, record.keys);
        let ours: Vec<_> = record
            .children
            .iter()
            .map(|child| (child.spi_in, child.spi_out, child.keys.encr_in.clone()))
            .collect();
        let theirs: Vec<_> = client
            .children()
            .iter()
            .map(|child| (child.spi_out, child.spi_in, child.keys.encr_out.clone()))
            .collect();
        assert_eq!(ours, theirs);
    }
}

/// Every script ends with what must hold of all that was sent.
impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut answers: HashMap<(Spi, Spi, bool, bool, MessageId), &[u8]> = HashMap::new();
        let mut ivs: HashMap<(Spi, Spi, [u8; 8]), &[u8]> = HashMap::new();
        for datagram in &self.sent {
            let (header, first) = Header::parse(&datagram.octets).unwrap();
            if first != ipsec::wire::PayloadType::SK {
                continue;
            }
            let key = (header.spi_i, header.spi_r, header.initiator, header.response, header.message_id);
            let known = answers.entry(key).or_insert(&datagram.octets);
            assert_eq!(*known, datagram.octets.as_slice(), "a message ID with two contents (I3): {header:?}");
            let iv: [u8; 8] = datagram.octets[32..40].try_into().unwrap();
            let known = ivs.entry((header.spi_i, header.spi_r, iv)).or_insert(&datagram.octets);
            assert_eq!(*known, datagram.octets.as_slice(), "an IV twice (I1): {header:?}");
        }
    }
}

fn turned(datagram: &Datagram) -> Datagram {
    Datagram::new(datagram.peer, datagram.local, datagram.octets.clone())
}
