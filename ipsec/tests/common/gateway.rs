//! The engine with a log that commits at once and a state that is a map: enough of a gateway to talk to.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crypto::Secret;
use crypto::cipher::{Cipher, Integ, Protection};
use crypto::kex::Group;
use crypto::prf::Prf;
use crypto::rng::SeededRng;
use ipsec::datagram::Datagram;
use ipsec::ike::cookie::CookieSecrets;
use ipsec::ike::{Context, Endpoint, Event, Order, Verdict, View};
use ipsec::policy::*;
use ipsec::record::{Farewell, Guard, IkeRecord};
use ipsec::types::{ChildSpi, Epoch, Incarnation, Millis, Segment, Spi};

pub const PSK: &[u8] = b"a secret that both sides know";

#[derive(Default)]
pub struct Records(RefCell<BTreeMap<Spi, Arc<IkeRecord>>>, RefCell<BTreeMap<Spi, Arc<Farewell>>>);

impl Records {
    pub fn all(&self) -> Vec<Arc<IkeRecord>> {
        self.0.borrow().values().cloned().collect()
    }
}

impl View for Records {
    fn record(&self, spi: Spi) -> Option<Arc<IkeRecord>> {
        self.0.borrow().get(&spi).cloned()
    }

    fn farewell(&self, spi: Spi) -> Option<Arc<Farewell>> {
        self.1.borrow().get(&spi).cloned()
    }

    fn records(&self) -> Vec<Arc<IkeRecord>> {
        self.all()
    }

    fn of_peer(&self, connection: &str, peer: &Identity) -> Vec<Arc<IkeRecord>> {
        let fits = |record: &Arc<IkeRecord>| record.connection == connection && record.peer_id == *peer;
        self.all().into_iter().filter(fits).collect()
    }

    fn ike_spi_taken(&self, spi: Spi) -> bool {
        self.0.borrow().contains_key(&spi) || self.1.borrow().contains_key(&spi)
    }

    fn child_spi_taken(&self, spi: ChildSpi) -> bool {
        self.all().iter().any(|record| record.child(spi).is_some())
    }

    fn free_address(&self, pool: &Pool, _: &Identity, wish: Option<IpAddr>, v4: bool) -> Option<IpAddr> {
        let records = self.all();
        let taken = |ip: &IpAddr| records.iter().any(|record| record.inner_addresses.contains(ip));
        let network = pool.addresses.iter().find(|network| network.address.is_ipv4() == v4)?;
        let wish = wish.filter(|ip| network.contains(*ip) && !taken(ip));
        wish.or_else(|| hosts(*network).find(|ip| !taken(ip)))
    }

    fn cookie_secrets(&self) -> CookieSecrets {
        CookieSecrets { current: Some((1, Secret::from_slice(&[7; 32]))), previous: None }
    }

    fn last_inbound(&self, _: ChildSpi) -> Option<Millis> {
        None
    }
}

fn hosts(network: Network) -> impl Iterator<Item = IpAddr> {
    (1..255u32).map(move |host| match network.address {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + host).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + u128::from(host)).into()),
    })
}

pub struct Gateway {
    pub policy: ipsec::policy::Gateway,
    pub records: Records,
    pub endpoint: Endpoint,
    pub rng: SeededRng,
    pub events: Vec<Event>,
    pub drops: Vec<ipsec::ike::DropReason>,
}

impl Gateway {
    pub fn new(policy: ipsec::policy::Gateway, seed: u64) -> Gateway {
        let (records, mut rng) = (Records::default(), SeededRng::new(seed));
        let guard = Guard { segment: Segment(5), epoch: Epoch(1), incarnation: Incarnation(9) };
        let now = Millis(0);
        let endpoint = Endpoint::new(
            guard,
            &mut Context { now, utc: now, rng: &mut rng, gateway: &policy, view: &records },
        );
        Gateway { policy, records, endpoint, rng, events: Vec::new(), drops: Vec::new() }
    }

    pub fn handle(&mut self, datagram: &Datagram, now: Millis) -> Vec<Datagram> {
        let verdict = self.with(now, |endpoint, ctx| endpoint.handle(datagram, ctx));
        self.carry_out(verdict, now)
    }

