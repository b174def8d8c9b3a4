//! The node: actors around the IKE engine and the replicated log, packet workers, sockets, configuration, and the
//! `pontoon` command line.
//!
//! ```text
//!   daemon ─ member ─┬─ roster ── segment (one for each owned) ── ipsec::ike
//!                    ├─ placement, lease                 │
//!                    ├─ raft::Cluster <── commits ───────┤
//!                    └─ steer                            │
//!   router <── reports ── datapath (threads) <── orders ─┘
//!   control, observe: what people and scripts see
//! ```
//!
//! | actor | mailbox | when it is full | its end |
//! |---|---|---|---|
//! | router | 1,024 reports | the worker drops IKE messages, counted | ends the process |
//! | segment, one for each owned | 512 messages | datagrams are dropped, counted; all else waits | a new epoch, then a new actor |
//! | roster, placement, lease, steering, watchman | the log's broadcast | reads the whole state again | ends the process |
//! | worker (thread) | 1,024 batches of orders | who orders waits | ends the process |
//!
//! This crate does not know how IKE bytes are laid out.
pub mod actor;
pub mod backend;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod demo;
pub mod fault;
pub mod gateway;
pub mod io;
pub mod lease;
pub mod marks;
pub mod member;
pub mod observe;
pub mod placement;
pub mod report;
pub mod roster;
pub mod router;
pub mod segment;
pub mod steer;
pub mod steering;
pub mod view;
pub mod watchman;
