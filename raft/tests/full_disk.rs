//! A full disk: a clear error, an end of the node, nothing acknowledged lost, and a start as if nothing had been once
//! there is room again.
//!
//! The child is this test binary, once under a limit on the size of files, once on a small tmpfs of its own.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::{found, reopen, rotate, runtime, secret};
use raft::state::Configure;
use raft::{OpenError, ProposeError};

const CHILD: &str = "PONTOON_FULL_DISK_CHILD";
/// How the child says what it was promised and how it ended.
const ACKNOWLEDGED: &str = "acknowledged ";
const ENDED: &str = "ended: ";

#[test]
fn a_limit_on_files_ends_the_node_and_loses_nothing() {
    if let Ok(dir) = std::env::var(CHILD) {
        child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async { found(dir.path()).await.shutdown().await });
    // In blocks of 1,024 octets; the signal that comes with it is ignored, so that the write fails instead.
    let output = run("trap '' XFSZ; ulimit -f 3000; \"$0\" \"$@\"; exec \"$0\" \"$@\"", dir.path(), &[]);
    let acknowledged = ended_well(&output, "File too large");
    check(dir.path(), acknowledged);
}

#[test]
fn a_full_disk_ends_the_node_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mount, small, kept) = (dir.path().join("m"), dir.path().join("m/d"), dir.path().join("kept"));
    std::fs::create_dir(&mount).unwrap();
    let namespace = ["unshare", "--user", "--map-root-user", "--mount"];
    let probe = Command::new("sh")
        .args(["-c", "exec unshare --user --map-root-user --mount mount -t tmpfs none \"$0\""])
        .arg(&mount)
        .output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        println!(
            "skipped a_full_disk_ends_the_node_and_loses_nothing: no user namespace with a tmpfs: {probe:?}"
        );
        return;
    }
    // The tmpfs vanishes with its namespace: what is on it is copied out at the end.
    let script = format!(
        "mount -t tmpfs -o size=4m none '{}' || exit 2; \"$0\" \"$@\"; \"$0\" \"$@\"; status=$?; cp -a '{}' '{}'; exit $status",
        mount.display(),
        small.display(),
        kept.display()
    );
    let output = run(&script, &small, &namespace);
    let acknowledged = ended_well(&output, "No space left on device");
    check(&kept, acknowledged);
}

/// Runs the child by a shell script, twice: the second time it starts with the disk full already.
fn run(script: &str, dir: &Path, wrapper: &[&str]) -> Output {
    let mut words: Vec<&str> = wrapper.to_vec();
    words.extend(["sh", "-c", script]);
    Command::new(words[0])
        .args(&words[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_limit_on_files_ends_the_node_and_loses_nothing", "--nocapture"])
        .env(CHILD, dir)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

/// The number of acknowledged commits.
fn ended_well(output: &Output, reason: &str) -> u32 {
    let text = String::from_utf8_lossy(&output.stdout);
    let shown = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{shown}");
    let end = text.lines().find_map(|line| line.strip_prefix(ENDED)).unwrap_or_else(|| panic!("{shown}"));
    assert!(end.contains(reason), "{end}");
    let acknowledged = text
        .lines()
        .filter_map(|line| line.strip_prefix(ACKNOWLEDGED))
        .next_back()
        .expect("something was acknowledged");
    acknowledged.parse().unwrap()
}

fn check(dir: &Path, acknowledged: u32) {
    runtime().block_on(async {
        let cluster = reopen(dir).await.unwrap();
        cluster.recovered(Duration::from_secs(20)).await.unwrap();
        let version = cluster.state().cookies().version;
        assert!(version >= acknowledged, "{acknowledged} were acknowledged, and {version} are there");
        assert!(version <= acknowledged + 1, "more than was proposed");
        cluster.propose(rotate(version, secret(version))).await.unwrap();
        cluster.shutdown().await;
    });
}

/// Commits until it cannot, as a node does: small entries that count, and large ones that fill the disk.
fn child(dir: &Path) -> ! {
    let end = runtime().block_on(async {
        let opened = if dir.join("identity").exists() { reopen(dir).await } else { Ok(found(dir).await) };
        let cluster = match opened {
            Ok(cluster) => cluster,
            Err(OpenError::Store(error)) => return error.to_string(),
            Err(error) => return error.to_string(),
        };
        let recovered = cluster.recovered(Duration::from_secs(20)).await;
        let first = cluster.state().cookies().version;
        for version in (first..).take_while(|_| recovered.is_ok()) {
            let filler = Configure {
                expected_revision: u64::MAX,
                toml: "#".repeat(20_000),
                files: Default::default(),
                comment: String::new(),
                at: ipsec::types::Millis(1),
                by: "a test".into(),
            };
            let filled = cluster.propose(raft::state::Command::Configure(filler)).await;
            if !matches!(filled, Err(ProposeError::Refused(_))) {
                break;
            }
            match cluster.propose(rotate(version, secret(version))).await {
                Ok(_) => println!("{ACKNOWLEDGED}{}", version + 1),
                Err(_) => break,
            }
        }
        let stopped = tokio::time::timeout(Duration::from_secs(20), cluster.fatal()).await;
        stopped.expect("the node notices that it cannot go on").to_string()
    });
    println!("{ENDED}{end}");
    std::process::exit(1);
}
