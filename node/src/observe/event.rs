//! What can happen, declared once: the log line, the counters, `pontoon events` and the tests all come from here.
//!
//! In JSON an event is one object: `at`, `kind` (handover, ike, raft, config, health), `what` within the kind, and its
//! fields. Identities of peers are in it, keys and secrets never.

use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

use ipsec::types::{ChildSpi, Spi};
use serde_json::{Map, Value, json};

use super::health::{HealthCode, Severity};

/// An event and when it happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped {
    pub at: SystemTime,
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Segments went from one owner to another (`from` is `None` when nobody owned them). Told once a handover, by the
    /// new owner. The parts are milliseconds: silence noticed, assignment committed, first packet possible.
    Handover {
        from: Option<String>,
        to: String,
        segments: u32,
        cause: Cause,
        detect_ms: f64,
        commit_ms: f64,
        resume_ms: f64,
    },
    /// An IKE SA is established and its IKE_AUTH reply may leave.
    IkeUp {
        spi_i: Spi,
        spi_r: Spi,
        connection: String,
        peer_id: String,
        peer_address: SocketAddr,
        suite: String,
        index: u64,
    },
    IkeRekeyed {
        spi_i: Spi,
        spi_r: Spi,
        new_spi_i: Spi,
        new_spi_r: Spi,
        connection: String,
        peer_id: String,
    },
    IkeDown {
        spi_i: Spi,
        spi_r: Spi,
        connection: String,
        peer_id: String,
        why: String,
    },
    ChildUp {
        name: String,
        spi_in: ChildSpi,
        spi_out: ChildSpi,
        peer_id: String,
        suite: String,
    },
    ChildRekeyed {
        name: String,
        old_spi_in: ChildSpi,
        spi_in: ChildSpi,
        spi_out: ChildSpi,
        peer_id: String,
    },
    ChildDown {
        name: String,
        spi_in: ChildSpi,
        spi_out: ChildSpi,
        peer_id: String,
        why: String,
    },
    /// The peer's address changed: its NAT gave it another port, or it moved.
    IkeMoved {
        spi_i: Spi,
        spi_r: Spi,
        peer_id: String,
        old_address: SocketAddr,
        new_address: SocketAddr,
    },
    /// A peer was refused. `notify` is what it was told, in RFC 7296's words.
    IkeFailed {
        peer_address: SocketAddr,
        peer_id: Option<String>,
        notify: String,
        why: String,
    },
    /// This node saw a leader, or the loss of it.
    Leader {
        leader: Option<String>,
        term: u64,
    },
    /// A process start committed its incarnation.
    Incarnation {
        node: String,
        incarnation: u64,
    },
    MemberAdded {
        node: String,
        id: u64,
    },
    MemberRemoved {
        node: String,
        id: u64,
    },
    MemberState {
        node: String,
        up: bool,
    },
    Initialized {
        cluster: String,
    },
    ConfigApplied {
        revision: u64,
        node: String,
        comment: Option<String>,
        rollback_of: Option<u64>,
    },
    HealthRaised {
        code: HealthCode,
        text: String,
    },
    HealthCleared {
        code: HealthCode,
    },
}

/// Why segments moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The first assignment, or a node that took part again.
    Join,
    /// The owner's process started again.
    Restart,
    /// The actor of a segment stopped by a fault and was started again.
    Actor,
    /// The owner fell silent.
    Failure,
    Drain,
    Leave,
    Rebalance,
    /// `segments move`.
    Manual,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Cause::Join => "join",
            Cause::Restart => "restart",
            Cause::Actor => "actor",
            Cause::Failure => "failure",
            Cause::Drain => "drain",
            Cause::Leave => "leave",
            Cause::Rebalance => "rebalance",
            Cause::Manual => "manual",
        }
    }
}

