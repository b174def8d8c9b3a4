//! Records a device to a file with tcpdump; tests that need it are skipped by name where it is missing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::eventually;
use super::exec::{self, Daemon};
use super::netns::Netns;
use crate::ensure;
use crate::outcome::{Result, Stop};

/// How much of each packet is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Whole,
    /// Enough to tell two packets with the same number apart: for runs of many megabytes.
    Heads,
}

/// Ethernet to the explicit IV take some 70 octets; what follows is ciphertext, which differs where the packet does.
const HEAD_LEN: usize = 192;

impl Extent {
    /// Of each packet; `None`: all of it.
    pub fn octets(self) -> Option<usize> {
        (self == Extent::Heads).then_some(HEAD_LEN)
    }
}

/// A recording under way.
#[derive(Debug)]
pub struct Capture {
    recorder: Daemon,
    file: PathBuf,
}

impl Capture {
    /// Returns when the recorder listens.
    pub fn start(namespace: &Netns, device: &str, file: &Path) -> Result<Capture> {
        Capture::record(namespace, file, Extent::Whole, &["-i", device])
    }

    /// Records what comes in on all devices of a namespace; the record says on which.
    pub fn start_on_all(namespace: &Netns, file: &Path, extent: Extent) -> Result<Capture> {
        Capture::record(namespace, file, extent, &["-i", "any", "-Q", "in", "-y", "LINUX_SLL2"])
    }

    fn record(namespace: &Netns, file: &Path, extent: Extent, which: &[&str]) -> Result<Capture> {
        exec::require("tcpdump")?;
        // tcpdump's word for all of it.
        let octets = extent.octets().unwrap_or(0).to_string();
        let mut command = namespace.command("tcpdump");
        // -U: what was seen is in the file at once; the large buffer keeps bursts.
        command.args(which).args(["-n", "-U", "-s", &octets, "-B", "65536", "-Z", "root", "-w"]).arg(file);
        let mut recorder = Daemon::start(&mut command, &file.with_extension("tcpdump.log"))?;
        eventually(Duration::from_secs(5), || {
            recorder.still_running()?;
            match recorder.log().contains("listening on") {
                true => Ok(()),
                false => Err("tcpdump does not listen".into()),
            }
        })?;
        Ok(Capture { recorder, file: file.to_owned() })
    }

    /// Ends the recording; an error when the recorder missed packets, for then nothing is proved.
    pub fn stop(mut self) -> Result<PathBuf> {
        // The kernel hands packets over in blocks; the last one follows within a second.
        std::thread::sleep(Duration::from_millis(1200));
        exec::signal(self.recorder.pid(), Signal::INT)?;
        eventually(Duration::from_secs(30), || match self.recorder.still_running() {
            Ok(()) => Err(Stop::from("tcpdump does not end")),
            Err(_) => Ok(()),
        })?;
        let log = self.recorder.log();
        ensure!(
            log.lines().any(|line| line == "0 packets dropped by kernel"),
            "the recording has holes: {}",
            exec::tail(&log, 4)
        );
        Ok(self.file.clone())
    }
}
