//! `pontoon run`: opens what the kernel must give, then the log, and lives as a member of a cluster until it is told
//! to stop or something that it cannot do without is gone.
//!
//! ```text
//!   TUN, sockets ─> worker ─> links ─> steering ─> data directory ─┬─ Vacant: waits for `init`
//!                                                                  └─ Cluster ─> member::start
//! ```
//!
//! What can fail for a reason outside of us (no TUN, port in use, disk) comes first, so that it is said at once and
//! nothing has happened yet.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crypto::Secret;
use crypto::rng::{OsRng, Rng};
use ipsec::spec::{PORT_IKE, PORT_NAT_T};
use raft::links::TlsLinks;
use raft::state::{Draining, NewMember};
use raft::{Cluster, Opened, Options, Vacant};
use tokio::sync::{Mutex, mpsc, watch};

use crate::asks::Asks;
use crate::config::{self, NodeConfig};
use crate::datapath::{self, Carries, Handle, Port, Reports, SeenByAll, Worker};
use crate::fault::{Fault, StartError};
use crate::gateway::CurrentGateway;
use crate::io::clock::{Clock, SystemClock};
use crate::io::netlink::Netlink;
use crate::io::{EspSocket, LinkWatch, OpenError, TunDevice, TunOptions, UdpSocket};
use crate::lifeline::Wires;
use crate::lookout::Lookout;
use crate::marks::Marks;
use crate::mesh;
use crate::moves::Luggage;
use crate::observe::{Event, Http, Observe};
use crate::roster::Routes;
use crate::runtime::{self, RaftRuntime};
use crate::segment::Shared;
use crate::sieve::Opener;
use crate::steering::{self, Steering, Ways};
use crate::view::Promised;
use crate::{
    actor, carrier, control, drain, figures, growth, member, pmtu, router, sieve, steer, watchdog, watchman,
};

/// How long what a killed process has left in the kernel may be in our way, and how often it is looked at.
const PREDECESSOR_GONE_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How long a stop waits until others have taken over.
const DRAIN_WITHIN: Duration = Duration::from_secs(15);

/// How long a stop may take before it is cut short.
const STOP_WITHIN: Duration = Duration::from_secs(5);

pub struct Daemon {
    pub config: NodeConfig,
    pub observe: Observe,
    pub worker: Handle,
    pub links: TlsLinks,
    pub asks: Asks,
    pub lookout: Lookout,
    pub routes: Routes,
    pub gateway: CurrentGateway,
    pub fingerprint_key: Secret,
    opener: Opener,
    steering_up: AtomicBool,
    pub(crate) raft: RaftRuntime,
    /// Until this node is a member, which uses it.
    port: Mutex<Option<mesh::Port>>,
    pub(crate) membership: Mutex<Option<Vacant>>,
    cluster: watch::Sender<Option<Cluster>>,
    stop: watch::Sender<bool>,
    /// This node is out of its cluster.
    vacated: watch::Sender<bool>,
}

/// Why a daemon that nothing is wrong with ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// A signal asked for it.
    Stopped,
    /// It has left its cluster, and nothing of that is left.
    Vacated,
}

/// Runs until a signal asks it to stop. An error is what the process exits with.
pub fn run(config: NodeConfig, observe: Observe) -> Result<(), Fault> {
    let raft = runtime::build("raft", Some(runtime::RAFT_THREADS))?;
    let control = runtime::build("control", None)?;
    match control.block_on(live(config, observe, RaftRuntime::of(&raft)))? {
        Ended::Stopped => Ok(()),
        Ended::Vacated => Err(begin_anew()),
    }
}

/// Becomes a process without a past: the same program with the same arguments and process id, in the place of this one.
/// Device, sockets and the directory's lock close with it. Returns only what went wrong.
fn begin_anew() -> Fault {
    let mut arguments = std::env::args_os();
    // An upgrade may have put another file in the place of ours, or none.
    let program = std::env::current_exe().ok().filter(|program| program.exists());
    let mut command = std::process::Command::new(program.unwrap_or_else(|| "/proc/self/exe".into()));
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    Fault::failed("this node has left, and cannot start anew").why(command.args(arguments).exec())
}

