//! The gateway: its machines, their files, and what we ask the nodes through their control sockets as the tool does.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crypto::rng::{OsRng, Rng};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::process::Command;

use super::net::{INSIDE, INSIDE_DEVICE, NodeAddresses, OUTSIDE_DEVICE, POOL, PREFIX, SERVICE};
use super::part::{self, PATIENCE, Part};
use super::protocol::{FromMachine, ToMachine};
use super::sandbox::RUN_DIR;
use super::tunnel::{CLIENT_ID, GATEWAY_ID};
use crate::config::GatewaySource;
use crate::control::api::{self, Condition};
use crate::control::{Call, Client};
use crate::fault::{Exit, Fault, StartError};

/// How often it is looked whether a node answers already.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a node may wait for what only the others can give: a leader, a vote, its share.
const JOIN_WITHIN: &str = "30s";

#[derive(Debug)]
pub struct Gateway {
    dir: PathBuf,
    psk: String,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    machine: Part,
    node_toml: PathBuf,
    socket: PathBuf,
    /// The process, while it lives.
    pid: Option<u32>,
}

/// Where a node stands in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub name: String,
    pub addresses: NodeAddresses,
    pub leads: bool,
    pub segments: u32,
}

/// The name of a node by its place.
pub fn name(place: u8) -> String {
    format!("edge-{}", place + 1)
}

impl Gateway {
    /// The machines are there, without cables.
    pub fn new(dir: &Path, machines: Vec<Part>) -> Result<Gateway, Fault> {
        let psk: String = OsRng.vec(16).iter().map(|octet| format!("{octet:02x}")).collect();
        write(&dir.join("gateway.toml"), &gateway_toml())?;
        write(&dir.join("anna.psk"), &psk)?;
        let mut nodes = Vec::new();
        for (place, machine) in (0u8..).zip(machines) {
            let own = dir.join(machine.name());
            let made = fs::DirBuilder::new().mode(0o700).create(&own);
            made.map_err(|error| StartError::file(&own, "make the directory", error).fault())?;
            let socket = Path::new(RUN_DIR).join(format!("{}.sock", machine.name()));
            let node_toml = own.join("node.toml");
            write(&node_toml, &node_toml_text(place, &own, &socket))?;
            nodes.push(Node { machine, node_toml, socket, pid: None });
        }
        Ok(Gateway { dir: dir.to_owned(), psk, nodes })
    }

    pub fn machines(&self) -> impl Iterator<Item = &Part> {
        self.nodes.iter().map(|node| &node.machine)
    }

    /// Once the cables are there: starts the nodes, makes them a cluster and configures it.
    pub async fn form(&mut self) -> Result<(), Fault> {
        for (place, node) in (0u8..).zip(&mut self.nodes) {
            node.machine.tell(&ToMachine::Begin { place }).await?;
            node.expect(|report| matches!(report, FromMachine::Cabled)).await?;
            node.start().await?;
        }
        for node in &self.nodes {
            node.wait_reachable().await?;
        }
        let (first, others) = self.nodes.split_first().ok_or_else(|| Fault::failed("no node is there"))?;
        first.ask::<api::Initialized>(Call::Init { name: "demo".into() }).await?;
        let to = format!("{}:7400", NodeAddresses::of(0).link);
        for node in others {
            let token = first.tool(&["token", "create"]).await?;
            node.tool(&["join", &to, "--token", token.trim()]).await?;
        }
        let loaded = GatewaySource::load(&self.dir.join("gateway.toml"))?;
        let source = loaded.source.into();
        first
            .ask::<api::ConfigApplied>(Call::ConfigApply { source, comment: None, if_revision: None })
            .await?;
        self.wait_ready().await
    }

    /// The client's secret.
    pub fn psk(&self) -> &str {
        &self.psk
    }

