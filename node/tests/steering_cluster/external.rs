//! Mode `external`: nobody answers for the address; whoever is the next hop has it.

use std::net::{SocketAddr, UdpSocket};

use node::steering::Mode;

use crate::nodes::{CLIENT, Capture, NODES, Node, SERVICE, World, run};

#[test]
fn each_node_takes_what_a_router_sends_to_it_and_none_answers_for_the_address() {
    let Some(world) = World::build("external") else { return };
    let nodes: Vec<Node> = (0..NODES).map(|at| Node::start(&world, at, Mode::External)).collect();
    let capture = Capture::start(&world.client());
    for (service, client) in SERVICE.into_iter().zip(CLIENT) {
        assert!(!world.reaches(service), "{service} on the link");
        let local = SocketAddr::new(service.parse().unwrap(), 4500);
        let sender = world.listen(client);
        for (at, node) in nodes.iter().enumerate() {
            let socket = node.call(move |_| UdpSocket::bind(local).unwrap());
            socket.set_read_timeout(sender.read_timeout().unwrap()).unwrap();
            run(&format!(
                "ip -n {} route replace {service} via {}",
                world.client(),
                world.own(at, local.is_ipv6())
            ));
            sender.send_to(b"sprayed", local).unwrap();
            let mut octets = [0; 10];
            let (len, from) = socket.recv_from(&mut octets).unwrap();
            // The answer comes from the address that was asked, whichever node it was.
            socket.send_to(&octets[..len], from).unwrap();
            assert_eq!(sender.recv_from(&mut octets).unwrap(), (7, local), "node {at}");
        }
    }
    for (ip, mac) in capture.claims() {
        assert!(!SERVICE.contains(&ip.as_str()), "{mac} claims {ip}");
    }
}
