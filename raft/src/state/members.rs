//! Who belongs to the cluster, and which process of each node is the running one.
//!
//! A node id is the log index of the join and is never used again: a node that lost its disk comes back as another
//! node. An incarnation is the random number of one process start. Grants name both, so neither a process that
//! was replaced nor one that replays its log can act on what was granted to another.
//!
//! Invariants: ids and names are unique; an id is not above the index that applied it; no two members share an
//! incarnation or a key; somebody votes.
//!
//! Votes are openraft's matter (its membership entries). This table says who shall have one: the Raft leader makes the
//! entries follow it.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use ipsec::types::{Incarnation, Millis};

use super::authority::KeyHash;
use super::limits::{ADDRESS_LEN_MAX, MEMBERS_MAX};
use super::outcome::Refusal;
use super::version::check_name;

/// A node, for ever: the log index of its join.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

/// Whether a member votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Suffrage {
    Voter = 1,
    /// Gets the log, decides nothing.
    Learner = 2,
}

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
    /// Of the key in its certificate.
    pub key: KeyHash,
    /// What it shall be: a joiner votes only once it has caught up, and one that leaves before it is gone.
    pub suffrage: Suffrage,
    /// The member whose place it took: that one's vote passes to it in one membership change.
    pub replaces: Option<NodeId>,
    /// Of the running process; zero before the first start was committed.
    pub incarnation: Incarnation,
    /// UTC.
    pub joined_at: Millis,
    /// UTC; zero before the first start.
    pub started_at: Millis,
    pub draining: Draining,
    /// How often a process of this node was pardoned. Promises to acknowledge it no more are about one standing.
    pub standing: u64,
    /// The index at which a segment that it served was last given to another process: who has not applied that far must
    /// not be acknowledged, since it may still write for that segment. Zero: never.
    pub taken_at: u64,
    /// A device of its outside or inside has lost its carrier: others should own what it owned.
    pub cut_off: bool,
}

/// Whether a node is to own segments. One that drains goes on with those that nobody else can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Draining {
    /// It takes its share.
    #[default]
    No = 0,
    /// Its process is to stop: until its next start.
    UntilStart = 1,
    /// An administrator wants it: until an administrator says otherwise.
    UntilUndrain = 2,
}

