//! Random histories: whatever is proposed, replicas agree, invariants hold, and numbers are granted once.
//!
//! A history is a list of small numbers; each is read as one command in the light of the state it meets, right in
//! most cases and stale, foreign or absurd in the rest. The world checks every step on two replicas.

use std::collections::BTreeMap;

use ipsec::record::{Claimed, Outstanding, Purpose, Why};
use proptest::prelude::*;

use super::*;

/// What to do, to which SA, with which of a few variants.
type Pick = (u8, u8, u8);

const SEGMENTS: [Segment; 3] = [Segment(0), SEG, Segment(255)];

/// A world, and every number that was ever granted.
struct History {
    world: World,
    nodes: Vec<NodeId>,
    next_run: u64,
    next_spi: u32,
    /// Of each child: the highest number granted, with each epoch's range as it grew.
    granted: BTreeMap<ChildSpi, BTreeMap<Epoch, (u64, u64)>>,
    /// Of each child with `replay = "strict"`: the highest number that each epoch may accept.
    claimed: BTreeMap<ChildSpi, BTreeMap<Epoch, EspSeq>>,
    /// SPIs of IKE SAs that have ended.
    ended: Vec<Spi>,
}

/// Every other child takes nothing in twice.
fn maybe_strict(spi_in: ChildSpi) -> ChildRecord {
    let claimed = spi_in.0.is_multiple_of(2).then_some(Claimed::FIRST);
    ChildRecord { claimed, ..a_child(spi_in) }
}

impl History {
    fn new() -> History {
        let (world, b) = World::with_b();
        History {
            world,
            nodes: vec![A, b],
            next_run: 0x1000,
            next_spi: 1,
            granted: BTreeMap::new(),
            claimed: BTreeMap::new(),
            ended: Vec::new(),
        }
    }

    fn step(&mut self, (what, which, how): Pick) {
        let command = self.command(what, which, how);
        let alive: Vec<Spi> = self.world.state.records().map(|record| record.spi).collect();
        self.world.apply(command);
        let gone = |spi: &Spi| self.world.state.record(*spi).is_none();
        self.ended.extend(alive.into_iter().filter(gone));
        for spi in &self.ended {
            assert!(self.world.state.record(*spi).is_none(), "what has ended stays so (I5)");
        }
        self.note_blocks();
        self.note_claims();
    }

    /// Blocks of one child never overlap between epochs, and grow only at their end (I1, I2).
    fn note_blocks(&mut self) {
        for child in self.world.state.records().flat_map(|record| &record.children) {
            if child.block.first > child.block.last {
                continue;
            }
            let block = (child.block.first.0, child.block.last.0);
            let epochs = self.granted.entry(child.spi_in).or_default();
            if let Some((_, &(_, last))) = epochs.range(..child.block.epoch).next_back() {
                assert!(block.0 > last, "an epoch never gets numbers of an older one");
            }
            let later = epochs.range(child.block.epoch..).map(|(epoch, _)| *epoch).next_back();
            assert!(later.is_none_or(|epoch| epoch == child.block.epoch), "epochs never fall");
            let noted = epochs.entry(child.block.epoch).or_insert(block);
            assert!(noted.0 == block.0 && noted.1 <= block.1, "a block only grows");
            *noted = block;
        }
    }

    /// What one epoch may accept, no other one ever may (I7).
    fn note_claims(&mut self) {
        for child in self.world.state.records().flat_map(|record| &record.children) {
            let Some(Claimed { floor, ceiling }) = child.claimed else { continue };
            let epochs = self.claimed.entry(child.spi_in).or_default();
            if let Some((_, &older)) = epochs.range(..child.block.epoch).next_back() {
                assert!(floor >= older, "an epoch begins above what an older one could accept");
            }
            let noted = epochs.entry(child.block.epoch).or_insert(ceiling);
            assert!(ceiling >= *noted, "a claim never falls");
            *noted = ceiling;
        }
    }

