//! The replicated state: what every node knows, changed by the log and by nothing else.
//!
//! ```text
//!   members    who belongs, which process runs          segments   who owns what, in which epoch
//!   sas        IKE SAs with their children              blocks     which ESP numbers may be sent
//!   pools      inner addresses                          config     the gateway configuration, its revisions
//!   tokens     who may join                           authority  who signs nodes into the cluster
//!   cookies    the secret of IKE_SA_INIT cookies        version    the cluster's name and version
//!   farewells  what stays of IKE SAs that have ended
//! ```
//!
//! `State` is a persistent value: a clone costs nothing and stays as it is, so readers hold one while the next
//! command is applied. `apply` is a function of the state, the index and the command: no clock, no randomness, no
//! order that depends on memory. Nodes with the same applied index therefore have the same `digest` (I10).
//!
//! A refused command changes nothing: it works on a copy, which is dropped.

mod authority;
mod blocks;
mod codec;
mod command;
mod config;
mod cookies;
mod farewells;
pub mod limits;
mod members;
mod outcome;
mod pools;
mod sas;
mod segments;
mod snapshot;
mod tokens;
mod version;

#[cfg(test)]
mod tests;

pub use authority::{Authority, KeyHash};
pub use blocks::{Reserve, Wanted};
pub use codec::DecodeError;
pub use command::{AddMember, Command, CreateCluster};
pub use config::{Configuration, Configurations, Configure};
pub use cookies::{Cookies, RotateCookieSecret};
pub use farewells::Farewells;
pub use members::{Draining, Member, Members, NewMember, NodeId, Pardon, Start, Suffrage};
pub use outcome::{Effect, Outcome, Refusal, Reserved, Touched};
pub use pools::{Lease, Leases, Tenure};
pub use sas::Sas;
pub use segments::{Assign, Cause, Grant, Owner, SegmentState, Segments, SetStandby, Takeover};
pub use snapshot::{SnapshotDecoder, SnapshotError};
pub use tokens::{CreateToken, Token, TokenId, TokenProof, TokenUse, Tokens};
pub use version::{Cluster, ClusterId, SPEAKS};

use std::net::IpAddr;
use std::sync::Arc;

use ipsec::policy::{Identity, Network};
use ipsec::record::{ChildRecord, Farewell, Guard, IkeRecord};
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
    farewells: Farewells,
    tokens: Tokens,
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
                let (id, touched) = self.add_member(add, version)?;
                Ok((Effect::Joined(id), touched))
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
                let deposed = self.segments.deposed_by(assign);
                let assigned = self.segments.assign(assign, &self.members)?;
                deposed.iter().for_each(|&node| self.members.deposed(node, self.applied));
                for &(segment, epoch) in &assigned {
                    blocks::renew(&mut self.sas, segment, epoch);
                }
                let mut touched: Vec<Touched> =
                    assigned.iter().map(|&(segment, _)| Touched::Segment(segment)).collect();
                touched.extend((!deposed.is_empty()).then_some(Touched::Members));
                Ok((Effect::Assigned(assigned), touched))
            }
            Command::SetStandby(set) => {
                self.segments.set_standby(set, &self.members)?;
                let touched = set.segments.iter().map(|&(segment, _)| Touched::Segment(segment)).collect();
                Ok((Effect::Done, touched))
            }
            Command::SetCutOff { node, incarnation, cut_off } => {
                if !self.members.set_cut_off(*node, *incarnation, *cut_off)? {
                    return Ok((Effect::Unchanged, Vec::new()));
                }
                Ok((Effect::Done, vec![Touched::Members]))
            }
            Command::SetDraining { node, draining } => {
                if !self.members.set_draining(*node, *draining)? {
                    return Ok((Effect::Unchanged, Vec::new()));
                }
                Ok((Effect::Done, vec![Touched::Members]))
            }
            Command::Pardon(pardon) => {
                self.members.pardon(pardon)?;
                Ok((Effect::Done, vec![Touched::Members]))
            }
            Command::Sa(change) => {
                self.segments.check_guard(&change.guard, &self.members)?;
                // Who recorded the messages that began an SA could begin it again, after its end.
                //= CL-20
                if change.begins().any(|spi| self.farewells.get(spi).is_some()) {
                    return Err(ipsec::record::Refusal::SpiTaken.into());
                }
                let written = self.sas.apply(&mut self.leases, self.applied, change)?;
                for &ended in written.iter().filter(|&&spi| self.sas.get(spi).is_none()) {
                    self.farewells.add(self.applied, change.farewell(ended));
                }
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
            Command::CreateToken(create) => {
                self.tokens.create(create)?;
                Ok((Effect::Done, vec![Touched::Tokens]))
            }
            Command::SetSuffrage { node, suffrage } => match self.members.set_suffrage(*node, *suffrage)? {
                true => Ok((Effect::Done, vec![Touched::Members])),
                false => Ok((Effect::Unchanged, Vec::new())),
            },
        }
    }

    /// A join that was cut off and comes again, with the same key, finds itself and takes no second use.
    fn add_member(&mut self, add: &AddMember, version: u32) -> Result<(NodeId, Vec<Touched>), Refusal> {
        if let Some(member) = self.members.joined_before(&add.member.name, add.key) {
            return Ok((member.id, Vec::new()));
        }
        let id = NodeId(self.applied);
        let suffrage = self.tokens.take(&add.token, add.at)?;
        let mut touched = vec![Touched::Members, Touched::Tokens];
        match add.replaces {
            None => self.members.add(id, &add.member, add.key, suffrage, add.at, version)?,
            Some(old) => {
                let stood_by = self.segments.forget(old)?;
                touched.extend(stood_by.into_iter().map(Touched::Segment));
                self.members.replace(old, id, &add.member, add.key, suffrage, add.at, version)?;
            }
        }
        Ok((id, touched))
    }

    fn create(&mut self, create: &CreateCluster) -> Result<(Effect, Vec<Touched>), Refusal> {
        if self.cluster.is_some() {
            return Err(Refusal::AlreadyCreated);
        }
        if create.founder.0 >= self.applied {
            return Err(Refusal::UnknownNode);
        }
        let cluster = Cluster::create(&create.name, create.id, &create.authority, create.at)?;
        let CreateCluster { founder, founder_as, founder_key, at, .. } = create;
        self.members.add(*founder, founder_as, *founder_key, Suffrage::Voter, *at, cluster.version)?;
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
        self.farewells.check(self.applied)?;
        self.tokens.check()?;
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

    /// What stays of an IKE SA that has ended a short while ago.
    pub fn farewell(&self, spi: Spi) -> Option<&Arc<Farewell>> {
        self.farewells.get(spi)
    }

    pub fn cookies(&self) -> &Cookies {
        &self.cookies
    }

    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }
}

fn touch_segments(segments: Vec<Segment>, and: Touched) -> Vec<Touched> {
    segments.into_iter().map(Touched::Segment).chain([and]).collect()
}
