//! strongSwan on both ends: proves the harness, the checkers and tshark on traffic that is not ours.
//!
//! What passes here and fails with our gateway is our gateway's fault. The same topology is the baseline of the
//! benchmark.

use super::Scenario;
use super::common::{ALICE, ESP, IKE, MIB, both_ways, server};
use super::s4_many::Tunnels;
use crate::charon::{Charon, Connection, Settings};
use crate::checkers::{i1_no_repeats, i3_same_bytes, i8_closed, pcap};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::{Bed, SERVICE, World, echo_from};
use crate::{keys, tshark};

pub(super) const LIST: &[Scenario] = &[
    Scenario {
        name: "b1-strongswan-pair",
        what: "strongSwan to strongSwan carries both families",
        run: pair,
    },
    Scenario {
        name: "b2-oracles",
        what: "checkers and tshark pass strongSwan, and see a flipped bit",
        run: oracles,
    },
    Scenario { name: "b3-strongswan-many", what: "50 tunnels, and two clients behind a NAT", run: many },
];

struct Pair {
    client: Charon,
    _gateway: Charon,
    world: World,
}

fn connected(bed: &Bed, settings: &Settings) -> Result<Pair> {
    let world = World::new(bed)?;
    world.give_service_addresses_to_kernel()?;
    let gateway = Charon::start(&world.gateway, &world.path("gateway"), &Settings::default())?;
    gateway.load(&Connection::gateway().suites(IKE, ESP))?;
    let client = Charon::start(&world.client, &world.path("client"), settings)?;
    client.load(&Connection::client(ALICE).suites(IKE, ESP))?;
    Ok(Pair { client, _gateway: gateway, world })
}

fn pair(bed: &Bed) -> Result {
    let pair = connected(bed, &Settings::default())?;
    pair.client.initiate(ALICE)?;
    let sa = pair.client.only(ALICE)?;
    ensure!(sa.virtual_addresses.len() == 2, "inner addresses {:?}", sa.virtual_addresses);
    for ipv6 in [false, true] {
        pair.world.ping(server(ipv6), 3)?;
        let (down, up) = both_ways(&pair.world.client, server(ipv6), 8 * MIB)?;
        bed.note(format_args!(
            "{}: down {:.0} Mbit/s, up {:.0} Mbit/s",
            server(ipv6),
            down.megabits_per_second(),
            up.megabits_per_second()
        ));
    }
    pair.client.rekey_child(ALICE)?;
    pair.world.ping(server(false), 3)?;
    pair.client.rekey_ike(ALICE)?;
    pair.world.ping(server(false), 3)?;
    pair.client.terminate(ALICE)?;
    ensure!(pair.client.sas()?.is_empty(), "SAs stay after a delete");
    Ok(())
}

fn many(bed: &Bed) -> Result {
    let world = World::behind_nat(bed)?;
    world.give_service_addresses_to_kernel()?;
    let gateway = Charon::start(&world.gateway, &world.path("gateway"), &Settings::default())?;
    gateway.load(&Connection::gateway())?;
    let second = world.client2.as_ref().context("the world has no second client")?;
    let bob = Charon::start(second, &world.path("bob"), &Settings::default())?;
    bob.load(&Connection::client("bob"))?;
    bob.initiate("bob")?;
    echo_from(second, server(false), None, 3)?;
    let client = Charon::start(&world.client, &world.path("client"), &Settings::default())?;
    let tunnels = Tunnels::connect(&client, 50)?;
    tunnels.all_carry(&world.client, &client)?;
    echo_from(second, server(false), None, 3)
}

fn oracles(bed: &Bed) -> Result {
    let settings = Settings { log_keys: true, ..Settings::default() };
    let pair = connected(bed, &settings)?;
    pair.world.turn_offloads_off()?;
    let capture = pair.world.capture_outside()?;
    pair.client.initiate(ALICE)?;
    let first = pair.client.only(ALICE)?;
    both_ways(&pair.world.client, server(false), MIB)?;
    pair.client.rekey_child(ALICE)?;
    pair.client.rekey_ike(ALICE)?;
    let second = pair.client.only(ALICE)?;
    pair.world.ping(server(true), 3)?;
    pair.client.terminate(ALICE)?;
    let file = capture.stop()?;

    let packets = pcap::read(&file)?;
    i1_no_repeats::check(&packets).must_hold("I1")?;
    i3_same_bytes::check(&packets, SERVICE.into(), &[], &[], 0).must_hold("I3")?;
    i8_closed::check_outside(&packets, &super::s6_proofs::inner_networks()?).must_hold("I8")?;

    let spis = [(first.spi_i, first.spi_r), (second.spi_i, second.spi_r)];
    let keys = keys::from_charon(&pair.client.log(), &spis, "aes256gcm16", ESP)?;
    let opinion = tshark::judge(&file, &keys)?;
    opinion.ike.must_hold("tshark on IKE")?;
    opinion.esp.must_hold("tshark on ESP")?;
    bed.note(format_args!(
        "tshark found {} IKE messages and {} ESP packets right",
        opinion.ike.judged, opinion.esp.judged
    ));

    let bad = pair.world.path("flipped.pcap");
    std::fs::write(&bad, super::s6_proofs::with_flipped_bits(&file)?).context("flipped.pcap")?;
    let opinion = tshark::judge(&bad, &keys)?;
    ensure!(
        opinion.ike.violations.len() == 1,
        "one IKE bit was flipped; tshark says {:?}",
        opinion.ike.violations
    );
    ensure!(
        opinion.esp.violations.len() == 1,
        "one ESP bit was flipped; tshark says {:?}",
        opinion.esp.violations
    );
    Ok(())
}
