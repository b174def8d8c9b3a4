//! The metrics of CONTRACT, in OpenMetrics: one prefix, base units, bounded labels, no peer names.
//!
//! Label values are `&'static str`, so no packet can make a new series. What happens per packet is added in batches by
//! the workers; what is an event is counted by `count`; gauges are set by the actor that knows.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::event::Event;
use super::health::HealthCode;

type Label = [(&'static str, &'static str); 1];
type TwoLabels = [(&'static str, &'static str); 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverPhase {
    /// From the owner's last sign of life to the decision.
    Detect,
    /// From the decision to its commit.
    Commit,
    /// From the commit to the first packet that can pass.
    Resume,
}

/// The bounded queues of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// IKE messages that wait for their segment's actor.
    Ike,
    /// Inner packets that wait for the next block of numbers.
    Block,
    /// Packets that wait for a worker's TUN.
    Tun,
    /// Packets that wait for a worker's outer socket.
    Outside,
    /// Commands that wait for the log.
    Log,
}

pub struct Metrics {
    registry: Registry,
    pub quorum_spare_nodes: Gauge,
    pub raft_is_leader: Gauge,
    pub raft_term: Gauge,
    pub raft_applied_index: Gauge,
    pub segments_owned: Gauge,
    pub ike_sas: Gauge,
    pub ike_half_open: Gauge,
    pub child_sas: Gauge,
    pub esp_relayed_packets: Counter,
    pub esp_block_waits: Counter,
    pub state_digest_mismatch: Gauge,
    pub false_suspicions: Counter,
    raft_commit: Histogram,
    log_fsync: Histogram,
    ike_reply_wait: Histogram,
    handover_seconds: Family<Label, Histogram, Buckets>,
    handovers: Family<Label, Counter>,
    ike_exchanges: Family<TwoLabels, Counter>,
    esp_packets: Family<Label, Counter>,
    esp_bytes: Family<Label, Counter>,
    esp_dropped: Family<Label, Counter>,
    link_refused: Family<Label, Counter>,
    queue_length: Family<Label, Gauge>,
    queue_dropped: Family<Label, Counter>,
    health: Family<Label, Gauge>,
}

