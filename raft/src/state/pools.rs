//! Inner addresses: who has one, and who had it last.
//!
//! An address is held by one IKE SA or remembered for the peer that had it, so that a client that connects again
//! gets the same one. Which pool it is from is not noted: pools are ranges in the configuration, which may change
//! under leases that live on.
//!
//! Invariants: one holder for an address (I9); the indices list exactly what the table says; at most
//! `RELEASED_MAX` addresses are remembered without a holder.
//!
//! `free_address` is for proposers: apply never chooses, it only checks.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipsec::policy::{Identity, Network};
use ipsec::record::Refusal;
use ipsec::types::Spi;

use super::limits::RELEASED_MAX;
use super::members::ensure;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub address: IpAddr,
    /// Who has it, or had it last.
    pub peer: Identity,
    pub tenure: Tenure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tenure {
    /// By the IKE SA of that SPI (ours).
    Held(Spi),
    /// Free for others when nothing else is; given back at that log index.
    Released(u64),
}

#[derive(Clone, Debug, Default)]
pub struct Leases {
    table: OrdMap<IpAddr, Arc<Lease>>,
    by_peer: OrdSet<(Identity, IpAddr)>,
    /// Oldest first.
    released: OrdSet<(u64, IpAddr)>,
}

/// How far a search for an address that nobody ever had goes before one that is only remembered is taken.
const PROBES: usize = 1024;

impl Leases {
    pub fn get(&self, address: IpAddr) -> Option<&Lease> {
        self.table.get(&address).map(Arc::as_ref)
    }

    pub fn holder(&self, address: IpAddr) -> Option<Spi> {
        self.get(address).and_then(Lease::holder)
    }

    /// In the order of their addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.table.values().map(Arc::as_ref)
    }

    /// Addresses in use.
    pub fn held_len(&self) -> usize {
        self.table.len() - self.released.len()
    }

    /// All that `peer` has or had.
    pub fn of_peer(&self, peer: &Identity) -> impl Iterator<Item = &Lease> {
        let first = (peer.clone(), IpAddr::from([0; 4]));
        let last = (peer.clone(), IpAddr::from([u8::MAX; 16]));
        self.by_peer.range(first..=last).filter_map(|(_, address)| self.get(*address))
    }

    /// What `peer` has in `network`, else what it had there last.
    pub fn lease_for(&self, peer: &Identity, network: &Network) -> Option<&Lease> {
        self.of_peer(peer).filter(|it| network.contains(it.address)).max_by_key(|it| it.recency())
    }

    /// An address of `networks` for a new IKE SA of `peer`: one that it had or that an SA `giving_way` to the new
    /// one has, else `wish`, else one that nobody ever had, else the one released longest ago. `busy`: promised by
    /// proposals under way. `None`: the pool is empty.
    ///
    /// Where the search begins depends on the peer, so that owners that propose at the same time rarely meet.
    pub fn free_address(
        &self,
        networks: impl Iterator<Item = Network> + Clone,
        peer: &Identity,
        wish: Option<IpAddr>,
        giving_way: &[Spi],
        busy: &dyn Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let ranges = networks.map(|network| Range::usable(&network));
        let in_range = |address: IpAddr| ranges.clone().any(|range| range.contains(address));
        let may_have = |address: IpAddr| {
            let holder = self.holder(address);
            holder.is_none_or(|holder| giving_way.contains(&holder)) && in_range(address) && !busy(address)
        };
        let own = self.of_peer(peer).filter(|lease| may_have(lease.address));
        own.max_by_key(|lease| lease.recency())
            .map(|lease| lease.address)
            .or_else(|| wish.filter(|&wish| may_have(wish)))
            .or_else(|| ranges.clone().find_map(|range| self.new_near(&range, range.start_for(peer), busy)))
            .or_else(|| {
                let mut oldest = self.released.iter().map(|&(_, address)| address);
                oldest.find(|&address| in_range(address) && !busy(address))
            })
            .or_else(|| {
                ranges.clone().find_map(|range| self.gap(&range, range.first, range.last, usize::MAX, busy))
            })
    }

    /// One that nobody ever had, if there is one not far from `start`.
    fn new_near(&self, range: &Range, start: u128, busy: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let behind = self.gap(range, start, range.last, PROBES, busy);
        behind.or_else(|| self.gap(range, range.first, start, PROBES, busy))
    }

    /// The first address of `first..=last` without a lease, looking at no more than `probes`.
    fn gap(
        &self,
        range: &Range,
        first: u128,
        last: u128,
        probes: usize,
        busy: &dyn Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let taken = self.table.range(range.address(first)..=range.address(last)).map(|(ip, _)| number(*ip));
        let mut candidate = first;
        for taken in taken.map(Some).chain([None]).take(probes) {
            let end = taken.unwrap_or(last.saturating_add(1));
            while candidate < end {
                if !busy(range.address(candidate)) {
                    return Some(range.address(candidate));
                }
                candidate += 1;
            }
            candidate = end.checked_add(1)?;
        }
        None
    }

    /// `spi` is `address`'s from now on. Refused while another holds it.
    pub(super) fn take(&mut self, address: IpAddr, spi: Spi, peer: &Identity) -> Result<(), Refusal> {
        if let Some(before) = self.table.get(&address).cloned() {
            match before.tenure {
                Tenure::Held(_) => return Err(Refusal::AddressTaken),
                Tenure::Released(index) => {
                    let listed = self.released.remove(&(index, address));
                    assert!(listed.is_some(), "a released address is listed");
                }
            }
            let listed = self.by_peer.remove(&(before.peer.clone(), address));
            assert!(listed.is_some(), "each lease is listed under its peer");
        }
        self.insert(Lease { address, peer: peer.clone(), tenure: Tenure::Held(spi) });
        Ok(())
    }

    /// `spi` gives `address` back at log index `index`. It stays remembered for its peer.
    pub(super) fn release(&mut self, address: IpAddr, spi: Spi, index: u64) {
        let lease = self.table.get_mut(&address).expect("an SA holds what the leases say it holds");
        assert_eq!(lease.tenure, Tenure::Held(spi), "only the holder gives back");
        Arc::make_mut(lease).tenure = Tenure::Released(index);
        self.released.insert((index, address));
        while self.released.len() > RELEASED_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.released.get_min().copied() else { return };
        self.released.remove(&oldest);
        let lease = self.table.remove(&oldest.1).expect("a listed address has a lease");
        self.by_peer.remove(&(lease.peer.clone(), oldest.1));
    }

    fn insert(&mut self, lease: Lease) {
        self.by_peer.insert((lease.peer.clone(), lease.address));
        if let Tenure::Released(index) = lease.tenure {
            self.released.insert((index, lease.address));
        }
        self.table.insert(lease.address, Arc::new(lease));
    }

    /// From a snapshot.
    pub(super) fn restore(&mut self, lease: Lease) -> Result<(), &'static str> {
        ensure(self.get(lease.address).is_none(), "an address twice")?;
        self.insert(lease);
        Ok(())
    }

    pub(super) fn check(&self, applied: u64) -> Result<(), &'static str> {
        ensure(self.by_peer.len() == self.table.len(), "an index of peers that does not fit the leases")?;
        ensure(self.released.len() <= RELEASED_MAX, "too many addresses remembered")?;
        let mut released = 0;
        for (&address, lease) in &self.table {
            ensure(lease.address == address, "a lease under another address")?;
            ensure(self.by_peer.contains(&(lease.peer.clone(), address)), "a lease missing from its peer's")?;
            if let Tenure::Released(index) = lease.tenure {
                released += 1;
                ensure(index <= applied, "a lease given back in the future")?;
                ensure(self.released.contains(&(index, address)), "a released address that is not listed")?;
            }
        }
        ensure(released == self.released.len(), "an address listed as released that is not")
    }
}

