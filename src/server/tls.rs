//! Owns the node's certificate, and whose certificates it takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, ErrorKind, Result};

/// PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The node's certificate chain, its own first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs clients' certificates, where clients come with one.
    pub client_ca: Option<PathBuf>,
}

fn unusable(what: &str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Usage, format!("the {what} {} can't be used: {why}", path.display())).hint("give a PEM file")
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| unusable(what, path, e))?;
    if found.is_empty() {
        return Err(unusable(what, path, "it holds no certificate"));
    }
    Ok(found)
}

impl TlsFiles {
    /// What accepts connections with these. `without` lets clients in that show no certificate: they have a token.
    pub(super) fn acceptor(&self, without: bool) -> Result<TlsAcceptor> {
        let chain = certificates("certificate", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| unusable("key", &self.key, e))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::new(ErrorKind::Internal, e))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for root in certificates("certificate authority", path)? {
                    roots.add(root).map_err(|e| unusable("certificate authority", path, e))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = if without { verifier.allow_unauthenticated() } else { verifier };
                builder.with_client_cert_verifier(
                    verifier.build().map_err(|e| unusable("certificate authority", path, e))?,
                )
            }
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|e| unusable("certificate", &self.certificate, e))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
