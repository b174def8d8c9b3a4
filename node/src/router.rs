//! Takes what the workers hand over and brings it to the actor of its segment.
//!
//! Nothing waits here: a full mailbox costs datagrams, which are counted and come again; it never costs the worker.

use std::collections::BTreeMap;

use ipsec::datagram::Datagram;
use ipsec::esp;
use ipsec::ike::{self, Order};
use ipsec::types::{EspSeq, Segment};
use raft::state::Wanted;

use crate::datapath::{Report, Reports};
use crate::observe::{Observe, Queue};
use crate::roster::Routes;
use crate::segment::Message;

/// Until the workers are gone, which is the end of the process.
pub async fn run(mut reports: Reports, routes: Routes, observe: Observe) {
    let mut router = Router { routes, observe };
    while let Some(report) = reports.recv().await {
        match report {
            Report::Ike(datagrams) => router.datagrams(datagrams),
            Report::Events(events) => router.events(events).await,
            Report::Failed(why) => {
                tracing::error!(why, "the packet worker has failed");
                return;
            }
        }
    }
}

struct Router {
    routes: Routes,
    observe: Observe,
}

impl Router {
    fn datagrams(&mut self, datagrams: Vec<Datagram>) {
        let mut by_segment: BTreeMap<Segment, Vec<Datagram>> = BTreeMap::new();
        let mut nowhere = 0;
        for datagram in datagrams {
            match ike::segment_of(datagram.peer, &datagram.octets) {
                Some(segment) => by_segment.entry(segment).or_default().push(datagram),
                None => nowhere += 1,
            }
        }
        let metrics = self.observe.metrics();
        metrics.esp_dropped("ike_malformed", nowhere);
        for (segment, datagrams) in by_segment {
            let count = datagrams.len() as u64;
            match self.routes.to(segment) {
                Some(mailbox) => {
                    if mailbox.offer(Message::Datagrams(datagrams)).is_err() {
                        metrics.queue_dropped(Queue::Ike, count);
                    }
                }
                None => metrics.esp_dropped("not_owned", count),
            }
        }
    }

    async fn events(&mut self, events: Vec<esp::Event>) {
        let mut needs: BTreeMap<Segment, Vec<Wanted>> = BTreeMap::new();
        for event in events {
            match event {
                esp::Event::NeedBlock { ike, child, count } => {
                    let wanted = Wanted { ike, child, count, upto: EspSeq(0) };
                    needs.entry(child.segment()).or_default().push(wanted);
                }
                esp::Event::NeedClaim { ike, child, upto } => {
                    let wanted = Wanted { ike, child, count: 0, upto };
                    needs.entry(child.segment()).or_default().push(wanted);
                }
                esp::Event::PeerMoved { ike, peer, .. } => {
                    self.tell(ike.segment(), Message::PeerMoved { ike, peer }).await;
                }
                esp::Event::SoftLimit { ike, child } | esp::Event::Stranded { ike, child } => {
                    self.tell(ike.segment(), Message::Order(Order::RekeyChild(ike, child), None)).await;
                }
                esp::Event::HardLimit { ike, child } => {
                    self.tell(ike.segment(), Message::Order(Order::TerminateChild(ike, child), None)).await;
                }
                //= ES-27
                esp::Event::Audit { reason, child, number, peer } => {
                    tracing::info!(reason = reason.label(), %child, number, %peer, "packet refused");
                }
                esp::Event::UnknownSpi { child, peer } => {
                    tracing::info!(reason = "unknown_spi", %child, %peer, "packet refused");
                }
                esp::Event::FirstInbound { .. } => {}
            }
        }
        for (segment, needs) in needs {
            self.tell(segment, Message::NeedNumbers(needs)).await;
        }
    }

    async fn tell(&self, segment: Segment, message: Message) {
        if let Some(mailbox) = self.routes.to(segment) {
            mailbox.send(message).await;
        }
    }
}
