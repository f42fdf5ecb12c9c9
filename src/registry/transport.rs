//! Owns one HTTP exchange with a registry: scheme, connection, redirects, authorization, what each failure means, retries.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, LOCATION};
use reqwest::{Method, NoProxy, Proxy, Response, StatusCode};
use tokio::sync::Semaphore;
use tracing::Instrument as _;
use url::Url;

use super::auth::Auth;
use super::error::{Failure, RegistryError, quote};
use super::pace::Pace;
use super::wait::retry_after;
use super::{ClientOptions, ReferrersSupport};
use crate::error::chain;
use crate::oci::Reference;

const USER_AGENT: &str = concat!("vyr/", env!("CARGO_PKG_VERSION"));
/// Hops a read may be redirected; registries use one or two.
const MAX_REDIRECTS: usize = 5;
/// The most of an error's body that is read, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;
/// What a registry may send before it is read, in bytes: of one answer, and of all on a connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Never through a proxy, whatever `no_proxy` says (as Go's net/http does it, which every other OCI client uses).
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// How a registry is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Plain,
    Tls,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls => "https",
        }
    }
}

/// What a request is allowed to do: a token's scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Pull,
    Push,
}

/// One request, in terms of the registry.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) reference: &'a Reference,
    pub(super) operation: Operation,
    pub(super) method: Method,
    /// From `/v2/` on, with the query.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    /// What is asked for, for messages.
    pub(super) target: String,
}

/// Everything that the clones of a client share.
pub(super) struct Core {
    pub(super) options: ClientOptions,
    pub(super) auth: Auth,
    /// Limits how many blobs are transferred at once.
    pub(super) transfers: Semaphore,
    pub(super) referrers: Mutex<HashMap<String, ReferrersSupport>>,
    /// What registries turned out to speak.
    schemes: Mutex<HashMap<String, Scheme>>,
    plain: OnceLock<reqwest::Client>,
    tls: OnceLock<reqwest::Client>,
    /// By plain HTTP and by TLS, in one request and in pieces.
    pub(super) uploads: [OnceLock<oci_client::Client>; 4],
    /// Which registries take a small blob in one request.
    pub(super) at_once: Mutex<HashMap<String, bool>>,
    pace: Option<Pace>,
}

impl Core {
    pub(super) fn new(options: ClientOptions) -> Result<Self, RegistryError> {
        for proxy in [&options.proxy.https, &options.proxy.http].into_iter().flatten() {
            Proxy::all(proxy)
                .map_err(|e| RegistryError::Setup { why: format!("proxy `{}`: {}", quote(proxy), chain(&e)) })?;
        }
        let pace = options.bytes_per_second.map(Pace::new);
        Ok(Self {
            auth: Auth::default(),
            transfers: Semaphore::new(options.concurrency.clamp(1, Semaphore::MAX_PERMITS)),
            options,
            referrers: Mutex::default(),
            schemes: Mutex::default(),
            plain: OnceLock::new(),
            tls: OnceLock::new(),
            uploads: Default::default(),
            at_once: Mutex::default(),
            pace,
        })
    }

    /// How `registry` is reached: loopback by plain HTTP unless it was seen to speak TLS, others as the options say.
    pub(super) fn scheme(&self, registry: &str) -> Scheme {
        if self.options.plain_http || self.options.plain_hosts.iter().any(|host| host == registry) {
            return Scheme::Plain;
        }
        if let Some(scheme) = lock(&self.schemes).get(registry) {
            return *scheme;
        }
        if is_loopback(registry) { Scheme::Plain } else { Scheme::Tls }
    }

    pub(super) fn remember_scheme(&self, registry: &str, scheme: Scheme) {
        lock(&self.schemes).insert(registry.to_owned(), scheme);
    }

