//! What somebody says exists: the client, or one of the nodes. The checkers of I4, I5 and I9 compare such lists.

use std::net::IpAddr;

/// One IKE SA with its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sa {
    /// The initiator's and the responder's SPI.
    pub ike: (u64, u64),
    /// The SPIs of children: those that packets of the gateway carry.
    pub children: Vec<u32>,
    pub peer: String,
    /// Inner addresses of the client.
    pub inner: Vec<IpAddr>,
}

/// A list and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub whose: String,
    pub sas: Vec<Sa>,
}

impl View {
    pub fn new(whose: impl std::fmt::Display, sas: Vec<Sa>) -> View {
        View { whose: whose.to_string(), sas }
    }
}

#[cfg(test)]
pub(crate) mod made {
    use super::*;

    pub fn sa(ike: u64, child: u32, peer: &str, inner: [u8; 4]) -> Sa {
        Sa { ike: (ike, ike + 1), children: vec![child], peer: peer.into(), inner: vec![inner.into()] }
    }
}
