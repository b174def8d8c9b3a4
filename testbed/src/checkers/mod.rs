//! Proves invariants (DESIGN, 2) from what was on the cables and what nodes and clients say: one file each, each with a
//! planted fault in its tests.
//!
//! A checker takes packets or views and gives the list of what is wrong. An empty list says nothing about an empty capture, so
//! every checker also counts what it looked at.

pub mod i10_equal;
pub mod i1_no_repeats;
pub mod i2_within_blocks;
pub mod i3_same_bytes;
pub mod i4_survives;
pub mod i5_stays_deleted;
pub mod i6_one_owner;
pub mod i7_once;
pub mod i8_closed;
pub mod i9_one_client;
pub mod pcap;
pub mod revisions;
pub mod view;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::str::FromStr;

use crate::ensure;
use crate::outcome::{Result, Stop};

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
        let shown = self.violations.iter().take(5).cloned().collect::<Vec<_>>().join("\n  ");
        ensure!(
            self.violations.is_empty(),
            "{invariant}: {} violations in {} packets:\n  {shown}",
            self.violations.len(),
            self.judged
        );
        ensure!(self.judged > 0, "{invariant}: the capture holds nothing to judge");
        Ok(())
    }
}

/// A prefix, as `10.99.0.0/16`. Not the one of the crate that is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    bits: u128,
    mask: u128,
    ipv4: bool,
}

impl Network {
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ipv4 && bits(ip) & self.mask == self.bits
    }
}

impl FromStr for Network {
    type Err = Stop;

    fn from_str(text: &str) -> Result<Network> {
        let wrong = || Stop::Failed(format!("{text} is no network"));
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let prefix: u32 = prefix.parse().map_err(|_| wrong())?;
        // IPv4 stands in the upper bits, so that one mask serves both.
        let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
        Ok(Network { bits: bits(ip) & mask, mask, ipv4: ip.is_ipv4() })
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// Tells contents apart without keeping them. Nobody chooses these contents to collide.
fn fingerprint(octets: &[u8]) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    octets.hash(&mut hasher);
    (octets.len(), hasher.finish())
}
