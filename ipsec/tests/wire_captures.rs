//! The captures and byte vectors of other projects, none of which we wrote: what is well-formed is understood to the
//! last octet, what is malformed is refused for the right reason.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;

use common::pcap::{self, Frame};
use crypto::cipher::{Cipher, OpenKey, Protection};
use ipsec::spec::PORT_NAT_T;
use ipsec::types::{ChildSpi, MessageId, Spi};
use ipsec::wire::*;

/// What became of one frame of a capture.
#[derive(Debug, PartialEq)]
enum Seen {
    Message(Box<Message>),
    Refused(ParseError),
    Other(Class),
}

fn seen(path: &Path) -> Vec<Seen> {
    let judge = |frame| match frame {
        Frame::Esp(packet) => Seen::Other(classify_esp(&packet)),
        Frame::Udp { from, to, payload } => {
            let nat_t = from == PORT_NAT_T || to == PORT_NAT_T;
            match classify(if nat_t { Port::NatT } else { Port::Ike }, &payload) {
                Class::Ike { at } => match Message::parse(&payload[at..]) {
                    Ok(message) => Seen::Message(Box::new(message)),
                    Err(error) => Seen::Refused(error),
                },
                other => Seen::Other(other),
            }
        }
    };
    pcap::read(path).into_iter().map(judge).collect()
}

fn messages(path: &Path) -> Vec<Message> {
    let all = seen(path);
    all.into_iter()
        .filter_map(|one| if let Seen::Message(message) = one { Some(*message) } else { None })
        .collect()
}

/// One line a message: exchange, ID, direction, payload types, and the first payload inside SK.
fn summary(message: &Message) -> String {
    let header = &message.header;
    let kinds: Vec<String> = message.payloads.iter().map(|payload| payload.kind().to_string()).collect();
    let inside = message.encrypted.map(|sk| format!("SK({})", sk.first));
    let arrow = if header.response { "<-" } else { "->" };
    let all: Vec<String> = kinds.into_iter().chain(inside).collect();
    format!("{} {} {arrow} {}", header.exchange, header.message_id, all.join(" "))
}

/// A session of two other implementations, from the cookie to the delete.
//= test IK-2
//= test IK-13
#[test]
fn a_whole_session() {
    let Some(path) = common::vectors("pcap/tcpdump/ikev2four.pcap") else { return };
    let session = messages(&path);
    let lines: Vec<String> = session.iter().map(summary).collect();
    let expected = [
        "IKE_SA_INIT 0 -> SA KE NONCE NOTIFY NOTIFY",
        "IKE_SA_INIT 0 <- NOTIFY",
        "IKE_SA_INIT 0 -> NOTIFY SA KE NONCE NOTIFY NOTIFY",
        "IKE_SA_INIT 0 <- SA KE NONCE NOTIFY NOTIFY",
        "IKE_AUTH 1 -> SK(IDi)",
        "IKE_AUTH 1 <- SK(IDr)",
        "CREATE_CHILD_SA 2 -> SK(SA)",
        "CREATE_CHILD_SA 3 -> SK(SA)",
        "CREATE_CHILD_SA 2 <- SK(NOTIFY)",
        "CREATE_CHILD_SA 3 <- SK(NOTIFY)",
    ];
    assert_eq!(lines[..10], expected);
    assert_eq!(lines.len(), 21);
    assert_eq!(lines[20], "INFORMATIONAL 0 -> SK(DELETE)");
    // The cookie comes back as the first payload, all else unchanged.
    let cookie = session[1].payloads.notify(NotifyType::COOKIE).unwrap();
    assert_eq!(session[2].payloads.notify(NotifyType::COOKIE), Some(cookie));
    assert_eq!(session[2].payloads.sa(), session[0].payloads.sa());
    assert_eq!(session[2].payloads.nonce(), session[0].payloads.nonce());
    let answer = session[3].payloads.sa().unwrap();
    assert!(answer.answers(session[2].payloads.sa().unwrap()), "{answer:?}");
    assert!(!session[2].header.spi_i.is_zero() && session[2].header.spi_r.is_zero());
}

