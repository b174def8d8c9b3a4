//! `cargo chaos`: a cluster under load, its network and its nodes fail by a seed, and everything that was said and sent is
//! judged.
//!
//! ```text
//!   five nodes on a rough fabric          what goes on all the time
//!     8 tunnels, a datagram each 10 ms      clients that connect, rekey, leave
//!                                           an administrator of each node
//!   round     at rest ─> strike ─> hold: in its last second the majority serves ─> heal ─> converged within 5 s
//!   end       I1 to I4, I6, I8 to I10 over every frame; who had no majority was silent; the revisions are those of one
//!             register (S19); final reads are equal on all nodes; what the run claims to exercise was there
//! ```
//!
//! `nemesis` is what goes wrong, `load` what goes on. A run that did not exercise what it is for is rejected, not passed.

mod load;
pub mod nemesis;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crypto::rng::{Rng, SeededRng};

use crate::charon::{Charon, Settings};
use crate::checkers::view::{Sa, View};
use crate::checkers::{i4_survives, revisions};
use crate::ensure;
use crate::outcome::{Context, Result, Stop};
use crate::scenarios::bridge::{Allowed, Bridge, Proof, Seen, of_client, views};
use crate::scenarios::common::Gateway;
use crate::scenarios::s4_many::Tunnels;
use crate::world::capture::Extent;
use crate::world::cluster::{Cluster, Edge, Shape};
use crate::world::fabric::Net;
use crate::world::pontoon::Tool;
use crate::world::pulse::Pulse;
use crate::world::{Bed, SERVICE, eventually};

use load::{Exchange, History};
pub use nemesis::Nemesis;
use nemesis::{Roles, Strike, now_us};

const TUNNELS: usize = 8;
const EVERY: Duration = Duration::from_millis(10);
const CLIENTS: usize = 2;
const HOLD: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(30);
const FLOWING: usize = 10;

/// Every fault here leaves a majority. In this last part of the fault it must serve every tunnel again.
const SERVING: Duration = Duration::from_secs(1);

/// How soon after the end of a fault everything must be as it was.
const CONVERGED_WITHIN: Duration = Duration::from_secs(5);
/// The same where a node has to join.
const JOINED_WITHIN: Duration = Duration::from_secs(20);

/// How long a node without a majority may go on: its lease, which is 200 ms in the profile of these runs, and what a busy
/// machine adds.
const SILENT_WITHIN_US: u64 = 500_000;

/// Before a fault: in this time an owner sends many packets.
const SHORTLY_US: u64 = 500_000;

/// What the clients that come and go are called.
const VISITOR: &str = "visitor";

/// Packets of one SPI that a deposed owner may send late where processes are held up: what one batch holds of it, where the
/// whole tunnel has a hundred a second.
const LATE_MAX: u64 = 4;

/// What is to go wrong, in order.
#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: usize,
    pub seed: u64,
    pub strikes: Vec<Nemesis>,
}

impl Plan {
    /// So many rounds: each kind once before any comes again, in an order that the seed says.
    pub fn drawn(nodes: usize, seed: u64, rounds: usize, among: &[Nemesis]) -> Plan {
        let mut rng = SeededRng::new(seed);
        let mut strikes = Vec::new();
        let mut left: Vec<Nemesis> = Vec::new();
        while strikes.len() < rounds && !among.is_empty() {
            if left.is_empty() {
                left = among.to_vec();
            }
            strikes.push(left.swap_remove(rng.u32() as usize % left.len()));
        }
        Plan { nodes, seed, strikes }
    }
}

/// One round, as it went.
#[derive(Debug)]
struct Round {
    strike: Strike,
    healed_us: u64,
    /// The longest time without an answer, of any tunnel.
    silence: Duration,
    converged: Duration,
    /// An exchange of a client was under way when it struck.
    within: Option<&'static str>,
    /// Frames that were cut off.
    cut: u64,
}

