//! `gateway.toml`, the cluster's configuration: from its text and the files it names to an `ipsec::policy::Gateway`.
//!
//! The same function runs in `pontoon check`, in the daemon before a configuration is proposed, and on every node when
//! it is applied: pure, so all nodes come to the same policy. What a later version will understand is refused by name.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;

use crypto::Secret;
use ipsec::policy::{
    Auth, Child, Connection, Gateway, IdPattern, Identity, Network, Pool, Selector, SharedSecret, Unique,
};
use toml::de::DeValue;

use super::diagnostic::{Code, Diagnostic};
use super::networks;
use super::reader::{At, Notes, Reader};
use super::source::GatewaySource;
use super::suites;

/// The version of the file's format.
const VERSION: &str = "1";
const DPD_MS: u64 = 30_000;
const IKE_REKEY_MS: u64 = 4 * 3_600_000;
const CHILD_REKEY_MS: u64 = 3_600_000;
const CHILD_REKEY_OCTETS: u64 = 500 << 30;
/// Shorter lifetimes than this would make a node do little else.
const REKEY_MS_MIN: u64 = 60_000;
const REKEY_OCTETS_MIN: u64 = 1 << 20;
const DPD_MS_MIN: u64 = 1_000;
/// Below this a pre-shared key can be guessed from one recorded IKE_AUTH.
const PSK_OCTETS_ADVISED: usize = 16;
const IDENTITY_OCTETS_MAX: usize = 255;

/// The policy of a source; the errors when it has any.
pub fn compile(source: &GatewaySource, revision: u64) -> Result<Gateway, Vec<Diagnostic>> {
    let (gateway, diagnostics) = examine(source, revision);
    match gateway {
        Some(gateway) => Ok(gateway),
        None => Err(diagnostics),
    }
}

/// The policy of a source when it has no error, and everything there is to say about it.
pub fn examine(source: &GatewaySource, revision: u64) -> (Option<Gateway>, Vec<Diagnostic>) {
    let notes = Notes::default();
    let table = notes.parse(&source.toml);
    let mut gateway = Compiler { source, notes: &notes }.gateway(Reader::root(&table, &notes));
    gateway.revision = revision;
    let diagnostics = notes.take(&source.toml);
    let sound = !diagnostics.iter().any(Diagnostic::is_error);
    (sound.then_some(gateway), diagnostics)
}

struct Compiler<'a> {
    source: &'a GatewaySource,
    notes: &'a Notes,
}

impl<'a> Compiler<'a> {
    fn gateway(&self, mut file: Reader<'a, '_>) -> Gateway {
        self.version(&mut file);
        let pools = self.pools(&mut file);
        for (name, authority) in file.named_tables("authorities") {
            file.not_built(
                authority.span.clone(),
                &format!("[authorities.{name}]"),
                "authentication by certificate comes later; there is auth = \"psk\"",
            );
        }
        let pool_names: BTreeSet<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        let secrets = self.secrets(&mut file);
        let connections: Vec<(Range<usize>, Connection)> = file
            .named_tables("connections")
            .into_iter()
            .filter_map(|(name, table)| {
                let span = table.span.clone();
                self.connection(name, table, &pool_names).map(|connection| (span, connection))
            })
            .collect();
        file.finish();
        self.secrets_fit(&connections, &secrets);
        Gateway {
            revision: 0,
            connections: connections.into_iter().map(|(_, connection)| connection).collect(),
            pools,
            secrets,
        }
    }

    fn version(&self, file: &mut Reader<'a, '_>) {
        match file.value("version").map(|value| (value.span(), value.get_ref())) {
            None => file.missing("version", "version = 1"),
            Some((_, DeValue::Integer(number))) if number.as_str() == VERSION && number.radix() == 10 => {}
            Some((span, _)) => self.notes.add(
                Diagnostic::error(Code::Value, span, "this is no version of the format that is known here")
                    .help("write  version = 1"),
            ),
        }
    }

    /// A pool with a mistake is here too, so that who names it is not told off as well.
    fn pools(&self, file: &mut Reader<'a, '_>) -> Vec<Pool> {
        let mut pools: Vec<Pool> = Vec::new();
        for (name, mut table) in file.named_tables("pools") {
            if !table.has("addresses") {
                table.missing("addresses", "addresses = \"10.99.0.0/16\"");
            }
            let addresses = table.list("addresses", pool_network).unwrap_or_default();
            let dns = table.list("dns", networks::address).unwrap_or_default();
            for (at, later) in addresses.iter().enumerate() {
                let elsewhere =
                    pools.iter().flat_map(|pool| pool.addresses.iter().map(|net| (pool.name.as_str(), net)));
                let here = addresses[..at].iter().map(|net| (name.as_str(), &net.value));
                if let Some((other, _)) =
                    elsewhere.chain(here).find(|(_, net)| networks::overlap(net, &later.value))
                {
                    let text = format!("{} is in the pool {other:?} already", later.value);
                    self.notes.error(Code::Conflict, later.span.clone(), text);
                }
            }
            table.finish();
            let addresses = addresses.into_iter().map(|at| at.value).collect();
            let dns = dns.into_iter().map(|at| at.value).collect();
            pools.push(Pool { name, addresses, dns });
        }
        pools
    }

