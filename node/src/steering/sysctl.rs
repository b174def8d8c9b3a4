//! Kernel settings that steering depends on. They are read and never written: they belong to the administrator, and
//! what one process sets behind another's back is found by nobody.

use std::fmt;
use std::fs;
use std::net::IpAddr;

use super::{Config, Mode, SteeringError};

/// A setting that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// As sysctl(8) writes it.
    pub key: String,
    pub found: u32,
    /// What happens because of it.
    pub why: &'static str,
    /// A command.
    pub fix: String,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.key, self.found, self.why)
    }
}

/// An error for what cannot work.
pub(super) fn check(config: &Config) -> Result<(), SteeringError> {
    check_forwarding(config, config.inside.addresses.iter().map(|address| address.ip))?;
    check_shared(config, &read).map_or(Ok(()), |advice| Err(SteeringError::Setting(advice)))
}

/// With one Ethernet address for all, a node that gives its own away breaks them all, and a kernel that wants no
/// packets in group frames receives none.
fn check_shared(config: &Config, read: Read<'_>) -> Option<Advice> {
    let sides = [&config.outside, &config.inside];
    let shared = || sides.into_iter().filter(|side| side.mode == Mode::SharedMac);
    let mut deaf = shared().flat_map(|side| ["ipv4", "ipv6"].map(|family| (family, &side.device)));
    let deaf = deaf.find_map(|(family, device)| {
        let key = format!("net.{family}.conf.{}.drop_unicast_in_l2_multicast", escaped(device));
        let found = read(&key).max(read(&format!("net.{family}.conf.all.drop_unicast_in_l2_multicast")));
        found.filter(|found| *found != 0).map(|found| Advice {
            fix: format!("sysctl -w {key}=0"),
            key,
            found,
            why: "frames to the shared Ethernet address are dropped",
        })
    });
    deaf.or_else(|| {
        let gives_away =
            |advice: &Advice| advice.key.ends_with("arp_ignore") || advice.key.ends_with("arp_announce");
        let of_shared = |advice: &Advice| {
            shared().any(|side| advice.key.contains(&format!(".{}.", escaped(&side.device))))
        };
        advise(config, read).into_iter().find(|advice| gives_away(advice) && of_shared(advice))
    })
}

/// What will not work with more than one node.
pub(super) fn advice(config: &Config) -> Vec<Advice> {
    advise(config, &read)
}

/// Packets of the families of these addresses must be forwarded.
pub(super) fn check_forwarding(
    config: &Config,
    addresses: impl Iterator<Item = IpAddr>,
) -> Result<(), SteeringError> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
    match missing_forwarding(config, !v4.is_empty(), !v6.is_empty(), &read) {
        None => Ok(()),
        Some(advice) => Err(SteeringError::NotForwarding(advice)),
    }
}

type Read<'a> = &'a dyn Fn(&str) -> Option<u32>;

/// `None` where the kernel has no such setting: a family that is compiled out needs no forwarding.
fn read(key: &str) -> Option<u32> {
    // Device names may hold dots, which sysctl(8) writes as slashes.
    let path: String = key
        .chars()
        .map(|c| {
            if c == '.' {
                '/'
            } else if c == '/' {
                '.'
            } else {
                c
            }
        })
        .collect();
    fs::read_to_string(format!("/proc/sys/{path}")).ok()?.trim().parse().ok()
}

/// IPv4 forwards per incoming device; IPv6 asks the switch for all of them.
fn missing_forwarding(config: &Config, v4: bool, v6: bool, read: Read<'_>) -> Option<Advice> {
    let mut settings = Vec::new();
    if v4 {
        for device in [&config.inside.device, &config.tun] {
            settings.push((format!("net.ipv4.conf.{}.forwarding", escaped(device)), "net.ipv4.ip_forward"));
        }
    }
    if v6 {
        settings.push(("net.ipv6.conf.all.forwarding".into(), "net.ipv6.conf.all.forwarding"));
    }
    settings.into_iter().find_map(|(key, switch)| {
        (read(&key) == Some(0)).then(|| Advice {
            key,
            found: 0,
            why: "packets between clients and the protected network are not forwarded",
            fix: format!("sysctl -w {switch}=1, and the same in /etc/sysctl.d/"),
        })
    })
}

