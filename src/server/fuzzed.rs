//! Owns the two fuzz targets that need a node: one in this process, in a folder in memory, without a port. Requests go to the
//! services themselves, after what decides who may call.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use futures_util::stream;
use prost::Message as _;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;
use vyr_proto::v0::{CreateStateRequest, DeleteStateRequest, PutArtifactRequest, SubmitTaskRequest};

use super::access::{Access, Peer};
use super::control;
use super::distribution::Distribution;
use crate::config::{Config, Flags};
use crate::node::{Lock, Node, Options, check};
use crate::oci::{Digest, Hasher, sha256};
use crate::ops::{Silent, Vyr};
use crate::store::Lease;

struct Here {
    runtime: Runtime,
    node: Node,
    access: Arc<Access>,
    /// As it is since the last restart: what one before it remembers of its uploads, nobody ends there.
    registry: Mutex<axum::Router>,
    _home: tempfile::TempDir,
}

/// The node of this process, opened by who first needs it.
fn here() -> &'static Here {
    static HERE: OnceLock<Here> = OnceLock::new();
    HERE.get_or_init(|| open().unwrap_or_else(|e| panic!("no node to fuzz: {e}")))
}

fn open() -> crate::Result<Here> {
    let home = crate::fuzz::scratch();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| crate::Error::new(crate::ErrorKind::Internal, e))?;
    let (node, access, registry) = runtime.block_on(async {
        let flags = Flags { home: Some(home.path().to_owned()), offline: true, ..Flags::default() };
        let vyr = Vyr::new(Config::load(flags)?, Arc::new(Silent));
        let lock = Lock::acquire(&vyr.config().home)?;
        let access = Arc::new(Access::new(None, false, None, vyr.secret()?));
        let options =
            Options { max_running: 2, threads: 1, compile_on_arrival: false, receipts: false, ..Options::default() };
        let node = Node::open(vyr, options, lock).await?;
        // That is for a process that is a node and nothing else; this one has other stores, in other tests.
        Lease::use_no_more();
        let registry = Distribution::open(&node, Arc::clone(&access)).await?.routes(axum::Router::new());
        Ok::<_, crate::Error>((node, access, registry))
    })?;
    Ok(Here { runtime, node, access, registry: registry.into(), _home: home })
}

/// What was answered.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

async fn call(registry: &axum::Router, mut request: Request<Body>) -> Answer {
    request.extensions_mut().insert(Peer::plain(1));
    let Ok(response) = registry.clone().oneshot(request).await;
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 16 << 20).await.unwrap_or_else(|e| panic!("an answer broke off: {e}"));
    assert!(!parts.status.is_server_error(), "{}: {}", parts.status, String::from_utf8_lossy(&body));
    Answer { status: parts.status, headers: parts.headers, body }
}

/// An upload as it should be.
struct Upload {
    repository: usize,
    location: String,
    content: Vec<u8>,
}

/// The bytes of an input as numbers; none are left: 0.
struct Numbers<'a>(std::slice::Iter<'a, u8>);

impl Numbers<'_> {
    fn next(&mut self) -> usize {
        self.0.next().copied().map_or(0, usize::from)
    }

    fn below(&mut self, most: usize) -> usize {
        self.next() % most.max(1)
    }

    /// Some content: few enough kinds that the same comes again.
    fn content(&mut self) -> Vec<u8> {
        let (byte, length) = (self.below(4), self.next());
        vec![b"abc\0"[byte]; length]
    }
}

/// What a body says of itself, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Length,
    Range,
    RangeElsewhere,
    RangeTooLong,
    RangeTooShort,
    Garbage,
    BreaksOff,
}

const SAYS: [Said; 8] = [
    Said::Nothing,
    Said::Length,
    Said::Range,
    Said::RangeElsewhere,
    Said::RangeTooLong,
    Said::RangeTooShort,
    Said::Garbage,
    Said::BreaksOff,
];

