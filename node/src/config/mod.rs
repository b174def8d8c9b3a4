//! The two configurations, read with every mistake at once.
//!
//! ```text
//!   node.toml ────────────────────────> NodeConfig       this machine's
//!   gateway.toml + the files it names ─> GatewaySource ── replicated ──> compile ──> ipsec::policy::Gateway
//! ```
//!
//! A `Diagnostic` has a place, a text and a help; a mistake never hides another one, and nothing is changed by a file
//! that has one.

pub mod diagnostic;
mod gateway_toml;
pub mod networks;
pub mod node_toml;
mod reader;
mod source;
pub mod suites;
pub mod units;

pub use diagnostic::{Diagnostic, Report};
pub use gateway_toml::{compile, examine};
pub use node_toml::{Link, LinkAddress, NodeConfig, Steering, Timing};
pub use source::{GatewaySource, Loaded, read_text};
