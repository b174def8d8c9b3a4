//! What a gateway.toml means, what is wrong with one, and that everything wrong is told at once.

use super::*;
use crate::config::Report;

fn source(toml: &str) -> GatewaySource {
    let files =
        [("branch1.psk", "a pre-shared key of some length\n"), ("short.psk", "short"), ("empty.psk", "\n")];
    let files = files.map(|(name, text)| (name.to_owned(), Secret::from_slice(text.as_bytes())));
    GatewaySource { toml: toml.to_owned(), files: files.into() }
}

fn told(toml: &str) -> Vec<String> {
    let (_, diagnostics) = examine(&source(toml), 1);
    let report = Report::new("gateway.toml", toml, diagnostics);
    report
        .diagnostics
        .iter()
        .map(|diagnostic| {
            let (line, column) = report.position(diagnostic);
            format!("{line}:{column} {}: {}", diagnostic.code.name(), diagnostic.text)
        })
        .collect()
}

const SITE: &str = r#"
version = 1
[connections.branch]
local  = { id = "gw", auth = "psk" }
remote = { address = "198.51.100.40", id = "branch1", auth = "psk" }
[connections.branch.children.lan]
local_ts  = ["10.10.0.0/24"]
remote_ts = ["10.20.0.0/16"]
[secrets.branch1]
ids = ["branch1"]
psk = { file = "branch1.psk" }
"#;

#[test]
fn a_site_to_site_connection_with_defaults() {
    assert_eq!(told(SITE), Vec::<String>::new());
    let gateway = compile(&source(SITE), 7).unwrap();
    assert_eq!(gateway.revision, 7);
    let connection = &gateway.connections[0];
    assert_eq!(connection.name, "branch");
    assert_eq!(connection.local_id.to_string(), "gw");
    assert_eq!(connection.remote_id, IdPattern("branch1".into()));
    assert_eq!(connection.remote_address, Some("198.51.100.40".parse().unwrap()));
    assert_eq!(connection.ike, suites::modern_ike());
    assert_eq!(
        (connection.unique, connection.dpd_ms, connection.rekey_ms),
        (Unique::Replace, 30_000, 14_400_000)
    );
    let child = &connection.children[0];
    assert_eq!((child.local_ts.len(), child.remote_ts.len()), (1, 1));
    assert_eq!((child.rekey_after_ms, child.rekey_bytes, child.strict_replay), (3_600_000, 500 << 30, false));
    assert_eq!(child.esp, suites::modern_esp());
    // The line end of the file is no part of the key.
    assert_eq!(
        gateway.psk(&Identity::parse("branch1")).unwrap().as_bytes(),
        b"a pre-shared key of some length"
    );
}

#[test]
fn a_pool_and_everything_written_out() {
    let text = r#"
version = 1
[pools.staff]
addresses = ["10.99.0.0/16", "2001:db8:99::/64"]
dns = ["10.10.0.53"]
[connections.zulu]
local  = { id = "gw.example.org", auth = "psk" }
remote = { id = "*", auth = "psk" }
ike    = ["aes256gcm16-prfsha384-ecp384", "aes128gcm16-prfsha256-x25519"]
pool   = "staff"
unique = "never"
dpd    = "0s"
rekey  = "90m"
start  = "none"
[connections.zulu.children.net]
local_ts = ["10.10.0.0/24", "2001:db8::/32"]
esp      = ["aes128gcm16", "chacha20poly1305"]
rekey    = { after = "1h", bytes = "5GiB" }
replay   = "bounded"
[connections.alpha]
local  = { id = "gw.example.org", auth = "psk" }
remote = { id = "*.example.org", auth = "psk" }
ike    = "modern"
pool   = "staff"
[connections.alpha.children.net]
local_ts = "0.0.0.0/0"
rekey    = "2h"
replay   = "strict"
[secrets.all]
ids = ["*"]
psk = "a pre-shared key in the file"
"#;
    assert_eq!(
        told(text),
        [
            "12:10 advice: connection \"zulu\" has no dpd: a dead peer is noticed only at rekey",
            "31:1 secret: a secret stands in the file itself",
        ]
    );
    let gateway = compile(&source(text), 1).unwrap();
    let names: Vec<_> = gateway.connections.iter().map(|connection| connection.name.as_str()).collect();
    assert_eq!(names, ["zulu", "alpha"], "the order of the file counts");
    let zulu = &gateway.connections[0];
    assert_eq!((zulu.ike.len(), zulu.unique, zulu.dpd_ms, zulu.rekey_ms), (2, Unique::Never, 0, 5_400_000));
    assert_eq!(zulu.children[0].rekey_bytes, 5 << 30);
    assert_eq!((zulu.children[0].remote_ts.len(), zulu.children[0].strict_replay), (0, false));
    let child = &gateway.connections[1].children[0];
    assert_eq!((child.rekey_after_ms, child.strict_replay), (7_200_000, true));
    assert_eq!(gateway.pool("staff").unwrap().addresses.len(), 2);
}

