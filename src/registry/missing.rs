//! Owns what is asked once a registry has no such content: is it one at all, does it have the repository, which tags are there.

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::Client;
use super::error::{Failure, RegistryError};
use super::manifest::target_of;
use super::transport::{Call, Core, Operation, read_at_most};
use crate::error::Error;
use crate::oci::{Reference, repository_of};

/// How many tags are asked for, to name some.
const TAGS: usize = 10;
/// The most that is read of an answer, in bytes. A registry that knows no pages sends all tags at once: then none are named.
const MAX_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct Listed {
    tags: Option<Vec<String>>,
}

impl Core {
    async fn ask(&self, reference: &Reference, path: String) -> Result<Vec<u8>, Failure> {
        let call = Call {
            reference,
            operation: Operation::Pull,
            method: Method::GET,
            path,
            headers: HeaderMap::new(),
            body: None,
            target: target_of(reference),
        };
        let response = self.send_once(&call).await?;
        Ok(read_at_most(response, MAX_BYTES).await.unwrap_or_default().to_vec())
    }
}

impl Client {
    /// Looks more closely at an error that says that `reference` isn't there: the same one where the registry doesn't say
    /// more. Makes at most two requests, each once.
    pub async fn why_missing(&self, reference: &Reference, error: Error) -> Error {
        let target = target_of(reference);
        let host = reference.resolve_registry().to_owned();
        let repository = repository_of(reference);
        let tags = format!("/v2/{}/tags/list?n={TAGS}", reference.repository());
        let found = match self.core.ask(reference, tags).await {
            Ok(body) => match serde_json::from_slice::<Listed>(&body) {
                Ok(Listed { tags: Some(tags) }) if !tags.is_empty() => match (reference.digest(), reference.tag()) {
                    (None, Some(tag)) if !tags.iter().any(|there| there == tag) => {
                        // Those of signatures and referrers are nobody's to name.
                        let tags: Vec<String> = tags.into_iter().filter(|tag| !tag.starts_with("sha256-")).collect();
                        RegistryError::NoTag { target, tag: tag.to_owned(), tags }
                    }
                    _ => return error,
                },
                Ok(_) => RegistryError::NoRepository { repository },
                Err(_) if body.trim_ascii_start().starts_with(b"<") => RegistryError::NotARegistry { host },
                Err(_) => return error,
            },
            Err(failure) if failure.code.as_deref() == Some("NAME_UNKNOWN") => {
                RegistryError::NoRepository { repository }
            }
            Err(failure) if failure.status == Some(StatusCode::NOT_FOUND.as_u16()) => {
                match self.core.ask(reference, "/v2/".to_owned()).await {
                    Err(Failure { status: Some(404), .. }) => RegistryError::NotARegistry { host },
                    _ => return error,
                }
            }
            Err(_) => return error,
        };
        found.into()
    }
}
