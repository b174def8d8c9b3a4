//! The last events of this node, and the way to follow new ones.
//!
//! The ring is bounded; a follower that is too slow loses the oldest events and is told how many, it never slows down
//! the node.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use super::event::Stamped;

/// How many past events a node keeps.
pub const EVENTS_KEPT: usize = 1024;

#[derive(Debug)]
pub struct Events {
    ring: Mutex<VecDeque<Arc<Stamped>>>,
    live: broadcast::Sender<Arc<Stamped>>,
    kept: usize,
}

/// The past, and then what comes, without a gap or a repetition between them.
#[derive(Debug)]
pub struct Follower {
    pub past: Vec<Arc<Stamped>>,
    live: broadcast::Receiver<Arc<Stamped>>,
}

impl Events {
    pub fn new(kept: usize) -> Events {
        Events { ring: Mutex::default(), live: broadcast::channel(kept.max(1)).0, kept }
    }

    pub fn push(&self, stamped: Stamped) {
        let stamped = Arc::new(stamped);
        let mut ring = self.lock();
        if ring.len() == self.kept {
            ring.pop_front();
        }
        ring.push_back(stamped.clone());
        // Sent under the lock, so that `follow` sees each event exactly once. No follower is no error.
        let _ = self.live.send(stamped);
    }

    /// Oldest first.
    pub fn past(&self) -> Vec<Arc<Stamped>> {
        self.lock().iter().cloned().collect()
    }

    pub fn follow(&self) -> Follower {
        let ring = self.lock();
        Follower { past: ring.iter().cloned().collect(), live: self.live.subscribe() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Stamped>>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// The next event; `Err(n)`: n events were lost because this follower was too slow; `None`: the node stops.
    pub async fn next(&mut self) -> Option<Result<Arc<Stamped>, u64>> {
        match self.live.recv().await {
            Ok(stamped) => Some(Ok(stamped)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Err(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Event;
    use std::time::SystemTime;

    fn term(term: u64) -> Stamped {
        Stamped { at: SystemTime::UNIX_EPOCH, event: Event::Leader { leader: None, term } }
    }

    fn terms<'a>(events: impl IntoIterator<Item = &'a Arc<Stamped>>) -> Vec<u64> {
        events
            .into_iter()
            .map(|stamped| match stamped.event {
                Event::Leader { term, .. } => term,
                _ => unreachable!("the test pushes nothing else"),
            })
            .collect()
    }

    #[tokio::test]
    async fn the_ring_keeps_the_last_and_a_follower_misses_nothing() {
        let events = Events::new(3);
        (1..=5).for_each(|n| events.push(term(n)));
        assert_eq!(terms(&events.past()), [3, 4, 5]);
        let mut follower = events.follow();
        assert_eq!(terms(&follower.past), [3, 4, 5]);
        events.push(term(6));
        assert_eq!(terms([&follower.next().await.unwrap().unwrap()]), [6]);
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_lost() {
        let events = Events::new(2);
        let mut follower = events.follow();
        (1..=5).for_each(|n| events.push(term(n)));
        assert_eq!(follower.next().await.unwrap().unwrap_err(), 3);
        assert_eq!(terms([&follower.next().await.unwrap().unwrap()]), [4]);
    }
}
