//! tshark as a second opinion (TV-5): with the keys of the client it decodes our IKE and ESP and judges every
//! integrity value, by code that is not ours.
//!
//! Limits of tshark 4.0: no ChaCha20-Poly1305 and no extended sequence numbers. A suite that it cannot judge is refused
//! here, so that a test cannot pass by judging nothing.

use std::path::Path;
use std::process::Command;

use crate::checkers::Report;
use crate::keys::{EspKeys, IkeKeys, Keys};
use crate::outcome::{Context, Result};
use crate::world::exec;

/// What tshark made of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opinion {
    /// Encrypted IKE messages, and ESP packets: those with a right integrity value in `judged`, the rest explained.
    pub ike: Report,
    pub esp: Report,
}

/// Decodes the capture with the keys. Everything encrypted in it must be decodable with them.
pub fn judge(capture: &Path, keys: &Keys) -> Result<Opinion> {
    exec::require("tshark")?;
    Ok(Opinion { ike: judge_ike(capture, &keys.ike)?, esp: judge_esp(capture, &keys.esp)? })
}

fn judge_ike(capture: &Path, keys: &[IkeKeys]) -> Result<Report> {
    let mut command = tshark(capture);
    for key in keys {
        let (encryption, integrity) = ike_words(&key.suite)?;
        command.arg("-o").arg(format!(
            "uat:ikev2_decryption_table:{},{},{},{},\"{encryption}\",{},{},\"{integrity}\"",
            key.spi_i,
            key.spi_r,
            key.sk_ei,
            key.sk_er,
            quoted_or_bare(&key.sk_ai),
            quoted_or_bare(&key.sk_ar),
        ));
    }
    command.args(["-Y", "isakmp.enc.data", "-T", "fields", "-E", "separator=|"]);
    for field in ["frame.number", "isakmp.enc.decrypted", "_ws.expert.message"] {
        command.args(["-e", field]);
    }
    let mut report = Report::default();
    for line in exec::run(&mut command)?.lines() {
        let mut fields = line.split('|');
        let (frame, decrypted, expert) =
            (fields.next().unwrap_or(""), fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        if decrypted.is_empty() {
            report.violations.push(format!("IKE message in frame {frame} could not be decoded"));
        } else if expert.contains("incorrect") {
            report.violations.push(format!("IKE message in frame {frame}: {expert}"));
        } else {
            report.judged += 1;
        }
    }
    Ok(report)
}

fn judge_esp(capture: &Path, keys: &[EspKeys]) -> Result<Report> {
    let mut command = tshark(capture);
    command.args(["-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"]);
    for key in keys {
        let (encryption, integrity) = esp_words(&key.suite)?;
        let integrity_key =
            if key.integrity.is_empty() { String::new() } else { format!("0x{}", key.integrity) };
        command.arg("-o").arg(format!(
            "uat:esp_sa:\"IPv4\",\"*\",\"*\",\"0x{}\",\"{encryption}\",\"0x{}\",\"{integrity}\",\"{integrity_key}\"",
            key.spi, key.encryption,
        ));
    }
    command.args(["-Y", "esp", "-T", "fields", "-E", "separator=|"]);
    for field in ["frame.number", "esp.spi", "esp.icv_good", "esp.protocol"] {
        command.args(["-e", field]);
    }
    let mut report = Report::default();
    for line in exec::run(&mut command)?.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        match fields.as_slice() {
            // Next header 4 and 41: tunnelled IPv4 and IPv6; 59 is a dummy (RFC 4303, 2.6).
            [_, _, "1", "0x04" | "0x29" | "0x3b" | "4" | "41" | "59"] => report.judged += 1,
            [frame, spi, "1", protocol] => {
                report.violations.push(format!("ESP frame {frame} of {spi}: next header {protocol}"));
            }
            [frame, spi, good, _] => {
                report
                    .violations
                    .push(format!("ESP frame {frame} of {spi}: integrity value good = {good:?}"));
            }
            _ => report.violations.push(format!("tshark said {line:?}")),
        }
    }
    Ok(report)
}

fn tshark(capture: &Path) -> Command {
    let mut command = Command::new("tshark");
    // No names, and none of the user's own settings. A TCP stream that tshark cannot reassemble would end its work on
    // the packet before it comes to the integrity value.
    command.args(["-n", "-C", "Default", "--disable-protocol", "tcp", "-r"]).arg(capture);
    command
}

fn quoted_or_bare(key: &str) -> &str {
    if key.is_empty() { "\"\"" } else { key }
}

/// tshark's names for what protects IKE.
fn ike_words(suite: &str) -> Result<(String, &'static str)> {
    Ok(match suite.split_once('-') {
        None => {
            let bits = suite.strip_prefix("aes").and_then(|rest| rest.strip_suffix("gcm16"));
            let bits = bits.context(format!("tshark does not know {suite} in IKE"))?;
            (format!("AES-GCM-{bits} with 16 octet ICV [RFC5282]"), "NONE [RFC4306]")
        }
        Some((cipher, integrity)) => {
            let bits = cipher.strip_prefix("aes").context(format!("tshark does not know {suite} in IKE"))?;
            let integrity = match integrity {
                "sha256" => "HMAC_SHA2_256_128 [RFC4868]",
                "sha384" => "HMAC_SHA2_384_192 [RFC4868]",
                "sha512" => "HMAC_SHA2_512_256 [RFC4868]",
                other => return Err(format!("tshark does not know {other} in IKE").into()),
            };
            (format!("AES-CBC-{bits} [RFC3602]"), integrity)
        }
    })
}

/// tshark's names for what protects ESP.
fn esp_words(suite: &str) -> Result<(&'static str, &'static str)> {
    Ok(match suite {
        "aes128gcm16" | "aes256gcm16" => ("AES-GCM with 16 octet ICV [RFC4106]", "NULL"),
        "aes128-sha256" | "aes256-sha256" => ("AES-CBC [RFC3602]", "HMAC-SHA-256-128 [RFC4868]"),
        "aes128-sha384" | "aes256-sha384" => ("AES-CBC [RFC3602]", "HMAC-SHA-384-192 [RFC4868]"),
        "aes128-sha512" | "aes256-sha512" => ("AES-CBC [RFC3602]", "HMAC-SHA-512-256 [RFC4868]"),
        other => return Err(format!("tshark does not know {other} in ESP").into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_that_cannot_be_judged_is_refused() {
        assert!(ike_words("chacha20poly1305").is_err());
        assert!(esp_words("chacha20poly1305").is_err());
        assert_eq!(ike_words("aes256gcm16").unwrap().0, "AES-GCM-256 with 16 octet ICV [RFC5282]");
        assert_eq!(ike_words("aes128-sha384").unwrap().0, "AES-CBC-128 [RFC3602]");
    }
}
