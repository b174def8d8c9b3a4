//! A node dies at each step of each exchange; the client ends with exactly one working SA and at most a retransmission.
//!
//! ```text
//!   client ──request──> gateway: process ── commit ── send ──reply──> client
//!          lost         Before     Uncommitted    Unsent      Sent
//! ```
//!
//! The steps are made from outside, on the networks: a request that is lost has not been processed; a node that is cut
//! off from the others cannot commit; a reply that is lost was committed and reached nobody. Requests of the gateway's
//! own go the other way: lost on their way to the client, or their answer lost on its way back; a node that is cut off
//! cannot commit them, and the client must never see them.
//!
//! What a cut-off node gets is counted at its port, so that a request that it never saw proves nothing; but IKE_AUTH
//! comes again only when others have taken over.
//!
//! All four moments of every exchange but these: IKE_SA_INIT is in no log, so nothing of it is uncommitted, and its reply
//! sent is IKE_AUTH not processed; liveness begins when its time has come, and a node that was cut off before that is
//! silent already.

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
    Scenario { name: "c3-delete", what: "kills within deletes, from both sides", run: delete },
    Scenario { name: "c3-liveness", what: "kills within liveness, from the client", run: liveness },
    Scenario {
        name: "c3-liveness-by-us",
        what: "kills within liveness, from the gateway",
        run: liveness_by_us,
    },
    Scenario { name: "c3-five-nodes", what: "kills within exchanges, with five nodes", run: five_nodes },
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

/// How often a request may come too late to a node that is cut off.
const TRIES: u32 = 5;
/// How long a request has to be processed at a node that cannot commit it.
const ON_ITS_WAY: Duration = Duration::from_millis(150);
/// How long all retransmissions of the client may take, and ours to one that is gone.
const PATIENCE: Duration = Duration::from_secs(25);
const GONE: Duration = Duration::from_secs(100);

/// All of them.
const EACH: &[Moment] = &[Moment::Before, Moment::Uncommitted, Moment::Unsent, Moment::Sent];

/// Liveness begins when its time has come.
const TIMED: &[Moment] = &[Moment::Before, Moment::Unsent, Moment::Sent];

/// After how much silence a side asks whether the other is there. Who has the shorter time asks.
#[derive(Clone, Copy)]
struct Silence {
    ours: &'static str,
    clients_seconds: u32,
}

const LONG: Silence = Silence { ours: "60s", clients_seconds: 60 };

fn connect(bed: &Bed) -> Result {
    steps(bed, 3, LONG, &[(Exchange::Init, &[Moment::Before, Moment::Unsent]), (Exchange::Auth, EACH)])
}

fn rekey(bed: &Bed) -> Result {
    use Exchange::{RekeyChild, RekeyChildByUs, RekeyIke, RekeyIkeByUs};
    steps(bed, 3, LONG, &[(RekeyChild, EACH), (RekeyIke, EACH), (RekeyChildByUs, EACH), (RekeyIkeByUs, EACH)])
}

fn delete(bed: &Bed) -> Result {
    // A client whose answer is lost has nothing left that could answer again: we ask for a minute.
    let by_us = bed.choose(&[Moment::Before, Moment::Uncommitted, Moment::Sent][..], EACH);
    steps(bed, 3, LONG, &[(Exchange::Delete, EACH), (Exchange::DeleteByUs, by_us)])
}

fn liveness(bed: &Bed) -> Result {
    steps(bed, 3, Silence { clients_seconds: 2, ..LONG }, &[(Exchange::Liveness, TIMED)])
}

fn liveness_by_us(bed: &Bed) -> Result {
    steps(bed, 3, Silence { ours: "2s", ..LONG }, &[(Exchange::LivenessByUs, TIMED)])
}

fn five_nodes(bed: &Bed) -> Result {
    use Exchange::{Auth, Delete, RekeyChild, RekeyIkeByUs};
    let chosen: &[Moment] = bed.choose(&[Moment::Uncommitted], EACH);
    let exchanges =
        [(Auth, chosen), (RekeyChild, chosen), (RekeyIkeByUs, &[Moment::Unsent]), (Delete, chosen)];
    steps(bed, 5, LONG, &exchanges)
}

/// All of them in one cluster, whose invariants must hold over everything.
fn steps(bed: &Bed, nodes: usize, silence: Silence, exchanges: &[(Exchange, &[Moment])]) -> Result {
    let settings = Settings { retransmit_timeout: 0.4, retransmit_tries: 7, ..Settings::default() };
    let gateway = Gateway { dpd: silence.ours, ..Gateway::default() };
    let shape = Shape { nodes, ..Shape::default() };
    let mut bridge = Bridge::loaded(bed, shape, &gateway, &settings)?;
    bridge.client.load(&Connection { dpd_seconds: silence.clients_seconds, ..Connection::client(ALICE) })?;
    let mut proof = Proof::begin(&bridge, Extent::Whole)?;
    let mut count = 0;
    for (exchange, moments) in exchanges {
        for moment in *moments {
            let what = format!("{exchange}, {moment:?}");
            let mut tries = 0;
            while !step(&mut bridge, *exchange, *moment).context(&what)? {
                tries += 1;
                ensure!(tries < TRIES, "{what}: the request never came to the node that is cut off");
            }
            proof.sample(&bridge.cluster);
            count += 1;
        }
    }
    bed.note(format_args!("{count} steps"));
    proof.end(bed, &bridge, Allowed { new_sas: true, ..Allowed::default() }).map(drop)
}

