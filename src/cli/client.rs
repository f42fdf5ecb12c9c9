//! Owns how the command line reaches a node: its address, what is shown to it, and what its refusals mean.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::Args;
use hyper_util::rt::TokioIo;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt as _;
use vyr_proto::v0::control_client::ControlClient;
use vyr_proto::v0::{
    BindStateRequest, CancelTaskRequest, CreateStateRequest, DeleteStateRequest, GetReceiptRequest, GetStateRequest,
    GetTaskRequest, GetTraceRequest, ListStatesRequest, ListStatesResponse, ListTasksRequest, ListTasksResponse, State,
    StreamLogsRequest, StreamLogsResponse, SubmitTaskRequest, SubmitTaskResponse, Task, Trace, WatchTaskRequest,
    WatchTaskResponse,
};

use super::Session;
use crate::config::{EnvVars, Home};
use crate::error::{Error, ErrorKind, Result, chain};
use crate::task::{StatusExt as _, TaskId};
use crate::telemetry;

const DEFAULT_NODE: &str = "http://127.0.0.1:7070";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node may take over an answer that it isn't asked to hold back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a silent node is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a node is asked to hold back one answer.
const ONE_WAIT: Duration = Duration::from_secs(60);
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Which node, and what is shown to it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node")]
pub(super) struct NodeArgs {
    /// The node, as http://HOST:PORT, https://HOST:PORT or unix:PATH [env: VYR_NODE] [default: the data folder's
    /// socket, else http://127.0.0.1:7070]
    #[arg(long, value_name = "URL")]
    node: Option<Address>,
    /// Show the node the bearer token in this file [env: VYR_TOKEN_FILE, or VYR_TOKEN for the token itself]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Trust this certificate authority (PEM) for the node instead of the system's
    #[arg(long, value_name = "FILE")]
    node_ca: Option<PathBuf>,
    /// Show the node this certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "node_key")]
    node_cert: Option<PathBuf>,
    /// The private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "node_cert")]
    node_key: Option<PathBuf>,
}

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp { url: String, tls: bool, loopback: bool },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { url, .. } => f.write_str(url),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::new(ErrorKind::Usage, format!("`{text}` is not a node's address: {why}"))
                .hint("write http://HOST:PORT, https://HOST:PORT or unix:PATH")
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(bad("it has no path")) } else { Ok(Self::Unix(path.into())) };
        }
        let url = url::Url::parse(text).map_err(|e| bad(&e.to_string()))?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(bad("it doesn't begin with http://, https:// or unix:")),
        };
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(bad("something follows the port"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::new(ErrorKind::Usage, "a node's address carries no user name or password")
                .hint("a token goes into a file that --token-file names"));
        }
        let loopback = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => return Err(bad("it has no host")),
        };
        Ok(Self::Tcp { url: url.as_str().trim_end_matches('/').to_owned(), tls, loopback })
    }
}

impl Address {
    /// A token that travels in the clear is everybody's.
    fn may_see_token(&self) -> Result<()> {
        match self {
            Self::Tcp { tls: false, loopback: false, .. } => Err(Error::new(
                ErrorKind::Usage,
                format!("the token isn't sent to {self}: over plain http everybody on the way could read it"),
            )
            .hint("use https:// (with --node-ca for a private authority), or leave the token out")),
            _ => Ok(()),
        }
    }

    fn is_far(&self) -> bool {
        matches!(self, Self::Tcp { loopback: false, .. })
    }
}

/// Adds the token to each call.
#[derive(Debug, Clone)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>> {
    // The token itself must not stand in the error.
    let bad = |why| Error::new(ErrorKind::Usage, format!("the token can't be used: {why}"));
    let token = token.trim();
    if token.is_empty() {
        return Err(bad("it is empty"));
    }
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad("it holds what isn't a printable ASCII character"));
    }
    let mut value = format!("Bearer {token}")
        .parse::<MetadataValue<Ascii>>()
        .map_err(|_| bad("it holds what isn't a printable ASCII character"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|e| Error::new(ErrorKind::Usage, format!("{} can't be read: {e}", path.display())))
}

impl NodeArgs {
    /// Whether somebody said which node: verbs that work without one ask it only then.
    pub(super) fn is_named(&self) -> bool {
        self.node.is_some() || EnvVars::get(EnvVars::VYR_NODE).is_some()
    }

    fn address(&self, home: &Home) -> Result<Address> {
        if let Some(address) = &self.node {
            return Ok(address.clone());
        }
        if let Some(text) = EnvVars::get(EnvVars::VYR_NODE) {
            return text.parse().map_err(|e: Error| e.attempted("read VYR_NODE"));
        }
        let socket = home.node_socket();
        if socket.exists() { Ok(Address::Unix(socket)) } else { DEFAULT_NODE.parse() }
    }

