//! `pontoon drain` and `pontoon undrain`: takes the segments off a node without losing a packet, and gives them back.

use std::time::Duration;

use clap::Args;

use super::output::Rows;
use super::{Context, duration};
use crate::config::units::grouped;
use crate::control::Call;
use crate::control::api::{Drained, Undrained};
use crate::fault::{Exit, Fault};

/// What the answer may take beyond the drain itself.
const MARGIN: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Name or id; this node when absent
    pub node: Option<String>,
    /// How long it may take; afterwards it goes on by itself
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub deadline: Duration,
}

#[derive(Debug, Args)]
pub struct UndrainArgs {
    /// Name or id; this node when absent
    pub node: Option<String>,
}

pub fn drain(args: DrainArgs, context: &Context) -> Result<Exit, Fault> {
    let deadline_ms = u64::try_from(args.deadline.as_millis()).unwrap_or(u64::MAX);
    let call = Call::Drain { node: args.node, deadline_ms };
    let drained: Drained = context.client()?.call(call, args.deadline + MARGIN)?;
    context.out.document(&drained, drained_text, drained_rows)?;
    Ok(Exit::Done)
}

pub fn undrain(args: UndrainArgs, context: &Context) -> Result<Exit, Fault> {
    let undrained: Undrained = context.call(Call::Undrain { node: args.node })?;
    context.out.document(&undrained, undrained_text, |it| {
        Rows::pairs(vec![("node", it.node.clone()), ("drained", it.drained.to_string())])
    })?;
    Ok(Exit::Done)
}

pub fn drained_text(drained: &Drained) -> String {
    let Drained { node, segments, took_ms, owners, safe_to_stop, spare_without } = drained;
    let shares: Vec<String> =
        owners.iter().map(|share| format!("{} has {}", share.node, grouped(share.segments.into()))).collect();
    let moved = match segments {
        0 => format!("{node} owned nothing"),
        1 => format!("1 segment moved in {:.1} s", *took_ms as f64 / 1e3),
        n => format!("{} segments moved in {:.1} s", grouped((*n).into()), *took_ms as f64 / 1e3),
    };
    let after = match (safe_to_stop, spare_without) {
        (false, _) => "Do not stop it: without its vote the cluster stops".to_owned(),
        (true, 0) => "Safe to stop it: the cluster then may lose no further node".to_owned(),
        (true, 1) => "Safe to stop it: the cluster then may lose one more node".to_owned(),
        (true, n) => format!("Safe to stop it: the cluster then may lose {n} more nodes"),
    };
    format!(
        "{moved}; {}\n{node} owns nothing and still votes. {after}.\nundo:  pontoon undrain {node}\n",
        shares.join(", ")
    )
}

fn drained_rows(drained: &Drained) -> Rows {
    Rows::pairs(vec![
        ("node", drained.node.clone()),
        ("segments", drained.segments.to_string()),
        ("took_ms", drained.took_ms.to_string()),
        ("safe_to_stop", drained.safe_to_stop.to_string()),
        ("spare_without", drained.spare_without.to_string()),
    ])
}

pub fn undrained_text(undrained: &Undrained) -> String {
    let node = &undrained.node;
    match undrained.drained {
        true => format!("{node} takes its share of the segments again\nundo:  pontoon drain {node}\n"),
        false => format!("{node} was not drained; nothing was done\n"),
    }
}