    fn http(&self, scheme: Scheme) -> Result<&reqwest::Client, RegistryError> {
        let cell = match scheme {
            Scheme::Plain => &self.plain,
            Scheme::Tls => &self.tls,
        };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let client = self.make_http(scheme)?;
        Ok(cell.get_or_init(|| client))
    }

    fn make_http(&self, scheme: Scheme) -> Result<reqwest::Client, RegistryError> {
        let options = &self.options;
        let setup = |e: reqwest::Error| RegistryError::Setup { why: chain(&e) };
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout)
            // Where a registry speaks HTTP/2, all requests share one connection, and none waits for another handshake.
            // Its own windows would hold a download at 64 KiB a round trip.
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            // Redirects are followed in `exchange`, which decides for each hop on scheme and credentials.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        // Reading the system's certificates takes milliseconds, and fails where there are none: a loopback registry
        // needs neither.
        builder = match scheme {
            Scheme::Plain => builder.tls_certs_only(Vec::new()),
            Scheme::Tls => {
                let mut certificates = Vec::new();
                for path in &options.ca_files {
                    let bad = |why: String| RegistryError::CaFile { path: path.clone(), why };
                    let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
                    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| bad(chain(&e)))?;
                    if found.is_empty() {
                        return Err(bad("it holds no PEM certificate".into()));
                    }
                    certificates.extend(found);
                }
                builder.tls_certs_merge(certificates)
            }
        };
        let direct = self.no_proxy();
        if let Some(proxy) = &options.proxy.https {
            builder = builder.proxy(Proxy::https(proxy).map_err(setup)?.no_proxy(NoProxy::from_string(&direct)));
        }
        if let Some(proxy) = &options.proxy.http {
            builder = builder.proxy(Proxy::http(proxy).map_err(setup)?.no_proxy(NoProxy::from_string(&direct)));
        }
        builder.build().map_err(setup)
    }

    pub(super) fn no_proxy(&self) -> String {
        match self.options.proxy.no_proxy.as_deref() {
            Some(hosts) if !hosts.trim().is_empty() => format!("{LOOPBACK},{hosts}"),
            _ => LOOPBACK.to_owned(),
        }
    }

    /// `scheme://host[:port]` of a registry.
    pub(super) fn base(&self, registry: &str) -> String {
        format!("{}://{registry}", self.scheme(registry).as_str())
    }

    /// A GET or POST to a token service, which isn't a registry: no retry, no redirect, no authorization of its own.
    pub(super) fn plain_request(&self, method: Method, url: Url) -> Result<reqwest::RequestBuilder, RegistryError> {
        Ok(self.http(scheme_of(&url))?.request(method, url))
    }

    /// Sends `call`, with retries, and gives the successful answer.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Response, Failure> {
        self.retrying(|| self.send_once(call)).await
    }

    /// Sends `call` once; a challenge is answered once.
    pub(super) async fn send_once(&self, call: &Call<'_>) -> Result<Response, Failure> {
        let registry = call.reference.resolve_registry();
        let mut answered_challenge = false;
        loop {
            let scheme = self.scheme(registry);
            let outcome = self.exchange(call, scheme).await;
            if self.may_be_tls(registry, scheme, &outcome) && self.speaks_tls(registry, &call.target).await? {
                self.remember_scheme(registry, Scheme::Tls);
                continue;
            }
            let (response, own_host) = outcome?;
            if own_host && response.status() != StatusCode::BAD_REQUEST {
                // It speaks what it was spoken to in: a connection that breaks later is no reason to ask for another.
                self.remember_scheme(registry, scheme);
            }
            if response.status().is_success() {
                return Ok(response);
            }
            if response.status() == StatusCode::UNAUTHORIZED && own_host && !answered_challenge {
                answered_challenge = true;
                if self.authorize(call, response.headers(), None).await? {
                    continue;
                }
            }
            return Err(self.status_failure(call, response).await);
        }
    }

    /// One request and its redirects; also says whether the answer came from the registry itself.
    async fn exchange(&self, call: &Call<'_>, scheme: Scheme) -> Result<(Response, bool), Failure> {
        let registry = call.reference.resolve_registry();
        let base = format!("{}://{registry}", scheme.as_str());
        let bad_url = |e: url::ParseError| RegistryError::Usage {
            target: call.target.clone(),
            why: format!("{base}{}: {e}", call.path),
        };
        let origin = Url::parse(&base).map_err(bad_url)?;
        let mut url = Url::parse(&format!("{base}{}", call.path)).map_err(bad_url)?;
        for _ in 0..=MAX_REDIRECTS {
            // Credentials and trace headers are for the registry alone (distribution spec: never forward
            // Authorization across hosts; CVE-2020-15157). A downgrade to plain HTTP is another origin, too.
            let own_host = url.origin() == origin.origin();
            let mut headers = call.headers.clone();
            // By the names of the semantic conventions for HTTP clients; without the query, which may be a credential.
            let span = tracing::info_span!(
                "http",
                otel.name = %call.method,
                otel.kind = "client",
                http.request.method = %call.method,
                server.address = url.host_str(),
                server.port = url.port_or_known_default(),
                url.path = url.path(),
                http.response.status_code = tracing::field::Empty,
            );
            if own_host {
                if let Some(value) = self.auth.header(call.reference, call.operation) {
                    headers.insert(AUTHORIZATION, value);
                }
                if let Some(source) = &self.options.headers {
                    span.in_scope(|| (source.0)(&mut headers));
                }
            }
            let mut request = self.http(scheme_of(&url))?.request(call.method.clone(), url.clone()).headers(headers);
            if let Some(body) = &call.body {
                request = match &self.pace {
                    Some(pace) if !body.is_empty() => request
                        .header(CONTENT_LENGTH, body.len())
                        .body(reqwest::Body::wrap_stream(pace.body(body.clone()))),
                    _ => request.body(body.clone()),
                };
            }
            let sent = request.send().instrument(span.clone()).await;
            let response = sent.map_err(|e| network_failure(&call.target, &url, &e))?;
            span.record("http.response.status_code", response.status().as_u16());
            let reading = call.method == Method::GET || call.method == Method::HEAD;
            if !reading || !response.status().is_redirection() {
                return Ok((response, own_host));
            }
            let Some(location) = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()) else {
                return Ok((response, own_host));
            };
            url = url.join(location).ok().filter(|u| matches!(u.scheme(), "http" | "https")).ok_or_else(|| {
                unavailable(call, format!("it was redirected to `{}`, which is no web address", quote(location)))
            })?;
        }
        Err(unavailable(call, format!("it was redirected more than {MAX_REDIRECTS} times")).into())
    }

    /// Whether a loopback registry that was spoken to in plain HTTP may be a TLS server: Go's and nginx's answer 400
    /// and say so; others break off with something that isn't HTTP.
    fn may_be_tls(&self, registry: &str, scheme: Scheme, outcome: &Result<(Response, bool), Failure>) -> bool {
        if scheme != Scheme::Plain
            || self.options.plain_http
            || self.options.plain_hosts.iter().any(|host| host == registry)
            || lock(&self.schemes).contains_key(registry)
        {
            return false;
        }
        match outcome {
            Ok((response, own_host)) => *own_host && response.status() == StatusCode::BAD_REQUEST,
            Err(failure) => failure.code.as_deref() == Some(NOT_HTTP),
        }
    }

    async fn speaks_tls(&self, registry: &str, target: &str) -> Result<bool, Failure> {
        let Ok(url) = Url::parse(&format!("https://{registry}/v2/")) else { return Ok(false) };
        match self.http(Scheme::Tls)?.get(url.clone()).send().await {
            Ok(_) => Ok(true),
            Err(e) => match network_failure(target, &url, &e) {
                failure @ Failure {
                    error: RegistryError::Certificate { .. } | RegistryError::OutOfTime { .. }, ..
                } => Err(failure),
                _ => Ok(false),
            },
        }
    }

    /// What an answer that isn't a success means.
    pub(super) async fn status_failure(&self, call: &Call<'_>, response: Response) -> Failure {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = read_at_most(response, MAX_ERROR_BODY).await.unwrap_or_default();
        let registry = call.reference.resolve_registry();
        let had = self.auth.header(call.reference, call.operation).is_some();
        failure_for_status(&call.target, registry, had, status, &body, retry_after)
    }
}

