//! Constants that a standard fixes. What we choose ourselves stands in `limits`; the IANA registries in `wire::registry`.

/// UDP port of IKE (RFC 7296, 2).
pub const PORT_IKE: u16 = 500;
/// UDP port of IKE behind a non-ESP marker, and of UDP-encapsulated ESP (RFC 3948, 2; RFC 7296, 2.23).
pub const PORT_NAT_T: u16 = 4500;
/// Four zero octets stand where ESP has its SPI (RFC 3948, 2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// The one octet of a NAT keepalive (RFC 3948, 2.3).
pub const NAT_KEEPALIVE: u8 = 0xff;

/// Octets of the IKE header (RFC 7296, 3.1).
pub const IKE_HEADER_LEN: usize = 28;
/// Where the responder's SPI and the flags stand in it, and the flag of who began the IKE SA: what a filter in the
/// kernel needs to see to whom a message goes (RFC 7296, 3.1).
pub const IKE_AT_SPI_R: usize = 8;
pub const IKE_AT_FLAGS: usize = 19;
pub const IKE_FLAG_INITIATOR: u8 = 0x08;
/// Octets of the generic payload header (RFC 7296, 3.2).
pub const PAYLOAD_HEADER_LEN: usize = 4;
/// The version that we speak: major 2, minor 0.
pub const IKE_MAJOR: u8 = 2;
pub const IKE_VERSION: u8 = IKE_MAJOR << 4;

/// Octets of a nonce (RFC 7296, 3.9).
pub const NONCE_LEN_MIN: usize = 16;
pub const NONCE_LEN_MAX: usize = 256;
/// Octets of the data of a COOKIE notify (RFC 7296, 2.6).
pub const COOKIE_LEN_MIN: usize = 1;
pub const COOKIE_LEN_MAX: usize = 64;
/// A message of this size must be understood, one of the second size should be (RFC 7296, 2).
pub const MESSAGE_LEN_MUST: usize = 1280;
pub const MESSAGE_LEN_SHOULD: usize = 3000;

/// Octets of an IKE SPI, and of a child's.
pub const IKE_SPI_LEN: usize = 8;
pub const CHILD_SPI_LEN: usize = 4;

/// What the pre-shared key is padded with before it signs (RFC 7296, 2.15). No terminator.
pub const PSK_KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// Octets of the ESP header: SPI and the low half of the sequence number (RFC 4303, 2).
pub const ESP_HEADER_LEN: usize = 8;
/// Octets at the end of what ESP encrypts: pad length and next header (RFC 4303, 2.4 to 2.6).
pub const ESP_TRAILER_LEN: usize = 2;
/// The largest padding that the pad length octet can tell.
pub const ESP_PAD_MAX: usize = 255;
/// Next headers of tunnel mode, and the one of dummy packets (RFC 4303, 2.6).
pub const NEXT_HEADER_IPV4: u8 = 4;
pub const NEXT_HEADER_IPV6: u8 = 41;
pub const NEXT_HEADER_NONE: u8 = 59;
/// IP protocol number of ESP.
pub const PROTOCOL_ESP: u8 = 50;
/// Octets of a UDP header, which stands before encapsulated ESP.
pub const UDP_HEADER_LEN: usize = 8;
