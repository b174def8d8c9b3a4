//! The command line: one definition, from which help, completions and the manual page come; one command a file.
//!
//! ```text
//!   args ──> Command ──> file of that name ──> Client ──> daemon
//!                              └──> table | json | tsv on stdout, faults on stderr, an exit code of CONTRACT
//! ```
//!
//! Commands that CONTRACT has and this version has not are parsed, so that their help and completions are there, and
//! refused by name with exit code 2.

mod check;
mod completions;
mod config;
mod demo;
mod doctor;
mod drain;
mod events;
mod init;
mod join;
mod leave;
mod members;
mod output;
mod run;
mod sa;
mod sas;
mod segments;
mod status;
#[cfg(test)]
mod tests;
mod version;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use demo::{DemoArgs, Kill};
pub use output::{Format, Output, Rows, word};
pub use status::headline;

use crate::config::{NodeConfig, node_toml, units};
use crate::control::{Call, Client};
use crate::fault::{Exit, Fault};
use crate::observe::Observe;

/// What the binary does when it is not a tool: set by `main`, so that this module knows no actors.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    /// Runs the node until it is told to stop.
    pub daemon: fn(NodeConfig, Observe) -> Result<(), Fault>,
    /// Runs the demonstration; `Output` says how to print.
    pub demo: fn(&DemoArgs, &Output) -> Result<(), Fault>,
}

#[derive(Debug, Parser)]
#[command(
    name = "pontoon",
    version,
    about = "A highly available IPsec gateway: many nodes, one tunnel end",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "For every command")]
pub struct Global {
    /// The daemon's control socket [env: PONTOON_SOCKET] [default: /run/pontoon/control.sock]
    #[arg(long, global = true, env = "PONTOON_SOCKET", value_name = "PATH", default_value = node_toml::CONTROL_SOCKET)]
    #[arg(hide_env = true, hide_default_value = true)]
    pub socket: PathBuf,
    /// How to print: table, json (with "schema": 1), or tsv (with a header line)
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    #[arg(hide_possible_values = true)]
    pub output: Format,
    /// How long one answer of the daemon may take, or for `wait` all of it [default: 5s; wait: 30s]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print nothing but results
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: a node of a cluster
    Run(run::RunArgs),
    /// Make a cluster whose first member is this node
    Init(init::InitArgs),
    /// Join tokens
    #[command(subcommand)]
    Token(join::Token),
    /// Add this node to a cluster
    Join(join::JoinArgs),
    /// Drain, demote and remove this node
    Leave(leave::LeaveArgs),
    /// Move the segments of a node away without losing a packet
    Drain(drain::DrainArgs),
    /// Let a drained node take part again
    Undrain(drain::UndrainArgs),
    /// Votes, Raft progress and state digests
    Members(members::MembersArgs),
    /// Who owns what
    Segments(segments::SegmentsArgs),
    /// This node and the cluster on one screen
    Status(status::StatusArgs),
    /// IKE and child SAs of the whole cluster
    Sas(sas::SasArgs),
    /// Delete one SA
    Terminate(sa::SaArgs),
    /// Rekey one SA
    Rekey(sa::SaArgs),
    /// Start a connection of which we are the initiator
    Initiate {
        /// As in [connections.NAME]
        connection: String,
    },
    /// What happened; -f follows
    Events(events::EventsArgs),
    /// Find every mistake of a file
    Check(check::CheckArgs),
    /// The replicated gateway configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Wait until a condition holds
    Wait(wait::WaitArgs),
    /// Is this host fit for it?
    Doctor(doctor::DoctorArgs),
    /// A gateway, a client and a failure, on this machine
    Demo(DemoArgs),
    /// Figures of this machine
    Bench {
        /// What to measure
        #[arg(value_parser = ["esp", "ike", "handover"])]
        what: String,
    },
    /// The version of this tool
    Version,
    /// Completions for a shell
    Completions(completions::CompletionsArgs),
    /// The manual page
    Man,
}

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    pub global: Global,
    pub out: Output,
    pub entries: Entries,
}

impl Context {
    /// For one answer of the daemon.
    pub fn timeout(&self) -> Duration {
        self.global.timeout.unwrap_or(Duration::from_secs(5))
    }

    /// One call to the daemon, within the timeout.
    pub fn call<T: serde::de::DeserializeOwned>(&self, call: Call) -> Result<T, Fault> {
        self.client()?.call(call, self.timeout())
    }

    pub fn client(&self) -> Result<Client, Fault> {
        Client::connect(&self.global.socket)
    }
}

/// The whole tool.
pub fn main(entries: Entries) -> ExitCode {
    ExitCode::from(main_with(std::env::args_os(), entries).code())
}

/// As `main`, with given arguments.
pub fn main_with(args: impl IntoIterator<Item = OsString>, entries: Entries) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors. A closed pipe is none either.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let out = Output::new(cli.global.output, cli.global.quiet);
    let context = Context { global: cli.global, out, entries };
    match execute(cli.command, &context) {
        Ok(exit) => exit,
        Err(fault) => {
            context.out.fault(&fault);
            fault.exit
        }
    }
}

fn execute(command: Command, context: &Context) -> Result<Exit, Fault> {
    match command {
        Command::Run(args) => run::execute(&args, context),
        Command::Init(args) => init::execute(args, context),
        Command::Members(args) => members::execute(args, context),
        Command::Segments(args) => segments::execute(args, context),
        Command::Status(args) => status::execute(&args, context),
        Command::Sas(args) => sas::execute(args, context),
        Command::Terminate(args) => sa::terminate(&args, context),
        Command::Rekey(args) => sa::rekey(&args, context),
        Command::Events(args) => events::execute(&args, context),
        Command::Check(args) => check::execute(&args, context),
        Command::Config(command) => config::execute(command, context),
        Command::Wait(args) => wait::execute(&args, context),
        Command::Doctor(args) => doctor::execute(&args, context),
        Command::Demo(args) => (context.entries.demo)(&args, &context.out).map(|()| Exit::Done),
        Command::Version => version::execute(context),
        Command::Completions(args) => completions::execute(&args, context),
        Command::Man => completions::man(context),
        Command::Token(command) => join::token(command, context),
        Command::Join(args) => join::join(args, context),
        Command::Leave(args) => leave::execute(args, context),
        Command::Drain(args) => drain::drain(args, context),
        Command::Undrain(args) => drain::undrain(args, context),
        Command::Initiate { .. } => Err(not_built("initiate", "connections are started by the peer")),
        Command::Bench { .. } => {
            Err(not_built("bench", "in the source tree, `cargo bench` prints the figures of this machine"))
        }
    }
}

/// The refusal of a command of CONTRACT that this version has not: exit code 2, as for such an option.
fn not_built(command: &str, why: &str) -> Fault {
    Fault::usage(format!("`pontoon {command}` is not built yet"))
        .why(why)
        .attempt("pontoon --help   (lists what there is)")
}

/// For arguments: a number and a unit.
fn duration(text: &str) -> Result<Duration, String> {
    units::duration_ms(text)
        .map(Duration::from_millis)
        .ok_or_else(|| "a number and a unit: ms, s, m, h or d, as in 30s or 1h30m".to_owned())
}
