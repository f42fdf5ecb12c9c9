//! Owns the words for a node that isn't reached. What the libraries below the client say of it is for programmers, and
//! another thing from one try to the next.

use crate::error::{Error, ErrorKind};

/// How the client begins.
const NO_NODE: &str = "no node answers at ";

/// The same error in words to act on, where it is about a node that isn't reached.
pub(super) fn plainly(error: Error) -> Error {
    let known = error.why().strip_prefix(NO_NODE).and_then(|rest| {
        let (address, words) = rest.split_once(": ")?;
        Some((address.to_owned(), told(address, words)?))
    });
    let Some((address, (why, next))) = known.filter(|_| error.kind() == ErrorKind::Unavailable) else { return error };
    let plain = Error::new(error.kind(), format!("{NO_NODE}{address}: {why}"));
    let plain = match next.or(error.next()) {
        Some(next) => plain.hint(next),
        None => plain,
    };
    match error.what() {
        Some(what) => plain.attempted(what),
        None => plain,
    }
}

/// Why, and what to do where that is another thing than to start one.
fn told(address: &str, words: &str) -> Option<(String, Option<&'static str>)> {
    let has = |part: &str| words.contains(part);
    let (why, next) = if has("Connection refused") {
        ("nothing listens there", None)
    } else if has("Permission denied") {
        (
            "its socket is another user's",
            Some(
                "start one of your own with `vyr serve`, or ask its owner for a token and name it by --node http://HOST:PORT",
            ),
        )
    } else if has("No such file or directory") {
        ("there is no such socket", None)
    } else if let Some((_, resolver)) = words.split_once("failed to lookup address information: ") {
        return Some((
            format!("the host is not known: {resolver}"),
            Some("check the host's name, and that this machine has a network"),
        ));
    } else if has("UnknownIssuer") {
        ("nobody issued its certificate whom this machine trusts", None)
    } else if address.starts_with("https:") && has("corrupt message") {
        (
            "what listens there speaks no TLS",
            Some("write http:// for a node without a certificate, or correct the port"),
        )
    } else if address.starts_with("http:") && (has("http2 error") || has("connection error") || has("broken pipe")) {
        (
            "what listens there speaks no gRPC: it is no node, or one that speaks TLS",
            Some("correct the port, or write https:// for a node with a certificate"),
        )
    } else if has("deadline has elapsed") || has("timed out") {
        ("it doesn't answer in time", Some("check the address, and that no firewall is between"))
    } else {
        return None;
    };
    Some((why.to_owned(), next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_not_reaching_a_node_is_told_by_itself() {
        for (words, why, next) in [
            ("http://127.0.0.1:7070: tcp connect error: Connection refused", "nothing listens there", "start one"),
            ("unix:/a/b: Permission denied", "another user's", "token"),
            ("unix:/a/b: No such file or directory", "no such socket", "start one"),
            (
                "http://a:1: transport error: http2 error: connection error detected: frame with invalid size",
                "no gRPC",
                "https://",
            ),
            (
                "http://a:1: transport error: connection error: stream closed because of a broken pipe",
                "no gRPC",
                "https://",
            ),
            ("https://a:1: received corrupt message of type InvalidContentType", "speaks no TLS", "http://"),
            (
                "http://a:1: dns error: failed to lookup address information: Name or service not known",
                "is not known: Name",
                "check",
            ),
            ("https://a:1: invalid peer certificate: UnknownIssuer", "nobody issued", "start one"),
            ("http://a:1: deadline has elapsed", "in time", "firewall"),
            ("http://a:1: something new", "something new", "start one"),
        ] {
            let error = Error::new(ErrorKind::Unavailable, format!("{NO_NODE}{words}"));
            let told = plainly(error.hint("start one").attempted("list tasks"));
            assert!(told.why().contains(why) && told.next().is_some_and(|said| said.contains(next)), "{words}: {told}");
            assert_eq!((told.kind(), told.what()), (ErrorKind::Unavailable, Some("list tasks")), "{words}");
        }
        let other = Error::new(ErrorKind::Unavailable, "the node is stopping");
        assert_eq!(plainly(other).why(), "the node is stopping");
    }
}
