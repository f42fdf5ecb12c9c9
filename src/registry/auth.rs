//! Owns authorization: a registry's challenge, the token it leads to, and which header a request then carries.
//!
//! Basic (RFC 7617) and Bearer as in the distribution project's token specifications ("Token Authentication" and its OAuth2
//! form). `oci-client` has the first form only and asks `/v2/` for the challenge; here the challenge of the refused request
//! itself is used, which also works where `/v2/` is open, and saves a round trip.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine as _;
use http_auth::ChallengeParser;
use oci_client::RegistryOperation;
use oci_client::secrets::RegistryAuth;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::Url;

use super::credentials::Credential;
use super::error::{Failure, RegistryError, quote};
use super::transport::{
    Call, Core, Operation, Scheme, failure_for_status, is_loopback, lock, network_failure, read_at_most,
};
use super::wait::retry_after;
use crate::oci::Reference;

/// The most of a token answer that is read, in bytes; real ones have a few KiB.
const MAX_TOKEN_BODY: usize = 256 << 10;

/// How a registry is authorized for a repository and an operation.
#[derive(Clone)]
enum Grant {
    Basic { username: String, password: String },
    Bearer(String),
}

/// What a registry asks for in `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

type Key = (String, String, Operation);

/// The grants, challenges and credentials of one client, for its lifetime.
#[derive(Default)]
pub(super) struct Auth {
    grants: Mutex<HashMap<Key, Grant>>,
    challenges: Mutex<HashMap<String, Challenge>>,
    credentials: tokio::sync::Mutex<HashMap<String, Credential>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

fn key(reference: &Reference, operation: Operation) -> Key {
    (reference.resolve_registry().to_owned(), reference.repository().to_owned(), operation)
}

impl Auth {
    fn grant(&self, reference: &Reference, operation: Operation) -> Option<Grant> {
        lock(&self.grants).get(&key(reference, operation)).cloned()
    }

    /// The `Authorization` header for a request, if the registry has asked for one before.
    pub(super) fn header(&self, reference: &Reference, operation: Operation) -> Option<HeaderValue> {
        let text = match self.grant(reference, operation)? {
            Grant::Basic { username, password } => {
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}")))
            }
            Grant::Bearer(token) => format!("Bearer {token}"),
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Gives `oci-client` what was granted, so that it doesn't ask for itself.
    pub(super) async fn lend(&self, reference: &Reference, uploads: &oci_client::Client) {
        use oci_client::token_cache::{RegistryToken, RegistryTokenType};
        let token = match self.grant(reference, Operation::Push) {
            Some(Grant::Basic { username, password }) => RegistryTokenType::Basic(username, password),
            Some(Grant::Bearer(token)) => RegistryTokenType::Bearer(RegistryToken::Token { token }),
            None => return,
        };
        uploads.tokens.insert(reference, RegistryOperation::Push, token).await;
        uploads.store_auth_if_needed(reference.resolve_registry(), &RegistryAuth::Anonymous).await;
    }
}

impl Core {
    async fn credential(&self, registry: &str) -> Result<Credential, RegistryError> {
        // Held while a helper runs, so that parallel blobs ask it once.
        let mut known = self.auth.credentials.lock().await;
        if let Some(credential) = known.get(registry) {
            return Ok(credential.clone());
        }
        let (config, name) = (self.options.docker_config.clone(), registry.to_owned());
        let credential = tokio::task::spawn_blocking(move || config.find(&name))
            .await
            .map_err(|e| RegistryError::Setup { why: format!("the credential look-up stopped: {e}") })??;
        known.insert(registry.to_owned(), credential.clone());
        Ok(credential)
    }

    /// Answers the challenge in `headers`. `also_from` is a second repository the token is to read (for a mount).
    /// `false` when there is nothing more to offer than was refused already.
    pub(super) async fn authorize(
        &self,
        call: &Call<'_>,
        headers: &HeaderMap,
        also_from: Option<&str>,
    ) -> Result<bool, Failure> {
        let registry = call.reference.resolve_registry();
        let Some(challenge) = parse(headers) else { return Ok(false) };
        lock(&self.auth.challenges).insert(registry.to_owned(), challenge.clone());
        self.answer(call, &challenge, also_from).await
    }

    /// Widens a push token to read `from`, too, where the registry uses tokens at all.
    pub(super) async fn widen(&self, call: &Call<'_>, from: &str) -> Result<(), Failure> {
        let known = lock(&self.auth.challenges).get(call.reference.resolve_registry()).cloned();
        if let Some(challenge @ Challenge::Bearer { .. }) = known {
            self.answer(call, &challenge, Some(from)).await?;
        }
        Ok(())
    }

