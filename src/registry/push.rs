//! Owns the upload of a blob, by `oci-client`: existence first, then a mount, then one streamed `PUT`, and pieces where that
//! is too much.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};
use tokio_util::io::ReaderStream;
use url::Url;

use super::error::{Failure, RegistryError, quote};
use super::pull::blob_call;
use super::transport::{Call, Core, Operation, Scheme, failure_for_status, network_failure};
use super::wait::retry_after;
use super::{Client, Progress};
use crate::error::{Result, chain};
use crate::oci::{Digest, Reference, repository_of};

/// How much of a file is read at once, in bytes.
const READ: usize = 256 << 10;
/// The same where each read is a request of its own: the most that `oci-client` sends in one.
const PIECE: usize = 4 << 20;
/// How often an upload's progress is looked at.
const TICK: Duration = Duration::from_millis(50);

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// How a blob is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// In one `PUT` (distribution spec 1.1, "Pushing a blob monolithically").
    Whole,
    /// By `PATCH` after `PATCH` ("Pushing a blob in chunks").
    Pieces,
}

/// Where an upload's bytes come from; each try reads them anew.
#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Bytes(Bytes),
}

type Stream = BoxStream<'static, Result<Bytes, OciDistributionError>>;

impl Source {
    async fn open(&self, size: u64, way: Way, target: &str, sent: Arc<AtomicU64>) -> Result<Stream, RegistryError> {
        let step = if way == Way::Pieces { PIECE } else { READ };
        let count = move |bytes: &Bytes| {
            sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        };
        match self {
            Self::Bytes(bytes) => {
                let bytes = bytes.clone();
                let parts =
                    (0..bytes.len()).step_by(step).map(move |at| Ok(bytes.slice(at..bytes.len().min(at + step))));
                Ok(stream::iter(parts).inspect(move |part| part.iter().for_each(&count)).boxed())
            }
            Self::File(path) => {
                let bad = |why: String| RegistryError::Source { target: target.to_owned(), path: path.clone(), why };
                let mut file = tokio::fs::File::open(path).await.map_err(|e| bad(e.to_string()))?;
                file.set_max_buf_size(step);
                let found = file.metadata().await.map_err(|e| bad(e.to_string()))?.len();
                if found != size {
                    return Err(bad(format!("it has {found} bytes, not {size}")));
                }
                let parts =
                    ReaderStream::with_capacity(file, step).map(|part| part.map_err(OciDistributionError::from));
                Ok(parts.inspect(move |part| part.iter().for_each(&count)).boxed())
            }
        }
    }
}

impl Client {
    /// Makes sure that the repository of `reference` has the blob: unless it's there already, it's mounted from the
    /// repository `mount_from` of the same registry, or sent from the file `source`, in bounded memory.
    ///
    /// # Errors
    /// Storage when the file can't be read or hasn't `size` bytes; else as the registry answers.
    #[tracing::instrument(skip_all, fields(repository = %repository_of(reference), digest = %digest, size))]
    pub async fn push_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        source: &Path,
        mount_from: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        self.push(reference, digest, size, Source::File(source.to_owned()), mount_from, progress).await
    }

    /// As [`Self::push_blob`], from memory.
    ///
    /// # Errors
    /// As the registry answers.
    #[tracing::instrument(skip_all, fields(repository = %repository_of(reference), digest = %digest, size = bytes.len()))]
    pub async fn push_blob_bytes(
        &self,
        reference: &Reference,
        digest: &Digest,
        bytes: Bytes,
        mount_from: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        let size = bytes.len() as u64;
        self.push(reference, digest, size, Source::Bytes(bytes), mount_from, progress).await
    }

    async fn push(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        source: Source,
        mount_from: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        let core = &*self.core;
        let _permit = core.transfers.acquire().await.ok();
        // Also settles scheme and token before the upload.
        if core.has_blob(reference, digest, Operation::Push).await? {
            progress.at(size);
            return Ok(Pushed::Existed);
        }
        let call = blob_call(reference, digest, Method::PUT, Operation::Push);
        if let Some(from) = mount_from.filter(|from| *from != reference.repository())
            && core.mount(&call, digest, from).await
        {
            progress.at(size);
            return Ok(Pushed::Mounted);
        }
        let outcome = core.retrying(|| core.upload(&call, digest, size, &source, progress)).await;
        outcome.map_err(|failure| failure.error)?;
        Ok(Pushed::Uploaded)
    }
}

