//! Key derivation of IKEv2: from nonces and shared secrets to SK_* and KEYMAT (RFC 7296, 2.14, 2.15, 2.17, 2.18).

use crypto::Secret;
use crypto::prf::Prf;

use crate::record::{ChildKeys, EspSuite, IkeKeys, IkeSuite, Side};
use crate::types::Spi;

/// Ni and Nr of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Nonces<'a> {
    pub initiator: &'a [u8],
    pub responder: &'a [u8],
}

impl Nonces<'_> {
    /// The lower of the two, octet by octet; of two where one is the beginning of the other, the one that ends
    /// first (RFC 7296, 2.8.1). Decides which of two simultaneous rekeys survives.
    //= IK-74
    pub fn lower(&self) -> &[u8] {
        self.initiator.min(self.responder)
    }
}

/// The keys of a first IKE SA. `shared` is g^ir.
//= IK-31
pub fn initial(suite: IkeSuite, shared: &Secret, nonces: Nonces<'_>, spi_i: Spi, spi_r: Spi) -> IkeKeys {
    let nonce_key = [nonces.initiator, nonces.responder].concat();
    let skeyseed = suite.prf.prf(&nonce_key, &[shared.as_bytes()]);
    expand(suite, &skeyseed, nonces, spi_i, spi_r)
}

/// The keys of an IKE SA that replaces another one: SKEYSEED is made with the *old* PRF (RFC 7296, 2.18).
//= IK-80
pub fn rekeyed(
    old: (Prf, &Secret),
    suite: IkeSuite,
    shared: &Secret,
    nonces: Nonces<'_>,
    spi_i: Spi,
    spi_r: Spi,
) -> IkeKeys {
    let (old_prf, old_sk_d) = old;
    let skeyseed = old_prf.prf(old_sk_d.as_bytes(), &[shared.as_bytes(), nonces.initiator, nonces.responder]);
    expand(suite, &skeyseed, nonces, spi_i, spi_r)
}

fn expand(suite: IkeSuite, skeyseed: &Secret, nonces: Nonces<'_>, spi_i: Spi, spi_r: Spi) -> IkeKeys {
    let (prf, protection) = (suite.prf, suite.protection);
    let (integ, encr) = (protection.integ_key_len(), protection.encr_key_len());
    let lengths = [prf.key_len(), integ, integ, encr, encr, prf.key_len(), prf.key_len()];
    let seed = [nonces.initiator, nonces.responder, &spi_i.0.to_be_bytes(), &spi_r.0.to_be_bytes()];
    let keymat = prf.prf_plus(skeyseed.as_bytes(), &seed, lengths.iter().sum());
    let mut rest = keymat.as_bytes();
    let [d, ai, ar, ei, er, pi, pr] = lengths.map(|len| take(&mut rest, len));
    IkeKeys { d, ai, ar, ei, er, pi, pr }
}

/// The keys of a child: KEYMAT = prf+(SK_d, [g^ir new |] Ni | Nr); those of the initiator's direction first,
/// encryption before integrity (RFC 7296, 2.17). `we`: which side of the exchange that made the child we are.
//= IK-80
pub fn child(
    prf: Prf,
    sk_d: &Secret,
    suite: EspSuite,
    shared: Option<&Secret>,
    nonces: Nonces<'_>,
    we: Side,
) -> ChildKeys {
    let (encr, integ) = (suite.protection.encr_key_len(), suite.protection.integ_key_len());
    let shared = shared.map_or(&[][..], Secret::as_bytes);
    let keymat =
        prf.prf_plus(sk_d.as_bytes(), &[shared, nonces.initiator, nonces.responder], 2 * (encr + integ));
    let mut rest = keymat.as_bytes();
    let [encr_i, integ_i, encr_r, integ_r] = [encr, integ, encr, integ].map(|len| take(&mut rest, len));
    match we {
        Side::Us => ChildKeys { encr_out: encr_i, integ_out: integ_i, encr_in: encr_r, integ_in: integ_r },
        Side::Peer => ChildKeys { encr_in: encr_i, integ_in: integ_i, encr_out: encr_r, integ_out: integ_r },
    }
}

/// The AUTH value of a pre-shared key (RFC 7296, 2.15):
/// prf(prf(secret, "Key Pad for IKEv2"), message | nonce | prf(SK_p, identity)).
///
/// `message` is the first message of the side that authenticates (with cookies or another group: its last
/// IKE_SA_INIT), `nonce` the other side's, `sk_p` and `id_body` (the ID payload without its generic header) its own.
//= IK-42
//= IK-43
pub fn auth_psk(
    prf: Prf,
    psk: &Secret,
    message: &[u8],
    nonce: &[u8],
    sk_p: &Secret,
    id_body: &[u8],
) -> Secret {
    let maced_id = prf.prf(sk_p.as_bytes(), &[id_body]);
    let padded = prf.prf(psk.as_bytes(), &[b"Key Pad for IKEv2"]);
    prf.prf(padded.as_bytes(), &[message, nonce, maced_id.as_bytes()])
}

/// The keys that protect what each side sends: (encryption, integrity).
impl IkeKeys {
    pub fn sent_by_initiator(&self) -> (&Secret, &Secret) {
        (&self.ei, &self.ai)
    }

    pub fn sent_by_responder(&self) -> (&Secret, &Secret) {
        (&self.er, &self.ar)
    }
}

fn take(rest: &mut &[u8], len: usize) -> Secret {
    let (head, tail) = rest.split_at(len);
    *rest = tail;
    Secret::from_slice(head)
}
