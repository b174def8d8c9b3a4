//! Damage to any file of `data_dir` is found at the start: quarantine with a clear reason, never a shortened log.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{found, reopen, rotate, runtime, secret};
use crypto::rng::{Rng, SeededRng};
use raft::{OpenError, Opened};

const WITHIN: Duration = Duration::from_secs(20);

/// A directory after 400 commits, a snapshot, a purge, and some more commits; the digest of its state.
struct Golden {
    dir: tempfile::TempDir,
    digest: [u8; 32],
}

fn golden() -> Golden {
    let dir = tempfile::tempdir().unwrap();
    let digest = runtime().block_on(async {
        let cluster = found(dir.path()).await;
        for version in 0..400 {
            cluster.propose(rotate(version, secret(version))).await.unwrap();
            if version == 200 {
                cluster.compact(50).await.unwrap();
            }
        }
        cluster.shutdown().await;
        cluster.state().digest()
    });
    Golden { dir, digest }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    /// The state is whole.
    Whole,
    /// Quarantined, with this reason.
    Quarantined(String),
    /// Refused for a reason that is no damage.
    Refused(String),
}

/// Opens a copy of the golden directory after `harm` was done to it.
fn judge(golden: &Golden, harm: &dyn Fn(&Path)) -> Verdict {
    let dir = tempfile::tempdir().unwrap();
    copy(golden.dir.path(), dir.path());
    harm(dir.path());
    runtime().block_on(async {
        match reopen(dir.path()).await {
            Ok(cluster) => {
                cluster.recovered(WITHIN).await.unwrap();
                assert_eq!(cluster.state().digest(), golden.digest, "it opened with another state");
                cluster.shutdown().await;
                Verdict::Whole
            }
            Err(OpenError::Store(error)) if error.is_damage() => {
                let again = reopen(dir.path()).await.unwrap_err().to_string();
                assert!(again.contains("quarantine"), "the second start says: {again}");
                assert!(error.remedy().contains("new id"), "{}", error.remedy());
                Verdict::Quarantined(error.to_string())
            }
            Err(error) => Verdict::Refused(error.to_string()),
        }
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn names(golden: &Golden) -> Vec<PathBuf> {
    let root = golden.dir.path();
    files(root).iter().map(|path| path.strip_prefix(root).unwrap().to_owned()).collect()
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut octets = fs::read(path).unwrap();
    change(&mut octets);
    fs::write(path, octets).unwrap();
}

#[test]
fn a_flipped_bit_anywhere_is_harmless_or_found() {
    let golden = golden();
    assert_eq!(judge(&golden, &|_| {}), Verdict::Whole);
    let mut rng = SeededRng::new(1);
    let mut tally = std::collections::BTreeMap::<String, [usize; 3]>::new();
    for name in names(&golden) {
        let len = fs::metadata(golden.dir.path().join(&name)).unwrap().len();
        // The database is large and much of it is old: more tries there.
        let tries = if name.ends_with("db") { 40 } else { 6 };
        for _ in 0..tries.min(len) {
            let bit = rng.u64() % (len * 8);
            let verdict = judge(&golden, &|dir| {
                edit(&dir.join(&name), |octets| octets[(bit / 8) as usize] ^= 1 << (bit % 8));
            });
            let counts = tally.entry(name.display().to_string()).or_default();
            counts[match verdict {
                Verdict::Whole => 0,
                Verdict::Quarantined(_) => 1,
                Verdict::Refused(_) => 2,
            }] += 1;
        }
    }
    println!("file: [whole, quarantined, refused] {tally:#?}");
    let quarantined = |part: &str| {
        tally.iter().filter(|(name, _)| name.contains(part)).map(|(_, counts)| counts[1]).sum::<usize>()
    };
    assert!(quarantined("log/db") > 0, "no flip in the log was ever found");
    assert!(quarantined("snapshots/") == 6, "a flip in a snapshot went unnoticed");
}

#[test]
fn a_file_cut_off_is_found_and_the_log_never_gets_shorter() {
    let golden = golden();
    let mut rng = SeededRng::new(2);
    for name in names(&golden) {
        let len = fs::metadata(golden.dir.path().join(&name)).unwrap().len();
        for try_ in 0..if name.ends_with("db") { 12 } else { 3 } {
            if len == 0 {
                continue;
            }
            let to = if try_ == 0 { len - 1 } else { rng.u64() % len };
            let verdict =
                judge(&golden, &|dir| edit(&dir.join(&name), |octets| octets.truncate(to as usize)));
            println!("{} cut from {len} to {to}: {verdict:?}", name.display());
            let name = name.display().to_string();
            let found = matches!(verdict, Verdict::Quarantined(_));
            if name.starts_with("snapshots/") || name == "identity" || (name == "log/db" && len - to > 4096) {
                assert!(found, "{name} cut from {len} to {to}: {verdict:?}");
            }
        }
    }
}

#[test]
fn what_is_gone_is_named() {
    let golden = golden();
    let gone = |name: &'static str| {
        judge(&golden, &move |dir| {
            let path = dir.join(name);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        })
    };
    for (name, reason) in [
        ("log", "the log is gone"),
        ("witness", "the witness of the log is gone"),
        ("snapshots", "no snapshot reaches so far"),
        ("identity", "no identity"),
        ("credentials", "the credentials are gone"),
    ] {
        let Verdict::Quarantined(shown) = gone(name) else { panic!("{name}: not quarantined") };
        assert!(shown.contains(reason), "{name}: {shown}");
    }
    // Somebody may put the key file back: no quarantine.
    let Verdict::Refused(shown) = gone("storage.key") else { panic!("it opened without its key") };
    assert!(shown.contains("storage key"), "{shown}");
}

/// An older copy of the log alone is whole in itself; the witness knows better.
#[test]
fn a_log_put_back_from_a_backup_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let backup = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let cluster = found(dir.path()).await;
        cluster.propose(rotate(0, secret(0))).await.unwrap();
        cluster.shutdown().await;
    });
    copy(&dir.path().join("log"), backup.path());
    runtime().block_on(async {
        let cluster = reopen(dir.path()).await.unwrap();
        cluster.recovered(WITHIN).await.unwrap();
        cluster.propose(rotate(1, secret(1))).await.unwrap();
        cluster.shutdown().await;
    });
    fs::remove_dir_all(dir.path().join("log")).unwrap();
    copy(backup.path(), &dir.path().join("log"));
    let error = runtime().block_on(reopen(dir.path())).unwrap_err().to_string();
    assert!(error.contains("was acknowledged up to"), "{error}");
}

