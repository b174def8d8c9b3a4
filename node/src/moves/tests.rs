//! A planned move and everything that can go wrong in the middle of it: one real member, and a next owner that answers
//! as each test wants it.

use std::sync::{Arc, Mutex};

use ipsec::types::{Incarnation, Millis};
use raft::links::BoxFuture;
use raft::state::{
    AddMember, Command, CreateToken, Effect, KeyHash, NewMember, Start, Suffrage, TokenId, TokenProof,
    TokenUse,
};

use super::*;
use crate::asks::tests::Wire;
use crate::roster::Routes;
use crate::roster::tests::{member_with, until};
use crate::segment::Shared;

const OWNER: NodeId = NodeId(1);
const SEGMENT: Segment = Segment(7);
const RUN: Incarnation = Incarnation(0x22);

/// What the next owner makes of a question, by its name.
type Answers = Arc<dyn Fn(&'static str) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

struct Lab {
    shared: Shared,
    routes: Routes,
    next: NodeId,
    /// What the next owner was asked, in order.
    asked: Arc<Mutex<Vec<&'static str>>>,
    wire: Wire,
    _stop: tokio::sync::watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Lab {
        let (dir, wire) = (tempfile::tempdir().unwrap(), Wire::default());
        let (shared, routes, stop) = member_with(dir.path(), wire.plug(OWNER)).await;
        until(|| routes.served() == Segment::COUNT).await;
        let next = join(&shared.cluster).await;
        let asked = Arc::default();
        Lab { shared, routes, next, asked, wire, _stop: stop, _dir: dir }
    }

    /// Moves the segment while the next owner answers so.
    async fn give(&self, answers: Answers) -> Result<(), String> {
        let asks = self.wire.plug(self.next);
        let asked = self.asked.clone();
        asks.on(Topic::Move, move |from, question: Question| {
            assert_eq!(from, OWNER);
            let kind = match question.kind {
                Some(wire::Kind::Open(_)) => "open",
                Some(wire::Kind::Take(_)) => "take",
                Some(wire::Kind::Abandon(_)) => "abandon",
                _ => "another",
            };
            asked.lock().unwrap().push(kind);
            let answer = answers(kind);
            async move { Answer::of(answer.await) }
        });
        let segments = [(SEGMENT, self.grant().0)];
        shift(&self.shared.asks, OWNER, self.next, &segments, Cause::Moved).await
    }

    fn grant(&self) -> (Epoch, NodeId) {
        let grant = self.shared.cluster.state().segment(SEGMENT);
        (grant.epoch, grant.owner.unwrap().node)
    }

    /// Whether this node serves the segment, in a new epoch or in the old one.
    async fn is_ours_again(&self, epoch: Epoch) {
        until(|| self.routes.to(SEGMENT).is_some()).await;
        assert_eq!(self.grant(), (epoch, OWNER));
        assert!(!self.routes.is_leaving(SEGMENT));
    }

    fn asked(&self) -> Vec<&'static str> {
        self.asked.lock().unwrap().clone()
    }
}

/// A second member, in the log alone.
async fn join(cluster: &Cluster) -> NodeId {
    let token = TokenUse { id: TokenId(1), proof: TokenProof([1; 32]) };
    let create = CreateToken {
        id: token.id,
        proof: token.proof,
        role: Suffrage::Voter,
        uses: 1,
        expires_at: Millis(u64::MAX),
        at: Millis(1),
    };
    cluster.propose(Command::CreateToken(create)).await.unwrap();
    let member = NewMember {
        name: "edge-2".into(),
        address: "192.0.2.2:7400".into(),
        software: "0.1.0".into(),
        speaks: raft::state::SPEAKS,
    };
    let add = AddMember { member, key: KeyHash([2; 32]), token, replaces: None, at: Millis(2) };
    let Effect::Joined(node) = cluster.propose(Command::AddMember(add)).await.unwrap().effect else {
        panic!("it joined")
    };
    start(cluster, node, Incarnation(0), RUN).await;
    node
}

