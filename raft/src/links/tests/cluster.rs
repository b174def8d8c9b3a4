//! What a cluster does over its links: elect, commit from each node, survive, catch up, tell who is gone.

use super::super::{Lane, LinkError};
use super::*;
use crate::handle::ProposeError;
use crate::state::{Effect, Refusal};

#[test]
fn each_of_three_nodes_commits() {
    run(async {
        let three = Sites::start(3).await;
        let leader = three.leader_among(&three.ids()).await;
        for version in 0..30 {
            let node = three.node(u64::from(version) % 3 + 1);
            let committed = node.propose(rotate(version)).await.unwrap();
            assert_eq!(committed.effect, Effect::CookieSecret(version + 1));
            // Read your writes, on the node that wrote.
            assert!(node.state().applied() >= committed.index);
            assert_eq!(node.state().cookies().version, version + 1);
        }
        let follower = three.node(leader % 3 + 1);
        let refused = follower.propose(rotate(3)).await.unwrap_err();
        assert_eq!(refused, ProposeError::Refused(Refusal::CookieSecretChanged { current: 30 }));
        follower.barrier().await.unwrap();
        three.alike().await;
        three.stop().await;
    });
}

#[test]
fn a_hundred_proposals_at_once_from_each_follower_count_once_each() {
    run(async {
        let three = Sites::start(3).await;
        for wave in 0..5 {
            let proposals = (0..300).map(|number| three.node(number % 3 + 1).propose(rotate(wave)));
            let outcomes = futures_util::future::join_all(proposals).await;
            assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
            let refused = |outcome: &&Result<_, _>| matches!(outcome, Err(ProposeError::Refused(_)));
            assert_eq!(outcomes.iter().filter(refused).count(), 299);
        }
        three.alike().await;
        three.stop().await;
    });
}

#[test]
fn the_death_of_the_leader_is_seen_at_once_and_survived() {
    run(async {
        let three = Sites::start(3).await;
        three.connected(&three.ids()).await;
        three.first().propose(rotate(0)).await.unwrap();
        let dead = three.leader_among(&three.ids()).await;
        let others: Vec<u64> = three.ids().into_iter().filter(|&id| id != dead).collect();
        let mut seen = three.links(others[0]).peers();

        let begun = Instant::now();
        three.cut(dead);
        seen.wait_for(|peers| peers[&NodeId(dead)].state != LinkState::Up).await.unwrap();
        let down = begun.elapsed();
        seen.wait_for(|peers| peers[&NodeId(dead)].state == LinkState::Refused).await.unwrap();
        let refused = begun.elapsed();
        // A proposal of a follower waits for the new leader by itself.
        let committed = three.node(others[0]).propose(rotate(1)).await;
        let again = begun.elapsed();
        println!("seen after {down:?}, refused after {refused:?}, committed after {again:?}: {committed:?}");
        assert!(refused < Duration::from_millis(100), "{refused:?}");
        if committed != Err(ProposeError::Unknown) {
            assert!(committed.is_ok(), "{committed:?}");
            assert!(again < 6 * timing::CI.election_max, "{again:?}");
        }
        three.leader_among(&others).await;
        three.mend(dead);
        three.connected(&three.ids()).await;
        three.first().barrier().await.unwrap();
        three.alike().await;
        three.stop().await;
    });
}

#[test]
fn who_was_away_too_long_gets_a_snapshot() {
    run(async {
        let three = Sites::start(3).await;
        three.first().propose(rotate(0)).await.unwrap();
        let away = three.leader_among(&three.ids()).await % 3 + 1;
        let others: Vec<u64> = three.ids().into_iter().filter(|&id| id != away).collect();
        three.cut(away);
        let mut index = 0;
        for version in 1..50 {
            index = three.node(others[0]).propose(rotate(version)).await.unwrap().index;
        }
        for &id in &others {
            eventually("all applied", || three.node(id).status().applied >= Some(index)).await;
            three.node(id).compact(0).await.unwrap();
        }
        let begun = Instant::now();
        three.mend(away);
        eventually("caught up", || three.node(away).status().applied >= Some(index)).await;
        println!("caught up by a snapshot in {:?}", begun.elapsed());
        assert!(three.node(away).status().snapshot >= Some(index));
        three.node(away).propose(rotate(50)).await.unwrap();
        three.alike().await;
        // Nothing of the transfer is left beside the snapshot itself.
        let left = std::fs::read_dir(three.sites[away as usize - 1]._dir.path().join("snapshots")).unwrap();
        assert_eq!(left.count(), 1);
        three.stop().await;
    });
}

#[test]
fn nodes_ask_each_other() {
    run(async {
        let three = Sites::start(3).await;
        for id in [2, 3] {
            three.links(id).on_ask(Arc::new(move |from, mut octets| {
                octets.extend([from.0 as u8, id as u8]);
                Box::pin(async move { octets })
            }));
        }
        three.connected(&three.ids()).await;
        let within = Duration::from_secs(5);
        for (from, to) in [(1, 2), (1, 3), (3, 2), (2, 1)] {
            let open = || three.links(from).link(NodeId(to), &Peer::default(), Lane::Ask).is_some();
            eventually("the lanes for questions", open).await;
        }
        for to in [2, 3] {
            let answer = three.links(1).ask(NodeId(to), vec![9], within).await;
            assert_eq!(answer, Ok(vec![9, 1, to as u8]));
        }
        let large = three.links(3).ask(NodeId(2), vec![1; 3 << 20], within).await.unwrap();
        assert_eq!(large.len(), (3 << 20) + 2);
        let too_large = three.links(3).ask(NodeId(2), vec![1; 64 << 20], within).await;
        assert!(matches!(too_large, Err(LinkError::Unreachable(_))), "{too_large:?}");
        let nobody = three.links(2).ask(NodeId(1), vec![], within).await;
        assert!(matches!(nobody, Err(LinkError::Failed(_))), "{nobody:?}");
        three.stop().await;
    });
}

/// What A seals with, B opens with, in each direction another key.
#[test]
fn both_ends_have_the_same_session() {
    run(async {
        let three = Sites::start(3).await;
        three.connected(&three.ids()).await;
        let mut seen = BTreeSet::new();
        for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)] {
            let seals = three.links(from).session_to(NodeId(to)).unwrap();
            let opens = three.links(to).session(seals.id).unwrap();
            assert_eq!(*seals, *opens);
            assert_eq!(opens.node, NodeId(from));
            assert!(seen.insert(seals.key.as_bytes().to_vec()), "each has its own");
        }
        three.stop().await;
    });
}
