//! Other programs: short ones that must succeed, and long ones that must end when we drop them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::outcome::{Context, Result, Stop};

/// Runs to the end and gives standard output; anything but success is an error with what the program said.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).output().context(&shown)?;
    succeed(&shown, &output)
}

fn succeed(shown: &str, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Stop::Failed(format!("`{shown}` ended with {}: {}{}", output.status, stderr.trim(), stdout.trim())))
}

/// Waits until what others have written is on the disk. The kernel begins with the output of a build half a minute after
/// it, and an fsync of a log then waits for all of it: ten seconds were seen, in which no cluster commits anything.
pub fn settle_disk() {
    rustix::fs::sync();
}

/// The command as one line, for messages.
pub fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// This program's own path. A test run may have built it anew meanwhile: the kernel then calls our file deleted, and
/// its successor stands in the same place.
pub fn own_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program")?;
    let name = own.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or(own.clone(), PathBuf::from))
}

/// True when the program can be found.
pub fn installed(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program is; also looks where a user's path seldom goes.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/lib/ipsec"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// Skips the test by name when a program is missing.
pub fn require(program: &str) -> Result {
    match installed(program) {
        true => Ok(()),
        false => Err(Stop::Skipped(format!("{program} is not installed"))),
    }
}

/// A program that runs until it is stopped, its output in a file. Killed and reaped on drop.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it with both outputs appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Daemon> {
        let shown = show(command);
        let file = File::options().create(true).append(true).open(log).context(log.display())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context(format!("start {shown}"))?;
        Ok(Daemon { child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// An error with the end of its log when it has ended by itself.
    pub fn still_running(&mut self) -> Result {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                Err(Stop::Failed(format!("it ended with {status}; its log ends:\n{}", tail(&self.log(), 15))))
            }
        }
    }

    /// SIGKILL, as a crash would; returns when it is gone.
    pub fn kill(&mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end; SIGKILL after the limit is an error.
    pub fn stop(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        signal(self.pid(), Signal::TERM)?;
        self.wait_end(limit)
    }

    /// Waits for the end; SIGKILL after the limit is an error.
    pub fn wait_end(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                self.kill()?;
                return Err(Stop::Failed(format!("it did not end within {limit:?}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        resident_kib(self.pid())
    }

    /// User and system time so far, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let after_name = stat.rsplit_once(") ").context("no name in stat")?.1;
        let fields: Vec<&str> = after_name.split(' ').collect();
        let ticks: u64 = [11, 12].iter().filter_map(|&at| fields.get(at)?.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / 100.0)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS")
}

pub fn signal(pid: u32, signal: Signal) -> Result {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no such process id")?;
    kill_process(pid, signal).context("signal")
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
