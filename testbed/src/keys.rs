//! Keys of SAs that were exported for a second opinion (TV-5), and where they come from.
//!
//! The client's own log: charon prints every key at log level 4. So nothing in the gateway has to be able to tell its
//! keys (I12), and the keys come from code that is not ours. A second source is a file with a line per SA direction:
//!
//! ```text
//!   ike <spi_i> <spi_r> <suite> <sk_ei> <sk_er> <sk_ai or -> <sk_ar or ->
//!   esp <spi> <suite> <encryption key with salt> <integrity key or ->
//! ```
//!
//! All numbers in hex; suites as `crypto::cipher::Protection` prints them (`aes128gcm16`, `aes256-sha256`).

use crate::outcome::{Context, Result};

/// The keys of an IKE SA, both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeKeys {
    pub spi_i: String,
    pub spi_r: String,
    pub suite: String,
    pub sk_ei: String,
    pub sk_er: String,
    pub sk_ai: String,
    pub sk_ar: String,
}

/// The keys of one direction of a child SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspKeys {
    pub spi: String,
    pub suite: String,
    pub encryption: String,
    pub integrity: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    pub ike: Vec<IkeKeys>,
    pub esp: Vec<EspKeys>,
}

/// Reads the line format above.
pub fn read(text: &str) -> Result<Keys> {
    let mut keys = Keys::default();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let word = |at: usize| match words.get(at).copied() {
            Some("-") => Ok(String::new()),
            Some(word) => Ok(word.to_owned()),
            None => Err(format!("too short: {line}")),
        };
        match words.first().copied() {
            Some("ike") => keys.ike.push(IkeKeys {
                spi_i: word(1)?,
                spi_r: word(2)?,
                suite: word(3)?,
                sk_ei: word(4)?,
                sk_er: word(5)?,
                sk_ai: word(6)?,
                sk_ar: word(7)?,
            }),
            Some("esp") => keys.esp.push(EspKeys {
                spi: word(1)?,
                suite: word(2)?,
                encryption: word(3)?,
                integrity: word(4)?,
            }),
            _ => return Err(format!("neither ike nor esp: {line}").into()),
        }
    }
    Ok(keys)
}

/// Finds the keys in the log of a charon that initiated every exchange in it (`Settings::log_keys`).
///
/// The log names no SPIs for IKE keys, so `spis` lists the IKE SAs in the order of their making. A key may be printed
/// among lines of other threads; the thread number in front keeps them apart.
pub fn from_charon(log: &str, spis: &[(String, String)], ike_suite: &str, esp_suite: &str) -> Result<Keys> {
    let lines: Vec<Line<'_>> = log.lines().filter_map(Line::read).collect();
    let dumps = |name: &str| -> Result<Vec<String>> {
        let starts = lines.iter().enumerate().filter(|(_, line)| line.text.starts_with(name));
        starts.map(|(at, _)| dump(&lines[at..])).collect()
    };
    let mut keys = Keys::default();
    let (ei, er) = (dumps("Sk_ei secret =>")?, dumps("Sk_er secret =>")?);
    let (ai, ar) = (dumps("Sk_ai secret =>")?, dumps("Sk_ar secret =>")?);
    if ei.len() != spis.len() || er.len() != spis.len() {
        return Err(format!("{} IKE SAs but keys of {} in the log", spis.len(), ei.len()).into());
    }
    for (at, (spi_i, spi_r)) in spis.iter().enumerate() {
        keys.ike.push(IkeKeys {
            spi_i: spi_i.clone(),
            spi_r: spi_r.clone(),
            suite: ike_suite.to_owned(),
            sk_ei: ei[at].clone(),
            sk_er: er[at].clone(),
            sk_ai: ai.get(at).cloned().unwrap_or_default(),
            sk_ar: ar.get(at).cloned().unwrap_or_default(),
        });
    }
    let encryption = (dumps("encryption initiator key =>")?, dumps("encryption responder key =>")?);
    let integrity = (dumps("integrity initiator key =>")?, dumps("integrity responder key =>")?);
    // What comes in was sealed by the responder, for we initiated.
    let inbound = spis_after(&lines, "adding inbound ESP SA");
    let outbound = spis_after(&lines, "adding outbound ESP SA");
    let esp = |spis: &[String], encryption: &[String], integrity: &[String]| -> Result<Vec<EspKeys>> {
        if spis.len() != encryption.len() {
            return Err(format!("{} ESP SPIs but {} keys in the log", spis.len(), encryption.len()).into());
        }
        let all = spis.iter().zip(encryption).enumerate().map(|(at, (spi, key))| EspKeys {
            spi: spi.clone(),
            suite: esp_suite.to_owned(),
            encryption: key.clone(),
            integrity: integrity.get(at).cloned().unwrap_or_default(),
        });
        Ok(all.collect())
    };
    keys.esp.extend(esp(&inbound, &encryption.1, &integrity.1)?);
    keys.esp.extend(esp(&outbound, &encryption.0, &integrity.0)?);
    Ok(keys)
}

