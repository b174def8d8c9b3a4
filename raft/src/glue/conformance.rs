//! openraft's own suite for storages, on the sled store and the state machine.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::{Log, Machine, Published, TypeConfig};
use crate::state::{ClusterId, NodeId};
use crate::store::Peer;
use crate::store::identity::{DataDir, Identity, Phase};
use crate::store::sled::SledLog;
use crate::store::snapshot::Snapshots;
use crate::timings::Timings;

struct Builder;

/// Kept until the test has ended.
struct Guard {
    _dir: tempfile::TempDir,
    _held: DataDir,
}

impl StoreBuilder<TypeConfig, Log, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, Log, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::take(dir.path(), None).unwrap();
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            cluster_name: "c1".into(),
            node: NodeId(0),
            me: Peer::default(),
            phase: Phase::Founding,
        };
        let vault = Arc::new(held.bind(&identity).unwrap());
        let log = SledLog::open(&held, &identity, vault.clone(), Arc::new(Timings::default())).unwrap();
        let snapshots = Snapshots::open(&held.file("snapshots"), &identity, vault).unwrap();
        let machine = Machine::open(Arc::new(snapshots), Published::new()).unwrap();
        Ok((Guard { _dir: dir, _held: held }, Log::new(Arc::new(log)), machine))
    }
}

#[test]
fn openrafts_suite_passes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
