//! The IKE header (RFC 7296, 3.1).
//!
//! ```text
//!   initiator's SPI (8) | responder's SPI (8) | next payload | version | exchange | flags | message ID (4) | length (4)
//! ```
//!
//! Next payload and length follow from what stands behind it, so they are no fields here.

use super::error::ParseError;
use super::reader::Reader;
use super::registry::{ExchangeType, PayloadType};
use crate::limits::IKE_MESSAGE_LEN_MAX;
use crate::spec::{IKE_FLAG_INITIATOR, IKE_HEADER_LEN, IKE_MAJOR, IKE_VERSION};
use crate::types::{MessageId, Spi};

const FLAG_RESPONSE: u8 = 0x20;
const AT_LENGTH: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub spi_i: Spi,
    pub spi_r: Spi,
    pub exchange: ExchangeType,
    /// Sent by the original initiator of the IKE SA.
    pub initiator: bool,
    /// Answers a request with the same message ID.
    pub response: bool,
    pub message_id: MessageId,
}

impl Header {
    /// Reads the header of a whole message and checks what it says of it. Returns the type of the first payload too.
    //= IK-2
    //= IK-3
    //= IK-4
    //= IK-6
    pub fn parse(message: &[u8]) -> Result<(Header, PayloadType), ParseError> {
        let (header, rest) = Header::read(message).ok_or(ParseError::Truncated)?;
        let (major, told) = (rest.version >> 4, rest.length);
        if major != IKE_MAJOR {
            return Err(ParseError::UnsupportedVersion(major));
        }
        if u32::try_from(message.len()) != Ok(told) {
            return Err(ParseError::Length { told, came: message.len() });
        }
        if message.len() > IKE_MESSAGE_LEN_MAX {
            return Err(ParseError::Oversized);
        }
        if header.spi_i.is_zero() {
            return Err(ParseError::ZeroSpi);
        }
        Ok((header, rest.next_payload))
    }

    /// Reads the fields without judging them: to find the SA of a message, and to answer an unknown version.
    /// `None` when it is shorter than a header.
    pub fn peek(message: &[u8]) -> Option<Header> {
        Header::read(message).map(|(header, _)| header)
    }

    /// The SPI that the receiver of this message chose; zero in the first request of IKE_SA_INIT.
    pub fn receiver_spi(&self) -> Spi {
        if self.initiator { self.spi_r } else { self.spi_i }
    }

    /// The SPI that the sender of this message chose.
    pub fn sender_spi(&self) -> Spi {
        if self.initiator { self.spi_i } else { self.spi_r }
    }

    /// The header of the answer to this request: same SPIs, exchange and message ID.
    pub fn reply(&self) -> Header {
        Header { initiator: !self.initiator, response: true, ..*self }
    }

    /// Appends the header; `finish` writes the length once the rest is known.
    //= IK-4
    pub fn emit(&self, first: PayloadType, out: &mut Vec<u8>) {
        let flags = if self.initiator { IKE_FLAG_INITIATOR } else { 0 }
            | if self.response { FLAG_RESPONSE } else { 0 };
        out.extend(self.spi_i.0.to_be_bytes());
        out.extend(self.spi_r.0.to_be_bytes());
        out.extend([first.0, IKE_VERSION, self.exchange.0, flags]);
        out.extend(self.message_id.0.to_be_bytes());
        out.extend([0; 4]);
    }

    fn read(message: &[u8]) -> Option<(Header, Rest)> {
        let mut reader = Reader::new(message.get(..IKE_HEADER_LEN)?);
        let spi_i = Spi(u64::from_be_bytes(reader.array().ok()?));
        let spi_r = Spi(u64::from_be_bytes(reader.array().ok()?));
        let [next_payload, version, exchange, flags] = reader.array().ok()?;
        let message_id = MessageId(reader.u32().ok()?);
        let length = reader.u32().ok()?;
        let header = Header {
            spi_i,
            spi_r,
            exchange: ExchangeType(exchange),
            initiator: flags & IKE_FLAG_INITIATOR != 0,
            response: flags & FLAG_RESPONSE != 0,
            message_id,
        };
        Some((header, Rest { next_payload: PayloadType(next_payload), version, length }))
    }
}

struct Rest {
    next_payload: PayloadType,
    version: u8,
    length: u32,
}

/// Writes the Length of a message that is complete.
pub(crate) fn set_length(message: &mut [u8]) {
    let length = u32::try_from(message.len()).expect("what we emit is far below 64 KiB");
    message[AT_LENGTH..AT_LENGTH + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        spi_i: Spi(0x0102_0304_0506_0708),
        spi_r: Spi(0x1112_1314_1516_1718),
        exchange: ExchangeType::IKE_AUTH,
        initiator: true,
        response: false,
        message_id: MessageId(1),
    };

    fn emitted() -> Vec<u8> {
        let mut out = Vec::new();
        HEADER.emit(PayloadType::SK, &mut out);
        set_length(&mut out);
        out
    }

    #[test]
    fn emitted_octets() {
        assert_eq!(hex::encode(emitted()), "010203040506070811121314151617182e202308000000010000001c");
        assert_eq!(Header::parse(&emitted()), Ok((HEADER, PayloadType::SK)));
    }

    //= test IK-2
    //= test IK-3
    //= test IK-6
    #[test]
    fn what_is_refused() {
        let refused = |at: usize, octets: &[u8], error: ParseError| {
            let mut message = emitted();
            message[at..at + octets.len()].copy_from_slice(octets);
            assert_eq!(Header::parse(&message), Err(error));
        };
        refused(0, &[0; 8], ParseError::ZeroSpi);
        refused(17, &[0x30], ParseError::UnsupportedVersion(3));
        refused(17, &[0x10], ParseError::UnsupportedVersion(1));
        refused(24, &[0, 0, 0, 29], ParseError::Length { told: 29, came: 28 });
        refused(24, &[0, 0, 0, 27], ParseError::Length { told: 27, came: 28 });
        assert_eq!(Header::parse(&emitted()[..27]), Err(ParseError::Truncated));
        let mut long = emitted();
        long.resize(IKE_MESSAGE_LEN_MAX + 1, 0);
        set_length(&mut long);
        assert_eq!(Header::parse(&long), Err(ParseError::Oversized));
    }

    //= test IK-3
    //= test IK-4
    #[test]
    fn minor_version_and_unused_flags_are_ignored() {
        let mut message = emitted();
        message[17] = 0x2f;
        message[19] |= 0xd7; // all but I and R, the version flag among them
        assert_eq!(Header::parse(&message), Ok((HEADER, PayloadType::SK)));
    }

    //= test IK-4
    #[test]
    fn flags_and_spis_of_both_directions() {
        assert_eq!(HEADER.receiver_spi(), HEADER.spi_r);
        let reply = HEADER.reply();
        assert!(reply.response && !reply.initiator && reply.message_id == HEADER.message_id);
        assert_eq!((reply.receiver_spi(), reply.sender_spi()), (HEADER.spi_i, HEADER.spi_r));
        let mut out = Vec::new();
        reply.emit(PayloadType::NONE, &mut out);
        assert_eq!(out[19], FLAG_RESPONSE);
    }
}
