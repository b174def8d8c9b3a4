//! Certificates of the cluster: who may speak on a link, and for which node.
//!
//! ```text
//!   Authority (made by `init`, replicated) ──issue──> node-<id>.<cluster id>.pontoon ──> one TLS identity a node
//!                                                          subject_of <── what a peer shows
//! ```
//!
//! A certificate says: the cluster has given this key to this node id. It does not expire and is not revoked by a
//! list: the replicated members are the list. A node that was removed, or whose member has another key, is refused
//! although its signature is good. Hence no clock can cut a healthy node off.
//!
//! Keys are ECDSA P-256. There is no signing request: a certificate is of use only to who has the private key, and the
//! handshake asks for that each time.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use crypto::Secret;
use crypto::hash::sha256;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use webpki::EndEntityCert;

use crate::state::{Authority, ClusterId, KeyHash, NodeId};

/// The domain that all our names end with; it exists in certificates only.
const DOMAIN: &str = "pontoon";

/// An uncompressed point of P-256: 4, x, y (SEC 1, 2.3.3).
pub const PUBLIC_KEY_LEN: usize = 65;

/// Whom a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub key: KeyHash,
}

/// The public key of a node: a point on the curve.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC_KEY_LEN]);

/// The private key of a node, made where it is used and never sent.
#[derive(Debug)]
pub struct NodeKey(KeyPair);

/// What a node shows on its links.
#[derive(Clone, Debug, PartialEq)]
pub struct Credentials {
    /// Of the cluster; DER.
    pub authority: Vec<u8>,
    /// Of this node; DER.
    pub certificate: Vec<u8>,
    /// PKCS #8, DER.
    pub key: Secret,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    #[error("the certificate is for {0}, which is no node of a cluster")]
    NoNode(String),
    #[error("the public key is no point of P-256")]
    BadPublicKey,
    #[error("the key does not work: {0}")]
    BadKey(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Makes the authority of a new cluster.
pub fn found(cluster: ClusterId) -> Result<Authority, PkiError> {
    let key = generate()?;
    let certificate = authority_params(cluster).self_signed(&key).map_err(bad_key)?;
    Ok(Authority { certificate: certificate.der().to_vec(), key: Secret::from(key.serialize_der()) })
}

/// Signs `key` into the cluster as `node`. DER.
pub fn issue(
    cluster: ClusterId,
    authority: &Authority,
    node: NodeId,
    key: &PublicKey,
) -> Result<Vec<u8>, PkiError> {
    let signer = key_pair(&authority.key)?;
    let issuer = Issuer::new(authority_params(cluster), signer);
    let mut params = CertificateParams::new([name(cluster, node)]).map_err(bad_key)?;
    params.distinguished_name = common_name(format!("pontoon node {node}"));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    without_end(&mut params);
    Ok(params.signed_by(key, &issuer).map_err(bad_key)?.der().to_vec())
}

/// Whom a peer's certificate is for. Says nothing of who signed it: that is the handshake's part.
pub fn subject_of(certificate: &CertificateDer<'_>) -> Result<Subject, PkiError> {
    let parsed =
        EndEntityCert::try_from(certificate).map_err(|error| PkiError::Unreadable(error.to_string()))?;
    let names: Vec<&str> = parsed.valid_dns_names().collect();
    let subject = match names[..] {
        [only] => parse_name(only),
        _ => None,
    };
    let (cluster, node) = subject.ok_or_else(|| PkiError::NoNode(names.join(", ")))?;
    let key = KeyHash(sha256(&[&parsed.subject_public_key_info()]));
    Ok(Subject { cluster, node, key })
}

/// The name that the certificate of `node` must have: what a dialling node demands of the other end.
pub fn server_name(cluster: ClusterId, node: NodeId) -> ServerName<'static> {
    ServerName::try_from(name(cluster, node)).expect("digits, letters, dots: a DNS name")
}

/// SHA-256 of a certificate: what a token pins.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    sha256(&[certificate])
}

