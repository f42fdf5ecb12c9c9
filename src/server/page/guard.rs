//! Owns which requests of browsers are answered at all: none that another site's page makes, and where nobody has to say
//! who they are, none under a name that isn't this machine's.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, Uri, header};

use super::Refusal;

/// What a caller that nobody knows is named.
const ANONYMOUS: &str = "anonymous";

/// Whether a request may be answered.
///
/// # Errors
/// Why not.
pub(super) fn check(uri: &Uri, headers: &HeaderMap, caller: Option<&str>) -> Result<(), Refusal> {
    // Without a credential all that keeps another site out is the browser's rule of origins, which goes by names: a name
    // of that site's own may be made to mean this machine (DNS rebinding). Credentials go by names too, so with one there
    // is nothing to add.
    if caller == Some(ANONYMOUS) && !host(uri, headers).is_some_and(is_this_machine) {
        return Err(Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "without a credential the page answers under a name of this machine alone",
        )
        .hint("open it as http://localhost:PORT/, or give the node --token-file"));
    }
    // The way in may be a link from anywhere; what it shows is for itself.
    let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
    if uri.path().starts_with("/page/v0/") && !matches!(site, None | Some(b"same-origin" | b"none")) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "this is for the node's own page"));
    }
    Ok(())
}

/// The host that was asked, without its port.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    if let Some(host) = uri.host() {
        return Some(host);
    }
    let host = headers.get(header::HOST)?.to_str().ok()?;
    if host.starts_with('[') {
        return host.split_inclusive(']').next();
    }
    host.split(':').next()
}

/// Whether a name or an address can only mean this machine.
fn is_this_machine(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
        check(&path.parse().unwrap(), &headers, Some(caller)).err().map(|refusal| refusal.status)
    }

    #[test]
    fn only_names_of_this_machine_count_where_nobody_says_who_they_are() {
        for host in
            ["localhost", "LOCALHOST:7070", "a.localhost:1", "127.0.0.1:7070", "127.8.9.1", "[::1]:7070", "[::1]"]
        {
            assert_eq!(asked("/page/v0/node", Some(host), None, ANONYMOUS), None, "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example:7070", "10.0.0.1", "127.0.0.1.evil.example", "[::2]", "", ":1"]
        {
            for path in ["/", "/page/v0/node"] {
                assert_eq!(asked(path, Some(host), None, ANONYMOUS), Some(StatusCode::MISDIRECTED_REQUEST), "{host}");
            }
            assert_eq!(asked("/page/v0/node", Some(host), None, "ci"), None, "{host} with a credential");
        }
        assert_eq!(asked("/", None, None, ANONYMOUS), Some(StatusCode::MISDIRECTED_REQUEST));
        assert_eq!(
            asked("http://evil.example/", Some("localhost"), None, ANONYMOUS),
            Some(StatusCode::MISDIRECTED_REQUEST)
        );
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
