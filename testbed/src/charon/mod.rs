//! An unmodified strongSwan in a network namespace, its ESP in userspace (plugin `kernel-libipsec`).
//!
//! Two of them, one as the client and one as the gateway, are the baseline that we compare with; as the client of our
//! gateway it is the judge of what we speak. What makes it work beside others on one machine:
//!
//! - an own `STRONGSWAN_CONF` with an own vici socket and log file, and an empty `/run` in a private mount namespace,
//!   because the name of its process id file is compiled in;
//! - plugins in this order: crypto, `kernel-libipsec` before `kernel-netlink` (which then does only routes and
//!   addresses), `socket-default`, `updown`, `vici`;
//! - no configuration files: connections and secrets come over vici.
//!
//! libipsec does ESP in UDP only: it claims to be behind NAT, and the tunnel uses port 4500 from the second message on.
//! Its replay window is 128 packets and it knows no extended sequence numbers.

mod conf;
pub mod vici;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use conf::{Connection, Settings};
use vici::{Section, Vici};

use crate::ensure;
use crate::outcome::{Context, Result, Stop};
use crate::world::exec::{self, Daemon};
use crate::world::{eventually, netns::Netns};

/// A charon under way. Killed on drop.
#[derive(Debug)]
pub struct Charon {
    daemon: Daemon,
    dir: PathBuf,
    pid_namespace: String,
}

/// One IKE SA as charon lists it.
#[derive(Clone, Debug)]
pub struct IkeSa {
    pub name: String,
    pub state: String,
    /// charon's number of it, for `rekey_ike` and `terminate`.
    pub id: String,
    pub spi_i: String,
    pub spi_r: String,
    pub initiator: bool,
    pub virtual_addresses: Vec<String>,
    pub children: Vec<ChildSa>,
}

#[derive(Clone, Debug)]
pub struct ChildSa {
    pub name: String,
    pub state: String,
    pub id: String,
    /// Hex, as on the wire.
    pub spi_in: String,
    pub spi_out: String,
    pub packets_in: u64,
    pub packets_out: u64,
    pub local_ts: Vec<String>,
    pub remote_ts: Vec<String>,
}

impl Charon {
    /// Skips the test by name where strongSwan or its libipsec plugin is not installed.
    pub fn require() -> Result {
        exec::require("charon")?;
        match PLUGIN_FOLDERS.iter().any(|folder| Path::new(folder).join(LIBIPSEC).is_file()) {
            true => Ok(()),
            false => Err(Stop::Skipped("strongSwan's plugin kernel-libipsec is not installed".into())),
        }
    }

    /// Starts one in `namespace` with its files in `dir`; returns when it can be talked to.
    pub fn start(namespace: &Netns, dir: &Path, settings: &Settings) -> Result<Charon> {
        Charon::require()?;
        std::fs::create_dir_all(dir).context(dir.display())?;
        let configuration = dir.join("strongswan.conf");
        std::fs::write(&configuration, settings.strongswan_conf(dir)).context(configuration.display())?;
        let program = exec::find("charon").context("charon")?;
        let mut command = namespace.command("unshare");
        command
            .args(["--mount", "sh", "-c", "mount -t tmpfs none /run && exec \"$0\""])
            .arg(program)
            .env("STRONGSWAN_CONF", &configuration);
        let daemon = Daemon::start(&mut command, &dir.join("output"))?;
        let mut charon = Charon { daemon, dir: dir.to_owned(), pid_namespace: namespace.name().to_owned() };
        eventually(Duration::from_secs(15), || {
            charon.daemon.still_running()?;
            charon.vici()?.call("version", &Section::new()).map(drop)
        })
        .context(format!("charon in {}", charon.pid_namespace))?;
        Ok(charon)
    }

    /// Adds or replaces a connection and its secret.
    pub fn load(&self, connection: &Connection) -> Result {
        let mut vici = self.vici()?;
        if let Some((pool, addresses)) = &connection.pool {
            for (name, addresses) in addresses.iter().enumerate().map(|(at, a)| (format!("{pool}{at}"), a)) {
                let body = Section::new().with("addrs", addresses);
                vici.must("load-pool", &Section::new().with_section(&name, body))?;
            }
        }
        vici.must("load-shared", &connection.secret())?;
        vici.must("load-conn", &connection.section())
    }

    /// Brings a connection up; the error is charon's own.
    pub fn initiate(&self, connection: &str) -> Result {
        self.initiate_within(connection, Duration::from_secs(20))
    }

    pub fn initiate_within(&self, connection: &str, limit: Duration) -> Result {
        let message = Section::new()
            .with("ike", connection)
            .with("child", conf::CHILD)
            .with("timeout", limit.as_millis().to_string());
        self.vici()?.must("initiate", &message)
    }

    /// Rekeys the child SA of a connection and waits until the old one is gone.
    pub fn rekey_child(&self, connection: &str) -> Result {
        let before = self.only(connection)?;
        let old = before.child()?.spi_in.clone();
        self.vici()?.must("rekey", &Section::new().with("child", conf::CHILD).with("ike", connection))?;
        eventually(Duration::from_secs(15), || {
            let now = self.only(connection)?;
            let child = now.child()?;
            ensure!(child.spi_in != old && child.state == "INSTALLED", "the child is still {child:?}");
            Ok(())
        })
    }

