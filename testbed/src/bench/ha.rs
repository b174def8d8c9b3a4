//! What high availability costs: three nodes against one, everything else equal, measured in turn.
//!
//! Throughput and processor time of all nodes together, tunnels a second, the time of a commit, and what ESP traffic
//! writes to the log (blocks of numbers, nothing else).

use super::Extent;
use super::client::{Crowd, ESP, Tunnel};
use super::iperf::Iperf;
use super::measure::{Figures, measure_all};
use super::setup::gateway;
use super::table::{Cell, Table, quantile, sorted};
use crate::outcome::{Context, Result};
use crate::world::cluster::{Cluster, Shape};
use crate::world::{Bed, SERVER, exec};

/// A gateway of one node or of several, on the same networks.
struct Site {
    name: &'static str,
    cluster: Cluster,
}

pub fn run(bed: &Bed, extent: Extent) -> Result<Vec<Table>> {
    let mut sites = Vec::new();
    for (name, nodes) in [("one node", 1), ("three nodes", 3)] {
        let cluster = Cluster::start(bed, Shape { nodes, ..Shape::default() }, &gateway().toml())?;
        sites.push(Site { name, cluster });
    }
    Ok(vec![traffic(bed, &sites, extent)?, setups(&sites, extent)?, log_growth(bed, &sites, extent)?])
}

impl Site {
    fn pids(&self) -> Result<Vec<u32>> {
        self.cluster
            .edges()
            .map(|edge| self.cluster.node(edge).pid().context("a node does not run"))
            .collect()
    }
}

/// One TCP stream down and up. The tunnel's owner need not hold the address: then its packets are relayed, as most are
/// in a cluster, and that is part of the price.
fn traffic(bed: &Bed, sites: &[Site], extent: Extent) -> Result<Table> {
    exec::require("iperf3")?;
    let (rounds, seconds) = extent.choose((1, 2), (7, 4));
    let tunnels: Vec<Tunnel> =
        sites.iter().map(|site| Tunnel::open(&site.cluster.client)).collect::<Result<_>>()?;
    let mut table = Table::new(
        format!("{ESP}, our own client, one TCP stream, {rounds} rounds of {seconds} s in turn"),
        &["gateway", "direction", "Gbit/s", "gateway CPU-s/GB", "machine CPU-s/GB"],
    )
    .note("gateway CPU: of all nodes together");
    for download in [false, true] {
        let mut found: Vec<Vec<(f64, Figures)>> = vec![Vec::new(); sites.len()];
        for _ in 0..rounds {
            for (site, found) in sites.iter().zip(&mut found) {
                let iperf = Iperf { seconds, download, ..Iperf::default() };
                let mut gbit_per_s = f64::NAN;
                let figures = measure_all(&site.pids()?, || {
                    let Cluster { client, server, .. } = &site.cluster;
                    let seen = iperf.run(client, server, SERVER.into(), &bed.path(""))?;
                    gbit_per_s = seen.gbit_per_s();
                    Ok(seen.bytes)
                })?;
                found.push((gbit_per_s, figures));
            }
        }
        for (site, found) in sites.iter().zip(&found) {
            let column = |value: fn(&(f64, Figures)) -> f64| {
                Cell::spread(&found.iter().map(value).collect::<Vec<_>>())
            };
            table.row(vec![
                site.name.into(),
                if download { "server to client" } else { "client to server" }.into(),
                column(|one| one.0),
                column(|one| one.1.cpu_s_per_gb()),
                column(|one| one.1.machine_cpu_s_per_gb()),
            ]);
        }
    }
    drop(tunnels);
    Ok(table)
}

