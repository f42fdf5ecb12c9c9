//! Owns which requests of browsers are answered at all: none that another site's page makes, and where nobody has to say
//! who they are, none under a name that isn't this machine's.

use axum::http::{HeaderMap, StatusCode, Uri};

use super::Refusal;
use crate::server::access::ANONYMOUS;
use crate::server::host::{NEXT, Names};

/// Whether a request may be answered.
///
/// # Errors
/// Why not.
pub(super) fn check(names: &Names, uri: &Uri, headers: &HeaderMap, caller: Option<&str>) -> Result<(), Refusal> {
    // Without a credential all that keeps another site out is the browser's rule of origins, which goes by names: a name
    // of that site's own may be made to mean this machine (DNS rebinding). Credentials go by names too, so with one there
    // is nothing to add.
    if caller == Some(ANONYMOUS) && !names.are_in(uri, headers) {
        return Err(Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "without a credential the page answers under a name of this machine alone",
        )
        .hint(NEXT));
    }
    // The way in may be a link from anywhere; what it shows is for itself.
    let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
    if uri.path().starts_with("/page/v0/") && !matches!(site, None | Some(b"same-origin" | b"none")) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "this is for the node's own page"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked(path: &str, host: Option<&str>, site: Option<&str>, caller: &str) -> Option<StatusCode> {
        let mut headers = HeaderMap::new();
        for (name, value) in [("host", host), ("sec-fetch-site", site)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
        }
        check(&Names::default(), &path.parse().unwrap(), &headers, Some(caller)).err().map(|refusal| refusal.status)
    }

    #[test]
    fn only_names_of_this_machine_count_where_nobody_says_who_they_are() {
        for path in ["/", "/page/v0/node"] {
            assert_eq!(asked(path, Some("localhost:7070"), None, ANONYMOUS), None);
            for host in [Some("evil.example"), Some("127.0.0.1.evil.example"), None] {
                assert_eq!(asked(path, host, None, ANONYMOUS), Some(StatusCode::MISDIRECTED_REQUEST), "{host:?}");
                assert_eq!(asked(path, host, None, "ci"), None, "{host:?} with a credential");
            }
        }
    }

    #[test]
    fn another_site_s_page_gets_the_way_in_and_no_data() {
        for site in ["cross-site", "same-site", "nonsense"] {
            assert_eq!(asked("/page/v0/tasks", Some("localhost"), Some(site), "ci"), Some(StatusCode::FORBIDDEN));
            assert_eq!(asked("/", Some("localhost"), Some(site), "ci"), None);
        }
        for site in ["same-origin", "none"] {
            assert_eq!(asked("/page/v0/tasks", Some("localhost"), Some(site), "ci"), None);
        }
    }
}