#[test]
fn an_initial_exchange_of_a_real_client() {
    let Some(path) = common::vectors("pcap/zeek-spicy-ipsec/ipsec_client.pcap") else { return };
    let [request, reply] = &messages(&path)[..] else { panic!("two messages") };
    assert_eq!(summary(request), "IKE_SA_INIT 0 -> SA KE NONCE NOTIFY NOTIFY VENDOR VENDOR VENDOR VENDOR");
    assert!(reply.payloads.sa().unwrap().answers(request.payloads.sa().unwrap()));
    assert!(request.payloads.has_notify(NotifyType::NAT_DETECTION_SOURCE_IP));
    assert!(reply.payloads.nonce().is_some() && reply.payloads.ke().is_some());
}

//= test IK-9
#[test]
fn payloads_in_an_unusual_order() {
    let Some(path) = common::vectors("pcap/suricata-verify/ikev2-weak-dh.pcap") else { return };
    let [request] = &messages(&path)[..] else { panic!("one message") };
    assert_eq!(summary(request), "IKE_SA_INIT 0 -> NONCE KE SA");
    let ke = request.payloads.ke().unwrap();
    assert_eq!((ke.group, ke.group.group()), (GroupId::MODP_1024, None), "known by name, not done");
}

//= test ES-28
#[test]
fn esp_in_udp_and_beside_it() {
    for (file, spi, count) in [
        ("pcap/tcpdump/espudp1.pcap", 0x1234_5678, 8),
        ("pcap/tcpdump/02-sunrise-sunset-esp.pcap", 0x1234_5678, 8),
        ("pcap/tcpdump/08-sunrise-sunset-esp2.pcap", 0x1234_5678, 8),
        ("pcap/zeek-spicy-ipsec/ipsec.cap", 0x1c0d_7b38, 9),
    ] {
        let Some(path) = common::vectors(file) else { return };
        let esp = Seen::Other(Class::Esp { spi: ChildSpi(spi) });
        assert_eq!(seen(&path).iter().filter(|&one| *one == esp).count(), count, "{file}");
    }
    let Some(path) = common::vectors("pcap/suricata-verify/eve-flow-esp.pcap") else { return };
    let truncated = Seen::Other(Class::Drop(DropReason::EspTruncated));
    assert!(seen(&path).iter().all(|one| *one == truncated), "SPI and sequence number only");
}

//= test IK-3
//= test IK-6
#[test]
fn malformed_captures_are_refused_for_the_right_reason() {
    let version = |major| Seen::Refused(ParseError::UnsupportedVersion(major));
    for (file, expected) in [
        ("tcpdump/ikev2-id-normal.pcap", Seen::Refused(ParseError::ZeroSpi)),
        ("tcpdump/ikev2-id-short.pcap", Seen::Refused(ParseError::ZeroSpi)),
        (
            "tcpdump/ikev2pI2-segfault.pcapng",
            Seen::Refused(ParseError::InvalidSyntax {
                payload: PayloadType::SA,
                what: "unknown last-substructure marker",
            }),
        ),
        ("tcpdump/isakmp-3948-oobr-2.pcap", Seen::Other(Class::Drop(DropReason::Empty))),
        ("tcpdump/isakmp-rfc3948-oobr.pcap", Seen::Other(Class::Drop(DropReason::Empty))),
        ("tcpdump/isakmp-delete-segfault.pcap", version(11)),
        ("tcpdump/isakmp-identification-segfault.pcap", version(1)),
        ("tcpdump/isakmp-no-none-np.pcapng", version(1)),
        ("tcpdump/isakmp-pointer-loop.pcap", version(1)),
        ("zeek-spicy-ipsec/ikev1-certs.pcap", version(1)),
        ("zeek-spicy-ipsec/ipsec-ikev1-isakmp-aggressive-mode.pcap", version(1)),
        ("zeek-spicy-ipsec/ipsec-ikev1-isakmp-main-mode.pcap", version(1)),
        ("zeek-spicy-ipsec/ipsec-ikev1-payload-bad-length.pcap", version(1)),
        ("zeek-spicy-ipsec/ipsec-ikev1-zero-length.pcap", version(1)),
    ] {
        let Some(path) = common::vectors(&format!("pcap/{file}")) else { return };
        let all = seen(&path);
        assert!(!all.is_empty(), "{file}");
        assert!(all.iter().all(|one| *one == expected), "{file}: {all:?}");
    }
}

