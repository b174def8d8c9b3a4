//! kill -9 at random moments: what was acknowledged is there, nothing else is, and the vote never goes back.
//!
//! ```text
//!   child                                   parent
//!   opens the store, says what it found  ─> compares with its model
//!   says what it will do, does it,       ─> writes it all down
//!   says what is acknowledged            ─> …kills it, opens the store itself:
//!                                           the log is what the first n operations made, and n covers all acknowledged
//! ```
//!
//! 200 rounds; `PONTOON_KILL_ROUNDS=10000` for more, `PONTOON_KILL_SEED` for others. The child is this test binary.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crypto::Secret;
use crypto::hash::sha256;
use crypto::rng::{Rng, SeededRng};
use raft::state::{ClusterId, NodeId};
use raft::store::identity::{DataDir, Identity, Phase};
use raft::store::sled::SledLog;
use raft::store::{Bounds, Entry, LogId, LogStore, Payload, Peer, Vote};
use raft::timings::Timings;

const CHILD: &str = "PONTOON_KILL_CHILD";
const SEED: &str = "PONTOON_KILL_SEED";

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    if let Ok(dir) = std::env::var(CHILD) {
        child(Path::new(&dir), number(SEED, 0));
    }
    let rounds = number("PONTOON_KILL_ROUNDS", 200);
    let seed = number(SEED, 1);
    let dir = tempfile::tempdir().unwrap();
    let mut rng = SeededRng::new(seed);
    let mut model = Model::default();
    let mut total = Counts::default();
    bind(dir.path(), Phase::Founding);
    drop(open(dir.path()));
    bind(dir.path(), Phase::Member);
    for round in 0..rounds {
        let after = Duration::from_micros(u64::from(rng.u32() % 250_000));
        let (operations, acknowledged) = run_child(dir.path(), seed * 1_000_003 + round, after);
        total.operations += operations.len();
        total.acknowledged += acknowledged;
        let found = contents(&open(dir.path()));
        let lost_or_more = model.advance(&operations, acknowledged, &found);
        match lost_or_more {
            Some(applied) => total.unacknowledged_kept += applied - acknowledged,
            None => panic!(
                "round {round}, seed {seed}: {} operations, {acknowledged} acknowledged, and what is there is none of \
                 the logs that they may have made: {:?}, {} entries",
                operations.len(),
                found.bounds,
                found.entries.len()
            ),
        }
    }
    println!("{rounds} kills: {total:?}, {} entries at the end", model.entries.len());
    assert!(total.acknowledged as u64 > rounds, "the child did next to nothing");
}

#[derive(Debug, Default)]
struct Counts {
    operations: usize,
    acknowledged: usize,
    unacknowledged_kept: usize,
}

#[derive(Clone, Debug)]
enum Operation {
    Append(Vec<(LogId, usize)>),
    Vote(Vote),
    Truncate(LogId),
    Purge(LogId),
}

#[derive(Clone, Debug, Default)]
struct Model {
    purged: Option<LogId>,
    last: Option<LogId>,
    vote: Option<Vote>,
    entries: BTreeMap<u64, (LogId, usize)>,
}

struct Found {
    bounds: Bounds,
    entries: Vec<Entry>,
}

impl Model {
    /// Goes on to the state after the fewest operations that make `found`, all the acknowledged ones among them.
    fn advance(&mut self, operations: &[Operation], acknowledged: usize, found: &Found) -> Option<usize> {
        for (at, operation) in operations.iter().enumerate() {
            if at >= acknowledged && self.is(found) {
                return Some(at);
            }
            self.apply(operation);
        }
        self.is(found).then_some(operations.len())
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Append(entries) => {
                self.entries.extend(entries.iter().map(|(id, len)| (id.index, (*id, *len))));
                self.last = entries.last().map(|(id, _)| *id);
            }
            Operation::Vote(vote) => self.vote = Some(*vote),
            Operation::Truncate(after) => {
                self.entries.retain(|index, _| *index <= after.index);
                self.last = Some(*after);
            }
            Operation::Purge(upto) => {
                self.entries.retain(|index, _| *index > upto.index);
                self.purged = Some(*upto);
            }
        }
    }

    fn is(&self, found: &Found) -> bool {
        let Bounds { purged, last, vote, .. } = found.bounds;
        (purged, last, vote) == (self.purged, self.last, self.vote)
            && found.entries.len() == self.entries.len()
            && found
                .entries
                .iter()
                .zip(self.entries.values())
                .all(|(found, (id, len))| *found == entry(*id, *len))
    }
}

/// The octets of an entry follow from its id: another one's, or half of them, are noticed.
fn entry(id: LogId, len: usize) -> Entry {
    let mut block = sha256(&[&id.term.to_be_bytes(), &id.index.to_be_bytes()]);
    let mut octets = Vec::with_capacity(len + 32);
    while octets.len() < len {
        octets.extend_from_slice(&block);
        block[0] = block[0].wrapping_add(1);
    }
    octets.truncate(len);
    Entry { id, payload: Payload::Command(Arc::new(Secret::from(octets))) }
}

fn identity(phase: Phase) -> Identity {
    Identity {
        cluster: ClusterId([3; 16]),
        cluster_name: "c1".into(),
        node: NodeId(1),
        me: Peer::default(),
        phase,
    }
}

fn bind(dir: &Path, phase: Phase) {
    DataDir::take(dir, None).unwrap().bind(&identity(phase)).unwrap();
}

struct Held {
    log: SledLog,
    _dir: DataDir,
}

