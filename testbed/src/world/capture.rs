//! Records a device to a file with tcpdump; tests that need it are skipped by name where it is missing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::eventually;
use super::exec::{self, Daemon};
use super::netns::Netns;
use crate::ensure;
use crate::outcome::{Result, Stop};

/// A recording under way.
#[derive(Debug)]
pub struct Capture {
    recorder: Daemon,
    file: PathBuf,
}

impl Capture {
    /// Returns when the recorder listens.
    pub fn start(namespace: &Netns, device: &str, file: &Path) -> Result<Capture> {
        exec::require("tcpdump")?;
        let mut command = namespace.command("tcpdump");
        // -U: what was seen is in the file at once; the large buffer keeps bursts.
        command.args(["-i", device, "-n", "-U", "-s", "0", "-B", "65536", "-Z", "root", "-w"]).arg(file);
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
        eventually(Duration::from_secs(10), || match self.recorder.still_running() {
            Ok(()) => Err(Stop::from("tcpdump does not end")),
            Err(_) => Ok(()),
        })?;
        let log = self.recorder.log();
        ensure!(
            log.contains("0 packets dropped by kernel"),
            "the recording has holes: {}",
            exec::tail(&log, 4)
        );
        Ok(self.file.clone())
    }
}