/// Runs a plan. An error also when it has not exercised what it is for.
pub fn run(bed: &Bed, plan: &Plan) -> Result {
    bed.note(format_args!("seed {}", plan.seed));
    let gateway = Gateway::default();
    let shape = Shape { nodes: plan.nodes, rough: Some(plan.seed), ..Shape::unhurried() };
    let mut bridge = Bridge::loaded(bed, shape, &gateway, &Settings::default())?;
    let tunnels = Tunnels::connect(&bridge.client, TUNNELS)?;
    let told = of_client(&bridge.client)?;
    let proof = Proof::begin(&bridge, Extent::Heads)?;
    let pulses: Vec<Pulse> = tunnels
        .addresses()
        .iter()
        .map(|&from| Pulse::start(&bridge.cluster.client, from, EVERY))
        .collect::<Result<_>>()?;
    let (history, ending) = (History::default(), AtomicBool::new(false));
    let toml = gateway.toml();
    let Bridge { client, cluster } = &mut bridge;
    let tools: Vec<Tool> = cluster.edges().map(|edge| cluster.node(edge).tool()).collect();
    let first = load::in_force(&tools[0]).context("no configuration is in force")?;
    let (rounds, threads) = std::thread::scope(|scope| {
        // Also when a round panics.
        let _end = Ending(&ending);
        let clients = (0..CLIENTS)
            .map(|number| load::client(scope, client, format!("{VISITOR}{number}"), &history, &ending));
        let administrators = cluster.edges().zip(&tools).map(|(edge, tool)| {
            let file = cluster.path(&edge.to_string()).join("chaos.toml");
            load::administrator(scope, tool.clone(), &toml, file, &history, &ending)
        });
        let threads: Vec<_> = clients.chain(administrators).collect();
        let rounds = all_rounds(cluster, client, plan, &pulses, &history);
        ending.store(true, Ordering::Relaxed);
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result>| {
            thread.join().unwrap_or_else(|_| Err("a thread of the load panicked".into()))
        };
        (rounds, threads.into_iter().map(join).collect::<Result<Vec<()>>>())
    });
    let rounds = rounds?;
    threads?;
    drop(pulses);
    for round in &rounds {
        bed.note(format_args!("{round}"));
    }
    bed.note(format_args!("{}", bridge.cluster.fabric.damage()));
    let last = final_reads(&tools)?;
    survived(&told, &views(&bridge)?)?;
    let late_max = if plan.strikes.iter().any(|nemesis| nemesis.stops_processes()) { LATE_MAX } else { 0 };
    let seen = proof.end(bed, &bridge, Allowed { late_max, new_sas: true })?;
    silent(bed, &bridge.cluster, &seen, &rounds)?;
    let (attempts, exchanges) = (history.attempts(), history.exchanges());
    revisions::check(&attempts, first, last).must_hold("S19")?;
    bed.note(format_args!(
        "{} of {} exchanges of clients that came and went, {} attempts of administrators",
        exchanges.iter().filter(|exchange| exchange.done).count(),
        exchanges.len(),
        attempts.len()
    ));
    exercised(&bridge.cluster, &rounds, &exchanges, &attempts)
}

/// Tells the load to end, whatever became of the rounds.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn all_rounds(
    cluster: &mut Cluster,
    client: &Charon,
    plan: &Plan,
    pulses: &[Pulse],
    history: &History,
) -> Result<Vec<Round>> {
    let mut rng = SeededRng::new(plan.seed);
    let mut rounds = Vec::new();
    for (number, &nemesis) in plan.strikes.iter().enumerate() {
        let what = || format!("round {}, {}", number + 1, nemesis.word());
        rounds.push(round(cluster, client, nemesis, pulses, history, &mut rng).map_err(
            |stop| match stop {
                Stop::Failed(why) => Stop::Failed(format!("{}: {why}", what())),
                skipped => skipped,
            },
        )?);
    }
    Ok(rounds)
}

fn round(
    cluster: &mut Cluster,
    client: &Charon,
    nemesis: Nemesis,
    pulses: &[Pulse],
    history: &History,
    rng: &mut dyn Rng,
) -> Result<Round> {
    cluster.wait_balanced()?;
    cluster.wait_still()?;
    all_flow(pulses, Instant::now(), PATIENCE)?;
    let damage = cluster.fabric.damage();
    let roles = Roles { leader: cluster.leader()?, owner: cluster.owner_of(&client.only("client0")?)? };
    let mut strike = Strike::begin(nemesis, cluster, roles, rng)?;
    std::thread::sleep(HOLD);
    all_flow(pulses, Instant::now() - SERVING, Duration::ZERO).context("while the fault lasts")?;
    let silence = pulses.iter().map(|pulse| pulse.longest_silence(strike.begun)).max().unwrap_or_default();
    let cut = cluster.fabric.damage().cut - damage.cut;
    let (healed, healed_us) = (Instant::now(), now_us());
    strike.end(cluster)?;
    all_flow(pulses, healed, PATIENCE)?;
    cluster.wait_ready()?;
    cluster.wait_served()?;
    let converged = healed.elapsed();
    let within = history.exchanges().iter().find_map(|exchange| {
        (exchange.from_us < strike.begun_us && strike.begun_us < exchange.to_us).then_some(exchange.what)
    });
    let limit = if nemesis.joins() { JOINED_WITHIN } else { CONVERGED_WITHIN };
    ensure!(converged <= limit, "converged only {} ms after it was healed", converged.as_millis());
    Ok(Round { strike, healed_us, silence, converged, within, cut })
}

fn all_flow(pulses: &[Pulse], since: Instant, patience: Duration) -> Result {
    for (number, pulse) in pulses.iter().enumerate() {
        pulse.wait_for(since, FLOWING, patience).context(format!("tunnel {number}"))?;
    }
    Ok(())
}

/// I4 for the tunnels that were there from the beginning: the same SAs, by the word of the client and of every node.
fn survived(told: &[Sa], views: &[View]) -> Result {
    let ours = |view: &View| {
        let sas = view.sas.iter().filter(|sa| !sa.peer.starts_with(VISITOR)).cloned();
        View::new(&view.whose, sas.collect())
    };
    i4_survives::check(told, &views.iter().map(ours).collect::<Vec<_>>()).must_hold("I4")
}