    fn command(&mut self, what: u8, which: u8, how: u8) -> Command {
        let segment = SEGMENTS[usize::from(which) % SEGMENTS.len()];
        let node = self.nodes[usize::from(which) % self.nodes.len()];
        let records: Vec<Spi> = self.world.state.records().map(|record| record.spi).collect();
        let chosen = records.get(usize::from(which) % records.len().max(1)).copied();
        match (what % 22, chosen) {
            (0, _) => {
                let run = self.fresh_run(how);
                self.world.start(node, run)
            }
            (1 | 2, _) => self.assign(segment, node, how),
            (3, _) => {
                let segments = vec![(segment, self.world.state.segment(segment).epoch)];
                Command::SetStandby(SetStandby { segments, standby: (how > 16).then_some(node) })
            }
            (4, _) if how < 64 => Command::RemoveMember { node },
            (4, _) => self.join(node, how),
            (5, _) => {
                let revision = self.world.state.configuration().map_or(0, |it| it.revision);
                configure(revision + u64::from(how < 32), "version = 1")
            }
            (6, _) => rotate(self.world.state.cookies().version, how),
            (7, _) if how < 96 => Command::SetClusterVersion(how.into()),
            (7, _) if how < 176 => {
                let all = [Draining::No, Draining::UntilStart, Draining::UntilUndrain];
                Command::SetDraining { node, draining: all[usize::from(how) % 3] }
            }
            (7, _) => {
                let standing = self.world.state.members().get(node).map_or(0, |member| member.standing);
                Command::Pardon(Pardon { node, standing: standing + u64::from(how < 192) })
            }
            (20, _) => {
                let suffrage = if how < 128 { Suffrage::Learner } else { Suffrage::Voter };
                Command::SetSuffrage { node, suffrage }
            }
            (21, _) => {
                let it = TokenUse { id: TokenId((how % 4).into()), proof: TokenProof([how % 8; 32]) };
                token(it, Suffrage::Learner, u32::from(which % 3), (how / 16).into())
            }
            (8..=11, _) | (_, None) => self.establish(segment, which, how),
            (12, Some(spi)) => self.sa(spi, how, vec![Step::Remove { why: Why::PeerDeleted }]),
            (13, Some(spi)) => {
                let child = maybe_strict(self.fresh_child(spi.segment(), how));
                self.sa(spi, how, vec![Step::AddChild(Box::new(child))])
            }
            (14, Some(spi)) => {
                let record = self.world.state.record(spi).expect("chosen");
                let spi_in = record.children.first().map_or(ChildSpi(300), |child| child.spi_in);
                self.sa(spi, how, vec![Step::RemoveChild { spi_in, why: Why::Rekeyed }])
            }
            (15, Some(spi)) => {
                let heir = self.fresh_spi(spi.segment());
                let mut record = record(heir, "p", &[]);
                record.peer_id = self.world.state.record(spi).expect("chosen").peer_id.clone();
                self.sa(spi, how, vec![Step::AddIke(Box::new(record)), Step::Inherit { by: heir }])
            }
            (16, Some(spi)) => {
                let record = self.world.state.record(spi).expect("chosen");
                let message_id = record.next_request;
                let ours = Outstanding { message_id, octets: vec![how], purpose: Purpose::Liveness };
                let expected = MessageId(record.expected.0 + u32::from(how < 16));
                let steps = vec![
                    Step::Answered { message_id: expected, octets: vec![how; 40] },
                    Step::Asked(Box::new(ours)),
                ];
                self.sa(spi, how, steps)
            }
            (_, Some(spi)) => self.reserve(spi, how),
        }
    }

    /// A newcomer, one that takes the place of `node`, or one that has asked before.
    fn join(&mut self, node: NodeId, how: u8) -> Command {
        let fresh = format!("n{}", self.world.index);
        let named = self.world.state.members().get(node).map(|member| member.name.clone());
        let (name, replaces) = match how % 4 {
            0 => (named.unwrap_or(fresh), Some(node)),
            1 => (named.unwrap_or(fresh), None),
            _ => (fresh, None),
        };
        let foreign = TokenUse { id: TokenId((how % 4).into()), proof: TokenProof([how % 8; 32]) };
        let token = if how > 200 { foreign } else { OPEN };
        let key =
            if how.is_multiple_of(8) { key(&format!("{name} {}", self.world.index)) } else { key(&name) };
        self.nodes.push(NodeId(self.world.index + 1));
        Command::AddMember(AddMember {
            key,
            replaces,
            at: Millis((how / 32).into()),
            ..add_with(&name, token)
        })
    }

    fn assign(&self, segment: Segment, node: NodeId, how: u8) -> Command {
        let running = self.world.state.members().get(node).map_or(RUN_B, |member| member.incarnation);
        let segments = SEGMENTS
            .into_iter()
            .filter(|&it| how > 128 || it == segment)
            .map(|it| (it, Epoch(self.world.state.segment(it).epoch.0 + u32::from(how < 16))))
            .collect();
        let standby = self.nodes.get(usize::from(how) % 3).copied();
        let cause = Cause::NodeSilent;
        Command::Assign(Assign {
            segments,
            to: node,
            incarnation: running,
            standby,
            cause,
            at: Millis(9),
            takeover: None,
        })
    }

    fn establish(&mut self, segment: Segment, which: u8, how: u8) -> Command {
        let spi = self.fresh_spi(segment);
        let address = format!("10.99.0.{}", which % 8);
        let mut steps = Vec::new();
        if how > 100
            && let Some(holder) = self.world.state.leases().holder(ip(&address))
        {
            steps.push(Step::Supersede { spi: holder, silently: how > 200 });
        }
        let mut record = record(spi, &format!("peer{}", which % 8), &[&address]);
        record.children = vec![maybe_strict(self.fresh_child(segment, how))];
        steps.push(Step::Establish(Box::new(record)));
        self.sa(spi, how, steps)
    }

    fn reserve(&self, spi: Spi, how: u8) -> Command {
        let record = self.world.state.record(spi).expect("chosen");
        let count = if how > 250 { u64::MAX } else { u64::from(how) * 1_000_000 };
        let wanted =
            |child: &ChildRecord| Wanted { ike: spi, child: child.spi_in, count, upto: EspSeq(count) };
        let children = record.children.iter().map(wanted).collect();
        Command::Reserve(Reserve { guard: self.some_guard(spi.segment(), how), children })
    }

