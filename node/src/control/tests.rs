//! The server against a fake daemon: every call, and every way to misuse the socket.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crypto::Secret;
use ipsec::types::{ChildSpi, Spi};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::backend::{Answer, Backend, Ready};
use super::wire::{Call, REQUEST_LEN_MAX};
use super::{Client, Server, api};
use crate::config::{GatewaySource, Timing};
use crate::fault::{Exit, Fault, StartError};
use crate::observe::{Event, Events, Observe, Severity};

/// A daemon with one node, one tunnel, and a memory for configurations.
#[derive(Debug)]
pub(crate) struct Fake {
    pub observe: Observe,
    ready: Mutex<Ready>,
    revisions: Mutex<Vec<api::ConfigSource>>,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake { observe: Observe::new(), ready: Mutex::new(Ready::Yes), revisions: Mutex::default() }
    }
}

impl Fake {
    pub fn set_ready(&self, ready: Ready) {
        *self.ready.lock().unwrap() = ready;
    }

    fn push(
        &self,
        source: GatewaySource,
        comment: Option<String>,
        rollback_of: Option<u64>,
    ) -> api::ConfigRevision {
        let mut revisions = self.revisions.lock().unwrap();
        let about = api::ConfigRevision {
            revision: revisions.len() as u64 + 1,
            applied_at: "2026-01-02T03:04:05.000Z".into(),
            node: "edge-1".into(),
            comment,
            rollback_of,
        };
        revisions.push(api::ConfigSource { about: about.clone(), source });
        about
    }
}

pub(crate) fn status() -> api::Status {
    api::Status {
        node: "edge-1".into(),
        cluster: Some("lyon".into()),
        leader: Some("edge-1".into()),
        quorum: api::Quorum::of(1, 1),
        nodes: vec![api::NodeStatus {
            name: "edge-1".into(),
            id: 1,
            role: api::Role::Leader,
            state: api::NodeState::Up,
            segments: 256,
            ike_sas: 1,
            child_sas: 1,
            applied: Some(918_233),
            digest: Some("9f3ca1".into()),
        }],
        service_addresses: vec!["192.0.2.1".parse().unwrap()],
        config_revision: 37,
        last_handover: Some(api::Handover {
            at: "2026-01-02T03:04:05.000Z".into(),
            from: Some("edge-1".into()),
            to: "edge-1".into(),
            segments: 256,
            cause: "restart".into(),
            detect_ms: 0.0,
            commit_ms: 2.5,
            resume_ms: 1.0,
        }),
        health: vec![api::Health {
            code: "no-spare-node".into(),
            severity: Severity::Warning,
            text: "the cluster has one voter: it survives no failure".into(),
            fix: "add nodes: with three voters one may fail".into(),
        }],
    }
}

pub(crate) fn sa() -> api::IkeSa {
    api::IkeSa {
        spi_i: Spi(0x4c1f_09aa_31c7_b5e2),
        spi_r: Spi(0x1f4c_0a9b_e2d3_5511),
        connection: "staff".into(),
        peer_id: "anna@example.org".into(),
        peer_address: "198.51.100.7:4500".parse().unwrap(),
        segment: 31,
        owner: Some("edge-1".into()),
        epoch: 15,
        state: api::SaState::Established,
        suite: "aes256gcm16-prfsha256-x25519".into(),
        age_s: 7_860,
        rekey_in_s: Some(2_820),
        message_ids: api::MessageIds { ours: 12, theirs: 31 },
        inner_addresses: vec!["10.99.0.23".parse().unwrap()],
        children: vec![api::ChildSa {
            name: "net".into(),
            spi_in: ChildSpi(0x1f88_01d3),
            spi_out: ChildSpi(0xc0de_77a1),
            suite: "aes256gcm16-esn".into(),
            encap: api::Encap::Udp,
            state: api::SaState::Established,
            local_ts: vec!["10.10.0.0/24".into()],
            remote_ts: vec!["10.99.0.23/32".into()],
            packets_in: 1_204_332,
            packets_out: 11_930_007,
            bytes_in: 1_200_000_000,
            bytes_out: 14_800_000_000,
            next_number: 11_930_008,
            reserved: 12_582_912,
            drops: [("replay".to_owned(), 0), ("selector".to_owned(), 3)].into(),
        }],
    }
}

