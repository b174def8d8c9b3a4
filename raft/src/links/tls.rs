//! `TlsLinks`: this node's connections to all other members, over mutual TLS 1.3.
//!
//! ```text
//!   bind ─> identify (certificate) ─┬─> listens: members, newcomers
//!           attach (member) ────────┴─> follows the roll: four connections to each other member, one a lane
//!   detach ─> all ends
//! ```
//!
//! Each node dials each other one, so between two there are eight connections: on those that it dialled a node asks, on
//! those that it accepted it answers. All of them are up before they are needed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::{AlertDescription, CertificateError, ClientConfig, ConnectionCommon, ServerConfig, SideData};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use super::counters::{LinkCounters, Refused};
use super::message::Body;
use super::peers::{Board, LinkState, Peers, REMOVED};
use super::pki::{Credentials, PkiError, Subject};
use super::session::{KEY_LEN, Session, Sessions};
use super::wire::{Liveness, Wire};
use super::{Attachment, BoxFuture, JoinHandler, Lane, Link, LinkError, Links, Roll, accept, dial};
use crate::handle::Cluster;
use crate::state::NodeId;
use crate::store::Peer;
use crate::timing::Timing;

/// What members speak with each other, and what newcomers speak (RFC 7301).
pub const ALPN_MEMBER: &[u8] = b"pontoon/1";
pub const ALPN_JOIN: &[u8] = b"pontoon-join/1";

/// Of the messages behind the greeting.
pub const VERSION: u32 = 1;

/// Of the keys for datagrams (RFC 8446, 7.5).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-pontoon-datagrams";

/// Answers what other nodes ask: who asks, what, and the answer. What the octets mean is the node's business.
pub type AskHandler = Arc<dyn Fn(NodeId, Vec<u8>) -> BoxFuture<'static, Vec<u8>> + Send + Sync>;

/// A handle; clones are of the same links.
#[derive(Clone)]
pub struct TlsLinks {
    shared: Arc<Shared>,
}

/// How long what may take, from Raft's times.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub connect: Duration,
    pub handshake: Duration,
    /// Of the urgent lane: its end is how others learn that a member is gone.
    pub urgent: Liveness,
    /// Of the others, where an answer may wait behind a long frame.
    pub bulk: Liveness,
    /// An accepted connection is given up after so much silence; the dialling side is never so silent.
    pub silence_max: Duration,
}

impl Pace {
    fn of(timing: &Timing) -> Pace {
        Pace {
            connect: 2 * timing.election_max,
            handshake: 8 * timing.election_max,
            urgent: Liveness { ask_after: 4 * timing.heartbeat, dead_after: 4 * timing.election_max },
            bulk: Liveness { ask_after: timing.proposal / 5, dead_after: timing.proposal },
            silence_max: 2 * timing.proposal,
        }
    }

    pub fn liveness(&self, lane: Lane) -> Liveness {
        if lane == Lane::Urgent { self.urgent } else { self.bulk }
    }
}

/// What TLS needs, made from one certificate.
#[derive(Debug)]
pub struct Configs {
    pub client: Arc<ClientConfig>,
    pub member: Arc<ServerConfig>,
    pub join: Arc<ServerConfig>,
}

/// What there is while this node is a member.
#[derive(Default)]
struct Life {
    identity: Option<(Subject, Arc<Configs>)>,
    attachment: Option<Attachment>,
    peers: BTreeMap<NodeId, Dialled>,
    /// Ends the connection that a member dialled, when it is dropped.
    accepted: HashMap<(NodeId, Lane), oneshot::Sender<()>>,
    listening: Option<Task>,
    following: Option<Task>,
}

/// What all tasks of the links share.
pub struct Shared {
    advertise: SocketAddr,
    pub pace: Pace,
    pub board: Board,
    pub sessions: Sessions,
    counters: LinkCounters,
    on_ask: OnceLock<(AskHandler, Handle)>,
    on_join: OnceLock<Arc<dyn JoinHandler>>,
    life: Mutex<Life>,
}

