//! `node.toml`: what is this machine's own. CONTRACT has the example; here are the defaults and the checks.
//!
//! Paths are read relative to the file. A file with a mistake starts nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Code, Diagnostic, Report};
use super::networks::link_address;
use super::reader::{At, Notes, Reader};
use crate::control::api;

const DATA_DIR: &str = "/var/lib/pontoon";
pub const CONTROL_SOCKET: &str = "/run/pontoon/control.sock";
const HTTP: &str = "127.0.0.1:9477";
const TUN: &str = "pontoon0";
/// A device name of the kernel: IFNAMSIZ with its final zero.
const DEVICE_NAME_MAX: usize = 15;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub name: String,
    /// Where other nodes reach this one: TCP, and UDP of the same port.
    pub advertise: SocketAddr,
    pub data_dir: PathBuf,
    pub control_socket: PathBuf,
    /// `None`: no HTTP server (`http = "off"`).
    pub http: Option<SocketAddr>,
    /// `None`: the key is made at the first start, inside `data_dir`.
    pub storage_key: Option<PathBuf>,
    pub outside: Link,
    pub inside: Link,
    pub tun: String,
    pub timing: Timing,
}

/// One side of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub device: String,
    /// Service addresses, the same on every node, with the prefix of the link.
    pub addresses: Vec<LinkAddress>,
    pub steering: Steering,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    pub ip: IpAddr,
    pub prefix: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// One node holds the service address, tells its neighbours so, and relays to the owners.
    Announce,
    /// All nodes answer with one Ethernet address that is a group, so all see all packets.
    SharedMac,
    /// A router spreads packets over the nodes, and any of them relays to the owner.
    External,
}

/// The times of a profile: Raft's, and in milliseconds those of probes and leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub raft: raft::timing::Timing,
    pub probe_ms: u64,
    pub suspect_ms: u64,
    pub lease_ms: u64,
}

impl Timing {
    /// One network segment, a few hundred microseconds apart.
    pub const LAN: Timing = Timing { raft: raft::timing::LAN, probe_ms: 15, suspect_ms: 50, lease_ms: 60 };
    /// Sites tens of milliseconds apart.
    pub const WAN: Timing = Timing { raft: raft::timing::WAN, probe_ms: 60, suspect_ms: 300, lease_ms: 400 };
    /// Machines with fewer cores than processes, where nothing runs on time.
    pub const CI: Timing = Timing { raft: raft::timing::CI, probe_ms: 20, suspect_ms: 150, lease_ms: 200 };

