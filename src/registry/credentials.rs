//! Owns the look-up of Docker credentials: `config.json`, credential helpers and stores, by `docker_credential`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde::{Deserialize, Serialize};

use super::error::{RegistryError, quote};

/// Where credentials come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DockerConfig {
    /// Nowhere: every registry is used anonymously.
    #[default]
    Anonymous,
    /// The folder that may hold a `config.json` (`DOCKER_CONFIG` or `~/.docker`); no file there means anonymous.
    Folder(PathBuf),
}

/// What was found for a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Credential {
    Anonymous,
    Basic {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token (distribution's token spec, "Docker Registry v2 OAuth2").
    Identity(String),
}

/// The parts of `config.json` that name helpers, read only to say which one failed.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Helpers {
    creds_store: Option<String>,
    cred_helpers: Option<HashMap<String, String>>,
}

impl Helpers {
    fn names(self) -> Vec<String> {
        self.cred_helpers.unwrap_or_default().into_values().chain(self.creds_store).collect()
    }
}

/// The helpers that `config.json` names now.
pub(crate) fn helpers(config: &DockerConfig) -> Vec<String> {
    let DockerConfig::Folder(folder) = config else { return Vec::new() };
    let text = std::fs::read(folder.join("config.json")).unwrap_or_default();
    serde_json::from_slice::<Helpers>(&text).unwrap_or_default().names()
}

/// Asks another process for the credential of a registry; what comes back is what [`log_in_for`] made.
type Ask = Box<dyn Fn(&str) -> io::Result<Vec<u8>> + Send + Sync>;

static ELSEWHERE: OnceLock<Ask> = OnceLock::new();

/// From now on credential helpers are asked by another process, since this one may not start any.
pub(crate) fn log_in_elsewhere(ask: Ask) {
    // The first is as good as any other.
    drop(ELSEWHERE.set(ask));
}

/// A credential on its way to another process.
#[derive(Serialize, Deserialize)]
enum Answer {
    Found(Credential),
    Helper { helper: String, why: String },
    Config { why: String },
}

/// In the process that asks helpers for another one: its answer for one registry. Of helpers it knows `known` alone, since that
/// other one may be able to write the settings. Blocks.
pub(crate) fn log_in_for(config: &DockerConfig, registry: &str, known: &[String]) -> Vec<u8> {
    let found = config.read().and_then(|read| match read {
        None => Ok(Credential::Anonymous),
        Some((path, text)) => {
            // What can't be read so is not asked of another reader, which may see a helper in it.
            let named: Helpers = serde_json::from_slice(&text).map_err(|_| RegistryError::DockerConfig {
                path: path.clone(),
                why: "it isn't laid out as Docker's".into(),
            })?;
            // A name with a slash is a path.
            match named.names().into_iter().find(|name| !known.contains(name) || name.contains('/')) {
                Some(name) => Err(RegistryError::Helper {
                    helper: format!("docker-credential-{name}"),
                    registry: registry.to_owned(),
                    why: "the settings didn't name it when the node was started: start it again".into(),
                }),
                None => look_up(&path, &text, registry),
            }
        }
    });
    let answer = match found {
        Ok(credential) => Answer::Found(credential),
        Err(RegistryError::Helper { helper, why, .. }) => Answer::Helper { helper, why },
        Err(RegistryError::DockerConfig { why, .. }) => Answer::Config { why },
        Err(other) => Answer::Config { why: other.to_string() },
    };
    serde_json::to_vec(&answer).unwrap_or_default()
}

impl DockerConfig {
    /// The credential for `registry` (`host[:port]`). Blocks: it reads a file and may have a helper run.
    pub(super) fn find(&self, registry: &str) -> Result<Credential, RegistryError> {
        let (Some(ask), Self::Folder(folder)) = (ELSEWHERE.get(), self) else { return self.find_here(registry) };
        if helpers(self).is_empty() {
            return self.find_here(registry);
        }
        let path = folder.join("config.json");
        let none = |why: String| RegistryError::Helper { helper: "helper".into(), registry: registry.to_owned(), why };
        let answer = ask(registry).map_err(|e| none(format!("the process that asks it can't be reached: {e}")))?;
        match serde_json::from_slice(&answer) {
            Ok(Answer::Found(credential)) => Ok(credential),
            Ok(Answer::Helper { helper, why }) => {
                Err(RegistryError::Helper { helper, registry: registry.to_owned(), why })
            }
            Ok(Answer::Config { why }) => Err(RegistryError::DockerConfig { path, why }),
            Err(_) => Err(none("the process that asks it has ended".into())),
        }
    }

    fn find_here(&self, registry: &str) -> Result<Credential, RegistryError> {
        match self.read()? {
            Some((path, text)) => look_up(&path, &text, registry),
            None => Ok(Credential::Anonymous),
        }
    }

