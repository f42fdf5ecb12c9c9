//! The registry under clients that mean ill, or are many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::registry_http::{Http, MANIFEST, header, manifest, refusal};
use crate::support::{Home, Node, sha256};

/// Sends bytes as they are; the answer's status, or 0 where there was none.
async fn raw(node: &Node, request: &str) -> u16 {
    let mut stream = TcpStream::connect(&node.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await;
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn no_path_leads_out_of_a_repository() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = Http::of(&node);
    let digest = http.blob("app", b"inside").await;
    let hex = digest.trim_start_matches("sha256:");
    std::fs::write(home.vyr_home().join("store/planted"), "outside").unwrap();
    // As they are: a client library would tidy them up first.
    for path in [
        "/v2/../../etc/passwd",
        "/v2/../store/planted",
        "/v2/app/../other/tags/list",
        "/v2/app/%2e%2e/tags/list",
        "/v2/app%2f..%2f..%2fstore/tags/list",
        "/v2/..%2f..%2f/manifests/v1",
        "/v2/app/blobs/../../planted",
        "/v2/app/blobs/sha256:../../planted",
        "/v2/app/blobs/sha256%3a..%2f..%2fplanted",
        &format!("/v2/app/blobs/sha256/{hex}"),
        &format!("/v2/app/blobs/sha256:{}", hex.to_uppercase()),
        "/v2/app/blobs/uploads/../../../planted",
        "/v2/app/blobs/uploads/..%2f..%2fplanted",
        "/v2/app/manifests/../../planted",
        "/v2/app/manifests/..",
        "/v2/app\\..\\other/tags/list",
        "/v2/app%00/tags/list",
        "/v2//etc/passwd/tags/list",
        "/v2/./app/tags/list",
        &format!("/v2/{}/tags/list", "a/".repeat(200) + "a"),
        &format!("/v2/{}/tags/list", "a".repeat(300)),
    ] {
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
            let status = raw(&node, &request).await;
            assert!((400..=405).contains(&status), "{method} {path}: {status}");
        }
    }
    // Names in the body and in parameters.
    for (path, body) in [
        ("/v2/app/blobs/uploads/?mount=sha256:../../planted&from=app", ""),
        ("/v2/app/blobs/uploads/?digest=sha256:..%2f..%2fplanted", "outside"),
        (&*format!("/v2/app/blobs/uploads/?mount={digest}&from=..%2fother"), ""),
    ] {
        let refused = refusal(http.send("POST", path, &[], body).await).await;
        assert!(refused.0 == 400, "{path}: {refused:?}");
    }
    assert_eq!(http.get(&format!("/v2/app/blobs/{digest}")).await.text().await.unwrap(), "inside");
    let names = http.get("/v2/_catalog").await.text().await.unwrap();
    assert_eq!(names, r#"{"repositories":[]}"#, "nothing has become a repository");
}

#[tokio::test]
async fn a_manifest_that_does_not_say_how_long_it_is_ends_at_4_mib() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = Http::of(&node);
    let config = http.blob("app", b"{}").await;
    let good = manifest(&config, &config, 2, "");
    let pieces = futures_util::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 20])));
    let body = reqwest::Body::wrap_stream(pieces);
    let before = node.kib("VmRSS");
    let url = format!("http://{}/v2/app/manifests/v1", node.address);
    let sent = reqwest::Client::new().put(url).header("content-type", MANIFEST).body(body).send().await;
    // The answer may meet a connection that is full of what nobody reads.
    if let Ok(answer) = sent {
        assert_eq!(refusal(answer).await, (413, "SIZE_INVALID".into()));
    }
    let grown = node.kib("VmHWM").saturating_sub(before);
    assert!(grown < 48 << 10, "{grown} KiB for a manifest that was refused");
    assert_eq!(http.send("PUT", "/v2/app/manifests/v1", &[("content-type", MANIFEST)], good).await.status(), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_that_read_one_blob_each_get_all_of_it() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = Arc::new(Http::of(&node));
    let content: Vec<u8> = (0..8_u32 << 20).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let digest = http.blob("many", &content).await;
    let path = format!("/v2/many/blobs/{digest}");
    let reads: Vec<_> = (0..50)
        .map(|number| {
            let (http, path) = (Arc::clone(&http), path.clone());
            tokio::spawn(async move {
                // Every fifth takes the second half alone.
                let half = [("range", "bytes=4194304-")];
                let headers = if number % 5 == 0 { &half[..] } else { &[] };
                let answer = http.send("GET", &path, headers, "").await;
                (number, answer.status().as_u16(), answer.bytes().await.unwrap())
            })
        })
        .collect();
    for read in reads {
        let (number, status, bytes) = read.await.unwrap();
        if number % 5 == 0 {
            assert!(status == 206 && bytes == content[4 << 20..], "{number}");
        } else {
            assert_eq!((status, sha256(&bytes)), (200, digest.clone()), "{number}");
        }
    }
}

/// How long it is until the node ends a connection on which bytes drip: the head at once, then `drop` each second.
async fn drip(address: String, head: String, drop: &'static str) -> (Duration, String) {
    let began = Instant::now();
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    to.write_all(head.as_bytes()).await.unwrap();
    let dripping = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if to.write_all(drop.as_bytes()).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut said = Vec::new();
    let reading = async {
        let _ = from.read_to_end(&mut said).await;
    };
    tokio::select! {
        () = reading => {}
        () = dripping => {}
        () = tokio::time::sleep(Duration::from_secs(110)) => {}
    }
    (began.elapsed(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_drip_are_ended_and_others_served_meanwhile() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = Http::of(&node);
    let upload = http.begin("slow").await;
    let patch = format!("PATCH {upload} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n");
    let blob = format!(
        "POST /v2/slow/blobs/uploads/?digest={} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n",
        sha256(b"never")
    );
    let put = "PUT /v2/slow/manifests/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n".to_owned();
    let get = "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n".to_owned();
    let began = Instant::now();
    let dripping: Vec<_> = [
        ("nothing", String::new(), "", 30),
        ("half of a method", "P".to_owned(), "", 30),
        ("half of HTTP/2's preface", "PRI * HTTP".to_owned(), "", 30),
        ("headers", get, "X-A: b\r\n", 30),
        ("a blob", blob, "x", 60),
        ("a manifest", put, "x", 60),
    ]
    .into_iter()
    .flat_map(|case| std::iter::repeat_n(case, 20))
    // One client at a time writes to an upload.
    .chain([("a chunk", patch, "x", 60)])
    .map(|(what, head, drop, limit)| (what, limit, tokio::spawn(drip(node.address.clone(), head, drop))))
    .collect();
    // The others, all the while.
    let mut served = 0;
    while began.elapsed() < Duration::from_secs(66) {
        let asked = Instant::now();
        let bytes = format!("blob {served}");
        let digest = http.blob("quick", bytes.as_bytes()).await;
        assert_eq!(http.get(&format!("/v2/quick/blobs/{digest}")).await.text().await.unwrap(), bytes);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        served += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (what, limit, task) in dripping {
        let (took, said) = task.await.unwrap();
        let most = Duration::from_secs(limit + 20);
        assert!(took >= Duration::from_secs(limit - 2) && took < most, "{what} was ended after {took:?}: {said}");
    }
    // What had come of the chunk is kept: the upload can go on.
    let so_far = http.get(&upload).await;
    assert_eq!(so_far.status(), 204);
    assert!(header(&so_far, "range").starts_with("0-"), "{so_far:?}");
    assert!(served > 50, "{served}");
}
