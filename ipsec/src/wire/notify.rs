//! Notify (RFC 7296, 3.10): `protocol (1) | SPI size (1) | type (2) | SPI | data`.

use super::error::Malformed;
use super::reader::Reader;
use super::registry::{GroupId, NotifyType, ProtocolId};
use crate::spec::CHILD_SPI_LEN;
use crate::types::ChildSpi;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    pub kind: NotifyType,
    /// `NONE` unless the notify is about an SA other than the one that carries it.
    pub protocol: ProtocolId,
    pub spi: Vec<u8>,
    pub data: Vec<u8>,
}

impl Notify {
    /// A notify that names no SA.
    pub fn new(kind: NotifyType, data: impl Into<Vec<u8>>) -> Notify {
        Notify { kind, protocol: ProtocolId::NONE, spi: Vec::new(), data: data.into() }
    }

    /// A notify without data.
    pub fn bare(kind: NotifyType) -> Notify {
        Notify::new(kind, Vec::new())
    }

    /// A notify about a child SA: REKEY_SA, CHILD_SA_NOT_FOUND, INVALID_SELECTORS.
    pub fn about_child(kind: NotifyType, spi: ChildSpi) -> Notify {
        Notify { kind, protocol: ProtocolId::ESP, spi: spi.0.to_be_bytes().to_vec(), data: Vec::new() }
    }

    /// INVALID_KE_PAYLOAD with the group that would be taken (RFC 7296, 1.2).
    pub fn invalid_ke(group: GroupId) -> Notify {
        Notify::new(NotifyType::INVALID_KE_PAYLOAD, group.0.to_be_bytes())
    }

    /// The child SA that this is about; `None` when it names no ESP SA.
    pub fn child_spi(&self) -> Option<ChildSpi> {
        let spi: [u8; CHILD_SPI_LEN] = self.spi.as_slice().try_into().ok()?;
        (self.protocol == ProtocolId::ESP).then_some(ChildSpi(u32::from_be_bytes(spi)))
    }

    /// The two octets of INVALID_KE_PAYLOAD.
    pub fn group(&self) -> Option<GroupId> {
        let group: [u8; 2] = self.data.as_slice().try_into().ok()?;
        Some(GroupId(u16::from_be_bytes(group)))
    }

    pub fn parse(body: &[u8]) -> Result<Notify, Malformed> {
        let mut reader = Reader::new(body);
        let protocol = ProtocolId(reader.u8()?);
        let spi_len = usize::from(reader.u8()?);
        let kind = NotifyType(reader.u16()?);
        let spi = reader.take(spi_len).map_err(|_| Malformed("SPI longer than the payload"))?;
        Ok(Notify { kind, protocol, spi: spi.to_vec(), data: reader.rest().to_vec() })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        let spi_len = u8::try_from(self.spi.len()).expect("an SPI has eight octets at most");
        out.extend([self.protocol.0, spi_len]);
        out.extend(self.kind.0.to_be_bytes());
        out.extend(&self.spi);
        out.extend(&self.data);
    }
}