/// Marks, in a failure's `code`, that the answer wasn't HTTP.
const NOT_HTTP: &str = "not-http";

pub(super) fn unavailable(call: &Call<'_>, why: impl Into<String>) -> RegistryError {
    RegistryError::Unavailable { target: call.target.clone(), why: why.into() }
}

/// What a status means, and whether it may pass.
pub(super) fn failure_for_status(
    target: &str,
    registry: &str,
    had_credentials: bool,
    status: StatusCode,
    body: &[u8],
    retry_after: Option<Duration>,
) -> Failure {
    let (code, words) = oci_error(body);
    let detail = if words.is_empty() { status.to_string() } else { format!("{status}: {words}") };
    let target = target.to_owned();
    let transient = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
    let error = match status.as_u16() {
        401 | 403 => RegistryError::Unauthorized {
            target,
            why: match had_credentials {
                true => format!("the registry refused access ({detail})"),
                false => {
                    format!("the registry refused access ({detail}), and Docker's config.json has no login for it")
                }
            },
            registry: registry.to_owned(),
            had_credentials,
        },
        404 => RegistryError::NotFound { target, detail },
        // Who doesn't know the request at all says so each time.
        501 => RegistryError::Status { target, status: 501, detail },
        _ if transient || status.is_server_error() => {
            let asked = retry_after.map(|d| format!(", and asks to wait {} s", d.as_secs())).unwrap_or_default();
            RegistryError::Unavailable { target, why: format!("the registry answered {detail}{asked}") }
        }
        // As Go's server and nginx have it.
        400 if detail.contains("HTTPS server") || detail.contains("HTTPS port") => {
            RegistryError::NotPlainHttp { host: registry.to_owned() }
        }
        number => RegistryError::Status { target, status: number, detail },
    };
    Failure { error, transient, retry_after, status: Some(status.as_u16()), code }
}

