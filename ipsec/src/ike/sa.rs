//! What the engine keeps of an established IKE SA beside its record: the keys ready for use, and the timers.
//!
//! The sealing key owns the IV counter of this epoch. It is built once for each (IKE SA, epoch): from the record
//! when the endpoint takes it up, or handed over from the half-open SA that has already sealed a reply with it.

use crypto::cipher::{OpenKey, SealKey};
use crypto::kex::Group;

use crate::record::{IkeKeys, IkeRecord, Side};
use crate::types::{Epoch, Millis};

use super::Context;
use super::timer::Timers;

pub(super) struct Sa {
    pub seal: SealKey,
    pub open: OpenKey,
    /// A decision is on its way through the log.
    pub busy: bool,
    pub timers: Timers,
    /// The group that the peer asked for with INVALID_KE_PAYLOAD.
    pub preferred_group: Option<Group>,
    next: Millis,
}

impl Sa {
    /// `None` when the record's keys do not fit its suite.
    pub fn new(record: &IkeRecord, epoch: Epoch, ctx: &mut Context<'_>) -> Option<Sa> {
        let (seal, open) = keys(&record.keys, record.suite.protection, record.initiator, epoch, ctx)?;
        Some(Sa::with_keys(seal, open, record, ctx))
    }

    pub fn with_keys(seal: SealKey, open: OpenKey, record: &IkeRecord, ctx: &mut Context<'_>) -> Sa {
        let timers = Timers::new(record, ctx);
        let mut sa = Sa { seal, open, busy: false, timers, preferred_group: None, next: Millis(0) };
        sa.schedule(record, ctx);
        sa
    }

    pub fn refresh(&mut self, record: &IkeRecord, ctx: &mut Context<'_>) {
        self.timers.refresh(record, ctx);
        self.schedule(record, ctx);
    }

    /// Something authentic came from the peer.
    //= IK-87
    pub fn heard(&mut self, record: &IkeRecord, ctx: &Context<'_>) {
        self.timers.heard = self.timers.heard.max(ctx.now);
        self.schedule(record, ctx);
    }

    pub fn schedule(&mut self, record: &IkeRecord, ctx: &Context<'_>) {
        self.next = self.timers.next(ctx.gateway.connection(&record.connection));
    }

    pub fn next_timeout(&self) -> Millis {
        self.next
    }

    /// To be looked at in the next round of `timeout`.
    pub fn wake(&mut self) {
        self.next = Millis(0);
    }
}

/// The keys of the two directions, seen from here. IKE messages are few: they use the reference stack (DESIGN 9).
pub(super) fn keys(
    keys: &IkeKeys,
    protection: crypto::cipher::Protection,
    initiator: Side,
    epoch: Epoch,
    ctx: &mut Context<'_>,
) -> Option<(SealKey, OpenKey)> {
    let (ours, theirs) = match initiator {
        Side::Us => (keys.sent_by_initiator(), keys.sent_by_responder()),
        Side::Peer => (keys.sent_by_responder(), keys.sent_by_initiator()),
    };
    let seal = SealKey::reference(protection, ours.0.as_bytes(), ours.1.as_bytes(), epoch.0, ctx.rng).ok()?;
    let open = OpenKey::reference(protection, theirs.0.as_bytes(), theirs.1.as_bytes()).ok()?;
    Some((seal, open))
}
