//! What probes and answers say: the renewal of leases, and the signs of life.
//!
//! ```text
//!   probe    incarnation (8) | sequence (8) | applied (8) | voters at (8) | barred, deaf (1)
//!   answer   sequence (8) | verdict (1)
//! ```
//!
//! A probe of X asks each other member to acknowledge it (`promise`); the acknowledgements of a majority of the voters
//! extend the lease of X (`lease`), from when that round of probes was sent. Every valid datagram is a sign of life.
//! A node that is refused because of a promise says so in its probes, and the leader pardons it (`takeover`). One that has
//! had no answers from a majority for the time of a lease says so, too: it is deaf, and others must not rely on it.
//!
//! All in the mesh thread.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use ipsec::types::{Incarnation, Millis};
use raft::state::{NodeId, State};
use raft::{Cluster, WeakCluster};

use crate::detector::Told;
use crate::lease::{Lease, Renewals};
use crate::lookout::Lookout;
use crate::mesh;
use crate::promise::{Book, Claim, Known, Verdict};

/// Rounds whose answers still count. The oldest is long past any lease.
const ROUNDS: usize = 64;

const PROBE_LEN: usize = 33;
const ANSWER_LEN: usize = 9;

/// What a pulse goes by: the applied state, and the voters.
pub trait Ground: Send {
    fn state(&self) -> Arc<State>;
    fn voters(&self) -> Voters;
}

/// The voters that this node goes by, committed or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voters {
    /// One set, or two while they are being changed: a majority of each is needed.
    pub sets: Vec<BTreeSet<NodeId>>,
    /// The log index of the entry that names them.
    pub at: u64,
}

/// After the node has left its cluster there is nothing to go by, and so neither lease nor acknowledgement.
impl Ground for WeakCluster {
    fn state(&self) -> Arc<State> {
        self.upgrade().map(|cluster| cluster.state()).unwrap_or_default()
    }

    fn voters(&self) -> Voters {
        self.upgrade().map(|cluster| voters(&cluster)).unwrap_or_default()
    }
}

/// Those of now.
pub fn voters(cluster: &Cluster) -> Voters {
    let status = cluster.status();
    Voters { sets: status.voter_sets, at: status.voters_at }
}

/// The pulse of this process.
pub struct Pulse<G> {
    ground: G,
    me: NodeId,
    incarnation: Incarnation,
    lease_ms: u64,
    lease: Lease,
    book: Arc<Book>,
    lookout: Lookout,
    /// Called when the lease has begun anew.
    regained: Box<dyn Fn() + Send>,
    renewals: Renewals,
    /// Answers of whatever kind.
    answers: Renewals,
    /// When the first round was sent.
    began: Option<Millis>,
    voters: Voters,
    /// When each round was sent, the newest last.
    rounds: VecDeque<(u64, Millis)>,
    sequence: u64,
    barred_by: BTreeSet<NodeId>,
}

/// Whose pulse it is, and what it keeps going.
pub struct Parts {
    pub me: NodeId,
    pub incarnation: Incarnation,
    pub lease_ms: u64,
    pub lease: Lease,
    pub book: Arc<Book>,
    pub lookout: Lookout,
    /// Called in the mesh thread when the lease has begun anew.
    pub regained: Box<dyn Fn() + Send>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe {
    claim: Claim,
    sequence: u64,
    barred: bool,
    deaf: bool,
}

/// The last octet of a probe.
const BARRED: u8 = 1;
const DEAF: u8 = 2;

impl<G: Ground> Pulse<G> {
    pub fn new(ground: G, parts: Parts) -> Pulse<G> {
        let Parts { me, incarnation, lease_ms, lease, book, lookout, regained } = parts;
        Pulse {
            voters: ground.voters(),
            ground,
            me,
            incarnation,
            lease_ms,
            lease,
            book,
            lookout,
            regained,
            renewals: Renewals::default(),
            answers: Renewals::default(),
            began: None,
            rounds: VecDeque::with_capacity(ROUNDS),
            sequence: 0,
            barred_by: BTreeSet::new(),
        }
    }

    fn claim(&self, state: &State) -> Claim {
        Claim { incarnation: self.incarnation, applied: state.applied(), voters_at: self.voters.at }
    }

    /// Whether no majority has answered what was sent within the time of a lease: others may hear us, but not we them. Counted
    /// as the lease is, from sending, so that whoever can have no lease is deaf. A refusal is an answer, too.
    fn is_deaf(&self, now: Millis) -> bool {
        let answered = self.answers.since(&self.voters.sets, self.me, Some(now));
        let since = answered.max(self.began).unwrap_or(now);
        now.since(since) > self.lease_ms
    }