/// The kernel takes the higher of `all` and the device's for each of these.
fn advise(config: &Config, read: Read<'_>) -> Vec<Advice> {
    let mut devices = vec![&config.outside.device];
    if config.inside.device != config.outside.device {
        devices.push(&config.inside.device);
    }
    let mut advice = Vec::new();
    for device in devices {
        let mut unless = |name: &str, fits: fn(u32) -> bool, want: u32, why| {
            let key = format!("net.ipv4.conf.{}.{name}", escaped(device));
            let effective = read(&key).max(read(&format!("net.ipv4.conf.all.{name}")));
            if let Some(found) = effective.filter(|found| !fits(*found)) {
                advice.push(Advice { fix: format!("sysctl -w {key}={want}"), key, found, why });
            }
        };
        unless(
            "arp_ignore",
            |value| value >= 1,
            1,
            "with several nodes, those that do not hold the service address answer for it too",
        );
        unless(
            "arp_announce",
            |value| value == 2,
            2,
            "with several nodes, those that do not hold the service address claim it when they ask for a neighbour",
        );
        unless(
            "rp_filter",
            |value| value != 1,
            2,
            "with several nodes, relayed packets that come another way than they would go are dropped",
        );
    }
    advice
}

fn escaped(device: &str) -> String {
    device.replace('.', "/")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::steering::Side;

    fn config() -> Config {
        let side = |device: &str| Side { device: device.into(), addresses: Vec::new(), mode: Mode::Announce };
        Config {
            tun: "pontoon0".into(),
            mtu: 1_400,
            between: None,
            outside: side("eth0.5"),
            inside: side("eth1"),
        }
    }

    fn keys(advice: Vec<Advice>) -> Vec<String> {
        advice.into_iter().map(|advice| advice.key).collect()
    }

    #[test]
    fn a_host_of_distribution_defaults_forwards_nothing() {
        let off = |_: &str| Some(0);
        assert_eq!(missing_forwarding(&config(), false, false, &off), None);
        let advice = missing_forwarding(&config(), true, false, &off).unwrap();
        assert_eq!(advice.key, "net.ipv4.conf.eth1.forwarding");
        assert!(advice.fix.contains("net.ipv4.ip_forward=1"));
        let advice = missing_forwarding(&config(), false, true, &off).unwrap();
        assert_eq!(advice.key, "net.ipv6.conf.all.forwarding");
        assert_eq!(missing_forwarding(&config(), true, true, &|_| Some(1)), None);
        assert_eq!(missing_forwarding(&config(), true, true, &|_| None), None, "no such family");
        let only_eth1 = |key: &str| Some(u32::from(key.contains("eth1")));
        let advice = missing_forwarding(&config(), true, false, &only_eth1).unwrap();
        assert_eq!(advice.key, "net.ipv4.conf.pontoon0.forwarding");
    }

    #[test]
    fn a_shared_address_needs_more() {
        let shared = Config { inside: Side { mode: Mode::SharedMac, ..config().inside }, ..config() };
        let host = |settings: &'static [(&str, u32)]| {
            move |key: &str| {
                Some(settings.iter().find(|(known, _)| *known == key).map_or(0, |(_, value)| *value))
            }
        };
        const GOOD: [(&str, u32); 2] =
            [("net.ipv4.conf.eth1.arp_ignore", 1), ("net.ipv4.conf.eth1.arp_announce", 2)];
        assert_eq!(check_shared(&shared, &host(&GOOD)), None);
        let key = |advice: Option<Advice>| advice.unwrap().key;
        assert_eq!(key(check_shared(&shared, &host(&GOOD[..1]))), GOOD[1].0);
        assert_eq!(key(check_shared(&shared, &host(&GOOD[1..]))), GOOD[0].0);
        let deaf = host(&[("net.ipv6.conf.all.drop_unicast_in_l2_multicast", 1)]);
        assert_eq!(key(check_shared(&shared, &deaf)), "net.ipv6.conf.eth1.drop_unicast_in_l2_multicast");
        assert_eq!(check_shared(&config(), &deaf), None, "nothing is shared");
    }

    #[test]
    fn the_higher_of_all_and_the_device_counts() {
        let host = |settings: &[(&str, u32)]| {
            let settings: BTreeMap<String, u32> =
                settings.iter().map(|(key, value)| (format!("net.ipv4.conf.{key}"), *value)).collect();
            keys(advise(&config(), &move |key| Some(settings.get(key).copied().unwrap_or(0))))
        };
        let good = [("all.arp_ignore", 1), ("all.arp_announce", 2)];
        assert_eq!(host(&good), Vec::<String>::new());
        assert_eq!(host(&[good[0], good[1], ("eth1.rp_filter", 1)]), ["net.ipv4.conf.eth1.rp_filter"]);
        assert_eq!(
            host(&[good[0], good[1], ("all.rp_filter", 1), ("eth1.rp_filter", 2)]),
            ["net.ipv4.conf.eth0/5.rp_filter"]
        );
        assert_eq!(
            host(&[("eth1.arp_ignore", 1), ("all.arp_announce", 1), ("eth1.arp_announce", 2)]),
            ["net.ipv4.conf.eth0/5.arp_ignore", "net.ipv4.conf.eth0/5.arp_announce"]
        );
    }
}
