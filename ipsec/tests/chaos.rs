//! Random schedules: client and gateway ask for anything at any time, over a network that loses, doubles and
//! reorders. Once it is quiet, both sides hold the same SAs, and no message ID ever carried two contents.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::gateway::policy;
use common::world::{World, config};
use ipsec::client::Order;
use ipsec::ike;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    ToGateway,
    ToClient,
    LoseToGateway,
    LoseToClient,
    DoubleToGateway,
    DoubleToClient,
    Reorder,
    Pass(u64),
    Liveness,
    RekeyChild,
    RekeyIke,
    GatewayRekeyChild,
    GatewayRekeyIke,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => Just(Act::ToGateway),
        8 => Just(Act::ToClient),
        1 => Just(Act::LoseToGateway),
        1 => Just(Act::LoseToClient),
        1 => Just(Act::DoubleToGateway),
        1 => Just(Act::DoubleToClient),
        1 => Just(Act::Reorder),
        3 => (1u64..4_000).prop_map(Act::Pass),
        1 => Just(Act::Liveness),
        2 => Just(Act::RekeyChild),
        2 => Just(Act::RekeyIke),
        2 => Just(Act::GatewayRekeyChild),
        2 => Just(Act::GatewayRekeyIke),
    ]
}

fn perform(world: &mut World, act: &Act) {
    match act {
        Act::ToGateway => drop(world.deliver_to_gateway()),
        Act::ToClient => drop(world.deliver_to_client()),
        Act::LoseToGateway => drop(world.to_gateway.pop_front()),
        Act::LoseToClient => drop(world.to_client.pop_front()),
        Act::DoubleToGateway => world.to_gateway.extend(world.to_gateway.front().cloned()),
        Act::DoubleToClient => world.to_client.extend(world.to_client.front().cloned()),
        Act::Reorder => {
            world.to_gateway.rotate_left(world.to_gateway.len().min(1));
            world.to_client.rotate_left(world.to_client.len().min(1));
        }
        Act::Pass(millis) => world.pass(*millis),
        Act::Liveness => drop(world.order(Order::Liveness)),
        Act::RekeyChild => {
            if let Some(child) = world.client.children().last() {
                let spi = child.spi_in;
                world.order(Order::RekeyChild(spi));
            }
        }
        Act::RekeyIke => drop(world.order(Order::RekeyIke)),
        Act::GatewayRekeyChild => {
            // Of a child whose making the client has not heard of yet nobody asks the rekey: timers run for minutes.
            let known = |spi| world.client.children().iter().any(|child| child.spi_out == spi);
            let established = world.established();
            if let Some((record, child)) = established
                .first()
                .and_then(|record| Some((record, record.children.last()?)))
                .filter(|(_, child)| known(child.spi_in))
            {
                world.order_gateway(ike::Order::RekeyChild(record.spi, child.spi_in));
            }
        }
        Act::GatewayRekeyIke => {
            // One without children is the outcome of crossing rekeys that is not decided yet.
            if let Some(record) = world.established().iter().find(|record| !record.children.is_empty()) {
                world.order_gateway(ike::Order::RekeyIke(record.spi));
            }
        }
    }
}

/// Nothing is lost any more, and time passes until nobody has anything left to say.
fn calm(world: &mut World) {
    for _ in 0..60 {
        world.settle();
        world.pass(10_000);
    }
    world.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    //= test IK-14
    //= test IK-16
    //= test IK-74
    //= test IK-75
    //= test IK-76
    #[test]
    fn both_sides_agree_once_it_is_quiet(seed in any::<u32>(), acts in proptest::collection::vec(act(), 1..120)) {
        let mut policy = policy();
        policy.connections[0].dpd_ms = 20_000; // what only one side knows of is found by liveness
        let mut world = World::new(config(), policy, u64::from(seed));
        world.settle();
        for act in &acts {
            perform(&mut world, act);
        }
        calm(&mut world);
        world.assert_retransmissions_are_exact();
        prop_assert_eq!(world.client.ended(), None, "{:?}", world.events);
        prop_assert_eq!(world.gateway.records.all().len(), 1, "{:?}", world.gateway.records.all());
        prop_assert_eq!(world.client.ike_keys().count(), 1, "{:?}", world.client);
        prop_assert_eq!(world.client.children().len(), 1, "{:?}", world.client.children());
        world.assert_children_agree();
    }
}
