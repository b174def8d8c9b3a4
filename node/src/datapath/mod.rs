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
//! | `ports` | the sockets, by the local address and what they carry |
//! | `waiting` | inner packets whose SA has no number yet |

mod counters;
mod handle;
mod inward;
mod message;
mod outward;
mod ports;
mod waiting;
mod worker;

#[cfg(test)]
mod tests;

pub use counters::{Counters, Seen};
pub use handle::{Handle, Reports, Stopped, Worker, start};
pub use message::{Order, Report};
pub use ports::{Carries, Port};
