//! `pontoon doctor`: is this host fit for it? Each line is ok, a warning or a failure, with what to do.
//!
//! It only looks, and asks no daemon: what it measures is in the places where the daemon would work. With a node.toml
//! it looks at the devices and directories of that, without one at the defaults.

use std::fs;
use std::io::{self, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::Context;
use super::output::Rows;
use crate::config::NodeConfig;
use crate::fault::{Exit, Fault, StartError};

const DEFAULT_CONFIG: &str = "/etc/pontoon/node.toml";
const DEFAULT_DATA_DIR: &str = "/var/lib/pontoon";
/// Writes with fdatasync, each as long as a small log entry.
const SYNC_ROUNDS: usize = 200;
const SYNC_OCTETS: usize = 512;
/// All rounds together stop here, on a disk that is slow enough to tell.
const SYNC_BUDGET: Duration = Duration::from_secs(3);
/// An IKE reply waits for one of these: beyond it clients notice.
const SYNC_P99_MS: f64 = 20.0;
/// The protocol number of ESP.
const ESP: i32 = 50;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// This machine's configuration [default: /etc/pontoon/node.toml where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Exit with 8 on warnings too
    #[arg(long)]
    pub strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    pub text: String,
    pub fix: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Findings {
    pub checks: Vec<Check>,
    pub warnings: usize,
    pub failures: usize,
}

pub fn execute(args: &DoctorArgs, context: &Context) -> Result<Exit, Fault> {
    let mut checks = Vec::new();
    let config = configuration(args.config.as_deref(), &mut checks)?;
    let running = std::os::unix::net::UnixStream::connect(
        config.as_ref().map_or(&context.global.socket, |config| &config.control_socket),
    )
    .is_ok();
    checks.push(tun());
    checks.extend(capabilities(&read("/proc/self/status")));
    checks.push(raw_esp());
    checks.extend([500, 4500].map(|port| udp_port(port, running)));
    let data_dir = config.as_ref().map_or(Path::new(DEFAULT_DATA_DIR), |config| &config.data_dir);
    checks.push(fsync(data_dir));
    let devices = config
        .as_ref()
        .map_or_else(Vec::new, |config| vec![config.outside.device.clone(), config.inside.device.clone()]);
    checks.extend(devices.iter().map(|device| link(device)));
    checks.extend(forwarding(|key| read(&format!("/proc/sys/{}", key.replace('.', "/")))));
    checks.extend(reverse_path(&devices, |key| read(&format!("/proc/sys/{}", key.replace('.', "/")))));
    checks.push(kernel(&read("/proc/sys/kernel/osrelease")));

    let findings = findings(checks);
    context.out.document(&findings, text, rows)?;
    Ok(match (findings.failures, findings.warnings) {
        (0, 0) => Exit::Done,
        (0, _) if args.strict => Exit::Degraded,
        (0, _) => Exit::Done,
        _ => Exit::Failed,
    })
}

pub fn findings(checks: Vec<Check>) -> Findings {
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    Findings { warnings: count(State::Warn), failures: count(State::Fail), checks }
}

pub fn text(findings: &Findings) -> String {
    let mut text = String::new();
    for check in &findings.checks {
        let word = match check.state {
            State::Ok => "ok  ",
            State::Warn => "warn",
            State::Fail => "fail",
        };
        text.push_str(&format!("{word}  {}\n", check.text));
        if let Some(fix) = &check.fix {
            text.push_str(&format!("      -> {fix}\n"));
        }
    }
    let plural = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    text.push_str(&match (findings.warnings, findings.failures) {
        (0, 0) => "this host is fit for it\n".to_owned(),
        (warnings, failures) => format!("{}, {}\n", plural(warnings, "warning"), plural(failures, "failure")),
    });
    text
}

fn ok(name: &'static str, text: impl Into<String>) -> Check {
    Check { name, state: State::Ok, text: text.into(), fix: None }
}

fn warn(name: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { name, state: State::Warn, text: text.into(), fix: Some(fix.into()) }
}

fn fail(name: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { name, state: State::Fail, text: text.into(), fix: Some(fix.into()) }
}

/// A fault as a line: what, and the first thing to try.
fn failed(name: &'static str, fault: Fault) -> Check {
    let fix = fault.tries.into_iter().next().or(fault.why).unwrap_or_default();
    fail(name, fault.what, fix)
}

fn configuration(given: Option<&Path>, checks: &mut Vec<Check>) -> Result<Option<NodeConfig>, Fault> {
    let path = match given {
        Some(path) => path,
        None if Path::new(DEFAULT_CONFIG).exists() => Path::new(DEFAULT_CONFIG),
        None => return Ok(None),
    };
    let (config, report) = super::run::read(path)?;
    let name = path.display();
    checks.push(match &config {
        Some(_) => ok("config", format!("{name}: {}", report.summary())),
        None => fail("config", format!("{name}: {}", report.summary()), format!("pontoon check {name}")),
    });
    Ok(config)
}

fn tun() -> Check {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => ok("tun", "/dev/net/tun can be opened"),
        Err(error) => failed("tun", StartError::tun("pontoon0", error).fault()),
    }
}

