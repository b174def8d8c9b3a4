//! One IKE SA of the client: keys, window of one in each direction, and requests that wait for their turn.

use std::collections::VecDeque;

use crypto::cipher::{OpenKey, SealKey};
use crypto::kex::PrivateKey;
use crypto::rng::Rng;

use crate::limits::LEFTOVER_MS;
use crate::record::{IkeKeys, IkeSuite};
use crate::types::{ChildSpi, MessageId, Millis, Spi};
use crate::wire::{ExchangeType, Header, Message, OpenError, ParseError, Payloads, Sa};

use super::auth::Authenticating;
use super::{Ignored, Retransmit};

/// The keys of an IKE SA live in one process and never outlast it: one epoch is enough.
const EPOCH: u32 = 0;

pub(super) struct IkeSa {
    pub spi: Spi,
    pub peer_spi: Spi,
    /// We sent the first message of this IKE SA; after a rekey by the gateway we did not.
    pub ours: bool,
    pub suite: IkeSuite,
    pub keys: IkeKeys,
    pub standing: Standing,
    /// When we ask for the Delete that did not come, once it is `Replaced`.
    pub leftover: Option<Millis>,
    pub outstanding: Option<Outstanding>,
    pub wishes: VecDeque<Wish>,
    seal: SealKey,
    open: OpenKey,
    next_request: MessageId,
    expected: MessageId,
    last_reply: Option<(MessageId, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Live,
    /// Another one took its place; it waits for its Delete.
    Replaced,
}

/// What is asked for once the request before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Liveness,
    RekeyChild(ChildSpi),
    RekeyIke,
    DeleteChild(ChildSpi),
    DeleteIke,
    /// The gateway did not authenticate: it is told so, once.
    Reject,
}

impl Wish {
    pub fn changes_sas(self) -> bool {
        matches!(self, Wish::RekeyChild(_) | Wish::RekeyIke | Wish::DeleteChild(_))
    }
}

/// A request that is not answered yet.
pub(super) struct Outstanding {
    pub message_id: MessageId,
    pub asked: Asked,
    pub repeat: Repeat,
}

/// What a request wanted, with all that its answer needs.
pub(super) enum Asked {
    Authentication(Box<Authenticating>),
    Liveness,
    DeleteIke,
    DeleteChild(ChildSpi),
    RekeyChild(Box<RekeyChild>),
    RekeyIke(Box<RekeyIke>),
    Reject,
}

pub(super) struct RekeyChild {
    pub old: ChildSpi,
    pub spi_in: ChildSpi,
    pub nonce: Vec<u8>,
    pub private: Option<PrivateKey>,
    pub offer: Sa,
    /// The gateway rekeyed the same child meanwhile: the lower nonce of its exchange, and our SPI of what it made.
    pub crossed: Option<(Vec<u8>, ChildSpi)>,
}

pub(super) struct RekeyIke {
    pub spi: Spi,
    pub nonce: Vec<u8>,
    pub private: PrivateKey,
    pub offer: Sa,
    /// As above, with our SPI of the IKE SA that the gateway's exchange made.
    pub crossed: Option<(Vec<u8>, Spi)>,
}

/// Octets that are sent again, unchanged, until they are answered (RFC 7296, 2.1).
pub(super) struct Repeat {
    pub at: Millis,
    octets: Vec<u8>,
    wait_ms: u64,
    tries: u32,
}

impl Repeat {
    pub fn new(octets: Vec<u8>, retransmit: &Retransmit, now: Millis) -> Repeat {
        Repeat { at: now.after(retransmit.first_ms), octets, wait_ms: retransmit.first_ms, tries: 0 }
    }

    /// The same octets once more; `None` when it was tried often enough.
    //= IK-14
    pub fn again(&mut self, retransmit: &Retransmit, now: Millis) -> Option<Vec<u8>> {
        if self.tries >= retransmit.tries {
            return None;
        }
        self.tries += 1;
        self.wait_ms = self.wait_ms * retransmit.percent / 100;
        self.at = now.after(self.wait_ms);
        Some(self.octets.clone())
    }
}

/// What a message that came in is to its IKE SA.
pub(super) enum Came {
    /// A new request with what it holds, or why its inside could not be read.
    Request(Result<Payloads, ParseError>),
    /// The request before, again: the same reply goes out.
    Repeated(Vec<u8>),
    Answer(Outstanding, Result<Payloads, ParseError>),
}