/// The log of another node does not open, although it is whole.
#[test]
fn a_log_of_another_cluster_is_refused() {
    let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&ours, &other] {
        runtime().block_on(async { found(dir.path()).await.shutdown().await });
    }
    fs::remove_dir_all(ours.path().join("log")).unwrap();
    copy(&other.path().join("log"), &ours.path().join("log"));
    let error = runtime().block_on(reopen(ours.path())).unwrap_err().to_string();
    assert!(error.contains("belongs to cluster"), "{error}");
}

/// A crash while sled writes a snapshot of its own leaves a file beside which sled does not open.
#[test]
fn leftovers_of_sled_do_not_stop_a_start() {
    let golden = golden();
    let verdict = judge(&golden, &|dir| {
        fs::write(dir.join("log/snap.00000000000FFFFF.generating"), b"half").unwrap();
        fs::write(dir.join("snapshots/snap-9.tmp"), b"half").unwrap();
    });
    assert_eq!(verdict, Verdict::Whole);
}

#[test]
fn a_new_directory_is_vacant() {
    let dir = tempfile::tempdir().unwrap();
    let opened = runtime().block_on(raft::Cluster::open(common::options(dir.path()))).unwrap();
    assert!(matches!(opened, Opened::Vacant(_)));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(opened))).is_ok());
}
