//! The packet side: worker threads that own the sockets and the TUN queue, and the way to talk to them.
//!
//! ```text
//!   control (tokio)                      worker 0..N (threads; segment mod N)
//!     Handle ── Vec<Order> ── queue ──>  orders ─> esp::Table
//!                                        sockets ─> classify ─┬─ ESP ─> open ─> TUN
//!                                                             └─ IKE ─┐
//!                                        TUN ─> select ─> seal ─> sockets
//!     reports  <── queue ── Report  <───────────────── events ────────┘
//! ```
//!
//! A worker runs to completion in batches: one lap takes what waits in the queue, in every ready socket and in the
//! device, and then waits in epoll. No lock, no allocation and no log per packet. What crosses a queue is a batch, and
//! both queues are bounded: orders wait for room, reports about packets are dropped and counted.
//!
//! Orders of one vector are carried out together and in order, so an `Install` that stands before a `Send` is in effect
//! when the reply leaves.
//!
//! | file | its one idea |
//! |---|---|
//! | `message` | what crosses the two queues |
//! | `handle` | the control side's end |
//! | `counters` | what others may read while packets pass |
//! | `worker` | the loop |
//! | `inward`, `outward` | the two directions in a lap |
//! | `relay`, `relayed` | to the node that serves the packet, and from another node |
//! | `ports` | the sockets, by the local address and what they carry |
//! | `held` | packets of segments that are on their way here |
//! | `waiting` | inner packets whose SA has no number yet |

mod counters;
mod handle;
pub mod held;
mod inward;
mod message;
mod outward;
mod ports;
pub mod relay;
mod relayed;
mod waiting;
mod worker;

#[cfg(test)]
mod tests;

pub use counters::{Counters, Seen};
pub use handle::{Handle, Reports, SeenByAll, Stopped, Worker, start};
pub use message::{Closed, Order, Report};
pub use ports::{Carries, Port};