fn open(dir: &Path) -> Held {
    let held = DataDir::take(dir, None).unwrap();
    let (identity, vault) = held.identity().unwrap().unwrap();
    let log = SledLog::open(&held, &identity, Arc::new(vault), Arc::new(Timings::default())).unwrap();
    Held { log, _dir: held }
}

fn contents(held: &Held) -> Found {
    Found { bounds: held.log.bounds(), entries: held.log.read(0..u64::MAX).unwrap() }
}

/// What the child did until it was killed, and how many of these operations were acknowledged.
fn run_child(dir: &Path, seed: u64, after: Duration) -> (Vec<Operation>, usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "nothing_acknowledged_is_lost_by_kill_9", "--nocapture"])
        .env(CHILD, dir)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    let (opened, is_open) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut operations, mut acknowledged) = (Vec::new(), 0);
        for line in lines.lines() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let numbers = || -> Vec<u64> { words[1..].iter().map(|word| word.parse().unwrap()).collect() };
            let id = |numbers: &[u64]| LogId { term: numbers[0], node: 1, index: numbers[1] };
            match words[0] {
                "opened" => opened.send(()).unwrap(),
                "append" => operations.push(Operation::Append(
                    numbers().chunks(3).map(|numbers| (id(numbers), numbers[2] as usize)).collect(),
                )),
                "vote" => operations.push(Operation::Vote(Vote {
                    term: numbers()[0],
                    node: 1,
                    committed: numbers()[1] == 1,
                })),
                "truncate" => operations.push(Operation::Truncate(id(&numbers()))),
                "purge" => operations.push(Operation::Purge(id(&numbers()))),
                "done" => acknowledged += 1,
                // The harness of the child's test binary.
                _ => {}
            }
        }
        (operations, acknowledged)
    });
    is_open.recv_timeout(Duration::from_secs(60)).expect("the child opens the store");
    let begun = Instant::now();
    while begun.elapsed() < after {
        std::thread::sleep(Duration::from_micros(200));
    }
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

fn child(dir: &Path, seed: u64) -> ! {
    let held = open(dir);
    let mut rng = SeededRng::new(seed);
    // One write per line and no buffer: a line that was begun is whole, and one that was written is not lost.
    let out = Arc::new(Mutex::new(duplicate_stdout()));
    let say = |line: String| out.lock().unwrap().write_all((line + "\n").as_bytes()).unwrap();
    say("\nopened".into());
    let Bounds { last, vote, committed, .. } = held.log.bounds();
    let mut committed = committed.map_or(0, |id| id.index);
    let mut term = vote.map_or(1, |vote| vote.term).max(last.map_or(1, |last| last.term));
    let (done, completions) = mpsc::channel();
    let mut under_way = 0_usize;
    loop {
        let reply = {
            let (out, done) = (out.clone(), done.clone());
            Box::new(move |outcome: Result<(), raft::store::StoreError>| {
                outcome.unwrap();
                out.lock().unwrap().write_all(b"done\n").unwrap();
                done.send(()).unwrap();
            })
        };
        let Bounds { purged, last, .. } = held.log.bounds();
        let first = purged.map_or(0, |purged| purged.index + 1);
        let length = last.map_or(0, |last| last.index + 1) - first;
        match rng.u32() % 100 {
            0..10 => {
                term += 1;
                let vote = Vote { term, node: 1, committed: rng.u32().is_multiple_of(2) };
                say(format!("vote {term} {}", u8::from(vote.committed)));
                held.log.save_vote(vote, reply);
            }
            10..16 if length > 20 => {
                // What is committed is never truncated.
                let index = (first + length - 1 - u64::from(rng.u32() % 16)).max(committed);
                let after = id_at(&held.log, index);
                term += 1;
                say(format!("truncate {} {}", after.term, after.index));
                held.log.truncate(Some(after), reply);
            }
            16..18 if length > 60 => {
                let upto = (first + u64::from(rng.u32()) % (length - 30)).min(committed);
                if upto < first {
                    continue;
                }
                let upto = id_at(&held.log, upto);
                say(format!("purge {} {}", upto.term, upto.index));
                held.log.purge(upto, reply);
            }
            _ => {
                let next = last.map_or(0, |last| last.index + 1);
                let count = 1 + u64::from(rng.u32() % 8);
                let entries: Vec<(LogId, usize)> = (next..next + count)
                    .map(|index| (LogId { term, node: 1, index }, length_of_entry(&mut rng)))
                    .collect();
                let said: Vec<String> =
                    entries.iter().map(|(id, len)| format!("{} {} {len}", id.term, id.index)).collect();
                say(format!("append {}", said.join(" ")));
                held.log.append(entries.into_iter().map(|(id, len)| entry(id, len)).collect(), reply);
                if length > 40 {
                    committed = committed.max(first + length - 20);
                    held.log.save_committed(Some(id_at(&held.log, committed)));
                }
            }
        }
        under_way += 1;
        // Now one at a time, now many: single flushes and shared ones.
        let most = if rng.u32().is_multiple_of(3) { 0 } else { 32 };
        while under_way > most {
            completions.recv().unwrap();
            under_way -= 1;
        }
    }
}

fn id_at(log: &SledLog, index: u64) -> LogId {
    log.read(index..index + 1).unwrap()[0].id
}

/// Mostly short ones; some cut into pieces.
fn length_of_entry(rng: &mut SeededRng) -> usize {
    let most = if rng.u32().is_multiple_of(8) { 20_000 } else { 1_500 };
    (rng.u32() % most) as usize
}

fn duplicate_stdout() -> File {
    use std::os::fd::AsFd;
    File::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap())
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}