    fn secrets(&self, file: &mut Reader<'a, '_>) -> Vec<SharedSecret> {
        let mut secrets = Vec::new();
        let mut owners: Vec<(String, String)> = Vec::new();
        for (name, mut table) in file.named_tables("secrets") {
            if !table.has("ids") {
                table.missing("ids", "ids = [\"branch1\"]   (identities this secret is for; \"*\" is any)");
            }
            let ids = table.list("ids", id_pattern).unwrap_or_default();
            for id in &ids {
                match owners.iter().find(|(known, _)| known.eq_ignore_ascii_case(&id.value.0)) {
                    Some((_, other)) => {
                        let text = format!("{:?} has a secret already, [secrets.{other}]", id.value.0);
                        self.notes.error(Code::Conflict, id.span.clone(), text);
                    }
                    None => owners.push((id.value.0.clone(), name.clone())),
                }
            }
            if table.value("eap").is_some() {
                table.not_built(
                    table.key_span("eap"),
                    &format!("eap in [secrets.{name}]"),
                    "there is psk = { file = \"…\" }",
                );
            } else if !table.has("psk") {
                table.missing("psk", "psk = { file = \"branch1.psk\" }");
            }
            // Its mistakes are told by themselves; that nobody has a secret should not be one more.
            let psk = self.psk(&mut table).unwrap_or_default();
            table.finish();
            let ids = ids.into_iter().map(|id| id.value).collect();
            secrets.push(SharedSecret { name, ids, psk });
        }
        secrets
    }

    fn psk(&self, table: &mut Reader<'a, '_>) -> Option<Secret> {
        let value = table.value("psk")?;
        let key = table.key_span("psk");
        let (psk, span) = match value.get_ref() {
            DeValue::String(text) => {
                self.notes.add(
                    Diagnostic::warning(Code::Secret, key.clone(), "a secret stands in the file itself")
                        .help("move it to a file of its own with mode 0600:  psk = { file = \"NAME.psk\" }"),
                );
                (Secret::from_slice(text.as_bytes()), key)
            }
            DeValue::Table(_) => {
                let mut reference = table.of_value("psk", value)?;
                let file = reference.required("file", "psk = { file = \"branch1.psk\" }");
                reference.finish();
                let file = file?;
                let Some(octets) = self.source.files.get(&file.value) else {
                    let text = format!("the file {:?} did not come along", file.value);
                    self.notes.error(Code::File, file.span, text);
                    return None;
                };
                (Secret::from_slice(without_line_end(octets.as_bytes())), file.span)
            }
            other => return table.wrong_type(value, "{ file = \"NAME.psk\" }", other),
        };
        if psk.is_empty() {
            self.notes.error(Code::Secret, span, "the secret is empty");
            return None;
        }
        if psk.len() < PSK_OCTETS_ADVISED {
            self.notes.add(
                Diagnostic::warning(
                    Code::Secret,
                    span,
                    "the secret is short: who records one IKE_AUTH can guess it",
                )
                .help("make one:  openssl rand -base64 32"),
            );
        }
        Some(psk)
    }

