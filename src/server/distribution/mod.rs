//! Owns the node's own OCI registry, below `/v2/` (distribution spec 1.1): requests are translated into what `store`
//! keeps, which is what runs use. Nothing is copied on a push or before a run.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::any;
use futures_util::StreamExt as _;

use crate::error::{Error, ErrorKind, Result};
use crate::node::Node;
use crate::server::access::{Access, Caller};
use crate::store::{Layout, Store, StoreError};

mod blobs;
mod gate;
mod listing;
mod manifests;
mod mirrored;
mod path;
mod range;
mod receive;
mod refusal;
mod sessions;
mod token;
mod uploads;

pub(super) use path::is_name;

use path::Route;
use refusal::{Code, Refusal};
use sessions::Sessions;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// How much of a body that nobody wants is still read, so that its sender hears why, and for how long.
const DRAIN: (usize, Duration) = (16 << 20, Duration::from_secs(5));

/// A request that isn't let in at all.
pub(super) fn denied(status: StatusCode, why: impl std::fmt::Display) -> Response<Body> {
    let mut answer = Refusal::new(Code::Denied, why).status(status.as_u16()).into_response();
    answer.headers_mut().insert(VERSION, HeaderValue::from_static("registry/2.0"));
    answer
}

/// The registry.
#[derive(Debug, Clone)]
pub(super) struct Distribution {
    store: Store,
    layout: Layout,
    sessions: Sessions,
    access: Arc<Access>,
    node: Node,
}

impl Distribution {
    /// The registry of a node's store, with the uploads that an earlier process left, and the rule for its callers.
    ///
    /// # Errors
    /// The store can't be read.
    pub(super) async fn open(node: &Node, access: Arc<Access>) -> Result<Self> {
        let store = node.vyr().store().await?.clone();
        let layout = store.layout().clone();
        let sessions = Sessions::resume(layout.clone());
        let failed = |_| Error::new(ErrorKind::Storage, "the open uploads can't be read");
        Ok(Self { sessions: sessions.await.map_err(failed)?, store, layout, access, node: node.clone() })
    }

    /// Its routes.
    pub(super) fn routes(self, router: axum::Router) -> axum::Router {
        let handler = move |request: Request<Body>| {
            let this = self.clone();
            async move { this.answer(request).await }
        };
        let handler = any(handler);
        router.route("/v2", handler.clone()).route("/v2/", handler.clone()).route("/v2/{*rest}", handler)
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        let mut answer = match self.dispatch(&parts, &mut body).await {
            Ok(answer) => answer,
            Err(refusal) => {
                // Who waits for a "100 Continue" hasn't begun, and for who isn't let in nothing is done.
                let heard = !parts.headers.contains_key(header::EXPECT) && refusal.code() != Code::Unauthorized;
                if let Some(body) = body.filter(|_| heard) {
                    drain(body).await;
                }
                refusal.into_response()
            }
        };
        answer.headers_mut().insert(VERSION, HeaderValue::from_static("registry/2.0"));
        answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }

    async fn dispatch(
        &self,
        parts: &axum::http::request::Parts,
        body: &mut Option<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let reads = parts.method == Method::GET || parts.method == Method::HEAD;
        // Browsers say where a page comes from that has them write; no registry client does. On loopback anybody's
        // page could write otherwise.
        if !reads && parts.headers.contains_key(header::ORIGIN) {
            return Err(Refusal::new(Code::Denied, "web pages may not write here"));
        }
        let query = Query::read(parts.uri.query());
        if parts.uri.path() == gate::TOKEN {
            return self.token(parts, &query, body).await;
        }
        // Rights are for the repository that is meant, whatever name a mirror's client has for it.
        let route = path::parse(parts.uri.path()).and_then(|route| self.unmirrored(route, &query));
        let Caller { rights, .. } = self.let_in(parts, route.as_ref().ok(), &query)?;
        let route = route?;
        if !reads && parts.method != Method::DELETE {
            self.not_mirrored(&route)?;
        }
        match (route, &parts.method) {
            (Route::Base, _) if reads => {
                Ok(answer(StatusCode::OK, &[(header::CONTENT_TYPE, "application/json".to_owned())], Body::from("{}")))
            }
            (Route::Catalog, _) if reads => self.catalog(&query, &rights).await,
            (Route::Tags(name), _) if reads => self.tags(&name, &query).await,
            (Route::Referrers(name, digest), _) if reads => self.referrers(&name, &digest, &query).await,
            (Route::Manifest(name, named), _) if reads => self.manifest(&name, &named, parts).await,
            (Route::Manifest(name, named), &Method::PUT) => self.put_manifest(name, named, parts, &query, body).await,
            (Route::Manifest(name, named), &Method::DELETE) => self.remove_manifest(&name, &named).await,
            (Route::Blob(name, digest), _) if reads => self.blob(&name, digest, parts).await,
            (Route::Blob(name, digest), &Method::DELETE) => self.remove_blob(&name, &digest).await,
            (Route::Uploads(name), &Method::POST) => self.begin_upload(name, &query, &rights, body).await,
            (Route::Upload(name, id), &Method::PATCH) => self.chunk(name, id, parts, body).await,
            (Route::Upload(name, id), &Method::PUT) => self.end_upload(name, id, parts, &query, body).await,
            (Route::Upload(name, id), &Method::DELETE) => self.cancel_upload(name, id).await,
            (Route::Upload(name, id), _) if reads => self.upload_status(&name, id).await,
            _ => Err(Refusal::new(Code::Unsupported, format!("{} can't be done here", parts.method))),
        }
    }
}

/// The parameters of a request.
#[derive(Debug)]
struct Query(Vec<(String, String)>);

impl Query {
    fn read(text: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn answer(status: StatusCode, headers: &[(HeaderName, String)], body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    for (name, value) in headers {
        // What stands in them was parsed: none has a byte that a header can't.
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(name.clone(), value);
        }
    }
    answer
}

/// Runs work on files off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Refusal> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

async fn drain(body: Body) {
    let mut stream = body.into_data_stream();
    let mut read = 0;
    let all = async {
        while let Some(Ok(piece)) = stream.next().await {
            read += piece.len();
            if read > DRAIN.0 {
                break;
            }
        }
    };
    // Too slow or too long: then the connection ends.
    let _ = tokio::time::timeout(DRAIN.1, all).await;
}
