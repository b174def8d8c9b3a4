//! `pontoon wait`: returns when the node is ready, has a quorum, or is drained.
//!
//! It waits for the daemon's socket too, so that a script may start the daemon and wait in the next line.

use std::time::{Duration, Instant};

use clap::Args;

use super::Context;
use super::output::Rows;
use crate::control::Call;
use crate::control::api::{Condition, Waited};
use crate::fault::{Exit, Fault};

/// How long it waits where `--timeout` says nothing.
const DEFAULT: Duration = Duration::from_secs(30);
/// Between two tries to reach a daemon that is not there yet.
const RETRY: Duration = Duration::from_millis(50);
/// What an answer may take beyond the time that was waited.
const MARGIN: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// For what; how long at most says --timeout
    #[arg(long = "for", value_enum, value_name = "CONDITION")]
    pub condition: Condition,
}

pub fn execute(args: &WaitArgs, context: &Context) -> Result<Exit, Fault> {
    let limit = context.global.timeout.unwrap_or(DEFAULT);
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let call = Call::Wait { condition: args.condition, timeout_ms };
        match context.client().and_then(|mut client| client.call::<Waited>(call, left + MARGIN)) {
            Ok(mut waited) => {
                waited.waited_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                context.out.document(&waited, text, rows)?;
                return Ok(Exit::Done);
            }
            Err(fault) if fault.exit == Exit::Unreachable && begun.elapsed() + RETRY < limit => {
                std::thread::sleep(RETRY);
            }
            Err(fault) => return Err(fault),
        }
    }
}

pub fn text(waited: &Waited) -> String {
    format!("{} after {:.1} s\n", waited.condition.name(), waited.waited_ms as f64 / 1e3)
}

fn rows(waited: &Waited) -> Rows {
    Rows::pairs(vec![
        ("condition", waited.condition.name().to_owned()),
        ("waited_ms", waited.waited_ms.to_string()),
    ])
}
