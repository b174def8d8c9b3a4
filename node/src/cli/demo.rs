//! The arguments of `pontoon demo`; what it does is not this module's matter.

use clap::{Args, ValueEnum};

use crate::config::units;

#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// How many nodes; as many as this version can demonstrate when it is not said
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: Option<u8>,
    /// What to kill in the middle of the download
    #[arg(long, value_enum, default_value_t = Kill::Owner)]
    pub kill: Kill,
    /// Drain the owner instead
    #[arg(long, conflicts_with = "kill")]
    pub drain: bool,
    /// How much to download
    #[arg(long, default_value = "256MiB", value_parser = size)]
    pub size: u64,
    /// Leave everything running afterwards
    #[arg(long)]
    pub keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kill {
    /// The node that owns the tunnel
    Owner,
    /// The Raft leader
    Leader,
    /// Nothing
    None,
}

fn size(text: &str) -> Result<u64, String> {
    match units::octets(text) {
        Some(octets) if octets > 0 => Ok(octets),
        _ => Err("a number and a unit: KiB, MiB, GiB, kB, MB or GB".to_owned()),
    }
}
