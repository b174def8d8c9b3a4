//! Which SAs may carry packets for an inner destination: longest prefix first.
//!
//! A map per prefix length that occurs, tried from the longest to the shortest. Leased addresses are all /32 or /128,
//! so remote access needs one probe; site-to-site networks add a few. Ranges that are no prefix are split into some.

use std::collections::HashMap;
use std::net::IpAddr;

use super::hash::NumberHasher;
use super::selectors::number;
use crate::policy::Selector;

type Level<T> = HashMap<u128, Vec<T>, NumberHasher>;

/// Prefixes of one family, each with its SAs, newest last.
#[derive(Clone, Debug)]
struct Family<T> {
    /// (prefix length, prefix -> SAs), longest first; no level is empty.
    levels: Vec<(u32, Level<T>)>,
}

/// The remote selectors of many SAs, which `T` names: the place of a child in a table, the SPI of an IKE SA.
#[derive(Clone, Debug)]
pub struct Routes<T> {
    ipv4: Family<T>,
    ipv6: Family<T>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Routes { ipv4: Family { levels: Vec::new() }, ipv6: Family { levels: Vec::new() } }
    }
}

impl<T: Copy + PartialEq> Routes<T> {
    pub fn insert(&mut self, selector: &Selector, sa: T) {
        let (family, width) = self.family(selector.start);
        for (prefix, length) in prefixes(number(selector.start), number(selector.end), width) {
            let sas = family.level(length).entry(prefix).or_default();
            if !sas.contains(&sa) {
                sas.push(sa);
            }
        }
    }

    pub fn remove(&mut self, selector: &Selector, sa: T) {
        let (family, width) = self.family(selector.start);
        for (prefix, length) in prefixes(number(selector.start), number(selector.end), width) {
            let level = family.level(length);
            if let Some(sas) = level.get_mut(&prefix) {
                sas.retain(|other| *other != sa);
                if sas.is_empty() {
                    level.remove(&prefix);
                }
            }
        }
        family.levels.retain(|(_, level)| !level.is_empty());
    }

    /// The candidates for `destination`: each list newest last, the longest prefix first.
    pub fn candidates(&self, destination: IpAddr) -> impl Iterator<Item = &[T]> + '_ {
        let (family, width) = match destination {
            IpAddr::V4(_) => (&self.ipv4, 32),
            IpAddr::V6(_) => (&self.ipv6, 128),
        };
        let address = number(destination);
        family
            .levels
            .iter()
            .filter_map(move |(length, level)| level.get(&cut(address, *length, width)).map(Vec::as_slice))
    }

    pub fn is_empty(&self) -> bool {
        self.ipv4.levels.is_empty() && self.ipv6.levels.is_empty()
    }

    fn family(&mut self, address: IpAddr) -> (&mut Family<T>, u32) {
        match address {
            IpAddr::V4(_) => (&mut self.ipv4, 32),
            IpAddr::V6(_) => (&mut self.ipv6, 128),
        }
    }
}

impl<T> Family<T> {
    fn level(&mut self, length: u32) -> &mut Level<T> {
        let at = match self.levels.binary_search_by(|(other, _)| length.cmp(other)) {
            Ok(at) => at,
            Err(at) => {
                self.levels.insert(at, (length, Level::default()));
                at
            }
        };
        &mut self.levels[at].1
    }
}

/// `address` with all but its first `length` of `width` bits cleared.
fn cut(address: u128, length: u32, width: u32) -> u128 {
    let host = width - length;
    address.checked_shr(host).and_then(|kept| kept.checked_shl(host)).unwrap_or(0)
}

/// The prefixes that together are `start..=end`, at most two of a length.
fn prefixes(start: u128, end: u128, width: u32) -> impl Iterator<Item = (u128, u32)> {
    let mut next = (start <= end).then_some(start);
    std::iter::from_fn(move || {
        let first = next?;
        // As large as the alignment of `first` and the rest of the range allow.
        let mut host = first.trailing_zeros().min(width);
        while last_of(first, host) > end {
            host -= 1;
        }
        let last = last_of(first, host);
        next = if last == end { None } else { Some(last + 1) };
        Some((first, width - host))
    })
}

fn last_of(first: u128, host: u32) -> u128 {
    first | 1u128.checked_shl(host).map_or(u128::MAX, |size| size - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esp::table::ChildIndex;
    use crate::policy::Network;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> Selector {
        let (address, prefix) = text.split_once('/').unwrap();
        Selector::network(Network { address: ip(address), prefix: prefix.parse().unwrap() })
    }

    fn found(routes: &Routes<ChildIndex>, destination: &str) -> Vec<u32> {
        routes.candidates(ip(destination)).flatten().map(|child| child.0).collect()
    }

    #[test]
    fn the_longest_prefix_comes_first() {
        let mut routes = Routes::default();
        for (child, selector) in
            ["0.0.0.0/0", "10.0.0.0/8", "10.9.0.7/32", "10.9.0.7/32", "::/0", "2001:db8::/32"]
                .into_iter()
                .enumerate()
        {
            routes.insert(&net(selector), ChildIndex(child as u32));
        }
        for (destination, children) in [
            ("10.9.0.7", &[2, 3, 1, 0][..]),
            ("10.9.0.8", &[1, 0]),
            ("192.0.2.1", &[0]),
            ("2001:db8::5", &[5, 4]),
            ("2001:db9::5", &[4]),
        ] {
            assert_eq!(found(&routes, destination), children, "{destination}");
        }
        routes.remove(&net("10.9.0.7/32"), ChildIndex(2));
        routes.remove(&net("0.0.0.0/0"), ChildIndex(0));
        assert_eq!(found(&routes, "10.9.0.7"), [3, 1]);
        for (child, selector) in [(1, "10.0.0.0/8"), (3, "10.9.0.7/32"), (4, "::/0"), (5, "2001:db8::/32")] {
            routes.remove(&net(selector), ChildIndex(child));
        }
        assert!(routes.is_empty(), "nothing is left behind");
    }

    #[test]
    fn ranges_become_prefixes() {
        let max = u128::MAX;
        for (start, end, width, expected) in [
            (0, 0xffff_ffff, 32, vec![(0, 0)]),
            (10, 10, 32, vec![(10, 32)]),
            (1, 6, 32, vec![(1, 32), (2, 31), (4, 31), (6, 32)]),
            (0, max, 128, vec![(0, 0)]),
            (max, max, 128, vec![(max, 128)]),
            (7, 6, 32, vec![]),
        ] {
            assert_eq!(prefixes(start, end, width).collect::<Vec<_>>(), expected, "{start}-{end}");
        }
    }

    proptest! {
        #[test]
        fn a_range_selects_what_it_holds(start: u32, size in 0u32..100_000, probe in -10i64..100_010) {
            let end = start.saturating_add(size);
            let mut routes = Routes::default();
            let selector = Selector::addresses(IpAddr::V4(start.into()), IpAddr::V4(end.into()));
            routes.insert(&selector, ChildIndex(1));
            let address = (i64::from(start) + probe).clamp(0, i64::from(u32::MAX)) as u32;
            let hit = routes.candidates(IpAddr::V4(address.into())).next().is_some();
            prop_assert_eq!(hit, start <= address && address <= end);
            routes.remove(&selector, ChildIndex(1));
            prop_assert!(routes.is_empty());
        }
    }
}
