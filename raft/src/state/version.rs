//! The cluster and its version: how a new behaviour starts on all nodes at the same log index.
//!
//! A binary speaks every version up to its own. New behaviour is coded as "from version N on" and starts when
//! `SetClusterVersion(N)` is applied, which is refused until every member says that it speaks N. So binaries of
//! two releases run together, and each computes the same state as the other (DESIGN 8).
//!
//! Invariants: a version never falls; no member speaks less than the version in force.

use std::fmt;

use ipsec::types::Millis;

use super::authority::Authority;
use super::limits::{AUTHORITY_LEN_MAX, NAME_LEN_MAX};
use super::members::Members;
use super::outcome::Refusal;

/// The highest cluster version that this binary speaks.
pub const SPEAKS: u32 = 1;

/// What `init` made: names the cluster for ever. Two clusters never share an id, whatever their names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub name: String,
    pub id: ClusterId,
    /// UTC.
    pub created_at: Millis,
    pub version: u32,
    /// Who signs nodes into it.
    pub authority: Authority,
}

impl Cluster {
    pub(super) fn create(
        name: &str,
        id: ClusterId,
        authority: &Authority,
        at: Millis,
    ) -> Result<Cluster, Refusal> {
        check_name(name)?;
        if authority.certificate.len() > AUTHORITY_LEN_MAX || authority.key.len() > AUTHORITY_LEN_MAX {
            return Err(Refusal::TooLarge);
        }
        let authority = authority.clone();
        Ok(Cluster { name: name.to_owned(), id, created_at: at, version: 1, authority })
    }

    pub(super) fn set_version(&mut self, version: u32, members: &Members) -> Result<(), Refusal> {
        if version <= self.version {
            return Err(Refusal::VersionNotHigher { current: self.version });
        }
        if let Some(member) = members.iter().find(|member| member.speaks < version) {
            return Err(Refusal::VersionNotSpoken { node: member.id });
        }
        self.version = version;
        Ok(())
    }
}

/// Names are shown in tables and are labels of metrics: short, printable, no blanks.
pub(super) fn check_name(name: &str) -> Result<(), Refusal> {
    let good = !name.is_empty() && name.len() <= NAME_LEN_MAX && name.bytes().all(|c| c.is_ascii_graphic());
    if good { Ok(()) } else { Err(Refusal::BadName) }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}