    /// Extends the lease as far as the acknowledgements reach.
    fn renew(&mut self, now: Millis) {
        let state = self.ground.state();
        let known = Known { members: state.members(), voters_at: self.voters.at };
        let verdict = self.book.acknowledge(self.me, self.claim(&state), known, now);
        let ourselves = (verdict == Verdict::Acknowledged).then_some(now);
        if let Some(since) = self.renewals.since(&self.voters.sets, self.me, ourselves)
            && self.lease.extend(since.after(self.lease_ms), now)
        {
            (self.regained)();
        }
    }
}

impl<G: Ground> mesh::Pulse for Pulse<G> {
    fn round(&mut self, now: Millis, peers: &[NodeId]) {
        self.voters = self.ground.voters();
        self.began.get_or_insert(now);
        self.lookout.probe_round(self.is_deaf(now));
        self.lookout.see(|detector| {
            detector.watch(peers, now);
            false
        });
        self.barred_by.retain(|voter| peers.contains(voter));
        self.lookout.bar_here(!self.barred_by.is_empty());
        self.sequence += 1;
        if self.rounds.len() == ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back((self.sequence, now));
        // Alone, our own acknowledgement is a majority.
        self.renew(now);
    }

    fn probe(&mut self, _: NodeId, now: Millis) -> Vec<u8> {
        let state = self.ground.state();
        let claim = self.claim(&state);
        let (barred, deaf) = (!self.barred_by.is_empty(), self.is_deaf(now));
        Probe { claim, sequence: self.sequence, barred, deaf }.encode()
    }

    fn probed(&mut self, from: NodeId, probe: &[u8], now: Millis) -> Option<Vec<u8>> {
        let probe = Probe::decode(probe)?;
        let state = self.ground.state();
        let known = Known { members: state.members(), voters_at: self.voters.at };
        let verdict = self.book.acknowledge(from, probe.claim, known, now);
        let Probe { claim: Claim { incarnation, applied, .. }, barred, deaf, .. } = probe;
        self.lookout.see(|detector| detector.told(from, Told { incarnation, applied, barred, deaf }));
        let mut answer = probe.sequence.to_be_bytes().to_vec();
        answer.push(verdict as u8);
        Some(answer)
    }

    fn answered(&mut self, from: NodeId, answer: &[u8], now: Millis) {
        let Ok(answer) = <[u8; ANSWER_LEN]>::try_from(answer) else { return };
        let Some((sequence, &[verdict])) = answer.split_first_chunk() else { return };
        let sequence = u64::from_be_bytes(*sequence);
        let Some(&(_, sent)) = self.rounds.iter().find(|(round, _)| *round == sequence) else { return };
        self.answers.acknowledged(from, sent);
        if verdict == Verdict::Promised as u8 {
            self.barred_by.insert(from);
        } else {
            self.barred_by.remove(&from);
        }
        self.lookout.bar_here(!self.barred_by.is_empty());
        if verdict == Verdict::Acknowledged as u8 {
            self.renewals.acknowledged(from, sent);
            self.renew(now);
        }
    }

    fn heard(&mut self, from: NodeId, now: Millis) {
        self.lookout.see(|detector| detector.heard(from, now));
    }

    fn due(&mut self, now: Millis) -> Option<Millis> {
        self.lookout.see(|detector| detector.look(now));
        self.lookout.next()
    }
}

impl<G> fmt::Debug for Pulse<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pulse(node {}, round {})", self.me, self.sequence)
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parts(node {})", self.me)
    }
}

impl Probe {
    fn encode(&self) -> Vec<u8> {
        let Claim { incarnation, applied, voters_at } = self.claim;
        let mut octets = Vec::with_capacity(PROBE_LEN);
        for number in [incarnation.0, self.sequence, applied, voters_at] {
            octets.extend_from_slice(&number.to_be_bytes());
        }
        octets.push((u8::from(self.barred) * BARRED) | (u8::from(self.deaf) * DEAF));
        octets
    }

    fn decode(octets: &[u8]) -> Option<Probe> {
        let octets = <&[u8; PROBE_LEN]>::try_from(octets).ok()?;
        let (numbers, _) = octets.as_chunks::<8>();
        let [incarnation, sequence, applied, voters_at] =
            <&[[u8; 8]; 4]>::try_from(numbers).ok()?.map(u64::from_be_bytes);
        let claim = Claim { incarnation: Incarnation(incarnation), applied, voters_at };
        let flags = octets[PROBE_LEN - 1];
        Some(Probe { claim, sequence, barred: flags & BARRED != 0, deaf: flags & DEAF != 0 })
    }
}
