//! Cables, addresses, routes and settings of the demonstration's networks, over rtnetlink and /proc/sys.
//!
//! ```text
//!   client                      gateway                         server
//!   192.0.2.70 ---cable--- .11  service .1 | .1  10.10.0.2 ---cable--- 10.10.0.9
//!   inner 10.99.0.x   <================= tunnel =================>
//! ```
//!
//! IPv4 only, one prefix a cable. Everything works in the network namespace of the calling thread.

use std::io;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinHandle;

use crate::fault::Fault;

pub const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 70);
/// The gateway on the inside, which is the server's way to the clients.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);
pub const NODE_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 2);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 9);
/// The protected network.
pub const NET: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 10, 0, 0), 24);
/// Inner addresses come from here.
pub const POOL: &str = "10.99.0.0/24";
/// Of both cables.
pub const PREFIX: u8 = 24;

/// The devices: the gateway's two, and the other ends.
pub const OUTSIDE_DEVICE: &str = "outside";
pub const INSIDE_DEVICE: &str = "inside";
pub const CLIENT_DEVICE: &str = "client";
pub const SERVER_DEVICE: &str = "server";

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

    /// A cable from `near`, which stays here and is taken up, to `far` in the network namespace of process `pid`.
    pub async fn cable(&self, near: &str, far: &str, pid: u32) -> Result<(), Fault> {
        let doing = || format!("lay a cable from {near} to {far}");
        let links = self.handle.link();
        links
            .add(LinkVeth::new(near, far).build())
            .execute()
            .await
            .map_err(|error| refused(doing(), error))?;
        let away = LinkUnspec::new_with_name(far).setns_by_pid(pid).build();
        links.set(away).execute().await.map_err(|error| refused(doing(), error))?;
        self.up(near).await
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

fn refused(doing: String, error: rtnetlink::Error) -> Fault {
    let why = match &error {
        rtnetlink::Error::NetlinkError(message) => {
            io::Error::from_raw_os_error(message.raw_code().abs()).to_string()
        }
        other => other.to_string(),
    };
    Fault::failed(format!("cannot {doing}")).why(why)
}
