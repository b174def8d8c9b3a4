//! Why packets cannot be steered to this node, and what the administrator can do about it.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipsec::policy::Network;

use super::{Advice, ServiceAddress};
use crate::io::netlink::NetlinkError;

#[derive(Debug)]
pub enum SteeringError {
    /// A configured device does not exist.
    NoDevice { device: String, setting: &'static str },
    /// A configured device is administratively down.
    DeviceDown { device: String },
    /// The device has no Ethernet address, so nobody asks it "who has".
    NotEthernet { device: String, section: &'static str },
    /// The node has no own address on the device in the subnet of the service address.
    NoOwnAddress { device: String, service: ServiceAddress },
    /// The administrator has configured a service address as an address of this node.
    AddressInstalled { ip: IpAddr, device: String },
    /// Somebody else on the link has the service address.
    AddressTaken { ip: IpAddr, device: String, by: [u8; 6] },
    /// The kernel would not forward packets between the clients and the protected network.
    NotForwarding(Advice),
    /// Routing everything into the TUN would take the node off the network.
    DefaultRoute { network: Network },
    /// A network that contains an address of this node.
    Swallows { network: Network, ip: IpAddr },
    /// A capability is missing.
    NotPermitted { doing: String, capability: &'static str },
    /// The kernel refused.
    Netlink(NetlinkError),
    /// The kernel's packet filter does not do what `shared-mac` needs.
    Filter(io::Error),
    /// A setting of the host makes `shared-mac` fail.
    Setting(Advice),
    /// A packet socket did not work.
    Packet { doing: String, source: io::Error },
}

impl SteeringError {
    /// A step to take: a command or a setting.
    pub fn fix(&self) -> Option<String> {
        match self {
            SteeringError::NoDevice { setting, .. } => Some(format!("correct {setting} in node.toml")),
            SteeringError::DeviceDown { device } => Some(format!("ip link set {device} up")),
            SteeringError::NotEthernet { section, .. } => {
                Some(format!("set {section}.steering = \"external\""))
            }
            SteeringError::NoOwnAddress { device, service } => {
                Some(format!("ip address add <an own address>/{} dev {device}", service.prefix))
            }
            SteeringError::AddressInstalled { ip, device } => {
                Some(format!("remove {ip} from {device}: pontoon installs it by itself"))
            }
            SteeringError::AddressTaken { ip, .. } => {
                Some(format!("give the other machine another address than {ip}, or change node.toml"))
            }
            SteeringError::NotForwarding(advice) | SteeringError::Setting(advice) => Some(advice.fix.clone()),
            SteeringError::Filter(_) => {
                Some("use a kernel with nf_tables (modprobe nf_tables), or steering = \"announce\"".into())
            }
            SteeringError::DefaultRoute { .. } | SteeringError::Swallows { .. } => {
                Some("name the networks behind the peer more narrowly in gateway.toml".into())
            }
            SteeringError::NotPermitted { capability, .. } => {
                Some(format!("run as root, or with AmbientCapabilities={capability}"))
            }
            SteeringError::Netlink(_) | SteeringError::Packet { .. } => None,
        }
    }

    /// Sorts an error of the packet filter.
    pub(super) fn filter(source: io::Error) -> SteeringError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => SteeringError::NotPermitted {
                doing: "make a packet filter".into(),
                capability: "CAP_NET_ADMIN",
            },
            _ => SteeringError::Filter(source),
        }
    }

    /// Sorts an error of a packet socket.
    pub(super) fn packet(doing: String, source: io::Error) -> SteeringError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => {
                SteeringError::NotPermitted { doing, capability: "CAP_NET_RAW" }
            }
            _ => SteeringError::Packet { doing, source },
        }
    }
}

impl From<NetlinkError> for SteeringError {
    fn from(error: NetlinkError) -> SteeringError {
        match error.source.kind() {
            io::ErrorKind::PermissionDenied => {
                SteeringError::NotPermitted { doing: error.doing, capability: "CAP_NET_ADMIN" }
            }
            _ => SteeringError::Netlink(error),
        }
    }
}

impl fmt::Display for SteeringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SteeringError::NoDevice { device, setting } => {
                write!(f, "there is no device {device} ({setting})")
            }
            SteeringError::DeviceDown { device } => write!(f, "the device {device} is down"),
            SteeringError::NotEthernet { device, .. } => {
                write!(f, "{device} is no Ethernet device: nobody can ask it for the service address")
            }
            SteeringError::NoOwnAddress { device, service } => write!(
                f,
                "this node has no own address on {device} in the subnet of {}/{}",
                service.ip, service.prefix
            ),
            SteeringError::AddressInstalled { ip, device } => {
                write!(f, "the service address {ip} is already installed on {device} of this node")
            }
            SteeringError::AddressTaken { ip, device, by } => {
                write!(f, "the service address {ip} is in use on {device} by ")?;
                write_mac(f, by)
            }
            SteeringError::NotForwarding(advice) | SteeringError::Setting(advice) => write!(f, "{advice}"),
            SteeringError::Filter(error) => write!(f, "cannot make the packet filter of shared-mac: {error}"),
            SteeringError::DefaultRoute { network } => {
                write!(f, "{network} is everything: this node could reach nobody any more")
            }
            SteeringError::Swallows { network, ip } => {
                write!(f, "{network} contains {ip}, an address of this node")
            }
            SteeringError::NotPermitted { doing, capability } => {
                write!(f, "not permitted to {doing}: {capability} is missing")
            }
            SteeringError::Netlink(error) => write!(f, "{error}"),
            SteeringError::Packet { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for SteeringError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SteeringError::Netlink(error) => Some(&error.source),
            SteeringError::Packet { source, .. } | SteeringError::Filter(source) => Some(source),
            _ => None,
        }
    }
}

fn write_mac(f: &mut fmt::Formatter<'_>, mac: &[u8; 6]) -> fmt::Result {
    for (at, octet) in mac.iter().enumerate() {
        write!(f, "{}{octet:02x}", if at == 0 { "" } else { ":" })?;
    }
    Ok(())
}