impl Core {
    fn uploads(&self, registry: &str, way: Way) -> Result<&oci_client::Client, RegistryError> {
        let scheme = self.scheme(registry);
        let [plain, plain_pieces, tls, tls_pieces] = &self.uploads;
        let cell = match (scheme, way) {
            (Scheme::Plain, Way::Whole) => plain,
            (Scheme::Plain, Way::Pieces) => plain_pieces,
            (Scheme::Tls, Way::Whole) => tls,
            (Scheme::Tls, Way::Pieces) => tls_pieces,
        };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let client = self.make_uploads(scheme, way)?;
        Ok(cell.get_or_init(|| client))
    }

    fn make_uploads(&self, scheme: Scheme, way: Way) -> Result<oci_client::Client, RegistryError> {
        let options = &self.options;
        let mut certificates = Vec::new();
        for path in &options.ca_files {
            let bad = |why: String| RegistryError::CaFile { path: path.clone(), why };
            let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
            // `oci-client` reads the first certificate of a PEM text only.
            certificates.extend(pem.split_inclusive(|b| *b == b'\n').fold(
                Vec::new(),
                |mut parts: Vec<Certificate>, line| {
                    if line.starts_with(b"-----BEGIN") {
                        parts.push(Certificate { encoding: CertificateEncoding::Pem, data: Vec::new() });
                    }
                    if let Some(part) = parts.last_mut() {
                        part.data.extend_from_slice(line);
                    }
                    parts
                },
            ));
        }
        let proxy = &options.proxy;
        let no_proxy_at_all = proxy.https.is_none() && proxy.http.is_none();
        let config = ClientConfig {
            protocol: match scheme {
                Scheme::Plain => ClientProtocol::Http,
                Scheme::Tls => ClientProtocol::Https,
            },
            extra_root_certificates: certificates,
            use_monolithic_push: way == Way::Whole,
            platform_resolver: None,
            connect_timeout: Some(options.connect_timeout),
            // It would count from the request's first byte to the answer, so a long upload would never end: `upload`
            // watches for progress itself.
            read_timeout: None,
            // A token that has expired is noticed by its 401, which renews it with the right credentials.
            default_token_expiration_secs: 24 * 60 * 60,
            user_agent: concat!("vyr/", env!("CARGO_PKG_VERSION")),
            https_proxy: proxy.https.clone(),
            // With none given it would read the environment: this one is never used.
            http_proxy: if no_proxy_at_all { Some("http://127.0.0.1:9".into()) } else { proxy.http.clone() },
            no_proxy: Some(if no_proxy_at_all { "*,0.0.0.0/0,::/0".into() } else { self.no_proxy() }),
            ..ClientConfig::default()
        };
        oci_client::Client::try_from(config).map_err(|e| RegistryError::Setup { why: chain(&e) })
    }

    /// Tries a cross-repository mount. Whatever keeps it from happening, the upload comes next and says what is wrong.
    async fn mount(&self, call: &Call<'_>, digest: &Digest, from: &str) -> bool {
        let attempt = async {
            self.widen(call, from).await?;
            let uploads = self.uploads(call.reference.resolve_registry(), Way::Whole)?;
            self.auth.lend(call.reference, uploads).await;
            let source =
                Reference::with_digest(call.reference.registry().to_owned(), from.to_owned(), digest.to_string());
            uploads
                .mount_blob(call.reference, &source, digest.as_ref())
                .await
                .map_err(|e| self.upload_failure(call, &e))
        };
        match tokio::time::timeout(self.options.connect_timeout + self.options.read_timeout, attempt).await {
            Ok(Ok(())) => true,
            Ok(Err(failure)) => {
                tracing::debug!(error = %failure.error, from, "not mounted");
                false
            }
            Err(_) => false,
        }
    }

    /// One whole upload.
    async fn upload(
        &self,
        call: &Call<'_>,
        digest: &Digest,
        size: u64,
        source: &Source,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let (mut renewed, mut way) = (false, Way::Whole);
        loop {
            let failure = match self.upload_once(call, digest, size, source, way, progress).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            // `oci-client` keeps the challenge to itself: it is asked for again.
            if failure.status == Some(401) && !renewed {
                renewed = true;
                if self.renew(call).await? {
                    continue;
                }
            }
            // One request is the fastest way, and more than some registries, or what stands before them, take.
            if failure.status == Some(413) && way == Way::Whole {
                way = Way::Pieces;
                continue;
            }
            // So does it with how long it is to wait.
            if matches!(failure.status, Some(429 | 503)) {
                return Err(Failure { retry_after: self.asked_to_wait(call).await, ..failure });
            }
            return Err(failure);
        }
    }

