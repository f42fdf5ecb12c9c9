//! Owns the words for a node that isn't reached. What the libraries below say of it is for programmers, and another thing
//! from one try to the next.

/// What to do when a clock or a certificate is wrong.
const CLOCKS: &str = "set the clock that is wrong, or renew the certificate";

/// What rustls says of a certificate that this machine's clock puts outside its time, in words for people.
#[must_use]
pub fn out_of_time(words: &str) -> Option<String> {
    let after = |mark: &str| -> Option<prost_types::Timestamp> {
        let rest = words.split_once(mark)?.1;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(prost_types::Timestamp { seconds: digits.parse().ok()?, nanos: 0 })
    };
    let (what, bound) = match (after("not valid after "), after("not valid before ")) {
        (Some(until), _) => ("has expired: it is valid until", until),
        (None, Some(from)) => ("is not valid yet: it is valid from", from),
        (None, None) => return None,
    };
    Some(format!("the certificate {what} {bound}, and this machine's clock says {}", after("verification time ")?))
}

/// Why, and what to do where that is another thing than to start one. `first`: nothing was ever heard from there; what was
/// heard from before speaks gRPC, and broke off.
pub(crate) fn told(address: &str, words: &str, first: bool) -> Option<(String, Option<&'static str>)> {
    let has = |part: &str| words.contains(part);
    let (why, next) = if has("Connection refused") {
        ("nothing listens there", None)
    } else if has("Permission denied") {
        (
            "its socket is another user's",
            Some(
                "start one of your own with `vyr serve`, or ask its owner for a token and name it by http://HOST:PORT",
            ),
        )
    } else if has("No such file or directory") {
        ("there is no such socket", None)
    } else if let Some((_, resolver)) = words.split_once("failed to lookup address information: ") {
        return Some((
            format!("the host is not known: {resolver}"),
            Some("check the host's name, and that this machine has a network"),
        ));
    } else if let Some(why) = out_of_time(words) {
        return Some((why, Some(CLOCKS)));
    } else if has("CertificateExpired") {
        // An alert of the other side's, for both.
        (
            "by its clock the certificate that is shown to it has expired, or is not valid yet; this machine's may differ",
            Some(CLOCKS),
        )
    } else if has("UnknownIssuer") {
        ("nobody issued its certificate whom this machine trusts", None)
    } else if first && address.starts_with("https:") && has("corrupt message") {
        (
            "what listens there speaks no TLS",
            Some("write http:// for a node without a certificate, or correct the port"),
        )
    } else if first
        && address.starts_with("http:")
        && (has("http2 error") || has("connection error") || has("broken pipe"))
    {
        (
            "what listens there speaks no gRPC: it is no node, or one that speaks TLS",
            Some("correct the port, or write https:// for a node with a certificate"),
        )
    } else if first
        && address.starts_with("https:")
        && (has("connection closed") || has("broken pipe") || has("reset by peer") || has("unexpected end of file"))
    {
        // In TLS 1.3 whoever shows a certificate speaks before it is judged: the reason may come after the connection's end.
        (
            "it closed the connection before it said anything",
            Some(
                "its log says why: it may take only clients who show a certificate, and by its clock that may be out of its time",
            ),
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
        for (address, words, why, next) in [
            ("http://127.0.0.1:7070", "tcp connect error: Connection refused", "nothing listens there", None),
            ("unix:/a/b", "Permission denied", "another user's", Some("token")),
            ("unix:/a/b", "No such file or directory", "no such socket", None),
            (
                "http://a:1",
                "transport error: http2 error: connection error detected: frame with invalid size",
                "no gRPC",
                Some("https://"),
            ),
            (
                "http://a:1",
                "transport error: connection error: stream closed because of a broken pipe",
                "no gRPC",
                Some("https://"),
            ),
            ("https://a:1", "received corrupt message of type InvalidContentType", "speaks no TLS", Some("http://")),
            (
                "http://a:1",
                "dns error: failed to lookup address information: Name or service not known",
                "is not known: Name",
                Some("check"),
            ),
            ("https://a:1", "invalid peer certificate: UnknownIssuer", "nobody issued", None),
            ("https://a:1", "received fatal alert: CertificateExpired", "by its clock", Some("clock")),
            ("https://a:1", "operation was canceled: connection closed", "closed the connection", Some("its log")),
            ("https://a:1", "stream closed because of a broken pipe", "closed the connection", Some("its log")),
            (
                "https://a:1",
                "invalid peer certificate: certificate expired: verification time 1796000000 (UNIX), but certificate is \
                 not valid after 1795000000 (1000000 seconds ago)",
                "has expired: it is valid until 2026-11-18T11:06:40Z, and this machine's clock says 2026-11-30T00:53:20Z",
                Some("renew"),
            ),
            (
                "https://a:1",
                "invalid peer certificate: certificate not valid yet: verification time 1795000000 (UNIX), but \
                 certificate is not valid before 1796000000 (1000000 seconds in future)",
                "not valid yet: it is valid from 2026-11-30T00:53:20Z, and this machine's clock says 2026-11-18",
                Some("clock"),
            ),
            ("http://a:1", "deadline has elapsed", "in time", Some("firewall")),
        ] {
            let told = told(address, words, true).expect(words);
            assert!(told.0.contains(why), "{words}: {told:?}");
            assert_eq!(told.1.is_some(), next.is_some(), "{words}: {told:?}");
            assert!(told.1.is_none_or(|said| next.is_some_and(|next| said.contains(next))), "{words}: {told:?}");
        }
        assert_eq!(told("http://a:1", "something new", true), None);
        assert_eq!(told("http://a:1", "connection error: broken pipe", false), None, "a node that died speaks gRPC");
    }
}
