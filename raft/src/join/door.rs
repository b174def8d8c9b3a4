//! A member takes a newcomer in: judges the token and the name, has it written to the log, signs its certificate.
//!
//! Any member can: the command is forwarded to the leader, and the authority's key is in the replicated state. Nothing
//! is written to the log for who does not know the secret of a token (I11).

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crypto::Secret;
use ipsec::types::Millis;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::message::{self, Admitted, Answer, Outcome, RefusalKind, Refused, Request, VERSION};
use super::token;
use crate::handle::{Cluster, ProposeError, Role};
use crate::links::pki::{self, PublicKey};
use crate::links::{BoxFuture, JoinHandler, JoinStream, LinkState, TlsLinks};
use crate::state::{AddMember, Command, Effect, NewMember, NodeId, Refusal, State, TokenId, TokenUse};

/// How long a newcomer may take to say what it wants.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// How long a follower waits for a token that was made a moment ago elsewhere.
const TOKEN_WITHIN: Duration = Duration::from_secs(1);

/// How long a member must have been gone before its name may be taken over: a connection that flaps is no death.
const GONE_FOR: Duration = Duration::from_secs(1);

/// How long the segments of a member that is replaced may take to be taken over, and how often that is looked at.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The member as it is now; none while this node is no member.
type Member = Arc<dyn Fn() -> Option<Cluster> + Send + Sync>;

#[derive(Clone)]
pub struct Door {
    links: TlsLinks,
    member: Member,
    /// UTC, for expiry.
    now: fn() -> Millis,
}

/// Why somebody is not taken in.
#[derive(Debug)]
struct No(RefusalKind, String);

impl No {
    fn never(why: impl Into<String>) -> No {
        No(RefusalKind::Final, why.into())
    }

    fn later(why: impl Into<String>) -> No {
        No(RefusalKind::Later, why.into())
    }
}

impl Door {
    pub fn new(
        links: TlsLinks,
        member: impl Fn() -> Option<Cluster> + Send + Sync + 'static,
        now: fn() -> Millis,
    ) -> Door {
        Door { links, member: Arc::new(member), now }
    }

    async fn serve(self, mut stream: JoinStream, from: SocketAddr) {
        let received = tokio::time::timeout(REQUEST_WITHIN, message::receive::<Request>(&mut stream)).await;
        let Ok(Ok(request)) = received else {
            tracing::warn!(%from, "a newcomer did not say what it wants");
            return;
        };
        let name = request.name.clone();
        let outcome = match self.admit(request).await {
            Ok(admitted) => {
                tracing::info!(%from, name, node = admitted.node, "taken into the cluster");
                Outcome::Admitted(admitted)
            }
            Err(No(kind, why)) => {
                tracing::warn!(%from, name, %why, "a join is refused");
                Outcome::Refused(Refused { kind: kind as u32, why })
            }
        };
        // An answer that does not arrive is asked for again.
        let _ = message::send(&mut stream, &Answer { outcome: Some(outcome) }).await;
        let _ = stream.shutdown().await;
    }

    async fn admit(&self, request: Request) -> Result<Admitted, No> {
        let Request { version, token, secret, name, address, software, speaks, public_key } = request;
        let proof = token::proof(&Secret::from(secret));
        if version != VERSION {
            return Err(No::never(format!(
                "this cluster speaks version {VERSION} of joining, not {version}"
            )));
        }
        let cluster = (self.member)().ok_or_else(|| No::later("the node asked is no member itself yet"))?;
        let key = PublicKey::parse(&public_key).map_err(|error| No::never(error.to_string()))?;
        let token = TokenUse { id: TokenId(token), proof };
        let known = cluster.state().members().joined_before(&name, key.hash()).map(|member| member.id);
        let node = match known {
            // Cut off before the answer reached it. The certificate is of use to the holder of the key only.
            Some(node) => node,
            None => {
                self.check_token(&cluster, &token).await?;
                let member = NewMember { name, address, software, speaks };
                self.add(&cluster, member, &key, token).await?
            }
        };
        let state = cluster.state();
        let about = state.cluster().ok_or_else(|| No::later("the cluster is being made"))?;
        let certificate = pki::issue(about.id, &about.authority, node, &key)
            .map_err(|error| No::never(error.to_string()))?;
        Ok(Admitted {
            cluster_name: about.name.clone(),
            node: node.0,
            certificate,
            authority: about.authority.certificate.clone(),
        })
    }

    async fn check_token(&self, cluster: &Cluster, token: &TokenUse) -> Result<(), No> {
        let deadline = Instant::now() + TOKEN_WITHIN;
        loop {
            let checked = cluster.state().tokens().check_use(token, (self.now)()).map(drop);
            match checked {
                Err(Refusal::TokenUnknown)
                    if cluster.status().role != Role::Leader && Instant::now() < deadline =>
                {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                checked => return checked.map_err(|refusal| No::never(refusal.to_string())),
            }
        }
    }

    /// Has it written to the log; the id of the new member.
    async fn add(
        &self,
        cluster: &Cluster,
        member: NewMember,
        key: &PublicKey,
        token: TokenUse,
    ) -> Result<NodeId, No> {
        let deadline = Instant::now() + TAKEN_OVER_WITHIN;
        loop {
            let state = cluster.state();
            let replaces = self.predecessor(cluster, &state, &member.name).await?;
            // Known without asking the log, which keeps refusals too.
            let owns = replaces.is_some_and(|node| state.segments().owned_by(node).next().is_some());
            if owns && Instant::now() < deadline {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            if owns {
                return Err(No::later(Refusal::OwnsSegments.to_string()));
            }
            let add =
                AddMember { member: member.clone(), key: key.hash(), token, replaces, at: (self.now)() };
            match cluster.propose(Command::AddMember(add)).await {
                Ok(committed) => match committed.effect {
                    Effect::Joined(node) => return Ok(node),
                    other => return Err(No::later(format!("the log answered {other:?}"))),
                },
                Err(ProposeError::Refused(Refusal::OwnsSegments)) => {
                    return Err(No::later(Refusal::OwnsSegments.to_string()));
                }
                Err(ProposeError::Refused(refusal)) => return Err(No::never(refusal.to_string())),
                Err(ProposeError::NotLeader(_)) => {
                    return Err(No(RefusalKind::NoQuorum, "the cluster has no leader now".into()));
                }
                Err(error) => return Err(No::later(error.to_string())),
            }
        }
    }

    /// The member of that name, when it is gone. One that is up keeps its name.
    async fn predecessor(&self, cluster: &Cluster, state: &State, name: &str) -> Result<Option<NodeId>, No> {
        let Some(member) = state.members().by_name(name) else { return Ok(None) };
        let up = || No::never(format!("a member of the name {name} is up (node {})", member.id));
        if member.id == cluster.node() {
            return Err(up());
        }
        let deadline = Instant::now() + 2 * GONE_FOR;
        loop {
            let link = self.links.peers().borrow().get(&member.id).cloned();
            match link {
                Some(link) if link.state == LinkState::Up => return Err(up()),
                Some(link) if link.since.elapsed() < GONE_FOR && Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                _ => return Ok(Some(member.id)),
            }
        }
    }
}

impl JoinHandler for Door {
    fn join(&self, stream: JoinStream, from: SocketAddr) -> BoxFuture<'static, ()> {
        Box::pin(self.clone().serve(stream, from))
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}
