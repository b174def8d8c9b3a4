//! How packets reach this node, mode `announce`: addresses, routes, and answers to "who has" (DESIGN, section 7).
//!
//! ```text
//!              up                     set_networks                 hold
//!   addresses as /32 on the TUN   pool, remote -> TUN     answers ARP and ND on the devices,
//!   TUN up, MTU                   the same as blackhole   tells the link that it is here now
//!              down, crash            stays behind!                release
//! ```
//!
//! What opens traffic hangs on the TUN and vanishes with the process. What closes it, the blackhole routes, stays
//! (invariant I8): without them inner packets of clients would take the default route in clear. The next start
//! finds them by their route protocol and takes them over; `purge` removes them when the node leaves for good.
//!
//! The service address is on the TUN and not on the device, so that a crashed node's kernel does not go on answering
//! for it. Answering is therefore our job. Nothing of the administrator's is changed: a sysctl that does not fit is
//! an error or an advice with the command that mends it.

mod answer;
mod check;
mod error;
mod neighbour;
mod sysctl;

use std::net::IpAddr;
use std::time::Duration;

use ipsec::policy::Network;
use tokio::runtime;

use crate::io::netlink::{Link, Netlink, NetlinkError, Route, Via};

pub use answer::Answers;
pub use error::SteeringError;
pub use sysctl::Advice;

use answer::Answering;

/// What the TUN gets unless the configuration says otherwise: room for the outer headers within 1,500 octets.
pub const MTU_DEFAULT: u32 = 1_400;

/// Routes to the TUN win over the blackholes behind them, and both give way to what an administrator adds without a
/// metric.
pub const METRIC_OPEN: u32 = 50;
pub const METRIC_BLACKHOLE: u32 = 4_000_000;

/// What steering needs to know. The TUN exists already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub tun: String,
    /// Of the TUN, in octets.
    pub mtu: u32,
    pub outside: Side,
    pub inside: Side,
}

/// A device and the service addresses that are reached through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub device: String,
    pub addresses: Vec<ServiceAddress>,
}

/// An address with the prefix of the link that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceAddress {
    pub ip: IpAddr,
    pub prefix: u8,
}

/// Whether to ask the link for another holder before answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// When no other member of the cluster can hold the addresses: takes `PROBE_TIME`.
    Ask,
    /// At a takeover: the former holder may still answer, and time counts.
    Skip,
}

/// How long `Probe::Ask` listens for a stranger.
pub const PROBE_TIME: Duration = Duration::from_millis(400);

/// The node's addresses and routes, while it lives.
#[derive(Debug)]
pub struct Steering {
    /// `Some` until `down` or the drop takes it.
    installed: Option<Installed>,
    config: Config,
    /// Devices that have service addresses, each once.
    devices: Vec<(Link, Vec<IpAddr>)>,
    answering: Option<Answering>,
    advice: Vec<Advice>,
}

impl Steering {
    /// Checks the host, takes the TUN up and installs the service addresses on it. Nothing is answered for them
    /// before `hold`. On an error no address is left.
    pub async fn up(config: Config) -> Result<Steering, SteeringError> {
        let netlink = Netlink::open()?;
        let tun = check::device(&netlink, &config.tun, "inside.tun").await?;
        let mut devices: Vec<(Link, Vec<IpAddr>)> = Vec::new();
        for (section, side) in [("outside", &config.outside), ("inside", &config.inside)] {
            let link = check::side(&netlink, section, side, tun.index).await?;
            let ips = side.addresses.iter().map(|address| address.ip);
            match devices.iter_mut().find(|(known, _)| known.index == link.index) {
                Some((_, known)) => known.extend(ips),
                None => devices.push((link, ips.collect())),
            }
        }
        let advice = sysctl::check(&config)?;
        let ips = devices.iter().flat_map(|(_, ips)| ips.iter().copied()).collect();
        let installed = Installed { netlink, tun: tun.index, ips, networks: Vec::new() };
        if let Err(error) = installed.add_addresses(config.mtu).await {
            installed.remove().await;
            return Err(error.into());
        }
        Ok(Steering { installed: Some(installed), config, devices, answering: None, advice })
    }

    /// Settings of the host that work for one node but not for several, with what to do.
    pub fn advice(&self) -> &[Advice] {
        &self.advice
    }

