//! How a node gets into a cluster.
//!
//! ```text
//!   newcomer                                        any member
//!     token: authority's hash, id, secret
//!     TLS 1.3, ALPN pontoon-join/1  ────────────────>
//!     <──────────── its chain ends with the authority's certificate: the hash must be the token's
//!     Request: id, secret, name, address, release, key ─>  token good? name free? ── AddMember ──> log
//!     <──────────── Admitted: node id (the log index), certificate, members
//!     binds its directory, starts as a learner  <──── the leader replicates, compares digests, gives it a vote
//! ```
//!
//! The secret is sent as it is: only who holds a key that the pinned authority has signed can read it, and who holds
//! one is a member and has the secret's hash and the authority's key anyway.
//!
//! Every step may be cut off and done again. The newcomer keeps its key on disk before it asks; the cluster knows it by
//! that key, gives it the same id again, and takes no second use of the token.

mod ask;
mod door;
mod message;
mod pin;
mod token;

pub use ask::{Applicant, JoinError, ask};
pub use door::Door;
pub use message::RefusalKind;
pub use token::{JoinToken, TokenError};
