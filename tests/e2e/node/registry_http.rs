//! The node's own registry at the wire: what the distribution spec says of each request, and bad ones.

use reqwest::{Client, Method, Response};

use crate::support::{Home, Node, sha256};

pub(super) struct Http {
    client: Client,
    base: String,
}

impl Http {
    pub(super) fn of(node: &Node) -> Self {
        Self { client: Client::new(), base: format!("http://{}", node.address) }
    }

    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let url = if path.starts_with('/') { format!("{}{path}", self.base) } else { path.to_owned() };
        let mut request = self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], "").await
    }

    /// Begins an upload; its path.
    pub(super) async fn begin(&self, repository: &str) -> String {
        let begun = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], "").await;
        assert_eq!(begun.status(), 202);
        header(&begun, "location")
    }

    pub(super) async fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let put = self.send("POST", &path, &[], bytes.to_vec()).await;
        assert_eq!(put.status(), 201);
        assert_eq!(header(&put, "location"), format!("/v2/{repository}/blobs/{digest}"));
        digest
    }
}

pub(super) fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
}

/// The status and the code in the body.
pub(super) async fn refusal(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    assert_eq!(header(&response, "content-type"), "application/json");
    let body: serde_json::Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    let error = &body["errors"][0];
    assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
    (status, error["code"].as_str().unwrap().to_owned())
}

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(super) fn manifest(config: &str, layer: &str, size: usize, more: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"a/b","digest":"{layer}","size":{size}}}]{more}}}"#
    )
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_cut_and_after_a_restart_too() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = Http::of(&node);
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let digest = sha256(&content);
    let upload = http.begin("a/b").await;

    let first = http.send("PATCH", &upload, &[("content-range", "0-999999")], content[..1_000_000].to_vec()).await;
    assert_eq!((first.status().as_u16(), header(&first, "range")), (202, "0-999999".into()));
    // Out of order, twice, badly written, of another length than it says: nothing of it counts.
    for (range, body, status) in [
        ("2000000-2999999", &content[2_000_000..], 416),
        ("0-999999", &content[..1_000_000], 416),
        ("999999-1000000", &content[..2], 416),
        ("bytes 1000000-1000001/3000000", &content[..2], 416),
        ("1000000-1000009", &content[..5], 400),
    ] {
        let wrong = http.send("PATCH", &upload, &[("content-range", range)], body.to_vec()).await;
        assert_eq!(refusal(wrong).await.0, status, "{range}");
    }
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(content[..100].to_vec())]);
    let short =
        http.send("PATCH", &upload, &[("content-range", "1000000-1000999")], reqwest::Body::wrap_stream(chunks)).await;
    assert_eq!(refusal(short).await, (400, "SIZE_INVALID".into()));
    let so_far = http.get(&upload).await;
    assert_eq!((so_far.status().as_u16(), header(&so_far, "range")), (204, "0-999999".into()));

    // The connection breaks within a chunk: what arrived is kept.
    {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = tokio::net::TcpStream::connect(&node.address).await.unwrap();
        let head = format!("PATCH {upload} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&content[1_000_000..1_500_000]).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    let so_far = http.get(&upload).await;
    assert_eq!(header(&so_far, "range"), "0-1499999");
    node.kill();
    let node = Node::start(&home, &[]);
    let http = Http::of(&node);
    let so_far = http.get(&upload).await;
    assert_eq!((so_far.status().as_u16(), header(&so_far, "range")), (204, "0-1499999".into()));
    let end = format!("{upload}?digest={digest}");
    let ended = http.send("PUT", &end, &[("content-range", "1500000-2999999")], content[1_500_000..].to_vec()).await;
    assert_eq!((ended.status().as_u16(), header(&ended, "docker-content-digest")), (201, digest.clone()));
    let whole = http.get(&header(&ended, "location")).await;
    assert_eq!(sha256(&whole.bytes().await.unwrap()), digest);
    assert_eq!(refusal(http.get(&upload).await).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
}

#[tokio::test]
async fn blobs_are_read_whole_by_ranges_and_only_where_they_were_put() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = Http::of(&node);
    let digest = http.blob("one", b"0123456789").await;
    let path = format!("/v2/one/blobs/{digest}");
    let head = http.send("HEAD", &path, &[], "").await;
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, "10".into()));
    let tag = header(&head, "etag");
    for (headers, status, range, body) in [
        (vec![], 200, "", "0123456789"),
        (vec![("range", "bytes=2-4")], 206, "bytes 2-4/10", "234"),
        (vec![("range", "bytes=-3")], 206, "bytes 7-9/10", "789"),
        (vec![("range", "bytes=8-")], 206, "bytes 8-9/10", "89"),
        (vec![("range", "bytes=0-1,3-4")], 200, "", "0123456789"),
        (vec![("range", "bytes=8-"), ("if-range", tag.as_str())], 206, "bytes 8-9/10", "89"),
        (vec![("range", "bytes=8-"), ("if-range", "\"other\"")], 200, "", "0123456789"),
        (vec![("if-none-match", tag.as_str())], 304, "", ""),
    ] {
        let got = http.send("GET", &path, &headers, "").await;
        assert_eq!((got.status().as_u16(), header(&got, "content-range")), (status, range.to_owned()), "{headers:?}");
        assert_eq!(got.text().await.unwrap(), body, "{headers:?}");
    }
    // Ranges are of GET alone: RFC 9110, section 14.2.
    for range in ["bytes=2-4", "bytes=10-"] {
        let head = http.send("HEAD", &path, &[("range", range)], "").await;
        let got = (head.status().as_u16(), header(&head, "content-length"), header(&head, "content-range"));
        assert_eq!(got, (200, "10".into(), String::new()), "{range}");
    }
    let outside = http.send("GET", &path, &[("range", "bytes=10-")], "").await;
    assert_eq!((outside.status().as_u16(), header(&outside, "content-range")), (416, "bytes */10".into()));

    // Another repository doesn't have it before it's mounted there.
    let there = format!("/v2/two/blobs/{digest}");
    assert_eq!(refusal(http.get(&there).await).await, (404, "BLOB_UNKNOWN".into()));
    let missing = http.send("POST", &format!("/v2/two/blobs/uploads/?mount={digest}&from=none"), &[], "").await;
    assert_eq!(missing.status(), 202);
    let mounted = http.send("POST", &format!("/v2/two/blobs/uploads/?mount={digest}&from=one"), &[], "").await;
    assert_eq!((mounted.status().as_u16(), header(&mounted, "location")), (201, there.clone()));
    assert_eq!(http.get(&there).await.status(), 200);
    assert_eq!(http.send("DELETE", &path, &[], "").await.status(), 202);
    assert_eq!(http.get(&path).await.status(), 404);
    assert_eq!(http.send("DELETE", &path, &[], "").await.status(), 404);
    assert_eq!(http.get(&there).await.status(), 200, "each repository for itself");
    // No manifest names it yet, and it stays.
    home.vyr(["gc"]).expect(0);
    assert_eq!(http.get(&there).await.status(), 200);
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_its_code() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = Http::of(&node);
    let (config, layer) = (http.blob("app", b"{}").await, http.blob("app", b"layer").await);
    let other = sha256(b"other");
    let good = manifest(&config, &layer, 5, "");
    let typed = [("content-type", MANIFEST)];

    let wrong = http.send("POST", &format!("/v2/app/blobs/uploads/?digest={other}"), &[], "x").await;
    assert_eq!(refusal(wrong).await, (400, "DIGEST_INVALID".into()));
    assert_eq!(http.get(&format!("/v2/app/blobs/{other}")).await.status(), 404);
    let upload = http.begin("app").await;
    for digest in ["", "sha256:12", "md5:d41d8cd98f00b204e9800998ecf8427e", &other] {
        let wrong = http.send("PUT", &format!("{upload}?digest={digest}"), &[], "x").await;
        assert_eq!(refusal(wrong).await, (400, "DIGEST_INVALID".into()), "{digest}");
    }
    let elsewhere = http.begin("app").await.replace("/v2/app/", "/v2/other/");
    assert_eq!(refusal(http.send("PATCH", &elsewhere, &[], "x").await).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));

    let absent = manifest(&config, &other, 5, "");
    let list = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"{MANIFEST}","digest":"{other}","size":5}}]}}"#
    );
    let index = [("content-type", "application/vnd.oci.image.index.v1+json")];
    let large = format!("{}{}", good, " ".repeat(4 << 20));
    for (path, headers, body, is) in [
        ("/v2/app/manifests/v1", &typed, absent.as_str(), (400, "MANIFEST_BLOB_UNKNOWN")),
        ("/v2/app/manifests/v1", &index, list.as_str(), (400, "MANIFEST_BLOB_UNKNOWN")),
        ("/v2/elsewhere/manifests/v1", &typed, good.as_str(), (400, "MANIFEST_BLOB_UNKNOWN")),
        ("/v2/app/manifests/v1", &typed, "{}", (400, "MANIFEST_INVALID")),
        ("/v2/app/manifests/v1", &typed, "not json", (400, "MANIFEST_INVALID")),
        ("/v2/app/manifests/v1", &index, good.as_str(), (400, "MANIFEST_INVALID")),
        ("/v2/app/manifests/v1", &typed, large.as_str(), (413, "SIZE_INVALID")),
        (&*format!("/v2/app/manifests/{other}"), &typed, good.as_str(), (400, "DIGEST_INVALID")),
        ("/v2/app/manifests/-v1", &typed, good.as_str(), (400, "MANIFEST_INVALID")),
        ("/v2/App/manifests/v1", &typed, good.as_str(), (400, "NAME_INVALID")),
        ("/v2/a%2f..%2fb/manifests/v1", &typed, good.as_str(), (400, "NAME_INVALID")),
    ] {
        let refused = refusal(http.send("PUT", path, headers, body.to_owned()).await).await;
        assert_eq!((refused.0, refused.1.as_str()), is, "{path} {}", &body[..body.len().min(200)]);
    }
    for (method, path, is) in [
        ("GET", "/v2/app/manifests/v1", (404, "MANIFEST_UNKNOWN")),
        ("GET", "/v2/none/manifests/v1", (404, "NAME_UNKNOWN")),
        ("GET", "/v2/none/tags/list", (404, "NAME_UNKNOWN")),
        ("GET", "/v2/app/tags/list?n=x", (400, "UNSUPPORTED")),
        ("GET", "/v2/app/referrers/sha256:12", (400, "DIGEST_INVALID")),
        ("DELETE", "/v2/app/manifests/v1", (404, "MANIFEST_UNKNOWN")),
        ("PUT", "/v2/app/tags/list", (405, "UNSUPPORTED")),
        ("GET", "/v2/app/nothing", (404, "UNSUPPORTED")),
    ] {
        let refused = refusal(http.send(method, path, &[], "").await).await;
        assert_eq!((refused.0, refused.1.as_str()), is, "{method} {path}");
    }
    let page = [("origin", "http://evil.example"), ("content-type", "text/plain")];
    let denied = http.send("POST", "/v2/app/blobs/uploads/", &page, "").await;
    assert_eq!(refusal(denied).await, (403, "DENIED".into()));
    assert_eq!(http.send("PUT", "/v2/app/manifests/v1", &typed, good).await.status(), 201, "it goes on");
}