    /// The settings, where there are any, and their path.
    fn read(&self) -> Result<Option<(PathBuf, Vec<u8>)>, RegistryError> {
        let Self::Folder(folder) = self else { return Ok(None) };
        let path = folder.join("config.json");
        match std::fs::read(&path) {
            Ok(text) => Ok(Some((path, text))),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(RegistryError::DockerConfig { path, why: e.to_string() }),
        }
    }
}

/// The credential for `registry` by these settings. Blocks: it may run a helper.
fn look_up(path: &Path, text: &[u8], registry: &str) -> Result<Credential, RegistryError> {
    // Docker Hub's credentials are filed under the address of its first API.
    let names: &[&str] = match registry {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => &["https://index.docker.io/v1/", "index.docker.io"],
        other => &[other],
    };
    for name in names {
        match docker_credential::get_credential_from_reader(text, name) {
            Ok(DockerCredential::UsernamePassword(username, password))
                if username.is_empty() && password.is_empty() => {}
            Ok(DockerCredential::UsernamePassword(username, password)) => {
                return Ok(Credential::Basic { username, password });
            }
            Ok(DockerCredential::IdentityToken(token)) => return Ok(Credential::Identity(token)),
            Err(CredentialRetrievalError::NoCredentialConfigured) => {}
            // The helpers' own way to say "none" (docker-credential-helpers, credentials/error.go).
            Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
            }
            Err(error) => return Err(failure(path, text, name, registry, error)),
        }
    }
    Ok(Credential::Anonymous)
}

fn failure(path: &Path, text: &[u8], name: &str, registry: &str, error: CredentialRetrievalError) -> RegistryError {
    let helper = || {
        let helpers: Helpers = serde_json::from_slice(text).unwrap_or_default();
        let own = helpers.cred_helpers.as_ref().and_then(|all| all.get(name)).cloned();
        let helper = own.or(helpers.creds_store).unwrap_or_default();
        format!("docker-credential-{helper}")
    };
    let broken_helper = |why: String| RegistryError::Helper { helper: helper(), registry: registry.to_owned(), why };
    match error {
        CredentialRetrievalError::HelperCommunicationError => {
            broken_helper("it could not be run, or ended before it was asked".into())
        }
        CredentialRetrievalError::MalformedHelperResponse => broken_helper("its answer is not a credential".into()),
        CredentialRetrievalError::HelperFailure { helper, stdout, stderr } => RegistryError::Helper {
            helper,
            registry: registry.to_owned(),
            why: quote(if stderr.trim().is_empty() { &stdout } else { &stderr }),
        },
        // Which parser error it was isn't told; the text itself is never shown, it holds secrets.
        CredentialRetrievalError::ConfigReadError => match serde_json::from_slice::<serde::de::IgnoredAny>(text) {
            Err(e) => RegistryError::DockerConfig {
                path: path.to_owned(),
                why: format!("line {} column {} is not JSON", e.line(), e.column()),
            },
            Ok(_) => RegistryError::DockerConfig { path: path.to_owned(), why: "it isn't laid out as Docker's".into() },
        },
        other => {
            RegistryError::DockerConfig { path: path.to_owned(), why: format!("the entry for {registry}: {other}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, ErrorKind};

    fn with(config: &str, registry: &str) -> Result<Credential, RegistryError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        DockerConfig::Folder(folder.path().to_owned()).find(registry)
    }

    #[test]
    fn a_missing_folder_or_file_is_anonymous() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("none")] {
            assert!(matches!(DockerConfig::Folder(path).find("x:5000"), Ok(Credential::Anonymous)));
        }
        assert!(matches!(with("{}", "x:5000"), Ok(Credential::Anonymous)));
    }

    #[test]
    fn entries_are_read_in_each_form() {
        // "me:secret"
        let basic = r#"{"auths":{"x:5000":{"auth":"bWU6c2VjcmV0"},"https://index.docker.io/v1/":{"auth":"bWU6c2VjcmV0"},"y":{"identitytoken":"tok"}}}"#;
        for registry in ["x:5000", "docker.io", "index.docker.io"] {
            assert!(
                matches!(with(basic, registry), Ok(Credential::Basic { username, password }) if username == "me" && password == "secret"),
                "{registry}"
            );
        }
        assert!(matches!(with(basic, "y"), Ok(Credential::Identity(token)) if token == "tok"));
        assert!(matches!(with(basic, "elsewhere"), Ok(Credential::Anonymous)));
    }

    #[test]
    fn a_damaged_file_is_a_usage_error_that_shows_no_secret() {
        for text in ["{\"auths\": hunter2", "[]", r#"{"auths":{"x":{"auth":"!hunter2"}}}"#] {
            let error: Error = with(text, "x").err().unwrap().into();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
            assert!(error.to_string().contains("config.json") && !error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_missing_helper_is_named() {
        for text in [r#"{"credHelpers":{"x":"vyr-no-such"}}"#, r#"{"credsStore":"vyr-no-such"}"#] {
            let error: Error = with(text, "x").err().unwrap().into();
            assert_eq!(error.kind(), ErrorKind::Unauthorized);
            assert!(error.to_string().contains("docker-credential-vyr-no-such"), "{error}");
        }
    }
}
