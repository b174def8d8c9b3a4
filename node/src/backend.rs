//! Answers the control API and the HTTP server from this node's own state; hands changes to the log and orders to
//! the actors of segments.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipsec::ike::Order;
use ipsec::record::{ChildPhase, ChildRecord, IkeRecord, Phase};
use ipsec::types::{ChildSpi, Segment};
use raft::state::{Command, Configuration, Configure, Effect, Grant, NodeId, Refusal, State, Touched};
use raft::{Applied, Cluster, ProposeError};
use tokio::sync::oneshot;

use crate::config::GatewaySource;
use crate::control::api::{self, SaRef};
use crate::control::{Answer, Backend, Ready};
use crate::daemon::Daemon;
use crate::fault::Fault;
use crate::gateway::source_of;
use crate::io::clock::{Clock, SystemClock};
use crate::observe::{Event, Events, rfc3339};
use crate::report::words;
use crate::segment::Message;

/// How often `wait` looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Backend for Daemon {
    async fn status(&self) -> Answer<api::Status> {
        let node = self.config.name.clone();
        let service_addresses = self.service_addresses();
        let health = self.observe.health();
        let Some(cluster) = self.cluster() else {
            return Ok(api::Status {
                node,
                cluster: None,
                leader: None,
                quorum: api::Quorum::default(),
                nodes: Vec::new(),
                service_addresses,
                config_revision: 0,
                last_handover: None,
                health,
            });
        };
        let (state, raft) = (cluster.state(), cluster.status());
        let up = raft.voters.iter().filter(|voter| self.is_up(**voter, &cluster)).count() as u32;
        Ok(api::Status {
            node,
            cluster: state.cluster().map(|cluster| cluster.name.clone()),
            leader: raft.leader.and_then(|leader| name_of(&state, leader)),
            quorum: api::Quorum::of(raft.voters.len() as u32, up),
            nodes: state
                .members()
                .iter()
                .map(|member| self.node_status(&cluster, &state, member.id))
                .collect(),
            service_addresses,
            config_revision: state.configuration().map_or(0, |configuration| configuration.revision),
            last_handover: last_handover(self.observe.events()),
            health,
        })
    }

    async fn members(&self) -> Answer<api::Members> {
        let cluster = self.member()?;
        let (state, raft) = (cluster.state(), cluster.status());
        let members = state.members().iter().map(|member| {
            let here = member.id == cluster.node();
            api::Member {
                name: member.name.clone(),
                id: member.id.0,
                address: member.address.clone(),
                state: self.node_state(member.id, &cluster),
                vote: if raft.voters.contains(&member.id) { api::Vote::Voter } else { api::Vote::Learner },
                role: self.role(member.id, &cluster),
                term: here.then_some(raft.term),
                committed: raft.committed.filter(|_| here),
                applied: raft.applied.filter(|_| here),
                digest: here.then(|| hex(&state.digest())),
                version: (!member.software.is_empty()).then(|| member.software.clone()),
            }
        });
        Ok(api::Members { members: members.collect() })
    }

    async fn segments(&self) -> Answer<api::Segments> {
        let cluster = self.member()?;
        let state = cluster.state();
        let row = |segment: Segment| {
            let grant = state.segment(segment);
            api::SegmentRow {
                segment: segment.0,
                owner: owner_name(&state, &grant),
                standby: grant.standby.and_then(|standby| name_of(&state, standby)),
                epoch: grant.epoch.0,
                state: self.segment_state(&cluster, &grant, segment),
                ike_sas: state.records_of(segment).count() as u64,
            }
        };
        Ok(api::Segments { segments: Segment::all().map(row).collect() })
    }

    async fn sas(&self, peer: Option<String>) -> Answer<api::Sas> {
        let cluster = self.member()?;
        let state = cluster.state();
        let wanted = |record: &&Arc<IkeRecord>| {
            peer.as_ref().is_none_or(|peer| record.peer_id.to_string().contains(peer.as_str()))
        };
        Ok(api::Sas {
            sas: state.records().filter(wanted).map(|record| self.ike_sa(&state, record)).collect(),
        })
    }

    fn events(&self) -> &Events {
        self.observe.events()
    }

    async fn init(&self, name: String) -> Answer<api::Initialized> {
        let (cluster, created) = self.found(&name).await?;
        let node = cluster.node();
        Ok(api::Initialized { cluster: name, node: self.config.name.clone(), id: node.0, created })
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
        self.config_apply(older.source, Some(format!("rollback to revision {revision}")), None).await
    }

    fn fingerprint_key(&self) -> crypto::Secret {
        self.fingerprint_key.clone()
    }

    fn timing(&self) -> api::Timing {
        self.config.timing.shown()
    }

    async fn terminate(&self, sa: SaRef) -> Answer<api::Acted> {
        self.act(sa, |record, child| match child {
            None => Order::Terminate(record.spi),
            Some(child) => Order::TerminateChild(record.spi, child),
        })
        .await
    }

    async fn rekey(&self, sa: SaRef) -> Answer<api::Acted> {
        self.act(sa, |record, child| match child {
            None => Order::RekeyIke(record.spi),
            Some(child) => Order::RekeyChild(record.spi, child),
        })
        .await
    }

    async fn wait(&self, condition: api::Condition) -> Answer<()> {
        loop {
            let holds = match condition {
                api::Condition::Ready => self.ready().await == Ready::Yes,
                api::Condition::Quorum => {
                    self.cluster().is_some_and(|cluster| cluster.status().leader.is_some())
                }
                api::Condition::Drained => self.cluster().is_some_and(|cluster| {
                    let node = cluster.node();
                    cluster.state().segments().owned_by(node).next().is_none()
                }),
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
        if self.routes.served() < owned || owned == 0 {
            return Ready::No(format!("{} of {owned} segments are served", self.routes.served()));
        }
        match self.steering_up() {
            true => Ready::Yes,
            false => Ready::No("the service addresses are not up yet".into()),
        }
    }
}

impl Daemon {
    fn member(&self) -> Answer<Cluster> {
        self.cluster().ok_or_else(|| {
            Fault::failed("this node is not a member of a cluster")
                .attempt("pontoon init   (makes a cluster whose first member is this node)")
        })
    }

    /// Hands an order to the owner of the SA and waits until what it decides is committed.
    async fn act(
        &self,
        sa: SaRef,
        order: impl Fn(&IkeRecord, Option<ChildSpi>) -> Order,
    ) -> Answer<api::Acted> {
        let cluster = self.member()?;
        let mut applied = cluster.applied();
        let state = cluster.state();
        let unknown = || Fault::not_found(format!("no SA {sa}")).attempt("pontoon sas   (lists them)");
        let (record, child) = find(&state, sa).ok_or_else(unknown)?;
        let mailbox = self.routes.to(record.segment()).ok_or_else(|| {
            Fault::no_quorum(format!("nobody serves segment {} at the moment", record.segment()))
                .attempt("pontoon segments")
        })?;
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
        Ok(api::Acted {
            spi: sa,
            connection: record.connection.clone(),
            peer_id: record.peer_id.to_string(),
            owner: owner_name(&state, &state.segment(record.segment())),
            index,
        })
    }

    fn node_status(&self, cluster: &Cluster, state: &State, id: NodeId) -> api::NodeStatus {
        let here = id == cluster.node();
        let owned: Vec<Segment> = state.segments().owned_by(id).map(|(segment, _)| segment).collect();
        let records = || owned.iter().flat_map(|&segment| state.records_of(segment));
        api::NodeStatus {
            name: name_of(state, id).unwrap_or_default(),
            id: id.0,
            role: self.role(id, cluster),
            state: self.node_state(id, cluster),
            segments: owned.len() as u32,
            ike_sas: records().count() as u64,
            child_sas: records().map(|record| record.children.len() as u64).sum(),
            applied: here.then(|| state.applied()),
            digest: here.then(|| hex(&state.digest())),
        }
    }

    /// Of others nothing is known before there are links to them.
    fn is_up(&self, id: NodeId, cluster: &Cluster) -> bool {
        id == cluster.node()
    }

    fn node_state(&self, id: NodeId, cluster: &Cluster) -> api::NodeState {
        if self.is_up(id, cluster) { api::NodeState::Up } else { api::NodeState::Down }
    }

    fn role(&self, id: NodeId, cluster: &Cluster) -> api::Role {
        let raft = cluster.status();
        match raft.role {
            _ if raft.leader == Some(id) => api::Role::Leader,
            _ if id != cluster.node() => api::Role::Unknown,
            raft::Role::Candidate => api::Role::Candidate,
            raft::Role::Learner => api::Role::Learner,
            raft::Role::Follower => api::Role::Follower,
            raft::Role::Leader | raft::Role::Shutdown => api::Role::Unknown,
        }
    }

    fn segment_state(&self, cluster: &Cluster, grant: &Grant, segment: Segment) -> api::SegmentState {
        use raft::state::SegmentState;
        let ours = grant.owner.is_some_and(|owner| owner.node == cluster.node());
        match grant.state {
            SegmentState::Unassigned | SegmentState::Orphaned => api::SegmentState::Unowned,
            SegmentState::Draining => api::SegmentState::Moving,
            SegmentState::Owned if ours && self.routes.to(segment).is_none() => api::SegmentState::Starting,
            SegmentState::Owned => api::SegmentState::Owned,
        }
    }

    fn ike_sa(&self, state: &State, record: &IkeRecord) -> api::IkeSa {
        let (spi_i, spi_r) = record.spis();
        let grant = state.segment(record.segment());
        let age_s = SystemClock.utc().since(record.established_at) / 1_000;
        let gateway = self.gateway.load();
        let rekey_s =
            gateway.connection(&record.connection).map_or(0, |connection| connection.rekey_ms / 1_000);
        api::IkeSa {
            spi_i,
            spi_r,
            connection: record.connection.clone(),
            peer_id: record.peer_id.to_string(),
            peer_address: record.path.peer,
            segment: record.segment().0,
            owner: owner_name(state, &grant),
            epoch: grant.epoch.0,
            state: match record.phase {
                Phase::Established => api::SaState::Established,
                Phase::Replaced { .. } => api::SaState::Rekeyed,
                Phase::Closing { .. } => api::SaState::Closing,
            },
            suite: words::ike(&record.suite),
            age_s,
            rekey_in_s: (rekey_s > 0).then(|| rekey_s as i64 - age_s as i64),
            message_ids: api::MessageIds { ours: record.next_request.0, theirs: record.expected.0 },
            inner_addresses: record.inner_addresses.clone(),
            children: record.children.iter().map(|child| self.child_sa(record, child)).collect(),
        }
    }

    fn child_sa(&self, record: &IkeRecord, child: &ChildRecord) -> api::ChildSa {
        let stats = self.worker.known_stats(child.spi_in);
        let count = |read: fn(&ipsec::esp::ChildStats) -> &std::sync::atomic::AtomicU64| {
            stats.as_ref().map_or(0, |stats| read(stats).load(Ordering::Relaxed))
        };
        let words_of =
            |selectors: &[ipsec::policy::Selector]| selectors.iter().map(ToString::to_string).collect();
        api::ChildSa {
            name: child.name.clone(),
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            suite: words::esp(&child.suite),
            encap: if record.path.encapsulates() { api::Encap::Udp } else { api::Encap::Esp },
            state: match child.phase {
                ChildPhase::Live => api::SaState::Established,
                ChildPhase::Replaced => api::SaState::Rekeyed,
                ChildPhase::Closing { .. } => api::SaState::Closing,
            },
            local_ts: words_of(&child.local_ts),
            remote_ts: words_of(&child.remote_ts),
            packets_in: count(|stats| &stats.packets_in),
            packets_out: count(|stats| &stats.packets_out),
            bytes_in: count(|stats| &stats.octets_in),
            bytes_out: count(|stats| &stats.octets_out),
            next_number: count(|stats| &stats.next_number).max(child.block.first.0),
            reserved: child.granted.0,
            drops: Default::default(),
        }
    }
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
async fn propose(cluster: &Cluster, command: Command) -> Answer<raft::Committed> {
    cluster.propose(command).await.map_err(|error| match error {
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
    })
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

fn owner_name(state: &State, grant: &Grant) -> Option<String> {
    grant.owner.and_then(|owner| name_of(state, owner.node))
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_lower_case_hex() {
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
