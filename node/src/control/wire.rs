//! How tool and daemon talk: one JSON object a line, each with the version of the protocol.
//!
//! ```text
//!   > {"v":1,"call":{"sas":{"peer":"anna"}}}
//!   < {"v":1,"ok":{"sas":[…]}}            or   {"v":1,"fault":{"exit":"not-found","what":"…"}}
//!   > {"v":1,"call":{"events":{"follow":true}}}
//!   < {"v":1,"event":{"at":"…","kind":"ike",…}}   again and again; then, without `follow`, {"v":1,"ok":null}
//! ```

use std::collections::BTreeMap;

use crypto::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::api::{Condition, SaRef, Vote};
use crate::config::GatewaySource;
use crate::fault::Fault;

/// Of the protocol; both sides refuse another one.
pub const VERSION: u32 = 1;
/// Octets of a request: the largest configuration in hexadecimal fits.
pub const REQUEST_LEN_MAX: usize = 8 << 20;
/// Octets of a reply: a few hundred thousand SAs fit.
pub const REPLY_LEN_MAX: usize = 1 << 30;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub v: u32,
    pub call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    Status,
    Members,
    Segments,
    Sas { peer: Option<String> },
    Events { follow: bool },
    Init { name: String },
    CreateToken { ttl_ms: u64, uses: u32, role: Vote },
    Join { address: String, token: String },
    JoinProgress,
    Leave { deadline_ms: u64, accept_risk: Vec<String> },
    RemoveMember { node: String, accept_risk: Vec<String> },
    ConfigShow { revision: Option<u64> },
    ConfigDiff { source: WireSource },
    ConfigApply { source: WireSource, comment: Option<String>, if_revision: Option<u64> },
    ConfigHistory,
    ConfigRollback { revision: u64 },
    Terminate { sa: SaRef },
    Rekey { sa: SaRef },
    Drain { node: Option<String>, deadline_ms: u64 },
    Undrain { node: Option<String> },
    MoveSegment { segment: u8, node: String },
    Wait { condition: Condition, timeout_ms: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    pub v: u32,
    #[serde(flatten)]
    pub body: ReplyBody,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyBody {
    Ok(Value),
    Fault(Fault),
    Event(Map<String, Value>),
}

impl ReplyBody {
    /// One line, its end included.
    pub fn to_line(self) -> Vec<u8> {
        let line = serde_json::to_vec(&Reply { v: VERSION, body: self });
        // Maps with text keys and numbers only: there is nothing in it that JSON cannot say.
        let mut line = line.expect("a reply is JSON");
        line.push(b'\n');
        line
    }
}

/// A `GatewaySource` on the wire: octets of files in hexadecimal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireSource {
    toml: String,
    files: BTreeMap<String, HexSecret>,
}

#[derive(Debug)]
struct HexSecret(Secret);

impl From<GatewaySource> for WireSource {
    fn from(source: GatewaySource) -> WireSource {
        let files = source.files.into_iter().map(|(name, octets)| (name, HexSecret(octets))).collect();
        WireSource { toml: source.toml, files }
    }
}

impl From<WireSource> for GatewaySource {
    fn from(source: WireSource) -> GatewaySource {
        let files = source.files.into_iter().map(|(name, octets)| (name, octets.0)).collect();
        GatewaySource { toml: source.toml, files }
    }
}

impl Serialize for HexSecret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: String = self.0.as_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for HexSecret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<HexSecret, D::Error> {
        let wrong = || serde::de::Error::custom("the octets of a file come in hexadecimal");
        let digits = String::deserialize(deserializer)?;
        if !digits.len().is_multiple_of(2) || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let octets: Option<Vec<u8>> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
            .collect();
        octets.map(|octets| HexSecret(Secret::from(octets))).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_what_the_protocol_says() {
        let line = |call: Call| serde_json::to_string(&Request { v: VERSION, call }).unwrap();
        assert_eq!(line(Call::Status), r#"{"v":1,"call":"status"}"#);
        assert_eq!(line(Call::Sas { peer: Some("a".into()) }), r#"{"v":1,"call":{"sas":{"peer":"a"}}}"#);
        let sa = "00112233aabbccdd".parse().unwrap();
        assert_eq!(line(Call::Rekey { sa }), r#"{"v":1,"call":{"rekey":{"sa":"00112233aabbccdd"}}}"#);
    }

    #[test]
    fn a_source_survives_the_wire() {
        let files = [("a".to_owned(), Secret::from_slice(&[0, 1, 0xff, b'\n']))];
        let source = GatewaySource { toml: "version = 1\n".into(), files: files.into() };
        let json = serde_json::to_string(&WireSource::from(source.clone())).unwrap();
        assert!(json.contains("0001ff0a"));
        let back: WireSource = serde_json::from_str(&json).unwrap();
        assert_eq!(GatewaySource::from(back), source);
        for broken in ["0", "zz", "ää", "+1"] {
            let json = format!(r#"{{"toml":"","files":{{"a":"{broken}"}}}}"#);
            assert!(serde_json::from_str::<WireSource>(&json).is_err(), "{broken}");
        }
    }
}
