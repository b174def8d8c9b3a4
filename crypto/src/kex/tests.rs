//! Known answers of the key exchanges, the checks of public values, and where the primes come from.

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Limb, NonZero, Odd, U4096, Uint};

use super::*;
use crate::hash::sha256;
use crate::rng::SeededRng;
use crate::vectors::{known_answers, list, octets, text, wycheproof};

#[test]
fn both_sides_agree_and_keys_survive_export() {
    for (seed, group) in (1..).zip(Group::ALL) {
        let rng = &mut SeededRng::new(seed);
        let (ours, theirs) = (PrivateKey::generate(group, rng), PrivateKey::generate(group, rng));
        assert_eq!(ours.public().len(), group.public_len(), "{group:?}");
        assert_ne!(ours.public(), theirs.public(), "{group:?}");
        let shared = ours.agree(&theirs.public()).unwrap();
        assert_eq!(shared, theirs.agree(&ours.public()).unwrap(), "{group:?}");
        let exported = ours.export();
        assert_eq!(exported.len(), group.private_len(), "{group:?}");
        let again = PrivateKey::import(group, exported.as_bytes()).unwrap();
        assert_eq!((again.group(), again.public()), (group, ours.public()));
        assert_eq!(again.agree(&theirs.public()).unwrap(), shared, "{group:?}");
        assert_eq!(format!("{ours:?}"), format!("PrivateKey({group:?})"));
    }
}

//= test IK-26
#[test]
fn public_values_of_a_wrong_length_are_refused() {
    for group in Group::ALL {
        let key = PrivateKey::generate(group, &mut SeededRng::new(1));
        let public = key.public();
        let longer = [&[0][..], &public].concat();
        for wrong in [&[][..], &public[1..], &longer] {
            assert_eq!(key.agree(wrong), Err(InvalidPublicValue), "{group:?} {}", wrong.len());
        }
    }
}

#[test]
fn private_keys_that_are_none_are_refused() {
    for group in Group::ALL {
        let len = group.private_len();
        for wrong in [len - 1, len + 1] {
            assert!(PrivateKey::import(group, &vec![1; wrong]).is_err(), "{group:?} {wrong}");
        }
        let weak = matches!(group, Group::Curve25519);
        assert_eq!(PrivateKey::import(group, &vec![0; len]).is_ok(), weak, "{group:?}");
    }
    // The order of P-256, and one less.
    let mut order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    assert!(PrivateKey::import(Group::Ecp256, &order).is_err());
    order[31] -= 1;
    assert!(PrivateKey::import(Group::Ecp256, &order).is_ok());
}

// MODP

/// n of 2^n, k of the formula in RFC 3526.
const MODP: [(Group, u32, u32); 3] =
    [(Group::Modp2048, 2048, 124_476), (Group::Modp3072, 3072, 1_690_314), (Group::Modp4096, 4096, 240_904)];

fn prime(group: Group) -> U4096 {
    match group {
        Group::Modp2048 => modp::P_2048.get().resize(),
        Group::Modp3072 => modp::P_3072.get().resize(),
        Group::Modp4096 => modp::P_4096.get(),
        _ => unreachable!(),
    }
}

/// floor(2^bits * pi), by Machin: pi = 16 arctan(1/5) - 4 arctan(1/239), with 64 bits to spare.
fn pi(bits: u32) -> U4096 {
    let divided = |value: &U4096, by: u32| value.div_rem_limb(NonZero::new(Limb::from(by)).unwrap()).0;
    let arctan_of_inverse = |x: u32| {
        let mut power = divided(&U4096::ONE.shl(bits + 64), x);
        let (mut plus, mut minus) = (U4096::ZERO, U4096::ZERO);
        for n in 0.. {
            let term = divided(&power, 2 * n + 1);
            if term == U4096::ZERO {
                break;
            }
            let sum = if n % 2 == 0 { &mut plus } else { &mut minus };
            *sum = sum.wrapping_add(&term);
            power = divided(&power, x * x);
        }
        plus.wrapping_sub(&minus)
    };
    let scaled = arctan_of_inverse(5).shl(4).wrapping_sub(&arctan_of_inverse(239).shl(2));
    scaled.shr(64)
}

