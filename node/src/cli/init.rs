//! `pontoon init`: makes a cluster whose first member is this node.

use clap::Args;

use super::Context;
use super::output::Rows;
use crate::control::Call;
use crate::control::api::Initialized;
use crate::fault::{Exit, Fault};

#[derive(Debug, Args)]
pub struct InitArgs {
    /// What to call the cluster
    #[arg(long, value_name = "CLUSTER", default_value = "pontoon", value_parser = name)]
    pub name: String,
}

pub fn execute(args: InitArgs, context: &Context) -> Result<Exit, Fault> {
    let made: Initialized = context.call(Call::Init { name: args.name })?;
    context.out.document(&made, text, |made| {
        Rows::pairs(vec![
            ("cluster", made.cluster.clone()),
            ("node", made.node.clone()),
            ("id", made.id.to_string()),
            ("created", made.created.to_string()),
        ])
    })?;
    Ok(Exit::Done)
}

pub fn text(made: &Initialized) -> String {
    let Initialized { cluster, node, id, created } = made;
    if !created {
        return format!("{node} is a member of the cluster {cluster} already; nothing was done\n");
    }
    format!(
        "made the cluster {cluster} with {node} as its first member (id {id})\n\
         next:  pontoon config apply gateway.toml\n\
         undo:  stop the daemon and remove its data_dir\n"
    )
}

fn name(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    if fits { Ok(text.to_owned()) } else { Err("1 to 64 letters, digits, -, _ or .".to_owned()) }
}
