//! Mode `shared-mac`: what the kernel forwards into our TUN of the packets that it shows to every node.
//!
//! ```text
//!   frame to the shared address ─┬─ ping to a service address: segment 0 is ours? else drop
//!                                ├─ inner destination ─> map ─> segment ─> ours? ─> "was meant for this host": forwarded
//!                                └─ all else: forwarded by nobody, since it came as a group frame
//! ```
//!
//! The kernel forwards nothing that came in a group frame, until a rule says that it was meant for this host. That is
//! said only of what is served here, so that a packet is forwarded once, and by the node that can seal it. What is for
//! the service address itself is told apart by the sockets (`io::filter`), except for pings, which the kernel answers.
//!
//! A takeover changes the set of owned segments alone, in one transaction, however many clients it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipsec::policy::Selector;
use ipsec::types::{Segment, Spi};

use crate::io::nftables::{Change, Element, Expression, Key, Table};

const TABLE: &str = "pontoon";
const CHAIN: &str = "shared";
const OWNED: &str = "owned";

/// The maps of one family: addresses, networks, and where the destination stands in the header.
#[derive(Clone, Copy)]
struct Family {
    hosts: &'static str,
    sites: &'static str,
    key: Key,
    protocol: libc::c_int,
    destination_at: u32,
    len: u32,
    echo: (libc::c_int, u8),
}

const FAMILIES: [Family; 2] = [
    Family {
        hosts: "hosts4",
        sites: "sites4",
        key: Key::Ipv4,
        protocol: libc::NFPROTO_IPV4,
        destination_at: 16,
        len: 4,
        echo: (libc::IPPROTO_ICMP, 8),
    },
    Family {
        hosts: "hosts6",
        sites: "sites6",
        key: Key::Ipv6,
        protocol: libc::NFPROTO_IPV6,
        destination_at: 24,
        len: 16,
        echo: (libc::IPPROTO_ICMPV6, 128),
    },
];

/// linux/if_packet.h
const PACKET_HOST: u32 = 0;
const PACKET_MULTICAST: u8 = 2;

/// The kernel's filter, and what it was told.
#[derive(Debug)]
pub struct Filter {
    table: Table,
    owned: BTreeSet<Segment>,
    /// The SAs that lead to an address, newest last.
    hosts: BTreeMap<IpAddr, Vec<Spi>>,
    sites: BTreeMap<(IpAddr, IpAddr), Vec<Spi>>,
    known: BTreeMap<Spi, Vec<Selector>>,
}

impl Filter {
    /// For the devices with these numbers. Nothing is owned and nothing known yet.
    pub(super) fn open(devices: &BTreeSet<u32>) -> io::Result<Filter> {
        let mut table = Table::create(TABLE)?;
        let mut changes = vec![
            Change::Chain { name: CHAIN },
            Change::Set { name: OWNED, key: Key::Number, maps: false, intervals: false },
        ];
        for Family { hosts, sites, key, .. } in FAMILIES {
            changes.push(Change::Set { name: hosts, key, maps: true, intervals: false });
            changes.push(Change::Set { name: sites, key, maps: true, intervals: true });
        }
        for device in devices {
            changes.extend(FAMILIES.iter().flat_map(|family| family.rules(*device)));
        }
        table.commit(&changes)?;
        let (owned, hosts) = (BTreeSet::new(), BTreeMap::new());
        Ok(Filter { table, owned, hosts, sites: BTreeMap::new(), known: BTreeMap::new() })
    }

    /// Forwards what belongs to these segments, and nothing else.
    pub fn set_owned(&mut self, owned: BTreeSet<Segment>) -> io::Result<()> {
        let elements = |segments: &mut dyn Iterator<Item = &Segment>| -> Vec<Element> {
            segments
                .map(|segment| Element { key: number_of(*segment), number: None, is_end: false })
                .collect()
        };
        let taken = elements(&mut self.owned.difference(&owned));
        let put = elements(&mut owned.difference(&self.owned));
        self.table.commit(&[
            Change::Take { set: OWNED, elements: taken },
            Change::Put { set: OWNED, elements: put },
        ])?;
        self.owned = owned;
        Ok(())
    }

