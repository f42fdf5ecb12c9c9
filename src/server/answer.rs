//! Owns what happens to a request before it reaches its service: who is calling, and by when they want the answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use hyper::body::Incoming;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::access::{Access, Caller, Peer};
use super::control;
use super::distribution::Distribution;
use super::host::{self, Names};
use super::page::{self, Page};
use super::silence::Silence;
use crate::error::{Error, ErrorKind, Result};
use crate::node::Node;

/// How long nothing may come of a call's message. The registry has limits of its own.
const SILENT: Duration = Duration::from_secs(60);
/// What may be asked without a credential: whether the node is there.
const OPEN: [&str; 3] = ["/healthz", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];

/// Everything that this port answers.
pub(super) fn router(
    node: Node,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
    metrics: prometheus::Registry,
    distribution: Distribution,
    names: Names,
) -> Result<axum::Router> {
    let failed = |e: tonic_reflection::server::Error| Error::new(ErrorKind::Internal, format!("no reflection: {e}"));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(vyr_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that clients can show the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let grpc = Routes::new(control::service(node.clone()))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(failed)?)
        // Most clients still ask the older one first.
        .add_service(reflection().build_v1alpha().map_err(failed)?)
        .prepare()
        .into_axum_router();
    let page = Page::new(&node, names);
    Ok(page
        .routes(distribution.routes(grpc))
        .route(
            "/healthz",
            get(move || async move {
                let stopping = node.describe().stopping;
                if stopping { (StatusCode::SERVICE_UNAVAILABLE, "stopping\n") } else { (StatusCode::OK, "ok\n") }
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                let text = prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap_or_default();
                ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text)
            }),
        ))
}

/// Answers one request.
pub(super) async fn answer(
    router: axum::Router,
    access: Arc<Access>,
    names: Names,
    peer: Peer,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    // The registry lets in by repository, and has its own words for who isn't; web pages too.
    let registry = request.uri().path() == "/v2" || request.uri().path().starts_with("/v2/");
    // The page says so itself, and calls are refused to pages by their `Origin`, which reads don't carry.
    if (registry || request.uri().path() == "/metrics")
        && access.is_open_to(&peer)
        && !names.are_in(request.uri(), request.headers())
    {
        return Ok(misdirected(registry));
    }
    if registry {
        request.extensions_mut().insert::<Peer>(peer);
        return router.oneshot(request).await;
    }
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        // Browsers say so when a page makes a call, whatever its content type; no client does. Where nobody has to say who they
        // are, any page, or one whose name was made to mean this machine, could submit tasks otherwise.
        if request.headers().contains_key(header::ORIGIN) {
            let error = Error::new(ErrorKind::Forbidden, "web pages may not call this")
                .hint("call it from a program; the status page shows what there is to see");
            return Ok(match grpc {
                true => super::status::status(&error).into_http(),
                false => (StatusCode::FORBIDDEN, format!("{error}\n")).into_response(),
            });
        }
        // The service itself doesn't look at it, and what a page may send without asking is of other types.
        if !grpc && request.uri().path().starts_with("/vyr.") {
            return Ok((StatusCode::UNSUPPORTED_MEDIA_TYPE, "calls are of the type application/grpc\n").into_response());
        }
    }
    let authorization = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    match access.caller(&peer, authorization) {
        Ok(caller) if caller.rights.whole() => drop(request.extensions_mut().insert::<Caller>(caller)),
        _ if OPEN.contains(&request.uri().path()) => {}
        Ok(caller) => {
            let why = format!("{}'s token is for the registry alone", caller.name);
            if grpc {
                let error = Error::new(ErrorKind::Forbidden, why)
                    .hint("give a token that `vyr token add` made without --read and --write");
                return Ok(super::status::status(&error).into_http());
            }
            // A browser would show it again and again; so it asks for another.
            if page::owns(request.uri().path()) {
                return Ok(page::unauthorized(&why));
            }
            return Ok((StatusCode::FORBIDDEN, format!("{why}\n")).into_response());
        }
        Err(why) if grpc => {
            let error = Error::new(ErrorKind::Unauthorized, why)
                .hint("give a token that `vyr token add` made on the node, or a certificate that it trusts");
            return Ok(super::status::status(&error).into_http());
        }
        Err(why) if page::owns(request.uri().path()) => return Ok(page::unauthorized(why)),
        Err(why) => {
            return Ok(
                (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], format!("{why}\n")).into_response()
            );
        }
    }
    let deadline = request.headers().get("grpc-timeout").filter(|_| grpc).and_then(|value| timeout(value.as_bytes()));
    // What is asked of reflection comes over one stream, at any time.
    let own = request.uri().path().starts_with("/vyr.");
    let request = request.map(|body| if own { Body::new(Silence::new(body, SILENT)) } else { Body::new(body) });
    let answered = router.oneshot(request);
    match deadline {
        None => answered.await,
        Some(deadline) => match tokio::time::timeout(deadline, answered).await {
            Ok(answered) => answered,
            Err(_) => {
                let error = Error::new(ErrorKind::TimedOut, "the call's deadline has passed; what it began goes on");
                Ok(super::status::status(&error).into_http())
            }
        },
    }
}

/// The answer under a name that isn't this node's, where nobody has to say who they are.
fn misdirected(registry: bool) -> Response<Body> {
    let why = "without a credential this is answered under a name of this machine alone";
    if registry {
        return super::distribution::denied(StatusCode::MISDIRECTED_REQUEST, format!("{why}: {}", host::NEXT));
    }
    (StatusCode::MISDIRECTED_REQUEST, format!("{why}; {}\n", host::NEXT)).into_response()
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Requests").
fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        assert_eq!(timeout(b"100m"), Some(Duration::from_millis(100)));
        assert_eq!(timeout(b"2S"), Some(Duration::from_secs(2)));
        assert_eq!(timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in [&b""[..], b"S", b"1", b"-1S", b"123456789S", b"1s"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }
}