    async fn answer(&self, call: &Call<'_>, challenge: &Challenge, also_from: Option<&str>) -> Result<bool, Failure> {
        let registry = call.reference.resolve_registry();
        let credential = self.credential(registry).await?;
        let grant = match (challenge, credential) {
            (Challenge::Basic, Credential::Basic { username, password }) => {
                let grant = Grant::Basic { username, password };
                if self.auth.grant(call.reference, call.operation).is_some() {
                    return Ok(false); // These very credentials were refused.
                }
                grant
            }
            (Challenge::Basic, Credential::Anonymous) => return Ok(false),
            (Challenge::Basic, Credential::Identity(_)) => {
                return Err(RegistryError::Unauthorized {
                    target: call.target.clone(),
                    why: "the registry wants a user name and a password, and there is only an identity token".into(),
                    registry: registry.to_owned(),
                    had_credentials: true,
                }
                .into());
            }
            (Challenge::Bearer { realm, service }, credential) => {
                Grant::Bearer(self.token(call, realm, service.as_deref(), credential, also_from).await?)
            }
        };
        lock(&self.auth.grants).insert(key(call.reference, call.operation), grant);
        Ok(true)
    }

    #[tracing::instrument(skip_all, fields(registry = call.reference.resolve_registry(), realm))]
    async fn token(
        &self,
        call: &Call<'_>,
        realm: &str,
        service: Option<&str>,
        credential: Credential,
        also_from: Option<&str>,
    ) -> Result<String, Failure> {
        let registry = call.reference.resolve_registry();
        let refused = |why: String, had_credentials: bool| RegistryError::Unauthorized {
            target: call.target.clone(),
            why,
            registry: registry.to_owned(),
            had_credentials,
        };
        let had = credential != Credential::Anonymous;
        let mut url = Url::parse(realm)
            .ok()
            .filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host())
            .ok_or_else(|| {
                refused(
                    format!("the registry names the token service `{}`, which is no web address", quote(realm)),
                    had,
                )
            })?;
        let in_clear = url.scheme() == "http" && !is_loopback(url.authority());
        if had && in_clear && self.scheme(registry) == Scheme::Tls {
            return Err(refused(
                format!("the registry sends its credentials to {} in clear text; they were not sent", quote(realm)),
                had,
            )
            .into());
        }
        let actions = match call.operation {
            Operation::Pull => "pull",
            Operation::Push => "pull,push",
        };
        let mut scopes = vec![format!("repository:{}:{actions}", call.reference.repository())];
        scopes.extend(also_from.map(|from| format!("repository:{from}:pull")));

        let request = if let Credential::Identity(refresh) = &credential {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service.unwrap_or_default())
                .append_pair("client_id", "vyr")
                .append_pair("scope", &scopes.join(" "))
                .append_pair("refresh_token", refresh)
                .finish();
            self.plain_request(Method::POST, url.clone())?
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form)
        } else {
            {
                let mut query = url.query_pairs_mut();
                if let Some(service) = service {
                    query.append_pair("service", service);
                }
                for scope in &scopes {
                    query.append_pair("scope", scope);
                }
            }
            let request = self.plain_request(Method::GET, url.clone())?;
            match &credential {
                Credential::Basic { username, password } => request.basic_auth(username, Some(password)),
                _ => request,
            }
        };
        let response = request.send().await.map_err(|e| network_failure(&call.target, &url, &e))?;
        let status = response.status();
        let asked = retry_after(response.headers());
        let body = read_at_most(response, MAX_TOKEN_BODY).await.map_err(|e| network_failure(&call.target, &url, &e))?;
        let service_name = url.host_str().unwrap_or_default().to_owned();
        if !status.is_success() {
            let failure = failure_for_status(&call.target, registry, had, status, &body, asked);
            // Whatever the service's status is, a refusal of it means: no token.
            return Err(if failure.transient {
                failure
            } else {
                refused(format!("the token service {service_name} answered {status}"), had).into()
            });
        }
        let token = serde_json::from_slice::<TokenAnswer>(&body)
            .ok()
            .and_then(|answer| answer.token.filter(|t| !t.is_empty()).or(answer.access_token))
            .filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic()));
        token.ok_or_else(|| refused(format!("the token service {service_name} gave no token"), had).into())
    }
}

/// The challenge to answer: Bearer before Basic.
fn parse(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        for challenge in ChallengeParser::new(text).map_while(Result::ok) {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let param = |name: &str| {
                    challenge.params.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_unescaped())
                };
                if let Some(realm) = param("realm") {
                    return Some(Challenge::Bearer { realm, service: param("service") });
                }
            }
        }
    }
    basic
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        parse(&headers)
    }

    #[test]
    fn challenges_are_parsed_and_bearer_wins() {
        let bearer = Challenge::Bearer { realm: "https://auth/token".into(), service: Some("r".into()) };
        assert_eq!(
            challenge(&[r#"Bearer realm="https://auth/token",service="r",scope="repository:a:pull""#]),
            Some(bearer.clone())
        );
        assert_eq!(
            challenge(&[r#"Basic realm="x""#, r#"bearer realm="https://auth/token", service="r""#]),
            Some(bearer)
        );
        assert_eq!(challenge(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        for nonsense in ["", "Bearer", "Bearer service=\"x\"", "Negotiate", ",,,\"", "Bearer realm="] {
            assert_eq!(challenge(&[nonsense]), None, "{nonsense}");
        }
    }
}
