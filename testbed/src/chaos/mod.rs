//! `cargo chaos`: a cluster under load, its network and its nodes fail by a seed, and everything that was said and sent is
//! judged.
//!
//! ```text
//!   five nodes on a rough fabric          what goes on all the time
//!     8 tunnels, a datagram each 10 ms      clients that connect, rekey, leave
//!                                           an administrator of each node
//!   round     at rest ─> strike ─> hold: the majority serves within 2 s ─> heal ─> converged within 5 s
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
use crate::checkers::revisions;
use crate::checkers::view::Sa;
use crate::ensure;
use crate::outcome::{Context, Result, Stop};
use crate::scenarios::Scenario;
use crate::scenarios::bridge::{Allowed, Bridge, Proof, Seen, of_client};
use crate::scenarios::common::Gateway;
use crate::scenarios::s4_many::Tunnels;
use crate::world::capture::Extent;
use crate::world::cluster::{Cluster, Edge, Shape};
use crate::world::fabric::Net;
use crate::world::pontoon::Tool;
use crate::world::pulse::Pulse;
use crate::world::{Bed, SERVICE, eventually};

use load::History;
pub use nemesis::Nemesis;
use nemesis::{Roles, Strike, now_us};

pub(crate) const LIST: &[Scenario] = &[
    Scenario {
        name: "n1-partitions",
        what: "five nodes, every shape of partition: a majority serves, a minority is silent",
        run: |bed| {
            let shapes = [
                Nemesis::Halves,
                Nemesis::MajorityRing,
                Nemesis::Bridge,
                Nemesis::OneWay,
                Nemesis::LeaderAlone,
                Nemesis::OwnerAlone,
            ];
            run(bed, &Plan { nodes: 5, seed: 1, strikes: shapes.to_vec() })
        },
    },
    Scenario {
        name: "n2-faults",
        what: "five nodes: killed, stopped, starved, and a bad network",
        run: |bed| {
            let faults = [Nemesis::Rough, Nemesis::Killed, Nemesis::Stopped, Nemesis::Starved];
            run(bed, &Plan { nodes: 5, seed: 2, strikes: faults.to_vec() })
        },
    },
];

const TUNNELS: usize = 8;
const EVERY: Duration = Duration::from_millis(10);
const CLIENTS: usize = 2;
const HOLD: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
const FLOWING: usize = 10;

/// Every fault here leaves a majority: so soon it must serve every tunnel again, while the fault lasts.
const SERVING_WITHIN: Duration = Duration::from_secs(2);

/// How soon after the end of a fault everything must be as it was.
const CONVERGED_WITHIN: Duration = Duration::from_secs(5);

/// How long a node without a majority may go on: its lease, which is 200 ms in the profile of these runs, and what a busy
/// machine adds.
const SILENT_WITHIN_US: u64 = 500_000;

/// Packets of a deposed owner that may come late where processes are held up: what one write of a batch holds.
const LATE_MAX: u64 = 64;

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
    let rounds = std::thread::scope(|scope| {
        let clients = (0..CLIENTS)
            .map(|number| load::client(scope, client, format!("visitor{number}"), &history, &ending));
        let administrators = cluster.edges().zip(&tools).map(|(edge, tool)| {
            let file = cluster.path(&edge.to_string()).join("chaos.toml");
            load::administrator(scope, tool.clone(), &toml, file, &history, &ending)
        });
        let threads: Vec<_> = clients.chain(administrators).collect();
        let rounds = all_rounds(cluster, client, plan, &pulses, &history);
        ending.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| "a thread of the load panicked")??;
        }
        rounds
    })?;
    drop(pulses);
    for round in &rounds {
        bed.note(format_args!("{round}"));
    }
    bed.note(format_args!("{}", bridge.cluster.fabric.damage()));
    survived(&told, &of_client(&bridge.client)?)?;
    final_reads(&tools)?;
    let late_max = if plan.strikes.iter().any(|nemesis| nemesis.stops_processes()) { LATE_MAX } else { 0 };
    let seen = proof.end(bed, &bridge, Allowed { late_max, new_sas: true })?;
    silent(bed, &bridge.cluster, &seen, &rounds)?;
    let attempts = history.attempts();
    revisions::check(&attempts, first).must_hold("S19")?;
    let done = history.exchanges().iter().filter(|exchange| exchange.done).count();
    bed.note(format_args!(
        "{done} of {} exchanges of clients that came and went, {} attempts of administrators",
        history.exchanges().len(),
        attempts.len()
    ));
    exercised(&bridge.cluster, &rounds, done, &attempts)
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
    all_flow(pulses, Instant::now(), PATIENCE)?;
    let roles = Roles { leader: cluster.leader()?, owner: cluster.owner_of(&client.only("client0")?)? };
    let mut strike = Strike::begin(nemesis, cluster, roles, rng)?;
    std::thread::sleep(HOLD);
    let (healed, healed_us) = (Instant::now(), now_us());
    strike.end(cluster)?;
    all_flow(pulses, healed, PATIENCE)?;
    cluster.wait_ready()?;
    cluster.wait_served()?;
    let converged = healed.elapsed();
    let silence = pulses.iter().map(|pulse| pulse.longest_silence(strike.begun)).max().unwrap_or_default();
    let within = history.exchanges().iter().find_map(|exchange| {
        (exchange.from_us < strike.begun_us && strike.begun_us < exchange.to_us).then_some(exchange.what)
    });
    ensure!(silence <= SERVING_WITHIN, "a tunnel had no answer for {} ms", silence.as_millis());
    ensure!(converged <= CONVERGED_WITHIN, "converged only {} ms after it was healed", converged.as_millis());
    Ok(Round { strike, healed_us, silence, converged, within })
}