    /// Until all nodes that run are ready, and all segments have an owner.
    pub async fn wait_ready(&self) -> Result<(), Fault> {
        for node in self.alive() {
            node.wait_reachable().await?;
            let timeout_ms = PATIENCE.as_millis() as u64;
            node.ask::<api::Waited>(Call::Wait { condition: Condition::Ready, timeout_ms }).await?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let segments = self.any()?.ask::<api::Segments>(Call::Segments).await?.segments;
            let alive = |owner: &String| self.alive().any(|node| node.name() == owner);
            if segments.iter().all(|row| row.owner.as_ref().is_some_and(alive)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Fault::timed_out("some segments have no owner"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub async fn standings(&self) -> Result<Vec<Standing>, Fault> {
        let status = self.any()?.ask::<api::Status>(Call::Status).await?;
        let of = |(place, node): (u8, &Node)| Standing {
            name: node.name().to_owned(),
            addresses: NodeAddresses::of(place),
            leads: status.leader.as_deref() == Some(node.name()),
            segments: status
                .nodes
                .iter()
                .find(|told| told.name == node.name())
                .map_or(0, |told| told.segments),
        };
        Ok((0u8..).zip(&self.nodes).map(of).collect())
    }

    pub async fn leader(&self) -> Result<String, Fault> {
        let status = self.any()?.ask::<api::Status>(Call::Status).await?;
        status.leader.ok_or_else(|| Fault::no_quorum("the cluster has no leader"))
    }

    pub async fn sas(&self) -> Result<Vec<api::IkeSa>, Fault> {
        self.any()?.ask::<api::Sas>(Call::Sas { peer: None }).await.map(|document| document.sas)
    }

    /// Which node processes the only tunnel.
    pub async fn owner(&self) -> Result<String, Fault> {
        let owner = self.sas().await?.into_iter().find_map(|sa| sa.owner);
        owner.ok_or_else(|| Fault::failed("the tunnel has no owner"))
    }

    /// What each living node says of its replicated state: name, applied index, digest. Waits until all have applied
    /// the same.
    pub async fn digests(&self) -> Result<Vec<(String, u64, String)>, Fault> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut told = Vec::new();
            for node in self.alive() {
                let status = node.ask::<api::Status>(Call::Status).await?;
                let own = status.nodes.into_iter().find(|other| other.name == node.name());
                let state = own.and_then(|own| Some((own.applied?, own.digest?)));
                told.extend(state.map(|(applied, digest)| (node.name().to_owned(), applied, digest)));
            }
            let equal = told.windows(2).all(|pair| pair[0].1 == pair[1].1);
            if equal && told.len() == self.alive().count() || Instant::now() >= deadline {
                return Ok(told);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What node `name` says of the last handover to it for one of these causes.
    pub async fn handover(
        &self,
        name: &str,
        causes: &'static [&'static str],
    ) -> Result<Option<Handover>, Fault> {
        let socket = self.node(name)?.socket.clone();
        let events = blocking(move || {
            let mut events = Vec::new();
            Client::connect(&socket)?.events(false, PATIENCE, |event| {
                events.push(event);
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
            Ok(events)
        });
        Ok(events.await?.iter().rev().find_map(|event| Handover::of(event, causes)))
    }

    /// SIGKILL, in the middle of whatever it does.
    pub async fn kill(&mut self, name: &str) -> Result<(), Fault> {
        let node = self.node_mut(name)?;
        node.machine.tell(&ToMachine::Kill).await?;
        node.expect(|report| matches!(report, FromMachine::Ended { .. })).await?;
        node.pid = None;
        Ok(())
    }

    /// Starts a node again on the data that it left.
    pub async fn restart(&mut self, name: &str) -> Result<(), Fault> {
        self.node_mut(name)?.start().await
    }

    /// Moves everything away from a node, as an administrator does; returns when it is done.
    pub async fn drain(&self, name: &str) -> Result<(), Fault> {
        self.any()?.tool(&["drain", name]).await.map(drop)
    }

    /// The processes of the nodes.
    pub fn pids(&self) -> Vec<(String, u32)> {
        self.nodes.iter().filter_map(|node| Some((node.name().to_owned(), node.pid?))).collect()
    }

    /// The name of a node that somebody else has ended. Can be dropped and called again.
    pub async fn ended(&mut self) -> Result<String, Fault> {
        let waiting = self.nodes.iter_mut().map(|node| {
            Box::pin(async {
                loop {
                    if let FromMachine::Ended { .. } = node.machine.hear_ever().await? {
                        node.pid = None;
                        return Ok::<String, Fault>(node.name().to_owned());
                    }
                }
            })
        });
        futures_util::future::select_all(waiting).await.0
    }

    /// Ends it all, and waits until it is gone.
    pub async fn end(self) {
        futures_util::future::join_all(self.nodes.into_iter().map(|node| node.machine.end())).await;
    }

    fn alive(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.pid.is_some())
    }

    fn any(&self) -> Result<&Node, Fault> {
        self.alive().next().ok_or_else(|| Fault::failed("no node lives"))
    }

    fn node(&self, name: &str) -> Result<&Node, Fault> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.ok_or_else(|| Fault::failed(format!("there is no node {name}")))
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut Node, Fault> {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.ok_or_else(|| Fault::failed(format!("there is no node {name}")))
    }
}

impl Node {
    fn name(&self) -> &str {
        self.machine.name()
    }

    async fn start(&mut self) -> Result<(), Fault> {
        self.machine.tell(&ToMachine::Start { node_toml: self.node_toml.clone() }).await?;
        match self.machine.hear().await? {
            FromMachine::Started { pid } => self.pid = Some(pid),
            FromMachine::Failed(fault) => return Err(fault),
            _ => return Err(super::out_of_turn(self.name())),
        }
        Ok(())
    }

    /// The machine's next report, which must be the one that is expected.
    async fn expect(&mut self, expected: impl Fn(&FromMachine) -> bool) -> Result<(), Fault> {
        match self.machine.hear().await? {
            FromMachine::Failed(fault) => Err(fault),
            report if expected(&report) => Ok(()),
            _ => Err(super::out_of_turn(self.name())),
        }
    }

    /// Until the control socket answers.
    async fn wait_reachable(&self) -> Result<(), Fault> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask::<api::Status>(Call::Status).await {
                Ok(_) => return Ok(()),
                Err(fault) if fault.exit != Exit::Unreachable => return Err(fault),
                Err(fault) if Instant::now() >= deadline => return Err(self.complaining(fault)),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn ask<T: DeserializeOwned + Send + 'static>(&self, call: Call) -> Result<T, Fault> {
        let socket = self.socket.clone();
        blocking(move || Client::connect(&socket)?.call(call, PATIENCE)).await
    }

    /// Runs a command of the tool as an administrator would type it, and gives what it prints.
    async fn tool(&self, arguments: &[&str]) -> Result<String, Fault> {
        let shown = || format!("`pontoon {}` has failed on {}", arguments[0], self.name());
        let mut command = Command::new("/proc/self/exe");
        command.arg("--socket").arg(&self.socket).args(["--timeout", JOIN_WITHIN]).args(arguments);
        let output = command.kill_on_drop(true).output().await;
        let output = output.map_err(|error| Fault::failed(shown()).why(error))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(self.complaining(Fault::failed(shown()).why(why)))
            }
        }
    }

    /// With the end of the node's log, where there is one.
    fn complaining(&self, fault: Fault) -> Fault {
        let dir = self.node_toml.parent().unwrap_or(Path::new("/"));
        match part::complaints("node", dir) {
            log if log.is_empty() => fault,
            log => {
                let why = fault.why.clone().unwrap_or_default();
                fault.why(format!("{why}\n{log}"))
            }
        }
    }
}

/// What a node says of the segments that it took over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Handover {
    pub segments: u64,
    pub detect_ms: f64,
    pub commit_ms: f64,
    pub resume_ms: f64,
}

impl Handover {
    /// `None` for other events and causes.
    fn of(event: &Map<String, Value>, causes: &[&str]) -> Option<Handover> {
        let number = |key: &str| event.get(key).and_then(Value::as_f64);
        let word = |key: &str| event.get(key).and_then(Value::as_str);
        if word("kind") != Some("handover") || !causes.contains(&word("cause")?) {
            return None;
        }
        Some(Handover {
            segments: event.get("segments").and_then(Value::as_u64)?,
            detect_ms: number("detect_ms")?,
            commit_ms: number("commit_ms")?,
            resume_ms: number("resume_ms")?,
        })
    }
}

/// Runs something that blocks beside the demonstration.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fault::failed("a call to a node has broken off").why(error)))
}

/// Makes a file that nobody else may read: one of them is a secret.
fn write(path: &Path, text: &str) -> Result<(), Fault> {
    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| StartError::file(path, "write", error).fault())
}