/// False: others had taken over before the request came, and what was to be shown was not.
fn step(bridge: &mut Bridge, exchange: Exchange, moment: Moment) -> Result<bool> {
    let connecting = matches!(exchange, Exchange::Init | Exchange::Auth);
    if !of_client(&bridge.client)?.is_empty() && connecting {
        bridge.client.terminate(ALICE)?;
    }
    if of_client(&bridge.client)?.is_empty() && !connecting {
        bridge.client.initiate(ALICE)?;
    }
    bridge.cluster.wait_settled()?;
    if moment == Moment::Uncommitted && !connecting {
        // The one that has the service address: cut off from the others it still gets what the client sends.
        bridge.cluster.wait_still()?;
        bridge.reconnect_until(|owner| Ok(bridge.cluster.placement()?[0].owner == Some(owner)))?;
    }
    let mark = bridge.client.log_length();
    let order = exchange.order(bridge)?;
    let Bridge { client, cluster } = bridge;
    // Who connects is at a node only when that has answered.
    let mut victim = if connecting { None } else { Some(cluster.owner_of(&client.only(ALICE)?)?) };
    let to_victim =
        victim.map(|edge| format!("oifname out-{edge} udp dport {} counter", exchange.on_the_wire()));

    // What is lost until the node is dead: messages of the client, or what the nodes send to it.
    let to_client = format!("oifname out-client udp sport {} counter drop", exchange.on_the_wire());
    let from_client = format!("iifname out-client udp dport {} counter drop", exchange.on_the_wire());
    match (moment, exchange.is_ours()) {
        (Moment::Before, false) | (Moment::Unsent, true) => cluster.fabric.rule(&from_client)?,
        (Moment::Before, true) | (Moment::Unsent, false) => cluster.fabric.rule(&to_client)?,
        // The request waits until we know who would process it.
        (Moment::Uncommitted, _) if connecting => cluster.fabric.rule(&from_client)?,
        (Moment::Uncommitted, _) => {
            to_victim.iter().try_for_each(|rule| cluster.fabric.rule(rule))?;
            cluster.partition(&victim.into_iter().collect::<Vec<_>>())?;
        }
        (Moment::Sent, _) => {}
    }
    // Told to its owner, which cannot do it and dies; the command has nobody then who could answer it.
    let mut in_vain = None;
    match (&order, victim) {
        (Some([word, spi]), Some(owner)) if moment == Moment::Uncommitted => {
            in_vain = Some(cluster.node(owner).begin(&[word, spi])?);
        }
        (Some([word, spi]), _) => drop(cluster.any()?.must(&[word, spi])?),
        (None, _) => {}
    }
    let mut came = true;
    std::thread::scope(|scope| -> Result {
        let running = scope.spawn(|| match in_vain {
            Some(_) => Ok(()),
            None => exchange.run(client, mark),
        });
        match moment {
            Moment::Sent => running_ended(&running)?,
            Moment::Uncommitted if exchange.is_ours() => std::thread::sleep(ON_ITS_WAY),
            _ => eventually(PATIENCE, || {
                came = cluster.fabric.met()? > 0;
                let elsewhere = moment == Moment::Uncommitted && running.is_finished();
                ensure!(came || elsewhere, "no message came where it is lost, or waited for");
                Ok(())
            })?,
        }
        let edge = match victim {
            Some(edge) => edge,
            None => serves_newcomer(cluster)?,
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
    if let Some(mut command) = in_vain {
        let ended = command.wait_end(PATIENCE)?;
        ensure!(!ended.success(), "a node that is cut off has done what it was told");
    }
    expect(bridge, exchange, moment, mark)?;
    if let Some(edge) = victim {
        bridge.cluster.restart(edge)?;
    }
    bridge.cluster.wait_ready()?;
    bridge.cluster.wait_balanced()?;
    Ok(came)
}

fn running_ended<T>(running: &std::thread::ScopedJoinHandle<'_, T>) -> Result {
    eventually(PATIENCE, || {
        ensure!(running.is_finished(), "the exchange does not end");
        Ok(())
    })
}

/// The node that has what came of a client's messages: an SA, or a half-open one. Where the first was lost nobody has
/// anything, and any node is as good.
fn serves_newcomer(cluster: &Cluster) -> Result<Edge> {
    if let Some(sa) = cluster.any()?.sas()?.first() {
        return Edge::named(sa["owner"].as_str().context("the SA has no owner")?);
    }
    for edge in cluster.present() {
        if cluster.node(edge).metric("pontoon_ike_half_open", "")? > 0.0 {
            return Ok(edge);
        }
    }
    cluster.placement()?[0].owner.context("segment 0 has no owner")
}

/// One working SA and no more; or none after a delete.
fn expect(bridge: &Bridge, exchange: Exchange, moment: Moment, mark: usize) -> Result {
    let in_vain = exchange.is_ours() && moment == Moment::Uncommitted;
    let wanted = usize::from(in_vain || !matches!(exchange, Exchange::Delete | Exchange::DeleteByUs));
    // Where the answer to our delete died with the owner, the next one repeats it to an SA that is gone, until it gives up.
    let repeats = matches!(exchange, Exchange::DeleteByUs | Exchange::RekeyIkeByUs);
    eventually(if repeats { GONE } else { PATIENCE }, || {
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
    for request in ["parsed CREATE_CHILD_SA request", "received DELETE"] {
        ensure!(!in_vain || !log.contains(request), "the client saw what was not committed: {request}");
    }
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

    /// The port, and on port 4500 the marker of IKE (RFC 3948, section 2.2), in nftables' words.
    fn on_the_wire(self) -> &'static str {
        if self == Exchange::Init { "500" } else { "4500 @th,64,32 0" }
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
