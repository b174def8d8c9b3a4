//! What goes wrong, and how it is put right.
//!
//! ```text
//!   halves            1 2 | 3 4 5        which two, the seed says
//!   majority-ring     1-2-3-4-5-1        each sees a majority, no two the same
//!   bridge            1 2 - 3 - 4 5      one node sees all
//!   mute, one-way     the leader is heard by nobody; hears nobody
//!   deaf              the leader hears no datagram, but its connections work
//!   leader, owner     alone on the link network; the clients still reach it
//!   killed, stopped   kill -9 of one or two; SIGSTOP, and on it goes
//!   wiped, gone       its disk is lost, or it leaves; a new member takes its place
//!   starved           as many busy loops as nodes, which keep the switch from its work, too
//!   rough, slow       frames lost, twice, corrupted, out of order; late, and not too many: on all ways
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crypto::rng::Rng;

use crate::outcome::{Context, Result};
use crate::world::cluster::{Cluster, Edge};
use crate::world::switch::Way;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nemesis {
    Halves,
    MajorityRing,
    Bridge,
    Mute,
    OneWay,
    Deaf,
    LeaderAlone,
    OwnerAlone,
    Killed,
    Stopped,
    Wiped,
    Gone,
    Starved,
    Rough,
    Slow,
}

impl Nemesis {
    pub const ALL: [Nemesis; 15] = [
        Nemesis::Halves,
        Nemesis::MajorityRing,
        Nemesis::Bridge,
        Nemesis::Mute,
        Nemesis::OneWay,
        Nemesis::Deaf,
        Nemesis::LeaderAlone,
        Nemesis::OwnerAlone,
        Nemesis::Killed,
        Nemesis::Stopped,
        Nemesis::Wiped,
        Nemesis::Gone,
        Nemesis::Starved,
        Nemesis::Rough,
        Nemesis::Slow,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Nemesis::Halves => "halves",
            Nemesis::MajorityRing => "majority-ring",
            Nemesis::Bridge => "bridge",
            Nemesis::Mute => "mute",
            Nemesis::OneWay => "one-way",
            Nemesis::Deaf => "deaf",
            Nemesis::LeaderAlone => "leader-alone",
            Nemesis::OwnerAlone => "owner-alone",
            Nemesis::Killed => "killed",
            Nemesis::Stopped => "stopped",
            Nemesis::Wiped => "wiped",
            Nemesis::Gone => "gone",
            Nemesis::Starved => "starved",
            Nemesis::Rough => "rough",
            Nemesis::Slow => "slow",
        }
    }

    /// Whether ways between nodes are cut.
    pub fn cuts(self) -> bool {
        matches!(
            self,
            Nemesis::Halves
                | Nemesis::MajorityRing
                | Nemesis::Bridge
                | Nemesis::Mute
                | Nemesis::OneWay
                | Nemesis::Deaf
                | Nemesis::LeaderAlone
                | Nemesis::OwnerAlone
        )
    }

    /// Whether somebody is sure to lose segments by it.
    pub fn takes(self) -> bool {
        (self.cuts() && !matches!(self, Nemesis::MajorityRing | Nemesis::Bridge)) || self == Nemesis::Killed
    }

    /// Whether a node joins before all is as it was.
    pub fn joins(self) -> bool {
        matches!(self, Nemesis::Wiped | Nemesis::Gone)
    }

    /// Whether somebody may be held up between his last look at the clock and his last write.
    pub fn stops_processes(self) -> bool {
        matches!(self, Nemesis::Stopped | Nemesis::Starved)
    }
}

/// Who was who when it began.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    pub leader: Edge,
    /// Of the tunnel that the owner's faults are about.
    pub owner: Edge,
}

/// A fault under way.
#[derive(Debug)]
pub struct Strike {
    pub nemesis: Nemesis,
    pub roles: Roles,
    pub begun: Instant,
    /// Microseconds since 1970.
    pub begun_us: u64,
    /// Who has no majority, and must fall silent.
    pub silent: Vec<Edge>,
    /// Who is gone or held up.
    pub struck: Vec<Edge>,
    starving: Option<Starving>,
}

