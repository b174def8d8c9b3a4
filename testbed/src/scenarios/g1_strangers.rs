//! Who has no business in a cluster stays outside, and both sides say why: the command, the log of the node that asked,
//! the log of the member that was asked.

use std::time::Duration;

use raft::join::JoinToken;

use super::Scenario;
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::cluster::{Cluster, Edge, Shape};
use crate::world::pontoon::Pontoon;
use crate::world::{Bed, eventually};

pub(super) const LIST: &[Scenario] = &[Scenario {
    name: "g1-strangers",
    what: "joins with a bad token, to another cluster, of a removed member: refused, told in both logs",
    run: strangers,
}];

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: &str = "1s";

fn strangers(bed: &Bed) -> Result {
    let mut cluster = Cluster::build(bed, Shape { nodes: 4, ..Shape::default() })?;
    let [first, second, third, other] = cluster.edges().collect::<Vec<_>>()[..] else {
        return Err("four nodes".into());
    };
    let token = |options: &[&str]| -> Result<String> {
        let words: Vec<&str> = ["token", "create"].iter().chain(options).copied().collect();
        Ok(cluster.node(first).must(&words)?.trim().to_owned())
    };
    cluster.node(first).must(&["init", "--name", "test"])?;
    cluster.node(other).must(&["init", "--name", "another"])?;

    let good = token(&[])?;
    let used = good.clone();
    cluster.node(second).must(&["join", &first.advertised(), "--token", &good])?;
    let third_node = cluster.node(third);
    refused(third_node, first, &used, "used up")?;
    refused(third_node, first, &forged(&token(&[])?)?, "knows no such token")?;
    let short = token(&["--ttl", SHORT])?;
    std::thread::sleep(Duration::from_millis(1_200));
    refused(third_node, first, &short, "expired")?;
    for why in ["the token is used up", "the cluster knows no such token", "the token has expired"] {
        logged(cluster.node(first), "a join is refused", why)?;
    }
    // The token pins the authority: the newcomer itself turns away.
    refused(third_node, other, &token(&[])?, "does not belong to the cluster")?;
    logged(cluster.node(other), "", "handshake")?;
    let members = cluster.node(first).json(&["members"])?;
    ensure!(
        members["members"].as_array().is_some_and(|list| list.len() == 2),
        "strangers came in: {members}"
    );

    // None of it has spoilt anything.
    third_node.must(&["join", &first.advertised(), "--token", &token(&[])?])?;

    // A member that was removed while it was away finds the door closed, though its certificate is the cluster's.
    cluster.kill(third)?;
    eventually(PATIENCE, || cluster.node(first).must(&["members", "remove", &third.to_string()]).map(drop))?;
    cluster.restart(third)?;
    logged(cluster.node(first), "a connection is refused", "is no member any more")?;
    logged(cluster.node(third), "", "no member any more")
}

/// The join fails, with its reason in the command's words and in the node's own log.
fn refused(node: &Pontoon, at: Edge, token: &str, why: &str) -> Result {
    let told = node.tell(&["join", &at.advertised(), "--token", token])?;
    ensure!(told.code == Some(1), "joined or ended with {:?}: {}{}", told.code, told.stdout, told.stderr);
    ensure!(told.stderr.contains(why), "the command does not say \"{why}\": {}", told.stderr);
    logged(node, "not taken into the cluster", why)
}

fn logged(node: &Pontoon, what: &str, why: &str) -> Result {
    eventually(PATIENCE, || {
        let log = node.log();
        let found = log.lines().any(|line| line.contains(what) && line.contains(why));
        ensure!(found, "no line of {}'s log says \"{what}\" and \"{why}\"", node.name());
        Ok(())
    })
}

/// The token with another secret, as one who has seen its number would guess it.
fn forged(token: &str) -> Result<String> {
    let token: JoinToken = token.parse().context("token")?;
    Ok(JoinToken { secret: JoinToken::generate(token.authority).secret, ..token }.reveal())
}
