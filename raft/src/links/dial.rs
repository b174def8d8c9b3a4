//! One connection to one member for one lane, kept up for ever.
//!
//! ```text
//!   TCP ──> TLS 1.3, both certificates ──> Hello ──> Welcome ──> in use ──> ended ─┐
//!    ^                                                                             │
//!    └──── at once the first time, then a little later each time <─────────────────┘
//! ```
//!
//! Dialled before it is needed: an election never waits for a handshake. The urgent connection is the one that
//! others watch (`peers`); when it ends the others to the same member end too, since what ended it concerns them.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crypto::Secret;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::frame::{self, GREETING_LEN_MAX};
use super::message::{Body, Frame, Hello, Welcome};
use super::peers::LinkState;
use super::tls::{Lanes, Shared, VERSION, tls_reason};
use super::wire::{NO_REQUEST, Wire};
use super::{Lane, pki};
use crate::state::NodeId;

/// Waits between attempts double from the first to the last. A process that has ended is found out by the second
/// attempt at the latest, one that comes back is found after the longest.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_LAST: Duration = Duration::from_millis(200);

/// When the other end, or we, will not have it: that does not change by itself soon.
const RETRY_UNWANTED: Duration = Duration::from_millis(500);

/// A connection that lived for so long was a good one: the next attempt is made at once.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// The kernel asks a silent connection for a sign of life; ours are never silent, so this is for those of a peer that
/// stopped in the middle.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug)]
enum Fault {
    /// Nobody listens there.
    Refused,
    Network(String),
    /// It is the wrong one, or says that we are.
    Unwanted(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refused => f.write_str("nobody listens there"),
            Fault::Network(why) | Fault::Unwanted(why) => f.write_str(why),
        }
    }
}

/// Dials for ever.
pub async fn keep(shared: Arc<Shared>, lanes: Arc<Lanes>, lane: Lane) {
    let mut wait = Duration::ZERO;
    loop {
        match connect(&shared, &lanes, lane).await {
            Ok(connected) => {
                let begun = Instant::now();
                let why = use_until_ended(&shared, &lanes, lane, connected).await;
                if lane == Lane::Urgent {
                    tracing::warn!(node = %lanes.node, peer = %lanes.peer, %why, "the link is down");
                    shared.board.set(lanes.node, LinkState::Down, Some(&why));
                    lanes.end_all(&why);
                }
                wait = if begun.elapsed() >= GOOD_AFTER { Duration::ZERO } else { longer(wait) };
            }
            Err(fault) => {
                if lane == Lane::Urgent {
                    report(&shared, &lanes, &fault);
                }
                wait = match fault {
                    Fault::Unwanted(_) => RETRY_UNWANTED,
                    Fault::Refused | Fault::Network(_) => longer(wait),
                };
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // It has just dialled us: it lives.
            () = lanes.nudged(lane) => {}
        }
    }
}

fn longer(wait: Duration) -> Duration {
    (2 * wait).clamp(RETRY_FIRST, RETRY_LAST)
}

fn report(shared: &Shared, lanes: &Lanes, fault: &Fault) {
    let state = if matches!(fault, Fault::Refused) { LinkState::Refused } else { LinkState::Down };
    let why = fault.to_string();
    let news = shared.board.set(lanes.node, state, Some(&why));
    if news && matches!(fault, Fault::Unwanted(_)) {
        tracing::warn!(node = %lanes.node, peer = %lanes.peer, %why, "no link");
    } else if news {
        tracing::info!(node = %lanes.node, peer = %lanes.peer, %why, "no link");
    }
}

struct Connected {
    wire: Arc<Wire>,
    queue: mpsc::Receiver<Secret>,
    stream: TlsStream<TcpStream>,
}

async fn use_until_ended(shared: &Shared, lanes: &Lanes, lane: Lane, connected: Connected) -> Arc<str> {
    let Connected { wire, queue, stream } = connected;
    lanes.set(lane, Some(wire.clone()));
    if lane == Lane::Urgent {
        tracing::info!(node = %lanes.node, peer = %lanes.peer, "the link is up");
        shared.board.set(lanes.node, LinkState::Up, None);
        lanes.nudge();
    }
    if lane == Lane::Append {
        shared.caught_sight_of(lanes.node);
    }
    let why = wire.run(stream, queue, shared.pace.liveness(lane)).await;
    lanes.set(lane, None);
    why
}

async fn connect(shared: &Shared, lanes: &Lanes, lane: Lane) -> Result<Connected, Fault> {
    let tcp = match tokio::time::timeout(shared.pace.connect, TcpStream::connect(&lanes.peer.address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(Fault::Refused),
        Ok(Err(error)) => return Err(Fault::Network(error.to_string())),
        Err(_) => return Err(Fault::Network("no answer to a connection attempt".into())),
    };
    match tokio::time::timeout(shared.pace.handshake, introduce(shared, lanes.node, lane, tcp)).await {
        Ok(introduced) => introduced,
        Err(_) => Err(Fault::Network("the handshake takes too long".into())),
    }
}

async fn introduce(shared: &Shared, node: NodeId, lane: Lane, tcp: TcpStream) -> Result<Connected, Fault> {
    set_up(&tcp, shared.pace.bulk.dead_after).map_err(network)?;
    let Some((me, configs)) = shared.identity() else {
        return Err(Fault::Network("this node has no certificate yet".into()));
    };
    let name = pki::server_name(me.cluster, node);
    let connector = TlsConnector::from(configs.client.clone());
    let mut stream = connector.connect(name, tcp).await.map_err(tls_fault)?;
    let hello = Hello {
        speaks_min: VERSION,
        speaks_max: VERSION,
        cluster: me.cluster.0.to_vec(),
        from: me.node.0,
        to: node.0,
        lane: lane.number(),
    };
    let hello = frame::encode(Frame::new(NO_REQUEST, Body::Hello(hello)), GREETING_LEN_MAX)
        .ok_or_else(|| Fault::Network("a greeting that is too long".into()))?;
    stream.write_all(hello.as_bytes()).await.map_err(tls_fault)?;
    stream.flush().await.map_err(tls_fault)?;
    match frame::read(&mut stream, GREETING_LEN_MAX).await {
        Ok((_, Body::Welcome(Welcome { version: VERSION }))) => {}
        Ok((_, Body::Refused(why))) => return Err(Fault::Unwanted(format!("it refuses this node: {why}"))),
        Ok(_) => return Err(Fault::Unwanted("it answers the greeting with something else".into())),
        Err(frame::FrameError::Io(error)) => return Err(tls_fault(error)),
        Err(error) => return Err(Fault::Network(error.to_string())),
    }
    if lane == Lane::Urgent {
        let session = shared.session(stream.get_ref().1, me.node, node).map_err(Fault::Network)?;
        shared.sessions.dialled(node, session);
    }
    let (wire, queue) = Wire::new(lane);
    Ok(Connected { wire, queue, stream })
}

/// For both ends of a connection.
pub fn set_up(tcp: &TcpStream, dead_after: Duration) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    socket.set_tcp_user_timeout(Some(dead_after))
}

fn network(error: io::Error) -> Fault {
    Fault::Network(error.to_string())
}

fn tls_fault(error: io::Error) -> Fault {
    match tls_reason(&error) {
        Some(why) => Fault::Unwanted(why),
        None => network(error),
    }
}
