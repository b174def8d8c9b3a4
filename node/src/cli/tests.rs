//! What users see, word for word: outputs, exit codes, JSON keys, completions.

use std::path::Path;

use clap::{CommandFactory as _, Parser as _};
use serde_json::{Value, json};

use super::*;
use crate::control::api;
use crate::control::tests as fake;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn document<T: serde::Serialize>(body: &T) -> Value {
    serde_json::from_str(&output::json(body).unwrap()).unwrap()
}

#[test]
fn status_on_one_screen() {
    assert_eq!(
        status::text(&fake::status()),
        "\
1 of 1 node up: none may fail      service address 192.0.2.1      cluster lyon

  NODE    ROLE    STATE  SEGMENTS  IKE SAS  CHILD SAS  BEHIND
* edge-1  leader  up          256        1          1       -

  leader     edge-1
  handover   2026-01-02T03:04:05.000Z: 256 segments to edge-1 (restart), 4 ms = detect 0 + commit 2 + resume 1
  config     revision 37

Health: 1 warning
  ! no-spare-node  the cluster has one voter: it survives no failure
                   try: add nodes: with three voters one may fail
"
    );
}

#[test]
fn the_first_line_says_how_many_more_may_fail() {
    let with = |voters, up| {
        let status = api::Status { quorum: api::Quorum::of(voters, up), ..fake::status() };
        status::headline(&status)
    };
    assert_eq!(with(3, 3), "3 of 3 nodes up: one more may fail");
    assert_eq!(with(3, 2), "2 of 3 nodes up: none may fail");
    assert_eq!(with(5, 5), "5 of 5 nodes up: 2 more may fail");
    assert!(with(3, 1).starts_with("NO QUORUM: this node sees 1 of 3 voters."));
    let status =
        api::Status { cluster: None, quorum: api::Quorum::default(), health: Vec::new(), ..fake::status() };
    assert!(
        status::text(&status).starts_with("not a member: edge-1 belongs to no cluster\n  try   pontoon init")
    );
    assert!(status::is_degraded(&status) && status::is_degraded(&fake::status()));
    let well = api::Status { health: Vec::new(), ..fake::status() };
    assert!(!status::is_degraded(&well));
}

#[test]
fn members_segments_and_sas() {
    assert_eq!(
        members::text(&fake::members()),
        "\
NODE    ID  ADDRESS           STATE  VOTE   RAFT    TERM  COMMITTED  APPLIED  BEHIND  DIGEST          VERSION
edge-1   1  198.18.0.11:7400  up     voter  leader     7     918233   918233       -  9f3ca1 @918233  0.1.0
quorum 1 of 1; digests agree
"
    );
    assert_eq!(
        segments::text(&fake::segments()),
        "\
SEGMENTS  OWNER   STANDBY  EPOCH  IKE SAS  STATE
0-6       edge-1  -            3        0  owned
7         -       -            3        0  unowned
8-255     edge-1  -            3        1  owned
"
    );
    let sas = api::Sas { sas: vec![fake::sa()] };
    assert_eq!(
        sas::short(&sas),
        "\
IKE               PEER              ADDRESS            OWNER   STATE           AGE   REKEY  CHILDREN          IN / OUT
4c1f09aa31c7b5e2  anna@example.org  198.51.100.7:4500  edge-1  established  2h 11m  in 47m         1  1.2 GB / 14.8 GB
"
    );
    assert_eq!(
        sas::long(&sas),
        "\
staff: established, segment 31 on edge-1 (epoch 15)
  peer    anna@example.org @ 198.51.100.7:4500
  spis    4c1f09aa31c7b5e2 initiator, 1f4c0a9be2d35511 responder
  suite   aes256gcm16-prfsha256-x25519
  age     2h 11m, rekey in 47m
  next message ids: ours 12, theirs 31
  inner   10.99.0.23
  net: child, established, aes256gcm16-esn, tunnel in UDP
    in   1f8801d3  1.2 GB, 1,204,332 packets; dropped: 3 selector
    out  c0de77a1  14.8 GB, 11,930,007 packets; next number 11,930,008 of 12,582,912 reserved
    10.10.0.0/24  <->  10.99.0.23/32
"
    );
    assert_eq!(sas::short(&api::Sas { sas: Vec::new() }), "no SA\n");
}

