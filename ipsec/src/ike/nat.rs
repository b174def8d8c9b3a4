//! NAT detection: each side hashes the addresses that it believes in, and the other compares (RFC 7296, 2.23).

use std::net::{IpAddr, SocketAddr};

use crypto::hash::sha1;

use crate::types::Spi;
use crate::wire::{Header, Notify, NotifyType, Payloads};

/// SHA-1(SPIi | SPIr | address | port), with the SPIs of the message that carries it.
//= IK-27
pub(crate) fn hash(spi_i: Spi, spi_r: Spi, address: SocketAddr) -> [u8; 20] {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    sha1(&[&spi_i.0.to_be_bytes(), &spi_r.0.to_be_bytes(), &ip, &address.port().to_be_bytes()])
}

/// (peer behind NAT, we behind NAT), by the notifies of a message that came from `peer` to `local`. A peer that
/// sends none does no NAT traversal: false and false.
pub(crate) fn detect(
    header: &Header,
    payloads: &Payloads,
    local: SocketAddr,
    peer: SocketAddr,
) -> (bool, bool) {
    let differs = |kind: NotifyType, address: SocketAddr| {
        let expected = hash(header.spi_i, header.spi_r, address);
        let mut told = payloads.notifies().filter(|notify| notify.kind == kind).peekable();
        told.peek().is_some() && !told.any(|notify| notify.data == expected)
    };
    (
        differs(NotifyType::NAT_DETECTION_SOURCE_IP, peer),
        differs(NotifyType::NAT_DETECTION_DESTINATION_IP, local),
    )
}

/// Our two notifies for a message with these SPIs from `local` to `peer`.
pub(crate) fn notifies(spi_i: Spi, spi_r: Spi, local: SocketAddr, peer: SocketAddr) -> [Notify; 2] {
    [
        Notify::new(NotifyType::NAT_DETECTION_SOURCE_IP, hash(spi_i, spi_r, local).to_vec()),
        Notify::new(NotifyType::NAT_DETECTION_DESTINATION_IP, hash(spi_i, spi_r, peer).to_vec()),
    ]
}
