//! `pontoon version`.

use super::Context;
use super::output::Rows;
use crate::control::api::Version;
use crate::control::wire;
use crate::fault::{Exit, Fault};

pub fn execute(context: &Context) -> Result<Exit, Fault> {
    context.out.document(&current(), text, rows)?;
    Ok(Exit::Done)
}

fn current() -> Version {
    Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        control: wire::VERSION,
    }
}

fn text(version: &Version) -> String {
    format!("pontoon {} ({}, {})\n", version.version, version.profile, version.target)
}

fn rows(version: &Version) -> Rows {
    Rows::pairs(vec![
        ("version", version.version.clone()),
        ("profile", version.profile.clone()),
        ("target", version.target.clone()),
        ("control", version.control.to_string()),
    ])
}
