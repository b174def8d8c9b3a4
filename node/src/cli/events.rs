//! `pontoon events`: what happened on this node, one line each; `-f` goes on until interrupted.

use std::ops::ControlFlow;

use clap::Args;
use serde_json::{Map, Value};

use super::Context;
use super::output::Format;
use crate::control::api::SCHEMA;
use crate::fault::{Exit, Fault};
use crate::observe::line_of;

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only these kinds
    #[arg(long, value_delimiter = ',', value_parser = ["handover", "ike", "raft", "config", "health"])]
    pub kind: Vec<String>,
}

pub fn execute(args: &EventsArgs, context: &Context) -> Result<Exit, Fault> {
    let mut client = context.client()?;
    if context.out.format == Format::Tsv {
        context.out.print("at\tkind\twhat\ttext")?;
    }
    client.events(args.follow, context.timeout(), |event| {
        let kind = event.get("kind").and_then(Value::as_str).unwrap_or_default();
        if args.kind.is_empty() || args.kind.iter().any(|wanted| wanted == kind) {
            context.out.print(&line(&event, context.out.format))?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Exit::Done)
}

pub fn line(event: &Map<String, Value>, format: Format) -> String {
    let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    match format {
        // One object a line, so that a follower can read them as they come.
        Format::Json => {
            let mut object = Map::new();
            object.insert("schema".into(), SCHEMA.into());
            object.extend(event.clone());
            Value::Object(object).to_string()
        }
        Format::Tsv => [text("at"), text("kind"), text("what"), line_of(event)].join("\t"),
        Format::Table => format!("{}  {}", text("at"), line_of(event)),
    }
}
