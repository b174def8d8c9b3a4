//! The replicated state, the log that carries it, and the links between nodes.
//!
//! ```text
//!   state   what is replicated: pure, deterministic; knows no openraft, no tokio, no time
//! ```
//!
//! Of IPsec this crate knows the records and their types, not the protocol.
#![forbid(unsafe_code)]

pub mod state;