impl Event {
    pub fn kind(&self) -> &'static str {
        match self {
            Event::Handover { .. } => "handover",
            Event::IkeUp { .. }
            | Event::IkeRekeyed { .. }
            | Event::IkeMoved { .. }
            | Event::IkeDown { .. }
            | Event::ChildUp { .. }
            | Event::ChildRekeyed { .. }
            | Event::ChildDown { .. }
            | Event::IkeFailed { .. } => "ike",
            Event::Leader { .. }
            | Event::Incarnation { .. }
            | Event::MemberAdded { .. }
            | Event::MemberRemoved { .. }
            | Event::MemberState { .. }
            | Event::Initialized { .. } => "raft",
            Event::ConfigApplied { .. } => "config",
            Event::HealthRaised { .. } | Event::HealthCleared { .. } => "health",
        }
    }

    /// What happened, within the kind.
    pub fn what(&self) -> &'static str {
        match self {
            Event::Handover { .. } => "moved",
            Event::IkeUp { .. } => "up",
            Event::IkeRekeyed { .. } => "rekeyed",
            Event::IkeDown { .. } => "down",
            Event::IkeMoved { .. } => "moved",
            Event::ChildUp { .. } => "child-up",
            Event::ChildRekeyed { .. } => "child-rekeyed",
            Event::ChildDown { .. } => "child-down",
            Event::IkeFailed { .. } => "refused",
            Event::Leader { leader: Some(_), .. } => "leader",
            Event::Leader { leader: None, .. } => "no-leader",
            Event::Incarnation { .. } => "started",
            Event::MemberAdded { .. } => "member-added",
            Event::MemberRemoved { .. } => "member-removed",
            Event::MemberState { up: true, .. } => "member-up",
            Event::MemberState { up: false, .. } => "member-down",
            Event::Initialized { .. } => "initialized",
            Event::ConfigApplied { .. } => "applied",
            Event::HealthRaised { .. } => "raised",
            Event::HealthCleared { .. } => "cleared",
        }
    }

    /// The fields in the order in which they are shown.
    pub fn fields(&self) -> Vec<(&'static str, Value)> {
        match self {
            Event::Handover { from, to, segments, cause, detect_ms, commit_ms, resume_ms } => vec![
                ("from", json!(from)),
                ("to", json!(to)),
                ("segments", json!(segments)),
                ("cause", json!(cause.name())),
                ("detect_ms", json!(detect_ms)),
                ("commit_ms", json!(commit_ms)),
                ("resume_ms", json!(resume_ms)),
            ],
            Event::IkeUp { spi_i, spi_r, connection, peer_id, peer_address, suite, index } => vec![
                ("spi_i", shown(spi_i)),
                ("spi_r", shown(spi_r)),
                ("connection", json!(connection)),
                ("peer_id", json!(peer_id)),
                ("peer_address", shown(peer_address)),
                ("suite", json!(suite)),
                ("index", json!(index)),
            ],
            Event::IkeRekeyed { spi_i, spi_r, new_spi_i, new_spi_r, connection, peer_id } => vec![
                ("spi_i", shown(spi_i)),
                ("spi_r", shown(spi_r)),
                ("new_spi_i", shown(new_spi_i)),
                ("new_spi_r", shown(new_spi_r)),
                ("connection", json!(connection)),
                ("peer_id", json!(peer_id)),
            ],
            Event::IkeDown { spi_i, spi_r, connection, peer_id, why } => vec![
                ("spi_i", shown(spi_i)),
                ("spi_r", shown(spi_r)),
                ("connection", json!(connection)),
                ("peer_id", json!(peer_id)),
                ("why", json!(why)),
            ],
            Event::IkeMoved { spi_i, spi_r, peer_id, old_address, new_address } => vec![
                ("spi_i", shown(spi_i)),
                ("spi_r", shown(spi_r)),
                ("peer_id", json!(peer_id)),
                ("old_address", shown(old_address)),
                ("new_address", shown(new_address)),
            ],
            Event::ChildUp { name, spi_in, spi_out, peer_id, suite } => vec![
                ("name", json!(name)),
                ("spi_in", shown(spi_in)),
                ("spi_out", shown(spi_out)),
                ("peer_id", json!(peer_id)),
                ("suite", json!(suite)),
            ],
            Event::ChildRekeyed { name, old_spi_in, spi_in, spi_out, peer_id } => vec![
                ("name", json!(name)),
                ("old_spi_in", shown(old_spi_in)),
                ("spi_in", shown(spi_in)),
                ("spi_out", shown(spi_out)),
                ("peer_id", json!(peer_id)),
            ],
            Event::ChildDown { name, spi_in, spi_out, peer_id, why } => vec![
                ("name", json!(name)),
                ("spi_in", shown(spi_in)),
                ("spi_out", shown(spi_out)),
                ("peer_id", json!(peer_id)),
                ("why", json!(why)),
            ],
            Event::IkeFailed { peer_address, peer_id, notify, why } => vec![
                ("peer_address", shown(peer_address)),
                ("peer_id", json!(peer_id)),
                ("notify", json!(notify)),
                ("why", json!(why)),
            ],
            Event::Leader { leader, term } => vec![("leader", json!(leader)), ("term", json!(term))],
            Event::Incarnation { node, incarnation } => {
                vec![("node", json!(node)), ("incarnation", json!(format!("{incarnation:016x}")))]
            }
            Event::MemberAdded { node, id } | Event::MemberRemoved { node, id } => {
                vec![("node", json!(node)), ("id", json!(id))]
            }
            Event::MemberState { node, .. } => vec![("node", json!(node))],
            Event::Initialized { cluster } => vec![("cluster", json!(cluster))],
            Event::ConfigApplied { revision, node, comment, rollback_of } => vec![
                ("revision", json!(revision)),
                ("node", json!(node)),
                ("comment", json!(comment)),
                ("rollback_of", json!(rollback_of)),
            ],
            Event::HealthRaised { code, text } => vec![
                ("code", json!(code.name())),
                ("severity", json!(code.severity())),
                ("text", json!(text)),
                ("fix", json!(code.fix())),
            ],
            Event::HealthCleared { code } => {
                vec![("code", json!(code.name())), ("severity", json!(code.severity()))]
            }
        }
    }

    /// Writes the log line of this event, at the level that its weight asks for.
    pub fn log(&self) {
        match self {
            Event::HealthRaised { code, .. } if code.severity() == Severity::Critical => {
                tracing::error!(target: "pontoon", "{self}");
            }
            Event::HealthRaised { code, .. } if code.severity() == Severity::Info => {
                tracing::info!(target: "pontoon", "{self}");
            }
            Event::HealthRaised { .. }
            | Event::Leader { leader: None, .. }
            | Event::MemberState { up: false, .. } => tracing::warn!(target: "pontoon", "{self}"),
            // Strangers cause these as often as they like: not above debug.
            Event::IkeFailed { peer_id: None, .. } => tracing::debug!(target: "pontoon", "{self}"),
            _ => tracing::info!(target: "pontoon", "{self}"),
        }
    }
}

