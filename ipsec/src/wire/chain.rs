//! The chain of payloads (RFC 7296, 3.2), in clear or inside SK.
//!
//! ```text
//!   next payload (1) | critical (1 bit), reserved | length (2), these four octets included | body
//! ```
//!
//! Each payload names the type of the next one; the header, or SK, names the first. The order is free, SK is last.
//! What we do not know is skipped, unless its sender marked it critical. Payloads of which one message can use but
//! one are refused when they come twice: otherwise two readers could see two meanings.

use super::encrypted::Encrypted;
use super::error::{Malformed, ParseError, SHORT};
use super::fragment::Fragment;
use super::reader::{Reader, put_length};
use super::registry::{NotifyType, PayloadType};
use super::{Auth, Cert, CertReq, Config, Delete, Eap, Id, Ke, Nonce, Notify, Sa, Ts, Vendor};
use crate::limits::PAYLOADS_MAX;
use crate::spec::{IKE_HEADER_LEN, PAYLOAD_HEADER_LEN};

const CRITICAL: u8 = 0x80;

/// One payload with its meaning.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    Sa(Sa),
    Ke(Ke),
    IdI(Id),
    IdR(Id),
    Cert(Cert),
    CertReq(CertReq),
    Auth(Auth),
    Nonce(Nonce),
    Notify(Notify),
    Delete(Delete),
    Vendor(Vendor),
    TsI(Ts),
    TsR(Ts),
    Config(Config),
    Eap(Eap),
}

/// Payloads in the order in which they stand in a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Payloads(Vec<Payload>);