    /// What lies behind these IKE SAs now; nothing where they are gone.
    pub fn set_reach(&mut self, sas: impl Iterator<Item = (Spi, Vec<Selector>)>) -> io::Result<()> {
        let mut before: BTreeMap<IpAddr, Option<Segment>> = BTreeMap::new();
        let mut sites_changed = false;
        for (spi, remote) in sas {
            let gone = self.known.remove(&spi).unwrap_or_default();
            for selector in gone.iter().chain(&remote) {
                if is_host(selector) {
                    before
                        .entry(selector.start)
                        .or_insert_with(|| segment_of(self.hosts.get(&selector.start)));
                } else {
                    sites_changed |= !(gone.contains(selector) && remote.contains(selector));
                }
            }
            for selector in &gone {
                self.forget(selector, spi);
            }
            for selector in &remote {
                self.note(selector, spi);
            }
            if !remote.is_empty() {
                self.known.insert(spi, remote);
            }
        }
        let mut changes = Vec::new();
        for (index, family) in FAMILIES.iter().enumerate() {
            let (mut taken, mut put) = (Vec::new(), Vec::new());
            for (&ip, &was) in before.iter().filter(|(ip, _)| ip.is_ipv6() == (index == 1)) {
                let now = segment_of(self.hosts.get(&ip));
                if was != now {
                    taken.extend(was.map(|_| Element { key: octets(ip), number: None, is_end: false }));
                    put.extend(now.map(|segment| to_segment(octets(ip), segment)));
                }
            }
            changes.push(Change::Take { set: family.hosts, elements: taken });
            changes.push(Change::Put { set: family.hosts, elements: put });
            if sites_changed {
                let of_family = self.sites.iter().filter(|((start, _), _)| start.is_ipv6() == (index == 1));
                changes.push(Change::Clear { set: family.sites });
                changes.push(Change::Put { set: family.sites, elements: intervals(of_family) });
            }
        }
        self.table.commit(&changes)
    }

    fn note(&mut self, selector: &Selector, spi: Spi) {
        let sas = match is_host(selector) {
            true => self.hosts.entry(selector.start).or_default(),
            false => self.sites.entry((selector.start, selector.end)).or_default(),
        };
        if !sas.contains(&spi) {
            sas.push(spi);
        }
    }

    fn forget(&mut self, selector: &Selector, spi: Spi) {
        if is_host(selector) {
            if let Some(sas) = self.hosts.get_mut(&selector.start) {
                sas.retain(|other| *other != spi);
                if sas.is_empty() {
                    self.hosts.remove(&selector.start);
                }
            }
        } else if let Some(sas) = self.sites.get_mut(&(selector.start, selector.end)) {
            sas.retain(|other| *other != spi);
            if sas.is_empty() {
                self.sites.remove(&(selector.start, selector.end));
            }
        }
    }
}

impl Family {
    fn rules(&self, device: u32) -> Vec<Change> {
        let shown = || {
            vec![
                Expression::Meta(libc::NFT_META_IIF as u32),
                Expression::Is(device.to_ne_bytes().to_vec()),
                Expression::Meta(libc::NFT_META_PKTTYPE as u32),
                Expression::Is(vec![PACKET_MULTICAST]),
                Expression::Meta(libc::NFT_META_NFPROTO as u32),
                Expression::Is(vec![self.protocol as u8]),
            ]
        };
        let destination = || Expression::Network { at: self.destination_at, len: self.len };
        let rule = |more: Vec<Expression>| Change::Rule {
            chain: CHAIN,
            expressions: shown().into_iter().chain(more).collect(),
        };
        let (protocol, kind) = self.echo;
        let echo = || {
            vec![
                Expression::DestinationType,
                Expression::Is(u32::from(libc::RTN_LOCAL).to_ne_bytes().to_vec()),
                Expression::Meta(libc::NFT_META_L4PROTO as u32),
                Expression::Is(vec![protocol as u8]),
                Expression::Transport { at: 0, len: 1 },
                Expression::Is(vec![kind]),
            ]
        };
        let segment_0 = vec![Expression::Load(number_of(Segment(0))), Expression::In(OWNED)];
        let ours = |map| {
            let meant_for_us = Expression::SetPacketType(PACKET_HOST);
            vec![destination(), Expression::Map(map), Expression::In(OWNED), meant_for_us, Expression::Accept]
        };
        vec![
            rule([echo(), segment_0, vec![Expression::Accept]].concat()),
            rule([echo(), vec![Expression::Drop]].concat()),
            rule(ours(self.hosts)),
            // Somebody else's address inside of a network of ours.
            rule(vec![destination(), Expression::In(self.hosts), Expression::Drop]),
            rule(ours(self.sites)),
        ]
    }
}

