//! Owns the token service at `/v2/token` (the distribution project's "Token Authentication Specification" and its OAuth2
//! form): a token that `vyr token add` made, for a short-lived one with the scopes that are asked for and granted.

use std::time::SystemTime;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode, header};
use serde_json::json;

use super::gate::BASIC;
use super::refusal::{Code, Refusal};
use super::{Distribution, Query, answer, receive};
use crate::server::access::{LIFE, token_in};

/// The longest form, in bytes.
const MAX_FORM: usize = 64 << 10;

impl Distribution {
    /// `GET` with the token as a password (or without one, for what anybody may read), or `POST` with a form.
    pub(super) async fn token(
        &self,
        parts: &Parts,
        query: &Query,
        body: &mut Option<Body>,
    ) -> Result<Response<Body>, Refusal> {
        if !self.access.gives_passes() {
            return Err(Refusal::new(Code::Unsupported, "this node asks for no tokens").status(404));
        }
        match parts.method {
            Method::GET => {
                let token = match parts.headers.get(header::AUTHORIZATION) {
                    None => None,
                    Some(value) => {
                        Some(token_in(value.as_bytes()).ok_or_else(|| unauthorized("this is no credential"))?)
                    }
                };
                self.give(token.as_deref(), query, None)
            }
            Method::POST => {
                let form = Query::read(Some(&form(body).await?));
                let word = match form.get("grant_type") {
                    Some("password") => "password",
                    // The token itself: it is good until it's taken out.
                    Some("refresh_token") => "refresh_token",
                    _ => {
                        let why = "grant_type has to be password or refresh_token";
                        return Err(Refusal::new(Code::Unsupported, why).status(400));
                    }
                };
                let token = form.get(word).ok_or_else(|| unauthorized(&format!("{word} is missing")))?;
                let keep = form.get("access_type") == Some("offline");
                self.give(Some(token.as_bytes()), &form, keep.then_some(token))
            }
            _ => Err(Refusal::new(Code::Unsupported, format!("{} can't be done here", parts.method))),
        }
    }

    fn give(&self, token: Option<&[u8]>, asked: &Query, refresh: Option<&str>) -> Result<Response<Body>, Refusal> {
        // Each in a parameter of its own, or several with spaces between.
        let scopes = asked.all("scope").flat_map(|text| text.split(' ')).filter(|text| !text.is_empty());
        let given = self.access.pass(token, scopes).map_err(unauthorized)?;
        let scope: Vec<String> = given.scopes.iter().map(ToString::to_string).collect();
        let mut says = json!({
            "token": given.token,
            "access_token": given.token,
            "expires_in": LIFE.as_secs(),
            "issued_at": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            "scope": scope.join(" "),
        });
        if let Some(refresh) = refresh {
            says["refresh_token"] = refresh.into();
        }
        let headers =
            [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CACHE_CONTROL, "no-store".to_owned())];
        Ok(answer(StatusCode::OK, &headers, Body::from(says.to_string())))
    }
}

fn unauthorized(why: &str) -> Refusal {
    Refusal::new(Code::Unauthorized, why).header(header::WWW_AUTHENTICATE, BASIC)
}

async fn form(body: &mut Option<Body>) -> Result<String, Refusal> {
    let bad = |why: String| Refusal::new(Code::Unsupported, why).status(400);
    let mut pieces = receive::Pieces::of(body.take().unwrap_or_default());
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await.map_err(bad)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_FORM {
            return Err(Refusal::new(Code::SizeInvalid, format!("a form has at most {MAX_FORM} bytes")).status(413));
        }
    }
    String::from_utf8(bytes).map_err(|_| bad("the form is no UTF-8".to_owned()))
}