/// 50 us to about 26 s, each bound twice the one before: fine enough for a commit, wide enough for a handover.
#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new((0..20).map(|power| 50e-6 * f64::from(1u32 << power)))
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let metrics = Metrics {
            registry: Registry::with_prefix("pontoon"),
            quorum_spare_nodes: Gauge::default(),
            raft_is_leader: Gauge::default(),
            raft_term: Gauge::default(),
            raft_applied_index: Gauge::default(),
            segments_owned: Gauge::default(),
            ike_sas: Gauge::default(),
            ike_half_open: Gauge::default(),
            child_sas: Gauge::default(),
            esp_relayed_packets: Counter::default(),
            esp_block_waits: Counter::default(),
            state_digest_mismatch: Gauge::default(),
            false_suspicions: Counter::default(),
            raft_commit: Buckets.new_metric(),
            log_fsync: Buckets.new_metric(),
            ike_reply_wait: Buckets.new_metric(),
            handover_seconds: Family::new_with_constructor(Buckets),
            handovers: Family::default(),
            ike_exchanges: Family::default(),
            esp_packets: Family::default(),
            esp_bytes: Family::default(),
            esp_dropped: Family::default(),
            link_refused: Family::default(),
            queue_length: Family::default(),
            queue_dropped: Family::default(),
            health: Family::default(),
        };
        metrics.prime();
        metrics.register()
    }

    /// A durable commit of a command, from proposing it to its apply.
    pub fn commit_took(&self, time: Duration) {
        self.raft_commit.observe(time.as_secs_f64());
    }

    pub fn fsync_took(&self, time: Duration) {
        self.log_fsync.observe(time.as_secs_f64());
    }

    /// How long a finished IKE reply waited for the commit that lets it go.
    pub fn ike_reply_waited(&self, time: Duration) {
        self.ike_reply_wait.observe(time.as_secs_f64());
    }

    /// `exchange` in RFC 7296's words in lower case, `result`: ok, or the reason.
    pub fn ike_exchange(&self, exchange: &'static str, result: &'static str) {
        self.ike_exchanges.get_or_create(&[("exchange", exchange), ("result", result)]).inc();
    }

    /// A batch of ESP packets that were processed; octets are those of the inner packets.
    pub fn esp(&self, direction: Direction, packets: u64, octets: u64) {
        let label = [("direction", direction.name())];
        self.esp_packets.get_or_create(&label).inc_by(packets);
        self.esp_bytes.get_or_create(&label).inc_by(octets);
    }

    pub fn esp_dropped(&self, reason: &'static str, packets: u64) {
        self.esp_dropped.get_or_create(&[("reason", reason)]).inc_by(packets);
    }

    pub fn queue_length(&self, queue: Queue, length: usize) {
        self.queue_length
            .get_or_create(&[("queue", queue.name())])
            .set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// Connections from other hosts that were refused or cut off.
    pub fn link_refused(&self, reason: &'static str, connections: u64) {
        self.link_refused.get_or_create(&[("reason", reason)]).inc_by(connections);
    }

    pub fn queue_dropped(&self, queue: Queue, dropped: u64) {
        self.queue_dropped.get_or_create(&[("queue", queue.name())]).inc_by(dropped);
    }

    /// What follows from an event.
    pub fn count(&self, event: &Event) {
        match event {
            Event::Handover { cause, detect_ms, commit_ms, resume_ms, .. } => {
                self.handovers.get_or_create(&[("cause", cause.name())]).inc();
                for (phase, millis) in [
                    (HandoverPhase::Detect, detect_ms),
                    (HandoverPhase::Commit, commit_ms),
                    (HandoverPhase::Resume, resume_ms),
                ] {
                    self.handover_seconds.get_or_create(&[("phase", phase.name())]).observe(millis / 1e3);
                }
            }
            Event::HealthRaised { code, .. } => self.set_health(*code, 1),
            Event::HealthCleared { code } => self.set_health(*code, 0),
            _ => {}
        }
    }

    /// The whole set as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn set_health(&self, code: HealthCode, value: i64) {
        self.health.get_or_create(&[("code", code.name())]).set(value);
    }

    /// Series whose labels are known are there from the start, so that a rate has a zero to begin from.
    fn prime(&self) {
        for direction in [Direction::In, Direction::Out] {
            self.esp(direction, 0, 0);
        }
        for queue in [Queue::Ike, Queue::Block, Queue::Tun, Queue::Outside, Queue::Log] {
            self.queue_length(queue, 0);
            self.queue_dropped(queue, 0);
        }
        for reason in raft::links::Refused::ALL {
            self.link_refused(reason.label(), 0);
        }
        for &code in HealthCode::ALL {
            self.set_health(code, 0);
        }
    }

    fn register(mut self) -> Metrics {
        let registry = &mut self.registry;
        registry.register("build", "What was built", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        registry.register(
            "quorum_spare_nodes",
            "How many more voters may fail before the cluster stops",
            self.quorum_spare_nodes.clone(),
        );
        registry.register("raft_is_leader", "1 on the Raft leader", self.raft_is_leader.clone());
        registry.register("raft_term", "Raft term", self.raft_term.clone());
        registry.register("raft_applied_index", "Last applied log index", self.raft_applied_index.clone());
        registry.register_with_unit(
            "raft_commit",
            "Time from proposing a command to its apply",
            Unit::Seconds,
            self.raft_commit.clone(),
        );
        registry.register_with_unit(
            "log_fsync",
            "Time of one fdatasync of the log",
            Unit::Seconds,
            self.log_fsync.clone(),
        );
        registry.register("segments_owned", "Segments that this node owns", self.segments_owned.clone());
        registry.register_with_unit(
            "handover",
            "Parts of the time in which a segment had no owner",
            Unit::Seconds,
            self.handover_seconds.clone(),
        );
        registry.register("handovers", "Handovers to this node, by cause", self.handovers.clone());
        registry.register("ike_sas", "IKE SAs of the segments that this node owns", self.ike_sas.clone());
        registry.register(
            "ike_half_open",
            "IKE SAs before IKE_AUTH that this node holds",
            self.ike_half_open.clone(),
        );
        registry.register("ike_exchanges", "IKE exchanges, by result", self.ike_exchanges.clone());
        registry.register_with_unit(
            "ike_reply_wait",
            "Time that a finished IKE reply waited for its commit",
            Unit::Seconds,
            self.ike_reply_wait.clone(),
        );
        registry.register(
            "child_sas",
            "Child SAs of the segments that this node owns",
            self.child_sas.clone(),
        );
        registry.register("esp_packets", "ESP packets processed", self.esp_packets.clone());
        registry.register("esp_bytes", "Octets of inner packets in processed ESP", self.esp_bytes.clone());
        registry.register("esp_dropped_packets", "Packets dropped, by reason", self.esp_dropped.clone());
        registry.register(
            "esp_relayed_packets",
            "Packets passed on to the owner of their segment",
            self.esp_relayed_packets.clone(),
        );
        registry.register(
            "esp_block_waits",
            "Times that packets waited for the next block of numbers",
            self.esp_block_waits.clone(),
        );
        registry.register(
            "link_refused",
            "Connections between nodes that were refused, by reason",
            self.link_refused.clone(),
        );
        registry.register("queue_length", "Entries in a bounded queue", self.queue_length.clone());
        registry.register("queue_dropped", "Entries dropped at a full queue", self.queue_dropped.clone());
        registry.register(
            "state_digest_mismatch",
            "1 when nodes with the same applied index have different digests",
            self.state_digest_mismatch.clone(),
        );
        registry.register(
            "false_suspicions",
            "Times that this node found another silent, and heard the same process again",
            self.false_suspicions.clone(),
        );
        registry.register("health", "1 for each health code that is raised", self.health.clone());
        self
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::In => "in",
            Direction::Out => "out",
        }
    }
}

