//! Configuration, CP (RFC 7296, 3.15): how a client asks for and gets an inner address.
//!
//! ```text
//!   type (1) | reserved (3) | attributes: kind (2, top bit reserved) | length (2) | value
//! ```
//!
//! An empty value asks for "any"; `None` stands for it. A value that is not empty must have its kind's length.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::error::Malformed;
use super::reader::Reader;
use super::registry::{ConfigAttributeType as Kind, ConfigType};
use crate::limits::CONFIG_ATTRIBUTES_MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub kind: ConfigType,
    pub attributes: Vec<ConfigAttribute>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigAttribute {
    Ip4Address(Option<Ipv4Addr>),
    Ip4Netmask(Option<Ipv4Addr>),
    Ip4Dns(Option<Ipv4Addr>),
    Ip4Nbns(Option<Ipv4Addr>),
    Ip4Dhcp(Option<Ipv4Addr>),
    ApplicationVersion(Vec<u8>),
    /// With the length of the prefix.
    Ip6Address(Option<(Ipv6Addr, u8)>),
    Ip6Dns(Option<Ipv6Addr>),
    /// Address and mask.
    Ip4Subnet(Option<(Ipv4Addr, Ipv4Addr)>),
    SupportedAttributes(Vec<Kind>),
    Ip6Subnet(Option<(Ipv6Addr, u8)>),
    /// Of a kind that we do not know.
    Other {
        kind: Kind,
        value: Vec<u8>,
    },
}

impl Config {
    pub fn new(kind: ConfigType, attributes: Vec<ConfigAttribute>) -> Config {
        Config { kind, attributes }
    }

    //= IK-59
    pub fn parse(body: &[u8]) -> Result<Config, Malformed> {
        let mut reader = Reader::new(body);
        let kind = ConfigType(reader.u8()?);
        reader.take(3)?;
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            if attributes.len() == CONFIG_ATTRIBUTES_MAX {
                return Err(Malformed("too many attributes"));
            }
            let kind = Kind(reader.u16()? & 0x7fff);
            let length = usize::from(reader.u16()?);
            attributes.push(ConfigAttribute::parse(kind, reader.take(length)?)?);
        }
        Ok(Config { kind, attributes })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend([self.kind.0, 0, 0, 0]);
        for attribute in &self.attributes {
            let value = attribute.value();
            let length = u16::try_from(value.len()).expect("values are far below 64 KiB");
            out.extend(attribute.kind().0.to_be_bytes());
            out.extend(length.to_be_bytes());
            out.extend(value);
        }
    }
}

impl ConfigAttribute {
    pub fn kind(&self) -> Kind {
        match self {
            ConfigAttribute::Ip4Address(_) => Kind::INTERNAL_IP4_ADDRESS,
            ConfigAttribute::Ip4Netmask(_) => Kind::INTERNAL_IP4_NETMASK,
            ConfigAttribute::Ip4Dns(_) => Kind::INTERNAL_IP4_DNS,
            ConfigAttribute::Ip4Nbns(_) => Kind::INTERNAL_IP4_NBNS,
            ConfigAttribute::Ip4Dhcp(_) => Kind::INTERNAL_IP4_DHCP,
            ConfigAttribute::ApplicationVersion(_) => Kind::APPLICATION_VERSION,
            ConfigAttribute::Ip6Address(_) => Kind::INTERNAL_IP6_ADDRESS,
            ConfigAttribute::Ip6Dns(_) => Kind::INTERNAL_IP6_DNS,
            ConfigAttribute::Ip4Subnet(_) => Kind::INTERNAL_IP4_SUBNET,
            ConfigAttribute::SupportedAttributes(_) => Kind::SUPPORTED_ATTRIBUTES,
            ConfigAttribute::Ip6Subnet(_) => Kind::INTERNAL_IP6_SUBNET,
            ConfigAttribute::Other { kind, .. } => *kind,
        }
    }

    //= IK-60
    fn parse(kind: Kind, value: &[u8]) -> Result<ConfigAttribute, Malformed> {
        Ok(match kind {
            Kind::INTERNAL_IP4_ADDRESS => ConfigAttribute::Ip4Address(ip4(value)?),
            Kind::INTERNAL_IP4_NETMASK => ConfigAttribute::Ip4Netmask(ip4(value)?),
            Kind::INTERNAL_IP4_DNS => ConfigAttribute::Ip4Dns(ip4(value)?),
            Kind::INTERNAL_IP4_NBNS => ConfigAttribute::Ip4Nbns(ip4(value)?),
            Kind::INTERNAL_IP4_DHCP => ConfigAttribute::Ip4Dhcp(ip4(value)?),
            Kind::APPLICATION_VERSION => ConfigAttribute::ApplicationVersion(value.to_vec()),
            Kind::INTERNAL_IP6_ADDRESS => ConfigAttribute::Ip6Address(ip6_prefix(value)?),
            Kind::INTERNAL_IP6_DNS => ConfigAttribute::Ip6Dns(ip6(value)?),
            Kind::INTERNAL_IP4_SUBNET => ConfigAttribute::Ip4Subnet(ip4_subnet(value)?),
            Kind::SUPPORTED_ATTRIBUTES => ConfigAttribute::SupportedAttributes(kinds(value)?),
            Kind::INTERNAL_IP6_SUBNET => ConfigAttribute::Ip6Subnet(ip6_prefix(value)?),
            _ => ConfigAttribute::Other { kind, value: value.to_vec() },
        })
    }

