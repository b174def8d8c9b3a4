//! `pontoon leave`: this node out of its cluster, without losing a packet; afterwards it waits for a `join`.

use std::time::{Duration, Instant};

use clap::Args;

use super::output::Rows;
use super::{Context, duration};
use crate::control::Call;
use crate::control::api::{Left, Status};
use crate::fault::{Exit, Fault};

/// What the answer may take beyond the deadline, and the daemon afterwards until it is there again.
const MARGIN: Duration = Duration::from_secs(5);
const BACK_WITHIN: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// How long it may take; afterwards the drain goes on, and `leave` again goes on where it was
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub deadline: Duration,
    /// Go on although it is dangerous
    #[arg(long, value_name = "NAME")]
    pub accept_risk: Vec<String>,
}

pub fn execute(args: LeaveArgs, context: &Context) -> Result<Exit, Fault> {
    let deadline_ms = u64::try_from(args.deadline.as_millis()).unwrap_or(u64::MAX);
    let call = Call::Leave { deadline_ms, accept_risk: args.accept_risk };
    let left: Left = context.client()?.call(call, args.deadline + MARGIN)?;
    if left.cluster.is_some() {
        until_vacant(context)?;
    }
    context.out.document(&left, left_text, left_rows)?;
    Ok(Exit::Done)
}

/// Out of the cluster the daemon begins anew: its socket is gone for a moment.
fn until_vacant(context: &Context) -> Result<(), Fault> {
    let begun = Instant::now();
    loop {
        let status = context.call::<Status>(Call::Status);
        if status.as_ref().is_ok_and(|status| status.cluster.is_none()) {
            return Ok(());
        }
        if begun.elapsed() > BACK_WITHIN {
            return Err(Fault::timed_out("this node has left, and its daemon does not say so yet")
                .attempt("pontoon status")
                .attempt("the log of the daemon"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

pub fn left_text(left: &Left) -> String {
    let Left { node, cluster, voters, spare } = left;
    let Some(cluster) = cluster else {
        return format!("{node} is a member of no cluster; nothing was done\n");
    };
    let rest = match (voters, spare) {
        (0, _) => "It had been removed before".to_owned(),
        (1, _) => "1 voter is left: the cluster may lose no node".to_owned(),
        (n, 0) => format!("{n} voters are left: the cluster may lose no node"),
        (n, 1) => format!("{n} voters are left: the cluster may lose one more node"),
        (n, spare) => format!("{n} voters are left: the cluster may lose {spare} more nodes"),
    };
    format!(
        "{node} is a member of the cluster {cluster} no more, and has kept nothing of it. {rest}.\n\
         undo:  pontoon join ADDR --token T   (under a new id)\n"
    )
}

fn left_rows(left: &Left) -> Rows {
    Rows::pairs(vec![
        ("node", left.node.clone()),
        ("cluster", left.cluster.clone().unwrap_or_default()),
        ("voters", left.voters.to_string()),
        ("spare", left.spare.to_string()),
    ])
}
