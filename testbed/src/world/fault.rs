//! What can happen to a node, and how it comes back: for scripts and figures that do the same to each.

use std::fmt;
use std::time::Duration;

use super::cluster::{Cluster, Edge};
use super::fabric::Net;
use crate::outcome::Result;

/// What happens to a node in the middle, and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Killed,
    CutOff,
    OuterCable,
    Stopped(Duration),
    Drained,
}

impl Fault {
    /// Does it; returns when it is done, which for a drain is when the node owns nothing.
    pub fn strike(self, cluster: &mut Cluster, edge: Edge) -> Result {
        match self {
            Fault::Killed => cluster.kill(edge),
            Fault::CutOff => cluster.unplug(edge),
            Fault::OuterCable => cluster.plugged(edge, &[Net::Outside], false),
            Fault::Stopped(_) => cluster.pause(edge),
            Fault::Drained => cluster.drain(edge),
        }
    }

    /// Ends it, so that the node takes part again.
    pub fn mend(self, cluster: &mut Cluster, edge: Edge) -> Result {
        match self {
            Fault::Killed => cluster.restart(edge),
            Fault::CutOff => cluster.plug(edge),
            Fault::OuterCable => cluster.plugged(edge, &[Net::Outside], true),
            Fault::Stopped(_) => cluster.resume(edge),
            Fault::Drained => cluster.undrain(edge),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Killed => f.write_str("killed"),
            Fault::CutOff => f.write_str("all cables pulled"),
            Fault::OuterCable => f.write_str("outer cable pulled"),
            Fault::Stopped(time) => write!(f, "process stopped for {} s", time.as_secs()),
            Fault::Drained => f.write_str("drained"),
        }
    }
}
