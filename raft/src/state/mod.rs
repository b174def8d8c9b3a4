//! The replicated state: what every node knows, changed by the log and by nothing else.
//!
//! ```text
//!   members    who belongs, which process runs          segments   who owns what, in which epoch
//!   sas        IKE SAs with their children              blocks     which ESP numbers may be sent
//!   pools      inner addresses                          config     the gateway configuration, its revisions
//!   cookies    the secret of IKE_SA_INIT cookies        version    the cluster's name and version
//! ```
//!
//! `State` is a persistent value: a clone costs nothing and stays as it is, so readers hold one while the next
//! command is applied. `apply` is a function of the state, the index and the command: no clock, no randomness, no
//! order that depends on memory. Nodes with the same applied index therefore have the same `digest` (I10).
//!
//! A refused command changes nothing: it works on a copy, which is dropped.

mod blocks;
mod codec;
mod command;
mod config;
mod cookies;
pub mod limits;
mod members;
mod outcome;
mod pools;
mod sas;
mod segments;
mod snapshot;
mod version;

#[cfg(test)]
mod tests;

pub use blocks::{Reserve, Wanted};
pub use codec::DecodeError;
pub use command::{AddMember, Command, CreateCluster};
pub use config::{Configuration, Configurations, Configure};
pub use cookies::{Cookies, RotateCookieSecret};
pub use members::{Member, Members, NewMember, NodeId, Start};
pub use outcome::{Effect, Outcome, Refusal, Reserved, Touched};
pub use pools::{Lease, Leases, Tenure};
pub use sas::Sas;
pub use segments::{Assign, Cause, Drain, Grant, Owner, SegmentState, Segments};
pub use snapshot::{SnapshotDecoder, SnapshotError};
pub use version::{Cluster, ClusterId, SPEAKS};

use std::net::IpAddr;
use std::sync::Arc;

use ipsec::policy::{Identity, Network};
use ipsec::record::{ChildRecord, Guard, IkeRecord};
use ipsec::types::{ChildSpi, Segment, Spi};

#[derive(Clone, Debug, Default)]
pub struct State {
    applied: u64,
    cluster: Option<Cluster>,
    members: Members,
    segments: Segments,
    sas: Sas,
    leases: Leases,
    configurations: Configurations,
    cookies: Cookies,
}

impl State {
    /// Applies the command at `index` of the log. Entries that are none of ours (membership, blank) are not passed
    /// here, so indices may jump, but never stay or fall.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        assert!(index > self.applied, "each index is applied once, in order");
        let mut next = self.clone();
        next.applied = index;
        match next.run(command) {
            Ok((effect, mut touched)) => {
                touched.sort_unstable();
                touched.dedup();
                *self = next;
                Outcome { index, touched, result: Ok(effect) }
            }
            Err(refusal) => {
                self.applied = index;
                Outcome { index, touched: Vec::new(), result: Err(refusal) }
            }
        }
    }

    fn run(&mut self, command: &Command) -> Result<(Effect, Vec<Touched>), Refusal> {
        if let Command::CreateCluster(create) = command {
            return self.create(create);
        }
        let version = self.cluster.as_ref().ok_or(Refusal::NoCluster)?.version;
        match command {
            Command::CreateCluster(_) => Err(Refusal::AlreadyCreated),
            Command::AddMember(add) => {
                let id = NodeId(self.applied);
                self.members.add(id, &add.member, add.at, version)?;
                Ok((Effect::Joined(id), vec![Touched::Members]))
            }
            Command::Incarnate { node, expected, start } => {
                if !self.members.incarnate(*node, *expected, start, version)? {
                    return Ok((Effect::Unchanged, Vec::new()));
                }
                let orphaned = self.segments.orphan(*node, start.incarnation)?;
                Ok((Effect::Done, touch_segments(orphaned, Touched::Members)))
            }
            Command::RemoveMember { node } => {
                let stood_by = self.segments.forget(*node)?;
                self.members.remove(*node)?;
                Ok((Effect::Done, touch_segments(stood_by, Touched::Members)))
            }
            Command::Assign(assign) => {
                let assigned = self.segments.assign(assign, &self.members)?;
                for &(segment, epoch) in &assigned {
                    blocks::renew(&mut self.sas, segment, epoch);
                }
                let touched = assigned.iter().map(|&(segment, _)| Touched::Segment(segment)).collect();
                Ok((Effect::Assigned(assigned), touched))
            }
            Command::Drain(drain) => {
                self.segments.drain(drain, &self.members)?;
                let touched = drain.segments.iter().map(|&(segment, _)| Touched::Segment(segment)).collect();
                Ok((Effect::Done, touched))
            }
            Command::Sa(change) => {
                self.segments.check_guard(&change.guard, &self.members)?;
                let written = self.sas.apply(&mut self.leases, self.applied, change)?;
                Ok((Effect::Done, written.into_iter().map(Touched::Ike).collect()))
            }
            Command::Reserve(reserve) => {
                self.segments.check_guard(&reserve.guard, &self.members)?;
                let reserved = blocks::reserve(&mut self.sas, reserve)?;
                let touched = reserved.granted.iter().filter_map(|&(child, _)| self.sas.find_child(child));
                let touched = touched.map(|(record, _)| Touched::Ike(record.spi)).collect();
                Ok((Effect::Reserved(reserved), touched))
            }
            Command::Configure(configure) => {
                let revision = self.configurations.configure(configure)?;
                Ok((Effect::Configured(revision), vec![Touched::Configuration]))
            }
            Command::RotateCookieSecret(rotate) => {
                let version = self.cookies.rotate(rotate)?;
                Ok((Effect::CookieSecret(version), vec![Touched::Cookies]))
            }
            Command::SetClusterVersion(version) => {
                let cluster = self.cluster.as_mut().ok_or(Refusal::NoCluster)?;
                cluster.set_version(*version, &self.members)?;
                Ok((Effect::Done, vec![Touched::Cluster]))
            }
        }
    }

    fn create(&mut self, create: &CreateCluster) -> Result<(Effect, Vec<Touched>), Refusal> {
        if self.cluster.is_some() {
            return Err(Refusal::AlreadyCreated);
        }
        if create.founder.0 >= self.applied {
            return Err(Refusal::UnknownNode);
        }
        let cluster = Cluster::create(&create.name, create.id, create.at)?;
        self.members.add(create.founder, &create.founder_as, create.at, cluster.version)?;
        self.cluster = Some(cluster);
        Ok((Effect::Joined(create.founder), vec![Touched::Cluster, Touched::Members]))
    }

    /// All invariants of all tables and between them. For what comes from outside (a snapshot) and for tests; the
    /// tables assert their own in each apply.
    pub fn check(&self) -> Result<(), &'static str> {
        let version = self.cluster.as_ref().map_or(0, |cluster| cluster.version);
        self.members.check(self.applied, version)?;
        self.segments.check(&self.members)?;
        self.sas.check(&self.leases)?;
        self.leases.check(self.applied)?;
        self.configurations.check()?;
        self.cookies.check()?;
        for record in self.sas.iter() {
            let grant = self.segments.get(record.segment());
            let fits = record.children.iter().all(|child| child.block.epoch == grant.epoch);
            members::ensure(fits, "a child whose block is not of its segment's epoch")?;
        }
        Ok(())
    }
}

