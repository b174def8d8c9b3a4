//! `pontoon members`: votes, Raft progress and state digests, from this node's own state.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Context;
use super::output::{Rows, or_dash, word};
use crate::control::Call;
use crate::control::api::{Members, Removed, Vote};
use crate::fault::{Exit, Fault};

/// How long a removal may take.
const REMOVED_WITHIN: Duration = Duration::from_secs(15);

/// Digits of a digest that people see.
const DIGEST_SHOWN: usize = 6;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct MembersArgs {
    #[command(subcommand)]
    command: Option<MembersCommand>,
}

#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// Remove a node that will not come back
    Remove {
        /// Name or id
        node: String,
        /// Go on although it is dangerous
        #[arg(long, value_name = "NAME")]
        accept_risk: Vec<String>,
    },
}

pub fn execute(args: MembersArgs, context: &Context) -> Result<Exit, Fault> {
    if let Some(MembersCommand::Remove { node, accept_risk }) = args.command {
        // Raft's own membership follows, which may take an election.
        let limit = context.timeout().max(REMOVED_WITHIN);
        let removed: Removed = context.client()?.call(Call::RemoveMember { node, accept_risk }, limit)?;
        context.out.document(&removed, removed_text, |it| {
            Rows::pairs(vec![("node", it.node.clone()), ("id", it.id.to_string())])
        })?;
        return Ok(Exit::Done);
    }
    let members: Members = context.call(Call::Members)?;
    context.out.document(&members, text, rows)?;
    Ok(Exit::Done)
}

pub fn removed_text(removed: &Removed) -> String {
    let Removed { node, id } = removed;
    format!(
        "{node} (id {id}) is no member any more; its certificate is worth nothing\nundo:  it joins again, under a new id\n"
    )
}

pub fn text(members: &Members) -> String {
    let newest = members.members.iter().filter_map(|member| member.applied).max();
    let mut table = Rows::new(&[
        "node",
        "id>",
        "address",
        "state",
        "vote",
        "raft",
        "term>",
        "committed>",
        "applied>",
        "behind>",
        "digest",
        "version",
    ]);
    for member in &members.members {
        let behind = match (newest, member.applied) {
            (Some(newest), Some(applied)) if newest > applied => (newest - applied).to_string(),
            _ => "-".to_owned(),
        };
        let digest = match (&member.digest, member.applied) {
            (Some(digest), Some(applied)) => {
                format!("{} @{applied}", digest.chars().take(DIGEST_SHOWN).collect::<String>())
            }
            _ => "-".to_owned(),
        };
        table.push(vec![
            member.name.clone(),
            member.id.to_string(),
            member.address.clone(),
            word(&member.state),
            word(&member.vote),
            word(&member.role),
            or_dash(&member.term),
            or_dash(&member.committed),
            or_dash(&member.applied),
            behind,
            digest,
            or_dash(&member.version),
        ]);
    }
    table.table() + &summary(members)
}

/// Digests say something only where the applied index is the same.
fn summary(members: &Members) -> String {
    let voters = members.members.iter().filter(|member| member.vote == Vote::Voter).count();
    let states: BTreeSet<(u64, &str)> = members
        .members
        .iter()
        .filter_map(|member| Some((member.applied?, member.digest.as_deref()?)))
        .collect();
    let indexes: BTreeSet<u64> = states.iter().map(|(index, _)| *index).collect();
    let agreement = match (states.len() == indexes.len(), indexes.len()) {
        (false, _) => "DIGESTS DIFFER at the same index",
        (true, 0) => "no digest known",
        (true, _) => "digests agree",
    };
    format!("quorum {} of {voters}; {agreement}\n", voters / 2 + 1)
}

fn rows(members: &Members) -> Rows {
    let mut rows = Rows::new(&[
        "name",
        "id",
        "address",
        "state",
        "vote",
        "role",
        "term",
        "committed",
        "applied",
        "digest",
        "version",
    ]);
    for member in &members.members {
        rows.push(vec![
            member.name.clone(),
            member.id.to_string(),
            member.address.clone(),
            word(&member.state),
            word(&member.vote),
            word(&member.role),
            or_dash(&member.term),
            or_dash(&member.committed),
            or_dash(&member.applied),
            or_dash(&member.digest),
            or_dash(&member.version),
        ]);
    }
    rows
}
