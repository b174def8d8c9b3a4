//! What goes on all the time while things break: clients that come, rekey and go, and administrators of every node.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use serde_json::Value;

use super::nemesis::now_us;
use crate::charon::{Charon, Connection};
use crate::checkers::revisions::{Attempt, Outcome};
use crate::outcome::{Context, Result};
use crate::world::pontoon::Tool;

/// How long a client waits for a tunnel before it gives up and begins anew.
const CONNECT_WITHIN: Duration = Duration::from_secs(8);
/// An administrator's attempts of which one is outdated.
const OUTDATED_EVERY: u64 = 5;
/// The last exchange of a client that has done all that it wanted.
pub const DELETE: &str = "delete";

const ADMINISTER_EVERY: Duration = Duration::from_millis(400);

/// How `pontoon` ends when what was asked for was done, and when it was refused (CONTRACT).
const DONE: Option<i32> = Some(0);
const REFUSED: Option<i32> = Some(1);
const CONFLICTS: [&str; 2] = ["in force, not", "the configuration is at revision"];

/// An exchange that a client began.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub what: &'static str,
    pub from_us: u64,
    pub to_us: u64,
    pub done: bool,
}

/// What the load came to.
#[derive(Debug, Default)]
pub struct History {
    exchanges: Mutex<Vec<Exchange>>,
    attempts: Mutex<Vec<Attempt>>,
}

impl History {
    pub fn exchanges(&self) -> Vec<Exchange> {
        lock(&self.exchanges).clone()
    }

    pub fn attempts(&self) -> Vec<Attempt> {
        lock(&self.attempts).clone()
    }

    fn exchange(&self, what: &'static str, work: impl FnOnce() -> Result) -> bool {
        let from_us = now_us();
        let done = work().is_ok();
        let exchange = Exchange { what, from_us, to_us: now_us(), done };
        lock(&self.exchanges).push(exchange);
        done
    }
}

fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client that connects, rekeys both SAs and leaves, until it is told to end. What fails is begun anew.
pub fn client<'scope>(
    scope: &'scope Scope<'scope, '_>,
    charon: &'scope Charon,
    name: String,
    history: &'scope History,
    ending: &'scope AtomicBool,
) -> ScopedJoinHandle<'scope, Result> {
    scope.spawn(move || {
        charon.load(&Connection { vips: vec!["0.0.0.0"], ..Connection::client(&name) })?;
        while !ending.load(Ordering::Relaxed) {
            let up = history.exchange("IKE_AUTH", || charon.initiate_within(&name, CONNECT_WITHIN))
                && history.exchange("child rekey", || charon.rekey_child(&name))
                && history.exchange("IKE rekey", || charon.rekey_ike(&name));
            if up {
                history.exchange(DELETE, || charon.terminate(&name));
            } else {
                charon.forget(&name)?;
            }
        }
        charon.forget(&name)
    })
}

/// An administrator of one node, who changes the configuration on condition of what he has seen last.
pub fn administrator<'scope>(
    scope: &'scope Scope<'scope, '_>,
    tool: Tool,
    gateway_toml: &'scope str,
    file: PathBuf,
    history: &'scope History,
    ending: &'scope AtomicBool,
) -> ScopedJoinHandle<'scope, Result> {
    scope.spawn(move || {
        let mut number = 0;
        while !ending.load(Ordering::Relaxed) {
            std::thread::sleep(ADMINISTER_EVERY);
            // A node that is down or cut off says nothing.
            if let Some(seen) = in_force(&tool) {
                number += 1;
                // Now and then on a condition that cannot be true any more.
                let after = if number % OUTDATED_EVERY == 0 { seen.saturating_sub(1) } else { seen };
                let text = format!("{gateway_toml}\n# attempt {number} on {}\n", tool.name);
                std::fs::write(&file, text).context(file.display())?;
                let attempt = attempt(&tool, &file, after)?;
                lock(&history.attempts).push(attempt);
            }
        }
        Ok(())
    })
}

/// The revision in force by the word of a node, which may be behind.
pub fn in_force(tool: &Tool) -> Option<u64> {
    let told = tool.tell(&["-o", "json", "config", "show"]).ok()?;
    let document: Value = serde_json::from_str(&told.stdout).ok()?;
    document["current"]["revision"].as_u64()
}

fn attempt(tool: &Tool, file: &Path, after: u64) -> Result<Attempt> {
    let from_us = now_us();
    let condition = after.to_string();
    let file = file.to_string_lossy();
    let arguments = ["-o", "json", "config", "apply", &file, "--if-revision", &condition];
    let told = tool.tell(&arguments)?;
    let outcome = match told.code {
        code if code == DONE => {
            let document: Value = serde_json::from_str(&told.stdout).context(&told.stdout)?;
            Outcome::Done(document["revision"].as_u64().context("revision")?)
        }
        // By this node, which saw another one in force, or by the log.
        code if code == REFUSED && CONFLICTS.iter().any(|text| told.stderr.contains(text)) => {
            Outcome::Refused
        }
        _ => Outcome::Unknown,
    };
    Ok(Attempt { by: tool.name.clone(), from_us, to_us: now_us(), after, outcome })
}
