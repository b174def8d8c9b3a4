//! Two hundred tunnels of one client machine at once, each with traffic of its own.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Instant;

use super::Scenario;
use super::common::{ALICE, Connected, server};
use crate::charon::{Charon, Connection};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::http::{self, Job};
use crate::world::{Bed, netns::Netns};

pub(super) const LIST: &[Scenario] =
    &[Scenario { name: "s4-two-hundred", what: "200 tunnels at once, each with traffic", run: two_hundred }];

const TUNNELS: usize = 200;
const AT_ONCE: usize = 8;

fn two_hundred(bed: &Bed) -> Result {
    let connected = Connected::new(bed)?;
    connected.ping()?;
    let Connected { client, node, world } = connected;
    let memory_at_one = node.resident_kib()?;
    client.terminate(ALICE)?;

    let start = Instant::now();
    let tunnels = Tunnels::connect(&client, TUNNELS)?;
    bed.note(format_args!("{TUNNELS} tunnels in {:.1} s", start.elapsed().as_secs_f64()));
    let ours = node.sas()?;
    ensure!(ours.len() == TUNNELS, "the gateway shows {} IKE SAs", ours.len());
    tunnels.all_carry(&world.client, &client)?;
    bed.note(format_args!(
        "memory {memory_at_one} KiB at 1 tunnel, {} KiB at {TUNNELS}",
        node.resident_kib()?
    ));
    Ok(())
}

/// Many tunnels of one client machine, told apart by their inner addresses.
pub struct Tunnels {
    addresses: Vec<IpAddr>,
}

impl Tunnels {
    /// Connects `count` identities; each must get an address of its own.
    pub fn connect(client: &Charon, count: usize) -> Result<Tunnels> {
        let names: Vec<String> = (0..count).map(|number| format!("client{number}")).collect();
        for name in &names {
            // One family keeps the client's routing table small.
            client.load(&Connection { vips: vec!["0.0.0.0"], ..Connection::client(name) })?;
        }
        in_parallel(&names, |name| client.initiate(name))?;
        let sas = client.sas()?;
        let addresses: Vec<IpAddr> = sas
            .iter()
            .map(|sa| {
                sa.virtual_addresses.first().context("no inner address")?.parse().context("inner address")
            })
            .collect::<Result<_>>()?;
        let distinct: HashSet<IpAddr> = addresses.iter().copied().collect();
        ensure!(distinct.len() == count, "{} different inner addresses of {count}", distinct.len());
        Ok(Tunnels { addresses })
    }

    /// The inner addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// A download through each, and the client's counters as the witness that each used its own tunnel.
    pub fn all_carry(&self, namespace: &Netns, client: &Charon) -> Result {
        in_parallel(&self.addresses, |&from| {
            let job =
                Job { server: server(false), from: Some(from), bytes: 256 * 1024, seed: 4, in_flight: None };
            http::download(namespace, job).context(format!("from {from}")).map(drop)
        })?;
        let sas = client.sas()?;
        let idle = sas.iter().filter(|sa| sa.children.iter().all(|child| child.packets_in == 0)).count();
        ensure!(idle == 0, "{idle} tunnels carried nothing");
        Ok(())
    }
}

/// Does it for every item, a few at a time; the first error ends it.
fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result + Sync) -> Result {
    let share = items.len().div_ceil(AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            items.chunks(share).map(|chunk| scope.spawn(|| chunk.iter().try_for_each(&work))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })
}
