//! `pontoon sas`: the IKE and child SAs of the whole cluster, one line each, or with `--long` all there is to know.

use clap::Args;

use super::Context;
use super::output::{Rows, or_dash, word};
use crate::config::units::{grouped, in_words, octets_in_words};
use crate::control::Call;
use crate::control::api::{ChildSa, Encap, IkeSa, Sas};
use crate::fault::{Exit, Fault};

#[derive(Debug, Args)]
pub struct SasArgs {
    /// Everything about each
    #[arg(long)]
    pub long: bool,
    /// Only those of peers whose identity contains this
    #[arg(long, value_name = "ID")]
    pub peer: Option<String>,
}

pub fn execute(args: SasArgs, context: &Context) -> Result<Exit, Fault> {
    let sas: Sas = context.call(Call::Sas { peer: args.peer })?;
    context.out.document(&sas, if args.long { long } else { short }, rows)?;
    Ok(Exit::Done)
}

pub fn short(sas: &Sas) -> String {
    if sas.sas.is_empty() {
        return "no SA\n".to_owned();
    }
    let mut table =
        Rows::new(&["ike", "peer", "address", "owner", "state", "age>", "rekey>", "children>", "in / out>"]);
    for sa in &sas.sas {
        let octets_in = sa.children.iter().map(|child| child.bytes_in).sum();
        let octets_out = sa.children.iter().map(|child| child.bytes_out).sum();
        table.push(vec![
            sa.spi_i.to_string(),
            sa.peer_id.clone(),
            sa.peer_address.to_string(),
            or_dash(&sa.owner),
            word(&sa.state),
            in_words(sa.age_s),
            rekey(sa.rekey_in_s),
            sa.children.len().to_string(),
            format!("{} / {}", octets_in_words(octets_in), octets_in_words(octets_out)),
        ]);
    }
    table.table()
}

pub fn long(sas: &Sas) -> String {
    if sas.sas.is_empty() {
        return "no SA\n".to_owned();
    }
    sas.sas.iter().map(block).collect::<Vec<_>>().join("\n")
}

fn block(sa: &IkeSa) -> String {
    let owner = sa.owner.as_deref().unwrap_or("nobody");
    let mut text = format!(
        "{}: {}, segment {} on {owner} (epoch {})\n",
        sa.connection,
        word(&sa.state),
        sa.segment,
        sa.epoch
    );
    text.push_str(&format!("  peer    {} @ {}\n", sa.peer_id, sa.peer_address));
    text.push_str(&format!("  spis    {} initiator, {} responder\n", sa.spi_i, sa.spi_r));
    text.push_str(&format!("  suite   {}\n", sa.suite));
    text.push_str(&format!("  age     {}, rekey {}\n", in_words(sa.age_s), rekey(sa.rekey_in_s)));
    text.push_str(&format!(
        "  next message ids: ours {}, theirs {}\n",
        sa.message_ids.ours, sa.message_ids.theirs
    ));
    if !sa.inner_addresses.is_empty() {
        let addresses: Vec<String> = sa.inner_addresses.iter().map(ToString::to_string).collect();
        text.push_str(&format!("  inner   {}\n", addresses.join(", ")));
    }
    sa.children.iter().for_each(|child| text.push_str(&child_block(child)));
    text
}

fn child_block(child: &ChildSa) -> String {
    let encap = match child.encap {
        Encap::Udp => "tunnel in UDP",
        Encap::Esp => "tunnel in ESP",
    };
    let dropped: Vec<String> = child
        .drops
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{} {reason}", grouped(*count)))
        .collect();
    let dropped = if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") };
    let mut text = format!("  {}: child, {}, {}, {encap}\n", child.name, word(&child.state), child.suite);
    text.push_str(&format!(
        "    in   {}  {}, {} packets; dropped: {dropped}\n",
        child.spi_in,
        octets_in_words(child.bytes_in),
        grouped(child.packets_in)
    ));
    text.push_str(&format!(
        "    out  {}  {}, {} packets; next number {} of {} reserved\n",
        child.spi_out,
        octets_in_words(child.bytes_out),
        grouped(child.packets_out),
        grouped(child.next_number),
        grouped(child.reserved)
    ));
    text.push_str(&format!("    {}  <->  {}\n", child.local_ts.join(" "), child.remote_ts.join(" ")));
    text
}

fn rekey(seconds: Option<i64>) -> String {
    match seconds.map(u64::try_from) {
        None => "never".to_owned(),
        Some(Ok(seconds)) => format!("in {}", in_words(seconds)),
        Some(Err(_)) => "due".to_owned(),
    }
}

/// One line a child; an IKE SA without one has a line with dashes.
fn rows(sas: &Sas) -> Rows {
    const OF_CHILD: usize = 11;
    let mut rows = Rows::new(&[
        "spi_i",
        "spi_r",
        "connection",
        "peer_id",
        "peer_address",
        "segment",
        "owner",
        "epoch",
        "state",
        "suite",
        "age_s",
        "child",
        "spi_in",
        "spi_out",
        "child_suite",
        "child_state",
        "packets_in",
        "packets_out",
        "bytes_in",
        "bytes_out",
        "next_number",
        "reserved",
    ]);
    for sa in &sas.sas {
        let ike = vec![
            sa.spi_i.to_string(),
            sa.spi_r.to_string(),
            sa.connection.clone(),
            sa.peer_id.clone(),
            sa.peer_address.to_string(),
            sa.segment.to_string(),
            or_dash(&sa.owner),
            sa.epoch.to_string(),
            word(&sa.state),
            sa.suite.clone(),
            sa.age_s.to_string(),
        ];
        if sa.children.is_empty() {
            rows.push(ike.into_iter().chain(std::iter::repeat_n("-".to_owned(), OF_CHILD)).collect());
            continue;
        }
        for child in &sa.children {
            let columns: [String; OF_CHILD] = [
                child.name.clone(),
                child.spi_in.to_string(),
                child.spi_out.to_string(),
                child.suite.clone(),
                word(&child.state),
                child.packets_in.to_string(),
                child.packets_out.to_string(),
                child.bytes_in.to_string(),
                child.bytes_out.to_string(),
                child.next_number.to_string(),
                child.reserved.to_string(),
            ];
            rows.push(ike.iter().cloned().chain(columns).collect());
        }
    }
    rows
}
