//! This process as a member of its cluster: from an opened log to a node that serves what it is given.
//!
//! ```text
//!   recovered ─> subscribe ─> Incarnate (committed) ─> roster follows grants ─> placement assigns (leader)
//! ```
//!
//! The incarnation is fresh with every start and committed before anything is served, so that a grant to the
//! process before this one, read again from the log, starts nothing.

use std::time::Duration;

use crypto::Secret;
use crypto::rng::{OsRng, Rng};
use ipsec::types::Incarnation;
use raft::state::{Command, NewMember, Refusal, RotateCookieSecret, Start, Touched};
use raft::{Applied, Cluster, ProposeError, Role};
use tokio::sync::{broadcast, watch};

use crate::actor::{self, Mailbox};
use crate::fault::Fault;
use crate::io::clock::{Clock, SystemClock};
use crate::lifeline::{self, Wires};
use crate::lookout::Lookout;
use crate::mirror;
use crate::moves::{Moves, Shifts};
use crate::observe::Event;
use crate::placement::{self, Seen};
use crate::roster::{self, Roster, Routes};
use crate::segment::Shared;
use crate::whereabouts;

/// How long to wait before a proposal without a leader is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// How often the leader looks whether all is placed well, besides at each change.
const PLACEMENT_EVERY: Duration = Duration::from_millis(250);

/// What the replicated state wants a cookie secret to be.
const COOKIE_SECRET_LEN: usize = 32;

/// Cookie secrets live two rotations (RFC 7296, 2.6: "change it frequently").
const COOKIE_ROTATION_MS: u64 = 10 * 60 * 1000;

/// How long a restart may take to read its own log back.
const RECOVERY_WITHIN: Duration = Duration::from_secs(60);

/// Starts all actors of a member. Returns once the incarnation is committed and they run.
pub async fn start(
    shared: Shared,
    me: NewMember,
    routes: Routes,
    wires: Wires,
    stop: watch::Receiver<bool>,
) -> Result<Incarnation, Fault> {
    let cluster = shared.cluster.clone();
    cluster
        .recovered(RECOVERY_WITHIN)
        .await
        .map_err(|error| Fault::failed("this node cannot read its own log back").why(error.to_string()))?;
    // A founder may have been stopped in the middle of `init`.
    until_led(|| async {
        cluster.found(me.clone(), SystemClock.utc()).await.map_err(|error| match error {
            raft::OpenError::Found(error) => error,
            other => ProposeError::Fatal(other.to_string()),
        })
    })
    .await
    .map_err(|error| Fault::failed("the cluster cannot be made").why(error))?;
    shared.gateway.follow(&cluster.state());

    let applied = cluster.applied();
    let incarnation = incarnate(&cluster, &me)
        .await
        .map_err(|error| Fault::failed("this node's start was not accepted").why(error))?;
    let name = me.name;
    shared.observe.emit(Event::Incarnation { node: name.clone(), incarnation: incarnation.0 });

    let lookout = shared.lookout.clone();
    lifeline::start(&shared, incarnation, wires, &stop)
        .await
        .map_err(|error| Fault::failed("this node cannot send datagrams to the others").why(error))?;
    let (wishes, wished) = Mailbox::new("roster", roster::WISHES);
    let moves = Moves::new(
        cluster.clone(),
        shared.asks.clone(),
        shared.worker.clone(),
        wishes,
        shared.luggage.clone(),
        shared.opener.clone(),
    );
    mirror::keep(&shared.asks, shared.luggage.clone());
    let roster = Roster::new(shared.clone(), incarnation, routes);
    actor::spawn_vital("roster", stop.clone(), roster.run(applied, wished));
    let whereabouts = whereabouts::keep(cluster.clone(), shared.worker.clone());
    actor::spawn_vital("whereabouts", stop.clone(), whereabouts);
    actor::spawn_vital("votes", stop.clone(), cluster.follow_members());
    actor::spawn_vital("placement", stop.clone(), place(cluster.clone(), moves, lookout));
    actor::spawn_vital(
        "replay-marks",
        stop.clone(),
        shared.marks.clone().keep(cluster.clone(), shared.worker.clone()),
    );
    Ok(incarnation)
}

/// Commits a fresh incarnation, as soon as there is a leader.
async fn incarnate(cluster: &Cluster, me: &NewMember) -> Result<Incarnation, ProposeError> {
    let incarnation = Incarnation(OsRng.u64() | 1);
    let start = Start {
        incarnation,
        address: me.address.clone(),
        software: me.software.clone(),
        speaks: me.speaks,
        at: SystemClock.utc(),
    };
    let node = cluster.node();
    until_led(|| async {
        let expected =
            cluster.state().members().get(node).map_or(Incarnation(0), |member| member.incarnation);
        if expected == incarnation {
            return Ok(incarnation);
        }
        match cluster.propose(Command::Incarnate { node, expected, start: start.clone() }).await {
            // A newcomer, or one that was away, does not know yet what it committed before.
            Err(ProposeError::Refused(Refusal::IncarnationChanged { .. })) => {
                cluster.barrier().await?;
                Err(ProposeError::Unknown)
            }
            proposed => proposed.map(|_| incarnation),
        }
    })
    .await
}

/// Tries again while there is no leader, or while it is not known what became of the last try.
async fn until_led<T, F: Future<Output = Result<T, ProposeError>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<T, ProposeError> {
    loop {
        match attempt().await {
            Err(ProposeError::NotLeader(_) | ProposeError::Unknown) => tokio::time::sleep(RETRY).await,
            ended => return ended,
        }
    }
}

/// The leader's part: places segments and turns the cookie secret over.
async fn place(cluster: Cluster, moves: Moves, lookout: Lookout) {
    let mut shifts = Shifts::new(moves);
    let (mut applied, mut news) = (cluster.applied(), lookout.news());
    let mut every = tokio::time::interval(PLACEMENT_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = shifts.ended() => {}
            _ = news.changed() => {}
            told = applied.recv() => match told {
                Ok(Applied::Command { touched, .. })
                    if touched.iter().all(|touched| matches!(touched, Touched::Ike(_))) => continue,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
        // Who is deaf knows of nobody whom to give something to.
        if cluster.status().role != Role::Leader || lookout.deaf_here() {
            continue;
        }
        let state = cluster.state();
        if state.cluster().is_none() {
            continue;
        }
        let (voters, liveness) = (cluster.status().voters, lookout.liveness(&cluster));
        let seen = Seen { voters: &voters, liveness: &liveness };
        let plan = placement::plan(&state, seen, SystemClock.utc());
        for assign in plan.orphans {
            propose(&cluster, Command::Assign(assign)).await;
        }
        shifts.begin(plan.moves);
        for set in plan.standbys {
            propose(&cluster, Command::SetStandby(set)).await;
        }
        let cookies = state.cookies();
        let age_ms = SystemClock.utc().since(cookies.rotated_at);
        if cookies.current.is_none() || age_ms >= COOKIE_ROTATION_MS {
            let secret = Secret::from(OsRng.vec(COOKIE_SECRET_LEN));
            let expected_version = cookies.version;
            let rotate = RotateCookieSecret { expected_version, secret, at: SystemClock.utc() };
            propose(&cluster, Command::RotateCookieSecret(rotate)).await;
        }
    }
}

/// A proposal that the next round makes again where it is still needed.
async fn propose(cluster: &Cluster, command: Command) {
    let kind = command.kind();
    if let Err(error) = cluster.propose(command).await {
        tracing::debug!(command = kind, %error, "not in force");
    }
}
