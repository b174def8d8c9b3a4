//! Key exchange of IKEv2: Curve25519 (RFC 8031), ECP-256/384 (RFC 5903), MODP-2048/3072/4096 (RFC 3526).
//!
//! Values are what the KE payload carries: MODP left-padded to the length of the prime, ECP as x | y without the
//! 04 in front, Curve25519 as the 32 octets of RFC 7748. The shared secret is what goes into SKEYSEED: MODP
//! left-padded, ECP x only. Public values are checked as RFC 6989 and RFC 8031 want it.
//!
//! A private key can be exported: ours of an unanswered rekey is part of the replicated record, so that any node
//! can process the answer.

mod ecp;
mod modp;
#[cfg(test)]
mod tests;

use std::fmt;

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::Secret;
use crate::rng::Rng;

use ecp::EcpKey;

/// A key exchange method.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Group {
    Modp2048,
    Modp3072,
    Modp4096,
    Ecp256,
    Ecp384,
    Curve25519,
}

impl Group {
    pub const ALL: [Group; 6] =
        [Group::Modp2048, Group::Modp3072, Group::Modp4096, Group::Ecp256, Group::Ecp384, Group::Curve25519];

    /// Octets of a public value in a KE payload.
    pub fn public_len(self) -> usize {
        match self {
            Group::Modp2048 => 256,
            Group::Modp3072 => 384,
            Group::Modp4096 => 512,
            Group::Ecp256 => 64,
            Group::Ecp384 => 96,
            Group::Curve25519 => 32,
        }
    }

    /// Octets of an exported private key. MODP exponents have twice the strength that RFC 3526 (section 8)
    /// estimates for their group at most.
    pub fn private_len(self) -> usize {
        match self {
            Group::Modp2048 => 40,
            Group::Modp3072 => 56,
            Group::Modp4096 => 64,
            Group::Ecp256 | Group::Curve25519 => 32,
            Group::Ecp384 => 48,
        }
    }
}

/// A private key with its public value.
pub struct PrivateKey {
    group: Group,
    key: Key,
    public: Vec<u8>,
}

enum Key {
    /// The exponent, big-endian.
    Modp(Secret),
    Ecp(EcpKey),
    Curve25519(StaticSecret),
}

/// The peer's public value is none of this group, or would give away the shared secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidPublicValue;

/// These octets are no private key of this group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidPrivateKey;

impl PrivateKey {
    pub fn generate(group: Group, rng: &mut dyn Rng) -> PrivateKey {
        let mut octets = Zeroizing::new(vec![0; group.private_len()]);
        loop {
            rng.fill(&mut octets);
            // Refused is a scalar of 0 or not below the order of the curve: once in 2^32 draws or less.
            if let Ok(key) = PrivateKey::import(group, &octets) {
                return key;
            }
        }
    }

    /// From what `export` gave.
    pub fn import(group: Group, octets: &[u8]) -> Result<PrivateKey, InvalidPrivateKey> {
        if octets.len() != group.private_len() {
            return Err(InvalidPrivateKey);
        }
        let (key, public) = match group {
            Group::Modp2048 | Group::Modp3072 | Group::Modp4096 => {
                let public = modp::public(group, octets).ok_or(InvalidPrivateKey)?;
                (Key::Modp(Secret::from_slice(octets)), public)
            }
            Group::Ecp256 | Group::Ecp384 => {
                let key = EcpKey::import(group, octets).ok_or(InvalidPrivateKey)?;
                let public = key.public();
                (Key::Ecp(key), public)
            }
            Group::Curve25519 => {
                let mut scalar = Zeroizing::new([0; 32]);
                scalar.copy_from_slice(octets);
                let key = StaticSecret::from(*scalar);
                let public = PublicKey::from(&key).as_bytes().to_vec();
                (Key::Curve25519(key), public)
            }
        };
        Ok(PrivateKey { group, key, public })
    }

    pub fn export(&self) -> Secret {
        match &self.key {
            Key::Modp(exponent) => exponent.clone(),
            Key::Ecp(key) => key.export(),
            Key::Curve25519(key) => Secret::from_slice(key.as_bytes()),
        }
    }

    pub fn group(&self) -> Group {
        self.group
    }

    /// The public value, as the KE payload carries it.
    pub fn public(&self) -> Vec<u8> {
        self.public.clone()
    }

    /// The secret shared with the holder of the peer's public value, as it goes into SKEYSEED.
    //= IK-26
    pub fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue> {
        if peer.len() != self.group.public_len() {
            return Err(InvalidPublicValue);
        }
        match &self.key {
            Key::Modp(exponent) => {
                modp::agree(self.group, exponent.as_bytes(), peer).ok_or(InvalidPublicValue)
            }
            Key::Ecp(key) => key.agree(peer).ok_or(InvalidPublicValue),
            Key::Curve25519(key) => {
                let mut point = [0; 32];
                point.copy_from_slice(peer);
                let shared = key.diffie_hellman(&PublicKey::from(point));
                // A point of small order gives all zeros, whatever our key is (RFC 8031, 2; RFC 7748, 6.1).
                if !shared.was_contributory() {
                    return Err(InvalidPublicValue);
                }
                Ok(Secret::from_slice(shared.as_bytes()))
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?})", self.group)
    }
}

impl fmt::Display for InvalidPublicValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a valid public value of the group")
    }
}

impl fmt::Display for InvalidPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a valid private key of the group")
    }
}

impl std::error::Error for InvalidPublicValue {}
impl std::error::Error for InvalidPrivateKey {}
