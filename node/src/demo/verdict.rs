//! What the demonstration has shown: figures for people and scripts, and whether all of it is as promised.
//!
//! It has succeeded if the file is whole, the SA is the same one, and no number was seen twice. Nothing else is judged:
//! the gap is what it is.

use serde::Serialize;

use super::gateway::Handover;
use super::protocol::{Done, Resumed, Up};
use super::show::grouped;
use crate::cli::Rows;
use crate::control::api::IkeSa;
use crate::fault::Fault;

/// What was done to the gateway in the middle of the download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    None,
    /// `owned`: the node owned the tunnel.
    Killed {
        node: String,
        owned: bool,
    },
    /// The only node: killed and started again.
    Restarted {
        node: String,
    },
    Drained {
        node: String,
    },
}

impl Failure {
    fn killed(&self) -> Option<&str> {
        match self {
            Failure::Killed { node, .. } | Failure::Restarted { node } => Some(node),
            Failure::None | Failure::Drained { .. } => None,
        }
    }

    /// Whether another process must go on with the tunnel.
    fn moves_the_tunnel(&self) -> bool {
        !matches!(self, Failure::None | Failure::Killed { owned: false, .. })
    }

    /// What the new owner calls it in its handover event.
    pub fn causes(&self) -> &'static [&'static str] {
        match self {
            Failure::Killed { owned: true, .. } => &["failure"],
            Failure::Restarted { .. } => &["restart"],
            Failure::Drained { .. } => &["drain"],
            Failure::None | Failure::Killed { owned: false, .. } => &[],
        }
    }
}

/// Everything that was seen.
#[derive(Debug)]
pub struct Evidence {
    pub nodes: u8,
    /// Octets that were asked for, and the hash of what the server sent.
    pub size: u64,
    pub sent_sha256: String,
    pub failure: Failure,
    pub up: Up,
    pub done: Done,
    pub resumed: Vec<Resumed>,
    pub handover: Option<Handover>,
    /// The gateway's own view at the end.
    pub sas: Vec<IkeSa>,
    /// Name, applied index and digest of the state of each node that lives.
    pub digests: Vec<(String, u64, String)>,
}

/// The document of `-o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub nodes: u8,
    pub killed: Option<String>,
    pub drained: Option<String>,
    pub octets: u64,
    pub seconds: f64,
    pub megabits_per_second: f64,
    pub sha256: String,
    /// Time without a packet at the client; `None` when nothing happened to the tunnel's owner.
    pub gap: Option<Gap>,
    /// The longest time without a packet, whatever happened.
    pub longest_silence_ms: f64,
    pub download_stood_still_ms: f64,
    /// One is sent every five milliseconds.
    pub probes_lost: u64,
    pub file_intact: bool,
    pub same_sa: bool,
    pub digests_agree: bool,
    pub ike_messages: u64,
    pub esp_packets: u64,
    pub numbers_twice: u64,
    pub ivs_twice: u64,
    /// What is not as promised, in words.
    pub faults: Vec<String>,
}

/// `gap_ms` is the sum of the parts. The nodes' clocks tell the first three; the rest is what their account does not
/// hold: the way of the packets, and that silence began at the last packet and not at the last sign of life. It may be
/// below zero.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gap {
    pub gap_ms: f64,
    pub detect_ms: f64,
    pub commit_ms: f64,
    pub resume_ms: f64,
    pub rest_ms: f64,
}

