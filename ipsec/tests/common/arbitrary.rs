//! Arbitrary messages: whatever a peer could say that is well-formed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipsec::policy::{IdKind, Identity, Selector};
use ipsec::types::{ChildSpi, MessageId, Spi};
use ipsec::wire::*;
use proptest::collection::vec;
use proptest::prelude::*;

pub fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        sa().prop_map(Payload::Sa),
        (any::<u16>(), octets(1..600))
            .prop_map(|(group, data)| Payload::Ke(Ke { group: GroupId(group), data })),
        identity().prop_map(|id| Payload::IdI(Id::new(&id))),
        identity().prop_map(|id| Payload::IdR(Id::new(&id))),
        (any::<u8>(), octets(1..900))
            .prop_map(|(encoding, data)| Payload::Cert(Cert { encoding: CertEncoding(encoding), data })),
        (any::<u8>(), octets(0..100)).prop_map(|(encoding, authorities)| Payload::CertReq(CertReq {
            encoding: CertEncoding(encoding),
            authorities
        })),
        (any::<u8>(), octets(1..600))
            .prop_map(|(method, data)| Payload::Auth(Auth { method: AuthMethod(method), data })),
        octets(16..257).prop_map(|octets| Payload::Nonce(Nonce(octets))),
        notify().prop_map(Payload::Notify),
        delete().prop_map(Payload::Delete),
        octets(0..100).prop_map(|octets| Payload::Vendor(Vendor(octets))),
        vec(selector(), 1..20).prop_map(|selectors| Payload::TsI(Ts { selectors })),
        vec(selector(), 1..20).prop_map(|selectors| Payload::TsR(Ts { selectors })),
        (any::<u8>(), vec(attribute(), 0..12))
            .prop_map(|(kind, attributes)| Payload::Config(Config { kind: ConfigType(kind), attributes })),
        eap().prop_map(Payload::Eap),
    ]
}

/// A chain in which nothing comes twice that must not.
pub fn payloads() -> impl Strategy<Value = Payloads> {
    vec(payload(), 0..10).prop_map(|all| {
        let many = [
            PayloadType::CERT,
            PayloadType::CERTREQ,
            PayloadType::NOTIFY,
            PayloadType::DELETE,
            PayloadType::VENDOR,
        ];
        let mut kept: Vec<Payload> = Vec::new();
        for payload in all {
            if many.contains(&payload.kind()) || kept.iter().all(|earlier| earlier.kind() != payload.kind()) {
                kept.push(payload);
            }
        }
        kept.into_iter().collect()
    })
}

pub fn header() -> impl Strategy<Value = Header> {
    (1..u64::MAX, any::<u64>(), any::<u8>(), any::<bool>(), any::<bool>(), any::<u32>()).prop_map(
        |(spi_i, spi_r, exchange, initiator, response, message_id)| Header {
            spi_i: Spi(spi_i),
            spi_r: Spi(spi_r),
            exchange: ExchangeType(exchange),
            initiator,
            response,
            message_id: MessageId(message_id),
        },
    )
}

pub fn sa() -> impl Strategy<Value = Sa> {
    vec(proposal(), 1..6).prop_map(|mut proposals| {
        for (index, proposal) in proposals.iter_mut().enumerate() {
            proposal.number = index as u8 + 1;
        }
        Sa { proposals }
    })
}

fn proposal() -> impl Strategy<Value = Proposal> {
    let spi = prop_oneof![Just((1, 0)), Just((1, 8)), Just((2, 4)), Just((3, 4)), (4u8..=255, 0usize..=20),];
    (spi, vec(transform(), 0..20)).prop_flat_map(|((protocol, len), transforms)| {
        vec(any::<u8>(), len).prop_map(move |spi| Proposal {
            number: 1,
            protocol: ProtocolId(protocol),
            spi,
            transforms: transforms.clone(),
        })
    })
}

fn transform() -> impl Strategy<Value = Transform> {
    let attribute = prop_oneof![
        any::<u16>().prop_map(Attribute::KeyLength),
        (15u16..0x7fff, any::<u16>()).prop_map(|(kind, value)| Attribute::Short { kind, value }),
        (0u16..0x7fff, octets(0..20)).prop_map(|(kind, value)| Attribute::Long { kind, value }),
    ];
    (any::<u8>(), any::<u16>(), vec(attribute, 0..4)).prop_map(|(kind, id, attributes)| Transform {
        kind: TransformType(kind),
        id,
        attributes,
    })
}

