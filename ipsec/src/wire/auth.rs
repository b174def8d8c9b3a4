//! Authentication (RFC 7296, 3.8): `method (1) | reserved (3) | data`.

use super::error::Malformed;
use super::reader::Reader;
use super::registry::AuthMethod;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    pub method: AuthMethod,
    pub data: Vec<u8>,
}

impl Auth {
    pub fn parse(body: &[u8]) -> Result<Auth, Malformed> {
        let mut reader = Reader::new(body);
        let method = AuthMethod(reader.u8()?);
        reader.take(3)?;
        let data = reader.rest();
        if data.is_empty() {
            return Err(Malformed("no authentication data"));
        }
        Ok(Auth { method, data: data.to_vec() })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend([self.method.0, 0, 0, 0]);
        out.extend(&self.data);
    }
}
