//! The ways of inner packets: networks behind tunnels lead into the TUN, and nowhere when the TUN is gone.
//!
//! ```text
//!   10.99.0.0/16  dev TUN    metric 50          vanishes with the process
//!                 blackhole  metric 4000000     stays
//! ```

use ipsec::policy::Network;

use super::{Config, SteeringError, check, sysctl, told};
use crate::io::netlink::{Netlink, NetlinkError, Route, Via};

/// Routes to the TUN win over the blackholes behind them, and both give way to what an administrator adds without a
/// metric.
pub const METRIC_OPEN: u32 = 50;
pub const METRIC_BLACKHOLE: u32 = 4_000_000;

/// The routes of this node, while it lives.
#[derive(Debug)]
pub struct Ways {
    netlink: Netlink,
    tun: u32,
    config: Config,
    networks: Vec<Network>,
}

impl Ways {
    pub(super) fn new(netlink: Netlink, tun: u32, config: Config) -> Ways {
        Ways { netlink, tun, config, networks: Vec::new() }
    }

    /// Routes these networks (pools, and what is behind peers) into the TUN, and nowhere when the TUN is gone. Routes
    /// of ours to other networks, also those that an earlier process left behind, are removed.
    pub async fn set(&mut self, networks: &[Network]) -> Result<(), SteeringError> {
        check::networks(&self.netlink, networks, &self.config).await?;
        sysctl::check_forwarding(&self.config, networks.iter().map(|network| network.address))?;
        self.networks = networks.to_vec();
        Ok(self.install().await?)
    }

    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Removes the routes into the TUN. The blackholes stay.
    pub async fn close(self) {
        for route in self.routes(METRIC_OPEN, Via::Link(self.tun)) {
            told(self.netlink.remove_route(route).await);
        }
    }

    /// Removes every route of ours, the blackholes too: this node leaves the cluster for good.
    pub async fn purge() -> Result<(), SteeringError> {
        let netlink = Netlink::open()?;
        for route in netlink.routes().await? {
            netlink.remove_route(route).await?;
        }
        Ok(())
    }

    async fn install(&self) -> Result<(), NetlinkError> {
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

    fn routes(&self, metric: u32, via: Via) -> impl Iterator<Item = Route> {
        self.networks.iter().map(move |&to| Route { to, via, metric })
    }
}