pub fn judge(evidence: &Evidence) -> Summary {
    let (done, failure) = (&evidence.done, &evidence.failure);
    let mut faults = Vec::new();
    let file_intact = done.octets == evidence.size && done.sha256 == evidence.sent_sha256;
    if !file_intact {
        faults.push(format!(
            "the file is damaged: {} of {} octets, sha256 {} sent, {} arrived",
            done.octets, evidence.size, evidence.sent_sha256, done.sha256
        ));
    }
    let before = faults.len();
    same_sa(evidence, &mut faults);
    let same_sa = faults.len() == before;
    for (what, twice) in [("sequence number", done.wire.numbers_twice), ("IV", done.wire.ivs_twice)] {
        if twice > 0 {
            faults.push(format!("{twice} times the gateway has sent with a {what} that it had used before"));
        }
    }
    let gap = evidence.resumed.iter().max_by(|a, b| a.silence_ms.total_cmp(&b.silence_ms));
    if failure.moves_the_tunnel() && gap.is_none() {
        faults.push("no packet of the new owner has reached the client".into());
    }
    if let Failure::Drained { .. } = failure
        && done.probes_lost > 0
    {
        faults.push(format!("the drain has lost {} probes", done.probes_lost));
    }
    let digests_agree =
        evidence.digests.windows(2).all(|pair| (pair[0].1, &pair[0].2) == (pair[1].1, &pair[1].2));
    if !digests_agree {
        faults.push(format!("the states of the nodes differ: {:?}", evidence.digests));
    }
    Summary {
        nodes: evidence.nodes,
        killed: failure.killed().map(str::to_owned),
        drained: match failure {
            Failure::Drained { node } => Some(node.clone()),
            _ => None,
        },
        octets: done.octets,
        seconds: done.seconds,
        megabits_per_second: done.octets as f64 * 8.0 / 1e6 / done.seconds.max(1e-9),
        sha256: done.sha256.clone(),
        gap: gap.map(|resumed| Gap::of(resumed.silence_ms, evidence.handover)),
        longest_silence_ms: done.wire.longest_silence_ms,
        download_stood_still_ms: done.stood_still_ms,
        probes_lost: done.probes_lost,
        file_intact,
        same_sa,
        digests_agree,
        ike_messages: done.wire.ike_messages,
        esp_packets: done.wire.esp_packets,
        numbers_twice: done.wire.numbers_twice,
        ivs_twice: done.wire.ivs_twice,
        faults,
    }
}

/// Both sides must still have what IKE_AUTH made, and must not have said a word about it since.
fn same_sa(evidence: &Evidence, faults: &mut Vec<String>) {
    let Evidence { up, done, sas, .. } = evidence;
    if done.ike_spis != [up.ike_spis] || done.child_spis != [up.child_spis] {
        faults.push("the client has other SAs than before".into());
    }
    faults.extend(done.changes.iter().map(|change| format!("the SA has changed: {change}")));
    if done.wire.ike_messages > 0 {
        faults.push(format!("{} IKE messages since the tunnel came up", done.wire.ike_messages));
    }
    let kept = sas.iter().any(|sa| {
        let (ours, theirs) = up.child_spis;
        let child = sa.children.iter().any(|child| (child.spi_out.0, child.spi_in.0) == (ours, theirs));
        (sa.spi_i.0, sa.spi_r.0) == up.ike_spis && child
    });
    if !kept || sas.len() != 1 {
        faults.push("the gateway has other SAs than before".into());
    }
}

impl Gap {
    fn of(gap_ms: f64, handover: Option<Handover>) -> Gap {
        let (detect_ms, commit_ms, resume_ms) =
            handover.map_or((0.0, 0.0, 0.0), |part| (part.detect_ms, part.commit_ms, part.resume_ms));
        Gap { gap_ms, detect_ms, commit_ms, resume_ms, rest_ms: gap_ms - detect_ms - commit_ms - resume_ms }
    }
}

