//! Owns how a node is reached: its address, what is shown to it and what is believed of it.

use std::fmt;
use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use vyr_proto::v0::control_client::ControlClient;

use crate::address::Address;
use crate::client::{Client, Pending};
use crate::error::{Error, Result, chain};
use crate::retry::{RetryPolicy, Tries};
use crate::{context, env};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node may take over an answer that it isn't asked to hold back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a silent node is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A connection in the making: [`Client::connect`]. Await it.
///
/// What is not said is found as the `vyr` command finds it:
///
/// | | else | else |
/// | --- | --- | --- |
/// | [`address`](Self::address) | `VYR_NODE` | the data folder's socket (`VYR_HOME`, or `vyr` in the XDG data folder) if it is there, else `http://127.0.0.1:7070` |
/// | [`token`](Self::token), [`token_file`](Self::token_file) | `VYR_TOKEN` | the file that `VYR_TOKEN_FILE` names |
/// | [`traceparent`](Self::traceparent) | the current OpenTelemetry span (feature `opentelemetry`) | `TRACEPARENT` |
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is done until it is awaited"]
pub struct Connect {
    address: Option<String>,
    home: Option<PathBuf>,
    token: Option<Token>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    retry: RetryPolicy,
    connect_timeout: Option<Duration>,
    answer_timeout: Option<Duration>,
    traceparent: Option<String>,
}

/// A bearer token, which is never shown.
#[derive(Clone)]
struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Connect {
    /// The node: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The data folder to look for a node's socket in, in place of `VYR_HOME`.
    pub fn home(mut self, folder: impl Into<PathBuf>) -> Self {
        self.home = Some(folder.into());
        self
    }

    /// The bearer token to show the node. It is never sent in the clear to another machine.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Token(token.into()));
        self
    }

    /// The file that holds the bearer token; it is read now and not again.
    pub fn token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token_file = Some(file.into());
        self
    }

    /// The certificate authorities (PEM) to trust for the node, in place of the system's.
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// The certificate (PEM) to show the node; with [`key_file`](Self::key_file).
    pub fn cert_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.cert_file = Some(file.into());
        self
    }

    /// The private key (PEM) of that certificate.
    pub fn key_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.key_file = Some(file.into());
        self
    }

    /// When calls are tried again; this connecting too.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How long one try to open a connection may take. Default: 5 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = Some(limit);
        self
    }

    /// How long the node may take over one answer, beside the time that it is asked to hold it back. Default: 30 s.
    pub fn answer_timeout(mut self, limit: Duration) -> Self {
        self.answer_timeout = Some(limit);
        self
    }

    /// The W3C trace context of all calls: the traces of submitted tasks go on from it.
    pub fn traceparent(mut self, context: impl Into<String>) -> Self {
        self.traceparent = Some(context.into());
        self
    }

    /// The node that this would connect to. Nothing is connected.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) for an address that can't be read.
    pub fn find(&self) -> Result<Address> {
        if let Some(address) = &self.address {
            return address.parse();
        }
        match env::get(env::NODE) {
            Some(address) => address.parse().map_err(|e: Error| e.of(env::NODE)),
            None => Address::of_home(self.home.as_deref()),
        }
    }

    fn bearer(&self) -> Result<Option<MetadataValue<Ascii>>> {
        if let Some(Token(token)) = &self.token {
            return bearer(token).map(Some);
        }
        let file = match &self.token_file {
            Some(file) => Some(file.clone()),
            None => match env::get(env::TOKEN) {
                Some(token) => return bearer(&token).map(Some),
                None => env::get(env::TOKEN_FILE).map(PathBuf::from),
            },
        };
        file.map(|file| bearer(&read(&file)?)).transpose()
    }

    fn tls(&self) -> Result<ClientTlsConfig> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca_file {
            Some(file) => tls.ca_certificate(Certificate::from_pem(read(file)?)),
            None => tls.with_enabled_roots(),
        };
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
            (None, None) => {}
            _ => return Err(Error::usage("`cert_file` and `key_file` belong together, and one is missing")),
        }
        Ok(tls)
    }

    fn endpoint(&self, address: &Address) -> Result<Endpoint> {
        let unusable = |e: tonic::transport::Error| {
            Error::usage(format_args!("{address} can't be reached like this: {}", reason(&e)))
        };
        let endpoint = Endpoint::from_shared(address.uri()?)
            .and_then(|endpoint| endpoint.user_agent(concat!("vyr-client/", env!("CARGO_PKG_VERSION"))))
            .map_err(unusable)?
            .tcp_nodelay(true)
            .connect_timeout(self.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        if address.is_tls() {
            return endpoint.tls_config(self.tls()?).map_err(unusable);
        }
        if self.ca_file.is_some() || self.cert_file.is_some() || self.key_file.is_some() {
            return Err(Error::usage(format_args!(
                "`ca_file`, `cert_file` and `key_file` are for https; the node is {address}"
            )));
        }
        Ok(endpoint)
    }

    async fn open(self) -> Result<Client> {
        let address = self.find()?;
        let bearer = self.bearer()?;
        if bearer.is_some() {
            address.may_see_token()?;
        }
        let traceparent = self.traceparent.as_deref().map(context::given).transpose()?;
        let endpoint = self.endpoint(&address)?;
        let shown = address.to_string();
        let mut tries = Tries::new(self.retry);
        let channel: Channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(e) => tries.again(Error::unreachable(&shown, &reason(&e))).await?,
            }
        };
        let control = ControlClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let limit = self.answer_timeout.unwrap_or(ANSWER_TIMEOUT);
        Ok(Client::new(control, shown, bearer, limit, self.retry, traceparent))
    }
}

