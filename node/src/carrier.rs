//! Watches the devices of the outside and the inside: a node that has lost one of them lives, but serves nobody.
//!
//! ```text
//!   carrier lost          ──>  SetCutOff true    ──>  the leader moves its segments away, as in a drain
//!   back for `STEADY`     ──>  SetCutOff false   ──>  it takes its share again
//! ```
//!
//! No detector of silent nodes sees this: the network between the nodes may be another one, and well. The process
//! lives too, so windows and counters are handed over exactly. Loss is told at once, return only when it lasts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use raft::Cluster;
use raft::state::Command;

use crate::daemon::Daemon;
use crate::io::LinkWatch;
use crate::io::netlink::{Netlink, NetlinkError};
use crate::observe::HealthCode;

/// How long a carrier has to be back before it counts.
const STEADY: Duration = Duration::from_secs(1);

/// How often the devices are looked at without news of them.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long to wait after a proposal that came to nothing.
const RETRY: Duration = Duration::from_millis(50);

/// From the day that this node is a member, for ever.
pub async fn watch(netlink: Netlink, mut links: LinkWatch, devices: Vec<String>, daemon: Arc<Daemon>) {
    let cluster = daemon.member_of().await;
    let mut settled = Settled::default();
    loop {
        let dead = match first_dead(&netlink, &devices).await {
            Ok(dead) => dead,
            Err(error) => {
                tracing::warn!(%error, "cannot look at the devices");
                None
            }
        };
        daemon.observe.check(HealthCode::CutOff, dead.is_some(), || {
            format!("{} has no carrier", dead.unwrap_or_default())
        });
        let cut_off = settled.judge(dead.is_some(), Instant::now());
        let told = tell(&cluster, cut_off).await;
        tokio::select! {
            () = links.news() => {}
            () = tokio::time::sleep(if told { LOOK_EVERY } else { RETRY }) => {}
        }
    }
}

/// The first device that is missing, down, or without a carrier.
async fn first_dead<'a>(netlink: &Netlink, devices: &'a [String]) -> Result<Option<&'a str>, NetlinkError> {
    for device in devices {
        let works = netlink.link(device).await?.is_some_and(|link| link.up && link.carrier);
        if !works {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// Brings the log to say what is so. False: not now.
async fn tell(cluster: &Cluster, cut_off: bool) -> bool {
    let (state, node) = (cluster.state(), cluster.node());
    match state.members().get(node) {
        Some(member) if member.cut_off != cut_off => {
            let command = Command::SetCutOff { node, incarnation: member.incarnation, cut_off };
            cluster.propose(command).await.is_ok()
        }
        _ => true,
    }
}

/// What to tell of devices that come and go.
#[derive(Debug, Default)]
struct Settled {
    cut_off: bool,
    back_since: Option<Instant>,
}

impl Settled {
    fn judge(&mut self, dead: bool, now: Instant) -> bool {
        if dead {
            *self = Settled { cut_off: true, back_since: None };
        } else if self.cut_off {
            let since = *self.back_since.get_or_insert(now);
            self.cut_off = now.duration_since(since) < STEADY;
        }
        self.cut_off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_counts_at_once_and_return_when_it_lasts() {
        let (mut settled, start) = (Settled::default(), Instant::now());
        let steady = STEADY.as_millis() as u64;
        for (at, dead, cut_off) in [
            (0, false, false),
            (10, true, true),
            (20, false, true),
            (20 + steady - 1, false, true),
            (20 + steady, true, true),
            (30 + steady, false, true),
            (30 + 2 * steady, false, false),
            (31 + 2 * steady, true, true),
        ] {
            let now = start + Duration::from_millis(at);
            assert_eq!(settled.judge(dead, now), cut_off, "after {at} ms");
        }
    }
}