/// Takes back all promises about the process that runs on `node`, and with them what was decided on them but is not
/// committed yet: it was silent, and is there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pardon {
    pub node: NodeId,
    /// The one that the proposer saw; one higher afterwards.
    pub standing: u64,
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

    /// The member that has joined with this name and key before: a join that was cut off goes on with it.
    pub fn joined_before(&self, name: &str, key: KeyHash) -> Option<&Member> {
        self.by_name(name).filter(|member| member.key == key)
    }

    pub(super) fn add(
        &mut self,
        id: NodeId,
        new: &NewMember,
        key: KeyHash,
        suffrage: Suffrage,
        at: Millis,
        version: u32,
    ) -> Result<(), Refusal> {
        check_name(&new.name)?;
        check_texts(&new.address, &new.software)?;
        if self.by_name(&new.name).is_some() {
            return Err(Refusal::NameTaken);
        }
        if self.iter().any(|member| member.key == key) {
            return Err(Refusal::KeyTaken);
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
            key,
            suffrage,
            replaces: None,
            incarnation: Incarnation(0),
            joined_at: at,
            started_at: Millis(0),
            draining: Draining::No,
            standing: 0,
            taken_at: 0,
            cut_off: false,
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
        member.cut_off = false;
        if member.draining == Draining::UntilStart {
            member.draining = Draining::No;
        }
        Ok(true)
    }

    /// True when it is news. A stop does not weaken what an administrator wants.
    pub(super) fn set_draining(&mut self, node: NodeId, draining: Draining) -> Result<bool, Refusal> {
        let member = self.table.get_mut(&node).ok_or(Refusal::UnknownNode)?;
        let stays = member.draining == draining
            || (member.draining, draining) == (Draining::UntilUndrain, Draining::UntilStart);
        if !stays {
            Arc::make_mut(member).draining = draining;
        }
        Ok(!stays)
    }

    /// What a process of `node` tells of its devices; of another process it is old news. True when it is news.
    pub(super) fn set_cut_off(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        cut_off: bool,
    ) -> Result<bool, Refusal> {
        if !self.runs(node, incarnation) {
            return Err(Refusal::NotRunning);
        }
        let member = self.table.get_mut(&node).ok_or(Refusal::UnknownNode)?;
        let news = member.cut_off != cut_off;
        if news {
            Arc::make_mut(member).cut_off = cut_off;
        }
        Ok(news)
    }

    pub(super) fn pardon(&mut self, pardon: &Pardon) -> Result<(), Refusal> {
        let member = self.table.get_mut(&pardon.node).ok_or(Refusal::UnknownNode)?;
        if member.standing != pardon.standing {
            return Err(Refusal::StandingChanged { current: member.standing });
        }
        Arc::make_mut(member).standing += 1;
        Ok(())
    }

    /// A segment that a process of `node` served belongs to another one from `index` on.
    pub(super) fn deposed(&mut self, node: NodeId, index: u64) {
        if let Some(member) = self.table.get_mut(&node) {
            Arc::make_mut(member).taken_at = index;
        }
    }

    pub(super) fn remove(&mut self, node: NodeId) -> Result<(), Refusal> {
        if self.get(node).is_none() {
            return Err(Refusal::UnknownNode);
        }
        if self.table.len() == 1 {
            return Err(Refusal::LastMember);
        }
        self.check_not_last_voter(node)?;
        self.table.remove(&node);
        Ok(())
    }

    /// `new` comes in the place of `old`, in one step: nobody is without a successor, not even the last voter.
    pub(super) fn replace(
        &mut self,
        old: NodeId,
        id: NodeId,
        new: &NewMember,
        key: KeyHash,
        suffrage: Suffrage,
        at: Millis,
        version: u32,
    ) -> Result<(), Refusal> {
        match self.by_name(&new.name) {
            Some(member) if member.id == old => {}
            Some(_) => return Err(Refusal::NameTaken),
            None => return Err(Refusal::UnknownNode),
        }
        if suffrage == Suffrage::Learner {
            self.check_not_last_voter(old)?;
        }
        self.table.remove(&old);
        self.add(id, new, key, suffrage, at, version)?;
        let member = self.table.get_mut(&id).expect("it was just added");
        Arc::make_mut(member).replaces = Some(old);
        Ok(())
    }

    /// True when it is news.
    pub(super) fn set_suffrage(&mut self, node: NodeId, suffrage: Suffrage) -> Result<bool, Refusal> {
        let member = self.get(node).ok_or(Refusal::UnknownNode)?;
        if member.suffrage == suffrage {
            return Ok(false);
        }
        self.check_not_last_voter(node)?;
        let member = self.table.get_mut(&node).expect("it was just found");
        Arc::make_mut(member).suffrage = suffrage;
        Ok(true)
    }

    fn check_not_last_voter(&self, node: NodeId) -> Result<(), Refusal> {
        let another = self.iter().any(|member| member.id != node && member.suffrage == Suffrage::Voter);
        let votes = self.get(node).is_some_and(|member| member.suffrage == Suffrage::Voter);
        if votes && !another { Err(Refusal::LastVoter) } else { Ok(()) }
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
        let voters = self.iter().filter(|member| member.suffrage == Suffrage::Voter).count();
        ensure(voters > 0 || self.is_empty(), "members and none of them votes")?;
        for member in self.iter() {
            ensure(member.id.0 <= applied, "a node id above the applied index")?;
            ensure(member.taken_at <= applied, "segments taken above the applied index")?;
            ensure(member.speaks >= version, "a member that does not speak the cluster's version")?;
            let alike = |other: &&Member| {
                other.id != member.id
                    && (other.name == member.name
                        || other.key == member.key
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
