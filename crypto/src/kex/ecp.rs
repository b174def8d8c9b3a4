//! ECP groups over aws-lc (RFC 5903): the KE payload is x | y, the shared secret is x.

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, UnparsedPublicKey};
use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};

use super::Group;
use crate::Secret;

/// SEC 1 puts this in front of an uncompressed point; IKEv2 leaves it out.
const UNCOMPRESSED: u8 = 4;

pub(super) struct EcpKey(agreement::PrivateKey);

impl EcpKey {
    /// From a big-endian scalar; `None` unless 0 < scalar < order of the curve.
    pub(super) fn import(group: Group, scalar: &[u8]) -> Option<EcpKey> {
        let algorithm = match group {
            Group::Ecp256 => &ECDH_P256,
            Group::Ecp384 => &ECDH_P384,
            Group::Modp2048 | Group::Modp3072 | Group::Modp4096 | Group::Curve25519 => {
                unreachable!("not an ECP group")
            }
        };
        agreement::PrivateKey::from_private_key(algorithm, scalar).ok().map(EcpKey)
    }

    pub(super) fn export(&self) -> Secret {
        let scalar: EcPrivateKeyBin<'_> = self.0.as_be_bytes().expect("a key with a scalar has a scalar");
        Secret::from_slice(scalar.as_ref())
    }

    pub(super) fn public(&self) -> Vec<u8> {
        let point = self.0.compute_public_key().expect("a key with a scalar has a point");
        point.as_ref()[1..].to_vec()
    }

    /// `None` unless x | y is a point on the curve (RFC 6989, 2.3). Points are only taken uncompressed, and both
    /// curves have a cofactor of 1, so no point of small order is left.
    //= IK-26
    pub(super) fn agree(&self, peer: &[u8]) -> Option<Secret> {
        let mut point = Vec::with_capacity(1 + peer.len());
        point.push(UNCOMPRESSED);
        point.extend_from_slice(peer);
        let peer = UnparsedPublicKey::new(self.0.algorithm(), point);
        agreement::agree(&self.0, peer, (), |x| Ok(Secret::from_slice(x))).ok()
    }
}
