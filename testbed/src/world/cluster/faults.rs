//! What is done to the nodes of a cluster and to the networks between them, and how it is undone.

use rustix::process::Signal;

use super::{Cluster, Edge};
use crate::outcome::{Context, Result};
use crate::world::exec;
use crate::world::fabric::{Net, Port, ROUGH};
use crate::world::switch::Way;

impl Cluster {
    /// SIGKILL, in the middle of whatever it does.
    pub fn kill(&mut self, edge: Edge) -> Result {
        self.away.insert(edge);
        self.nodes[edge.0].kill()
    }

    /// SIGTERM, as a service manager stops it; returns when it has ended.
    pub fn stop(&mut self, edge: Edge) -> Result {
        self.nodes[edge.0].stop()?;
        self.away.insert(edge);
        Ok(())
    }

    /// Starts a killed node again on the data that it left; does not wait for it.
    pub fn restart(&mut self, edge: Edge) -> Result {
        self.nodes[edge.0].restart()?;
        self.away.remove(&edge);
        Ok(())
    }

    /// SIGSTOP: the process hangs, its kernel goes on.
    pub fn pause(&mut self, edge: Edge) -> Result {
        self.away.insert(edge);
        self.signal(edge, Signal::STOP)
    }

    pub fn resume(&mut self, edge: Edge) -> Result {
        self.signal(edge, Signal::CONT)?;
        self.away.remove(&edge);
        Ok(())
    }

    fn signal(&self, edge: Edge, signal: Signal) -> Result {
        exec::signal(self.node(edge).pid().context(format!("{edge} does not run"))?, signal)
    }

    /// Pulls all cables of a machine: a host that is lost or cut off.
    pub fn unplug(&mut self, edge: Edge) -> Result {
        self.away.insert(edge);
        self.plugged(edge, &Net::ALL, false)
    }

    pub fn plug(&mut self, edge: Edge) -> Result {
        self.plugged(edge, &Net::ALL, true)?;
        self.away.remove(&edge);
        Ok(())
    }

    /// Pulls or puts in the cables of a machine to some networks. The node stays among the present.
    pub fn plugged(&self, edge: Edge, nets: &[Net], plugged: bool) -> Result {
        nets.iter().try_for_each(|&net| self.fabric.plugged(&Port::new(net, &edge.to_string()), plugged))
    }

    /// Separates these nodes from the others on the link network, both ways, until `heal`. The smaller side counts as
    /// taken away.
    pub fn partition(&mut self, island: &[Edge]) -> Result {
        let mainland: Vec<Edge> = self.edges().filter(|edge| !island.contains(edge)).collect();
        let pairs = island.iter().flat_map(|&one| mainland.iter().map(move |&other| (one, other)));
        let ways: Vec<_> = pairs.flat_map(|(one, other)| [(one, other), (other, one)]).collect();
        self.sever(&ways, if island.len() < mainland.len() { island } else { &mainland })
    }

    /// Nothing of what the first of each pair sends on the link network reaches the second, until `heal`. `lost` count as
    /// taken away.
    pub fn sever(&mut self, ways: &[(Edge, Edge)], lost: &[Edge]) -> Result {
        let ways: Vec<_> = ways.iter().map(|&(from, to)| (on_link(from), on_link(to))).collect();
        self.fabric.lose(&ways)?;
        self.away.extend(lost);
        Ok(())
    }

    /// On a rough fabric: no datagram of the other nodes reaches this one, but connections work, until `heal`.
    pub fn deafen(&mut self, edge: Edge) -> Result {
        let way = Way { cut_datagrams: true, ..Way::default() };
        let others = self.edges().filter(|other| *other != edge);
        self.fabric.set(&others.map(|other| (on_link(other), on_link(edge), way)).collect::<Vec<_>>())?;
        self.away.insert(edge);
        Ok(())
    }

    /// On a rough fabric: all ways between nodes, and between them and the client, are like this until `heal`.
    pub fn roughen(&self, way: Way) -> Result {
        let mut ways = Vec::new();
        for net in ROUGH {
            let nodes = self.edges().map(|edge| Port::new(net, &edge.to_string()));
            let client = (net == Net::Outside).then(|| Port::new(net, "client"));
            let ports: Vec<Port> = nodes.chain(client).collect();
            for (from, to) in ports.iter().flat_map(|from| ports.iter().map(move |to| (from, to))) {
                if from != to {
                    ways.push((from.clone(), to.clone(), way));
                }
            }
        }
        self.fabric.set(&ways)
    }

    /// Ends every partition and other loss on the networks.
    pub fn heal(&mut self) -> Result {
        self.fabric.heal()?;
        self.away = self.edges().filter(|edge| self.node(*edge).pid().is_none()).collect();
        Ok(())
    }

    /// Moves everything away from a node; returns when it is done.
    pub fn drain(&self, edge: Edge) -> Result {
        self.any()?.must(&["drain", &edge.to_string()]).map(drop)
    }

    pub fn undrain(&self, edge: Edge) -> Result {
        self.any()?.must(&["undrain", &edge.to_string()]).map(drop)
    }

    /// Moves one segment as planned; returns when it is done.
    pub fn move_segment(&self, segment: u64, to: Edge) -> Result {
        self.any()?.must(&["segments", "move", &segment.to_string(), &to.to_string()]).map(drop)
    }

    /// A machine whose disk is gone: SIGKILL, and nothing is left of its data.
    pub fn wipe(&mut self, edge: Edge) -> Result {
        self.kill(edge)?;
        self.nodes[edge.0].forget()
    }

    /// Starts a wiped node and takes it in again, as a new member in the place of the one of its name.
    pub fn replace(&mut self, edge: Edge) -> Result {
        self.nodes[edge.0].restart()?;
        self.nodes[edge.0].wait_reachable()?;
        self.join(edge)
    }
}

fn on_link(edge: Edge) -> Port {
    Port::new(Net::Link, &edge.to_string())
}
