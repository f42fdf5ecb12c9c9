//! What others put beside an artifact, in repositories of their own, keeps nobody from running it; nor does what a disk spoils.

use serde_json::{Value, json};

use super::registry_http::{Http, header, refusal};
use crate::support::{Home, Node, sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// `localhost:PORT/app@sha256:…`, signed with the home's own key, which came by a registry; and its digest.
fn victim(home: &Home, node: &Node) -> (String, String) {
    let hello = vyr_guests::guest("hello-p1");
    let pushed = home.vyr(["push", &format!("{}/app:v1", node.host()), hello.to_str().unwrap()]).expect(0);
    let digest = pushed.stdout.trim().rsplit_once('@').unwrap().1.to_owned();
    (format!("{}/app@{digest}", node.host()), digest)
}

fn descriptor(media_type: &str, bytes: &[u8], more: Value) -> Value {
    let mut made = json!({ "mediaType": media_type, "digest": sha256(bytes), "size": bytes.len() });
    made.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    made
}

async fn put(http: &Http, repository: &str, reference: &str, manifest: &Value) -> reqwest::Response {
    let path = format!("/v2/{repository}/manifests/{reference}");
    http.send("PUT", &path, &[("content-type", MANIFEST)], manifest.to_string()).await
}

fn blob_path(home: &Home, digest: &str) -> std::path::PathBuf {
    home.vyr_home().join("store/blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
}

fn spoil(home: &Home, digest: &str) {
    let mut bytes = std::fs::read(blob_path(home, digest)).unwrap();
    bytes[0] ^= 1;
    std::fs::write(blob_path(home, digest), bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_beside_an_artifact_keeps_nobody_from_running_it() {
    let (node_home, home) = (Home::new(), Home::new());
    let node = Node::start(&node_home, &[]);
    let http = Http::of(&node);
    let (reference, digest) = victim(&home, &node);
    // The node trusts who signed it; nothing else of theirs is here.
    let key = home.machine_key();
    node_home.vyr(["trust", "add", "--key", key.public.to_str().unwrap()]).expect(0);
    let run = || node_home.vyr(["run", "--pull", "never", &reference]);
    assert_eq!(run().expect(0).stdout, "hello from wasm\n");

    let config = b"{}";
    http.blob("zzz/other", config).await;
    let config = descriptor("application/vnd.oci.empty.v1+json", config, json!({}));
    let size = std::fs::metadata(blob_path(&node_home, &digest)).unwrap().len();
    let subject = json!({ "mediaType": MANIFEST, "digest": digest, "size": size });

    // A bundle that says it needn't be there, and isn't.
    let absent = descriptor("application/vnd.dev.sigstore.bundle.foreign", b"nowhere", json!({}));
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE, "config": config,
        "layers": [absent], "subject": subject });
    let refused = refusal(put(&http, "zzz/other", &sha256(manifest.to_string().as_bytes()), &manifest).await).await;
    assert_eq!(refused, (400, "MANIFEST_BLOB_UNKNOWN".into()));

    // One that is there, and that the disk spoils.
    let spoilt = http.blob("zzz/other", b"no bundle").await;
    let layer = descriptor(BUNDLE, b"no bundle", json!({}));
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE, "config": config,
        "layers": [layer], "subject": subject });
    let path = sha256(manifest.to_string().as_bytes());
    assert_eq!(put(&http, "zzz/other", &path, &manifest).await.status(), 201);
    spoil(&node_home, &spoilt);

    // More signatures than are looked at, under a name that comes first.
    let payload = http.blob("aaa/other", b"{}").await;
    assert_eq!(payload, sha256(b"{}"));
    let layers: Vec<Value> = (0..200)
        .map(|n| {
            descriptor(SIMPLE, b"{}", json!({ "annotations": { "dev.cosignproject.cosign/signature": n.to_string() } }))
        })
        .collect();
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
    let tag = format!("{}.sig", digest.replacen(':', "-", 1));
    assert_eq!(put(&http, "aaa/other", &tag, &manifest).await.status(), 201);

    std::fs::remove_dir_all(node_home.vyr_home().join("cache")).unwrap();
    assert_eq!(run().expect(0).stdout, "hello from wasm\n");
    home.vyr(["submit", "--logs", "--node", &format!("http://{}", node.address), &reference]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_of_referrers_come_in_pages_that_a_client_reads() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = Http::of(&node);
    let (_, digest) = victim(&home, &node);
    let config = descriptor("application/vnd.oci.empty.v1+json", b"{}", json!({}));
    http.blob("app", b"{}").await;
    let size = std::fs::metadata(blob_path(&home, &digest)).unwrap().len();
    let subject = json!({ "mediaType": MANIFEST, "digest": digest, "size": size });
    let mut wanted = std::collections::BTreeSet::new();
    for n in 0..30 {
        // One of them fills a page by itself.
        let note = "x".repeat(if n == 0 { 3 << 20 } else { 200 << 10 });
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "a/b", "config": config,
            "layers": [], "subject": subject, "annotations": { "n": n.to_string(), "note": note } });
        let path = sha256(manifest.to_string().as_bytes());
        assert_eq!(put(&http, "app", &path, &manifest).await.status(), 201);
        wanted.insert(path);
    }
    let mut found = std::collections::BTreeSet::new();
    let (mut next, mut pages) = (format!("/v2/app/referrers/{digest}?artifactType=a%2Fb"), 0);
    loop {
        let answer = http.get(&next).await;
        let link = header(&answer, "link");
        let body = answer.bytes().await.unwrap();
        assert!(body.len() < 4 << 20, "{}", body.len());
        let page: Value = serde_json::from_slice(&body).unwrap();
        for one in page["manifests"].as_array().unwrap() {
            assert!(found.insert(one["digest"].as_str().unwrap().to_owned()), "listed twice");
        }
        pages += 1;
        match link.strip_prefix('<').and_then(|link| link.split_once('>')) {
            Some((link, _)) => next = link.to_owned(),
            None => break,
        }
    }
    assert_eq!(found, wanted);
    assert!(pages > 2, "{pages}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_has_spoilt_is_no_client_s_fault_and_a_push_brings_it_back() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let http = Http::of(&node);
    let (_, digest) = victim(&home, &node);
    let blob = http.blob("app", b"what was pushed").await;
    spoil(&home, &digest);
    let (status, code) = refusal(http.get("/v2/app/manifests/v1").await).await;
    assert!(status >= 500 && code == "UNKNOWN", "{status} {code}");
    spoil(&home, &blob);
    assert_eq!(http.blob("app", b"what was pushed").await, blob);
    let back = http.get(&format!("/v2/app/blobs/{blob}")).await;
    assert_eq!(back.bytes().await.unwrap(), "what was pushed");
}
