//! `cargo compose`: three gateways, a client and a web server as containers (`testbed/compose/`).
//!
//! ```text
//!   up          images, containers, cluster, tunnel: from nothing, or whatever is missing of it
//!   download    a file through the tunnel, its hash compared
//!   kill-owner  SIGKILL to the gateway that has the tunnel; `up` starts it again
//!   check       all of that, a deleted volume and an abrupt stop of everything: what `cargo verify` runs
//! ```
//!
//! Works with `docker compose` and with docker-compose 1.29.2.

mod check;
mod images;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

pub use check::check;

use crate::ensure;
use crate::outcome::{Context, Result, Stop};
use crate::verify;
use crate::world::eventually;
use crate::world::exec;

/// Of the containers, networks and volumes, and of nothing else on the machine.
const PROJECT: &str = "pontoon-compose";
const EDGES: [&str; 3] = ["edge-1", "edge-2", "edge-3"];
/// How long a cluster of containers may take to be there.
const PATIENCE: Duration = Duration::from_secs(90);

/// The engine of this machine, and the tool that reads the compose file.
#[derive(Debug)]
pub struct Compose {
    tool: &'static [&'static str],
    file: PathBuf,
}

impl Compose {
    /// Skips by name where no engine answers.
    pub fn find() -> Result<Compose> {
        exec::require("docker")?;
        exec::run(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]))
            .map_err(|_| Stop::Skipped("no container engine answers".into()))?;
        let tools: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
        let works =
            |tool: &&&[&str]| exec::run(Command::new(tool[0]).args(&tool[1..]).arg("version")).is_ok();
        let tool = tools.iter().find(works).ok_or_else(|| {
            Stop::Skipped("neither `docker compose` nor docker-compose is installed".into())
        })?;
        Ok(Compose { tool, file: verify::root().join("testbed/compose/docker-compose.yml") })
    }

    /// Everything that is missing, up to a tunnel.
    pub fn up(&self) -> Result {
        images::make()?;
        self.tool(&["up", "--detach", "--no-build"])?;
        let form = self.container("form")?;
        let code = docker(&["wait", &form])?;
        let log = exec::tail(&self.log("form")?, 8);
        ensure!(code.trim() == "0", "the cluster was not made: {log}");
        self.wait_healthy()?;
        self.wait_tunnel()
    }

    /// Whether any container of it exists, running or not.
    fn exists(&self) -> bool {
        ["form", "client", "server"].into_iter().chain(EDGES).any(|service| self.container(service).is_ok())
    }

    /// Takes all of it away, volumes included.
    pub fn down(&self) -> Result {
        self.tool(&["down", "--volumes", "--remove-orphans", "--timeout", "30"])
    }

    /// Downloads through the tunnel; gives what the client says of it.
    pub fn download(&self) -> Result<String> {
        self.within("client", &["sh", "/usr/local/bin/download.sh"])
    }

    /// Kills the gateway that has the tunnel; gives its name.
    pub fn kill_owner(&self) -> Result<String> {
        let owner = self.sa()?["owner"].as_str().context("the tunnel has no owner")?.to_owned();
        docker(&["kill", "--signal", "KILL", &self.container(&owner)?])?;
        Ok(owner)
    }

    /// What any gateway that runs prints.
    pub fn status(&self) -> Result<String> {
        self.pontoon(&["status"])
    }

    /// The only tunnel, by the word of a gateway that runs.
    fn sa(&self) -> Result<Value> {
        let text = self.pontoon(&["-o", "json", "sas"])?;
        let document: Value = serde_json::from_str(&text).context(&text)?;
        let sas = document["sas"].as_array().context("no list of SAs")?;
        ensure!(sas.len() == 1, "{} tunnels: {text}", sas.len());
        Ok(sas[0].clone())
    }

    /// A command of pontoon in the first gateway that runs.
    fn pontoon(&self, arguments: &[&str]) -> Result<String> {
        let mut last = Stop::Failed("no gateway runs".into());
        for edge in EDGES {
            let words: Vec<&str> = ["pontoon"].iter().chain(arguments).copied().collect();
            match self.within(edge, &words) {
                Ok(text) => return Ok(text),
                Err(stop) => last = stop,
            }
        }
        Err(last)
    }

    fn wait_healthy(&self) -> Result {
        eventually(PATIENCE, || {
            for service in EDGES.into_iter().chain(["server"]) {
                let health = self.inspect(service, "{{.State.Health.Status}}")?;
                ensure!(health == "healthy", "{service} is {health}: {}", exec::tail(&self.log(service)?, 5));
            }
            Ok(())
        })
    }

    fn wait_tunnel(&self) -> Result {
        eventually(PATIENCE, || {
            let sas = self.within("client", &["swanctl", "--list-sas"])?;
            ensure!(
                sas.contains("INSTALLED"),
                "the client has no tunnel: {}",
                exec::tail(&self.log("client")?, 8)
            );
            Ok(())
        })
    }

    fn inspect(&self, service: &str, format: &str) -> Result<String> {
        let container = self.container(service)?;
        Ok(docker(&["inspect", "--format", format, &container])?.trim().to_owned())
    }

    fn within(&self, service: &str, words: &[&str]) -> Result<String> {
        let container = self.container(service)?;
        docker(&[&["exec", &container], words].concat())
    }

    /// The container of a service, running or not. Its name is not the same with both tools; its labels are.
    fn container(&self, service: &str) -> Result<String> {
        let project = format!("label=com.docker.compose.project={PROJECT}");
        let service_is = format!("label=com.docker.compose.service={service}");
        let ids = docker(&["ps", "--all", "--quiet", "--filter", &project, "--filter", &service_is])?;
        ids.lines().next().map(str::to_owned).context(format!("there is no container of {service}"))
    }

    fn log(&self, service: &str) -> Result<String> {
        let output = Command::new("docker")
            .args(["logs", "--tail", "40", &self.container(service)?])
            .output()
            .context("docker logs")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    }

    fn tool(&self, arguments: &[&str]) -> Result {
        let mut command = Command::new(self.tool[0]);
        command.args(&self.tool[1..]).arg("--file").arg(&self.file).args(["--project-name", PROJECT]);
        exec::run(command.args(arguments)).map(drop)
    }
}

fn docker(arguments: &[&str]) -> Result<String> {
    exec::run(Command::new("docker").args(arguments))
}
