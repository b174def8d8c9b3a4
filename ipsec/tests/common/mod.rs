//! What several of the integration tests need: vectors from files, captures, arbitrary messages.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "tests")]

pub mod arbitrary;
pub mod gateway;
pub mod pcap;
pub mod world;

use std::path::{Path, PathBuf};

/// A file or folder of the shared test vectors; `None`, with a line that says so, where they are not at hand.
pub fn vectors(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors");
    let root = std::env::var_os("PONTOON_VECTORS").map_or(root, PathBuf::from);
    let full = root.join(path);
    if full.exists() {
        return Some(full);
    }
    println!("SKIPPED: the test vectors {path} are not at hand");
    None
}

/// All files below a folder, in the order of their names.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder that can be read") {
            let path = entry.expect("an entry that can be read").path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