impl Lease {
    pub fn holder(&self) -> Option<Spi> {
        match self.tenure {
            Tenure::Held(spi) => Some(spi),
            Tenure::Released(_) => None,
        }
    }

    /// Higher: held now, or given back later.
    fn recency(&self) -> (bool, u64) {
        match self.tenure {
            Tenure::Held(_) => (true, 0),
            Tenure::Released(index) => (false, index),
        }
    }
}

/// The addresses of a network that clients may have, as numbers.
struct Range {
    v4: bool,
    first: u128,
    last: u128,
}

impl Range {
    /// Leaves out the network and broadcast addresses of IPv4 (not of a /31, RFC 3021) and the subnet-router
    /// anycast address of IPv6 (RFC 4291, 2.6.1; not of a /127, RFC 6164).
    fn usable(network: &Network) -> Range {
        let v4 = network.address.is_ipv4();
        let (first, last) = (number(network.first()), number(network.last()));
        match (v4, last - first) {
            (_, 0 | 1) => Range { v4, first, last },
            (true, _) => Range { v4, first: first + 1, last: last - 1 },
            (false, _) => Range { v4, first: first + 1, last },
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.v4 && (self.first..=self.last).contains(&number(address))
    }

    /// FNV-1a over the identity; any spread will do.
    fn start_for(&self, peer: &Identity) -> u128 {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for &octet in [peer.kind as u8].iter().chain(&peer.data) {
            hash = (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let spread = u128::from(hash ^ (hash >> 32));
        self.first + (self.last - self.first).checked_add(1).map_or(spread, |size| spread % size)
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.v4 { IpAddr::V4((number as u32).into()) } else { IpAddr::V6(number.into()) }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}
