//! Our own limits on the replicated state; those of records are in `ipsec::limits`.
//!
//! Each bounds one thing that could grow without end, or that a command could make too big for the log. They are
//! part of what every node must compute alike: changing one needs a new cluster version.

/// Members of a cluster, learners included.
pub const MEMBERS_MAX: usize = 64;
/// Octets in the name of a node or a cluster.
pub const NAME_LEN_MAX: usize = 64;
/// Octets in the address of a node and in the release of its software.
pub const ADDRESS_LEN_MAX: usize = 256;

/// Join tokens that have not expired.
pub const TOKENS_MAX: usize = 1024;
/// Octets of the certificate of the cluster's authority, and of its key.
pub const AUTHORITY_LEN_MAX: usize = 4096;

/// Octets of `gateway.toml`.
pub const CONFIGURATION_LEN_MAX: usize = 1 << 20;
/// Files that a configuration names, and octets in all of them together, their names included.
pub const FILES_MAX: usize = 1024;
pub const FILES_LEN_MAX: usize = 2 << 20;
/// Octets of the comment of a revision, and of who applied it.
pub const COMMENT_LEN_MAX: usize = 1024;
/// Revisions kept, the one in force included.
pub const HISTORY_MAX: usize = 32;

/// Children in one `Reserve`.
pub const RESERVE_MAX: usize = 4096;

/// Inner addresses of one IKE SA.
pub const LEASES_PER_SA_MAX: usize = 8;
/// Addresses whose last user is remembered after the release; the one released first is forgotten first.
pub const RELEASED_MAX: usize = 65_536;

/// IKE SAs that have ended a short while ago: their SPIs, and the replies to the Deletes of peers.
pub const FAREWELLS_MAX: usize = 16_384;

/// Octets of a cookie secret; RFC 7296, 2.6 leaves the length to us.
pub const COOKIE_SECRET_LEN: usize = 32;

/// Octets of one record in a snapshot: the longest is a configuration.
pub const SNAPSHOT_RECORD_LEN_MAX: usize = 16 << 20;

const _: () = assert!(HISTORY_MAX > 1, "a rollback needs something to go back to");
const _: () = assert!(CONFIGURATION_LEN_MAX + FILES_LEN_MAX + 2 * COMMENT_LEN_MAX < SNAPSHOT_RECORD_LEN_MAX);
