//! The actor of steering: routes for what the configuration names, and the service addresses while they are ours.
//!
//! ```text
//!   a configuration is agreed on                   ──>  its networks are routed, then it is in force
//!   segment 0 is served here, and the lease holds  ──>  hold: answer and announce
//!   it is not, or the lease has lapsed             ──>  release: fall silent
//! ```
//!
//! In `announce` mode one node holds the service addresses: the owner of segment 0, who also answers a ping there
//! (DESIGN 7). So the address is an assignment with an epoch, like all that segments are. The others have it on their
//! TUN too, since owners answer clients from it, but nobody is told so.
//!
//! Routes and addresses do not wait for each other: to ask the link for another holder takes a while.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsec::policy::{Gateway, Network, Selector};
use ipsec::types::Segment;
use tokio::sync::watch;

use crate::daemon::Daemon;
use crate::observe::HealthCode;
use crate::steering::{Entitled, Probe, Steering, SteeringError, Ways};

/// How often it is looked at whether the lease holds. A change of segment 0 is told at once.
const EVERY: Duration = Duration::from_millis(20);

/// After an error the next try waits longer.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// How often the host's settings are read: an administrator may mend them while we run.
const ADVISE_EVERY: Duration = Duration::from_secs(5);

pub async fn run(steering: Steering, mut ways: Ways, daemon: Arc<Daemon>, mut stop: watch::Receiver<bool>) {
    let worker = daemon.worker.clone();
    let entitled = Arc::new(move || worker.holds_lease());
    let mut steer = Steer { steering, daemon: daemon.clone(), entitled, advised: None };
    tokio::select! {
        never = route(&mut ways, &daemon) => match never {},
        never = steer.address() => match never {},
        _ = stop.changed() => {}
    }
    ways.close().await;
    steer.steering.down().await;
}

/// Routes what is agreed on and puts it in force. Until the first one, the blackholes of the process before us stay.
async fn route(ways: &mut Ways, daemon: &Daemon) -> Infallible {
    loop {
        daemon.gateway.agreed().await;
        let Some(next) = daemon.gateway.next() else { continue };
        match ways.set(&networks(&next)).await {
            Ok(()) => daemon.gateway.enforce(next),
            Err(error) => {
                daemon.observe.raise(HealthCode::Steering, error.to_string());
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

struct Steer {
    steering: Steering,
    daemon: Arc<Daemon>,
    entitled: Entitled,
    advised: Option<Instant>,
}

impl Steer {
    async fn address(&mut self) -> Infallible {
        loop {
            let wait = self.step().await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.daemon.routes.address_moved() => {}
            }
        }
    }

    /// How long to wait before the next one.
    async fn step(&mut self) -> Duration {
        let done = self.follow().await;
        let observe = &self.daemon.observe;
        let wait = match &done {
            Ok(()) => {
                // What could not be routed is still to be told.
                if self.daemon.gateway.next().is_none() {
                    observe.clear(HealthCode::Steering);
                }
                EVERY
            }
            Err(error) => {
                observe.raise(HealthCode::Steering, error.to_string());
                AFTER_ERROR
            }
        };
        self.daemon.set_steering_up(done.is_ok());
        self.daemon.routes.set_holds_addresses(self.steering.answers().is_some());
        self.advise();
        wait
    }

    async fn follow(&mut self) -> Result<(), SteeringError> {
        let ours = self.daemon.routes.to(Segment(0)).is_some() && (self.entitled)();
        match (ours, self.steering.answers().is_some()) {
            (true, false) => {
                // Where another member may be the former holder, asking would find it, and time counts.
                let probe = if self.is_alone() { Probe::Ask } else { Probe::Skip };
                self.steering.hold(probe, self.entitled.clone()).await?;
            }
            (false, true) => self.steering.release(),
            _ => {}
        }
        // All members answer, whether they own something or not.
        if self.steering.shared().is_none() && (self.entitled)() {
            self.steering.share(self.entitled.clone()).await?;
        }
        Ok(())
    }

    fn is_alone(&self) -> bool {
        self.daemon.cluster().is_none_or(|cluster| cluster.state().members().len() < 2)
    }

    /// What does not matter to a single node breaks a cluster: its standbys would answer for the address too.
    fn advise(&mut self) {
        if self.advised.is_some_and(|last| last.elapsed() < ADVISE_EVERY) {
            return;
        }
        self.advised = Some(Instant::now());
        // Another node sends what we listen for: one that acknowledges our lease.
        let deaf = if self.is_alone() || !(self.entitled)() { Vec::new() } else { self.steering.deaf() };
        self.daemon.observe.check(HealthCode::SteeringReception, !deaf.is_empty(), || {
            deaf.iter().map(|deaf| deaf.text.as_str()).collect::<Vec<_>>().join("; ")
        });
        let advice = if self.is_alone() { Vec::new() } else { self.steering.advice() };
        self.daemon.observe.check(HealthCode::SteeringSettings, !advice.is_empty(), || {
            let told = advice.iter().map(|advice| format!("{advice} ({})", advice.fix));
            told.collect::<Vec<_>>().join("; ")
        });
    }
}

/// What lies behind tunnels: the pools, and the remote networks of children.
fn networks(gateway: &Gateway) -> Vec<Network> {
    let pools = gateway.pools.iter().flat_map(|pool| pool.addresses.iter().copied());
    let children = gateway.connections.iter().flat_map(|connection| &connection.children);
    let remote = children.flat_map(|child| child.remote_ts.iter().filter_map(as_network));
    let mut all: Vec<Network> = pools.chain(remote).collect();
    all.sort();
    all.dedup();
    all
}

/// A selector that is a whole prefix.
fn as_network(selector: &Selector) -> Option<Network> {
    let widest = if selector.start.is_ipv4() { 32 } else { 128 };
    (0..=widest)
        .map(|prefix| Network { address: selector.start, prefix })
        .find(|network| network.last() == selector.end && network.contains(selector.start))
}
