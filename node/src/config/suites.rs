//! Proposals in swanctl's words: `aes256gcm16-prfsha384-ecp384`, `aes128-aes256-sha256-modp2048`, `modern`.
//!
//! Several algorithms of one kind in a proposal mean each of them; the result is every combination, in the order in
//! which they are written. Algorithms that are sound but not built, and those that are too weak, are told apart.

use crypto::cipher::{Cipher, Integ, Protection};
use crypto::kex::Group;
use crypto::prf::Prf;
use ipsec::policy::{EspProposal, IkeProposal};

use super::reader::nearest;

/// (what is wrong, what to write).
pub type Wrong = (String, String);

const CIPHERS: &[(&str, Cipher)] = &[
    ("aes256gcm16", Cipher::AesGcm256),
    ("aes128gcm16", Cipher::AesGcm128),
    ("aes256gcm128", Cipher::AesGcm256),
    ("aes128gcm128", Cipher::AesGcm128),
    ("aes256gcm", Cipher::AesGcm256),
    ("aes128gcm", Cipher::AesGcm128),
    ("chacha20poly1305", Cipher::ChaCha20Poly1305),
    ("aes256", Cipher::AesCbc256),
    ("aes128", Cipher::AesCbc128),
];
const INTEGS: &[(&str, Integ)] = &[
    ("sha256", Integ::HmacSha256_128),
    ("sha2_256", Integ::HmacSha256_128),
    ("sha384", Integ::HmacSha384_192),
    ("sha2_384", Integ::HmacSha384_192),
    ("sha512", Integ::HmacSha512_256),
    ("sha2_512", Integ::HmacSha512_256),
];
const PRFS: &[(&str, Prf)] =
    &[("prfsha256", Prf::HmacSha256), ("prfsha384", Prf::HmacSha384), ("prfsha512", Prf::HmacSha512)];
const GROUPS: &[(&str, Group)] = &[
    ("x25519", Group::Curve25519),
    ("curve25519", Group::Curve25519),
    ("ecp256", Group::Ecp256),
    ("ecp384", Group::Ecp384),
    ("modp2048", Group::Modp2048),
    ("modp3072", Group::Modp3072),
    ("modp4096", Group::Modp4096),
];
/// Sound, known to swanctl, not built.
const LATER: &[&str] = &[
    "aes192",
    "aes192gcm16",
    "aes192gcm128",
    "aes192gcm",
    "aes128gcm8",
    "aes128gcm64",
    "aes128gcm12",
    "aes128gcm96",
    "aes192gcm8",
    "aes192gcm12",
    "aes256gcm8",
    "aes256gcm64",
    "aes256gcm12",
    "aes256gcm96",
    "aes128ccm16",
    "aes192ccm16",
    "aes256ccm16",
    "aes128ctr",
    "aes192ctr",
    "aes256ctr",
    "camellia128",
    "camellia192",
    "camellia256",
    "aesxcbc",
    "aescmac",
    "prfaesxcbc",
    "prfaescmac",
    "ecp521",
    "modp6144",
    "modp8192",
    "curve448",
    "x448",
    "ecp256bp",
    "ecp384bp",
    "ecp512bp",
    "mlkem512",
    "mlkem768",
    "mlkem1024",
    "ke1_mlkem512",
    "ke1_mlkem768",
    "ke1_mlkem1024",
    "sha256_96",
];
/// What must not protect anything today (RFC 8247, RFC 8221).
const WEAK: &[&str] = &[
    "3des",
    "des",
    "blowfish128",
    "blowfish",
    "cast128",
    "null",
    "md5",
    "sha1",
    "sha",
    "prfmd5",
    "prfsha1",
    "modp768",
    "modp1024",
    "modp1536",
    "modp1024s160",
    "modp2048s224",
    "modp2048s256",
    "ecp192",
    "ecp224",
    "sha1_160",
    "md5_128",
];

