//! A world in which each command is applied twice and checked all round.

mod golden;
mod leases;
mod random;
mod rules;
mod sas;
mod tokens;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crypto::Secret;
use crypto::cipher::{Cipher, Protection};
use crypto::kex::Group;
use crypto::prf::Prf;
use ipsec::policy::{Identity, Selector};
use ipsec::record::{
    Block, Change, ChildKeys, ChildPhase, ChildRecord, EspSuite, Guard, IkeKeys, IkeRecord, IkeSuite, Path,
    PeerSupports, Phase, Side, Step,
};
use ipsec::types::{ChildSpi, Epoch, EspSeq, Incarnation, MessageId, Millis, Revision, Segment, Spi};

use super::*;

const A: NodeId = NodeId(0);
const NONE: Incarnation = Incarnation(0);
const RUN_A: Incarnation = Incarnation(0xa1);
const RUN_B: Incarnation = Incarnation(0xb1);
const RUN_C: Incarnation = Incarnation(0xc1);
const SEG: Segment = Segment(7);
/// A token that everybody may use.
const OPEN: TokenUse = TokenUse { id: TokenId(1), proof: TokenProof([1; 32]) };

/// Two replicas: `twin` gets each command through its octets. They must never differ.
#[derive(Default)]
struct World {
    state: State,
    twin: State,
    index: u64,
}

impl World {
    /// One node that runs and owns all segments in epoch 1.
    fn new() -> World {
        let mut world = World { index: 1, ..World::default() };
        world.done(create());
        world.done(token(OPEN, Suffrage::Voter, u32::MAX, u64::MAX));
        world.done(start_after(NONE, A, RUN_A));
        let segments = Segment::all().map(|segment| (segment, Epoch(0))).collect();
        world.done(assign(segments, A, RUN_A));
        world
    }

    /// The same with a second node that runs and owns nothing. Returns its id.
    fn with_b() -> (World, NodeId) {
        let mut world = World::new();
        let Effect::Joined(b) = world.done(add("b")) else { panic!("it joined") };
        world.done(start_after(NONE, b, RUN_B));
        (world, b)
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let before = self.state.digest();
        let outcome = self.state.apply(self.index, &command);
        let decoded = Command::decode(&command.encode()).expect("what we encode we decode");
        assert_eq!(decoded, command);
        assert_eq!(self.twin.apply(self.index, &decoded), outcome, "replicas agree on the outcome");
        let digest = self.state.digest();
        assert_eq!(self.twin.digest(), digest, "replicas agree on the state");
        assert_eq!(self.state.check(), Ok(()));
        assert_eq!(self.state.applied(), self.index);
        match outcome.result {
            Err(_) => {
                assert_eq!(digest, before, "a refused command changes nothing");
                assert!(outcome.touched.is_empty());
            }
            Ok(Effect::Unchanged) => assert_eq!(digest, before),
            Ok(_) => assert!(digest == before || !outcome.touched.is_empty(), "{command:?}"),
        }
        outcome
    }

    fn done(&mut self, command: Command) -> Effect {
        let outcome = self.apply(command);
        outcome.result.unwrap_or_else(|refusal| panic!("refused: {refusal}"))
    }

    fn refused(&mut self, command: Command) -> Refusal {
        match self.apply(command.clone()).result {
            Err(refusal) => refusal,
            Ok(effect) => panic!("{command:?} was not refused but {effect:?}"),
        }
    }

    /// A process of `node` starts, whatever ran before.
    fn start(&self, node: NodeId, incarnation: Incarnation) -> Command {
        let before = self.state.members().get(node).map_or(NONE, |member| member.incarnation);
        start_after(before, node, incarnation)
    }

    fn guard(&self, segment: Segment) -> Guard {
        let grant = self.state.segment(segment);
        let incarnation = grant.owner.expect("an owner").incarnation;
        Guard { segment, epoch: grant.epoch, incarnation }
    }

    /// A change to `spi` in the name of its owner, on the record as it is.
    fn change(&self, spi: Spi, steps: Vec<Step>) -> Change {
        let revision = self.state.record(spi).map_or(Revision(0), |record| record.revision);
        Change { guard: self.guard(spi.segment()), spi, revision, at: Millis(1_000), steps }
    }

    fn sa(&self, spi: Spi, steps: Vec<Step>) -> Command {
        Command::Sa(self.change(spi, steps))
    }

    /// An IKE SA of `peer` with these inner addresses and one child.
    fn establish(&mut self, spi: Spi, child: ChildSpi, peer: &str, addresses: &[&str]) {
        let mut record = record(spi, peer, addresses);
        record.children = vec![a_child(child)];
        let command = self.sa(spi, vec![Step::Establish(Box::new(record))]);
        self.done(command);
    }
}

fn create() -> Command {
    Command::CreateCluster(CreateCluster {
        name: "bridge".into(),
        id: ClusterId([3; 16]),
        founder: A,
        founder_as: new_member("a"),
        founder_key: key("a"),
        authority: Authority { certificate: vec![0x30; 40], key: secret(9) },
        at: Millis(1),
    })
}

