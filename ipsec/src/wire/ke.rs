//! Key Exchange (RFC 7296, 3.4): `group (2) | reserved (2) | public value`.
//!
//! Whether the value fits the group is checked where it is used, by `crypto::kex` (RFC 6989, RFC 8031).

use crypto::kex::Group;

use super::error::Malformed;
use super::reader::Reader;
use super::registry::GroupId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ke {
    pub group: GroupId,
    pub data: Vec<u8>,
}

impl Ke {
    pub fn new(group: Group, public: Vec<u8>) -> Ke {
        Ke { group: GroupId::of(group), data: public }
    }

    pub fn parse(body: &[u8]) -> Result<Ke, Malformed> {
        let mut reader = Reader::new(body);
        let group = GroupId(reader.u16()?);
        reader.u16()?;
        let data = reader.rest();
        if data.is_empty() {
            return Err(Malformed("no public value"));
        }
        Ok(Ke { group, data: data.to_vec() })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend(self.group.0.to_be_bytes());
        out.extend([0; 2]);
        out.extend(&self.data);
    }
}