/// From the line `CapEff:` of /proc/self/status: this process has what a daemon started in its place would have.
fn capabilities(status: &Option<String>) -> Vec<Check> {
    const WANTED: [(u32, &str, &str); 3] = [
        (12, "CAP_NET_ADMIN", "TUN, addresses, routes"),
        (10, "CAP_NET_BIND_SERVICE", "UDP port 500"),
        (13, "CAP_NET_RAW", "ESP without UDP"),
    ];
    let effective = status
        .as_ref()
        .and_then(|status| status.lines().find_map(|line| line.strip_prefix("CapEff:")))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    let Some(effective) = effective else {
        return vec![warn("capabilities", "cannot tell the capabilities of this process", "run as root")];
    };
    WANTED
        .iter()
        .map(|(bit, name, what_for)| match effective & (1 << bit) {
            0 => fail(
                "capabilities",
                format!("{name} is missing ({what_for})"),
                format!(
                    "run as root or as the service, or: setcap {}+ep $(command -v pontoon)",
                    name.to_lowercase()
                ),
            ),
            _ => ok("capabilities", format!("{name} ({what_for})")),
        })
        .collect()
}

fn raw_esp() -> Check {
    match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(ESP))) {
        Ok(_) => ok("esp", "raw sockets for ESP (IP protocol 50)"),
        Err(error) => fail("esp", format!("no raw socket for ESP: {error}"), "grant CAP_NET_RAW"),
    }
}

