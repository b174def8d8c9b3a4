//! The cables of a cluster: three bridges in a namespace of their own, with one port for each machine on each.
//!
//! ```text
//!              outside                     inside                      link
//!   client ──┐  198.51.100.0/24  server ──┐  10.10.0.0/24, fd00:10::  198.18.0.0/24
//!            ├── edge-1  .11              ├── edge-1  .11             ├── edge-1  .11
//!            ├── edge-2  .12              ├── edge-2  .12             ├── edge-2  .12
//! ```
//!
//! Faults happen here and not on the machines: a pulled cable takes the carrier from a device and leaves its addresses,
//! and a rule on the bridge loses what one machine sends to another. Here is also where everything is recorded: each
//! frame once, at the port where it came in, so that its sender is known.
//!
//! A *rough* fabric has a switch in userspace in the place of the bridges `ROUGH`, for faults drawn by a seed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::capture::{Capture, Extent};
use super::netns::{self, Netns};
use super::switch::{Damage, Switch, Way};
use crate::outcome::{Context, Result, Stop};

/// What a switch in userspace stands in for: where nodes talk to each other and to their clients.
pub const ROUGH: [Net; 2] = [Net::Outside, Net::Link];

/// One of the bridges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Net {
    Outside,
    Inside,
    Link,
}

impl Net {
    pub const ALL: [Net; 3] = [Net::Outside, Net::Inside, Net::Link];

    fn word(self) -> &'static str {
        match self {
            Net::Outside => "out",
            Net::Inside => "in",
            Net::Link => "link",
        }
    }

    fn bridge(self) -> String {
        format!("br-{}", self.word())
    }
}

/// Where a frame came in: which machine sent it, on which network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub net: Net,
    pub machine: String,
}

impl Port {
    pub fn new(net: Net, machine: &str) -> Port {
        Port { net, machine: machine.to_owned() }
    }
}

/// The device's name on the switch; the kernel allows 15 characters.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.net.word(), self.machine)
    }
}

/// The switch with its bridges.
#[derive(Debug)]
pub struct Fabric {
    switch: Netns,
    rough: Option<Switch>,
}

impl Fabric {
    /// With a seed: a rough one.
    pub fn new(seed: Option<u64>) -> Result<Fabric> {
        let switch = Netns::create("switch")?;
        for net in Net::ALL {
            let bridge = net.bridge();
            switch.ip(&format!("link add {bridge} type bridge forward_delay 0"))?;
            switch.ip(&format!("link set {bridge} up"))?;
        }
        switch.run(
            "nft",
            &["add table bridge faults; add chain bridge faults forward { type filter hook forward priority 0; }"],
        )?;
        Ok(Fabric { switch, rough: seed.map(Switch::start).transpose()? })
    }

    /// Connects `device` of a machine to a network.
    pub fn connect(&mut self, port: &Port, machine: &Netns, device: &str) -> Result {
        if let Some(rough) = self.rough.as_mut().filter(|_| ROUGH.contains(&port.net)) {
            return rough.connect(port, machine, device);
        }
        netns::cable(machine, device, &self.switch, &port.to_string())?;
        self.switch.ip(&format!("link set {port} master {}", port.net.bridge())).map(drop)
    }

    /// Pulls a cable, or puts it in again.
    pub fn plugged(&self, port: &Port, plugged: bool) -> Result {
        if self.rough.is_some() && ROUGH.contains(&port.net) {
            return Err(Stop::from("a rough fabric has no cables to pull: cut its ways"));
        }
        let state = if plugged { "up" } else { "down" };
        self.switch.ip(&format!("link set {port} {state}")).map(drop)
    }

    /// From now on, and at once for all, nothing of what `from` sends reaches `to`.
    pub fn lose(&self, ways: &[(Port, Port)]) -> Result {
        if self.rough.is_some() {
            let cut = Way { cut: true, ..Way::default() };
            let ways: Vec<_> = ways.iter().map(|(from, to)| (from.clone(), to.clone(), cut)).collect();
            return self.set(&ways);
        }
        let rule = |(from, to): &(Port, Port)| {
            format!("add rule bridge faults forward iifname {from} oifname {to} drop; ")
        };
        self.switch.run("nft", &[&ways.iter().map(rule).collect::<String>()]).map(drop)
    }

    /// On a rough fabric: how frames fare from now on, and at once, on all of these ways.
    pub fn set(&self, ways: &[(Port, Port, Way)]) -> Result {
        self.rough.as_ref().context("the fabric is not rough")?.set(ways)
    }

    /// On a rough fabric: what was done to frames so far.
    pub fn damage(&self) -> Damage {
        self.rough.as_ref().map(Switch::damage).unwrap_or_default()
    }

    /// From now on the frames that `matching` (nftables' words) describes are lost.
    pub fn rule(&self, matching: &str) -> Result {
        self.switch.run("nft", &[&format!("add rule bridge faults forward {matching}")]).map(drop)
    }

    /// How many frames rules with a `counter` have met since the last `heal`.
    pub fn met(&self) -> Result<u64> {
        let chain = self.switch.run("nft", &["list chain bridge faults forward"])?;
        let counts =
            chain.lines().filter_map(|line| line.split_once("counter packets ")?.1.split(' ').next());
        counts.map(|count| count.parse::<u64>().context(count)).sum()
    }

    /// Ends all losses; pulled cables stay pulled.
    pub fn heal(&self) -> Result {
        self.rough.iter().for_each(Switch::heal);
        self.switch.run("nft", &["flush chain bridge faults forward"]).map(drop)
    }

    /// Records what comes in at every port. A rough fabric records its own part in a second file.
    pub fn capture(&self, file: &Path, extent: Extent) -> Result<Capture> {
        if let Some(rough) = &self.rough {
            rough.record(&file.with_extension("rough.pcap"), extent.octets().unwrap_or(usize::MAX))?;
        }
        Capture::start_on_all(&self.switch, file, extent)
    }

    /// How much later than it was sent a frame may be stamped. A kernel's bridge does it at once; each port of a switch in
    /// userspace has a thread, which may have to wait for a processor.
    pub fn stamp_slack_us(&self) -> u64 {
        if self.rough.is_some() { 20_000 } else { 0 }
    }

    /// Ends the recording of a rough fabric; `None` where there is none.
    pub fn recorded(&self) -> Result<Option<PathBuf>> {
        self.rough.as_ref().map_or(Ok(None), Switch::recorded)
    }

    /// The ports by the numbers that a recording has for them.
    pub fn ports(&self) -> Result<BTreeMap<u32, Port>> {
        let text = self.switch.ip("-o link show")?;
        let mut ports = self.rough.as_ref().map(Switch::ports).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split([':', '@', ' ']).filter(|word| !word.is_empty());
            let (Some(number), Some(name)) = (words.next(), words.next()) else { continue };
            let found = Net::ALL.into_iter().find_map(|net| {
                let machine = name.strip_prefix(net.word())?.strip_prefix('-')?;
                Some(Port::new(net, machine))
            });
            if let Some(port) = found {
                ports.insert(number.parse().context(line)?, port);
            }
        }
        Ok(ports)
    }
}