    /// Rekeys the IKE SA of a connection and waits until the old one is gone.
    pub fn rekey_ike(&self, connection: &str) -> Result {
        let old = self.only(connection)?;
        self.vici()?.must("rekey", &Section::new().with("ike", connection))?;
        eventually(Duration::from_secs(15), || {
            let now = self.only(connection)?;
            ensure!(
                now.spi_i != old.spi_i && now.state == "ESTABLISHED",
                "the IKE SA is still {}",
                now.state
            );
            Ok(())
        })
    }

    /// Deletes the IKE SA of a connection; returns when the other side has answered.
    pub fn terminate(&self, connection: &str) -> Result {
        let message = Section::new().with("ike", connection).with("timeout", "20000");
        self.vici()?.must("terminate", &message)
    }

    /// Ends whatever there is of a connection, whether the other side answers or not.
    pub fn forget(&self, connection: &str) -> Result {
        let message = Section::new().with("ike", connection).with("force", "yes").with("timeout", "-1");
        eventually(Duration::from_secs(15), || {
            let left = self.sas()?.into_iter().filter(|sa| sa.name == connection).count();
            if left == 0 {
                return Ok(());
            }
            // One that ended meanwhile is not found any more.
            let _ = self.vici()?.must("terminate", &message);
            Err(format!("{left} IKE SAs of {connection} are left").into())
        })
    }

    /// All IKE SAs.
    pub fn sas(&self) -> Result<Vec<IkeSa>> {
        let events = self.vici()?.stream("list-sas", "list-sa", &Section::new())?;
        Ok(events
            .iter()
            .flat_map(|event| event.sections().map(|(name, body)| IkeSa::read(name, body)))
            .collect())
    }

    /// The IKE SA of a connection, when there is exactly one.
    pub fn only(&self, connection: &str) -> Result<IkeSa> {
        let mut sas: Vec<IkeSa> = self.sas()?.into_iter().filter(|sa| sa.name == connection).collect();
        ensure!(sas.len() == 1, "{} IKE SAs named {connection}: {sas:?}", sas.len());
        sas.pop().context("an SA")
    }

    pub fn log(&self) -> String {
        std::fs::read(self.dir.join("log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// What it has logged since `mark` (`log_length` then).
    pub fn log_since(&self, mark: usize) -> String {
        self.log().get(mark..).unwrap_or_default().to_owned()
    }

    pub fn log_length(&self) -> usize {
        self.log().len()
    }

    /// Waits until it logs something.
    pub fn wait_for_log(&self, mark: usize, wanted: &str, limit: Duration) -> Result {
        eventually(limit, || {
            let log = self.log_since(mark);
            ensure!(
                log.contains(wanted),
                "charon did not log \"{wanted}\"; its log ends:\n{}",
                exec::tail(&log, 12)
            );
            Ok(())
        })
    }

    pub fn kill(&mut self) -> Result {
        self.daemon.kill()
    }

    pub fn resident_kib(&self) -> Result<u64> {
        self.daemon.resident_kib()
    }

    pub fn cpu_seconds(&self) -> Result<f64> {
        self.daemon.cpu_seconds()
    }

    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    fn vici(&self) -> Result<Vici> {
        Vici::connect(&self.dir.join("vici"))
    }
}

impl IkeSa {
    fn read(name: &str, body: &Section) -> IkeSa {
        let children = body.section("child-sas");
        IkeSa {
            name: name.to_owned(),
            state: body.text("state").to_owned(),
            id: body.text("uniqueid").to_owned(),
            spi_i: body.text("initiator-spi").to_owned(),
            spi_r: body.text("responder-spi").to_owned(),
            initiator: body.text("initiator") == "yes",
            virtual_addresses: body.list("local-vips").to_vec(),
            children: children
                .map(|children| children.sections().map(|(_, child)| ChildSa::read(child)).collect())
                .unwrap_or_default(),
        }
    }

    /// The child SA, when there is exactly one. charon keeps a deleted one for five seconds, to receive late packets.
    pub fn child(&self) -> Result<&ChildSa> {
        let mut children = self.children.iter().filter(|child| child.state != "DELETED");
        match (children.next(), children.next()) {
            (Some(child), None) => Ok(child),
            _ => Err(format!("not one child SA but {:?}", self.children).into()),
        }
    }
}

impl ChildSa {
    fn read(body: &Section) -> ChildSa {
        let number = |key| body.text(key).parse().unwrap_or(0);
        ChildSa {
            name: body.text("name").to_owned(),
            state: body.text("state").to_owned(),
            id: body.text("uniqueid").to_owned(),
            spi_in: body.text("spi-in").to_owned(),
            spi_out: body.text("spi-out").to_owned(),
            packets_in: number("packets-in"),
            packets_out: number("packets-out"),
            local_ts: body.list("local-ts").to_vec(),
            remote_ts: body.list("remote-ts").to_vec(),
        }
    }
}

const LIBIPSEC: &str = "libstrongswan-kernel-libipsec.so";
const PLUGIN_FOLDERS: [&str; 2] = ["/usr/lib/ipsec/plugins", "/usr/lib64/strongswan/plugins"];
