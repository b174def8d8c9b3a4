//! From what the IKE engine tells to what the node tells: events, log lines, counters.

use ipsec::ike;
use ipsec::record::Why;

use crate::observe::{Event, Observe};

/// Reports the engine's events in their order. `index`: where in the log the change behind them stands.
pub fn all(observe: &Observe, events: Vec<ike::Event>, index: u64) {
    for event in events {
        one(observe, event, index);
    }
}

fn one(observe: &Observe, event: ike::Event, index: u64) {
    match event {
        ike::Event::Exchange { exchange, result } => {
            observe.metrics().ike_exchange(exchange_label(exchange), result.label());
        }
        ike::Event::Up { ike, address, suite, .. } => observe.emit(Event::IkeUp {
            spi_i: ike.spi_i,
            spi_r: ike.spi_r,
            connection: ike.connection,
            peer_id: ike.peer.to_string(),
            peer_address: address,
            suite: words::ike(&suite),
            index,
        }),
        ike::Event::Down { ike, why } => observe.emit(Event::IkeDown {
            spi_i: ike.spi_i,
            spi_r: ike.spi_r,
            connection: ike.connection,
            peer_id: ike.peer.to_string(),
            why: why_words(why).into(),
        }),
        ike::Event::Rekeyed { old, new_spi_i, new_spi_r } => observe.emit(Event::IkeRekeyed {
            spi_i: old.spi_i,
            spi_r: old.spi_r,
            new_spi_i,
            new_spi_r,
            connection: old.connection,
            peer_id: old.peer.to_string(),
        }),
        ike::Event::ChildUp { ike, child, suite } => observe.emit(Event::ChildUp {
            name: child.name,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            peer_id: ike.peer.to_string(),
            suite: words::esp(&suite),
        }),
        ike::Event::ChildRekeyed { ike, old, child } => observe.emit(Event::ChildRekeyed {
            name: child.name,
            old_spi_in: old,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            peer_id: ike.peer.to_string(),
        }),
        ike::Event::ChildDown { ike, child, why } => observe.emit(Event::ChildDown {
            name: child.name,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            peer_id: ike.peer.to_string(),
            why: why_words(why).into(),
        }),
        ike::Event::Refused { address, peer, notify, reason } => observe.emit(Event::IkeFailed {
            peer_address: address,
            peer_id: peer.map(|peer| peer.to_string()),
            notify: notify.to_string(),
            why: reason.into(),
        }),
        ike::Event::Moved { spi, from, to } => tracing::info!(%spi, %from, %to, "the peer has a new address"),
        ike::Event::Retransmit { spi, tries } => tracing::debug!(%spi, tries, "request sent again"),
    }
}

fn exchange_label(exchange: ipsec::wire::ExchangeType) -> &'static str {
    use ipsec::wire::ExchangeType;
    match exchange {
        ExchangeType::IKE_SA_INIT => "ike_sa_init",
        ExchangeType::IKE_AUTH => "ike_auth",
        ExchangeType::CREATE_CHILD_SA => "create_child_sa",
        ExchangeType::INFORMATIONAL => "informational",
        _ => "other",
    }
}

fn why_words(why: Why) -> &'static str {
    match why {
        Why::PeerDeleted => "deleted by the peer",
        Why::Terminated => "terminated",
        Why::Rekeyed => "rekeyed",
        Why::PeerSilent => "the peer does not answer",
        Why::Superseded => "the peer has connected again",
        Why::Expired => "reached its lifetime",
        Why::Unconfigured => "its connection is not configured any more",
        Why::Misbehaved => "the peer broke the protocol",
    }
}

/// Suites in swanctl's words.
pub mod words {
    use crypto::kex::Group;
    use crypto::prf::Prf;
    use ipsec::record::{EspSuite, IkeSuite};

    pub fn ike(suite: &IkeSuite) -> String {
        format!("{}-{}-{}", suite.protection, prf(suite.prf), group(suite.group))
    }

    pub fn esp(suite: &EspSuite) -> String {
        let mut words = suite.protection.to_string();
        if let Some(own) = suite.group {
            words += "-";
            words += group(own);
        }
        if suite.esn {
            words += "-esn";
        }
        words
    }

    pub fn prf(prf: Prf) -> &'static str {
        match prf {
            Prf::HmacSha256 => "prfsha256",
            Prf::HmacSha384 => "prfsha384",
            Prf::HmacSha512 => "prfsha512",
        }
    }

    pub fn group(group: Group) -> &'static str {
        match group {
            Group::Modp2048 => "modp2048",
            Group::Modp3072 => "modp3072",
            Group::Modp4096 => "modp4096",
            Group::Ecp256 => "ecp256",
            Group::Ecp384 => "ecp384",
            Group::Curve25519 => "x25519",
        }
    }
}
