//! Packets that workers pass on to other nodes: sealed in the worker's own thread, sent through the mesh's socket, and
//! on the other side put into the queue of the worker that serves them.

use std::io;
use std::net::SocketAddr;

use raft::state::NodeId;

use super::{BACK, FRONT, Frame, Kind, Mesh, Way};
use crate::datapath::relay::{Link, Seal};
use crate::datapath::{Handle, Order};

impl Mesh {
    /// Gives the workers their way to other nodes, and to other nodes the way to the workers.
    pub async fn serve_workers(&self, workers: &Handle) -> io::Result<()> {
        if let Some(mut inlet) = workers.inlet() {
            self.on(Kind::Packet, move |frames: &[Frame], arena: &mut [u8]| {
                frames.iter().for_each(|frame| inlet.push(&arena[frame.text.clone()]));
                inlet.flush();
            });
        }
        let links: io::Result<Vec<Link>> = (0..workers.count())
            .map(|_| {
                let seal = Box::new(Ways { mesh: self.clone(), known: Vec::new() });
                Ok(Link { seal, outside: self.outside()? })
            })
            .collect();
        let mut links = links?.into_iter();
        workers
            .tell_each(|_| links.next().map(Order::Link).into_iter().collect())
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The ways to other nodes that one worker uses, looked up once for each batch.
struct Ways {
    mesh: Mesh,
    known: Vec<(NodeId, Way)>,
}

impl Seal for Ways {
    fn room(&self) -> (usize, usize) {
        (FRONT, BACK)
    }

    fn seal(&mut self, to: NodeId, frame: &mut [u8]) -> Option<SocketAddr> {
        if !self.known.iter().any(|(node, _)| *node == to) {
            self.known.push((to, self.mesh.way_or_detour(to)?));
        }
        let (_, way) = self.known.iter().find(|(node, _)| *node == to)?;
        // Numbers are shared with other threads; one at a time, since a batch that is not used up is a gap.
        way.session.batch(1).seal(Kind::Packet, frame).ok()?;
        Some(way.address)
    }

    fn flushed(&mut self) {
        self.known.clear();
    }
}