/// Set-ups, and the nodes' own account of how long commits took meanwhile.
fn setups(sites: &[Site], extent: Extent) -> Result<Table> {
    let (rounds, count, at_once) = extent.choose((1, 100, 16), (5, 500, 64));
    let mut table = Table::new(
        format!("{count} tunnels by our own clients, {at_once} at once, {rounds} rounds in turn"),
        &[
            "gateway",
            "set-ups/s",
            "p50 ms",
            "p99 ms",
            "gateway CPU ms each",
            "commit p50 ms",
            "commit p99 ms",
        ],
    )
    .note("commit: from proposing to applied, over all commands of the run; bounds of buckets");
    let mut found: Vec<[Vec<f64>; 4]> = vec![Default::default(); sites.len()];
    for _ in 0..rounds {
        for (site, found) in sites.iter().zip(&mut found) {
            let pids = site.pids()?;
            let (connected, figures) = site.cluster.client.within(move || -> Result<_> {
                let mut crowd = Crowd::open()?;
                let mut connected = None;
                let figures = measure_all(&pids, || {
                    connected = Some(crowd.connect(count, at_once)?);
                    Ok(0)
                })?;
                crowd.disconnect()?;
                Ok((connected.context("nothing was measured")?, figures))
            })??;
            let took_ms = sorted(&connected.took_ms);
            found[0].push(count as f64 / connected.elapsed.as_secs_f64());
            found[1].extend(quantile(&took_ms, 0.5));
            found[2].extend(quantile(&took_ms, 0.99));
            found[3].push(figures.threads_cpu_s * 1e3 / count as f64);
        }
    }
    for (site, found) in sites.iter().zip(&found) {
        let [rate, p50, p99, cpu] = found.each_ref().map(|values| Cell::spread(values));
        let commits = Histogram::read(&site.cluster, "pontoon_raft_commit_seconds")?;
        let quantile_ms = |q| Cell::from(commits.quantile(q).map(|seconds| seconds * 1e3));
        table.row(vec![site.name.into(), rate, p50, p99, cpu, quantile_ms(0.5), quantile_ms(0.99)]);
    }
    Ok(table)
}

/// What a stream of ESP writes to the log.
fn log_growth(bed: &Bed, sites: &[Site], extent: Extent) -> Result<Table> {
    let seconds = extent.choose(3, 20);
    let mut table = Table::new(
        format!("the log under {seconds} s of one TCP download"),
        &[
            "gateway",
            "ESP packets",
            "log entries",
            "entries per million packets",
            "octets per million packets",
        ],
    )
    .note("octets: growth of the leader's data folder on disk, compaction and all");
    for site in sites {
        let _tunnel = Tunnel::open(&site.cluster.client)?;
        let before = Wrote::look(&site.cluster)?;
        let iperf = Iperf { seconds, download: true, ..Iperf::default() };
        iperf.run(&site.cluster.client, &site.cluster.server, SERVER.into(), &bed.path(""))?;
        let after = Wrote::look(&site.cluster)?;
        let packets = after.packets - before.packets;
        let per_million = |grown: f64| Cell::Number(grown * 1e6 / packets);
        table.row(vec![
            site.name.into(),
            Cell::Number(packets),
            Cell::Number(after.entries - before.entries),
            per_million(after.entries - before.entries),
            per_million(after.octets - before.octets),
        ]);
    }
    Ok(table)
}

struct Wrote {
    packets: f64,
    entries: f64,
    octets: f64,
}

impl Wrote {
    fn look(cluster: &Cluster) -> Result<Wrote> {
        let mut packets = 0.0;
        for edge in cluster.edges() {
            packets += cluster.node(edge).metric("pontoon_esp_packets_total", "").unwrap_or(0.0);
        }
        let leader = cluster.leader()?;
        let mut command = std::process::Command::new("du");
        let text = exec::run(command.arg("-sb").arg(cluster.node(leader).data_dir()))?;
        let octets =
            text.split_whitespace().next().and_then(|octets| octets.parse().ok()).context(text.clone())?;
        Ok(Wrote { packets, entries: cluster.digest(leader)?.1 as f64, octets })
    }
}

/// A histogram at `/metrics`, of all nodes together: upper bounds and how many were not above them.
struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    fn read(cluster: &Cluster, name: &str) -> Result<Histogram> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for edge in cluster.edges() {
            let text = cluster.node(edge).metrics()?;
            for line in text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("_bucket{le=\""))
            {
                let (bound, count) = line.split_once("\"} ").context("a bucket without a count")?;
                let bound = bound.replace("+Inf", "inf").parse().context("bound")?;
                let count: f64 = count.trim().parse().context("count")?;
                match buckets.iter_mut().find(|known| known.0 == bound) {
                    Some(known) => known.1 += count,
                    None => buckets.push((bound, count)),
                }
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(Histogram(buckets))
    }

    fn quantile(&self, q: f64) -> Option<f64> {
        let all = self.0.last()?.1;
        self.0.iter().find(|bucket| bucket.1 >= q * all && all > 0.0).map(|bucket| bucket.0)
    }
}
