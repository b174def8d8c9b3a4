//! The IANA registries that IKEv2 uses: number, name, and what of it we can do.
//!
//! A registry is a number with names for some of its values, never a closed set: a peer may send any value, and it
//! must come back unchanged where the protocol echoes it. The second half converts between the numbers of transforms
//! and the algorithms of `crypto`; a number without a counterpart is one that we do not do.

use crypto::cipher::{Cipher, Integ};
use crypto::kex::Group;
use crypto::prf::Prf;

macro_rules! registry {
    ($(#[$doc:meta])* $name:ident($int:ty) { $($value:literal $constant:ident)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        #[allow(non_upper_case_globals)]
        impl $name {
            $(pub const $constant: $name = $name($value);)*

            /// The registered name; `None` for a value that this table does not know.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($constant)),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}", self.0),
                }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}

registry! {
    /// Exchange types (RFC 7296, 3.1; RFC 5723, 9242, 9370).
    ExchangeType(u8) {
        34 IKE_SA_INIT
        35 IKE_AUTH
        36 CREATE_CHILD_SA
        37 INFORMATIONAL
        38 IKE_SESSION_RESUME
        43 IKE_INTERMEDIATE
        44 IKE_FOLLOWUP_KE
    }
}

registry! {
    /// Payload types (RFC 7296, 3.2; RFC 7383, 8019).
    PayloadType(u8) {
        0 NONE
        33 SA
        34 KE
        35 IDi
        36 IDr
        37 CERT
        38 CERTREQ
        39 AUTH
        40 NONCE
        41 NOTIFY
        42 DELETE
        43 VENDOR
        44 TSi
        45 TSr
        46 SK
        47 CP
        48 EAP
        53 SKF
        54 PS
    }
}

registry! {
    /// Security protocol identifiers (RFC 7296, 3.3.1). `NONE` stands where no SPI is meant.
    ProtocolId(u8) {
        0 NONE
        1 IKE
        2 AH
        3 ESP
    }
}

registry! {
    /// Transform types (RFC 7296, 3.3.2; RFC 9370). The last one was called ESN before RFC 9827.
    TransformType(u8) {
        1 ENCR
        2 PRF
        3 INTEG
        4 KE
        5 SN
        6 ADDKE1
        7 ADDKE2
        8 ADDKE3
        9 ADDKE4
        10 ADDKE5
        11 ADDKE6
        12 ADDKE7
    }
}

registry! {
    /// Encryption algorithms, transform type 1.
    EncrId(u16) {
        2 DES
        3 TRIPLE_DES
        11 NULL
        12 AES_CBC
        13 AES_CTR
        14 AES_CCM_8
        15 AES_CCM_12
        16 AES_CCM_16
        18 AES_GCM_8
        19 AES_GCM_12
        20 AES_GCM_16
        21 NULL_AUTH_AES_GMAC
        28 CHACHA20_POLY1305
        29 AES_CCM_8_IIV
        30 AES_GCM_16_IIV
        31 CHACHA20_POLY1305_IIV
    }
}

registry! {
    /// Pseudorandom functions, transform type 2.
    PrfId(u16) {
        1 HMAC_MD5
        2 HMAC_SHA1
        4 AES128_XCBC
        5 HMAC_SHA2_256
        6 HMAC_SHA2_384
        7 HMAC_SHA2_512
        8 AES128_CMAC
    }
}

registry! {
    /// Integrity algorithms, transform type 3.
    IntegId(u16) {
        0 NONE
        1 HMAC_MD5_96
        2 HMAC_SHA1_96
        5 AES_XCBC_96
        8 AES_CMAC_96
        12 HMAC_SHA2_256_128
        13 HMAC_SHA2_384_192
        14 HMAC_SHA2_512_256
    }
}

registry! {
    /// Key exchange methods, transform type 4 and the number in a KE payload.
    GroupId(u16) {
        0 NONE
        1 MODP_768
        2 MODP_1024
        5 MODP_1536
        14 MODP_2048
        15 MODP_3072
        16 MODP_4096
        17 MODP_6144
        18 MODP_8192
        19 ECP_256
        20 ECP_384
        21 ECP_521
        31 CURVE25519
        32 CURVE448
        35 ML_KEM_512
        36 ML_KEM_768
        37 ML_KEM_1024
    }
}

registry! {
    /// Sequence numbers, transform type 5 (RFC 9827): 32 bit, or 64 bit of which the low half travels.
    SnId(u16) {
        0 NO_ESN
        1 ESN
    }
}

registry! {
    /// Notify message types (RFC 7296, 3.10.1 and the extensions named in the specification ledger).
    NotifyType(u16) {
        1 UNSUPPORTED_CRITICAL_PAYLOAD
        4 INVALID_IKE_SPI
        5 INVALID_MAJOR_VERSION
        7 INVALID_SYNTAX
        9 INVALID_MESSAGE_ID
        11 INVALID_SPI
        14 NO_PROPOSAL_CHOSEN
        17 INVALID_KE_PAYLOAD
        24 AUTHENTICATION_FAILED
        34 SINGLE_PAIR_REQUIRED
        35 NO_ADDITIONAL_SAS
        36 INTERNAL_ADDRESS_FAILURE
        37 FAILED_CP_REQUIRED
        38 TS_UNACCEPTABLE
        39 INVALID_SELECTORS
        40 UNACCEPTABLE_ADDRESSES
        41 UNEXPECTED_NAT_DETECTED
        42 USE_ASSIGNED_HoA
        43 TEMPORARY_FAILURE
        44 CHILD_SA_NOT_FOUND
        45 INVALID_GROUP_ID
        46 AUTHORIZATION_FAILED
        47 STATE_NOT_FOUND
        48 TS_MAX_QUEUE
        16384 INITIAL_CONTACT
        16385 SET_WINDOW_SIZE
        16386 ADDITIONAL_TS_POSSIBLE
        16387 IPCOMP_SUPPORTED
        16388 NAT_DETECTION_SOURCE_IP
        16389 NAT_DETECTION_DESTINATION_IP
        16390 COOKIE
        16391 USE_TRANSPORT_MODE
        16392 HTTP_CERT_LOOKUP_SUPPORTED
        16393 REKEY_SA
        16394 ESP_TFC_PADDING_NOT_SUPPORTED
        16395 NON_FIRST_FRAGMENTS_ALSO
        16396 MOBIKE_SUPPORTED
        16397 ADDITIONAL_IP4_ADDRESS
        16398 ADDITIONAL_IP6_ADDRESS
        16399 NO_ADDITIONAL_ADDRESSES
        16400 UPDATE_SA_ADDRESSES
        16401 COOKIE2
        16402 NO_NATS_ALLOWED
        16403 AUTH_LIFETIME
        16404 MULTIPLE_AUTH_SUPPORTED
        16405 ANOTHER_AUTH_FOLLOWS
        16406 REDIRECT_SUPPORTED
        16407 REDIRECT
        16408 REDIRECTED_FROM
        16409 TICKET_LT_OPAQUE
        16410 TICKET_REQUEST
        16411 TICKET_ACK
        16412 TICKET_NACK
        16413 TICKET_OPAQUE
        16417 EAP_ONLY_AUTHENTICATION
        16418 CHILDLESS_IKEV2_SUPPORTED
        16419 QUICK_CRASH_DETECTION
        16420 IKEV2_MESSAGE_ID_SYNC_SUPPORTED
        16421 IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED
        16422 IKEV2_MESSAGE_ID_SYNC
        16423 IPSEC_REPLAY_COUNTER_SYNC
        16430 IKEV2_FRAGMENTATION_SUPPORTED
        16431 SIGNATURE_HASH_ALGORITHMS
        16434 PUZZLE
        16435 USE_PPK
        16436 PPK_IDENTITY
        16437 NO_PPK_AUTH
        16438 INTERMEDIATE_EXCHANGE_SUPPORTED
        16439 IP4_ALLOWED
        16440 IP6_ALLOWED
        16441 ADDITIONAL_KEY_EXCHANGE
        16442 USE_AGGFRAG
        16443 SUPPORTED_AUTH_METHODS
        16444 SA_RESOURCE_INFO
    }
}

registry! {
    /// Identification types (RFC 7296, 3.5).
    IdType(u8) {
        1 ID_IPV4_ADDR
        2 ID_FQDN
        3 ID_RFC822_ADDR
        5 ID_IPV6_ADDR
        9 ID_DER_ASN1_DN
        10 ID_DER_ASN1_GN
        11 ID_KEY_ID
    }
}

registry! {
    /// Certificate encodings (RFC 7296, 3.6).
    CertEncoding(u8) {
        4 X509_SIGNATURE
        7 CRL
        12 HASH_AND_URL
        13 HASH_AND_URL_BUNDLE
        14 OCSP_CONTENT
        15 RAW_PUBLIC_KEY
    }
}

registry! {
    /// Authentication methods (RFC 7296, 3.8; RFC 4754, 7427, 7619).
    AuthMethod(u8) {
        1 RSA_SIGNATURE
        2 SHARED_KEY
        3 DSS_SIGNATURE
        9 ECDSA_256
        10 ECDSA_384
        11 ECDSA_521
        13 NULL
        14 DIGITAL_SIGNATURE
    }
}

registry! {
    /// Configuration payload types (RFC 7296, 3.15).
    ConfigType(u8) {
        1 CFG_REQUEST
        2 CFG_REPLY
        3 CFG_SET
        4 CFG_ACK
    }
}

registry! {
    /// Configuration attribute types (RFC 7296, 3.15.1; RFC 8598).
    ConfigAttributeType(u16) {
        1 INTERNAL_IP4_ADDRESS
        2 INTERNAL_IP4_NETMASK
        3 INTERNAL_IP4_DNS
        4 INTERNAL_IP4_NBNS
        6 INTERNAL_IP4_DHCP
        7 APPLICATION_VERSION
        8 INTERNAL_IP6_ADDRESS
        10 INTERNAL_IP6_DNS
        12 INTERNAL_IP6_DHCP
        13 INTERNAL_IP4_SUBNET
        14 SUPPORTED_ATTRIBUTES
        15 INTERNAL_IP6_SUBNET
        25 INTERNAL_DNS_DOMAIN
        26 INTERNAL_DNSSEC_TA
    }
}

registry! {
    /// Traffic selector types (RFC 7296, 3.13.1; RFC 9478).
    TsType(u8) {
        7 TS_IPV4_ADDR_RANGE
        8 TS_IPV6_ADDR_RANGE
        9 TS_FC_ADDR_RANGE
        10 TS_SECLABEL
    }
}

registry! {
    /// EAP codes (RFC 3748, 4).
    EapCode(u8) {
        1 REQUEST
        2 RESPONSE
        3 SUCCESS
        4 FAILURE
    }
}

impl NotifyType {
    /// Error types are below 16384; an unknown one in a response fails the whole request (RFC 7296, 3.10.1).
    pub fn is_error(self) -> bool {
        self.0 < 16384
    }
}

impl EncrId {
    /// The number and the Key Length attribute of a cipher. Fixed-length ciphers must not carry one (RFC 7296, 3.3.5).
    pub fn of(cipher: Cipher) -> (EncrId, Option<u16>) {
        match cipher {
            Cipher::AesGcm128 => (EncrId::AES_GCM_16, Some(128)),
            Cipher::AesGcm256 => (EncrId::AES_GCM_16, Some(256)),
            Cipher::ChaCha20Poly1305 => (EncrId::CHACHA20_POLY1305, None),
            Cipher::AesCbc128 => (EncrId::AES_CBC, Some(128)),
            Cipher::AesCbc256 => (EncrId::AES_CBC, Some(256)),
        }
    }

    /// The cipher that a transform names; `None` for what we do not do, which includes a variable-length cipher
    /// without a key length and a fixed-length one with it.
    //= IK-34
    pub fn cipher(self, key_length: Option<u16>) -> Option<Cipher> {
        match (self, key_length) {
            (EncrId::AES_GCM_16, Some(128)) => Some(Cipher::AesGcm128),
            (EncrId::AES_GCM_16, Some(256)) => Some(Cipher::AesGcm256),
            (EncrId::CHACHA20_POLY1305, None) => Some(Cipher::ChaCha20Poly1305),
            (EncrId::AES_CBC, Some(128)) => Some(Cipher::AesCbc128),
            (EncrId::AES_CBC, Some(256)) => Some(Cipher::AesCbc256),
            _ => None,
        }
    }
}

impl PrfId {
    pub fn of(prf: Prf) -> PrfId {
        match prf {
            Prf::HmacSha256 => PrfId::HMAC_SHA2_256,
            Prf::HmacSha384 => PrfId::HMAC_SHA2_384,
            Prf::HmacSha512 => PrfId::HMAC_SHA2_512,
        }
    }

    pub fn prf(self) -> Option<Prf> {
        match self {
            PrfId::HMAC_SHA2_256 => Some(Prf::HmacSha256),
            PrfId::HMAC_SHA2_384 => Some(Prf::HmacSha384),
            PrfId::HMAC_SHA2_512 => Some(Prf::HmacSha512),
            _ => None,
        }
    }
}

impl IntegId {
    pub fn of(integ: Integ) -> IntegId {
        match integ {
            Integ::HmacSha256_128 => IntegId::HMAC_SHA2_256_128,
            Integ::HmacSha384_192 => IntegId::HMAC_SHA2_384_192,
            Integ::HmacSha512_256 => IntegId::HMAC_SHA2_512_256,
        }
    }

    /// `None` for NONE as well: whether that is fit is the proposal's question, not the number's.
    pub fn integ(self) -> Option<Integ> {
        match self {
            IntegId::HMAC_SHA2_256_128 => Some(Integ::HmacSha256_128),
            IntegId::HMAC_SHA2_384_192 => Some(Integ::HmacSha384_192),
            IntegId::HMAC_SHA2_512_256 => Some(Integ::HmacSha512_256),
            _ => None,
        }
    }
}

impl GroupId {
    pub fn of(group: Group) -> GroupId {
        match group {
            Group::Modp2048 => GroupId::MODP_2048,
            Group::Modp3072 => GroupId::MODP_3072,
            Group::Modp4096 => GroupId::MODP_4096,
            Group::Ecp256 => GroupId::ECP_256,
            Group::Ecp384 => GroupId::ECP_384,
            Group::Curve25519 => GroupId::CURVE25519,
        }
    }

    /// `None` for the weak groups too, which some peers still offer.
    //= IK-30
    pub fn group(self) -> Option<Group> {
        match self {
            GroupId::MODP_2048 => Some(Group::Modp2048),
            GroupId::MODP_3072 => Some(Group::Modp3072),
            GroupId::MODP_4096 => Some(Group::Modp4096),
            GroupId::ECP_256 => Some(Group::Ecp256),
            GroupId::ECP_384 => Some(Group::Ecp384),
            GroupId::CURVE25519 => Some(Group::Curve25519),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        assert_eq!(NotifyType::COOKIE.0, 16390);
        assert_eq!(NotifyType(16390).to_string(), "COOKIE");
        assert_eq!(NotifyType(40000).to_string(), "40000");
        assert!(NotifyType::CHILD_SA_NOT_FOUND.is_error() && !NotifyType::INITIAL_CONTACT.is_error());
        assert_eq!(ExchangeType::INFORMATIONAL.to_string(), "INFORMATIONAL");
    }

    //= test IK-34
    #[test]
    fn a_key_length_where_it_varies_and_only_there() {
        for (id, length, cipher) in [
            (EncrId::AES_GCM_16, Some(256), Some(Cipher::AesGcm256)),
            (EncrId::AES_GCM_16, None, None),
            (EncrId::AES_GCM_16, Some(192), None),
            (EncrId::AES_CBC, Some(128), Some(Cipher::AesCbc128)),
            (EncrId::AES_CBC, None, None),
            (EncrId::CHACHA20_POLY1305, None, Some(Cipher::ChaCha20Poly1305)),
            (EncrId::CHACHA20_POLY1305, Some(256), None),
            (EncrId::AES_GCM_16_IIV, Some(256), None),
        ] {
            assert_eq!(id.cipher(length), cipher, "{id} {length:?}");
        }
    }

    #[test]
    fn every_algorithm_has_a_number_of_its_own() {
        for cipher in [
            Cipher::AesGcm128,
            Cipher::AesGcm256,
            Cipher::ChaCha20Poly1305,
            Cipher::AesCbc128,
            Cipher::AesCbc256,
        ] {
            let (id, length) = EncrId::of(cipher);
            assert_eq!(id.cipher(length), Some(cipher));
        }
        for prf in [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512] {
            assert_eq!(PrfId::of(prf).prf(), Some(prf));
        }
        for integ in [Integ::HmacSha256_128, Integ::HmacSha384_192, Integ::HmacSha512_256] {
            assert_eq!(IntegId::of(integ).integ(), Some(integ));
        }
        for group in [
            Group::Modp2048,
            Group::Modp3072,
            Group::Modp4096,
            Group::Ecp256,
            Group::Ecp384,
            Group::Curve25519,
        ] {
            assert_eq!(GroupId::of(group).group(), Some(group));
        }
    }
}
