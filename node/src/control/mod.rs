//! The local API: what `pontoon` the tool asks of `pontoon` the daemon, over a unix socket.
//!
//! ```text
//!   cli ──> client ──(one JSON object a line)──> server ──> Backend (the daemon's actors)
//! ```
//!
//! `api` holds the documents, which are also what `-o json` prints; `wire` frames them; `server` and `client` speak.
//! The server never trusts a line: size, number and time are bounded, and what it cannot read is answered with a
//! `Fault`, not dropped.

pub mod api;
mod backend;
mod client;
mod server;
#[cfg(test)]
pub(crate) mod tests;
pub mod wire;

pub use backend::{Answer, Backend, Ready};
pub use client::Client;
pub use server::{Server, not_running};
pub use wire::Call;
