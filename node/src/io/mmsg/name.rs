//! Socket addresses as the kernel has them (`sockaddr_in`, `sockaddr_in6`), read and written as octets.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

const LEN_V4: usize = size_of::<libc::sockaddr_in>();
pub(super) const LEN: usize = size_of::<libc::sockaddr_in6>();

const _: () = assert!(LEN_V4 == 16 && LEN == 28);

/// Room for either.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
pub(super) struct Name([u8; LEN]);

impl Name {
    /// The address in the first `len` octets; `None` if it is of another family or too short.
    pub fn read(&self, len: usize) -> Option<SocketAddr> {
        let octets = self.0.get(..len)?;
        let port = u16::from_be_bytes(*octets.get(2..)?.first_chunk()?);
        match i32::from(u16::from_ne_bytes(*octets.first_chunk()?)) {
            libc::AF_INET => {
                let ip: [u8; 4] = *octets.get(4..)?.first_chunk()?;
                Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
            }
            libc::AF_INET6 => {
                let ip: [u8; 16] = *octets.get(8..)?.first_chunk()?;
                let scope = u32::from_ne_bytes(*octets.get(24..)?.first_chunk()?);
                // The flow label is the sender's business; kept, it would come back in every reply.
                Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
            }
            _ => None,
        }
    }

    /// Writes an address; its length.
    pub fn write(&mut self, address: SocketAddr, port: u16) -> usize {
        self.0 = [0; LEN];
        self.0[2..4].copy_from_slice(&port.to_be_bytes());
        let (family, len) = match address {
            SocketAddr::V4(v4) => {
                self.0[4..8].copy_from_slice(&v4.ip().octets());
                (libc::AF_INET, LEN_V4)
            }
            SocketAddr::V6(v6) => {
                self.0[8..24].copy_from_slice(&v6.ip().octets());
                self.0[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (libc::AF_INET6, LEN)
            }
        };
        self.0[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_and_a_short_one_is_refused() {
        for address in ["192.0.2.1:4500", "[2001:db8::1]:500", "[fe80::1%3]:4500"] {
            let address: SocketAddr = address.parse().unwrap();
            let mut name = Name([0xaa; LEN]);
            let len = name.write(address, address.port());
            assert_eq!(name.read(len), Some(address));
            for short in 0..len.min(8) {
                assert_eq!(name.read(short), None, "{address} cut to {short}");
            }
            assert_eq!(name.read(LEN + 1), None);
        }
        assert_eq!(Name([0; LEN]).read(LEN), None);
    }
}