/// The protections that every profile of ours accepts, best first (IN-1).
const MODERN: &[(Cipher, Option<Integ>)] = &[
    (Cipher::AesGcm256, None),
    (Cipher::AesGcm128, None),
    (Cipher::ChaCha20Poly1305, None),
    (Cipher::AesCbc256, Some(Integ::HmacSha256_128)),
    (Cipher::AesCbc256, Some(Integ::HmacSha384_192)),
    (Cipher::AesCbc256, Some(Integ::HmacSha512_256)),
    (Cipher::AesCbc128, Some(Integ::HmacSha256_128)),
    (Cipher::AesCbc128, Some(Integ::HmacSha384_192)),
    (Cipher::AesCbc128, Some(Integ::HmacSha512_256)),
];

fn modern_protections() -> impl Iterator<Item = Protection> {
    MODERN.iter().filter_map(|(cipher, integ)| Protection::new(*cipher, *integ))
}

/// The default for IKE: IN-1, in its order.
//= IN-1
pub fn modern_ike() -> Vec<IkeProposal> {
    const PRF_ORDER: [Prf; 3] = [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];
    const GROUP_ORDER: [Group; 6] =
        [Group::Curve25519, Group::Ecp256, Group::Ecp384, Group::Modp2048, Group::Modp3072, Group::Modp4096];
    modern_protections()
        .flat_map(|protection| PRF_ORDER.map(|prf| (protection, prf)))
        .flat_map(|(protection, prf)| GROUP_ORDER.map(|group| IkeProposal { protection, prf, group }))
        .collect()
}

/// The default for ESP: the same protections; perfect forward secrecy and ESN as the peer likes.
pub fn modern_esp() -> Vec<EspProposal> {
    modern_protections().map(|protection| EspProposal { protection, group: None, esn: None }).collect()
}

/// One entry of `ike = [...]`.
pub fn ike(text: &str) -> Result<Vec<IkeProposal>, Wrong> {
    if text == "modern" {
        return Ok(modern_ike());
    }
    let words = Words::read(text)?;
    if words.esn.is_some() {
        return Err(("an IKE proposal has no esn".to_owned(), "esn goes into esp = [...]".to_owned()));
    }
    // As swanctl does: an integrity algorithm that nothing else needs names the PRF.
    let prfs = if words.prfs.is_empty() {
        words.integs.iter().map(|integ| prf_of(*integ)).collect()
    } else {
        words.prfs.clone()
    };
    if prfs.is_empty() {
        return Err((
            format!("{text:?} has no pseudo-random function"),
            format!("add one: {text}-prfsha256"),
        ));
    }
    if words.groups.is_empty() {
        return Err((format!("{text:?} has no key exchange"), format!("add one: {text}-x25519")));
    }
    let mut proposals = Vec::new();
    for protection in words.protections(true)? {
        for &prf in &prfs {
            for &group in &words.groups {
                proposals.push(IkeProposal { protection, prf, group });
            }
        }
    }
    Ok(proposals)
}

/// One entry of `esp = [...]`.
pub fn esp(text: &str) -> Result<Vec<EspProposal>, Wrong> {
    if text == "modern" {
        return Ok(modern_esp());
    }
    let words = Words::read(text)?;
    if !words.prfs.is_empty() {
        return Err((
            "an ESP proposal has no pseudo-random function".to_owned(),
            "it goes into ike = [...] of the connection".to_owned(),
        ));
    }
    let groups: Vec<Option<Group>> =
        if words.groups.is_empty() { vec![None] } else { words.groups.iter().copied().map(Some).collect() };
    let mut proposals = Vec::new();
    for protection in words.protections(false)? {
        for &group in &groups {
            proposals.push(EspProposal { protection, group, esn: words.esn.flatten() });
        }
    }
    Ok(proposals)
}

/// The words for an IKE suite, as `ike` reads them.
pub fn ike_in_words(protection: Protection, prf: Prf, group: Group) -> String {
    format!("{protection}-{}-{}", word_of(PRFS, prf), word_of(GROUPS, group))
}

/// The words for a child's suite, as `esp` reads them.
pub fn esp_in_words(protection: Protection, group: Option<Group>, esn: bool) -> String {
    let group = group.map(|group| format!("-{}", word_of(GROUPS, group))).unwrap_or_default();
    format!("{protection}{group}{}", if esn { "-esn" } else { "" })
}

