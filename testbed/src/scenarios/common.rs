//! What most scripts begin with: a gateway for remote-access clients, and a client that is connected to it.

use std::net::IpAddr;

use crate::charon::{Charon, Connection, Settings};
use crate::outcome::{Context, Result, Stop};
use crate::world::http::{self, Job, Transfer};
use crate::world::pontoon::Pontoon;
use crate::world::{Bed, NET, NET6, POOL, POOL6, SERVER, SERVER6, World, netns::Netns};

pub const MIB: u64 = 1 << 20;
pub const IKE: &str = "aes256gcm16-prfsha384-ecp384";
pub const ESP: &str = "aes128gcm16";

/// The gateway configuration of most scripts.
#[derive(Clone, Debug)]
pub struct Gateway {
    pub ike: Vec<String>,
    pub esp: Vec<String>,
    pub pools: Vec<String>,
    pub remote_id: String,
    pub unique: &'static str,
    pub dpd: &'static str,
    pub replay: &'static str,
}

impl Default for Gateway {
    fn default() -> Gateway {
        Gateway {
            ike: vec![IKE.to_owned()],
            esp: vec![ESP.to_owned()],
            pools: vec![POOL.to_owned(), POOL6.to_owned()],
            remote_id: "*".to_owned(),
            unique: "replace",
            dpd: "60s",
            replay: "bounded",
        }
    }
}

impl Gateway {
    pub fn toml(&self) -> String {
        let list =
            |items: &[String]| items.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ");
        format!(
            r#"version = 1

[pools.clients]
addresses = [{pools}]

[connections.clients]
local  = {{ id = "gw", auth = "psk" }}
remote = {{ id = "{remote}", auth = "psk" }}
ike    = [{ike}]
pool   = "clients"
unique = "{unique}"
dpd    = "{dpd}"

[connections.clients.children.net]
local_ts = ["{NET}", "{NET6}"]
esp      = [{esp}]
replay   = "{replay}"

[secrets.clients]
ids = ["*"]
psk = {{ file = "clients.psk" }}
"#,
            pools = list(&self.pools),
            remote = self.remote_id,
            ike = list(&self.ike),
            unique = self.unique,
            dpd = self.dpd,
            esp = list(&self.esp),
            replay = self.replay,
        )
    }
}

/// A world with our gateway and a client that is connected as "alice".
pub struct Connected {
    pub client: Charon,
    pub node: Pontoon,
    pub world: World,
}

/// The name of that client's connection, and its identity.
pub const ALICE: &str = "alice";

impl Connected {
    pub fn new(bed: &Bed) -> Result<Connected> {
        Connected::with(bed, &Gateway::default(), &Settings::default(), |connection| connection)
    }

    pub fn with(
        bed: &Bed,
        gateway: &Gateway,
        settings: &Settings,
        shape: impl FnOnce(Connection) -> Connection,
    ) -> Result<Connected> {
        let connected = Connected::loaded(bed, gateway, settings, shape)?;
        connected.client.initiate(ALICE)?;
        Ok(connected)
    }

    /// As `with`, but not connected yet.
    pub fn loaded(
        bed: &Bed,
        gateway: &Gateway,
        settings: &Settings,
        shape: impl FnOnce(Connection) -> Connection,
    ) -> Result<Connected> {
        let world = World::new(bed)?;
        let node = Pontoon::start(&world, &gateway.toml())?;
        let client = Charon::start(&world.client, &world.path("client"), settings)?;
        client.load(&shape(Connection::client(ALICE)))?;
        Ok(Connected { client, node, world })
    }

    /// Three packets to the server and back; on loss the error names what the gateway dropped.
    pub fn ping(&self) -> Result {
        self.world.ping(SERVER.into(), 3).map_err(|stop| match self.node.drops() {
            Ok(drops) => Stop::Failed(format!("{stop}; the gateway counts {drops:?}")),
            Err(_) => stop,
        })
    }
}

/// Moves content both ways through the tunnel and wants equal hashes.
pub fn both_ways(client: &Netns, server: IpAddr, bytes: u64) -> Result<(Transfer, Transfer)> {
    let job = Job { server, from: None, bytes, seed: bytes ^ 0x5eed, in_flight: None };
    let down = http::download(client, job).context(format!("download from {server}"))?;
    let up =
        http::upload(client, Job { seed: job.seed + 1, ..job }).context(format!("upload to {server}"))?;
    Ok((down, up))
}

/// The server's address of a family.
pub fn server(ipv6: bool) -> IpAddr {
    if ipv6 { SERVER6.into() } else { SERVER.into() }
}
