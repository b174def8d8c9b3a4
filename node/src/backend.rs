//! Answers the control API and the HTTP server from this node's own state; hands changes to the log and orders to
//! the actors of segments.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::Secret;
use crypto::prf::Prf;
use ipsec::ike::Order;
use ipsec::record::IkeRecord;
use ipsec::types::{ChildSpi, Segment};
use raft::state::{
    Cause, Command, Configuration, Configure, Draining, Effect, Member, NodeId, Refusal, State, Touched,
};
use raft::{Applied, Cluster, ProposeError};
use tokio::sync::oneshot;

use crate::config::GatewaySource;
use crate::control::api::{self, SaRef};
use crate::control::{Answer, Backend, Call, Ready};
use crate::daemon::Daemon;
use crate::fault::Fault;
use crate::figures::{self, Wanted};
use crate::gateway::source_of;
use crate::io::clock::{Clock, SystemClock};
use crate::observe::{Event, Events, rfc3339};
use crate::overview::Overview;
use crate::segment::Message;
use crate::{drain, moves};

/// How long nodes that are up may take to apply a configuration that is committed.
const APPLIED_WITHIN: Duration = Duration::from_secs(2);

/// How often `wait` looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Backend for Daemon {
    async fn status(&self) -> Answer<api::Status> {
        let node = self.config.name.clone();
        let service_addresses = self.service_addresses();
        if self.cluster().is_none() {
            return Ok(api::Status {
                node,
                cluster: None,
                leader: None,
                quorum: api::Quorum::default(),
                nodes: Vec::new(),
                service_addresses,
                config_revision: 0,
                last_handover: None,
                health: self.observe.health(),
            });
        }
        let overview = self.overview(Wanted { digest: true, ..Wanted::default() }).await?;
        let state = &overview.state;
        Ok(api::Status {
            node,
            cluster: state.cluster().map(|cluster| cluster.name.clone()),
            leader: overview.leader(),
            quorum: overview.quorum(),
            nodes: overview.nodes(),
            service_addresses,
            config_revision: state.configuration().map_or(0, |configuration| configuration.revision),
            last_handover: last_handover(self.observe.events()),
            health: self.observe.health(),
        })
    }

    async fn members(&self) -> Answer<api::Members> {
        let overview = self.overview(Wanted { digest: true, ..Wanted::default() }).await?;
        Ok(api::Members { members: overview.members() })
    }

    async fn segments(&self) -> Answer<api::Segments> {
        Ok(api::Segments { segments: self.overview(Wanted::default()).await?.segments() })
    }

    async fn sas(&self, peer: Option<String>) -> Answer<api::Sas> {
        let overview = self.overview(Wanted { children: true, ..Wanted::default() }).await?;
        let wanted = |record: &IkeRecord| {
            peer.as_ref().is_none_or(|peer| record.peer_id.to_string().contains(peer.as_str()))
        };
        Ok(api::Sas { sas: overview.sas(wanted) })
    }

    fn events(&self) -> &Events {
        self.observe.events()
    }

    async fn init(&self, name: String) -> Answer<api::Initialized> {
        let (cluster, created) = self.found(&name).await?;
        let node = cluster.node();
        Ok(api::Initialized { cluster: name, node: self.config.name.clone(), id: node.0, created })
    }

    async fn create_token(&self, ttl: Duration, uses: u32, role: api::Vote) -> Answer<api::TokenCreated> {
        Daemon::create_token(self, ttl, uses, role).await
    }

    async fn join(&self, address: String, token: String) -> Answer<api::Joined> {
        self.join_cluster(address, token).await
    }

    async fn join_progress(&self) -> Answer<api::JoinProgress> {
        Ok(Daemon::join_progress(self))
    }

    async fn remove_member(&self, node: String, accept_risk: Vec<String>) -> Answer<api::Removed> {
        Daemon::remove_member(self, node, accept_risk).await
    }

    async fn leave(&self, within: Duration, accept_risk: Vec<String>) -> Answer<api::Left> {
        self.leave_cluster(within, &accept_risk).await
    }

    fn begin_anew(&self) {
        self.vacate();
    }

    async fn config_source(&self, revision: Option<u64>) -> Answer<api::ConfigSource> {
        let state = self.member()?.state();
        let configuration = match revision {
            None => state.configuration(),
            Some(revision) => state.revision(revision),
        };
        let configuration = configuration.ok_or_else(|| match revision {
            None => Fault::not_found("no gateway configuration has been applied yet")
                .attempt("pontoon config apply gateway.toml"),
            Some(revision) => {
                Fault::not_found(format!("there is no revision {revision}")).attempt("pontoon config history")
            }
        })?;
        Ok(api::ConfigSource { about: about(&state, configuration), source: source_of(configuration) })
    }

    async fn config_apply(
        &self,
        source: GatewaySource,
        comment: Option<String>,
        if_revision: Option<u64>,
    ) -> Answer<api::ConfigRevision> {
        let cluster = self.member()?;
        let current = cluster.state().configuration().map_or(0, |configuration| configuration.revision);
        if let Some(wanted) = if_revision.filter(|wanted| *wanted != current) {
            return Err(Fault::failed(format!("revision {current} is in force, not {wanted}"))
                .attempt("pontoon config diff   (shows what changed meanwhile)"));
        }
        let configure = Configure {
            expected_revision: current,
            toml: source.toml,
            files: source.files,
            comment: comment.unwrap_or_default(),
            at: SystemClock.utc(),
            by: self.config.name.clone(),
        };
        let committed = propose(&cluster, Command::Configure(configure)).await?;
        // In force is what all nodes that are up have applied.
        let applied = Wanted { applied: committed.index, ..Wanted::default() };
        figures::gather(&cluster, &self.asks, &applied, APPLIED_WITHIN).await;
        let state = cluster.state();
        let revision = match committed.effect {
            Effect::Configured(revision) => revision,
            _ => current,
        };
        let configuration = state
            .revision(revision)
            .ok_or_else(|| Fault::failed("another configuration was applied at the same time"))?;
        let about = about(&state, configuration);
        self.observe.emit(Event::ConfigApplied {
            revision,
            node: self.config.name.clone(),
            comment: about.comment.clone(),
            rollback_of: about.rollback_of,
        });
        Ok(about)
    }

    async fn config_history(&self) -> Answer<Vec<api::ConfigRevision>> {
        let state = self.member()?.state();
        Ok(state.history().rev().map(|configuration| about(&state, configuration)).collect())
    }

    async fn config_rollback(&self, revision: u64) -> Answer<api::ConfigRevision> {
        let older = self.config_source(Some(revision)).await?;
        self.config_apply(older.source, None, None).await
    }

    fn fingerprint_key(&self) -> Secret {
        match self.cluster().and_then(|cluster| cluster.state().cluster().map(fingerprint_key)) {
            Some(key) => key,
            None => self.fingerprint_key.clone(),
        }
    }

    fn timing(&self) -> api::Timing {
        self.config.timing.shown()
    }

    async fn terminate(&self, sa: SaRef) -> Answer<api::Acted> {
        match self.act(sa, end).await? {
            Done::Here(acted) => Ok(acted),
            Done::Elsewhere(owner) => self.relay(owner, Call::Terminate { sa }).await,
        }
    }

    async fn rekey(&self, sa: SaRef) -> Answer<api::Acted> {
        match self.act(sa, renew).await? {
            Done::Here(acted) => Ok(acted),
            Done::Elsewhere(owner) => self.relay(owner, Call::Rekey { sa }).await,
        }
    }

    async fn drain(&self, node: Option<String>, within: Duration) -> Answer<api::Drained> {
        let cluster = self.member()?;
        let node = self.find_node(&cluster, node.as_deref())?;
        let wanted = Draining::UntilUndrain;
        let done = drain::drain(&cluster, &self.asks, node.id, wanted, within).await?;
        let overview = self.overview(Wanted::default()).await?;
        let share = |status: api::NodeStatus| api::Share { node: status.name, segments: status.segments };
        let quorum = overview.quorum();
        let votes = overview.raft.voters.contains(&node.id) && overview.is_up(node.id);
        let without = api::Quorum::of(quorum.voters, quorum.up - u32::from(votes));
        Ok(api::Drained {
            node: node.name,
            segments: done.segments as u32,
            took_ms: done.took.as_millis() as u64,
            owners: overview.nodes().into_iter().map(share).filter(|share| share.segments > 0).collect(),
            safe_to_stop: without.has_quorum,
            spare_without: without.spare,
        })
    }

    async fn undrain(&self, node: Option<String>) -> Answer<api::Undrained> {
        let cluster = self.member()?;
        let node = self.find_node(&cluster, node.as_deref())?;
        let drained = node.draining != Draining::No;
        propose(&cluster, Command::SetDraining { node: node.id, draining: Draining::No }).await?;
        Ok(api::Undrained { node: node.name, drained })
    }

    async fn move_segment(&self, segment: u8, to: String) -> Answer<api::MovedSegment> {
        let cluster = self.member()?;
        let to = self.find_node(&cluster, Some(&to))?;
        let (begun, segment, state) = (Instant::now(), Segment(segment), cluster.state());
        let grant = state.segment(segment);
        let owner = grant.owner.filter(|_| grant.state.is_served()).ok_or_else(|| {
            Fault::no_quorum(format!("nobody serves segment {segment} at the moment"))
                .attempt("pontoon segments")
        })?;
        if !cluster.status().voters.contains(&to.id) {
            return Err(Fault::failed(format!("{} has no vote: only voters own segments", to.name))
                .attempt("pontoon members"));
        }
        if to.draining != Draining::No {
            return Err(Fault::failed(format!("{} is drained", to.name))
                .attempt(format!("pontoon undrain {}", to.name)));
        }
        if owner.node != to.id {
            let moved =
                moves::shift(&self.asks, owner.node, to.id, &[(segment, grant.epoch)], Cause::Moved).await;
            moved.map_err(|why| Fault::failed(format!("segment {segment} stays where it is")).why(why))?;
        }
        Ok(api::MovedSegment {
            segment: segment.0,
            from: name_of(&state, owner.node),
            to: to.name,
            took_ms: begun.elapsed().as_millis() as u64,
        })
    }

    async fn wait(&self, condition: api::Condition) -> Answer<()> {
        loop {
            let holds = match condition {
                api::Condition::Ready => self.ready().await == Ready::Yes,
                api::Condition::Quorum => match self.overview(Wanted::default()).await {
                    Ok(overview) => overview.leader().is_some(),
                    Err(_) => false,
                },
                api::Condition::Drained => match self.cluster() {
                    Some(cluster) => {
                        drain::until_drained(&cluster, &self.asks, cluster.node()).await;
                        true
                    }
                    None => false,
                },
            };
            if holds {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn ready(&self) -> Ready {
        let Some(cluster) = self.cluster() else { return Ready::No("not a member of a cluster".into()) };
        let (state, raft) = (cluster.state(), cluster.status());
        if raft.leader.is_none() {
            return Ready::No("no leader is known".into());
        }
        if raft.applied < raft.committed {
            return Ready::No("not caught up with the log yet".into());
        }
        let owned = state.segments().owned_by(cluster.node()).count();
        if self.routes.served() < owned {
            return Ready::No(format!("{} of {owned} segments are served", self.routes.served()));
        }
        // A node that owns nothing is ready too: it has just joined, or it is drained.
        if Segment::all().any(|segment| state.segment(segment).owner.is_none()) {
            return Ready::No("some segments have no owner yet".into());
        }
        if !self.gateway.has(&state) {
            return Ready::No("the configuration is not in force yet".into());
        }
        match self.steering_up() {
            true => Ready::Yes,
            false => Ready::No("the service addresses are not up yet".into()),
        }
    }
}

impl Daemon {
    pub fn member(&self) -> Answer<Cluster> {
        self.cluster().ok_or_else(|| {
            Fault::failed("this node is not a member of a cluster")
                .attempt("pontoon init   (makes a cluster whose first member is this node)")
                .attempt("pontoon join ADDR --token T   (adds it to a cluster)")
        })
    }

    /// What is replicated, and what the nodes that are up say of themselves.
    pub async fn overview(&self, wanted: Wanted) -> Answer<Overview> {
        let cluster = self.member()?;
        let figures = figures::gather(&cluster, &self.asks, &wanted, figures::WITHIN).await;
        let gateway = self.gateway.load().clone();
        Ok(Overview { state: cluster.state(), raft: cluster.status(), gateway, figures })
    }

    /// By name or id; this node where nothing is said.
    pub fn find_node(&self, cluster: &Cluster, node: Option<&str>) -> Answer<Member> {
        let state = cluster.state();
        let member = match node {
            None => state.members().get(cluster.node()),
            Some(text) => {
                state.members().by_name(text).or_else(|| state.members().get(NodeId(text.parse().ok()?)))
            }
        };
        let unknown = || {
            Fault::not_found(format!("there is no node {}", node.unwrap_or_default()))
                .attempt("pontoon members   (lists them)")
        };
        member.cloned().ok_or_else(unknown)
    }

    /// Whether the actor of the SA's segment runs here.
    pub fn serves(&self, sa: SaRef) -> bool {
        let Some(cluster) = self.cluster() else { return false };
        find(&cluster.state(), sa).is_some_and(|(record, _)| self.routes.to(record.segment()).is_some())
    }

    /// Hands an order to the owner of the SA, if that is this node, and waits until what it decides is committed.
    async fn act(&self, sa: SaRef, order: impl Fn(&IkeRecord, Option<ChildSpi>) -> Order) -> Answer<Done> {
        let cluster = self.member()?;
        let mut applied = cluster.applied();
        let state = cluster.state();
        let unknown = || Fault::not_found(format!("no SA {sa}")).attempt("pontoon sas   (lists them)");
        let (record, child) = find(&state, sa).ok_or_else(unknown)?;
        let grant = state.segment(record.segment());
        let Some(mailbox) = self.routes.to(record.segment()) else {
            let owner = grant.owner.map(|owner| owner.node).filter(|owner| *owner != cluster.node());
            return owner.map(Done::Elsewhere).ok_or_else(|| {
                Fault::no_quorum(format!("nobody serves segment {} at the moment", record.segment()))
                    .attempt("pontoon segments")
            });
        };
        let (answer, taken) = oneshot::channel();
        mailbox.send(Message::Order(order(&record, child), Some(answer))).await;
        if taken.await != Ok(true) {
            return Err(unknown());
        }
        let index = loop {
            match applied.recv().await {
                Ok(Applied::Command { index, touched }) if touched.contains(&Touched::Ike(record.spi)) => {
                    break index;
                }
                Ok(_) => {}
                Err(_) => break cluster.state().applied(),
            }
        };
        Ok(Done::Here(api::Acted {
            spi: sa,
            connection: record.connection.clone(),
            peer_id: record.peer_id.to_string(),
            owner: grant.owner.and_then(|owner| name_of(&state, owner.node)),
            index,
        }))
    }
}

/// Who carries out a command on an SA.
enum Done {
    Here(api::Acted),
    Elsewhere(NodeId),
}

fn end(record: &IkeRecord, child: Option<ChildSpi>) -> Order {
    match child {
        None => Order::Terminate(record.spi),
        Some(child) => Order::TerminateChild(record.spi, child),
    }
}

fn renew(record: &IkeRecord, child: Option<ChildSpi>) -> Order {
    match child {
        None => Order::RekeyIke(record.spi),
        Some(child) => Order::RekeyChild(record.spi, child),
    }
}

/// The same on every node and after every start: only who has the cluster's own secret can compute a fingerprint.
fn fingerprint_key(cluster: &raft::state::Cluster) -> Secret {
    let key = cluster.authority.key.as_bytes();
    Prf::HmacSha256.prf(key, &[b"pontoon: the key of fingerprints", &cluster.id.0])
}

/// The newest handover among the events that are still kept.
fn last_handover(events: &Events) -> Option<api::Handover> {
    events.past().iter().rev().find_map(|stamped| match &stamped.event {
        Event::Handover { from, to, segments, cause, detect_ms, commit_ms, resume_ms } => {
            Some(api::Handover {
                at: rfc3339(stamped.at),
                from: from.clone(),
                to: to.clone(),
                segments: *segments,
                cause: cause.name().to_owned(),
                detect_ms: *detect_ms,
                commit_ms: *commit_ms,
                resume_ms: *resume_ms,
            })
        }
        _ => None,
    })
}

/// Proposes, and says in people's words how it ended.
pub async fn propose(cluster: &Cluster, command: Command) -> Answer<raft::Committed> {
    cluster.propose(command).await.map_err(proposed)
}

/// Why something could not be proposed, for a person.
pub fn proposed(error: ProposeError) -> Fault {
    match error {
        ProposeError::Refused(Refusal::Record(_)) => Fault::failed("another change was faster").why(error),
        ProposeError::Refused(refusal) => Fault::failed("refused").why(refusal),
        ProposeError::NotLeader(_) => {
            Fault::no_quorum("this node knows no leader that could commit the change")
                .attempt("pontoon status")
        }
        ProposeError::Unknown => {
            Fault::timed_out("the change is not committed yet").attempt("pontoon status")
        }
        ProposeError::Fatal(why) => Fault::failed("this node has stopped").why(why),
    }
}

fn find(state: &State, sa: SaRef) -> Option<(Arc<IkeRecord>, Option<ChildSpi>)> {
    match sa {
        SaRef::Ike(spi) => {
            let named = |record: &&Arc<IkeRecord>| record.spi == spi || record.peer_spi == spi;
            state.records().find(named).map(|record| (record.clone(), None))
        }
        SaRef::Child(spi) => {
            state.find_child(spi).map(|(record, child)| (record.clone(), Some(child.spi_in)))
        }
    }
}

fn about(state: &State, configuration: &Configuration) -> api::ConfigRevision {
    let same = |older: &&Arc<Configuration>| {
        older.revision < configuration.revision
            && older.toml == configuration.toml
            && older.files == configuration.files
    };
    api::ConfigRevision {
        revision: configuration.revision,
        applied_at: rfc3339(std::time::UNIX_EPOCH + Duration::from_millis(configuration.at.0)),
        node: configuration.by.clone(),
        comment: (!configuration.comment.is_empty()).then(|| configuration.comment.clone()),
        rollback_of: state.history().find(same).map(|older| older.revision),
    }
}

fn name_of(state: &State, id: NodeId) -> Option<String> {
    state.members().get(id).map(|member| member.name.clone())
}
