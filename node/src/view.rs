//! The replicated state as the IKE engine of one segment sees it, together with what the packet side knows.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipsec::ike::View;
use ipsec::ike::cookie::CookieSecrets;
use ipsec::policy::{Identity, Pool};
use ipsec::record::{Farewell, IkeRecord, Phase};
use ipsec::types::{ChildSpi, Millis, Segment, Spi};
use raft::state::State;

use crate::datapath::Handle;

/// Inner addresses that proposals of this node carry and that are not in the state yet: two segments that decide at
/// the same time would else choose the same one, and one client would have to ask again.
#[derive(Clone, Debug, Default)]
pub struct Promised(Arc<Mutex<BTreeSet<IpAddr>>>);

impl Promised {
    /// `None` when another proposal has promised one of them meanwhile; then none is taken.
    pub fn take(&self, addresses: Vec<IpAddr>) -> Option<Pledge> {
        let mut promised = self.lock();
        if addresses.iter().any(|address| promised.contains(address)) {
            return None;
        }
        promised.extend(&addresses);
        drop(promised);
        Some(Pledge { promised: self.clone(), addresses })
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.lock().contains(&address)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<IpAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Addresses that are promised as long as this is held: by the task of the proposal, so also its end without an outcome,
/// with an actor that is stopped, gives them back.
#[derive(Debug)]
pub struct Pledge {
    promised: Promised,
    addresses: Vec<IpAddr>,
}

impl Drop for Pledge {
    fn drop(&mut self) {
        let mut promised = self.promised.lock();
        self.addresses.iter().for_each(|address| {
            promised.remove(address);
        });
    }
}

pub struct SegmentView<'a> {
    pub state: Arc<State>,
    pub segment: Segment,
    pub promised: &'a Promised,
    pub worker: &'a Handle,
}

impl std::fmt::Debug for SegmentView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentView(segment {}, applied {})", self.segment, self.state.applied())
    }
}

impl View for SegmentView<'_> {
    fn record(&self, spi: Spi) -> Option<Arc<IkeRecord>> {
        self.state.record(spi).cloned()
    }

    fn farewell(&self, spi: Spi) -> Option<Arc<Farewell>> {
        self.state.farewell(spi).cloned()
    }

    fn records(&self) -> Vec<Arc<IkeRecord>> {
        self.state.records_of(self.segment).cloned().collect()
    }

    fn of_peer(&self, connection: &str, peer: &Identity) -> Vec<Arc<IkeRecord>> {
        let same =
            |record: &&Arc<IkeRecord>| record.connection == connection && record.phase == Phase::Established;
        self.state.records_of_peer(peer).filter(same).cloned().collect()
    }

    fn ike_spi_taken(&self, spi: Spi) -> bool {
        self.state.record(spi).is_some() || self.state.farewell(spi).is_some()
    }

    fn child_spi_taken(&self, spi: ChildSpi) -> bool {
        self.state.find_child(spi).is_some()
    }

    fn free_address(&self, pool: &Pool, peer: &Identity, wish: Option<IpAddr>, v4: bool) -> Option<IpAddr> {
        let networks = pool.addresses.iter().copied().filter(|network| network.address.is_ipv4() == v4);
        let busy = |address: IpAddr| self.promised.contains(address);
        self.state.leases().free_address(networks, peer, wish, &[], &busy)
    }

    fn cookie_secrets(&self) -> CookieSecrets {
        let cookies = self.state.cookies();
        let numbered = |version: u32, secret: &Option<crypto::Secret>| {
            secret.as_ref().map(|secret| (version as u8, secret.clone()))
        };
        CookieSecrets {
            current: numbered(cookies.version, &cookies.current),
            previous: numbered(cookies.version.wrapping_sub(1), &cookies.previous),
        }
    }

    fn last_inbound(&self, child: ChildSpi) -> Option<Millis> {
        let heard = self.worker.known_stats(child)?.heard_ms.load(Ordering::Relaxed);
        (heard != 0).then_some(Millis(heard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_given_back_however_the_proposal_ends() {
        let promised = Promised::default();
        let ip = |last: u8| IpAddr::from([10, 99, 0, last]);
        let pledge = promised.take(vec![ip(1), ip(2)]).unwrap();
        assert!(promised.take(vec![ip(3), ip(2)]).is_none(), "one of them is promised");
        assert!(!promised.contains(ip(3)), "and then none is taken");
        drop(pledge);
        assert!(promised.take(vec![ip(3), ip(2)]).is_some());
        assert!(!promised.contains(ip(2)));
    }
}
