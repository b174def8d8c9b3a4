//! What the control server and the HTTP server ask the daemon for. The daemon implements it; tests fake it.
//!
//! Reads are answered from this node's own state and never wait for a quorum. Changes return when they are
//! committed, or with a `Fault` whose exit code says how they ended: `NoQuorum` (nothing happened), `TimedOut`
//! (unknown, or the work goes on), `NotFound`, `Usage`, `Dangerous`.

use std::future::Future;
use std::time::Duration;

use super::api;
use crate::config::GatewaySource;
use crate::fault::Fault;
use crate::observe::Events;

pub type Answer<T> = Result<T, Fault>;

pub trait Backend: Send + Sync + 'static {
    /// One screen. Before `init` it has `cluster: None`.
    fn status(&self) -> impl Future<Output = Answer<api::Status>> + Send;
    fn members(&self) -> impl Future<Output = Answer<api::Members>> + Send;
    fn segments(&self) -> impl Future<Output = Answer<api::Segments>> + Send;
    /// IKE SAs of the whole cluster, of peers whose identity contains `peer` when it is given.
    fn sas(&self, peer: Option<String>) -> impl Future<Output = Answer<api::Sas>> + Send;
    /// The ring of past events and the way to follow new ones.
    fn events(&self) -> &Events;

    /// Makes a cluster whose first member is this node. The same name again does nothing; another one is refused.
    fn init(&self, name: String) -> impl Future<Output = Answer<api::Initialized>> + Send;

    /// Makes a token that lets `uses` nodes in for so long.
    fn create_token(
        &self,
        ttl: Duration,
        uses: u32,
        role: api::Vote,
    ) -> impl Future<Output = Answer<api::TokenCreated>> + Send;
    /// Joins the cluster of the token by asking the member at `address`; returns when this node lives as a member.
    fn join(&self, address: String, token: String) -> impl Future<Output = Answer<api::Joined>> + Send;
    fn join_progress(&self) -> impl Future<Output = Answer<api::JoinProgress>> + Send;
    /// Takes this node out of its cluster, within that time.
    fn leave(
        &self,
        within: Duration,
        accept_risk: Vec<String>,
    ) -> impl Future<Output = Answer<api::Left>> + Send;
    /// Called when the answer of `leave` is on its way: the daemon ends and begins anew, member of nothing.
    fn begin_anew(&self);
    /// Removes a member that will not come back.
    fn remove_member(
        &self,
        node: String,
        accept_risk: Vec<String>,
    ) -> impl Future<Output = Answer<api::Removed>> + Send;

    /// The source of one revision (the newest when `None`); fails with `NotFound` when there is none.
    fn config_source(&self, revision: Option<u64>) -> impl Future<Output = Answer<api::ConfigSource>> + Send;
    /// Replicates a source that has been compiled without an error, and returns when all live nodes have applied it.
    fn config_apply(
        &self,
        source: GatewaySource,
        comment: Option<String>,
        if_revision: Option<u64>,
    ) -> impl Future<Output = Answer<api::ConfigRevision>> + Send;
    /// Newest first.
    fn config_history(&self) -> impl Future<Output = Answer<Vec<api::ConfigRevision>>> + Send;
    /// Makes the content of `revision` the newest revision.
    fn config_rollback(&self, revision: u64) -> impl Future<Output = Answer<api::ConfigRevision>> + Send;
    /// Keys the fingerprints of secrets, so that a fingerprint is no help in guessing a weak one. Best the same on
    /// all nodes, then fingerprints can be compared across them.
    fn fingerprint_key(&self) -> crypto::Secret;
    /// What the timing profile of this node means.
    fn timing(&self) -> api::Timing;

    /// Deletes one SA; returns when the delete is committed.
    fn terminate(&self, sa: api::SaRef) -> impl Future<Output = Answer<api::Acted>> + Send;
    /// Starts the rekey of one SA; returns when the request is committed.
    fn rekey(&self, sa: api::SaRef) -> impl Future<Output = Answer<api::Acted>> + Send;

    /// Moves the segments of a node away (this one where nothing is said); returns when it owns nothing any more and its
    /// successors have applied that. After `within` the drain goes on by itself.
    fn drain(
        &self,
        node: Option<String>,
        within: Duration,
    ) -> impl Future<Output = Answer<api::Drained>> + Send;
    /// Lets a drained node take part again.
    fn undrain(&self, node: Option<String>) -> impl Future<Output = Answer<api::Undrained>> + Send;
    /// Gives one segment to a node, without losing a packet.
    fn move_segment(&self, segment: u8, to: String)
    -> impl Future<Output = Answer<api::MovedSegment>> + Send;

    /// Returns once the condition holds. The caller bounds the time by dropping the future.
    fn wait(&self, condition: api::Condition) -> impl Future<Output = Answer<()>> + Send;

    /// For `/readyz`: member, leader known, caught up, and for what it owns steering and TUN are up.
    fn ready(&self) -> impl Future<Output = Ready> + Send;
}

/// Whether a node may be sent traffic, and if not, the first reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    Yes,
    No(String),
}