    fn connection(
        &self,
        name: String,
        mut table: Reader<'a, '_>,
        pools: &BTreeSet<&str>,
    ) -> Option<Connection> {
        let local = self.side(&mut table, "local");
        let remote = self.side(&mut table, "remote");
        let ike = self.proposals(&mut table, "ike", suites::ike, suites::modern_ike);
        let pool = table.string("pool").filter(|pool| {
            let known = pools.contains(pool.value.as_str());
            if !known {
                let text = format!("there is no [pools.{}]", pool.value);
                let near = super::reader::nearest(&pool.value, pools.iter().copied());
                let help = near
                    .map_or("add it, or leave pool out".to_owned(), |near| format!("did you mean {near:?}?"));
                self.notes.add(Diagnostic::error(Code::Reference, pool.span.clone(), text).help(help));
            }
            known
        });
        let has_pool = table.has("pool");
        let words = [("replace", Unique::Replace), ("keep", Unique::Keep), ("never", Unique::Never)];
        let unique = table.word("unique", &words, &[]).map_or(Unique::Replace, |word| word.value);
        let dpd = table.duration_ms("dpd");
        self.at_least(&dpd, DPD_MS_MIN, "dpd", "1s");
        if let Some(zero) = dpd.as_ref().filter(|dpd| dpd.value == 0) {
            let text = format!("connection {name:?} has no dpd: a dead peer is noticed only at rekey");
            self.notes
                .add(Diagnostic::warning(Code::Advice, zero.span.clone(), text).help("write  dpd = \"30s\""));
        }
        let rekey = table.duration_ms("rekey");
        self.at_least(&rekey, REKEY_MS_MIN, "rekey", "1m");
        let _: Option<At<()>> = table.word("start", &[("none", ())], &["trap", "always"]);

        let mut children = Vec::new();
        let named = table.named_tables("children");
        if named.is_empty() && !table.has("children") {
            table.missing(
                "children",
                &format!("[connections.{name}.children.net]\nlocal_ts = [\"10.10.0.0/24\"]"),
            );
        }
        for (child_name, child) in named {
            children.extend(self.child(child_name, child, has_pool));
        }
        table.finish();

        let (local, remote) = (local?, remote?);
        Some(Connection {
            name,
            local_id: Identity::parse(&local.id?.value.0),
            local_auth: local.auth?,
            remote_address: remote.address.map(|address| address.value),
            remote_id: remote.id.map_or_else(|| IdPattern("*".to_owned()), |id| id.value),
            remote_auth: remote.auth?,
            ike,
            pool: pool.map(|pool| pool.value),
            unique,
            dpd_ms: dpd.map_or(DPD_MS, |dpd| dpd.value),
            rekey_ms: rekey.map_or(IKE_REKEY_MS, |rekey| rekey.value),
            children,
        })
    }

    fn side(&self, table: &mut Reader<'a, '_>, key: &'static str) -> Option<Side> {
        if !table.has(key) {
            let example = if key == "local" {
                "local = { id = \"gw.example.org\", auth = \"psk\" }"
            } else {
                "remote = { id = \"*\", auth = \"psk\" }"
            };
            table.missing(key, example);
        }
        let mut side = table.table(key)?;
        let id = side.string("id").and_then(|id| side.parsed(id, id_pattern));
        let mut address = None;
        if key == "remote" {
            address = side.string("address").and_then(|address| side.parsed(address, networks::address));
        } else if !side.has("id") {
            side.missing("id", "id = \"gw.example.org\"   (who we say that we are)");
        } else if let Some(pattern) = id.as_ref().filter(|id| id.value.0.contains('*')) {
            let text = format!("{:?} is a pattern; our own identity must be exact", pattern.value.0);
            self.notes.error(Code::Value, pattern.span.clone(), text);
        }
        if !side.has("auth") {
            side.missing("auth", "auth = \"psk\"");
        }
        let later: &[&str] =
            if key == "local" { &["cert"] } else { &["cert", "eap-mschapv2", "eap-tls", "eap-radius"] };
        let auth = side.word("auth", &[("psk", Auth::Psk)], later).map(|word| word.value);
        // Told once, at `auth`, when that asks for certificates; by itself, such a key would be ignored.
        for key in ["cert", "key", "authority"] {
            if side.value(key).is_some() && auth.is_some() {
                let text = format!("{key} goes with auth = \"cert\"");
                self.notes.error(Code::Conflict, side.key_span(key), text);
            }
        }
        side.finish();
        Some(Side { id, address, auth })
    }

    fn child(&self, name: String, mut table: Reader<'a, '_>, has_pool: bool) -> Option<Child> {
        if !table.has("local_ts") || table.is_empty_list("local_ts") {
            table.missing("local_ts", "local_ts = [\"10.10.0.0/24\"]");
        }
        let local_ts = table.list("local_ts", networks::selector).unwrap_or_default();
        let given = table.has("remote_ts");
        let remote_ts = table.list("remote_ts", networks::selector).unwrap_or_default();
        if !given && !has_pool {
            self.notes.add(
                Diagnostic::error(Code::Missing, table.span.clone(), format!("{} has no remote_ts, and its connection no pool", table.path))
                    .help("add  remote_ts = [\"10.20.0.0/16\"], or a pool: then it is the address that the client gets"),
            );
        }
        let esp = self.proposals(&mut table, "esp", suites::esp, suites::modern_esp);
        let (rekey_after_ms, rekey_bytes) = self.child_rekey(&mut table);
        let strict = table.word("replay", &[("bounded", false), ("strict", true)], &[]);
        table.finish();
        let values = |list: Vec<At<Selector>>| list.into_iter().map(|at| at.value).collect();
        Some(Child {
            name,
            local_ts: values(local_ts),
            remote_ts: values(remote_ts),
            esp,
            rekey_after_ms,
            rekey_bytes,
            strict_replay: strict.is_some_and(|strict| strict.value),
        })
    }

