//! Identification, IDi and IDr (RFC 7296, 3.5): `type (1) | reserved (3) | identity`.
//!
//! The AUTH value covers the body as its sender wrote it, reserved octets included, so they are kept.

use super::error::Malformed;
use super::reader::Reader;
use super::registry::IdType;
use crate::limits::IDENTITY_LEN_MAX;
use crate::policy::{IdKind, Identity};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    pub kind: IdType,
    reserved: [u8; 3],
    pub data: Vec<u8>,
}

impl Id {
    pub fn new(identity: &Identity) -> Id {
        Id { kind: IdType(identity.kind as u8), reserved: [0; 3], data: identity.data.clone() }
    }

    /// The identity; `None` for a type that we do not accept.
    //= IK-46
    pub fn identity(&self) -> Option<Identity> {
        let kind = match self.kind {
            IdType::ID_IPV4_ADDR => IdKind::Ipv4,
            IdType::ID_FQDN => IdKind::Fqdn,
            IdType::ID_RFC822_ADDR => IdKind::Rfc822,
            IdType::ID_IPV6_ADDR => IdKind::Ipv6,
            IdType::ID_DER_ASN1_DN => IdKind::Dn,
            IdType::ID_KEY_ID => IdKind::KeyId,
            _ => return None,
        };
        Some(Identity { kind, data: self.data.clone() })
    }

    /// The octets that AUTH covers: all behind the generic header (RFC 7296, 2.15, RestOfInitIDPayload).
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.data.len());
        self.emit(&mut out);
        out
    }

    pub fn parse(body: &[u8]) -> Result<Id, Malformed> {
        let mut reader = Reader::new(body);
        let kind = IdType(reader.u8()?);
        let reserved = reader.array()?;
        let data = reader.rest();
        let fits = match kind {
            IdType::ID_IPV4_ADDR => data.len() == 4,
            IdType::ID_IPV6_ADDR => data.len() == 16,
            _ => !data.is_empty() && data.len() <= IDENTITY_LEN_MAX,
        };
        if !fits {
            return Err(Malformed("identity of a wrong length"));
        }
        Ok(Id { kind, reserved, data: data.to_vec() })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.push(self.kind.0);
        out.extend(self.reserved);
        out.extend(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= test IK-46
    #[test]
    fn every_accepted_type_there_and_back() {
        for (kind, number, data) in [
            (IdKind::Ipv4, 1, vec![192, 0, 2, 1]),
            (IdKind::Fqdn, 2, b"gw.example.org".to_vec()),
            (IdKind::Rfc822, 3, b"alice@example.org".to_vec()),
            (IdKind::Ipv6, 5, vec![0x20; 16]),
            (IdKind::Dn, 9, vec![0x30, 0x00]),
            (IdKind::KeyId, 11, vec![0, 1, 2]),
        ] {
            let identity = Identity { kind, data };
            let id = Id::new(&identity);
            assert_eq!(id.kind.0, number);
            assert_eq!(id.body()[4..], identity.data, "no terminator, no padding");
            assert_eq!(Id::parse(&id.body()).unwrap().identity(), Some(identity));
        }
        assert_eq!(Id::parse(&[10, 0, 0, 0, 1]).unwrap().identity(), None);
        for bad in [&[1, 0, 0, 0, 1, 2, 3][..], &[5, 0, 0, 0, 1, 2, 3, 4], &[2, 0, 0, 0], &[2, 0, 0]] {
            assert!(Id::parse(bad).is_err(), "{bad:?}");
        }
    }

    /// The peer's AUTH is computed over the octets that it sent, whatever it put into the reserved ones.
    //= test IK-42
    #[test]
    fn reserved_octets_stay_for_auth() {
        let body = [2, 7, 8, 9, b'x'];
        assert_eq!(Id::parse(&body).unwrap().body(), body);
    }
}
