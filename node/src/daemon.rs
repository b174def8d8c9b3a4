//! `pontoon run`: opens what the kernel must give, then the log, and lives as a member of a cluster until it is told
//! to stop or something that it cannot do without is gone.
//!
//! ```text
//!   TUN, sockets ─> worker ─> steering ─> data directory ─┬─ Vacant: waits for `init`
//!                                                          └─ Cluster ─> member::start
//! ```
//!
//! What can fail for a reason outside of us (no TUN, port in use, disk) comes first, so that it is said at once and
//! nothing has happened yet.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crypto::Secret;
use crypto::rng::{OsRng, Rng};
use ipsec::spec::{PORT_IKE, PORT_NAT_T};
use raft::state::NewMember;
use raft::{Cluster, Opened, Options, Vacant};
use tokio::sync::{Mutex, watch};

use crate::config::NodeConfig;
use crate::datapath::{self, Carries, Handle, Port, Reports, Worker};
use crate::fault::{Fault, StartError};
use crate::gateway::CurrentGateway;
use crate::io::clock::{Clock, SystemClock};
use crate::io::{EspSocket, OpenError, TunDevice, TunOptions, UdpSocket};
use crate::marks::Marks;
use crate::observe::{Event, Http, Observe};
use crate::roster::Routes;
use crate::segment::Shared;
use crate::steering::{self, Steering};
use crate::view::Promised;
use crate::{actor, control, member, router, steer, watchman};

/// How long what a killed process has left in the kernel may be in our way, and how often it is looked at.
const PREDECESSOR_GONE_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How long a stop may take before it is cut short.
const STOP_WITHIN: Duration = Duration::from_secs(5);

pub struct Daemon {
    pub config: NodeConfig,
    pub observe: Observe,
    pub worker: Handle,
    pub routes: Routes,
    pub gateway: CurrentGateway,
    pub fingerprint_key: Secret,
    steering_up: Arc<AtomicBool>,
    membership: Mutex<Option<Vacant>>,
    cluster: watch::Sender<Option<Cluster>>,
    stop: watch::Sender<bool>,
}

/// Runs until a signal asks it to stop. An error is what the process exits with.
pub fn run(config: NodeConfig, observe: Observe) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("control")
        .build()
        .map_err(|source| StartError::Io { doing: "cannot start the runtime".into(), source }.fault())?;
    runtime.block_on(live(config, observe))
}

async fn live(config: NodeConfig, observe: Observe) -> Result<(), Fault> {
    let (worker, reports) = packet_side(&config).await.map_err(|error| error.fault())?;
    let steering = Steering::up(steering_config(&config)).await.map_err(steering_fault)?;
    for advice in steering.advice() {
        tracing::warn!(setting = %advice.key, found = advice.found, fix = %advice.fix, "{}", advice.why);
    }
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|error| StartError::file(&config.data_dir, "make the data directory", error).fault())?;
    let opened = Cluster::open(options(&config)).await.map_err(|error| open_fault(&config, error))?;

    let daemon = Arc::new(Daemon {
        observe: observe.clone(),
        worker,
        routes: Routes::default(),
        gateway: CurrentGateway::default(),
        fingerprint_key: Secret::from(OsRng.vec(32)),
        steering_up: Arc::new(AtomicBool::new(false)),
        membership: Mutex::new(None),
        cluster: watch::Sender::new(None),
        stop: watch::Sender::new(false),
        config,
    });
    daemon.spawn_servants(steering, reports).await?;
    match opened {
        Opened::Vacant(vacant) => {
            tracing::info!("not a member of a cluster yet: waiting for `pontoon init`");
            *daemon.membership.lock().await = Some(vacant);
        }
        Opened::Member(cluster) => daemon.enter(cluster).await?,
    }
    daemon.until_stopped().await
}

impl Daemon {
    pub fn cluster(&self) -> Option<Cluster> {
        self.cluster.borrow().clone()
    }

