//! Certificate and Certificate Request (RFC 7296, 3.6 and 3.7): `encoding (1) | data`.

use super::error::Malformed;
use super::reader::Reader;
use super::registry::CertEncoding;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cert {
    pub encoding: CertEncoding,
    pub data: Vec<u8>,
}

/// Which authorities the sender trusts: for X.509, SHA-1 hashes of their public keys, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertReq {
    pub encoding: CertEncoding,
    pub authorities: Vec<u8>,
}

impl Cert {
    pub fn parse(body: &[u8]) -> Result<Cert, Malformed> {
        let mut reader = Reader::new(body);
        let encoding = CertEncoding(reader.u8()?);
        let data = reader.rest();
        if data.is_empty() {
            return Err(Malformed("no certificate data"));
        }
        Ok(Cert { encoding, data: data.to_vec() })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.0);
        out.extend(&self.data);
    }
}

impl CertReq {
    pub fn parse(body: &[u8]) -> Result<CertReq, Malformed> {
        let mut reader = Reader::new(body);
        let encoding = CertEncoding(reader.u8()?);
        Ok(CertReq { encoding, authorities: reader.rest().to_vec() })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.0);
        out.extend(&self.authorities);
    }
}
