//! Packets for the tests of this folder.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::checksum;

/// An IPv4 packet with a right header checksum, not to be fragmented.
pub fn ipv4(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let source: Ipv4Addr = source.parse().unwrap();
    let destination: Ipv4Addr = destination.parse().unwrap();
    let total = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, (total >> 8) as u8, total as u8, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum::of(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

pub fn ipv6(source: &str, destination: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    let destination: Ipv6Addr = destination.parse().unwrap();
    let len = payload.len() as u16;
    let mut packet = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, next, 64];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram in an IP packet of the family of the addresses, `payload` octets long.
pub fn udp(source: &str, destination: &str, ports: (u16, u16), payload: usize) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend(((payload + 8) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend((0..payload).map(|octet| octet as u8));
    if source.contains(':') {
        ipv6(source, destination, 17, &datagram)
    } else {
        ipv4(source, destination, 17, &datagram)
    }
}
