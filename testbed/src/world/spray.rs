//! A router that gives every single packet to a random next hop: harsher than any real one, which keeps flows together.
//!
//! It is the kernel of the machine whose packets are spread: a client's stands for the network in front of it.
//!
//! ```text
//!   packet for the service ── random mark 1..=n ── rule: mark i ─> table i ── via the own address of node i
//! ```

use std::net::Ipv4Addr;

use super::netns::Netns;
use crate::outcome::Result;

/// Of the rules; lower than that of the main table, so that they are asked first.
const PREFERENCE: u32 = 100;

/// From the next packet on what `machine` sends to `destination` (a prefix) goes to these next hops, in place of those
/// of the last call.
pub fn over(machine: &Netns, destination: &str, hops: &[Ipv4Addr]) -> Result {
    for (mark, hop) in (1..).zip(hops) {
        machine.ip(&format!("route replace {destination} via {hop} table {mark}"))?;
        // Added twice it would be there twice, which changes nothing but what a person reads.
        while machine.ip(&format!("rule del pref {PREFERENCE} fwmark {mark} table {mark}")).is_ok() {}
        machine.ip(&format!("rule add pref {PREFERENCE} fwmark {mark} table {mark}"))?;
    }
    let rules = format!(
        "table ip spray {{}}; delete table ip spray; table ip spray {{
           chain out {{
             type route hook output priority mangle;
             ip daddr {destination} meta mark set numgen random mod {} offset 1
           }}
         }}",
        hops.len()
    );
    machine.run("nft", &[&rules]).map(drop)
}
