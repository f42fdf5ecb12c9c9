//! Owns who may do what in the registry, and what a client is asked for that may not: a challenge of Docker's token
//! authentication (401) while a credential could help, and `DENIED` (403) once it's known who is calling.

use axum::http::header;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method};

use super::path::{Route, is_name};
use super::refusal::{Code, Refusal};
use super::{Distribution, Query, header_text};
use crate::server::access::{Action, Caller, Peer, Verdict};

/// What clients call this registry at its token service.
const SERVICE: &str = "vyr";
/// Where the token service is.
pub(super) const TOKEN: &str = "/v2/token";

/// What a request takes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Needs {
    /// A credential, whichever.
    Login,
    Catalog,
    Repository(String, Action),
    /// To push to the first, and where it can be had, to pull from the second.
    Mount(String, String),
}

impl Needs {
    fn of(route: &Route, method: &Method, query: &Query) -> Self {
        match route {
            Route::Base => Self::Login,
            Route::Catalog => Self::Catalog,
            Route::Tags(name) | Route::Referrers(name, _) => Self::Repository(name.clone(), Action::Pull),
            Route::Manifest(name, _) | Route::Blob(name, _) => {
                let action = match *method {
                    Method::GET | Method::HEAD => Action::Pull,
                    Method::DELETE => Action::Delete,
                    _ => Action::Push,
                };
                Self::Repository(name.clone(), action)
            }
            Route::Uploads(name) | Route::Upload(name, _) => match query.get("from").filter(|from| is_name(from)) {
                Some(from) if query.get("mount").is_some() => Self::Mount(name.clone(), from.to_owned()),
                _ => Self::Repository(name.clone(), Action::Push),
            },
        }
    }

    fn verdict(&self, caller: &Caller) -> Verdict {
        match self {
            Self::Login => Verdict::Yes,
            Self::Catalog => caller.rights.may_list(),
            Self::Repository(name, action) => caller.rights.may(*action, name),
            // Where it may not be read there is no mount, and no error: the blob is sent.
            Self::Mount(name, from) => match caller.rights.may(Action::Push, name) {
                Verdict::Yes if caller.rights.may(Action::Pull, from) == Verdict::NotWithThisToken => {
                    Verdict::NotWithThisToken
                }
                other => other,
            },
        }
    }

    /// The scope that a token for it has. Who pushes also looks what is there.
    fn scope(&self) -> Option<String> {
        match self {
            Self::Login => None,
            Self::Catalog => Some("registry:catalog:*".to_owned()),
            Self::Repository(name, Action::Push) => Some(format!("repository:{name}:pull,push")),
            Self::Repository(name, action) => Some(format!("repository:{name}:{}", action.as_str())),
            Self::Mount(name, from) => Some(format!("repository:{name}:pull,push repository:{from}:pull")),
        }
    }
}

impl Distribution {
    /// Who is calling, if they may do what they ask for. A path that can't be read takes a credential, too, before
    /// anybody is told what is wrong with it.
    ///
    /// # Errors
    /// [`Code::Unauthorized`] with a challenge, or [`Code::Denied`].
    pub(super) fn let_in(&self, parts: &Parts, route: Option<&Route>, query: &Query) -> Result<Caller, Refusal> {
        let Some(peer) = parts.extensions.get::<Peer>() else {
            return Err(Refusal::new(Code::Unauthorized, "nobody is known to be calling"));
        };
        let needs = route.map_or(Needs::Login, |route| Needs::of(route, &parts.method, query));
        let authorization = parts.headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let caller = match self.access.caller(peer, authorization) {
            Ok(caller) => caller,
            Err(why) => {
                // A wrong credential isn't the same as none: its sender has to hear of it.
                let reader = self.access.reader(peer).filter(|_| authorization.is_none());
                // Who could log in is asked to where that makes a difference: at the base, and for the catalog.
                let open = reader.filter(|reader| match &needs {
                    Needs::Login | Needs::Catalog => false,
                    needs => needs.verdict(reader) == Verdict::Yes,
                });
                let error = authorization.map(|_| "invalid_token");
                return open.ok_or_else(|| self.challenge(parts, peer, &needs, error, why));
            }
        };
        let verdict = needs.verdict(&caller);
        let scope = needs.scope().unwrap_or_default();
        match verdict {
            Verdict::Yes => Ok(caller),
            Verdict::NotWithThisToken => {
                let why = format!("the token was not made for {scope}");
                Err(self.challenge(parts, peer, &needs, Some("insufficient_scope"), &why))
            }
            Verdict::No if caller.guest => {
                let why = format!("{scope} takes a credential");
                Err(self.challenge(parts, peer, &needs, Some("insufficient_scope"), &why))
            }
            Verdict::No => {
                // Of a mount, the first: the second is no reason.
                let scope = scope.split(' ').next().unwrap_or_default();
                Err(Refusal::new(Code::Denied, format!("{} has no right to {scope}", caller.name)))
            }
        }
    }