/// Every message in clear of every capture is understood without loss: what it emits is what came.
#[test]
fn captured_messages_are_emitted_as_they_came() {
    let Some(folder) = common::vectors("pcap") else { return };
    let mut checked = 0;
    for path in common::files(&folder) {
        let octets = match path.extension().and_then(|ext| ext.to_str()) {
            Some("bin") => vec![std::fs::read(&path).unwrap()],
            Some("pcap" | "cap" | "pcapng") => udp_payloads(&path),
            _ => continue,
        };
        for octets in octets {
            let Ok(message) = Message::parse(&octets) else { continue };
            if message.encrypted.is_none() {
                let came = without_critical(octets);
                assert_eq!(hex::encode(message.emit()), hex::encode(came), "{}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked >= 10, "{checked}");
}

/// RFC 7634, appendix B: an INFORMATIONAL request with ChaCha20-Poly1305.
//= test IK-94
//= test IK-95
#[test]
fn the_message_of_rfc_7634() {
    let Some(path) = common::vectors("rfc/rfc7634-chacha20poly1305.json") else { return };
    let vector: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let field = |name: &str| hex::decode(vector["ikev2"][name].as_str().unwrap()).unwrap();
    let octets = field("message");
    let protection = Protection::new(Cipher::ChaCha20Poly1305, None).unwrap();
    let message = Message::parse(&octets).unwrap();
    assert_eq!(message.header.spi_i, Spi(0xc0c1_c2c3_c4c5_c6c7));
    assert_eq!(
        (message.header.exchange, message.header.message_id),
        (ExchangeType::INFORMATIONAL, MessageId(9))
    );
    let sk = message.encrypted.unwrap();
    for key in [
        OpenKey::new(protection, &field("keymat"), &[]).unwrap(),
        OpenKey::reference(protection, &field("keymat"), &[]).unwrap(),
    ] {
        let inside = sk.open(&octets, &key).unwrap();
        assert_eq!(inside.len(), 1);
        assert_eq!(inside.notify(NotifyType::SET_WINDOW_SIZE).unwrap().data, [0, 0, 0, 10]);
        assert_eq!(sk.open_octets(&octets, &key).unwrap(), field("inner_payloads"));
    }
}

/// One sender marks known payloads critical, which means nothing and which we never send (RFC 7296, 2.5).
fn without_critical(mut message: Vec<u8>) -> Vec<u8> {
    let mut at = 28;
    while at < message.len() {
        message[at + 1] &= 0x7f;
        at += usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
    }
    message
}

/// One payload of each kind as OpenIKED's fuzzer has them, each behind a header. Those that it takes and we do not
/// carry the reason.
#[test]
fn the_payloads_of_openiked() {
    let taken = |kinds: &'static str| Ok::<_, &str>(kinds);
    for (file, expected) in [
        ("00-header-only", taken("")),
        ("33-sa", taken("SA")),
        ("33-sa-transforms", taken("SA")),
        ("34-ke", taken("KE")),
        ("35-id", taken("IDi")),
        ("37-cert", Err("octets behind the last payload")),
        ("38-certreq", taken("CERTREQ")),
        ("39-auth", taken("AUTH")),
        ("40-nonce", taken("NONCE")),
        ("41-notify-chain", Err("octets behind the last payload")),
        ("42-delete-chain", Err("the IKE SA is deleted without an SPI")),
        ("43-vendor", taken("VENDOR")),
        ("44-tsi", taken("TSi")),
        ("45-tsr", taken("TSr")),
        ("46-sk", taken("SK(SA)")),
        ("47-cp-chain", Err("comes twice")),
        ("48-eap-chain", Err("EAP length is not the payload's")),
        ("53-skf-1of1", taken("SK(SA)")),
        ("ike-sa-init-request", taken("SA KE NONCE NOTIFY NOTIFY")),
    ] {
        let Some(path) = common::vectors(&format!("fuzz/message/{file}.bin")) else { return };
        match (Message::parse(&std::fs::read(path).unwrap()), expected) {
            (Ok(message), Ok(kinds)) => assert!(summary(&message).ends_with(kinds), "{file}: {message:?}"),
            (Err(ParseError::InvalidSyntax { what, .. }), Err(reason)) => assert_eq!(what, reason, "{file}"),
            (parsed, expected) => panic!("{file}: {parsed:?}, expected {expected:?}"),
        }
    }
}

fn udp_payloads(path: &Path) -> Vec<Vec<u8>> {
    let frames = pcap::read(path).into_iter();
    frames
        .filter_map(|frame| if let Frame::Udp { payload, .. } = frame { Some(payload) } else { None })
        .collect()
}
