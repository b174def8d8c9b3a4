//! What went wrong, in the shape that people and scripts read: what / `why` / `try`, and an exit code (CONTRACT).
//!
//! A `Fault` crosses the control socket as it is, so a refusal of the daemon reads the same as one of the tool.
//! `StartError` is what can keep a node from starting; it is an enum so that the daemon's actors say what happened
//! and this file alone says it in words. No text here may hold a secret.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a command ends. The numbers are part of CONTRACT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// Wrong usage, an invalid file, or an option that is not built yet.
    Usage = 2,
    /// The daemon is not running or not reachable.
    Unreachable = 3,
    /// No quorum or no leader: a retry may help.
    NoQuorum = 4,
    /// No such SA, node or revision.
    NotFound = 5,
    /// Refused because it is dangerous; `--accept-risk NAME` overrides.
    Dangerous = 6,
    /// Timed out; the work goes on in the cluster.
    TimedOut = 7,
    /// Works, but not as well as it should (`status --check`).
    Degraded = 8,
    /// Stopped by the user.
    Interrupted = 130,
}

impl Exit {
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// One failure, told once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub exit: Exit,
    /// One line, lower case.
    pub what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do, best first: commands or settings.
    #[serde(default, rename = "try", skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<String>,
}

impl Fault {
    pub fn new(exit: Exit, what: impl Into<String>) -> Fault {
        Fault { exit, what: what.into(), why: None, tries: Vec::new() }
    }

    pub fn failed(what: impl Into<String>) -> Fault {
        Fault::new(Exit::Failed, what)
    }

    pub fn usage(what: impl Into<String>) -> Fault {
        Fault::new(Exit::Usage, what)
    }

    pub fn not_found(what: impl Into<String>) -> Fault {
        Fault::new(Exit::NotFound, what)
    }

    pub fn no_quorum(what: impl Into<String>) -> Fault {
        Fault::new(Exit::NoQuorum, what)
    }

    pub fn timed_out(what: impl Into<String>) -> Fault {
        Fault::new(Exit::TimedOut, what)
    }

    pub fn why(mut self, why: impl fmt::Display) -> Fault {
        self.why = Some(why.to_string());
        self
    }

