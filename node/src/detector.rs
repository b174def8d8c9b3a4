//! Who is silent: found out from when each node was heard last, and from what the links say.
//!
//! ```text
//!            heard for suspect_ms no more           connection closed and refused, and nothing heard since
//!   Alive ───────────────────────────────> Silent   Alive, Silent ─────────────────────────────────────> Gone
//!     ^                                       │                                                           │
//!     └────────────────────── heard ──────────┴───────────────────────────────────────────────────────────┘
//! ```
//!
//! Whoever was late himself accuses nobody: after a pause of our own everybody has the whole suspect time again. A node
//! that is heard again by the same process was suspected falsely, which is counted: the figure for choosing a profile.
//!
//! A node that says that it is *deaf*, since it has no answers from a majority, counts as silent however loud it is: it has
//! no lease, and its segments would be served by nobody (`cargo chaos one-way`).
//!
//! Fed by the mesh thread and by the watch over the links; asked by whoever decides. No clock of its own.

use std::collections::BTreeMap;

use ipsec::types::{Incarnation, Millis};
use raft::state::NodeId;

use crate::liveness::{Liveness, Signs, Verdict};

#[derive(Debug)]
pub struct Detector {
    suspect_ms: u64,
    /// How often it is looked, at the least.
    every_ms: u64,
    nodes: BTreeMap<NodeId, Heard>,
    looked_at: Option<Millis>,
    /// Nobody is found silent for what was before.
    awake_since: Millis,
    false_suspicions: u64,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    /// When it was heard last, while it was not deaf.
    at: Millis,
    /// When any valid datagram of it came.
    spoke: Millis,
    verdict: Verdict,
    incarnation: Incarnation,
    applied: u64,
    /// Of which process it was when it was found silent.
    suspected: Option<Incarnation>,
    barred: bool,
    deaf: bool,
}

/// What a probe of a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub incarnation: Incarnation,
    pub applied: u64,
    /// A promise keeps others from acknowledging it.
    pub barred: bool,
    /// It has no answers from a majority of the voters.
    pub deaf: bool,
}

impl Detector {
    pub fn new(suspect_ms: u64, every_ms: u64) -> Detector {
        Detector {
            suspect_ms,
            every_ms,
            nodes: BTreeMap::new(),
            looked_at: None,
            awake_since: Millis(0),
            false_suspicions: 0,
        }
    }

    /// Who there is. A newcomer has the suspect time to be heard.
    pub fn watch(&mut self, nodes: &[NodeId], now: Millis) {
        self.nodes.retain(|node, _| nodes.contains(node));
        for &node in nodes {
            self.nodes.entry(node).or_insert(Heard {
                at: now,
                spoke: now,
                verdict: Verdict::Alive,
                incarnation: Incarnation(0),
                applied: 0,
                suspected: None,
                barred: false,
                deaf: false,
            });
        }
    }

    /// A valid datagram of `node`. True when it was taken for dead.
    pub fn heard(&mut self, node: NodeId, now: Millis) -> bool {
        let Some(heard) = self.nodes.get_mut(&node) else { return false };
        heard.spoke = now;
        if heard.deaf {
            return false;
        }
        heard.at = now;
        std::mem::replace(&mut heard.verdict, Verdict::Alive) != Verdict::Alive
    }

    /// What a probe of `node` said. Counts a suspicion that was false. True when `barred` is news.
    pub fn told(&mut self, node: NodeId, told: Told) -> bool {
        let Told { incarnation, applied, barred, deaf } = told;
        let Some(heard) = self.nodes.get_mut(&node) else { return false };
        heard.deaf = deaf;
        if heard.suspected.take() == Some(incarnation) {
            self.false_suspicions += 1;
        }
        (heard.incarnation, heard.applied) = (incarnation, applied);
        !std::mem::replace(&mut heard.barred, barred) && barred
    }