pub fn identity() -> impl Strategy<Value = Identity> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| Identity { kind: IdKind::Ipv4, data: ip.to_vec() }),
        any::<[u8; 16]>().prop_map(|ip| Identity { kind: IdKind::Ipv6, data: ip.to_vec() }),
        octets(1..80).prop_map(|data| Identity { kind: IdKind::Fqdn, data }),
        octets(1..80).prop_map(|data| Identity { kind: IdKind::Rfc822, data }),
        octets(1..300).prop_map(|data| Identity { kind: IdKind::Dn, data }),
        octets(1..80).prop_map(|data| Identity { kind: IdKind::KeyId, data }),
    ]
}

pub fn notify() -> impl Strategy<Value = Notify> {
    (any::<u16>(), any::<u8>(), octets(0..17), octets(0..100)).prop_map(|(kind, protocol, spi, data)| {
        Notify { kind: NotifyType(kind), protocol: ProtocolId(protocol), spi, data }
    })
}

pub fn delete() -> impl Strategy<Value = Delete> {
    let spis = || vec(any::<u32>().prop_map(ChildSpi), 0..40);
    prop_oneof![Just(Delete::Ike), spis().prop_map(Delete::Esp), spis().prop_map(Delete::Ah)]
}

pub fn selector() -> impl Strategy<Value = Selector> {
    let ports = prop_oneof![
        Just((0, u16::MAX)),
        Just((u16::MAX, 0)),
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| (a.min(b), a.max(b))),
    ];
    let addresses = prop_oneof![
        (any::<u32>(), any::<u32>())
            .prop_map(|(a, b)| (IpAddr::V4(a.min(b).into()), IpAddr::V4(a.max(b).into()))),
        (any::<u128>(), any::<u128>())
            .prop_map(|(a, b)| (IpAddr::V6(a.min(b).into()), IpAddr::V6(a.max(b).into()))),
    ];
    (any::<u8>(), ports, addresses).prop_map(|(protocol, (start_port, end_port), (start, end))| Selector {
        protocol,
        start_port,
        end_port,
        start,
        end,
    })
}

fn attribute() -> impl Strategy<Value = ConfigAttribute> {
    let ip4 = || proptest::option::of(any::<u32>().prop_map(Ipv4Addr::from));
    let ip6 = || any::<u128>().prop_map(Ipv6Addr::from);
    let prefix = move || proptest::option::of((ip6(), 0u8..=128));
    prop_oneof![
        ip4().prop_map(ConfigAttribute::Ip4Address),
        ip4().prop_map(ConfigAttribute::Ip4Netmask),
        ip4().prop_map(ConfigAttribute::Ip4Dns),
        ip4().prop_map(ConfigAttribute::Ip4Nbns),
        ip4().prop_map(ConfigAttribute::Ip4Dhcp),
        octets(0..30).prop_map(ConfigAttribute::ApplicationVersion),
        prefix().prop_map(ConfigAttribute::Ip6Address),
        proptest::option::of(ip6()).prop_map(ConfigAttribute::Ip6Dns),
        proptest::option::of((any::<u32>(), any::<u32>()).prop_map(|(ip, mask)| (ip.into(), mask.into())))
            .prop_map(ConfigAttribute::Ip4Subnet),
        vec((0u16..0x7fff).prop_map(ConfigAttributeType), 0..10)
            .prop_map(ConfigAttribute::SupportedAttributes),
        prefix().prop_map(ConfigAttribute::Ip6Subnet),
        (100u16..0x7fff, octets(0..30))
            .prop_map(|(kind, value)| ConfigAttribute::Other { kind: ConfigAttributeType(kind), value }),
    ]
}

fn eap() -> impl Strategy<Value = Eap> {
    prop_oneof![(1u8..=2, any::<u8>(), octets(1..300)), (3u8..=4, any::<u8>(), Just(vec![])),]
        .prop_map(|(code, identifier, data)| Eap { code: EapCode(code), identifier, data })
}

pub fn octets(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), len)
}
