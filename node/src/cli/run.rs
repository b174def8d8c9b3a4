//! `pontoon run`: reads node.toml, starts the log, and becomes the daemon.

use std::path::{Path, PathBuf};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::Context;
use crate::config::{NodeConfig, Report};
use crate::control::not_running;
use crate::fault::{Exit, Fault};
use crate::observe::Observe;

#[derive(Debug, Args)]
pub struct RunArgs {
    /// This machine's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/pontoon/node.toml")]
    pub config: PathBuf,
    /// What to log: error, warn, info, debug, trace, or per module as in RUST_LOG
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG")]
    pub log: Option<String>,
    /// Log lines as JSON
    #[arg(long)]
    pub log_json: bool,
}

pub fn execute(args: &RunArgs, context: &Context) -> Result<Exit, Fault> {
    let (config, report) = read(&args.config)?;
    if !report.diagnostics.is_empty() {
        context.out.warn(&report.render(context.out.colour_errors));
    }
    let Some(config) = config else {
        return Err(Fault::usage(format!("{}: {}. Nothing was started.", report.name, report.summary())));
    };
    // Asked first: what a second daemon fails at otherwise, the TUN or a port, would only confuse.
    not_running(&config.control_socket)?;
    start_log(args, context)?;
    (context.entries.daemon)(config, Observe::new()).map(|()| Exit::Done)
}

/// Reads node.toml, with all its mistakes.
pub fn read(path: &Path) -> Result<(Option<NodeConfig>, Report), Fault> {
    let text = crate::config::read_text(path)?;
    let whole =
        std::path::absolute(path).map_err(|error| Fault::usage(format!("{}: {error}", path.display())))?;
    let base = whole.parent().unwrap_or(Path::new("/"));
    Ok(NodeConfig::parse(&path.display().to_string(), &text, base))
}

fn start_log(args: &RunArgs, context: &Context) -> Result<(), Fault> {
    let level = match (&args.log, context.global.quiet, context.global.verbose) {
        (Some(level), ..) => level.clone(),
        (None, true, _) => with_libraries("warn", "off"),
        (None, _, 0) => with_libraries("info", "off"),
        (None, _, 1) => with_libraries("debug", "info"),
        (None, ..) => with_libraries("trace", "debug"),
    };
    let filter = EnvFilter::try_new(&level).map_err(|error| {
        Fault::usage(format!("{level:?} is no level to log at")).why(error).attempt("--log info")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if args.log_json {
        builder.json().try_init()
    } else {
        let builder = builder.with_ansi(context.out.colour_errors).with_target(false);
        // The journal has the time already.
        match std::env::var_os("JOURNAL_STREAM") {
            Some(_) => builder.without_time().try_init(),
            None => builder.try_init(),
        }
    };
    started.map_err(|error| Fault::failed("cannot start the log").why(error))
}

/// What libraries tell is seldom what somebody wants who asks how a node is doing; what stops them, we tell ourselves.
fn with_libraries(ours: &str, theirs: &str) -> String {
    const LIBRARIES: [&str; 6] = ["openraft", "sled", "netlink_proto", "hyper", "mio", "tun"];
    LIBRARIES.iter().fold(ours.to_owned(), |filter, library| format!("{filter},{library}={theirs}"))
}
