//! Why octets are not a message, and what the sender may be told (RFC 7296, 2.5 and 2.21).

use std::fmt;

use super::notify::Notify;
use super::registry::{NotifyType, PayloadType};
use crate::spec::IKE_VERSION;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Shorter than an IKE header.
    Truncated,
    /// The header's Length is not the number of octets that came.
    Length { told: u32, came: usize },
    /// Longer than we take.
    Oversized,
    /// A major version other than 2.
    UnsupportedVersion(u8),
    /// The initiator's SPI is zero.
    ZeroSpi,
    /// A payload type that we do not know, marked critical.
    UnsupportedCritical(u8),
    /// A payload contradicts its own lengths, counts or allowed values.
    InvalidSyntax { payload: PayloadType, what: &'static str },
}

impl ParseError {
    /// What may be answered. Nothing to octets that are not even a message of ours to judge: those are dropped.
    //= IK-3
    //= IK-6
    //= IK-8
    pub fn notify(&self) -> Option<Notify> {
        match *self {
            ParseError::UnsupportedVersion(major) if major > IKE_VERSION >> 4 => {
                Some(Notify::new(NotifyType::INVALID_MAJOR_VERSION, vec![IKE_VERSION >> 4]))
            }
            ParseError::UnsupportedCritical(kind) => {
                Some(Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind]))
            }
            ParseError::InvalidSyntax { .. } => Some(Notify::new(NotifyType::INVALID_SYNTAX, vec![])),
            ParseError::Truncated
            | ParseError::Length { .. }
            | ParseError::Oversized
            | ParseError::UnsupportedVersion(_)
            | ParseError::ZeroSpi => None,
        }
    }

    /// A metric label.
    pub fn name(&self) -> &'static str {
        match self {
            ParseError::Truncated => "truncated",
            ParseError::Length { .. } => "length",
            ParseError::Oversized => "oversized",
            ParseError::UnsupportedVersion(_) => "version",
            ParseError::ZeroSpi => "zero_spi",
            ParseError::UnsupportedCritical(_) => "critical",
            ParseError::InvalidSyntax { .. } => "syntax",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseError::Truncated => f.write_str("shorter than an IKE header"),
            ParseError::Length { told, came } => write!(f, "header tells {told} octets, {came} came"),
            ParseError::Oversized => f.write_str("longer than we take"),
            ParseError::UnsupportedVersion(major) => write!(f, "IKE version {major}"),
            ParseError::ZeroSpi => f.write_str("the initiator's SPI is zero"),
            ParseError::UnsupportedCritical(kind) => write!(f, "unknown critical payload {kind}"),
            ParseError::InvalidSyntax { payload, what } => write!(f, "{payload} payload: {what}"),
        }
    }
}

impl std::error::Error for ParseError {}

/// What a payload's parser says; the chain adds which payload it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

pub(crate) const SHORT: Malformed = Malformed("ends early");

#[cfg(test)]
mod tests {
    use super::*;

    //= test IK-3
    #[test]
    fn what_the_sender_is_told() {
        let told = |error: ParseError| error.notify().map(|n| (n.kind, n.data));
        assert_eq!(
            told(ParseError::UnsupportedVersion(3)),
            Some((NotifyType::INVALID_MAJOR_VERSION, vec![2]))
        );
        assert_eq!(told(ParseError::UnsupportedVersion(1)), None);
        assert_eq!(
            told(ParseError::UnsupportedCritical(99)),
            Some((NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![99]))
        );
        let syntax = ParseError::InvalidSyntax { payload: PayloadType::SA, what: "x" };
        assert_eq!(told(syntax), Some((NotifyType::INVALID_SYNTAX, vec![])));
        assert_eq!(told(ParseError::Length { told: 1, came: 2 }), None);
    }
}
