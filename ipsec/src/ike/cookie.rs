//! Cookies: the proof that a peer receives at the address that it writes from, without state here
//! (RFC 7296, 2.6).
//!
//! cookie = version | HMAC(secret, Ni | IPi | port | SPIi), cut to 24 octets. The secrets are the cluster's, so that any
//! node accepts the cookie of any other; the version says which of the two living secrets made it.

use std::net::{IpAddr, SocketAddr};

use crypto::Secret;
use crypto::hash::ct_eq;
use crypto::prf::Prf;

use crate::types::Spi;

/// The current secret and the one before it.
#[derive(Clone, Debug, Default)]
pub struct CookieSecrets {
    pub current: Option<(u8, Secret)>,
    pub previous: Option<(u8, Secret)>,
}

const MAC_LEN: usize = 24;

impl CookieSecrets {
    /// The cookie for this peer and nonce; `None` before the cluster has a secret.
    //= IK-20
    pub fn make(&self, peer: SocketAddr, spi_i: Spi, nonce: &[u8]) -> Option<Vec<u8>> {
        self.current.as_ref().map(|(version, secret)| value(*version, secret, peer, spi_i, nonce))
    }

    /// True when one of our living secrets made it for this peer and nonce.
    //= IK-22
    pub fn accept(&self, cookie: &[u8], peer: SocketAddr, spi_i: Spi, nonce: &[u8]) -> bool {
        [&self.current, &self.previous].into_iter().flatten().any(|(version, secret)| {
            cookie.first() == Some(version) && ct_eq(cookie, &value(*version, secret, peer, spi_i, nonce))
        })
    }
}

fn value(version: u8, secret: &Secret, peer: SocketAddr, spi_i: Spi, nonce: &[u8]) -> Vec<u8> {
    let address = match peer.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mac = Prf::HmacSha256
        .prf(secret.as_bytes(), &[nonce, &address, &peer.port().to_be_bytes(), &spi_i.0.to_be_bytes()]);
    let mut cookie = vec![version];
    cookie.extend_from_slice(&mac.as_bytes()[..MAC_LEN]);
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> CookieSecrets {
        CookieSecrets {
            current: Some((2, Secret::from_slice(&[2; 32]))),
            previous: Some((1, Secret::from_slice(&[1; 32]))),
        }
    }

    //= test IK-20
    //= test IK-22
    #[test]
    fn only_the_same_peer_nonce_and_secret_fit() {
        let (peer, spi, nonce) = ("192.0.2.1:500".parse().unwrap(), Spi(7), [9; 32]);
        let cookie = secrets().make(peer, spi, &nonce).unwrap();
        assert!((1..=64).contains(&cookie.len()));
        assert!(secrets().accept(&cookie, peer, spi, &nonce));
        assert!(!secrets().accept(&cookie, "192.0.2.2:500".parse().unwrap(), spi, &nonce));
        assert!(!secrets().accept(&cookie, "192.0.2.1:501".parse().unwrap(), spi, &nonce));
        assert!(!secrets().accept(&cookie, peer, Spi(8), &nonce));
        assert!(!secrets().accept(&cookie, peer, spi, &[8; 32]));
        assert!(!secrets().accept(&[], peer, spi, &nonce));

        let rotated =
            CookieSecrets { current: Some((3, Secret::from_slice(&[3; 32]))), previous: secrets().current };
        assert!(rotated.accept(&cookie, peer, spi, &nonce), "the previous secret still counts");
        let gone = CookieSecrets { previous: None, ..rotated };
        assert!(!gone.accept(&cookie, peer, spi, &nonce));
    }
}