    fn value(&self) -> Vec<u8> {
        match self {
            ConfigAttribute::Ip4Address(ip)
            | ConfigAttribute::Ip4Netmask(ip)
            | ConfigAttribute::Ip4Dns(ip)
            | ConfigAttribute::Ip4Nbns(ip)
            | ConfigAttribute::Ip4Dhcp(ip) => ip.map_or(vec![], |ip| ip.octets().to_vec()),
            ConfigAttribute::Ip6Dns(ip) => ip.map_or(vec![], |ip| ip.octets().to_vec()),
            ConfigAttribute::Ip6Address(prefix) | ConfigAttribute::Ip6Subnet(prefix) => {
                prefix.map_or(vec![], |(ip, len)| [&ip.octets()[..], &[len]].concat())
            }
            ConfigAttribute::Ip4Subnet(subnet) => {
                subnet.map_or(vec![], |(ip, mask)| [ip.octets(), mask.octets()].concat())
            }
            ConfigAttribute::SupportedAttributes(kinds) => {
                kinds.iter().flat_map(|kind| kind.0.to_be_bytes()).collect()
            }
            ConfigAttribute::ApplicationVersion(value) | ConfigAttribute::Other { value, .. } => {
                value.clone()
            }
        }
    }
}

const WRONG_LENGTH: Malformed = Malformed("attribute of a wrong length");

fn ip4(value: &[u8]) -> Result<Option<Ipv4Addr>, Malformed> {
    fixed::<4>(value).map(|octets| octets.map(Ipv4Addr::from))
}

fn ip6(value: &[u8]) -> Result<Option<Ipv6Addr>, Malformed> {
    fixed::<16>(value).map(|octets| octets.map(Ipv6Addr::from))
}

fn ip4_subnet(value: &[u8]) -> Result<Option<(Ipv4Addr, Ipv4Addr)>, Malformed> {
    Ok(fixed::<8>(value)?.map(|[a, b, c, d, rest @ ..]| (Ipv4Addr::from([a, b, c, d]), Ipv4Addr::from(rest))))
}

/// An address and the length of its prefix: 17 octets.
fn ip6_prefix(value: &[u8]) -> Result<Option<(Ipv6Addr, u8)>, Malformed> {
    let Some(octets) = fixed::<17>(value)? else { return Ok(None) };
    let [address @ .., prefix] = octets;
    if prefix > 128 {
        return Err(Malformed("prefix longer than an address"));
    }
    Ok(Some((Ipv6Addr::from(address), prefix)))
}

fn kinds(value: &[u8]) -> Result<Vec<Kind>, Malformed> {
    let (pairs, rest) = value.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(WRONG_LENGTH);
    }
    Ok(pairs.iter().map(|pair| Kind(u16::from_be_bytes(*pair) & 0x7fff)).collect())
}

fn fixed<const N: usize>(value: &[u8]) -> Result<Option<[u8; N]>, Malformed> {
    if value.is_empty() {
        return Ok(None);
    }
    value.try_into().map(Some).map_err(|_| WRONG_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    //= test IK-59
    //= test IK-60
    #[test]
    fn attributes_and_their_lengths() {
        use ConfigAttribute::*;
        let ip6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        for (attribute, expected) in [
            ("00010000", Some(Ip4Address(None))),
            ("00010004c0000201", Some(Ip4Address(Some([192, 0, 2, 1].into())))),
            ("80010004c0000201", Some(Ip4Address(Some([192, 0, 2, 1].into())))),
            ("00010003c00002", None),
            ("00020004ffffff00", Some(Ip4Netmask(Some([255, 255, 255, 0].into())))),
            ("00030000", Some(Ip4Dns(None))),
            ("00070003312e30", Some(ApplicationVersion(b"1.0".to_vec()))),
            ("0008001120010db800000000000000000000000140", Some(Ip6Address(Some((ip6, 64))))),
            ("0008001120010db8000000000000000000000001ff", None),
            ("0008001020010db8000000000000000000000001", None),
            ("000a001020010db8000000000000000000000001", Some(Ip6Dns(Some(ip6)))),
            (
                "000d00080a000000ff000000",
                Some(Ip4Subnet(Some(([10, 0, 0, 0].into(), [255, 0, 0, 0].into())))),
            ),
            (
                "000e000400010008",
                Some(SupportedAttributes(vec![Kind::INTERNAL_IP4_ADDRESS, Kind::INTERNAL_IP6_ADDRESS])),
            ),
            ("000e0003000100", None),
            // Microsoft's private ones, and the number that older drafts gave to an expiry time.
            ("5ba00000", Some(Other { kind: Kind(23456), value: vec![] })),
            ("0005000400000e10", Some(Other { kind: Kind(5), value: vec![0, 0, 14, 16] })),
            ("00010004c00002", None),
            ("0001", None),
        ] {
            let body = hex::decode(format!("01000000{attribute}")).unwrap();
            let expected = expected.map(|it| Config::new(ConfigType::CFG_REQUEST, vec![it]));
            assert_eq!(Config::parse(&body).ok(), expected, "{attribute}");
        }
    }
}
