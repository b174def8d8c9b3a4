//! What holds for every message: emitted it parses back to itself, sealed it opens to itself, and no octets at all
//! make a parser panic or return something that it would not emit again.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::arbitrary;
use crypto::cipher::{OpenKey, Protection, SealKey};
use crypto::rng::SeededRng;
use ipsec::wire::*;
use proptest::prelude::*;

fn body(payload: &Payload) -> Vec<u8> {
    let mut out = Vec::new();
    payload.emit_body(&mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_payload_parses_back(payload in arbitrary::payload()) {
        prop_assert_eq!(Payload::parse(payload.kind(), &body(&payload)), Ok(Some(payload)));
    }

    #[test]
    fn a_message_parses_back(header in arbitrary::header(), payloads in arbitrary::payloads()) {
        let message = Message { header, payloads, encrypted: None };
        prop_assert_eq!(Message::parse(&message.emit()), Ok(message));
    }

    //= test IK-94
    //= test IK-95
    #[test]
    fn a_sealed_message_opens_to_itself(
        header in arbitrary::header(),
        payloads in arbitrary::payloads(),
        which in 0..Protection::all().count(),
        epoch in 0u32..1 << 24,
    ) {
        let protection = Protection::all().nth(which).unwrap();
        let (encr, integ) = (vec![5; protection.encr_key_len()], vec![6; protection.integ_key_len()]);
        let mut seal = SealKey::reference(protection, &encr, &integ, epoch, &mut SeededRng::new(1)).unwrap();
        let open = OpenKey::reference(protection, &encr, &integ).unwrap();
        let message = Message { header, payloads, encrypted: None };
        let octets = message.seal(&mut seal).unwrap();
        let parsed = Message::parse(&octets).unwrap();
        prop_assert_eq!(parsed.header, message.header);
        prop_assert!(parsed.payloads.is_empty());
        prop_assert_eq!(parsed.encrypted.unwrap().open(&octets, &open), Ok(message.payloads));
    }

    /// Cut anywhere, a message is no message: the header tells its length.
    //= test IK-6
    #[test]
    fn a_truncated_message_is_refused(
        header in arbitrary::header(),
        payloads in arbitrary::payloads(),
        cut in any::<prop::sample::Index>(),
    ) {
        let octets = Message { header, payloads, encrypted: None }.emit();
        let cut = cut.index(octets.len());
        let refused =
            matches!(Message::parse(&octets[..cut]), Err(ParseError::Truncated | ParseError::Length { .. }));
        prop_assert!(refused);
    }

    /// Cut inside, with the header's length set right: some payload ends early.
    //= test IK-6
    #[test]
    fn a_truncated_chain_is_refused(payloads in arbitrary::payloads(), cut in any::<prop::sample::Index>()) {
        let mut octets = Vec::new();
        payloads.emit(&mut octets);
        prop_assume!(!octets.is_empty());
        let cut = cut.index(octets.len());
        let refused =
            matches!(Payloads::parse(payloads.first_type(), &octets[..cut]), Err(ParseError::InvalidSyntax { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn octets_of_any_kind(octets in arbitrary::octets(0..400), first in 0u8..60) {
        for port in [Port::Ike, Port::NatT] {
            let _ = classify(port, &octets);
        }
        let _ = Message::parse(&octets);
        let _ = esp::Inside::of(&octets);
        if let Ok(payloads) = Payloads::parse(PayloadType(first), &octets) {
            let mut out = Vec::new();
            payloads.emit(&mut out);
            prop_assert_eq!(Payloads::parse(payloads.first_type(), &out), Ok(payloads));
        }
    }

    /// Every single octet of a good message replaced: an error or another message, never a panic.
    #[test]
    fn damaged_messages(
        header in arbitrary::header(),
        payloads in arbitrary::payloads(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut octets = Message { header, payloads, encrypted: None }.emit();
        for (at, octet) in damage {
            let at = at.index(octets.len());
            octets[at] = octet;
        }
        if let Ok(message) = Message::parse(&octets)
            && message.encrypted.is_none()
        {
            prop_assert_eq!(Message::parse(&message.emit()), Ok(message));
        }
    }
}