#[test]
fn digests_that_differ_are_told() {
    let mut two = fake::members();
    let mut other = two.members[0].clone();
    other.name = "edge-2".into();
    other.digest = Some("000000".into());
    two.members.push(other);
    assert!(members::text(&two).ends_with("quorum 2 of 2; DIGESTS DIFFER at the same index\n"));
    two.members[1].applied = Some(918_200);
    assert!(members::text(&two).ends_with("quorum 2 of 2; digests agree\n"));
}

/// The keys of CONTRACT, in its order.
#[test]
fn json_has_the_shape_of_the_contract() {
    let status = document(&fake::status());
    assert_eq!(
        keys(&status),
        [
            "schema",
            "node",
            "cluster",
            "leader",
            "quorum",
            "nodes",
            "service_addresses",
            "config_revision",
            "last_handover",
            "health"
        ]
    );
    assert_eq!(status["schema"], json!(1));
    assert_eq!(keys(&status["quorum"]), ["voters", "up", "spare", "has_quorum"]);
    assert_eq!(
        keys(&status["nodes"][0]),
        ["name", "id", "role", "state", "segments", "ike_sas", "child_sas", "applied", "digest"]
    );
    assert_eq!(keys(&status["health"][0]), ["code", "severity", "text", "fix"]);
    assert_eq!(status["health"][0]["severity"], json!("warning"));
    assert_eq!(status["service_addresses"], json!(["192.0.2.1"]));

    let lonely = api::Status { cluster: None, ..fake::status() };
    assert_eq!(document(&lonely)["cluster"], Value::Null);

    let members = document(&fake::members());
    assert_eq!(
        keys(&members["members"][0]),
        [
            "name",
            "id",
            "address",
            "state",
            "vote",
            "role",
            "term",
            "committed",
            "applied",
            "digest",
            "version"
        ]
    );
    let segments = document(&fake::segments());
    assert_eq!(keys(&segments["segments"][0]), ["segment", "owner", "standby", "epoch", "state", "ike_sas"]);
    assert_eq!(segments["segments"].as_array().unwrap().len(), 256);

    let sas = document(&api::Sas { sas: vec![fake::sa()] });
    let sa = &sas["sas"][0];
    assert_eq!(
        keys(sa),
        [
            "spi_i",
            "spi_r",
            "connection",
            "peer_id",
            "peer_address",
            "segment",
            "owner",
            "epoch",
            "state",
            "suite",
            "age_s",
            "rekey_in_s",
            "message_ids",
            "inner_addresses",
            "children"
        ]
    );
    assert_eq!(
        (&sa["spi_i"], &sa["message_ids"]),
        (&json!("4c1f09aa31c7b5e2"), &json!({"ours": 12, "theirs": 31}))
    );
    assert_eq!(
        keys(&sa["children"][0]),
        [
            "name",
            "spi_in",
            "spi_out",
            "suite",
            "encap",
            "state",
            "local_ts",
            "remote_ts",
            "packets_in",
            "packets_out",
            "bytes_in",
            "bytes_out",
            "next_number",
            "reserved",
            "drops"
        ]
    );
    assert_eq!(sa["children"][0]["drops"], json!({"replay": 0, "selector": 3}));
}

#[test]
fn events_as_lines_and_as_objects() {
    let event = crate::observe::Event::Leader { leader: Some("edge-1".into()), term: 7 };
    let stamped = crate::observe::Stamped { at: std::time::SystemTime::UNIX_EPOCH, event }.to_json();
    assert_eq!(
        events::line(&stamped, Format::Table),
        "1970-01-01T00:00:00.000Z  raft leader leader=edge-1 term=7"
    );
    assert_eq!(
        events::line(&stamped, Format::Json),
        r#"{"schema":1,"at":"1970-01-01T00:00:00.000Z","kind":"raft","what":"leader","leader":"edge-1","term":7}"#
    );
    assert_eq!(
        events::line(&stamped, Format::Tsv),
        "1970-01-01T00:00:00.000Z\traft\tleader\traft leader leader=edge-1 term=7"
    );
}

