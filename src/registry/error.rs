//! Owns what can go wrong with a registry, and which [`ErrorKind`] each of it is.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// A failure of the registry client. `target` is always what was asked for, as
/// `host/repository:tag`, `host/repository@digest` or `blob digest of host/repository`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// 401 or 403, or a token service that says no.
    #[error("{target}: {why}")]
    Unauthorized {
        /// What was asked for.
        target: String,
        /// Who said no, in which words.
        why: String,
        /// The registry to log in to.
        registry: String,
        /// Whether credentials were sent.
        had_credentials: bool,
    },
    /// 404.
    #[error("{target}: the registry has no such content ({detail})")]
    NotFound {
        /// What was asked for.
        target: String,
        /// The status line and the registry's own words.
        detail: String,
    },
    /// No usable answer: not reached, cut off, hung, or a 5xx or 429 status that stayed.
    #[error("{target}: {why}")]
    Unavailable {
        /// What was asked for.
        target: String,
        /// What happened at the last try.
        why: String,
    },
    /// Nothing listens there.
    #[error("no connection to {host}: connection refused")]
    NobodyThere {
        /// `host:port`.
        host: String,
        /// Whether that is this machine.
        here: bool,
    },
    /// The host's name leads nowhere.
    #[error("the host {host} is not known: {why}")]
    UnknownHost {
        /// `host[:port]`.
        host: String,
        /// The resolver's words.
        why: String,
    },
    /// A web server that is no registry.
    #[error("the server at {host} is not an OCI registry: it has no /v2/")]
    NotARegistry {
        /// `host[:port]`.
        host: String,
    },
    /// The registry has no such repository.
    #[error("the registry has no repository {repository}")]
    NoRepository {
        /// `host[:port]/repository`.
        repository: String,
    },
    /// The repository has no such tag.
    #[error("{target}: the repository has no tag `{tag}`{}", listed(tags))]
    NoTag {
        /// What was asked for.
        target: String,
        /// The tag.
        tag: String,
        /// Tags that it has; the first few.
        tags: Vec<String>,
    },
    /// A TLS handshake met a server that speaks plain HTTP.
    #[error("the server at {host} speaks plain HTTP where TLS was expected")]
    PlainHttp {
        /// `host[:port]`.
        host: String,
    },
    /// A plain request met a server that speaks TLS.
    #[error("the server at {host} speaks something else than plain HTTP, perhaps TLS")]
    NotPlainHttp {
        /// `host[:port]`.
        host: String,
    },
    /// The server's certificate isn't accepted.
    #[error("the certificate of {host} is not trusted: {why}")]
    Certificate {
        /// `host[:port]`.
        host: String,
        /// The verifier's reason.
        why: String,
    },
    /// The machine's clock is outside the time of the server's certificate.
    #[error("the certificate of {host} is not trusted: {why}")]
    OutOfTime {
        /// `host[:port]`.
        host: String,
        /// From when or until when it is valid, and what the clock says.
        why: String,
    },
    /// A status the request doesn't allow for, which a later try won't change.
    #[error("{target}: the registry answered {status} ({detail})")]
    Status {
        /// What was asked for.
        target: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        detail: String,
    },
    /// The answer contradicts itself, the descriptor or the digest.
    #[error("{target}: {why}")]
    Lie {
        /// What was asked for.
        target: String,
        /// Which statement is false.
        why: String,
    },
    /// A manifest over [`crate::oci::MAX_MANIFEST_BYTES`].
    #[error("{target}: the manifest is larger than {limit} bytes")]
    ManifestTooLarge {
        /// What was asked for.
        target: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A digest check of `oci` failed.
    #[error("{target}: {source}")]
    Digest {
        /// What was asked for.
        target: String,
        /// Which digest was wanted and found.
        source: Error,
    },
    /// A credential helper is missing, failed or answered nonsense.
    #[error("the credential helper `{helper}` for {registry} failed: {why}")]
    Helper {
        /// The program's name.
        helper: String,
        /// The registry.
        registry: String,
        /// Why.
        why: String,
    },
    /// The Docker configuration can't be used.
    #[error("the Docker configuration {path} can't be used: {why}")]
    DockerConfig {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A CA file can't be used.
    #[error("the CA file {path} can't be used: {why}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The HTTP client could not be made from the settings.
    #[error("the HTTP client could not be set up: {why}")]
    Setup {
        /// Why.
        why: String,
    },
    /// The sink of a download failed.
    #[error("{target}: writing it failed: {source}")]
    Sink {
        /// What was being written.
        target: String,
        /// The cause.
        source: io::Error,
    },
    /// The source of an upload failed.
    #[error("{path} could not be read for {target}: {why}")]
    Source {
        /// What was being pushed.
        target: String,
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The call asked for something that can't be.
    #[error("{target}: {why}")]
    Usage {
        /// What was asked for.
        target: String,
        /// Why it can't be.
        why: String,
    },
}

/// A few tags, in words.
fn listed(tags: &[String]) -> String {
    let shown: Vec<String> = tags.iter().take(SHOWN_TAGS).map(|tag| format!("`{}`", quote(tag))).collect();
    if shown.is_empty() {
        return String::new();
    }
    let more = if tags.len() > SHOWN_TAGS { " and more" } else { "" };
    format!(", but {}{more}", shown.join(", "))
}

/// How many tags a message names.
const SHOWN_TAGS: usize = 8;

impl RegistryError {
    fn kind_and_hint(&self) -> (ErrorKind, String) {
        match self {
            Self::Unauthorized { registry, had_credentials: true, .. } => (
                ErrorKind::Unauthorized,
                format!(
                    "log in again with `docker login {registry}` or `oras login {registry}`, or ask for access to the repository"
                ),
            ),
            Self::Unauthorized { registry, .. } => (
                ErrorKind::Unauthorized,
                format!(
                    "log in with `docker login {registry}` or `oras login {registry}`; some registries say this of a repository that isn't there"
                ),
            ),
            Self::NotFound { .. } => {
                (ErrorKind::NotFound, "check the repository, the tag and the digest, or push it first".into())
            }
            Self::Unavailable { .. } => {
                (ErrorKind::Unavailable, "check that the registry runs and can be reached, then try again".into())
            }
            Self::NobodyThere { here: true, .. } => (
                ErrorKind::Unavailable,
                "start the registry, or correct the port; `vyr serve` is a registry, on localhost:7070".into(),
            ),
            Self::NobodyThere { .. } => {
                (ErrorKind::Unavailable, "check that the registry runs there, and the port in the reference".into())
            }
            Self::UnknownHost { .. } => {
                (ErrorKind::Unavailable, "check the host in the reference, and that this machine has a network".into())
            }
            Self::NotARegistry { .. } => (
                ErrorKind::Unavailable,
                "correct the host and port in the reference; `vyr serve` is a registry, on localhost:7070".into(),
            ),
            Self::NoRepository { .. } => {
                (ErrorKind::NotFound, "correct the repository in the reference, or push it first".into())
            }
            Self::NoTag { .. } => (ErrorKind::NotFound, "name one that is there, or push this one first".into()),
            Self::PlainHttp { .. } => {
                (ErrorKind::Unavailable, "add --plain-http if the registry is meant to be used without TLS".into())
            }
            Self::NotPlainHttp { .. } => (
                ErrorKind::Unavailable,
                "leave --plain-http out, and the host out of `plain-http` in config.toml; or correct the port".into(),
            ),
            Self::Certificate { .. } => {
                (ErrorKind::Unavailable, "give its authority's certificate (PEM) with --ca-file FILE".into())
            }
            Self::OutOfTime { .. } => (
                ErrorKind::Unavailable,
                "set this machine's clock if it is wrong; else the registry's certificate has to be renewed".into(),
            ),
            Self::Status { .. } => {
                (ErrorKind::Unavailable, "the registry does not accept this request: see its log".into())
            }
            Self::Lie { .. } => (ErrorKind::Refused, "nothing of it was kept; fetch it from a source you trust".into()),
            Self::ManifestTooLarge { .. } => {
                (ErrorKind::Refused, "no registry has to accept such a manifest: make the artifact smaller".into())
            }
            Self::Digest { source, .. } => {
                (source.kind(), source.next().unwrap_or("fetch it from a source you trust").to_owned())
            }
            Self::Helper { helper, .. } => (
                ErrorKind::Unauthorized,
                format!("run `{helper} get` by hand, or take the helper out of Docker's config.json"),
            ),
            Self::DockerConfig { .. } => {
                (ErrorKind::Usage, "mend the file, or name another folder with DOCKER_CONFIG".into())
            }
            Self::CaFile { .. } => (ErrorKind::Usage, "give a PEM file with one or more certificates".into()),
            Self::Setup { .. } => (
                ErrorKind::Usage,
                "check the proxy settings, and that the system's CA certificates are installed (or give --ca-file)"
                    .into(),
            ),
            Self::Sink { .. } => (ErrorKind::Storage, "check the free space and the permissions of the store".into()),
            Self::Source { .. } => {
                (ErrorKind::Storage, "check that the file is there and isn't changed while it is pushed".into())
            }
            Self::Usage { .. } => (ErrorKind::Usage, "correct the reference".into()),
        }
    }
}

impl From<RegistryError> for Error {
    fn from(error: RegistryError) -> Self {
        let (kind, hint) = error.kind_and_hint();
        let not_accepted = matches!(error, RegistryError::Status { .. });
        let error = Self::new(kind, &error).hint(hint);
        if not_accepted { error.because(NOT_ACCEPTED) } else { error }
    }
}

/// The cause of an error that is a status which the request doesn't allow for: a server that is no registry may say that.
pub const NOT_ACCEPTED: &str = "registry_status";

/// One failed try: the error, and whether another try may succeed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: RegistryError,
    pub(super) transient: bool,
    /// What the registry's `Retry-After` asked for.
    pub(super) retry_after: Option<Duration>,
    /// The HTTP status, where there was an answer.
    pub(super) status: Option<u16>,
    /// The first OCI error code in the answer, such as `NAME_UNKNOWN`.
    pub(super) code: Option<String>,
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self { error, transient: false, retry_after: None, status: None, code: None }
    }
}

impl Failure {
    /// A failure that another try may mend.
    pub(super) fn transient(error: RegistryError) -> Self {
        Self { transient: true, ..Self::from(error) }
    }
}

/// Words from the other side, fit for a terminal: one line, no control characters, at most 300 characters.
pub(super) fn quote(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(300));
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()) {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
        if clean.len() > 300 {
            return clean.chars().take(300).chain(['…']).collect();
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_cannot_steer_a_terminal_or_flood_it() {
        assert_eq!(quote("a\u{1b}[31m b\r\n\tc"), "a [31m b c");
        assert_eq!(quote(&"x".repeat(1000)).chars().count(), 301);
    }
}
