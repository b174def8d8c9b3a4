//! ESP sequence numbers: which range the owner of a child SA may send on.
//!
//! ```text
//!   1 ............ granted | granted+1 ....... granted+count | ...... last number of the SA
//!   never granted again    | the next grant                  |
//! ```
//!
//! Grants of one child are disjoint by construction: each begins behind `granted`, which never falls (I1, I2). A
//! block is committed before any of its numbers is sent. A change of owner grants a fresh block in the same apply,
//! so the numbers of an older epoch are out of reach of the newer one and the other way round.
//!
//! The arithmetic is `ChildRecord::grant`, so that a child can be born with its first block. This file decides who
//! is granted how much, and checks every grant from the outside.

use ipsec::limits::{FIRST_BLOCK, LARGEST_BLOCK};
use ipsec::record::{self, Block, ChildRecord, Guard, IkeRecord};
use ipsec::types::{ChildSpi, Epoch, EspSeq, Segment, Spi};

use super::limits::RESERVE_MAX;
use super::outcome::{Refusal, Reserved};
use super::sas::Sas;

/// Asks for more numbers for children of one segment, in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    pub guard: Guard,
    pub children: Vec<Wanted>,
}

/// `count` further numbers to send on; more than `LARGEST_BLOCK` is taken for that. With `replay = "strict"` also the
/// right to accept numbers of the peer up to `upto`; then `count` may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The IKE SA, by our SPI.
    pub ike: Spi,
    pub child: ChildSpi,
    pub count: u64,
    pub upto: EspSeq,
}

/// The caller has checked the guard. Children that are gone meanwhile are passed over: their end may have been
/// decided while this was under way.
//= ES-9
pub(super) fn reserve(sas: &mut Sas, reserve: &Reserve) -> Result<Reserved, Refusal> {
    if reserve.children.len() > RESERVE_MAX {
        return Err(record::Refusal::LimitReached.into());
    }
    if reserve.children.iter().any(|wanted| wanted.ike.segment() != reserve.guard.segment) {
        return Err(record::Refusal::SpiTaken.into());
    }
    let mut reserved = Reserved::default();
    for wanted in &reserve.children {
        let count = wanted.count.min(LARGEST_BLOCK);
        let granted = sas.with_child(wanted.ike, wanted.child, |child| {
            child.claim(wanted.upto);
            if count == 0 && child.claimed.is_some() {
                return Ok(child.block);
            }
            grant(child, reserve.guard.epoch, count).ok_or(record::Refusal::Exhausted)
        });
        match granted.unwrap_or(Err(record::Refusal::NotFound)) {
            Ok(block) => reserved.granted.push((wanted.child, block)),
            Err(refusal) => reserved.passed_over.push((wanted.child, refusal)),
        }
    }
    Ok(reserved)
}

/// A new epoch begins: every child of the segment gets a fresh block, and what was left of the old one is lost.
/// A child at its last number gets an empty one: it sends nothing until it is rekeyed. What the epoch before could have
/// accepted counts as received, where nothing may come twice.
pub(super) fn renew(sas: &mut Sas, segment: Segment, epoch: Epoch) {
    sas.with_records(segment, |record: &mut IkeRecord| {
        for child in &mut record.children {
            child.claim_anew();
            if grant(child, epoch, FIRST_BLOCK).is_none() {
                child.block = Block { epoch, first: EspSeq(child.granted.0 + 1), last: child.granted };
            }
            assert_eq!(child.block.epoch, epoch, "no child is left in an older epoch");
        }
    });
}

/// Grants and checks what was granted. `None`, and nothing changed, when there is no number left.
fn grant(child: &mut ChildRecord, epoch: Epoch, count: u64) -> Option<Block> {
    let (old_block, old_granted) = (child.block, child.granted);
    let Some(block) = child.grant(epoch, count) else {
        assert!(child.block == old_block && child.granted == old_granted, "no grant, no change");
        return None;
    };
    assert!(child.granted > old_granted, "a grant adds numbers");
    assert!(child.granted <= child.last_number(), "no number past the last");
    assert!(child.granted.0 - old_granted.0 <= count, "no more than was asked for");
    assert!(block == child.block && block.epoch == epoch && block.last == child.granted);
    let goes_on = old_block.epoch == epoch && old_block.first <= old_block.last;
    let first = if goes_on { old_block.first } else { EspSeq(old_granted.0 + 1) };
    assert_eq!(block.first, first, "a block of a new epoch begins behind all that was ever granted");
    Some(block)
}
