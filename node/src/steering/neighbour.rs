//! "Who has this address?" on Ethernet: frames of ARP (RFC 826, 5227) and of neighbour discovery (RFC 4861), read
//! and written, nothing else.
//!
//! ```text
//!   heard:  asks    an ARP request, a neighbour solicitation          -> answer
//!           claims  a sender that says the address is its own         -> conflict
//!   told:   answer        to the one who asked
//!           announcement  gratuitous ARP, unsolicited advertisement: to all, they change their caches
//!           probe         "does anybody have it?", changes no cache
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::io::offload::Sum;

pub(super) type Mac = [u8; 6];

/// Who speaks: its own Ethernet address, and the one that it says the service address has. They differ where all nodes
/// share one (`shared-mac`): a bridge must not learn a group as the place of one of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Speaker {
    pub(super) own: Mac,
    pub(super) told: Mac,
}

/// The Ethernet address that all nodes answer with for `ip` in `shared-mac`: a group, so that a switch shows its frames
/// to all. Made as groups are (RFC 1112, 6.4; RFC 2464, 7) of an address that is none; one bit is set so that the
/// well-known groups, to which every host listens, are left alone.
pub(super) fn shared_mac(ip: IpAddr) -> Mac {
    match ip {
        IpAddr::V4(ip) => {
            let [_, a, b, c] = ip.octets();
            [0x01, 0x00, 0x5e, 0x40 | a & 0x3f, b, c]
        }
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [0x33, 0x33, 0x40 | a & 0x3f, b, c, d]
        }
    }
}

/// What a frame says, as far as it concerns us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) asks: Option<Question>,
    pub(super) claims: Option<(IpAddr, Mac)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) about: IpAddr,
    /// `None` for a host that probes whether it may take the address.
    pub(super) by: Option<IpAddr>,
    pub(super) by_mac: Mac,
}

const ETHERNET_LEN: usize = 14;
const ARP_LEN: usize = 28;
const IPV6_LEN: usize = 40;
/// ICMPv6 header, flags, target.
const NEIGHBOUR_LEN: usize = 24;
/// Type, length, address: a link-layer address option.
const OPTION_LEN: usize = 8;

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet, IPv4, lengths of both addresses.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Router, solicited, override. The gateway is a router: a host drops a default router that says it is none.
const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

const BROADCAST: Mac = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What the frame says; nothing for a frame that is malformed or of another kind.
pub(super) fn hear(frame: &[u8]) -> Heard {
    let heard = match frame.get(12..ETHERNET_LEN) {
        Some(kind) if kind == ETHERTYPE_ARP => hear_arp(frame),
        Some(kind) if kind == ETHERTYPE_IPV6 => hear_neighbour(frame),
        _ => None,
    };
    heard.unwrap_or_default()
}

/// The answer to a question, by the holder of what it is about.
pub(super) fn answer(speaker: Speaker, question: Question) -> Option<Vec<u8>> {
    match (question.about, question.by) {
        (IpAddr::V4(about), by) => {
            let by = match by {
                Some(IpAddr::V4(by)) => by,
                None => Ipv4Addr::UNSPECIFIED,
                Some(IpAddr::V6(_)) => return None,
            };
            Some(arp(speaker, question.by_mac, ARP_REPLY, about, (question.by_mac, by)))
        }
        (IpAddr::V6(about), Some(IpAddr::V6(by))) => {
            let flags = FLAG_ROUTER | FLAG_SOLICITED | FLAG_OVERRIDE;
            Some(advertisement(speaker, about, question.by_mac, by, flags))
        }
        // Whoever probes has no address yet: all nodes are told (RFC 4861, 7.2.4).
        (IpAddr::V6(about), None) => {
            let flags = FLAG_ROUTER | FLAG_OVERRIDE;
            Some(advertisement(speaker, about, multicast_mac(ALL_NODES), ALL_NODES, flags))
        }
        (IpAddr::V6(_), Some(IpAddr::V4(_))) => None,
    }
}

/// Tells everybody on the link that `ip` is here now (RFC 5227, 2.3; RFC 4861, 7.2.6).
pub(super) fn announcement(speaker: Speaker, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(speaker, BROADCAST, ARP_REQUEST, ip, ([0; 6], ip)),
        IpAddr::V6(ip) => {
            advertisement(speaker, ip, multicast_mac(ALL_NODES), ALL_NODES, FLAG_ROUTER | FLAG_OVERRIDE)
        }
    }
}

