//! The control server: a unix socket that root and the socket's group may use.
//!
//! A request is one line of bounded length; what cannot be read is answered with a fault, and a line that is too long
//! ends the connection. Connections are bounded too: one more is told so. A hang-up ends `wait` and `events`; a change
//! that has begun is carried through, since its proposal may be in the log already.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::Secret;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::api;
use super::backend::{Answer, Backend};
use super::wire::{Call, REQUEST_LEN_MAX, ReplyBody, Request, VERSION};
use crate::config::{GatewaySource, examine};
use crate::fault::{Exit, Fault, StartError};
use crate::observe::systemd;

/// Connections at a time; followers of events hold theirs.
const CONNECTIONS_MAX: usize = 64;
/// A connection that asks nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A reader that takes nothing for this long is given up.
const WRITE: Duration = Duration::from_secs(10);
/// The longest that one `wait` waits; the tool asks again where the user wants more.
const WAIT_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Takes the socket. One that a dead daemon left is replaced, one that is answered is left alone.
    pub fn bind(path: &Path) -> Result<Server, StartError> {
        let fail = |source| StartError::file(path, "make the control socket", source);
        not_running(path)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .map_err(|source| StartError::file(parent, "make the directory", source))?;
        }
        // Made under another name, so that nobody can connect before its mode is right.
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        remove(&fresh).map_err(fail)?;
        let listener = UnixListener::bind(&fresh).map_err(fail)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o660)).map_err(fail)?;
        fs::rename(&fresh, path).map_err(fail)?;
        Ok(Server { listener, path: path.to_owned() })
    }

    /// Serves until the future is dropped. From here on the node can be asked, which is what systemd calls ready.
    pub async fn serve<B: Backend>(self, backend: Arc<B>) {
        systemd::notify("READY=1");
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others will be closed.
                    tracing::warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let backend = backend.clone();
            match places.clone().try_acquire_owned() {
                Ok(place) => {
                    tokio::spawn(async move {
                        converse(stream, &*backend).await;
                        drop(place);
                    });
                }
                Err(_) => {
                    tokio::spawn(async move {
                        let fault = Fault::failed(format!("more than {CONNECTIONS_MAX} commands at a time"))
                            .attempt("end some of `pontoon events -f`, and try again");
                        let (_, mut write) = stream.into_split();
                        let _ = send(&mut write, ReplyBody::Fault(fault)).await;
                    });
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone with its directory already.
        let _ = remove(&self.path);
    }
}

/// Fails when a daemon answers on the socket.
pub fn not_running(path: &Path) -> Result<(), StartError> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(StartError::AlreadyRunning { socket: path.to_owned() }),
        Err(_) => Ok(()),
    }
}

async fn converse<B: Backend>(stream: UnixStream, backend: &B) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let line = match timeout(IDLE, read_line(&mut read)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Err(fault)) => {
                let _ = send(&mut write, ReplyBody::Fault(fault)).await;
                return;
            }
            Ok(Ok(None)) | Err(_) => return,
        };
        let done = match parse(&line) {
            Ok(Call::Events { follow }) => events(backend, follow, &mut read, &mut write).await,
            Ok(call @ Call::Wait { .. }) => {
                tokio::select! {
                    answer = answer(backend, call) => send_answer(&mut write, answer).await,
                    () = hung_up(&mut read) => return,
                }
            }
            Ok(call @ Call::Leave { .. }) => {
                let answer = answer(backend, call).await;
                let left = answer.as_ref().is_ok_and(|left| !left["cluster"].is_null());
                let sent = send_answer(&mut write, answer).await;
                // Afterwards nobody is here to tell it.
                if left {
                    backend.begin_anew();
                }
                sent
            }
            Ok(call) => send_answer(&mut write, answer(backend, call).await).await,
            Err(fault) => send(&mut write, ReplyBody::Fault(fault)).await,
        };
        if done.is_err() {
            return;
        }
    }
}

/// A line without its end; `None` at the end of the stream. It may hold a configuration, so it is wiped after use.
async fn read_line(read: &mut BufReader<OwnedReadHalf>) -> Result<Option<Secret>, Fault> {
    let mut line = Vec::new();
    loop {
        let Ok(chunk) = read.fill_buf().await else { return Ok(None) };
        if chunk.is_empty() {
            return Ok(None);
        }
        let end = chunk.iter().position(|octet| *octet == b'\n');
        let take = end.unwrap_or(chunk.len());
        if line.len() + take > REQUEST_LEN_MAX {
            return Err(Fault::usage(format!("a request of more than {REQUEST_LEN_MAX} octets is refused")));
        }
        line.extend_from_slice(&chunk[..take]);
        read.consume(take + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(Some(Secret::from(line)));
        }
    }
}