/// The connections to one member.
pub struct Lanes {
    pub node: NodeId,
    pub peer: Peer,
    wires: [Mutex<Option<Arc<Wire>>>; Lane::ALL.len()],
    nudges: [Notify; Lane::ALL.len()],
}

/// Lanes, and the tasks that keep them up until this is dropped.
struct Dialled {
    lanes: Arc<Lanes>,
    _tasks: [Task; Lane::ALL.len()],
}

impl TlsLinks {
    /// Listens on `advertise`. Whoever comes is sent away until this node is a member.
    pub async fn bind(advertise: SocketAddr, timing: &Timing) -> io::Result<TlsLinks> {
        let listener = TcpListener::bind(advertise).await?;
        let shared = Arc::new(Shared {
            advertise: listener.local_addr()?,
            pace: Pace::of(timing),
            board: Board::default(),
            sessions: Sessions::default(),
            counters: LinkCounters::default(),
            on_ask: OnceLock::new(),
            on_join: OnceLock::new(),
            life: Mutex::default(),
        });
        let listening = Task::spawn(accept::listen(shared.clone(), listener));
        shared.life().listening = Some(listening);
        Ok(TlsLinks { shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.advertise
    }

    /// Whom this node reaches. Changed the moment that a connection is made or lost.
    pub fn peers(&self) -> watch::Receiver<Peers> {
        self.shared.board.watch()
    }

    /// The session to seal datagrams to `node` with, once it was dialled.
    pub fn session_to(&self, node: NodeId) -> Option<Arc<Session>> {
        self.shared.sessions.to(node)
    }

    /// The session that a datagram from another node names.
    pub fn session(&self, id: u64) -> Option<Arc<Session>> {
        self.shared.sessions.from(id)
    }

    /// Asks another node. `Unreachable`: nothing was sent; after any other error it may have arrived.
    pub async fn ask(&self, node: NodeId, octets: Vec<u8>, within: Duration) -> Result<Vec<u8>, LinkError> {
        let wire = self.shared.wire(node, Lane::Ask);
        let wire = wire.ok_or_else(|| LinkError::Unreachable(format!("no link to node {node}")))?;
        match wire.ask(Body::Ask(octets), within).await? {
            Body::Answer(octets) => Ok(octets),
            _ => Err(LinkError::Failed("the answer is to another question".into())),
        }
    }

    /// Sets who answers what other nodes ask. Once, before the node becomes a member. It answers on the runtime that
    /// this is called from: that of the links has no time for it.
    pub fn on_ask(&self, handler: AskHandler) {
        let set = self.shared.on_ask.set((handler, Handle::current()));
        assert!(set.is_ok(), "one handler answers");
    }

    /// Sets who talks to newcomers. Once.
    pub fn on_join(&self, handler: Arc<dyn JoinHandler>) {
        assert!(self.shared.on_join.set(handler).is_ok(), "one handler takes nodes in");
    }

    pub fn counters(&self) -> &LinkCounters {
        &self.shared.counters
    }
}

impl Links for TlsLinks {
    fn link(&self, to: NodeId, _: &Peer, lane: Lane) -> Option<Arc<dyn Link>> {
        self.shared.wire(to, lane).map(|wire| wire as Arc<dyn Link>)
    }

    fn identify(&self, credentials: &Credentials) -> Result<(), PkiError> {
        let subject = credentials.subject()?;
        let mut client = credentials.client_config(ALPN_MEMBER)?;
        // Each connection has a handshake and keys of its own.
        client.resumption = Resumption::disabled();
        let server = |mut config: ServerConfig| {
            config.send_tls13_tickets = 0;
            Arc::new(config)
        };
        let configs = Configs {
            client: Arc::new(client),
            member: server(credentials.server_config(ALPN_MEMBER)?),
            join: server(credentials.open_server_config(ALPN_JOIN)?),
        };
        self.shared.life().identity = Some((subject, Arc::new(configs)));
        Ok(())
    }
    fn attach(&self, attachment: Attachment) {
        let roll = attachment.roll.clone();
        let mut life = self.shared.life();
        life.attachment = Some(attachment);
        life.following = Some(Task::spawn(follow(self.shared.clone(), roll)));
        if life.listening.is_none() {
            life.listening = Some(Task::spawn(listen_again(self.shared.clone())));
        }
    }

    fn detach(&self) {
        let mut life = std::mem::take(&mut *self.shared.life());
        for node in std::mem::take(&mut life.peers).into_keys() {
            self.shared.board.remove(node);
            self.shared.sessions.forget(node);
        }
    }
}

/// Keeps connections to whom the roll names.
async fn follow(shared: Arc<Shared>, mut roll: watch::Receiver<Roll>) {
    loop {
        let current = roll.borrow_and_update().clone();
        shared.reconcile(&current);
        if roll.changed().await.is_err() {
            return;
        }
    }
}

/// Listens once more after a `detach`.
async fn listen_again(shared: Arc<Shared>) {
    const RETRY: Duration = Duration::from_secs(1);
    loop {
        match TcpListener::bind(shared.advertise).await {
            Ok(listener) => return accept::listen(shared, listener).await,
            Err(error) => tracing::error!(address = %shared.advertise, %error, "cannot listen"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Shared {
    fn life(&self) -> MutexGuard<'_, Life> {
        // Nothing under this lock can panic half-way.
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reconcile(self: &Arc<Self>, roll: &Roll) {
        let mut life = self.life();
        let Some(me) = life.attachment.as_ref().map(|attachment| attachment.node) else { return };
        let stays = |node: &NodeId| *node != me && roll.contains_key(node);
        for (node, _) in life.peers.extract_if(.., |node, _| !stays(node)) {
            tracing::info!(%node, "no member any more");
            self.board.remove(node);
            self.sessions.forget(node);
        }
        life.accepted.retain(|(node, _), _| stays(node));
        for (&node, peer) in roll.iter().filter(|(node, _)| stays(node)) {
            let known = life.peers.get(&node).map(|dialled| &dialled.lanes.peer);
            if known != Some(peer) {
                self.board.add(node, &peer.address);
                if known.is_some() {
                    self.board.set(node, LinkState::Down, Some("its address has changed"));
                }
                life.peers.insert(node, Dialled::new(self, node, peer));
            }
        }
    }

    pub fn wire(&self, node: NodeId, lane: Lane) -> Option<Arc<Wire>> {
        let lanes = self.life().peers.get(&node).map(|dialled| dialled.lanes.clone())?;
        lanes.wire(lane).filter(|wire| wire.is_open())
    }

    /// Who this node is, and with what it proves that.
    pub fn identity(&self) -> Option<(Subject, Arc<Configs>)> {
        self.life().identity.clone()
    }

    pub fn cluster(&self) -> Option<Cluster> {
        let cluster = self.life().attachment.as_ref().map(|attachment| attachment.cluster.clone());
        cluster?.upgrade()
    }

    /// What the node answers to a question of another one.
    pub fn answer(&self, from: NodeId, octets: Vec<u8>) -> impl Future<Output = Body> + Send + use<> {
        let answer = self.on_ask.get().map(|(handler, runtime)| runtime.spawn(handler(from, octets)));
        async move {
            match answer {
                None => Body::Failed("nobody answers questions yet".into()),
                Some(answer) => match answer.await {
                    Ok(octets) => Body::Answer(octets),
                    Err(_) => Body::Failed("the question could not be answered".into()),
                },
            }
        }
    }

    pub fn join_handler(&self) -> Option<Arc<dyn JoinHandler>> {
        self.on_join.get().cloned()
    }

    /// Whether a node with a good certificate may come in.
    pub fn belongs(&self, it: &Subject) -> Result<(), (Refused, String)> {
        let Some((me, roll)) = ({
            let life = self.life();
            life.attachment.as_ref().map(|attachment| (attachment.node, attachment.roll.borrow().clone()))
        }) else {
            return Err((Refused::Vacant, "this node is being stopped".into()));
        };
        let state = self.cluster().map(|cluster| cluster.state()).unwrap_or_default();
        match state.members().get(it.node) {
            // The roll may be a moment behind the state.
            Some(member) if member.key == it.key => return Ok(()),
            Some(_) => {
                let why = format!("node {} has joined with another key", it.node);
                return Err((Refused::OtherKey, why));
            }
            None => {}
        }
        // Newly joined, this node learns from them who else is a member.
        if roll.contains_key(&it.node) || !roll.contains_key(&me) {
            return Ok(());
        }
        let why = if it.node.0 > state.applied() {
            format!("node {} is not known here yet", it.node)
        } else {
            format!("node {} {REMOVED}", it.node)
        };
        Err((Refused::NotMember, why))
    }

    /// A member has dialled: its connection before this one ends. Resolves when this one must.
    pub fn accepted(&self, node: NodeId, lane: Lane) -> Option<oneshot::Receiver<()>> {
        let (end, ended) = oneshot::channel();
        let mut life = self.life();
        life.attachment.as_ref()?;
        life.accepted.insert((node, lane), end);
        if let Some(dialled) = life.peers.get(&node) {
            dialled.lanes.nudge();
        }
        Some(ended)
    }

    /// Entries can go there again: Raft need not wait any longer.
    pub fn caught_sight_of(&self, node: NodeId) {
        if let Some(cluster) = self.cluster() {
            tokio::spawn(async move { cluster.reachable_again(node).await });
        }
    }

    /// The session of `connection`, with which `from` seals what it sends to `to`.
    pub fn session<D: SideData>(
        &self,
        connection: &ConnectionCommon<D>,
        from: NodeId,
        to: NodeId,
    ) -> Result<Session, String> {
        let context = [from.0.to_be_bytes(), to.0.to_be_bytes()].concat();
        let exported = connection
            .export_keying_material([0; 8 + KEY_LEN], EXPORTER_LABEL, Some(&context))
            .map_err(|error| error.to_string())?;
        Ok(Session::new(from, &exported))
    }

    pub fn refuse(&self, reason: Refused, from: SocketAddr, why: &str) {
        if self.counters.count(reason) {
            tracing::warn!(%from, reason = reason.label(), %why, "a connection is refused");
        }
    }

    pub fn refuse_member(&self, reason: Refused, node: NodeId, why: &str) {
        if self.counters.count(reason) {
            tracing::warn!(%node, reason = reason.label(), %why, "a connection is cut off");
        }
    }
}

impl Dialled {
    fn new(shared: &Arc<Shared>, node: NodeId, peer: &Peer) -> Dialled {
        let lanes = Lanes { node, peer: peer.clone(), wires: Default::default(), nudges: Default::default() };
        let lanes = Arc::new(lanes);
        let _tasks = Lane::ALL.map(|lane| Task::spawn(dial::keep(shared.clone(), lanes.clone(), lane)));
        Dialled { lanes, _tasks }
    }
}

impl Lanes {
    pub fn wire(&self, lane: Lane) -> Option<Arc<Wire>> {
        self.slot(lane).clone()
    }

    pub fn set(&self, lane: Lane, wire: Option<Arc<Wire>>) {
        *self.slot(lane) = wire;
    }

    pub fn end_all(&self, why: &str) {
        for wire in Lane::ALL.into_iter().filter_map(|lane| self.wire(lane)) {
            wire.end(why);
        }
    }

    /// There is reason to think that it can be reached: whoever waits to dial again does it now.
    pub fn nudge(&self) {
        self.nudges.iter().for_each(Notify::notify_waiters);
    }

    pub async fn nudged(&self, lane: Lane) {
        self.nudges[lane as usize].notified().await;
    }

    fn slot(&self, lane: Lane) -> MutexGuard<'_, Option<Arc<Wire>>> {
        self.wires[lane as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that ends with its holder.
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(tokio::spawn(task))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What TLS has against the other end, or the other end against us; `None` when it is the network.
pub fn tls_reason(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "its certificate is not of this cluster".into(),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "another node answers at this address".into(),
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::DecryptError | AlertDescription::BadCertificate,
        ) => "it takes this node's certificate for one of another cluster".into(),
        rustls::Error::NoCertificatesPresented => "it shows no certificate".into(),
        other => other.to_string(),
    })
}

impl fmt::Debug for TlsLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers = self.shared.board.watch();
        f.debug_struct("TlsLinks").field("peers", &*peers.borrow()).finish_non_exhaustive()
    }
}
