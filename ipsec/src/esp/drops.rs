//! Why a packet was not passed on: one enum for both directions, so that a reason is a metric label, a test's
//! assertion and a word in the documentation, all the same (RFC 4301, 4.4.2.1 and 5.2 ask for most of them).

/// A reason to drop. Drops are counted, never logged one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// No SA has this SPI.
    UnknownSpi,
    /// The segment is not assigned to our running incarnation, or our lease has lapsed.
    NotOwner,
    /// The number was seen before or is older than the window.
    Replay,
    /// The integrity check value is wrong.
    Integrity,
    /// The octets make no packet: too short, impossible lengths, wrong padding, inner header broken.
    Malformed,
    /// The trailer names something other than IPv4 or IPv6 on a tunnel SA.
    NextHeader,
    /// The inner packet is outside its SA's selectors.
    Selectors,
    /// A fragment on an SA that selects ports, which the fragment does not show.
    Fragment,
    /// The outer header says "congestion experienced", the inner one cannot (RFC 6040, 4.2).
    Ecn,
    /// The SA is past its hard limit.
    Expired,
    /// A dummy packet (next header 59): no error, but nothing to deliver.
    Dummy,
    /// No SA selects this inner packet: nothing leaves in clear.
    NoPolicy,
    /// Its SA has no committed number left and the queue is full.
    Block,
    /// Beyond what this epoch has claimed of the peer's numbers; with `replay = "strict"` only.
    Claim,
    /// Longer than the path takes, and not to be fragmented; the sender was told.
    TooBig,
    /// A NAT keepalive: nothing is wrong.
    Keepalive,
    /// More IKE messages than the control side takes.
    IkeOverload,
    /// No socket has the local address of the SA's path.
    NoSocket,
}

impl DropReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [DropReason; 18] = [
        DropReason::UnknownSpi,
        DropReason::NotOwner,
        DropReason::Replay,
        DropReason::Integrity,
        DropReason::Malformed,
        DropReason::NextHeader,
        DropReason::Selectors,
        DropReason::Fragment,
        DropReason::Ecn,
        DropReason::Expired,
        DropReason::Dummy,
        DropReason::NoPolicy,
        DropReason::Block,
        DropReason::Claim,
        DropReason::TooBig,
        DropReason::Keepalive,
        DropReason::IkeOverload,
        DropReason::NoSocket,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            DropReason::UnknownSpi => "unknown_spi",
            DropReason::NotOwner => "not_owner",
            DropReason::Replay => "replay",
            DropReason::Integrity => "integrity",
            DropReason::Malformed => "malformed",
            DropReason::NextHeader => "next_header",
            DropReason::Selectors => "selectors",
            DropReason::Fragment => "fragment",
            DropReason::Ecn => "ecn",
            DropReason::Expired => "expired",
            DropReason::Dummy => "dummy",
            DropReason::NoPolicy => "no_policy",
            DropReason::Block => "block",
            DropReason::Claim => "claim",
            DropReason::TooBig => "too_big",
            DropReason::Keepalive => "keepalive",
            DropReason::IkeOverload => "ike_overload",
            DropReason::NoSocket => "no_socket",
        }
    }
}

/// How often each reason applied. Plain integers: one writer, published once per batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    pub fn add(&mut self, reason: DropReason, packets: u64) {
        self.0[reason as usize] += packets;
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Drops) {
        for (own, more) in self.0.iter_mut().zip(other.0) {
            *own += more;
        }
    }

    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().map(|reason| (reason, self.of(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_label() {
        let mut labels = std::collections::HashSet::new();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert!(labels.insert(reason.label()), "{reason:?}");
        }
    }
}
