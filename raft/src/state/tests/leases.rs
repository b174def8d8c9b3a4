//! Inner addresses: who gets which.

use ipsec::policy::Network;
use ipsec::record::{Refusal as R, Why};

use super::*;

fn network(text: &str) -> Network {
    let (address, prefix) = text.split_once('/').expect("a prefix");
    Network { address: ip(address), prefix: prefix.parse().expect("a number") }
}

/// What `peer` gets of `pool`.
fn free(
    state: &State,
    pool: Network,
    peer: &str,
    giving_way: &[Spi],
    busy: &dyn Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let networks = std::iter::once(pool);
    state.leases().free_address(networks, &Identity::parse(peer), None, giving_way, busy)
}

fn nobody(_: IpAddr) -> bool {
    false
}

fn end(world: &mut World, spi: Spi) {
    let command = world.sa(spi, vec![Step::Remove { why: Why::PeerDeleted }]);
    world.done(command);
}

#[test]
fn an_address_belongs_to_one_client_at_a_time() {
    let mut world = World::new();
    world.establish(spi(SEG, 1), child_spi(SEG, 1), "alice", &["10.99.0.1", "2001:db8::5"]);
    for address in ["10.99.0.1", "2001:db8::5"] {
        let other = spi(SEG, 2);
        let steps = vec![Step::Establish(Box::new(record(other, "bob", &[address])))];
        let command = world.sa(other, steps);
        assert_eq!(world.refused(command), Refusal::Record(R::AddressTaken));
    }
    end(&mut world, spi(SEG, 1));
    world.establish(spi(SEG, 2), child_spi(SEG, 2), "bob", &["10.99.0.1"]);
    let left = world.state.lease(ip("2001:db8::5")).expect("remembered");
    assert_eq!((left.peer.to_string(), left.holder()), ("alice".to_owned(), None));
    assert_eq!(world.state.lease(ip("10.99.0.1")).expect("held").peer.to_string(), "bob");
    assert_eq!(world.state.leases().held_len(), 1);
}

#[test]
fn a_client_gets_its_address_again() {
    let mut world = World::new();
    let pool = network("10.99.0.0/24");
    let alice = Identity::parse("alice");
    let address = free(&world.state, pool, "alice", &[], &nobody).expect("a pool full of them");
    assert!(pool.contains(address));
    let text = address.to_string();
    world.establish(spi(SEG, 1), child_spi(SEG, 1), "alice", &[&text]);
    assert_eq!(world.state.lease_for(&alice, &pool).map(|it| it.address), Some(address));
    assert_eq!(world.state.lease_for(&alice, &network("10.98.0.0/24")), None);

    // While it is held, a second SA of the same peer gets another one, unless the first gives way.
    let second = free(&world.state, pool, "alice", &[], &nobody).expect("another");
    assert_ne!(second, address);
    assert_eq!(free(&world.state, pool, "alice", &[spi(SEG, 1)], &nobody), Some(address));
    end(&mut world, spi(SEG, 1));
    assert_eq!(free(&world.state, pool, "alice", &[], &nobody), Some(address));
    assert_ne!(free(&world.state, pool, "alice", &[], &|busy| busy == address), Some(address));
    assert_ne!(free(&world.state, pool, "bob", &[], &nobody), Some(address));
}

#[test]
fn a_small_pool_is_used_up_and_the_longest_released_goes_first() {
    let mut world = World::new();
    let pool = network("10.99.0.0/29");
    let peers = ["p1", "p2", "p3", "p4", "p5", "p6"];
    let mut given = Vec::new();
    for (n, peer) in (1..).zip(peers) {
        let address = free(&world.state, pool, peer, &[], &nobody).expect(peer);
        world.establish(spi(SEG, n), child_spi(SEG, n as u32), peer, &[&address.to_string()]);
        given.push(address);
    }
    let mut sorted = given.clone();
    sorted.sort_unstable();
    let all: Vec<IpAddr> = (1..=6).map(|n| IpAddr::from([10, 99, 0, n])).collect();
    assert_eq!(sorted, all, "neither the network's address nor the broadcast");
    assert_eq!(free(&world.state, pool, "p7", &[], &nobody), None);
    end(&mut world, spi(SEG, 4));
    end(&mut world, spi(SEG, 2));
    assert_eq!(free(&world.state, pool, "p7", &[], &nobody), Some(given[3]));
    assert_eq!(free(&world.state, pool, "p2", &[], &nobody), Some(given[1]));
    assert_eq!(free(&world.state, pool, "p7", &[], &|ip| ip == given[3]), Some(given[1]));
}