    /// Adds one more thing to try.
    pub fn attempt(mut self, step: impl Into<String>) -> Fault {
        self.tries.push(step.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(why) = &self.why {
            write!(f, "\n  why   {}", why.replace('\n', "\n        "))?;
        }
        for (at, step) in self.tries.iter().enumerate() {
            let label = if at == 0 { "try" } else { "or " };
            write!(f, "\n  {label}   {}", step.replace('\n', "\n        "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// An error of the kernel in words, without "(os error 17)".
pub fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// What keeps a node from starting, or stops it for good.
#[derive(Debug)]
pub enum StartError {
    /// `/dev/net/tun` is missing or may not be opened.
    NoTun {
        device: String,
        source: io::Error,
    },
    /// A capability is missing; `what_for` completes "… needs it".
    NoCapability {
        capability: &'static str,
        what_for: String,
    },
    /// Another process has the port.
    PortInUse {
        address: SocketAddr,
        protocol: &'static str,
    },
    /// The address is on no device of this host.
    AddressNotLocal {
        address: SocketAddr,
    },
    /// The named device does not exist.
    NoDevice {
        device: String,
        section: &'static str,
    },
    /// The node has no own address on the device in the subnet of the service address.
    NoOwnAddress {
        device: String,
        subnet: String,
    },
    DiskFull {
        path: PathBuf,
    },
    /// Another process works in the data directory.
    DataDirInUse {
        path: PathBuf,
    },
    /// What is in the data directory cannot be trusted or read.
    DataDirDamaged {
        path: PathBuf,
        detail: String,
    },
    /// The storage key is missing or is not the one that sealed the data directory.
    StorageKey {
        path: PathBuf,
        detail: String,
    },
    /// Another daemon answers on the control socket.
    AlreadyRunning {
        socket: PathBuf,
    },
    /// A file or directory could not be read or made.
    File {
        path: PathBuf,
        doing: &'static str,
        source: io::Error,
    },
    /// The replicated log stopped for good.
    Log {
        detail: String,
    },
    /// Something of the kernel failed that none of the above describes.
    Io {
        doing: String,
        source: io::Error,
    },
}

impl StartError {
    /// Sorts an error of binding a socket.
    pub fn bind(address: SocketAddr, protocol: &'static str, source: io::Error) -> StartError {
        match source.kind() {
            io::ErrorKind::AddrInUse => StartError::PortInUse { address, protocol },
            io::ErrorKind::AddrNotAvailable => StartError::AddressNotLocal { address },
            io::ErrorKind::PermissionDenied if address.port() < 1024 => StartError::NoCapability {
                capability: "CAP_NET_BIND_SERVICE",
                what_for: format!("listening on {protocol} port {}", address.port()),
            },
            _ => StartError::Io { doing: format!("cannot listen on {address} ({protocol})"), source },
        }
    }

    /// Sorts an error of opening `/dev/net/tun` or of making a device with it.
    pub fn tun(device: &str, source: io::Error) -> StartError {
        match source.raw_os_error() {
            // EPERM comes from making the device, EACCES from opening the file.
            Some(libc::EPERM) => StartError::NoCapability {
                capability: "CAP_NET_ADMIN",
                what_for: format!("making the TUN device {device}"),
            },
            _ => StartError::NoTun { device: device.to_owned(), source },
        }
    }

    /// Sorts an error of writing below `path`.
    pub fn file(path: impl Into<PathBuf>, doing: &'static str, source: io::Error) -> StartError {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StartError::DiskFull { path },
            _ => StartError::File { path, doing, source },
        }
    }

    /// True when somebody else has it: perhaps only a process that is just ending.
    pub fn is_in_use(&self) -> bool {
        match self {
            StartError::PortInUse { .. } => true,
            StartError::NoTun { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::EEXIST | libc::EBUSY))
            }
            _ => false,
        }
    }

    pub fn fault(&self) -> Fault {
        let fault = Fault::failed(self.to_string());
        match self {
            StartError::NoTun { source, .. } if source.kind() == io::ErrorKind::NotFound => fault
                .why("/dev/net/tun does not exist: the kernel has no TUN driver, or the container was not given it")
                .attempt("modprobe tun")
                .attempt("give the container the device: --device /dev/net/tun --cap-add NET_ADMIN"),
            StartError::NoTun { device, source }
                if matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) =>
            {
                fault
                    .why("a device of that name is there already: of another pontoon, or not a TUN")
                    .attempt(format!("ip -details link show {device}"))
                    .attempt("choose another tun under [inside] in node.toml")
            }
            StartError::NoTun { source, .. } => fault
                .why(in_words(source))
                .attempt("ls -l /dev/net/tun   (it should be crw-rw-rw-)")
                .attempt("pontoon doctor"),
            StartError::NoCapability { capability, what_for } => fault
                .why(format!("{what_for} needs it"))
                .attempt("start it as a service: systemctl start pontoon   (the unit grants it)")
                .attempt(format!("run as root, or grant it: setcap {}+ep $(command -v pontoon)", capability.to_lowercase())),
            StartError::PortInUse { address, protocol } => {
                let kind = if *protocol == "tcp" { 't' } else { 'u' };
                let fault = fault
                    .why("another process listens there; often an IPsec daemon: charon, pluto, iked")
                    .attempt(format!("ss -{kind}lnp 'sport = :{}'   (shows which)", address.port()));
                match address.port() {
                    500 | 4500 => fault.attempt("systemctl stop strongswan strongswan-starter ipsec"),
                    _ => fault.attempt("choose another port in node.toml"),
                }
            }
            StartError::AddressNotLocal { address } => fault
                .why("no device of this host has that address")
                .attempt(format!("ip address add {}/24 dev DEVICE", address.ip()))
                .attempt("correct the address in node.toml"),
            StartError::NoDevice { section, .. } => fault
                .why(format!("[{section}] in node.toml names it"))
                .attempt("ip link   (lists the devices of this host)"),
            StartError::NoOwnAddress { device, subnet } => fault
                .why("without one the kernel would ask its neighbours in the name of the service address")
                .attempt(format!("give {device} an address of its own in {subnet}, other than the service address")),
            StartError::DiskFull { path } => fault
                .why("a change counts only once it is on disk, so the node stops before it would promise one")
                .attempt(format!("df -h {}   then make room and start again; nothing that was acknowledged is lost", path.display())),
            StartError::DataDirInUse { .. } => fault
                .why("another process holds its lock")
                .attempt("pontoon status   (is the daemon running already?)")
                .attempt("choose another data_dir in node.toml"),
            StartError::DataDirDamaged { path, detail } => fault
                .why(detail)
                .attempt(format!("keep {} for study, empty it, and join the cluster again as a new node", path.display())),
            StartError::StorageKey { path, detail } => {
                fault.why(detail).attempt(format!("put back the key that made this data directory as {}", path.display()))
            }
            StartError::AlreadyRunning { .. } => {
                fault.attempt("pontoon status").attempt("choose another [control] socket in node.toml")
            }
            StartError::File { source, path, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    fault.why(in_words(source)).attempt(format!("ls -ld {}   (who owns it?)", path.display()))
                }
                io::ErrorKind::ReadOnlyFilesystem => {
                    fault.why(in_words(source)).attempt("choose a data_dir on a file system that may be written")
                }
                _ => fault.why(in_words(source)),
            },
            StartError::Log { detail } => fault
                .why(detail)
                .attempt("start it again; what was acknowledged is on disk")
                .attempt("pontoon doctor   (is the disk well?)"),
            StartError::Io { source, .. } => fault.why(in_words(source)).attempt("pontoon doctor"),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NoTun { device, .. } => write!(f, "cannot make the TUN device {device}"),
            StartError::NoCapability { capability, .. } => {
                write!(f, "the capability {capability} is missing")
            }
            StartError::PortInUse { address, protocol } => write!(f, "{protocol} port {address} is in use"),
            StartError::AddressNotLocal { address } => write!(f, "cannot listen on {address}"),
            StartError::NoDevice { device, .. } => write!(f, "there is no device {device}"),
            StartError::NoOwnAddress { device, subnet } => {
                write!(f, "this node has no address of its own on {device} in {subnet}")
            }
            StartError::DiskFull { path } => write!(f, "no space left on the disk of {}", path.display()),
            StartError::DataDirInUse { path } => write!(f, "the data directory {} is in use", path.display()),
            StartError::DataDirDamaged { path, .. } => {
                write!(f, "the data directory {} is damaged", path.display())
            }
            StartError::StorageKey { path, .. } => write!(f, "cannot use the storage key {}", path.display()),
            StartError::AlreadyRunning { socket } => {
                write!(f, "pontoon is running already: it answers on {}", socket.display())
            }
            StartError::File { path, doing, .. } => write!(f, "cannot {doing} {}", path.display()),
            StartError::Log { .. } => f.write_str("the replicated log has stopped"),
            StartError::Io { doing, .. } => f.write_str(doing),
        }
    }
}

impl std::error::Error for StartError {}

impl From<StartError> for Fault {
    fn from(error: StartError) -> Fault {
        error.fault()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        use Exit::*;
        for (exit, code) in [
            (Done, 0),
            (Failed, 1),
            (Usage, 2),
            (Unreachable, 3),
            (NoQuorum, 4),
            (NotFound, 5),
            (Dangerous, 6),
            (TimedOut, 7),
            (Degraded, 8),
            (Interrupted, 130),
        ] {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn a_fault_reads_what_why_try() {
        let fault = Fault::failed("a thing broke").why("it was old").attempt("buy one").attempt("mend it");
        assert_eq!(fault.to_string(), "a thing broke\n  why   it was old\n  try   buy one\n  or    mend it");
    }

    #[test]
    fn errors_of_the_kernel_are_sorted_and_say_what_to_do() {
        let at = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let os = io::Error::from_raw_os_error;
        let cases: Vec<(StartError, &str, &str)> = vec![
            (
                StartError::bind(at(500), "udp", os(libc::EADDRINUSE)),
                "udp port 192.0.2.1:500 is in use",
                "ss -ulnp",
            ),
            (
                StartError::bind(at(9477), "tcp", os(libc::EADDRINUSE)),
                "tcp port 192.0.2.1:9477 is in use",
                "ss -tlnp",
            ),
            (
                StartError::bind(at(500), "udp", os(libc::EACCES)),
                "CAP_NET_BIND_SERVICE is missing",
                "setcap cap_net_bind_service",
            ),
            (
                StartError::bind(at(500), "udp", os(libc::EADDRNOTAVAIL)),
                "cannot listen on 192.0.2.1:500",
                "ip address add",
            ),
            (
                StartError::tun("pontoon0", os(libc::ENOENT)),
                "cannot make the TUN device pontoon0",
                "modprobe tun",
            ),
            (
                StartError::tun("pontoon0", os(libc::EEXIST)),
                "cannot make the TUN device pontoon0",
                "ip -details link show pontoon0",
            ),
            (
                StartError::tun("pontoon0", os(libc::EPERM)),
                "CAP_NET_ADMIN is missing",
                "systemctl start pontoon",
            ),
            (
                StartError::file("/var/lib/pontoon", "write", os(libc::ENOSPC)),
                "no space left on the disk of /var/lib/pontoon",
                "df -h",
            ),
            (
                StartError::file("/var/lib/pontoon", "write", os(libc::EACCES)),
                "cannot write /var/lib/pontoon",
                "ls -ld",
            ),
        ];
        for (error, what, step) in cases {
            let fault = error.fault();
            assert!(fault.what.contains(what), "{fault}");
            assert!(fault.tries.iter().any(|t| t.contains(step)), "{fault}");
            assert_eq!(fault.exit, Exit::Failed);
        }
    }
}
