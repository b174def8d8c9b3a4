//! Who may come in, and as what.
//!
//! ```text
//!   TCP ──> what does it want to speak? ─┬─ pontoon/1       certificate ─> member? ─> Hello ─> Welcome ─> serve
//!                                        ├─ pontoon-join/1  no certificate ─────────> the join handler
//!                                        └─ anything else   refused
//! ```
//!
//! A stranger costs one handshake of bounded number and time, then nothing. A good certificate is not enough: its node
//! must be a member now, under the key that it joined with. Each refusal is counted, told here, and told to the other
//! end as far as it is one that speaks our protocol.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::{StartHandshake, TlsStream};

use super::counters::Refused;
use super::frame::{self, GREETING_LEN_MAX};
use super::message::{Body, Frame, Hello, Welcome};
use super::pki::Subject;
use super::tls::{ALPN_JOIN, ALPN_MEMBER, Shared, VERSION, tls_reason};
use super::wire::NO_REQUEST;
use super::{BoxFuture, Lane, dial, pki, serve};
use crate::state::NodeId;

/// Handshakes under way at a time, and of them those with one host, which must not keep the members out; more are cut
/// off. A member that starts dials four lanes at once.
const HANDSHAKES_MAX: usize = 128;
const HANDSHAKES_PER_HOST_MAX: usize = 32;

/// Joins under way at a time, and how long one may hold its connection.
const JOINS_MAX: usize = 8;
const JOIN_WITHIN: Duration = Duration::from_secs(120);

/// How long nothing is accepted after the system had no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A TLS connection whose other end has shown no certificate.
pub type JoinStream = TlsStream<TcpStream>;

/// Talks to a node that is no member yet.
pub trait JoinHandler: Send + Sync + 'static {
    /// Returns when it is done with the connection.
    fn join(&self, stream: JoinStream, from: SocketAddr) -> BoxFuture<'static, ()>;
}

/// Why somebody is not let in.
#[derive(Debug)]
struct Refusal {
    reason: Refused,
    why: String,
}

