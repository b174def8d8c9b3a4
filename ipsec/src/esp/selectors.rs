//! Does a packet belong to an SA (RFC 4301, 4.4.1 and 5.2)? The traffic selectors of a child, made quick to compare.
//!
//! A packet fits when one selector of each side fits it: its address, the protocol, and the port of that side.
//! Ports that a fragment hides fit "any" and "opaque" only; a port range would have to guess (RFC 4301, 7).

use std::net::IpAddr;

use super::DropReason;
use super::flow::{Flow, Ports};
use crate::policy::Selector;

/// The selectors of one child SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selectors {
    local: Box<[Rule]>,
    remote: Box<[Rule]>,
}

/// One selector: addresses of both families as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    start: u128,
    end: u128,
    ipv4: bool,
    protocol: u8,
    ports: PortRule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PortRule {
    Any,
    Opaque,
    Range(u16, u16),
}

/// How a packet and a rule meet, from worst to best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    No,
    /// All but the ports, which the packet hides.
    Hidden,
    Yes,
}

impl Selectors {
    pub fn new(local: &[Selector], remote: &[Selector]) -> Selectors {
        let rules = |selectors: &[Selector]| selectors.iter().map(Rule::new).collect();
        Selectors { local: rules(local), remote: rules(remote) }
    }

    /// A decapsulated packet: its source must be the peer's side, its destination ours.
    //= ES-15
    //= IK-90
    pub fn admit_inbound(&self, flow: &Flow) -> Result<(), DropReason> {
        let (source, destination) = ports(flow);
        let fit = fit(&self.remote, flow, flow.source, source).min(fit(
            &self.local,
            flow,
            flow.destination,
            destination,
        ));
        fit.into_result()
    }

    /// An inner packet on its way out: its source must be our side.
    //= ES-16
    pub fn admit_outbound(&self, flow: &Flow) -> Result<(), DropReason> {
        let (source, destination) = ports(flow);
        let fit = fit(&self.local, flow, flow.source, source).min(fit(
            &self.remote,
            flow,
            flow.destination,
            destination,
        ));
        fit.into_result()
    }
}

impl Rule {
    fn new(selector: &Selector) -> Rule {
        let ports = if selector.any_port() {
            PortRule::Any
        } else if selector.is_opaque() {
            PortRule::Opaque
        } else {
            PortRule::Range(selector.start_port, selector.end_port)
        };
        Rule {
            start: number(selector.start),
            end: number(selector.end),
            ipv4: selector.start.is_ipv4(),
            protocol: selector.protocol,
            ports,
        }
    }

    fn fit(&self, protocol: u8, ipv4: bool, address: u128, port: Port) -> Fit {
        let inside = self.ipv4 == ipv4 && self.start <= address && address <= self.end;
        if !inside || (self.protocol != 0 && self.protocol != protocol) {
            return Fit::No;
        }
        match (self.ports, port) {
            (PortRule::Any, _) | (PortRule::Opaque, Port::Hidden) => Fit::Yes,
            (PortRule::Range(start, end), Port::Shown(port)) if start <= port && port <= end => Fit::Yes,
            (PortRule::Range(..), Port::Hidden) => Fit::Hidden,
            _ => Fit::No,
        }
    }
}

#[derive(Clone, Copy)]
enum Port {
    Shown(u16),
    None,
    Hidden,
}

fn ports(flow: &Flow) -> (Port, Port) {
    match flow.ports {
        Ports::Shown { source, destination } => (Port::Shown(source), Port::Shown(destination)),
        Ports::None => (Port::None, Port::None),
        Ports::Hidden => (Port::Hidden, Port::Hidden),
    }
}

fn fit(rules: &[Rule], flow: &Flow, address: IpAddr, port: Port) -> Fit {
    let (ipv4, address) = (address.is_ipv4(), number(address));
    let mut best = Fit::No;
    for rule in rules {
        best = best.max(rule.fit(flow.protocol, ipv4, address, port));
        if best == Fit::Yes {
            break;
        }
    }
    best
}

impl Fit {
    //= ES-22
    fn into_result(self) -> Result<(), DropReason> {
        match self {
            Fit::Yes => Ok(()),
            Fit::Hidden => Err(DropReason::Fragment),
            Fit::No => Err(DropReason::Selectors),
        }
    }
}

