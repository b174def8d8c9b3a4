//! Vendor ID (RFC 7296, 3.12). Read, shown, and never acted on.

use super::error::Malformed;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendor(pub Vec<u8>);

impl Vendor {
    //= IK-11
    pub fn parse(body: &[u8]) -> Result<Vendor, Malformed> {
        Ok(Vendor(body.to_vec()))
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend(&self.0);
    }
}