/// A request with a chunk, and whether its bytes are to be taken: all of them, and whether it succeeds.
fn chunk(method: &Method, uri: &str, at: usize, content: &[u8], said: Said) -> (Request<Body>, bool, bool) {
    let range = |from: usize, length: usize| format!("{from}-{}", (from + length).saturating_sub(1));
    let length = content.len();
    let mut request = Request::builder().method(method).uri(uri);
    let (taken, succeeds) = match said {
        Said::Nothing => (true, true),
        Said::Length => {
            request = request.header(header::CONTENT_LENGTH, length);
            (true, true)
        }
        Said::Range if length > 0 => {
            request = request.header(header::CONTENT_RANGE, range(at, length));
            (true, true)
        }
        Said::RangeElsewhere => {
            request = request.header(header::CONTENT_RANGE, range(at + 1, length + 1));
            (false, false)
        }
        Said::Range | Said::RangeTooLong => {
            request = request.header(header::CONTENT_RANGE, range(at, length + 1));
            (false, false)
        }
        Said::RangeTooShort if length > 1 => {
            request = request.header(header::CONTENT_RANGE, range(at, length - 1));
            (false, false)
        }
        Said::RangeTooShort | Said::Garbage => {
            request = request.header(header::CONTENT_RANGE, "bytes 0-");
            (false, false)
        }
        // What came before a connection broke is kept, and gone on from.
        Said::BreaksOff => (true, false),
    };
    let body = match said {
        Said::BreaksOff => {
            let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            Body::from_stream(stream::iter([Ok(Bytes::copy_from_slice(content)), Err(broken)]))
        }
        _ => Body::from(content.to_vec()),
    };
    let request = request.body(body).unwrap_or_else(|e| panic!("{uri}: {e}"));
    (request, taken, succeeds)
}

fn plain(method: Method, uri: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri.parse().unwrap_or_else(|e| panic!("{uri}: {e}"));
    request
}

fn digest_of(content: &[u8], long: bool) -> Digest {
    if !long {
        return sha256(content);
    }
    let mut hasher = Hasher::sha512();
    hasher.update(content);
    hasher.finish()
}

/// The registry's uploads: requests that the bytes choose, against what each upload and repository then has to hold.
pub(crate) fn upload(data: &[u8]) {
    static EXECUTIONS: AtomicU64 = AtomicU64::new(0);
    let here = here();
    let number = EXECUTIONS.fetch_add(1, Ordering::Relaxed);
    here.runtime.block_on(Uploads::new(here, number).run(Numbers(data.iter()), data));
}

struct Uploads {
    registry: axum::Router,
    repositories: [String; 2],
    open: Vec<Upload>,
    /// What each repository shows.
    blobs: [BTreeMap<String, Vec<u8>>; 2],
    /// All that was ever sent whole, whether it was taken or not.
    known: Vec<(String, Vec<u8>)>,
    restarted: bool,
}

impl Uploads {
    fn new(here: &Here, number: u64) -> Self {
        Self {
            registry: here.registry.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            repositories: ["one", "two"].map(|name| format!("f{number}/{name}")),
            open: Vec::new(),
            blobs: [BTreeMap::new(), BTreeMap::new()],
            known: Vec::new(),
            restarted: false,
        }
    }

