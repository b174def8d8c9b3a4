//! `pontoon check FILE`: every mistake of a node.toml or gateway.toml at once. Changes nothing, asks no daemon.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Context;
use super::output::{Rows, word};
use crate::config::{GatewaySource, Report};
use crate::fault::{Exit, Fault};

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A node.toml or gateway.toml
    pub file: PathBuf,
    /// What kind of file it is, where it cannot be told
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// node.toml
    Node,
    /// gateway.toml
    Gateway,
}

#[derive(Debug, Serialize)]
pub struct Checked {
    pub file: String,
    pub kind: Kind,
    pub errors: usize,
    pub warnings: usize,
    pub diagnostics: Vec<Found>,
}

#[derive(Debug, Serialize)]
pub struct Found {
    pub level: String,
    pub code: String,
    pub line: usize,
    pub column: usize,
    pub text: String,
    pub help: Option<String>,
}

pub fn execute(args: &CheckArgs, context: &Context) -> Result<Exit, Fault> {
    let (kind, report) = examine(&args.file, args.kind)?;
    let colour = context.out.colour;
    context.out.document(&checked(kind, &report), |_| drawing(&report, colour), rows)?;
    Ok(if report.has_errors() { Exit::Usage } else { Exit::Done })
}

pub fn examine(path: &Path, kind: Option<Kind>) -> Result<(Kind, Report), Fault> {
    let kind = match kind {
        Some(kind) => kind,
        None => guess(path, &crate::config::read_text(path)?),
    };
    match kind {
        Kind::Node => super::run::read(path).map(|(_, report)| (kind, report)),
        Kind::Gateway => GatewaySource::load(path).map(|loaded| (kind, loaded.report)),
    }
}

/// By what only one of the two files has, then by its name.
fn guess(path: &Path, text: &str) -> Kind {
    const NODE: [&str; 7] =
        ["[outside", "[inside", "[control", "[storage", "[timing", "advertise", "data_dir"];
    const GATEWAY: [&str; 5] = ["[connections", "[pools", "[secrets", "[authorities", "version"];
    let count = |words: &[&str]| {
        text.lines().filter(|line| words.iter().any(|word| line.trim_start().starts_with(word))).count()
    };
    match count(&NODE).cmp(&count(&GATEWAY)) {
        std::cmp::Ordering::Greater => Kind::Node,
        std::cmp::Ordering::Less => Kind::Gateway,
        std::cmp::Ordering::Equal => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.contains("node") { Kind::Node } else { Kind::Gateway }
        }
    }
}

pub fn drawing(report: &Report, colour: bool) -> String {
    let end = if report.has_errors() { ". Nothing was changed." } else { "" };
    format!("{}{}: {}{end}\n", report.render(colour), report.name, report.summary())
}

pub fn checked(kind: Kind, report: &Report) -> Checked {
    let diagnostics = report
        .diagnostics
        .iter()
        .map(|diagnostic| {
            let (line, column) = report.position(diagnostic);
            Found {
                level: word(&diagnostic.level),
                code: diagnostic.code.name().to_owned(),
                line,
                column,
                text: diagnostic.text.clone(),
                help: diagnostic.help.clone(),
            }
        })
        .collect();
    Checked {
        file: report.name.clone(),
        kind,
        errors: report.errors(),
        warnings: report.warnings(),
        diagnostics,
    }
}

fn rows(checked: &Checked) -> Rows {
    let mut rows = Rows::new(&["level", "code", "line", "column", "text", "help"]);
    for found in &checked.diagnostics {
        rows.push(vec![
            found.level.clone(),
            found.code.clone(),
            found.line.to_string(),
            found.column.to_string(),
            found.text.clone(),
            found.help.clone().unwrap_or_default(),
        ]);
    }
    rows
}
