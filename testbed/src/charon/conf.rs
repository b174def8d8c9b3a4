//! What we tell charon: its settings as a file, connections and secrets as vici messages.

use std::net::IpAddr;
use std::path::Path;

use super::vici::Section;
use crate::world::pontoon::PSK;
use crate::world::{CLIENT, NET, NET6, POOL, POOL6, SERVICE};

/// The name of the one child of every connection.
pub const CHILD: &str = "net";

/// Settings of a charon as a whole.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seconds before the first retransmission; grows by 1.8 each time, as charon's default.
    pub retransmit_timeout: f64,
    pub retransmit_tries: u32,
    /// Also logs the keys of every SA: for the second opinion on integrity values.
    pub log_keys: bool,
    /// As a gateway: asks for cookies, and turns away clients of one address that come many at a time.
    pub dos_protection: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { retransmit_timeout: 1.0, retransmit_tries: 5, log_keys: false, dos_protection: true }
    }
}

impl Settings {
    pub(super) fn strongswan_conf(&self, dir: &Path) -> String {
        let dir = dir.display();
        let level = if self.log_keys { 4 } else { 2 };
        format!(
            "charon {{
  load = random nonce openssl aes sha1 sha2 hmac kdf gcm chapoly curve25519 {kernel} updown vici
  threads = 32
  retransmit_timeout = {timeout}
  retransmit_tries = {tries}
  dos_protection = {dos_protection}
  port = 500
  port_nat_t = 4500
  install_virtual_ip_on = lo
  plugins {{
    vici {{
      socket = unix://{dir}/vici
    }}
  }}
  filelog {{
    log {{
      path = {dir}/log
      flush_line = yes
      time_format = %s
      time_add_ms = yes
      default = 1
      ike = {level}
      chd = {level}
      esp = 1
      net = 1
    }}
  }}
}}
",
            kernel = "kernel-libipsec kernel-netlink socket-default",
            timeout = self.retransmit_timeout,
            tries = self.retransmit_tries,
            dos_protection = if self.dos_protection { "yes" } else { "no" },
        )
    }
}

/// One connection with a pre-shared key, for either side.
#[derive(Clone, Debug)]
pub struct Connection {
    pub name: String,
    pub local_address: Option<IpAddr>,
    pub remote_address: Option<IpAddr>,
    pub local_id: String,
    pub remote_id: String,
    pub psk: String,
    pub ike: String,
    pub esp: String,
    /// Inner addresses that we ask for.
    pub vips: Vec<&'static str>,
    /// As a gateway: the name of pools and their networks.
    pub pool: Option<(String, Vec<String>)>,
    pub local_ts: Vec<String>,
    pub remote_ts: Vec<String>,
    /// Seconds of silence before it asks; 0 never.
    pub dpd_seconds: u32,
    /// Asks for a group of its own at every child rekey.
    pub rekey_seconds: u32,
    pub mobike: bool,
}

impl Connection {
    /// A remote-access client of the gateway at the service address, asking for IPv4 and IPv6 inside.
    pub fn client(name: &str) -> Connection {
        Connection {
            name: name.to_owned(),
            local_address: None,
            remote_address: Some(SERVICE.into()),
            local_id: name.to_owned(),
            remote_id: "gw".to_owned(),
            psk: PSK.to_owned(),
            ike: "aes256gcm16-prfsha384-ecp384".to_owned(),
            esp: "aes128gcm16".to_owned(),
            vips: vec!["0.0.0.0", "::"],
            pool: None,
            local_ts: vec!["dynamic".to_owned()],
            remote_ts: vec![NET.to_owned(), NET6.to_owned()],
            dpd_seconds: 0,
            rekey_seconds: 0,
            mobike: false,
        }
    }

    /// A gateway for such clients.
    pub fn gateway() -> Connection {
        Connection {
            local_address: Some(SERVICE.into()),
            remote_address: None,
            local_id: "gw".to_owned(),
            remote_id: "%any".to_owned(),
            vips: Vec::new(),
            pool: Some(("pool".to_owned(), vec![POOL.to_owned(), POOL6.to_owned()])),
            local_ts: vec![NET.to_owned(), NET6.to_owned()],
            remote_ts: vec!["dynamic".to_owned()],
            ..Connection::client("roadwarriors")
        }
    }

    pub fn suites(mut self, ike: &str, esp: &str) -> Connection {
        self.ike = ike.to_owned();
        self.esp = esp.to_owned();
        self
    }

    /// Binds to the client's outer address where the machine has several.
    pub fn from_client_address(mut self) -> Connection {
        self.local_address = Some(CLIENT.into());
        self
    }

    pub(super) fn secret(&self) -> Section {
        let owners: Vec<&str> = [self.local_id.as_str(), self.remote_id.as_str()]
            .into_iter()
            .filter(|id| *id != "%any")
            .collect();
        Section::new()
            .with("id", format!("psk-{}", self.name))
            .with("type", "IKE")
            .with("data", &self.psk)
            .with_list("owners", if self.remote_id == "%any" { Vec::new() } else { owners })
    }

    pub(super) fn section(&self) -> Section {
        let address = |address: Option<IpAddr>| address.map_or("%any".to_owned(), |ip| ip.to_string());
        let rekey = self.rekey_seconds.to_string();
        let child = Section::new()
            .with_list("local_ts", self.local_ts.iter().map(String::as_str))
            .with_list("remote_ts", self.remote_ts.iter().map(String::as_str))
            .with_list("esp_proposals", [self.esp.as_str()])
            .with("rekey_time", &rekey)
            .with("rekey_bytes", "0")
            .with("dpd_action", "none")
            .with("mode", "tunnel");
        let mut body = Section::new()
            .with("version", "2")
            .with_list("local_addrs", [address(self.local_address).as_str()])
            .with_list("remote_addrs", [address(self.remote_address).as_str()])
            .with_list("proposals", [self.ike.as_str()])
            .with("dpd_delay", self.dpd_seconds.to_string())
            .with("rekey_time", "0")
            .with("reauth_time", "0")
            .with("mobike", if self.mobike { "yes" } else { "no" })
            .with("unique", "no")
            .with_section("local", Section::new().with("auth", "psk").with("id", &self.local_id))
            .with_section("remote", Section::new().with("auth", "psk").with("id", &self.remote_id));
        if !self.vips.is_empty() {
            body = body.with_list("vips", self.vips.iter().copied());
        }
        if let Some((pool, networks)) = &self.pool {
            let names: Vec<String> = (0..networks.len()).map(|at| format!("{pool}{at}")).collect();
            body = body.with_list("pools", names.iter().map(String::as_str));
        }
        body = body.with_section("children", Section::new().with_section(CHILD, child));
        Section::new().with_section(&self.name, body)
    }
}
