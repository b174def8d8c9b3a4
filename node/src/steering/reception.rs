//! Mode `shared-mac`: do frames to the shared address arrive at all? Each node sends one a second as clients do, an IP
//! packet to the service address in a group frame, and listens for those of the others.
//!
//! A bridge or switch that snoops on IGMP or MLD passes such frames to nobody, once there is a querier, and nothing else
//! tells: ARP goes through, so clients know the address and lose every packet.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::neighbour::{self, Mac};
use super::{Device, SteeringError};
use crate::io::offload::Sum;
use crate::io::packet::{FRAME_LEN_MAX, Frames, PacketSocket, TEST_PROTOCOL};

const EVERY: Duration = Duration::from_secs(1);

/// So many frames of all other nodes may be lost in a row.
const DEAF_AFTER: Duration = Duration::from_secs(5);

const ETHERNET_LEN: usize = 14;
const SAYS: &[u8] = b"pontoon";

/// Sends and listens on one device for one family, until it is dropped.
#[derive(Debug)]
pub(super) struct Reception {
    device: String,
    mac: Mac,
    ipv6: bool,
    began: Instant,
    /// When a frame of another node came last, in milliseconds since `began`.
    heard_ms: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// Frames to the shared address do not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deaf {
    pub device: String,
    pub text: String,
}

impl Reception {
    /// For the first service address of each family of the device.
    pub(super) fn start(device: &Device) -> Result<Vec<Reception>, SteeringError> {
        let mut started = Vec::new();
        for (frames, ipv6) in [(Frames::Test4, false), (Frames::Test6, true)] {
            let service = device.ips.iter().copied().find(|ip| ip.is_ipv6() == ipv6);
            let from = device.own.iter().copied().find(|ip| ip.is_ipv6() == ipv6);
            if let (Some(service), Some(from), Some(own)) = (service, from, device.link.mac) {
                started.push(Reception::open(device, frames, (from, service), own)?);
            }
        }
        Ok(started)
    }

    fn open(
        device: &Device,
        frames: Frames,
        (from, service): (IpAddr, IpAddr),
        own: Mac,
    ) -> Result<Reception, SteeringError> {
        let mac = neighbour::shared_mac(service);
        let failed =
            |source| SteeringError::packet(format!("test the reception of {}", device.link.name), source);
        let socket = PacketSocket::open(device.link.index, frames).map_err(failed)?;
        socket.join(mac).map_err(failed)?;
        let (began, heard_ms) = (Instant::now(), Arc::<AtomicU64>::default());
        let (frame, heard) = (frame(mac, own, from, service), heard_ms.clone());
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval(EVERY);
            let mut buffer = [0; FRAME_LEN_MAX];
            loop {
                tokio::select! {
                    _ = every.tick() => {
                        // A device that is down is told of by others.
                        let _ = socket.send(&frame).await;
                    }
                    received = socket.receive(&mut buffer) => match received {
                        Ok(len) if buffer[..len].starts_with(&mac) && buffer[6..12] != own => {
                            heard.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
                        }
                        Ok(_) => {}
                        Err(_) => tokio::time::sleep(EVERY).await,
                    },
                }
            }
        });
        Ok(Reception {
            device: device.link.name.clone(),
            mac,
            ipv6: service.is_ipv6(),
            began,
            heard_ms,
            task,
        })
    }

    /// `None` as long as frames arrive, or it is too early to tell. Means something only while another node sends.
    pub(super) fn deaf(&self) -> Option<Deaf> {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        if self.began.elapsed().saturating_sub(heard) < DEAF_AFTER {
            return None;
        }
        let (snooping, family) = if self.ipv6 { ("MLD", "IPv6") } else { ("IGMP", "IPv4") };
        let [a, b, c, d, e, f] = self.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let text = format!(
            "no {family} packet of another node in a frame to {mac} arrives on {}: a bridge or switch with {snooping} snooping and a querier \
             drops them (ip link set BRIDGE type bridge mcast_snooping 0, or enter {mac} for the ports of all nodes)",
            self.device
        );
        Some(Deaf { device: self.device.clone(), text })
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What looks to a switch as a client's packet does.
fn frame(mac: Mac, own: Mac, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_LEN + 40 + SAYS.len());
    frame.extend(mac);
    frame.extend(own);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend((libc::ETH_P_IP as u16).to_be_bytes());
            let mut header =
                [0x45, 0, 0, 20 + SAYS.len() as u8, 0, 0, 0x40, 0, 1, TEST_PROTOCOL, 0, 0].to_vec();
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = Sum::default().octets(&header).checksum();
            header[10..12].copy_from_slice(&sum);
            frame.extend(header);
        }
        (from, to) => {
            frame.extend((libc::ETH_P_IPV6 as u16).to_be_bytes());
            frame.extend([0x60, 0, 0, 0, 0, SAYS.len() as u8, TEST_PROTOCOL, 1]);
            for ip in [from, to] {
                match ip {
                    IpAddr::V4(ip) => frame.extend(ip.to_ipv6_mapped().octets()),
                    IpAddr::V6(ip) => frame.extend(ip.octets()),
                }
            }
        }
    }
    frame.extend(SAYS);
    frame
}
