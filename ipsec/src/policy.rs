//! What the administrator wants: connections, pools and secrets, as the IKE engine reads them.
//!
//! The node builds a `Gateway` from the replicated configuration; nothing here is changed by a peer.

use std::net::IpAddr;

use crypto::Secret;
use crypto::cipher::Protection;
use crypto::kex::Group;
use crypto::prf::Prf;

/// The whole gateway configuration of one revision.
#[derive(Clone, Debug, Default)]
pub struct Gateway {
    pub revision: u64,
    /// In the order of the file: the first that fits a peer is taken.
    pub connections: Vec<Connection>,
    pub pools: Vec<Pool>,
    pub secrets: Vec<SharedSecret>,
}

/// One `[connections.NAME]`.
#[derive(Clone, Debug)]
pub struct Connection {
    pub name: String,
    pub local_id: Identity,
    pub local_auth: Auth,
    /// Where we initiate to; also restricts where the peer may come from.
    pub remote_address: Option<IpAddr>,
    pub remote_id: IdPattern,
    pub remote_auth: Auth,
    /// Acceptable IKE suites, best first; each a full product (a proposal of the peer may mix).
    pub ike: Vec<IkeProposal>,
    pub pool: Option<String>,
    pub unique: Unique,
    /// Silence after which liveness is asked for; 0 never.
    pub dpd_ms: u64,
    /// When the IKE SA is rekeyed by us; 0 never.
    pub rekey_ms: u64,
    pub children: Vec<Child>,
}

/// One `[connections.NAME.children.NAME]`.
#[derive(Clone, Debug)]
pub struct Child {
    pub name: String,
    pub local_ts: Vec<Selector>,
    /// Empty: what the pool leased to the peer ("dynamic").
    pub remote_ts: Vec<Selector>,
    pub esp: Vec<EspProposal>,
    pub rekey_after_ms: u64,
    pub rekey_bytes: u64,
    pub strict_replay: bool,
}

/// Addresses handed to clients, and what is told along with them.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: String,
    pub addresses: Vec<Network>,
    pub dns: Vec<IpAddr>,
}

/// A prefix: `address` has no bit set past `prefix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    pub address: IpAddr,
    pub prefix: u8,
}

/// One `[secrets.NAME]` with a `psk`.
#[derive(Clone, Debug)]
pub struct SharedSecret {
    pub name: String,
    pub ids: Vec<IdPattern>,
    pub psk: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    Psk,
}

/// What becomes of an older IKE SA of the same peer identity and connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unique {
    Replace,
    Keep,
    Never,
}

/// An identity as IKE carries it (RFC 7296, 3.5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub kind: IdKind,
    pub data: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum IdKind {
    Ipv4 = 1,
    Fqdn = 2,
    Rfc822 = 3,
    Ipv6 = 5,
    Dn = 9,
    KeyId = 11,
}

/// An identity, or a glob over the text of identities: `*` stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdPattern(pub String);

/// What protects an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeProposal {
    pub protection: Protection,
    pub prf: Prf,
    pub group: Group,
}

/// What protects a child SA. `group`: perfect forward secrecy at rekeys, taken when the peer offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspProposal {
    pub protection: Protection,
    pub group: Option<Group>,
    pub esn: Option<bool>,
}

/// A traffic selector: a range of addresses and of ports of one protocol (RFC 7296, 3.13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// IP protocol number; 0 is any.
    pub protocol: u8,
    /// Ports in host order; 0 to 65535 is any, 65535 to 0 is "opaque". ICMP type and code stand here too.
    pub start_port: u16,
    pub end_port: u16,
    /// Both of one family, `start <= end`.
    pub start: IpAddr,
    pub end: IpAddr,
}

