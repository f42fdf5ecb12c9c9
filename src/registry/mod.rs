//! Owns the conversation with an OCI registry (distribution spec 1.1): resolve, fetch, push, mount, referrers.
//!
//! It stands on `oci-client`, which does the uploads (session, `Location` rules, monolithic `PUT`, mounts). What that
//! library lacks is here: every read (it buffers manifests without a limit, hashes blobs a second time in software, checks
//! neither `Content-Range` nor sizes and tells neither `Retry-After` nor response headers), retries and resumed downloads,
//! Docker credentials and identity tokens, paged referrers and the upkeep of the fallback tag.
//!
//! Nothing here reads the environment or the home folder: [`ClientOptions`] brings all of it. Nothing is verified against
//! a blob's digest here either: the sink that receives the bytes does that when it commits.

mod auth;
mod credentials;
mod error;
mod manifest;
mod missing;
mod pace;
mod pull;
mod push;
mod referrers;
mod sink;
mod tags;
mod transport;
mod upload;
mod wait;

#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;

pub use credentials::DockerConfig;
pub(crate) use credentials::{helpers, log_in_elsewhere, log_in_for};
pub use error::{NOT_ACCEPTED, RegistryError};
pub use manifest::{FetchedManifest, Resolved};
pub use push::Pushed;
pub use referrers::ReferrersSupport;
pub use sink::{BlobSink, MemorySink, ThreadedSink};
pub use upload::{OpenBlob, SMALL};

use crate::error::Result;

/// What the client needs to know; it reads nothing else.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Plain HTTP for registries that aren't on a loopback address, too.
    pub plain_http: bool,
    /// Those that do anyway.
    pub plain_hosts: Vec<String>,
    /// PEM files whose certificates are trusted besides the system's; each may hold several.
    pub ca_files: Vec<PathBuf>,
    /// How long a connection may take to stand.
    pub connect_timeout: Duration,
    /// How long the other side may be silent: before an answer, between two reads, while an upload makes no progress.
    pub read_timeout: Duration,
    /// How often a transient failure is tried again; a download that made progress starts counting afresh.
    pub retries: usize,
    /// The wait before the first further try; it doubles from there, with jitter.
    pub retry_delay: Duration,
    /// The longest wait between two tries. A `Retry-After` beyond it ends the trying.
    pub retry_delay_max: Duration,
    /// How many blobs are transferred at once.
    pub concurrency: usize,
    /// Where credentials come from.
    pub docker_config: DockerConfig,
    /// The proxies.
    pub proxy: ProxySettings,
    /// The most that request bodies may take of the line, in bytes a second. Of `oci-client`'s uploads it isn't known.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Called for each request to the registry to add headers, such as `traceparent`.
    pub headers: Option<HeaderSource>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            plain_http: false,
            plain_hosts: Vec::new(),
            ca_files: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            retries: 4,
            retry_delay: Duration::from_millis(200),
            retry_delay_max: Duration::from_secs(30),
            concurrency: 4,
            docker_config: DockerConfig::Anonymous,
            proxy: ProxySettings::default(),
            bytes_per_second: None,
            headers: None,
        }
    }
}

/// The values of the usual proxy variables, read by `config`. Loopback addresses are never sent through a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// `https_proxy`: for registries reached by TLS.
    pub https: Option<String>,
    /// `http_proxy`: for registries reached by plain HTTP.
    pub http: Option<String>,
    /// `no_proxy`: hosts, domains and networks reached directly, separated by commas.
    pub no_proxy: Option<String>,
}

/// Adds headers to a request.
#[derive(Clone)]
pub struct HeaderSource(pub Arc<dyn Fn(&mut HeaderMap) + Send + Sync>);

impl fmt::Debug for HeaderSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeaderSource(…)")
    }
}

/// Hears how far a transfer is.
pub trait Progress: Send + Sync {
    /// `position` bytes of the blob are done; a repeated upload begins at 0 again.
    fn at(&self, position: u64);
}

/// No progress shown.
impl Progress for () {
    fn at(&self, _position: u64) {}
}

/// A client for any number of registries. Clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Client {
    core: Arc<transport::Core>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.core.options).finish_non_exhaustive()
    }
}

impl Client {
    /// A client. Nothing is read or connected before the first request; the TLS stack is made only when it's needed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] for a proxy address that can't be parsed.
    pub fn new(options: ClientOptions) -> Result<Self> {
        Ok(Self { core: Arc::new(transport::Core::new(options)?) })
    }
}
