//! Connect with a shared key and inner addresses, ping, download, upload: over all suites chosen pairwise, over IPv4
//! and IPv6 inside.
//!
//! The client offers one suite at a time and the gateway takes all of them, so every row proves that the suite was
//! understood, chosen and right in both directions.

use super::Scenario;
use super::common::{ALICE, Connected, ESP, Gateway, IKE, MIB, both_ways, server};
use crate::charon::{Connection, Settings};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::Bed;

pub(super) const LIST: &[Scenario] = &[
    Scenario { name: "s1-connect", what: "connect, ping, 256 MiB down and up, AES-GCM", run: connect },
    Scenario {
        name: "s1-connect-chacha",
        what: "the same with ChaCha20-Poly1305 and Curve25519",
        run: connect_chacha,
    },
    Scenario {
        name: "s1-at-once",
        what: "the first packets after connecting arrive, twenty times",
        run: at_once,
    },
    Scenario {
        name: "s1-suites",
        what: "every pair of IKE cipher, PRF, group, ESP suite and family",
        run: suites,
    },
];

fn connect(bed: &Bed) -> Result {
    large(bed, IKE, ESP)
}

fn connect_chacha(bed: &Bed) -> Result {
    large(bed, "chacha20poly1305-prfsha256-x25519", "chacha20poly1305")
}

fn large(bed: &Bed, ike: &str, esp: &str) -> Result {
    let gateway = Gateway { ike: vec![ike.to_owned()], esp: vec![esp.to_owned()], ..Gateway::default() };
    let connected =
        Connected::with(bed, &gateway, &Settings::default(), |connection| connection.suites(ike, esp))?;
    let sa = connected.client.only(ALICE)?;
    ensure!(sa.virtual_addresses.len() == 2, "inner addresses {:?}", sa.virtual_addresses);
    for ipv6 in [false, true] {
        connected.world.ping(server(ipv6), 3)?;
        let bytes = if ipv6 { 16 * MIB } else { 256 * MIB };
        let (down, up) = both_ways(&connected.world.client, server(ipv6), bytes)?;
        bed.note(format_args!(
            "{}: down {:.0} Mbit/s, up {:.0} Mbit/s",
            server(ipv6),
            down.megabits_per_second(),
            up.megabits_per_second()
        ));
    }
    let ours = connected.node.sas()?;
    ensure!(ours.len() == 1, "the gateway shows {} IKE SAs", ours.len());
    ensure!(ours[0]["peer_id"] == ALICE, "the peer is {}", ours[0]["peer_id"]);
    ensure!(
        ours[0]["spi_i"] == sa.spi_i,
        "the gateway shows SPI {}, the client {}",
        ours[0]["spi_i"],
        sa.spi_i
    );
    Ok(())
}

/// Nothing may be lost between the reply of IKE_AUTH and the moment at which everything is in place.
fn at_once(bed: &Bed) -> Result {
    let connected =
        Connected::loaded(bed, &Gateway::default(), &Settings::default(), |connection| connection)?;
    for number in 0..20 {
        connected.client.initiate(ALICE)?;
        connected.ping().context(format!("connection {number}"))?;
        connected.client.terminate(ALICE)?;
    }
    Ok(())
}

fn suites(bed: &Bed) -> Result {
    let rows = pairwise(&[CIPHERS.len(), PRFS.len(), GROUPS.len(), ESPS.len(), 2]);
    let names: Vec<(String, &str, bool)> = rows
        .iter()
        .map(|row| {
            let ike = format!("{}-{}-{}", CIPHERS[row[0]], PRFS[row[1]], GROUPS[row[2]]);
            (ike, ESPS[row[3]], row[4] == 1)
        })
        .collect();
    let gateway = Gateway {
        ike: names.iter().map(|(ike, ..)| ike.clone()).collect(),
        esp: ESPS.iter().map(|esp| (*esp).to_owned()).collect(),
        ..Gateway::default()
    };
    let connected = Connected::loaded(bed, &gateway, &Settings::default(), |connection| connection)?;
    for (ike, esp, ipv6) in &names {
        let row = format!("{ike} / {esp} / {}", if *ipv6 { "IPv6" } else { "IPv4" });
        let one = || -> Result {
            connected.client.load(&Connection::client(ALICE).suites(ike, esp))?;
            connected.client.initiate(ALICE)?;
            connected.world.ping(server(*ipv6), 2)?;
            both_ways(&connected.world.client, server(*ipv6), 2 * MIB)?;
            connected.client.terminate(ALICE)
        };
        one().context(row)?;
    }
    bed.note(format_args!("{} combinations", names.len()));
    Ok(())
}

const CIPHERS: &[&str] =
    &["aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha256", "aes256-sha384", "aes256-sha512"];
const PRFS: &[&str] = &["prfsha256", "prfsha384", "prfsha512"];
const GROUPS: &[&str] = &["x25519", "ecp256", "ecp384", "modp2048", "modp3072", "modp4096"];
const ESPS: &[&str] = &[
    "aes128gcm16",
    "aes256gcm16",
    "chacha20poly1305",
    "aes128-sha256",
    "aes256-sha256",
    "aes128-sha384",
    "aes256-sha512",
];

/// Few rows in which every two values of different columns meet at least once: greedy, good enough.
fn pairwise(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut missing = std::collections::BTreeSet::new();
    for (a, &size_a) in sizes.iter().enumerate() {
        for (b, &size_b) in sizes.iter().enumerate().skip(a + 1) {
            missing.extend((0..size_a).flat_map(|x| (0..size_b).map(move |y| (a, x, b, y))));
        }
    }
    let mut rows = Vec::new();
    while let Some(&(a, x, b, y)) = missing.first() {
        let mut row: Vec<Option<usize>> = vec![None; sizes.len()];
        (row[a], row[b]) = (Some(x), Some(y));
        for column in 0..sizes.len() {
            if row[column].is_some() {
                continue;
            }
            // The value that meets most of what is missing among the columns chosen so far.
            let gain = |value: usize| {
                let chosen = row.iter().enumerate().filter_map(|(at, chosen)| Some((at, (*chosen)?)));
                chosen
                    .filter(|&(at, other)| {
                        let pair =
                            if at < column { (at, other, column, value) } else { (column, value, at, other) };
                        missing.contains(&pair)
                    })
                    .count()
            };
            let spread = rows.len();
            row[column] =
                (0..sizes[column]).max_by_key(|&value| (gain(value), (value + spread) % sizes[column]));
        }
        let row: Vec<usize> = row.into_iter().flatten().collect();
        missing.retain(|&(a, x, b, y)| row[a] != x || row[b] != y);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_meets() {
        let sizes = [6, 3, 6, 7, 2];
        let rows = pairwise(&sizes);
        assert!(rows.len() < 60, "{} rows", rows.len());
        for a in 0..sizes.len() {
            for b in a + 1..sizes.len() {
                for (x, y) in (0..sizes[a]).flat_map(|x| (0..sizes[b]).map(move |y| (x, y))) {
                    assert!(rows.iter().any(|row| row[a] == x && row[b] == y), "{a}={x} never meets {b}={y}");
                }
            }
        }
    }
}