macro_rules! one_of_a_kind {
    ($($(#[$doc:meta])* $method:ident: $variant:ident($type:ty))*) => {
        $($(#[$doc])* pub fn $method(&self) -> Option<&$type> {
            self.0.iter().find_map(|payload| match payload {
                Payload::$variant(inner) => Some(inner),
                _ => None,
            })
        })*
    };
}

macro_rules! any_number {
    ($($(#[$doc:meta])* $method:ident: $variant:ident($type:ty))*) => {
        $($(#[$doc])* pub fn $method(&self) -> impl Iterator<Item = &$type> {
            self.0.iter().filter_map(|payload| match payload {
                Payload::$variant(inner) => Some(inner),
                _ => None,
            })
        })*
    };
}

impl Payloads {
    one_of_a_kind! {
        sa: Sa(Sa)
        ke: Ke(Ke)
        id_i: IdI(Id)
        id_r: IdR(Id)
        auth: Auth(Auth)
        nonce: Nonce(Nonce)
        ts_i: TsI(Ts)
        ts_r: TsR(Ts)
        config: Config(Config)
        eap: Eap(Eap)
    }

    any_number! {
        notifies: Notify(Notify)
        deletes: Delete(Delete)
        certs: Cert(Cert)
        cert_reqs: CertReq(CertReq)
        vendors: Vendor(Vendor)
    }

    /// The first notify of this type.
    pub fn notify(&self, kind: NotifyType) -> Option<&Notify> {
        self.notifies().find(|notify| notify.kind == kind)
    }

    pub fn has_notify(&self, kind: NotifyType) -> bool {
        self.notify(kind).is_some()
    }

    /// The first notify of an error type, known or not: in a response it means that the request failed
    /// (RFC 7296, 3.10.1).
    //= IK-10
    pub fn error(&self) -> Option<&Notify> {
        self.notifies().find(|notify| notify.kind.is_error())
    }

    pub fn push(&mut self, payload: impl Into<Payload>) {
        self.0.push(payload.into());
    }

    #[must_use]
    pub fn with(mut self, payload: impl Into<Payload>) -> Payloads {
        self.push(payload);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Payload> {
        self.0.iter()
    }

    pub fn first_type(&self) -> PayloadType {
        self.0.first().map_or(PayloadType::NONE, Payload::kind)
    }

    /// Reads a chain that came out of SK; `first` is the type that SK named. An SK within is refused.
    pub fn parse(first: PayloadType, octets: &[u8]) -> Result<Payloads, ParseError> {
        let mut payloads = Payloads::default();
        let mut walk = Walk::new(first, octets);
        while let Some(part) = walk.step()? {
            if matches!(part.kind, PayloadType::SK | PayloadType::SKF) {
                return Err(invalid(part.kind, Malformed("encrypted within encrypted")));
            }
            payloads.take(&part)?;
        }
        walk.end()?;
        Ok(payloads)
    }

    /// Appends the chain. Reserved octets and the critical bit are zero (RFC 7296, 2.5).
    //= IK-7
    pub fn emit(&self, out: &mut Vec<u8>) {
        for (index, payload) in self.0.iter().enumerate() {
            let next = self.0.get(index + 1).map_or(PayloadType::NONE, Payload::kind);
            let from = out.len();
            out.extend([next.0, 0, 0, 0]);
            payload.emit_body(out);
            put_length(out, from, from + 2);
        }
    }

    /// Takes one more payload from the wire.
    //= IK-8
    fn take(&mut self, part: &Part<'_>) -> Result<(), ParseError> {
        let Some(payload) = Payload::parse(part.kind, part.body).map_err(|why| invalid(part.kind, why))?
        else {
            return if part.critical { Err(ParseError::UnsupportedCritical(part.kind.0)) } else { Ok(()) };
        };
        if payload.is_single() && self.0.iter().any(|earlier| earlier.kind() == part.kind) {
            return Err(invalid(part.kind, Malformed("comes twice")));
        }
        self.0.push(payload);
        Ok(())
    }
}

impl FromIterator<Payload> for Payloads {
    fn from_iter<I: IntoIterator<Item = Payload>>(payloads: I) -> Self {
        Payloads(payloads.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Payloads {
    type Item = &'a Payload;
    type IntoIter = std::slice::Iter<'a, Payload>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl Payload {
    pub fn kind(&self) -> PayloadType {
        match self {
            Payload::Sa(_) => PayloadType::SA,
            Payload::Ke(_) => PayloadType::KE,
            Payload::IdI(_) => PayloadType::IDi,
            Payload::IdR(_) => PayloadType::IDr,
            Payload::Cert(_) => PayloadType::CERT,
            Payload::CertReq(_) => PayloadType::CERTREQ,
            Payload::Auth(_) => PayloadType::AUTH,
            Payload::Nonce(_) => PayloadType::NONCE,
            Payload::Notify(_) => PayloadType::NOTIFY,
            Payload::Delete(_) => PayloadType::DELETE,
            Payload::Vendor(_) => PayloadType::VENDOR,
            Payload::TsI(_) => PayloadType::TSi,
            Payload::TsR(_) => PayloadType::TSr,
            Payload::Config(_) => PayloadType::CP,
            Payload::Eap(_) => PayloadType::EAP,
        }
    }

    /// Reads the body of one payload; `None` for a type that we do not know.
    pub fn parse(kind: PayloadType, body: &[u8]) -> Result<Option<Payload>, Malformed> {
        Ok(Some(match kind {
            PayloadType::SA => Payload::Sa(Sa::parse(body)?),
            PayloadType::KE => Payload::Ke(Ke::parse(body)?),
            PayloadType::IDi => Payload::IdI(Id::parse(body)?),
            PayloadType::IDr => Payload::IdR(Id::parse(body)?),
            PayloadType::CERT => Payload::Cert(Cert::parse(body)?),
            PayloadType::CERTREQ => Payload::CertReq(CertReq::parse(body)?),
            PayloadType::AUTH => Payload::Auth(Auth::parse(body)?),
            PayloadType::NONCE => Payload::Nonce(Nonce::parse(body)?),
            PayloadType::NOTIFY => Payload::Notify(Notify::parse(body)?),
            PayloadType::DELETE => Payload::Delete(Delete::parse(body)?),
            PayloadType::VENDOR => Payload::Vendor(Vendor::parse(body)?),
            PayloadType::TSi => Payload::TsI(Ts::parse(body)?),
            PayloadType::TSr => Payload::TsR(Ts::parse(body)?),
            PayloadType::CP => Payload::Config(Config::parse(body)?),
            PayloadType::EAP => Payload::Eap(Eap::parse(body)?),
            _ => return Ok(None),
        }))
    }

    /// Appends what stands behind the generic header.
    pub fn emit_body(&self, out: &mut Vec<u8>) {
        match self {
            Payload::Sa(inner) => inner.emit(out),
            Payload::Ke(inner) => inner.emit(out),
            Payload::IdI(inner) | Payload::IdR(inner) => inner.emit(out),
            Payload::Cert(inner) => inner.emit(out),
            Payload::CertReq(inner) => inner.emit(out),
            Payload::Auth(inner) => inner.emit(out),
            Payload::Nonce(inner) => inner.emit(out),
            Payload::Notify(inner) => inner.emit(out),
            Payload::Delete(inner) => inner.emit(out),
            Payload::Vendor(inner) => inner.emit(out),
            Payload::TsI(inner) | Payload::TsR(inner) => inner.emit(out),
            Payload::Config(inner) => inner.emit(out),
            Payload::Eap(inner) => inner.emit(out),
        }
    }

    /// True for payloads of which a message has one at most.
    fn is_single(&self) -> bool {
        !matches!(
            self,
            Payload::Cert(_)
                | Payload::CertReq(_)
                | Payload::Notify(_)
                | Payload::Delete(_)
                | Payload::Vendor(_)
        )
    }
}

macro_rules! into_payload {
    ($($type:ident => $variant:ident)*) => {
        $(impl From<$type> for Payload {
            fn from(inner: $type) -> Payload {
                Payload::$variant(inner)
            }
        })*
    };
}
into_payload! {
    Sa => Sa
    Ke => Ke
    Cert => Cert
    CertReq => CertReq
    Auth => Auth
    Nonce => Nonce
    Notify => Notify
    Delete => Delete
    Vendor => Vendor
    Config => Config
    Eap => Eap
}

/// Reads the payloads of a whole message; `first` comes from its header. Stops at SK or SKF, which must be last.
//= IK-9
pub(crate) fn parse_clear(
    first: PayloadType,
    message: &[u8],
) -> Result<(Payloads, Option<Encrypted>), ParseError> {
    let mut payloads = Payloads::default();
    let mut walk = Walk::new(first, message.get(IKE_HEADER_LEN..).unwrap_or_default());
    while let Some(part) = walk.step()? {
        let fragment = match part.kind {
            PayloadType::SK => None,
            PayloadType::SKF => {
                Some(Fragment::parse(part.next, part.body).map_err(|why| invalid(part.kind, why))?)
            }
            _ => {
                payloads.take(&part)?;
                continue;
            }
        };
        if !walk.rest.is_empty() {
            return Err(invalid(part.kind, Malformed("is not the last payload")));
        }
        let body_at = message.len() - part.body.len();
        return Ok((payloads, Some(Encrypted::new(part.next, fragment, body_at))));
    }
    walk.end()?;
    Ok((payloads, None))
}

fn invalid(payload: PayloadType, Malformed(what): Malformed) -> ParseError {
    ParseError::InvalidSyntax { payload, what }
}

/// Cuts a chain into its parts; what they say is not looked at here.
struct Walk<'a> {
    next: PayloadType,
    rest: &'a [u8],
    left: usize,
}

struct Part<'a> {
    kind: PayloadType,
    next: PayloadType,
    critical: bool,
    body: &'a [u8],
}

impl<'a> Walk<'a> {
    fn new(first: PayloadType, octets: &'a [u8]) -> Self {
        Walk { next: first, rest: octets, left: PAYLOADS_MAX }
    }

    //= IK-6
    //= IK-7
    fn step(&mut self) -> Result<Option<Part<'a>>, ParseError> {
        let kind = self.next;
        if kind == PayloadType::NONE {
            return Ok(None);
        }
        let fail = |why| invalid(kind, why);
        if self.left == 0 {
            return Err(fail(Malformed("one payload too many")));
        }
        self.left -= 1;
        let mut reader = Reader::new(self.rest);
        let [next, flags] = reader.array().map_err(fail)?;
        let length = usize::from(reader.u16().map_err(fail)?);
        let body_len = length.checked_sub(PAYLOAD_HEADER_LEN).ok_or(fail(Malformed("length below four")))?;
        let body = reader.take(body_len).map_err(|_| fail(SHORT))?;
        self.rest = reader.rest();
        self.next = PayloadType(next);
        Ok(Some(Part { kind, next: self.next, critical: flags & CRITICAL != 0, body }))
    }

    fn end(&self) -> Result<(), ParseError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(invalid(PayloadType::NONE, Malformed("octets behind the last payload")))
        }
    }
}
