//! Links, addresses and routes of this host, over rtnetlink. What `steering` wants, in its own words.
//!
//! Every route of ours carries `ROUTE_PROTOCOL`, so that a later start finds what an earlier one left behind, and
//! routes of others are never touched. Requests that find their work done already succeed.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::TryStreamExt;
use ipsec::policy::Network;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Marks routes as ours: `P`. Not among the numbers that /etc/iproute2/rt_protos gives away.
pub const ROUTE_PROTOCOL: u8 = 80;

/// How long an address may take until it is in use, and how often it is looked at.
const IN_USE_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// A connection to the kernel of the network namespace in which it was opened.
pub struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `None` for a device without Ethernet addresses, such as a TUN.
    pub mac: Option<[u8; 6]>,
    pub up: bool,
    /// The cable is in, and somebody is at its other end.
    pub carrier: bool,
    pub mtu: u32,
}

/// An address with the length of its on-link prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub ip: IpAddr,
    pub prefix: u8,
}

/// A route of ours in the main table. Of two to one network the lower metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    pub to: Network,
    pub via: Via,
    pub metric: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Straight out of the device with this index.
    Link(u32),
    /// Dropped without a word.
    Blackhole,
}

/// A request that the kernel refused.
#[derive(Debug)]
pub struct NetlinkError {
    pub doing: String,
    pub source: io::Error,
}

impl Netlink {
    /// To be called in a tokio runtime; works in the network namespace of the calling thread.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| NetlinkError { doing: "open a netlink socket".into(), source })?;
        Ok(Netlink { handle, connection: tokio::spawn(connection) })
    }

    /// The device of that name, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        match found {
            Ok(message) => Ok(message.map(read_link)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(refused(format!("look up the device {name}"), error)),
        }
    }

    /// The MTU of the device with that number, in octets.
    pub async fn mtu(&self, link: u32) -> Result<u32, NetlinkError> {
        let found = self.handle.link().get().match_index(link).execute().try_next().await;
        let found = found.map_err(|error| refused(format!("look up device {link}"), error))?;
        Ok(found.map_or(0, |message| read_link(message).mtu))
    }

    /// Sets the MTU in octets and takes the device up.
    pub async fn set_up(&self, link: u32, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(link).mtu(mtu).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(|error| refused(format!("take device {link} up with MTU {mtu}"), error))
    }

    /// Every address of every device.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| refused("list the addresses".into(), error))?;
        Ok(messages.iter().filter_map(read_address).collect())
    }

    /// Adds the address as a host address, without duplicate address detection, and waits until it is in use.
    pub async fn add_host_address(&self, link: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(link, ip, host_prefix(ip)).replace();
        if ip.is_ipv6() {
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(|error| refused(format!("add the address {ip}"), error))?;
        if ip.is_ipv6() { self.until_local(ip).await } else { Ok(()) }
    }

    /// Linux makes the route by which an IPv6 address is its own from a work queue (`addrconf_dad_work`), also without
    /// duplicate address detection: a moment after the address was acknowledged. Packets for it are turned away until
    /// then, and no message tells of that moment.
    async fn until_local(&self, ip: IpAddr) -> Result<(), NetlinkError> {
        let deadline = Instant::now() + IN_USE_WITHIN;
        loop {
            if self.is_local(ip).await? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let source = io::ErrorKind::TimedOut.into();
                return Err(NetlinkError { doing: format!("take the address {ip} into use"), source });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether packets for `ip` end in this host.
    async fn is_local(&self, ip: IpAddr) -> Result<bool, NetlinkError> {
        let message = match ip {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build(),
        };
        match self.handle.route().get(message).execute().try_next().await {
            Ok(found) => Ok(found.is_some_and(|route| route.header.kind == RouteType::Local)),
            Err(error) if matches!(errno(&error), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(false),
            Err(error) => Err(refused(format!("look up the way to {ip}"), error)),
        }
    }

    /// Removes a host address; one that is gone already is fine.
    pub async fn remove_host_address(&self, link: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let message = self.handle.address().add(link, ip, host_prefix(ip)).message_mut().clone();
        gone_is_fine(self.handle.address().del(message).execute().await)
            .map_err(|error| refused(format!("remove the address {ip}"), error))
    }

    /// The routes of ours, of both families.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for message in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let family = message.header.address_family;
            let messages: Vec<RouteMessage> = self
                .handle
                .route()
                .get(message)
                .execute()
                .try_collect()
                .await
                .map_err(|error| refused("list the routes".into(), error))?;
            routes.extend(
                messages
                    .iter()
                    .filter(|message| message.header.address_family == family)
                    .filter_map(read_route),
            );
        }
        Ok(routes)
    }

    /// Adds a route, or takes the place of the one to the same network with the same metric.
    pub async fn add_route(&self, route: Route) -> Result<(), NetlinkError> {
        self.handle
            .route()
            .add(write_route(route))
            .replace()
            .execute()
            .await
            .map_err(|error| refused(format!("add a route to {}", route.to), error))
    }

    /// Removes a route; one that is gone already is fine.
    pub async fn remove_route(&self, route: Route) -> Result<(), NetlinkError> {
        gone_is_fine(self.handle.route().del(write_route(route)).execute().await)
            .map_err(|error| refused(format!("remove the route to {}", route.to), error))
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Netlink")
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.doing, self.source)
    }
}