#[test]
fn what_changed_and_how_to_undo_it() {
    let change = |key: &str, old: Option<&str>, new: Option<&str>| api::ConfigChange {
        key: key.into(),
        old: old.map(str::to_owned),
        new: new.map(str::to_owned),
    };
    let revision = api::ConfigRevision {
        revision: 38,
        applied_at: "2026-01-02T03:04:05.000Z".into(),
        node: "edge-1".into(),
        comment: Some("for anna\n".into()),
        rollback_of: None,
    };
    let changes = vec![
        change("connections.a.dpd", Some("\"30s\""), Some("\"60s\"")),
        change("connections.b.pool", None, Some("\"staff\"")),
        change("secrets.x.psk", Some("<secret 3f9ac01d22b4>"), None),
    ];
    let applied = api::ConfigApplied { revision: revision.clone(), previous: 37, changes };
    assert_eq!(
        config::applied_text(&applied),
        "\
~ connections.a.dpd = \"30s\" -> \"60s\"
+ connections.b.pool = \"staff\"
- secrets.x.psk = <secret 3f9ac01d22b4>
3 changes: revision 38 is in force on all live nodes
undo:  pontoon config rollback 37
"
    );
    let rolled =
        api::ConfigRevision { revision: 39, comment: None, rollback_of: Some(37), ..revision.clone() };
    assert_eq!(
        config::history_text(&api::ConfigHistory { revisions: vec![rolled, revision] }),
        "\
REVISION  APPLIED                   BY      COMMENT
      39  2026-01-02T03:04:05.000Z  edge-1  rollback to 37
      38  2026-01-02T03:04:05.000Z  edge-1  for anna\\n
"
    );
    assert_eq!(
        config::diff_text(&api::ConfigDiff { revision: 0, changes: Vec::new() }),
        "no change: nothing has been applied yet\n"
    );
    let spi = "1f8801d3".parse().unwrap();
    let acted = api::Acted { spi, connection: "staff".into(), peer_id: "anna".into(), owner: None, index: 9 };
    assert_eq!(
        sa::terminated(&acted),
        "deleting child SA 1f8801d3 of anna (connection staff), committed at 9\nundo:  none; the peer may connect again\n"
    );
}

#[test]
fn check_draws_every_mistake_and_lists_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(
        &path,
        "version = 1\n[pools.a]\naddresses = \"10.0.0.0/33\"\n[connections.b]\npol = \"a\"\n",
    )
    .unwrap();
    let (kind, report) = check::examine(&path, None).unwrap();
    assert_eq!(kind, check::Kind::Gateway);
    let drawing = check::drawing(&report, false);
    assert!(drawing.contains("error[value]: 10.0.0.0/33 is not a network"), "{drawing}");
    assert!(
        drawing.contains("x.toml:3:13]") && drawing.contains("the part after / may be 0 to 32"),
        "{drawing}"
    );
    assert!(drawing.contains("did you mean pool?"), "{drawing}");
    assert!(drawing.ends_with("x.toml: 5 errors. Nothing was changed.\n"), "{drawing}");
    let list = document(&check::checked(kind, &report));
    assert_eq!(keys(&list), ["schema", "file", "kind", "errors", "warnings", "diagnostics"]);
    assert_eq!(keys(&list["diagnostics"][0]), ["level", "code", "line", "column", "text", "help"]);
    assert_eq!((&list["diagnostics"][0]["line"], &list["diagnostics"][0]["column"]), (&json!(3), &json!(13)));

    std::fs::write(&path, "name = \"a\"\nadvertise = \"x\"\n[outside]\n").unwrap();
    assert_eq!(check::examine(&path, None).unwrap().0, check::Kind::Node);
    assert_eq!(check::examine(Path::new("/nowhere/x.toml"), None).unwrap_err().exit, Exit::Usage);
}

fn exit(args: &[&str]) -> Exit {
    let entries = Entries {
        daemon: |_, _| Err(Fault::failed("the daemon")),
        demo: |_, _| Err(Fault::usage("the demo")),
    };
    main_with(["pontoon"].iter().chain(args).map(OsString::from), entries)
}

