//! `pontoon segments`: who owns what. People see runs of equal segments on one line, scripts see all 256.

use clap::{Args, Subcommand};

use super::output::{Rows, or_dash, word};
use super::{Context, not_built};
use crate::config::units::grouped;
use crate::control::Call;
use crate::control::api::{SegmentRow, Segments};
use crate::fault::{Exit, Fault};

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
    if let Some(SegmentsCommand::Move { .. }) = args.command {
        return Err(not_built("segments move", "a cluster of one node has nobody to give it to"));
    }
    let segments: Segments = context.call(Call::Segments)?;
    context.out.document(&segments, text, rows)?;
    Ok(Exit::Done)
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
