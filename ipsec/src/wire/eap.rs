//! Extensible Authentication (RFC 7296, 3.16; RFC 3748, 4): `code (1) | identifier (1) | length (2) | data`.

use super::error::Malformed;
use super::reader::Reader;
use super::registry::EapCode;

const HEADER_LEN: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eap {
    pub code: EapCode,
    pub identifier: u8,
    /// Of a request or response: the type octet and its data. Success and failure have none.
    pub data: Vec<u8>,
}

impl Eap {
    //= IK-50
    pub fn parse(body: &[u8]) -> Result<Eap, Malformed> {
        let mut reader = Reader::new(body);
        let code = EapCode(reader.u8()?);
        let identifier = reader.u8()?;
        if usize::from(reader.u16()?) != body.len() {
            return Err(Malformed("EAP length is not the payload's"));
        }
        let data = reader.rest();
        match code {
            EapCode::REQUEST | EapCode::RESPONSE if data.is_empty() => Err(Malformed("EAP without a type")),
            EapCode::SUCCESS | EapCode::FAILURE if !data.is_empty() => {
                Err(Malformed("data in EAP success or failure"))
            }
            EapCode::REQUEST | EapCode::RESPONSE | EapCode::SUCCESS | EapCode::FAILURE => {
                Ok(Eap { code, identifier, data: data.to_vec() })
            }
            _ => Err(Malformed("unknown EAP code")),
        }
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        let length = u16::try_from(HEADER_LEN + self.data.len()).expect("EAP packets are far below 64 KiB");
        out.extend([self.code.0, self.identifier]);
        out.extend(length.to_be_bytes());
        out.extend(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= test IK-50
    #[test]
    fn lengths_and_codes() {
        for (body, fits) in [
            ("0107000501", true),
            ("0207000501", true),
            ("03070004", true),
            ("04070004", true),
            ("0107000601", false),
            ("0107000401", false),
            ("01070004", false),
            ("0307000501", false),
            ("05070004", false),
            ("0107", false),
        ] {
            assert_eq!(Eap::parse(&hex::decode(body).unwrap()).is_ok(), fits, "{body}");
        }
    }
}
