//! How packets reach this node: addresses, routes, and answers to "who has" (DESIGN, section 7).
//!
//! ```text
//!              up                     Ways::set                    hold
//!   addresses as /32 on the TUN   pool, remote -> TUN     answers ARP and ND on the devices,
//!   TUN up, MTU                   the same as blackhole   tells the link that it is here now
//!              down, crash            stays behind!                release
//!
//!   announce     one node answers with its own Ethernet address; the others have the address and are silent
//!   shared-mac   all answer with one group address, so all are shown all; `filter` keeps what is ours
//!   external     nobody answers: a router knows the nodes by their own addresses
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
mod filter;
mod neighbour;
mod reception;
mod sysctl;
mod ways;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;

use crate::datapath::relay;
use crate::io::netlink::{Link, Netlink, NetlinkError};
use crate::mesh;

pub use answer::Answers;
pub use error::SteeringError;
pub use filter::Filter;
pub use reception::Deaf;
pub use sysctl::Advice;
pub use ways::{METRIC_BLACKHOLE, METRIC_OPEN, Ways};

use answer::Answering;
use reception::Reception;

/// What the TUN gets at most: room for the outer headers within 1,500 octets.
pub const MTU_DEFAULT: u32 = 1_400;

/// The least that IPv6 wants of a link (RFC 8200, 5); a TUN of ours never gets less.
const MTU_MIN: u32 = 1_280;

/// What travels between nodes around an inner packet (CL-39): the headers of IP and UDP, the seal, our own.
const RELAY_HEADERS_V4: u32 = 20 + 8 + (mesh::OVERHEAD + relay::frame::INNER_LEN) as u32;
const RELAY_HEADERS_V6: u32 = RELAY_HEADERS_V4 + 20;

/// What steering needs to know. The TUN exists already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub tun: String,
    /// Of the TUN, in octets, if the link between the nodes has room for it.
    pub mtu: u32,
    /// Our own address on that link.
    pub between: Option<IpAddr>,
    pub outside: Side,
    pub inside: Side,
}

/// A device and the service addresses that are reached through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub device: String,
    pub addresses: Vec<ServiceAddress>,
    pub mode: Mode,
}

/// How neighbours find the service addresses of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One node holds them, and passes on what is served elsewhere.
    Announce,
    /// All nodes answer with one Ethernet address, which is a group.
    SharedMac,
    /// Nobody asks: a router has the nodes as next hops.
    External,
}

/// A device with the service addresses of one mode.
#[derive(Debug)]
struct Device {
    link: Link,
    mode: Mode,
    ips: Vec<IpAddr>,
    /// The node's own addresses in their subnets.
    own: Vec<IpAddr>,
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

/// Whether this node still has the right to the addresses, asked at the moment of each frame: what waited in a socket
/// while the process was stopped must not be answered by a holder that is none any more.
pub type Entitled = Arc<dyn Fn() -> bool + Send + Sync>;

/// How long `Probe::Ask` listens for a stranger.
pub const PROBE_TIME: Duration = Duration::from_millis(400);

/// The node's addresses and routes, while it lives.
#[derive(Debug)]
pub struct Steering {
    /// `Some` until `down` or the drop takes it.
    installed: Option<Installed>,
    config: Config,
    /// Each once for a mode.
    devices: Vec<Device>,
    answering: Option<Answering>,
    sharing: Option<Answering>,
    receptions: Vec<Reception>,
    /// Until it is asked for.
    filter: Option<Filter>,
}

impl Steering {
    /// Checks the host, takes the TUN up and installs the service addresses on it. Nothing is answered for them
    /// before `hold`. On an error no address is left. The routes are a matter of their own.
    pub async fn up(config: Config) -> Result<(Steering, Ways), SteeringError> {
        let netlink = Netlink::open()?;
        let tun = check::device(&netlink, &config.tun, "inside.tun").await?;
        let mut devices: Vec<Device> = Vec::new();
        for (section, side) in [("outside", &config.outside), ("inside", &config.inside)] {
            let (link, own) = check::side(&netlink, section, side, tun.index).await?;
            let (mode, ips) = (side.mode, side.addresses.iter().map(|address| address.ip));
            match devices.iter_mut().find(|known| (known.link.index, known.mode) == (link.index, mode)) {
                Some(known) => {
                    known.ips.extend(ips);
                    known.own.extend(own);
                }
                None => devices.push(Device { link, mode, ips: ips.collect(), own }),
            }
        }
        sysctl::check(&config)?;
        let shared = devices.iter().filter(|device| device.mode == Mode::SharedMac);
        let shared: BTreeSet<u32> = shared.map(|device| device.link.index).collect();
        let filter = match shared.is_empty() {
            true => None,
            false => Some(Filter::open(&shared).map_err(SteeringError::filter)?),
        };
        let ips = devices.iter().flat_map(|device| device.ips.iter().copied()).collect();
        let ways = Ways::new(Netlink::open()?, tun.index, config.clone());
        let installed = Installed { netlink, tun: tun.index, ips };
        let mtu = match config.between {
            Some(own) => config.mtu.min(check::inner_mtu(&installed.netlink, own).await?),
            None => config.mtu,
        };
        if let Err(error) = installed.add_addresses(mtu).await {
            installed.remove().await;
            return Err(error.into());
        }
        let steering = Steering {
            installed: Some(installed),
            config,
            devices,
            answering: None,
            sharing: None,
            receptions: Vec::new(),
            filter,
        };
        Ok((steering, ways))
    }

