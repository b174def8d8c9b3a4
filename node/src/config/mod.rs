//! The two configurations, read with every mistake at once.
//!
//! ```text
//!   node.toml ────────────────────────> NodeConfig       this machine's
//!   gateway.toml + the files it names ─> GatewaySource ── replicated ──> compile ──> ipsec::policy::Gateway
//! ```
//!
//! A `Diagnostic` has a place, a text and a help; a mistake never hides another one, and nothing is changed by a file
//! that has one.

mod source;

pub use source::GatewaySource;