/// The first code and the words of an OCI error body (distribution spec, "Error Codes"), or the body's own text.
fn oci_error(body: &[u8]) -> (Option<String>, String) {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else {
        let text = String::from_utf8_lossy(body);
        let is_page = text.trim_start().starts_with('<');
        return (None, if is_page { String::new() } else { quote(&text) });
    };
    let first = &value["errors"][0];
    let code = first["code"].as_str().map(quote);
    let message = first["message"].as_str().map(quote).unwrap_or_default();
    let words = match &code {
        Some(code) if message.is_empty() => code.clone(),
        Some(code) => format!("{code}, {message}"),
        None => message,
    };
    (code, words)
}

/// What an error without an answer means.
pub(super) fn network_failure(target: &str, url: &Url, error: &reqwest::Error) -> Failure {
    let words = quote(&causes(error));
    let target = target.to_owned();
    let host = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    };
    if words.contains("invalid peer certificate") {
        let why = match words.split("invalid peer certificate:").nth(1).unwrap_or("it is invalid").trim() {
            "UnknownIssuer" => "nobody issued it whom this machine trusts".to_owned(),
            why => match vyr_client::out_of_time(why) {
                Some(why) => return RegistryError::OutOfTime { host, why }.into(),
                None => why.to_owned(),
            },
        };
        return RegistryError::Certificate { host, why }.into();
    }
    // rustls's words for a first record that isn't TLS.
    if url.scheme() == "https" && words.contains("corrupt message") {
        return RegistryError::PlainHttp { host }.into();
    }
    // hyper's for an answer that isn't HTTP.
    if url.scheme() == "http" && words.contains("invalid HTTP version parsed") {
        let mut failure = Failure::from(RegistryError::NotPlainHttp { host });
        failure.code = Some(NOT_HTTP.to_owned());
        return failure;
    }
    if error.is_builder() {
        return RegistryError::Setup { why: words }.into();
    }
    if error.is_connect() && system_error(error).is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
        let here = is_loopback(&host);
        let refused = RegistryError::NobodyThere { host, here };
        // On this machine nothing is between: it is so, and not only now.
        return if here { refused.into() } else { Failure::transient(refused) };
    }
    if let (true, Some((_, why))) = (error.is_connect(), words.split_once("failed to lookup address information: ")) {
        return Failure::transient(RegistryError::UnknownHost { host, why: why.to_owned() });
    }
    let words = words
        .rsplit_once("client error (")
        .and_then(|(_, rest)| rest.split_once("): "))
        .map_or(&*words, |(_, why)| why);
    let why = if error.is_timeout() && error.is_connect() {
        format!("no connection to {host} in time")
    } else if error.is_timeout() {
        format!("{host} did not answer in time")
    } else if error.is_connect() {
        format!("no connection to {host}: {words}")
    } else {
        format!("the connection to {host} broke: {words}")
    };
    let mut failure = Failure::transient(RegistryError::Unavailable { target, why });
    if error.is_request() && !error.is_connect() && !error.is_timeout() {
        failure.code = Some(NOT_HTTP.to_owned());
    }
    failure
}

