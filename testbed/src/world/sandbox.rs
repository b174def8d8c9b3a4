//! The testbed runs itself again inside private namespaces, so that it cannot leave anything behind.
//!
//! A private mount namespace with an empty `/run` holds the names of the network namespaces; a private process
//! namespace ends every child with us, even when we are killed; a private network namespace keeps mistakes away from
//! the machine's own devices. Without root the same is tried in a user namespace.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::exec;
use crate::outcome::{Context, Result, Stop};

/// What makes the sandbox.
const UNSHARE: [&str; 8] =
    ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"];

const INSIDE: &str = "PONTOON_TESTBED_SANDBOX";

/// True in the process that runs inside the sandbox.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Replaces this process by itself inside the sandbox; returns at once when it is there already.
pub fn enter() -> Result {
    if inside() {
        return prepare();
    }
    let own = exec::own_program()?;
    let mut command = unshare()?;
    command.arg(own).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    Err(Stop::Failed(format!("unshare: {}", command.exec())))
}

/// Skips with the reason where the machine allows no such namespaces.
pub fn require() -> Result {
    if inside() {
        return Ok(());
    }
    let output = unshare()?.arg("true").output().context("unshare")?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Stop::Skipped(format!(
            "this machine allows no namespaces: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

fn unshare() -> Result<Command> {
    exec::require("unshare")?;
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(UNSHARE);
    Ok(command)
}

fn prepare() -> Result {
    exec::run(Command::new("mount").args(["-t", "tmpfs", "none", "/run"]))?;
    exec::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    std::fs::create_dir_all("/run/netns").context("/run/netns")?;
    end_on_interrupt()
}

/// Being the first process of its namespace, we would ignore these signals.
fn end_on_interrupt() -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            if let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                std::process::exit(130);
            }
        });
    });
    Ok(())
}

/// Namespaces need root, be it only inside a user namespace.
pub fn require_root() -> Result {
    if !rustix::process::geteuid().is_root() {
        return Err(Stop::Skipped("network namespaces need root".into()));
    }
    exec::require("ip")
}
