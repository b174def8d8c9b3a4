//! Whole packets of others through the open path: the child is installed with the vector's keys and number.

use super::*;
use serde_json::Value;

fn load(name: &str) -> Option<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors/rfc/").to_owned() + name;
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).unwrap()),
        Err(_) => {
            println!("skipped: {name} is not there");
            None
        }
    }
}

fn octets(value: &Value, field: &str) -> Vec<u8> {
    hex::decode(value[field].as_str().unwrap_or_else(|| panic!("{field}"))).unwrap()
}

/// A table that expects the packet of `case`, whose SPIs are too low for us: both SPI and its place are checked
/// by the AEAD, so they cannot be changed. Segment 0 has SPIs from 256 on.
fn receiver(case: &Value, protection: Protection, keymat: &[u8], integ: &[u8]) -> Table {
    let word = |field| u64::from_str_radix(case[field].as_str().unwrap(), 16).unwrap();
    let esn = case["esn"].as_bool().unwrap_or(false);
    let low = word(if case["seq_lo"].is_string() { "seq_lo" } else { "seq" });
    let number = if esn { (word("seq_hi") << 32) | low } else { low };
    let spi_in = ChildSpi(word("spi") as u32);
    let mut table = Table::new();
    table.serve(spi_in.segment(), EPOCH).unwrap();
    let mut record = child(suite(protection, esn), 1);
    record.keys.encr_in = Secret::from(keymat.to_vec());
    record.keys.integ_in = Secret::from(integ.to_vec());
    record.spi_in = spi_in;
    record.local_ts = vec![net("0.0.0.0/0"), net("::/0")];
    record.remote_ts = record.local_ts.clone();
    let replay = Replay::After(EspSeq(number - 1));
    table.install(Install { replay, ..install(record, path()) }, &mut SeededRng::new(1)).unwrap();
    table
}

fn deliver(table: &mut Table, mut packet: Vec<u8>) -> Result<Vec<u8>, DropReason> {
    let arrival = Arrival { range: 0..packet.len(), peer: path().peer, tos: 0 };
    let origin = Origin { local: path().local, udp: true };
    let mut delivered = None;
    table.open(NOW, origin, &mut packet, &[arrival], &mut |arena, inner| {
        delivered = Some(arena[inner].to_vec());
    });
    let drops = table.drops();
    delivered.ok_or_else(|| DropReason::ALL.into_iter().find(|&reason| drops.of(reason) > 0).unwrap())
}

//= test ES-4
#[test]
fn rfc_4106() {
    let Some(file) = load("rfc4106-esp-aes-gcm.json") else { return };
    let mut opened = 0;
    for case in file["tests"].as_array().unwrap() {
        let cipher = match case["key_bits"].as_u64() {
            Some(128) => Cipher::AesGcm128,
            Some(256) => Cipher::AesGcm256,
            _ => continue,
        };
        // A reserved SPI is never installed, so its packet is no one's.
        if u32::from_str_radix(case["spi"].as_str().unwrap(), 16).unwrap() < ChildSpi::FIRST {
            continue;
        }
        let protection = Protection::new(cipher, None).unwrap();
        let mut table = receiver(case, protection, &octets(case, "keymat"), &[]);
        // They open, since the integrity value is right; then the next header 1 is none of a tunnel.
        let reason = deliver(&mut table, octets(case, "esp_packet")).unwrap_err();
        let id = &case["id"];
        assert!(
            matches!(reason, DropReason::NextHeader | DropReason::Dummy | DropReason::Malformed),
            "{id}: {reason:?}"
        );
        if case["next_header"] == 1 && case["pad_length"].as_u64() < Some(4) {
            assert_eq!(reason, DropReason::NextHeader, "{id}");
        }
        let mut forged = octets(case, "esp_packet");
        *forged.last_mut().unwrap() ^= 1;
        let mut table = receiver(case, protection, &octets(case, "keymat"), &[]);
        assert_eq!(deliver(&mut table, forged), Err(DropReason::Integrity), "{id}");
        opened += 1;
    }
    assert!(opened >= 10, "{opened}");
}

//= test ES-4
#[test]
fn rfc_7634() {
    let Some(file) = load("rfc7634-chacha20poly1305.json") else { return };
    let case = &file["esp"];
    let protection = Protection::new(Cipher::ChaCha20Poly1305, None).unwrap();
    let mut table = receiver(case, protection, &octets(case, "keymat"), &[]);
    assert_eq!(deliver(&mut table, octets(case, "esp_packet")), Ok(octets(case, "inner_packet")));
}

/// The packets of RFC 3602 have no integrity value; one is added, so that the whole path is walked.
//= test ES-6
#[test]
fn rfc_3602() {
    let Some(file) = load("rfc3602-aes-cbc.json") else { return };
    let text = file.to_string();
    assert!(text.contains("tunnel"));
    let integ = Integ::HmacSha256_128;
    let protection = Protection::new(Cipher::AesCbc128, Some(integ)).unwrap();
    let mut opened = 0;
    let cases = file.as_object().unwrap().values().filter_map(Value::as_array).flatten();
    for case in cases.filter(|case| case["mode"] == "tunnel") {
        let mac_key = [7; 32];
        let mut packet = octets(case, "esp_packet");
        let mac = crypto::prf::Prf::HmacSha256.prf(&mac_key, &[&packet]);
        packet.extend(&mac.as_bytes()[..16]);
        let mut table = receiver(case, protection, &octets(case, "key"), &mac_key);
        let inner = [octets(case, "original_ipv4_header"), octets(case, "original_data")].concat();
        assert_eq!(deliver(&mut table, packet), Ok(inner), "{}", case["id"]);
        opened += 1;
    }
    assert_eq!(opened, 2);
}
