//! Raft and its links beside a busy control plane.

use super::super::{Ballot, Lane, Request};
use super::*;
use crate::store::Vote;

const LOOKED_AT_FOR: Duration = Duration::from_secs(3);

/// On one runtime for all, the same load makes a heartbeat take 80 ms at the median and 220 ms at most.
#[test]
fn a_busy_control_plane_delays_no_heartbeat() {
    let build =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (raft, control) = (build(), build());
    (0..64).for_each(|_| drop(control.spawn(work())));
    raft.block_on(async {
        let three = Sites::start(3).await;
        three.connected(&three.ids()).await;
        let link = three.links(1).link(NodeId(2), &Peer::default(), Lane::Urgent).unwrap();
        let mut took = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < LOOKED_AT_FOR {
            let vote = Vote { term: 0, node: 0, committed: false };
            let ask = Request::PreVote(Ballot { vote, last: None, transfer: false });
            let asked = Instant::now();
            link.call(ask, Duration::from_secs(5)).await.unwrap();
            took.push(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        took.sort();
        let (median, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        println!("a heartbeat takes {median:?}, p99 {p99:?}, max {:?}", took[took.len() - 1]);
        assert!(p99 < timing::CI.heartbeat, "{p99:?}");
        three.stop().await;
    });
    control.shutdown_background();
}

/// As an actor does it under many set-ups: a key exchange or a signature, again and again.
async fn work() {
    loop {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1) {
            std::hint::black_box(crypto::hash::sha256(&[&[0; 1024]]));
        }
        tokio::task::yield_now().await;
    }
}