/// The one provider of cryptography for TLS.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Credentials {
    /// For connections that we accept from members: both sides show a certificate of the cluster.
    pub fn server_config(&self, alpn: &[u8]) -> Result<rustls::ServerConfig, PkiError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider());
        let verifier = verifier.build().map_err(|error| PkiError::Tls(error.to_string()))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain(), self.private_key())
            .map_err(tls)?;
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config)
    }

    /// For connections that we accept from who is no member yet. The chain ends with the authority's certificate, which
    /// the newcomer compares with what its token pins.
    pub fn open_server_config(&self, alpn: &[u8]) -> Result<rustls::ServerConfig, PkiError> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_no_client_auth()
            .with_single_cert(self.chain(), self.private_key())
            .map_err(tls)?;
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config)
    }

    /// For connections that we dial; demand `server_name` of the other end.
    pub fn client_config(&self, alpn: &[u8]) -> Result<rustls::ClientConfig, PkiError> {
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain(), self.private_key())
            .map_err(tls)?;
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config)
    }

    pub fn subject(&self) -> Result<Subject, PkiError> {
        subject_of(&CertificateDer::from(self.certificate.as_slice()))
    }

    fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.authority.clone())).map_err(tls)?;
        Ok(roots)
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from(self.certificate.clone()), CertificateDer::from(self.authority.clone())]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.as_bytes().to_vec()).into()
    }
}

impl NodeKey {
    pub fn generate() -> Result<NodeKey, PkiError> {
        generate().map(NodeKey)
    }

    /// PKCS #8, DER.
    pub fn from_pkcs8(octets: &Secret) -> Result<NodeKey, PkiError> {
        key_pair(octets).map(NodeKey)
    }

    pub fn to_pkcs8(&self) -> Secret {
        Secret::from(self.0.serialize_der())
    }

    pub fn public(&self) -> PublicKey {
        let octets = self.0.public_key_raw().try_into().expect("a P-256 key has a point of this length");
        PublicKey(octets)
    }
}

impl PublicKey {
    /// What a stranger sent.
    pub fn parse(octets: &[u8]) -> Result<PublicKey, PkiError> {
        let point = octets.try_into().map_err(|_| PkiError::BadPublicKey)?;
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, octets).map_err(|_| PkiError::BadPublicKey)?;
        Ok(PublicKey(point))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn hash(&self) -> KeyHash {
        KeyHash(sha256(&[&self.subject_public_key_info()]))
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?})", self.hash())
    }
}

fn name(cluster: ClusterId, node: NodeId) -> String {
    format!("node-{node}.{cluster}.{DOMAIN}")
}

/// The reverse of `name`, and of nothing else: there is one way to write each name.
fn parse_name(text: &str) -> Option<(ClusterId, NodeId)> {
    let (node, cluster) = text.strip_prefix("node-")?.split_once('.')?;
    let digits = cluster.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    let cluster = ClusterId(u128::from_str_radix(digits, 16).ok()?.to_be_bytes());
    let node = NodeId(node.parse().ok()?);
    (name(cluster, node) == text).then_some((cluster, node))
}

/// Of the authority's certificate: what it was made with says all that its signatures need.
fn authority_params(cluster: ClusterId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(format!("pontoon cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    without_end(&mut params);
    params
}

/// RFC 5280, 4.1.2.5: the date for "no well-defined expiration". The beginning is before any clock that is wrong.
fn without_end(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
}

fn common_name(name: String) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn generate() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(bad_key)
}

fn key_pair(pkcs8: &Secret) -> Result<KeyPair, PkiError> {
    let key = PrivatePkcs8KeyDer::from(pkcs8.as_bytes());
    KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).map_err(bad_key)
}

fn bad_key(error: rcgen::Error) -> PkiError {
    PkiError::BadKey(error.to_string())
}

