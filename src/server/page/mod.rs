//! Owns the status page: at `/` a page for people, below `/page/` its parts and the JSON that it shows. It only ever reads;
//! there is nothing here that changes the node.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::any;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::access::Caller;
use super::host::Names;
use crate::error::{Error, ErrorKind};
use crate::node::Node;

mod data;
mod events;
mod files;
mod guard;
mod query;
mod trace;
mod views;

/// How many pages may be told of changes at once; each costs a few look-ups a second.
const STREAMS: usize = 64;
/// What the page may do in a browser: show itself and ask this node. Nothing inline, nothing from elsewhere, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// On every answer.
const HEADERS: [(header::HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// The page.
#[derive(Debug, Clone)]
pub(super) struct Page {
    node: Node,
    names: Names,
    streams: Arc<Semaphore>,
}

impl Page {
    pub(super) fn new(node: &Node, names: Names) -> Self {
        Self { node: node.clone(), names, streams: Arc::new(Semaphore::new(STREAMS)) }
    }

    /// Its routes.
    pub(super) fn routes(self, router: axum::Router) -> axum::Router {
        let handler = any(move |request: Request<Body>| {
            let this = self.clone();
            async move { this.answer(request).await }
        });
        router.route("/", handler.clone()).route("/page", handler.clone()).route("/page/{*rest}", handler)
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let (parts, _) = request.into_parts();
        let mut answer = match self.dispatch(&parts).await {
            Ok(answer) => answer,
            Err(refusal) => refusal.into_response(),
        };
        for (name, value) in HEADERS {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    async fn dispatch(&self, request: &Parts) -> Result<Response<Body>, Refusal> {
        if request.method != Method::GET && request.method != Method::HEAD {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "the page only reads"));
        }
        let caller = request.extensions.get::<Caller>();
        let name = caller.map(|caller| &*caller.name);
        guard::check(&self.names, &request.uri, &request.headers, name)?;
        let path = request.uri.path();
        if let Some(file) = files::find(path) {
            return Ok(file.answer(&request.headers));
        }
        match path.strip_prefix("/page/v0/") {
            Some(rest) => self.data(rest, request.uri.query(), name.unwrap_or_default()).await,
            None => Err(not_found("there is nothing here")),
        }
    }
}

/// The answer to who isn't let in. Browsers ask for a password then, which is the token; the user's name is free.
pub(super) fn unauthorized(why: &str) -> Response<Body> {
    let text = format!("{why}; give a token of the node as the password, with any user name\n");
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"vyr\", charset=\"UTF-8\"")], text)
        .into_response()
}

/// Whether `path` is the page's.
pub(super) fn owns(path: &str) -> bool {
    path == "/" || path == "/page" || path.starts_with("/page/")
}

/// A request that isn't answered.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    error: Error,
}

impl Refusal {
    fn new(status: StatusCode, why: impl std::fmt::Display) -> Self {
        let kind = if status == StatusCode::NOT_FOUND { ErrorKind::NotFound } else { ErrorKind::Usage };
        Self { status, error: Error::new(kind, why) }
    }

    fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        self.error = self.error.hint(hint);
        self
    }

    fn into_response(self) -> Response<Body> {
        let error = &self.error;
        // As the command line shows errors to programs.
        let document = serde_json::json!({"error": {
            "kind": error.kind().as_str(), "attempted": error.what(), "why": error.why(), "next": error.next(),
        }});
        let mut answer = json(&document);
        *answer.status_mut() = self.status;
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        answer
    }
}

fn not_found(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, why)
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Usage | ErrorKind::InvalidContent => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Unavailable | ErrorKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
            _ => {
                tracing::error!(error = %error, "the status page could not show something");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self { status, error }
    }
}

/// A document; it is asked for again each time, since it is about what changes.
fn json(document: &impl Serialize) -> Response<Body> {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    match serde_json::to_string(document) {
        Ok(text) => (headers, text).into_response(),
        Err(e) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("the answer can't be written as JSON: {e}\n")).into_response()
        }
    }
}
