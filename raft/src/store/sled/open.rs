//! Opening the log: leftovers, sled's own recovery, and the proof that nothing is missing.
//!
//! Nothing of the log is used before all of it was read once: each checksum, the chain from the purge mark to the tail
//! mark, and the witness. A log that proves shorter than what was acknowledged is damage, however whole it looks.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;

use super::record::{Assembler, COMMITTED, Digest, End, GENESIS, OWNER, PURGED, Sealer, TAIL, VOTE};
use super::record::{ENTRIES_END, entry_key, unframe};
use crate::store::codec::{LogIdMessage, VoteMessage};
use crate::store::error::StoreError;
use crate::store::identity::{DataDir, Identity, Phase, sync_dir};
use crate::store::witness::Witness;
use crate::store::{Bounds, LogId, Vote};

/// sled's page cache, in octets. What is read often is in our own tail.
const CACHE_LEN: u64 = 16 << 20;

/// How long the threads of a closed `Db` may take to let go of its file, and what sled says meanwhile.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
const SLED_LOCKED: &str = "could not acquire lock";

pub struct Opened {
    pub db: sled::Db,
    pub sync: File,
    pub witness: Witness,
    pub dir: PathBuf,
    pub bounds: Bounds,
    /// The index of the first entry.
    pub first: u64,
    pub purged: Option<End>,
    pub last: Option<End>,
    /// Deleted entries are still there.
    pub garbage: bool,
}

pub fn open(dir: &DataDir, identity: &Identity, sealer: &Sealer) -> Result<Opened, StoreError> {
    let beginning = identity.phase != Phase::Member;
    let log = dir.file("log");
    if !beginning && !log.join("db").exists() {
        return Err(StoreError::damaged(dir.path(), "the log is gone"));
    }
    fs::create_dir_all(&log).map_err(StoreError::io("make the directory", &log))?;
    remove_unfinished(&log)?;
    let witness = Witness::open(&dir.file("witness"), beginning, dir.path())?;
    let db = match open_sled(dir.path(), &log) {
        Err(error) if error.is_damage() => {
            tracing::warn!(%error, "setting sled's snapshots aside and trying once more");
            set_snapshots_aside(&log)?;
            open_sled(dir.path(), &log)?
        }
        outcome => outcome?,
    };
    let verified = catch_unwind(AssertUnwindSafe(|| verify(dir.path(), &db, sealer, &witness, beginning)));
    let log_state = verified
        .unwrap_or_else(|_| Err(StoreError::damaged(dir.path(), "sled panicked while the log was read")))?;
    let file = log.join("db");
    let sync = File::open(&file).map_err(StoreError::io("open", &file))?;
    sync_dir(&log)?;
    sync_dir(dir.path())?;
    Ok(Opened {
        db,
        sync,
        witness,
        dir: dir.path().to_owned(),
        bounds: log_state.bounds,
        first: log_state.first,
        purged: log_state.purged,
        last: log_state.last,
        garbage: log_state.garbage,
    })
}

/// Tells apart what sled reports: the surroundings, damage, the rest.
pub fn engine_error(dir: &Path, doing: &'static str, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(source) if found_by_sled(&source) => {
            StoreError::Engine { doing, why: source.to_string() }
        }
        sled::Error::Io(source) => StoreError::Io { doing, path: dir.join("log"), source: source.into() },
        sled::Error::Corruption { .. } => StoreError::damaged(dir, "sled finds its own file corrupt"),
        error => StoreError::Engine { doing, why: error.to_string() },
    }
}

/// True for what sled made up after looking at its files. Errors of the operating system have its number, or when sled
/// has copied them at least their kind; to take one of those for damage would cost the node its id.
fn found_by_sled(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, Other, UnexpectedEof};
    error.raw_os_error().is_none() && matches!(error.kind(), Other | InvalidData | UnexpectedEof)
}

fn open_sled(dir: &Path, log: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(log)
        .flush_every_ms(None)
        .cache_capacity(CACHE_LEN)
        .mode(sled::Mode::HighThroughput);
    let begun = Instant::now();
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        return match opened {
            Ok(Ok(db)) => Ok(db),
            // The directory is ours: it is an instance of this process that its threads have not let go of yet.
            Ok(Err(sled::Error::Io(error))) if error.to_string().starts_with(SLED_LOCKED) => {
                if begun.elapsed() < LOCK_WITHIN {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Err(StoreError::InUse { dir: dir.to_owned(), holder: "a thread of sled's".into() })
            }
            // What sled finds at the start is about its files.
            Ok(Err(error)) => Err(match engine_error(dir, "open the log", error) {
                StoreError::Engine { why, .. } => StoreError::damaged(dir, format!("sled finds: {why}")),
                error => error,
            }),
            Err(_) => Err(StoreError::damaged(dir, "sled panicked while it opened the log")),
        };
    }
}

/// sled does not open beside a snapshot of its own that a crash left half-written (sled issue 1527).
fn remove_unfinished(log: &Path) -> Result<(), StoreError> {
    for file in own_snapshots(log)? {
        if file.extension().is_some_and(|extension| extension == "generating") {
            tracing::info!(file = %file.display(), "removing what a crash left of a snapshot of sled's");
            fs::remove_file(&file).map_err(StoreError::io("remove", file))?;
        }
    }
    Ok(())
}

/// They only save sled time: without them it reads all of its log.
fn set_snapshots_aside(log: &Path) -> Result<(), StoreError> {
    for file in own_snapshots(log)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::rename(&file, log.join(format!("aside.{name}"))).map_err(StoreError::io("rename", file))?;
    }
    Ok(())
}

