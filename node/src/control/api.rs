//! The documents of CONTRACT, as the daemon sends them and as `-o json` prints them.
//!
//! Names and meanings are fixed there: change them only by adding. Numbers in the names' units (`_s`, `_ms`); SPIs as
//! lower-case hex; times as RFC 3339 in UTC. `Document` puts `"schema": 1` in front.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipsec::types::{ChildSpi, Spi};
use serde::{Deserialize, Serialize};

use crate::observe::Severity;

/// The version of every document here.
pub const SCHEMA: u32 = 1;

/// A document as printed: its fields after `"schema": 1`.
#[derive(Clone, Debug, Serialize)]
pub struct Document<T> {
    pub schema: u32,
    #[serde(flatten)]
    pub body: T,
}

impl<T> Document<T> {
    pub fn new(body: T) -> Document<T> {
        Document { schema: SCHEMA, body }
    }
}

// ---------------------------------------------------------------------------------------------------- status

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub node: String,
    /// `None` before `init` or `join`.
    pub cluster: Option<String>,
    pub leader: Option<String>,
    pub quorum: Quorum,
    pub nodes: Vec<NodeStatus>,
    pub service_addresses: Vec<IpAddr>,
    /// 0: nothing has been applied yet.
    pub config_revision: u64,
    pub last_handover: Option<Handover>,
    pub health: Vec<Health>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    pub voters: u32,
    /// Voters that are up, this node included.
    pub up: u32,
    /// How many more voters may fail before the cluster stops: `up - majority`, never below 0.
    pub spare: u32,
    pub has_quorum: bool,
}

impl Quorum {
    pub fn of(voters: u32, up: u32) -> Quorum {
        let majority = voters / 2 + 1;
        Quorum { voters, up, spare: up.saturating_sub(majority), has_quorum: voters > 0 && up >= majority }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    pub id: u64,
    pub role: Role,
    pub state: NodeState,
    /// How many segments it owns.
    pub segments: u32,
    pub ike_sas: u64,
    pub child_sas: u64,
    pub applied: Option<u64>,
    /// Of the replicated state, lower-case hex, as of `applied`.
    pub digest: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Up,
    Suspect,
    Down,
    Draining,
    Drained,
    Joining,
}

/// The last planned or unplanned move of segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// RFC 3339.
    pub at: String,
    pub from: Option<String>,
    pub to: String,
    pub segments: u32,
    pub cause: String,
    pub detect_ms: f64,
    pub commit_ms: f64,
    pub resume_ms: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub code: String,
    pub severity: Severity,
    pub text: String,
    pub fix: String,
}

// ---------------------------------------------------------------------------------------------------- members

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Members {
    pub members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    pub id: u64,
    pub address: String,
    pub state: NodeState,
    pub vote: Vote,
    pub role: Role,
    pub term: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub digest: Option<String>,
    pub version: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vote {
    Voter,
    Learner,
}

// --------------------------------------------------------------------------------------------------- segments

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segments {
    pub segments: Vec<SegmentRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentRow {
    pub segment: u8,
    pub owner: Option<String>,
    pub standby: Option<String>,
    pub epoch: u32,
    pub state: SegmentState,
    pub ike_sas: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentState {
    /// Its owner processes it.
    Owned,
    /// Assigned, and the owner has not begun yet.
    Starting,
    /// A planned move is under way.
    Moving,
    /// Nobody processes it: packets of it are dropped.
    Unowned,
}

// -------------------------------------------------------------------------------------------------------- sas

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sas {
    pub sas: Vec<IkeSa>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IkeSa {
    #[serde(with = "hex_spi")]
    pub spi_i: Spi,
    #[serde(with = "hex_spi")]
    pub spi_r: Spi,
    pub connection: String,
    pub peer_id: String,
    pub peer_address: SocketAddr,
    pub segment: u8,
    pub owner: Option<String>,
    pub epoch: u32,
    pub state: SaState,
    /// In swanctl's words: `aes256gcm16-prfsha384-ecp384`.
    pub suite: String,
    pub age_s: u64,
    /// Until we rekey it; `None`: never.
    pub rekey_in_s: Option<i64>,
    pub message_ids: MessageIds,
    pub inner_addresses: Vec<IpAddr>,
    pub children: Vec<ChildSa>,
}

/// The next message ID of requests of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageIds {
    pub ours: u32,
    pub theirs: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaState {
    Established,
    /// A newer one has taken its place; it waits for its Delete.
    Rekeyed,
    /// Our Delete is under way.
    Closing,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildSa {
    pub name: String,
    #[serde(with = "hex_child_spi")]
    pub spi_in: ChildSpi,
    #[serde(with = "hex_child_spi")]
    pub spi_out: ChildSpi,
    pub suite: String,
    pub encap: Encap,
    pub state: SaState,
    pub local_ts: Vec<String>,
    pub remote_ts: Vec<String>,
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// The outbound ESP number that is taken next.
    pub next_number: u64,
    /// Every number up to this one is reserved in the log.
    pub reserved: u64,
    /// By reason, the names of `pontoon_esp_dropped_packets_total`.
    pub drops: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encap {
    /// ESP in UDP, port 4500 (RFC 3948).
    Udp,
    /// IP protocol 50 (RFC 4303).
    Esp,
}

/// What `terminate` and `rekey` take: an IKE SPI (either one, 16 digits) or the SPI of a child (ours, 8 digits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaRef {
    Ike(Spi),
    Child(ChildSpi),
}

impl FromStr for SaRef {
    type Err = String;

    fn from_str(text: &str) -> Result<SaRef, String> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let wrong = || format!("{text:?} is no SPI: an IKE SPI has 16 hex digits, one of a child has 8");
        if !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        match digits.len() {
            16 => Ok(SaRef::Ike(Spi(u64::from_str_radix(digits, 16).map_err(|_| wrong())?))),
            8 => Ok(SaRef::Child(ChildSpi(u32::from_str_radix(digits, 16).map_err(|_| wrong())?))),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for SaRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SaRef::Ike(spi) => spi.fmt(f),
            SaRef::Child(spi) => spi.fmt(f),
        }
    }
}

impl Serialize for SaRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SaRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SaRef, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What `terminate` and `rekey` did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acted {
    pub spi: SaRef,
    pub connection: String,
    pub peer_id: String,
    /// The node that carries it out.
    pub owner: Option<String>,
    /// The log index at which it was committed.
    pub index: u64,
}

// ------------------------------------------------------------------------------------------------------ drain

/// What `token create` made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenCreated {
    pub token: String,
    pub uses: u32,
    /// What those become who join with it.
    pub role: Vote,
    /// RFC 3339.
    pub expires_at: String,
    /// Of the node that made it: one to join at.
    pub address: String,
}

/// What `join` did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    pub cluster: String,
    pub node: String,
    pub id: u64,
    /// False: it was a member already.
    pub joined: bool,
}

/// How far a node is on its way into its cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinProgress {
    pub applied: Option<u64>,
    pub vote: Option<Vote>,
    /// It has the vote that it shall have.
    pub caught_up: bool,
}

/// What `members remove` did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    pub node: String,
    pub id: u64,
}

