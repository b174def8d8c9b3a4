//! The gateway configuration as it is replicated: the text, and the octets of every file that it names.
//!
//! Both may hold secrets, so neither is printed by `Debug`, and what leaves the daemon is redacted first.

use std::collections::BTreeMap;
use std::fmt;

use crypto::Secret;

#[derive(Clone, Default, PartialEq, Eq)]
pub struct GatewaySource {
    /// The text of `gateway.toml` as it was applied.
    pub toml: String,
    /// By the name that the text uses, whatever directory it was read from.
    pub files: BTreeMap<String, Secret>,
}

impl fmt::Debug for GatewaySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GatewaySource({} octets of text, {} files)", self.toml.len(), self.files.len())
    }
}
