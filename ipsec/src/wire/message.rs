//! A whole IKE message: header and payloads, with the encrypted one kept closed until its keys are at hand.

use crypto::cipher::{SealError, SealKey};

use super::chain::{self, Payload, Payloads};
use super::encrypted::{self, Encrypted};
use super::error::ParseError;
use super::header::{self, Header};
use super::notify::Notify;

/// ```text
///   Message::parse(octets)?            cleartext payloads are there, SK is `encrypted`
///     .encrypted → open(octets, key)?  the payloads inside
///   Message::new(header).with(payload)….emit()          in clear (IKE_SA_INIT)
///   Message::new(header).with(payload)….seal(&mut key)  everything inside SK
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub header: Header,
    /// The payloads in clear. Nothing vouches for them.
    pub payloads: Payloads,
    /// The SK or SKF payload, when the message has one: it was the last.
    pub encrypted: Option<Encrypted>,
}

impl Message {
    /// A message of ours, without payloads yet.
    pub fn new(header: Header) -> Message {
        Message { header, payloads: Payloads::default(), encrypted: None }
    }

    /// An answer to `request`'s header that says one thing only.
    pub fn notification(request: &Header, notify: Notify) -> Message {
        Message::new(request.reply()).with(notify)
    }

    #[must_use]
    pub fn with(mut self, payload: impl Into<Payload>) -> Message {
        self.payloads.push(payload);
        self
    }

    /// Reads a message from the IKE header on (no marker). The length of `octets` must be the header's.
    pub fn parse(octets: &[u8]) -> Result<Message, ParseError> {
        let (header, first) = Header::parse(octets)?;
        let (payloads, encrypted) = chain::parse_clear(first, octets)?;
        Ok(Message { header, payloads, encrypted })
    }

    /// The octets of a message in clear, from the IKE header on.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        self.header.emit(self.payloads.first_type(), &mut out);
        self.payloads.emit(&mut out);
        header::set_length(&mut out);
        out
    }

    /// The octets of a message with all its payloads inside SK. Each call takes a new IV from `key`: what is to be
    /// sent twice must be kept, not sealed twice (RFC 7296, 2.1).
    pub fn seal(&self, key: &mut SealKey) -> Result<Vec<u8>, SealError> {
        let mut inner = Vec::with_capacity(512);
        self.payloads.emit(&mut inner);
        encrypted::emit_sealed(&self.header, self.payloads.first_type(), &inner, key)
    }
}
