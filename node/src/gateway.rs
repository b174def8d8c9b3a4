//! The gateway configuration: what the log has agreed on, and what is in force here. Compiled once for each revision and
//! read without a lock.
//!
//! ```text
//!   applied ─> follow: agreed ─> steering routes its networks ─> enforce: in force ─> segments serve by it
//! ```
//!
//! A configuration is in force only after its networks are routed into the TUN, else the inner packets of its first
//! clients would leave in clear by whatever other way the kernel knows (I8).

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use ipsec::policy::Gateway;
use raft::state::{Configuration, State};
use tokio::sync::watch;

use crate::config::{self, GatewaySource};

#[derive(Clone, Debug, Default)]
pub struct CurrentGateway(Arc<Stages>);

#[derive(Debug, Default)]
struct Stages {
    agreed: watch::Sender<Agreed>,
    in_force: ArcSwap<Gateway>,
    enforced: watch::Sender<u64>,
}

/// The newest of the log.
#[derive(Clone, Debug, Default)]
struct Agreed {
    revision: u64,
    /// The newest that this node understands.
    gateway: Arc<Gateway>,
}

impl CurrentGateway {
    /// What is in force; revision 0: nothing yet.
    pub fn load(&self) -> Guard<Arc<Gateway>> {
        self.0.in_force.load()
    }

    /// Compiles what the state has agreed on. What a newer node has replicated may be more than this one understands:
    /// then the last good configuration stays in force here, and the log says so.
    pub fn follow(&self, state: &State) {
        let Some(configuration) = state.configuration() else { return };
        let revision = configuration.revision;
        if revision == self.0.agreed.borrow().revision {
            return;
        }
        let compiled = config::compile(&source_of(configuration), revision);
        if let Err(mistakes) = &compiled {
            let mistakes = mistakes.len();
            tracing::error!(revision, mistakes, "the gateway configuration is not understood here");
        }
        self.0.agreed.send_modify(|agreed| {
            agreed.revision = revision;
            if let Ok(gateway) = compiled {
                agreed.gateway = Arc::new(gateway);
            }
        });
    }

    /// What is to be enforced next, if it is not in force already.
    pub fn next(&self) -> Option<Arc<Gateway>> {
        let agreed = self.0.agreed.borrow();
        (agreed.gateway.revision != self.load().revision).then(|| agreed.gateway.clone())
    }

    /// Waits for something new to enforce. For one waiter.
    pub async fn agreed(&self) {
        let mut agreed = self.0.agreed.subscribe();
        // The sender lives as long as `self`.
        let _ = agreed.wait_for(|agreed| agreed.gateway.revision != self.load().revision).await;
    }

    /// Its networks are routed: it is in force from now on.
    pub fn enforce(&self, gateway: Arc<Gateway>) {
        let revision = gateway.revision;
        self.0.in_force.store(gateway);
        self.0.enforced.send_replace(revision);
    }

    /// Tells of each revision that comes into force.
    pub fn enforced(&self) -> watch::Receiver<u64> {
        self.0.enforced.subscribe()
    }

    /// False at a start, until the first configuration is in force; without one there is nothing to wait for.
    pub fn may_serve(&self) -> bool {
        self.load().revision > 0 || self.0.agreed.borrow().gateway.revision == 0
    }

    /// True once all that this node understands of what `state` has agreed on is in force.
    pub fn has(&self, state: &State) -> bool {
        let wanted = state.configuration().map_or(0, |configuration| configuration.revision);
        self.0.agreed.borrow().revision >= wanted && self.next().is_none()
    }
}

pub fn source_of(configuration: &Configuration) -> GatewaySource {
    GatewaySource { toml: configuration.toml.clone(), files: configuration.files.clone() }
}
