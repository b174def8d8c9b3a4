//! The newcomer asks a member to be taken in.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crypto::Secret;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::message::{self, Answer, Outcome, RefusalKind, Request, VERSION};
use super::pin;
use super::token::JoinToken;
use crate::begin::Admission;
use crate::links::ALPN_JOIN;
use crate::links::pki::{self, Credentials, NodeKey};
use crate::state::{NewMember, NodeId};
use crate::store::Peer;

/// How long connecting and the handshake may take. The answer may take longer: a commit is behind it.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Who asks, with what.
#[derive(Debug)]
pub struct Applicant<'a> {
    pub me: &'a NewMember,
    pub key: &'a NodeKey,
    pub token: &'a JoinToken,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("{address} cannot be reached: {why}")]
    Unreachable { address: String, why: String },
    #[error("{address} does not belong to the cluster that the token is for")]
    OtherCluster { address: String },
    #[error("{address} speaks no TLS that leads to a join: {why}")]
    Tls { address: String, why: String },
    #[error("the cluster refuses: {why}")]
    Refused { kind: RefusalKind, why: String },
    #[error("the connection to {address} broke before the answer: {why}")]
    Broken { address: String, why: String },
    #[error("the answer of {address} makes no sense: {why}")]
    Nonsense { address: String, why: String },
}

impl JoinError {
    /// Asking again, with the same key, may have another outcome soon.
    pub fn is_passing(&self) -> bool {
        match self {
            JoinError::Refused { kind, .. } => *kind != RefusalKind::Final,
            JoinError::Broken { .. } => true,
            _ => false,
        }
    }
}

/// Asks the member at `address` once. It is safe to ask again with the same key.
pub async fn ask(address: &str, it: &Applicant<'_>, within: Duration) -> Result<Admission, JoinError> {
    let config = pin::client_config(it.token.authority, ALPN_JOIN)
        .map_err(|error| JoinError::Tls { address: address.to_owned(), why: error.to_string() })?;
    let unreachable = |why: String| JoinError::Unreachable { address: address.to_owned(), why };
    let tcp = match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(|error| unreachable(error.to_string()))?,
        Err(_) => return Err(unreachable(format!("no answer within {CONNECT_WITHIN:?}"))),
    };
    let handshake = TlsConnector::from(Arc::new(config)).connect(pin::any_member(), tcp);
    let mut stream = match tokio::time::timeout(CONNECT_WITHIN, handshake).await {
        Ok(stream) => stream.map_err(|error| handshake_error(address, &error))?,
        Err(_) => return Err(unreachable(format!("no handshake within {CONNECT_WITHIN:?}"))),
    };
    let request = Request {
        version: VERSION,
        token: it.token.id.0,
        secret: it.token.secret.as_bytes().to_vec(),
        name: it.me.name.clone(),
        address: it.me.address.clone(),
        software: it.me.software.clone(),
        speaks: it.me.speaks,
        public_key: it.key.public().as_bytes().to_vec(),
    };
    let exchange = async {
        let sent = message::send(&mut stream, &request).await;
        drop(Secret::from(request.secret));
        sent?;
        message::receive::<Answer>(&mut stream).await
    };
    let broken = |why: String| JoinError::Broken { address: address.to_owned(), why };
    let answer = match tokio::time::timeout(within, exchange).await {
        Ok(answer) => answer.map_err(|error| broken(error.to_string()))?,
        Err(_) => return Err(broken(format!("no answer within {within:?}"))),
    };
    match answer.outcome {
        Some(Outcome::Admitted(admitted)) => {
            admission(it, admitted).map_err(|why| JoinError::Nonsense { address: address.to_owned(), why })
        }
        Some(Outcome::Refused(refused)) => {
            Err(JoinError::Refused { kind: RefusalKind::from_number(refused.kind), why: refused.why })
        }
        None => Err(JoinError::Nonsense { address: address.to_owned(), why: "it is empty".into() }),
    }
}

/// What we were given must be what we asked for.
fn admission(it: &Applicant<'_>, admitted: message::Admitted) -> Result<Admission, String> {
    let message::Admitted { cluster_name, node, certificate, authority } = admitted;
    if pki::fingerprint(&authority) != it.token.authority {
        return Err("it names another authority than the token".into());
    }
    let credentials = Credentials { authority, certificate, key: it.key.to_pkcs8() };
    let subject = credentials.subject().map_err(|error| error.to_string())?;
    if subject.node != NodeId(node) || subject.key != it.key.public().hash() {
        return Err("the certificate is for another node or another key".into());
    }
    let me = Peer { name: it.me.name.clone(), address: it.me.address.clone() };
    Ok(Admission { cluster: subject.cluster, cluster_name, node: subject.node, me, credentials })
}

fn handshake_error(address: &str, error: &io::Error) -> JoinError {
    let address = address.to_owned();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(_)) => JoinError::OtherCluster { address },
        Some(inner) => JoinError::Tls { address, why: inner.to_string() },
        None => JoinError::Tls { address, why: format!("{error}; it may be no member of a cluster itself") },
    }
}
