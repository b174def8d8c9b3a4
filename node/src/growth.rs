//! The cluster grows and shrinks: join tokens, this node's own join, the removal of a dead member.
//!
//! ```text
//!   join   key on disk ─> ask (again while it may help) ─> directory bound ─> lives as a member; learner, then voter
//! ```
//!
//! A join that was cut off anywhere goes on when it is asked for again; what the cluster has of it stays the same node.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, UNIX_EPOCH};

use ipsec::types::Millis;
use raft::Cluster;
use raft::join::{Applicant, Door, JoinError, JoinToken, RefusalKind};
use raft::state::{Command, CreateToken, Suffrage};

use crate::backend::propose;
use crate::control::Answer;
use crate::control::api::{self, Vote};
use crate::daemon::{Daemon, open_fault};
use crate::drain::owned;
use crate::fault::{Exit, Fault};
use crate::figures::Wanted;
use crate::io::clock::{Clock, SystemClock};
use crate::leave;
use crate::observe::rfc3339;

/// The longest life of a token: what lies about for longer is found by the wrong people.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long one answer to a join may take: a commit, and perhaps the takeover of a predecessor's segments.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// For how long a join that may work soon is asked for again, and how often.
const PATIENCE: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// How long the removal of a member may take to reach Raft's own membership.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// `--accept-risk` of an end that leaves too few voters that are up, and of the removal of a node that is up itself.
pub const LOSE_QUORUM: &str = "lose-quorum";
const NODE_IS_UP: &str = "node-is-up";

/// Who takes newcomers in for this daemon.
pub fn door(daemon: &Arc<Daemon>) -> Door {
    let weak: Weak<Daemon> = Arc::downgrade(daemon);
    let member = move || weak.upgrade().and_then(|daemon| daemon.cluster());
    Door::new(daemon.links.clone(), member, || SystemClock.utc())
}

impl Daemon {
    pub async fn create_token(&self, ttl: Duration, uses: u32, role: Vote) -> Answer<api::TokenCreated> {
        if ttl > TOKEN_TTL_MAX || ttl.is_zero() {
            return Err(Fault::usage("a token lives for at least a moment and at most 30 days"));
        }
        if uses == 0 {
            return Err(Fault::usage("a token that nobody may use is no token"));
        }
        let cluster = self.member()?;
        let token = JoinToken::generate(cluster.authority());
        let at = SystemClock.utc();
        let expires_at = at.after(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let (id, proof) = (token.id, token.proof());
        let role = match role {
            Vote::Voter => Suffrage::Voter,
            Vote::Learner => Suffrage::Learner,
        };
        propose(&cluster, Command::CreateToken(CreateToken { id, proof, role, uses, expires_at, at }))
            .await?;
        tracing::info!(token = %id, uses, expires_at = shown(expires_at), "a join token was made");
        Ok(api::TokenCreated {
            token: token.reveal(),
            uses,
            role: vote(role),
            expires_at: shown(expires_at),
            address: self.config.advertise.to_string(),
        })
    }

    pub async fn join_cluster(&self, address: String, token: String) -> Answer<api::Joined> {
        let token: JoinToken = token.parse().map_err(|error| {
            Fault::usage(format!("{error}")).attempt("pontoon token create   (on a member)")
        })?;
        let mut membership = self.membership.lock().await;
        if let Some(cluster) = self.cluster() {
            return self.joined_before(&cluster, &token);
        }
        let me = self.me();
        let vacant = membership.as_ref().ok_or_else(|| {
            Fault::failed("an earlier init or join did not end well").attempt("restart the daemon")
        })?;
        let key =
            vacant.joining_key(&token.authority).map_err(|error| open_fault(&self.config, error.into()))?;
        let applicant = Applicant { me: &me, key: &key, token: &token };
        let begun = Instant::now();
        let admission = loop {
            match raft::join::ask(&address, &applicant, ANSWER_WITHIN).await {
                Ok(admission) => break admission,
                Err(error) if error.is_passing() && begun.elapsed() < PATIENCE => {
                    tracing::info!(%error, "the join is asked for again");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "not taken into the cluster");
                    return Err(join_fault(&error));
                }
            }
        };
        tracing::info!(cluster = admission.cluster_name, node = %admission.node, "taken into the cluster");
        let (name, node) = (admission.cluster_name.clone(), admission.node);
        let vacant = membership.take().ok_or_else(|| Fault::failed("this node is not vacant any more"))?;
        let cluster = self
            .raft
            .run(async move { vacant.join(admission).await })
            .await
            .map_err(|error| open_fault(&self.config, error))?;
        self.enter(cluster).await?;
        Ok(api::Joined { cluster: name, node: self.config.name.clone(), id: node.0, joined: true })
    }

