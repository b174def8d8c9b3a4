//! I7: a protected packet is delivered to the inside at most once; after a crash within the stated bound.
//!
//! The client's echo datagrams carry a number each (`world::echo`), so on the inner cable every one of them can be told
//! from every other, whatever ESP packet it came in.

use std::collections::HashMap;

use super::Report;
use super::pcap::Frame;

/// Counts deliveries; feeds on frames of the inner network.
#[derive(Debug, Default)]
pub struct Checker {
    delivered: HashMap<Datagram, u64>,
}

/// Source address and port, and what it says: never two alike from one sender.
type Datagram = ([u8; 4], u16, Vec<u8>);

impl Checker {
    /// Looks at IPv4 UDP to `port`, other frames are none of its business.
    pub fn see(&mut self, frame: &Frame<'_>, port: u16) {
        if let Some(datagram) = datagram(frame.ip, port) {
            *self.delivered.entry(datagram).or_default() += 1;
        }
    }

    /// How many deliveries there were beyond the first of each.
    pub fn again(&self) -> u64 {
        self.delivered.values().map(|count| count - 1).sum()
    }

    /// At most `bound` deliveries beyond the first of each.
    pub fn finish(self, bound: u64) -> Report {
        let again = self.again();
        let mut violations = Vec::new();
        if again > bound {
            violations.push(format!("{again} datagrams were delivered again, the bound is {bound}"));
        }
        Report { judged: self.delivered.len() as u64, violations }
    }
}

fn datagram(ip: &[u8], port: u16) -> Option<Datagram> {
    let header = usize::from(ip.first()? & 15) * 4;
    if ip[0] >> 4 != 4 || *ip.get(9)? != 17 {
        return None;
    }
    let udp = ip.get(header..)?;
    let word = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    let length = usize::from(word(4)?);
    (word(2)? == port).then_some(())?;
    Some((ip.get(12..16)?.try_into().ok()?, word(0)?, udp.get(8..length)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: u16 = 7;

    fn delivered(number: u8, ttl: u8, to: u16) -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 29, 0, 0, 0, 0, ttl, 17, 0, 0, 10, 99, 0, 1, 10, 10, 0, 9];
        ip.extend([0x9c, 0x40]);
        ip.extend(to.to_be_bytes());
        ip.extend([0, 9, 0, 0, number]);
        ip
    }

    #[test]
    fn planted_second_deliveries_are_caught() {
        // (frames, bound, is it too much)
        for (frames, bound, caught) in [
            (vec![delivered(1, 64, ECHO), delivered(2, 64, ECHO)], 0, false),
            (vec![delivered(1, 64, ECHO), delivered(1, 63, ECHO)], 0, true),
            (vec![delivered(1, 64, ECHO), delivered(1, 63, ECHO)], 1, false),
            (vec![delivered(1, 64, 80), delivered(1, 64, 80)], 0, false),
        ] {
            let mut checker = Checker::default();
            for ip in &frames {
                checker.see(&Frame { at_us: 1, via: 0, ip, whole: true }, ECHO);
            }
            assert_eq!(!checker.finish(bound).violations.is_empty(), caught, "{frames:?}");
        }
    }

    #[test]
    fn a_frame_that_is_cut_is_no_datagram() {
        let whole = delivered(1, 64, ECHO);
        for cut in 0..whole.len() {
            assert_eq!(datagram(&whole[..cut], ECHO), None);
        }
    }
}
