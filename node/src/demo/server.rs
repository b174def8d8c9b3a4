//! The server of the protected network, a part: one file over HTTP, and an echo over UDP by which the client measures
//! the tunnel itself, apart from TCP's own timers.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};

use super::net::{INSIDE, INSIDE_DEVICE, Net, PREFIX, SERVER, Via};
use super::part;
use super::protocol::{FromServer, ToServer};
use super::transfer::{self, Content, Gate};
use crate::fault::Fault;

pub const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(SERVER), 80);
/// The echo service's own port (RFC 862).
pub const ECHO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(SERVER), 7);

/// The life of the part: ends with the demonstration.
pub fn live() -> Result<(), Fault> {
    let lived = serve();
    if let Err(fault) = &lived {
        part::say(&FromServer::Failed(fault.clone()));
    }
    lived
}

fn serve() -> Result<(), Fault> {
    own_network()?;
    part::say(&FromServer::Ready);
    let (mut listener, gate) = (None, Arc::new(Gate::default()));
    while let Some(order) = part::next_order()? {
        match order {
            ToServer::Begin { octets, seed, hold } => {
                connect()?;
                let bound = TcpListener::bind(HTTP).map_err(|error| cannot_listen(HTTP, error))?;
                let echo = UdpSocket::bind(ECHO).map_err(|error| cannot_listen(ECHO, error))?;
                std::thread::spawn(move || answer(&echo));
                let (content, gate) = (Content { octets, seed, hold }, gate.clone());
                listener = Some(std::thread::spawn(move || serve_file(&bound, content, &gate)));
                part::say(&FromServer::Listening);
            }
            ToServer::Release => gate.open(),
        }
    }
    drop(listener);
    Ok(())
}

/// A network namespace of our own, before there is a second thread.
pub fn own_network() -> Result<(), Fault> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|error| Fault::failed("cannot make a network namespace for a part of the demo").why(error))
}

fn connect() -> Result<(), Fault> {
    run(async {
        let net = Net::open()?;
        net.up("lo").await?;
        net.address(INSIDE_DEVICE, SERVER, PREFIX).await?;
        net.up(INSIDE_DEVICE).await?;
        net.route((std::net::Ipv4Addr::UNSPECIFIED, 0), Via::Router(INSIDE)).await
    })
}

/// Runs something of netlink to its end.
pub fn run<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Fault::failed("cannot start a runtime").why(error))?.block_on(work)
}

fn serve_file(listener: &TcpListener, content: Content, gate: &Gate) {
    loop {
        match transfer::serve(listener, content, gate) {
            Ok(Some(sha256)) => return part::say(&FromServer::Sent { sha256 }),
            // Somebody tried something else; the file is still to be had.
            Ok(None) => {}
            Err(error) => {
                let fault = Fault::failed("the server cannot send the file").why(error);
                return part::say(&FromServer::Failed(fault));
            }
        }
    }
}

fn answer(echo: &UdpSocket) {
    let mut datagram = [0; 64];
    // Errors are the network's answers to earlier echoes: nothing to do about them.
    loop {
        if let Ok((len, peer)) = echo.recv_from(&mut datagram) {
            let _ = echo.send_to(&datagram[..len], peer);
        }
    }
}

fn cannot_listen(address: SocketAddr, error: std::io::Error) -> Fault {
    Fault::failed(format!("the server cannot listen on {address}")).why(error)
}
