//! Two and more meshes on the loopback, with sessions made by hand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crypto::Secret;
use ipsec::types::Millis;
use raft::state::NodeId;

use super::*;

#[test]
fn only_what_is_for_the_unheard_goes_another_way() {
    let [heard, unheard, by] = [1, 2, 3].map(NodeId);
    let detour = Detour { unheard: [unheard].into(), by: Some(by) };
    assert_eq!([heard, unheard, by].map(|to| detour.toward(to)), [heard, by, by]);
    let nobody = Detour { by: None, ..detour };
    assert_eq!(nobody.toward(unheard), unheard);
}

/// Sessions between any nodes, as if all were connected.
#[derive(Default)]
struct Wires {
    addresses: Mutex<HashMap<NodeId, SocketAddr>>,
    /// By the one who dialled and the one who accepted.
    sessions: Mutex<HashMap<(NodeId, NodeId), (u64, Secret)>>,
}

struct Wired {
    me: NodeId,
    wires: Arc<Wires>,
}

impl Wires {
    fn connect(&self, from: NodeId, to: NodeId, id: u64) {
        self.sessions.lock().unwrap().insert((from, to), (id, Secret::from([id as u8; 32])));
    }
}

impl Keys for Wired {
    fn peers(&self) -> Vec<(NodeId, SocketAddr)> {
        let addresses = self.wires.addresses.lock().unwrap();
        addresses
            .iter()
            .map(|(&node, &address)| (node, address))
            .filter(|(node, _)| *node != self.me)
            .collect()
    }

    fn to(&self, node: NodeId) -> Option<Session> {
        let sessions = self.wires.sessions.lock().unwrap();
        let (id, secret) = sessions.get(&(self.me, node))?.clone();
        Some(Session { id, node, secret })
    }

    fn from(&self, id: u64) -> Option<Session> {
        let sessions = self.wires.sessions.lock().unwrap();
        let (&(node, _), (_, secret)) =
            sessions.iter().find(|((_, to), (known, _))| *to == self.me && *known == id)?;
        Some(Session { id, node, secret: secret.clone() })
    }
}

/// Answers probes with what they said, and notes what was answered.
#[derive(Clone, Default)]
struct Echo(Arc<Mutex<Vec<Answered>>>);

/// By whom, and what.
type Answered = (NodeId, Vec<u8>);

impl Pulse for Echo {
    fn round(&mut self, _: Millis, _: &[NodeId]) {}

    fn probe(&mut self, to: NodeId, _: Millis) -> Vec<u8> {
        to.0.to_be_bytes().to_vec()
    }

    fn probed(&mut self, _: NodeId, probe: &[u8], _: Millis) -> Option<Vec<u8>> {
        Some(probe.to_vec())
    }

    fn answered(&mut self, from: NodeId, answer: &[u8], _: Millis) {
        self.0.lock().unwrap().push((from, answer.to_vec()));
    }

    fn heard(&mut self, _: NodeId, _: Millis) {}

    fn due(&mut self, _: Millis) -> Option<Millis> {
        None
    }
}

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(5);

fn two() -> (Arc<Wires>, [(Mesh, Echo); 2]) {
    let wires = Arc::new(Wires::default());
    let ports = [A, B].map(|node| {
        let port = Port::open("127.0.0.1:0".parse().unwrap()).unwrap();
        wires.addresses.lock().unwrap().insert(node, port.local().unwrap());
        (node, port)
    });
    wires.connect(A, B, 11);
    wires.connect(B, A, 12);
    let meshes = ports.map(|(me, port)| {
        let echo = Echo::default();
        let keys = Arc::new(Wired { me, wires: wires.clone() });
        (Mesh::start(port, keys, Box::new(echo.clone()), 5).unwrap(), echo)
    });
    (wires, meshes)
}

fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never came about");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn dropped(mesh: &Mesh, reason: Drop) -> u64 {
    mesh.drops().find(|(label, _)| *label == reason.label()).unwrap().1
}

