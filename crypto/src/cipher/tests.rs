//! Known answers and properties of the protections, over both stacks.
//!
//! The known answers with a given nonce go through `stack`, which nobody outside `cipher` can reach.

use proptest::prelude::*;

use super::iv::COUNTER_END;
use super::stack::{Aead, CbcDecrypt, CbcEncrypt, Hmac, Refused, Stack};
use super::*;
use crate::rng::{Rng, SeededRng};
use crate::vectors::{known_answers, list, octets, text, wycheproof};

const STACKS: [Stack; 2] = [Stack::Fast, Stack::Reference];

// Known answers

fn aead_case(cipher: Cipher, key: &[u8], nonce: &[u8], aad: &[u8], plain: &[u8], sealed: &[u8], what: &str) {
    let nonce = nonce.try_into().unwrap();
    let (ciphertext, tag) = sealed.split_at(plain.len());
    for stack in STACKS {
        let aead = Aead::new(stack, cipher, key);
        let mut in_out = plain.to_vec();
        let made = aead.seal(nonce, aad, &mut in_out);
        assert_eq!((&in_out[..], &made[..tag.len()]), (ciphertext, tag), "{what} {stack:?} seal");
        for cut in [0, plain.len() / 3, plain.len()] {
            let mut out = vec![0; plain.len() + 16];
            aead.seal_from(nonce, aad, &plain[..cut], &plain[cut..], &mut out);
            assert_eq!(out[..sealed.len()], *sealed, "{what} {stack:?} seal_from, cut at {cut}");
        }
        assert_eq!(aead.open(nonce, aad, &mut in_out, &made), Ok(()), "{what} {stack:?} open");
        assert_eq!(in_out, plain, "{what} {stack:?} open");
    }
}

#[test]
fn wycheproof_aead() {
    for file in ["aes_gcm_test.json", "chacha20_poly1305_test.json"] {
        let mut tried = 0;
        for (group, case) in wycheproof(file) {
            let cipher = match (file, group["keySize"].as_u64().unwrap()) {
                ("aes_gcm_test.json", 128) => Cipher::AesGcm128,
                ("aes_gcm_test.json", 256) => Cipher::AesGcm256,
                ("chacha20_poly1305_test.json", 256) => Cipher::ChaCha20Poly1305,
                // AES-192 is not offered.
                _ => continue,
            };
            // Neither ESP nor IKEv2 has nonces of other lengths.
            if group["ivSize"] != 96 {
                continue;
            }
            let [key, nonce, aad, plain, ciphertext, tag] =
                ["key", "iv", "aad", "msg", "ct", "tag"].map(|member| octets(&case, member));
            let what = format!("{file} {}", case["tcId"]);
            tried += 1;
            if text(&case, "result") == "valid" {
                aead_case(cipher, &key, &nonce, &aad, &plain, &[ciphertext, tag].concat(), &what);
            } else {
                for stack in STACKS {
                    let opened = Aead::new(stack, cipher, &key).open(
                        nonce[..].try_into().unwrap(),
                        &aad,
                        &mut ciphertext.clone(),
                        &tag[..].try_into().unwrap(),
                    );
                    assert_eq!(opened, Err(Refused), "{what} {stack:?}");
                }
            }
        }
        println!("{file}: {tried} cases");
    }
}

#[test]
fn gcm_specification() {
    for case in list(&known_answers("rfc/gcm-spec-96bit-iv.json"), "tests") {
        let [key, nonce, aad, plain, ciphertext, icv] =
            ["key", "nonce", "aad", "plaintext", "ciphertext", "icv"].map(|member| octets(case, member));
        let cipher = match key.len() {
            16 => Cipher::AesGcm128,
            32 => Cipher::AesGcm256,
            _ => continue,
        };
        // A shorter tag is the front of the long one; the sealing side of the case shows that.
        aead_case(cipher, &key, &nonce, &aad, &plain, &[ciphertext, icv].concat(), text(case, "id"));
    }
}

#[test]
fn rfc_8439_aead() {
    for case in list(&known_answers("rfc/rfc8439-aead.json"), "tests") {
        let [key, nonce, aad, plain, sealed] =
            ["key", "nonce", "aad", "plaintext", "ciphertext_tag"].map(|member| octets(case, member));
        aead_case(Cipher::ChaCha20Poly1305, &key, &nonce, &aad, &plain, &sealed, text(case, "id"));
    }
}

