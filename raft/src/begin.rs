//! How a vacant node becomes a member: it makes a cluster, or is taken in by one.
//!
//! ```text
//!   init   authority, key, certificate ─> credentials ─> identity (founding) ─> log ─> CreateCluster
//!   join   Admission (see `join`)      ─> credentials ─> identity (joining)  ─> log <─ the leader
//! ```
//!
//! What is written first is of no meaning without what is written after it, so a crash at any point leaves a vacant
//! node, or one that goes on at its next start.

use crypto::rng::{OsRng, Rng};
use ipsec::types::Millis;

use crate::handle::{Cluster, FOUNDER, OpenError, Vacant, start};
use crate::links::pki::{self, Credentials, NodeKey};
use crate::state::{ClusterId, NewMember, NodeId};
use crate::store::credentials::{self, Kept};
use crate::store::identity::{Identity, Phase};
use crate::store::{Peer, StoreError};

/// What a cluster has given to a node that it takes in.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    pub cluster: ClusterId,
    pub cluster_name: String,
    pub node: NodeId,
    pub me: Peer,
    pub credentials: Credentials,
}

impl Vacant {
    /// The key to ask with to be taken in by the cluster of that authority: the same one after an interruption.
    pub fn joining_key(&self, authority: &[u8; 32]) -> Result<NodeKey, StoreError> {
        credentials::joining_key(&self.dir, authority)
    }

    /// Binds this node to the cluster that has taken it in. Its log begins with what the leader sends.
    pub async fn join(self, admission: Admission) -> Result<Cluster, OpenError> {
        let Admission { cluster, cluster_name, node, me, credentials } = admission;
        credentials::save(&self.dir, &self.dir.vault()?, &Kept { credentials, authority_key: None })?;
        let identity = Identity { cluster, cluster_name, node, me, phase: Phase::Joining };
        let vault = self.dir.bind(&identity)?;
        start(&self.options, self.dir, identity, vault).await
    }

    /// Makes a cluster whose first member is this node. `at` is UTC, as the proposer sees it.
    pub async fn init(self, name: &str, me: NewMember, at: Millis) -> Result<Cluster, OpenError> {
        let mut id = [0; 16];
        OsRng.fill(&mut id);
        let identity = Identity {
            cluster: ClusterId(id),
            cluster_name: name.to_owned(),
            node: FOUNDER,
            me: Peer { name: me.name.clone(), address: me.address.clone() },
            phase: Phase::Founding,
        };
        let authority = pki::found(identity.cluster)?;
        let key = NodeKey::generate()?;
        let certificate = pki::issue(identity.cluster, &authority, FOUNDER, &key.public())?;
        let credentials = Credentials { authority: authority.certificate, certificate, key: key.to_pkcs8() };
        let kept = Kept { credentials, authority_key: Some(authority.key) };
        credentials::save(&self.dir, &self.dir.vault()?, &kept)?;
        let vault = self.dir.bind(&identity)?;
        let cluster = start(&self.options, self.dir, identity, vault).await?;
        cluster.recovered(self.options.timing.proposal).await?;
        cluster.found(me, at).await?;
        Ok(cluster)
    }
}
