//! A translator between the client and the outside that keeps no state of its own: its one mapping of ports is a rule,
//! so that a test can change it from one packet to the next, as a NAT does that has forgotten its client.
//!
//! ```text
//!   client 192.168.1.11 ── .1 nat .10 ── outside        4500 <-> the mapped port, 500 <-> the mapped port - 4000
//! ```

use super::CLIENT;
use super::fabric::{Fabric, Net, Port};
use super::netns::{self, Netns};
use crate::outcome::Result;

const INNER: &str = "192.168.1.11";
const ROUTER: &str = "192.168.1.1";
/// The port that stands for the client's 4500 at first.
pub const FIRST_PORT: u16 = 40_000;

/// The namespace between the client and the outside network.
pub fn between(fabric: &mut Fabric, client: &Netns) -> Result<Netns> {
    let nat = Netns::create("nat")?;
    fabric.connect(&Port::new(Net::Outside, "nat"), &nat, "outer")?;
    nat.address("outer", &format!("{CLIENT}/24"))?;
    netns::cable(client, "eth0", &nat, "inner")?;
    nat.address("inner", &format!("{ROUTER}/24"))?;
    client.address("eth0", &format!("{INNER}/24"))?;
    client.ip(&format!("route add default via {ROUTER}"))?;
    nat.sysctl("net.ipv4.ip_forward", "1")?;
    map(&nat, FIRST_PORT)?;
    Ok(nat)
}

/// From the next packet on `port` stands for the client's port 4500, and nothing for the one before.
pub fn map(nat: &Netns, port: u16) -> Result {
    let ike = port - 4_000;
    let rules = format!(
        "table ip nat {{}}; delete table ip nat; table ip nat {{
           chain in {{
             type filter hook prerouting priority -300;
             iifname outer ip daddr {CLIENT} udp dport {port} ip daddr set {INNER} udp dport set 4500 accept
             iifname outer ip daddr {CLIENT} udp dport {ike} ip daddr set {INNER} udp dport set 500 accept
             iifname outer ip daddr {CLIENT} ip protocol udp drop
           }}
           chain out {{
             type filter hook postrouting priority 100;
             oifname outer ip saddr {INNER} udp sport 4500 ip saddr set {CLIENT} udp sport set {port}
             oifname outer ip saddr {INNER} udp sport 500 ip saddr set {CLIENT} udp sport set {ike}
           }}
         }}"
    );
    nat.run("nft", &[&rules]).map(drop)
}
