//! A cable that a test can cut, stop and slow down: a TCP relay before a node's listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::loopback;

const PIECE_LEN: usize = 16 * 1024;

#[derive(Clone, Copy, PartialEq)]
pub enum Cable {
    Passes,
    /// Connections stay, nothing moves: a cut cable, a stopped process.
    Stalled,
}

pub struct Relay {
    pub address: SocketAddr,
    cable: watch::Sender<Cable>,
    /// Every change ends all connections.
    cuts: watch::Sender<u32>,
    /// Octets a second and direction; 0 is no limit.
    rate: Arc<AtomicU32>,
}

impl Relay {
    pub async fn before(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = Relay {
            address,
            cable: watch::Sender::new(Cable::Passes),
            cuts: watch::Sender::new(0),
            rate: Arc::default(),
        };
        let (cable, cuts, rate) = (relay.cable.subscribe(), relay.cuts.subscribe(), relay.rate.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(target).await else { continue };
                let mut cut = cuts.clone();
                cut.mark_unchanged();
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                let there = pass(near_in, far_out, cable.clone(), rate.clone());
                let back = pass(far_in, near_out, cable.clone(), rate.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = there => {}
                        () = back => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        relay
    }

    pub fn set(&self, cable: Cable) {
        self.cable.send_replace(cable);
    }

    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub fn slow_down(&self, octets_per_s: u32) {
        self.rate.store(octets_per_s, Ordering::Relaxed);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut cable: watch::Receiver<Cable>,
    rate: Arc<AtomicU32>,
) {
    let mut octets = vec![0; PIECE_LEN];
    while let Ok(length @ 1..) = from.read(&mut octets).await {
        if cable.wait_for(|cable| *cable == Cable::Passes).await.is_err() {
            return;
        }
        let rate = rate.load(Ordering::Relaxed);
        if rate > 0 {
            tokio::time::sleep(Duration::from_secs_f64(length as f64 / f64::from(rate))).await;
        }
        if to.write_all(&octets[..length]).await.is_err() {
            return;
        }
    }
}
