//! Delete (RFC 7296, 3.11): `protocol (1) | SPI size (1) | number of SPIs (2) | SPIs`.
//!
//! The SPIs are those that the sender of the payload receives on. Deleting the IKE SA itself names none.

use super::error::Malformed;
use super::reader::Reader;
use super::registry::ProtocolId;
use crate::limits::DELETE_SPIS_MAX;
use crate::spec::CHILD_SPI_LEN;
use crate::types::ChildSpi;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delete {
    /// The IKE SA that carries this, with all its children.
    Ike,
    /// ESP SAs, by their sender's inbound SPIs.
    Esp(Vec<ChildSpi>),
    /// AH SAs: we never have any, and answer as for unknown ones.
    Ah(Vec<ChildSpi>),
}

impl Delete {
    //= IK-84
    pub fn parse(body: &[u8]) -> Result<Delete, Malformed> {
        let mut reader = Reader::new(body);
        let protocol = ProtocolId(reader.u8()?);
        let spi_len = usize::from(reader.u8()?);
        let count = usize::from(reader.u16()?);
        if protocol == ProtocolId::IKE {
            return match (spi_len, count, reader.is_empty()) {
                (0, 0, true) => Ok(Delete::Ike),
                _ => Err(Malformed("the IKE SA is deleted without an SPI")),
            };
        }
        if spi_len != CHILD_SPI_LEN {
            return Err(Malformed("SPI size is not four"));
        }
        if count > DELETE_SPIS_MAX {
            return Err(Malformed("too many SPIs"));
        }
        let mut spis = Vec::with_capacity(count);
        for _ in 0..count {
            spis.push(ChildSpi(reader.u32()?));
        }
        reader.end()?;
        match protocol {
            ProtocolId::ESP => Ok(Delete::Esp(spis)),
            ProtocolId::AH => Ok(Delete::Ah(spis)),
            _ => Err(Malformed("unknown protocol")),
        }
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        let (protocol, spis) = match self {
            Delete::Ike => return out.extend([ProtocolId::IKE.0, 0, 0, 0]),
            Delete::Esp(spis) => (ProtocolId::ESP, spis),
            Delete::Ah(spis) => (ProtocolId::AH, spis),
        };
        let count = u16::try_from(spis.len()).expect("an IKE SA has far fewer children");
        out.extend([protocol.0, CHILD_SPI_LEN as u8]);
        out.extend(count.to_be_bytes());
        for spi in spis {
            out.extend(spi.0.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= test IK-84
    #[test]
    fn one_protocol_and_its_spi_size() {
        for (body, expected) in [
            ("01000000", Some(Delete::Ike)),
            ("01040001deadbeef", None),
            ("01000001", None),
            ("0100000000", None),
            ("03040001deadbeef", Some(Delete::Esp(vec![ChildSpi(0xdead_beef)]))),
            ("02040001deadbeef", Some(Delete::Ah(vec![ChildSpi(0xdead_beef)]))),
            ("03040000", Some(Delete::Esp(vec![]))),
            ("03040002deadbeef", None),
            ("03040001deadbeef00", None),
            ("03080001deadbeefdeadbeef", None),
            ("03080001deadbeef", None),
            ("03020001deadbeef", None),
            ("03000000", None),
            ("04040001deadbeef", None),
            ("0304ffff", None),
            ("0304", None),
        ] {
            assert_eq!(Delete::parse(&hex::decode(body).unwrap()).ok(), expected, "{body}");
        }
    }
}