/// What the system said, where it was that.
fn system_error(error: &reqwest::Error) -> Option<&std::io::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(own) = error.downcast_ref::<std::io::Error>() {
            return Some(own);
        }
        source = error.source();
    }
    None
}

/// The error's causes without the first line, which only repeats the URL (and with it, perhaps, a signed query).
fn causes(error: &reqwest::Error) -> String {
    std::error::Error::source(error).map_or_else(|| "the request failed".to_owned(), chain)
}

/// Reads at most `limit` bytes of a body and leaves the rest.
pub(super) async fn read_at_most(mut response: Response, limit: usize) -> Result<Bytes, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        let room = limit - body.len();
        if chunk.len() >= room {
            body.extend_from_slice(&chunk[..room]);
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn scheme_of(url: &Url) -> Scheme {
    if url.scheme() == "http" { Scheme::Plain } else { Scheme::Tls }
}

/// Whether `host[:port]` is this machine, as docker and oras see it.
pub(super) fn is_loopback(registry: &str) -> bool {
    match Url::parse(&format!("http://{registry}")).ok().as_ref().and_then(Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A lock whose holder can't have left half a change behind: each change is one insert.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised_and_nothing_that_only_looks_like_it() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["localhost.example.com", "127.0.0.1.example.com:5000", "10.0.0.1", "registry:5000", "128.0.0.1"] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn error_bodies_of_every_shape_are_read() {
        let body = br#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known","detail":{}}]}"#;
        assert_eq!(oci_error(body), (Some("NAME_UNKNOWN".into()), "NAME_UNKNOWN, repository name not known".into()));
        for (body, words) in [
            (&b"404 page not found\n"[..], "404 page not found"),
            (b"<html>x</html>", ""),
            (b"[]", ""),
            (b"\xff", "\u{fffd}"),
        ] {
            assert_eq!(oci_error(body), (None, words.into()));
        }
    }

    #[test]
    fn a_bad_proxy_is_found_before_any_request() {
        let proxy = super::super::ProxySettings { https: Some("http://[".into()), ..Default::default() };
        assert!(matches!(
            Core::new(ClientOptions { proxy, ..ClientOptions::default() }),
            Err(RegistryError::Setup { .. })
        ));
    }
}
