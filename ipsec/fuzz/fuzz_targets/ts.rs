//! Any octets as traffic selector payloads; `entry.rs` says what must hold.
#![no_main]

#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::ts(data));
