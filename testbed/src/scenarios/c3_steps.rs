//! A node dies at each step of each exchange; the client ends with exactly one working SA and at most a retransmission.
//!
//! ```text
//!   client ──request──> gateway: process ── commit ── send ──reply──> client
//!          lost         Before     Uncommitted    Unsent      Sent
//! ```
//!
//! The steps are made from outside, on the networks: a request that is lost has not been processed; a node that is cut
//! off from the others cannot commit; a reply that is lost was committed and reached nobody. Requests of the gateway's
//! own go the other way: lost on their way to the client, or their answer lost on its way back.

use std::fmt;
use std::time::Duration;

use super::Scenario;
use super::bridge::{Allowed, Bridge, Proof, of_client, views};
use super::common::{ALICE, Gateway};
use crate::charon::{Charon, Connection, Settings};
use crate::checkers::i4_survives;
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::capture::Extent;
use crate::world::cluster::{Cluster, Edge, Shape};
use crate::world::{Bed, eventually};

pub(super) const LIST: &[Scenario] = &[
    Scenario { name: "c3-connect", what: "kills within IKE_SA_INIT and IKE_AUTH", run: connect },
    Scenario { name: "c3-rekey", what: "kills within rekeys of both kinds, from both sides", run: rekey },
    Scenario { name: "c3-others", what: "kills within delete and liveness, from both sides", run: others },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    /// IKE_SA_INIT: on port 500.
    Init,
    /// IKE_AUTH: the first on port 4500.
    Auth,
    RekeyChild,
    RekeyChildByUs,
    RekeyIke,
    RekeyIkeByUs,
    Liveness,
    LivenessByUs,
    Delete,
    DeleteByUs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Before,
    Uncommitted,
    Unsent,
    Sent,
}

/// How long a message has to come where it is lost or held.
const ON_ITS_WAY: Duration = Duration::from_millis(150);
/// How long all retransmissions may take.
const PATIENCE: Duration = Duration::from_secs(25);

fn connect(bed: &Bed) -> Result {
    use Moment::{Before, Sent, Uncommitted, Unsent};
    steps(bed, &[(Exchange::Init, &[Before, Unsent]), (Exchange::Auth, &[Before, Uncommitted, Unsent, Sent])])
}

fn rekey(bed: &Bed) -> Result {
    use Exchange::{RekeyChild, RekeyChildByUs, RekeyIke, RekeyIkeByUs};
    use Moment::{Before, Sent, Uncommitted, Unsent};
    let by_client: &[Moment] = bed.choose(&[Uncommitted, Unsent], &[Before, Uncommitted, Unsent, Sent]);
    let by_us: &[Moment] = bed.choose(&[Unsent], &[Before, Unsent, Sent]);
    steps(
        bed,
        &[(RekeyChild, by_client), (RekeyIke, by_client), (RekeyChildByUs, by_us), (RekeyIkeByUs, by_us)],
    )
}

fn others(bed: &Bed) -> Result {
    use Exchange::{Delete, DeleteByUs, Liveness, LivenessByUs};
    use Moment::{Before, Sent, Uncommitted, Unsent};
    let by_client: &[Moment] = bed.choose(&[Unsent], &[Before, Uncommitted, Unsent, Sent]);
    let by_us: &[Moment] = bed.choose(&[Before], &[Before, Unsent, Sent]);
    steps(bed, &[(Liveness, by_client), (Delete, by_client), (LivenessByUs, by_us), (DeleteByUs, by_us)])
}

/// All of them in one cluster, whose invariants must hold over everything.
fn steps(bed: &Bed, exchanges: &[(Exchange, &[Moment])]) -> Result {
    let settings = Settings { retransmit_timeout: 0.4, retransmit_tries: 7, ..Settings::default() };
    let gateway = Gateway { dpd: "2s", ..Gateway::default() };
    let mut bridge = Bridge::loaded(bed, Shape::default(), &gateway, &settings)?;
    bridge.client.load(&Connection { dpd_seconds: 2, ..Connection::client(ALICE) })?;
    let mut proof = Proof::begin(&bridge, Extent::Whole)?;
    let mut count = 0;
    for (exchange, moments) in exchanges {
        for moment in *moments {
            step(&mut bridge, *exchange, *moment).context(format!("{exchange}, {moment:?}"))?;
            proof.sample(&bridge.cluster);
            count += 1;
        }
    }
    bed.note(format_args!("{count} steps"));
    proof.end(bed, &bridge, Allowed { new_sas: true, ..Allowed::default() }).map(drop)
}