fn udp_port(port: u16, running: bool) -> Check {
    let address = SocketAddr::from(([0, 0, 0, 0], port));
    match UdpSocket::bind(address) {
        Ok(_) => ok("ports", format!("UDP port {port} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && running => {
            ok("ports", format!("UDP port {port} is in use, and pontoon is running"))
        }
        Err(error) => failed("ports", StartError::bind(address, "udp", error).fault()),
    }
}

/// Measures what a commit costs where the log will be.
fn fsync(data_dir: &Path) -> Check {
    let place = data_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let shown = place.display();
    match fsync_times(place) {
        Ok(mut times) if !times.is_empty() => {
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
            let (p50, p99) = (at(0.5), at(0.99));
            let text = format!("fdatasync in {shown}: p50 {p50:.1} ms, p99 {p99:.1} ms");
            if p99 > SYNC_P99_MS {
                warn("fsync", text, "use a disk with power-loss protection; every IKE reply waits for one")
            } else {
                ok("fsync", text)
            }
        }
        Ok(_) => fail("fsync", format!("cannot measure fdatasync in {shown}"), "use another data_dir"),
        Err(error) => failed("fsync", StartError::file(place, "write to", error).fault()),
    }
}

/// In milliseconds.
fn fsync_times(place: &Path) -> io::Result<Vec<f64>> {
    struct Gone(PathBuf);
    impl Drop for Gone {
        fn drop(&mut self) {
            // Left behind it is an empty nuisance, no harm.
            let _ = fs::remove_file(&self.0);
        }
    }
    let path = place.join(format!(".pontoon-doctor-{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    let _gone = Gone(path);
    let begun = Instant::now();
    let mut times = Vec::with_capacity(SYNC_ROUNDS);
    while times.len() < SYNC_ROUNDS && begun.elapsed() < SYNC_BUDGET {
        let start = Instant::now();
        file.write_all(&[0x5a; SYNC_OCTETS])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

fn link(device: &str) -> Check {
    // Unlike /sys, this shows the network namespace of whoever looks.
    if !Path::new("/proc/sys/net/ipv4/conf").join(device).exists() {
        return fail(
            "devices",
            format!("there is no device {device}"),
            "ip link   (lists the devices of this host)",
        );
    }
    match read(&format!("/sys/class/net/{device}/operstate")).as_deref().map(str::trim) {
        Some("down" | "lowerlayerdown") => {
            fail("devices", format!("the device {device} is down"), format!("ip link set {device} up"))
        }
        _ => ok("devices", format!("the device {device} is there")),
    }
}

fn forwarding(sysctl: impl Fn(&str) -> Option<String>) -> Vec<Check> {
    let is_on = |key: &str| sysctl(key).is_some_and(|value| value.trim() == "1");
    let v4 = match is_on("net.ipv4.ip_forward") {
        true => ok("sysctl", "IPv4 forwarding is on"),
        false => fail(
            "sysctl",
            "IPv4 forwarding is off: inner packets go nowhere",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
    };
    let v6 = match is_on("net.ipv6.conf.all.forwarding") {
        true => ok("sysctl", "IPv6 forwarding is on"),
        false => warn(
            "sysctl",
            "IPv6 forwarding is off: inner IPv6 packets go nowhere",
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        ),
    };
    vec![v4, v6]
}

/// Strict reverse-path filtering drops packets whose way back is not the device they came by. The kernel takes the
/// higher of `all` and the device's own.
fn reverse_path(devices: &[String], sysctl: impl Fn(&str) -> Option<String>) -> Vec<Check> {
    let of = |name: &str| {
        sysctl(&format!("net.ipv4.conf.{name}.rp_filter")).and_then(|value| value.trim().parse::<u8>().ok())
    };
    let all = of("all").unwrap_or(0);
    // A TUN that is still to come takes the default.
    let names = devices.iter().map(String::as_str).chain(["default"]);
    let strict: Vec<&str> = names.filter(|name| all.max(of(name).unwrap_or(0)) == 1).collect();
    if strict.is_empty() {
        return vec![ok("sysctl", "reverse-path filtering lets tunnels through")];
    }
    strict
        .into_iter()
        .map(|name| {
            warn(
                "sysctl",
                format!("rp_filter is strict on {name}: it may drop inner packets"),
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
            )
        })
        .collect()
}

fn kernel(release: &Option<String>) -> Check {
    const GRO: (u32, u32) = (5, 0);
    const USO: (u32, u32) = (6, 2);
    let Some(release) = release.as_deref().map(str::trim) else {
        return warn("kernel", "cannot tell the release of the kernel", "mount /proc");
    };
    let mut parts = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < GRO {
        fail(
            "kernel",
            format!("Linux {release} is too old"),
            "Linux 5.0 or later, for UDP_SEGMENT and UDP_GRO",
        )
    } else if version < USO {
        warn(
            "kernel",
            format!("Linux {release}: no segmentation of UDP on TUN, so more CPU for UDP"),
            "Linux 6.2 or later",
        )
    } else {
        ok("kernel", format!("Linux {release}: UDP_SEGMENT, UDP_GRO, TUN offloads"))
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn rows(findings: &Findings) -> Rows {
    let mut rows = Rows::new(&["state", "name", "text", "fix"]);
    for check in &findings.checks {
        rows.push(vec![
            super::word(&check.state),
            check.name.to_owned(),
            check.text.clone(),
            check.fix.clone().unwrap_or_default(),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(checks: &[Check]) -> Vec<State> {
        checks.iter().map(|check| check.state).collect()
    }

    #[test]
    fn capabilities_are_read_from_the_mask() {
        let status = |mask: &str| Some(format!("Name:\tx\nCapEff:\t{mask}\nCapBnd:\t0\n"));
        assert_eq!(states(&capabilities(&status("000001ffffffffff"))), [State::Ok; 3]);
        assert_eq!(states(&capabilities(&status("0000000000001400"))), [State::Ok, State::Ok, State::Fail]);
        assert_eq!(states(&capabilities(&status("0"))), [State::Fail; 3]);
        assert_eq!(states(&capabilities(&None)), [State::Warn]);
    }

    #[test]
    fn sysctls_are_judged() {
        let with = |set: &'static [(&str, &str)]| {
            move |key: &str| set.iter().find(|(name, _)| *name == key).map(|(_, value)| format!("{value}\n"))
        };
        let off = with(&[("net.ipv4.ip_forward", "0")]);
        assert_eq!(states(&forwarding(off)), [State::Fail, State::Warn]);
        let on = with(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")]);
        assert_eq!(states(&forwarding(on)), [State::Ok, State::Ok]);
        let devices = ["eth0".to_owned()];
        for (all, eth0, state) in
            [("0", "1", State::Warn), ("2", "1", State::Ok), ("1", "0", State::Warn), ("0", "0", State::Ok)]
        {
            let sysctl = |key: &str| match key {
                "net.ipv4.conf.all.rp_filter" => Some(all.to_owned()),
                "net.ipv4.conf.eth0.rp_filter" => Some(eth0.to_owned()),
                _ => None,
            };
            assert_eq!(reverse_path(&devices, sysctl)[0].state, state, "{all} {eth0}");
        }
    }

    #[test]
    fn kernels_are_judged() {
        for (release, state) in [
            ("6.18.0-rc1+", State::Ok),
            ("6.2.0", State::Ok),
            ("6.1.0-28-amd64", State::Warn),
            ("4.19.0", State::Fail),
            ("strange", State::Fail),
        ] {
            assert_eq!(kernel(&Some(release.to_owned())).state, state, "{release}");
        }
    }

    #[test]
    fn a_taken_port_and_a_missing_disk() {
        let held = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        assert_eq!(udp_port(port, false).state, State::Fail);
        assert_eq!(udp_port(port, true).state, State::Ok);
        drop(held);
        assert_eq!(udp_port(port, false).state, State::Ok);
        let dir = tempfile::tempdir().unwrap();
        let check = fsync(&dir.path().join("not/there/yet"));
        assert_ne!(check.state, State::Fail, "{}", check.text);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn the_last_line_counts() {
        let checks = vec![ok("a", "well"), warn("b", "so so", "mend it"), fail("c", "bad", "do it")];
        assert_eq!(
            text(&findings(checks)),
            "ok    well\nwarn  so so\n      -> mend it\nfail  bad\n      -> do it\n1 warning, 1 failure\n"
        );
        assert_eq!(text(&findings(vec![ok("a", "well")])), "ok    well\nthis host is fit for it\n");
    }
}
