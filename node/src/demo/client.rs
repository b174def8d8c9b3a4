//! The client, a part: connects, downloads through the tunnel, and tells what it has seen.
//!
//! A probe of a few octets goes to the server's echo service every five milliseconds. So the gateway has something to
//! send at any time, and the silence at a failure is that of the tunnel, not that of TCP's retransmission timer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use ipsec::client::Event;

use super::ledger::Numbers;
use super::net::{CLIENT, NET, Net, OUTSIDE_DEVICE, PREFIX, Via};
use super::part;
use super::protocol::{Done, FromClient, ToClient, Up};
use super::server::{self, ECHO, HTTP};
use super::transfer::{self, Fetched};
use super::tunnel::{Happened, Tunnel};
use crate::fault::Fault;
use crate::io::{OpenError, TunDevice, TunOptions, Waker};
use crate::steering;

const DEVICE: &str = "tunnel0";
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
const PROBE_EVERY: Duration = Duration::from_millis(5);
/// An answer that takes longer counts as lost.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// So many reports of progress in a download.
const REPORTS: u64 = 128;

/// The life of the part: ends with the demonstration.
pub fn live() -> Result<(), Fault> {
    let lived = connect();
    if let Err(fault) = &lived {
        part::say(&FromClient::Failed(fault.clone()));
    }
    lived
}

fn connect() -> Result<(), Fault> {
    server::own_network()?;
    part::say(&FromClient::Ready);
    let Some(ToClient::Begin { psk }) = part::next_order()? else { return Ok(()) };
    server::run(async {
        let net = Net::open()?;
        net.up("lo").await?;
        net.address(OUTSIDE_DEVICE, CLIENT, PREFIX).await?;
        net.up(OUTSIDE_DEVICE).await
    })?;
    let (tunnel, up) = Tunnel::open(&psk).and_then(bring_up)?;
    let probes = Probes::start(up.inner)?;
    part::say(&FromClient::Up(up));
    Connected::new(tunnel, probes).live()
}