/// Asks whether anybody has `ip`, without saying that we want it (RFC 5227, 2.1.1; RFC 4862, 5.4.2).
pub(super) fn probe(mac: Mac, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => {
            let speaker = Speaker { own: mac, told: mac };
            arp(speaker, BROADCAST, ARP_REQUEST, Ipv4Addr::UNSPECIFIED, ([0; 6], ip))
        }
        IpAddr::V6(ip) => {
            let group = solicited_node(ip);
            let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            message.extend_from_slice(&ip.octets());
            icmpv6(mac, multicast_mac(group), Ipv6Addr::UNSPECIFIED, group, message)
        }
    }
}

/// Questions about an IPv6 address come to this Ethernet address.
pub(super) fn question_group(ip: IpAddr) -> Option<Mac> {
    match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(multicast_mac(solicited_node(ip))),
    }
}

fn hear_arp(frame: &[u8]) -> Option<Heard> {
    let arp = frame.get(ETHERNET_LEN..ETHERNET_LEN + ARP_LEN)?;
    if arp[..6] != ARP_HEAD {
        return None;
    }
    let by_mac: Mac = arp[8..14].try_into().ok()?;
    let by = Ipv4Addr::from(<[u8; 4]>::try_from(&arp[14..18]).ok()?);
    let about = Ipv4Addr::from(<[u8; 4]>::try_from(&arp[24..28]).ok()?);
    let operation = &arp[6..8];
    if !is_station(by_mac) || (operation != ARP_REQUEST && operation != ARP_REPLY) {
        return None;
    }
    let known = !by.is_unspecified();
    Some(Heard {
        asks: (operation == ARP_REQUEST && by != about).then_some(Question {
            about: IpAddr::V4(about),
            by: known.then_some(IpAddr::V4(by)),
            by_mac,
        }),
        claims: known.then_some((IpAddr::V4(by), by_mac)),
    })
}

/// With the checks of RFC 4861, 7.1.1 and 7.1.2.
fn hear_neighbour(frame: &[u8]) -> Option<Heard> {
    let ip = frame.get(ETHERNET_LEN..ETHERNET_LEN + IPV6_LEN)?;
    let message_len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let start = ETHERNET_LEN + IPV6_LEN;
    let message = frame.get(start..start + message_len)?;
    let (from, to) = (address(&ip[8..24])?, address(&ip[24..40])?);
    // A hop limit of 255: nobody from another link can have sent it.
    let plausible = ip[0] >> 4 == 6
        && ip[6] == libc::IPPROTO_ICMPV6 as u8
        && ip[7] == 255
        && message.len() >= NEIGHBOUR_LEN
        && message[1] == 0
        && pseudo_header(from, to, message.len()).octets(message).is_right();
    if !plausible {
        return None;
    }
    let about = address(&message[8..24])?;
    let options = link_layer_options(&message[NEIGHBOUR_LEN..])?;
    if about.is_multicast() {
        return None;
    }
    let source_mac: Mac = frame[6..12].try_into().ok()?;
    match message[0] {
        SOLICITATION if from.is_unspecified() => {
            let proper = to == solicited_node(about) && options.source.is_none() && is_station(source_mac);
            proper.then_some(Heard {
                asks: Some(Question { about: IpAddr::V6(about), by: None, by_mac: source_mac }),
                claims: None,
            })
        }
        SOLICITATION => {
            let by_mac = options.source.unwrap_or(source_mac);
            let proper = is_station(by_mac) && !from.is_multicast();
            proper.then_some(Heard {
                asks: Some(Question { about: IpAddr::V6(about), by: Some(IpAddr::V6(from)), by_mac }),
                claims: None,
            })
        }
        ADVERTISEMENT => {
            let solicited_to_all = to.is_multicast() && message[4] & FLAG_SOLICITED != 0;
            let by_mac = options.target.unwrap_or(source_mac);
            let proper = !solicited_to_all && is_station(by_mac);
            proper.then_some(Heard { asks: None, claims: Some((IpAddr::V6(about), by_mac)) })
        }
        _ => None,
    }
}

#[derive(Default)]
struct LinkLayerOptions {
    source: Option<Mac>,
    target: Option<Mac>,
}

/// `None` when an option has no length or runs over the end.
fn link_layer_options(mut rest: &[u8]) -> Option<LinkLayerOptions> {
    let mut options = LinkLayerOptions::default();
    while !rest.is_empty() {
        let len = usize::from(*rest.get(1)?) * OPTION_LEN;
        if len == 0 {
            return None;
        }
        let option = rest.get(..len)?;
        let mac = option.get(2..OPTION_LEN)?.try_into().ok();
        match option[0] {
            SOURCE_LINK_LAYER => options.source = mac,
            TARGET_LINK_LAYER => options.target = mac,
            _ => {}
        }
        rest = &rest[len..];
    }
    Some(options)
}

