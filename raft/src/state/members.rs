//! Who belongs to the cluster, and which process of each node is the running one.
//!
//! A node id is the log index of the join and is never used again: a node that lost its disk comes back as another
//! node. An incarnation is the random number of one process start. Grants name both, so neither a process that
//! was replaced nor one that replays its log can act on what was granted to another.
//!
//! Invariants: ids and names are unique; an id is not above the index that applied it; no two members share an
//! incarnation.
//!
//! Votes are openraft's matter (its membership entries); this table is what the rest of the gateway knows of nodes.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use ipsec::types::{Incarnation, Millis};

use super::limits::{ADDRESS_LEN_MAX, MEMBERS_MAX};
use super::outcome::Refusal;
use super::version::check_name;

/// A node, for ever: the log index of its join.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: NodeId,
    pub name: String,
    /// `host:port`, where the other nodes reach it.
    pub address: String,
    /// The release of its binary, for people.
    pub software: String,
    /// The highest cluster version that its binary speaks.
    pub speaks: u32,
    /// Of the running process; zero before the first start was committed.
    pub incarnation: Incarnation,
    /// UTC.
    pub joined_at: Millis,
    /// UTC; zero before the first start.
    pub started_at: Millis,
}

/// What a node says of itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    pub name: String,
    pub address: String,
    pub software: String,
    pub speaks: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Members {
    table: OrdMap<NodeId, Arc<Member>>,
}

impl Members {
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.table.get(&id).map(Arc::as_ref)
    }

    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.iter().find(|member| member.name == name)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.table.values().map(Arc::as_ref)
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// True when that process of that node is the one that runs, as far as the log knows.
    pub fn runs(&self, node: NodeId, incarnation: Incarnation) -> bool {
        incarnation != Incarnation(0)
            && self.get(node).is_some_and(|member| member.incarnation == incarnation)
    }

    pub(super) fn add(
        &mut self,
        id: NodeId,
        new: &NewMember,
        at: Millis,
        version: u32,
    ) -> Result<(), Refusal> {
        check_name(&new.name)?;
        check_texts(&new.address, &new.software)?;
        if self.by_name(&new.name).is_some() {
            return Err(Refusal::NameTaken);
        }
        if self.table.len() >= MEMBERS_MAX {
            return Err(Refusal::TooManyMembers);
        }
        if new.speaks < version {
            return Err(Refusal::SoftwareTooOld { needs: version });
        }
        // Ids are log indices, and each index is applied once.
        assert!(self.table.keys().all(|&known| known < id), "a node id is given once");
        let member = Member {
            id,
            name: new.name.clone(),
            address: new.address.clone(),
            software: new.software.clone(),
            speaks: new.speaks,
            incarnation: Incarnation(0),
            joined_at: at,
            started_at: Millis(0),
        };
        self.table.insert(id, Arc::new(member));
        Ok(())
    }

    /// A process of `node` has started. Saying so twice changes nothing the second time. True when it is news.
    pub(super) fn incarnate(
        &mut self,
        node: NodeId,
        expected: Incarnation,
        start: &Start,
        cluster_version: u32,
    ) -> Result<bool, Refusal> {
        check_texts(&start.address, &start.software)?;
        if start.speaks < cluster_version {
            return Err(Refusal::SoftwareTooOld { needs: cluster_version });
        }
        let taken = self.iter().any(|member| member.id != node && member.incarnation == start.incarnation);
        if taken || start.incarnation == Incarnation(0) {
            return Err(Refusal::BadIncarnation);
        }
        let member = self.table.get_mut(&node).ok_or(Refusal::UnknownNode)?;
        if member.incarnation == start.incarnation {
            return Ok(false);
        }
        if member.incarnation != expected {
            return Err(Refusal::IncarnationChanged { current: member.incarnation });
        }
        let member = Arc::make_mut(member);
        member.incarnation = start.incarnation;
        member.address.clone_from(&start.address);
        member.software.clone_from(&start.software);
        member.speaks = start.speaks;
        member.started_at = start.at;
        Ok(true)
    }

    pub(super) fn remove(&mut self, node: NodeId) -> Result<(), Refusal> {
        if self.get(node).is_none() {
            return Err(Refusal::UnknownNode);
        }
        if self.table.len() == 1 {
            return Err(Refusal::LastMember);
        }
        self.table.remove(&node);
        Ok(())
    }

    /// From a snapshot.
    pub(super) fn restore(&mut self, member: Member) -> Result<(), &'static str> {
        if self.by_name(&member.name).is_some() {
            return Err("two members of one name");
        }
        match self.table.insert(member.id, Arc::new(member)) {
            None => Ok(()),
            Some(_) => Err("two members of one id"),
        }
    }

    pub(super) fn check(&self, applied: u64, version: u32) -> Result<(), &'static str> {
        for member in self.iter() {
            ensure(member.id.0 <= applied, "a node id above the applied index")?;
            ensure(member.speaks >= version, "a member that does not speak the cluster's version")?;
            let alike = |other: &&Member| {
                other.id != member.id
                    && (other.name == member.name
                        || (other.incarnation == member.incarnation && member.incarnation.0 != 0))
            };
            ensure(self.iter().find(alike).is_none(), "two members alike")?;
        }
        Ok(())
    }
}

/// The start of a process, as it tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Fresh from the random source, never zero.
    pub incarnation: Incarnation,
    pub address: String,
    pub software: String,
    pub speaks: u32,
    /// UTC.
    pub at: Millis,
}

fn check_texts(address: &str, software: &str) -> Result<(), Refusal> {
    let good = |text: &str| {
        !text.is_empty() && text.len() <= ADDRESS_LEN_MAX && text.bytes().all(|c| c.is_ascii_graphic())
    };
    if good(address) && good(software) { Ok(()) } else { Err(Refusal::BadAddress) }
}

/// Turns a broken invariant into an error that names it.
pub(super) fn ensure(holds: bool, broken: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(broken) }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.0)
    }
}
