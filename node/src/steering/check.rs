//! Is this host as the configuration says? Everything that can be found before anything is changed.

use std::net::IpAddr;

use ipsec::policy::Network;

use super::{Config, MTU_MIN, Mode, RELAY_HEADERS_V4, RELAY_HEADERS_V6, ServiceAddress, Side, SteeringError};
use crate::io::netlink::{Address, Link, Netlink};

/// The device of that name. `setting` names where the name is configured.
pub(super) async fn device(
    netlink: &Netlink,
    name: &str,
    setting: &'static str,
) -> Result<Link, SteeringError> {
    netlink.link(name).await?.ok_or_else(|| SteeringError::NoDevice { device: name.to_owned(), setting })
}

/// The device of a side: up, and the service addresses nowhere but on the TUN. Where neighbours ask for them, also
/// Ethernet, with an own address of the node in the subnet of each; these are given back.
pub(super) async fn side(
    netlink: &Netlink,
    section: &'static str,
    side: &Side,
    tun: u32,
) -> Result<(Link, Vec<IpAddr>), SteeringError> {
    let setting = if section == "outside" { "outside.device" } else { "inside.device" };
    let link = device(netlink, &side.device, setting).await?;
    if !link.up {
        return Err(SteeringError::DeviceDown { device: link.name });
    }
    let asked = side.mode != Mode::External;
    if asked && link.mac.is_none() && !side.addresses.is_empty() {
        return Err(SteeringError::NotEthernet { device: link.name, section });
    }
    let addresses = netlink.addresses().await?;
    let mut found = Vec::new();
    for service in &side.addresses {
        if let Some(own) = addresses.iter().find(|own| own.ip == service.ip && own.link != tun) {
            let on_this = own.link == link.index;
            let device = if on_this { link.name.clone() } else { format!("device {}", own.link) };
            return Err(SteeringError::AddressInstalled { ip: service.ip, device });
        }
        match addresses.iter().find(|own| own.link == link.index && in_subnet(service, own)) {
            Some(own) => found.push(own.ip),
            None if asked => {
                return Err(SteeringError::NoOwnAddress { device: link.name, service: *service });
            }
            None => {}
        }
    }
    Ok((link, found))
}

/// The longest inner packet that passes from node to node in one piece, over the link that has our address `own`. No
/// limit where no device has it: then it is behind an address translation, or not there yet.
//= CL-39
pub(super) async fn inner_mtu(netlink: &Netlink, own: IpAddr) -> Result<u32, SteeringError> {
    let addresses = netlink.addresses().await?;
    let Some(address) = addresses.iter().find(|address| address.ip == own) else { return Ok(u32::MAX) };
    let mtu = netlink.mtu(address.link).await?;
    Ok(mtu.saturating_sub(if own.is_ipv6() { RELAY_HEADERS_V6 } else { RELAY_HEADERS_V4 }).max(MTU_MIN))
}

/// Networks that may be routed into the TUN without cutting the node off.
pub(super) async fn networks(
    netlink: &Netlink,
    networks: &[Network],
    config: &Config,
) -> Result<(), SteeringError> {
    let on_link: Vec<ServiceAddress> = netlink
        .addresses()
        .await?
        .into_iter()
        .map(|own| ServiceAddress { ip: own.ip, prefix: own.prefix })
        .chain([&config.outside, &config.inside].into_iter().flat_map(|side| side.addresses.clone()))
        .collect();
    for network in networks {
        if network.prefix == 0 {
            return Err(SteeringError::DefaultRoute { network: *network });
        }
        // A host address on the TUN or the loopback device is no link that could be cut off; a service address is
        // told by its side's prefix.
        let swallowed = |own: &&ServiceAddress| {
            network.contains(own.ip) && network.prefix >= own.prefix && own.prefix < host_prefix(own.ip)
        };
        if let Some(own) = on_link.iter().find(swallowed) {
            return Err(SteeringError::Swallows { network: *network, ip: own.ip });
        }
    }
    Ok(())
}

fn in_subnet(service: &ServiceAddress, own: &Address) -> bool {
    own.ip != service.ip && common_bits(service.ip, own.ip).is_some_and(|bits| bits >= service.prefix)
}

/// How many bits two addresses of one family have in common from the left.
fn common_bits(a: IpAddr, b: IpAddr) -> Option<u8> {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Some((u32::from(a) ^ u32::from(b)).leading_zeros() as u8),
        (IpAddr::V6(a), IpAddr::V6(b)) => Some((u128::from(a) ^ u128::from(b)).leading_zeros() as u8),
        _ => None,
    }
}

fn host_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_in_the_subnet() {
        for (service, prefix, own, fits) in [
            ("192.0.2.1", 24, "192.0.2.11", true),
            ("192.0.2.1", 24, "192.0.2.1", false),
            ("192.0.2.1", 24, "192.0.3.11", false),
            ("192.0.2.1", 32, "192.0.2.11", false),
            ("192.0.2.1", 0, "10.0.0.1", true),
            ("2001:db8::1", 64, "2001:db8::ffff", true),
            ("2001:db8::1", 64, "fe80::1", false),
            ("192.0.2.1", 0, "2001:db8::1", false),
        ] {
            let service = ServiceAddress { ip: service.parse().unwrap(), prefix };
            let own = Address { link: 1, ip: own.parse().unwrap(), prefix: 24 };
            assert_eq!(in_subnet(&service, &own), fits, "{service:?} {own:?}");
        }
    }
}