    fn token(&self) -> Result<Option<MetadataValue<Ascii>>> {
        let file = match &self.token_file {
            Some(path) => Some(path.clone()),
            None => match EnvVars::get(EnvVars::VYR_TOKEN) {
                Some(token) => return bearer(&token).map(Some),
                None => EnvVars::get(EnvVars::VYR_TOKEN_FILE).map(PathBuf::from),
            },
        };
        file.map(|path| bearer(&read(&path)?)).transpose()
    }

    fn tls(&self) -> Result<ClientTlsConfig> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.node_ca {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.with_enabled_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.node_cert, &self.node_key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }

    /// A connection to the node.
    pub(super) async fn connect(&self, session: &Session) -> Result<Node> {
        let config = session.vyr.config();
        let address = self.address(&config.home)?;
        let token = self.token()?;
        if token.is_some() {
            address.may_see_token()?;
        }
        if config.offline && address.is_far() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("{address} is beyond this machine, and the network is forbidden (--offline)"),
            ));
        }
        let for_tls = self.node_ca.is_some() || self.node_cert.is_some();
        if for_tls && !matches!(address, Address::Tcp { tls: true, .. }) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("--node-ca and --node-cert are for https; the node is {address}"),
            ));
        }
        let connected = match &address {
            Address::Unix(path) => {
                let path = path.clone();
                // The name is nobody's: the path says where the node is.
                Endpoint::from_static("http://localhost")
                    .connect_timeout(CONNECT_TIMEOUT)
                    .connect_with_connector(tower::service_fn(move |_: Uri| {
                        let stream = tokio::net::UnixStream::connect(path.clone());
                        async move { stream.await.map(TokioIo::new) }
                    }))
                    .await
            }
            Address::Tcp { url, tls, .. } => {
                let unusable = |e: tonic::transport::Error| {
                    Error::new(ErrorKind::Usage, format!("{address} can't be reached like this: {}", reason(&e)))
                };
                let mut endpoint = Endpoint::from_shared(url.clone())
                    .map_err(unusable)?
                    .tcp_nodelay(true)
                    .connect_timeout(CONNECT_TIMEOUT)
                    .http2_keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(KEEP_ALIVE);
                if *tls {
                    endpoint = endpoint.tls_config(self.tls()?).map_err(unusable)?;
                }
                endpoint.connect().await
            }
        };
        let channel = connected.map_err(|e| unreachable(&address.to_string(), &reason(&e)))?;
        let client =
            ControlClient::with_interceptor(channel, Bearer(token)).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Node { client, address: address.to_string() })
    }
}

fn unreachable(address: &str, why: &str) -> Error {
    let error = Error::new(ErrorKind::Unavailable, format!("no node answers at {address}: {why}"));
    if why.contains("certificate") {
        return error.hint("--node-ca names the authority to trust, --node-cert and --node-key what to show the node");
    }
    error.hint("start one with `vyr serve`, or name another with --node")
}

/// Why a connection failed, without the words that every failure of one begins with.
fn reason(error: &tonic::transport::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => chain(source),
        None => error.to_string(),
    }
}

/// A connection to a node.
#[derive(Debug)]
pub(super) struct Node {
    client: ControlClient<InterceptedService<Channel, Bearer>>,
    address: String,
}