    /// The answer to who isn't let in so far.
    fn challenge(&self, parts: &Parts, peer: &Peer, needs: &Needs, error: Option<&str>, why: &str) -> Refusal {
        let refusal = Refusal::new(Code::Unauthorized, why);
        if !self.access.gives_passes() {
            return refusal;
        }
        let Some(base) = base(parts, peer.secure) else {
            return refusal.header(header::WWW_AUTHENTICATE, BASIC);
        };
        // Bearer alone: some clients take the first of two challenges, others the one that they like, and each of them
        // can do this one. Who sends its credential unasked, by either scheme, is let in without it.
        let mut challenge = format!("Bearer realm=\"{base}{TOKEN}\",service=\"{SERVICE}\"");
        for (name, value) in [("scope", needs.scope().as_deref()), ("error", error)] {
            if let Some(value) = value {
                challenge.push_str(&format!(",{name}=\"{value}\""));
            }
        }
        refusal.header(header::WWW_AUTHENTICATE, &challenge)
    }
}

/// The challenge of the token service itself, and where the client doesn't say by which name it came.
pub(super) const BASIC: &str = "Basic realm=\"vyr\"";

/// `scheme://host` as the client knows this node: a realm has to be absolute, and only the client knows under which of
/// its names it reached this. What it says comes back to nobody else.
fn base(parts: &Parts, secure: bool) -> Option<String> {
    let said = header_text(&parts.headers, &header::HOST).or_else(|| parts.uri.authority().map(Authority::as_str))?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if said.len() > 255 || !said.bytes().all(fits) || said.parse::<Authority>().is_err() {
        return None;
    }
    // Behind something that ends TLS on this machine. It only ever makes the way safer.
    let scheme = if secure || ended_before(&parts.headers) { "https" } else { "http" };
    Some(format!("{scheme}://{said}"))
}

fn ended_before(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn parts(host: &str, more: Option<(&str, &str)>) -> Parts {
        let mut request = Request::builder().uri("/v2/").header("host", host);
        if let Some((name, value)) = more {
            request = request.header(name, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_realm_is_under_the_name_that_the_client_used() {
        for (host, secure, more, wanted) in [
            ("localhost:7070", false, None, Some("http://localhost:7070")),
            ("node.example", true, None, Some("https://node.example")),
            ("[::1]:7070", false, None, Some("http://[::1]:7070")),
            ("node.example", false, Some(("x-forwarded-proto", "https")), Some("https://node.example")),
            ("node.example", true, Some(("x-forwarded-proto", "http")), Some("https://node.example")),
            ("a\",x=\"", false, None, None),
            ("user@host", false, None, None),
            ("a/b", false, None, None),
            ("", false, None, None),
        ] {
            assert_eq!(base(&parts(host, more), secure).as_deref(), wanted, "{host}");
        }
        let h2 = Request::builder().uri("https://node.example:7443/v2/").body(()).unwrap().into_parts().0;
        assert_eq!(base(&h2, true).as_deref(), Some("https://node.example:7443"));
    }

    #[test]
    fn every_route_needs_what_it_does() {
        let (name, digest) = ("a/b".to_owned(), crate::oci::sha256(b""));
        let id = uuid::Uuid::now_v7();
        let named = || super::super::path::Named::Tag("v1".into());
        let mount = Needs::of(&Route::Uploads(name.clone()), &Method::POST, &Query::read(Some("mount=x&from=c")));
        assert_eq!(mount.scope().as_deref(), Some("repository:a/b:pull,push repository:c:pull"));
        let (none, odd) = (Query::read(None), Query::read(Some("mount=x&from=../c")));
        assert_eq!(
            Needs::of(&Route::Uploads(name.clone()), &Method::POST, &odd).scope().as_deref(),
            Some("repository:a/b:pull,push")
        );
        for (route, method, scope) in [
            (Route::Base, Method::GET, None),
            (Route::Catalog, Method::GET, Some("registry:catalog:*")),
            (Route::Tags(name.clone()), Method::GET, Some("repository:a/b:pull")),
            (Route::Referrers(name.clone(), digest.clone()), Method::GET, Some("repository:a/b:pull")),
            (Route::Manifest(name.clone(), named()), Method::HEAD, Some("repository:a/b:pull")),
            (Route::Manifest(name.clone(), named()), Method::PUT, Some("repository:a/b:pull,push")),
            (Route::Manifest(name.clone(), named()), Method::DELETE, Some("repository:a/b:delete")),
            (Route::Blob(name.clone(), digest.clone()), Method::GET, Some("repository:a/b:pull")),
            (Route::Blob(name.clone(), digest), Method::DELETE, Some("repository:a/b:delete")),
            (Route::Uploads(name.clone()), Method::POST, Some("repository:a/b:pull,push")),
            (Route::Upload(name.clone(), id), Method::GET, Some("repository:a/b:pull,push")),
            (Route::Upload(name, id), Method::DELETE, Some("repository:a/b:pull,push")),
        ] {
            assert_eq!(Needs::of(&route, &method, &none).scope().as_deref(), scope, "{method} {route:?}");
        }
    }
}
