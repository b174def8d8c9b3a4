//! Steering of several nodes on one bridge, in real network namespaces.
#![allow(clippy::unwrap_used)] // a test file: the helpers of tests may fail as tests do

mod announce;
mod external;
mod nodes;
mod shared_mac;
