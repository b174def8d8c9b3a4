//! What the links refused, and why: for metrics, tests, and a log that cannot be flooded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most one line of each reason in so much time.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Why a connection was not taken, or was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// This node is no member itself yet.
    Vacant,
    /// Too many handshakes or joins at once.
    Busy,
    /// No TLS, a certificate of another authority or none, or too slow.
    Handshake,
    /// It speaks no protocol that is spoken here.
    Protocol,
    /// It asks for a version that is not spoken here, or does not introduce itself properly.
    Greeting,
    OtherCluster,
    /// It is another node than it says, or looks for another one.
    OtherNode,
    /// Removed, or not known yet.
    NotMember,
    /// The certificate is good, but the member has another key.
    OtherKey,
    /// Too long a frame, or one without meaning.
    Frame,
}

impl Refused {
    pub const ALL: [Refused; 10] = [
        Refused::Vacant,
        Refused::Busy,
        Refused::Handshake,
        Refused::Protocol,
        Refused::Greeting,
        Refused::OtherCluster,
        Refused::OtherNode,
        Refused::NotMember,
        Refused::OtherKey,
        Refused::Frame,
    ];

    /// For a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Refused::Vacant => "vacant",
            Refused::Busy => "busy",
            Refused::Handshake => "handshake",
            Refused::Protocol => "protocol",
            Refused::Greeting => "greeting",
            Refused::OtherCluster => "other-cluster",
            Refused::OtherNode => "other-node",
            Refused::NotMember => "not-member",
            Refused::OtherKey => "other-key",
            Refused::Frame => "frame",
        }
    }
}

/// Since the start of the process.
#[derive(Debug, Default)]
pub struct LinkCounters {
    refused: [AtomicU64; Refused::ALL.len()],
    told: Mutex<[Option<Instant>; Refused::ALL.len()]>,
}

impl LinkCounters {
    pub fn refused(&self, why: Refused) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }

    /// Counts. True when it is worth a line.
    pub(super) fn count(&self, why: Refused) -> bool {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut told[why as usize];
        let due = last.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_count_and_label() {
        let counters = LinkCounters::default();
        for (at, why) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
            assert!(counters.count(why), "the first is told");
            assert!(!counters.count(why), "the next comes too soon");
            assert_eq!(counters.refused(why), 2);
        }
        let labels: std::collections::BTreeSet<_> = Refused::ALL.map(Refused::label).into();
        assert_eq!(labels.len(), Refused::ALL.len());
    }
}
