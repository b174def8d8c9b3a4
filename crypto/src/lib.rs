//! Algorithms and secrets; no protocol, no sockets, no clock.
//!
//! ```text
//!   secret    octets that are wiped on drop, never printed, compared in constant time
//!   rng       the only source of randomness: the system's, or a seeded one for simulation
//!   prf, kex  key derivation and key exchange of IKEv2
//!   cipher    protection of ESP packets and IKE messages: `SealKey`, `OpenKey`
//!   sealing   state at rest
//!   hash      SHA-1 (NAT detection only), SHA-256, comparison in constant time
//! ```
//!
//! Two implementations stand behind `cipher`: aws-lc-rs (`fast`, the packet path) and the RustCrypto crates
//! (`reference`, IKE SK payloads). Tests hold them against each other.
//!
//! What this crate does not offer on purpose: an API that takes a raw nonce. The IV of an AEAD comes from the
//! epoch and counter that a `SealKey` owns; DESIGN, section 5.
#![forbid(unsafe_code)]

pub mod cipher;
pub mod hash;
pub mod kex;
pub mod prf;
pub mod rng;
pub mod sealing;
pub mod secret;
#[cfg(test)]
mod vectors;

pub use secret::Secret;