impl HandoverPhase {
    pub fn name(self) -> &'static str {
        match self {
            HandoverPhase::Detect => "detect",
            HandoverPhase::Commit => "commit",
            HandoverPhase::Resume => "resume",
        }
    }
}

impl Queue {
    pub fn name(self) -> &'static str {
        match self {
            Queue::Ike => "ike",
            Queue::Block => "block",
            Queue::Tun => "tun",
            Queue::Outside => "outside",
            Queue::Log => "log",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Cause;

    #[test]
    fn every_metric_of_the_contract_is_there_under_its_name() {
        let metrics = Metrics::new();
        metrics.commit_took(Duration::from_millis(1));
        metrics.ike_exchange("ike_auth", "ok");
        metrics.esp_dropped("replay", 3);
        metrics.count(&Event::Handover {
            from: None,
            to: "a".into(),
            segments: 256,
            cause: Cause::Restart,
            detect_ms: 0.0,
            commit_ms: 2.0,
            resume_ms: 1.0,
        });
        let text = metrics.encode().unwrap();
        for series in [
            r#"pontoon_build_info{version="#,
            "pontoon_quorum_spare_nodes 0",
            "pontoon_raft_is_leader 0",
            "pontoon_raft_term 0",
            "pontoon_raft_applied_index 0",
            "pontoon_raft_commit_seconds_count 1",
            "pontoon_log_fsync_seconds_count 0",
            "pontoon_segments_owned 0",
            r#"pontoon_handover_seconds_count{phase="detect"} 1"#,
            r#"pontoon_handovers_total{cause="restart"} 1"#,
            "pontoon_ike_sas 0",
            "pontoon_ike_half_open 0",
            r#"pontoon_ike_exchanges_total{exchange="ike_auth",result="ok"} 1"#,
            "pontoon_ike_reply_wait_seconds_count 0",
            "pontoon_child_sas 0",
            r#"pontoon_esp_packets_total{direction="in"} 0"#,
            r#"pontoon_esp_bytes_total{direction="out"} 0"#,
            r#"pontoon_esp_dropped_packets_total{reason="replay"} 3"#,
            "pontoon_esp_relayed_packets_total 0",
            "pontoon_esp_block_waits_total 0",
            r#"pontoon_queue_length{queue="ike"} 0"#,
            r#"pontoon_queue_dropped_total{queue="block"} 0"#,
            "pontoon_state_digest_mismatch 0",
            r#"pontoon_health{code="no-quorum"} 0"#,
        ] {
            assert!(text.lines().any(|line| line.starts_with(series)), "{series} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn health_is_one_while_it_is_raised() {
        let metrics = Metrics::new();
        let line = |value: i32| format!("pontoon_health{{code=\"tun-down\"}} {value}");
        metrics.count(&Event::HealthRaised { code: HealthCode::TunDown, text: String::new() });
        assert!(metrics.encode().unwrap().contains(&line(1)));
        metrics.count(&Event::HealthCleared { code: HealthCode::TunDown });
        assert!(metrics.encode().unwrap().contains(&line(0)));
    }
}
