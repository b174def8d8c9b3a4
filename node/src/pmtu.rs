//! Hears what routers say about packets that were too big, at whichever node it arrives, and tells the owner of the SA.
//!
//! ```text
//!   "too big" to the service address ─> peer, port or SPI ─> record ─> PathMtu ─> worker ─> the owner's worker
//! ```
//!
//! Nobody proves who says so, so it is believed seldom, only downwards, and forgotten after a while (RFC 4301, 8.2.1).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsec::esp::{About, TooBig};
use ipsec::record::IkeRecord;
use ipsec::types::Spi;

use crate::daemon::Daemon;
use crate::datapath::Order;
use crate::io::icmp::{IcmpSocket, MESSAGE_LEN_MAX};
use crate::segment::PATH_MTU;

/// Each message costs a search among the records.
const MESSAGES_PER_SECOND: u32 = 20;

/// When a larger size is tried again (RFC 1191, 6.3).
const FORGET_AFTER: Duration = Duration::from_secs(600);
const FORGET_EVERY: Duration = Duration::from_secs(30);

/// IKE SAs whose way is known to be narrow, at most.
const KNOWN_MAX: usize = 4_096;

/// For ever. `local`: a service address of the outside.
pub async fn watch(daemon: Arc<Daemon>, local: IpAddr) {
    let socket = match IcmpSocket::open(local) {
        Ok(socket) => socket,
        Err(error) => {
            // Packets that are too big are lost then, where the way is narrow; all else works.
            tracing::warn!(%local, %error, "cannot hear which packets are too big");
            return std::future::pending().await;
        }
    };
    let mut watch = Watch { daemon, known: HashMap::new(), second: Instant::now(), in_second: 0 };
    let mut forget = tokio::time::interval(FORGET_EVERY);
    let mut buffer = [0; MESSAGE_LEN_MAX];
    loop {
        let heard = tokio::select! {
            received = socket.receive(&mut buffer) => match received {
                Ok(icmp) if local.is_ipv6() => TooBig::of_ipv6(icmp),
                Ok(icmp) => TooBig::of_ipv4(icmp),
                Err(error) => {
                    tracing::debug!(%local, %error, "cannot hear which packets are too big");
                    None
                }
            },
            _ = forget.tick() => {
                watch.forget().await;
                None
            }
        };
        if let Some(heard) = heard.filter(|heard| heard.local == local) {
            watch.heard(heard).await;
        }
    }
}

struct Watch {
    daemon: Arc<Daemon>,
    known: HashMap<Spi, Instant>,
    second: Instant,
    in_second: u32,
}

impl Watch {
    async fn heard(&mut self, heard: TooBig) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.in_second) = (Instant::now(), 0);
        }
        self.in_second += 1;
        if self.in_second > MESSAGES_PER_SECOND || heard.mtu >= PATH_MTU {
            return;
        }
        let Some(cluster) = self.daemon.cluster() else { return };
        let state = cluster.state();
        let Some(record) = state.records().find(|record| concerns(&heard, record)) else { return };
        if self.known.len() < KNOWN_MAX || self.known.contains_key(&record.spi) {
            self.known.insert(record.spi, Instant::now());
            tracing::debug!(spi = %record.spi, mtu = heard.mtu, "the way to a peer is narrow");
            self.tell(record.spi, heard.mtu).await;
        }
    }

    /// Tries the usual size again.
    async fn forget(&mut self) {
        let old: Vec<Spi> =
            self.known.iter().filter(|(_, at)| at.elapsed() >= FORGET_AFTER).map(|(spi, _)| *spi).collect();
        for spi in old {
            self.known.remove(&spi);
            self.tell(spi, PATH_MTU).await;
        }
    }

    async fn tell(&self, ike: Spi, octets: usize) {
        // A worker that has ended has told so by itself.
        let _ = self.daemon.worker.tell(ike.segment(), vec![Order::PathMtu { ike, octets }]).await;
    }
}

fn concerns(heard: &TooBig, record: &IkeRecord) -> bool {
    let path = record.path;
    (path.local.ip(), path.peer.ip()) == (heard.local, heard.peer)
        && match heard.about {
            About::Udp(port) => path.encapsulates() && path.peer.port() == port,
            About::Esp(spi_out) => record.children.iter().any(|child| child.spi_out == spi_out),
        }
}