fn own_snapshots(log: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(log).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(StoreError::io("list", log))?;
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("snap.");
    Ok(entries.into_iter().filter(named).map(|entry| entry.path()).collect())
}

struct LogState {
    bounds: Bounds,
    first: u64,
    purged: Option<End>,
    last: Option<End>,
    garbage: bool,
}

fn verify(
    dir: &Path,
    db: &sled::Db,
    sealer: &Sealer,
    witness: &Witness,
    beginning: bool,
) -> Result<LogState, StoreError> {
    let damaged = |what: String| StoreError::damaged(dir, what);
    let get = |key: &[u8]| db.get(key).map_err(|error| engine_error(dir, "read the log", error));
    match get(OWNER)? {
        Some(owner) if owner == sealer.owner() => {}
        Some(owner) => {
            let body = unframe(b'O', &owner).map_err(|why| damaged(format!("the log's owner {why}")))?;
            let shown: String = body.iter().map(|octet| format!("{octet:02x}")).collect();
            let wanted = format!("{}{:016x}", sealer.cluster, sealer.node.0);
            return Err(StoreError::OtherCluster { dir: dir.to_owned(), found: shown, wanted });
        }
        None if beginning && db.is_empty() => {
            let claim = witness.claim();
            if claim.last.is_some() || claim.vote.is_some() {
                return Err(damaged("the log is empty, and something was acknowledged from it".into()));
            }
            db.insert(OWNER, sealer.owner()).map_err(|error| engine_error(dir, "begin the log", error))?;
            db.flush().map_err(|error| engine_error(dir, "begin the log", error))?;
        }
        None => return Err(damaged("the log does not say whose it is".into())),
    }
    let end = |key: &[u8], name: &str| -> Result<Option<End>, StoreError> {
        get(key)?.map(|value| End::decode(&value)).transpose().map_err(|why| damaged(format!("{name} {why}")))
    };
    let purged = end(PURGED, "the mark of the purge")?;
    let tail = end(TAIL, "the mark of the tail")?;
    let vote = get(VOTE)?
        .map(|value| {
            let body = unframe(b'V', &value).map_err(|why| damaged(format!("the vote {why}")))?;
            VoteMessage::decode(body).map_err(|_| damaged("the vote is no message".into()))
        })
        .transpose()?
        .map(Vote::from);
    let committed = get(COMMITTED)?
        .map(|value| {
            let body = unframe(b'C', &value).map_err(|why| damaged(format!("the committed id {why}")))?;
            LogIdMessage::decode(body).map_err(|_| damaged("the committed id is no message".into()))
        })
        .transpose()?
        .map(LogId::from);

    let claim = witness.claim();
    let mut chain = Chain { first: None, last: purged, promised: [claim.last, committed] };
    chain.follow(db, dir)?;
    let last = chain.last;
    if tail != last {
        let shown = |end: Option<End>| end.map_or("nothing".into(), |end| format!("entry {}", end.id));
        return Err(damaged(format!("the log ends with {}, and should with {}", shown(last), shown(tail))));
    }
    let ends_before = |claimed: LogId| last.is_none_or(|last| last.id.index < claimed.index);
    if let Some(claimed) = claim.last.filter(|claimed| ends_before(*claimed)) {
        let end = last.map_or("it is empty".into(), |last| format!("it ends with entry {}", last.id));
        return Err(damaged(format!("the log was acknowledged up to entry {claimed}, and {end}")));
    }
    if vote < claim.vote {
        return Err(damaged("the log holds an older vote than the one given".into()));
    }
    if committed.map(|id| id.index) > last.map(|last| last.id.index) {
        return Err(damaged("more is committed than the log holds".into()));
    }
    let before = entry_key(purged.map_or(0, |purged| purged.id.index + 1));
    let garbage = db.range(entry_key(0)..before).next().is_some();
    let bounds = Bounds { purged: purged.map(|end| end.id), last: last.map(|end| end.id), vote, committed };
    let first = chain.first.unwrap_or_else(|| purged.map_or(0, |purged| purged.id.index + 1));
    Ok(LogState { bounds, first, purged, last, garbage })
}

struct Chain {
    first: Option<u64>,
    /// At first the purge mark.
    last: Option<End>,
    /// Entries that must be these, where the log reaches so far.
    promised: [Option<LogId>; 2],
}

impl Chain {
    /// Reads all entries behind the purge mark.
    fn follow(&mut self, db: &sled::Db, dir: &Path) -> Result<(), StoreError> {
        let damaged = |what: String| StoreError::damaged(dir, what);
        let first = self.last.map_or(0, |purged| purged.id.index + 1);
        let mut assembler = Assembler::default();
        for pair in db.range(entry_key(first)..ENTRIES_END) {
            let (key, value) = pair.map_err(|error| engine_error(dir, "read the log", error))?;
            let Some(record) = assembler.add(&key, &value).map_err(damaged)? else { continue };
            let before: Digest = self.last.map_or(GENESIS, |last| last.digest);
            let follows =
                self.last.is_none_or(|last| record.id.index == last.id.index + 1 && record.id > last.id);
            if !follows || record.before != before {
                return Err(damaged(format!("entry {} does not follow the one before it", record.id)));
            }
            let other = |id: &LogId| id.index == record.id.index && *id != record.id;
            if let Some(promised) = self.promised.iter().flatten().find(|id| other(id)) {
                let what = format!("entry {} stands where {promised} was acknowledged", record.id);
                return Err(damaged(what));
            }
            self.first.get_or_insert(record.id.index);
            self.last = Some(End { id: record.id, digest: record.digest });
        }
        assembler.finish().map_err(damaged)
    }
}