    /// Its connections are closed and new ones refused, since `since`. True when that is news.
    pub fn refused(&mut self, node: NodeId, since: Millis) -> bool {
        let Some(heard) = self.nodes.get_mut(&node) else { return false };
        if heard.verdict == Verdict::Gone || heard.spoke > since {
            return false;
        }
        heard.verdict = Verdict::Gone;
        heard.suspected = Some(heard.incarnation);
        true
    }

    /// To be called at least every `every_ms`, after all that has come in was told. True when somebody is silent now who
    /// was not.
    pub fn look(&mut self, now: Millis) -> bool {
        let late = self.looked_at.is_some_and(|last| now.since(last) > 2 * self.every_ms);
        self.looked_at = Some(now);
        if late {
            self.awake_since = now;
        }
        let mut news = false;
        for heard in self.nodes.values_mut().filter(|heard| heard.verdict == Verdict::Alive) {
            if now.since(heard.at.max(self.awake_since)) >= self.suspect_ms {
                heard.verdict = Verdict::Silent;
                // Of one that is deaf it is true whether it is heard or not.
                heard.suspected = (!heard.deaf).then_some(heard.incarnation);
                news = true;
            }
        }
        news
    }

    /// When somebody will be silent, unless he is heard.
    pub fn next(&self) -> Option<Millis> {
        let alive = self.nodes.values().filter(|heard| heard.verdict == Verdict::Alive);
        alive.map(|heard| heard.at.max(self.awake_since).after(self.suspect_ms)).min()
    }

    /// The others; this node itself is the caller's to add.
    pub fn liveness(&self) -> Liveness {
        let signs = |heard: &Heard| Signs {
            verdict: heard.verdict,
            incarnation: heard.incarnation,
            applied: heard.applied,
        };
        Liveness { nodes: self.nodes.iter().map(|(&node, heard)| (node, signs(heard))).collect() }
    }

    pub fn verdict(&self, node: NodeId) -> Option<Verdict> {
        self.nodes.get(&node).map(|heard| heard.verdict)
    }

    /// Who is heard, and says that a promise keeps others from acknowledging it.
    pub fn barred(&self) -> Vec<NodeId> {
        let barred = |heard: &Heard| heard.barred && heard.verdict == Verdict::Alive;
        self.nodes.iter().filter(|(_, heard)| barred(heard)).map(|(&node, _)| node).collect()
    }

    /// When `node` was heard last.
    pub fn heard_at(&self, node: NodeId) -> Option<Millis> {
        self.nodes.get(&node).map(|heard| heard.at)
    }

