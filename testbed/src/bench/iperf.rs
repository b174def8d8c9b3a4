//! Traffic by iperf3, from one namespace to another, with what its receiver counted.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::outcome::{Context, Result, Stop};
use crate::world::eventually;
use crate::world::exec::{self, Daemon};
use crate::world::netns::Netns;

const PORT: &str = "5201";

/// How long the server may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// One test: TCP with one stream from client to server, for five seconds, as quick as it goes; change what differs.
#[derive(Clone, Copy, Debug)]
pub struct Iperf {
    pub seconds: u32,
    pub streams: u32,
    /// From server to client.
    pub download: bool,
    /// UDP with datagrams of so many octets, instead of TCP.
    pub datagram: Option<u32>,
    /// The offered load of all streams together, in bit/s; for UDP without one, iperf3 takes 1 Mbit/s.
    pub rate: Option<u64>,
}

impl Default for Iperf {
    fn default() -> Self {
        Iperf { seconds: 5, streams: 1, download: false, datagram: None, rate: None }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Payload octets that arrived.
    pub bytes: u64,
    pub seconds: f64,
    /// TCP only.
    pub retransmits: u64,
    /// UDP only.
    pub packets: u64,
    pub lost_packets: u64,
}

impl Iperf {
    /// Runs the test; `dir` takes the server's log.
    pub fn run(&self, client: &Netns, server: &Netns, to: IpAddr, dir: &Path) -> Result<Traffic> {
        exec::require("iperf3")?;
        // Serves one test and ends.
        let log = dir.join("iperf3.log");
        let _server = Daemon::start(server.command("iperf3").args(["-s", "-1", "-p", PORT]), &log)?;
        eventually(PATIENCE, || {
            let output = client.command("iperf3").args(self.arguments(to)).output().context("iperf3")?;
            Traffic::parse(&String::from_utf8_lossy(&output.stdout))
        })
    }

    fn arguments(&self, to: IpAddr) -> Vec<String> {
        let mut line = format!("-c {to} -p {PORT} -t {} -P {} -J", self.seconds, self.streams);
        if self.download {
            line.push_str(" -R");
        }
        if let Some(len) = self.datagram {
            line.push_str(&format!(" -u -l {len}"));
        }
        if let Some(rate) = self.rate {
            // iperf3 takes it for each stream.
            line.push_str(&format!(" -b {}", rate / u64::from(self.streams.max(1))));
        }
        line.split(' ').map(str::to_owned).collect()
    }
}

impl Traffic {
    /// Reads what `iperf3 -J` has printed.
    pub fn parse(json: &str) -> Result<Traffic> {
        let told: Value = serde_json::from_str(json).context("what iperf3 printed")?;
        if let Some(error) = told["error"].as_str() {
            return Err(Stop::Failed(format!("iperf3: {error}")));
        }
        let (end, number) = (&told["end"], |value: &Value| value.as_u64().unwrap_or(0));
        let received = &end["sum_received"];
        // For UDP, what was lost is in the sum; its octets include what never arrived.
        let (packets, lost_packets) = (number(&end["sum"]["packets"]), number(&end["sum"]["lost_packets"]));
        Ok(Traffic {
            bytes: received["bytes"].as_u64().context("iperf3 told no bytes")?,
            seconds: received["seconds"].as_f64().context("iperf3 told no seconds")?,
            retransmits: number(&end["sum_sent"]["retransmits"]),
            packets,
            lost_packets,
        })
    }

    /// Share of the datagrams that did not arrive, 0 to 1.
    pub fn loss(&self) -> f64 {
        if self.packets == 0 { 0.0 } else { self.lost_packets as f64 / self.packets as f64 }
    }

    pub fn gbit_per_s(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_iperf3_is_read() {
        let tcp = r#"{"end": {"sum_sent": {"seconds": 1.0, "bytes": 706347008, "retransmits": 6},
            "sum_received": {"seconds": 1.25, "bytes": 700000000}}}"#;
        let traffic = Traffic { bytes: 700_000_000, seconds: 1.25, retransmits: 6, ..Traffic::default() };
        assert_eq!(Traffic::parse(tcp).unwrap(), traffic);
        assert_eq!((traffic.gbit_per_s(), traffic.loss()), (4.48, 0.0));
        let udp = r#"{"end": {"sum": {"seconds": 1.0, "bytes": 1000, "packets": 380, "lost_packets": 19},
            "sum_sent": {"bytes": 1000, "seconds": 1.0}, "sum_received": {"seconds": 1.0, "bytes": 950}}}"#;
        let traffic = Traffic::parse(udp).unwrap();
        assert_eq!(
            (traffic.bytes, traffic.packets, traffic.lost_packets, traffic.loss()),
            (950, 380, 19, 0.05)
        );
    }

    #[test]
    fn what_went_wrong_is_told() {
        let error = Traffic::parse(r#"{"end": {}, "error": "unable to connect to server"}"#).unwrap_err();
        assert_eq!(error.to_string(), "iperf3: unable to connect to server");
        assert!(Traffic::parse("").is_err());
        assert!(Traffic::parse(r#"{"end": {"sum_received": {"bytes": -1}}}"#).is_err());
    }

    #[test]
    fn a_rate_is_shared_by_the_streams() {
        let test = Iperf {
            streams: 4,
            download: true,
            datagram: Some(1_400),
            rate: Some(1_000),
            ..Iperf::default()
        };
        let line = test.arguments("10.0.0.1".parse().unwrap()).join(" ");
        assert_eq!(line, "-c 10.0.0.1 -p 5201 -t 5 -P 4 -J -R -u -l 1400 -b 250");
    }
}
