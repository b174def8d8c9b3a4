//! What an engine has that the log has not, for its successor on another node: half-open IKE SAs.
//!
//! ```text
//!   planned move   export ─────────────────────> import      all of it
//!   any time       take_fresh ─> the standby ─> import       half-open IKE SAs as they come to be, best effort
//! ```
//!
//! The successor seals under its own epoch, so its IVs are others than ours even under the same keys. Nothing here is
//! ever written to the log (I11). The octets hold keys: they travel over the links between nodes only, in memory.

use crypto::Secret;
use crypto::hash::sha256;
use prost::Message;

use crate::limits;
use crate::record::codec::{need, pb as record_pb, secret};
use crate::record::{DecodeError, IkeKeys, IkeSuite, Path, Side};
use crate::types::{Millis, Spi};

use super::half_open::HalfOpen;
use super::{Context, Endpoint, sa};

impl Endpoint {
    /// Everything that a successor can go on with. Without what waits for a commit: that is the log's by now.
    pub fn export(&self, ctx: &Context<'_>) -> Secret {
        let half_open = self.half_open.iter().filter(|it| !it.busy).map(|it| written(it, ctx)).collect();
        Secret::from(pb::Handover { half_open }.encode_to_vec())
    }

    /// The half-open IKE SAs that came to be since the last call; `None` when there are none.
    pub fn take_fresh(&mut self, ctx: &Context<'_>) -> Option<Secret> {
        let fresh = self.half_open.take_fresh();
        let half_open: Vec<_> =
            fresh.into_iter().filter_map(|spi| self.half_open.get(spi)).map(|it| written(it, ctx)).collect();
        let any = !half_open.is_empty();
        any.then(|| Secret::from(pb::Handover { half_open }.encode_to_vec()))
    }

    /// Takes up what an engine before us exported. What is none of ours, too old, or established by now is passed over.
    pub fn import(&mut self, handover: &Secret, ctx: &mut Context<'_>) -> Result<(), DecodeError> {
        let handover =
            pb::Handover::decode(handover.as_bytes()).map_err(|_| DecodeError("a handover of IKE"))?;
        handover.half_open.into_iter().try_for_each(|it| self.import_half_open(it, ctx))
    }

    fn import_half_open(&mut self, it: pb::HalfOpen, ctx: &mut Context<'_>) -> Result<(), DecodeError> {
        let spi = Spi(it.spi);
        let known = ctx.view.ike_spi_taken(spi) || self.half_open.contains(spi);
        if spi.segment() != self.guard.segment || known || it.age_ms >= limits::HALF_OPEN_MS {
            return Ok(());
        }
        let path: Path = need(it.path, "a path")?.try_into()?;
        let suite: IkeSuite = need(it.suite, "a suite")?.try_into()?;
        let keys = read_keys(it.keys)?;
        let made = sa::keys(&keys, suite.protection, Side::Peer, self.guard.epoch, ctx);
        let (seal, open) = made.ok_or(DecodeError("keys that do not fit their suite"))?;
        let key = (path.peer, sha256(&[&it.request]));
        let half_open = HalfOpen {
            spi,
            peer_spi: Spi(it.peer_spi),
            path,
            suite,
            keys,
            seal,
            open,
            request: it.request,
            reply: it.reply,
            nonce_i: it.nonce_i,
            nonce_r: it.nonce_r,
            created: Millis(ctx.now.0.saturating_sub(it.age_ms)),
            busy: false,
            bad_messages: it.bad_messages,
            failure: it.failure,
        };
        self.half_open.insert(key, half_open);
        Ok(())
    }
}

fn written(it: &HalfOpen, ctx: &Context<'_>) -> pb::HalfOpen {
    let IkeKeys { d, ai, ar, ei, er, pi, pr } = &it.keys;
    pb::HalfOpen {
        spi: it.spi.0,
        peer_spi: it.peer_spi.0,
        path: Some((&it.path).into()),
        suite: Some((&it.suite).into()),
        keys: [d, ai, ar, ei, er, pi, pr].into_iter().map(secret).collect(),
        request: it.request.clone(),
        reply: it.reply.clone(),
        nonce_i: it.nonce_i.clone(),
        nonce_r: it.nonce_r.clone(),
        age_ms: ctx.now.since(it.created),
        bad_messages: it.bad_messages,
        failure: it.failure.clone(),
    }
}

fn read_keys(keys: Vec<Vec<u8>>) -> Result<IkeKeys, DecodeError> {
    let keys: [Vec<u8>; 7] = keys.try_into().map_err(|_| DecodeError("seven keys"))?;
    let [d, ai, ar, ei, er, pi, pr] = keys.map(Secret::from);
    Ok(IkeKeys { d, ai, ar, ei, er, pi, pr })
}

mod pb {
    use super::record_pb::{Path, Suite};

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Handover {
        #[prost(message, repeated, tag = "1")]
        pub half_open: Vec<HalfOpen>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct HalfOpen {
        #[prost(fixed64, tag = "1")]
        pub spi: u64,
        #[prost(fixed64, tag = "2")]
        pub peer_spi: u64,
        #[prost(message, optional, tag = "3")]
        pub path: Option<Path>,
        #[prost(message, optional, tag = "4")]
        pub suite: Option<Suite>,
        /// d, ai, ar, ei, er, pi, pr
        #[prost(bytes = "vec", repeated, tag = "5")]
        pub keys: Vec<Vec<u8>>,
        #[prost(bytes = "vec", tag = "6")]
        pub request: Vec<u8>,
        #[prost(bytes = "vec", tag = "7")]
        pub reply: Vec<u8>,
        #[prost(bytes = "vec", tag = "8")]
        pub nonce_i: Vec<u8>,
        #[prost(bytes = "vec", tag = "9")]
        pub nonce_r: Vec<u8>,
        #[prost(uint64, tag = "10")]
        pub age_ms: u64,
        #[prost(uint32, tag = "11")]
        pub bad_messages: u32,
        #[prost(bytes = "vec", optional, tag = "12")]
        pub failure: Option<Vec<u8>>,
    }
}
