//! Mode `announce`: who is heard, who is silent, and what other hosts learn.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use node::steering::Mode;

use crate::nodes::{CLIENT, Capture, NODES, Node, SERVICE, World};

#[test]
fn one_node_answers_and_the_address_follows_it() {
    let Some(world) = World::build("follow") else { return };
    let nodes: Vec<Node> = (0..NODES).map(|at| Node::start(&world, at, Mode::Announce)).collect();
    let capture = Capture::start(&world.client());
    for ip in SERVICE {
        assert!(!world.reaches(ip), "{ip} while nobody holds it");
    }
    for holder in [0, 1, 2, 1] {
        for node in &nodes {
            node.release();
        }
        nodes[holder].hold();
        for ip in SERVICE {
            // The announcement alone leads the client here, whose cache names the holder before.
            world.within(Duration::from_secs(5), || {
                world.reaches(ip) && world.cache(ip).as_ref() == Some(&nodes[holder].mac)
            });
        }
        world.forget();
        for ip in SERVICE {
            assert!(world.reaches(ip), "{ip} asked for");
            assert_eq!(world.cache(ip).as_ref(), Some(&nodes[holder].mac), "{ip}");
        }
    }
    // Each claim names the node that held the address then: never the third while it had not been holder.
    let claims = capture.claims();
    assert!(claims.iter().any(|(ip, _)| ip == SERVICE[0]) && claims.iter().any(|(ip, _)| ip == SERVICE[1]));
    let of_service = claims.iter().filter(|(ip, _)| SERVICE.contains(&ip.as_str()));
    let order: Vec<&String> = of_service.map(|(_, mac)| mac).collect();
    let first_of = |node: usize| order.iter().position(|mac| **mac == nodes[node].mac).unwrap();
    assert!(first_of(0) < first_of(1) && first_of(1) < first_of(2), "{claims:?}");
}

/// Owners answer clients straight from the service address. The client must not learn their Ethernet address for it.
//= test CL-19
#[test]
fn a_node_that_does_not_hold_the_address_sends_from_it_and_leaves_no_trace() {
    let Some(world) = World::build("straight") else { return };
    let nodes: Vec<Node> = (0..NODES).map(|at| Node::start(&world, at, Mode::Announce)).collect();
    nodes[0].hold();
    for ip in SERVICE {
        world.within(Duration::from_secs(5), || world.reaches(ip));
    }
    let capture = Capture::start(&world.client());
    for (service, client) in SERVICE.into_iter().zip(CLIENT) {
        let listener = world.listen(client);
        for node in &nodes[1..] {
            // Nobody is known to it: it must ask for the client, which is when the source is given away.
            node.forget();
            let to = listener.local_addr().unwrap();
            let from = SocketAddr::new(service.parse().unwrap(), 4500);
            node.call(move |_| UdpSocket::bind(from).unwrap().send_to(b"from owner", to).unwrap());
            let mut octets = [0; 10];
            let (_, from) = listener.recv_from(&mut octets).unwrap();
            assert_eq!(from.to_string(), SocketAddr::new(service.parse().unwrap(), 4500).to_string());
        }
        assert_eq!(world.cache(service).as_ref(), Some(&nodes[0].mac), "{service}");
    }
    for (ip, mac) in capture.claims() {
        assert!(!SERVICE.contains(&ip.as_str()) || mac == nodes[0].mac, "{mac} claims {ip}");
    }
}

/// What was asked while a process stood still is not answered when it goes on as no holder any more.
#[test]
fn a_deposed_holder_answers_no_question_that_waited() {
    let Some(world) = World::build("deposed") else { return };
    let nodes: Vec<Node> = (0..2).map(|at| Node::start(&world, at, Mode::Announce)).collect();
    nodes[0].hold();
    nodes[1].hold();
    for ip in SERVICE {
        world.within(Duration::from_secs(5), || world.reaches(ip));
    }
    // Node 0 still has its tasks, as after a pause: only the right is gone.
    nodes[0].entitled.store(false, Ordering::Relaxed);
    let capture = Capture::start(&world.client());
    for _ in 0..5 {
        world.forget();
        for ip in SERVICE {
            world.within(Duration::from_secs(5), || world.reaches(ip));
        }
    }
    for (ip, mac) in capture.claims() {
        assert!(!SERVICE.contains(&ip.as_str()) || mac == nodes[1].mac, "{mac} claims {ip}");
    }
}
