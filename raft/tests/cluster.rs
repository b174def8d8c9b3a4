//! A cluster of one member, from its founding over a restart, a snapshot and a purge.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{found, reopen, rotate, runtime, secret};
use raft::state::{Effect, Refusal};
use raft::{Applied, ProposeError, Role};

const WITHIN: Duration = Duration::from_secs(20);

#[test]
fn a_founder_leads_its_cluster_of_one() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let cluster = found(dir.path()).await;
        let state = cluster.state();
        assert_eq!(state.cluster().unwrap().name, "c1");
        assert_eq!(state.members().get(cluster.node()).unwrap().name, "n1");
        let status = cluster.status();
        assert_eq!((status.role, status.leader), (Role::Leader, Some(cluster.node())));
        assert_eq!(status.voters, [cluster.node()]);

        let mut applied = cluster.applied();
        let committed = cluster.propose(rotate(0, secret(1))).await.unwrap();
        assert_eq!(committed.effect, Effect::CookieSecret(1));
        let Applied::Command { index, .. } = applied.recv().await.unwrap() else { panic!("no snapshot") };
        assert_eq!(index, committed.index);
        let refused = cluster.propose(rotate(0, secret(2))).await.unwrap_err();
        assert_eq!(refused, ProposeError::Refused(Refusal::CookieSecretChanged { current: 1 }));
        cluster.barrier().await.unwrap();
        cluster.shutdown().await;
        assert!(matches!(cluster.propose(rotate(1, secret(2))).await, Err(ProposeError::Fatal(_))));
    });
}

/// What an answer says is in the published state when the answer comes.
#[test]
fn an_answer_comes_after_its_effect_is_published() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let cluster = found(dir.path()).await;
        for version in 0..200 {
            let committed = cluster.propose(rotate(version, secret(version))).await.unwrap();
            assert!(cluster.state().applied() >= committed.index);
            assert!(cluster.state().cookies().secret(version + 1).is_some());
        }
        cluster.shutdown().await;
    });
}

#[test]
fn ten_thousand_proposals_survive_a_snapshot_a_purge_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (digest, applied, version) = runtime().block_on(async {
        let cluster = found(dir.path()).await;
        let mut version = 0;
        // In waves of 100: of each wave the first counts, the others come too late and are refused.
        for wave in 0..100 {
            let proposals = (0..100).map(|number| cluster.propose(rotate(wave, secret(100 * wave + number))));
            let outcomes = futures_util::future::join_all(proposals).await;
            version += outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u32;
            let refused = |outcome: &&Result<_, _>| matches!(outcome, Err(ProposeError::Refused(_)));
            assert_eq!(outcomes.iter().filter(refused).count(), 99);
            if wave == 60 {
                cluster.compact(100).await.unwrap();
            }
        }
        let status = cluster.status();
        assert!(status.purged >= Some(5_900), "{status:?}");
        let state = cluster.state();
        cluster.shutdown().await;
        (state.digest(), state.applied(), version)
    });
    assert_eq!(version, 100);
    runtime().block_on(async {
        let cluster = reopen(dir.path()).await.unwrap();
        cluster.recovered(WITHIN).await.unwrap();
        let state = cluster.state();
        assert_eq!((state.digest(), state.applied()), (digest, applied));
        cluster.propose(rotate(version, secret(version))).await.unwrap();
        cluster.shutdown().await;
    });
}

#[test]
fn two_processes_never_open_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let cluster = found(dir.path()).await;
        let error = reopen(dir.path()).await.unwrap_err();
        assert!(error.to_string().contains("in use by process"), "{error}");
        cluster.shutdown().await;
    });
}

/// I12.
#[test]
fn no_secret_of_a_proposal_is_in_any_file_but_sealed() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let cluster = found(dir.path()).await;
        for version in 0..60 {
            cluster.propose(rotate(version, secret(version))).await.unwrap();
            if version == 30 {
                cluster.compact(10).await.unwrap();
            }
        }
        cluster.compact(10).await.unwrap();
        cluster.shutdown().await;
    });
    let mut seen = 0;
    walk(dir.path(), &mut |path, octets| {
        seen += 1;
        for version in 0..60 {
            // Any eight octets in a row are chance enough to be told from chance.
            let secret = secret(version);
            let found = octets.windows(8).any(|window| secret.windows(8).any(|part| part == window));
            assert!(!found, "secret {version} is in {}", path.display());
        }
    });
    assert!(seen >= 5, "only {seen} files were searched");
    // The search finds what is there: the key file holds its key in hex.
    let key = fs::read(dir.path().join("storage.key")).unwrap();
    let digits = key.strip_suffix(b"\n").unwrap().rsplit(|&octet| octet == b' ').next().unwrap().to_vec();
    let mut holders = Vec::new();
    walk(dir.path(), &mut |path, octets| {
        let raw: Vec<u8> = (0..32).map(|at| hex(&digits[2 * at..2 * at + 2])).collect();
        if octets.windows(64).any(|window| window == digits) || octets.windows(32).any(|window| window == raw)
        {
            holders.push(path.file_name().unwrap().to_owned());
        }
    });
    assert_eq!(holders, ["storage.key"]);
}

fn hex(pair: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, visit) } else { visit(&path, &fs::read(&path).unwrap()) }
    }
}