fn step(bridge: &mut Bridge, exchange: Exchange, moment: Moment) -> Result {
    let connecting = matches!(exchange, Exchange::Init | Exchange::Auth);
    if !of_client(&bridge.client)?.is_empty() && connecting {
        bridge.client.terminate(ALICE)?;
    }
    if of_client(&bridge.client)?.is_empty() && !connecting {
        bridge.client.initiate(ALICE)?;
    }
    bridge.cluster.wait_settled()?;
    let mark = bridge.client.log_length();
    let order = exchange.order(bridge)?;
    let Bridge { client, cluster } = bridge;
    let mut victim = if connecting { None } else { Some(cluster.owner_of(&client.only(ALICE)?)?) };

    // What is lost until the node is dead: requests of the client, or what the nodes send to it.
    let to_client = format!("oifname out-client udp sport {} drop", exchange.port());
    let from_client = format!("iifname out-client udp dport {} drop", exchange.port());
    match (moment, exchange.is_ours()) {
        (Moment::Before, false) | (Moment::Unsent, true) => cluster.fabric.rule(&from_client)?,
        (Moment::Before, true) | (Moment::Unsent, false) => cluster.fabric.rule(&to_client)?,
        // The request waits until we know who would process it.
        (Moment::Uncommitted, _) if connecting => cluster.fabric.rule(&from_client)?,
        (Moment::Uncommitted, _) => cluster.partition(&victim.into_iter().collect::<Vec<_>>())?,
        (Moment::Sent, _) => {}
    }
    if let Some([word, spi]) = &order {
        cluster.any()?.must(&[word, spi])?;
    }
    std::thread::scope(|scope| -> Result {
        let running = scope.spawn(|| exchange.run(client, mark));
        std::thread::sleep(ON_ITS_WAY);
        if matches!(moment, Moment::Sent) {
            running_ended(&running)?;
        }
        let edge = match victim {
            Some(edge) => edge,
            None => half_open_at(cluster)?,
        };
        victim = Some(edge);
        if moment == Moment::Uncommitted && connecting {
            cluster.fabric.heal()?;
            cluster.partition(&[edge])?;
            std::thread::sleep(ON_ITS_WAY);
        }
        cluster.kill(edge)?;
        cluster.heal()?;
        running.join().map_err(|_| "the client panicked")?
    })?;
    expect(bridge, exchange, mark)?;
    if let Some(edge) = victim {
        bridge.cluster.restart(edge)?;
    }
    bridge.cluster.wait_ready()?;
    bridge.cluster.wait_balanced()
}

fn running_ended<T>(running: &std::thread::ScopedJoinHandle<'_, T>) -> Result {
    eventually(PATIENCE, || {
        ensure!(running.is_finished(), "the exchange does not end");
        Ok(())
    })
}

/// The node with the half-open SA; where nobody has one (the request is lost), the one that gets it first.
fn half_open_at(cluster: &Cluster) -> Result<Edge> {
    for edge in cluster.present() {
        if cluster.node(edge).metric("pontoon_ike_half_open", "")? > 0.0 {
            return Ok(edge);
        }
    }
    cluster.placement()?[0].owner.context("segment 0 has no owner")
}

/// One working SA and no more; or none after a delete.
fn expect(bridge: &Bridge, exchange: Exchange, mark: usize) -> Result {
    let wanted = usize::from(!matches!(exchange, Exchange::Delete | Exchange::DeleteByUs));
    eventually(PATIENCE, || {
        let sas = of_client(&bridge.client)?;
        ensure!(sas.len() == wanted, "the client has {} IKE SAs", sas.len());
        ensure!(sas.iter().all(|sa| sa.children.len() == 1), "the client's children: {sas:?}");
        let views = views(bridge)?;
        // The same ones everywhere.
        match wanted {
            0 => ensure!(views.iter().all(|view| view.sas.is_empty()), "{views:?}"),
            _ => i4_survives::check(&sas, &views).must_hold("the same SAs everywhere")?,
        }
        Ok(())
    })?;
    if wanted == 1 {
        bridge.ping()?;
    }
    let log = bridge.client.log_since(mark);
    let handshakes = log.matches("initiating IKE_SA").count();
    let allowed = match exchange {
        Exchange::Init | Exchange::Auth | Exchange::RekeyIke => 1,
        _ => 0,
    };
    ensure!(handshakes <= allowed, "the client began {handshakes} handshakes");
    Ok(())
}

impl Exchange {
    fn is_ours(self) -> bool {
        use Exchange::{DeleteByUs, LivenessByUs, RekeyChildByUs, RekeyIkeByUs};
        matches!(self, DeleteByUs | LivenessByUs | RekeyChildByUs | RekeyIkeByUs)
    }

    fn port(self) -> u16 {
        if self == Exchange::Init { 500 } else { 4500 }
    }

    /// The command to a node that begins it, where it is the gateway's.
    fn order(self, bridge: &Bridge) -> Result<Option<[String; 2]>> {
        let word = match self {
            Exchange::RekeyChildByUs | Exchange::RekeyIkeByUs => "rekey",
            Exchange::DeleteByUs => "terminate",
            _ => return Ok(None),
        };
        let sa = bridge.cluster.sa(&bridge.client.only(ALICE)?)?;
        let spi = match self {
            Exchange::RekeyChildByUs => &sa["children"][0]["spi_in"],
            _ => &sa["spi_r"],
        };
        Ok(Some([word.to_owned(), spi.as_str().context("an SA without SPI")?.to_owned()]))
    }

    /// What the client does, or waits for.
    fn run(self, client: &Charon, mark: usize) -> Result {
        match self {
            Exchange::Init | Exchange::Auth => client.initiate_within(ALICE, PATIENCE),
            Exchange::RekeyChild => client.rekey_child(ALICE),
            Exchange::RekeyIke => client.rekey_ike(ALICE),
            Exchange::Delete => client.terminate(ALICE),
            Exchange::Liveness => client.wait_for_log(mark, "parsed INFORMATIONAL response", PATIENCE),
            Exchange::LivenessByUs => client.wait_for_log(mark, "parsed INFORMATIONAL request", PATIENCE),
            Exchange::RekeyChildByUs | Exchange::RekeyIkeByUs => {
                client.wait_for_log(mark, "parsed CREATE_CHILD_SA request", PATIENCE)
            }
            Exchange::DeleteByUs => client.wait_for_log(mark, "received DELETE for IKE_SA", PATIENCE),
        }
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
