//! Owns the node's certificate, and whose certificates it takes. Files that are exchanged are in force for the connections that
//! come after.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, ErrorKind, Result};

/// How often the files are looked at, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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

/// What a file looked like: device, inode, size, modification and change times. `None` where there is none.
type Look = Option<(u64, u64, u64, i64, i64, i64, i64)>;

fn look(path: &Path) -> Look {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()))
}

/// What accepts connections: with what the files hold now, or held last when they could be used.
pub(super) struct Tls {
    files: TlsFiles,
    without: bool,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    /// Of the files as they were read last, whether they could be used or not.
    looks: [Look; 3],
    looked: Instant,
    /// When it was last said that a client's certificate is out of its time.
    said: Option<Instant>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files. `without` lets clients in that show no certificate: they have a token.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for files that can't be used.
    pub(super) fn open(files: &TlsFiles, without: bool) -> Result<Self> {
        let (looks, looked) = (files.looks(), Instant::now());
        let current = Current { acceptor: files.acceptor(without)?, looks, looked, said: None };
        Ok(Self { files: files.clone(), without, current: Mutex::new(current) })
    }

    /// Why clients won't take the node's certificate now, where it's a matter of time.
    pub(super) fn out_of_time(&self) -> Option<String> {
        self.files.out_of_time()
    }

    /// A handshake failed. That a clock is wrong is worth a line now and then: who is kept out hears little of it.
    pub(super) fn failed(&self, error: &std::io::Error) {
        let Some(why) = vyr_client::out_of_time(&error.to_string()) else {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.said.is_none_or(|at| at.elapsed() > super::SAY_AGAIN) {
            current.said = Some(Instant::now());
            tracing::warn!(%why, "a client's certificate is not taken");
        }
    }

    /// What the next connection is accepted with. May read files.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() < LOOK_AGAIN {
            return current.acceptor.clone();
        }
        current.looked = Instant::now();
        // Before they are read: what is exchanged meanwhile is read again the next time.
        let looks = self.files.looks();
        if looks != current.looks {
            current.looks = looks;
            match self.files.acceptor(self.without) {
                Ok(acceptor) => {
                    current.acceptor = acceptor;
                    tracing::info!(certificate = %self.files.certificate.display(), "the certificate was renewed");
                    if let Some(why) = self.files.out_of_time() {
                        tracing::warn!(%why, "clients will not take the new certificate");
                    }
                }
                // A certificate that is there before its key, or half of a file: what was in force stays.
                Err(e) => tracing::warn!(error = %e.why(), "the new certificate is not used, the old one stays"),
            }
        }
        current.acceptor.clone()
    }
}

impl TlsFiles {
    fn looks(&self) -> [Look; 3] {
        [look(&self.certificate), look(&self.key), self.client_ca.as_deref().and_then(look)]
    }

    /// As a client sees it that trusts this very certificate.
    fn out_of_time(&self) -> Option<String> {
        use rustls::client::danger::ServerCertVerifier as _;
        let chain = certificates("certificate", &self.certificate).ok()?;
        let (own, others) = chain.split_first()?;
        let mut roots = RootCertStore::empty();
        roots.add(own.clone()).ok()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
        let name = ServerName::try_from("localhost").ok()?;
        let error = verifier.verify_server_cert(own, others, &name, &[], UnixTime::now()).err()?;
        vyr_client::out_of_time(&error.to_string())
    }

    fn acceptor(&self, without: bool) -> Result<TlsAcceptor> {
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
