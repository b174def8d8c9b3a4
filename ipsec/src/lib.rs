//! The IPsec protocol as sans-IO state machines.
//!
//! Bytes come in, decisions come out; there is no socket, no clock and no randomness of its own in this crate.
//! Who calls it brings the time, a random source and a view of the replicated state.
//!
//! ```text
//!   wire    bytes <-> meaning: IKEv2 payloads, ESP headers, classification of a datagram
//!   record  what is replicated: an IKE SA with its children, and the only code that changes it
//!   ike     decides: looks at a record and an input, returns a `Decision`; changes nothing
//!   esp     packets: numbers, windows, selectors, encapsulation
//! ```
//!
//! The caller's contract: one input, then commit the decision's change, then open and send its replies, then the
//! next input for that SA.
#![forbid(unsafe_code)]

pub mod client;
pub mod datagram;
pub mod esp;
pub mod ike;
pub mod limits;
pub mod policy;
pub mod record;
pub mod spec;
pub mod types;
pub mod wire;
