//! How far children have received, told to their standbys: what the next owner treats as seen after a crash (CL-14).
//!
//! ```text
//!   owner: counters of children ── every 5 ms, those that changed ──> mesh ──> standby: Marks ──> Replay::After
//! ```
//!
//! A datagram may be lost, so each mark is sent again in the next round; what was received between the last mark and the
//! crash could be accepted once more. With very many children a round takes longer, and the rounds become rarer, so that
//! they cost no more than a fiftieth of a processor.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use ipsec::types::{ChildSpi, EspSeq};
use raft::Cluster;
use raft::state::{NodeId, State};

use super::Marks;
use crate::datapath::Handle;
use crate::mesh::{Frame, Kind, Mesh};

/// How often the standbys are told of what has changed.
const EVERY: Duration = Duration::from_millis(5);

/// Rounds cost at most one part in so many of a processor.
const SHARE: u32 = 50;

/// How often marks of children that are gone are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// SPI and number.
const MARK_LEN: usize = 12;

/// Marks in one datagram, which is to fit any path.
const MARKS_MAX: usize = 96;

/// What was told of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    edge: EspSeq,
    again: bool,
}

/// Tells the standbys, for ever.
pub async fn send(marks: Marks, cluster: Cluster, worker: Handle, mesh: Mesh) {
    receive(&marks, &mesh);
    let mut told: HashMap<ChildSpi, Told> = HashMap::new();
    let mut tidied = Instant::now();
    loop {
        let begun = Instant::now();
        let state = cluster.state();
        let mut fresh: BTreeMap<NodeId, Vec<(ChildSpi, EspSeq)>> = BTreeMap::new();
        worker.edges(|child, edge| {
            if let Some(standby) = state.segment(child.segment()).standby
                && is_news(&mut told, child, edge)
            {
                fresh.entry(standby).or_default().push((child, edge));
            }
        });
        for (standby, marks) in fresh {
            for part in marks.chunks(MARKS_MAX) {
                // Without a way the drop is counted, and the next change is told again.
                mesh.send(standby, Kind::Marks, &encode(part));
            }
        }
        if tidied.elapsed() >= TIDY_EVERY {
            tidied = Instant::now();
            let is_gone = |state: &State, child: ChildSpi| state.find_child(child).is_none();
            told.retain(|&child, _| !is_gone(&state, child));
            marks.retain(|child| !is_gone(&state, child));
        }
        tokio::time::sleep(EVERY.max(begun.elapsed() * SHARE)).await;
    }
}

/// Takes in what owners tell this node as their standby.
fn receive(marks: &Marks, mesh: &Mesh) {
    let marks = marks.clone();
    mesh.on(Kind::Marks, move |frames: &[Frame], arena: &mut [u8]| {
        for frame in frames {
            marks.raise(decode(&arena[frame.text.clone()]));
        }
    });
}

/// True when the edge has moved since it was told, and once more after that.
fn is_news(told: &mut HashMap<ChildSpi, Told>, child: ChildSpi, edge: EspSeq) -> bool {
    match told.get_mut(&child) {
        Some(told) if told.edge == edge => std::mem::take(&mut told.again),
        _ if edge == EspSeq(0) => false,
        _ => {
            told.insert(child, Told { edge, again: true });
            true
        }
    }
}

fn encode(marks: &[(ChildSpi, EspSeq)]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(marks.len() * MARK_LEN);
    for (child, edge) in marks {
        octets.extend_from_slice(&child.0.to_be_bytes());
        octets.extend_from_slice(&edge.0.to_be_bytes());
    }
    octets
}

/// What is too short for a mark at the end says nothing.
fn decode(octets: &[u8]) -> impl Iterator<Item = (ChildSpi, EspSeq)> {
    let (marks, _) = octets.as_chunks::<MARK_LEN>();
    marks.iter().filter_map(|mark| {
        let (child, edge) = mark.split_first_chunk::<4>()?;
        let edge = u64::from_be_bytes(edge.try_into().ok()?);
        Some((ChildSpi(u32::from_be_bytes(*child)), EspSeq(edge)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ChildSpi = ChildSpi(0x0700_0001);
    const B: ChildSpi = ChildSpi(0x0700_0002);

    #[test]
    fn what_changed_is_told_twice_and_what_did_not_is_not() {
        let mut told = HashMap::new();
        let rounds =
            [(0, false), (5, true), (5, true), (5, false), (9, true), (12, true), (12, true), (12, false)];
        for (round, (edge, news)) in rounds.into_iter().enumerate() {
            assert_eq!(is_news(&mut told, A, EspSeq(edge)), news, "round {round}");
        }
        assert!(is_news(&mut told, B, EspSeq(1)), "each child for itself");
    }

    #[test]
    fn marks_survive_the_wire_and_only_rise() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(dir.path());
        let sent = [(A, EspSeq(1 << 40)), (B, EspSeq(7))];
        let mut octets = encode(&sent);
        octets.extend([1, 2, 3]);
        marks.raise(decode(&octets));
        marks.raise(decode(&encode(&[(A, EspSeq(3)), (B, EspSeq(8))])));
        assert_eq!((marks.last(A), marks.last(B)), (Some(EspSeq(1 << 40)), Some(EspSeq(8))));
        marks.retain(|child| child != A);
        assert_eq!((marks.last(A), marks.last(B)), (None, Some(EspSeq(8))));
    }
}