impl IkeSa {
    /// `None` when the keys do not fit the suite, which would be a fault of ours.
    pub fn new(
        (spi, peer_spi): (Spi, Spi),
        ours: bool,
        suite: IkeSuite,
        keys: IkeKeys,
        first_request: MessageId,
        rng: &mut dyn Rng,
    ) -> Option<IkeSa> {
        let (sent, received) = if ours {
            (keys.sent_by_initiator(), keys.sent_by_responder())
        } else {
            (keys.sent_by_responder(), keys.sent_by_initiator())
        };
        let protection = suite.protection;
        let seal = SealKey::reference(protection, sent.0.as_bytes(), sent.1.as_bytes(), EPOCH, rng).ok()?;
        let open = OpenKey::reference(protection, received.0.as_bytes(), received.1.as_bytes()).ok()?;
        Some(IkeSa {
            spi,
            peer_spi,
            ours,
            suite,
            keys,
            standing: Standing::Live,
            leftover: None,
            outstanding: None,
            wishes: VecDeque::new(),
            seal,
            open,
            next_request: first_request,
            expected: MessageId(0),
            last_reply: None,
        })
    }

    /// Another one takes its place. Who deletes it follows from the exchange; should nobody do it, we will.
    pub fn replaced(&mut self, now: Millis) {
        self.standing = Standing::Replaced;
        self.leftover.get_or_insert(now.after(LEFTOVER_MS));
    }

    pub fn wish(&mut self, wish: Wish) {
        if !self.wishes.contains(&wish) {
            self.wishes.push_back(wish);
        }
    }

    /// The octets of a request with the next message ID, which is then outstanding.
    //= IK-13
    //= IK-16
    pub fn request(
        &mut self,
        exchange: ExchangeType,
        payloads: Payloads,
        asked: Asked,
        (retransmit, now): (&Retransmit, Millis),
    ) -> Option<Vec<u8>> {
        assert!(self.outstanding.is_none(), "the window is one");
        let message_id = self.next_request;
        let header = self.header(exchange, message_id, false);
        let octets = Message { header, payloads, encrypted: None }.seal(&mut self.seal).ok()?;
        self.next_request = message_id.next()?;
        let repeat = Repeat::new(octets.clone(), retransmit, now);
        self.outstanding = Some(Outstanding { message_id, asked, repeat });
        Some(octets)
    }

    /// The octets of the reply to the request that `take` gave last.
    pub fn reply(&mut self, request: &Header, payloads: Payloads) -> Option<Vec<u8>> {
        let message = Message { header: request.reply(), payloads, encrypted: None };
        let octets = message.seal(&mut self.seal).ok()?;
        self.last_reply = Some((request.message_id, octets.clone()));
        Some(octets)
    }

    /// Checks and opens a message, and moves the window that it belongs to.
    //= IK-15
    //= IK-17
    //= IK-96
    pub fn take(&mut self, header: &Header, octets: &[u8]) -> Result<Came, Ignored> {
        if header.response {
            let id = self.outstanding.as_ref().map(|outstanding| outstanding.message_id);
            if id != Some(header.message_id) {
                return Err(Ignored::Unsolicited);
            }
            let payloads = self.open(octets)?;
            let outstanding = self.outstanding.take().ok_or(Ignored::Unsolicited)?;
            return Ok(Came::Answer(outstanding, payloads));
        }
        if let Some((id, reply)) = &self.last_reply
            && *id == header.message_id
        {
            let reply = reply.clone();
            return self.open(octets).map(|_| Came::Repeated(reply));
        }
        if header.message_id != self.expected {
            return Err(Ignored::Window);
        }
        let payloads = self.open(octets)?;
        self.expected = self.expected.next().ok_or(Ignored::Window)?;
        Ok(Came::Request(payloads))
    }

    fn open(&self, octets: &[u8]) -> Result<Result<Payloads, ParseError>, Ignored> {
        let message = Message::parse(octets).map_err(|_| Ignored::Malformed)?;
        let encrypted = message.encrypted.ok_or(Ignored::Malformed)?;
        match encrypted.open(octets, &self.open) {
            Ok(payloads) => Ok(Ok(payloads)),
            Err(OpenError::Integrity) => Err(Ignored::Integrity),
            Err(OpenError::Fragment) => Err(Ignored::Malformed),
            Err(OpenError::Inside(error)) => Ok(Err(error)),
        }
    }

    fn header(&self, exchange: ExchangeType, message_id: MessageId, response: bool) -> Header {
        let (spi_i, spi_r) = if self.ours { (self.spi, self.peer_spi) } else { (self.peer_spi, self.spi) };
        Header { spi_i, spi_r, exchange, initiator: self.ours, response, message_id }
    }
}

impl std::fmt::Debug for IkeSa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IkeSa({} with {}, {:?})", self.spi, self.peer_spi, self.standing)
    }
}