fn parse(line: &Secret) -> Result<Call, Fault> {
    #[derive(serde::Deserialize)]
    struct Envelope {
        v: u32,
    }
    let envelope: Envelope = serde_json::from_slice(line.as_bytes()).map_err(|error| {
        Fault::usage("the request is no JSON object with a version").why(without_values(&error))
    })?;
    if envelope.v != VERSION {
        return Err(Fault::usage(format!(
            "the daemon speaks version {VERSION} of the control protocol, not {}",
            envelope.v
        ))
        .why("the tool and the daemon are of different releases")
        .attempt("systemctl restart pontoon   (so that the installed release runs)"));
    }
    serde_json::from_slice::<Request>(line.as_bytes())
        .map(|request| request.call)
        .map_err(|error| Fault::usage("the request is not understood").why(without_values(&error)))
}

/// Where it went wrong, without what stood there: that may be a secret.
fn without_values(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Syntax => "it is no JSON",
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "a field is unknown, missing, or of another type",
        serde_json::error::Category::Io => "it cannot be read",
    };
    format!("{kind}, at octet {}", error.column())
}

async fn answer<B: Backend>(backend: &B, call: Call) -> Answer<Value> {
    match call {
        Call::Status => value(backend.status().await),
        Call::Members => value(backend.members().await),
        Call::Segments => value(backend.segments().await),
        Call::Sas { peer } => value(backend.sas(peer).await),
        Call::Init { name } => value(backend.init(name).await),
        Call::CreateToken { ttl_ms, uses, role } => {
            value(backend.create_token(Duration::from_millis(ttl_ms), uses, role).await)
        }
        Call::Join { address, token } => value(backend.join(address, token).await),
        Call::JoinProgress => value(backend.join_progress().await),
        Call::Leave { deadline_ms, accept_risk } => {
            let within = Duration::from_millis(deadline_ms).min(WAIT_MAX);
            value(backend.leave(within, accept_risk).await)
        }
        Call::RemoveMember { node, accept_risk } => value(backend.remove_member(node, accept_risk).await),
        Call::ConfigShow { revision } => value(config_show(backend, revision).await),
        Call::ConfigDiff { source } => value(config_diff(backend, source.into()).await),
        Call::ConfigApply { source, comment, if_revision } => {
            value(config_apply(backend, source.into(), comment, if_revision).await)
        }
        Call::ConfigHistory => {
            value(backend.config_history().await.map(|revisions| api::ConfigHistory { revisions }))
        }
        Call::ConfigRollback { revision } => value(config_rollback(backend, revision).await),
        Call::Terminate { sa } => value(backend.terminate(sa).await),
        Call::Rekey { sa } => value(backend.rekey(sa).await),
        Call::Drain { node, deadline_ms } => {
            let within = Duration::from_millis(deadline_ms).min(WAIT_MAX);
            value(backend.drain(node, within).await)
        }
        Call::Undrain { node } => value(backend.undrain(node).await),
        Call::MoveSegment { segment, node } => value(backend.move_segment(segment, node).await),
        Call::Wait { condition, timeout_ms } => value(wait(backend, condition, timeout_ms).await),
        // Streamed by `events`.
        Call::Events { .. } => Ok(Value::Null),
    }
}

async fn config_show<B: Backend>(backend: &B, revision: Option<u64>) -> Answer<api::ConfigShown> {
    let key = backend.fingerprint_key();
    let timing = backend.timing();
    match backend.config_source(revision).await {
        Ok(found) => Ok(api::ConfigShown {
            current: Some(found.about),
            toml: found.source.redacted(&key),
            files: found.source.files_shown(&key),
            timing,
        }),
        Err(fault) if revision.is_none() && fault.exit == Exit::NotFound => {
            Ok(api::ConfigShown { current: None, toml: String::new(), files: Vec::new(), timing })
        }
        Err(fault) => Err(fault),
    }
}

async fn config_diff<B: Backend>(backend: &B, newer: GatewaySource) -> Answer<api::ConfigDiff> {
    let (revision, changes) = compare(backend, &newer).await?;
    Ok(api::ConfigDiff { revision, changes })
}