//= test ES-4
#[test]
fn rfc_4106_whole_esp_packets_open_and_their_aad_matters() {
    let mut tried = 0;
    for case in list(&known_answers("rfc/rfc4106-esp-aes-gcm.json"), "tests") {
        let keymat = octets(case, "keymat");
        let cipher = match keymat.len() {
            20 => Cipher::AesGcm128,
            36 => Cipher::AesGcm256,
            _ => continue,
        };
        tried += 1;
        let esn_high =
            (case["esn"] == true).then(|| u32::from_be_bytes(octets(case, "seq_hi").try_into().unwrap()));
        esp_packet_opens(
            aead(cipher),
            &keymat,
            &[],
            esn_high,
            &octets(case, "esp_packet"),
            &octets(case, "plaintext"),
        );
    }
    assert!(tried >= 10, "{tried}");
}

//= test ES-4
#[test]
fn rfc_7634_esp_packet_and_ike_message() {
    let file = known_answers("rfc/rfc7634-chacha20poly1305.json");
    let protection = aead(Cipher::ChaCha20Poly1305);
    let esp = &file["esp"];
    let keymat = octets(esp, "keymat");
    esp_packet_opens(protection, &keymat, &[], None, &octets(esp, "esp_packet"), &octets(esp, "plaintext"));

    let ike = &file["ikev2"];
    let header = octets(ike, "aad").len();
    for stack in STACKS {
        let mut message = octets(ike, "message");
        let key = open_key(stack, protection, &octets(ike, "keymat"), &[]);
        assert_eq!(key.open(None, &mut message, header).unwrap(), octets(ike, "plaintext"), "{stack:?}");
    }
}

/// The packet opens, and nothing of header, IV and extended number may differ.
fn esp_packet_opens(
    protection: Protection,
    encr: &[u8],
    integ: &[u8],
    esn_high: Option<u32>,
    packet: &[u8],
    plain: &[u8],
) {
    for stack in STACKS {
        let key = open_key(stack, protection, encr, integ);
        assert_eq!(key.open(esn_high, &mut packet.to_vec(), 8).unwrap(), plain, "{stack:?}");
        for at in 0..8 + protection.iv_len() {
            let mut changed = packet.to_vec();
            changed[at] ^= 1;
            assert_eq!(
                key.open(esn_high, &mut changed, 8),
                Err(OpenError::Integrity),
                "{stack:?} octet {at}"
            );
        }
        for wrong in [esn_high.map_or(Some(0), |_| None), Some(esn_high.unwrap_or(0) ^ 1)] {
            assert_eq!(
                key.open(wrong, &mut packet.to_vec(), 8),
                Err(OpenError::Integrity),
                "{stack:?} {wrong:?}"
            );
        }
    }
}

#[test]
fn rfc_3602_aes_cbc() {
    let file = known_answers("rfc/rfc3602-aes-cbc.json");
    for case in list(&file, "cbc").iter().chain(list(&file, "esp")) {
        let [key, iv, plain, ciphertext] =
            ["key", "iv", "plaintext", "ciphertext"].map(|member| octets(case, member));
        let iv: [u8; 16] = iv.try_into().unwrap();
        for stack in STACKS {
            let mut in_out = plain.clone();
            CbcEncrypt::new(stack, &key).encrypt(iv, &mut in_out);
            assert_eq!(in_out, ciphertext, "{} {stack:?}", case["id"]);
            CbcDecrypt::new(stack, &key).decrypt(iv, &mut in_out);
            assert_eq!(in_out, plain, "{} {stack:?}", case["id"]);
        }
    }
}

//= test ES-3
#[test]
fn rfc_4868_integrity() {
    let file = known_answers("rfc/rfc4868-hmac-sha2-ipsec.json");
    assert_eq!(list(&file, "auth").len(), 12);
    for case in list(&file, "auth") {
        let key = octets(case, "key");
        let integ = Integ::ALL.into_iter().find(|integ| integ.key_len() == key.len()).unwrap();
        let full = octets(case, "full_hmac");
        assert_eq!(integ.icv_len() as u64, case["icv_length"].as_u64().unwrap());
        assert_eq!(full[..integ.icv_len()], octets(case, "icv"));
        for stack in STACKS {
            let mac = Hmac::new(stack, integ, &key).sign(&octets(case, "data"), &[]);
            assert_eq!(mac[..full.len()], full, "{} {stack:?}", case["id"]);
        }
    }
}

#[test]
fn wycheproof_hmac() {
    for (file, integ) in [
        ("hmac_sha256_test.json", Integ::HmacSha256_128),
        ("hmac_sha384_test.json", Integ::HmacSha384_192),
        ("hmac_sha512_test.json", Integ::HmacSha512_256),
    ] {
        for (_, case) in wycheproof(file) {
            let [key, message, tag] = ["key", "msg", "tag"].map(|member| octets(&case, member));
            for stack in STACKS {
                let (front, back) = message.split_at(message.len() / 2);
                let mac = Hmac::new(stack, integ, &key).sign(front, back);
                let equal = crate::hash::ct_eq(&mac[..tag.len()], &tag);
                assert_eq!(equal, text(&case, "result") == "valid", "{file} {} {stack:?}", case["tcId"]);
            }
        }
    }
}