    /// Settings of the host, as they are now, that work for one node but not for several, with what to do.
    pub fn advice(&self) -> Vec<Advice> {
        sysctl::advice(&self.config)
    }

    /// Mode `announce`: answers for the service addresses from now on, and tells the link so: gratuitous ARP,
    /// unsolicited neighbour advertisements.
    pub async fn hold(&mut self, probe: Probe, entitled: Entitled) -> Result<(), SteeringError> {
        if self.answering.is_none() {
            self.answering = Some(Answering::start(self.of(Mode::Announce), probe, &entitled).await?);
        }
        Ok(())
    }

    /// Mode `shared-mac`: answers for the service addresses from now on, as every node does.
    pub async fn share(&mut self, entitled: Entitled) -> Result<(), SteeringError> {
        if self.sharing.is_none() {
            let mut receptions = Vec::new();
            for device in self.of(Mode::SharedMac) {
                receptions.extend(Reception::start(device)?);
            }
            self.receptions = receptions;
            self.sharing = Some(Answering::start(self.of(Mode::SharedMac), Probe::Skip, &entitled).await?);
        }
        Ok(())
    }

    /// The filter of mode `shared-mac`, for whoever knows what is served here. It goes with its last owner.
    pub fn take_filter(&mut self) -> Option<Filter> {
        self.filter.take()
    }

    fn of(&self, mode: Mode) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(move |device| device.mode == mode)
    }

    /// Stops answering. Another node announces itself then; the link is told nothing by us.
    pub fn release(&mut self) {
        self.answering = None;
    }

    /// `None` while the addresses are not held.
    pub fn answers(&self) -> Option<Answers> {
        self.answering.as_ref().map(Answering::answers)
    }

    /// Where frames to a shared address do not arrive. Means something only while another node sends them.
    pub fn deaf(&self) -> Vec<Deaf> {
        self.receptions.iter().filter_map(Reception::deaf).collect()
    }

    /// The same of `share`.
    pub fn shared(&self) -> Option<Answers> {
        self.sharing.as_ref().map(Answering::answers)
    }

    /// Stops answering and removes the addresses.
    pub async fn down(mut self) {
        (self.answering, self.sharing) = (None, None);
        self.receptions.clear();
        if let Some(installed) = self.installed.take() {
            installed.remove().await;
        }
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
}

impl Installed {
    async fn add_addresses(&self, mtu: u32) -> Result<(), NetlinkError> {
        self.netlink.set_up(self.tun, mtu).await?;
        for ip in &self.ips {
            self.netlink.add_host_address(self.tun, *ip).await?;
        }
        Ok(())
    }

    /// Goes on after an error.
    async fn remove(&self) {
        for ip in &self.ips {
            told(self.netlink.remove_host_address(self.tun, *ip).await);
        }
    }
}

/// On the way out nobody can be given an error, but nothing is hidden.
fn told(result: Result<(), NetlinkError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "steering is not cleaned up completely");
    }
}