#[test]
fn a_pool_of_several_networks_and_a_wish() {
    let mut world = World::new();
    let networks = || ["10.99.0.8/31", "10.98.0.0/31"].map(network).into_iter();
    let find = |world: &World, peer: &str, wish: Option<&str>| {
        world.state.leases().free_address(networks(), &Identity::parse(peer), wish.map(ip), &[], &nobody)
    };
    assert_eq!(find(&world, "alice", Some("10.98.0.1")), Some(ip("10.98.0.1")));
    assert_ne!(find(&world, "alice", Some("10.97.0.1")), Some(ip("10.97.0.1")), "not of the pool");
    world.establish(spi(SEG, 1), child_spi(SEG, 1), "alice", &["10.98.0.1"]);
    assert_ne!(find(&world, "bob", Some("10.98.0.1")), Some(ip("10.98.0.1")), "held");
    world.establish(spi(SEG, 2), child_spi(SEG, 2), "bob", &["10.99.0.8"]);
    world.establish(spi(SEG, 3), child_spi(SEG, 3), "carol", &["10.99.0.9"]);
    assert_eq!(find(&world, "dave", None), Some(ip("10.98.0.0")), "the next network");
    end(&mut world, spi(SEG, 1));
    assert_eq!(find(&world, "alice", Some("10.98.0.0")), Some(ip("10.98.0.1")), "its own comes first");
}

#[test]
fn what_a_pool_has() {
    let state = State::default();
    for (pool, addresses) in [
        ("10.0.0.7/32", vec!["10.0.0.7"]),
        ("10.0.0.6/31", vec!["10.0.0.6", "10.0.0.7"]),
        ("10.0.0.4/30", vec!["10.0.0.5", "10.0.0.6"]),
        ("255.255.255.252/30", vec!["255.255.255.253", "255.255.255.254"]),
        ("2001:db8::8/128", vec!["2001:db8::8"]),
        ("2001:db8::8/127", vec!["2001:db8::8", "2001:db8::9"]),
        ("2001:db8::8/126", vec!["2001:db8::9", "2001:db8::a", "2001:db8::b"]),
    ] {
        let busy = std::cell::RefCell::new(Vec::new());
        let next = || free(&state, network(pool), "alice", &[], &|ip| busy.borrow().contains(&ip));
        while let Some(address) = next() {
            busy.borrow_mut().push(address);
        }
        busy.borrow_mut().sort_unstable();
        let texts: Vec<String> = busy.borrow().iter().map(IpAddr::to_string).collect();
        assert_eq!(texts, addresses, "{pool}");
    }
    for wide in ["0.0.0.0/0", "::/0", "fd00::/64"] {
        let address = free(&state, network(wide), "alice", &[], &nobody).expect(wide);
        assert!(network(wide).contains(address));
    }
}

#[test]
fn only_so_many_are_remembered() {
    let mut leases = Leases::default();
    let peer = Identity::parse("alice");
    let address = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n));
    let count = limits::RELEASED_MAX as u32 + 3;
    for n in 0..count {
        leases.take(address(n), Spi(1), &peer).expect("free");
        leases.release(address(n), Spi(1), u64::from(n) + 1);
    }
    assert_eq!(leases.check(u64::from(count)), Ok(()));
    assert_eq!(leases.iter().count(), limits::RELEASED_MAX);
    assert!(leases.get(address(2)).is_none() && leases.get(address(3)).is_some());
}