// Properties

fn aead(cipher: Cipher) -> Protection {
    Protection::new(cipher, None).unwrap()
}

fn open_key(stack: Stack, protection: Protection, encr: &[u8], integ: &[u8]) -> OpenKey {
    match stack {
        Stack::Fast => OpenKey::new(protection, encr, integ),
        Stack::Reference => OpenKey::reference(protection, encr, integ),
    }
    .unwrap()
}

fn seal_key(stack: Stack, keys: &Keys, epoch: u32, seed: u64) -> SealKey {
    let rng = &mut SeededRng::new(seed);
    match stack {
        Stack::Fast => SealKey::new(keys.protection, &keys.encr, &keys.integ, epoch, rng),
        Stack::Reference => SealKey::reference(keys.protection, &keys.encr, &keys.integ, epoch, rng),
    }
    .unwrap()
}

#[derive(Debug)]
struct Keys {
    protection: Protection,
    encr: Vec<u8>,
    integ: Vec<u8>,
}

impl Keys {
    fn random(protection: Protection, rng: &mut dyn Rng) -> Keys {
        Keys {
            protection,
            encr: rng.vec(protection.encr_key_len()),
            integ: rng.vec(protection.integ_key_len()),
        }
    }

    fn open(&self, stack: Stack) -> OpenKey {
        open_key(stack, self.protection, &self.encr, &self.integ)
    }

    /// A message ready to be sealed.
    fn message(&self, header: &[u8], plain: &[u8]) -> Vec<u8> {
        let iv = vec![0xee; self.protection.iv_len()];
        let icv = vec![0xee; self.protection.icv_len()];
        [header, &iv, plain, &icv].concat()
    }
}

#[test]
fn the_legal_pairs_and_their_lengths() {
    let table: Vec<_> = Protection::all()
        .map(|p| (p.to_string(), p.encr_key_len(), p.integ_key_len(), p.iv_len(), p.icv_len(), p.align()))
        .collect();
    let expected = [
        ("aes128gcm16", 20, 0, 8, 16, 4),
        ("aes256gcm16", 36, 0, 8, 16, 4),
        ("chacha20poly1305", 36, 0, 8, 16, 4),
        ("aes128-sha256", 16, 32, 16, 16, 16),
        ("aes128-sha384", 16, 48, 16, 24, 16),
        ("aes128-sha512", 16, 64, 16, 32, 16),
        ("aes256-sha256", 32, 32, 16, 16, 16),
        ("aes256-sha384", 32, 48, 16, 24, 16),
        ("aes256-sha512", 32, 64, 16, 32, 16),
    ]
    .map(|(name, encr, integ, iv, icv, align)| (name.to_string(), encr, integ, iv, icv, align));
    assert_eq!(table, expected);
    assert_eq!(Protection::new(Cipher::AesGcm128, Some(Integ::HmacSha256_128)), None);
    assert_eq!(Protection::new(Cipher::AesCbc128, None), None);
}

#[test]
fn key_material_of_a_wrong_length_is_refused() {
    let rng = &mut SeededRng::new(1);
    for protection in Protection::all() {
        for (encr, integ) in [(-1, 0), (1, 0), (0, -1), (0, 1)] {
            let encr = protection.encr_key_len().checked_add_signed(encr);
            let integ = protection.integ_key_len().checked_add_signed(integ);
            let (Some(encr), Some(integ)) = (encr, integ) else { continue };
            let (encr, integ) = (rng.vec(encr), rng.vec(integ));
            assert_eq!(OpenKey::new(protection, &encr, &integ).unwrap_err(), KeyError::Length);
            assert_eq!(SealKey::new(protection, &encr, &integ, 0, rng).unwrap_err(), KeyError::Length);
            assert_eq!(SealKey::reference(protection, &encr, &integ, 0, rng).unwrap_err(), KeyError::Length);
        }
        let keys = Keys::random(protection, rng);
        assert_eq!(
            SealKey::new(protection, &keys.encr, &keys.integ, 1 << 24, rng).unwrap_err(),
            KeyError::Epoch
        );
    }
}