/// What `leave` did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Left {
    pub node: String,
    /// The one that it has left; none: it was a member of nothing.
    pub cluster: Option<String>,
    /// Of that cluster, without it. 0: not known, since others had removed it before.
    pub voters: u32,
    /// How many of them may fail before the cluster stops.
    pub spare: u32,
}

/// What `drain` did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drained {
    pub node: String,
    /// How many it owned before.
    pub segments: u32,
    pub took_ms: u64,
    /// Who owns how many now.
    pub owners: Vec<Share>,
    /// Whether the cluster goes on when the node is stopped now.
    pub safe_to_stop: bool,
    /// How many more nodes may fail then.
    pub spare_without: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub node: String,
    pub segments: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Undrained {
    pub node: String,
    /// False: it was not drained, and nothing was done.
    pub drained: bool,
}

/// What `segments move` did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovedSegment {
    pub segment: u8,
    pub from: Option<String>,
    pub to: String,
    pub took_ms: u64,
}

// ------------------------------------------------------------------------------------------------------- init

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Initialized {
    pub cluster: String,
    pub node: String,
    pub id: u64,
    /// False: it was a member of this cluster already, and nothing was done.
    pub created: bool,
}

// ----------------------------------------------------------------------------------------------------- config

/// One revision, as `history` lists it and `apply` and `rollback` return it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigRevision {
    pub revision: u64,
    /// RFC 3339.
    pub applied_at: String,
    /// The node that the command was sent to.
    pub node: String,
    pub comment: Option<String>,
    /// Set when it is a copy of an older revision.
    pub rollback_of: Option<u64>,
}

/// What the backend hands to the control server, which redacts it before it leaves the process.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    pub about: ConfigRevision,
    pub source: crate::config::GatewaySource,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigShown {
    /// `None`: nothing has been applied yet.
    pub current: Option<ConfigRevision>,
    /// The text as applied, with secrets written into it replaced by fingerprints.
    pub toml: String,
    /// Everything that the text names by file.
    pub files: Vec<FileShown>,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileShown {
    pub name: String,
    pub octets: usize,
    pub fingerprint: String,
}

/// What a timing profile means on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    pub profile: String,
    pub heartbeat_ms: u64,
    pub election_ms: [u64; 2],
    pub probe_ms: u64,
    pub suspect_ms: u64,
    pub lease_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigDiff {
    /// What the file is compared with; 0: nothing has been applied yet.
    pub revision: u64,
    pub changes: Vec<ConfigChange>,
}

/// One key that differs. `None`: absent on that side. Secrets appear as fingerprints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    pub key: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigApplied {
    #[serde(flatten)]
    pub revision: ConfigRevision,
    /// The revision before it, for `rollback`; 0: none.
    pub previous: u64,
    pub changes: Vec<ConfigChange>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigHistory {
    /// Newest first.
    pub revisions: Vec<ConfigRevision>,
}

// ------------------------------------------------------------------------------------------------ wait, version

/// What `wait --for` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Member, leader known, caught up, and for what it owns steering and TUN are up.
    Ready,
    /// A majority of the voters is up and a leader is known.
    Quorum,
    /// This node owns nothing and its successors have applied that.
    Drained,
}

impl Condition {
    pub fn name(self) -> &'static str {
        match self {
            Condition::Ready => "ready",
            Condition::Quorum => "quorum",
            Condition::Drained => "drained",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waited {
    pub condition: Condition,
    pub waited_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    pub profile: String,
    pub target: String,
    /// Of the control protocol between tool and daemon.
    pub control: u32,
}

mod hex_spi {
    use super::{Deserialize, Spi};

    pub fn serialize<S: serde::Serializer>(spi: &Spi, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(spi)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Spi, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Spi).map_err(serde::de::Error::custom)
    }
}

mod hex_child_spi {
    use super::{ChildSpi, Deserialize};

    pub fn serialize<S: serde::Serializer>(spi: &ChildSpi, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(spi)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ChildSpi, D::Error> {
        let text = String::deserialize(deserializer)?;
        u32::from_str_radix(&text, 16).map(ChildSpi).map_err(serde::de::Error::custom)
    }
}