    fn sa(&self, spi: Spi, how: u8, steps: Vec<Step>) -> Command {
        let revision = self.world.state.record(spi).map_or(Revision(0), |record| record.revision);
        let revision = Revision(revision.0 + u64::from(how % 16 == 1));
        let guard = self.some_guard(spi.segment(), how);
        Command::Sa(Change { guard, spi, revision, at: Millis(9), steps })
    }

    /// The right one, as a rule.
    fn some_guard(&self, segment: Segment, how: u8) -> Guard {
        let mut guard = self.world.guard(segment);
        match how % 32 {
            2 => guard.epoch.0 -= 1,
            3 => guard.incarnation = RUN_B,
            4 => guard.segment.0 ^= 1,
            _ => {}
        }
        guard
    }

    fn fresh_run(&mut self, how: u8) -> Incarnation {
        self.next_run += 1;
        if how < 8 { RUN_A } else { Incarnation(self.next_run) }
    }

    fn fresh_spi(&mut self, segment: Segment) -> Spi {
        self.next_spi += 1;
        spi(segment, self.next_spi.into())
    }

    /// Now and then one that is in use.
    fn fresh_child(&mut self, segment: Segment, how: u8) -> ChildSpi {
        self.next_spi += 1;
        let used = self.world.state.records_of(segment).flat_map(|record| &record.children).next();
        match used {
            Some(child) if how % 16 == 5 => child.spi_in,
            _ => child_spi(segment, self.next_spi),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories(picks in proptest::collection::vec(any::<Pick>(), 1..160)) {
        let mut history = History::new();
        for pick in picks {
            history.step(pick);
        }
        let state = &history.world.state;
        let mut octets = Vec::new();
        state.encode_snapshot(&mut octets).unwrap();
        let mut again = State::decode_snapshot(&mut octets.as_slice()).unwrap();
        prop_assert_eq!(again.digest(), state.digest());
        prop_assert_eq!(again.applied(), state.applied());
        // The restored replica goes on like the others.
        let index = state.applied() + 1;
        let mut original = state.clone();
        for (n, command) in [start_after(RUN_A, A, Incarnation(0xffff)), configure(0, "x"), rotate(0, 1)].iter().enumerate() {
            let index = index + n as u64;
            prop_assert_eq!(again.apply(index, command), original.apply(index, command));
        }
        prop_assert_eq!(again.digest(), original.digest());
    }

    /// No octets make a decoder panic, and none pass that we would not write.
    #[test]
    fn any_octets(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut with_format = vec![1];
        with_format.extend_from_slice(&octets);
        for octets in [&octets, &with_format] {
            if let Ok(command) = Command::decode(octets) {
                prop_assert_eq!(&command.encode(), octets);
            }
            let _ = SnapshotDecoder::default().push(octets);
            let _ = State::decode_snapshot(&mut octets.as_slice());
        }
    }
}

/// A damaged snapshot is refused: whichever octet is changed, wherever it is cut off.
#[test]
fn damaged_snapshots() {
    let mut world = World::new();
    world.establish(spi(SEG, 1), child_spi(SEG, 1), "alice", &["10.99.0.1"]);
    world.done(configure(0, "version = 1"));
    world.done(rotate(0, 1));
    let mut octets = Vec::new();
    world.state.encode_snapshot(&mut octets).unwrap();
    assert_eq!(State::decode_snapshot(&mut octets.as_slice()).unwrap().digest(), world.state.digest());
    // The applied index stands before the digest's range; the store's checksum covers it.
    let header = 4 + usize::from(octets[3]);
    for at in (header..octets.len()).step_by(7).chain(octets.len() - 40..octets.len()) {
        let mut damaged = octets.clone();
        damaged[at] ^= 0x41;
        assert!(State::decode_snapshot(&mut damaged.as_slice()).is_err(), "octet {at}");
    }
    for len in (0..octets.len()).step_by(97).chain(octets.len() - 50..octets.len()) {
        assert!(State::decode_snapshot(&mut &octets[..len]).is_err(), "cut at {len}");
    }
    let records: Vec<Vec<u8>> = world.state.snapshot().collect();
    let mut decoder = SnapshotDecoder::default();
    assert!(decoder.push(&records[1]).is_err(), "the header comes first");
    records.iter().try_for_each(|record| decoder.push(record)).expect("the whole of it");
    assert!(decoder.is_complete());
    for record in &records {
        assert!(decoder.push(record).is_err(), "nothing follows the end");
    }
    // A record left out.
    for left_out in 0..records.len() {
        let mut decoder = SnapshotDecoder::default();
        let kept = records.iter().enumerate().filter(|(n, _)| *n != left_out);
        let pushed: Result<(), SnapshotError> =
            kept.map(|(_, record)| record).try_for_each(|record| decoder.push(record));
        assert!(pushed.is_err() || decoder.finish().is_err(), "record {left_out}");
    }
}