fn arp(speaker: Speaker, to: Mac, operation: [u8; 2], sender: Ipv4Addr, target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_LEN + ARP_LEN);
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&speaker.own);
    frame.extend_from_slice(&ETHERTYPE_ARP);
    frame.extend_from_slice(&ARP_HEAD);
    frame.extend_from_slice(&operation);
    frame.extend_from_slice(&speaker.told);
    frame.extend_from_slice(&sender.octets());
    frame.extend_from_slice(&target.0);
    frame.extend_from_slice(&target.1.octets());
    frame
}

fn advertisement(speaker: Speaker, about: Ipv6Addr, to_mac: Mac, to: Ipv6Addr, flags: u8) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&about.octets());
    message.extend_from_slice(&[TARGET_LINK_LAYER, 1]);
    message.extend_from_slice(&speaker.told);
    icmpv6(speaker.own, to_mac, about, to, message)
}

fn icmpv6(from_mac: Mac, to_mac: Mac, from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let checksum = pseudo_header(from, to, message.len()).octets(&message).checksum();
    message[2..4].copy_from_slice(&checksum);
    let mut frame = Vec::with_capacity(ETHERNET_LEN + IPV6_LEN + message.len());
    frame.extend_from_slice(&to_mac);
    frame.extend_from_slice(&from_mac);
    frame.extend_from_slice(&ETHERTYPE_IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&(message.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[libc::IPPROTO_ICMPV6 as u8, 255]);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&to.octets());
    frame.extend_from_slice(&message);
    frame
}

fn pseudo_header(from: Ipv6Addr, to: Ipv6Addr, len: usize) -> Sum {
    Sum::default()
        .octets(&from.octets())
        .octets(&to.octets())
        .word(len as u16)
        .word(libc::IPPROTO_ICMPV6 as u16)
}

/// ff02::1:ffXX:XXXX (RFC 4291, 2.7.1).
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// 33:33 and the last four octets (RFC 2464, 7).
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn address(octets: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(octets).ok().map(Ipv6Addr::from)
}