/// A proposal taken apart.
#[derive(Default)]
struct Words {
    text: String,
    ciphers: Vec<Cipher>,
    integs: Vec<Integ>,
    prfs: Vec<Prf>,
    groups: Vec<Group>,
    /// `Some(None)`: both are written.
    esn: Option<Option<bool>>,
}

impl Words {
    fn read(text: &str) -> Result<Words, Wrong> {
        let mut words = Words { text: text.to_owned(), ..Words::default() };
        for word in text.split('-') {
            if let Some(cipher) = find(CIPHERS, word) {
                words.ciphers.push(cipher);
            } else if let Some(integ) = find(INTEGS, word) {
                words.integs.push(integ);
            } else if let Some(prf) = find(PRFS, word) {
                words.prfs.push(prf);
            } else if let Some(group) = find(GROUPS, word) {
                words.groups.push(group);
            } else if let Some(esn) = find(&[("esn", true), ("noesn", false)], word) {
                words.esn = match words.esn {
                    None => Some(Some(esn)),
                    Some(Some(before)) if before == esn => Some(Some(esn)),
                    Some(_) => Some(None),
                };
            } else {
                return Err(unknown(word));
            }
        }
        Ok(words)
    }

    /// `prf_from_integ`: in IKE an integrity algorithm beside an AEAD names the PRF.
    fn protections(&self, prf_from_integ: bool) -> Result<Vec<Protection>, Wrong> {
        let text = &self.text;
        let (aead, cbc): (Vec<Cipher>, Vec<Cipher>) =
            self.ciphers.iter().partition(|cipher| cipher.is_aead());
        match (aead.is_empty(), cbc.is_empty(), self.integs.is_empty()) {
            (true, true, _) => {
                Err((format!("{text:?} has no encryption"), format!("put one in front: aes256gcm16-{text}")))
            }
            (false, false, _) => Err((
                format!("{text:?} mixes algorithms with and without an integrity of their own"),
                "write two proposals: RFC 7296, 3.3 allows no such mixture".to_owned(),
            )),
            (true, false, true) => Err((
                format!("{text:?} has no integrity algorithm"),
                "aes128 and aes256 mean CBC, which needs one: add sha256, or write aes256gcm16".to_owned(),
            )),
            (false, true, false) if !prf_from_integ => Err((
                format!("{text:?} has an integrity algorithm too many"),
                "AES-GCM and ChaCha20-Poly1305 bring their own: leave it out".to_owned(),
            )),
            (false, true, _) => Ok(aead.iter().filter_map(|cipher| Protection::new(*cipher, None)).collect()),
            (true, false, false) => Ok(cbc
                .iter()
                .flat_map(|cipher| {
                    self.integs.iter().filter_map(|integ| Protection::new(*cipher, Some(*integ)))
                })
                .collect()),
        }
    }
}

fn unknown(word: &str) -> Wrong {
    let strong = "strong ones are aes256gcm16, aes128gcm16, chacha20poly1305, aes256-sha256, prfsha256, x25519, ecp256, ecp384, modp2048";
    if LATER.contains(&word) {
        return (format!("{word} is not built yet"), strong.to_owned());
    }
    if WEAK.contains(&word) {
        return (format!("{word} is too weak and is not offered"), strong.to_owned());
    }
    let known = CIPHERS.iter().map(|(word, _)| *word).chain(INTEGS.iter().map(|(word, _)| *word));
    let known = known.chain(PRFS.iter().map(|(word, _)| *word)).chain(GROUPS.iter().map(|(word, _)| *word));
    let help = match nearest(word, known.chain(["modern", "esn", "noesn"])) {
        Some(near) => format!("did you mean {near}?"),
        None => strong.to_owned(),
    };
    (format!("{word:?} is no algorithm"), help)
}

fn prf_of(integ: Integ) -> Prf {
    match integ {
        Integ::HmacSha256_128 => Prf::HmacSha256,
        Integ::HmacSha384_192 => Prf::HmacSha384,
        Integ::HmacSha512_256 => Prf::HmacSha512,
    }
}