fn node_toml_text(place: u8, dir: &Path, socket: &Path) -> String {
    // A TOML string of a path may hold anything but what JSON would escape, too.
    let quoted = |path: &Path| Value::String(path.to_string_lossy().into_owned());
    let (data_dir, socket) = (quoted(&dir.join("data")), quoted(socket));
    let (name, link) = (name(place), NodeAddresses::of(place).link);
    format!(
        r#"name      = "{name}"
advertise = "{link}:7400"
data_dir  = {data_dir}

[control]
socket = {socket}
http   = "127.0.0.1:9477"

[outside]
device   = "{OUTSIDE_DEVICE}"
address  = ["{SERVICE}/{PREFIX}"]
steering = "announce"

[inside]
device   = "{INSIDE_DEVICE}"
address  = ["{INSIDE}/{PREFIX}"]
steering = "announce"
tun      = "pontoon0"
"#
    )
}

fn gateway_toml() -> String {
    let (address, prefix) = super::net::NET;
    format!(
        r#"version = 1

[pools.staff]
addresses = "{POOL}"

[connections.staff]
local  = {{ id = "{GATEWAY_ID}", auth = "psk" }}
remote = {{ id = "{CLIENT_ID}", auth = "psk" }}
pool   = "staff"

[connections.staff.children.net]
local_ts = ["{address}/{prefix}"]

[secrets.anna]
ids = ["{CLIENT_ID}"]
psk = {{ file = "anna.psk" }}
"#
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::NodeConfig;

    #[test]
    fn the_files_are_what_the_daemon_reads() {
        for name in ["plain", "with \"quotes\" and \\"] {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().join(name);
            fs::create_dir(&dir).unwrap();
            let text = node_toml_text(2, &dir, &dir.join("edge-3.sock"));
            let (config, report) = NodeConfig::parse("node.toml", &text, &dir);
            assert!(report.diagnostics.is_empty(), "{}", report.render(false));
            let config = config.unwrap();
            assert_eq!((config.name.as_str(), config.data_dir), ("edge-3", dir.join("data")));
            write(&dir.join("gateway.toml"), &gateway_toml()).unwrap();
            write(&dir.join("anna.psk"), "0123456789abcdef").unwrap();
            let loaded = GatewaySource::load(&dir.join("gateway.toml")).unwrap();
            assert!(loaded.report.diagnostics.is_empty(), "{}", loaded.report.render(false));
        }
    }

    #[test]
    fn a_handover_is_told_by_its_cause() {
        let event = |cause: &str, kind: &str| {
            let value = json!({"kind": kind, "cause": cause, "segments": 86, "detect_ms": 51.0, "commit_ms": 3.0, "resume_ms": 1.5});
            Handover::of(value.as_object().unwrap(), &["failure"])
        };
        let expected = Handover { segments: 86, detect_ms: 51.0, commit_ms: 3.0, resume_ms: 1.5 };
        assert_eq!(event("failure", "handover"), Some(expected));
        assert_eq!(event("join", "handover"), None);
        assert_eq!(event("failure", "raft"), None);
    }
}
