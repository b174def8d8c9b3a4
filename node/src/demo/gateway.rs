//! The gateway: its files, its process, and what we ask it through its control socket as the tool does.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crypto::rng::{OsRng, Rng};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::process::Child;

use super::net::{INSIDE, INSIDE_DEVICE, NODE, OUTSIDE_DEVICE, POOL, PREFIX, SERVICE};
use super::part::{self, PATIENCE, Role};
use super::sandbox::RUN_DIR;
use super::tunnel::{CLIENT_ID, GATEWAY_ID};
use crate::config::GatewaySource;
use crate::control::api::{self, Condition};
use crate::control::{Call, Client};
use crate::fault::{Exit, Fault, StartError};

/// The node's name.
pub const NAME: &str = "edge-1";
/// How often it is looked whether the node answers already.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub struct Gateway {
    dir: PathBuf,
    psk: String,
    child: Child,
}

impl Gateway {
    /// Starts the node, makes it a cluster of one and configures it.
    pub async fn start(dir: &Path) -> Result<Gateway, Fault> {
        let psk: String = OsRng.vec(16).iter().map(|octet| format!("{octet:02x}")).collect();
        write(&dir.join("node.toml"), &node_toml(dir))?;
        write(&dir.join("gateway.toml"), &gateway_toml())?;
        write(&dir.join("anna.psk"), &psk)?;
        let mut gateway = Gateway { dir: dir.to_owned(), psk, child: spawn(dir)? };
        gateway.wait_reachable().await?;
        gateway.ask::<api::Initialized>(Call::Init { name: "demo".into() }).await?;
        let loaded = GatewaySource::load(&dir.join("gateway.toml"))?;
        let source = loaded.source.into();
        gateway
            .ask::<api::ConfigApplied>(Call::ConfigApply { source, comment: None, if_revision: None })
            .await?;
        gateway.wait_ready().await?;
        Ok(gateway)
    }

