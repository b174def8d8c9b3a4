//! A child SA's packets as the client makes and reads them: one key each way, a counter, a replay window.
//!
//! The gateway's packet path is `esp`: batches, committed blocks, selectors, no allocation. This one is for a process
//! that nobody takes over, so a counter from 1 is enough.

use crypto::cipher::{OpenKey, SealKey};
use crypto::rng::Rng;

use crate::esp::replay::Window;
use crate::record::{ChildKeys, EspSuite};
use crate::spec::{ESP_HEADER_LEN, ESP_TRAILER_LEN, NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE};
use crate::types::{ChildSpi, EspSeq};
use crate::wire::esp::{Inside, Packet};

/// Keys are fresh with every child, so the epoch of their IVs may be any.
const EPOCH: u32 = 1;

pub struct Tunnel {
    spi_out: ChildSpi,
    esn: bool,
    seal: SealKey,
    open: OpenKey,
    /// The number of the packet sent last.
    sent: u64,
    window: Window,
}

impl Tunnel {
    /// `None` when the keys do not fit the suite.
    pub fn new(spi_out: ChildSpi, suite: EspSuite, keys: &ChildKeys, rng: &mut dyn Rng) -> Option<Tunnel> {
        let protection = suite.protection;
        let (encr, integ) = (keys.encr_out.as_bytes(), keys.integ_out.as_bytes());
        Some(Tunnel {
            spi_out,
            esn: suite.esn,
            seal: SealKey::new(protection, encr, integ, EPOCH, rng).ok()?,
            open: OpenKey::new(protection, keys.encr_in.as_bytes(), keys.integ_in.as_bytes()).ok()?,
            sent: 0,
            window: Window::new(suite.esn),
        })
    }

    /// How many packets were sent, which is also the number of the last one.
    pub fn sent(&self) -> EspSeq {
        EspSeq(self.sent)
    }

    /// The highest number received.
    pub fn received(&self) -> EspSeq {
        self.window.edge()
    }

    /// Writes the ESP packet for an inner packet into `out`, which is overwritten. False: not an IP packet, or the
    /// numbers are used up.
    //= ES-2
    //= ES-9
    pub fn seal(&mut self, inner: &[u8], out: &mut Vec<u8>) -> bool {
        let next_header = match inner.first().map(|octet| octet >> 4) {
            Some(4) => NEXT_HEADER_IPV4,
            Some(6) => NEXT_HEADER_IPV6,
            _ => return false,
        };
        if self.sent == if self.esn { u64::MAX } else { u64::from(u32::MAX) } {
            return false;
        }
        let seq = self.sent + 1;
        let protection = self.seal.protection();
        let unpadded = inner.len() + ESP_TRAILER_LEN;
        let pad_len = unpadded.next_multiple_of(protection.align()) - unpadded;
        out.clear();
        out.extend(self.spi_out.0.to_be_bytes());
        out.extend((seq as u32).to_be_bytes());
        out.resize(ESP_HEADER_LEN + protection.iv_len(), 0);
        out.extend(inner);
        out.extend((1..=pad_len).map(|count| count as u8));
        out.extend([pad_len as u8, next_header]);
        out.resize(out.len() + protection.icv_len(), 0);
        let high = self.esn.then_some((seq >> 32) as u32);
        if self.seal.seal(high, out, ESP_HEADER_LEN).is_err() {
            return false;
        }
        self.sent = seq;
        true
    }

    /// Opens a packet in place; `None` when it is replayed, not authentic, or not a tunnel packet. Empty for a dummy.
    //= ES-8
    //= ES-11
    pub fn open<'a>(&mut self, packet: &'a mut [u8]) -> Option<&'a [u8]> {
        let seq = self.window.infer(Packet::new(packet).ok()?.seq_low());
        self.window.check(seq).ok()?;
        let high = self.esn.then_some((seq.0 >> 32) as u32);
        let plain = self.open.open(high, packet, ESP_HEADER_LEN).ok()?;
        self.window.update(seq);
        let inside = Inside::of(plain)?;
        match inside.next_header {
            NEXT_HEADER_IPV4 | NEXT_HEADER_IPV6 => Some(&plain[..inside.len]),
            NEXT_HEADER_NONE => Some(&[]),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tunnel({}, sent {}, received {})", self.spi_out, self.sent, self.received())
    }
}