//= test ES-3
//= test ES-5
//= test ES-6
#[test]
fn every_flipped_bit_is_refused() {
    let rng = &mut SeededRng::new(2);
    for protection in Protection::all() {
        let keys = Keys::random(protection, rng);
        for stack in STACKS {
            let mut message = keys.message(&rng.vec(8), &rng.vec(48));
            seal_key(stack, &keys, 3, 4).seal(Some(5), &mut message, 8).unwrap();
            let open = keys.open(stack);
            for bit in 0..message.len() * 8 {
                let mut changed = message.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let opened = open.open(Some(5), &mut changed, 8);
                assert_eq!(opened, Err(OpenError::Integrity), "{protection} {stack:?} bit {bit}");
            }
            for bit in 0..32 {
                let opened = open.open(Some(5 ^ (1 << bit)), &mut message.clone(), 8).is_ok();
                assert!(!opened, "{protection} {stack:?} bit {bit} of the extended number");
            }
            assert!(open.open(Some(5), &mut message, 8).is_ok());
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let rng = &mut SeededRng::new(3);
    for protection in Protection::all() {
        let keys = Keys::random(protection, rng);
        let mut message = keys.message(&rng.vec(8), &rng.vec(32));
        seal_key(Stack::Fast, &keys, 1, 2).seal(None, &mut message, 8).unwrap();
        for stack in STACKS {
            for len in 0..message.len() {
                assert!(
                    keys.open(stack).open(None, &mut message[..len].to_vec(), 8).is_err(),
                    "{protection} {len}"
                );
            }
        }
    }
}

#[test]
fn an_authentic_message_that_is_no_whole_blocks_is_refused() {
    let rng = &mut SeededRng::new(4);
    for protection in Protection::all().filter(|protection| !protection.is_aead()) {
        let keys = Keys::random(protection, rng);
        for stack in STACKS {
            let mut message = keys.message(&rng.vec(8), &rng.vec(31));
            let authentic = message.len() - protection.icv_len();
            let mac =
                Hmac::new(stack, protection.integ().unwrap(), &keys.integ).sign(&message[..authentic], &[]);
            message[authentic..].copy_from_slice(&mac[..protection.icv_len()]);
            assert_eq!(keys.open(stack).open(None, &mut message, 8), Err(OpenError::Layout));
        }
    }
}

#[test]
fn buffers_that_do_not_fit_are_refused_before_an_iv_is_taken() {
    let rng = &mut SeededRng::new(5);
    for protection in Protection::all() {
        let keys = Keys::random(protection, rng);
        let mut key = seal_key(Stack::Fast, &keys, 0, 0);
        let overhead = 8 + protection.iv_len() + protection.icv_len();
        assert_eq!(key.seal(None, &mut vec![0; overhead - 1], 8), Err(SealError::Layout));
        assert_eq!(key.seal(Some(1), &mut vec![0; overhead + 32], 9), Err(SealError::Layout));
        for len in [31, 33] {
            let refused = key.seal_from(None, &mut vec![0; overhead + 32], 8, &vec![0; len - 2], &[0; 2]);
            assert_eq!(refused, Err(SealError::Layout));
        }
        if !protection.is_aead() {
            assert_eq!(key.seal(None, &mut vec![0; overhead + 31], 8), Err(SealError::Layout));
        }
        assert_eq!(key.sealed(), 0);
    }
}

//= test AL-2
//= test AL-3
#[test]
fn the_iv_counts_up_and_sealing_stops_at_its_end() {
    let rng = &mut SeededRng::new(6);
    for protection in Protection::all() {
        let keys = Keys::random(protection, rng);
        for stack in STACKS {
            let mut key = seal_key(stack, &keys, 0x00ab_cdef, 1);
            let mut ivs = Vec::new();
            for from in [0, 1 << 32, COUNTER_END - 2] {
                key.skip_to(from);
                for _ in 0..2 {
                    let mut message = keys.message(&[0; 8], &[0; 16]);
                    key.seal(None, &mut message, 8).unwrap();
                    ivs.push(message[8..8 + protection.iv_len()].to_vec());
                }
            }
            if protection.is_aead() {
                let counters =
                    ["0000000000", "0000000001", "0100000000", "0100000001", "fffffffffe", "ffffffffff"];
                let expected: Vec<_> = counters.map(|c| hex::decode(format!("abcdef{c}")).unwrap()).into();
                assert_eq!(ivs, expected, "{protection} {stack:?}");
            } else {
                ivs.sort();
                ivs.dedup();
                assert_eq!(ivs.len(), 6, "{protection} {stack:?}");
            }
            let plain = [0; 16];
            for _ in 0..2 {
                let mut message = keys.message(&[0; 8], &plain);
                assert_eq!(key.seal(None, &mut message, 8), Err(SealError::Exhausted));
                let mut message = keys.message(&[0; 8], &plain);
                assert_eq!(key.seal_from(None, &mut message, 8, &plain, &[]), Err(SealError::Exhausted));
            }
            assert_eq!(key.sealed(), SealKey::LIMIT);
        }
    }
}

#[test]
fn cbc_ivs_come_from_the_random_source() {
    let rng = &mut SeededRng::new(7);
    for protection in Protection::all().filter(|protection| !protection.is_aead()) {
        let keys = Keys::random(protection, rng);
        let ivs = |seed| {
            let mut key = seal_key(Stack::Fast, &keys, 0, seed);
            let sealed = |_| {
                let mut message = keys.message(&[0; 8], &[0; 16]);
                key.seal(None, &mut message, 8).unwrap();
                message[8..24].to_vec()
            };
            (0..200).map(sealed).collect::<Vec<_>>()
        };
        let mut all = [ivs(1), ivs(2)].concat();
        assert_eq!(ivs(1), all[..200]);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 400);
    }
}

#[test]
fn keys_print_no_keys() {
    let keys = Keys::random(aead(Cipher::AesGcm128), &mut SeededRng::new(8));
    assert_eq!(format!("{:?}", seal_key(Stack::Fast, &keys, 0, 0)), "SealKey(aes128gcm16, 0 sealed)");
    assert_eq!(format!("{:?}", keys.open(Stack::Reference)), "OpenKey(aes128gcm16)");
}

fn protections() -> impl Strategy<Value = Protection> {
    prop::sample::select(Protection::all().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn both_stacks_make_the_same_octets_and_open_each_others(
        protection in protections(),
        seed: u64,
        epoch in 0u32..1 << 24,
        esn_high: Option<u32>,
        header_len in 0usize..40,
        units in 0usize..200,
        trailer_len in 0usize..=16,
    ) {
        let rng = &mut SeededRng::new(seed);
        let keys = Keys::random(protection, rng);
        let header = rng.vec(if esn_high.is_some() { 8 } else { header_len });
        let plain = rng.vec(units * protection.align());
        let (inner, trailer) = plain.split_at(plain.len().saturating_sub(trailer_len));
        let mut sealed = Vec::new();
        for stack in STACKS {
            let mut in_place = keys.message(&header, &plain);
            seal_key(stack, &keys, epoch, seed).seal(esn_high, &mut in_place, header.len()).unwrap();
            let mut from = keys.message(&header, &vec![0xee; plain.len()]);
            seal_key(stack, &keys, epoch, seed)
                .seal_from(esn_high, &mut from, header.len(), inner, trailer)
                .unwrap();
            sealed.extend([in_place, from]);
        }
        prop_assert!(sealed.windows(2).all(|pair| pair[0] == pair[1]));
        prop_assert_eq!(&sealed[0][..header.len()], &header[..]);
        for stack in STACKS {
            let mut message = sealed[0].clone();
            prop_assert_eq!(&*keys.open(stack).open(esn_high, &mut message, header.len()).unwrap(), &plain[..]);
        }
    }

    //= test AL-2
    #[test]
    fn no_two_messages_of_one_key_share_an_iv(
        cipher in prop::sample::select(Cipher::ALL.into_iter().filter(|cipher| cipher.is_aead()).collect::<Vec<_>>()),
        epochs in prop::collection::hash_set(0u32..1 << 24, 2..5),
        messages in 1usize..20,
    ) {
        let keys = Keys::random(aead(cipher), &mut SeededRng::new(1));
        let mut ivs = Vec::new();
        for epoch in &epochs {
            let mut key = seal_key(Stack::Fast, &keys, *epoch, 0);
            for turn in 0..messages {
                let mut message = keys.message(&[0; 8], &[0; 4]);
                if turn % 2 == 0 {
                    key.seal(None, &mut message, 8).unwrap();
                } else {
                    key.seal_from(None, &mut message, 8, &[0; 2], &[0; 2]).unwrap();
                }
                ivs.push(message[8..16].to_vec());
            }
        }
        ivs.sort();
        ivs.dedup();
        prop_assert_eq!(ivs.len(), epochs.len() * messages);
    }

    #[test]
    fn no_octets_make_open_panic_or_succeed(
        protection in protections(),
        mut message in prop::collection::vec(any::<u8>(), 0..200),
        header in 0usize..210,
        esn_high: Option<u32>,
    ) {
        let keys = Keys::random(protection, &mut SeededRng::new(1));
        for stack in STACKS {
            prop_assert!(keys.open(stack).open(esn_high, &mut message, header).is_err());
        }
    }
}
