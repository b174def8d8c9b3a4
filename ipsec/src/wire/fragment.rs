//! The header of an Encrypted Fragment payload, SKF (RFC 7383, 2.5).
//!
//! ```text
//!   generic header | fragment number (2) | total fragments (2) | IV | ciphertext | ICV
//! ```
//!
//! The header is read and checked here. Putting fragments together comes with certificates, which are what makes
//! messages long.

use super::error::Malformed;
use super::reader::Reader;
use super::registry::PayloadType;
use crate::limits::FRAGMENTS_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// From 1 to `total`.
    pub number: u16,
    pub total: u16,
}

impl Fragment {
    pub(crate) const HEADER_LEN: usize = 4;

    /// `first` is the Next Payload of SKF: the type of the first payload inside, told by the first fragment only.
    //= IK-107
    pub fn parse(first: PayloadType, body: &[u8]) -> Result<Fragment, Malformed> {
        let mut reader = Reader::new(body);
        let fragment = Fragment { number: reader.u16()?, total: reader.u16()? };
        if fragment.number == 0 || fragment.number > fragment.total {
            return Err(Malformed("fragment number outside of one to total"));
        }
        if fragment.total > FRAGMENTS_MAX {
            return Err(Malformed("too many fragments"));
        }
        if fragment.number > 1 && first != PayloadType::NONE {
            return Err(Malformed("a later fragment names a payload"));
        }
        Ok(fragment)
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend(self.number.to_be_bytes());
        out.extend(self.total.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= test IK-107
    #[test]
    fn numbers_and_totals() {
        for (first, number, total, fits) in [
            (PayloadType::IDi, 1, 1, true),
            (PayloadType::IDi, 1, FRAGMENTS_MAX, true),
            (PayloadType::NONE, 2, 2, true),
            (PayloadType::IDi, 2, 2, false),
            (PayloadType::IDi, 0, 1, false),
            (PayloadType::NONE, 3, 2, false),
            (PayloadType::IDi, 1, 0, false),
            (PayloadType::IDi, 1, FRAGMENTS_MAX + 1, false),
        ] {
            let fragment = Fragment { number, total };
            let mut body = Vec::new();
            fragment.emit(&mut body);
            assert_eq!(Fragment::parse(first, &body) == Ok(fragment), fits, "{first} {fragment:?}");
        }
        assert!(Fragment::parse(PayloadType::IDi, &[0, 1, 0]).is_err());
    }
}