impl Node {
    async fn answer<T>(
        &self,
        held_for: Option<Duration>,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        let limit = ANSWER_TIMEOUT.saturating_add(held_for.unwrap_or_default());
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map(Response::into_inner).map_err(|status| self.error(&status)),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("the node at {} didn't answer within {} s", self.address, limit.as_secs()),
            )),
        }
    }

    /// What a failed call says to the user.
    pub(super) fn error(&self, status: &Status) -> Error {
        error_of(status, &self.address)
    }

    pub(super) async fn submit(&self, request: SubmitTaskRequest) -> Result<SubmitTaskResponse> {
        let mut request = Request::new(request);
        // The task goes on from this command's trace, or from the one that the command is in.
        let context = telemetry::current_traceparent().or_else(|| EnvVars::get(EnvVars::TRACEPARENT));
        if let Some(context) = context.and_then(|context| context.parse().ok()) {
            request.metadata_mut().insert("traceparent", context);
        }
        self.answer(None, self.client.clone().submit_task(request)).await
    }

    /// A task as it stands, or as it stands when it has ended or `wait` has passed.
    pub(super) async fn task(&self, id: TaskId, wait: Option<Duration>) -> Result<Task> {
        let request = GetTaskRequest { id: id.to_string(), wait: wait.and_then(proto_duration) };
        self.answer(wait, self.client.clone().get_task(request)).await?.task.ok_or_else(empty)
    }

    /// A task, once it has ended.
    pub(super) async fn ended(&self, id: TaskId) -> Result<Task> {
        loop {
            let asked = Instant::now();
            let task = self.task(id, Some(ONE_WAIT)).await?;
            if has_ended(&task) {
                return Ok(task);
            }
            // A node that doesn't hold its answer back must not be asked in a tight loop.
            if asked.elapsed() < Duration::from_secs(1) {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    pub(super) async fn cancel(&self, id: TaskId, wait: Option<Duration>) -> Result<Task> {
        let request = CancelTaskRequest { id: id.to_string(), wait: wait.and_then(proto_duration) };
        self.answer(wait, self.client.clone().cancel_task(request)).await?.task.ok_or_else(empty)
    }

    /// What a task's time went to.
    pub(super) async fn trace(&self, id: TaskId) -> Result<Trace> {
        let request = GetTraceRequest { id: id.to_string() };
        self.answer(None, self.client.clone().get_trace(request)).await?.trace.ok_or_else(empty)
    }

    pub(super) async fn tasks(&self, request: ListTasksRequest) -> Result<ListTasksResponse> {
        self.answer(None, self.client.clone().list_tasks(request)).await
    }

    /// A task's receipt, as a Sigstore bundle.
    pub(super) async fn receipt(&self, id: TaskId) -> Result<Vec<u8>> {
        let request = GetReceiptRequest { id: id.to_string() };
        Ok(self.answer(None, self.client.clone().get_receipt(request)).await?.bundle.to_vec())
    }

    pub(super) async fn create_state(&self, request: CreateStateRequest) -> Result<State> {
        self.answer(None, self.client.clone().create_state(request)).await?.state.ok_or_else(no_state)
    }

    pub(super) async fn bind_state(&self, request: BindStateRequest) -> Result<State> {
        self.answer(None, self.client.clone().bind_state(request)).await?.state.ok_or_else(no_state)
    }

    pub(super) async fn get_state(&self, state: String) -> Result<State> {
        self.answer(None, self.client.clone().get_state(GetStateRequest { state })).await?.state.ok_or_else(no_state)
    }

    pub(super) async fn list_states(&self, request: ListStatesRequest) -> Result<ListStatesResponse> {
        self.answer(None, self.client.clone().list_states(request)).await
    }

    pub(super) async fn delete_state(&self, state: String) -> Result<()> {
        self.answer(None, self.client.clone().delete_state(DeleteStateRequest { state })).await.map(drop)
    }

    pub(super) async fn watch(&self, id: TaskId) -> Result<Streaming<WatchTaskResponse>> {
        self.answer(None, self.client.clone().watch_task(WatchTaskRequest { id: id.to_string() })).await
    }

    pub(super) async fn logs(&self, request: StreamLogsRequest) -> Result<Streaming<StreamLogsResponse>> {
        self.answer(None, self.client.clone().stream_logs(request)).await
    }
}

/// Whether nothing follows: also for an end that this version has no word for.
pub(super) fn has_ended(task: &Task) -> bool {
    task.ended_at.is_some() || task.status().is_end()
}

/// As the interface has it; `None` for what it can't express.
pub(super) fn proto_duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

fn no_state() -> Error {
    Error::new(ErrorKind::Internal, "the node's answer lacks the state")
}

pub(super) fn empty() -> Error {
    Error::new(ErrorKind::Internal, "the node's answer lacks the task")
}

fn error_of(status: &Status, address: &str) -> Error {
    let said = status.get_details_error_info().map(|info| info.metadata).unwrap_or_default();
    let known = said.get("kind").and_then(|word| ErrorKind::from_word(word));
    // Only what failed on this side has a source.
    if let (None, Some(source)) = (known, std::error::Error::source(status)) {
        return unreachable(address, &chain(source));
    }
    let mut why = status.message().to_owned();
    for violation in status.get_details_bad_request().map(|b| b.field_violations).unwrap_or_default() {
        let words = format!("{}: {}", violation.field, violation.description);
        if !why.contains(&words) {
            why = if why.is_empty() { words } else { format!("{why}; {words}") };
        }
    }
    if why.is_empty() {
        why = format!("the node at {address} says only: {}", status.code().description());
    }
    let error = Error::new(known.unwrap_or_else(|| kind_of(status.code())), why);
    match said.get("next").filter(|next| !next.is_empty()) {
        Some(next) => error.hint(next),
        None if status.code() == Code::Unimplemented => error.hint("is it a node of VYR, of this version?"),
        None => error,
    }
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument => ErrorKind::Usage,
        Code::NotFound => ErrorKind::NotFound,
        Code::PermissionDenied => ErrorKind::Forbidden,
        Code::Unauthenticated => ErrorKind::Unauthorized,
        Code::ResourceExhausted => ErrorKind::Exhausted,
        Code::AlreadyExists => ErrorKind::Conflict,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::TimedOut,
        Code::Cancelled => ErrorKind::Cancelled,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn addresses_parse_or_say_why() {
        let tcp = |url: &str, tls, loopback| Address::Tcp { url: url.into(), tls, loopback };
        for (text, address) in [
            ("unix:/run/vyr.sock", Address::Unix("/run/vyr.sock".into())),
            ("unix:///run/vyr.sock", Address::Unix("/run/vyr.sock".into())),
            ("http://127.0.0.1:7070", tcp("http://127.0.0.1:7070", false, true)),
            ("http://[::1]:7070/", tcp("http://[::1]:7070", false, true)),
            ("http://localhost:7070", tcp("http://localhost:7070", false, true)),
            ("http://127.0.0.1.example:7070", tcp("http://127.0.0.1.example:7070", false, false)),
            ("https://node.example:7070", tcp("https://node.example:7070", true, false)),
        ] {
            assert_eq!(text.parse::<Address>().unwrap(), address, "{text}");
        }
        for bad in ["", "unix:", "localhost:7070", "127.0.0.1:7070", "ftp://a:1", "http://a:1/v2", "http://a:1?b"] {
            let error = bad.parse::<Address>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
            assert!(error.next().is_some_and(|next| next.contains("unix:PATH")), "{bad}");
        }
        let error = "http://me:secret@a:1".parse::<Address>().unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn a_token_is_not_shown_to_a_far_host_in_the_clear() {
        let far = "http://node.example:7070".parse::<Address>().unwrap().may_see_token().unwrap_err();
        assert_eq!(far.kind(), ErrorKind::Usage);
        assert!(far.why().contains("plain http"), "{far}");
        for fine in ["https://node.example:7070", "http://127.0.0.1:7070", "unix:/run/vyr.sock"] {
            assert!(fine.parse::<Address>().unwrap().may_see_token().is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_token_never_shows_in_debug_output_or_errors() {
        assert!(!format!("{:?}", Bearer(Some(bearer(" s3cret\n").unwrap()))).contains("s3cret"));
        for bad in ["", "  \n", "s3cret s3cret", "s3cret\u{e9}"] {
            let error = bearer(bad).unwrap_err();
            assert!(error.kind() == ErrorKind::Usage && !error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_status_is_what_its_details_say() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "TASK_REFUSED",
            "vyr.control.v0",
            HashMap::from([("kind".to_owned(), "refused".to_owned()), ("next".to_owned(), "sign it".to_owned())]),
        );
        let error = error_of(&Status::with_error_details(Code::FailedPrecondition, "no signature", details), "x");
        assert_eq!((error.kind(), error.why(), error.next()), (ErrorKind::Refused, "no signature", Some("sign it")));

        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("spec.args", "too many").add_bad_request_violation("spec.env", "too long");
        let status = Status::with_error_details(Code::InvalidArgument, "spec.args: too many", details);
        let error = error_of(&status, "x");
        assert_eq!((error.kind(), error.why()), (ErrorKind::Usage, "spec.args: too many; spec.env: too long"));
    }

    #[test]
    fn a_status_without_details_goes_by_its_code() {
        for (code, kind) in [
            (Code::InvalidArgument, ErrorKind::Usage),
            (Code::NotFound, ErrorKind::NotFound),
            (Code::PermissionDenied, ErrorKind::Forbidden),
            (Code::Unauthenticated, ErrorKind::Unauthorized),
            (Code::ResourceExhausted, ErrorKind::Exhausted),
            (Code::AlreadyExists, ErrorKind::Conflict),
            (Code::Unavailable, ErrorKind::Unavailable),
            (Code::DeadlineExceeded, ErrorKind::TimedOut),
            (Code::Cancelled, ErrorKind::Cancelled),
            (Code::Internal, ErrorKind::Internal),
            (Code::Unknown, ErrorKind::Internal),
        ] {
            assert_eq!(error_of(&Status::new(code, "why"), "x").kind(), kind, "{code:?}");
        }
        assert!(error_of(&Status::new(Code::Internal, ""), "http://a:1").why().contains("http://a:1"));
        let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert_eq!(error_of(&broken, "x").kind(), ErrorKind::Unavailable);
    }
}