    fn joined_before(&self, cluster: &Cluster, token: &JoinToken) -> Answer<api::Joined> {
        let name = cluster.identity().cluster_name.clone();
        if cluster.authority() != token.authority {
            return Err(Fault::failed(format!("this node is a member of the cluster {name} already"))
                .why("the token is for another one")
                .attempt("pontoon status"));
        }
        let (node, id) = (self.config.name.clone(), cluster.node().0);
        Ok(api::Joined { cluster: name, node, id, joined: false })
    }

    /// How far this node is on its way into the cluster.
    pub fn join_progress(&self) -> api::JoinProgress {
        let Some(cluster) = self.cluster() else {
            return api::JoinProgress { applied: None, vote: None, caught_up: false };
        };
        let (state, raft) = (cluster.state(), cluster.status());
        let me = state.members().get(cluster.node());
        let caught_up = me.is_some_and(|me| match me.suffrage {
            Suffrage::Voter => raft.voters.contains(&me.id),
            Suffrage::Learner => raft.learners.contains(&me.id) && raft.applied == raft.committed,
        });
        let vote = me.map(|me| if raft.voters.contains(&me.id) { Vote::Voter } else { Vote::Learner });
        api::JoinProgress { applied: raft.applied, vote, caught_up: caught_up && raft.leader.is_some() }
    }

    pub async fn remove_member(&self, node: String, accept_risk: Vec<String>) -> Answer<api::Removed> {
        let accepts = |risk: &str| accept_risk.iter().any(|it| it == risk);
        let cluster = self.member()?;
        let member = self.find_node(&cluster, Some(&node))?;
        let overview = self.overview(Wanted::default()).await?;
        if overview.is_up(member.id) && !accepts(NODE_IS_UP) {
            return Err(Fault::new(Exit::Dangerous, format!("refused: {} is up", member.name))
                .why("a node that is removed while it is up is cut off without a farewell")
                .attempt("pontoon leave   (on that node)")
                .attempt(format!("pontoon members remove {} --accept-risk {NODE_IS_UP}", member.name)));
        }
        let left = leave::without(&overview, member.id);
        if left.voters > 0 && !left.has_quorum && !accepts(LOSE_QUORUM) {
            let what = format!("refused: without {} no quorum remains", member.name);
            return Err(Fault::new(Exit::Dangerous, what)
                .why(format!("{} of the {} other voters are up", left.up, left.voters))
                .attempt("bring the others back first")
                .attempt(format!("pontoon members remove {} --accept-risk {LOSE_QUORUM}", member.name)));
        }
        let left = owned(&cluster, member.id);
        if left > 0 {
            return Err(Fault::failed(format!("{} still owns {left} segments", member.name))
                .attempt("pontoon segments   (until others have taken them)")
                .attempt(format!("pontoon drain {}", member.name)));
        }
        propose(&cluster, Command::RemoveMember { node: member.id }).await?;
        let gone = async {
            loop {
                let status = cluster.status();
                if !status.voters.contains(&member.id) && !status.learners.contains(&member.id) {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(REMOVED_WITHIN, gone).await.map_err(|_| {
            Fault::timed_out(format!("{} is removed, and its vote not yet", member.name))
                .why("the leader goes on with it")
                .attempt("pontoon members")
        })?;
        Ok(api::Removed { node: member.name, id: member.id.0 })
    }
}

fn shown(at: Millis) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_millis(at.0))
}

fn vote(suffrage: Suffrage) -> Vote {
    match suffrage {
        Suffrage::Voter => Vote::Voter,
        Suffrage::Learner => Vote::Learner,
    }
}

fn join_fault(error: &JoinError) -> Fault {
    let fault = |exit| Fault::new(exit, "this node was not taken into the cluster").why(error);
    match error {
        JoinError::Unreachable { .. } | JoinError::Tls { .. } => {
            fault(Exit::Failed).attempt("the `advertise` address of a member, as HOST:PORT")
        }
        JoinError::OtherCluster { .. } => {
            fault(Exit::Failed).attempt("pontoon token create   (on a member of that cluster)")
        }
        JoinError::Refused { kind: RefusalKind::NoQuorum, .. } => fault(Exit::NoQuorum),
        JoinError::Refused { kind: RefusalKind::Later, .. } | JoinError::Broken { .. } => {
            fault(Exit::TimedOut).attempt("the same command again: it goes on where it was cut off")
        }
        JoinError::Refused { kind: RefusalKind::Final, .. } | JoinError::Nonsense { .. } => {
            fault(Exit::Failed).attempt("pontoon token create   (on a member, for a fresh token)")
        }
    }
}
