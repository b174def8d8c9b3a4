//! Liveness, deletes, leases, NAT, and refusals: what an administrator sees on the client's side.

use std::time::Duration;

use super::Scenario;
use super::common::{ALICE, Connected, Gateway, both_ways, server};
use crate::charon::{Charon, Connection, Settings};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::pontoon::Pontoon;
use crate::world::{Bed, SERVER, World, eventually};

pub(super) const LIST: &[Scenario] = &[
    Scenario { name: "s3-liveness-theirs", what: "the client asks whether we live", run: liveness_theirs },
    Scenario { name: "s3-liveness-ours", what: "we ask; a dead client's SA goes", run: liveness_ours },
    Scenario { name: "s3-delete", what: "the client deletes, we delete", run: delete },
    Scenario {
        name: "s3-same-address",
        what: "a client that comes back gets its inner address",
        run: same_address,
    },
    Scenario { name: "s3-behind-nat", what: "two clients behind one NAT", run: behind_nat },
    Scenario { name: "s3-wrong-psk", what: "a wrong secret: AUTHENTICATION_FAILED", run: wrong_psk },
    Scenario {
        name: "s3-wrong-identity",
        what: "an identity we do not serve: AUTHENTICATION_FAILED",
        run: wrong_identity,
    },
    Scenario {
        name: "s3-no-ike-proposal",
        what: "no common IKE suite: NO_PROPOSAL_CHOSEN",
        run: no_ike_proposal,
    },
    Scenario {
        name: "s3-no-esp-proposal",
        what: "no common ESP suite: NO_PROPOSAL_CHOSEN",
        run: no_esp_proposal,
    },
    Scenario {
        name: "s3-foreign-network",
        what: "selectors outside ours: TS_UNACCEPTABLE",
        run: foreign_network,
    },
    Scenario { name: "s3-empty-pool", what: "no address left: INTERNAL_ADDRESS_FAILURE", run: empty_pool },
];

fn liveness_theirs(bed: &Bed) -> Result {
    let gateway = Gateway::default();
    let connected = Connected::with(bed, &gateway, &Settings::default(), |connection| Connection {
        dpd_seconds: 1,
        ..connection
    })?;
    let mark = connected.client.log_length();
    connected.client.wait_for_log(mark, "sending DPD request", Duration::from_secs(10))?;
    connected.client.wait_for_log(mark, "parsed INFORMATIONAL response", Duration::from_secs(5))?;
    connected.ping()
}

fn liveness_ours(bed: &Bed) -> Result {
    let gateway = Gateway { dpd: "1s", ..Gateway::default() };
    let mut connected = Connected::with(bed, &gateway, &Settings::default(), |connection| connection)?;
    let mark = connected.client.log_length();
    connected.client.wait_for_log(mark, "parsed INFORMATIONAL request", Duration::from_secs(10))?;
    ensure!(connected.node.sas()?.len() == 1, "the SA is gone though the client lives");
    connected.client.kill()?;
    eventually(Duration::from_secs(120), || {
        let left = connected.node.sas()?.len();
        ensure!(left == 0, "{left} SAs of a dead client");
        Ok(())
    })
}

fn delete(bed: &Bed) -> Result {
    let connected = Connected::new(bed)?;
    connected.ping()?;
    connected.client.terminate(ALICE)?;
    no_sa_left(&connected)?;

    connected.client.initiate(ALICE)?;
    connected.ping()?;
    let spi = connected.client.only(ALICE)?.spi_r;
    let mark = connected.client.log_length();
    connected.node.must(&["terminate", &spi])?;
    connected.client.wait_for_log(mark, "received DELETE for IKE_SA", Duration::from_secs(5))?;
    no_sa_left(&connected)?;
    ensure!(connected.ping().is_err(), "packets flow without an SA");
    Ok(())
}

fn no_sa_left(connected: &Connected) -> Result {
    eventually(Duration::from_secs(5), || {
        let (ours, theirs) = (connected.node.sas()?.len(), connected.client.sas()?.len());
        ensure!(ours == 0 && theirs == 0, "{ours} SAs here and {theirs} there");
        Ok(())
    })
}