    pub fn service_addresses(&self) -> Vec<IpAddr> {
        let links = [&self.config.outside, &self.config.inside];
        links.iter().flat_map(|link| link.addresses.iter().map(|address| address.ip)).collect()
    }

    pub fn steering_up(&self) -> bool {
        self.steering_up.load(Ordering::Relaxed)
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
        let cluster = vacant
            .init(name, self.me(), SystemClock.utc())
            .await
            .map_err(|error| open_fault(&self.config, error))?;
        self.observe.emit(Event::Initialized { cluster: name.to_owned() });
        self.enter(cluster.clone()).await?;
        Ok((cluster, true))
    }

    /// What this node says of itself.
    fn me(&self) -> NewMember {
        NewMember {
            name: self.config.name.clone(),
            address: self.config.advertise.to_string(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            speaks: raft::state::SPEAKS,
        }
    }

    /// Starts to live as a member.
    async fn enter(&self, cluster: Cluster) -> Result<(), Fault> {
        let shared = Shared {
            cluster: cluster.clone(),
            gateway: self.gateway.clone(),
            worker: self.worker.clone(),
            observe: self.observe.clone(),
            promised: Promised::default(),
            marks: Marks::open(&self.config.data_dir),
        };
        let config = &self.config;
        member::start(shared, self.me(), self.routes.clone(), config.timing.lease_ms, self.stop.subscribe())
            .await?;
        self.cluster.send_replace(Some(cluster));
        Ok(())
    }

    /// The actors that live with or without a cluster.
    async fn spawn_servants(self: &Arc<Self>, steering: Steering, reports: Reports) -> Result<(), Fault> {
        let stop = || self.stop.subscribe();
        actor::spawn_vital("router", stop(), router::run(reports, self.routes.clone(), self.observe.clone()));
        let steer = steer::run(
            steering,
            self.gateway.clone(),
            self.routes.clone(),
            self.observe.clone(),
            self.steering_up.clone(),
            stop(),
        );
        actor::spawn_vital("steering", stop(), steer);
        let watchman = watchman::run(self.clone());
        actor::spawn_vital("watchman", stop(), watchman);

        let control = control::Server::bind(&self.config.control_socket).map_err(|error| error.fault())?;
        actor::spawn_vital("control", stop(), control.serve(self.clone()));
        if let Some(address) = self.config.http {
            let http = Http::bind(address).await.map_err(|error| error.fault())?;
            actor::spawn_vital("http", stop(), http.serve(self.observe.clone(), self.clone()));
        }
        Ok(())
    }

    async fn until_stopped(&self) -> Result<(), Fault> {
        let mut member = self.cluster.subscribe();
        let fatal = async {
            loop {
                let cluster = member.borrow_and_update().clone();
                if let Some(cluster) = cluster {
                    return cluster.fatal().await;
                }
                if member.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let ended = tokio::select! {
            why = fatal => Err(StartError::Log { detail: why }.fault()),
            () = stop_signal() => Ok(()),
        };
        self.stop.send_replace(true);
        if let Some(cluster) = self.cluster()
            && tokio::time::timeout(STOP_WITHIN, cluster.shutdown()).await.is_err()
        {
            tracing::warn!("the log did not close in time; it is read back at the next start");
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
    let (handle, reports, _threads) =
        datapath::start(vec![Worker { ports, inside: Box::new(tun) }]).map_err(failed)?;
    Ok((handle, reports))
}

fn options(config: &NodeConfig) -> Options {
    Options {
        data_dir: config.data_dir.clone(),
        storage_key_file: config.storage_key.clone(),
        timing: raft::timing::Timing::by_name(config.timing.profile).unwrap_or(raft::timing::LAN),
        links: Arc::new(raft::links::NoLinks),
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
    };
    steering::Config {
        tun: config.tun.clone(),
        mtu: steering::MTU_DEFAULT,
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

fn open_fault(config: &NodeConfig, error: raft::OpenError) -> Fault {
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

fn fills_the_disk(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
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