fn tls(error: rustls::Error) -> PkiError {
    PkiError::Tls(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([0x0a; 16]);

    #[test]
    fn a_certificate_names_its_node_its_cluster_and_its_key() {
        let authority = found(CLUSTER).unwrap();
        let key = NodeKey::generate().unwrap();
        let public = PublicKey::parse(key.public().as_bytes()).unwrap();
        let certificate = CertificateDer::from(issue(CLUSTER, &authority, NodeId(7), &public).unwrap());
        let subject = subject_of(&certificate).unwrap();
        assert_eq!(subject, Subject { cluster: CLUSTER, node: NodeId(7), key: key.public().hash() });
        let again = NodeKey::from_pkcs8(&key.to_pkcs8()).unwrap();
        assert_eq!(again.public(), key.public());
    }

    #[test]
    fn the_authority_itself_is_no_node() {
        let authority = found(CLUSTER).unwrap();
        let refused = subject_of(&CertificateDer::from(authority.certificate)).unwrap_err();
        assert!(matches!(refused, PkiError::NoNode(_) | PkiError::Unreadable(_)), "{refused}");
    }

    /// Runs a handshake in memory; the first error of either side.
    fn handshake(server: &Credentials, client: &Credentials, to: NodeId) -> Result<Subject, rustls::Error> {
        let alpn = b"test/1";
        let server = Arc::new(server.server_config(alpn).unwrap());
        let client = Arc::new(client.client_config(alpn).unwrap());
        let mut client = rustls::ClientConnection::new(client, server_name(CLUSTER, to)).unwrap();
        let mut server = rustls::ServerConnection::new(server).unwrap();
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut &*std::mem::take(&mut wire)).unwrap();
            server.process_new_packets()?;
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut &*std::mem::take(&mut wire)).unwrap();
            client.process_new_packets()?;
        }
        let shown = server.peer_certificates().expect("both sides show one");
        Ok(subject_of(&shown[0]).unwrap())
    }

    fn member(authority: &Authority, cluster: ClusterId, node: u64) -> Credentials {
        let key = NodeKey::generate().unwrap();
        let certificate = issue(cluster, authority, NodeId(node), &key.public()).unwrap();
        Credentials { authority: authority.certificate.clone(), certificate, key: key.to_pkcs8() }
    }

    #[test]
    fn a_handshake_tells_each_side_who_the_other_is() {
        let authority = found(CLUSTER).unwrap();
        let (a, b) = (member(&authority, CLUSTER, 1), member(&authority, CLUSTER, 5));
        assert_eq!(handshake(&a, &b, NodeId(1)).unwrap(), b.subject().unwrap());
        // Another node answers at the address than the one that was dialled.
        let refused = handshake(&a, &b, NodeId(2)).unwrap_err();
        assert!(refused.to_string().contains("not valid for name"), "{refused}");
    }

    #[test]
    fn a_certificate_of_another_authority_is_worth_nothing() {
        let (authority, other) = (found(CLUSTER).unwrap(), found(CLUSTER).unwrap());
        let (ours, theirs) = (member(&authority, CLUSTER, 1), member(&other, CLUSTER, 2));
        handshake(&theirs, &ours, NodeId(2)).expect_err("we dial, they answer");
        // Shown to a server that we trust, beside our own authority.
        let forged = Credentials { authority: authority.certificate.clone(), ..theirs };
        handshake(&ours, &forged, NodeId(1)).expect_err("they dial, we answer");
    }

    #[test]
    fn names_have_one_form() {
        let good = name(CLUSTER, NodeId(7));
        assert_eq!(good, "node-7.0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.pontoon");
        assert_eq!(parse_name(&good), Some((CLUSTER, NodeId(7))));
        for bad in [
            "node-07.0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.pontoon",
            "node-+7.0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.pontoon",
            "node-7.0A0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.pontoon",
            "node-7.a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.pontoon",
            "node-7.0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.example",
            "7.0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.pontoon",
            "",
        ] {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_point_is_no_key() {
        let mut octets = NodeKey::generate().unwrap().public().as_bytes().to_vec();
        octets[40] ^= 1;
        for bad in [&octets[..], &octets[..64], &[0; PUBLIC_KEY_LEN], &[]] {
            assert_eq!(PublicKey::parse(bad), Err(PkiError::BadPublicKey));
        }
    }
}