    pub fn false_suspicions(&self) -> u64 {
        self.false_suspicions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const RUN: Incarnation = Incarnation(7);

    fn says(incarnation: Incarnation) -> Told {
        Told { incarnation, applied: 9, barred: false, deaf: false }
    }

    fn detector() -> Detector {
        let mut detector = Detector::new(50, 15);
        detector.watch(&[A, B], Millis(100));
        for node in [A, B] {
            detector.told(node, says(RUN));
        }
        detector
    }

    /// Looks every 10 ms from `from` to `to`, while `heard` are heard each time; who is dead then.
    fn pass(detector: &mut Detector, from: u64, to: u64, heard: &[NodeId]) -> Vec<NodeId> {
        for now in (from..=to).step_by(10).map(Millis) {
            for &node in heard {
                detector.heard(node, now);
            }
            detector.look(now);
        }
        let liveness = detector.liveness();
        liveness.nodes.keys().copied().filter(|&node| liveness.is_silent(node)).collect()
    }

    #[test]
    fn silence_for_the_suspect_time_and_not_a_moment_less() {
        let mut detector = detector();
        assert_eq!(pass(&mut detector, 100, 140, &[A]), []);
        assert_eq!(detector.next(), Some(Millis(150)), "when B is due");
        assert!(!detector.look(Millis(149)) && detector.look(Millis(150)), "news once");
        assert!(!detector.look(Millis(151)));
        assert_eq!(detector.liveness().verdict(B), Some(Verdict::Silent));
        assert_eq!(pass(&mut detector, 160, 400, &[A]), [B]);
    }

    #[test]
    fn who_was_late_himself_accuses_nobody() {
        let mut detector = detector();
        pass(&mut detector, 100, 110, &[A, B]);
        // We were stopped for 5 s. What the others sent meanwhile is lost.
        assert!(!detector.look(Millis(5_110)));
        assert_eq!(detector.next(), Some(Millis(5_160)), "all have the whole time again");
        assert_eq!(pass(&mut detector, 5_120, 5_300, &[A]), [B]);
    }

    #[test]
    fn a_refused_connection_is_stronger_than_silence_and_weaker_than_a_datagram() {
        let mut detector = detector();
        detector.heard(A, Millis(120));
        assert!(!detector.refused(A, Millis(119)), "it was heard after that");
        assert!(detector.refused(A, Millis(121)) && !detector.refused(A, Millis(121)));
        assert_eq!(detector.liveness().verdict(A), Some(Verdict::Gone));
        assert!(detector.heard(A, Millis(125)));
        assert_eq!(detector.liveness().verdict(A), Some(Verdict::Alive));
        pass(&mut detector, 130, 200, &[]);
        assert_eq!(detector.liveness().verdict(B), Some(Verdict::Silent));
        assert!(detector.refused(B, Millis(201)), "silent, and now gone");
    }

    #[test]
    fn a_suspicion_was_false_when_the_same_process_is_heard_again() {
        let mut detector = detector();
        pass(&mut detector, 100, 200, &[]);
        for (node, incarnation) in [(A, RUN), (B, Incarnation(8))] {
            assert!(detector.heard(node, Millis(210)));
            detector.told(node, says(incarnation));
            detector.told(node, says(incarnation));
        }
        assert_eq!(detector.false_suspicions(), 1, "B has started anew");
    }

    /// A leader that heard nobody any more kept its segments as long as the others heard it: 3 s, until it was healed.
    #[test]
    fn who_hears_nobody_is_silent_however_loud() {
        let mut detector = detector();
        detector.told(B, Told { deaf: true, ..says(RUN) });
        assert_eq!(pass(&mut detector, 100, 140, &[A, B]), []);
        assert_eq!(pass(&mut detector, 150, 200, &[A, B]), [B]);
        detector.told(B, Told { deaf: true, ..says(RUN) });
        assert_eq!(pass(&mut detector, 210, 220, &[A, B]), [B]);
        assert!(!detector.refused(B, Millis(219)), "it speaks: a process is there");
        detector.told(B, says(RUN));
        assert!(detector.heard(B, Millis(230)));
        assert_eq!(pass(&mut detector, 230, 260, &[A, B]), []);
        assert_eq!(detector.false_suspicions(), 0, "it was of no use");
    }

    #[test]
    fn who_wants_to_be_pardoned_is_noticed_once() {
        let mut detector = detector();
        let barred = Told { barred: true, ..says(RUN) };
        assert!(detector.told(A, barred) && !detector.told(A, barred));
        assert_eq!(detector.barred(), [A]);
        pass(&mut detector, 100, 200, &[]);
        assert_eq!(detector.barred(), [], "it must be heard for that");
        detector.heard(A, Millis(210));
        assert!(!detector.told(A, says(RUN)));
        assert_eq!(detector.barred(), []);
    }

    #[test]
    fn who_leaves_is_forgotten_and_who_joins_has_time() {
        let mut detector = detector();
        detector.watch(&[B, NodeId(9)], Millis(140));
        assert!(!detector.heard(A, Millis(141)));
        assert_eq!(pass(&mut detector, 140, 180, &[B]), []);
        assert_eq!(pass(&mut detector, 190, 200, &[B]), [NodeId(9)]);
    }
}