impl Summary {
    /// The last lines of the story.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(Gap { gap_ms, detect_ms, commit_ms, resume_ms, rest_ms }) = self.gap {
            let (name, parts) = match self.nodes {
                // What is left is the kill, the start, and reading the log.
                1 => ("restart ", format!("start {:.0}", detect_ms + rest_ms)),
                _ => ("handover", format!("detect {detect_ms:.0}")),
            };
            let rest = match rest_ms.round() as i64 {
                0 => String::new(),
                _ if self.nodes == 1 => String::new(),
                rest => format!(" {} rest {}", if rest < 0 { '-' } else { '+' }, rest.abs()),
            };
            text += &format!(
                "  {name}     {gap_ms:.0} ms without a packet   = {parts} + commit {commit_ms:.0} + resume \
                 {resume_ms:.0}{rest}\n"
            );
        } else {
            text += &format!("  the tunnel   at most {:.0} ms without a packet\n", self.longest_silence_ms);
        }
        text += &format!(
            "  meanwhile    {} of the probes, one every 5 ms, lost; the download stood still for {:.0} ms\n",
            self.probes_lost, self.download_stood_still_ms
        );
        if self.same_sa {
            text += "  the client   noticed nothing: same SA, same SPIs, no new IKE message\n";
        }
        if self.file_intact && self.numbers_twice + self.ivs_twice == 0 {
            let packets = grouped(self.esp_packets);
            let digests =
                if self.digests_agree && self.nodes > 1 { "; the nodes' states are equal" } else { "" };
            text += &format!(
                "  checked      file intact; no sequence number and no IV twice in {packets} packets of the \
                 gateway{digests}\n"
            );
        }
        for fault in &self.faults {
            text += &format!("  FAULT        {fault}\n");
        }
        text
    }

    pub fn rows(&self) -> Rows {
        let part = |of: fn(&Gap) -> f64| {
            self.gap.as_ref().map_or_else(|| "-".into(), |gap| format!("{:.1}", of(gap)))
        };
        Rows::pairs(vec![
            ("nodes", self.nodes.to_string()),
            ("killed", self.killed.clone().unwrap_or_else(|| "-".into())),
            ("drained", self.drained.clone().unwrap_or_else(|| "-".into())),
            ("octets", self.octets.to_string()),
            ("seconds", format!("{:.3}", self.seconds)),
            ("gap_ms", part(|gap| gap.gap_ms)),
            ("detect_ms", part(|gap| gap.detect_ms)),
            ("commit_ms", part(|gap| gap.commit_ms)),
            ("resume_ms", part(|gap| gap.resume_ms)),
            ("rest_ms", part(|gap| gap.rest_ms)),
            ("longest_silence_ms", format!("{:.1}", self.longest_silence_ms)),
            ("probes_lost", self.probes_lost.to_string()),
            ("file_intact", self.file_intact.to_string()),
            ("same_sa", self.same_sa.to_string()),
            ("digests_agree", self.digests_agree.to_string()),
            ("esp_packets", self.esp_packets.to_string()),
            ("numbers_twice", self.numbers_twice.to_string()),
            ("ivs_twice", self.ivs_twice.to_string()),
        ])
    }

    /// The exit of the command.
    pub fn outcome(&self) -> Result<(), Fault> {
        match self.faults.as_slice() {
            [] => Ok(()),
            faults => Err(Fault::failed("the demo has not shown what it should").why(faults.join("\n"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::WireReport;
    use super::*;
    use crate::control::api::Sas;

    /// As it should be.
    fn sound() -> Evidence {
        let up = Up {
            took_ms: 9.0,
            inner: [10, 99, 0, 1].into(),
            ike_spis: (0x11, 0x0900_0000_0000_0022),
            child_spis: (0x1000, 0x0900_1000),
        };
        let done = Done {
            octets: 100,
            sha256: "ab".into(),
            seconds: 2.0,
            stood_still_ms: 240.0,
            probes_lost: 40,
            changes: Vec::new(),
            ike_spis: vec![up.ike_spis],
            child_spis: vec![up.child_spis],
            wire: WireReport { esp_packets: 1_234, ..WireReport::default() },
        };
        let sas: Sas = serde_json::from_value(serde_json::json!({"sas": [{
            "spi_i": "0000000000000011", "spi_r": "0900000000000022", "connection": "staff", "peer_id": "anna",
            "peer_address": "192.0.2.70:4500", "segment": 9, "owner": "edge-1", "epoch": 2, "state": "established",
            "suite": "x", "age_s": 1, "rekey_in_s": null, "message_ids": {"ours": 0, "theirs": 2},
            "inner_addresses": [], "children": [{
                "name": "net", "spi_in": "09001000", "spi_out": "00001000", "suite": "x", "encap": "udp",
                "state": "established", "local_ts": [], "remote_ts": [], "packets_in": 0, "packets_out": 0,
                "bytes_in": 0, "bytes_out": 0, "next_number": 1, "reserved": 1, "drops": {}
            }]
        }]}))
        .unwrap();
        let resumed = Resumed { silence_ms: 212.0, epoch: 2, last: 90, first: 10_001 };
        Evidence {
            nodes: 3,
            size: 100,
            sent_sha256: "ab".into(),
            failure: Failure::Killed { node: "edge-1".into(), owned: true },
            up,
            done,
            resumed: vec![resumed],
            handover: Some(Handover { segments: 86, detect_ms: 151.0, commit_ms: 4.0, resume_ms: 13.0 }),
            sas: sas.sas,
            digests: vec![("edge-2".into(), 90, "d1".into()), ("edge-3".into(), 90, "d1".into())],
        }
    }

    #[test]
    fn what_is_as_promised_succeeds_and_the_parts_add_up() {
        let summary = judge(&sound());
        assert_eq!(summary.faults, Vec::<String>::new());
        assert!(summary.outcome().is_ok() && summary.same_sa && summary.file_intact);
        let gap = Gap { gap_ms: 212.0, detect_ms: 151.0, commit_ms: 4.0, resume_ms: 13.0, rest_ms: 44.0 };
        assert_eq!(summary.gap, Some(gap));
        assert_eq!(
            summary.text(),
            "  handover     212 ms without a packet   = detect 151 + commit 4 + resume 13 + rest 44\n  \
               meanwhile    40 of the probes, one every 5 ms, lost; the download stood still for 240 ms\n  \
               the client   noticed nothing: same SA, same SPIs, no new IKE message\n  \
               checked      file intact; no sequence number and no IV twice in 1,234 packets of the gateway; the \
             nodes' states are equal\n"
        );
    }

    #[test]
    fn one_node_that_starts_again_has_nobody_to_detect_it() {
        let mut evidence = sound();
        (evidence.nodes, evidence.failure) = (1, Failure::Restarted { node: "edge-1".into() });
        evidence.handover = Some(Handover { segments: 256, detect_ms: 0.0, commit_ms: 4.0, resume_ms: 13.0 });
        let text = judge(&evidence).text();
        assert!(
            text.starts_with("  restart      212 ms without a packet   = start 195 + commit 4 + resume 13\n"),
            "{text}"
        );
    }

    #[test]
    fn each_broken_promise_is_a_fault() {
        type Breaks = fn(&mut Evidence);
        let cases: [(&str, Breaks); 11] = [
            ("damaged", |evidence| evidence.done.sha256 = "cd".into()),
            ("damaged", |evidence| evidence.done.octets = 99),
            ("other SAs", |evidence| evidence.done.child_spis = vec![(1, 2)]),
            ("other SAs", |evidence| evidence.sas[0].spi_r.0 += 1),
            ("has changed", |evidence| evidence.done.changes.push("ChildUp".into())),
            ("IKE messages", |evidence| evidence.done.wire.ike_messages = 2),
            ("sequence number", |evidence| evidence.done.wire.numbers_twice = 1),
            ("IV", |evidence| evidence.done.wire.ivs_twice = 1),
            ("no packet", |evidence| evidence.resumed.clear()),
            ("states", |evidence| evidence.digests[1].2 = "d2".into()),
            ("lost 40", |evidence| evidence.failure = Failure::Drained { node: "edge-1".into() }),
        ];
        for (words, breaks) in cases {
            let mut evidence = sound();
            breaks(&mut evidence);
            let summary = judge(&evidence);
            assert_eq!(summary.faults.len(), 1, "{words}: {:?}", summary.faults);
            assert!(summary.faults[0].contains(words), "{:?}", summary.faults);
            assert!(summary.text().contains("FAULT") && summary.outcome().is_err());
        }
    }

    #[test]
    fn without_a_failure_of_the_owner_there_is_no_gap() {
        for failure in [Failure::None, Failure::Killed { node: "edge-2".into(), owned: false }] {
            let mut evidence = sound();
            (evidence.failure, evidence.handover) = (failure, None);
            evidence.resumed.clear();
            let summary = judge(&evidence);
            assert_eq!((summary.gap, summary.outcome()), (None, Ok(())));
        }
    }
}
