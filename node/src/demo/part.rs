//! A part of the demonstration is this same program again, as a process of its own: a machine with its node, the
//! client, the server.
//!
//! It ends with the demonstration, however that ends: by PR_SET_PDEATHSIG, which the kernel sends when the thread that
//! started it is gone. So parts are started on the main thread and nowhere else. Each is in a process group of its
//! own, so that Ctrl-C reaches the demonstration alone, which then takes everything down in order.

use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::fault::{Fault, StartError};

/// Tells a process which part it is, and whose.
const PART: &str = "PONTOON_DEMO_PART";
const PARENT: &str = "PONTOON_DEMO_PARENT";

/// How long a part may stay silent when something is expected of it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a part has to end by itself.
const END_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds a network namespace and the node in it.
    Machine,
    /// The node: becomes the daemon.
    Node,
    Client,
    Server,
}

const ROLES: [(Role, &str); 4] =
    [(Role::Machine, "machine"), (Role::Node, "node"), (Role::Client, "client"), (Role::Server, "server")];

impl Role {
    /// What this process is; `None`: the demonstration itself.
    pub fn of_this_process() -> Option<Role> {
        let word = std::env::var(PART).ok()?;
        ROLES.iter().find(|(_, name)| *name == word).map(|(role, _)| *role)
    }

    fn word(self) -> &'static str {
        ROLES.iter().find(|(role, _)| *role == self).map_or("part", |(_, name)| name)
    }

    /// This program again as that part, with what it complains of in `dir/NAME.log`.
    pub fn command(self, name: &str, dir: &Path) -> Result<Command, Fault> {
        let path = log_of(name, dir);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(|error| StartError::file(path, "write", error).fault())?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("demo")
            .env(PART, self.word())
            .env(PARENT, std::process::id().to_string())
            .process_group(0)
            .kill_on_drop(true)
            .stderr(log);
        Ok(command)
    }
}

pub fn log_of(name: &str, dir: &Path) -> PathBuf {
    dir.join(format!("{name}.log"))
}

/// The end of what a part has complained of.
pub fn complaints(name: &str, dir: &Path) -> String {
    let octets = std::fs::read(log_of(name, dir)).unwrap_or_default();
    let text = String::from_utf8_lossy(&octets);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Makes this process end with the demonstration. To be called first by every part.
pub fn end_with_parent() -> Result<(), Fault> {
    let failed = |why: String| Fault::failed("a part of the demo cannot start").why(why);
    set_pdeathsig(Signal::SIGKILL).map_err(|error| failed(error.to_string()))?;
    // It may have ended before we asked.
    let parent = getppid().to_string();
    match std::env::var(PARENT) {
        Ok(expected) if expected == parent => Ok(()),
        _ => Err(failed("the demo that it belongs to is gone".into())),
    }
}

/// The part itself: tells the demonstration something. When that is gone there is nothing left to do.
pub fn say<T: Serialize>(report: &T) {
    if let Err(error) = write_line(report) {
        eprintln!("the demo does not listen: {error}");
        std::process::exit(1);
    }
}

fn write_line<T: Serialize>(report: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// The part itself: waits for an order; `None` when the demonstration has ended.
pub fn next_order<T: DeserializeOwned>() -> Result<Option<T>, Fault> {
    let failed = |error: io::Error| Fault::failed("an order is not understood").why(error);
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line).map_err(failed)? {
        0 => Ok(None),
        _ => serde_json::from_str(&line).map(Some).map_err(|error| failed(error.into())),
    }
}

/// A part as the demonstration sees it.
#[derive(Debug)]
pub struct Part {
    name: String,
    dir: PathBuf,
    child: Child,
    orders: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
}

impl Part {
    pub fn start(role: Role, name: &str, dir: &Path) -> Result<Part, Fault> {
        let failed =
            |why: String| Fault::failed(format!("cannot start the part {name} of the demo")).why(why);
        let mut command = role.command(name, dir)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let ends = child.stdin.take().zip(child.stdout.take());
        let (orders, reports) = ends.ok_or_else(|| failed("it has no pipes".into()))?;
        Ok(Part {
            name: name.to_owned(),
            dir: dir.to_owned(),
            child,
            orders,
            reports: BufReader::new(reports).lines(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub async fn tell<T: Serialize>(&mut self, order: &T) -> Result<(), Fault> {
        let line = serde_json::to_string(order).map_err(|error| self.lost(error.to_string()))?;
        let written = self.orders.write_all(format!("{line}\n").as_bytes()).await;
        written.map_err(|error| self.lost(error.to_string()))
    }

    /// Its next report, within `PATIENCE`.
    pub async fn hear<T: DeserializeOwned>(&mut self) -> Result<T, Fault> {
        match tokio::time::timeout(PATIENCE, self.hear_ever()).await {
            Ok(report) => report,
            Err(_) => Err(self.lost(format!("it has said nothing for {} s", PATIENCE.as_secs()))),
        }
    }

    /// Its next report, whenever that may come. Can be dropped and called again without losing one.
    pub async fn hear_ever<T: DeserializeOwned>(&mut self) -> Result<T, Fault> {
        match self.reports.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).map_err(|error| self.lost(error.to_string())),
            Ok(None) => Err(self.lost("it has ended".into())),
            Err(error) => Err(self.lost(error.to_string())),
        }
    }

    /// Ends it, and waits until it is gone: without orders a part has nothing to live for, and takes down first what it
    /// has started itself.
    pub async fn end(self) {
        let Part { mut child, orders, .. } = self;
        drop(orders);
        if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
            // Fails only when it has ended by itself.
            let _ = child.kill().await;
        }
    }

    fn lost(&self, why: String) -> Fault {
        let complaints = complaints(&self.name, &self.dir);
        let why = if complaints.is_empty() { why } else { format!("{why}\n{complaints}") };
        Fault::failed(format!("the part {} of the demo does not go on", self.name)).why(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(complaints("edge-1", dir.path()), "");
        let text: String = (0..100).map(|line| format!("line {line}\n")).collect();
        std::fs::write(log_of("edge-1", dir.path()), text).unwrap();
        let shown = complaints("edge-1", dir.path());
        assert_eq!((shown.lines().count(), shown.lines().next()), (12, Some("line 88")));
    }

    #[test]
    fn roles_have_different_names() {
        for (role, name) in ROLES {
            assert_eq!(role.word(), name);
        }
    }
}
