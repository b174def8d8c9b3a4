//! `pontoon status`: one screen, whose first line answers how many more nodes may fail.

use clap::Args;

use super::Context;
use super::output::{Rows, or_dash, word};
use crate::config::units::grouped;
use crate::control::Call;
use crate::control::api::{Handover, NodeState, NodeStatus, Status};
use crate::fault::{Exit, Fault};
use crate::observe::Severity;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Exit with 8 when something is not as it should be
    #[arg(long)]
    pub check: bool,
}

pub fn execute(args: &StatusArgs, context: &Context) -> Result<Exit, Fault> {
    let status: Status = context.call(Call::Status)?;
    context.out.document(&status, text, rows)?;
    Ok(if args.check && is_degraded(&status) { Exit::Degraded } else { Exit::Done })
}

/// Whatever is worse than worth knowing.
pub fn is_degraded(status: &Status) -> bool {
    status.cluster.is_none()
        || !status.quorum.has_quorum
        || status.health.iter().any(|health| health.severity != Severity::Info)
}

/// The answer in one line.
pub fn headline(status: &Status) -> String {
    let quorum = &status.quorum;
    if status.cluster.is_none() {
        return format!("not a member: {} belongs to no cluster", status.node);
    }
    if !quorum.has_quorum {
        return format!(
            "NO QUORUM: this node sees {} of {} voters. It owns nothing and sends nothing.",
            quorum.up, quorum.voters
        );
    }
    let noun = if quorum.voters == 1 { "node" } else { "nodes" };
    let more = match quorum.spare {
        0 => "none may fail".to_owned(),
        1 => "one more may fail".to_owned(),
        spare => format!("{spare} more may fail"),
    };
    format!("{} of {} {noun} up: {more}", quorum.up, quorum.voters)
}

pub fn text(status: &Status) -> String {
    let mut text = headline(status);
    let Some(cluster) = &status.cluster else {
        text.push_str("\n  try   pontoon init                      make a cluster with this node\n");
        text.push_str("  or    pontoon join ADDR --token TOKEN   join one\n");
        return text + &health(status);
    };
    if !status.quorum.has_quorum {
        text.push_str(&cut_off(status));
    }
    let addresses: Vec<String> = status.service_addresses.iter().map(ToString::to_string).collect();
    text.push_str(&format!("      service address {}      cluster {cluster}\n\n", addresses.join(", ")));
    let mut table = Rows::new(&["  node", "role", "state", "segments>", "ike sas>", "child sas>", "behind>"]);
    let newest = status.nodes.iter().filter_map(|node| node.applied).max();
    for node in &status.nodes {
        table.push(row(node, status, newest));
    }
    text.push_str(&table.table());
    text.push_str(&format!("\n  leader     {}\n", status.leader.as_deref().unwrap_or("none")));
    if let Some(handover) = &status.last_handover {
        text.push_str(&format!("  handover   {}\n", handover_line(handover)));
    }
    text.push_str(&match status.config_revision {
        0 => "  config     none yet:  pontoon config apply gateway.toml\n".to_owned(),
        revision => format!("  config     revision {revision}\n"),
    });
    text + &health(status)
}

/// What a node without a majority knows, and what to do about it: as a rule nothing here.
fn cut_off(status: &Status) -> String {
    let down = status.nodes.iter().filter(|node| node.state == NodeState::Down);
    let mut text: String = down.map(|node| format!("\n  {} does not answer", node.name)).collect();
    let others = status.quorum.voters - status.quorum.up;
    text.push_str(if others > status.quorum.voters / 2 {
        "\nTunnels are served by the others if they reach each other. Do nothing here but mend the network.\n"
    } else {
        "\nStart the nodes that are down; tunnels go on when a majority is back.\n"
    });
    text
}

fn row(node: &NodeStatus, status: &Status, newest: Option<u64>) -> Vec<String> {
    let mark = if node.name == status.node { '*' } else { ' ' };
    let behind = match (newest, node.applied) {
        (Some(newest), Some(applied)) if newest > applied => grouped(newest - applied),
        (Some(_), Some(_)) => "-".to_owned(),
        _ => "?".to_owned(),
    };
    vec![
        format!("{mark} {}", node.name),
        word(&node.role),
        word(&node.state),
        node.segments.to_string(),
        grouped(node.ike_sas),
        grouped(node.child_sas),
        behind,
    ]
}

fn handover_line(handover: &Handover) -> String {
    let Handover { at, to, segments, cause, detect_ms, commit_ms, resume_ms, .. } = handover;
    let total = detect_ms + commit_ms + resume_ms;
    format!(
        "{at}: {segments} segments to {to} ({cause}), {total:.0} ms = detect {detect_ms:.0} + commit {commit_ms:.0} + resume {resume_ms:.0}"
    )
}

fn health(status: &Status) -> String {
    if status.health.is_empty() {
        return "\nHealth: all is well\n".to_owned();
    }
    let mut parts = Vec::new();
    for (severity, one, many) in [
        (Severity::Critical, "critical", "critical"),
        (Severity::Warning, "warning", "warnings"),
        (Severity::Info, "note", "notes"),
    ] {
        match status.health.iter().filter(|health| health.severity == severity).count() {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            n => parts.push(format!("{n} {many}")),
        }
    }
    let width = status.health.iter().map(|health| health.code.len()).max().unwrap_or(0);
    let mut text = format!("\nHealth: {}\n", parts.join(", "));
    for health in &status.health {
        let mark = match health.severity {
            Severity::Critical => "!!",
            Severity::Warning => " !",
            Severity::Info => "  ",
        };
        text.push_str(&format!(" {mark} {:width$}  {}\n", health.code, health.text));
        text.push_str(&format!("    {:width$}  try: {}\n", "", health.fix));
    }
    text
}

fn rows(status: &Status) -> Rows {
    let mut rows =
        Rows::new(&["name", "id", "role", "state", "segments", "ike_sas", "child_sas", "applied", "digest"]);
    for node in &status.nodes {
        rows.push(vec![
            node.name.clone(),
            node.id.to_string(),
            word(&node.role),
            word(&node.state),
            node.segments.to_string(),
            node.ike_sas.to_string(),
            node.child_sas.to_string(),
            or_dash(&node.applied),
            or_dash(&node.digest),
        ]);
    }
    rows
}
