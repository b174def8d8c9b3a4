//! The replicated state, the log that carries it, and the links between nodes.
//!
//! ```text
//!   handle    Cluster: open, init, propose, commit, state, applied       what the node uses
//!   state     what is replicated: pure, deterministic; knows no openraft, no tokio, no time
//!   store     what is on disk: log, votes, snapshots, identity, storage key
//!   glue      openraft, between the three; no other file names it
//!   links     where the links between nodes plug in
//!   timing    Raft's times by profile          timings   how long commits and flushes take
//! ```
//!
//! Of IPsec this crate knows the records and their types, not the protocol.
#![forbid(unsafe_code)]

mod glue;
pub mod handle;
pub mod links;
pub mod state;
pub mod store;
pub mod timing;
pub mod timings;

pub use glue::Applied;
pub use handle::{Cluster, Committed, OpenError, Opened, Options, ProposeError, RaftStatus, Role, Vacant};
