//! Owns the names under which this node answers who doesn't have to say who they are: those that can only mean this machine,
//! and those that it was told are its own. A page of another site may make any other name mean this machine (DNS
//! rebinding), and a browser then takes what is read here for that site's own.

use std::net::IpAddr;

use axum::http::{HeaderMap, Uri, header};

/// What to do where a name isn't known.
pub(super) const NEXT: &str =
    "ask for it as localhost:PORT, name this one with `vyr serve --host-name`, or give the node --token-file";

/// The names that mean this node.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(std::sync::Arc<[String]>);

impl Names {
    /// Those of this machine, and these, each without a port.
    pub(super) fn new(also: &[String]) -> Self {
        Self(also.iter().map(|name| plain(name)).collect())
    }

    /// Whether a request names this node.
    pub(super) fn are_in(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        host(uri, headers).is_some_and(|host| is_this_machine(host) || self.0.contains(&plain(host)))
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
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
    let host = plain(host);
    if host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn known(also: &[&str], uri: &str, host: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert("host", HeaderValue::from_str(host).unwrap());
        }
        let also: Vec<String> = also.iter().map(|name| (*name).to_owned()).collect();
        Names::new(&also).are_in(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn only_names_of_this_machine_and_given_ones_are_known() {
        for host in
            ["localhost", "LOCALHOST:7070", "a.localhost:1", "127.0.0.1:7070", "127.8.9.1", "[::1]:7070", "[::1]"]
        {
            assert!(known(&[], "/", Some(host)), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example:7070", "10.0.0.1", "127.0.0.1.evil.example", "[::2]", "", ":1"]
        {
            assert!(!known(&["node.example"], "/", Some(host)), "{host}");
        }
        assert!(!known(&[], "/", None));
        assert!(!known(&[], "http://evil.example/", Some("localhost")));
        for host in ["node.example", "Node.Example:7070", "node.example.:7070"] {
            assert!(known(&["NODE.example"], "/", Some(host)), "{host}");
        }
        assert!(!known(&["node.example"], "/", Some("a.node.example")));
    }
}
