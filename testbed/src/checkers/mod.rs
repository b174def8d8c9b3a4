//! Proves invariants (DESIGN, 2) from what was on the cable: one file each, each with a planted fault in its tests.
//!
//! A checker takes packets and gives the list of what is wrong. An empty list says nothing about an empty capture, so
//! every checker also counts what it looked at.

pub mod i1_no_repeats;
pub mod i2_within_blocks;
pub mod i3_same_bytes;
pub mod i8_closed;
pub mod pcap;

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::ensure;
use crate::outcome::Result;

/// What a checker found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Packets or messages that were judged.
    pub judged: u64,
    pub violations: Vec<String>,
}

impl Report {
    /// An error naming the first violations, or saying that there was nothing to judge.
    pub fn must_hold(&self, invariant: &str) -> Result {
        ensure!(self.judged > 0, "{invariant}: the capture holds nothing to judge");
        let shown = self.violations.iter().take(5).cloned().collect::<Vec<_>>().join("\n  ");
        ensure!(
            self.violations.is_empty(),
            "{invariant}: {} violations in {} packets:\n  {shown}",
            self.violations.len(),
            self.judged
        );
        Ok(())
    }
}

/// Tells contents apart without keeping them. Nobody chooses these contents to collide.
fn fingerprint(octets: &[u8]) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    octets.hash(&mut hasher);
    (octets.len(), hasher.finish())
}