#[test]
fn modp_primes_are_those_of_the_formula_in_rfc_3526() {
    for (group, n, k) in MODP {
        // 2^4096 is 0 here, which is what it is modulo 2^4096.
        let top = if n == 4096 { U4096::ZERO } else { U4096::ONE.shl(n) };
        let middle = pi(n - 130).wrapping_add(&U4096::from(k)).shl(64);
        let expected =
            top.wrapping_sub(&U4096::ONE.shl(n - 64)).wrapping_sub(&U4096::ONE).wrapping_add(&middle);
        assert_eq!(prime(group), expected, "{group:?}");
    }
}

/// The value check 1 < y < p - 1 is enough only because (p - 1) / 2 is prime.
#[test]
fn modp_primes_are_safe_primes() {
    fn fermat<const LIMBS: usize>(number: &Uint<LIMBS>) -> bool {
        let params = FixedMontyParams::new_vartime(Odd::new(*number).unwrap());
        let three = FixedMontyForm::new(&Uint::from(3u8), &params);
        three.pow_vartime(&number.wrapping_sub(&Uint::ONE)).retrieve() == Uint::ONE
    }
    assert!(fermat(modp::P_2048.as_ref()) && fermat(&modp::P_2048.as_ref().shr(1)));
    assert!(fermat(modp::P_3072.as_ref()) && fermat(&modp::P_3072.as_ref().shr(1)));
    assert!(fermat(modp::P_4096.as_ref()) && fermat(&modp::P_4096.as_ref().shr(1)));
    assert!(!fermat(&modp::P_2048.as_ref().wrapping_sub(&Uint::from(2u8))));
}

/// Computed with the integers of another language: exponents, then SHA-256 of the padded public values and of the
/// shared secret.
#[test]
fn modp_agrees_with_another_implementation() {
    let table = [
        (
            Group::Modp2048,
            "537d6735d8192869b5e4880c369c422b0b68c44ffba03ad5631e2ecf055d96e95c33981950387b3f",
            "b34f3262de525158388e320cd1b205ea480f1076b4444609e10968ed97b8769f8e590acc8be44a25",
            "cb10e4bba0a5ebbac70f5800f6aba0c854b48b50a36d61bc66036d853d0319b0",
            "b3a3847bab3def24c406d2b584dc948d0ba36b1486472ea65b011eadb7df3119",
            "d5f9f4080aa07d1d45a805258513f5f37843566b458d872902f120ce4aefe837",
        ),
        (
            Group::Modp3072,
            "b7a5db0d6e2d63629a4d9b732781cbbe1cd21dd924c75391773f01024c49bf5ea49a8da3b0c2fe19\
             3143dded2aea81ea1fb24ca9f7bf7da3",
            "0f3b492e65b8d9f896ac88e18eca595b4530c1d46240f30394ad22c9f531ce543468203540b1dfd0\
             556815c26472bc8f788bd86e41074b1b",
            "66154c2e57d48f7362eadedac7183d7aae7be492694d1adf87ef984e452e500e",
            "de32687942d659cf98c53840773a63d1ca9f437a4371acf31478f5b2cfbefcdc",
            "7bc921f55ea35cad77c91bfa66b30459e8ceef37713500ebbec803acdcba48e1",
        ),
        (
            Group::Modp4096,
            "6019e42d1ec4eb7cb81a6826475f219360caba3643bccae2517a8cea8daf2e9d11abd54efd63d646\
             42081a38d6198a6f96ed23a71329db5046423a603c7238ec",
            "c7fc686c8ace9ca0d40b50c02ae897736fefd2ac69150cdcc8d7c31b083e833414ad8a35a16b91d1\
             feedda0d6acac8b482bd68d69d9bd76675ab72cbbd2419f2",
            "301368ea1692c4498fb906d336a0f8f07da1604d419a9073fc616242638c4675",
            "ede0694249b64f2f9bfb059cb4215aed4c5c34be6d78484c5b7c896baa3230dc",
            "c7251d98037a93a9222482713f72aa23f137e877333f5bd7616812849cdcbdb3",
        ),
    ];
    for (group, exponent_i, exponent_r, public_i, public_r, shared) in table {
        let [i, r] = [exponent_i, exponent_r]
            .map(|exponent| PrivateKey::import(group, &hex::decode(exponent).unwrap()).unwrap());
        assert_eq!(hex::encode(sha256(&[&i.public()])), public_i, "{group:?}");
        assert_eq!(hex::encode(sha256(&[&r.public()])), public_r, "{group:?}");
        for secret in [i.agree(&r.public()).unwrap(), r.agree(&i.public()).unwrap()] {
            assert_eq!(secret.len(), group.public_len());
            assert_eq!(hex::encode(sha256(&[secret.as_bytes()])), shared, "{group:?}");
        }
    }
}

