//! When an IKE SA wants attention: one struct of deadlines for each SA, all on the caller's monotonic clock.
//!
//! | timer | starts | ends in | source |
//! |---|---|---|---|
//! | retransmit | our request is committed | the same octets again, at last: the peer is gone | RFC 7296, 2.1 |
//! | liveness | the last protected message or packet | an empty INFORMATIONAL | 2.4 |
//! | rekey (IKE, child) | establishment, less up to 10 % | CREATE_CHILD_SA | 2.8 |
//! | expiry (IKE, child) | establishment, plus 10 % | Delete | 2.8 |
//! | leftover (IKE, child) | somebody replaced it | our Delete, when the peer's does not come | 2.8 |

use std::collections::BTreeMap;

use crate::limits;
use crate::policy::Connection;
use crate::record::{ChildPhase, ChildRecord, IkeRecord, Phase, Why};
use crate::types::{ChildSpi, MessageId, Millis};

use super::{Context, Order};

pub(super) struct Timers {
    /// The last proof of life.
    pub heard: Millis,
    pub retransmit: Option<Retransmit>,
    pub ike: Lifetime,
    pub children: BTreeMap<ChildSpi, Lifetime>,
    /// Orders not carried out yet, in their order.
    pub wishes: Vec<Order>,
    pub close: Option<Why>,
}

pub(super) struct Retransmit {
    pub message_id: MessageId,
    pub at: Millis,
    pub wait_ms: u64,
    pub tries: u32,
}

/// Deadlines of an IKE SA or a child; `None`: never.
#[derive(Clone, Copy, Default)]
pub(super) struct Lifetime {
    pub rekey: Option<Millis>,
    pub expiry: Option<Millis>,
    pub leftover: Option<Millis>,
}

impl Lifetime {
    /// `after_ms` counted from establishment, of which `age_ms` have passed. The jitter keeps SAs that began
    /// together, or were taken over together, from rekeying together (CL-29).
    //= IK-72
    fn new(after_ms: u64, age_ms: u64, ctx: &mut Context<'_>) -> Lifetime {
        if after_ms == 0 {
            return Lifetime::default();
        }
        let tenth = after_ms / 10;
        let jitter = if tenth == 0 { 0 } else { ctx.rng.u64() % tenth };
        Lifetime {
            rekey: Some(ctx.now.after((after_ms - jitter).saturating_sub(age_ms))),
            expiry: Some(ctx.now.after((after_ms + tenth).saturating_sub(age_ms))),
            leftover: None,
        }
    }

    fn next(&self) -> Option<Millis> {
        [self.rekey, self.expiry, self.leftover].into_iter().flatten().min()
    }
}

impl Timers {
    pub fn new(record: &IkeRecord, ctx: &mut Context<'_>) -> Timers {
        let rekey_ms = ctx.gateway.connection(&record.connection).map_or(0, |connection| connection.rekey_ms);
        let age_ms = ctx.utc.since(record.established_at);
        let mut timers = Timers {
            heard: ctx.now,
            retransmit: None,
            ike: Lifetime::new(rekey_ms, age_ms, ctx),
            children: BTreeMap::new(),
            wishes: Vec::new(),
            close: None,
        };
        timers.refresh(record, ctx);
        timers
    }

    /// Follows the record: what is new gets its deadlines, what is gone loses them.
    pub fn refresh(&mut self, record: &IkeRecord, ctx: &mut Context<'_>) {
        match (&record.outstanding, &self.retransmit) {
            (Some(outstanding), Some(running)) if running.message_id == outstanding.message_id => {}
            (Some(outstanding), _) => {
                self.retransmit = Some(Retransmit {
                    message_id: outstanding.message_id,
                    at: ctx.now.after(limits::RETRANSMIT_FIRST_MS),
                    wait_ms: limits::RETRANSMIT_FIRST_MS,
                    tries: 0,
                });
            }
            (None, _) => self.retransmit = None,
        }
        if record.phase != Phase::Established {
            self.ike = Lifetime { leftover: self.ike.leftover, ..Lifetime::default() };
            self.ike.leftover.get_or_insert(ctx.now.after(match record.phase {
                Phase::Closing { .. } => 0,
                _ => limits::LEFTOVER_MS,
            }));
        }
        self.children.retain(|&spi, _| record.child(spi).is_some());
        for child in &record.children {
            let lifetime =
                self.children.entry(child.spi_in).or_insert_with(|| child_lifetime(record, child, ctx));
            if child.phase != ChildPhase::Live {
                *lifetime = Lifetime { leftover: lifetime.leftover, ..Lifetime::default() };
                lifetime.leftover.get_or_insert(ctx.now.after(match child.phase {
                    ChildPhase::Closing { .. } => 0,
                    _ => limits::LEFTOVER_MS,
                }));
            }
        }
    }

    pub fn wish(&mut self, order: Order) {
        if let Order::Terminate(_) = order {
            self.close(Why::Terminated);
        } else if !self.wishes.contains(&order) {
            self.wishes.push(order);
        }
    }

    /// The first reason wins.
    pub fn close(&mut self, why: Why) {
        self.close.get_or_insert(why);
    }

    /// When something is due. An unanswered request of ours holds back all else: the window is one (IK-16).
    pub fn next(&self, connection: Option<&Connection>) -> Millis {
        if let Some(retransmit) = &self.retransmit {
            return retransmit.at;
        }
        if self.close.is_some() || !self.wishes.is_empty() {
            return Millis(0);
        }
        let dpd_ms = connection.map_or(0, |connection| connection.dpd_ms);
        let liveness = (dpd_ms > 0).then(|| self.heard.after(dpd_ms));
        let children = self.children.values().filter_map(Lifetime::next);
        children.chain(self.ike.next()).chain(liveness).min().unwrap_or(Millis(u64::MAX))
    }
}

fn child_lifetime(record: &IkeRecord, child: &ChildRecord, ctx: &mut Context<'_>) -> Lifetime {
    let after_ms = ctx
        .gateway
        .connection(&record.connection)
        .and_then(|connection| connection.children.iter().find(|policy| policy.name == child.name))
        .map_or(0, |policy| policy.rekey_after_ms);
    let age_ms = ctx.utc.since(child.established_at);
    Lifetime::new(after_ms, age_ms, ctx)
}