    async fn run(mut self, mut numbers: Numbers<'_>, data: &[u8]) {
        for _ in 0..24 {
            if numbers.0.as_slice().is_empty() {
                break;
            }
            let step = numbers.below(11);
            match step {
                0 => self.begin(&mut numbers).await,
                1 | 2 => self.chunk(&mut numbers).await,
                3 | 4 => self.end(&mut numbers).await,
                5 => self.cancel(&mut numbers).await,
                6 => self.whole(&mut numbers).await,
                7 => self.mount(&mut numbers).await,
                8 => self.restart().await,
                9 => self.manifest(&mut numbers).await,
                _ => self.anything(numbers.0.as_slice()).await,
            }
            self.look_at_uploads().await;
            // What shows changes by few steps, and to look at all of it takes most of the time.
            if matches!(step, 3 | 4 | 6 | 7 | 9) {
                self.look_at_blobs().await;
            }
        }
        self.look_at_blobs().await;
        // Nothing half-made is left for the next one.
        let ids: Vec<String> =
            self.open.iter().filter_map(|u| u.location.rsplit('/').next().map(str::to_owned)).collect();
        for upload in std::mem::take(&mut self.open) {
            let gone = call(&self.registry, plain(Method::DELETE, &upload.location)).await;
            assert_eq!(gone.status, StatusCode::NO_CONTENT, "{data:?}");
        }
        let ingest = here().node.vyr().config().home.root().join("ingest");
        for entry in std::fs::read_dir(&ingest).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().replace('-', "");
            assert!(!ids.iter().any(|id| name.contains(&id.replace('-', ""))), "{name} was left");
        }
    }

    /// That every upload is as long as it should be.
    async fn look_at_uploads(&self) {
        for upload in &self.open {
            let told = call(&self.registry, plain(Method::GET, &upload.location)).await;
            assert_eq!(told.status, StatusCode::NO_CONTENT, "an upload is gone");
            let range = format!("0-{}", upload.content.len().saturating_sub(1));
            assert_eq!(told.header(header::RANGE), range, "an upload has another length");
        }
    }

    /// That each blob shows where it was put, and nowhere else.
    async fn look_at_blobs(&self) {
        for (digest, content) in &self.known {
            for (repository, blobs) in self.repositories.iter().zip(&self.blobs) {
                let got = call(&self.registry, plain(Method::GET, &format!("/v2/{repository}/blobs/{digest}"))).await;
                if blobs.contains_key(digest) {
                    assert_eq!((got.status, &got.body[..]), (StatusCode::OK, &content[..]), "{digest}");
                } else {
                    assert_eq!(got.status, StatusCode::NOT_FOUND, "{digest} is shown in {repository}");
                }
            }
        }
    }

    fn learn(&mut self, digest: &Digest, content: &[u8]) {
        let digest = digest.to_string();
        if self.known.len() < 6 && !self.known.iter().any(|(known, _)| *known == digest) {
            self.known.push((digest, content.to_vec()));
        }
    }

    fn keep(&mut self, repository: usize, digest: &Digest, content: Vec<u8>) {
        self.learn(digest, &content);
        self.blobs[repository].insert(digest.to_string(), content);
    }

    fn begun(&mut self, repository: usize, answer: &Answer) {
        let location = answer.header(header::LOCATION).to_owned();
        let begins = format!("/v2/{}/blobs/uploads/", self.repositories[repository]);
        assert!(location.starts_with(&begins), "{location}");
        self.open.push(Upload { repository, location, content: Vec::new() });
    }

    async fn begin(&mut self, numbers: &mut Numbers<'_>) {
        if self.open.len() == 3 {
            return;
        }
        let (repository, algorithm) = (numbers.below(2), numbers.below(4));
        let ask = ["", "?digest-algorithm=sha256", "?digest-algorithm=sha512", "?digest-algorithm=md5"][algorithm];
        let uri = format!("/v2/{}/blobs/uploads/{ask}", self.repositories[repository]);
        let answer = call(&self.registry, plain(Method::POST, &uri)).await;
        if algorithm == 3 {
            assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        } else {
            assert_eq!(answer.status, StatusCode::ACCEPTED);
            self.begun(repository, &answer);
        }
    }

    async fn chunk(&mut self, numbers: &mut Numbers<'_>) {
        let (slot, said, content) = (numbers.below(3), SAYS[numbers.below(SAYS.len())], numbers.content());
        let elsewhere = numbers.below(16) == 15;
        let Some(upload) = self.open.get_mut(slot) else { return };
        let mut uri = upload.location.clone();
        if elsewhere {
            // An upload is its own repository's.
            let other = &self.repositories[1 - upload.repository];
            uri = uri.replacen(&self.repositories[upload.repository], other, 1);
        }
        let (request, taken, succeeds) = chunk(&Method::PATCH, &uri, upload.content.len(), &content, said);
        let answer = call(&self.registry, request).await;
        if elsewhere {
            assert_eq!(answer.status, StatusCode::NOT_FOUND);
            return;
        }
        assert_eq!(answer.status == StatusCode::ACCEPTED, succeeds, "{said:?}: {}", answer.status);
        if taken {
            upload.content.extend(&content);
        }
    }

    async fn end(&mut self, numbers: &mut Numbers<'_>) {
        let (slot, said, content) = (numbers.below(3), SAYS[numbers.below(SAYS.len())], numbers.content());
        let (long, wrong) = (numbers.below(2) == 1, numbers.below(4) == 3);
        let Some(upload) = self.open.get(slot) else { return };
        let all = [&upload.content[..], &content[..]].concat();
        let digest = if wrong { digest_of(b"something else", long) } else { digest_of(&all, long) };
        let uri = format!("{}?digest={digest}", upload.location);
        let (request, taken, succeeds) = chunk(&Method::PUT, &uri, upload.content.len(), &content, said);
        let answer = call(&self.registry, request).await;
        if succeeds {
            // Right or wrong, it is over.
            let upload = self.open.remove(slot);
            let gone = call(&self.registry, plain(Method::GET, &upload.location)).await;
            assert_eq!(gone.status, StatusCode::NOT_FOUND);
            if wrong {
                assert_eq!(answer.status, StatusCode::BAD_REQUEST);
                self.learn(&digest, b"something else");
            } else {
                assert_eq!(answer.status, StatusCode::CREATED);
                self.keep(upload.repository, &digest, all);
            }
            return;
        }
        assert!(answer.status.is_client_error(), "{said:?}: {}", answer.status);
        if let (true, Some(upload)) = (taken, self.open.get_mut(slot)) {
            upload.content = all;
        }
    }

    async fn cancel(&mut self, numbers: &mut Numbers<'_>) {
        let slot = numbers.below(3);
        if slot >= self.open.len() {
            return;
        }
        let upload = self.open.remove(slot);
        let first = call(&self.registry, plain(Method::DELETE, &upload.location)).await;
        let second = call(&self.registry, plain(Method::DELETE, &upload.location)).await;
        assert_eq!((first.status, second.status), (StatusCode::NO_CONTENT, StatusCode::NOT_FOUND));
    }

    async fn whole(&mut self, numbers: &mut Numbers<'_>) {
        let (repository, content) = (numbers.below(2), numbers.content());
        let (long, wrong) = (numbers.below(2) == 1, numbers.below(4) == 3);
        let digest = digest_of(if wrong { b"something else" } else { &content }, long);
        let uri = format!("/v2/{}/blobs/uploads/?digest={digest}", self.repositories[repository]);
        let (request, ..) = chunk(&Method::POST, &uri, 0, &content, Said::Length);
        let answer = call(&self.registry, request).await;
        if wrong {
            assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        } else {
            assert_eq!(answer.status, StatusCode::CREATED);
            self.keep(repository, &digest, content);
        }
    }

    async fn mount(&mut self, numbers: &mut Numbers<'_>) {
        let (which, from, to) = (numbers.below(6), numbers.below(2), numbers.below(2));
        let Some((digest, content)) = self.known.get(which).cloned().filter(|_| self.open.len() < 3) else { return };
        let [from_name, to_name] = [from, to].map(|at| self.repositories[at].clone());
        let uri = format!("/v2/{to_name}/blobs/uploads/?mount={digest}&from={from_name}");
        let answer = call(&self.registry, plain(Method::POST, &uri)).await;
        if self.blobs[from].contains_key(&digest) {
            assert_eq!(answer.status, StatusCode::CREATED);
            self.blobs[to].insert(digest, content);
        } else {
            assert_eq!(answer.status, StatusCode::ACCEPTED, "what isn't there to be mounted is to be sent");
            self.begun(to, &answer);
        }
    }

    /// As after a restart of the node: the files alone say how far each upload is.
    async fn restart(&mut self) {
        if !std::mem::replace(&mut self.restarted, true) {
            let again = Distribution::open(&here().node, Arc::clone(&here().access)).await;
            self.registry = again.unwrap_or_else(|e| panic!("{e}")).routes(axum::Router::new());
            *here().registry.lock().unwrap_or_else(PoisonError::into_inner) = self.registry.clone();
        }
    }

    async fn manifest(&mut self, numbers: &mut Numbers<'_>) {
        let (repository, which) = (numbers.below(2), numbers.below(6));
        let Some((digest, content)) = self.known.get(which) else { return };
        let layer = format!(r#"{{"mediaType":"application/wasm","digest":"{digest}","size":{}}}"#, content.len());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{0}","config":{layer},"layers":[{layer}]}}"#,
            crate::oci::media::MANIFEST
        );
        let uri = format!("/v2/{}/manifests/v{which}", self.repositories[repository]);
        let mut request = Request::new(Body::from(manifest.clone()));
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = uri.parse().unwrap_or_else(|e| panic!("{uri}: {e}"));
        let answer = call(&self.registry, request).await;
        if answer.status == StatusCode::CREATED {
            let got = call(&self.registry, plain(Method::GET, &uri)).await;
            assert_eq!(&got.body[..], manifest.as_bytes(), "a manifest is another one than was put");
            assert!(self.blobs[repository].contains_key(digest), "a manifest names what its repository doesn't have");
        } else {
            assert!(!self.blobs[repository].contains_key(digest), "{}: what it names is there", answer.status);
        }
    }

    /// Any method, path and headers at all: whatever is answered, it is no fault of the node's.
    async fn anything(&self, data: &[u8]) {
        let mut lines = data.split(|b| *b == b'\n');
        let (Some(method), Some(uri)) = (lines.next(), lines.next()) else { return };
        let mut request = Request::builder().method(method).uri(uri);
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_at(line.iter().position(|b| *b == b':').unwrap_or(line.len()));
            request = request.header(name, value.get(1..).unwrap_or_default());
        }
        let body = lines.next().unwrap_or_default().to_vec();
        let Ok(request) = request.body(Body::from(body)) else { return };
        if request.uri().path().starts_with("/v2/") {
            call(&self.registry, request).await;
        }
    }
}

