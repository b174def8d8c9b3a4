//! The actor of steering: routes for what the configuration names, and the service addresses while they are ours.
//!
//! In `announce` mode one node holds the service addresses: the owner of segment 0, who also answers a ping there
//! (DESIGN 7).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipsec::policy::{Gateway, Network, Selector};
use ipsec::types::Segment;
use tokio::sync::watch;

use crate::gateway::CurrentGateway;
use crate::observe::{HealthCode, Observe};
use crate::roster::Routes;
use crate::steering::{Probe, Steering};

/// How often it is looked at who holds the addresses and what is configured.
const EVERY: Duration = Duration::from_millis(20);

/// After an error the next try waits longer.
const AFTER_ERROR: Duration = Duration::from_secs(2);

pub async fn run(
    mut steering: Steering,
    gateway: CurrentGateway,
    routes: Routes,
    observe: Observe,
    up: Arc<AtomicBool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut configured = None;
    loop {
        let wait = match step(&mut steering, &gateway, &routes, &mut configured).await {
            Ok(holds) => {
                observe.clear(HealthCode::Steering);
                up.store(holds, Ordering::Relaxed);
                EVERY
            }
            Err(error) => {
                observe.raise(HealthCode::Steering, error.to_string());
                up.store(false, Ordering::Relaxed);
                AFTER_ERROR
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.changed() => {
                steering.down().await;
                return;
            }
        }
    }
}

/// True when this node holds the service addresses.
async fn step(
    steering: &mut Steering,
    gateway: &CurrentGateway,
    routes: &Routes,
    configured: &mut Option<u64>,
) -> Result<bool, crate::steering::SteeringError> {
    let current = gateway.load();
    // Revision 0: not read from the log yet. The blackholes of the process before us stay, or inner packets would
    // take the default route in clear meanwhile (I8).
    if current.revision > 0 && *configured != Some(current.revision) {
        steering.set_networks(&networks(&current)).await?;
        *configured = Some(current.revision);
    }
    drop(current);
    let ours = routes.to(Segment(0)).is_some();
    match (ours, steering.answers().is_some()) {
        (true, false) => steering.hold(Probe::Ask).await?,
        (false, true) => steering.release(),
        _ => {}
    }
    Ok(ours)
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
