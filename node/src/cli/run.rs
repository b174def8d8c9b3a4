//! `pontoon run`: reads node.toml, starts the log, and becomes the daemon.

use std::path::{Path, PathBuf};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::Context;
use crate::config::{NodeConfig, Report};
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
        (Some(level), ..) => level.as_str(),
        (None, true, _) => "warn",
        // The libraries below us tell at this level what only their authors need.
        (None, _, 0) => "info,openraft=warn,sled=warn",
        (None, _, 1) => "debug,openraft=info,sled=info",
        (None, ..) => "trace",
    };
    let filter = EnvFilter::try_new(level).map_err(|error| {
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
