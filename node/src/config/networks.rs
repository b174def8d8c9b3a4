//! Networks, addresses and traffic selectors as people write them.
//!
//! ```text
//!   10.0.0.0/8    2001:db8::/32    192.0.2.7    10.0.0.1-10.0.0.9    10.0.0.0/8[tcp/80]    10.0.0.0/8[udp/500-600]
//! ```

use std::net::IpAddr;

use ipsec::policy::{Network, Selector};

use super::suites::Wrong;

const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("sctp", 132),
];

/// `address/prefix` without bits behind the prefix; an address alone is a network of one.
pub fn network(text: &str) -> Result<Network, Wrong> {
    let (address, prefix) = address_and_prefix(text)?;
    let network = masked(address, prefix);
    if network.address != address {
        return Err((
            format!("{text} has bits set behind its prefix"),
            format!("did you mean {network}?  or {address}/{}", width(address)),
        ));
    }
    Ok(network)
}

/// `address/prefix` of a device: the address itself counts, the prefix describes the link.
pub fn link_address(text: &str) -> Result<(IpAddr, u8), Wrong> {
    if !text.contains('/') {
        return Err((
            format!("{text} has no prefix"),
            format!("say how wide the link is: {text}/{}", if text.contains(':') { 64 } else { 24 }),
        ));
    }
    let (address, prefix) = address_and_prefix(text)?;
    if address.is_unspecified() || address.is_multicast() {
        return Err((
            format!("{text} is no address of a host"),
            "write an address such as 192.0.2.1/24".to_owned(),
        ));
    }
    Ok((address, prefix))
}

pub fn address(text: &str) -> Result<IpAddr, Wrong> {
    text.parse().map_err(|_| (format!("{text:?} is no address"), "write 192.0.2.1 or 2001:db8::1".to_owned()))
}

/// A traffic selector (RFC 7296, 3.13.1).
pub fn selector(text: &str) -> Result<Selector, Wrong> {
    let (addresses, ports) = match text.split_once('[') {
        Some((addresses, rest)) => match rest.strip_suffix(']') {
            Some(ports) => (addresses, Some(ports)),
            None => return Err((format!("{text:?} has no closing bracket"), format!("write {text}]"))),
        },
        None => (text, None),
    };
    let mut selector = match addresses.split_once('-') {
        Some((start, end)) => {
            let (start, end) = (address(start)?, address(end)?);
            if start.is_ipv4() != end.is_ipv4() || start > end {
                return Err((
                    format!("{addresses} is no range of addresses"),
                    "the lower one first, both of one family".to_owned(),
                ));
            }
            Selector::addresses(start, end)
        }
        None => Selector::network(network(addresses)?),
    };
    if let Some(ports) = ports {
        (selector.protocol, selector.start_port, selector.end_port) = protocol_and_ports(ports)?;
    }
    Ok(selector)
}

fn address_and_prefix(text: &str) -> Result<(IpAddr, u8), Wrong> {
    let (address_text, prefix_text) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let Ok(address) = address_text.parse::<IpAddr>() else {
        return Err((format!("{text} is not a network"), "write 10.20.0.0/16 or 2001:db8::/32".to_owned()));
    };
    let width = width(address);
    match prefix_text.map(str::parse::<u8>) {
        None => Ok((address, width)),
        Some(Ok(prefix)) if prefix <= width => Ok((address, prefix)),
        Some(_) => Err((format!("{text} is not a network"), format!("the part after / may be 0 to {width}"))),
    }
}

fn protocol_and_ports(text: &str) -> Result<(u8, u16, u16), Wrong> {
    let (protocol, ports) =
        text.split_once('/').map_or((text, None), |(protocol, ports)| (protocol, Some(ports)));
    let number = match PROTOCOLS.iter().find(|(name, _)| *name == protocol) {
        Some((_, number)) => *number,
        None if matches!(protocol, "any" | "") => 0,
        None => protocol.parse().map_err(|_| {
            (
                format!("{protocol:?} is no protocol"),
                "write tcp, udp, icmp, any, or a number to 255".to_owned(),
            )
        })?,
    };
    let wrong = || (format!("{text:?} has no such ports"), "write [tcp/80] or [udp/500-600]".to_owned());
    let (start, end) = match ports {
        None | Some("any") => (0, u16::MAX),
        Some("opaque") => (u16::MAX, 0),
        Some(ports) => {
            let (start, end) = ports.split_once('-').unwrap_or((ports, ports));
            let (start, end): (u16, u16) =
                (start.parse().map_err(|_| wrong())?, end.parse().map_err(|_| wrong())?);
            if start > end {
                return Err(wrong());
            }
            (start, end)
        }
    };
    if number == 0 && (start, end) != (0, u16::MAX) {
        return Err((
            format!("{text:?} has ports without a protocol"),
            "write [tcp/…] or [udp/…]".to_owned(),
        ));
    }
    Ok((number, start, end))
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The network that an address lies in.
pub fn masked(address: IpAddr, prefix: u8) -> Network {
    let address = match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    };
    Network { address, prefix }
}

/// True when two networks have an address in common.
pub fn overlap(a: &Network, b: &Network) -> bool {
    a.contains(b.address) || b.contains(a.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_as_they_are_shown() {
        for (text, shown) in [
            ("10.10.0.0/24", "10.10.0.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.1-10.0.0.9", "10.0.0.1-10.0.0.9"),
            ("10.0.0.0/8[tcp/80]", "10.0.0.0/8[6/80]"),
            ("10.0.0.0/8[6/80]", "10.0.0.0/8[6/80]"),
            ("10.0.0.0/8[udp/500-600]", "10.0.0.0/8[17/500-600]"),
            ("10.0.0.0/8[icmp]", "10.0.0.0/8[1]"),
            ("10.0.0.0/8[tcp/opaque]", "10.0.0.0/8[6/opaque]"),
        ] {
            assert_eq!(selector(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector() {
        for (text, complaint) in [
            ("10.20.0.0/33", "is not a network"),
            ("2001:db8::/129", "is not a network"),
            ("10.10.0.5/24", "bits set behind"),
            ("10.0.0.0/", "is not a network"),
            ("10.0.0.0/8/8", "is not a network"),
            ("example.org", "is not a network"),
            ("", "is not a network"),
            ("10.0.0.9-10.0.0.1", "no range"),
            ("10.0.0.9-::1", "no range"),
            ("10.0.0.0/8[tcp/80", "closing bracket"),
            ("10.0.0.0/8[tcp/99999]", "no such ports"),
            ("10.0.0.0/8[tcp/9-1]", "no such ports"),
            ("10.0.0.0/8[80]", ""),
            ("10.0.0.0/8[any/80]", "ports without a protocol"),
            ("10.0.0.0/8[carrier-pigeon]", "is no protocol"),
        ] {
            match selector(text) {
                Err((what, _)) => {
                    assert!(what.contains(complaint) && !complaint.is_empty(), "{text}: {what}")
                }
                Ok(selector) => assert!(complaint.is_empty(), "{text} was read as {selector}"),
            }
        }
        assert_eq!(network("10.10.0.5/24").unwrap_err().1, "did you mean 10.10.0.0/24?  or 10.10.0.5/32");
    }

    #[test]
    fn networks_overlap() {
        for (a, b, meet) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", true),
            ("10.1.0.0/16", "10.2.0.0/16", false),
            ("::/0", "0.0.0.0/0", false),
        ] {
            assert_eq!(overlap(&network(a).unwrap(), &network(b).unwrap()), meet, "{a} {b}");
        }
    }
}
