//! A node of ours on its machine: writes its files, runs the built program, talks to it as an administrator would.
//!
//! Nothing here knows more about the program than `pontoon help` and its documents tell. One machine is enough for a
//! cluster of one (`Pontoon::start`); `cluster` makes several.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::account::LOG_FILTER;
use super::exec::{self, Daemon};
use super::netns::Netns;
use super::{INNER_DEVICE, INSIDE, INSIDE6, OUTER_DEVICE, SERVICE, World, eventually, http};
use crate::ensure;
use crate::outcome::{Context, Result, Stop};

/// How long a daemon may take to be there; a debug build on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// The secret of all clients; `gateway.toml` names its file `clients.psk`.
pub const PSK: &str = "correct horse battery staple";
const METRICS: &str = "127.0.0.1:9477";

/// Where a node runs, and what its `node.toml` has of its own.
#[derive(Clone, Debug)]
pub struct Machine {
    pub namespace: Arc<Netns>,
    /// The node's name.
    pub name: String,
    /// Where the other nodes reach it.
    pub advertise: Ipv4Addr,
    pub steering: &'static str,
    /// Of `[timing]`.
    pub profile: &'static str,
    /// For its files; must be there only when it starts.
    pub dir: PathBuf,
}

/// A node with its folder, running or not.
#[derive(Debug)]
pub struct Pontoon {
    daemon: Option<Daemon>,
    machine: Machine,
    log: PathBuf,
}

/// What a command of ours printed and how it ended.
#[derive(Clone, Debug)]
pub struct Told {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Pontoon {
    /// Starts a node, makes it a cluster of one, applies the gateway configuration, waits until it is ready.
    pub fn start(world: &World, gateway_toml: &str) -> Result<Pontoon> {
        let mut node = Pontoon::start_empty(world)?;
        node.must(&["init", "--name", "test"])?;
        node.apply(gateway_toml)?;
        node.wait_ready()?;
        node.still_running()?;
        Ok(node)
    }

    /// Starts a node that is no member of anything yet.
    pub fn start_empty(world: &World) -> Result<Pontoon> {
        Pontoon::on(world.machine())
    }

    /// Starts a node on a machine; what it was before is in the machine's folder, if anything.
    pub fn on(machine: Machine) -> Result<Pontoon> {
        let dir = &machine.dir;
        std::fs::create_dir_all(dir).context(dir.display())?;
        std::fs::write(dir.join("node.toml"), node_toml(&machine)).context("node.toml")?;
        let log = dir.join("log");
        let mut node = Pontoon { daemon: None, machine, log };
        node.run()?;
        node.wait_reachable()?;
        Ok(node)
    }

    pub fn name(&self) -> &str {
        &self.machine.name
    }

    fn run(&mut self) -> Result {
        let mut command = self.inside(&program()?);
        command.arg("run").arg("--config").arg(self.machine.dir.join("node.toml"));
        command.env("RUST_BACKTRACE", "1").env("RUST_LOG", LOG_FILTER);
        self.daemon = Some(Daemon::start(&mut command, &self.log)?);
        Ok(())
    }

    pub fn wait_reachable(&mut self) -> Result {
        eventually(PATIENCE, || {
            self.still_running()?;
            let told = self.tell(&["status"])?;
            ensure!(told.code == Some(0), "status: {}{}", told.stderr, told.stdout);
            Ok(())
        })
    }

    /// Applies a gateway configuration.
    pub fn apply(&self, gateway_toml: &str) -> Result {
        let file = self.machine.dir.join("gateway.toml");
        std::fs::write(&file, gateway_toml).context("gateway.toml")?;
        std::fs::write(self.machine.dir.join("clients.psk"), PSK).context("clients.psk")?;
        self.must(&["config", "apply", &file.to_string_lossy()]).map(drop)
    }

    pub fn wait_ready(&self) -> Result {
        self.must(&["wait", "--for", "ready", "--timeout", "30s"]).map(drop)
    }

    /// SIGKILL, in the middle of whatever it does.
    pub fn kill(&mut self) -> Result {
        self.daemon.take().context("the node does not run")?.kill()
    }

    /// Starts it again on the data that it left.
    pub fn restart(&mut self) -> Result {
        ensure!(self.daemon.is_none(), "the node still runs");
        self.run()
    }

    /// Removes what it keeps, while it does not run.
    pub fn forget(&self) -> Result {
        ensure!(self.daemon.is_none(), "the node still runs");
        let data = self.data_dir();
        std::fs::remove_dir_all(&data).context(data.display())
    }

    /// After a restart: waits for the local API, then for `ready`.
    pub fn wait_ready_again(&mut self) -> Result {
        self.wait_reachable()?;
        self.wait_ready()
    }

