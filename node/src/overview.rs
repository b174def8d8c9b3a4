//! The cluster as `status`, `members`, `segments` and `sas` show it: what is replicated, with what each node says of
//! itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipsec::policy::Gateway;
use ipsec::record::{ChildPhase, ChildRecord, IkeRecord, Phase};
use ipsec::types::Segment;
use raft::RaftStatus;
use raft::state::{Draining, Grant, Member, NodeId, State};

use crate::control::api;
use crate::figures::Figures;
use crate::io::clock::{Clock, SystemClock};
use crate::report::words;

/// Everything that one document is made of, as of one moment.
#[derive(Debug)]
pub struct Overview {
    pub state: Arc<State>,
    pub raft: RaftStatus,
    pub gateway: Arc<Gateway>,
    /// Of the nodes that have answered, this one among them.
    pub figures: BTreeMap<NodeId, Figures>,
}

impl Overview {
    pub fn is_up(&self, node: NodeId) -> bool {
        node == self.raft.node || self.figures.contains_key(&node)
    }

    /// A voter counts as up when it answers: who answers us can vote with us.
    pub fn quorum(&self) -> api::Quorum {
        let up = self.raft.voters.iter().filter(|voter| self.is_up(**voter)).count();
        api::Quorum::of(self.raft.voters.len() as u32, up as u32)
    }

    pub fn leader(&self) -> Option<String> {
        self.raft.leader.filter(|_| self.quorum().has_quorum).and_then(|leader| self.name(leader))
    }

    pub fn nodes(&self) -> Vec<api::NodeStatus> {
        self.state.members().iter().map(|member| self.node(member)).collect()
    }

    fn node(&self, member: &Member) -> api::NodeStatus {
        let owned: Vec<Segment> =
            self.state.segments().owned_by(member.id).map(|(segment, _)| segment).collect();
        let records = || owned.iter().flat_map(|&segment| self.state.records_of(segment));
        let figures = self.figures.get(&member.id);
        api::NodeStatus {
            name: member.name.clone(),
            id: member.id.0,
            role: self.role(member.id),
            state: self.node_state(member, owned.len()),
            segments: owned.len() as u32,
            ike_sas: records().count() as u64,
            child_sas: records().map(|record| record.children.len() as u64).sum(),
            applied: figures.map(|figures| figures.applied),
            digest: figures.map(|figures| hex(&figures.digest)),
        }
    }

    pub fn members(&self) -> Vec<api::Member> {
        let member = |member: &Member| {
            let figures = self.figures.get(&member.id);
            let owned = self.state.segments().owned_by(member.id).count();
            let votes = self.raft.voters.contains(&member.id);
            api::Member {
                name: member.name.clone(),
                id: member.id.0,
                address: member.address.clone(),
                state: self.node_state(member, owned),
                vote: if votes { api::Vote::Voter } else { api::Vote::Learner },
                role: self.role(member.id),
                term: figures.map(|figures| figures.term),
                committed: figures.and_then(|figures| figures.committed),
                applied: figures.map(|figures| figures.applied),
                digest: figures.map(|figures| hex(&figures.digest)),
                version: (!member.software.is_empty()).then(|| member.software.clone()),
            }
        };
        self.state.members().iter().map(member).collect()
    }

    fn node_state(&self, member: &Member, owned: usize) -> api::NodeState {
        if !self.is_up(member.id) {
            return api::NodeState::Down;
        }
        match member.draining {
            Draining::No if member.incarnation.0 == 0 => api::NodeState::Joining,
            Draining::No => api::NodeState::Up,
            _ if owned > 0 => api::NodeState::Draining,
            _ => api::NodeState::Drained,
        }
    }

    fn role(&self, node: NodeId) -> api::Role {
        match self.figures.get(&node).and_then(Figures::role) {
            Some(raft::Role::Leader) => api::Role::Leader,
            Some(raft::Role::Follower) => api::Role::Follower,
            Some(raft::Role::Candidate) => api::Role::Candidate,
            Some(raft::Role::Learner) => api::Role::Learner,
            Some(raft::Role::Shutdown) | None => api::Role::Unknown,
        }
    }

    pub fn segments(&self) -> Vec<api::SegmentRow> {
        let row = |segment: Segment| {
            let grant = self.state.segment(segment);
            api::SegmentRow {
                segment: segment.0,
                owner: self.owner(&grant),
                standby: grant.standby.and_then(|standby| self.name(standby)),
                epoch: grant.epoch.0,
                state: self.segment_state(&grant, segment),
                ike_sas: self.state.records_of(segment).count() as u64,
            }
        };
        Segment::all().map(row).collect()
    }

    fn segment_state(&self, grant: &Grant, segment: Segment) -> api::SegmentState {
        let owner = grant.owner.filter(|_| grant.state.is_served()).map(|owner| owner.node);
        let Some(owner) = owner else { return api::SegmentState::Unowned };
        match self.figures.get(&owner) {
            // A node that does not answer may serve all the same: the log says that it owns the segment.
            None => api::SegmentState::Owned,
            Some(figures) if figures.is_leaving(segment) => api::SegmentState::Moving,
            Some(figures) if !figures.serves(segment) => api::SegmentState::Starting,
            Some(_) => api::SegmentState::Owned,
        }
    }

    pub fn sas(&self, wanted: impl Fn(&IkeRecord) -> bool) -> Vec<api::IkeSa> {
        self.state.records().filter(|record| wanted(record)).map(|record| self.ike_sa(record)).collect()
    }

    fn ike_sa(&self, record: &IkeRecord) -> api::IkeSa {
        let (spi_i, spi_r) = record.spis();
        let grant = self.state.segment(record.segment());
        let age_s = SystemClock.utc().since(record.established_at) / 1_000;
        let rekey_s =
            self.gateway.connection(&record.connection).map_or(0, |connection| connection.rekey_ms / 1_000);
        let figures = grant.owner.and_then(|owner| self.figures.get(&owner.node));
        api::IkeSa {
            spi_i,
            spi_r,
            connection: record.connection.clone(),
            peer_id: record.peer_id.to_string(),
            peer_address: record.path.peer,
            segment: record.segment().0,
            owner: self.owner(&grant),
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
            children: record.children.iter().map(|child| child_sa(record, child, figures)).collect(),
        }
    }

    pub fn name(&self, node: NodeId) -> Option<String> {
        self.state.members().get(node).map(|member| member.name.clone())
    }

    fn owner(&self, grant: &Grant) -> Option<String> {
        grant.owner.and_then(|owner| self.name(owner.node))
    }
}

/// `figures`: of the owner, when it has answered.
fn child_sa(record: &IkeRecord, child: &ChildRecord, figures: Option<&Figures>) -> api::ChildSa {
    let counted = figures.and_then(|figures| figures.child(child.spi_in)).cloned().unwrap_or_default();
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
        packets_in: counted.packets_in,
        packets_out: counted.packets_out,
        bytes_in: counted.octets_in,
        bytes_out: counted.octets_out,
        next_number: counted.next_number.max(child.block.first.0),
        reserved: child.granted.0,
        drops: Default::default(),
    }
}

pub fn hex(octets: &[u8]) -> String {
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