fn same_address(bed: &Bed) -> Result {
    let connected = Connected::new(bed)?;
    let first = connected.client.only(ALICE)?.virtual_addresses;
    connected.client.terminate(ALICE)?;
    connected.client.load(&Connection::client("bob"))?;
    connected.client.initiate("bob")?;
    let other = connected.client.only("bob")?.virtual_addresses;
    ensure!(first.iter().all(|address| !other.contains(address)), "bob got alice's {first:?}");
    connected.client.initiate(ALICE)?;
    let again = connected.client.only(ALICE)?.virtual_addresses;
    ensure!(first == again, "it had {first:?} and has {again:?}");
    Ok(())
}

fn behind_nat(bed: &Bed) -> Result {
    let world = World::behind_nat(bed)?;
    let node = Pontoon::start(&world, &Gateway::default().toml())?;
    let second = world.client2.as_ref().context("the world has no second client")?;
    let mut clients = Vec::new();
    for (namespace, name) in [(&world.client, "alice"), (second, "bob")] {
        let charon = Charon::start(namespace, &world.path(name), &Settings::default())?;
        charon.load(&Connection::client(name))?;
        charon.initiate(name)?;
        clients.push((namespace, charon, name));
    }
    for _ in 0..2 {
        for (namespace, ..) in &clients {
            crate::world::echo_from(namespace, SERVER.into(), None, 3)?;
            both_ways(namespace, server(false), 1 << 20)?;
        }
    }
    let sas = node.sas()?;
    ensure!(sas.len() == 2, "{} SAs of two clients", sas.len());
    let addresses: Vec<&str> = sas.iter().filter_map(|sa| sa["peer_address"].as_str()).collect();
    ensure!(addresses[0] != addresses[1], "both clients are seen at {addresses:?}");
    for (_, charon, name) in &clients {
        charon.rekey_child(name)?;
        charon.rekey_ike(name)?;
    }
    for (namespace, ..) in &clients {
        crate::world::echo_from(namespace, SERVER.into(), None, 3)?;
    }
    Ok(())
}

fn wrong_psk(bed: &Bed) -> Result {
    refused(bed, &Gateway::default(), "AUTH_FAILED", |connection| Connection {
        psk: "wrong".to_owned(),
        ..connection
    })
}

fn wrong_identity(bed: &Bed) -> Result {
    let gateway = Gateway { remote_id: "*.example.org".to_owned(), ..Gateway::default() };
    refused(bed, &gateway, "AUTH_FAILED", |connection| connection)
}

fn no_ike_proposal(bed: &Bed) -> Result {
    refused(bed, &Gateway::default(), "NO_PROP", |connection| {
        connection.suites("aes128-sha256-modp2048", "aes128gcm16")
    })
}

fn no_esp_proposal(bed: &Bed) -> Result {
    refused(bed, &Gateway::default(), "NO_PROP", |connection| {
        connection.suites(super::common::IKE, "aes256-sha512")
    })
}

fn foreign_network(bed: &Bed) -> Result {
    refused(bed, &Gateway::default(), "TS_UNACCEPT", |connection| Connection {
        remote_ts: vec!["172.16.0.0/16".to_owned()],
        ..connection
    })
}

fn empty_pool(bed: &Bed) -> Result {
    // A single usable address, and somebody has it.
    let gateway = Gateway { pools: vec!["10.99.0.7/32".to_owned()], unique: "never", ..Gateway::default() };
    let connected = Connected::loaded(bed, &gateway, &Settings::default(), |connection| Connection {
        vips: vec!["0.0.0.0"],
        ..connection
    })?;
    connected.client.load(&Connection { vips: vec!["0.0.0.0"], ..Connection::client("bob") })?;
    connected.client.initiate("bob")?;
    expect_refusal(&connected, "INT_ADDR_FAIL")
}

/// The connection fails, and the client logs the notify that says why.
fn refused(
    bed: &Bed,
    gateway: &Gateway,
    notify: &str,
    shape: impl FnOnce(Connection) -> Connection,
) -> Result {
    let connected = Connected::loaded(bed, gateway, &Settings::default(), shape)?;
    expect_refusal(&connected, notify)?;
    Ok(())
}

fn expect_refusal(connected: &Connected, notify: &str) -> Result {
    let mark = connected.client.log_length();
    let outcome = connected.client.initiate_within(ALICE, Duration::from_secs(8));
    ensure!(outcome.is_err(), "the client connected");
    let log = connected.client.log_since(mark);
    let answers: Vec<&str> = log.lines().filter(|line| line.contains("parsed IKE_")).collect();
    ensure!(
        answers.iter().any(|line| line.contains(&format!("N({notify})"))),
        "no N({notify}) in what the client parsed: {answers:#?}"
    );
    Ok(())
}
