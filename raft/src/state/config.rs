//! The gateway configuration, with the revisions before it.
//!
//! The text is kept as the administrator wrote it, next to the octets of the files that it names: a node parses,
//! the state does not. The proposer has checked it. A rollback is a new revision with an older one's content, so
//! that the history only ever grows at its end.
//!
//! Invariants: revisions are numbered from 1 without a gap; the last one is in force; at most `HISTORY_MAX` stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use crypto::Secret;
use imbl::OrdMap;
use ipsec::types::Millis;

use super::limits::{COMMENT_LEN_MAX, CONFIGURATION_LEN_MAX, FILES_LEN_MAX, FILES_MAX, HISTORY_MAX};
use super::members::ensure;
use super::outcome::Refusal;

/// One revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// From 1; zero is "nothing configured yet".
    pub revision: u64,
    pub toml: String,
    /// By the name that the text uses.
    pub files: BTreeMap<String, Secret>,
    pub comment: String,
    /// UTC.
    pub at: Millis,
    /// Who applied it, for people.
    pub by: String,
}

/// Puts a new revision in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Configure {
    /// In force when the proposer looked; zero for the first.
    pub expected_revision: u64,
    pub toml: String,
    pub files: BTreeMap<String, Secret>,
    pub comment: String,
    pub at: Millis,
    pub by: String,
}

#[derive(Clone, Debug, Default)]
pub struct Configurations {
    history: OrdMap<u64, Arc<Configuration>>,
}

impl Configurations {
    /// What is in force.
    pub fn current(&self) -> Option<&Arc<Configuration>> {
        self.history.get_max().map(|(_, configuration)| configuration)
    }

    pub fn revision(&self) -> u64 {
        self.current().map_or(0, |configuration| configuration.revision)
    }

    pub fn get(&self, revision: u64) -> Option<&Arc<Configuration>> {
        self.history.get(&revision)
    }

    /// Oldest first; the last is in force.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Arc<Configuration>> {
        self.history.values()
    }

    /// Returns the new revision.
    pub(super) fn configure(&mut self, configure: &Configure) -> Result<u64, Refusal> {
        let current = self.revision();
        if configure.expected_revision != current {
            return Err(Refusal::ConfigurationChanged { current });
        }
        let files_len: usize = configure.files.iter().map(|(name, octets)| name.len() + octets.len()).sum();
        let fits = configure.toml.len() <= CONFIGURATION_LEN_MAX
            && configure.files.len() <= FILES_MAX
            && files_len <= FILES_LEN_MAX
            && configure.comment.len() <= COMMENT_LEN_MAX
            && configure.by.len() <= COMMENT_LEN_MAX;
        if !fits {
            return Err(Refusal::TooLarge);
        }
        let revision = current + 1;
        let configuration = Configuration {
            revision,
            toml: configure.toml.clone(),
            files: configure.files.clone(),
            comment: configure.comment.clone(),
            at: configure.at,
            by: configure.by.clone(),
        };
        self.history.insert(revision, Arc::new(configuration));
        if self.history.len() > HISTORY_MAX {
            let oldest = revision - HISTORY_MAX as u64;
            assert!(self.history.remove(&oldest).is_some(), "revisions have no gap");
        }
        Ok(revision)
    }

    /// From a snapshot.
    pub(super) fn restore(&mut self, configuration: Configuration) -> Result<(), &'static str> {
        let revision = configuration.revision;
        ensure(self.history.insert(revision, Arc::new(configuration)).is_none(), "a revision twice")
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        ensure(self.history.len() <= HISTORY_MAX, "too many revisions")?;
        let Some(&(first, _)) = self.history.get_min() else { return Ok(()) };
        ensure(first > 0, "revisions count from one")?;
        ensure(self.revision() - first + 1 == self.history.len() as u64, "a gap in the revisions")?;
        ensure(first == 1 || self.history.len() == HISTORY_MAX, "a revision was forgotten too early")?;
        ensure(self.history.iter().all(|(&key, it)| key == it.revision), "a revision under another number")
    }
}