pub(crate) fn members() -> api::Members {
    api::Members {
        members: vec![api::Member {
            name: "edge-1".into(),
            id: 1,
            address: "198.18.0.11:7400".into(),
            state: api::NodeState::Up,
            vote: api::Vote::Voter,
            role: api::Role::Leader,
            term: Some(7),
            committed: Some(918_233),
            applied: Some(918_233),
            digest: Some("9f3ca1".into()),
            version: Some("0.1.0".into()),
        }],
    }
}

pub(crate) fn segments() -> api::Segments {
    let row = |segment: u8| api::SegmentRow {
        segment,
        owner: (segment != 7).then(|| "edge-1".to_owned()),
        standby: None,
        epoch: 3,
        state: if segment == 7 { api::SegmentState::Unowned } else { api::SegmentState::Owned },
        ike_sas: u64::from(segment == 31),
    };
    api::Segments { segments: (0..=255).map(row).collect() }
}

impl Backend for Fake {
    async fn status(&self) -> Answer<api::Status> {
        Ok(status())
    }

    async fn members(&self) -> Answer<api::Members> {
        Ok(members())
    }

    async fn segments(&self) -> Answer<api::Segments> {
        Ok(segments())
    }

    async fn sas(&self, peer: Option<String>) -> Answer<api::Sas> {
        let fits = |sa: &api::IkeSa| peer.as_ref().is_none_or(|peer| sa.peer_id.contains(peer));
        Ok(api::Sas { sas: vec![sa()].into_iter().filter(fits).collect() })
    }

    fn events(&self) -> &Events {
        self.observe.events()
    }

    async fn init(&self, name: String) -> Answer<api::Initialized> {
        match name.as_str() {
            "lyon" => Ok(api::Initialized { cluster: name, node: "edge-1".into(), id: 1, created: false }),
            _ => Err(Fault::failed("this node is a member of the cluster \"lyon\" already")),
        }
    }

    async fn create_token(&self, _: Duration, uses: u32, role: api::Vote) -> Answer<api::TokenCreated> {
        let (token, expires_at) = ("pt1.00.11.22.33".into(), "2026-01-01T00:00:00.000Z".into());
        Ok(api::TokenCreated { token, uses, role, expires_at, address: "198.18.0.11:7400".into() })
    }

    async fn join(&self, _: String, _: String) -> Answer<api::Joined> {
        Ok(api::Joined { cluster: "lyon".into(), node: "edge-1".into(), id: 1, joined: false })
    }

    async fn join_progress(&self) -> Answer<api::JoinProgress> {
        Ok(api::JoinProgress { applied: Some(9), vote: Some(api::Vote::Voter), caught_up: true })
    }

    async fn leave(&self, _: Duration, _: Vec<String>) -> Answer<api::Left> {
        Ok(api::Left { node: "edge-1".into(), cluster: Some("lyon".into()), voters: 2, spare: 0 })
    }

    fn begin_anew(&self) {}

    async fn remove_member(&self, node: String, _: Vec<String>) -> Answer<api::Removed> {
        Err(Fault::not_found(format!("there is no node {node}")))
    }

    async fn config_source(&self, revision: Option<u64>) -> Answer<api::ConfigSource> {
        let revisions = self.revisions.lock().unwrap();
        let found = match revision {
            None => revisions.last(),
            Some(wanted) => revisions.iter().find(|known| known.about.revision == wanted),
        };
        found.cloned().ok_or_else(|| Fault::not_found("there is no such revision"))
    }

    async fn config_apply(
        &self,
        source: GatewaySource,
        comment: Option<String>,
        _if_revision: Option<u64>,
    ) -> Answer<api::ConfigRevision> {
        Ok(self.push(source, comment, None))
    }

