//! What the tests of the store and the cluster share.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::path::Path;
use std::sync::Arc;

use crypto::Secret;
use ipsec::types::Millis;
use raft::links::{Links, NoLinks};
use raft::state::{Command, NewMember, RotateCookieSecret};
use raft::{Cluster, OpenError, Opened, Options, timing};

pub fn options(dir: &Path) -> Options {
    options_with(dir, Arc::new(NoLinks))
}

pub fn options_with(dir: &Path, links: Arc<dyn Links>) -> Options {
    Options { data_dir: dir.to_owned(), storage_key_file: None, timing: timing::CI, links }
}

pub fn me(name: &str) -> NewMember {
    NewMember {
        name: name.into(),
        address: "198.18.0.11:7400".into(),
        software: "test".into(),
        speaks: raft::state::SPEAKS,
    }
}

pub async fn found(dir: &Path) -> Cluster {
    let Opened::Vacant(vacant) = Cluster::open(options(dir)).await.unwrap() else {
        panic!("{} has a member", dir.display());
    };
    vacant.init("c1", me("n1"), Millis(1)).await.unwrap()
}

pub async fn reopen(dir: &Path) -> Result<Cluster, OpenError> {
    match Cluster::open(options(dir)).await? {
        Opened::Member(cluster) => Ok(cluster),
        Opened::Vacant(_) => panic!("{} has no member", dir.display()),
    }
}

/// A command that counts when `version` is the current one, with a secret that can be searched for.
pub fn rotate(version: u32, secret: [u8; 32]) -> Command {
    Command::RotateCookieSecret(RotateCookieSecret {
        expected_version: version,
        secret: Secret::from(secret),
        at: Millis(u64::from(version)),
    })
}

/// 32 octets that no other number gives.
pub fn secret(number: u32) -> [u8; 32] {
    crypto::hash::sha256(&[b"a secret of the tests", &number.to_be_bytes()])
}

/// A multi-threaded runtime, as the node has.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