/// Until there is an SA with a child, and a device for it.
fn bring_up(mut tunnel: Tunnel) -> Result<(Tunnel, Up), Fault> {
    let begun = Instant::now();
    let (mut ike, mut child) = (None, None);
    while ike.is_none() || child.is_none() {
        let left = CONNECT_WITHIN.saturating_sub(begun.elapsed());
        if left.is_zero() {
            let why = format!("no answer within {} s", CONNECT_WITHIN.as_secs());
            return Err(Fault::failed("the client cannot connect").why(why));
        }
        for event in tunnel.turn(Some(left.as_millis() as u32 + 1))? {
            match event {
                Happened::Ike(Event::Up { spi, gateway_spi, addresses, .. }) => {
                    ike = Some(((spi.0, gateway_spi.0), addresses));
                }
                Happened::Ike(Event::ChildUp { spi_in, spi_out, .. }) => child = Some((spi_in.0, spi_out.0)),
                Happened::Ike(event @ (Event::Refused { .. } | Event::Down(_))) => {
                    return Err(
                        Fault::failed("the gateway does not let the client in").why(format!("{event:?}"))
                    );
                }
                Happened::Ike(_) | Happened::Resumed(_) => {}
            }
        }
    }
    let took_ms = begun.elapsed().as_secs_f64() * 1e3;
    let none = || Fault::failed("the gateway has leased no IPv4 address");
    let (ike_spis, addresses) = ike.ok_or_else(none)?;
    let inner = addresses.iter().find_map(|address| match address {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let (inner, child_spis) = inner.zip(child).ok_or_else(none)?;
    tunnel.attach(device(inner)?)?;
    Ok((tunnel, Up { took_ms, inner, ike_spis, child_spis }))
}

/// The device with the inner address, and the way through it.
fn device(inner: Ipv4Addr) -> Result<TunDevice, Fault> {
    let device = TunDevice::open(&TunOptions::new(DEVICE, steering::MTU_DEFAULT as u16));
    let device = device
        .map_err(|error: OpenError| Fault::failed(format!("the client: {error}")).attempt(error.help))?;
    server::run(async {
        let net = Net::open()?;
        net.address(DEVICE, inner, 32).await?;
        let index = net.index(DEVICE).await?;
        net.route(NET, Via::Device(index)).await
    })?;
    Ok(device)
}

/// The stream of probes, each with a number, which goes on as long as the part lives.
#[derive(Clone, Debug, Default)]
struct Probes {
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    paused: Arc<AtomicBool>,
}

impl Probes {
    fn start(inner: Ipv4Addr) -> Result<Probes, Fault> {
        let failed = |error| Fault::failed("the client cannot probe the tunnel").why(error);
        let socket = Arc::new(UdpSocket::bind((inner, 0)).map_err(failed)?);
        socket.connect(ECHO).map_err(failed)?;
        let probes = Probes::default();
        let (sending, sender) = (socket.clone(), probes.clone());
        std::thread::spawn(move || {
            loop {
                if !sender.paused.load(Ordering::Relaxed) {
                    let number = sender.sent.fetch_add(1, Ordering::Relaxed);
                    // A probe that does not leave is one that is not answered.
                    let _ = sending.send(&number.to_be_bytes());
                }
                std::thread::sleep(PROBE_EVERY);
            }
        });
        let answered = probes.answered.clone();
        std::thread::spawn(move || {
            let (mut seen, mut datagram) = (Numbers::default(), [0; 8]);
            loop {
                if let Ok(8) = socket.recv(&mut datagram)
                    && seen.insert(u64::from_be_bytes(datagram))
                {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(probes)
    }

    /// Probes without an answer so far, once those that are on their way have had their time.
    fn lost(&self) -> u64 {
        self.paused.store(true, Ordering::Relaxed);
        let until = Instant::now() + ANSWER_WITHIN;
        let lost = loop {
            std::thread::sleep(PROBE_EVERY);
            let sent = self.sent.load(Ordering::Relaxed);
            let lost = sent.saturating_sub(self.answered.load(Ordering::Relaxed));
            if lost == 0 || Instant::now() >= until {
                break lost;
            }
        };
        self.paused.store(false, Ordering::Relaxed);
        lost
    }
}

/// What came of the download, and how many probes were not answered until then.
type Ended = (io::Result<Fetched>, u64);

/// The client with a tunnel.
struct Connected {
    tunnel: Tunnel,
    probes: Probes,
    orders: Receiver<ToClient>,
    ended: (Sender<Ended>, Receiver<Ended>),
    arrived: Arc<AtomicU64>,
    /// Octets between two reports of progress, and those of the last report, while a download is under way.
    progress: Option<(u64, u64)>,
    changes: Vec<String>,
}

impl Connected {
    fn new(tunnel: Tunnel, probes: Probes) -> Connected {
        let (sender, orders) = mpsc::channel();
        let waker = tunnel.waker();
        std::thread::spawn(move || listen(&sender, &waker));
        let arrived = Arc::new(AtomicU64::new(0));
        let ended = mpsc::channel();
        Connected { tunnel, probes, orders, ended, arrived, progress: None, changes: Vec::new() }
    }

    fn live(mut self) -> Result<(), Fault> {
        loop {
            for event in self.tunnel.turn(None)? {
                match event {
                    Happened::Resumed(resumed) => part::say(&FromClient::Resumed(resumed)),
                    Happened::Ike(Event::Alive) => {}
                    Happened::Ike(Event::Down(end)) => {
                        return Err(Fault::failed("the tunnel is gone").why(format!("{end:?}")));
                    }
                    Happened::Ike(event) => self.changes.push(format!("{event:?}")),
                }
            }
            while let Ok(order) = self.orders.try_recv() {
                if let ToClient::Download { octets } = order {
                    self.download(octets);
                }
            }
            self.report_progress();
            if let Ok((fetched, probes_lost)) = self.ended.1.try_recv() {
                self.progress = None;
                let fetched = fetched
                    .map_err(|error| Fault::failed("the download has failed on its way").why(error))?;
                part::say(&FromClient::Done(self.done(fetched, probes_lost)));
            }
        }
    }

    fn download(&mut self, octets: u64) {
        self.progress = Some(((octets / REPORTS).max(1), 0));
        part::say(&FromClient::Progress(0));
        let (arrived, ended, waker) = (self.arrived.clone(), self.ended.0.clone(), self.tunnel.waker());
        let probes = self.probes.clone();
        std::thread::spawn(move || {
            let fetched = transfer::fetch(HTTP, &arrived);
            // Nobody hears of it when the part is ending.
            let _ = ended.send((fetched, probes.lost()));
            waker.wake();
        });
    }

    fn report_progress(&mut self) {
        let Some((step, reported)) = &mut self.progress else { return };
        let arrived = self.arrived.load(Ordering::Relaxed);
        if arrived >= *reported + *step {
            *reported = arrived;
            part::say(&FromClient::Progress(arrived));
        }
    }

    fn done(&self, fetched: Fetched, probes_lost: u64) -> Done {
        let client = self.tunnel.client();
        Done {
            octets: fetched.octets,
            sha256: fetched.sha256,
            seconds: fetched.took.as_secs_f64(),
            stood_still_ms: fetched.stood_still.as_secs_f64() * 1e3,
            probes_lost,
            changes: self.changes.clone(),
            ike_spis: client.ike_keys().map(|(ours, theirs, ..)| (ours.0, theirs.0)).collect(),
            child_spis: client.children().iter().map(|child| (child.spi_in.0, child.spi_out.0)).collect(),
            wire: self.tunnel.wire().report(),
        }
    }
}

/// Passes orders on. The demonstration has ended when there are no more.
fn listen(orders: &Sender<ToClient>, waker: &Waker) {
    loop {
        match part::next_order() {
            Ok(Some(order)) => match orders.send(order) {
                Ok(()) => waker.wake(),
                Err(_) => std::process::exit(0),
            },
            Ok(None) => std::process::exit(0),
            Err(fault) => {
                part::say(&FromClient::Failed(fault));
                std::process::exit(1);
            }
        }
    }
}
