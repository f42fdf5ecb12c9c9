//! A registry that misbehaves: each way is a distinct error of the documented kind, and nothing false is kept.

use std::sync::Arc;
use std::time::Duration;

use super::{Act, Fake, answer, bytes_of, content, quick, quick_client};
use crate::ErrorKind::{NotFound, Refused, Storage, Unauthorized, Unavailable};
use crate::oci::{self, Digest, media};
use crate::registry::transport::Scheme;
use crate::registry::{BlobSink as _, Client, ClientOptions, HeaderSource, MemorySink, ProxySettings, ThreadedSink};
use crate::{Error, ErrorKind};

fn expect(error: &Error, kind: ErrorKind, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    assert!(error.next().is_some(), "no hint in: {text}");
}

/// Pulls a blob that its descriptor says to be `data`.
async fn pull(client: &Client, fake: &Fake, digest: &Digest, size: usize, sink: &mut MemorySink) -> Result<(), Error> {
    client.blob(&fake.reference("a/b:v1"), digest, size as u64, sink, &()).await
}

#[tokio::test]
async fn statuses_have_their_kinds_and_the_registrys_words() {
    for (status, kind, tries) in [
        ("401 Unauthorized", Unauthorized, 1),
        ("403 Forbidden", Unauthorized, 1),
        ("404 Not Found", NotFound, 1),
        ("400 Bad Request", Unavailable, 1),
        ("429 Too Many Requests", Unavailable, 3),
        ("500 Internal Server Error", Unavailable, 3),
        ("503 Service Unavailable", Unavailable, 3),
    ] {
        let fake =
            Fake::start(move |_, _| answer(status, "", br#"{"errors":[{"code":"SOME_CODE","message":"some words"}]}"#))
                .await;
        let client = quick_client();
        client.core.remember_scheme(&fake.address.to_string(), Scheme::Plain);
        let digest = oci::sha256(b"x");
        let reference = fake.reference("a/b:v1");
        let manifest = client.manifest(&reference).await.unwrap_err();
        expect(&manifest, kind, &[&fake.address.to_string(), "a/b:v1", status, "SOME_CODE, some words"]);
        assert_eq!(fake.seen().len(), tries, "{status}");
        let blob = pull(&client, &fake, &digest, 1, &mut MemorySink::default()).await.unwrap_err();
        expect(&blob, kind, &["a/b", digest.as_ref(), status]);
        assert_eq!(fake.seen().len(), 2 * tries, "{status}");
    }
}

#[tokio::test]
async fn transient_failures_pass_and_retry_after_is_kept() {
    let body = content(100);
    let served = body.clone();
    let fake = Fake::start(move |n, _| match n {
        0 => answer("429 Too Many Requests", "Retry-After: 1\r\n", b""),
        1 => Act::Reset(Vec::new()),
        _ => answer("200 OK", "", &served),
    })
    .await;
    let (client, mut sink, started) = (quick_client(), MemorySink::default(), std::time::Instant::now());
    pull(&client, &fake, &oci::sha256(&body), 100, &mut sink).await.unwrap();
    assert!(sink.0 == body && started.elapsed() >= Duration::from_secs(1));

    let fake = Fake::start(|_, _| answer("429 Too Many Requests", "Retry-After: 3600\r\n", b"")).await;
    let error = client.manifest(&fake.reference("a:v1")).await.unwrap_err();
    expect(&error, Unavailable, &["429", "3600 s"]);
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn a_broken_download_is_resumed_where_it_broke() {
    let body = content(3 << 20);
    let served = body.clone();
    let fake = Fake::start(move |n, request| {
        let length = served.len();
        let start: usize = request
            .header("range")
            .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix(&format!("-{}", length - 1)))
            .map_or(0, |start| start.parse().unwrap());
        let (status, range) = match start {
            0 => ("200 OK", String::new()),
            _ => ("206 Partial Content", format!("Content-Range: bytes {start}-{}/{length}\r\n", length - 1)),
        };
        let headers = format!("{range}Content-Length: {}\r\n", length - start);
        let end = if n < 4 { (start + 700_000).min(length) } else { length };
        let bytes = bytes_of(status, &headers, &served[start..end]);
        if n % 2 == 0 { Act::Reset(bytes) } else { Act::Send(bytes) }
    })
    .await;
    let mut sink = ThreadedSink::new(Vec::new(), 0);
    let digest = oci::sha256(&body);
    quick_client().blob(&fake.reference("a:v1"), &digest, body.len() as u64, &mut sink, &()).await.unwrap();
    assert!(sink.finish().await.unwrap() == body);
    let seen = fake.seen();
    assert!(seen.len() >= 4 && seen[0].header("range").is_none(), "{seen:?}");
    assert!(seen.iter().skip(1).all(|s| s.header("range").is_some_and(|r| r != "bytes=0-")), "{seen:?}");
}

#[tokio::test]
async fn a_server_that_ignores_range_is_read_from_its_start() {
    let body = content(300_000);
    let served = body.clone();
    let fake = Fake::start(move |n, _| {
        let headers = format!("Content-Length: {}\r\n", served.len());
        if n == 0 {
            Act::Reset(bytes_of("200 OK", &headers, &served[..123_457]))
        } else {
            answer("200 OK", "", &served)
        }
    })
    .await;
    let mut sink = MemorySink::default();
    pull(&quick_client(), &fake, &oci::sha256(&body), body.len(), &mut sink).await.unwrap();
    assert!(sink.0 == body);
    assert!(fake.seen()[1].header("range").is_some());
}

#[tokio::test]
async fn lies_about_lengths_and_ranges_are_refused_and_nothing_is_written_past_the_size() {
    let digest = oci::sha256(b"whatever");
    let chunked = |body: &[u8]| {
        let mut bytes = format!("{:x}\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n0\r\n\r\n");
        Act::Send(bytes_of("200 OK", "Transfer-Encoding: chunked\r\n", &bytes))
    };
    let cases: Vec<(Act, usize, &str)> = vec![
        (answer("200 OK", "", &content(1001)), 0, "sends 1001 bytes where its descriptor leaves 1000"),
        (answer("200 OK", "", &content(999)), 0, "sends 999 bytes"),
        (chunked(&content(1001)), 0, "more than the 1000 bytes"),
        (chunked(&content(999)), 0, "ends it after 999 bytes"),
        (answer("206 Partial Content", "Content-Range: bytes 0-999/1000\r\n", &content(1000)), 500, "range"),
        (answer("206 Partial Content", "Content-Range: bytes 400-999/1000\r\n", &content(600)), 500, "range"),
        (answer("206 Partial Content", "Content-Range: bytes 500-999/2000\r\n", &content(500)), 500, "range"),
        (answer("206 Partial Content", "Content-Range: bytes 500-899/1000\r\n", &content(400)), 500, "range"),
        (answer("206 Partial Content", "", &content(500)), 500, "range"),
        (answer("206 Partial Content", "Content-Range: bytes 500-999/1000\r\n", &content(501)), 500, "sends 501 bytes"),
        (answer("416 Range Not Satisfiable", "Content-Range: bytes */500\r\n", b""), 500, "no bytes after 500"),
        (answer("204 No Content", "", b""), 0, "204"),
    ];
    for (act, start, words) in cases {
        let shown = format!("{act:?}").chars().take(120).collect::<String>();
        let fake = Fake::start(move |_, _| act.clone()).await;
        let mut sink = MemorySink(content(1000)[..start].to_vec());
        let error = pull(&quick_client(), &fake, &digest, 1000, &mut sink)
            .await
            .err()
            .unwrap_or_else(|| panic!("accepted {shown}"));
        expect(&error, Refused, &[words, digest.as_ref(), "a/b"]);
        assert_eq!(fake.seen().len(), 1, "a lie is not tried again: {shown}");
        assert!(sink.position() <= 1000);
    }
}

#[tokio::test]
async fn a_registry_that_hangs_is_given_up() {
    let before = Fake::start(|_, _| Act::Hang(Vec::new())).await;
    let error = quick_client().manifest(&before.reference("a:v1")).await.unwrap_err();
    expect(&error, Unavailable, &["did not answer in time", &before.address.to_string()]);
    assert_eq!(before.seen().len(), 3);

    let within = Fake::start(|_, _| Act::Hang(bytes_of("200 OK", "Content-Length: 1000\r\n", &content(10)))).await;
    let error = pull(&quick_client(), &within, &oci::sha256(b""), 1000, &mut MemorySink::default()).await.unwrap_err();
    expect(&error, Unavailable, &["in time"]);

    let gone = Fake::start(|_, _| Act::Send(Vec::new())).await;
    let reference = gone.reference("a:v1");
    drop(gone);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let error = quick_client().manifest(&reference).await.unwrap_err();
    expect(&error, Unavailable, &["no connection to 127.0.0.1"]);
}

#[tokio::test]
async fn an_upload_that_stands_still_is_given_up() {
    let fake = Fake::start(|_, request| match request.method.as_str() {
        "HEAD" => answer("404 Not Found", "", b""),
        "POST" => answer("202 Accepted", "Location: /v2/a/blobs/uploads/1\r\n", b""),
        _ => Act::Hang(Vec::new()),
    })
    .await;
    let bytes = bytes::Bytes::from(content(1000));
    let error = quick_client()
        .push_blob_bytes(&fake.reference("a:v1"), &oci::sha256(&bytes), bytes, None, &())
        .await
        .unwrap_err();
    expect(&error, Unavailable, &["stood still", "blob sha256:"]);
}

#[tokio::test]
async fn an_upload_counts_when_the_blob_is_there_though_no_address_came() {
    for (there, name) in [(true, "a:v1"), (false, "b:v1")] {
        let fake = Fake::start(move |n, request| match request.method.as_str() {
            "HEAD" if n == 0 || !there => answer("404 Not Found", "", b""),
            "HEAD" => answer("200 OK", "Content-Length: 1000\r\n", b""),
            "POST" => answer("202 Accepted", "Location: /v2/a/blobs/uploads/1\r\n", b""),
            _ => answer("201 Created", "", b""),
        })
        .await;
        let bytes = bytes::Bytes::from(content(1000));
        let digest = oci::sha256(&bytes);
        let pushed = quick_client().push_blob_bytes(&fake.reference(name), &digest, bytes, None, &()).await;
        assert_eq!(pushed.is_ok(), there, "{pushed:?}");
    }
}

#[tokio::test]
async fn an_upload_is_repeated_as_a_whole() {
    let fake = Fake::start(|n, request| match request.method.as_str() {
        "HEAD" => answer("404 Not Found", "", b""),
        "POST" => answer("202 Accepted", "Location: /v2/a/blobs/uploads/1\r\n", b""),
        _ if n < 3 => answer("503 Service Unavailable", "", b""),
        _ => answer("201 Created", "Location: /v2/a/blobs/x\r\n", b""),
    })
    .await;
    let bytes = bytes::Bytes::from(content(700_000));
    quick_client()
        .push_blob_bytes(&fake.reference("a:v1"), &oci::sha256(&bytes), bytes.clone(), None, &())
        .await
        .unwrap();
    let puts: Vec<_> = fake.seen().into_iter().filter(|s| s.method == "PUT").collect();
    assert!(puts.len() == 2 && puts.iter().all(|p| p.body == bytes));
}

#[tokio::test]
async fn what_is_too_much_for_one_request_goes_in_pieces() {
    let fake = Fake::start(|_, request| match request.method.as_str() {
        "HEAD" => answer("404 Not Found", "", b""),
        "POST" => answer("202 Accepted", "Location: /v2/a/blobs/uploads/1\r\n", b""),
        "PATCH" => {
            let end = request.headers.get("content-range").and_then(|r| r.split_once('-')).map_or("0", |(_, end)| end);
            answer("202 Accepted", &format!("Location: /v2/a/blobs/uploads/1\r\nRange: 0-{end}\r\n"), b"")
        }
        _ if request.body.is_empty() => answer("201 Created", "Location: /v2/a/blobs/x\r\n", b""),
        _ => answer("413 Payload Too Large", "", b""),
    })
    .await;
    let bytes = bytes::Bytes::from(content(9 << 20));
    let digest = oci::sha256(&bytes);
    quick_client().push_blob_bytes(&fake.reference("a:v1"), &digest, bytes.clone(), None, &()).await.unwrap();
    let pieces: Vec<_> = fake.seen().into_iter().filter(|s| s.method == "PATCH").map(|s| s.body).collect();
    assert!(pieces.len() == 3 && pieces.concat() == bytes, "{} pieces", pieces.len());
}

#[tokio::test]
async fn manifests_are_verified_and_capped() {
    let body = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    let fake = Fake::start(|_, _| answer("200 OK", "Content-Type: application/json\r\n", body)).await;
    let client = quick_client();
    let fetched = client.manifest(&fake.reference("a:v1")).await.unwrap();
    assert_eq!(
        (fetched.digest, fetched.media_type.as_str(), &fetched.bytes[..]),
        (oci::sha256(body), media::MANIFEST, &body[..])
    );
    // HEAD says no digest here, so resolve asks once more, by GET.
    assert_eq!(client.resolve(&fake.reference("a:v1")).await.unwrap().digest, oci::sha256(body));
    let mut hasher =
        oci::Hasher::for_digest(&oci::parse_digest(&format!("sha512:{}", "0".repeat(128))).unwrap()).unwrap();
    hasher.update(body);
    let sha512 = hasher.finish();
    assert_eq!(client.manifest(&fake.reference(&format!("a@{sha512}"))).await.unwrap().digest, sha512);

    for wrong in [oci::sha256(b"other"), oci::parse_digest(&format!("sha512:{}", "0".repeat(128))).unwrap()] {
        let error = client.manifest(&fake.reference(&format!("a@{wrong}"))).await.unwrap_err();
        expect(&error, Refused, &[wrong.as_ref(), "not"]);
    }
    let header = format!("Docker-Content-Digest: {}\r\n", oci::sha256(b"other"));
    let liar = Fake::start(move |_, _| answer("200 OK", &header, body)).await;
    expect(&client.manifest(&liar.reference("a:v1")).await.unwrap_err(), Refused, &["digest"]);
    let by_digest = liar.reference(&format!("a@{}", oci::sha256(body)));
    expect(&client.resolve(&by_digest).await.unwrap_err(), Refused, &["digest"]);

    let limit = usize::try_from(oci::MAX_MANIFEST_BYTES).unwrap();
    for said in [true, false] {
        let big = Fake::start(move |_, _| {
            let body = vec![b' '; limit + 1];
            if said { answer("200 OK", "", &body) } else { Act::Send(bytes_of("200 OK", "", &body)) }
        })
        .await;
        expect(&client.manifest(&big.reference("a:v1")).await.unwrap_err(), Refused, &["4194304"]);
    }
    let cut = Fake::start(|_, _| Act::Send(bytes_of("200 OK", "Content-Length: 100\r\n", b"{}"))).await;
    expect(&client.manifest(&cut.reference("a:v1")).await.unwrap_err(), Unavailable, &["broke"]);
}

#[tokio::test]
async fn a_pushed_manifest_must_be_kept_under_its_own_digest() {
    let header = format!("Docker-Content-Digest: {}\r\nLocation: /x\r\n", oci::sha256(b"other"));
    let fake = Fake::start(move |_, _| answer("201 Created", &header, b"")).await;
    let error = quick_client().push_manifest(&fake.reference("a:v1"), media::MANIFEST, b"{}").await.unwrap_err();
    expect(&error, Refused, &["a:v1", "digest"]);
    let by_digest = fake.reference(&format!("a@{}", oci::sha256(b"other")));
    expect(&quick_client().push_manifest(&by_digest, media::MANIFEST, b"{}").await.unwrap_err(), Refused, &["digest"]);
    assert_eq!(fake.seen().len(), 1, "nothing is sent under a wrong digest");
}

#[tokio::test]
async fn a_failing_sink_ends_the_download() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let fake = Fake::start(|_, _| answer("200 OK", "", &content(4 << 20))).await;
    let mut sink = ThreadedSink::new(Full, 0);
    let error =
        quick_client().blob(&fake.reference("a:v1"), &oci::sha256(b""), 4 << 20, &mut sink, &()).await.unwrap_err();
    expect(&error, Storage, &["blob sha256:", "space"]);
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn redirects_are_followed_without_the_credentials_or_trace_headers() {
    let body = content(5000);
    let served = body.clone();
    let storage = Fake::start(move |_, _| answer("200 OK", "", &served)).await;
    let target = format!("http://localhost:{}/signed?x=1", storage.address.port());
    let registry = Fake::start(move |_, request| match request.header("authorization") {
        None => answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", b""),
        Some(_) => answer("307 Temporary Redirect", &format!("Location: {target}\r\n"), b""),
    })
    .await;
    let (_folder, config) =
        super::docker_config(&format!(r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#, registry.address));
    let source: Arc<dyn Fn(&mut reqwest::header::HeaderMap) + Send + Sync> = Arc::new(|headers| {
        headers.insert("traceparent", reqwest::header::HeaderValue::from_static("00-1-2-01"));
    });
    let client =
        Client::new(ClientOptions { docker_config: config, headers: Some(HeaderSource(source)), ..quick() }).unwrap();
    let mut sink = MemorySink::default();
    pull(&client, &registry, &oci::sha256(&body), body.len(), &mut sink).await.unwrap();
    assert!(sink.0 == body);
    let asked = registry.seen();
    assert_eq!(asked[1].header("authorization"), Some("Basic bWU6c2VjcmV0"));
    assert_eq!(asked[1].header("traceparent"), Some("00-1-2-01"));
    let stored = storage.seen();
    assert!(stored[0].target == "/signed?x=1" && stored[0].header("authorization").is_none(), "{stored:?}");
    assert!(stored[0].header("traceparent").is_none());

    // A storage that asks for credentials gets none either.
    let asking = Fake::start(|_, _| answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", b"")).await;
    let target = format!("http://localhost:{}/", asking.address.port());
    let registry =
        Fake::start(move |_, _| answer("307 Temporary Redirect", &format!("Location: {target}\r\n"), b"")).await;
    let error =
        pull(&client, &registry, &oci::sha256(&body), body.len(), &mut MemorySink::default()).await.unwrap_err();
    expect(&error, Unauthorized, &["401"]);
    assert!(asking.seen().len() == 1 && asking.seen()[0].header("authorization").is_none());

    let around = Fake::start(|_, request| answer("302 Found", &format!("Location: {}\r\n", request.target), b"")).await;
    expect(&client.manifest(&around.reference("a:v1")).await.unwrap_err(), Unavailable, &["redirected"]);
    let file = Fake::start(|_, _| answer("302 Found", "Location: file:///etc/passwd\r\n", b"")).await;
    expect(&client.manifest(&file.reference("a:v1")).await.unwrap_err(), Unavailable, &["no web address"]);
}

#[tokio::test]
async fn tls_that_meets_plain_http_names_the_flag() {
    let fake = Fake::start(|_, _| answer("200 OK", "", b"{}")).await;
    let client = quick_client();
    client.core.remember_scheme(&fake.address.to_string(), Scheme::Tls);
    let error = client.manifest(&fake.reference("a:v1")).await.unwrap_err();
    expect(&error, Unavailable, &["plain HTTP", "--plain-http", &fake.address.to_string()]);
}

#[tokio::test]
async fn proxies_are_used_for_others_and_never_for_loopback() {
    let proxy = Fake::start(|_, _| answer("200 OK", "", b"{}")).await;
    let direct = Fake::start(|_, _| answer("200 OK", "", b"{}")).await;
    let settings = ProxySettings {
        http: Some(format!("http://{}", proxy.address)),
        no_proxy: Some("direct.invalid".into()),
        ..ProxySettings::default()
    };
    let client = Client::new(ClientOptions { plain_http: true, proxy: settings, ..quick() }).unwrap();
    let far = oci::parse_reference("registry.invalid/a:v1").unwrap();
    client.manifest(&far).await.unwrap();
    assert_eq!(proxy.seen()[0].target, "http://registry.invalid/v2/a/manifests/v1");
    client.manifest(&direct.reference("a:v1")).await.unwrap();
    assert_eq!((proxy.seen().len(), direct.seen().len()), (1, 1));
    let excepted = oci::parse_reference("direct.invalid/a:v1").unwrap();
    assert_eq!(client.manifest(&excepted).await.unwrap_err().kind(), Unavailable);
    assert_eq!(proxy.seen().len(), 1);
}

#[tokio::test]
async fn a_ca_file_that_is_none_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    for text in [None, Some("nothing"), Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let client = Client::new(ClientOptions { ca_files: vec![path.clone()], ..quick() }).unwrap();
        let error = client.manifest(&oci::parse_reference("registry.invalid/a:v1").unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{text:?}: {error}");
    }
}

#[tokio::test]
async fn no_more_blobs_than_allowed_are_read_at_once() {
    let fake = Fake::start(|_, _| Act::Hang(bytes_of("200 OK", "Content-Length: 10\r\n", b""))).await;
    let client = Client::new(ClientOptions { concurrency: 2, retries: 0, ..quick() }).unwrap();
    let pulls = (0..5).map(|_| {
        let (client, reference) = (client.clone(), fake.reference("a:v1"));
        tokio::spawn(
            async move { client.blob(&reference, &oci::sha256(b""), 10, &mut MemorySink::default(), &()).await },
        )
    });
    let pulls: Vec<_> = pulls.collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fake.seen().len(), 2);
    pulls.iter().for_each(tokio::task::JoinHandle::abort);
}