    /// Begins an upload, only to see what the registry says to that.
    async fn begin(&self, call: &Call<'_>, authorization: Option<HeaderValue>) -> Result<Response, Failure> {
        let base = self.base(call.reference.resolve_registry());
        let url = format!("{base}/v2/{}/blobs/uploads/", call.reference.repository());
        let url = Url::parse(&url)
            .map_err(|e| RegistryError::Usage { target: call.target.clone(), why: format!("{url}: {e}") })?;
        let mut request = self.plain_request(Method::POST, url.clone())?.body("");
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(|e| network_failure(&call.target, &url, &e))
    }

    async fn asked_to_wait(&self, call: &Call<'_>) -> Option<Duration> {
        let authorization = self.auth.header(call.reference, call.operation);
        let response = self.begin(call, authorization.clone()).await.ok()?;
        if !response.status().is_success() {
            return retry_after(response.headers());
        }
        // It may go on. This one isn't gone on with, and where it can't be ended the registry does that some day.
        let url = response.url().clone();
        let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
        let opened = location.and_then(|text| url.join(text).ok()).filter(|to| to.origin() == url.origin())?;
        let mut request = self.plain_request(Method::DELETE, opened).ok()?;
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        drop(request.send().await);
        None
    }

    async fn renew(&self, call: &Call<'_>) -> Result<bool, Failure> {
        let response = self.begin(call, None).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(false);
        }
        let mut headers = HeaderMap::new();
        for value in response.headers().get_all(WWW_AUTHENTICATE) {
            headers.append(WWW_AUTHENTICATE, value.clone());
        }
        self.authorize(call, &headers, None).await
    }

    async fn upload_once(
        &self,
        call: &Call<'_>,
        digest: &Digest,
        size: u64,
        source: &Source,
        way: Way,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let uploads = self.uploads(call.reference.resolve_registry(), way)?;
        self.auth.lend(call.reference, uploads).await;
        let sent = Arc::new(AtomicU64::new(0));
        let stream = source.open(size, way, &call.target, Arc::clone(&sent)).await?;
        let named = digest.to_string();
        let mut upload = std::pin::pin!(uploads.push_blob_stream(call.reference, stream, &named, Some(size)));
        let mut tick = tokio::time::interval(TICK);
        let (mut last, mut since) = (0, Instant::now());
        loop {
            tokio::select! {
                outcome = &mut upload => {
                    match outcome {
                        Ok(_) => {}
                        // A registry may take the blob and leave out its address, which nobody needs: what counts is
                        // that the blob is there.
                        Err(OciDistributionError::RegistryNoLocationError)
                            if self.has_blob(call.reference, digest, Operation::Push).await.unwrap_or(false) => {}
                        Err(error) => return Err(self.upload_failure(call, &error)),
                    }
                    progress.at(size);
                    return Ok(());
                }
                _ = tick.tick() => {
                    let now = sent.load(Ordering::Relaxed);
                    if now != last {
                        (last, since) = (now, Instant::now());
                        progress.at(now);
                    } else if since.elapsed() > self.options.read_timeout {
                        let why = format!("the upload stood still at {now} of {size} bytes");
                        return Err(Failure::transient(RegistryError::Unavailable { target: call.target.clone(), why }));
                    }
                }
            }
        }
    }

    fn upload_failure(&self, call: &Call<'_>, error: &OciDistributionError) -> Failure {
        use OciDistributionError as E;
        let registry = call.reference.resolve_registry();
        let had = self.auth.header(call.reference, call.operation).is_some();
        let by_status = |status: u16, words: &str| {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            failure_for_status(&call.target, registry, had, status, words.as_bytes(), None)
        };
        match error {
            E::ServerError { code, message, .. } => by_status(*code, message),
            E::UnauthorizedError { .. } => by_status(401, ""),
            E::RegistryError { envelope, .. } => {
                let first = envelope.errors.first();
                let status = match first.map(|e| &e.code) {
                    Some(OciErrorCode::Unauthorized) => 401,
                    Some(OciErrorCode::Denied) => 403,
                    Some(OciErrorCode::Toomanyrequests) => 429,
                    _ => 400,
                };
                by_status(status, first.map(|e| e.message.as_str()).unwrap_or_default())
            }
            E::RequestError(e) => {
                let url = e.url().cloned().or_else(|| url::Url::parse(&self.base(registry)).ok());
                match url {
                    Some(url) => network_failure(&call.target, &url, e),
                    None => Failure::transient(RegistryError::Unavailable {
                        target: call.target.clone(),
                        why: quote(&chain(e)),
                    }),
                }
            }
            E::SpecViolationError(_) | E::RegistryNoLocationError | E::UrlParseError(_) | E::HeaderValueError(_) => {
                RegistryError::Lie { target: call.target.clone(), why: quote(&error.to_string()) }.into()
            }
            other => RegistryError::Unavailable { target: call.target.clone(), why: quote(&chain(other)) }.into(),
        }
    }
}
