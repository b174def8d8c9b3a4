//! The newcomer's side of trust: the chain must lead to the authority whose hash the token pins, whatever node answers.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use crate::links::pki::{self, PkiError};

/// In the greeting, where a name must stand. Which member answers does not matter.
const ANY_MEMBER: &str = "join.pontoon";

#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
    provider: Arc<CryptoProvider>,
}

/// TLS towards a member of the cluster of `authority`.
pub fn client_config(authority: [u8; 32], alpn: &[u8]) -> Result<rustls::ClientConfig, PkiError> {
    let provider = pki::provider();
    let verifier = Arc::new(Pinned { authority, provider: provider.clone() });
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| PkiError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

pub fn any_member() -> ServerName<'static> {
    ServerName::try_from(ANY_MEMBER).expect("a DNS name")
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let bad = |error: CertificateError| rustls::Error::InvalidCertificate(error);
        let authority = intermediates
            .iter()
            .find(|certificate| pki::fingerprint(certificate) == self.authority)
            .ok_or_else(|| bad(CertificateError::UnknownIssuer))?;
        let encoding = |_| bad(CertificateError::BadEncoding);
        let anchor = webpki::anchor_from_trusted_cert(authority).map_err(encoding)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        EndEntityCert::try_from(end_entity)
            .map_err(encoding)?
            .verify_for_usage(algorithms, &[anchor], &[], now, KeyUsage::server_auth(), None, None)
            .map_err(|_| bad(CertificateError::BadSignature))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
