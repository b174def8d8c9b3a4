//! What the demonstration and its parts say to each other: one JSON object a line, orders on standard input of the
//! part, reports on its standard output.
//!
//! ```text
//!   part                                   demonstration
//!   ready  (has a network namespace)  -->
//!                                     <--  begin  (its cable is there)
//!   up, listening                     -->
//!                                     <--  download / release
//!   progress, resumed, done           -->
//! ```
//!
//! A machine says ready, gets `begin`, `start` and `kill`, and tells what has become of its node.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ledger::WireReport;
use crate::fault::Fault;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToMachine {
    /// Its cables are there: addresses and settings, by its place among the nodes.
    Begin { place: u8 },
    /// Start the node that `node.toml` describes.
    Start { node_toml: PathBuf },
    /// SIGKILL to the node.
    Kill,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromMachine {
    Ready,
    Cabled,
    Started {
        pid: u32,
    },
    /// The node is gone, by an order or by itself.
    Ended {
        status: String,
    },
    Failed(Fault),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToClient {
    /// Connect to the gateway.
    Begin {
        psk: String,
    },
    Download {
        octets: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromClient {
    Ready,
    /// The tunnel carries traffic.
    Up(Up),
    /// Octets of the file that are there.
    Progress(u64),
    Resumed(Resumed),
    Done(Done),
    Failed(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Up {
    /// From IKE_SA_INIT to the reply of IKE_AUTH.
    pub took_ms: f64,
    pub inner: Ipv4Addr,
    /// Ours, then the gateway's.
    pub ike_spis: (u64, u64),
    pub child_spis: (u32, u32),
}

/// Packets of a new epoch: another process goes on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resumed {
    /// Without any packet of the gateway before the first of the new epoch.
    pub silence_ms: f64,
    pub epoch: u32,
    /// The last sequence number of the old epoch, and the first of the new one.
    pub last: u32,
    pub first: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub octets: u64,
    pub sha256: String,
    pub seconds: f64,
    /// The longest time in which the file did not grow: that of TCP's own timers on top of the gap.
    pub stood_still_ms: f64,
    /// Probes of the tunnel that were not answered.
    pub probes_lost: u64,
    /// What happened to the SA since it came up, in words; nothing is what it should be.
    pub changes: Vec<String>,
    /// The SAs now.
    pub ike_spis: Vec<(u64, u64)>,
    pub child_spis: Vec<(u32, u32)>,
    pub wire: WireReport,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToServer {
    /// Serve the file, but nothing from `hold` on before `Release`.
    Begin {
        octets: u64,
        seed: u64,
        hold: u64,
    },
    Release,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromServer {
    Ready,
    Listening,
    /// All of the file was handed to TCP; the hash of what it was.
    Sent {
        sha256: String,
    },
    Failed(Fault),
}