async fn config_apply<B: Backend>(
    backend: &B,
    source: GatewaySource,
    comment: Option<String>,
    if_revision: Option<u64>,
) -> Answer<api::ConfigApplied> {
    // The tool has checked it too; a daemon takes nobody's word for what it replicates.
    let (gateway, diagnostics) = examine(&source, 0);
    if gateway.is_none() {
        let texts: Vec<String> = diagnostics.into_iter().filter(|d| d.is_error()).map(|d| d.text).collect();
        return Err(Fault::usage("the configuration has mistakes; nothing was changed")
            .why(texts.join("\n"))
            .attempt("pontoon check FILE"));
    }
    let (previous, changes) = compare(backend, &source).await?;
    if let Some(wanted) = if_revision.filter(|wanted| *wanted != previous) {
        return Err(Fault::failed(format!(
            "revision {previous} is in force, not {wanted}; nothing was changed"
        ))
        .why("somebody has applied another configuration meanwhile")
        .attempt("pontoon config diff FILE"));
    }
    let revision = backend.config_apply(source, comment, Some(if_revision.unwrap_or(previous))).await?;
    Ok(api::ConfigApplied { revision, previous, changes })
}

async fn config_rollback<B: Backend>(backend: &B, revision: u64) -> Answer<api::ConfigApplied> {
    let target = backend.config_source(Some(revision)).await?;
    let (previous, changes) = compare(backend, &target.source).await?;
    let revision = backend.config_rollback(revision).await?;
    Ok(api::ConfigApplied { revision, previous, changes })
}

/// The revision in force, and what would change.
async fn compare<B: Backend>(backend: &B, newer: &GatewaySource) -> Answer<(u64, Vec<api::ConfigChange>)> {
    let key = backend.fingerprint_key();
    match backend.config_source(None).await {
        Ok(current) => Ok((current.about.revision, current.source.diff(newer, &key))),
        Err(fault) if fault.exit == Exit::NotFound => Ok((0, GatewaySource::default().diff(newer, &key))),
        Err(fault) => Err(fault),
    }
}

async fn wait<B: Backend>(backend: &B, condition: api::Condition, timeout_ms: u64) -> Answer<api::Waited> {
    let begun = Instant::now();
    match timeout(Duration::from_millis(timeout_ms).min(WAIT_MAX), backend.wait(condition)).await {
        Ok(result) => {
            result?;
            let waited_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            Ok(api::Waited { condition, waited_ms })
        }
        Err(_) => {
            let fault = Fault::timed_out(format!("not {} yet", condition.name()));
            Err(match backend.ready().await {
                super::Ready::No(reason) if condition == api::Condition::Ready => fault.why(reason),
                _ => fault,
            }
            .attempt("pontoon status"))
        }
    }
}

/// The past, then, if asked, what comes, until either side hangs up.
async fn events<B: Backend>(
    backend: &B,
    follow: bool,
    read: &mut BufReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let mut follower = backend.events().follow();
    for stamped in std::mem::take(&mut follower.past) {
        send(write, ReplyBody::Event(stamped.to_json())).await?;
    }
    if !follow {
        return send(write, ReplyBody::Ok(Value::Null)).await;
    }
    loop {
        let next = tokio::select! {
            next = follower.next() => next,
            () = hung_up(read) => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        match next {
            Some(Ok(stamped)) => send(write, ReplyBody::Event(stamped.to_json())).await?,
            Some(Err(lost)) => {
                let fault =
                    Fault::failed(format!("{lost} events came faster than they were read, and are lost"));
                return send(write, ReplyBody::Fault(fault)).await;
            }
            None => return send(write, ReplyBody::Ok(Value::Null)).await,
        }
    }
}

/// Returns when the other side closes; octets that it sends meanwhile are left for later.
async fn hung_up(read: &mut BufReader<OwnedReadHalf>) {
    match read.fill_buf().await {
        Ok([]) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

fn value<T: Serialize>(answer: Answer<T>) -> Answer<Value> {
    serde_json::to_value(answer?).map_err(|error| Fault::failed("the answer cannot be written").why(error))
}

async fn send_answer(write: &mut OwnedWriteHalf, answer: Answer<Value>) -> io::Result<()> {
    send(write, answer.map_or_else(ReplyBody::Fault, ReplyBody::Ok)).await
}

async fn send(write: &mut OwnedWriteHalf, body: ReplyBody) -> io::Result<()> {
    timeout(WRITE, write.write_all(&body.to_line()))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
