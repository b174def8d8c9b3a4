//! Bridges, cables, addresses, routes and settings of the demonstration's networks, over rtnetlink and /proc/sys.
//!
//! ```text
//!                      outside 192.0.2.0/24        inside 10.10.0.0/24       link 198.18.0.0/24
//!   client .70 ───────────┤                  server .9 ──┤
//!   edge-1 .11 ───────────┤ service .1      .11 ─────────┤ service .1     .11 ──┤
//!   edge-2 .12 ───────────┤                 .12 ─────────┤                .12 ──┤
//!   inner 10.99.0.x   <================= tunnel =================>
//! ```
//!
//! The bridges are in the network namespace of the demonstration itself, each machine has one of its own. IPv4 only.
//! Everything works in the network namespace of the calling thread.

use std::io;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinHandle;

use crate::fault::Fault;

pub const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 70);
/// The gateway on the inside, which is the server's way to the clients.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 9);
/// The protected network.
pub const NET: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 10, 0, 0), 24);
/// Inner addresses come from here.
pub const POOL: &str = "10.99.0.0/24";
/// Of all networks.
pub const PREFIX: u8 = 24;

/// The bridges; a device of a machine has the name of the one that it leads to.
pub const OUTSIDE_DEVICE: &str = "outside";
pub const INSIDE_DEVICE: &str = "inside";
pub const LINK_DEVICE: &str = "link";
pub const BRIDGES: [&str; 3] = [OUTSIDE_DEVICE, INSIDE_DEVICE, LINK_DEVICE];

/// The last octet of the addresses of the first node.
const FIRST_HOST: u8 = 11;

/// The addresses of a node, by its place among the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddresses {
    pub outside: Ipv4Addr,
    pub inside: Ipv4Addr,
    pub link: Ipv4Addr,
}

impl NodeAddresses {
    pub fn of(place: u8) -> NodeAddresses {
        let host = FIRST_HOST + place;
        NodeAddresses {
            outside: Ipv4Addr::new(192, 0, 2, host),
            inside: Ipv4Addr::new(10, 10, 0, host),
            link: Ipv4Addr::new(198, 18, 0, host),
        }
    }
}

/// A connection to the kernel.
pub struct Net {
    handle: Handle,
    connection: JoinHandle<()>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug)]
pub enum Via {
    Router(Ipv4Addr),
    Device(u32),
}

impl Net {
    /// To be called in a tokio runtime.
    pub fn open() -> Result<Net, Fault> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| Fault::failed("cannot talk to the kernel's network side").why(error))?;
        Ok(Net { handle, connection: tokio::spawn(connection) })
    }

    /// The number of a device.
    pub async fn index(&self, device: &str) -> Result<u32, Fault> {
        let found = self.handle.link().get().match_name(device.to_owned()).execute().try_next().await;
        match found.map_err(|error| refused(format!("look up the device {device}"), error))? {
            Some(message) => Ok(message.header.index),
            None => Err(Fault::failed(format!("there is no device {device}"))),
        }
    }

    pub async fn bridge(&self, name: &str) -> Result<(), Fault> {
        let message = LinkBridge::new(name).up().build();
        let done = self.handle.link().add(message).execute().await;
        done.map_err(|error| refused(format!("make the bridge {name}"), error))
    }

    /// A cable from `bridge` to a device of the same name in the network namespace of process `pid`, whose machine is
    /// called `machine`.
    pub async fn cable(&self, bridge: &str, machine: &str, pid: u32) -> Result<(), Fault> {
        let doing = || format!("lay a cable from {bridge} to {machine}");
        let near = port_name(bridge, machine);
        let far = port_name("to", machine);
        let links = self.handle.link();
        let made = links.add(LinkVeth::new(&near, &far).build()).execute().await;
        made.map_err(|error| refused(doing(), error))?;
        let (near, far) = (self.index(&near).await?, self.index(&far).await?);
        let bridge_index = self.index(bridge).await?;
        // Moved and renamed at once: in this namespace the bridge has that name.
        let away = LinkUnspec::new_with_index(far).name(bridge.to_owned()).setns_by_pid(pid).build();
        links.set(away).execute().await.map_err(|error| refused(doing(), error))?;
        let plugged = LinkUnspec::new_with_index(near).controller(bridge_index).up().build();
        links.set(plugged).execute().await.map_err(|error| refused(doing(), error))
    }

    pub async fn up(&self, device: &str) -> Result<(), Fault> {
        let message = LinkUnspec::new_with_name(device).up().build();
        let done = self.handle.link().set(message).execute().await;
        done.map_err(|error| refused(format!("take {device} up"), error))
    }

    pub async fn address(&self, device: &str, address: Ipv4Addr, prefix: u8) -> Result<(), Fault> {
        let index = self.index(device).await?;
        let done = self.handle.address().add(index, address.into(), prefix).execute().await;
        done.map_err(|error| refused(format!("give {device} the address {address}/{prefix}"), error))
    }

    pub async fn route(&self, (to, prefix): (Ipv4Addr, u8), via: Via) -> Result<(), Fault> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, prefix);
        let route = match via {
            Via::Router(router) => route.gateway(router),
            Via::Device(index) => route.output_interface(index),
        };
        let done = self.handle.route().add(route.build()).execute().await;
        done.map_err(|error| refused(format!("add a route to {to}/{prefix}"), error))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Net")
    }
}

/// Writes a setting of this network namespace; `key` as sysctl(8) writes it.
pub fn set(key: &str, value: &str) -> Result<(), Fault> {
    std::fs::write(format!("/proc/sys/{}", key.replace('.', "/")), value).map_err(|error| {
        let fault = Fault::failed(format!("cannot set {key} to {value} in the namespace")).why(&error);
        match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => fault.attempt("in a container: mount /proc/sys writable"),
            _ => fault,
        }
    })
}

/// The kernel allows 15 characters.
fn port_name(bridge: &str, machine: &str) -> String {
    format!("{}-{machine}", &bridge[..bridge.len().min(3)])
}

fn refused(doing: String, error: rtnetlink::Error) -> Fault {
    let why = match &error {
        rtnetlink::Error::NetlinkError(message) => {
            io::Error::from_raw_os_error(message.raw_code().abs()).to_string()
        }
        other => other.to_string(),
    };
    Fault::failed(format!("cannot {doing}")).why(why)
}