fn find<T: Copy>(table: &[(&str, T)], word: &str) -> Option<T> {
    table.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
}

fn word_of<T: Copy + PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, known)| *known == value).map_or("?", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swanctls_words_for_ike() {
        for (text, expected) in [
            ("aes256gcm16-prfsha384-ecp384", vec!["aes256gcm16-prfsha384-ecp384"]),
            ("aes128gcm16-prfsha256-x25519", vec!["aes128gcm16-prfsha256-x25519"]),
            ("aes256gcm128-sha384-ecp384", vec!["aes256gcm16-prfsha384-ecp384"]),
            ("aes256-sha256-modp2048", vec!["aes256-sha256-prfsha256-modp2048"]),
            ("aes128-sha256-prfsha512-curve25519", vec!["aes128-sha256-prfsha512-x25519"]),
            (
                "aes256-aes128-sha256-ecp256-modp3072",
                vec![
                    "aes256-sha256-prfsha256-ecp256",
                    "aes256-sha256-prfsha256-modp3072",
                    "aes128-sha256-prfsha256-ecp256",
                    "aes128-sha256-prfsha256-modp3072",
                ],
            ),
        ] {
            let words: Vec<String> = ike(text)
                .unwrap()
                .into_iter()
                .map(|suite| ike_in_words(suite.protection, suite.prf, suite.group))
                .collect();
            assert_eq!(words, expected, "{text}");
        }
    }

    #[test]
    fn swanctls_words_for_esp() {
        for (text, count, group, esn) in [
            ("aes128gcm16", 1, None, None),
            ("chacha20poly1305-esn", 1, None, Some(true)),
            ("aes256-sha256-modp2048-noesn", 1, Some(Group::Modp2048), Some(false)),
            ("aes128-sha256-sha512-esn-noesn", 2, None, None),
        ] {
            let suites = esp(text).unwrap();
            assert_eq!(suites.len(), count, "{text}");
            assert_eq!((suites[0].group, suites[0].esn), (group, esn), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_proposal() {
        for (text, in_ike, complaint) in [
            ("aes256gcm16-ecp384", true, "no pseudo-random function"),
            ("aes256gcm16-prfsha384", true, "no key exchange"),
            ("prfsha384-ecp384", true, "no encryption"),
            ("aes256-prfsha256-ecp384", true, "no integrity"),
            ("aes256gcm16-aes128-sha256-ecp256", true, "mixes"),
            ("aes256gcm16-sha256", false, "too many"),
            ("aes256gcm16-prfsha256", false, "no pseudo-random function"),
            ("aes256gcm16-prfsha256-x25519-esn", true, "no esn"),
            ("3des-sha256-modp2048", true, "too weak"),
            ("aes256-sha256-modp1024", true, "too weak"),
            ("aes192-sha256-modp2048", true, "not built yet"),
            ("aes256gmc16-prfsha256-x25519", true, "is no algorithm"),
            ("", true, "is no algorithm"),
            ("--", false, "is no algorithm"),
        ] {
            let (what, _) = if in_ike { ike(text).unwrap_err() } else { esp(text).unwrap_err() };
            assert!(what.contains(complaint), "{text}: {what}");
        }
        assert_eq!(esp("aes256gmc16").unwrap_err().1, "did you mean aes256gcm16?");
    }

    //= test IN-1
    #[test]
    fn modern_is_the_list_that_serves_all_clients() {
        let ike = modern_ike();
        assert_eq!(ike.len(), 9 * 3 * 6);
        let first = ike[0];
        assert_eq!(ike_in_words(first.protection, first.prf, first.group), "aes256gcm16-prfsha256-x25519");
        let apple = super::ike("aes256-sha256-modp2048").unwrap()[0];
        assert!(ike.contains(&apple));
        assert_eq!(modern_esp().len(), 9);
        let mut unique: Vec<String> =
            ike.iter().map(|suite| ike_in_words(suite.protection, suite.prf, suite.group)).collect();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), ike.len());
    }
}
