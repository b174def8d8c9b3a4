//! The IKE engine against our own client, without a socket: scripts in which every message can be held, lost,
//! repeated or reordered, and every commit delayed, refused or left unknown.
#![allow(clippy::unwrap_used)]

mod connect;
mod lab;
mod lifecycle;
mod refusals;
mod rekey;
mod takeover;
mod window;
