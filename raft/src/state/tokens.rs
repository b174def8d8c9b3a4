//! Join tokens: who may become a member, how often, and until when.
//!
//! The state keeps the hash of a token's secret, so that reading it lets nobody in. A use is taken where the member
//! is added, in one command: uses are exact whatever node was asked. Expiry is judged by the time that the proposer
//! wrote down, since apply has no clock. A used-up token stays until it expires, so that a late use is told why.
//!
//! Invariants: ids are unique and their number is bounded; a token has the time of its end after that of its making.

use std::fmt;

use imbl::OrdMap;
use ipsec::types::Millis;

use super::limits::TOKENS_MAX;
use super::members::{Suffrage, ensure};
use super::outcome::Refusal;

/// Chosen at random by who made the token; not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TokenId(pub u64);

/// SHA-256 of a token's secret: proves in the log that the secret was shown, and is of no use to get in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenProof(pub [u8; 32]);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    pub proof: TokenProof,
    /// What those who join with it become.
    pub role: Suffrage,
    pub uses_left: u32,
    /// UTC.
    pub created_at: Millis,
    /// UTC: not valid from then on.
    pub expires_at: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateToken {
    pub id: TokenId,
    pub proof: TokenProof,
    pub role: Suffrage,
    pub uses: u32,
    /// UTC.
    pub expires_at: Millis,
    /// UTC.
    pub at: Millis,
}

/// One use of a token, as `AddMember` carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenUse {
    pub id: TokenId,
    pub proof: TokenProof,
}

#[derive(Clone, Debug, Default)]
pub struct Tokens {
    table: OrdMap<TokenId, Token>,
}

impl Tokens {
    pub fn get(&self, id: TokenId) -> Option<&Token> {
        self.table.get(&id)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Token> {
        self.table.values()
    }

    /// What a use of it at that time would be told. Changes nothing.
    pub fn check_use(&self, it: &TokenUse, at: Millis) -> Result<&Token, Refusal> {
        // The proof first: who does not know the secret learns nothing of the token.
        let token = self.get(it.id).filter(|token| token.proof == it.proof).ok_or(Refusal::TokenUnknown)?;
        if token.expires_at <= at {
            return Err(Refusal::TokenExpired);
        }
        if token.uses_left == 0 {
            return Err(Refusal::TokenUsedUp);
        }
        Ok(token)
    }

    pub(super) fn create(&mut self, create: &CreateToken) -> Result<(), Refusal> {
        if create.uses == 0 || create.expires_at <= create.at || self.table.contains_key(&create.id) {
            return Err(Refusal::BadToken);
        }
        self.sweep(create.at);
        if self.table.len() >= TOKENS_MAX {
            return Err(Refusal::TooManyTokens);
        }
        let token = Token {
            id: create.id,
            proof: create.proof,
            role: create.role,
            uses_left: create.uses,
            created_at: create.at,
            expires_at: create.expires_at,
        };
        self.table.insert(token.id, token);
        Ok(())
    }

    /// Takes one use; what its user becomes.
    pub(super) fn take(&mut self, it: &TokenUse, at: Millis) -> Result<Suffrage, Refusal> {
        let role = self.check_use(it, at)?.role;
        let token = self.table.get_mut(&it.id).expect("it was just found");
        token.uses_left -= 1;
        self.sweep(at);
        Ok(role)
    }

    fn sweep(&mut self, at: Millis) {
        let over = self.iter().filter(|token| token.expires_at <= at);
        for id in over.map(|token| token.id).collect::<Vec<_>>() {
            self.table.remove(&id);
        }
    }

    /// From a snapshot.
    pub(super) fn restore(&mut self, token: Token) -> Result<(), &'static str> {
        ensure(self.table.insert(token.id, token).is_none(), "a token twice")
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        ensure(self.table.len() <= TOKENS_MAX, "too many tokens")?;
        ensure(self.iter().all(|token| token.created_at < token.expires_at), "a token that never was valid")
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TokenProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenProof(..)")
    }
}