    pub fn order(&mut self, order: Order, now: Millis) -> Vec<Datagram> {
        assert!(self.with(now, |endpoint, ctx| endpoint.order(order, ctx)), "{order:?}");
        self.timeout(now)
    }

    pub fn timeout(&mut self, now: Millis) -> Vec<Datagram> {
        let mut out = Vec::new();
        while let Some(verdict) = self.with(now, |endpoint, ctx| endpoint.timeout(ctx)) {
            out.extend(self.carry_out(verdict, now));
        }
        out
    }

    fn carry_out(&mut self, verdict: Verdict, now: Millis) -> Vec<Datagram> {
        match verdict {
            Verdict::Drop(reason) => {
                self.drops.push(reason);
                Vec::new()
            }
            Verdict::Send { datagrams, events } => {
                self.events.extend(events);
                datagrams
            }
            Verdict::Commit(decision) => {
                let writes =
                    decision.change.apply(&|spi| self.records.record(spi)).expect("a change that fits");
                let ended = writes.iter().filter(|(_, record)| record.is_none());
                let farewells = ended.map(|(&spi, _)| (spi, Arc::new(decision.change.farewell(spi))));
                self.records.1.borrow_mut().extend(farewells);
                let touched: Vec<Spi> = writes.keys().copied().collect();
                for (spi, record) in writes {
                    let mut records = self.records.0.borrow_mut();
                    match record {
                        Some(record) => records.insert(spi, Arc::new(record)),
                        None => records.remove(&spi),
                    };
                }
                self.events.extend(decision.events);
                for spi in touched {
                    self.with(now, |endpoint, ctx| endpoint.refresh(spi, ctx));
                }
                self.with(now, |endpoint, ctx| endpoint.committed(decision.change.spi, ctx));
                decision.replies.open()
            }
        }
    }

    fn with<T>(&mut self, now: Millis, act: impl FnOnce(&mut Endpoint, &mut Context<'_>) -> T) -> T {
        let mut ctx =
            Context { now, utc: now, rng: &mut self.rng, gateway: &self.policy, view: &self.records };
        act(&mut self.endpoint, &mut ctx)
    }
}

pub fn local() -> SocketAddr {
    "192.0.2.1:500".parse().unwrap()
}

pub fn aead(cipher: Cipher) -> Protection {
    Protection::new(cipher, None).unwrap()
}

pub fn cbc(cipher: Cipher, integ: Integ) -> Protection {
    Protection::new(cipher, Some(integ)).unwrap()
}

pub fn ike_suite() -> IkeProposal {
    IkeProposal { protection: aead(Cipher::AesGcm256), prf: Prf::HmacSha384, group: Group::Ecp256 }
}

pub fn esp_suite() -> EspProposal {
    EspProposal { protection: aead(Cipher::AesGcm128), group: Some(Group::Curve25519), esn: None }
}

/// One connection for everybody, with a pool of both families.
pub fn policy() -> ipsec::policy::Gateway {
    let network = |address: &str, prefix| Network { address: address.parse().unwrap(), prefix };
    let child = Child {
        name: "net".into(),
        local_ts: vec![
            Selector::network(network("10.10.0.0", 24)),
            Selector::network(network("2001:db8:10::", 48)),
        ],
        remote_ts: vec![],
        esp: vec![esp_suite()],
        rekey_after_ms: 0,
        rekey_bytes: 0,
        strict_replay: false,
    };
    let connection = Connection {
        name: "staff".into(),
        local_id: Identity::parse("gw.example.org"),
        local_auth: Auth::Psk,
        remote_address: None,
        remote_id: IdPattern("*".into()),
        remote_auth: Auth::Psk,
        ike: vec![ike_suite()],
        pool: Some("staff".into()),
        unique: Unique::Replace,
        dpd_ms: 0,
        rekey_ms: 0,
        children: vec![child],
    };
    ipsec::policy::Gateway {
        revision: 1,
        connections: vec![connection],
        pools: vec![Pool {
            name: "staff".into(),
            addresses: vec![network("10.99.0.0", 24), network("2001:db8:99::", 64)],
            dns: vec!["10.10.0.53".parse().unwrap()],
        }],
        secrets: vec![SharedSecret {
            name: "all".into(),
            ids: vec![IdPattern("*".into())],
            psk: Secret::from_slice(PSK),
        }],
    }
}