fn is_host(selector: &Selector) -> bool {
    selector.start == selector.end
}

fn segment_of(sas: Option<&Vec<Spi>>) -> Option<Segment> {
    sas?.last().map(|spi| spi.segment())
}

fn number_of(segment: Segment) -> Vec<u8> {
    u32::from(segment.0).to_ne_bytes().to_vec()
}

fn to_segment(key: Vec<u8>, segment: Segment) -> Element {
    Element { key, number: Some(segment.0.into()), is_end: false }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

type Site<'a> = (&'a (IpAddr, IpAddr), &'a Vec<Spi>);

/// Networks of one family as intervals that do not overlap, as the kernel wants them: of two the narrower counts.
fn intervals<'a>(sites: impl Iterator<Item = Site<'a>>) -> Vec<Element> {
    let mut v6 = false;
    let sites: Vec<(u128, u128, Segment)> = sites
        .filter_map(|(&(start, end), sas)| {
            v6 = start.is_ipv6();
            Some((number(start), number(end), segment_of(Some(sas))?))
        })
        .collect();
    let last = if v6 { u128::MAX } else { u128::from(u32::MAX) };
    let key = |at: u128| if v6 { at.to_be_bytes().to_vec() } else { (at as u32).to_be_bytes().to_vec() };
    // Where something begins or is over.
    let mut bounds: BTreeMap<u128, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (index, &(start, end, _)) in sites.iter().enumerate() {
        bounds.entry(start).or_default().0.push(index);
        if end < last {
            bounds.entry(end + 1).or_default().1.push(index);
        }
    }
    let mut open: BTreeSet<(u128, usize)> = BTreeSet::new();
    let (mut elements, mut current) = (Vec::new(), None);
    for (at, (begin, over)) in bounds {
        let width = |index: usize| (sites[index].1 - sites[index].0, index);
        for index in over {
            open.remove(&width(index));
        }
        open.extend(begin.into_iter().map(width));
        let now = open.first().map(|&(_, index)| sites[index].2);
        if now != current {
            elements.extend(current.map(|_| Element { key: key(at), number: None, is_end: true }));
            elements.extend(now.map(|segment| to_segment(key(at), segment)));
            current = now;
        }
    }
    elements
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sites(ranges: &[(u32, u32)]) -> BTreeMap<(IpAddr, IpAddr), Vec<Spi>> {
        let spi = |at: usize| Spi((at as u64 + 1) << 56);
        let ip = |at: u32| IpAddr::V4(at.into());
        ranges.iter().enumerate().map(|(at, &(start, end))| ((ip(start), ip(end)), vec![spi(at)])).collect()
    }

    /// What the kernel makes of the elements.
    fn looked_up(elements: &[Element], address: u32) -> Option<u32> {
        let below = elements.iter().take_while(|element| element.key[..] <= address.to_be_bytes()[..]);
        below.last().filter(|element| !element.is_end).and_then(|element| element.number)
    }

    #[test]
    fn networks_inside_of_networks() {
        let sites = sites(&[(0, u32::MAX), (10, 20), (15, 17), (21, 30)]);
        let elements = intervals(sites.iter());
        for (address, segment) in [
            (0, 1),
            (9, 1),
            (10, 2),
            (14, 2),
            (15, 3),
            (17, 3),
            (18, 2),
            (20, 2),
            (21, 4),
            (31, 1),
            (u32::MAX, 1),
        ] {
            assert_eq!(looked_up(&elements, address), Some(segment), "{address}");
        }
        assert!(intervals(std::iter::empty()).is_empty());
    }

    proptest! {
        #[test]
        fn the_narrowest_counts_everywhere(
            ranges in prop::collection::vec((0u32..60, 0u32..20), 0..8),
            address in 0u32..90,
        ) {
            let ranges: BTreeSet<(u32, u32)> = ranges.into_iter().map(|(start, len)| (start, start + len)).collect();
            let ranges: Vec<_> = ranges.into_iter().collect();
            let expected = ranges
                .iter()
                .enumerate()
                .filter(|(_, (start, end))| (*start..=*end).contains(&address))
                .min_by_key(|(at, (start, end))| (end - start, *at))
                .map(|(at, _)| at as u32 + 1);
            prop_assert_eq!(looked_up(&intervals(sites(&ranges).iter()), address), expected);
        }
    }
}