impl IntoFuture for Connect {
    type Output = Result<Client>;
    type IntoFuture = Pending<Client>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>> {
    // The token itself must not stand in the error.
    let bad = |why| Error::usage(format_args!("the token can't be used: {why}"));
    let token = token.trim();
    if token.is_empty() {
        return Err(bad("it is empty"));
    }
    let unprintable = "it holds what isn't a printable ASCII character";
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad(unprintable));
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| bad(unprintable))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|e| Error::usage(format_args!("{} can't be read: {e}", file.display())))
}

/// Why a connection failed, without the words that every failure of one begins with.
fn reason(error: &tonic::transport::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => chain(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_token_never_shows_in_debug_output_or_errors() {
        assert!(!format!("{:?}", bearer(" s3cret\n").unwrap()).contains("s3cret"));
        assert!(!format!("{:?}", Client::connect().token("s3cret")).contains("s3cret"));
        for bad in ["", "  \n", "s3cret s3cret", "s3cret\u{e9}"] {
            let error = bearer(bad).unwrap_err();
            assert!(error.kind() == ErrorKind::Usage && !error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn the_limits_are_those_of_all_sdks() {
        let names: serde_json::Value = serde_json::from_str(include_str!("../../names.json")).unwrap();
        let shared = &names["limits"];
        let millis = |name: &str| Duration::from_millis(shared[name].as_u64().unwrap());
        assert_eq!((CONNECT_TIMEOUT, ANSWER_TIMEOUT), (millis("connect_timeout_ms"), millis("answer_timeout_ms")));
        assert_eq!(crate::client::ONE_WAIT, millis("one_wait_ms"));
        assert_eq!(u64::try_from(MAX_ANSWER_BYTES).ok(), shared["max_answer_bytes"].as_u64());
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_said_before_anything_is_sent() {
        let at = |address: &str| Client::connect().address(address);
        for (connect, words) in [
            (at("ftp://a"), "ftp://a"),
            (at("http://node.example:7070").token("t"), "plain http"),
            (at("http://127.0.0.1:1").ca_file("ca.pem"), "for https"),
            (at("https://127.0.0.1:1").ca_file("/nothing/ca.pem"), "/nothing/ca.pem can't be read"),
            (at("https://127.0.0.1:1").cert_file("c.pem"), "belong together"),
            (at("http://127.0.0.1:1").token_file("/nothing/token"), "/nothing/token can't be read"),
            (at("http://127.0.0.1:1").traceparent("00-1-2-3"), "trace context"),
        ] {
            let error = connect.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn where_nothing_answers_it_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = format!("unix:{}", folder.path().join("none.sock").display());
        let quick = RetryPolicy::default().initial_backoff(Duration::from_millis(1));
        let error = Client::connect().address(&socket).retry(quick).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, None));
        assert!(error.message().contains(&socket) && error.message().contains("no such socket"), "{error}");
        assert_eq!(error.next(), Some("start one with `vyr serve`, or name another"));
    }
}