    async fn config_history(&self) -> Answer<Vec<api::ConfigRevision>> {
        Ok(self.revisions.lock().unwrap().iter().rev().map(|known| known.about.clone()).collect())
    }

    async fn config_rollback(&self, revision: u64) -> Answer<api::ConfigRevision> {
        let source = self.config_source(Some(revision)).await?.source;
        Ok(self.push(source, None, Some(revision)))
    }

    fn fingerprint_key(&self) -> Secret {
        Secret::from_slice(b"of the cluster")
    }

    fn timing(&self) -> api::Timing {
        Timing::LAN.shown()
    }

    async fn terminate(&self, spi: api::SaRef) -> Answer<api::Acted> {
        let known = [api::SaRef::Ike(sa().spi_i), api::SaRef::Child(sa().children[0].spi_in)];
        if !known.contains(&spi) {
            return Err(Fault::not_found(format!("there is no SA {spi}")).attempt("pontoon sas"));
        }
        let (connection, peer_id) = (sa().connection, sa().peer_id);
        Ok(api::Acted { spi, connection, peer_id, owner: sa().owner, index: 918_240 })
    }

    async fn rekey(&self, spi: api::SaRef) -> Answer<api::Acted> {
        self.terminate(spi).await
    }

    async fn drain(&self, node: Option<String>, within: Duration) -> Answer<api::Drained> {
        match node.as_deref() {
            Some("edge-1") | None => Err(Fault::timed_out("edge-1 still owns 256 of 256 segments")
                .why(format!("{} ms are over", within.as_millis()))),
            Some(other) => Err(Fault::not_found(format!("there is no node {other}"))),
        }
    }

    async fn undrain(&self, node: Option<String>) -> Answer<api::Undrained> {
        Ok(api::Undrained { node: node.unwrap_or_else(|| "edge-1".into()), drained: true })
    }

    async fn move_segment(&self, segment: u8, to: String) -> Answer<api::MovedSegment> {
        Ok(api::MovedSegment { segment, from: Some("edge-1".into()), to, took_ms: 12 })
    }

    async fn wait(&self, condition: api::Condition) -> Answer<()> {
        match condition {
            api::Condition::Quorum => Ok(()),
            _ => std::future::pending().await,
        }
    }

    async fn ready(&self) -> Ready {
        self.ready.lock().unwrap().clone()
    }
}

/// A fake daemon that serves on a socket of its own.
struct Daemon {
    _dir: tempfile::TempDir,
    path: PathBuf,
    backend: Arc<Fake>,
    server: tokio::task::JoinHandle<()>,
}

impl Daemon {
    async fn start() -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let backend = Arc::new(Fake::default());
        let server = tokio::spawn(Server::bind(&path).unwrap().serve(backend.clone()));
        Daemon { _dir: dir, path, backend, server }
    }

    /// What the tool would do, on a thread of its own.
    async fn tool<T: Send + 'static>(&self, work: impl FnOnce(Client) -> T + Send + 'static) -> T {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || work(Client::connect(&path).unwrap())).await.unwrap()
    }

    async fn call<T: serde::de::DeserializeOwned + Send + 'static>(&self, call: Call) -> Result<T, Fault> {
        self.tool(move |mut client| client.call(call, Duration::from_secs(5))).await
    }

    /// Raw octets in, everything that comes back until the server closes or falls silent.
    async fn raw(&self, octets: &[u8]) -> String {
        let mut stream = tokio::net::UnixStream::connect(&self.path).await.unwrap();
        // The server may close before it has read all of it.
        let _ = stream.write_all(octets).await;
        let _ = stream.shutdown().await;
        let mut text = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut text)).await;
        String::from_utf8(text).unwrap()
    }
}