/// Neither a group nor nobody.
fn is_station(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const WE: Speaker = Speaker { own: OURS, told: OURS };
    const THEIRS: Mac = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What a host sends that has `own` and looks for `about`.
    fn solicitation(own: &str, about: &str) -> Vec<u8> {
        let (IpAddr::V6(own), IpAddr::V6(about)) = (ip(own), ip(about)) else { panic!() };
        let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&about.octets());
        message.extend_from_slice(&[SOURCE_LINK_LAYER, 1]);
        message.extend_from_slice(&THEIRS);
        let group = solicited_node(about);
        icmpv6(THEIRS, multicast_mac(group), own, group, message)
    }

    #[test]
    fn an_arp_request_as_linux_sends_it_and_our_answer() {
        let request = hex::decode(
            "ffffffffffff02000000000208060001080006040001\
             020000000002c0000232000000000000c0000201",
        )
        .unwrap();
        let heard = hear(&request);
        let question = Question { about: ip("192.0.2.1"), by: Some(ip("192.0.2.50")), by_mac: THEIRS };
        assert_eq!(heard.asks, Some(question));
        assert_eq!(heard.claims, Some((ip("192.0.2.50"), THEIRS)));
        let reply = answer(WE, question).unwrap();
        let expected = "02000000000202000000000108060001080006040002\
                        020000000001c0000201020000000002c0000232";
        assert_eq!(hex::encode(&reply), expected);
        let claim = Heard { asks: None, claims: Some((ip("192.0.2.1"), OURS)) };
        assert_eq!(hear(&reply), claim);
        assert_eq!(hear(&announcement(WE, ip("192.0.2.1"))), claim);
    }

    #[test]
    fn a_probe_asks_and_claims_nothing() {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let heard = hear(&probe(OURS, ip(address)));
            assert_eq!(heard.asks, Some(Question { about: ip(address), by: None, by_mac: OURS }));
            assert_eq!(heard.claims, None);
        }
    }

    #[test]
    fn a_neighbour_solicitation_and_our_answer() {
        let heard = hear(&solicitation("2001:db8::50", "2001:db8::1"));
        let question = Question { about: ip("2001:db8::1"), by: Some(ip("2001:db8::50")), by_mac: THEIRS };
        assert_eq!(heard, Heard { asks: Some(question), claims: None });
        let reply = answer(WE, question).unwrap();
        assert_eq!(reply[..6], THEIRS);
        assert_eq!(reply[58] & 0xe0, FLAG_ROUTER | FLAG_SOLICITED | FLAG_OVERRIDE);
        let claim = Heard { asks: None, claims: Some((ip("2001:db8::1"), OURS)) };
        assert_eq!(hear(&reply), claim);
        assert_eq!(hear(&announcement(WE, ip("2001:db8::1"))), claim);
        let to_all = answer(WE, Question { by: None, ..question }).unwrap();
        assert_eq!(to_all[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(to_all[58] & FLAG_SOLICITED, 0);
        assert_eq!(hear(&to_all), claim);
    }

    #[test]
    fn a_shared_address_is_told_by_a_station_and_is_no_claim() {
        for (address, shared) in [
            ("192.0.2.1", [0x01, 0x00, 0x5e, 0x40, 2, 1]),
            ("10.255.255.255", [0x01, 0x00, 0x5e, 0x7f, 255, 255]),
            ("2001:db8::1", [0x33, 0x33, 0x40, 0, 0, 1]),
            ("2001:db8::ff12:3456", [0x33, 0x33, 0x7f, 0x12, 0x34, 0x56]),
        ] {
            assert_eq!(shared_mac(ip(address)), shared, "{address}");
            let speaker = Speaker { own: OURS, told: shared };
            let question = Question { about: ip(address), by: None, by_mac: THEIRS };
            for frame in [announcement(speaker, ip(address)), answer(speaker, question).unwrap()] {
                assert_eq!(frame[6..12], OURS);
                assert!(frame.windows(6).any(|octets| octets == shared));
                assert_eq!(hear(&frame).claims, None, "the other nodes are no rivals");
            }
        }
    }

    #[test]
    fn the_group_of_questions() {
        assert_eq!(question_group(ip("192.0.2.1")), None);
        assert_eq!(question_group(ip("2001:db8::12:3456")), Some([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
    }

    /// Each line is one check of RFC 4861, 7.1.1, or one of ARP's own.
    #[test]
    fn frames_that_are_not_what_they_seem_say_nothing() {
        let arp = announcement(WE, ip("192.0.2.1"));
        let ns = solicitation("2001:db8::50", "2001:db8::1");
        for (what, frame, at, octet) in [
            ("not Ethernet", &arp, 15, 6),
            ("not IPv4", &arp, 17, 6),
            ("address lengths", &arp, 18, 8),
            ("an unknown operation", &arp, 21, 3),
            ("a group as sender", &arp, 22, 3),
            ("IPv4 in an IPv6 frame", &ns, 14, 0x45),
            ("another next header", &ns, 20, 17),
            ("a hop limit below 255", &ns, 21, 254),
            ("a code", &ns, 55, 1),
            ("a wrong checksum", &ns, 56, 0),
            ("an option without length", &ns, 79, 0),
            ("an option over the end", &ns, 79, 2),
            ("a payload over the end", &ns, 19, 33),
        ] {
            let mut changed = frame.clone();
            assert_ne!(changed[at], octet, "{what}");
            changed[at] = octet;
            // All but the checksum itself are caught by their own check: repair the sum.
            if what != "a wrong checksum" && frame == &ns && at >= 54 {
                changed[56..58].fill(0);
                let (from, to) = (address(&changed[22..38]).unwrap(), address(&changed[38..54]).unwrap());
                let message = &changed[54..];
                let sum = pseudo_header(from, to, message.len()).octets(message).checksum();
                changed[56..58].copy_from_slice(&sum);
            }
            assert_eq!(hear(&changed), Heard::default(), "{what}");
        }
        for frame in [&arp, &ns] {
            for len in 0..frame.len() {
                assert_eq!(hear(&frame[..len]), Heard::default(), "{len} octets");
            }
        }
        let multicast = solicitation("2001:db8::50", "ff02::1");
        assert_eq!(hear(&multicast), Heard::default());
    }

    proptest! {
        #[test]
        fn no_frame_makes_hear_panic(
            kind in prop::sample::select(vec![ETHERTYPE_ARP, ETHERTYPE_IPV6, [0, 0]]),
            mut frame in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            if let Some(place) = frame.get_mut(12..14) {
                place.copy_from_slice(&kind);
            }
            hear(&frame);
        }
    }
}
