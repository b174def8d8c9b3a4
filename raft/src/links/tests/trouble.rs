//! Cables that are cut, stall, or are slow.

use crypto::rng::{OsRng, Rng};

use super::super::{Ballot, Lane, Request};
use super::relay::{Cable, Relay};
use super::*;
use crate::state::Configure;
use crate::store::Vote;

/// Three members; the third is reached through the relay.
async fn three_with_relay() -> (Sites, Relay) {
    let mut relay = None;
    let three = Sites::start_with(3, async |id, address| match id {
        3 => relay.insert(Relay::before(address).await).address,
        _ => address,
    })
    .await;
    three.connected(&three.ids()).await;
    (three, relay.unwrap())
}

#[test]
fn a_cut_connection_is_seen_at_once_and_made_again() {
    run(async {
        let (three, relay) = three_with_relay().await;
        let session = three.links(1).session_to(NodeId(3)).unwrap();
        let mut seen = three.links(1).peers();
        let begun = Instant::now();
        relay.cut();
        seen.wait_for(|peers| peers[&NodeId(3)].state == LinkState::Down).await.unwrap();
        let down = begun.elapsed();
        // What was sealed with the old session until now is still opened.
        assert!(three.links(3).session(session.id).is_some());
        seen.wait_for(|peers| peers[&NodeId(3)].state == LinkState::Up).await.unwrap();
        println!("down after {down:?}, up again after {:?}", begun.elapsed());
        assert!(down < Duration::from_millis(100), "{down:?}");
        let fresh = three.links(1).session_to(NodeId(3)).unwrap();
        assert_ne!(session.id, fresh.id);
        assert_eq!(three.links(3).session(fresh.id).unwrap(), fresh);
        three.node(3).propose(rotate(0)).await.unwrap();
        three.stop().await;
    });
}

#[test]
fn a_silent_member_is_down_until_it_speaks_again() {
    run(async {
        let (three, relay) = three_with_relay().await;
        let mut seen = three.links(1).peers();
        let begun = Instant::now();
        relay.set(Cable::Stalled);
        seen.wait_for(|peers| peers[&NodeId(3)].state == LinkState::Down).await.unwrap();
        let why = seen.borrow()[&NodeId(3)].why.clone();
        println!("down after {:?}: {why:?}", begun.elapsed());
        assert!(begun.elapsed() < 5 * timing::CI.election_max, "{:?}", begun.elapsed());
        three.node(1).propose(rotate(0)).await.unwrap();
        three.node(2).propose(rotate(1)).await.unwrap();

        let mended = Instant::now();
        relay.set(Cable::Passes);
        seen.wait_for(|peers| peers[&NodeId(3)].state == LinkState::Up).await.unwrap();
        println!("up again after {:?}", mended.elapsed());
        three.alike().await;
        three.node(3).propose(rotate(2)).await.unwrap();
        three.stop().await;
    });
}

/// While a snapshot crawls to a node, the leader's heartbeats to it take no longer than without.
#[test]
fn a_slow_snapshot_delays_no_heartbeat() {
    const CONFIGURATIONS: u64 = 6;
    const FILE_LEN: usize = 2_000_000;
    const OCTETS_PER_S: u32 = 4_000_000;
    run(async {
        let (three, relay) = three_with_relay().await;
        three.first().propose(rotate(0)).await.unwrap();
        three.cut(3);
        let leader = three.leader_among(&[1, 2]).await;
        let mut index = 0;
        for revision in 0..CONFIGURATIONS {
            index = three.node(leader).propose(configure(revision, FILE_LEN)).await.unwrap().index;
        }
        for id in [1, 2] {
            eventually("all applied", || three.node(id).status().applied >= Some(index)).await;
            three.node(id).compact(0).await.unwrap();
        }
        let leader = three.leader_among(&[1, 2]).await;
        let term = three.node(leader).status().term;
        let quiet = heartbeats(&three, leader, 3 - leader, Instant::now).await;

        relay.slow_down(OCTETS_PER_S);
        three.mend(3);
        three.connected(&three.ids()).await;
        let begun = Instant::now();
        let there = || three.node(3).status().applied >= Some(index);
        let until = || if there() { begun } else { Instant::now() + Duration::from_secs(1) };
        let busy = heartbeats(&three, leader, 3, until).await;
        eventually("caught up", there).await;
        println!("snapshot of {} MB in {:?}", CONFIGURATIONS * 2, begun.elapsed());
        println!("round trips: quiet {quiet:?}, beside the snapshot {busy:?}");
        assert!(begun.elapsed() > Duration::from_secs(2), "it was slow");
        assert!(busy.max < timing::CI.election_min, "{busy:?}");
        assert_eq!(three.node(leader).status().term, term, "no election");
        three.stop().await;
    });
}

#[derive(Debug)]
#[expect(dead_code, reason = "printed")]
struct RoundTrips {
    count: usize,
    median: Duration,
    max: Duration,
}

/// Asks on the urgent lane every 10 ms, at least fifty times, while `until` lies ahead.
async fn heartbeats(three: &Sites, from: u64, to: u64, until: impl Fn() -> Instant) -> RoundTrips {
    let mut took = Vec::new();
    while took.len() < 50 || until() > Instant::now() {
        let link = three.links(from).link(NodeId(to), &Peer::default(), Lane::Urgent).unwrap();
        let old = Vote { term: 0, node: 0, committed: false };
        let ask = Request::PreVote(Ballot { vote: old, last: None, transfer: false });
        let begun = Instant::now();
        link.call(ask, Duration::from_secs(5)).await.unwrap();
        took.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    took.sort();
    RoundTrips { count: took.len(), median: took[took.len() / 2], max: took[took.len() - 1] }
}

fn configure(expected_revision: u64, file_len: usize) -> Command {
    let mut file = vec![0; file_len];
    OsRng.fill(&mut file);
    Command::Configure(Configure {
        expected_revision,
        toml: "version = 1".into(),
        files: [("large.bin".to_owned(), Secret::from(file))].into(),
        comment: String::new(),
        at: Millis(1),
        by: "test".into(),
    })
}
