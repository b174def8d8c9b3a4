//! The text of a join token: one line that can be pasted.
//!
//! ```text
//!   pt1.<hash of the authority's certificate>.<id>.<secret>.<checksum>       hexadecimal, lower case
//! ```
//!
//! The hash tells the newcomer whom it may talk to before it says anything. The checksum (CRC-32C over what stands
//! before it) tells a slip of the hand from a token that the cluster does not know.

use std::fmt;
use std::str::FromStr;

use crypto::Secret;
use crypto::hash::sha256;
use crypto::rng::{OsRng, Rng};

use crate::state::{TokenId, TokenProof, TokenUse};

const PREFIX: &str = "pt";
const VERSION: &str = "1";
const HASH_LEN: usize = 32;
const ID_LEN: usize = 8;
const SECRET_LEN: usize = 32;
const CHECKSUM_LEN: usize = 4;

#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// `pki::fingerprint` of the authority's certificate.
    pub authority: [u8; HASH_LEN],
    pub id: TokenId,
    pub secret: Secret,
}

/// Why a text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("this is no join token: those begin with `pt1.`")]
    NotOne,
    #[error("the token is of version {0}, and this release knows version {VERSION}")]
    Version(String),
    #[error("the token is not whole: it has {found} of 5 parts")]
    Parts { found: usize },
    #[error(
        "the token's {0} is not as long as it must be, or has something else than hexadecimal digits in it"
    )]
    Part(&'static str),
    #[error("the token has a wrong checksum: a character is wrong or missing")]
    Checksum,
}

impl JoinToken {
    /// A fresh one for the cluster of that authority.
    pub fn generate(authority: [u8; HASH_LEN]) -> JoinToken {
        JoinToken { authority, id: TokenId(OsRng.u64()), secret: Secret::from(OsRng.vec(SECRET_LEN)) }
    }

    /// What the cluster keeps of the secret, and compares.
    pub fn proof(&self) -> TokenProof {
        proof(&self.secret)
    }

    pub fn one_use(&self) -> TokenUse {
        TokenUse { id: self.id, proof: self.proof() }
    }

    /// The whole text. It lets a node in: for whoever asked for the token, and nobody else.
    pub fn reveal(&self) -> String {
        let body = format!(
            "{PREFIX}{VERSION}.{}.{}.{}",
            hex(&self.authority),
            hex(&self.id.0.to_be_bytes()),
            hex(self.secret.as_bytes())
        );
        let checksum = crc32c::crc32c(body.as_bytes());
        format!("{body}.{}", hex(&checksum.to_be_bytes()))
    }
}

pub(super) fn proof(secret: &Secret) -> TokenProof {
    TokenProof(sha256(&[b"pontoon join token", secret.as_bytes()]))
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        let text = text.trim();
        let parts: Vec<&str> = text.split('.').collect();
        let version = parts[0].strip_prefix(PREFIX).ok_or(TokenError::NotOne)?;
        if version != VERSION {
            let number = !version.is_empty() && version.bytes().all(|c| c.is_ascii_digit());
            return Err(if number { TokenError::Version(version.to_owned()) } else { TokenError::NotOne });
        }
        let [_, authority, id, secret, checksum] = parts[..] else {
            return Err(TokenError::Parts { found: parts.len() });
        };
        let part = |text: &str, name| unhex(text).ok_or(TokenError::Part(name));
        let checksum: [u8; CHECKSUM_LEN] =
            part(checksum, "checksum")?.try_into().map_err(|_| TokenError::Part("checksum"))?;
        let body = &text[..text.len() - 2 * CHECKSUM_LEN - 1];
        if crc32c::crc32c(body.as_bytes()).to_be_bytes() != checksum {
            return Err(TokenError::Checksum);
        }
        let authority =
            part(authority, "authority")?.try_into().map_err(|_| TokenError::Part("authority"))?;
        let id: [u8; ID_LEN] = part(id, "id")?.try_into().map_err(|_| TokenError::Part("id"))?;
        let secret = Secret::from(part(secret, "secret")?);
        if secret.len() != SECRET_LEN {
            return Err(TokenError::Part("secret"));
        }
        Ok(JoinToken { authority, id: TokenId(u64::from_be_bytes(id)), secret })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Lower case only: a token has one form.
fn unhex(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|&[high, low]| Some(value(high)? << 4 | value(low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_and_comes_back() {
        let token = JoinToken::generate([0xab; 32]);
        let text = token.reveal();
        assert!(text.starts_with("pt1.abab") && !text.contains(char::is_whitespace), "{text}");
        assert_eq!(text.parse::<JoinToken>(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse::<JoinToken>(), Ok(token.clone()), "pasted with its line");
        assert!(!format!("{token:?}").contains(&text[90..100]));
        assert_ne!(JoinToken::generate([0xab; 32]).proof(), token.proof());
    }

    #[test]
    fn what_is_no_token_is_told_why() {
        let text = JoinToken::generate([7; 32]).reveal();
        let refused = |text: &str| text.parse::<JoinToken>().expect_err(text);
        for other in ["", "x", "pt", "ptx.1", "eyJhbGciOi.J9"] {
            assert_eq!(refused(other), TokenError::NotOne, "{other}");
        }
        assert_eq!(refused(&text.replacen("pt1", "pt2", 1)), TokenError::Version("2".into()));
        assert_eq!(refused("pt1.00.11"), TokenError::Parts { found: 3 });
        assert_eq!(refused(&format!("{text}.")), TokenError::Parts { found: 6 });
        assert_eq!(refused(&text[..text.len() - 1]), TokenError::Part("checksum"));
        let upper = text.to_uppercase().replacen("PT", "pt", 1);
        assert!(matches!(refused(&upper), TokenError::Part(_) | TokenError::Checksum));
        for at in 4..text.len() {
            let mut octets = text.clone().into_bytes();
            octets[at] = if octets[at] == b'0' { b'1' } else { b'0' };
            refused(std::str::from_utf8(&octets).unwrap());
        }
    }
}