    fn child_rekey(&self, table: &mut Reader<'a, '_>) -> (u64, u64) {
        let (mut after, mut bytes) = (CHILD_REKEY_MS, CHILD_REKEY_OCTETS);
        // A duration alone is the time.
        if matches!(table.value("rekey").map(|value| value.get_ref()), Some(DeValue::String(_))) {
            let time = table.duration_ms("rekey");
            self.at_least(&time, REKEY_MS_MIN, "rekey", "1m");
            return (time.map_or(after, |time| time.value), bytes);
        }
        if let Some(mut rekey) = table.table("rekey") {
            let time = rekey.duration_ms("after");
            self.at_least(&time, REKEY_MS_MIN, "rekey.after", "1m");
            let volume = rekey.octets("bytes");
            self.at_least(&volume, REKEY_OCTETS_MIN, "rekey.bytes", "1MiB");
            after = time.map_or(after, |time| time.value);
            bytes = volume.map_or(bytes, |volume| volume.value);
            rekey.finish();
        }
        (after, bytes)
    }

    /// 0 means never, and is left alone.
    fn at_least(&self, given: &Option<At<u64>>, least: u64, key: &str, least_text: &str) {
        if let Some(given) = given.as_ref().filter(|given| (1..least).contains(&given.value)) {
            let text = format!("{key} is too small");
            let help = format!("at least {least_text}; 0 with a unit means never");
            self.notes.add(Diagnostic::error(Code::Value, given.span.clone(), text).help(help));
        }
    }

    /// All proposals of a key, without repetitions, in the order written.
    fn proposals<T: PartialEq>(
        &self,
        table: &mut Reader<'a, '_>,
        key: &'static str,
        read: fn(&str) -> Result<Vec<T>, suites::Wrong>,
        default: fn() -> Vec<T>,
    ) -> Vec<T> {
        if table.is_empty_list(key) {
            let text = format!("an empty {key} accepts nobody");
            self.notes.add(
                Diagnostic::error(Code::Value, table.key_span(key), text)
                    .help("write \"modern\", or leave it out"),
            );
        }
        let Some(lists) = table.list(key, read) else { return default() };
        let mut proposals: Vec<T> = Vec::new();
        for proposal in lists.into_iter().flat_map(|list| list.value) {
            if !proposals.contains(&proposal) {
                proposals.push(proposal);
            }
        }
        proposals
    }

    /// A connection whose peers can never authenticate is a mistake that shows only when they try.
    fn secrets_fit(&self, connections: &[(Range<usize>, Connection)], secrets: &[SharedSecret]) {
        for (span, connection) in connections {
            let pattern = &connection.remote_id;
            let fits = |id: &IdPattern| {
                let exact = |id: &IdPattern| Identity::parse(&id.0);
                match (pattern.is_exact(), id.is_exact()) {
                    (true, _) => id.matches(&exact(pattern)),
                    (false, true) => pattern.matches(&exact(id)),
                    // Two globs may meet.
                    (false, false) => true,
                }
            };
            if !secrets.iter().any(|secret| secret.ids.iter().any(fits)) {
                let text = format!("no secret fits a peer of connection {:?}", connection.name);
                let help =
                    format!("add  [secrets.NAME] with ids = [{:?}] and psk = {{ file = \"…\" }}", pattern.0);
                self.notes.add(Diagnostic::warning(Code::Reference, span.clone(), text).help(help));
            }
        }
    }
}

/// `local` or `remote` of a connection.
struct Side {
    id: Option<At<IdPattern>>,
    address: Option<At<IpAddr>>,
    auth: Option<Auth>,
}

fn id_pattern(text: &str) -> Result<IdPattern, suites::Wrong> {
    let fits = !text.is_empty() && text.len() <= IDENTITY_OCTETS_MAX && !text.chars().any(char::is_control);
    if fits {
        Ok(IdPattern(text.to_owned()))
    } else {
        Err((
            format!("{text:?} is no identity"),
            "a name, user@host, an address, or \"*\" for any".to_owned(),
        ))
    }
}

fn pool_network(text: &str) -> Result<Network, suites::Wrong> {
    if text.contains('-') {
        return Err((
            format!("a pool as a range ({text}) is not built yet"),
            "write it as a prefix: 10.99.0.0/16".to_owned(),
        ));
    }
    networks::network(text)
}

/// Editors end a file with a line end that is no part of the secret.
fn without_line_end(octets: &[u8]) -> &[u8] {
    let octets = octets.strip_suffix(b"\n").unwrap_or(octets);
    octets.strip_suffix(b"\r").unwrap_or(octets)
}

#[cfg(test)]
mod tests;
