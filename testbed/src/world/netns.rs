//! Network namespaces by the `ip` command, and threads of our own inside them.
//!
//! Names carry our process id, so that two testbeds never meet. Addresses exist only inside the namespaces.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::exec;
use crate::outcome::{Context, Result};

/// A network namespace, removed with everything that runs in it on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn create(label: &str) -> Result<Netns> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pontoon-{}-{number}-{label}", std::process::id());
        exec::run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Netns { name };
        namespace.ip("link set lo up")?;
        for family in ["all", "default"] {
            // Duplicate address detection would keep IPv6 addresses unusable for a second or two.
            namespace.sysctl(&format!("net.ipv6.conf.{family}.accept_dad"), "0")?;
            namespace.sysctl(&format!("net.ipv4.conf.{family}.rp_filter"), "0")?;
        }
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a program inside to its successful end and gives what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        exec::run(self.command(program).args(arguments))
    }

    /// `ip -n NAME ...` with the words of `line`.
    pub fn ip(&self, line: &str) -> Result<String> {
        exec::run(Command::new("ip").args(["-n", &self.name]).args(line.split_whitespace()))
    }

    /// Adds `address/prefix` to a device.
    pub fn address(&self, device: &str, address: &str) -> Result {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.ip(&format!("address add {address} dev {device} {nodad}")).map(drop)
    }

    pub fn sysctl(&self, key: &str, value: &str) -> Result {
        self.run("sysctl", &["-q", "-w", &format!("{key}={value}")]).map(drop)
    }

    /// Makes packets as small as on a real wire: no segmentation offload on these devices.
    pub fn turn_offloads_off(&self, devices: &[&str]) -> Result {
        for device in devices {
            let switches = "tso off gso off gro off tx-udp-segmentation off";
            let arguments: Vec<&str> = ["-K", device].into_iter().chain(switches.split(' ')).collect();
            self.run("ethtool", &arguments)?;
        }
        Ok(())
    }

    /// Runs a closure on a thread of its own inside the namespace: sockets that it opens belong there, and stay
    /// there when they are handed out.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let path = format!("/run/netns/{}", self.name);
        let namespace = File::open(&path).context(&path)?;
        let thread = std::thread::Builder::new().name(self.name.clone()).spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter the namespace")?;
            Ok(work())
        });
        thread.context("thread")
    }

    /// As `spawn`, and waits for the result.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.spawn(work)?.join().map_err(|_| format!("a thread in {} panicked", self.name))?
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Best effort: a drop may follow a failure of any of these.
        if let Ok(pids) = exec::run(Command::new("ip").args(["netns", "pids", &self.name])) {
            let own = std::process::id();
            for pid in pids.lines().filter_map(|line| line.trim().parse().ok()).filter(|&pid| pid != own) {
                let _ = exec::signal(pid, Signal::KILL);
            }
        }
        let _ = exec::run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// A virtual cable between two namespaces, both ends up.
pub fn cable(one: &Netns, device: &str, other: &Netns, other_device: &str) -> Result {
    one.ip(&format!("link add {device} type veth peer name {other_device} netns {}", other.name))?;
    one.ip(&format!("link set {device} up"))?;
    other.ip(&format!("link set {other_device} up")).map(drop)
}
