//! The cluster's certification authority, as plain data: its certificate and the key that signs nodes into the cluster.
//!
//! Replicated, so that any node can take in another one and none is special. The key is in clear nowhere but in
//! memory: log and snapshots are sealed at rest, links are TLS (I12). What is done with it is in `links::pki`.

use crypto::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// X.509, DER.
    pub certificate: Vec<u8>,
    /// PKCS #8, DER.
    pub key: Secret,
}

/// SHA-256 over a node's SubjectPublicKeyInfo: tells apart two keys that claim one name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyHash(pub [u8; 32]);

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHash(")?;
        self.0.iter().take(8).try_for_each(|octet| write!(f, "{octet:02x}"))?;
        f.write_str("..)")
    }
}
