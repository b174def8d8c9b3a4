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

/// Everything that was seen.
#[derive(Debug)]
pub struct Evidence {
    /// Octets that were asked for, and the hash of what the server sent.
    pub size: u64,
    pub sent_sha256: String,
    /// The node that was killed.
    pub killed: Option<&'static str>,
    pub up: Up,
    pub done: Done,
    pub resumed: Vec<Resumed>,
    pub handover: Option<Handover>,
    /// The gateway's own view at the end.
    pub sas: Vec<IkeSa>,
}

/// The document of `-o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub nodes: u32,
    pub killed: Option<String>,
    pub octets: u64,
    pub seconds: f64,
    pub megabits_per_second: f64,
    pub sha256: String,
    /// Time without a packet at the client; `None` when nothing was killed.
    pub gap: Option<Gap>,
    pub download_stood_still_ms: f64,
    pub file_intact: bool,
    pub same_sa: bool,
    pub ike_messages: u64,
    pub esp_packets: u64,
    pub numbers_twice: u64,
    pub ivs_twice: u64,
    /// What is not as promised, in words.
    pub faults: Vec<String>,
}

/// `gap_ms` is the sum of the parts; the first is what is left when the node has named the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gap {
    pub gap_ms: f64,
    /// From the last packet until the new process asks for the segments: the kill, the start, reading the log.
    pub restart_ms: f64,
    pub commit_ms: f64,
    pub resume_ms: f64,
}

pub fn judge(evidence: &Evidence) -> Summary {
    let done = &evidence.done;
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
    if evidence.killed.is_some() && gap.is_none() {
        faults.push("no packet of the new process has reached the client".into());
    }
    Summary {
        nodes: 1,
        killed: evidence.killed.map(str::to_owned),
        octets: done.octets,
        seconds: done.seconds,
        megabits_per_second: done.octets as f64 * 8.0 / 1e6 / done.seconds.max(1e-9),
        sha256: done.sha256.clone(),
        gap: gap.map(|resumed| Gap::of(resumed.silence_ms, evidence.handover)),
        download_stood_still_ms: done.stood_still_ms,
        file_intact,
        same_sa,
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
        let (commit_ms, resume_ms) = handover.map_or((0.0, 0.0), |part| (part.commit_ms, part.resume_ms));
        // The parts are the node's own clock, in whole milliseconds: they may exceed what the client saw.
        Gap { gap_ms, restart_ms: (gap_ms - commit_ms - resume_ms).max(0.0), commit_ms, resume_ms }
    }
}

impl Summary {
    /// The last lines of the story.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(Gap { gap_ms, restart_ms, commit_ms, resume_ms }) = self.gap {
            text += &format!(
                "  restart      {gap_ms:.0} ms without a packet   = start {restart_ms:.0} + commit {commit_ms:.0} + \
                 resume {resume_ms:.0}; the download stood still for {:.0} ms\n",
                self.download_stood_still_ms
            );
        }
        if self.same_sa {
            text += "  the client   noticed nothing: same SA, same SPIs, no new IKE message\n";
        }
        if self.file_intact && self.numbers_twice + self.ivs_twice == 0 {
            let packets = grouped(self.esp_packets);
            text += &format!(
                "  checked      file intact; no sequence number and no IV twice in {packets} packets of the gateway\n"
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
            ("octets", self.octets.to_string()),
            ("seconds", format!("{:.3}", self.seconds)),
            ("gap_ms", part(|gap| gap.gap_ms)),
            ("restart_ms", part(|gap| gap.restart_ms)),
            ("commit_ms", part(|gap| gap.commit_ms)),
            ("resume_ms", part(|gap| gap.resume_ms)),
            ("file_intact", self.file_intact.to_string()),
            ("same_sa", self.same_sa.to_string()),
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
            size: 100,
            sent_sha256: "ab".into(),
            killed: Some("edge-1"),
            up,
            done,
            resumed: vec![resumed],
            handover: Some(Handover { segments: 256, commit_ms: 4.0, resume_ms: 13.0 }),
            sas: sas.sas,
        }
    }

    #[test]
    fn what_is_as_promised_succeeds_and_the_parts_add_up() {
        let summary = judge(&sound());
        assert_eq!(summary.faults, Vec::<String>::new());
        assert!(summary.outcome().is_ok() && summary.same_sa && summary.file_intact);
        let gap = Gap { gap_ms: 212.0, restart_ms: 195.0, commit_ms: 4.0, resume_ms: 13.0 };
        assert_eq!(summary.gap, Some(gap));
        assert_eq!(
            summary.text(),
            "  restart      212 ms without a packet   = start 195 + commit 4 + resume 13; the download stood still \
             for 240 ms\n  \
               the client   noticed nothing: same SA, same SPIs, no new IKE message\n  \
               checked      file intact; no sequence number and no IV twice in 1,234 packets of the gateway\n"
        );
    }

    #[test]
    fn each_broken_promise_is_a_fault() {
        type Breaks = fn(&mut Evidence);
        let cases: [(&str, Breaks); 9] = [
            ("damaged", |evidence| evidence.done.sha256 = "cd".into()),
            ("damaged", |evidence| evidence.done.octets = 99),
            ("other SAs", |evidence| evidence.done.child_spis = vec![(1, 2)]),
            ("other SAs", |evidence| evidence.sas[0].spi_r.0 += 1),
            ("has changed", |evidence| evidence.done.changes.push("ChildUp".into())),
            ("IKE messages", |evidence| evidence.done.wire.ike_messages = 2),
            ("sequence number", |evidence| evidence.done.wire.numbers_twice = 1),
            ("IV", |evidence| evidence.done.wire.ivs_twice = 1),
            ("no packet", |evidence| evidence.resumed.clear()),
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
    fn without_a_kill_there_is_no_gap() {
        let mut evidence = sound();
        (evidence.killed, evidence.handover) = (None, None);
        evidence.resumed.clear();
        let summary = judge(&evidence);
        assert_eq!((summary.gap, summary.outcome()), (None, Ok(())));
    }
}