impl Gateway {
    pub fn connection(&self, name: &str) -> Option<&Connection> {
        self.connections.iter().find(|connection| connection.name == name)
    }

    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The pre-shared key for a peer identity: an exact entry wins over a glob, then the order of the file counts.
    pub fn psk(&self, peer: &Identity) -> Option<&Secret> {
        let matching = |exact: bool| {
            self.secrets
                .iter()
                .find(|secret| secret.ids.iter().any(|id| id.is_exact() == exact && id.matches(peer)))
        };
        matching(true).or_else(|| matching(false)).map(|secret| &secret.psk)
    }
}

impl Identity {
    /// Reads an identity as people write it: an address, `user@host`, or a name. A leading `@` makes it a name
    /// even where it looks like something else, as in strongSwan's configuration.
    pub fn parse(text: &str) -> Identity {
        if let Some(name) = text.strip_prefix('@') {
            return Identity { kind: IdKind::Fqdn, data: name.as_bytes().to_vec() };
        }
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => Identity { kind: IdKind::Ipv4, data: ip.octets().to_vec() },
            Ok(IpAddr::V6(ip)) => Identity { kind: IdKind::Ipv6, data: ip.octets().to_vec() },
            Err(_) if text.contains('@') => Identity { kind: IdKind::Rfc822, data: text.as_bytes().to_vec() },
            Err(_) => Identity { kind: IdKind::Fqdn, data: text.as_bytes().to_vec() },
        }
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let data = self.data.as_slice();
        match self.kind {
            IdKind::Ipv4 if data.len() == 4 => {
                write!(f, "{}.{}.{}.{}", data[0], data[1], data[2], data[3])
            }
            IdKind::Ipv6 if data.len() == 16 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(data);
                write!(f, "{}", IpAddr::from(octets))
            }
            IdKind::Fqdn | IdKind::Rfc822 | IdKind::KeyId if data.iter().all(|c| c.is_ascii_graphic()) => {
                f.write_str(&String::from_utf8_lossy(data))
            }
            _ => {
                f.write_str("#")?;
                data.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }
    }
}

impl IdPattern {
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// True when the text of `id` fits. Names compare without regard to case (RFC 4945, 3.1).
    pub fn matches(&self, id: &Identity) -> bool {
        let text = id.to_string().to_ascii_lowercase();
        let pattern = self.0.strip_prefix('@').unwrap_or(&self.0).to_ascii_lowercase();
        glob(pattern.as_bytes(), text.as_bytes())
    }
}

/// Iterative glob with one backtrack point: linear memory, at most quadratic time in short texts.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            p = star_p + 1;
            t = star_t + 1;
            star = Some((star_p, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

impl Network {
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(ip) & mask == u32::from(net)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(ip) & mask == u128::from(net)
            }
            _ => false,
        }
    }

    pub fn first(&self) -> IpAddr {
        self.address
    }

    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(net) => {
                let host = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4((u32::from(net) | host).into())
            }
            IpAddr::V6(net) => {
                let host = u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6((u128::from(net) | host).into())
            }
        }
    }
}

impl Selector {
    /// All protocols and ports of a range of addresses.
    pub fn addresses(start: IpAddr, end: IpAddr) -> Selector {
        Selector { protocol: 0, start_port: 0, end_port: u16::MAX, start, end }
    }

    pub fn host(ip: IpAddr) -> Selector {
        Selector::addresses(ip, ip)
    }

    pub fn network(network: Network) -> Selector {
        Selector::addresses(network.first(), network.last())
    }

    pub fn any_port(&self) -> bool {
        self.start_port == 0 && self.end_port == u16::MAX
    }