/// `kind what name=value …`: absent values are left out, texts with spaces are quoted.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, self.kind(), self.what(), self.fields().iter().map(|(name, value)| (*name, value)))
    }
}

impl Stamped {
    /// One JSON object; `at` and `kind` come first.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("at".into(), json!(rfc3339(self.at)));
        object.insert("kind".into(), json!(self.event.kind()));
        object.insert("what".into(), json!(self.event.what()));
        object.extend(self.event.fields().into_iter().map(|(name, value)| (name.to_owned(), value)));
        object
    }
}

/// The line for people of an event that came as JSON, as `Display` of `Event` writes it.
pub fn line_of(object: &Map<String, Value>) -> String {
    struct Line<'a>(&'a Map<String, Value>);
    impl fmt::Display for Line<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let text = |key: &str| self.0.get(key).and_then(Value::as_str).unwrap_or("-");
            let rest = self.0.iter().filter(|(key, _)| !matches!(key.as_str(), "at" | "kind" | "what"));
            write_line(f, text("kind"), text("what"), rest.map(|(key, value)| (key.as_str(), value)))
        }
    }
    Line(object).to_string()
}

fn write_line<'a>(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    what: &str,
    fields: impl Iterator<Item = (&'a str, &'a Value)>,
) -> fmt::Result {
    write!(f, "{kind} {what}")?;
    for (name, value) in fields {
        match value {
            Value::Null => {}
            // Control characters and quotes come escaped, so that no peer writes lines of its own into a log.
            Value::String(text) if text.chars().all(|c| c.is_ascii_graphic() && c != '"') => {
                write!(f, " {name}={text}")?;
            }
            Value::String(text) => write!(f, " {name}={text:?}")?,
            other => write!(f, " {name}={other}")?,
        }
    }
    Ok(())
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

fn shown(value: &impl fmt::Display) -> Value {
    Value::String(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn handover() -> Event {
        Event::Handover {
            from: Some("edge-2".into()),
            to: "edge-1".into(),
            segments: 21,
            cause: Cause::Failure,
            detect_ms: 151.0,
            commit_ms: 4.25,
            resume_ms: 19.0,
        }
    }

    #[test]
    fn an_event_is_a_line_and_an_object_with_the_names_of_the_contract() {
        let stamped = Stamped {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            event: handover(),
        };
        assert_eq!(
            stamped.event.to_string(),
            "handover moved from=edge-2 to=edge-1 segments=21 cause=failure detect_ms=151.0 commit_ms=4.25 resume_ms=19.0"
        );
        assert_eq!(
            Value::Object(stamped.to_json()).to_string(),
            r#"{"at":"2023-11-14T22:13:20.123Z","kind":"handover","what":"moved","from":"edge-2","to":"edge-1","segments":21,"cause":"failure","detect_ms":151.0,"commit_ms":4.25,"resume_ms":19.0}"#
        );
        assert_eq!(line_of(&stamped.to_json()), stamped.event.to_string());
    }

    #[test]
    fn a_peer_cannot_write_lines_into_the_log() {
        let event = Event::IkeFailed {
            peer_address: SocketAddr::from(([198, 51, 100, 7], 500)),
            peer_id: Some("anna\nINFO ike up".into()),
            notify: "AUTHENTICATION_FAILED".into(),
            why: "no secret".into(),
        };
        assert_eq!(
            event.to_string(),
            r#"ike refused peer_address=198.51.100.7:500 peer_id="anna\nINFO ike up" notify=AUTHENTICATION_FAILED why="no secret""#
        );
    }
}