//= test IK-26
#[test]
fn modp_values_are_padded_on_the_left_on_both_sides() {
    for (group, ..) in MODP {
        let mut exponent = vec![0; group.private_len()];
        *exponent.last_mut().unwrap() = 9;
        let key = PrivateKey::import(group, &exponent).unwrap();
        let mut expected = vec![0; group.public_len()];
        expected[group.public_len() - 2..].copy_from_slice(&512u16.to_be_bytes());
        assert_eq!(key.public(), expected, "{group:?}");
        let mut three = vec![0; group.public_len()];
        *three.last_mut().unwrap() = 3;
        expected[group.public_len() - 2..].copy_from_slice(&19_683u16.to_be_bytes());
        assert_eq!(key.agree(&three).unwrap().as_bytes(), expected, "{group:?}");
    }
}

//= test IK-26
#[test]
fn modp_values_outside_1_and_p_minus_1_are_refused() {
    for (group, ..) in MODP {
        let key = PrivateKey::generate(group, &mut SeededRng::new(1));
        let padded = |value: U4096| {
            let octets = value.to_be_bytes();
            octets.as_ref()[512 - group.public_len()..].to_vec()
        };
        let p = prime(group);
        let one = U4096::ONE;
        for (value, fits) in [
            (U4096::ZERO, false),
            (one, false),
            (one.wrapping_add(&one), true),
            (p.wrapping_sub(&one).wrapping_sub(&one), true),
            (p.wrapping_sub(&one), false),
            (p, false),
            (p.wrapping_add(&one), false),
        ] {
            assert_eq!(key.agree(&padded(value)).is_ok(), fits, "{group:?} {value}");
        }
        assert!(key.agree(&vec![0xff; group.public_len()]).is_err(), "{group:?}");
    }
}

// ECP

//= test IK-26
#[test]
fn rfc_5903() {
    for case in list(&known_answers("rfc/rfc5903-ecp.json"), "tests") {
        let group = match case["group"].as_u64().unwrap() {
            19 => Group::Ecp256,
            20 => Group::Ecp384,
            other => panic!("{other}"),
        };
        exchange(group, case);
    }
}

/// One Diffie-Hellman exchange, with whole KE payloads: a header of 8 octets, then the public value.
fn exchange(group: Group, case: &serde_json::Value) {
    let [i, r] =
        ["private_i", "private_r"].map(|member| PrivateKey::import(group, &octets(case, member)).unwrap());
    assert_eq!(i.public(), octets(case, "public_i"), "{}", case["id"]);
    assert_eq!(r.public(), octets(case, "public_r"), "{}", case["id"]);
    assert_eq!(i.public(), octets(case, "ke_payload_i")[8..], "{}", case["id"]);
    assert_eq!(r.public(), octets(case, "ke_payload_r")[8..], "{}", case["id"]);
    assert_eq!(i.agree(&r.public()).unwrap().as_bytes(), octets(case, "shared"), "{}", case["id"]);
    assert_eq!(r.agree(&i.public()).unwrap().as_bytes(), octets(case, "shared"), "{}", case["id"]);
}

