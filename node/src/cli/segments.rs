//! `pontoon segments`: who owns what. People see runs of equal segments on one line, scripts see all 256.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Context;
use super::output::{Rows, or_dash, word};
use crate::config::units::grouped;
use crate::control::Call;
use crate::control::api::{MovedSegment, SegmentRow, Segments};
use crate::fault::{Exit, Fault};

/// What a move may take beyond one answer: its owner may be moving others just now.
const MOVE_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SegmentsArgs {
    #[command(subcommand)]
    command: Option<SegmentsCommand>,
}

#[derive(Debug, Subcommand)]
enum SegmentsCommand {
    /// Give a segment to a node
    Move {
        /// 0 to 255
        segment: u8,
        /// Name or id
        node: String,
    },
}

pub fn execute(args: SegmentsArgs, context: &Context) -> Result<Exit, Fault> {
    if let Some(SegmentsCommand::Move { segment, node }) = args.command {
        let moved: MovedSegment =
            context.client()?.call(Call::MoveSegment { segment, node }, context.timeout() + MOVE_WITHIN)?;
        context.out.document(&moved, moved_text, moved_rows)?;
        return Ok(Exit::Done);
    }
    let segments: Segments = context.call(Call::Segments)?;
    context.out.document(&segments, text, rows)?;
    Ok(Exit::Done)
}

pub fn moved_text(moved: &MovedSegment) -> String {
    let MovedSegment { segment, from, to, took_ms } = moved;
    match from.as_deref() {
        Some(from) if from == to => format!("{to} owns segment {segment} already; nothing was done\n"),
        Some(from) => format!(
            "segment {segment} moved from {from} to {to} in {took_ms} ms\nundo:  pontoon segments move {segment} {from}\n"
        ),
        None => format!("segment {segment} moved to {to} in {took_ms} ms\n"),
    }
}

fn moved_rows(moved: &MovedSegment) -> Rows {
    Rows::pairs(vec![
        ("segment", moved.segment.to_string()),
        ("from", or_dash(&moved.from)),
        ("to", moved.to.clone()),
        ("took_ms", moved.took_ms.to_string()),
    ])
}

pub fn text(segments: &Segments) -> String {
    let mut table = Rows::new(&["segments", "owner", "standby", "epoch>", "ike sas>", "state"]);
    let alike = |a: &SegmentRow, b: &SegmentRow| {
        (&a.owner, &a.standby, a.epoch, a.state) == (&b.owner, &b.standby, b.epoch, b.state)
    };
    for run in segments.segments.chunk_by(alike) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let range = match run.len() {
            1 => first.segment.to_string(),
            _ => format!("{}-{}", first.segment, last.segment),
        };
        table.push(vec![
            range,
            or_dash(&first.owner),
            or_dash(&first.standby),
            first.epoch.to_string(),
            grouped(run.iter().map(|row| row.ike_sas).sum()),
            word(&first.state),
        ]);
    }
    table.table()
}

fn rows(segments: &Segments) -> Rows {
    let mut rows = Rows::new(&["segment", "owner", "standby", "epoch", "state", "ike_sas"]);
    for row in &segments.segments {
        rows.push(vec![
            row.segment.to_string(),
            or_dash(&row.owner),
            or_dash(&row.standby),
            row.epoch.to_string(),
            word(&row.state),
            row.ike_sas.to_string(),
        ]);
    }
    rows
}