/// All nodes tell the same revision in the end, which is given.
fn final_reads(tools: &[Tool]) -> Result<u64> {
    eventually(CONVERGED_WITHIN, || {
        let told: Vec<_> = tools.iter().map(load::in_force).collect();
        ensure!(told.windows(2).all(|pair| pair[0] == pair[1]), "the nodes tell of revisions {told:?}");
        told.first().copied().flatten().context("no node tells a revision")
    })
}

/// Who was cut off from the others sent nothing to clients once its lease had ended. An owner that was cut off must have
/// sent something before, or nothing is shown.
fn silent(bed: &Bed, cluster: &Cluster, seen: &Seen, rounds: &[Round]) -> Result {
    let ports = cluster.fabric.ports()?;
    for Round { strike, healed_us, .. } in rounds.iter().filter(|round| !round.strike.silent.is_empty()) {
        let of_silent = |via: u32| {
            let port = ports.get(&via).filter(|port| port.net == Net::Outside)?;
            strike.silent.iter().find(|edge| edge.to_string() == port.machine).copied()
        };
        let ours = seen.outside.iter().filter(|packet| packet.source == SERVICE);
        let theirs: Vec<(u64, Edge)> =
            ours.filter_map(|packet| Some((packet.at_us, of_silent(packet.via)?))).collect();
        let name = strike.nemesis.word();
        let before =
            theirs.iter().any(|(at_us, _)| (strike.begun_us - SHORTLY_US..strike.begun_us).contains(at_us));
        ensure!(
            before || strike.nemesis != Nemesis::OwnerAlone,
            "rejected: {name}: the owner sent nothing before"
        );
        let under_way = strike.begun_us..*healed_us;
        let last = theirs.iter().filter(|(at_us, _)| under_way.contains(at_us)).max();
        if let Some((at_us, edge)) = last {
            let after_us = at_us - strike.begun_us;
            let text = format!("{name}: {edge} was silent after {} ms", after_us / 1_000);
            ensure!(after_us < SILENT_WITHIN_US, "{text}");
            bed.note(format_args!("{text}"));
        }
    }
    Ok(())
}

/// What a run is for must have happened.
fn exercised(
    cluster: &Cluster,
    rounds: &[Round],
    exchanges: &[Exchange],
    attempts: &[revisions::Attempt],
) -> Result {
    let mut missing = Vec::new();
    let mut wants = |there: bool, what: &str| {
        if !there {
            missing.push(what.to_owned());
        }
    };
    for Round { strike, cut, .. } in rounds {
        wants(!strike.nemesis.cuts() || *cut > 0, &format!("a frame cut off by {}", strike.nemesis.word()));
    }
    if rounds.iter().any(|round| round.strike.nemesis.takes()) {
        let takeover = |event: &serde_json::Value| event["kind"] == "handover" && event["cause"] == "failure";
        wants(cluster.events()?.iter().any(|(_, event)| takeover(event)), "a takeover");
    }
    wants(rounds.iter().any(|round| round.within.is_some()), "a fault within an exchange of a client");
    let gone = |exchange: &Exchange| exchange.done && exchange.what == load::DELETE;
    wants(exchanges.iter().any(gone), "a client that came and went");
    let done = |attempt: &&revisions::Attempt| matches!(attempt.outcome, revisions::Outcome::Done(_));
    wants(attempts.iter().filter(done).count() > 1, "two configurations");
    wants(attempts.iter().any(|attempt| attempt.outcome == revisions::Outcome::Refused), "a refused one");
    let damage = cluster.fabric.damage();
    if rounds.iter().any(|round| round.strike.nemesis == Nemesis::Rough) {
        let all = damage.lost > 0 && damage.doubled > 0 && damage.corrupted > 0 && damage.late > 0;
        wants(all, "frames of every damage");
    }
    ensure!(missing.is_empty(), "rejected, since the run had not: {}", missing.join(", "));
    Ok(())
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Round { strike, silence, converged, within, .. } = self;
        let names = |edges: &[Edge]| edges.iter().map(Edge::to_string).collect::<Vec<_>>().join(" ");
        let whom = match (strike.silent.as_slice(), strike.struck.as_slice()) {
            ([], []) => String::new(),
            (silent, []) => format!(" ({})", names(silent)),
            (_, struck) => format!(" ({})", names(struck)),
        };
        write!(
            f,
            "{}{whom}: {} ms without an answer at most, converged {} ms after the end",
            strike.nemesis.word(),
            silence.as_millis(),
            converged.as_millis()
        )?;
        within.map_or(Ok(()), |what| write!(f, "; within {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_what_goes_wrong_and_every_kind_comes() {
        let plan = |seed| Plan::drawn(5, seed, 2 * Nemesis::ALL.len(), &Nemesis::ALL).strikes;
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
        for half in plan(3).chunks(Nemesis::ALL.len()) {
            let mut half = half.to_vec();
            half.sort();
            assert_eq!(half, Nemesis::ALL);
        }
        assert!(Plan::drawn(5, 1, 3, &[]).strikes.is_empty());
    }
}