#[test]
fn every_command_ends_with_the_exit_code_of_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = file("good.toml", "version = 1\n");
    let broken = file("broken.toml", "version = 2\n");
    let node = file(
        "node.toml",
        "name = \"a\"\nadvertise = \"127.0.0.1:1\"\n[outside]\ndevice = \"lo\"\naddress = [\"192.0.2.1/24\"]\n[inside]\ndevice = \"lo\"\n",
    );
    let socket = dir.path().join("none.sock").display().to_string();
    let at = |args: &[&'static str]| exit(&[&["--socket", socket.as_str()], args].concat());

    for (args, code) in [
        (vec!["version"], Exit::Done),
        (vec!["--help"], Exit::Done),
        (vec!["--version"], Exit::Done),
        (vec!["completions", "bash"], Exit::Done),
        (vec!["man"], Exit::Done),
        (vec![], Exit::Usage),
        (vec!["dance"], Exit::Usage),
        (vec!["status", "--surprise"], Exit::Usage),
        (vec!["status", "--timeout", "5"], Exit::Usage),
        (vec!["rekey", "xyz"], Exit::Usage),
        (vec!["status", "-o", "xml"], Exit::Usage),
        (vec!["wait"], Exit::Usage),
        (vec!["init", "--name", "a b"], Exit::Usage),
        (vec!["demo", "--size", "10"], Exit::Usage),
        (vec!["demo"], Exit::Usage),
        (vec!["status"], Exit::Unreachable),
        (vec!["members"], Exit::Unreachable),
        (vec!["segments"], Exit::Unreachable),
        (vec!["sas", "--long"], Exit::Unreachable),
        (vec!["events"], Exit::Unreachable),
        (vec!["init"], Exit::Unreachable),
        (vec!["terminate", "1f8801d3"], Exit::Unreachable),
        (vec!["config", "show"], Exit::Unreachable),
        (vec!["config", "rollback", "3"], Exit::Unreachable),
        (vec!["wait", "--for", "ready", "--timeout", "100ms"], Exit::Unreachable),
        (vec!["token", "create"], Exit::Unreachable),
        (vec!["join", "a:1", "--token", "t"], Exit::Unreachable),
        (vec!["leave"], Exit::Unreachable),
        (vec!["drain"], Exit::Unreachable),
        (vec!["undrain", "edge-1"], Exit::Unreachable),
        (vec!["initiate", "branch"], Exit::Usage),
        (vec!["bench", "esp"], Exit::Usage),
        (vec!["members", "remove", "edge-1"], Exit::Unreachable),
        (vec!["segments", "move", "3", "edge-1"], Exit::Unreachable),
        (vec!["segments", "move", "256", "edge-1"], Exit::Usage),
    ] {
        assert_eq!(at(&args), code, "{args:?}");
    }
    assert_eq!(exit(&["check", &good]), Exit::Done);
    assert_eq!(exit(&["check", &broken]), Exit::Usage);
    assert_eq!(exit(&["check", &broken, "-o", "json"]), Exit::Usage);
    assert_eq!(exit(&["check", "/nowhere/gateway.toml"]), Exit::Usage);
    assert_eq!(exit(&["config", "apply", &broken, "--socket", &socket]), Exit::Usage);
    assert_eq!(exit(&["config", "apply", &good, "--socket", &socket]), Exit::Unreachable);
    assert_eq!(exit(&["run", "--config", &broken]), Exit::Usage);
    assert_eq!(exit(&["run", "--config", "/nowhere/node.toml"]), Exit::Usage);
    assert_eq!(exit(&["run", "--config", &node, "--log", "a=b=c"]), Exit::Usage);
    assert_eq!(exit(&["run", "--config", &node, "--log", "off"]), Exit::Failed);
}

#[test]
fn the_command_line_is_sound_and_complete() {
    Cli::command().debug_assert();
    for command in [
        "run",
        "init",
        "token",
        "join",
        "leave",
        "drain",
        "undrain",
        "members",
        "segments",
        "status",
        "sas",
        "terminate",
        "rekey",
        "initiate",
        "events",
        "check",
        "config",
        "wait",
        "doctor",
        "demo",
        "bench",
        "version",
        "completions",
        "man",
    ] {
        assert!(Cli::command().find_subcommand(command).is_some(), "{command}");
    }
    let demo =
        |args: &[&str]| match Cli::try_parse_from(["pontoon", "demo"].iter().chain(args)).unwrap().command {
            Command::Demo(args) => args,
            other => panic!("{other:?}"),
        };
    let args = demo(&["--nodes", "3", "--kill", "leader", "--size", "64MiB", "--keep"]);
    assert_eq!((args.nodes, args.kill, args.size, args.keep), (Some(3), Kill::Leader, 64 << 20, true));
}

#[test]
fn completions_and_the_manual_know_every_command() {
    use clap_complete::Shell;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let script = completions::completions(shell);
        for word in ["status", "rollback", "doctor", "terminate", "socket"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let page = completions::manual().unwrap();
    assert!(page.starts_with(".ie") && page.contains("EXIT CODES") && page.contains("doctor"));
}
