//! What the node tells the world about itself: events, metrics, health, and a small HTTP server for them.
//!
//! ```text
//!   actors ── emit(Event) ──> Observe ──┬── a log line
//!                                       ├── counters
//!                                       └── the ring ──> `pontoon events`, /, tests
//! ```
//!
//! One door: what happens is reported once, as an `Event`, and everything else follows from it. Per-packet figures go
//! to `Metrics` directly, in batches.

mod event;
mod health;
mod http;
mod metrics;
mod ring;
pub mod systemd;

pub use event::{Cause, Event, Stamped, line_of, rfc3339};
pub use health::{HealthCode, HealthSet, Severity};
pub use http::Http;
pub use metrics::{Direction, HandoverPhase, Metrics, Queue};
pub use ring::{EVENTS_KEPT, Events, Follower};

use std::sync::Arc;
use std::time::SystemTime;

use crate::control::api;

/// Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Observe {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metrics: Metrics,
    events: Events,
    health: HealthSet,
}

impl Default for Observe {
    fn default() -> Observe {
        Observe::new()
    }
}

impl Observe {
    pub fn new() -> Observe {
        let shared = Shared {
            metrics: Metrics::new(),
            events: Events::new(EVENTS_KEPT),
            health: HealthSet::default(),
        };
        Observe { shared: Arc::new(shared) }
    }

    /// The one door: logs, counts, keeps and broadcasts what happened.
    pub fn emit(&self, event: Event) {
        event.log();
        self.shared.metrics.count(&event);
        self.shared.events.push(Stamped { at: SystemTime::now(), event });
    }

    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// What is wrong now, worst first.
    pub fn health(&self) -> Vec<api::Health> {
        self.shared.health.list()
    }

    /// Says that something is wrong. Repeating it with another text only updates the text.
    pub fn raise(&self, code: HealthCode, text: impl Into<String>) {
        let text = text.into();
        if self.shared.health.raise(code, text.clone()) {
            self.emit(Event::HealthRaised { code, text });
        }
    }

    /// Says that it is well again. Nothing happens when it was not wrong.
    pub fn clear(&self, code: HealthCode) {
        if self.shared.health.clear(code) {
            self.emit(Event::HealthCleared { code });
        }
    }

    /// `raise` or `clear`, as `wrong` says; `text` is made only when it is needed.
    pub fn check<T: Into<String>>(&self, code: HealthCode, wrong: bool, text: impl FnOnce() -> T) {
        if wrong {
            self.raise(code, text());
        } else {
            self.clear(code);
        }
    }
}