/// A line of the log: who wrote it, and what.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    thread: &'a str,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Line<'a>> {
        let (before, text) = line.split_once(']')?;
        let thread = before.split_whitespace().last()?;
        Some(Line { thread, text: text.trim_start() })
    }
}

/// The octets of a dump: `NAME => COUNT bytes @ ...`, then lines `OFFSET: XX XX ...  text` of the same thread.
fn dump(lines: &[Line<'_>]) -> Result<String> {
    let (first, rest) = lines.split_first().context("an empty log")?;
    let count =
        first.text.rsplit_once("=> ").and_then(|(_, count)| count.split(' ').next()?.parse::<usize>().ok());
    let count = count.context(format!("not a dump: {}", first.text))?;
    let mut octets = String::new();
    for line in rest.iter().filter(|line| line.thread == first.thread) {
        if octets.len() >= 2 * count {
            break;
        }
        let (_, columns) = line.text.split_once(": ").context(format!("not a dump line: {}", line.text))?;
        let wanted = (count - octets.len() / 2).min(16);
        octets.extend(columns.split(' ').take(wanted));
    }
    match octets.len() == 2 * count && octets.bytes().all(|c| c.is_ascii_hexdigit()) {
        true => Ok(octets.to_lowercase()),
        false => Err(format!("a dump of {count} octets is damaged: {octets}").into()),
    }
}

/// The SPIs named in the line after each announcement.
fn spis_after(lines: &[Line<'_>], announcement: &str) -> Vec<String> {
    let starts = lines.iter().enumerate().filter(|(_, line)| line.text.starts_with(announcement));
    starts
        .filter_map(|(at, start)| {
            let next = lines[at + 1..].iter().find(|line| line.thread == start.thread)?;
            let spi = next.text.strip_prefix("SPI 0x")?.split(',').next()?;
            Some(format!("{spi:0>8}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
14[IKE] Sk_ei secret => 20 bytes @ 0x7f226000c200
14[IKE]    0: 13 36 B6 A1 17 C2 A6 D0 9B 57 CB 18 57 E3 CD 33  .6.......W..W..3
09[NET] received packet: from 198.51.100.1[4500] to 198.51.100.10[4500] (243 bytes)
14[IKE]   16: 49 98 BF C4                                      I...
14[IKE] Sk_er secret => 4 bytes @ 0x7f226000c224
14[IKE]    0: 01 02 03 04                                      ....
16[CHD] encryption initiator key => 2 bytes @ 0x7f22540041e0
16[CHD]    0: AA BB                                            ..
16[CHD] encryption responder key => 2 bytes @ 0x7f2254005670
16[CHD]    0: CC DD                                            ..
16[CHD] adding inbound ESP SA
16[CHD]   SPI 0x16cb550, src 198.51.100.1 dst 198.51.100.10
16[CHD] adding outbound ESP SA
16[CHD]   SPI 0x8d111717, src 198.51.100.10 dst 198.51.100.1
";

    #[test]
    fn keys_of_a_client_log() {
        let spis = [("aa".to_owned(), "bb".to_owned())];
        let keys = from_charon(LOG, &spis, "aes128gcm16", "aes256gcm16").unwrap();
        assert_eq!(keys.ike[0].sk_ei, "1336b6a117c2a6d09b57cb1857e3cd334998bfc4");
        assert_eq!(keys.ike[0].sk_er, "01020304");
        let esp: Vec<(&str, &str)> =
            keys.esp.iter().map(|k| (k.spi.as_str(), k.encryption.as_str())).collect();
        assert_eq!(esp, [("016cb550", "ccdd"), ("8d111717", "aabb")]);
        assert!(from_charon(LOG, &[], "", "").is_err());
        assert!(from_charon(&LOG.replace("49 98 BF", "49 98 ZZ"), &spis, "", "").is_err());
    }

    #[test]
    fn keys_of_a_file() {
        let keys = read("ike aa bb aes128gcm16 01 02 - -\nesp 00000100 aes128-sha256 03 04\n").unwrap();
        assert_eq!(keys.ike[0].sk_ai, "");
        assert_eq!(keys.esp[0].integrity, "04");
        for bad in ["ike aa bb", "esp 1 2 3", "else"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
