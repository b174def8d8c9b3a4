//! IKE SAs between IKE_SA_INIT and IKE_AUTH: in the owner's memory only, bounded, and gone after 30 s.
//!
//! Strangers can make entries here, so nothing of it is ever written to the log (I11). The oldest gives way when
//! the table is full. A retransmitted IKE_SA_INIT is known by the hash of the whole message and its sender (CL-26).

use std::collections::{BTreeMap, HashMap};

use crypto::cipher::{OpenKey, SealKey};
use std::net::SocketAddr;

use crate::limits;
use crate::record::{IkeKeys, IkeSuite, Path};
use crate::types::{Millis, Spi};

/// All that IKE_AUTH needs of the exchange before it.
pub(super) struct HalfOpen {
    pub spi: Spi,
    pub peer_spi: Spi,
    pub path: Path,
    pub suite: IkeSuite,
    pub keys: IkeKeys,
    pub seal: SealKey,
    pub open: OpenKey,
    /// The peer's last IKE_SA_INIT request and our reply: both are authenticated in IKE_AUTH.
    pub request: Vec<u8>,
    pub reply: Vec<u8>,
    pub nonce_i: Vec<u8>,
    pub nonce_r: Vec<u8>,
    pub created: Millis,
    pub busy: bool,
    pub bad_messages: u32,
    /// The answer to an IKE_AUTH that failed: this attempt is over, its retransmissions get the same octets.
    pub failure: Option<Vec<u8>>,
}

/// Who sent which IKE_SA_INIT: source address and hash of the message.
pub(super) type InitKey = (SocketAddr, [u8; 32]);

#[derive(Default)]
pub(super) struct HalfOpenTable {
    by_spi: HashMap<Spi, (HalfOpen, InitKey)>,
    by_init: HashMap<InitKey, Spi>,
    by_age: BTreeMap<(Millis, Spi), ()>,
    /// Not told to the standby yet.
    fresh: Vec<Spi>,
}

impl HalfOpenTable {
    pub fn len(&self) -> usize {
        self.by_spi.len()
    }

    /// True from where on a cookie is asked for.
    pub fn under_load(&self) -> bool {
        self.len() >= limits::HALF_OPEN_BEFORE_COOKIE
    }

    /// One that a peer has just made. Under load the standby is spared: it could not keep up with strangers either.
    pub fn make(&mut self, key: InitKey, half_open: HalfOpen) {
        if !self.under_load() {
            self.fresh.push(half_open.spi);
        }
        self.insert(key, half_open);
    }

    /// Those made since the last call that are still there.
    pub fn take_fresh(&mut self) -> Vec<Spi> {
        let fresh = std::mem::take(&mut self.fresh);
        fresh.into_iter().filter(|&spi| self.contains(spi)).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &HalfOpen> {
        self.by_spi.values().map(|(half_open, _)| half_open)
    }

    pub fn get(&self, spi: Spi) -> Option<&HalfOpen> {
        self.by_spi.get(&spi).map(|(half_open, _)| half_open)
    }

    pub fn insert(&mut self, key: InitKey, half_open: HalfOpen) {
        if self.len() >= limits::HALF_OPEN_PER_SEGMENT
            && let Some(&(_, oldest)) = self.by_age.keys().find(|(_, spi)| !self.by_spi[spi].0.busy)
        {
            self.remove(oldest);
        }
        let spi = half_open.spi;
        self.by_init.insert(key, spi);
        self.by_age.insert((half_open.created, spi), ());
        self.by_spi.insert(spi, (half_open, key));
    }

    pub fn get_mut(&mut self, spi: Spi) -> Option<&mut HalfOpen> {
        self.by_spi.get_mut(&spi).map(|(half_open, _)| half_open)
    }

    pub fn contains(&self, spi: Spi) -> bool {
        self.by_spi.contains_key(&spi)
    }

    /// The one that this very request has made.
    pub fn made_by(&self, key: &InitKey) -> Option<&HalfOpen> {
        self.by_init.get(key).and_then(|spi| self.by_spi.get(spi)).map(|(half_open, _)| half_open)
    }

    pub fn remove(&mut self, spi: Spi) -> Option<HalfOpen> {
        let (half_open, key) = self.by_spi.remove(&spi)?;
        self.by_init.remove(&key);
        self.by_age.remove(&(half_open.created, spi));
        Some(half_open)
    }

    pub fn free(&mut self, spi: Spi) {
        if let Some(half_open) = self.get_mut(spi) {
            half_open.busy = false;
        }
    }

    pub fn expire(&mut self, now: Millis) {
        while let Some((&(created, spi), ())) = self.by_age.first_key_value() {
            let half_open = &self.by_spi[&spi].0;
            if now.since(created) < limits::HALF_OPEN_MS || half_open.busy {
                break;
            }
            self.remove(spi);
        }
    }

    pub fn next_expiry(&self) -> Option<Millis> {
        let (&(created, spi), ()) = self.by_age.first_key_value()?;
        (!self.by_spi[&spi].0.busy).then(|| created.after(limits::HALF_OPEN_MS))
    }
}