    /// The client's secret.
    pub fn psk(&self) -> &str {
        &self.psk
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, in the middle of whatever it does, and a new process on the data that it left.
    pub async fn crash(&mut self) -> Result<(), Fault> {
        let failed = |error| Fault::failed("cannot kill the node").why(error);
        self.child.start_kill().map_err(failed)?;
        self.child.wait().await.map_err(failed)?;
        self.child = spawn(&self.dir)?;
        Ok(())
    }

    /// Returns when somebody else has ended it. Can be dropped and called again.
    pub async fn ended(&mut self) {
        // An error says that it is gone, too.
        let _ = self.child.wait().await;
    }

    /// Starts it again after `ended`.
    pub fn restart(&mut self) -> Result<(), Fault> {
        self.child = spawn(&self.dir)?;
        Ok(())
    }

    pub async fn wait_ready(&mut self) -> Result<(), Fault> {
        self.wait_reachable().await?;
        let timeout_ms = PATIENCE.as_millis() as u64;
        self.ask::<api::Waited>(Call::Wait { condition: Condition::Ready, timeout_ms }).await.map(drop)
    }

    /// Until the control socket answers.
    async fn wait_reachable(&mut self) -> Result<(), Fault> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let fault = Fault::failed(format!("the node has ended: {status}"));
                return Err(fault.why(part::complaints(Role::Node, &self.dir)));
            }
            match self.ask::<api::Status>(Call::Status).await {
                Ok(_) => return Ok(()),
                Err(fault) if fault.exit != Exit::Unreachable || Instant::now() >= deadline => {
                    return Err(fault);
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    pub async fn sas(&self) -> Result<Vec<api::IkeSa>, Fault> {
        self.ask::<api::Sas>(Call::Sas { peer: None }).await.map(|document| document.sas)
    }

    /// The last handover of this process's life: its parts in milliseconds.
    pub async fn handover(&self) -> Result<Option<Handover>, Fault> {
        let events = blocking(|| {
            let mut events = Vec::new();
            connect()?.events(false, PATIENCE, |event| {
                events.push(event);
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
            Ok(events)
        });
        Ok(events.await?.iter().rev().find_map(Handover::of))
    }

    /// Ends it, and waits until it is gone.
    pub async fn end(mut self) {
        // Fails only when it has ended by itself.
        let _ = self.child.kill().await;
    }

    async fn ask<T: DeserializeOwned + Send + 'static>(&self, call: Call) -> Result<T, Fault> {
        blocking(move || connect()?.call(call, PATIENCE)).await
    }
}

/// What the node says of the segments that it took over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Handover {
    pub segments: u64,
    pub commit_ms: f64,
    pub resume_ms: f64,
}

impl Handover {
    /// `None` for other events, and for a first assignment.
    fn of(event: &Map<String, Value>) -> Option<Handover> {
        let number = |key: &str| event.get(key).and_then(Value::as_f64);
        let is = |key: &str, word: &str| event.get(key).and_then(Value::as_str) == Some(word);
        if !is("kind", "handover") || !is("cause", "restart") {
            return None;
        }
        let segments = event.get("segments").and_then(Value::as_u64)?;
        Some(Handover { segments, commit_ms: number("commit_ms")?, resume_ms: number("resume_ms")? })
    }
}

/// The node as a part: becomes the daemon, with the command line that an administrator would use.
pub fn become_node() -> Result<(), Fault> {
    use std::os::unix::process::CommandExt as _;
    let dir = std::env::var_os(DIR).map(PathBuf::from);
    let dir = dir.ok_or_else(|| Fault::failed(format!("{DIR} is not set")))?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("pontoon").args(["run", "--config"]).arg(dir.join("node.toml"));
    Err(Fault::failed("cannot start the node").why(command.exec()))
}

/// Tells the node's process where its files are.
const DIR: &str = "PONTOON_DEMO_DIR";

fn spawn(dir: &Path) -> Result<Child, Fault> {
    let mut command = Role::Node.command(dir)?;
    command.env(DIR, dir).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().map_err(|error| Fault::failed("cannot start the node").why(error))
}

fn connect() -> Result<Client, Fault> {
    Client::connect(&Path::new(RUN_DIR).join("control.sock"))
}

/// Runs something that blocks beside the demonstration.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fault::failed("a call to the node has broken off").why(error)))
}

/// Makes a file that nobody else may read: one of them is a secret.
fn write(path: &Path, text: &str) -> Result<(), Fault> {
    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| StartError::file(path, "write", error).fault())
}

fn node_toml(dir: &Path) -> String {
    let data_dir = dir.join("data");
    // A TOML string of a path may hold anything but what JSON would escape, too.
    let data_dir = Value::String(data_dir.to_string_lossy().into_owned());
    format!(
        r#"name      = "{NAME}"
advertise = "{NODE}:7400"
data_dir  = {data_dir}

[control]
socket = "{RUN_DIR}/control.sock"
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
            let (config, report) = NodeConfig::parse("node.toml", &node_toml(&dir), &dir);
            assert!(report.diagnostics.is_empty(), "{}", report.render(false));
            assert_eq!(config.unwrap().data_dir, dir.join("data"));
            write(&dir.join("gateway.toml"), &gateway_toml()).unwrap();
            write(&dir.join("anna.psk"), "0123456789abcdef").unwrap();
            let loaded = GatewaySource::load(&dir.join("gateway.toml")).unwrap();
            assert!(loaded.report.diagnostics.is_empty(), "{}", loaded.report.render(false));
        }
    }

    #[test]
    fn a_restart_is_told_from_other_handovers() {
        let event = |cause: &str, kind: &str| {
            let value =
                json!({"kind": kind, "cause": cause, "segments": 256, "commit_ms": 3.0, "resume_ms": 1.5});
            Handover::of(value.as_object().unwrap())
        };
        let expected = Handover { segments: 256, commit_ms: 3.0, resume_ms: 1.5 };
        assert_eq!(event("restart", "handover"), Some(expected));
        assert_eq!(event("join", "handover"), None);
        assert_eq!(event("restart", "raft"), None);
    }
}