    /// SIGTERM; an error when it does not end properly.
    pub fn stop(&mut self) -> Result {
        let status = self.daemon.take().context("the node does not run")?.stop(Duration::from_secs(20))?;
        ensure!(status.success(), "it ended with {status}: {}", exec::tail(&self.log(), 5));
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn wait_end(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let status = self.daemon.as_mut().context("the node does not run")?.wait_end(limit)?;
        self.daemon = None;
        Ok(status)
    }

    pub fn still_running(&mut self) -> Result {
        self.daemon.as_mut().context("the node does not run")?.still_running()
    }

    /// Its commands, for who uses them while faults are done to the node.
    pub fn tool(&self) -> Tool {
        Tool {
            name: self.machine.name.clone(),
            namespace: self.machine.namespace.clone(),
            socket: self.machine.dir.join("control.sock"),
        }
    }

    /// Runs one of its commands and gives what came of it.
    pub fn tell(&self, arguments: &[&str]) -> Result<Told> {
        self.tool().tell(arguments)
    }

    /// Starts one of its commands and does not wait for it; it ends when the handle is dropped.
    pub fn begin(&self, arguments: &[&str]) -> Result<Daemon> {
        Daemon::start(&mut self.tool().command(arguments)?, &self.machine.dir.join("output"))
    }

    /// Runs a command that must succeed; gives its standard output.
    pub fn must(&self, arguments: &[&str]) -> Result<String> {
        let told = self.tell(arguments)?;
        ensure!(
            told.code == Some(0),
            "`pontoon {}` ended with {:?}: {}{}",
            arguments.join(" "),
            told.code,
            told.stderr,
            told.stdout
        );
        Ok(told.stdout)
    }

    /// The document that a command prints.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let arguments: Vec<&str> = ["-o", "json"].iter().chain(arguments).copied().collect();
        let text = self.must(&arguments)?;
        serde_json::from_str(&text).context(format!("{arguments:?} did not print JSON: {text}"))
    }

    /// The IKE SAs, as `pontoon sas` shows them.
    pub fn sas(&self) -> Result<Vec<Value>> {
        let document = self.json(&["sas"])?;
        document["sas"].as_array().cloned().context("no list of SAs")
    }

    /// The events so far, one document each.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = self.must(&["-o", "json", "events"])?;
        text.lines().map(|line| serde_json::from_str(line).context(line)).collect()
    }

    /// The sum of a metric over its labels, or of those lines that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let text = self.metrics()?;
        let mut found = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let own = rest.starts_with(['{', ' ']) && rest.contains(label);
            own.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
        });
        let first = found.next().context(format!("no metric {name} with {label:?}"))?;
        Ok(first + found.sum::<f64>())
    }

    /// The counters of dropped packets that are not zero, as the metrics print them.
    pub fn drops(&self) -> Result<Vec<String>> {
        let text = self.metrics()?;
        let dropped = text.lines().filter(|line| line.contains("dropped") && !line.starts_with('#'));
        Ok(dropped.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect())
    }

    /// Everything at `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        let address: SocketAddr = METRICS.parse().context("address")?;
        http::page(&self.machine.namespace, address, "/metrics")
    }

    pub fn resident_kib(&self) -> Result<u64> {
        self.daemon.as_ref().context("the node does not run")?.resident_kib()
    }

    pub fn cpu_seconds(&self) -> Result<f64> {
        self.daemon.as_ref().context("the node does not run")?.cpu_seconds()
    }

    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.machine.dir.join("data")
    }

    fn inside(&self, program: &Path) -> Command {
        inside(&self.machine.namespace, program)
    }
}

fn inside(namespace: &Netns, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name()]).arg(program);
    command
}

/// The commands of one node, as an administrator gives them on its machine.
#[derive(Clone, Debug)]
pub struct Tool {
    pub name: String,
    namespace: Arc<Netns>,
    socket: PathBuf,
}

impl Tool {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = inside(&self.namespace, &program()?);
        command.arg("--socket").arg(&self.socket).args(arguments);
        Ok(command)
    }

    /// Runs a command and gives what came of it.
    pub fn tell(&self, arguments: &[&str]) -> Result<Told> {
        let mut command = self.command(arguments)?;
        let output = command.output().context(exec::show(&command))?;
        Ok(Told {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

fn node_toml(machine: &Machine) -> String {
    let Machine { name, advertise, steering, profile, .. } = machine;
    let dir = machine.dir.display();
    format!(
        r#"name      = "{name}"
advertise = "{advertise}:7400"
data_dir  = "{dir}/data"

[control]
socket = "{dir}/control.sock"
http   = "{METRICS}"

[outside]
device   = "{OUTER_DEVICE}"
address  = ["{SERVICE}/24"]
steering = "{steering}"

[inside]
device   = "{INNER_DEVICE}"
address  = ["{INSIDE}/24", "{INSIDE6}/64"]
steering = "{steering}"
tun      = "pontoon0"

[timing]
profile  = "{profile}"
"#
    )
}

/// The built program beside this one.
pub fn program() -> Result<PathBuf> {
    let own = exec::own_program()?;
    let folder = own.parent().context("a folder")?;
    let candidates = [folder.join("pontoon"), folder.join("../pontoon")];
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Stop::Failed("the program `pontoon` is not built; run `cargo build --bin pontoon`".into())
    })
}

/// True for namespaces that still have our TUN device.
pub fn has_tun(namespace: &Netns) -> bool {
    namespace.ip("link show pontoon0").is_ok()
}