fn all_flow(pulses: &[Pulse], since: Instant, patience: Duration) -> Result {
    for (number, pulse) in pulses.iter().enumerate() {
        pulse.wait_for(since, FLOWING, patience).context(format!("tunnel {number}"))?;
    }
    Ok(())
}

/// I4 for the tunnels that were there from the beginning: the same SAs, whatever happened.
fn survived(told: &[Sa], now: &[Sa]) -> Result {
    let lost: Vec<&str> = told.iter().filter(|sa| !now.contains(sa)).map(|sa| sa.peer.as_str()).collect();
    ensure!(lost.is_empty(), "I4: the SAs of {lost:?} are not those of the beginning");
    Ok(())
}

/// All nodes tell the same revision in the end.
fn final_reads(tools: &[Tool]) -> Result {
    eventually(CONVERGED_WITHIN, || {
        let told: Vec<_> = tools.iter().map(load::in_force).collect();
        ensure!(told.windows(2).all(|pair| pair[0] == pair[1]), "the nodes tell of revisions {told:?}");
        ensure!(told.first().is_some_and(Option::is_some), "no node tells a revision");
        Ok(())
    })
}

/// Who was cut off from the others sent nothing to clients once its lease had ended.
fn silent(bed: &Bed, cluster: &Cluster, seen: &Seen, rounds: &[Round]) -> Result {
    let ports = cluster.fabric.ports()?;
    for Round { strike, healed_us, .. } in rounds.iter().filter(|round| !round.strike.silent.is_empty()) {
        let of_silent = |via: u32| {
            let port = ports.get(&via).filter(|port| port.net == Net::Outside)?;
            strike.silent.iter().find(|edge| edge.to_string() == port.machine).copied()
        };
        let under_way = strike.begun_us..*healed_us;
        let last = seen
            .outside
            .iter()
            .filter(|packet| packet.source == SERVICE && under_way.contains(&packet.at_us))
            .filter_map(|packet| Some((packet.at_us - strike.begun_us, of_silent(packet.via)?)))
            .max();
        if let Some((after_us, edge)) = last {
            let text = format!("{}: {edge} was silent after {} ms", strike.nemesis.word(), after_us / 1_000);
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
    exchanges: usize,
    attempts: &[revisions::Attempt],
) -> Result {
    let mut missing = Vec::new();
    let mut wants = |there: bool, what: &'static str| {
        if !there {
            missing.push(what);
        }
    };
    let hit = |of: fn(&Roles) -> Edge| rounds.iter().any(|round| round.strike.hit(of(&round.strike.roles)));
    if rounds.iter().any(|round| round.strike.nemesis == Nemesis::OwnerAlone) {
        wants(hit(|roles| roles.owner), "an owner that was hit");
    }
    if rounds.iter().any(|round| round.strike.nemesis == Nemesis::LeaderAlone) {
        wants(hit(|roles| roles.leader), "a leader that was hit");
    }
    let takeover = |event: &serde_json::Value| event["kind"] == "handover" && event["cause"] == "failure";
    wants(cluster.events()?.iter().any(|(_, event)| takeover(event)), "a takeover");
    wants(rounds.iter().any(|round| round.within.is_some()), "a fault within an exchange of a client");
    wants(exchanges > 0, "a client that came and went");
    let done = |attempt: &&revisions::Attempt| matches!(attempt.outcome, revisions::Outcome::Done(_));
    wants(attempts.iter().filter(done).count() > 1, "two configurations");
    wants(
        attempts.iter().any(|attempt| attempt.outcome == revisions::Outcome::Refused),
        "a refused configuration",
    );
    let damage = cluster.fabric.damage();
    if rounds.iter().any(|round| round.strike.nemesis == Nemesis::Rough) {
        wants(damage.lost > 0 && damage.doubled > 0 && damage.corrupted > 0, "frames of every damage");
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
            (silent, []) if strike.detail.is_empty() => format!(" ({} apart)", names(silent)),
            (silent, []) => format!(" ({} {})", names(silent), strike.detail),
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
        let plan = |seed| Plan::drawn(5, seed, 20, &Nemesis::ALL).strikes;
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
        for half in plan(3).chunks(10) {
            let mut half = half.to_vec();
            half.sort();
            assert_eq!(half, Nemesis::ALL);
        }
        assert!(Plan::drawn(5, 1, 3, &[]).strikes.is_empty());
    }
}