/// What readers ask.
impl State {
    /// The index of the last command applied here.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// `None` before `CreateCluster`.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    pub fn members(&self) -> &Members {
        &self.members
    }

    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    pub fn segment(&self, segment: Segment) -> Grant {
        self.segments.get(segment)
    }

    /// True when the guard's process may act on its segment now.
    pub fn holds(&self, guard: &Guard) -> bool {
        self.segments.holds(guard)
    }

    pub fn sas(&self) -> &Sas {
        &self.sas
    }

    /// In the order of their SPIs.
    pub fn records(&self) -> impl Iterator<Item = &Arc<IkeRecord>> {
        self.sas.iter()
    }

    pub fn record(&self, spi: Spi) -> Option<&Arc<IkeRecord>> {
        self.sas.get(spi)
    }

    pub fn records_of(&self, segment: Segment) -> impl Iterator<Item = &Arc<IkeRecord>> {
        self.sas.of_segment(segment)
    }

    /// The IKE SAs of a peer, in all segments.
    pub fn records_of_peer(&self, peer: &Identity) -> impl Iterator<Item = &Arc<IkeRecord>> {
        self.sas.of_peer(peer)
    }

    /// The child that has this inbound SPI, with its IKE SA.
    pub fn find_child(&self, spi_in: ChildSpi) -> Option<(&Arc<IkeRecord>, &ChildRecord)> {
        self.sas.find_child(spi_in)
    }

    /// Also finds free addresses, for proposers.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    pub fn lease(&self, address: IpAddr) -> Option<&Lease> {
        self.leases.get(address)
    }

    /// What `peer` has in `network`, else what it had there last.
    pub fn lease_for(&self, peer: &Identity, network: &Network) -> Option<&Lease> {
        self.leases.lease_for(peer, network)
    }

    /// What is in force.
    pub fn configuration(&self) -> Option<&Arc<Configuration>> {
        self.configurations.current()
    }

    /// Oldest first; the last is in force.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Arc<Configuration>> {
        self.configurations.history()
    }

    /// A revision that is still kept.
    pub fn revision(&self, revision: u64) -> Option<&Arc<Configuration>> {
        self.configurations.get(revision)
    }

    pub fn cookies(&self) -> &Cookies {
        &self.cookies
    }
}

fn touch_segments(segments: Vec<Segment>, and: Touched) -> Vec<Touched> {
    segments.into_iter().map(Touched::Segment).chain([and]).collect()
}