const CONFIG: &str = r#"version = 1
[connections.branch]
local  = { id = "gw", auth = "psk" }
remote = { id = "branch1", auth = "psk" }
[connections.branch.children.lan]
local_ts  = ["10.10.0.0/24"]
remote_ts = ["10.20.0.0/16"]
[secrets.branch1]
ids = ["branch1"]
psk = { file = "b.psk" }
"#;

fn source(toml: &str, psk: &str) -> super::wire::WireSource {
    let files = [("b.psk".to_owned(), Secret::from_slice(psk.as_bytes()))].into();
    GatewaySource { toml: toml.to_owned(), files }.into()
}

#[tokio::test]
async fn reads_come_back_as_they_are() {
    let daemon = Daemon::start().await;
    assert_eq!(daemon.call::<api::Status>(Call::Status).await.unwrap(), status());
    assert_eq!(daemon.call::<api::Members>(Call::Members).await.unwrap(), members());
    assert_eq!(daemon.call::<api::Segments>(Call::Segments).await.unwrap(), segments());
    let sas = |peer: Option<&str>| Call::Sas { peer: peer.map(str::to_owned) };
    assert_eq!(daemon.call::<api::Sas>(sas(None)).await.unwrap().sas, [sa()]);
    assert_eq!(daemon.call::<api::Sas>(sas(Some("bob"))).await.unwrap().sas, []);
}

#[tokio::test]
async fn segments_are_drained_and_moved() {
    let daemon = Daemon::start().await;
    let drain = |node: Option<&str>| Call::Drain { node: node.map(str::to_owned), deadline_ms: 1_500 };
    let late = daemon.call::<api::Drained>(drain(None)).await.unwrap_err();
    assert_eq!((late.exit, late.why.as_deref()), (Exit::TimedOut, Some("1500 ms are over")));
    let unknown = daemon.call::<api::Drained>(drain(Some("edge-9"))).await.unwrap_err();
    assert_eq!(unknown.exit, Exit::NotFound);
    let undrained: api::Undrained = daemon.call(Call::Undrain { node: None }).await.unwrap();
    assert!(undrained.drained);
    let moved: api::MovedSegment =
        daemon.call(Call::MoveSegment { segment: 7, node: "edge-2".into() }).await.unwrap();
    assert_eq!((moved.segment, moved.to.as_str()), (7, "edge-2"));
}

#[tokio::test]
async fn a_fault_of_the_daemon_arrives_whole() {
    let daemon = Daemon::start().await;
    let fault = daemon
        .call::<api::Acted>(Call::Terminate { sa: "0011223344556677".parse().unwrap() })
        .await
        .unwrap_err();
    assert_eq!(fault, Fault::not_found("there is no SA 0011223344556677").attempt("pontoon sas"));
    let acted = daemon.call::<api::Acted>(Call::Rekey { sa: "1f8801d3".parse().unwrap() }).await.unwrap();
    assert_eq!(acted.index, 918_240);
    let again = daemon.call::<api::Initialized>(Call::Init { name: "lyon".into() }).await.unwrap();
    assert!(!again.created);
    assert_eq!(
        daemon.call::<api::Initialized>(Call::Init { name: "nice".into() }).await.unwrap_err().exit,
        Exit::Failed
    );
}

