//! The secret behind the cookies of IKE_SA_INIT (RFC 7296, 2.6), the same on every node, so that a cookie that one
//! owner sent is good at the next. The one before stays valid until the next rotation.
//!
//! Invariant: the version rises by one with every rotation; a previous secret exists from version 2 on.

use crypto::Secret;
use ipsec::types::Millis;

use super::limits::COOKIE_SECRET_LEN;
use super::members::ensure;
use super::outcome::Refusal;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cookies {
    /// Of `current`; zero: there is none yet.
    pub version: u32,
    pub current: Option<Secret>,
    pub previous: Option<Secret>,
    /// UTC.
    pub rotated_at: Millis,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RotateCookieSecret {
    pub expected_version: u32,
    /// `COOKIE_SECRET_LEN` octets.
    pub secret: Secret,
    pub at: Millis,
}

impl Cookies {
    /// The secret of that version while it is valid.
    pub fn secret(&self, version: u32) -> Option<&Secret> {
        match self.version.checked_sub(version)? {
            0 => self.current.as_ref(),
            1 => self.previous.as_ref(),
            _ => None,
        }
    }

    /// Returns the new version.
    pub(super) fn rotate(&mut self, rotate: &RotateCookieSecret) -> Result<u32, Refusal> {
        if rotate.expected_version != self.version {
            return Err(Refusal::CookieSecretChanged { current: self.version });
        }
        if rotate.secret.len() != COOKIE_SECRET_LEN || self.current.as_ref() == Some(&rotate.secret) {
            return Err(Refusal::BadCookieSecret);
        }
        self.version = self.version.checked_add(1).ok_or(Refusal::BadCookieSecret)?;
        self.previous = self.current.replace(rotate.secret.clone());
        self.rotated_at = rotate.at;
        Ok(self.version)
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        ensure(self.current.is_some() == (self.version >= 1), "a cookie version without its secret")?;
        ensure(self.previous.is_some() == (self.version >= 2), "a cookie version without the secret before")
    }
}
