//! Everything that the engine can tell: the only source of log lines, counters and `events` output about IKE.

use std::net::{IpAddr, SocketAddr};

use crate::policy::Identity;
use crate::record::{ChildRecord, EspSuite, IkeRecord, IkeSuite, Why};
use crate::types::{ChildSpi, Spi};
use crate::wire::{ExchangeType, NotifyType};

/// Why a datagram was dropped. A metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    Malformed,
    /// A major version other than 2, and no answer left in this second.
    Version,
    /// No IKE SA of this segment has these SPIs.
    UnknownSpi,
    /// A message ID below the window, or beyond it.
    Window,
    /// A response that nobody waits for.
    Unsolicited,
    /// The integrity value is wrong.
    Integrity,
    /// A decision on this SA is not committed yet.
    Busy,
    /// No room for another half-open SA.
    Overload,
    /// No connection is configured for this peer address, so no answer tells that somebody is here.
    NoConnection,
    /// The peer's public value is no point or number of the group.
    PublicValue,
    /// Our side failed: no random SPI left, or a key could not be used any more.
    Internal,
}

impl DropReason {
    pub const ALL: [DropReason; 11] = [
        DropReason::Malformed,
        DropReason::Version,
        DropReason::UnknownSpi,
        DropReason::Window,
        DropReason::Unsolicited,
        DropReason::Integrity,
        DropReason::Busy,
        DropReason::Overload,
        DropReason::NoConnection,
        DropReason::PublicValue,
        DropReason::Internal,
    ];

    pub fn label(self) -> &'static str {
        match self {
            DropReason::Malformed => "ike_malformed",
            DropReason::Version => "ike_version",
            DropReason::UnknownSpi => "ike_unknown_spi",
            DropReason::Window => "ike_window",
            DropReason::Unsolicited => "ike_unsolicited",
            DropReason::Integrity => "ike_integrity",
            DropReason::Busy => "ike_busy",
            DropReason::Overload => "ike_overload",
            DropReason::NoConnection => "ike_no_connection",
            DropReason::PublicValue => "ike_public_value",
            DropReason::Internal => "ike_internal",
        }
    }
}

/// How an exchange ended. A metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExchangeResult {
    Done,
    /// Answered from the committed or remembered reply.
    Retransmitted,
    Cookie,
    InvalidKe,
    NoProposal,
    AuthenticationFailed,
    /// Any other error notify.
    Refused,
    /// Our request was answered with an error.
    PeerRefused,
    /// Our request was never answered.
    TimedOut,
}

impl ExchangeResult {
    pub fn label(self) -> &'static str {
        match self {
            ExchangeResult::Done => "done",
            ExchangeResult::Retransmitted => "retransmitted",
            ExchangeResult::Cookie => "cookie",
            ExchangeResult::InvalidKe => "invalid_ke",
            ExchangeResult::NoProposal => "no_proposal",
            ExchangeResult::AuthenticationFailed => "authentication_failed",
            ExchangeResult::Refused => "refused",
            ExchangeResult::PeerRefused => "peer_refused",
            ExchangeResult::TimedOut => "timed_out",
        }
    }
}

/// An IKE SA, as people name it. Taken from the record, because the event may be its end.
#[derive(Clone, Debug, PartialEq)]
pub struct IkeName {
    pub spi_i: Spi,
    pub spi_r: Spi,
    pub connection: String,
    pub peer: Identity,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChildName {
    pub name: String,
    pub spi_in: ChildSpi,
    pub spi_out: ChildSpi,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Exchange {
        exchange: ExchangeType,
        result: ExchangeResult,
    },
    /// An IKE SA is established.
    Up {
        ike: IkeName,
        address: SocketAddr,
        suite: IkeSuite,
        inner: Vec<IpAddr>,
    },
    Down {
        ike: IkeName,
        why: Why,
    },
    Rekeyed {
        old: IkeName,
        new_spi_i: Spi,
        new_spi_r: Spi,
    },
    ChildUp {
        ike: IkeName,
        child: ChildName,
        suite: EspSuite,
    },
    ChildRekeyed {
        ike: IkeName,
        old: ChildSpi,
        child: ChildName,
    },
    ChildDown {
        ike: IkeName,
        child: ChildName,
        why: Why,
    },
    Moved {
        spi: Spi,
        from: SocketAddr,
        to: SocketAddr,
    },
    /// An attempt was refused. `reason` is for the administrator, never for the peer; the peer was told `notify`.
    Refused {
        address: SocketAddr,
        peer: Option<Identity>,
        notify: NotifyType,
        reason: &'static str,
    },
    /// Our request is sent again.
    Retransmit {
        spi: Spi,
        tries: u32,
    },
}

impl From<&IkeRecord> for IkeName {
    fn from(record: &IkeRecord) -> IkeName {
        let (spi_i, spi_r) = record.spis();
        IkeName { spi_i, spi_r, connection: record.connection.clone(), peer: record.peer_id.clone() }
    }
}

impl From<&ChildRecord> for ChildName {
    fn from(child: &ChildRecord) -> ChildName {
        ChildName { name: child.name.clone(), spi_in: child.spi_in, spi_out: child.spi_out }
    }
}