fn new_member(name: &str) -> NewMember {
    NewMember { name: name.into(), address: "198.18.0.11:7400".into(), software: "0.1.0".into(), speaks: 1 }
}

fn add(name: &str) -> Command {
    Command::AddMember(add_with(name, OPEN))
}

fn add_with(name: &str, token: TokenUse) -> AddMember {
    AddMember { member: new_member(name), key: key(name), token, replaces: None, at: Millis(2) }
}

/// The key of the node of that name; with another octet behind it, another one.
fn key(name: &str) -> KeyHash {
    KeyHash(crypto::hash::sha256(&[name.as_bytes()]))
}

fn token(it: TokenUse, role: Suffrage, uses: u32, expires_at: u64) -> Command {
    let TokenUse { id, proof } = it;
    Command::CreateToken(CreateToken { id, proof, role, uses, expires_at: Millis(expires_at), at: Millis(1) })
}

fn start_after(expected: Incarnation, node: NodeId, incarnation: Incarnation) -> Command {
    let NewMember { address, software, speaks, .. } = new_member("");
    let start = Start { incarnation, address, software, speaks, at: Millis(3) };
    Command::Incarnate { node, expected, start }
}

fn assign(segments: Vec<(Segment, Epoch)>, to: NodeId, incarnation: Incarnation) -> Command {
    Command::Assign(Assign {
        segments,
        to,
        incarnation,
        standby: None,
        cause: Cause::Created,
        at: Millis(4),
        takeover: None,
    })
}

fn configure(expected_revision: u64, toml: &str) -> Command {
    Command::Configure(Configure {
        expected_revision,
        toml: toml.into(),
        files: BTreeMap::from([("b.psk".into(), secret(5)), ("a.pem".into(), secret(6))]),
        comment: "why".into(),
        at: Millis(5),
        by: "root".into(),
    })
}

fn rotate(expected_version: u32, octet: u8) -> Command {
    let secret = Secret::from(vec![octet; 32]);
    Command::RotateCookieSecret(RotateCookieSecret { expected_version, secret, at: Millis(6) })
}

fn reserve(guard: Guard, ike: Spi, child: ChildSpi, count: u64) -> Command {
    Command::Reserve(Reserve { guard, children: vec![Wanted { ike, child, count, upto: EspSeq(0) }] })
}

/// The n-th IKE SPI of a segment.
fn spi(segment: Segment, n: u64) -> Spi {
    Spi((u64::from(segment.0) << 56) | n)
}

fn child_spi(segment: Segment, n: u32) -> ChildSpi {
    ChildSpi((u32::from(segment.0) << 24) | (0x1000 + n))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn secret(octet: u8) -> Secret {
    Secret::from(vec![octet; 20])
}

fn record(spi: Spi, peer: &str, addresses: &[&str]) -> IkeRecord {
    let at = |text: &str| text.parse::<SocketAddr>().expect("a socket address");
    let protection = Protection::new(Cipher::AesGcm128, None).expect("an AEAD needs no more");
    IkeRecord {
        spi,
        peer_spi: Spi(0x1122_3344_5566_7788),
        initiator: Side::Peer,
        connection: "staff".into(),
        local_id: Identity::parse("gw.example.org"),
        peer_id: Identity::parse(peer),
        path: Path {
            local: at("192.0.2.1:4500"),
            peer: at("198.51.100.9:31337"),
            peer_behind_nat: true,
            we_behind_nat: false,
        },
        suite: IkeSuite { protection, prf: Prf::HmacSha256, group: Group::Curve25519 },
        keys: IkeKeys {
            d: secret(1),
            ai: Secret::from(Vec::new()),
            ar: Secret::from(Vec::new()),
            ei: secret(2),
            er: secret(3),
            pi: secret(4),
            pr: secret(5),
        },
        established_at: Millis(900),
        revision: Revision(0),
        phase: Phase::Established,
        next_request: MessageId(0),
        outstanding: None,
        expected: MessageId(2),
        last_reply: None,
        children: Vec::new(),
        inner_addresses: addresses.iter().map(|text| ip(text)).collect(),
        peer_supports: PeerSupports::default(),
    }
}

fn a_child(spi_in: ChildSpi) -> ChildRecord {
    let protection = Protection::new(Cipher::AesGcm128, None).expect("an AEAD needs no more");
    ChildRecord {
        name: "net".into(),
        spi_in,
        spi_out: ChildSpi(0xc0ff_ee00),
        suite: EspSuite { protection, esn: false, group: None },
        keys: ChildKeys {
            encr_in: secret(7),
            integ_in: Secret::from(Vec::new()),
            encr_out: secret(8),
            integ_out: Secret::from(Vec::new()),
        },
        local_ts: vec![Selector::addresses(ip("10.10.0.0"), ip("10.10.0.255"))],
        remote_ts: vec![Selector::host(ip("10.99.0.5"))],
        established_at: Millis(900),
        phase: ChildPhase::Live,
        initiator: Side::Peer,
        replaces: None,
        block: Block::NONE,
        granted: EspSeq(0),
        claimed: None,
    }
}