//= test IK-26
#[test]
fn wycheproof_ecdh() {
    for (file, group) in [
        ("ecdh_secp256r1_ecpoint_test.json", Group::Ecp256),
        ("ecdh_secp384r1_ecpoint_test.json", Group::Ecp384),
    ] {
        for (_, case) in wycheproof(file) {
            // A private key is an integer there; ours has a fixed length.
            let integer = octets(&case, "private");
            let significant = integer.iter().position(|octet| *octet != 0).unwrap();
            let mut scalar = vec![0; group.private_len() - (integer.len() - significant)];
            scalar.extend_from_slice(&integer[significant..]);
            let key = PrivateKey::import(group, &scalar).unwrap();
            // The KE payload leaves the 04 out; a point of another form keeps what it starts with.
            let public = octets(&case, "public");
            let public = public.strip_prefix(&[4]).unwrap_or(&public);
            let shared = key.agree(public);
            if text(&case, "result") == "valid" {
                assert_eq!(shared.unwrap().as_bytes(), octets(&case, "shared"), "{file} {}", case["tcId"]);
            } else {
                assert_eq!(shared, Err(InvalidPublicValue), "{file} {}", case["tcId"]);
            }
        }
    }
}

//= test IK-26
#[test]
fn points_off_the_curve_are_refused() {
    for group in [Group::Ecp256, Group::Ecp384] {
        let key = PrivateKey::generate(group, &mut SeededRng::new(1));
        let peer = PrivateKey::generate(group, &mut SeededRng::new(2)).public();
        for at in [0, peer.len() / 2 - 1, peer.len() / 2, peer.len() - 1] {
            let mut off = peer.clone();
            off[at] ^= 1;
            assert_eq!(key.agree(&off), Err(InvalidPublicValue), "{group:?} octet {at}");
        }
        assert_eq!(key.agree(&vec![0; peer.len()]), Err(InvalidPublicValue), "{group:?} infinity");
        assert_eq!(key.agree(&vec![0xff; peer.len()]), Err(InvalidPublicValue), "{group:?} above the field");
    }
}

// Curve25519

#[test]
fn rfc_7748_and_rfc_8031() {
    let file = known_answers("rfc/rfc7748-x25519.json");
    for case in list(&file, "diffie_hellman") {
        exchange(Group::Curve25519, case);
    }
    let function = |scalar: &[u8], u: &[u8]| {
        let key = PrivateKey::import(Group::Curve25519, scalar).unwrap();
        key.agree(u).unwrap().as_bytes().to_vec()
    };
    for case in list(&file, "function") {
        let out = function(&octets(case, "scalar"), &octets(case, "u"));
        assert_eq!(out, octets(case, "out"), "{}", case["id"]);
    }
    for case in list(&file, "iterated") {
        let mut k = vec![0; 32];
        k[0] = 9;
        let mut u = k.clone();
        for _ in 0..case["rounds"].as_u64().unwrap() {
            (k, u) = (function(&k, &u), k);
        }
        assert_eq!(k, octets(case, "k"), "{} rounds", case["rounds"]);
    }
}

//= test IK-26
#[test]
fn wycheproof_x25519() {
    let mut refused = 0;
    for (_, case) in wycheproof("x25519_test.json") {
        let key = PrivateKey::import(Group::Curve25519, &octets(&case, "private")).unwrap();
        let shared = key.agree(&octets(&case, "public"));
        let expected = octets(&case, "shared");
        if expected.iter().all(|octet| *octet == 0) {
            refused += 1;
            assert_eq!(shared, Err(InvalidPublicValue), "{}", case["tcId"]);
        } else {
            assert_eq!(shared.unwrap().as_bytes(), expected, "{}", case["tcId"]);
        }
    }
    println!("{refused} values of small order refused");
}

//= test IK-26
#[test]
fn values_of_small_order_are_refused() {
    let key = PrivateKey::generate(Group::Curve25519, &mut SeededRng::new(1));
    // RFC 7748's curve: 0, 1, p - 1, p, p + 1, and a point of order 8.
    for value in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    ] {
        assert_eq!(key.agree(&hex::decode(value).unwrap()), Err(InvalidPublicValue), "{value}");
    }
}