#[tokio::test]
async fn tags_come_in_pages_and_referrers_by_their_kind() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = Http::of(&node);
    let (config, layer) = (http.blob("app", b"{}").await, http.blob("app", b"layer").await);
    let good = manifest(&config, &layer, 5, "");
    let digest = sha256(good.as_bytes());
    for tag in ["b", "a", "C", "d_1", "v1.0-rc"] {
        http.send("PUT", &format!("/v2/app/manifests/{tag}"), &[("content-type", MANIFEST)], good.clone()).await;
    }
    // A repository whose name goes on where this one's ends has its own.
    http.blob("app-2", b"{}").await;
    let mut next = "/v2/app/tags/list?n=2".to_owned();
    let mut seen: Vec<String> = Vec::new();
    while !next.is_empty() {
        let page = http.get(&next).await;
        next = header(&page, "link").split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        let page: serde_json::Value = serde_json::from_str(&page.text().await.unwrap()).unwrap();
        seen.extend(page["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()));
    }
    assert_eq!(seen, ["C", "a", "b", "d_1", "v1.0-rc"]);
    assert_eq!(http.get("/v2/app/tags/list?n=0").await.text().await.unwrap(), r#"{"name":"app","tags":[]}"#);
    let after = http.get("/v2/app/tags/list?last=b").await.text().await.unwrap();
    assert_eq!(after, r#"{"name":"app","tags":["d_1","v1.0-rc"]}"#);

    // A referrer may come before what it's about, and a collection leaves it.
    let about = |kind: &str, subject: &str, size: usize| {
        manifest(
            &config,
            &layer,
            5,
            &format!(
                r#","artifactType":"{kind}","subject":{{"mediaType":"{MANIFEST}","digest":"{subject}","size":{size}}},"annotations":{{"k":"v"}}"#
            ),
        )
    };
    let later = sha256(b"comes later");
    for (kind, subject, size) in
        [("a/sbom", &digest, good.len()), ("a/sig", &digest, good.len()), ("a/early", &later, 11)]
    {
        let body = about(kind, subject, size);
        let path = format!("/v2/app/manifests/{}", sha256(body.as_bytes()));
        let put = http.send("PUT", &path, &[("content-type", MANIFEST)], body).await;
        assert_eq!((put.status().as_u16(), header(&put, "oci-subject")), (201, subject.clone()));
    }
    home.vyr(["gc"]).expect(0);
    let referrers = async |repository: &str, subject: &str, filter: &str| {
        let got = http.get(&format!("/v2/{repository}/referrers/{subject}{filter}")).await;
        assert_eq!(header(&got, "content-type"), "application/vnd.oci.image.index.v1+json");
        let applied = header(&got, "oci-filters-applied");
        let body: serde_json::Value = serde_json::from_str(&got.text().await.unwrap()).unwrap();
        let kinds: Vec<String> = body["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["artifactType"].as_str().unwrap().to_owned())
            .collect();
        (kinds, applied)
    };
    assert_eq!(referrers("app", &digest, "").await, (vec!["a/sbom".into(), "a/sig".into()], String::new()));
    let filtered = referrers("app", &digest, "?artifactType=a/sig").await;
    assert_eq!(filtered, (vec!["a/sig".into()], "artifactType".into()));
    assert_eq!(referrers("app", &later, "").await.0, ["a/early"]);
    assert!(referrers("app-2", &digest, "").await.0.is_empty());

    // A tag goes alone; a digest takes its tags along.
    assert_eq!(http.send("DELETE", "/v2/app/manifests/a", &[], "").await.status(), 202);
    assert_eq!(http.get("/v2/app/manifests/a").await.status(), 404);
    assert_eq!(http.get("/v2/app/manifests/b").await.status(), 200);
    assert_eq!(http.send("DELETE", &format!("/v2/app/manifests/{digest}"), &[], "").await.status(), 202);
    assert_eq!(http.get("/v2/app/manifests/b").await.status(), 404);
    assert_eq!(http.get("/v2/app/tags/list").await.text().await.unwrap(), r#"{"name":"app","tags":[]}"#);
}

#[tokio::test]
async fn ten_thousand_open_uploads_are_too_many_and_slow_clients_keep_nobody_out() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = std::sync::Arc::new(Http::of(&node));
    let mut slow = Vec::new();
    for _ in 0..600 {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = tokio::net::TcpStream::connect(&node.address).await.unwrap();
        let digest = sha256(b"never");
        let head = format!(
            "POST /v2/slow/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nn"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let mut counts = std::collections::BTreeMap::<u16, usize>::new();
    let mut begun = None;
    for _ in 0..100 {
        let http = std::sync::Arc::clone(&http);
        let some = async move {
            let mut answers = Vec::new();
            for _ in 0..100 {
                answers.push(http.send("POST", "/v2/many/blobs/uploads/", &[], "").await);
            }
            answers
        };
        for answer in some.await {
            *counts.entry(answer.status().as_u16()).or_default() += 1;
            if answer.status() == 202 {
                begun = Some(header(&answer, "location"));
            }
        }
    }
    assert_eq!(counts[&202] + counts[&429], 10_000, "{counts:?}");
    assert!(counts[&202] <= 4096 && counts[&202] > 1000, "{counts:?}");
    http.blob("free", b"a blob in one request needs none").await;
    let upload = begun.unwrap();
    assert_eq!(http.send("DELETE", &upload, &[], "").await.status(), 204);
    assert_eq!(http.send("POST", "/v2/many/blobs/uploads/", &[], "").await.status(), 202, "one has become free");
    eprintln!("with {} slow clients and {counts:?}: {} KiB", slow.len(), node.kib("VmRSS"));
}

#[tokio::test]
async fn a_page_whose_name_was_made_to_mean_this_machine_reads_nothing() {
    let home = Home::new();
    let node = Node::start(&home, &["--host-name", "node.example"]);
    let port = node.address.rsplit(':').next().unwrap();
    let registry = Http::of(&node);
    let digest = registry.blob("app", b"something").await;
    let paths = ["/v2/", "/v2/_catalog", "/v2/token", "/metrics", &format!("/v2/app/blobs/{digest}")];
    for path in paths {
        for host in ["evil.example".to_owned(), format!("localhost.evil.example:{port}"), format!("10.0.0.1:{port}")] {
            let answer = registry.send("GET", path, &[("host", &host)], "").await;
            assert_eq!(answer.status(), 421, "{path} as {host}");
            let text = answer.text().await.unwrap();
            assert!(text.contains("name of this machine alone") && !text.contains("something"), "{text}");
        }
        for host in ["localhost", "127.0.0.1", "[::1]", "node.example"] {
            let answer = registry.send("GET", path, &[("host", &format!("{host}:{port}"))], "").await;
            assert_ne!(answer.status(), 421, "{path} as {host}");
        }
    }
    drop(node);
    // Where a token is asked for, names are the client's own matter.
    let token = home.vyr(["token", "add", "ci"]).expect(0).stdout.trim().to_owned();
    let tokens = home.vyr_home().join("tokens");
    let node = Node::start(&home, &["--token-file", tokens.to_str().unwrap()]);
    let registry = Http::of(&node);
    let bearer = format!("Bearer {token}");
    for path in ["/v2/", "/metrics"] {
        let headers = [("host", "registry.example"), ("authorization", &*bearer)];
        assert_eq!(registry.send("GET", path, &headers, "").await.status(), 200, "{path}");
    }
}