/// The example of CONTRACT: all of it is valid, part of it is not built.
#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let text = r#"
version = 1
[pools.staff]
addresses = "10.99.0.0/16"
dns       = ["10.10.0.53"]
[authorities.corp]
file = "corp-ca.pem"
[connections.staff]
local  = { id = "gw.example.org", auth = "cert", cert = "gw.pem", key = "gw.key" }
remote = { id = "*", auth = "eap-mschapv2" }
pool   = "staff"
[connections.staff.children.net]
local_ts = ["10.10.0.0/24"]
[connections.branch]
local  = { id = "gw", auth = "psk" }
remote = { address = "198.51.100.40", id = "branch1", auth = "psk" }
start  = "trap"
[connections.branch.children.lan]
local_ts  = ["10.10.0.0/24"]
remote_ts = ["10.20.0.0/16"]
[secrets.branch1]
ids  = ["branch1"]
psk  = { file = "branch1.psk" }
[secrets.alice]
ids  = ["alice"]
eap  = { file = "alice.pw" }
"#;
    assert_eq!(
        told(text),
        [
            "6:14 not-built: [authorities.corp] is not built yet",
            "9:42 not-built: auth = \"cert\" is not built yet",
            "10:29 not-built: auth = \"eap-mschapv2\" is not built yet",
            "17:10 not-built: start = \"trap\" is not built yet",
            "26:1 not-built: eap in [secrets.alice] is not built yet",
        ]
    );
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let text = r#"version = 2
[pools.staff]
addresses = ["10.99.0.0/16", "10.99.3.0/24", "10.0.0.1/8"]
dsn = ["10.10.0.53"]
[pools.guest]
addresses = "10.99.128.0/24"
[connections.branch]
local  = { auth = "psk" }
remote = { id = "branch1", auth = "pks", adress = "198.51.100.40" }
ike    = ["aes256gcm16-ecp384", "aes192-sha256-modp2048"]
pool   = "stuff"
unique = "sometimes"
dpd    = 30
rekey  = "4 fortnights"
[connections.branch.children.lan]
local_ts  = ["10.10.0.0/16"]
remote_ts = ["10.20.0.0/33"]
rekey     = { after = "10s", bytes = "lots" }
[connections.lonely]
local = { id = "gw*", auth = "psk", cert = "x" }
remote = { id = "nobody", auth = "psk" }
[connections.dynamic]
local = { id = "gw", auth = "psk" }
remote = { id = "branch1", auth = "psk" }
[connections.dynamic.children.net]
local_ts = []
esp = []
[secrets.branch1]
ids = ["branch1"]
psk = { file = "gone.psk" }
[secrets.again]
ids = ["branch1", ""]
psk = { file = "short.psk" }
[secrets.nothing]
ids = ["x"]
psk = { file = "empty.psk" }
[conections.x]
"#;
    assert_eq!(
        told(text),
        [
            "1:11 value: this is no version of the format that is known here",
            "3:30 conflict: 10.99.3.0/24 is in the pool \"staff\" already",
            "3:46 value: 10.0.0.1/8 has bits set behind its prefix",
            "4:1 unknown-key: no key dsn in pools.staff",
            "6:13 conflict: 10.99.128.0/24 is in the pool \"staff\" already",
            "8:1 missing: connections.branch.local has no id",
            "9:35 value: \"pks\" is no value for auth",
            "9:42 unknown-key: no key adress in connections.branch.remote",
            "10:11 value: \"aes256gcm16-ecp384\" has no pseudo-random function",
            "10:33 value: aes192 is not built yet",
            "11:10 reference: there is no [pools.stuff]",
            "12:10 value: \"sometimes\" is no value for unique",
            "13:10 value: a duration needs a unit",
            "14:10 value: \"4 fortnights\" is not a duration",
            "17:14 value: 10.20.0.0/33 is not a network",
            "18:23 value: rekey.after is too small",
            "18:38 value: \"lots\" is not a size",
            "19:14 missing: connections.lonely has no children",
            "19:14 reference: no secret fits a peer of connection \"lonely\"",
            "20:16 value: \"gw*\" is a pattern; our own identity must be exact",
            "20:37 conflict: cert goes with auth = \"cert\"",
            "25:31 missing: connections.dynamic.children.net has no local_ts",
            "25:31 missing: connections.dynamic.children.net has no remote_ts, and its connection no pool",
            "27:1 value: an empty esp accepts nobody",
            "30:16 file: the file \"gone.psk\" did not come along",
            "32:8 conflict: \"branch1\" has a secret already, [secrets.branch1]",
            "32:19 value: \"\" is no identity",
            "33:16 secret: the secret is short: who records one IKE_AUTH can guess it",
            "36:16 secret: the secret is empty",
            "37:2 unknown-key: no key conections here",
        ]
    );
}

#[test]
fn one_slip_of_the_grammar_is_one_mistake() {
    let text = SITE
        .replace("ids = [\"branch1\"]", "ids = [\"branch1\"")
        .replace("auth = \"psk\" }\nremote", "auth = \"cert\" }\nremote");
    let told = told(&text);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("not-built") && told[1].starts_with("11:1 syntax"), "{told:?}");
}

#[test]
fn no_text_makes_it_panic() {
    for text in [
        "",
        "=",
        "version",
        "version = 1\n[connections]\nx = 1",
        "[pools]\na = []",
        "secrets = 7",
        "connections.a.children.b = 1",
        "[connections.\"a b\"]",
    ] {
        assert!(compile(&source(text), 1).is_err(), "{text:?}");
    }
    for cut in 0..SITE.len() {
        let _ = examine(&source(&SITE[..cut]), 1);
    }
}
