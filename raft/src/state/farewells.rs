//! What stays of IKE SAs that have ended: the SPI, so that nothing begins under it again while messages of the old one
//! may be about, and the reply to the peer's Delete, for its retransmissions (RFC 7296, 2.1; I3). The record is gone with
//! its keys; these octets alone stay for a while, so that also a new owner answers alike.
//!
//! Invariants: at most `FAREWELLS_MAX`; each IKE SPI once, in the order of the log; several may end at one index.

use std::sync::Arc;

use imbl::OrdMap;
use ipsec::limits::FAREWELL_MS;
use ipsec::record::Farewell;
use ipsec::types::{MessageId, Millis, Spi};

use super::limits::FAREWELLS_MAX;
use super::members::ensure;
use super::snapshot::pb;

#[derive(Clone, Debug, Default)]
pub struct Farewells {
    /// By the log index of the end, and the SPI.
    table: OrdMap<(u64, Spi), Arc<Farewell>>,
    by_spi: OrdMap<Spi, u64>,
}

impl Farewells {
    pub fn get(&self, spi: Spi) -> Option<&Arc<Farewell>> {
        self.table.get(&(*self.by_spi.get(&spi)?, spi))
    }

    /// In the order of the log, with its index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Farewell>)> {
        self.table.iter().map(|(&(index, _), farewell)| (index, farewell))
    }

    /// Each new one sends those away whose time is over by the clock of its proposer.
    pub(super) fn add(&mut self, index: u64, farewell: Farewell) {
        while let Some((&oldest, old)) = self.table.iter().next()
            && (farewell.at.since(old.at) >= FAREWELL_MS || self.table.len() >= FAREWELLS_MAX)
        {
            self.by_spi.remove(&old.spi);
            self.table.remove(&oldest);
        }
        let spi = farewell.spi;
        if let Some(earlier) = self.by_spi.insert(spi, index) {
            self.table.remove(&(earlier, spi));
        }
        self.table.insert((index, spi), Arc::new(farewell));
    }

    /// From a snapshot.
    pub(super) fn restore(&mut self, index: u64, farewell: Farewell) -> Result<(), &'static str> {
        let spi = farewell.spi;
        self.table.insert((index, spi), Arc::new(farewell));
        ensure(self.by_spi.insert(spi, index).is_none(), "two farewells of one IKE SA")
    }

    pub(super) fn check(&self, applied: u64) -> Result<(), &'static str> {
        ensure(self.table.len() <= FAREWELLS_MAX, "too many farewells")?;
        ensure(self.by_spi.len() == self.table.len(), "a farewell that the index lacks")?;
        ensure(self.table.keys().all(|&(index, _)| index <= applied), "a farewell above the applied index")
    }
}

impl From<(u64, &Arc<Farewell>)> for pb::Farewell {
    fn from((index, it): (u64, &Arc<Farewell>)) -> Self {
        pb::Farewell {
            index,
            spi: it.spi.0,
            message_id: it.message_id.0,
            octets: it.octets.clone(),
            at: it.at.0,
        }
    }
}

impl From<pb::Farewell> for Farewell {
    fn from(it: pb::Farewell) -> Self {
        Farewell {
            spi: Spi(it.spi),
            message_id: MessageId(it.message_id),
            octets: it.octets,
            at: Millis(it.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn farewell(spi: u64, at: u64) -> Farewell {
        Farewell { spi: Spi(spi), message_id: MessageId(2), octets: vec![spi as u8], at: Millis(at) }
    }

    #[test]
    fn they_go_when_their_time_is_over_and_when_there_are_too_many() {
        let mut farewells = Farewells::default();
        farewells.add(1, farewell(1, 1_000));
        farewells.add(2, farewell(2, 1_000 + FAREWELL_MS - 1));
        assert!(farewells.get(Spi(1)).is_some());
        farewells.add(3, farewell(3, 1_000 + FAREWELL_MS));
        assert!(farewells.get(Spi(1)).is_none() && farewells.get(Spi(2)).is_some());
        for number in 0..FAREWELLS_MAX as u64 {
            farewells.add(10 + number, farewell(100 + number, 1_000 + FAREWELL_MS));
        }
        assert!(farewells.get(Spi(3)).is_none() && farewells.get(Spi(100)).is_some());
        farewells.add(u64::MAX - 1, farewell(1, 1_000 + FAREWELL_MS));
        farewells.add(u64::MAX - 1, farewell(2, 1_000 + FAREWELL_MS));
        assert!(farewells.get(Spi(1)).is_some() && farewells.get(Spi(2)).is_some(), "both at one index");
        assert_eq!(farewells.check(u64::MAX), Ok(()));
        assert!(farewells.check(20).is_err());
    }
}
