//! The replicated state, the log that carries it, and the links between nodes.
//!
//! ```text
//!   handle    Cluster: open, init, propose, commit, state, applied       what the node uses
//!   begin     how a vacant node becomes a member
//!   forward   a proposal on its way to whoever leads
//!   state     what is replicated: pure, deterministic; knows no openraft, no tokio, no time
//!   store     what is on disk: log, votes, snapshots, identity, storage key
//!   glue      openraft, between the three; no other file names it
//!   links     the links between nodes: mutual TLS
//!   join      how a node gets in           votes     who votes follows from who is a member
//!   timing    Raft's times by profile          timings   how long commits and flushes take
//! ```
//!
//! Of IPsec this crate knows the records and their types, not the protocol.
#![forbid(unsafe_code)]

mod begin;
mod forward;
mod glue;
pub mod handle;
pub mod join;
pub mod links;
pub mod state;
pub mod store;
pub mod timing;
pub mod timings;
mod votes;

pub use begin::Admission;
pub use glue::Applied;
pub use handle::{
    Cluster, Committed, Fatal, OpenError, Opened, Options, ProposeError, RaftStatus, Role, Vacant,
    WeakCluster,
};
