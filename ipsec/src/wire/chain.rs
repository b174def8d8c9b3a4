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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Message;

    fn parse(first: u8, chain: &str) -> Result<Payloads, ParseError> {
        Payloads::parse(PayloadType(first), &hex::decode(chain.replace(' ', "")).unwrap())
    }

    fn syntax<T: std::fmt::Debug>(result: Result<T, ParseError>) -> PayloadType {
        match result {
            Err(ParseError::InvalidSyntax { payload, .. }) => payload,
            other => panic!("{other:?}"),
        }
    }

    //= test IK-8
    #[test]
    fn unknown_payloads_by_their_critical_bit() {
        // 99, then a notify.
        let chain = |flags: &str| format!("29{flags}0006 abcd 00000008 00004000");
        let skipped = parse(99, &chain("00")).unwrap();
        assert_eq!(skipped.len(), 1);
        assert!(skipped.has_notify(NotifyType::INITIAL_CONTACT));
        assert_eq!(parse(99, &chain("80")), Err(ParseError::UnsupportedCritical(99)));
        assert_eq!(parse(99, &chain("7f")).unwrap().len(), 1, "reserved bits are no critical bit");
        assert_eq!(
            parse(41, "00800008 00004000").unwrap().len(),
            1,
            "critical is ignored for known payloads"
        );
    }

    //= test IK-6
    #[test]
    fn lengths_are_checked_against_the_parent() {
        assert_eq!(syntax(parse(41, "00000009 00004000")), PayloadType::NOTIFY);
        assert_eq!(syntax(parse(41, "00000003 00004000")), PayloadType::NOTIFY);
        assert_eq!(syntax(parse(41, "00000007 000040")), PayloadType::NOTIFY);
        assert_eq!(syntax(parse(41, "29000008 00004000")), PayloadType::NOTIFY, "the next one is missing");
        assert_eq!(
            syntax(parse(41, "00000008 00004000 00")),
            PayloadType::NONE,
            "octets behind the last one"
        );
        assert_eq!(syntax(parse(0, "00")), PayloadType::NONE);
        assert_eq!(syntax(parse(41, "0000")), PayloadType::NOTIFY);
        assert!(parse(0, "").unwrap().is_empty());
    }

    #[test]
    fn the_number_of_payloads_is_bounded() {
        let chain = |count: usize| {
            let mut out = Vec::new();
            let payloads: Payloads = std::iter::repeat_n(Payload::Vendor(Vendor(vec![])), count).collect();
            payloads.emit(&mut out);
            Payloads::parse(PayloadType::VENDOR, &out)
        };
        assert_eq!(chain(PAYLOADS_MAX).unwrap().len(), PAYLOADS_MAX);
        assert_eq!(syntax(chain(PAYLOADS_MAX + 1)), PayloadType::VENDOR);
    }

    //= test IK-9
    #[test]
    fn any_order_and_nothing_twice() {
        let nonce = "0014 000102030405060708090a0b0c0d0e0f";
        let notify = "0008 00004000";
        assert_eq!(parse(40, &format!("2900{nonce} 0000{notify}")).unwrap().len(), 2);
        assert_eq!(parse(41, &format!("2800{notify} 0000{nonce}")).unwrap().len(), 2);
        assert_eq!(parse(41, &format!("2900{notify} 0000{notify}")).unwrap().notifies().count(), 2);
        assert_eq!(syntax(parse(40, &format!("2800{nonce} 0000{nonce}"))), PayloadType::NONCE);
    }

    //= test IK-9
    #[test]
    fn encrypted_is_last_and_never_inside_itself() {
        assert_eq!(syntax(parse(46, "00000004")), PayloadType::SK);
        assert_eq!(syntax(parse(53, "00000008 00010001")), PayloadType::SKF);
        let message = |first: u8, chain: &str| {
            let chain = hex::decode(chain.replace(' ', "")).unwrap();
            let length = IKE_HEADER_LEN + chain.len();
            let header = format!("0102030405060708 0000000000000000 {first:02x}202508 00000001 {length:08x}");
            Message::parse(&[hex::decode(header.replace(' ', "")).unwrap(), chain].concat())
        };
        let sk = message(46, "29000008 01020304").unwrap();
        assert_eq!(sk.encrypted, Some(Encrypted::new(PayloadType::NOTIFY, None, IKE_HEADER_LEN + 4)));
        let behind = message(41, "2e000008 00004000 27000008 01020304").unwrap();
        assert_eq!(
            (behind.payloads.len(), behind.encrypted.map(|sk| sk.first)),
            (1, Some(PayloadType::AUTH))
        );
        assert_eq!(syntax(message(46, "29000008 01020304 00000008 00004000")), PayloadType::SK);
        let skf = message(53, "29000008 00010002").unwrap().encrypted.unwrap();
        assert_eq!(skf.fragment, Some(Fragment { number: 1, total: 2 }));
        assert_eq!(syntax(message(53, "29000008 00030002")), PayloadType::SKF);
    }

    //= test IK-7
    #[test]
    fn what_we_emit_has_no_reserved_bit_set() {
        let payloads = Payloads::default().with(Vendor(vec![0xff])).with(Notify::bare(NotifyType::COOKIE));
        let mut out = Vec::new();
        payloads.emit(&mut out);
        assert_eq!(hex::encode(out), "29000005ff0000000800004006");
    }

    //= test IK-7
    #[test]
    fn reserved_fields_are_ignored() {
        let clear = "22000009 02 000000 aa 28000009 0013 0000 01 2c000014 000102030405060708090a0b0c0d0e0f \
                     2f000018 01 000000 07000010 0000ffff 0a000000 0affffff 0000000c 01 000000 00010000";
        let set = "227f0009 02 ffffff aa 287f0009 0013 ffff 01 2c7f0014 000102030405060708090a0b0c0d0e0f \
                   2f7f0018 01 ffffff 07000010 0000ffff 0a000000 0affffff 007f000c 01 ffffff 80010000";
        let [clear, set] = [clear, set].map(|text| parse(39, text).unwrap());
        assert_eq!(clear, set);
        assert_eq!(clear.len(), 5);
    }

    //= test IK-10
    #[test]
    fn errors_known_or_not() {
        let with = |kind: u16| Payloads::default().with(Notify::bare(NotifyType(kind)));
        assert!(with(16384).error().is_none() && with(65535).error().is_none());
        assert_eq!(with(14).error().unwrap().kind, NotifyType::NO_PROPOSAL_CHOSEN);
        assert_eq!(with(12345).error().unwrap().kind, NotifyType(12345), "Microsoft's private one");
    }

    //= test IK-11
    #[test]
    fn vendor_ids_of_any_content_are_taken() {
        assert_eq!(parse(43, "2b000004 00000006 dead").unwrap().vendors().count(), 2);
    }
}