async fn live(config: NodeConfig, observe: Observe, raft: RaftRuntime) -> Result<Ended, Fault> {
    let (worker, reports) = packet_side(&config).await.map_err(|error| error.fault())?;
    let (links, port) = listen(&config, &raft).await.map_err(|error| error.fault())?;
    let asks = Asks::new(Arc::new(links.clone()));
    links.on_ask(asks.handler());
    let (steering, ways) = Steering::up(steering_config(&config)).await.map_err(steering_fault)?;
    for advice in steering.advice() {
        tracing::warn!(setting = %advice.key, found = advice.found, fix = %advice.fix, "{}", advice.why);
    }
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|error| StartError::file(&config.data_dir, "make the data directory", error).fault())?;
    let opened = raft
        .run(Cluster::open(options(&config, &links)))
        .await
        .map_err(|error| open_fault(&config, error))?;

    let (opener, wished) = Opener::new();
    let daemon = Arc::new(Daemon {
        observe: observe.clone(),
        worker,
        links,
        asks,
        lookout: Lookout::new(config.timing.suspect_ms, config.timing.probe_ms),
        port: Mutex::new(Some(port)),
        routes: Routes::default(),
        gateway: CurrentGateway::default(),
        fingerprint_key: Secret::from(OsRng.vec(32)),
        opener,
        steering_up: AtomicBool::new(false),
        raft,
        membership: Mutex::new(None),
        cluster: watch::Sender::new(None),
        stop: watch::Sender::new(false),
        vacated: watch::Sender::new(false),
        config,
    });
    daemon.links.on_join(Arc::new(growth::door(&daemon)));
    let member = match opened {
        Opened::Vacant(vacant) => {
            tracing::info!("not a member of a cluster yet: waiting for `pontoon init` or `pontoon join`");
            clear_remains(&daemon.config).await;
            // Before anybody can ask for it.
            *daemon.membership.lock().await = Some(vacant);
            None
        }
        Opened::Member(cluster) => Some(cluster),
    };
    daemon.spawn_servants(steering, ways, wished, reports).await?;
    let mut ended = std::pin::pin!(daemon.until_stopped());
    if let Some(cluster) = member {
        // Where there is no majority this waits for one, and the node is asked and stopped all the same.
        tokio::select! {
            entered = daemon.enter(cluster) => match entered {
                // The log was closed under it.
                Err(_) if *daemon.stop.borrow() => {}
                entered => entered?,
            },
            ended = &mut ended => return ended,
        }
    }
    ended.await
}

impl Daemon {
    pub fn cluster(&self) -> Option<Cluster> {
        self.cluster.borrow().clone()
    }