    pub fn shown(&self) -> api::Timing {
        api::Timing {
            profile: self.raft.profile.to_owned(),
            heartbeat_ms: millis(self.raft.heartbeat),
            election_ms: [millis(self.raft.election_min), millis(self.raft.election_max)],
            probe_ms: self.probe_ms,
            suspect_ms: self.suspect_ms,
            lease_ms: self.lease_ms,
        }
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// A lease outlasts a few lost probes, and suspicion comes before its end, so that nobody waits for it in vain.
const fn is_sound(timing: &Timing) -> bool {
    timing.probe_ms * 3 <= timing.suspect_ms && timing.suspect_ms <= timing.lease_ms
}
const _: () = assert!(is_sound(&Timing::LAN) && is_sound(&Timing::WAN) && is_sound(&Timing::CI));

impl NodeConfig {
    /// Reads the text of a file that lies in `base`. The report holds every mistake and warning; there is a
    /// configuration only without a mistake.
    pub fn parse(name: &str, text: &str, base: &Path) -> (Option<NodeConfig>, Report) {
        let notes = Notes::default();
        let table = notes.parse(text);
        let config = read(Reader::root(&table, &notes), base);
        let report = Report::new(name, text, notes.take(text));
        let config = if report.has_errors() { None } else { config };
        (config, report)
    }
}

fn read(mut file: Reader<'_, '_>, base: &Path) -> Option<NodeConfig> {
    let name = file.required("name", "name = \"edge-1\"").and_then(|name| node_name(&file, name));
    let advertise = file
        .required("advertise", "advertise = \"198.18.0.11:7400\"")
        .and_then(|text| advertised(&file, text));
    let data_dir = path(&mut file, "data_dir", base).unwrap_or_else(|| base.join(DATA_DIR));

    let mut control_socket = base.join(CONTROL_SOCKET);
    let mut http = HTTP.parse().ok();
    if let Some(mut control) = file.table("control") {
        control_socket = path(&mut control, "socket", base).unwrap_or(control_socket);
        if let Some(text) = control.string("http") {
            http = http_address(&control, text);
        }
        control.finish();
    }
    let mut storage_key = None;
    if let Some(mut storage) = file.table("storage") {
        storage_key = path(&mut storage, "key_file", base);
        storage.finish();
    }
    let outside = link(&mut file, "outside", true, "device = \"eth0\"\naddress = [\"192.0.2.1/24\"]")
        .map(|(link, _)| link);
    let inside = link(&mut file, "inside", false, "device = \"eth1\"\naddress = [\"10.10.0.1/24\"]");
    let mut timing = Timing::LAN;
    if let Some(mut table) = file.table("timing") {
        let words = [("lan", Timing::LAN), ("wan", Timing::WAN), ("ci", Timing::CI)];
        if let Some(profile) = table.word("profile", &words, &[]) {
            timing = profile.value;
        }
        table.finish();
    }
    file.finish();
    let (inside, tun) = inside?;
    Some(NodeConfig {
        name: name?,
        advertise: advertise?,
        data_dir,
        control_socket,
        http,
        storage_key,
        outside: outside?,
        inside,
        tun,
        timing,
    })
}

fn node_name(file: &Reader<'_, '_>, name: At<String>) -> Option<String> {
    let text = &name.value;
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_'))
        && text.bytes().next().is_some_and(|c| c.is_ascii_alphabetic());
    if !fits {
        file.notes().add(
            Diagnostic::error(Code::Value, name.span, format!("{text:?} is no name of a node"))
                .help("a letter, then up to 62 letters, digits, -, _ or .; commands take a name or an id, so it is no number"),
        );
        return None;
    }
    Some(name.value)
}

fn advertised(file: &Reader<'_, '_>, text: At<String>) -> Option<SocketAddr> {
    let address = file.parsed(text, |text| {
        text.parse::<SocketAddr>().map_err(|_| {
            (
                format!("{text:?} is no address with a port"),
                "write 198.18.0.11:7400 or [2001:db8::11]:7400".to_owned(),
            )
        })
    })?;
    let (ip, port) = (address.value.ip(), address.value.port());
    if ip.is_unspecified() || ip.is_multicast() || port == 0 {
        file.notes().add(
            Diagnostic::error(
                Code::Value,
                address.span,
                format!("other nodes cannot reach {}", address.value),
            )
            .help("write the address of this machine that the other nodes see, and a port"),
        );
        return None;
    }
    Some(address.value)
}

fn http_address(control: &Reader<'_, '_>, text: At<String>) -> Option<SocketAddr> {
    if text.value == "off" {
        return None;
    }
    let address = control.parsed(text, |text| {
        text.parse::<SocketAddr>().map_err(|_| {
            (format!("{text:?} is no address with a port"), format!("write {HTTP:?}, or \"off\""))
        })
    })?;
    if !address.value.ip().is_loopback() {
        let text = format!("{} shows peers and nodes to whoever asks", address.value);
        control.notes().add(
            Diagnostic::warning(Code::Advice, address.span, text)
                .help("keep it on 127.0.0.1, or filter the port"),
        );
    }
    Some(address.value)
}

/// A link, and the `tun` of the inside.
fn link(
    file: &mut Reader<'_, '_>,
    key: &'static str,
    outside: bool,
    example: &str,
) -> Option<(Link, String)> {
    let Some(mut table) = file.table(key) else {
        if !file.has(key) {
            file.missing(&format!("[{key}]"), &format!("[{key}]\n{example}"));
        }
        return None;
    };
    let device = table.required("device", "device = \"eth0\"").and_then(|device| device_name(&table, device));
    let none_given = !table.has("address") || table.is_empty_list("address");
    let addresses = table.list("address", link_address);
    if outside && none_given {
        table
            .missing("address", "address = [\"192.0.2.1/24\"]   (service addresses, the same on every node)");
    }
    let addresses = addresses.unwrap_or_default();
    for (at, later) in addresses.iter().enumerate() {
        if addresses[..at].iter().any(|earlier| earlier.value.0 == later.value.0) {
            let text = format!("{} stands here twice", later.value.0);
            table.notes().error(Code::Conflict, later.span.clone(), text);
        }
    }
    let words = [
        ("announce", Steering::Announce),
        ("shared-mac", Steering::SharedMac),
        ("external", Steering::External),
    ];
    let steering = table.word("steering", &words, &[]);
    let mut tun = TUN.to_owned();
    if !outside && let Some(name) = table.string("tun").and_then(|name| device_name(&table, name)) {
        tun = name;
    }
    table.finish();
    let addresses =
        addresses.into_iter().map(|at| LinkAddress { ip: at.value.0, prefix: at.value.1 }).collect();
    Some((
        Link {
            device: device?,
            addresses,
            steering: steering.map_or(Steering::Announce, |steering| steering.value),
        },
        tun,
    ))
}

fn device_name(table: &Reader<'_, '_>, name: At<String>) -> Option<String> {
    let text = &name.value;
    let fits = (1..=DEVICE_NAME_MAX).contains(&text.len())
        && !matches!(text.as_str(), "." | "..")
        && text.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b'/' | b':' | b'%'));
    if !fits {
        table.notes().add(
            Diagnostic::error(Code::Value, name.span, format!("{text:?} is no name of a device"))
                .help(format!("1 to {DEVICE_NAME_MAX} characters, as `ip link` shows them")),
        );
        return None;
    }
    Some(name.value)
}

