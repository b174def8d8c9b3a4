//! What crosses the two queues between the control side and a worker.

use ipsec::datagram::Datagram;
use ipsec::esp::{Carried, Event, Install};
use ipsec::policy::Selector;
use ipsec::record::{Block, Path};
use ipsec::types::{ChildSpi, Epoch, EspSeq, Segment, Spi};

use tokio::sync::oneshot;

use super::held::{DigestKey, Forwarded};
use super::relay::{Link, Owner};

/// What the control side wants of a worker. Orders that no longer fit (a child that is gone, an epoch that has passed)
/// are ignored: the log has moved on, and later orders say where to.
#[derive(Debug)]
pub enum Order {
    /// The segment is assigned to our running incarnation under this epoch.
    Serve { segment: Segment, epoch: Epoch },
    /// It no longer is: its children and keys go.
    Unserve { segment: Segment },
    /// A new child, or a known one whose record has changed.
    Install(Box<Install>),
    /// Numbers that were committed for a child.
    Grant { child: ChildSpi, block: Block },
    /// A child was deleted.
    Remove { child: ChildSpi },
    /// The record of an IKE SA says that its peer is elsewhere now.
    Moved { ike: Spi, path: Path },
    /// The peer is known to use this child: it may be sent on, although nothing came in on it yet.
    Confirm { child: ChildSpi },
    /// Everything up to `edge` was received: a mark of the owner before us.
    RaiseEdge { child: ChildSpi, edge: EspSeq },
    /// The largest packet that the way to a peer takes, outer headers included.
    PathMtu { ike: Spi, octets: usize },
    /// IKE messages to send, after the orders before this one.
    Send(Vec<Datagram>),
    /// The way to the other nodes.
    Link(Link),
    /// Who has these segments now. `None`: nobody.
    Owners(Vec<(Segment, Option<Owner>)>),
    /// A planned move to this node: from now on what comes for the segment is held, until `Release`.
    Open { segment: Segment, epoch: Epoch, opened: oneshot::Sender<()> },
    /// The segment is served, its children are installed: what was held is processed, without what the owner before us
    /// has forwarded.
    Release { segment: Segment, forwarded: Forwarded },
    /// The move has come to nothing.
    Abandon { segment: Segment },
    /// A planned move away from this node: notes from now on which inner packets are forwarded, where the next owner
    /// sees them, too.
    Watch { segment: Segment, key: DigestKey, watched: oneshot::Sender<()> },
    /// Nothing is sent or received for the segment any more; what still comes goes on to `next`.
    Close { segment: Segment, next: Owner, closed: oneshot::Sender<Closed> },
    /// Answered when it is carried out: the worker takes its turns.
    Turn(oneshot::Sender<()>),
    /// The networks behind the peer of an IKE SA, wherever it is served; none when it is gone.
    Reaches { ike: Spi, remote: Vec<Selector> },
}

/// What the next owner of a segment needs.
#[derive(Debug, Default)]
pub struct Closed {
    pub children: Vec<Carried>,
    pub forwarded: Forwarded,
}

/// What a worker tells the control side.
#[derive(Debug)]
pub enum Report {
    /// IKE messages that came in, those that belong to an IKE SA first.
    Ike(Vec<Datagram>),
    /// What the packets of this lap brought about: see `ipsec::esp::Event`.
    Events(Vec<Event>),
    /// A socket or the device is of no further use; the worker has ended. Fatal to the process.
    Failed(String),
}
