//! Named warnings: a code that scripts may match, how bad it is, what is so in one sentence, and what to do.
//!
//! A code is raised by whoever sees it and cleared by the same; it is shown by `status`, counted as
//! `pontoon_health{code}`, and told as an event when it comes and goes. `/healthz` fails on critical ones.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::control::api;

/// Worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Traffic does not pass, or what is promised does not hold.
    Critical,
    /// Traffic passes, but the next failure may stop it, or it is slow.
    Warning,
    /// Worth knowing; nothing is at risk.
    Info,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

macro_rules! health_codes {
    ($($variant:ident, $name:literal, $severity:ident, $fix:literal;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum HealthCode { $($variant),+ }

        impl HealthCode {
            pub const ALL: &[HealthCode] = &[$(HealthCode::$variant),+];

            /// Stable: scripts and alerts match it.
            pub fn name(self) -> &'static str {
                match self { $(HealthCode::$variant => $name),+ }
            }

            pub fn severity(self) -> Severity {
                match self { $(HealthCode::$variant => Severity::$severity),+ }
            }

            pub fn fix(self) -> &'static str {
                match self { $(HealthCode::$variant => $fix),+ }
            }
        }
    };
}

health_codes! {
    NoQuorum, "no-quorum", Critical, "mend the network or start the nodes that are down; do nothing else here";
    NoLeader, "no-leader", Critical, "wait a second; if it stays, look at `pontoon members` on every node";
    DigestMismatch, "digest-mismatch", Critical, "stop the node that differs, keep its data_dir, and let it join again as a new node";
    LogStopped, "log-stopped", Critical, "restart the node; if it stops again run `pontoon doctor` and look at the disk";
    DiskFull, "disk-full", Critical, "make room on the disk of data_dir";
    Steering, "steering", Critical, "do what the text says; then `pontoon doctor`";
    SteeringFilter, "steering-filter", Critical, "the kernel did not take the packet filter of shared-mac: run `pontoon doctor`; restart the node";
    SteeringReception, "steering-reception", Critical, "let the bridge or switch between the nodes pass what the text names, or choose announce";
    TunDown, "tun-down", Critical, "run `pontoon doctor`; restart the node";
    CutOff, "cut-off", Critical, "look at the cable and the switch of the device; other nodes serve meanwhile";
    SegmentsUnowned, "segments-unowned", Critical, "start a node that is down, or `undrain` one";
    SteeringSettings, "steering-settings", Warning, "set what the text says, also in /etc/sysctl.d/; then `pontoon doctor`";
    Removed, "removed", Critical, "run `pontoon leave` here, which clears what is left; then it may join again";
    NotMember, "not-a-member", Warning, "make a cluster with `pontoon init`, or join one with `pontoon join`";
    NoSpare, "no-spare-node", Warning, "add nodes: with three voters one may fail";
    EvenVoters, "even-voters", Warning, "add a voter or make one a learner: an even number survives no more failures";
    NodeDown, "node-down", Warning, "start it, or remove it with `pontoon members remove NODE`";
    CatchingUp, "catching-up", Warning, "wait; if it stays, look at the disk and the network of this node";
    DiskSlow, "disk-slow", Warning, "run `pontoon doctor`; use a disk with power-loss protection";
    BlockWaits, "block-waits", Warning, "commits are slower than this traffic needs: look at raft_commit_seconds";
    QueueDrops, "queue-drops", Warning, "the processor is too busy: more nodes, or fewer segments on this one";
    HalfOpenFlood, "half-open-flood", Warning, "somebody sends many IKE_SA_INIT: cookies are demanded; filter the sender";
    ActorRestarted, "actor-restarted", Warning, "a segment's actor stopped by a fault and was started again: report its log line";
    CapabilityMissing, "capability-missing", Warning, "start it with the unit of the package, which grants what it needs";
    Lone, "no-spare", Info, "add nodes when a failure must not stop it: with three voters one may fail";
    MixedVersions, "mixed-versions", Info, "finish the upgrade: not all nodes run the same version";
    NoConfig, "no-configuration", Info, "pontoon config apply gateway.toml";
}

/// What is wrong now.
#[derive(Debug, Default)]
pub struct HealthSet {
    raised: Mutex<BTreeMap<HealthCode, String>>,
}

impl HealthSet {
    /// True when it was not raised before.
    pub fn raise(&self, code: HealthCode, text: String) -> bool {
        self.lock().insert(code, text).is_none()
    }

    /// True when it was raised before.
    pub fn clear(&self, code: HealthCode) -> bool {
        self.lock().remove(&code).is_some()
    }

    /// Worst first.
    pub fn list(&self) -> Vec<api::Health> {
        let raised = self.lock();
        let mut list: Vec<_> = raised.iter().collect();
        list.sort_by_key(|(code, _)| (code.severity(), **code));
        list.into_iter()
            .map(|(code, text)| api::Health {
                code: code.name().to_owned(),
                severity: code.severity(),
                text: text.clone(),
                fix: code.fix().to_owned(),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HealthCode, String>> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_code_says_what_to_do() {
        let mut names: Vec<_> = HealthCode::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), HealthCode::ALL.len());
        assert!(HealthCode::ALL.iter().all(|code| !code.fix().is_empty()));
    }

    #[test]
    fn the_worst_comes_first() {
        let set = HealthSet::default();
        assert!(set.raise(HealthCode::NoConfig, "no gateway configuration yet".into()));
        assert!(set.raise(HealthCode::NoQuorum, "1 of 3 voters up".into()));
        assert!(!set.raise(HealthCode::NoQuorum, "1 of 3 voters up".into()));
        let codes: Vec<_> = set.list().into_iter().map(|health| health.code).collect();
        assert_eq!(codes, ["no-quorum", "no-configuration"]);
        assert!(set.clear(HealthCode::NoQuorum));
        assert!(!set.clear(HealthCode::NoQuorum));
    }
}
