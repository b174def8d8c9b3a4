//! The node: actors around the IKE engine and the replicated log, packet workers, sockets, configuration, and the
//! `pontoon` command line.
//!
//! ```text
//!   daemon ─ member ─┬─ roster ── segment (one for each owned) ── ipsec::ike
//!                    ├─ placement ── moves ── asks ~~~~> other nodes
//!                    ├─ lease                            │
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
//! | roster, placement, takeover, succession, steering, sieve, whereabouts, carrier, watchdog, watchman | the log's broadcast | reads the whole state again | ends the process |
//! | worker (thread) | 1,024 batches of orders | who orders waits | ends the process |
//!
//! This crate does not know how IKE bytes are laid out.
pub mod actor;
pub mod asks;
pub mod backend;
pub mod carrier;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod demo;
pub mod detector;
pub mod drain;
pub mod fault;
pub mod figures;
pub mod gateway;
pub mod growth;
pub mod io;
pub mod lease;
pub mod leave;
pub mod lifeline;
pub mod liveness;
pub mod lookout;
pub mod marks;
pub mod member;
pub mod mesh;
pub mod mirror;
pub mod moves;
pub mod observe;
pub mod overview;
pub mod placement;
pub mod pmtu;
pub mod promise;
pub mod pulse;
pub mod relayed;
pub mod report;
pub mod roster;
pub mod router;
pub mod runtime;
pub mod segment;
pub mod sieve;
pub mod steer;
pub mod steering;
pub mod succession;
pub mod takeover;
pub mod view;
pub mod watchdog;
pub mod watchman;
pub mod whereabouts;
