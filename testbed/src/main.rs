//! The developer's commands: `cargo verify`, `cargo fix-all`, `cargo netns`, `cargo spec`,
//! `cargo bench`, `cargo model`, `cargo compose`, `cargo chaos`.
//!
//! The aliases are in `.cargo/config.toml`. Exit code 0 when all is well, 1 when not, 2 for a wrong command line.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use testbed::outcome::{Context, Result, Stop};
use testbed::world::sandbox;
use testbed::{bench, chaos, compose, model, scenarios, spec, verify};

#[derive(Parser, Debug)]
#[command(name = "testbed", about = "Checks, scenarios and figures of pontoon")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Everything that must hold
    Verify {
        /// Leave the scenarios out
        #[arg(long)]
        without_scenarios: bool,
    },
    /// Put right what a program can
    Fix,
    /// Scenarios in network namespaces, those whose names begin so, or all
    Netns {
        names: Vec<String>,
        /// Only name them
        #[arg(long)]
        list: bool,
        /// At their full size: hours, where `cargo verify` takes minutes
        #[arg(long)]
        full: bool,
        /// The program under test is built already
        #[arg(long, hide = true)]
        built: bool,
        /// Also write the results to this file
        #[arg(long, hide = true)]
        report: Option<PathBuf>,
    },
    /// Figures: those of these names, or all
    Bench {
        /// setup, commit, throughput, gap, memory, handover, download, alarms, ha
        names: Vec<String>,
        /// Some seconds each: to see whether it works, not to quote
        #[arg(long)]
        quick: bool,
        /// The program to measure is built already
        #[arg(long, hide = true)]
        built: bool,
        /// Also write the figures to this file
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Every reachable state of the protocol, and what breaks without each of its rules
    Model {
        /// Only as far as the tests go: some seconds
        #[arg(long)]
        quick: bool,
    },
    /// Three gateways, a client and a web server as containers of this machine's engine
    Compose {
        #[command(subcommand)]
        act: Act,
    },
    /// A cluster under load whose network and nodes fail by a seed, and the judgement
    Chaos {
        /// What goes wrong: halves, majority-ring, bridge, mute, one-way, deaf, leader-alone, owner-alone, killed, stopped,
        /// wiped, gone, starved, rough, slow; all of them when none is named
        names: Vec<String>,
        /// Decides what happens when and to whom; a new one when it is not given
        #[arg(long)]
        seed: Option<u64>,
        #[arg(long, default_value_t = 15)]
        rounds: usize,
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=7))]
        nodes: u8,
        /// The program under test is built already
        #[arg(long, hide = true)]
        built: bool,
    },
    /// Which requirement has code, which has a test
    Spec {
        /// Every row, not only the sums
        #[arg(long)]
        all: bool,
    },
}

#[derive(Subcommand, Clone, Copy, Debug)]
enum Act {
    /// Everything, from nothing to a tunnel; or what is missing of it
    Up,
    /// A file through the tunnel
    Download,
    /// SIGKILL to the gateway that has the tunnel
    KillOwner,
    /// What the gateways say of themselves
    Status,
    /// Take all of it away, volumes included
    Down,
    /// What `cargo verify` runs: all of this, and what may go wrong
    Check,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(stop) => {
            eprintln!("error: {stop}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<bool> {
    match command {
        Command::Verify { without_scenarios } => verify::verify(verify::Choice { without_scenarios }),
        Command::Fix => verify::fix().map(|()| true),
        Command::Netns { list: true, .. } => {
            for scenario in scenarios::all() {
                println!("{:<28} {}", scenario.name, scenario.what);
            }
            Ok(true)
        }
        Command::Netns { names, full, built, report, .. } => netns(&names, full, built, report),
        Command::Bench { names, quick, built, json } => {
            if !built && !sandbox::inside() {
                verify::build_program()?;
            }
            sandbox::enter()?;
            let extent = if quick { bench::Extent::Quick } else { bench::Extent::Full };
            bench::run(&names, extent, json.as_deref())
        }
        Command::Model { quick } => {
            Ok(model::run(if quick { model::Extent::Small } else { model::Extent::Full }))
        }
        Command::Chaos { names, seed, rounds, nodes, built } => {
            let seed = seed.unwrap_or_else(chaos::nemesis::now_us);
            cause_chaos(&chaos::Plan::drawn(nodes.into(), seed, rounds, &chosen(&names)?), built)
        }
        Command::Compose { act } => contain(act).map(|()| true),
        Command::Spec { all } => {
            let coverage = spec::cover(&verify::root())?;
            print!("{}", coverage.table(all));
            for fault in &coverage.faults {
                println!("fault: {fault}");
            }
            println!("{} requirements, {} faults", coverage.requirements.len(), coverage.faults.len());
            Ok(coverage.faults.is_empty())
        }
    }
}

fn netns(names: &[String], full: bool, built: bool, report: Option<PathBuf>) -> Result<bool> {
    if !built && !sandbox::inside() {
        verify::build_program()?;
    }
    sandbox::enter()?;
    let ended = scenarios::run(names, full)?;
    let items = verify::items(&ended);
    if let Some(path) = report {
        let text = serde_json::to_string(&items).context("results")?;
        std::fs::write(&path, text).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))?;
        return Ok(items.iter().all(|item| item.fault.is_none() || item.skipped));
    }
    Ok(verify::summarise(&items))
}

fn chosen(names: &[String]) -> Result<Vec<chaos::Nemesis>> {
    if names.is_empty() {
        return Ok(chaos::Nemesis::ALL.to_vec());
    }
    let known = |name: &String| {
        let found = chaos::Nemesis::ALL.into_iter().find(|nemesis| nemesis.word() == name);
        found.context(format!("nothing is called {name}; `cargo chaos --help` names what there is"))
    };
    names.iter().map(known).collect()
}

fn cause_chaos(plan: &chaos::Plan, built: bool) -> Result<bool> {
    if !built && !sandbox::inside() {
        verify::build_program()?;
    }
    sandbox::enter()?;
    let ended = scenarios::run_one("chaos", "by a seed", false, |bed| chaos::run(bed, plan))?;
    Ok(verify::summarise(&verify::items(&[ended])))
}

fn contain(act: Act) -> Result {
    let compose = compose::Compose::find()?;
    match act {
        Act::Up => {
            verify::build_program()?;
            compose.up()?;
            print!("{}", compose.status()?);
            println!(
                "\nnext:  cargo compose download, and meanwhile  cargo compose kill-owner\nundo:  cargo compose down"
            );
        }
        Act::Download => print!("{}", compose.download()?),
        Act::KillOwner => {
            println!("{} had the tunnel and is killed\nundo:  cargo compose up", compose.kill_owner()?)
        }
        Act::Status => print!("{}", compose.status()?),
        Act::Down => compose.down()?,
        Act::Check => compose::check()?,
    }
    Ok(())
}
