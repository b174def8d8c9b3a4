//! The gateway in a box: network namespaces, real peers, faults, checkers; also the developer's commands.
//!
//! ```text
//!   bench      what the gateway costs, beside strongSwan: figures, never a verdict
//!   world      client - gateway - server in network namespaces, and what runs in them
//!   charon     an unmodified strongSwan, as the client or as the gateway to compare with
//!   checkers   a capture file against the invariants I1, I2, I3, I8: one file each
//!   compose    three gateways, a client and a web server as containers
//!   model      the protocol of takeovers, numbers and records: every reachable state
//!   tshark     a second opinion on every integrity value, by code that is not ours
//!   scenarios  scripts over all of these
//!   spec       which requirement has code, which has a test
//!   verify     everything, in order, with one line of figures at the end
//! ```
//!
//! Nothing here parses packets with the code that it judges: the checkers have their own small readers.
#![forbid(unsafe_code)]

pub mod bench;
pub mod chaos;
pub mod charon;
pub mod checkers;
pub mod compose;
pub mod keys;
pub mod model;
pub mod outcome;
pub mod scenarios;
pub mod spec;
pub mod tshark;
pub mod verify;
pub mod world;