impl Strike {
    pub fn begin(nemesis: Nemesis, cluster: &mut Cluster, roles: Roles, rng: &mut dyn Rng) -> Result<Strike> {
        let all = shuffled(cluster.edges().collect(), rng);
        let (mut silent, mut struck, mut starving) = (Vec::new(), Vec::new(), None);
        let (begun, begun_us) = (Instant::now(), now_us());
        match nemesis {
            Nemesis::Halves => {
                silent = all[..(all.len() - 1) / 2].to_vec();
                cluster.sever(&apart(&all, &silent), &silent)?;
            }
            Nemesis::MajorityRing => {
                // A node, and as many on each side of it as make a majority.
                let reach = (all.len() / 2).div_ceil(2);
                let near = |one: usize, other: usize| {
                    let steps = one.abs_diff(other);
                    steps.min(all.len() - steps) <= reach
                };
                cluster.sever(&pairs(&all, |one, other| !near(one, other)), &[])?;
            }
            Nemesis::Bridge => {
                let middle = all.len() / 2;
                let side = |place: usize| place.cmp(&middle);
                let apart = |one, other| one != middle && other != middle && side(one) != side(other);
                cluster.sever(&pairs(&all, apart), &[])?;
            }
            Nemesis::Mute | Nemesis::OneWay => {
                let deaf = nemesis == Nemesis::OneWay;
                let others = all.iter().filter(|edge| **edge != roles.leader);
                let way = |&other: &Edge| if deaf { (other, roles.leader) } else { (roles.leader, other) };
                silent = vec![roles.leader];
                cluster.sever(&others.map(way).collect::<Vec<_>>(), &silent)?;
            }
            Nemesis::Deaf => {
                silent = vec![roles.leader];
                cluster.deafen(roles.leader)?;
            }
            Nemesis::LeaderAlone | Nemesis::OwnerAlone => {
                let alone = if nemesis == Nemesis::LeaderAlone { roles.leader } else { roles.owner };
                silent = vec![alone];
                cluster.sever(&apart(&all, &silent), &silent)?;
            }
            Nemesis::Killed => {
                // Two of five, the owner often among them.
                let most = (all.len() - 1) / 2;
                struck = all[..1 + rng.u32() as usize % most].to_vec();
                if rng.u32().is_multiple_of(2) && !struck.contains(&roles.owner) {
                    struck[0] = roles.owner;
                }
                for &edge in &struck {
                    cluster.kill(edge)?;
                }
            }
            Nemesis::Stopped => {
                struck = vec![if rng.u32().is_multiple_of(2) { roles.owner } else { all[0] }];
                cluster.pause(struck[0])?;
            }
            Nemesis::Wiped => {
                struck = vec![if rng.u32().is_multiple_of(2) { roles.owner } else { all[0] }];
                cluster.wipe(struck[0])?;
            }
            Nemesis::Gone => {
                struck = vec![if rng.u32().is_multiple_of(2) { roles.leader } else { all[0] }];
                cluster.leave(struck[0])?;
            }
            Nemesis::Starved => starving = Some(Starving::begin(all.len())?),
            Nemesis::Rough => cluster.roughen(Way {
                lost: 0.02,
                doubled: 0.02,
                corrupted: 0.005,
                jitter: Duration::from_millis(3),
                ..Way::default()
            })?,
            Nemesis::Slow => cluster.roughen(Way {
                delay: Duration::from_millis(5),
                rate: Some(1_000_000),
                ..Way::default()
            })?,
        }
        Ok(Strike { nemesis, roles, begun, begun_us, silent, struck, starving })
    }

    /// Everything works again; returns when it is put right, not when the cluster is.
    pub fn end(&mut self, cluster: &mut Cluster) -> Result {
        self.starving = None;
        match self.nemesis {
            Nemesis::Killed => self.struck.iter().try_for_each(|&edge| cluster.restart(edge)),
            Nemesis::Stopped => self.struck.iter().try_for_each(|&edge| cluster.resume(edge)),
            Nemesis::Wiped => self.struck.iter().try_for_each(|&edge| cluster.replace(edge)),
            Nemesis::Gone => self.struck.iter().try_for_each(|&edge| cluster.join(edge)),
            Nemesis::Starved => Ok(()),
            _ => cluster.heal(),
        }
    }

    /// Whether a node was cut off, gone or held up.
    pub fn hit(&self, edge: Edge) -> bool {
        self.silent.contains(&edge) || self.struck.contains(&edge)
    }
}

pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

/// The ways between nodes whose places fulfil this; it must hold in both directions.
fn pairs(all: &[Edge], apart: impl Fn(usize, usize) -> bool) -> Vec<(Edge, Edge)> {
    let places = 0..all.len();
    let both = places.clone().flat_map(|one| places.clone().map(move |other| (one, other)));
    both.filter(|&(one, other)| one != other && apart(one, other))
        .map(|(one, other)| (all[one], all[other]))
        .collect()
}

/// The ways between an island and the others.
fn apart(all: &[Edge], island: &[Edge]) -> Vec<(Edge, Edge)> {
    let on = |place: usize| island.contains(&all[place]);
    pairs(all, |one, other| on(one) != on(other))
}

fn shuffled(mut all: Vec<Edge>, rng: &mut dyn Rng) -> Vec<Edge> {
    for place in (1..all.len()).rev() {
        all.swap(place, rng.u32() as usize % (place + 1));
    }
    all
}

/// Threads that do nothing, as fast as they can.
#[derive(Debug)]
struct Starving {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Starving {
    fn begin(count: usize) -> Result<Starving> {
        let ending = Arc::new(AtomicBool::new(false));
        let busy = |_| {
            let seen = ending.clone();
            std::thread::Builder::new().name("busy".into()).spawn(move || {
                while !seen.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..count).map(busy).collect::<std::io::Result<_>>().context("thread")?;
        Ok(Starving { ending, threads })
    }
}

impl Drop for Starving {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use crypto::rng::SeededRng;

    use super::*;

    fn edges(count: usize) -> Vec<Edge> {
        (1..=count).map(|number| Edge::named(&format!("edge-{number}")).unwrap()).collect()
    }

    fn heard(all: &[Edge], severed: &[(Edge, Edge)], by: Edge) -> usize {
        all.iter().filter(|other| **other == by || !severed.contains(&(**other, by))).count()
    }

    #[test]
    fn shapes_are_what_they_are_called() {
        let all = edges(5);
        let halves = apart(&all, &all[..2]);
        assert_eq!(halves.len(), 2 * 2 * 3);
        assert_eq!(all.iter().map(|&edge| heard(&all, &halves, edge)).collect::<Vec<_>>(), [2, 2, 3, 3, 3]);
        let near = |one: usize, other: usize| [1, 4].contains(&one.abs_diff(other));
        let ring = pairs(&all, |one, other| !near(one, other));
        assert!(all.iter().all(|&edge| heard(&all, &ring, edge) == 3), "each sees a majority");
    }

    #[test]
    fn a_seed_says_who() {
        let all = edges(7);
        let of = |seed| shuffled(all.clone(), &mut SeededRng::new(seed));
        assert_eq!(of(1), of(1));
        assert!((2..9).any(|seed| of(seed) != of(1)));
        let mut sorted = of(5);
        sorted.sort();
        assert_eq!(sorted, all);
    }
}
