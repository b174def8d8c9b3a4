//! The entry points of `ipsec::wire` as a fuzzer sees them: octets in, no panic, and what was understood comes out
//! of `emit` and `parse` unchanged.
//!
//! Each target of `fuzz_targets` calls one; the test `fuzz_corpus` of the crate `ipsec` runs all of them over the
//! corpus that is kept here. To fuzz one for two minutes:
//!
//! ```text
//!   cd ipsec && RUSTC_BOOTSTRAP=1 cargo fuzz run message -- -max_total_time=120
//! ```
#![allow(dead_code, reason = "each fuzz target calls one")]

use crypto::cipher::{Cipher, Integ, OpenKey, Protection, SealKey};
use crypto::rng::SeededRng;
use ipsec::types::{MessageId, Spi};
use ipsec::wire::*;

/// A name, and what takes the octets.
pub type EntryPoint = (&'static str, fn(&[u8]));

/// Every entry point with the name of its target and corpus.
pub const ALL: [EntryPoint; 8] = [
    ("datagram", datagram),
    ("message", message),
    ("chain", chain),
    ("sa", sa),
    ("ts", ts),
    ("config", config),
    ("notify_delete", notify_delete),
    ("esp", esp),
];

/// A UDP datagram on either port: what it is, and its IKE message when it is one.
pub fn datagram(data: &[u8]) {
    for port in [Port::Ike, Port::NatT] {
        match classify(port, data) {
            Class::Ike { at } => message(&data[at..]),
            Class::Esp { spi } => assert!(spi.0 > 255),
            Class::Keepalive => assert_eq!(data, [0xff]),
            Class::Drop(reason) => assert!(DropReason::ALL.contains(&reason)),
        }
    }
}

/// An IKE message; an encrypted one is opened with a key that is certainly the wrong one.
pub fn message(data: &[u8]) {
    let _ = Header::peek(data);
    match Message::parse(data) {
        Ok(parsed) => match parsed.encrypted {
            None => assert_eq!(Message::parse(&parsed.emit()).as_ref(), Ok(&parsed)),
            Some(encrypted) => {
                for (_, open) in keys() {
                    assert!(encrypted.open(data, &open).is_err());
                    assert!(encrypted.open_octets(data, &open).is_err());
                }
            }
        },
        Err(error) => {
            let _ = (error.to_string(), error.notify());
        }
    }
}

/// The inside of SK as a peer with the right key can send it: the first octet is the type of the first payload, the
/// rest what was encrypted. It goes through seal and open, so padding is the sender's choice too.
pub fn chain(data: &[u8]) {
    let Some((&first, plain)) = data.split_first() else { return };
    let first = PayloadType(first);
    if let Ok(payloads) = Payloads::parse(first, plain) {
        let mut out = Vec::new();
        payloads.emit(&mut out);
        assert_eq!(Payloads::parse(payloads.first_type(), &out).as_ref(), Ok(&payloads));
        let sealed = Message { header: HEADER, payloads, encrypted: None };
        for (mut seal, open) in keys() {
            let Ok(octets) = sealed.seal(&mut seal) else { continue };
            let Ok(parsed) = Message::parse(&octets) else { continue };
            let encrypted = parsed.encrypted.expect("SK was just emitted");
            assert_eq!(encrypted.open(&octets, &open).as_ref(), Ok(&sealed.payloads));
        }
    }
    for (mut seal, open) in keys() {
        let align = seal.protection().align();
        if !seal.protection().is_aead() && !plain.len().is_multiple_of(align) {
            continue;
        }
        let octets = sealed_as_is(first, plain, &mut seal);
        if let Ok(Message { encrypted: Some(encrypted), .. }) = Message::parse(&octets) {
            let _ = encrypted.open(&octets, &open);
        }
    }
}

pub fn sa(data: &[u8]) {
    if let Some(Payload::Sa(sa)) = payload(PayloadType::SA, data) {
        for proposal in &sa.proposals {
            let _ = (proposal.child_spi(), proposal.ike_spi());
            let answer = Sa::answer(proposal.clone());
            let choice = [TransformType::ENCR, TransformType::PRF, TransformType::INTEG, TransformType::KE]
                .iter()
                .any(|&kind| proposal.of(kind).count() > 1);
            assert!(!(choice && answer.answers(&sa)), "an answer leaves no choice");
            for transform in &proposal.transforms {
                let _ = (transform.as_cipher(), transform.as_prf(), transform.as_integ());
                let _ = (transform.as_group(), transform.as_esn(), transform.is_none());
            }
        }
    }
}

pub fn ts(data: &[u8]) {
    for kind in [PayloadType::TSi, PayloadType::TSr] {
        if let Some(Payload::TsI(ts) | Payload::TsR(ts)) = payload(kind, data) {
            for selector in &ts.selectors {
                assert!(selector.start <= selector.end && selector.start.is_ipv4() == selector.end.is_ipv4());
                assert!(selector.covers(selector), "{selector}");
                let _ = selector.to_string();
            }
        }
    }
}

pub fn config(data: &[u8]) {
    payload(PayloadType::CP, data);
}

/// The first octet says which of the small payloads.
pub fn notify_delete(data: &[u8]) {
    let Some((&which, body)) = data.split_first() else { return };
    let kinds = [
        PayloadType::NOTIFY,
        PayloadType::DELETE,
        PayloadType::IDi,
        PayloadType::KE,
        PayloadType::EAP,
        PayloadType::NONCE,
        PayloadType::CERT,
        PayloadType::CERTREQ,
        PayloadType::AUTH,
        PayloadType::VENDOR,
    ];
    let understood = payload(kinds[usize::from(which) % kinds.len()], body);
    match understood {
        Some(Payload::Notify(notify)) => {
            let _ = (notify.child_spi(), notify.group(), notify.kind.to_string());
        }
        Some(Payload::IdI(id)) => {
            let _ = id.identity().map(|identity| identity.to_string());
            assert_eq!(id.body(), body);
        }
        Some(Payload::Ke(ke)) => {
            let _ = ke.group.group();
        }
        _ => {}
    }
}

/// An ESP packet from outside, and the inside of one from a peer with the right key.
pub fn esp(data: &[u8]) {
    if let Ok(packet) = ipsec::wire::esp::Packet::new(data) {
        let _ = (packet.spi(), packet.seq_low());
    }
    if let Some(inside) = ipsec::wire::esp::Inside::of(data) {
        assert!(inside.len + 2 <= data.len());
    }
}

const HEADER: Header = Header {
    spi_i: Spi(1),
    spi_r: Spi(2),
    exchange: ExchangeType::INFORMATIONAL,
    initiator: true,
    response: false,
    message_id: MessageId(3),
};

/// One payload, which must come out of `emit` and `parse` as it was.
fn payload(kind: PayloadType, body: &[u8]) -> Option<Payload> {
    let understood = Payload::parse(kind, body).ok()?.expect("a type that we know");
    let mut out = Vec::new();
    understood.emit_body(&mut out);
    assert_eq!(Payload::parse(kind, &out), Ok(Some(understood.clone())));
    Some(understood)
}

fn keys() -> [(SealKey, OpenKey); 2] {
    let suites = [(Cipher::AesGcm128, None), (Cipher::AesCbc128, Some(Integ::HmacSha256_128))];
    suites.map(|(cipher, integ)| {
        let protection = Protection::new(cipher, integ).expect("a pair that fits");
        let (encr, integ) = (vec![1; protection.encr_key_len()], vec![2; protection.integ_key_len()]);
        let seal = SealKey::reference(protection, &encr, &integ, 1, &mut SeededRng::new(1));
        let open = OpenKey::reference(protection, &encr, &integ);
        (seal.expect("lengths that fit"), open.expect("lengths that fit"))
    })
}

/// `plain` with whatever it ends in, where an honest sender has padding and its length.
fn sealed_as_is(first: PayloadType, plain: &[u8], key: &mut SealKey) -> Vec<u8> {
    let protection = key.protection();
    let len = 4 + protection.iv_len() + plain.len() + protection.icv_len();
    let mut octets = Vec::new();
    HEADER.emit(PayloadType::SK, &mut octets);
    octets.extend([first.0, 0]);
    octets.extend((len as u16).to_be_bytes());
    octets.resize(32 + protection.iv_len(), 0);
    octets.extend(plain);
    octets.resize(octets.len() + protection.icv_len(), 0);
    let total = octets.len() as u32;
    octets[24..28].copy_from_slice(&total.to_be_bytes());
    key.seal(None, &mut octets, 32).expect("room for all its parts");
    octets
}