/// The calls of the control API that are made; a submit is checked and goes no further.
const CALLS: [&str; 16] = [
    "SubmitTask",
    "PutArtifact",
    "GetArtifact",
    "ListArtifacts",
    "CancelTask",
    "GetTask",
    "ListTasks",
    "WatchTask",
    "StreamLogs",
    "GetTrace",
    "GetReceipt",
    "CreateState",
    "BindState",
    "GetState",
    "ListStates",
    "DeleteState",
];

/// A message in gRPC's framing.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat()
}

async fn ask(here: &Here, name: &str, body: Vec<u8>) -> i32 {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::POST;
    let uri = format!("/{}/{name}", control::SERVICE);
    *request.uri_mut() = uri.parse().unwrap_or_else(|e| panic!("{uri}: {e}"));
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, header::HeaderValue::from_static("trailers"));
    let caller = here.access.caller(&Peer::plain(1), None).unwrap_or_else(|e| panic!("{e}"));
    request.extensions_mut().insert(caller);
    let Ok(response): Result<Response<_>, _> = control::service(here.node.clone()).oneshot(request).await;
    let (parts, body) = response.into_parts();
    let said = parts.headers.get("grpc-status").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let body = to_bytes(Body::new(body), 64 << 20).await;
    let code = said.unwrap_or(0);
    let message = parts.headers.get("grpc-message").and_then(|v| v.to_str().ok()).unwrap_or_default();
    // UNKNOWN, INTERNAL and DATA_LOSS are the node's own faults; no request may bring them about. The library says INTERNAL of
    // bytes that are no message.
    let own = matches!(code, 2 | 13 | 15) && !message.starts_with("failed%20to%20decode%20Protobuf");
    assert!(!own, "{name}: {code}: {message}");
    assert!(message.len() < 20_000, "{name}: a message of {} bytes", message.len());
    assert!(body.is_ok(), "{name}: an answer broke off");
    code
}