async fn start(cluster: &Cluster, node: NodeId, expected: Incarnation, incarnation: Incarnation) {
    let start = Start {
        incarnation,
        address: "192.0.2.2:7400".into(),
        software: "0.1.0".into(),
        speaks: raft::state::SPEAKS,
        at: Millis(3),
    };
    cluster.propose(Command::Incarnate { node, expected, start }).await.unwrap();
}

fn always(answer: impl Fn(&'static str) -> Result<(), String> + Send + Sync + 'static) -> Answers {
    Arc::new(move |kind| {
        let answer = answer(kind);
        Box::pin(async move { answer })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_owner_gets_the_segment_and_all_that_comes_along() {
    let lab = Lab::new().await;
    let (epoch, _) = lab.grant();
    lab.give(always(|_| Ok(()))).await.unwrap();
    assert_eq!(lab.grant(), (epoch.next().unwrap(), lab.next));
    assert_eq!(lab.asked(), ["open", "take"]);
    until(|| !lab.routes.is_leaving(SEGMENT)).await;
    assert!(lab.routes.to(SEGMENT).is_none());
    assert_eq!(lab.routes.served(), Segment::COUNT - 1, "nothing else has moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_owner_that_does_not_open_costs_nothing() {
    let lab = Lab::new().await;
    let (epoch, _) = lab.grant();
    let refused = lab.give(always(|_| Err("busy".into()))).await;
    assert_eq!(refused, Err("busy".into()));
    assert_eq!(lab.asked(), ["open"]);
    lab.is_ours_again(epoch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_was_told_is_over_when_the_move_fails() {
    let lab = Lab::new().await;
    let (epoch, _) = lab.grant();
    let fails = |kind| if kind == "take" { Err("no room".into()) } else { Ok(()) };
    assert!(lab.give(always(fails)).await.is_err());
    lab.is_ours_again(epoch.next().unwrap()).await;
    assert_eq!(lab.asked(), ["open", "take", "abandon"]);
    // And it can be moved again.
    lab.give(always(|_| Ok(()))).await.unwrap();
    assert_eq!(lab.grant().1, lab.next);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_owner_that_falls_silent_does_not_keep_the_segment() {
    let lab = Lab::new().await;
    let (epoch, _) = lab.grant();
    let silent: Answers = Arc::new(|kind| match kind {
        "take" => Box::pin(std::future::pending()),
        _ => Box::pin(async { Ok(()) }),
    });
    assert!(lab.give(silent).await.is_err());
    lab.is_ours_again(epoch.next().unwrap()).await;
}

/// The process that took what came along is gone: another one would know nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_next_owner_that_starts_anew_in_the_middle_is_not_given_the_segment() {
    let lab = Lab::new().await;
    let (epoch, _) = lab.grant();
    let (cluster, next) = (lab.shared.cluster.clone(), lab.next);
    let restarts: Answers = Arc::new(move |kind| {
        let cluster = cluster.clone();
        Box::pin(async move {
            if kind == "take" {
                start(&cluster, next, RUN, Incarnation(0x23)).await;
            }
            Ok(())
        })
    });
    assert!(lab.give(restarts).await.is_err());
    lab.is_ours_again(epoch.next().unwrap()).await;
}

/// As after a takeover that was faster.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_any_more_is_left_alone() {
    let lab = Lab::new().await;
    let (epoch, _) = lab.grant();
    let late = [(SEGMENT, Epoch(epoch.0 + 1))];
    shift(&lab.shared.asks, OWNER, lab.next, &late, Cause::Moved).await.unwrap();
    lab.is_ours_again(epoch).await;
    let nobody = NodeId(99);
    assert!(shift(&lab.shared.asks, OWNER, nobody, &[(SEGMENT, epoch)], Cause::Moved).await.is_err());
    assert!(shift(&lab.shared.asks, OWNER, OWNER, &[(SEGMENT, epoch)], Cause::Moved).await.is_err());
    lab.is_ours_again(epoch).await;
}