    /// Waits until this node is a member.
    pub async fn member_of(&self) -> Cluster {
        let mut cluster = self.cluster.subscribe();
        loop {
            if let Some(cluster) = cluster.borrow_and_update().clone() {
                return cluster;
            }
            if cluster.changed().await.is_err() {
                // Only with the daemon itself, in which we live.
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn service_addresses(&self) -> Vec<IpAddr> {
        let links = [&self.config.outside, &self.config.inside];
        links.iter().flat_map(|link| link.addresses.iter().map(|address| address.ip)).collect()
    }

    pub fn steering_up(&self) -> bool {
        self.steering_up.load(Ordering::Relaxed)
    }

    pub fn set_steering_up(&self, up: bool) {
        self.steering_up.store(up, Ordering::Relaxed);
    }

    /// Makes the cluster `name`, unless this node is a member of it already. True: it was made now.
    pub async fn found(&self, name: &str) -> Result<(Cluster, bool), Fault> {
        let mut membership = self.membership.lock().await;
        if let Some(cluster) = self.cluster() {
            let current = cluster.identity().cluster_name.clone();
            if current == name {
                return Ok((cluster, false));
            }
            return Err(Fault::failed(format!("this node is a member of the cluster {current} already"))
                .attempt("pontoon status"));
        }
        let vacant = membership
            .take()
            .ok_or_else(|| Fault::failed("an earlier init did not end well").attempt("restart the daemon"))?;
        let (new, me) = (name.to_owned(), self.me());
        let cluster = self
            .raft
            .run(async move { vacant.init(&new, me, SystemClock.utc()).await })
            .await
            .map_err(|error| open_fault(&self.config, error))?;
        self.observe.emit(Event::Initialized { cluster: name.to_owned() });
        self.enter(cluster.clone()).await?;
        Ok((cluster, true))
    }

    /// What this node says of itself.
    pub(crate) fn me(&self) -> NewMember {
        NewMember {
            name: self.config.name.clone(),
            address: self.config.advertise.to_string(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            speaks: raft::state::SPEAKS,
        }
    }

    /// Out of its cluster, this node clears away what it has of it and begins anew. Does nothing while it is a member
    /// of nothing.
    pub(crate) fn vacate(&self) {
        self.vacated.send_replace(self.cluster().is_some());
    }

    /// Starts to live as a member.
    pub(crate) async fn enter(&self, cluster: Cluster) -> Result<(), Fault> {
        let shared = Shared {
            cluster: cluster.clone(),
            gateway: self.gateway.clone(),
            worker: self.worker.clone(),
            observe: self.observe.clone(),
            promised: Promised::default(),
            marks: Marks::open(&self.config.data_dir),
            luggage: Luggage::default(),
            asks: self.asks.clone(),
            lookout: self.lookout.clone(),
            opener: self.opener.clone(),
        };
        self.asks.is(cluster.node());
        figures::answer(&self.asks, &shared, self.routes.clone());
        self.cluster.send_replace(Some(cluster));
        let port = match self.port.lock().await.take() {
            Some(port) => port,
            // It was a member before, and has left.
            None => open_port(&self.config).map_err(|error| error.fault())?,
        };
        let wires = Wires { port, links: self.links.clone(), timing: self.config.timing };
        member::start(shared, self.me(), self.routes.clone(), wires, self.stop.subscribe()).await?;
        Ok(())
    }

    /// The actors that live with or without a cluster.
    async fn spawn_servants(
        self: &Arc<Self>,
        mut steering: Steering,
        ways: Ways,
        wished: mpsc::Receiver<sieve::Wish>,
        reports: Reports,
    ) -> Result<(), Fault> {
        let stop = || self.stop.subscribe();
        actor::spawn_vital("router", stop(), router::run(reports, self.routes.clone(), self.observe.clone()));
        if let Some(filter) = steering.take_filter() {
            actor::spawn_vital("sieve", stop(), sieve::keep(filter, self.clone(), wished));
        }
        actor::spawn_vital("steering", stop(), steer::run(steering, ways, self.clone(), stop()));
        self.serve_relayed();
        let netlink = Netlink::open().map_err(|error| Fault::failed(error.to_string()))?;
        let links =
            LinkWatch::open().map_err(|error| Fault::failed("cannot watch the devices").why(error))?;
        let mut devices = vec![self.config.outside.device.clone(), self.config.inside.device.clone()];
        devices.dedup();
        actor::spawn_vital("carrier", stop(), carrier::watch(netlink, links, devices, self.clone()));
        for address in &self.config.outside.addresses {
            actor::spawn_vital("pmtu", stop(), pmtu::watch(self.clone(), address.ip));
        }
        let watchman = watchman::run(self.clone());
        actor::spawn_vital("watchman", stop(), watchman);
        if let Some(within) = watchdog::asked_for() {
            let watchdog =
                watchdog::keep(within, self.worker.clone(), self.raft.clone(), self.lookout.clone());
            actor::spawn_vital("watchdog", stop(), watchdog);
        }

        let control = control::Server::bind(&self.config.control_socket).map_err(|error| error.fault())?;
        actor::spawn_vital("control", stop(), control.serve(self.clone()));
        if let Some(address) = self.config.http {
            let http = Http::bind(address).await.map_err(|error| error.fault())?;
            actor::spawn_vital("http", stop(), http.serve(self.observe.clone(), self.clone()));
        }
        Ok(())
    }

    async fn until_stopped(&self) -> Result<Ended, Fault> {
        let fatal = async { self.member_of().await.fatal().await };
        let mut vacated = self.vacated.subscribe();
        let ended = tokio::select! {
            why = fatal => Err(fatal_fault(&self.config, why)),
            () = stop_signal() => Ok(Ended::Stopped),
            Ok(_) = vacated.wait_for(|vacated| *vacated) => Ok(Ended::Vacated),
        };
        if matches!(ended, Ok(Ended::Stopped))
            && let Some(cluster) = self.cluster()
        {
            // A second signal wants it at once.
            tokio::select! {
                () = farewell(&cluster, &self.asks, &self.worker) => {}
                () = stop_signal() => tracing::warn!("stopped before the segments were handed over"),
            }
        }
        self.stop.send_replace(true);
        if let Some(cluster) = self.cluster()
            && tokio::time::timeout(STOP_WITHIN, cluster.shutdown()).await.is_err()
        {
            tracing::warn!("the log did not close in time; it is read back at the next start");
        }
        if matches!(ended, Ok(Ended::Vacated))
            && let Some(cluster) = self.cluster()
        {
            cluster.forget().map_err(|error| open_fault(&self.config, error.into()))?;
        }
        ended
    }
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Daemon({})", self.config.name)
    }
}

/// The packet side, once the process before this one is wholly gone. The kernel takes its device and sockets away
/// only some milliseconds after a `kill -9` has returned, and a supervisor starts us faster than that.
async fn packet_side(config: &NodeConfig) -> Result<(Handle, Reports), StartError> {
    let deadline = tokio::time::Instant::now() + PREDECESSOR_GONE_WITHIN;
    loop {
        match open_packet_side(config) {
            Err(error) if error.is_in_use() && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            opened => return opened,
        }
    }
}

/// The TUN and the sockets of all service addresses, and the worker that owns them.
fn open_packet_side(config: &NodeConfig) -> Result<(Handle, Reports), StartError> {
    let mtu = steering::MTU_DEFAULT as u16;
    let tun = TunDevice::open(&TunOptions::new(&config.tun, mtu))
        .map_err(|OpenError { source, .. }| StartError::tun(&config.tun, source))?;
    let mut ports = Vec::new();
    for address in &config.outside.addresses {
        for (port, carries) in [(PORT_IKE, Carries::Ike), (PORT_NAT_T, Carries::NatT)] {
            let local = SocketAddr::new(address.ip, port);
            let socket = UdpSocket::open(local)
                .map_err(|OpenError { source, .. }| StartError::bind(local, "udp", source))?;
            ports.push(Port::new(local, carries, Box::new(socket)));
        }
        let local = SocketAddr::new(address.ip, 0);
        let socket = EspSocket::open(address.ip).map_err(|OpenError { source, .. }| match source.kind() {
            std::io::ErrorKind::PermissionDenied => StartError::NoCapability {
                capability: "CAP_NET_RAW",
                what_for: "receiving IP protocol 50 (ESP)".into(),
            },
            _ => StartError::bind(local, "esp", source),
        })?;
        ports.push(Port::new(local, Carries::Esp, Box::new(socket)));
    }
    let failed = |source| StartError::Io { doing: "cannot start the packet worker".into(), source };
    let is_shared = |link: &config::Link| link.steering == config::Steering::SharedMac;
    let seen_by_all = SeenByAll { outside: is_shared(&config.outside), inside: is_shared(&config.inside) };
    let (handle, reports, _threads) =
        datapath::start(vec![Worker { ports, inside: Box::new(tun), seen_by_all }]).map_err(failed)?;
    Ok((handle, reports))
}

/// The links to the other nodes, listening where these expect this one, and the port for datagrams.
async fn listen(config: &NodeConfig, raft: &RaftRuntime) -> Result<(TlsLinks, mesh::Port), StartError> {
    let deadline = tokio::time::Instant::now() + PREDECESSOR_GONE_WITHIN;
    loop {
        let (address, timing) = (config.advertise, config.timing.raft);
        let bound = async {
            let links = raft.run(async move { TlsLinks::bind(address, &timing).await }).await;
            let links = links.map_err(|source| StartError::bind(address, "tcp", source))?;
            Ok::<_, StartError>((links, open_port(config)?))
        };
        match bound.await {
            Err(error) if error.is_in_use() && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            bound => return bound,
        }
    }
}

fn open_port(config: &NodeConfig) -> Result<mesh::Port, StartError> {
    let advertise = config.advertise;
    mesh::Port::open(advertise).map_err(|OpenError { source, .. }| StartError::bind(advertise, "udp", source))
}

fn options(config: &NodeConfig, links: &TlsLinks) -> Options {
    Options {
        data_dir: config.data_dir.clone(),
        storage_key_file: config.storage_key.clone(),
        timing: config.timing.raft,
        links: Arc::new(links.clone()),
    }
}

fn steering_config(config: &NodeConfig) -> steering::Config {
    let side = |link: &crate::config::Link| steering::Side {
        device: link.device.clone(),
        addresses: link
            .addresses
            .iter()
            .map(|address| steering::ServiceAddress { ip: address.ip, prefix: address.prefix })
            .collect(),
        mode: match link.steering {
            config::Steering::Announce => steering::Mode::Announce,
            config::Steering::SharedMac => steering::Mode::SharedMac,
            config::Steering::External => steering::Mode::External,
        },
    };
    steering::Config {
        tun: config.tun.clone(),
        mtu: steering::MTU_DEFAULT,
        between: Some(config.advertise.ip()),
        outside: side(&config.outside),
        inside: side(&config.inside),
    }
}

fn steering_fault(error: steering::SteeringError) -> Fault {
    let fault = Fault::failed(error.to_string());
    match error.fix() {
        Some(fix) => fault.attempt(fix),
        None => fault,
    }
}

pub(crate) fn open_fault(config: &NodeConfig, error: raft::OpenError) -> Fault {
    use raft::store::StoreError;
    let path = config.data_dir.clone();
    match error {
        raft::OpenError::Store(StoreError::Io { source, .. }) if fills_the_disk(&source) => {
            StartError::DiskFull { path }.fault()
        }
        raft::OpenError::Store(StoreError::InUse { .. }) => StartError::DataDirInUse { path }.fault(),
        raft::OpenError::Store(StoreError::Damaged { what, .. } | StoreError::Quarantined { what, .. }) => {
            StartError::DataDirDamaged { path, detail: what }.fault()
        }
        raft::OpenError::Store(error) => {
            let fix = error.remedy();
            Fault::failed(format!("the data directory {} cannot be used", path.display()))
                .why(error)
                .attempt(fix)
        }
        other => Fault::failed("the cluster state cannot be opened").why(other),
    }
}

fn fatal_fault(config: &NodeConfig, fatal: raft::Fatal) -> Fault {
    use raft::store::StoreError;
    match fatal {
        raft::Fatal::Store(StoreError::Io { source, .. }) if fills_the_disk(&source) => {
            StartError::DiskFull { path: config.data_dir.clone() }.fault()
        }
        other => StartError::Log { detail: other.to_string() }.fault(),
    }
}

fn fills_the_disk(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Before a stop that was asked for: the segments go to others, without losing a packet, and so does the leadership. A
/// node that is alone, or that nobody answers, has nobody to go to.
async fn farewell(cluster: &Cluster, asks: &Asks, worker: &Handle) {
    let node = cluster.node();
    if cluster.status().voters.iter().all(|voter| *voter == node) {
        return;
    }
    let drained = drain::drain(cluster, asks, node, Draining::UntilStart, DRAIN_WITHIN).await;
    match &drained {
        Ok(done) => tracing::info!(segments = done.segments, took = ?done.took, "handed over"),
        Err(fault) => tracing::warn!(why = fault.why, "stopping all the same: {}", fault.what),
    }
    drain::hand_over_lead(cluster, asks).await;
    if drained.is_ok() {
        drain::until_quiet(worker).await;
    }
}

/// What a cluster that this node has left may have kept here: routes that swallow its networks, and replay marks.
async fn clear_remains(config: &NodeConfig) {
    if let Err(error) = Ways::purge().await {
        tracing::warn!(%error, "routes of an earlier membership stay");
    }
    Marks::remove(&config.data_dir);
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