/// The control API: the first byte says which call it is, the rest is its message. The messages of a stream have two bytes
/// with their length before them.
pub(crate) fn request(data: &[u8]) {
    let Some((call, message)) = data.split_first() else { return };
    let name = CALLS[usize::from(*call) % CALLS.len()];
    let here = here();
    match name {
        "SubmitTask" => submit(message),
        "PutArtifact" => {
            let (mut rest, mut body) = (message, Vec::new());
            while let Some((length, after)) = rest.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
                body.extend(framed(&after[..length]));
                let _ = PutArtifactRequest::decode(&after[..length]);
                rest = &after[length..];
            }
            here.runtime.block_on(ask(here, name, body));
        }
        "CreateState" => {
            let code = here.runtime.block_on(ask(here, name, framed(message)));
            if let (0, Ok(made)) = (code, CreateStateRequest::decode(message)) {
                let gone = DeleteStateRequest { state: made.name };
                let code = here.runtime.block_on(ask(here, "DeleteState", framed(&gone.encode_to_vec())));
                assert_eq!(code, 0, "a state that was made can't be removed");
            }
        }
        _ => drop(here.runtime.block_on(ask(here, name, framed(message)))),
    }
}

fn submit(message: &[u8]) {
    let Ok(read) = SubmitTaskRequest::decode(message) else { return };
    let again = SubmitTaskRequest::decode(&read.encode_to_vec()[..]);
    assert_eq!(again.as_ref(), Ok(&read), "a submit that is kept is read back as another one");
    let spec = read.spec.unwrap_or_default();
    let wrong = check(&spec, &read.idempotency_key);
    for (field, why) in &wrong {
        assert!(!field.is_empty() && why.len() < 20_000, "{field}: {} bytes", why.len());
    }
    if wrong.is_empty() {
        // What was let through has no surprises for what comes after.
        let words = spec.args.iter().chain(spec.env.values());
        assert!(!words.chain(spec.env.keys()).any(|word| word.contains('\0')));
        assert!(spec.reference.parse::<crate::oci::ArtifactRef>().is_ok());
        let outside = Path::new(&spec.reference).is_absolute() || spec.reference.starts_with("oci:");
        assert!(!outside, "{:?} names a path", spec.reference);
    }
}
