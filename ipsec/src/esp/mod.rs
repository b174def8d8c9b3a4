//! ESP packets in tunnel mode (RFC 4303, RFC 4301): sans-IO, no clock, no allocation and no lock per packet.
//!
//! ```text
//!   in    SPI -> Table -> Window::check -> OpenKey -> Window::update -> trailer -> Selectors -> ECN -> inner packet
//!   out   inner packet -> Routes -> Selectors -> Numbers -> trailer -> SealKey -> ESP packet
//! ```
//!
//! | file | its one idea |
//! |---|---|
//! | `table` | which child SAs there are, and which of them may send |
//! | `child` | one of them |
//! | `inbound`, `outbound` | the two directions, in batches |
//! | `replay` | numbers that were received |
//! | `block` | numbers that may be sent |
//! | `claim` | numbers that may be received, where nothing may come twice |
//! | `pace` | when to ask for more of either |
//! | `lifetime` | how much one SA may carry |
//! | `flow`, `selectors`, `routes` | what a packet shows, whether it fits an SA, which SAs to ask |
//! | `tunnel`, `pmtu` | trailer, congestion marks, lengths, fragments, ICMP answers |
//! | `too_big` | what a router says of our packets |
//!
//! What holds everywhere: nothing happens for a segment that is not served by our running incarnation, and nothing is
//! sent without a number of a block that was committed to the epoch under which the segment is served (I2, I6).

pub mod block;
pub mod checksum;
pub mod flow;
mod hash;
pub mod lifetime;
pub mod pmtu;
pub mod replay;
mod routes;
pub mod selectors;
pub mod tunnel;

mod child;
mod claim;
mod drops;
mod inbound;
mod outbound;
mod pace;
mod table;
mod too_big;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

pub use child::{Carried, Child, ChildStats};
pub use drops::{DropReason, Drops};
pub use flow::Flow;
pub use inbound::{Arrival, Origin};
pub use outbound::Sealer;
pub use routes::Routes;
pub use table::{ChildIndex, Event, Install, Refused, Replay, Table};
pub use too_big::{About, TooBig};
