//! `pontoon token create` and `pontoon join`: a node gets into a cluster.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};

use super::output::{Format, Rows, word};
use super::{Context, duration};
use crate::control::Call;
use crate::control::api::{JoinProgress, Joined, TokenCreated, Vote};
use crate::fault::{Exit, Fault};

/// How often the progress of a join is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Print one join token
    Create(TokenArgs),
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// How long it is valid
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub ttl: Duration,
    /// How many nodes may use it
    #[arg(long, default_value_t = 1)]
    pub uses: u32,
    /// What a node becomes
    #[arg(long, value_enum, default_value_t = Role::Voter)]
    pub role: Role,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Role {
    Voter,
    Learner,
}

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// Any member, as HOST:PORT
    pub address: String,
    /// As `token create` printed it
    #[arg(long)]
    pub token: String,
    /// How long it may take until the node is a caught-up voter; afterwards it goes on by itself
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
    pub deadline: Duration,
}

pub fn token(Token::Create(args): Token, context: &Context) -> Result<Exit, Fault> {
    let role = match args.role {
        Role::Voter => Vote::Voter,
        Role::Learner => Vote::Learner,
    };
    let ttl_ms = u64::try_from(args.ttl.as_millis()).unwrap_or(u64::MAX);
    let created: TokenCreated = context.call(Call::CreateToken { ttl_ms, uses: args.uses, role })?;
    // The token alone on stdout, for scripts.
    context.out.document(&created, |created| format!("{}\n", created.token), token_rows)?;
    if std::io::stderr().is_terminal() && !context.global.quiet && context.global.output == Format::Table {
        eprintln!("valid until {}; on the new node:", created.expires_at);
        eprintln!("  pontoon join {} --token {}", created.address, created.token);
    }
    Ok(Exit::Done)
}

pub fn join(args: JoinArgs, context: &Context) -> Result<Exit, Fault> {
    let begun = Instant::now();
    let tell = std::io::stderr().is_terminal() && !context.global.quiet;
    let call = Call::Join { address: args.address, token: args.token };
    let joined: Joined = context.client()?.call(call, args.deadline)?;
    if tell {
        eprintln!("taken into the cluster {} as node {}", joined.cluster, joined.id);
    }
    let mut shown = None;
    loop {
        let left = args.deadline.saturating_sub(begun.elapsed());
        let progress: JoinProgress = context.call(Call::JoinProgress)?;
        if tell
            && shown != progress.applied
            && let Some(applied) = progress.applied
        {
            eprintln!("the log is here up to {applied}");
            shown = progress.applied;
        }
        if progress.caught_up {
            context.out.document(&joined, joined_text, joined_rows)?;
            return Ok(Exit::Done);
        }
        if left.is_zero() {
            return Err(Fault::timed_out(format!("{} is a member, and not caught up yet", joined.node))
                .why("the cluster goes on with it")
                .attempt("pontoon members")
                .attempt("the same command again, which waits on"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

pub fn joined_text(joined: &Joined) -> String {
    let Joined { cluster, node, id, joined } = joined;
    match joined {
        true => format!(
            "{node} is a member of the cluster {cluster} (id {id}) and caught up\n\
             next:  pontoon members\nundo:  pontoon leave\n"
        ),
        false => format!("{node} is a member of the cluster {cluster} already (id {id})\n"),
    }
}

fn joined_rows(joined: &Joined) -> Rows {
    Rows::pairs(vec![
        ("cluster", joined.cluster.clone()),
        ("node", joined.node.clone()),
        ("id", joined.id.to_string()),
        ("joined", joined.joined.to_string()),
    ])
}

fn token_rows(created: &TokenCreated) -> Rows {
    Rows::pairs(vec![
        ("token", created.token.clone()),
        ("uses", created.uses.to_string()),
        ("role", word(&created.role)),
        ("expires_at", created.expires_at.clone()),
        ("address", created.address.clone()),
    ])
}
