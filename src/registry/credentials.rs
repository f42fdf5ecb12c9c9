//! Owns the look-up of Docker credentials: `config.json`, credential helpers and stores, by `docker_credential`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde::Deserialize;

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
#[derive(Clone, PartialEq, Eq)]
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
    cred_helpers: HashMap<String, String>,
}

impl DockerConfig {
    /// The credential for `registry` (`host[:port]`). Blocks: it reads a file and may run a helper.
    pub(super) fn find(&self, registry: &str) -> Result<Credential, RegistryError> {
        let Self::Folder(folder) = self else { return Ok(Credential::Anonymous) };
        let path = folder.join("config.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Credential::Anonymous);
            }
            Err(e) => return Err(RegistryError::DockerConfig { path, why: e.to_string() }),
        };
        // Docker Hub's credentials are filed under the address of its first API.
        let names: &[&str] = match registry {
            "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
                &["https://index.docker.io/v1/", "index.docker.io"]
            }
            other => &[other],
        };
        for name in names {
            match docker_credential::get_credential_from_reader(text.as_slice(), name) {
                Ok(DockerCredential::UsernamePassword(username, password))
                    if username.is_empty() && password.is_empty() => {}
                Ok(DockerCredential::UsernamePassword(username, password)) => {
                    return Ok(Credential::Basic { username, password });
                }
                Ok(DockerCredential::IdentityToken(token)) => return Ok(Credential::Identity(token)),
                Err(CredentialRetrievalError::NoCredentialConfigured) => {}
                // The helpers' own way to say "none" (docker-credential-helpers, credentials/error.go).
                Err(CredentialRetrievalError::HelperFailure { stdout, .. })
                    if stdout.contains("credentials not found") => {}
                Err(error) => return Err(failure(&path, &text, name, registry, error)),
            }
        }
        Ok(Credential::Anonymous)
    }
}

fn failure(path: &Path, text: &[u8], name: &str, registry: &str, error: CredentialRetrievalError) -> RegistryError {
    let helper = || {
        let helpers: Helpers = serde_json::from_slice(text).unwrap_or_default();
        let helper = helpers.cred_helpers.get(name).cloned().or(helpers.creds_store).unwrap_or_default();
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