    /// Routes these networks (pools, and what is behind peers) into the TUN, and nowhere when the TUN is gone. Routes
    /// of ours to other networks, also those that an earlier process left behind, are removed.
    pub async fn set_networks(&mut self, networks: &[Network]) -> Result<(), SteeringError> {
        let Some(installed) = &mut self.installed else { return Ok(()) };
        check::networks(&installed.netlink, networks, &self.config).await?;
        sysctl::check_forwarding(&self.config, networks.iter().map(|network| network.address))?;
        Ok(installed.set_networks(networks).await?)
    }

    pub fn networks(&self) -> &[Network] {
        self.installed.as_ref().map_or(&[], |installed| &installed.networks)
    }

    /// Answers for the service addresses from now on, and tells the link so: gratuitous ARP, unsolicited neighbour
    /// advertisements.
    pub async fn hold(&mut self, probe: Probe) -> Result<(), SteeringError> {
        if self.answering.is_none() {
            self.answering = Some(Answering::start(&self.devices, probe).await?);
        }
        Ok(())
    }

    /// Stops answering. Another node announces itself then; the link is told nothing by us.
    pub fn release(&mut self) {
        self.answering = None;
    }

    /// `None` while the addresses are not held.
    pub fn answers(&self) -> Option<Answers> {
        self.answering.as_ref().map(Answering::answers)
    }

    /// Stops answering, removes addresses and routes into the TUN. The blackholes stay.
    pub async fn down(mut self) {
        self.answering = None;
        if let Some(installed) = self.installed.take() {
            installed.remove().await;
        }
    }

    /// Removes every route of ours, the blackholes too: this node leaves the cluster for good. Works without `up`.
    pub async fn purge() -> Result<(), SteeringError> {
        let netlink = Netlink::open()?;
        for route in netlink.routes().await? {
            netlink.remove_route(route).await?;
        }
        Ok(())
    }
}

impl Drop for Steering {
    /// Without `down`: in a runtime the same is done soon, and the end of the TUN does it in any case.
    fn drop(&mut self) {
        if let (Some(installed), Ok(runtime)) = (self.installed.take(), runtime::Handle::try_current()) {
            runtime.spawn(async move { installed.remove().await });
        }
    }
}

/// What the kernel was given, and how to take it back.
#[derive(Debug)]
struct Installed {
    netlink: Netlink,
    tun: u32,
    ips: Vec<IpAddr>,
    networks: Vec<Network>,
}

impl Installed {
    async fn add_addresses(&self, mtu: u32) -> Result<(), NetlinkError> {
        self.netlink.set_up(self.tun, mtu).await?;
        for ip in &self.ips {
            self.netlink.add_host_address(self.tun, *ip).await?;
        }
        Ok(())
    }

    async fn set_networks(&mut self, networks: &[Network]) -> Result<(), NetlinkError> {
        self.networks = networks.to_vec();
        let closing: Vec<_> = self.routes(METRIC_BLACKHOLE, Via::Blackhole).collect();
        let opening: Vec<_> = self.routes(METRIC_OPEN, Via::Link(self.tun)).collect();
        // Close before opening; and take away what opens before what closes.
        for route in closing.iter().chain(&opening) {
            self.netlink.add_route(*route).await?;
        }
        let mut stale = self.netlink.routes().await?;
        stale.retain(|route| !closing.contains(route) && !opening.contains(route));
        stale.sort_by_key(|route| route.via == Via::Blackhole);
        for route in stale {
            self.netlink.remove_route(route).await?;
        }
        Ok(())
    }

    /// All but the blackholes. Goes on after an error: nobody can be given one on the way out, but nothing is hidden.
    async fn remove(&self) {
        let told = |result: Result<(), NetlinkError>| {
            if let Err(error) = result {
                tracing::warn!(%error, "steering is not cleaned up completely");
            }
        };
        for route in self.routes(METRIC_OPEN, Via::Link(self.tun)) {
            told(self.netlink.remove_route(route).await);
        }
        for ip in &self.ips {
            told(self.netlink.remove_host_address(self.tun, *ip).await);
        }
    }

    fn routes(&self, metric: u32, via: Via) -> impl Iterator<Item = Route> {
        self.networks.iter().map(move |&to| Route { to, via, metric })
    }
}