#[tokio::test]
async fn a_configuration_is_applied_shown_compared_and_rolled_back() {
    let daemon = Daemon::start().await;
    let show = |revision| Call::ConfigShow { revision };
    let apply =
        |source, if_revision| Call::ConfigApply { source, comment: Some("first".into()), if_revision };

    let empty: api::ConfigShown = daemon.call(show(None)).await.unwrap();
    assert_eq!((empty.current, empty.timing.heartbeat_ms), (None, 25));

    let broken = daemon.call::<api::ConfigApplied>(apply(source("version = 2", ""), None)).await.unwrap_err();
    assert_eq!(broken.exit, Exit::Usage);

    let first: api::ConfigApplied =
        daemon.call(apply(source(CONFIG, "a secret of decent length"), None)).await.unwrap();
    assert_eq!((first.revision.revision, first.previous), (1, 0));
    assert!(
        first.changes.iter().any(|change| change.key == "secrets.branch1.psk.file" && change.old.is_none())
    );

    let stale = daemon.call::<api::ConfigApplied>(apply(source(CONFIG, "x"), Some(9))).await.unwrap_err();
    assert_eq!(stale.what, "revision 1 is in force, not 9; nothing was changed");

    let newer = CONFIG.replace("10.20.0.0/16", "10.21.0.0/16");
    let diff: api::ConfigDiff =
        daemon.call(Call::ConfigDiff { source: source(&newer, "a secret of decent length") }).await.unwrap();
    assert_eq!(diff.revision, 1);
    let keys: Vec<_> = diff.changes.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["connections.branch.children.lan.remote_ts"]);

    let _: api::ConfigApplied =
        daemon.call(apply(source(&newer, "another secret of decent length"), Some(1))).await.unwrap();
    let back: api::ConfigApplied = daemon.call(Call::ConfigRollback { revision: 1 }).await.unwrap();
    assert_eq!(
        (back.revision.revision, back.previous, back.revision.rollback_of, back.changes.len()),
        (3, 2, Some(1), 2)
    );

    let shown: api::ConfigShown = daemon.call(show(None)).await.unwrap();
    assert_eq!(shown.toml, CONFIG);
    assert_eq!((shown.files[0].name.as_str(), shown.files[0].octets), ("b.psk", 25));
    let all = serde_json::to_string(&shown).unwrap();
    assert!(!all.contains("decent"), "{all}");
    assert_eq!(daemon.call::<api::ConfigShown>(show(Some(9))).await.unwrap_err().exit, Exit::NotFound);
    let history: api::ConfigHistory = daemon.call(Call::ConfigHistory).await.unwrap();
    assert_eq!(history.revisions.iter().map(|known| known.revision).collect::<Vec<_>>(), [3, 2, 1]);
}

#[tokio::test]
async fn wait_ends_with_its_condition_or_its_time() {
    let daemon = Daemon::start().await;
    let wait = |condition, timeout_ms| Call::Wait { condition, timeout_ms };
    assert!(daemon.call::<api::Waited>(wait(api::Condition::Quorum, 5_000)).await.is_ok());
    daemon.backend.set_ready(Ready::No("no leader".into()));
    let fault = daemon.call::<api::Waited>(wait(api::Condition::Ready, 50)).await.unwrap_err();
    assert_eq!((fault.exit, fault.why.as_deref()), (Exit::TimedOut, Some("no leader")));
    // A daemon that does not answer at all.
    let slow = daemon.tool(|mut client| {
        let call = Call::Wait { condition: api::Condition::Drained, timeout_ms: 60_000 };
        client.call::<api::Waited>(call, Duration::from_millis(50))
    });
    assert_eq!(slow.await.unwrap_err().exit, Exit::TimedOut);
}

