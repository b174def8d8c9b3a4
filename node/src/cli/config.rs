//! `pontoon config`: the replicated gateway configuration. `apply` and `diff` read the file and what it names here, on
//! the machine of the user; the daemon sees text and octets.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::Context;
use super::output::{Rows, or_dash};
use crate::config::GatewaySource;
use crate::control::Call;
use crate::control::api::{
    ConfigApplied, ConfigChange, ConfigDiff, ConfigHistory, ConfigRevision, ConfigShown,
};
use crate::control::wire::WireSource;
use crate::fault::{Exit, Fault};

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// What is in force; secrets as fingerprints
    Show {
        /// An older revision
        #[arg(long, value_name = "REV")]
        revision: Option<u64>,
    },
    /// What a file would change
    Diff {
        /// A gateway.toml
        file: PathBuf,
    },
    /// Put a file in force on all nodes
    Apply {
        /// A gateway.toml
        file: PathBuf,
        /// Kept with the revision
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
        /// Only if this revision is in force
        #[arg(long, value_name = "REV")]
        if_revision: Option<u64>,
    },
    /// Revisions, newest first
    History,
    /// Put an older revision in force again, as a new one
    Rollback {
        /// As `config history` lists them
        revision: u64,
    },
}

pub fn execute(command: ConfigCommand, context: &Context) -> Result<Exit, Fault> {
    match command {
        ConfigCommand::Show { revision } => {
            let shown: ConfigShown = context.call(Call::ConfigShow { revision })?;
            context.out.document(&shown, show, show_rows)?;
        }
        ConfigCommand::Diff { file } => {
            let source = load(&file, context)?;
            let diff: ConfigDiff = context.call(Call::ConfigDiff { source })?;
            context.out.document(&diff, diff_text, |diff| change_rows(&diff.changes))?;
        }
        ConfigCommand::Apply { file, comment, if_revision } => {
            let source = load(&file, context)?;
            let applied: ConfigApplied = context.call(Call::ConfigApply { source, comment, if_revision })?;
            context.out.document(&applied, applied_text, |applied| change_rows(&applied.changes))?;
        }
        ConfigCommand::History => {
            let history: ConfigHistory = context.call(Call::ConfigHistory)?;
            context.out.document(&history, history_text, |history| history_rows(&history.revisions))?;
        }
        ConfigCommand::Rollback { revision } => {
            let applied: ConfigApplied = context.call(Call::ConfigRollback { revision })?;
            context.out.document(&applied, applied_text, |applied| change_rows(&applied.changes))?;
        }
    }
    Ok(Exit::Done)
}

/// Reads and checks a file; mistakes and warnings go to stderr, and a mistake ends the command.
fn load(path: &Path, context: &Context) -> Result<WireSource, Fault> {
    let loaded = GatewaySource::load(path)?;
    let report = &loaded.report;
    if report.has_errors() || !(context.out.quiet || report.diagnostics.is_empty()) {
        context.out.warn(&report.render(context.out.colour_errors));
    }
    if report.has_errors() {
        return Err(Fault::usage(format!("{}: {}. Nothing was changed.", report.name, report.summary())));
    }
    Ok(loaded.source.into())
}

pub fn show(shown: &ConfigShown) -> String {
    let timing = &shown.timing;
    let mut text = match &shown.current {
        None => "# nothing has been applied yet:  pontoon config apply gateway.toml\n".to_owned(),
        Some(about) => format!("# {}\n", about_line(about)),
    };
    for file in &shown.files {
        text.push_str(&format!(
            "# file {:?}: {} octets, fingerprint {}\n",
            file.name, file.octets, file.fingerprint
        ));
    }
    text.push_str(&format!(
        "# timing of this node, profile {}: heartbeat {} ms, election {}-{} ms, probe {} ms, suspect {} ms, lease {} ms\n",
        timing.profile,
        timing.heartbeat_ms,
        timing.election_ms[0],
        timing.election_ms[1],
        timing.probe_ms,
        timing.suspect_ms,
        timing.lease_ms
    ));
    if shown.current.is_some() {
        text.push('\n');
        text.push_str(&shown.toml);
    }
    text
}

pub fn diff_text(diff: &ConfigDiff) -> String {
    let against = match diff.revision {
        0 => "nothing has been applied yet".to_owned(),
        revision => format!("against revision {revision}"),
    };
    format!("{}{}: {against}\n", changes(&diff.changes), counted(diff.changes.len()))
}

pub fn applied_text(applied: &ConfigApplied) -> String {
    let revision = &applied.revision;
    let origin = revision.rollback_of.map(|old| format!(", a copy of revision {old}")).unwrap_or_default();
    let undo = match applied.previous {
        0 => "undo:  apply another file\n".to_owned(),
        previous => format!("undo:  pontoon config rollback {previous}\n"),
    };
    format!(
        "{}{}: revision {} is in force on all live nodes{origin}\n{undo}",
        changes(&applied.changes),
        counted(applied.changes.len()),
        revision.revision
    )
}

pub fn history_text(history: &ConfigHistory) -> String {
    if history.revisions.is_empty() {
        return "nothing has been applied yet\n".to_owned();
    }
    let mut table = Rows::new(&["revision>", "applied", "by", "comment"]);
    for about in &history.revisions {
        let comment = match (about.rollback_of, &about.comment) {
            (Some(old), _) => format!("rollback to {old}"),
            (None, comment) => comment.as_deref().unwrap_or_default().escape_debug().to_string(),
        };
        table.push(vec![about.revision.to_string(), about.applied_at.clone(), about.node.clone(), comment]);
    }
    table.table()
}

fn about_line(about: &ConfigRevision) -> String {
    let mut line = format!("revision {}, applied {} on {}", about.revision, about.applied_at, about.node);
    match (about.rollback_of, &about.comment) {
        (Some(old), _) => line.push_str(&format!(", a copy of revision {old}")),
        (None, Some(comment)) => line.push_str(&format!(": {}", comment.escape_debug())),
        (None, None) => {}
    }
    line
}

fn changes(changes: &[ConfigChange]) -> String {
    changes
        .iter()
        .map(|change| match (&change.old, &change.new) {
            (None, Some(new)) => format!("+ {} = {new}\n", change.key),
            (Some(old), None) => format!("- {} = {old}\n", change.key),
            (old, new) => format!("~ {} = {} -> {}\n", change.key, or_dash(old), or_dash(new)),
        })
        .collect()
}

fn counted(changes: usize) -> String {
    match changes {
        0 => "no change".to_owned(),
        1 => "1 change".to_owned(),
        n => format!("{n} changes"),
    }
}

fn change_rows(changes: &[ConfigChange]) -> Rows {
    let mut rows = Rows::new(&["key", "old", "new"]);
    for change in changes {
        rows.push(vec![change.key.clone(), or_dash(&change.old), or_dash(&change.new)]);
    }
    rows
}

fn history_rows(revisions: &[ConfigRevision]) -> Rows {
    let mut rows = Rows::new(&["revision", "applied_at", "node", "rollback_of", "comment"]);
    for about in revisions {
        rows.push(vec![
            about.revision.to_string(),
            about.applied_at.clone(),
            about.node.clone(),
            or_dash(&about.rollback_of),
            about.comment.clone().unwrap_or_default(),
        ]);
    }
    rows
}

fn show_rows(shown: &ConfigShown) -> Rows {
    let mut rows = Rows::new(&["file", "octets", "fingerprint"]);
    for file in &shown.files {
        rows.push(vec![file.name.clone(), file.octets.to_string(), file.fingerprint.clone()]);
    }
    rows
}