impl Refusal {
    fn new(reason: Refused, why: impl Into<String>) -> Refusal {
        Refusal { reason, why: why.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Accepts for ever.
pub async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    let handshakes = Arc::new(Handshakes::default());
    let joins = Arc::new(Semaphore::new(JOINS_MAX));
    loop {
        let (tcp, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of one connection, or of the process: the listener itself does not break.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match handshakes.begin(from.ip()) {
            Some(handshake) => {
                let guest = Guest { shared: shared.clone(), from, joins: joins.clone() };
                tokio::spawn(guest.receive(tcp, handshake));
            }
            None => shared.refuse(Refused::Busy, from, "too many connections at once"),
        }
    }
}

/// Handshakes under way with each host.
#[derive(Default)]
struct Handshakes(Mutex<HashMap<IpAddr, usize>>);

/// One of them, until it is dropped.
struct Handshake {
    all: Arc<Handshakes>,
    host: IpAddr,
}

impl Handshakes {
    fn begin(self: &Arc<Self>, host: IpAddr) -> Option<Handshake> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.values().sum::<usize>() >= HANDSHAKES_MAX {
            return None;
        }
        let count = hosts.entry(host).or_default();
        if *count >= HANDSHAKES_PER_HOST_MAX {
            return None;
        }
        *count += 1;
        Some(Handshake { all: self.clone(), host })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut hosts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = hosts.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

struct Guest {
    shared: Arc<Shared>,
    from: SocketAddr,
    joins: Arc<Semaphore>,
}

impl Guest {
    async fn receive(self, tcp: TcpStream, handshake: Handshake) {
        match tokio::time::timeout(self.shared.pace.handshake, self.admit(tcp)).await {
            Ok(Ok(Admitted::Member(stream, node, lane))) => {
                drop(handshake);
                serve::serve(&self.shared, stream, node, lane).await;
            }
            Ok(Ok(Admitted::Newcomer(stream))) => {
                drop(handshake);
                self.join(stream).await;
            }
            Ok(Err(refusal)) => self.refuse(&refusal),
            Err(_) => self.refuse(&Refusal::new(Refused::Handshake, "the handshake takes too long")),
        }
    }

    async fn admit(&self, tcp: TcpStream) -> Result<Admitted, Refusal> {
        let failed = |error: std::io::Error| {
            let why = tls_reason(&error).unwrap_or_else(|| error.to_string());
            Refusal::new(Refused::Handshake, why)
        };
        let (me, configs) = self
            .shared
            .identity()
            .ok_or_else(|| Refusal::new(Refused::Vacant, "this node is no member of a cluster"))?;
        dial::set_up(&tcp, self.shared.pace.bulk.dead_after).map_err(failed)?;
        let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(failed)?;
        match wants(&start) {
            Wants::Member => {
                let stream = start.into_stream(configs.member.clone()).await.map_err(failed)?;
                self.greet(stream, me).await
            }
            Wants::Join => {
                let stream = start.into_stream(configs.join.clone()).await.map_err(failed)?;
                Ok(Admitted::Newcomer(stream))
            }
            Wants::Other => {
                // The handshake tells it so, and fails.
                drop(start.into_stream(configs.member.clone()).await);
                Err(Refusal::new(Refused::Protocol, "it speaks another protocol"))
            }
        }
    }

    async fn greet(&self, mut stream: TlsStream<TcpStream>, me: Subject) -> Result<Admitted, Refusal> {
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let subject = shown
            .ok_or_else(|| Refusal::new(Refused::Handshake, "it shows no certificate"))
            .and_then(|shown| {
                pki::subject_of(shown).map_err(|error| Refusal::new(Refused::OtherNode, error.to_string()))
            })?;
        let hello = match frame::read(&mut stream, GREETING_LEN_MAX).await {
            Ok((_, Body::Hello(hello))) => hello,
            Ok(_) => return Err(Refusal::new(Refused::Greeting, "it does not say who it is")),
            Err(error) => return Err(Refusal::new(Refused::Greeting, error.to_string())),
        };
        let (answer, outcome) = match self.examine(&me, &subject, &hello) {
            Ok(lane) => (Body::Welcome(Welcome { version: VERSION }), Ok(lane)),
            Err(refusal) => (Body::Refused(refusal.why.clone()), Err(refusal)),
        };
        let lost = |error: std::io::Error| Refusal::new(Refused::Greeting, error.to_string());
        if let Ok(Lane::Urgent) = outcome {
            // Before it hears that it is welcome: its next datagram may be faster than this connection.
            let session = self.shared.session(stream.get_ref().1, subject.node, me.node);
            let session = session.map_err(|why| Refusal::new(Refused::Handshake, why))?;
            self.shared.sessions.accepted(session);
        }
        if let Some(answer) = frame::encode(Frame::new(NO_REQUEST, answer), GREETING_LEN_MAX) {
            stream.write_all(answer.as_bytes()).await.map_err(lost)?;
            stream.flush().await.map_err(lost)?;
        }
        match outcome {
            Ok(lane) => Ok(Admitted::Member(stream, subject.node, lane)),
            Err(refusal) => {
                // What was refused may be gone already.
                let _ = stream.shutdown().await;
                Err(refusal)
            }
        }
    }

    fn examine(&self, me: &Subject, it: &Subject, hello: &Hello) -> Result<Lane, Refusal> {
        if !(hello.speaks_min..=hello.speaks_max).contains(&VERSION) {
            let spoken = format!("versions {} to {} are spoken there", hello.speaks_min, hello.speaks_max);
            return Err(Refusal::new(Refused::Greeting, format!("{spoken}, {VERSION} here")));
        }
        if it.cluster != me.cluster || hello.cluster != me.cluster.0 {
            let why = format!("it belongs to cluster {}, this node to {}", it.cluster, me.cluster);
            return Err(Refusal::new(Refused::OtherCluster, why));
        }
        if hello.from != it.node.0 {
            let why = format!("it says it is node {}, its certificate is for node {}", hello.from, it.node);
            return Err(Refusal::new(Refused::OtherNode, why));
        }
        if hello.to != me.node.0 || it.node == me.node {
            let why = format!("node {} looks for node {}, this is node {}", it.node, hello.to, me.node);
            return Err(Refusal::new(Refused::OtherNode, why));
        }
        self.shared.belongs(it).map_err(|(reason, why)| Refusal { reason, why })?;
        Lane::from_number(hello.lane)
            .ok_or_else(|| Refusal::new(Refused::Greeting, format!("there is no lane {}", hello.lane)))
    }

    async fn join(&self, stream: JoinStream) {
        let Some(handler) = self.shared.join_handler() else {
            self.refuse(&Refusal::new(Refused::Vacant, "this node takes nobody in"));
            return;
        };
        let Ok(_permit) = self.joins.try_acquire() else {
            self.refuse(&Refusal::new(Refused::Busy, "too many joins at once"));
            return;
        };
        if tokio::time::timeout(JOIN_WITHIN, handler.join(stream, self.from)).await.is_err() {
            self.refuse(&Refusal::new(Refused::Handshake, "the join takes too long"));
        }
    }

    fn refuse(&self, refusal: &Refusal) {
        self.shared.refuse(refusal.reason, self.from, &refusal.why);
    }
}

enum Admitted {
    Member(TlsStream<TcpStream>, NodeId, Lane),
    Newcomer(JoinStream),
}

enum Wants {
    Member,
    Join,
    Other,
}

fn wants(start: &StartHandshake<TcpStream>) -> Wants {
    let hello = start.client_hello();
    let mut offered = hello.alpn().into_iter().flatten();
    match offered.find(|name| *name == ALPN_MEMBER || *name == ALPN_JOIN) {
        Some(name) if name == ALPN_MEMBER => Wants::Member,
        Some(_) => Wants::Join,
        None => Wants::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_cannot_take_all_handshakes() {
        let all = Arc::new(Handshakes::default());
        let host = |number: u8| IpAddr::from([10, 0, 0, number]);
        let begin = |number, count| (0..count).map_while(|_| all.begin(host(number))).collect::<Vec<_>>();
        let first = begin(1, 1000);
        assert_eq!(first.len(), HANDSHAKES_PER_HOST_MAX);
        let others: usize = (2..100).map(|number| begin(number, 1).len()).sum();
        assert_eq!(others, 98, "each ends before the next begins");
        let many: Vec<_> = (2..=255).flat_map(|number| begin(number, 1)).collect();
        assert_eq!(first.len() + many.len(), HANDSHAKES_MAX);
        drop((first, many));
        assert!(all.0.lock().unwrap().is_empty());
    }
}