impl std::error::Error for NetlinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

fn read_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(octets) => link.mac = octets.try_into().ok(),
            _ => {}
        }
    }
    link
}

fn read_address(message: &AddressMessage) -> Option<Address> {
    let find = |want: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(want);
    // On a point-to-point link `Address` is the other end.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = find(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let ip = local.or(address)?;
    Some(Address { link: message.header.index, ip, prefix: message.header.prefix_len })
}

fn write_route(route: Route) -> RouteMessage {
    let prefix = route.to.prefix;
    let mut message = match route.to.address {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, prefix).build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, prefix).build(),
    };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.attributes.push(RouteAttribute::Priority(route.metric));
    match route.via {
        Via::Link(index) => {
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::Oif(index));
        }
        Via::Blackhole => message.header.kind = RouteType::BlackHole,
    }
    message
}

/// `None` for a route of others, or of a kind that we never make.
fn read_route(message: &RouteMessage) -> Option<Route> {
    if message.header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL)
        || message.header.table != RouteHeader::RT_TABLE_MAIN
    {
        return None;
    }
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut address, mut metric, mut link) = (unspecified, 0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => address = IpAddr::V4(*ip),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => address = IpAddr::V6(*ip),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let via = match message.header.kind {
        // IPv6 hangs its blackholes on the loopback device.
        RouteType::BlackHole => Via::Blackhole,
        RouteType::Unicast => Via::Link(link?),
        _ => return None,
    };
    Some(Route { to: Network { address, prefix: message.header.destination_prefix_length }, via, metric })
}

fn host_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn gone_is_fine(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if matches!(errno(&error), Some(libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENODEV)) => {
            Ok(())
        }
        other => other,
    }
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}

fn refused(doing: String, error: rtnetlink::Error) -> NetlinkError {
    let source = match errno(&error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error.to_string()),
    };
    NetlinkError { doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_survive_the_way_to_the_kernel_and_back() {
        for (to, via) in [
            ("10.99.0.0/16", Via::Link(7)),
            ("10.99.0.0/16", Via::Blackhole),
            ("2001:db8:1::/64", Via::Link(7)),
            ("2001:db8:1::/64", Via::Blackhole),
        ] {
            let (address, prefix) = to.split_once('/').unwrap();
            let to = Network { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() };
            let route = Route { to, via, metric: 42 };
            let mut message = write_route(route);
            assert_eq!(read_route(&message), Some(route));
            message.header.protocol = RouteProtocol::Static;
            assert_eq!(read_route(&message), None, "routes of others are not ours");
        }
    }
}
