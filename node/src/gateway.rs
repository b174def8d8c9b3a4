//! The gateway configuration in force, compiled once for each revision and read without a lock.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use ipsec::policy::Gateway;
use raft::state::{Configuration, State};

use crate::config::{self, GatewaySource};

#[derive(Clone, Debug, Default)]
pub struct CurrentGateway(Arc<ArcSwap<Gateway>>);

impl CurrentGateway {
    pub fn load(&self) -> Guard<Arc<Gateway>> {
        self.0.load()
    }

    /// Compiles what the state has in force. What a newer node has replicated may be more than this one understands:
    /// then the last good configuration stays in force here, and the log says so.
    pub fn follow(&self, state: &State) {
        let Some(configuration) = state.configuration() else { return };
        if configuration.revision == self.load().revision {
            return;
        }
        match config::compile(&source_of(configuration), configuration.revision) {
            Ok(compiled) => self.0.store(Arc::new(compiled)),
            Err(mistakes) => tracing::error!(
                revision = configuration.revision,
                mistakes = mistakes.len(),
                "the gateway configuration is not understood here"
            ),
        }
    }
}

pub fn source_of(configuration: &Configuration) -> GatewaySource {
    GatewaySource { toml: configuration.toml.clone(), files: configuration.files.clone() }
}