    /// What both select; `None` when that is nothing. Opaque ports meet only themselves and "any".
    pub fn intersect(&self, other: &Selector) -> Option<Selector> {
        if self.start.is_ipv4() != other.start.is_ipv4() {
            return None;
        }
        let protocol = match (self.protocol, other.protocol) {
            (0, protocol) | (protocol, 0) => protocol,
            (ours, theirs) if ours == theirs => ours,
            _ => return None,
        };
        let (start_port, end_port) = if self.any_port() {
            (other.start_port, other.end_port)
        } else if other.any_port() {
            (self.start_port, self.end_port)
        } else if self.is_opaque() || other.is_opaque() {
            if self.is_opaque() != other.is_opaque() {
                return None;
            }
            (u16::MAX, 0)
        } else {
            let (start, end) = (self.start_port.max(other.start_port), self.end_port.min(other.end_port));
            if start > end {
                return None;
            }
            (start, end)
        };
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start <= end).then_some(Selector { protocol, start_port, end_port, start, end })
    }

    /// True when everything that `other` selects is selected by this one too.
    pub fn covers(&self, other: &Selector) -> bool {
        self.intersect(other) == Some(*other)
    }

    pub fn is_opaque(&self) -> bool {
        self.start_port == u16::MAX && self.end_port == 0
    }
}

impl std::fmt::Display for Selector {
    /// A prefix where the range is one, else the range; `[protocol/port]` behind it where they are restricted.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match prefix_of(self.start, self.end) {
            Some(prefix) => write!(f, "{}/{prefix}", self.start)?,
            None => write!(f, "{}-{}", self.start, self.end)?,
        }
        match (self.protocol, self.any_port()) {
            (0, true) => Ok(()),
            (protocol, true) => write!(f, "[{protocol}]"),
            (protocol, false) if self.is_opaque() => write!(f, "[{protocol}/opaque]"),
            (protocol, false) if self.start_port == self.end_port => {
                write!(f, "[{protocol}/{}]", self.start_port)
            }
            (protocol, false) => write!(f, "[{protocol}/{}-{}]", self.start_port, self.end_port),
        }
    }
}

fn prefix_of(start: IpAddr, end: IpAddr) -> Option<u8> {
    let (width, differing) = match (start, end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => (32, u128::from(u32::from(start) ^ u32::from(end))),
        (IpAddr::V6(start), IpAddr::V6(end)) => (128, u128::from(start) ^ u128::from(end)),
        _ => return None,
    };
    let prefix = width - (128 - differing.leading_zeros() as u8).min(width);
    let network = Network { address: start, prefix };
    let aligned = match start {
        IpAddr::V4(ip) => u32::from(ip).checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
        IpAddr::V6(ip) => u128::from(ip).checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
    };
    (aligned && network.last() == end).then_some(prefix)
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl std::fmt::Display for IdPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, fits) in [
            ("*", "anything", true),
            ("*.example.org", "gw.example.org", true),
            ("*.example.org", "example.org", false),
            ("GW.example.org", "gw.Example.org", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("", "", true),
        ] {
            let id = Identity { kind: IdKind::Fqdn, data: text.as_bytes().to_vec() };
            assert_eq!(IdPattern(pattern.into()).matches(&id), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn selectors_meet() {
        let net = |text: &str| {
            let (address, prefix) = text.split_once('/').unwrap();
            Selector::network(Network { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() })
        };
        assert_eq!(net("10.0.0.0/8").intersect(&net("10.1.0.0/16")), Some(net("10.1.0.0/16")));
        assert_eq!(net("10.0.0.0/8").intersect(&net("11.0.0.0/8")), None);
        assert_eq!(net("0.0.0.0/0").intersect(&net("::/0")), None);
        assert!(net("::/0").covers(&net("2001:db8::/32")));
        assert_eq!(net("10.0.0.0/8").to_string(), "10.0.0.0/8");
        assert_eq!(net("::/0").to_string(), "::/0");
        let range = Selector::addresses("10.0.0.1".parse().unwrap(), "10.0.0.6".parse().unwrap());
        assert_eq!(range.to_string(), "10.0.0.1-10.0.0.6");
        let tcp = Selector { protocol: 6, start_port: 80, end_port: 80, ..net("10.0.0.0/8") };
        assert_eq!(net("10.0.0.0/8").intersect(&tcp), Some(tcp));
        assert_eq!(tcp.to_string(), "10.0.0.0/8[6/80]");
    }
}