#[tokio::test]
async fn events_come_from_the_past_and_as_they_happen() {
    let daemon = Daemon::start().await;
    let observe = daemon.backend.observe.clone();
    observe.emit(Event::Leader { leader: Some("edge-1".into()), term: 1 });
    let past = daemon.tool(|mut client| {
        let mut kinds = Vec::new();
        let each = |event: serde_json::Map<String, serde_json::Value>| {
            kinds.push(event["kind"].as_str().unwrap().to_owned());
            Ok(ControlFlow::Continue(()))
        };
        client.events(false, Duration::from_secs(5), each).map(|()| kinds)
    });
    assert_eq!(past.await.unwrap(), ["raft"]);
    let followed = daemon.tool(move |mut client| {
        let mut terms = Vec::new();
        let each = |event: serde_json::Map<String, serde_json::Value>| {
            let term = event["term"].as_u64().unwrap();
            terms.push(term);
            if term == 3 {
                return Ok(ControlFlow::Break(()));
            }
            observe.emit(Event::Leader { leader: None, term: term + 1 });
            Ok(ControlFlow::Continue(()))
        };
        client.events(true, Duration::from_secs(5), each).map(|()| terms)
    });
    assert_eq!(followed.await.unwrap(), [1, 2, 3]);
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_hurts_nobody() {
    let daemon = Daemon::start().await;
    for (octets, told) in [
        ("\n", "no JSON object with a version"),
        ("hello\n", "no JSON object with a version"),
        ("[1,2]\n", "no JSON object with a version"),
        ("{\"v\":1}\n", "not understood"),
        ("{\"v\":2,\"call\":\"status\"}\n", "speaks version 1"),
        ("{\"v\":1,\"call\":\"dance\"}\n", "not understood"),
        ("{\"v\":1,\"call\":\"status\",\"more\":1}\n", "not understood"),
        ("{\"v\":1,\"call\":{\"rekey\":{\"sa\":\"xyz\"}}}\n", "not understood"),
        (
            "{\"v\":1,\"call\":{\"config_apply\":{\"source\":{\"toml\":\"\",\"files\":{\"a\":\"secret\"}}}}}\n",
            "not understood",
        ),
        ("\u{0}\u{0}\n", "no JSON object with a version"),
        (&format!("{}\n", "[".repeat(100_000)), "no JSON object with a version"),
    ] {
        let answer = daemon.raw(octets.as_bytes()).await;
        assert!(answer.starts_with("{\"v\":1,\"fault\":") && answer.contains(told), "{octets:.60}: {answer}");
        assert!(!answer.contains("secret"), "{answer}");
    }
    // No line at all, half a line, and octets that are no text.
    assert_eq!(daemon.raw(b"").await, "");
    assert_eq!(daemon.raw(b"{\"v\":1").await, "");
    assert!(daemon.raw(b"\xff\xfe\n").await.contains("fault"));
    // Two requests in one go are two answers.
    let two = daemon.raw(b"{\"v\":1,\"call\":\"members\"}\n{\"v\":1,\"call\":\"nothing\"}\n").await;
    assert_eq!(two.lines().count(), 2, "{two}");
    assert_eq!(daemon.call::<api::Status>(Call::Status).await.unwrap().node, "edge-1");
}

#[tokio::test]
async fn a_request_without_end_is_cut_off() {
    let daemon = Daemon::start().await;
    let answer = daemon.raw(&vec![b'x'; REQUEST_LEN_MAX + (1 << 16)]).await;
    // The answer may be lost with the connection, since not all of it was read; the daemon goes on in any case.
    assert!(answer.is_empty() || answer.contains("is refused"), "{answer:.200}");
    assert!(daemon.call::<api::Status>(Call::Status).await.is_ok());
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let daemon = Daemon::start().await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(tokio::net::UnixStream::connect(&daemon.path).await.unwrap());
    }
    let answer = daemon.raw(b"").await;
    assert!(answer.contains("more than 64 commands"), "{answer}");
    drop(held);
    for _ in 0..100 {
        if daemon.raw(b"{\"v\":1,\"call\":\"members\"}\n").await.contains("\"ok\"") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the places were not given back");
}

#[tokio::test]
async fn the_socket_is_private_taken_once_and_cleaned_up() {
    use std::os::unix::fs::PermissionsExt as _;
    let daemon = Daemon::start().await;
    let mode = std::fs::metadata(&daemon.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let path = daemon.path.clone();
    let second = Server::bind(&path).unwrap_err();
    assert!(matches!(second, StartError::AlreadyRunning { .. }), "{second}");

    daemon.server.abort();
    let _ = daemon.server.await;
    assert!(!path.exists());
    let gone = Client::connect(&path).unwrap_err();
    assert_eq!(gone.exit, Exit::Unreachable);
    assert_eq!(
        gone.to_string().lines().next().unwrap(),
        format!("cannot reach pontoon on {}: not running", path.display())
    );
    assert!(gone.tries[0].contains("systemctl start pontoon"));

    // What a killed daemon leaves behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(Server::bind(&path).is_ok());
}
