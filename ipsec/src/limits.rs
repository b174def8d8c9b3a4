//! Our own limits, each with a name; what the RFCs fix is in `spec`. Relations are asserted at compile time.

/// Numbers in the first block of a child (the paper's checkpoint interval).
pub const FIRST_BLOCK: u64 = 10_000;

/// A block never grows past this many numbers: skipped ones count as used (2^32 without ESN).
pub const LARGEST_BLOCK: u64 = 8_000_000;

/// Numbers of the peer that a child with `replay = "strict"` may accept before its owner has claimed any.
pub const FIRST_CLAIM: u64 = 16;

/// A claim never runs further ahead of what has come in: after a crash so many numbers of the peer are lost at most.
pub const LARGEST_CLAIM: u64 = 200_000;

/// Child SAs under one IKE SA.
pub const CHILDREN_PER_IKE_SA: usize = 64;

/// Half-open IKE SAs of one segment; beyond that the oldest gives way.
pub const HALF_OPEN_PER_SEGMENT: usize = 256;

/// Half-open IKE SAs of one segment from which on a COOKIE is asked for (RFC 7296, 2.6).
pub const HALF_OPEN_BEFORE_COOKIE: usize = 8;

/// A half-open IKE SA is forgotten after this time.
pub const HALF_OPEN_MS: u64 = 30_000;

/// IKE_AUTH requests with a wrong integrity value on one half-open SA before it is forgotten.
pub const HALF_OPEN_BAD_MESSAGES: u32 = 16;

/// Addresses of one kind (INTERNAL_IP4_ADDRESS, INTERNAL_IP6_ADDRESS) that one client gets.
pub const ADDRESSES_PER_FAMILY: usize = 1;

/// Traffic selectors of one side of one child that we keep.
pub const SELECTORS_PER_SIDE: usize = 32;

/// How long the reply to the request that ended an IKE SA is kept for its retransmissions.
pub const FAREWELL_MS: u64 = 60_000;

/// Unprotected INVALID_IKE_SPI notifies in one second and segment.
pub const STRAY_REPLIES_PER_SECOND: u32 = 4;

/// Our requests: first retransmission, factor in percent, tries. About 60 s in all.
pub const RETRANSMIT_FIRST_MS: u64 = 1_000;
pub const RETRANSMIT_PERCENT: u64 = 180;
pub const RETRANSMIT_TRIES: u32 = 6;

/// After TEMPORARY_FAILURE a rekey waits this long (RFC 7296, 2.25).
pub const TEMPORARY_FAILURE_WAIT_MS: u64 = 5_000;

/// Octets of an IKE message. Peers with long certificate chains and no fragmentation stay below 12,000.
//= IK-1
pub const IKE_MESSAGE_LEN_MAX: usize = 16_384;
/// Payloads of one chain. A Windows client sends about 20, strongSwan with every extension about 30.
pub const PAYLOADS_MAX: usize = 64;
/// Proposals of one SA payload.
pub const PROPOSALS_MAX: usize = 64;
/// Transforms of one proposal. strongSwan's widest default has about 60.
pub const TRANSFORMS_MAX: usize = 128;
/// Attributes of one transform; only one is defined.
pub const TRANSFORM_ATTRIBUTES_MAX: usize = 4;
/// Attributes of one configuration payload.
pub const CONFIG_ATTRIBUTES_MAX: usize = 128;
/// SPIs in one Delete payload.
pub const DELETE_SPIS_MAX: usize = 1024;
/// Octets of an identity: a distinguished name is the longest one.
pub const IDENTITY_LEN_MAX: usize = 1024;
/// Fragments of one message that we are ready to hold; Windows was seen to send 29.
pub const FRAGMENTS_MAX: u16 = 64;

const _: () = assert!(FIRST_BLOCK < LARGEST_BLOCK);
const _: () = assert!(FIRST_CLAIM < LARGEST_CLAIM);
const _: () = assert!(LARGEST_BLOCK < (u32::MAX as u64) / 64);
const _: () = assert!(HALF_OPEN_BEFORE_COOKIE < HALF_OPEN_PER_SEGMENT);
const _: () =
    assert!(IKE_MESSAGE_LEN_MAX >= crate::spec::MESSAGE_LEN_SHOULD && IKE_MESSAGE_LEN_MAX <= 65_535 - 8);
const _: () = assert!(crate::spec::MESSAGE_LEN_SHOULD >= crate::spec::MESSAGE_LEN_MUST);

/// An SA that was replaced waits this long for the Delete of the side that replaced it, then we send ours.
pub const LEFTOVER_MS: u64 = 30_000;
