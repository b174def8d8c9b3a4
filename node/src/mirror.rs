//! Half-open IKE SAs on their way from an owner to its standby: in memory on both sides, never in the log (I11).

use std::time::Duration;

use crypto::Secret;
use ipsec::types::Segment;

use crate::asks::{Asks, Topic};
use crate::io::clock::{Clock, SystemClock};
use crate::moves::Luggage;

/// A client sends IKE_AUTH some milliseconds after our answer: what arrives later than this helps nobody.
pub const WITHIN: Duration = Duration::from_millis(500);

#[derive(Clone, PartialEq, prost::Message)]
pub struct HalfOpen {
    #[prost(uint32, tag = "1")]
    segment: u32,
    /// As `ipsec::ike::Endpoint::take_fresh` wrote them.
    #[prost(bytes = "vec", tag = "2")]
    octets: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Kept {}

impl HalfOpen {
    pub fn new(segment: Segment, octets: &Secret) -> HalfOpen {
        HalfOpen { segment: segment.0.into(), octets: octets.as_bytes().to_vec() }
    }
}

/// Keeps what other nodes mirror here, for the day that a segment of theirs becomes ours.
pub fn keep(asks: &Asks, luggage: Luggage) {
    asks.on(Topic::Mirror, move |_, it: HalfOpen| {
        if let Ok(segment) = u8::try_from(it.segment) {
            luggage.mirror(Segment(segment), Secret::from(it.octets), SystemClock.now());
        }
        async { Kept {} }
    });
}
