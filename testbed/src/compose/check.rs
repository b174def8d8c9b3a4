//! What must hold of the cluster of containers.

use std::time::Duration;

use serde_json::Value;

use super::{Compose, EDGES, PATIENCE, PROJECT, docker};
use crate::ensure;
use crate::outcome::{Context, Result, Stop};
use crate::verify;
use crate::world::{eventually, exec};

/// When the owner dies in the download.
const INTO: Duration = Duration::from_millis(300);

/// From nothing to nothing. What somebody has up is left alone.
pub fn check() -> Result {
    let compose = Compose::find()?;
    if compose.exists() {
        return Err(Stop::Skipped("its containers are there already (cargo compose down)".into()));
    }
    verify::build_program()?;
    let result = steps(&compose);
    if result.is_err() {
        for service in ["form", "client", "edge-1", "edge-2", "edge-3"] {
            println!("--- the end of {service}'s log\n{}", compose.log(service).unwrap_or_default());
        }
    }
    result.and(compose.down())
}

fn steps(compose: &Compose) -> Result {
    compose.up()?;
    only_process(compose)?;
    let before = spis(compose)?;
    println!("   undisturbed: {}", compose.download()?.trim());
    let (owner, told) = std::thread::scope(|scope| -> Result<(String, String)> {
        let download = scope.spawn(|| compose.download());
        std::thread::sleep(INTO);
        let owner = compose.kill_owner()?;
        Ok((owner, download.join().map_err(|_| "the download panicked")??))
    })?;
    println!("   {owner} killed in it: {}", told.trim());
    ensure!(spis(compose)? == before, "the client has another tunnel");
    compose.up()?;
    ensure!(spis(compose)? == before, "the client has another tunnel, after the start of {owner}");

    // Stopping is draining: a clean end, and the tunnel is elsewhere.
    let owner = owner_of(compose)?;
    docker(&["stop", &compose.container(&owner)?])?;
    let code = compose.inspect(&owner, "{{.State.ExitCode}}")?;
    ensure!(code == "0", "{owner} ended with {code}");
    ensure!(owner_of(compose)? != owner, "the tunnel is still at {owner}");
    compose.up()?;

    let id = id_of(compose, "edge-3")?;
    docker(&["rm", "--force", "--volumes", &compose.container("edge-3")?])?;
    docker(&["volume", "rm", &format!("{PROJECT}_data-3")])?;
    compose.up()?;
    let new = id_of(compose, "edge-3")?;
    ensure!(new > id, "edge-3 was node {id}, lost its volume, and is node {new}");

    for edge in EDGES {
        docker(&["kill", "--signal", "KILL", &compose.container(edge)?])?;
    }
    compose.up()?;
    ensure!(spis(compose)? == before, "the client has another tunnel, after the start of all");
    println!("   after all three were killed: {}", compose.download()?.trim());
    Ok(())
}

fn only_process(compose: &Compose) -> Result {
    // A health check may just begin, as a process of the engine's.
    eventually(PATIENCE, || {
        for edge in EDGES {
            let processes = docker(&["top", &compose.container(edge)?, "-o", "pid,comm"])?;
            // The first line is the heading.
            let others: Vec<&str> =
                processes.lines().skip(1).filter(|line| !line.contains("pontoon")).collect();
            ensure!(others.is_empty(), "{edge} also runs {others:?}");
        }
        Ok(())
    })
}

/// The SPIs of the tunnel, as the client shows them.
fn spis(compose: &Compose) -> Result<(String, String)> {
    let sas = compose.within("client", &["swanctl", "--list-sas"])?;
    let word = |mark: &str| {
        let found =
            sas.split_whitespace().find(|word| word.ends_with(mark) || word.ends_with(&format!("{mark}*")));
        found.map(str::to_owned).context(format!("no SPI in {}", exec::tail(&sas, 8)))
    };
    Ok((word("_i")?, word("_r")?))
}

fn owner_of(compose: &Compose) -> Result<String> {
    eventually(PATIENCE, || {
        Ok(compose.sa()?["owner"].as_str().context("the tunnel has no owner")?.to_owned())
    })
}

fn id_of(compose: &Compose, edge: &str) -> Result<u64> {
    let text = compose.pontoon(&["-o", "json", "members"])?;
    let document: Value = serde_json::from_str(&text).context(&text)?;
    let members = document["members"].as_array().context("no list of members")?;
    let member = members.iter().find(|member| member["name"] == edge).context(format!("no member {edge}"))?;
    member["id"].as_u64().context("id")
}