/// An address as a number within its family.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Network;

    fn net(text: &str) -> Selector {
        let (address, prefix) = text.split_once('/').unwrap();
        Selector::network(Network { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() })
    }

    fn flow(source: &str, destination: &str, protocol: u8, ports: Ports) -> Flow {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Flow { source, destination, protocol, ports, tos: 0, dont_fragment: false, is_fragment: false }
    }

    const HTTP: Ports = Ports::Shown { source: 1025, destination: 80 };
    const REPLY: Ports = Ports::Shown { source: 80, destination: 1025 };

    //= test ES-15
    //= test ES-16
    //= test ES-22
    //= test IK-90
    #[test]
    fn packets_by_table() {
        let whole = Selectors::new(
            &[net("10.1.0.0/16"), net("2001:db8:1::/48")],
            &[net("10.9.0.7/32"), net("2001:db8:9::7/128")],
        );
        let web = Selectors::new(
            &[Selector { protocol: 6, start_port: 80, end_port: 81, ..net("10.1.0.0/16") }],
            &[Selector { protocol: 6, ..net("10.9.0.7/32") }],
        );
        let opaque = Selectors::new(
            &[Selector { protocol: 17, start_port: u16::MAX, end_port: 0, ..net("10.1.0.0/16") }],
            &[net("10.9.0.7/32")],
        );
        let echo = Selectors::new(
            &[Selector { protocol: 1, start_port: 0x0800, end_port: 0x08ff, ..net("10.1.0.0/16") }],
            &[Selector { protocol: 1, ..net("10.9.0.7/32") }],
        );
        let selectors = Err(DropReason::Selectors);
        let fragment = Err(DropReason::Fragment);
        let echo_request = Ports::Shown { source: 0x0800, destination: 0x0800 };
        let echo_reply = Ports::Shown { source: 0, destination: 0 };
        for (sa, source, destination, protocol, ports, verdict, why) in [
            (&whole, "10.9.0.7", "10.1.2.3", 6, HTTP, Ok(()), "fits"),
            (&whole, "10.9.0.8", "10.1.2.3", 6, HTTP, selectors, "another client's address"),
            (&whole, "10.9.0.7", "10.2.2.3", 6, HTTP, selectors, "not our network"),
            (&whole, "10.1.2.3", "10.9.0.7", 6, HTTP, selectors, "the wrong direction"),
            (&whole, "2001:db8:9::7", "2001:db8:1::1", 6, HTTP, Ok(()), "the other family"),
            (
                &whole,
                "::ffff:10.9.0.7",
                "::ffff:10.1.2.3",
                6,
                HTTP,
                selectors,
                "mapped addresses are not IPv4",
            ),
            (&whole, "10.9.0.7", "10.1.2.3", 17, Ports::Hidden, Ok(()), "any port takes fragments"),
            (&whole, "10.9.0.7", "10.1.2.3", 50, Ports::None, Ok(()), "no ports"),
            (&web, "10.9.0.7", "10.1.2.3", 6, HTTP, Ok(()), "first port"),
            (
                &web,
                "10.9.0.7",
                "10.1.2.3",
                6,
                Ports::Shown { source: 1, destination: 82 },
                selectors,
                "past the last",
            ),
            (&web, "10.9.0.7", "10.1.2.3", 17, HTTP, selectors, "another protocol"),
            (&web, "10.9.0.7", "10.1.2.3", 6, Ports::Hidden, fragment, "a fragment"),
            (&web, "10.9.0.7", "10.2.2.3", 6, Ports::Hidden, selectors, "a fragment for elsewhere"),
            (&opaque, "10.9.0.7", "10.1.2.3", 17, Ports::Hidden, Ok(()), "opaque takes hidden ports"),
            (&opaque, "10.9.0.7", "10.1.2.3", 17, HTTP, selectors, "and no others"),
            (&echo, "10.9.0.7", "10.1.2.3", 1, echo_request, Ok(()), "a type"),
            (&echo, "10.9.0.7", "10.1.2.3", 1, echo_reply, selectors, "another type"),
        ] {
            let packet = flow(source, destination, protocol, ports);
            assert_eq!(sa.admit_inbound(&packet), verdict, "{why}");
        }
        let reply = flow("10.1.2.3", "10.9.0.7", 6, REPLY);
        assert_eq!(web.admit_outbound(&reply), Ok(()));
        assert_eq!(web.admit_outbound(&flow("10.1.2.3", "10.9.0.7", 6, HTTP)), selectors);
        assert_eq!(web.admit_inbound(&reply), selectors);
    }
}
