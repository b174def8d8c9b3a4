//! How the other nodes are: gathered when somebody asks for `status`, `members`, `segments` or `sas`, never stored.
//!
//! Every member is asked at the same time; one that does not answer in time is left out, and whoever reads the result
//! says so. Nothing here is decided upon: what a node may do, log and leases say.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ipsec::types::{ChildSpi, Segment};
use raft::state::{NodeId, State};
use raft::{Cluster, Role};
use tokio::task::JoinSet;

use crate::asks::{Asks, Topic};
use crate::datapath::Handle;
use crate::roster::Routes;
use crate::segment::Shared;

/// How long `status` waits for the others: longer than any healthy node takes, shorter than a person minds.
pub const WITHIN: Duration = Duration::from_millis(500);

/// How often it is looked whether the log has been applied far enough.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[derive(Clone, PartialEq, prost::Message)]
pub struct Wanted {
    /// To be answered once so much of the log is applied; until then it waits.
    #[prost(uint64, tag = "1")]
    pub applied: u64,
    #[prost(bool, tag = "2")]
    pub digest: bool,
    /// What was counted for the children that are served there.
    #[prost(bool, tag = "3")]
    pub children: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Figures {
    #[prost(uint32, tag = "1")]
    role: u32,
    #[prost(uint64, tag = "2")]
    pub term: u64,
    #[prost(uint64, optional, tag = "3")]
    pub committed: Option<u64>,
    #[prost(uint64, tag = "4")]
    pub applied: u64,
    /// Of the state as of `applied`; empty when it was not asked for.
    #[prost(bytes = "vec", tag = "5")]
    pub digest: Vec<u8>,
    /// One bit a segment: its actor runs there.
    #[prost(bytes = "vec", tag = "6")]
    served: Vec<u8>,
    /// One bit a segment: it is about to go to another node.
    #[prost(bytes = "vec", tag = "7")]
    leaving: Vec<u8>,
    #[prost(message, repeated, tag = "8")]
    children: Vec<ChildFigures>,
    /// Its neighbours have been told that the service addresses are there.
    #[prost(bool, tag = "9")]
    pub holds_addresses: bool,
    /// It has no answers from a majority to its probes.
    #[prost(bool, tag = "10")]
    pub deaf: bool,
}

/// What was counted for one child.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChildFigures {
    #[prost(fixed32, tag = "1")]
    spi_in: u32,
    #[prost(uint64, tag = "2")]
    pub packets_in: u64,
    #[prost(uint64, tag = "3")]
    pub octets_in: u64,
    #[prost(uint64, tag = "4")]
    pub packets_out: u64,
    #[prost(uint64, tag = "5")]
    pub octets_out: u64,
    #[prost(uint64, tag = "6")]
    pub next_number: u64,
}

impl Figures {
    pub fn role(&self) -> Option<Role> {
        ROLES.into_iter().find(|&role| number(role) == self.role)
    }

    pub fn serves(&self, segment: Segment) -> bool {
        bit(&self.served, segment)
    }

    pub fn is_leaving(&self, segment: Segment) -> bool {
        bit(&self.leaving, segment)
    }

    pub fn child(&self, spi_in: ChildSpi) -> Option<&ChildFigures> {
        self.children.iter().find(|child| child.spi_in == spi_in.0)
    }
}

const ROLES: [Role; 5] = [Role::Learner, Role::Follower, Role::Candidate, Role::Leader, Role::Shutdown];

fn number(role: Role) -> u32 {
    match role {
        Role::Learner => 1,
        Role::Follower => 2,
        Role::Candidate => 3,
        Role::Leader => 4,
        Role::Shutdown => 5,
    }
}

fn bits(holds: impl Fn(Segment) -> bool) -> Vec<u8> {
    let mut bits = vec![0; Segment::COUNT / 8];
    for segment in Segment::all().filter(|&segment| holds(segment)) {
        bits[usize::from(segment.0 / 8)] |= 1 << (segment.0 % 8);
    }
    bits
}

fn bit(bits: &[u8], segment: Segment) -> bool {
    bits.get(usize::from(segment.0 / 8)).is_some_and(|octet| octet & (1 << (segment.0 % 8)) != 0)
}

/// Answers for this node from now on.
pub fn answer(asks: &Asks, shared: &Shared, routes: Routes) {
    let shared = shared.clone();
    asks.on(Topic::Figures, move |_, wanted: Wanted| {
        let (shared, routes) = (shared.clone(), routes.clone());
        async move {
            let Shared { cluster, worker, gateway, lookout, .. } = &shared;
            // A configuration is applied once it is in force.
            let has = |state: &State| state.applied() >= wanted.applied && gateway.has(state);
            while wanted.applied > 0 && !has(&cluster.state()) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            own(cluster, worker, &routes, lookout.deaf_here(), &wanted)
        }
    });
}

/// Of this node.
fn own(cluster: &Cluster, worker: &Handle, routes: &Routes, deaf: bool, wanted: &Wanted) -> Figures {
    let (state, raft) = (cluster.state(), cluster.status());
    let of_child = |spi_in: ChildSpi| {
        let stats = worker.known_stats(spi_in)?;
        Some(ChildFigures {
            spi_in: spi_in.0,
            packets_in: stats.packets_in.load(Relaxed),
            octets_in: stats.octets_in.load(Relaxed),
            packets_out: stats.packets_out.load(Relaxed),
            octets_out: stats.octets_out.load(Relaxed),
            next_number: stats.next_number.load(Relaxed),
        })
    };
    let served = state.records().filter(|record| routes.to(record.segment()).is_some());
    let children = served.flat_map(|record| &record.children).filter(|_| wanted.children);
    Figures {
        role: number(raft.role),
        term: raft.term,
        committed: raft.committed,
        applied: state.applied(),
        digest: if wanted.digest { state.digest().to_vec() } else { Vec::new() },
        served: bits(|segment| routes.to(segment).is_some()),
        leaving: bits(|segment| routes.is_leaving(segment)),
        children: children.filter_map(|child| of_child(child.spi_in)).collect(),
        holds_addresses: routes.holds_addresses(),
        deaf,
    }
}

/// Of all members that answer within `within`, this node among them.
pub async fn gather(
    cluster: &Cluster,
    asks: &Asks,
    wanted: &Wanted,
    within: Duration,
) -> BTreeMap<NodeId, Figures> {
    let mut asked = JoinSet::new();
    for node in cluster.state().members().iter().map(|member| member.id) {
        let (asks, wanted) = (asks.clone(), wanted.clone());
        asked.spawn(async move {
            let figures = asks.ask::<Figures>(node, Topic::Figures, &wanted, within).await;
            figures.ok().map(|figures| (node, figures))
        });
    }
    let mut all = BTreeMap::new();
    while let Some(answered) = asked.join_next().await {
        all.extend(answered.ok().flatten());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_roles_survive_the_way() {
        let figures = Figures {
            served: bits(|segment| segment.0 % 3 == 0),
            leaving: bits(|segment| segment.0 == 255),
            role: number(Role::Leader),
            ..Figures::default()
        };
        assert!(Segment::all().all(|segment| figures.serves(segment) == (segment.0 % 3 == 0)));
        assert!(Segment::all().all(|segment| figures.is_leaving(segment) == (segment.0 == 255)));
        assert_eq!(figures.role(), Some(Role::Leader));
        let nothing = Figures::default();
        assert_eq!((nothing.role(), nothing.serves(Segment(0))), (None, false), "of a node that says little");
    }
}