fn path(table: &mut Reader<'_, '_>, key: &'static str, base: &Path) -> Option<PathBuf> {
    let text = table.string(key)?;
    if text.value.is_empty() || text.value.contains('\0') {
        table.notes().error(Code::Value, text.span, format!("{key} is no path"));
        return None;
    }
    Some(base.join(text.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
name = "edge-1"
advertise = "198.18.0.11:7400"
[outside]
device = "eth0"
address = ["192.0.2.1/24"]
[inside]
device = "eth1"
"#;

    fn parse(text: &str) -> (Option<NodeConfig>, Report) {
        NodeConfig::parse("node.toml", text, Path::new("/etc/pontoon"))
    }

    fn found(report: &Report) -> Vec<(usize, usize, &'static str, String)> {
        report
            .diagnostics
            .iter()
            .map(|diagnostic| {
                let (line, column) = report.position(diagnostic);
                (line, column, diagnostic.code.name(), diagnostic.text.clone())
            })
            .collect()
    }

    #[test]
    fn a_small_file_gets_the_defaults() {
        let (config, report) = parse(SMALL);
        assert_eq!(found(&report), []);
        let config = config.unwrap();
        assert_eq!(config.data_dir, Path::new("/var/lib/pontoon"));
        assert_eq!(config.control_socket, Path::new("/run/pontoon/control.sock"));
        assert_eq!(config.http, Some(SocketAddr::from(([127, 0, 0, 1], 9477))));
        assert_eq!(config.storage_key, None);
        assert_eq!(config.tun, "pontoon0");
        assert_eq!(config.timing, Timing::LAN);
        assert_eq!(config.outside.steering, Steering::Announce);
        assert_eq!(config.outside.addresses, [LinkAddress { ip: "192.0.2.1".parse().unwrap(), prefix: 24 }]);
        assert_eq!(config.inside.addresses, []);
    }

    #[test]
    fn the_whole_file_of_the_contract_is_read() {
        let text = r#"
name      = "edge-1"
advertise = "198.18.0.11:7400"       # TCP and UDP
data_dir  = "data"

[control]
socket  = "/run/pontoon/control.sock"
http    = "off"

[storage]
key_file = "/etc/pontoon/storage.key"

[outside]
device   = "eth0"
address  = ["192.0.2.1/24", "2001:db8::1/64"]
steering = "announce"

[inside]
device   = "eth0"
address  = ["10.10.0.1/24"]
steering = "shared-mac"
tun      = "pontoon7"

[timing]
profile  = "ci"
"#;
        let (config, report) = parse(text);
        assert_eq!(found(&report), []);
        let config = config.unwrap();
        assert_eq!(config.data_dir, Path::new("/etc/pontoon/data"));
        assert_eq!(config.http, None);
        assert_eq!(config.storage_key.as_deref(), Some(Path::new("/etc/pontoon/storage.key")));
        assert_eq!((config.tun.as_str(), config.timing.raft.profile), ("pontoon7", "ci"));
        assert_eq!(config.outside.addresses.len(), 2);
        assert_eq!(
            (config.outside.steering, config.inside.steering),
            (Steering::Announce, Steering::SharedMac)
        );
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let text = r#"name = "1"
advertize = "198.18.0.11:7400"
data_dir = 7
[control]
http = "localhost"
[outside]
device = "a-name-that-is-too-long"
address = ["192.0.2.1", "192.0.2.1/33", "192.0.2.2/24", "192.0.2.2/24"]
steering = "shared-mac"
[inside]
device = "eth1"
steering = "anounce"
tun = "a/b"
[timing]
profile = "fast"
[extra]
"#;
        let (config, report) = parse(text);
        assert_eq!(config, None);
        let texts: Vec<String> = found(&report)
            .into_iter()
            .map(|(line, column, code, text)| format!("{line}:{column} {code}: {text}"))
            .collect();
        assert_eq!(
            texts,
            [
                "1:1 missing: the file has no advertise",
                "1:8 value: \"1\" is no name of a node",
                "2:1 unknown-key: no key advertize here",
                "3:12 value: a text is needed here, this is a number",
                "5:8 value: \"localhost\" is no address with a port",
                "7:10 value: \"a-name-that-is-too-long\" is no name of a device",
                "8:12 value: 192.0.2.1 has no prefix",
                "8:25 value: 192.0.2.1/33 is not a network",
                "8:57 conflict: 192.0.2.2 stands here twice",
                "12:12 value: \"anounce\" is no value for steering",
                "13:7 value: \"a/b\" is no name of a device",
                "15:11 value: \"fast\" is no value for profile",
                "16:2 unknown-key: no key extra here",
            ]
        );
        let help = |at: usize| report.diagnostics[at].help.clone().unwrap();
        assert_eq!(help(2), "did you mean advertise?");
        assert_eq!(help(9), "did you mean \"announce\"?");
        assert_eq!(help(11), "one of \"lan\", \"wan\", \"ci\"");
    }

    #[test]
    fn broken_toml_is_told_with_the_rest() {
        let (config, report) = parse(&format!("{SMALL}\ntun = \nsteering = \"extern\"\n"));
        assert_eq!(config, None);
        let codes: Vec<_> = found(&report).iter().map(|found| found.2).collect();
        assert!(codes.contains(&"syntax") && codes.contains(&"value"), "{codes:?}");
        for broken in ["=", "[", "name = \"", "\0", "[outside]\n[outside]\n", "a.b = 1\na = 2"] {
            let (config, report) = parse(broken);
            assert!(config.is_none() && report.has_errors(), "{broken:?}");
            assert!(!report.render(false).is_empty());
        }
    }

    #[test]
    fn an_address_for_everyone_is_warned_of() {
        let (config, report) =
            parse(&SMALL.replace("[outside]", "[control]\nhttp = \"0.0.0.0:9477\"\n[outside]"));
        assert!(config.is_some());
        assert_eq!((report.errors(), report.warnings()), (0, 1));
    }
}
