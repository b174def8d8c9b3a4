//! A machine of the gateway, a part: holds a network namespace, and starts and kills the node in it.
//!
//! The namespace outlives the node, as a host outlives a process that is killed: the kernel goes on and refuses
//! connections to it, which is how the other nodes find out at once.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Child;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::net::{INSIDE_DEVICE, LINK_DEVICE, Net, NodeAddresses, OUTSIDE_DEVICE, PREFIX, set};
use super::part::{self, Role};
use super::protocol::{FromMachine, ToMachine};
use super::server;
use crate::fault::Fault;

/// Tells the node's process where its configuration is.
const CONFIG: &str = "PONTOON_DEMO_CONFIG";

/// Settings of the namespace: it forwards; a reverse path filter would drop what comes out of a TUN, and the host's
/// redirects would teach the client a way around the gateway; nobody answers for addresses of another device.
const SETTINGS: [(&str, &str); 7] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.conf.all.arp_ignore", "1"),
    ("net.ipv4.conf.all.arp_announce", "2"),
];

/// The life of the part: ends with the demonstration.
pub fn live() -> Result<(), Fault> {
    let lived = server::own_network().and_then(|()| server::run(serve()));
    if let Err(fault) = &lived {
        part::say(&FromMachine::Failed(fault.clone()));
    }
    lived
}

async fn serve() -> Result<(), Fault> {
    part::say(&FromMachine::Ready);
    let mut orders = listen();
    let mut node: Option<Child> = None;
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            status = ended(&mut node) => {
                node = None;
                part::say(&FromMachine::Ended { status });
                continue;
            }
        };
        match order.transpose()? {
            Some(ToMachine::Begin { place }) => {
                connect(NodeAddresses::of(place)).await?;
                part::say(&FromMachine::Cabled);
            }
            Some(ToMachine::Start { node_toml }) => {
                let started = spawn(&node_toml)?;
                part::say(&FromMachine::Started { pid: started.id().unwrap_or(0) });
                node = Some(started);
            }
            Some(ToMachine::Kill) => {
                if let Some(node) = &mut node {
                    node.start_kill().map_err(|error| Fault::failed("cannot kill the node").why(error))?;
                }
            }
            // The demonstration is over.
            None => {
                if let Some(mut node) = node {
                    // Fails only when it has ended by itself.
                    let _ = node.kill().await;
                }
                return Ok(());
            }
        }
    }
}

/// The orders as they come; none are left when the demonstration is over.
fn listen() -> UnboundedReceiver<Result<ToMachine, Fault>> {
    let (sender, orders) = unbounded_channel();
    std::thread::spawn(move || {
        while let Some(order) = part::next_order().transpose() {
            if sender.send(order).is_err() {
                return;
            }
        }
    });
    orders
}

/// How the node has ended; for ever while there is none.
async fn ended(node: &mut Option<Child>) -> String {
    match node {
        Some(node) => match node.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        },
        None => std::future::pending().await,
    }
}

async fn connect(addresses: NodeAddresses) -> Result<(), Fault> {
    for (key, value) in SETTINGS {
        set(key, value)?;
    }
    let net = Net::open()?;
    net.up("lo").await?;
    let NodeAddresses { outside, inside, link } = addresses;
    for (device, address) in [(OUTSIDE_DEVICE, outside), (INSIDE_DEVICE, inside), (LINK_DEVICE, link)] {
        net.address(device, address, PREFIX).await?;
        net.up(device).await?;
    }
    Ok(())
}

fn spawn(node_toml: &Path) -> Result<Child, Fault> {
    let failed = |why: String| Fault::failed("cannot start the node").why(why);
    let dir = node_toml.parent().ok_or_else(|| failed("its configuration is nowhere".into()))?;
    let mut command = Role::Node.command("node", dir)?;
    command.env(CONFIG, node_toml).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().map_err(|error| failed(error.to_string()))
}

/// The node as a part: becomes the daemon, with the command line that an administrator would use.
pub fn become_node() -> Result<(), Fault> {
    use std::os::unix::process::CommandExt as _;
    let config = std::env::var_os(CONFIG).map(PathBuf::from);
    let config = config.ok_or_else(|| Fault::failed(format!("{CONFIG} is not set")))?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("pontoon").args(["run", "--config"]).arg(config);
    Err(Fault::failed("cannot start the node").why(command.exec()))
}