#[test]
fn probes_are_answered_by_who_was_asked() {
    let (_wires, [(_a, heard_a), (_b, heard_b)]) = two();
    for (echo, other) in [(heard_a, B), (heard_b, A)] {
        until(|| echo.0.lock().unwrap().len() >= 3);
        let answers = echo.0.lock().unwrap();
        assert!(
            answers.iter().all(|answer| *answer == (other, other.0.to_be_bytes().to_vec())),
            "{answers:?}"
        );
    }
}

#[test]
fn frames_reach_the_sink_of_their_kind() {
    let (_wires, [(a, _), (b, _)]) = two();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let sink = taken.clone();
    b.on(Kind::Marks, move |frames: &[Frame], arena: &mut [u8]| {
        sink.lock()
            .unwrap()
            .extend(frames.iter().map(|frame| (frame.from, arena[frame.text.clone()].to_vec())));
    });
    until(|| a.send(B, Kind::Marks, b"edge 7"));
    until(|| !taken.lock().unwrap().is_empty());
    assert_eq!(taken.lock().unwrap()[0], (A, b"edge 7".to_vec()));
    assert!(!a.send(NodeId(99), Kind::Marks, b"nobody"));
    assert!(a.send(B, Kind::Packet, b"nobody wants it"));
    until(|| dropped(&b, Drop::Unwanted) == 1);
}

#[test]
fn many_frames_sealed_by_another_thread_arrive() {
    let (_wires, [(a, _), (b, _)]) = two();
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    b.on(Kind::Packet, move |frames: &[Frame], _: &mut [u8]| {
        counter.fetch_add(frames.len() as u64, Ordering::Relaxed);
    });
    until(|| a.way(B).is_some());
    let (way, mut outside) = (a.way(B).unwrap(), a.outside().unwrap());
    let mut batch = crate::io::SendBatch::new();
    let mut sealing = way.session.batch(60);
    for _ in 0..60 {
        let slot = batch.slot(1_000).unwrap();
        sealing.seal(Kind::Packet, &mut slot[..1_000]).unwrap();
        batch.commit(crate::io::Route { peer: way.address, tos: 0 }, 1_000);
    }
    assert_eq!(outside.send(&mut batch), 60);
    until(|| count.load(Ordering::Relaxed) == 60);
}

#[test]
fn what_is_not_of_a_session_is_dropped_and_counted() {
    let (wires, [(a, _), (b, _)]) = two();
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = wires.addresses.lock().unwrap()[&B];
    stranger.send_to(&[1; 60], address).unwrap();
    stranger.send_to(&[1; 3], address).unwrap();
    until(|| dropped(&b, Drop::Session) >= 1 && dropped(&b, Drop::Malformed) >= 1);

    // A frame that was on the wire, twice.
    until(|| a.way(B).is_some());
    let mut frame = vec![0; OVERHEAD];
    a.way(B).unwrap().session.batch(1).seal(Kind::Marks, &mut frame).unwrap();
    stranger.send_to(&frame, address).unwrap();
    stranger.send_to(&frame, address).unwrap();
    until(|| dropped(&b, Drop::Replayed) == 1);
    frame[FRONT + BACK - 1] ^= 1;
    frame[FRONT - 1] ^= 0x40;
    stranger.send_to(&frame, address).unwrap();
    until(|| dropped(&b, Drop::Integrity) == 1);
}

#[test]
fn a_new_connection_brings_a_new_session() {
    let (wires, [(a, heard), (_b, _)]) = two();
    until(|| heard.0.lock().unwrap().len() > 1);
    wires.connect(A, B, 13);
    a.look();
    until(|| a.way(B).is_some_and(|way| way.session.id == 13));
    let before = heard.0.lock().unwrap().len();
    until(|| heard.0.lock().unwrap().len() > before + 3);
}
