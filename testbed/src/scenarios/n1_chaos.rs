//! What `cargo chaos` does, by fixed seeds and every kind once.

use super::Scenario;
use crate::chaos::{self, Nemesis, Plan};
use crate::outcome::Result;
use crate::world::Bed;

pub(super) const LIST: &[Scenario] = &[
    Scenario {
        name: "n1-partitions",
        what: "five nodes, every shape of partition: a majority serves, a minority is silent",
        run: partitions,
    },
    Scenario {
        name: "n2-faults",
        what: "five nodes: killed, stopped, wiped, gone, starved, and bad networks",
        run: faults,
    },
];

const NODES: usize = 5;

fn partitions(bed: &Bed) -> Result {
    chaos::run(bed, &Plan { nodes: NODES, seed: 1, strikes: kinds(Nemesis::cuts) })
}

fn faults(bed: &Bed) -> Result {
    chaos::run(bed, &Plan { nodes: NODES, seed: 2, strikes: kinds(|nemesis| !nemesis.cuts()) })
}

fn kinds(wanted: impl Fn(Nemesis) -> bool) -> Vec<Nemesis> {
    Nemesis::ALL.into_iter().filter(|nemesis| wanted(*nemesis)).collect()
}
