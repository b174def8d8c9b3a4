//! Traffic Selectors, TSi and TSr (RFC 7296, 3.13).
//!
//! ```text
//!   number (1) | reserved (3) | selectors: type (1) | IP protocol (1) | length (2) | ports (2+2) | addresses (4+4 or 16+16)
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::Malformed;
use super::reader::Reader;
use super::registry::TsType;
use crate::policy::Selector;

const SELECTOR_V4_LEN: u16 = 16;
const SELECTOR_V6_LEN: u16 = 40;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ts {
    /// In the sender's order, which says what it cares for most (RFC 7296, 2.9). Empty when there are none of
    /// a type that we know: then nothing is acceptable.
    pub selectors: Vec<Selector>,
}

impl Ts {
    pub fn new(selectors: Vec<Selector>) -> Ts {
        Ts { selectors }
    }

    //= IK-65
    pub fn parse(body: &[u8]) -> Result<Ts, Malformed> {
        let mut reader = Reader::new(body);
        let count = usize::from(reader.u8()?);
        reader.take(3)?;
        let mut selectors = Vec::with_capacity(count);
        for _ in 0..count {
            selectors.extend(parse_selector(&mut reader)?);
        }
        reader.end()?;
        Ok(Ts { selectors })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        let count = u8::try_from(self.selectors.len()).expect("policy has fewer than 256 selectors a side");
        out.extend([count, 0, 0, 0]);
        for selector in &self.selectors {
            emit_selector(selector, out);
        }
    }
}

/// `None` for a type that we do not know: it is skipped by its length.
fn parse_selector(reader: &mut Reader<'_>) -> Result<Option<Selector>, Malformed> {
    let kind = TsType(reader.u8()?);
    let protocol = reader.u8()?;
    let length = reader.u16()?;
    let expected = match kind {
        TsType::TS_IPV4_ADDR_RANGE => SELECTOR_V4_LEN,
        TsType::TS_IPV6_ADDR_RANGE => SELECTOR_V6_LEN,
        _ => {
            let rest =
                usize::from(length).checked_sub(4).ok_or(Malformed("selector length below its header"))?;
            reader.take(rest)?;
            return Ok(None);
        }
    };
    if length != expected {
        return Err(Malformed("selector length does not fit its type"));
    }
    let (start_port, end_port) = (reader.u16()?, reader.u16()?);
    let (start, end) = if kind == TsType::TS_IPV4_ADDR_RANGE {
        (IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)), IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)))
    } else {
        (IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)), IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)))
    };
    let selector = Selector { protocol, start_port, end_port, start, end };
    if start > end {
        return Err(Malformed("first address behind the last"));
    }
    if start_port > end_port && !selector.is_opaque() {
        return Err(Malformed("first port behind the last"));
    }
    Ok(Some(selector))
}

fn emit_selector(selector: &Selector, out: &mut Vec<u8>) {
    let (kind, length) = match selector.start {
        IpAddr::V4(_) => (TsType::TS_IPV4_ADDR_RANGE, SELECTOR_V4_LEN),
        IpAddr::V6(_) => (TsType::TS_IPV6_ADDR_RANGE, SELECTOR_V6_LEN),
    };
    out.extend([kind.0, selector.protocol]);
    out.extend(length.to_be_bytes());
    out.extend(selector.start_port.to_be_bytes());
    out.extend(selector.end_port.to_be_bytes());
    for address in [selector.start, selector.end] {
        match address {
            IpAddr::V4(ip) => out.extend(ip.octets()),
            IpAddr::V6(ip) => out.extend(ip.octets()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= test IK-65
    #[test]
    fn selectors_and_what_is_refused() {
        for (body, expected) in [
            ("01000000 0700 0010 0000 ffff 0a000000 0affffff", Some("10.0.0.0/8")),
            ("01000000 0706 0010 0050 0050 0a000001 0a000001", Some("10.0.0.1/32[6/80]")),
            ("01000000 0711 0010 ffff 0000 0a000001 0a000001", Some("10.0.0.1/32[17/opaque]")),
            ("01000000 0700 0010 0001 0000 0a000001 0a000001", None),
            ("01000000 0700 0010 0000 ffff 0a000002 0a000001", None),
            ("01000000 0700 0028 0000 ffff 0a000000 0affffff", None),
            ("01000000 0800 0010 0000 ffff 0a000000 0affffff", None),
            ("00000000", Some("none")),
            ("01000000 0a00 0006 7878", Some("none")),
            ("02000000 0700 0010 0000 ffff 0a000000 0affffff", None),
            ("01000000 0700 0010 0000 ffff 0a000000 0affffff 00", None),
            ("01000000 0700 0010 0000 ffff 0a000000 0affff", None),
            ("01000000 0900 0003 00", None),
            // A security label beside an address range: skipped by its length.
            ("02000000 0a00 0006 7878 0700 0010 0000 ffff 0a000000 0affffff", Some("10.0.0.0/8")),
        ] {
            let octets = hex::decode(body.replace(' ', "")).unwrap();
            let shown = Ts::parse(&octets)
                .ok()
                .map(|ts| ts.selectors.first().map_or("none".to_owned(), |selector| selector.to_string()));
            assert_eq!(shown.as_deref(), expected, "{body}");
        }
    }
}
