//! Against the real `docker-registry`, which has no referrers API, and a small registry that has.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde_json::json;

use super::{DockerRegistry, Fake, answer, content, docker_config, make_certificates, quick, quick_client};
use crate::ErrorKind;
use crate::oci::{self, Reference, media};
use crate::registry::{Client, ClientOptions, MemorySink, Progress, Pushed, ReferrersSupport, ThreadedSink};

struct Last(AtomicU64);

impl Progress for Last {
    fn at(&self, position: u64) {
        self.0.store(position, Ordering::Relaxed);
    }
}

async fn push_one(client: &Client, reference: &Reference) -> (Vec<u8>, oci::Digest) {
    let config = Bytes::from_static(oci::EMPTY_JSON);
    let config_digest = oci::sha256(&config);
    client.push_blob_bytes(reference, &config_digest, config, None, &()).await.unwrap();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST, "layers": [],
        "config": {"mediaType": media::EMPTY, "digest": config_digest.to_string(), "size": 2},
    });
    let bytes = manifest.to_string().into_bytes();
    let digest = client.push_manifest(reference, media::MANIFEST, &bytes).await.unwrap();
    (bytes, digest)
}

#[tokio::test]
async fn blobs_and_manifests_go_there_and_back() {
    let registry = DockerRegistry::plain();
    let client = quick_client();
    let reference = registry.reference("a/b:v1");
    let missing = client.manifest(&reference).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    assert!(missing.to_string().contains("/a/b:v1"), "{missing}");

    let data = content(5 << 20);
    let digest = oci::sha256(&data);
    let size = data.len() as u64;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("blob");
    std::fs::write(&file, &data).unwrap();
    assert!(!client.blob_exists(&reference, &digest).await.unwrap());
    let progress = Last(AtomicU64::new(0));
    assert_eq!(client.push_blob(&reference, &digest, size, &file, None, &progress).await.unwrap(), Pushed::Uploaded);
    assert_eq!(progress.0.load(Ordering::Relaxed), size);
    assert!(client.blob_exists(&reference, &digest).await.unwrap());
    assert_eq!(client.push_blob(&reference, &digest, size, &file, None, &()).await.unwrap(), Pushed::Existed);
    let other = registry.reference("other:v1");
    assert_eq!(client.push_blob(&other, &digest, size, &file, Some("a/b"), &()).await.unwrap(), Pushed::Mounted);
    let unmounted = registry.reference("third:v1");
    assert_eq!(
        client.push_blob(&unmounted, &digest, size, &file, Some("not/there"), &()).await.unwrap(),
        Pushed::Uploaded
    );

    progress.at(0);
    let mut sink = ThreadedSink::new(Vec::new(), 0);
    client.blob(&other, &digest, size, &mut sink, &progress).await.unwrap();
    assert!(sink.finish().await.unwrap() == data);
    assert_eq!(progress.0.load(Ordering::Relaxed), size);
    // From the middle, as after a restart.
    let mut rest = MemorySink(data[..1_234_567].to_vec());
    client.blob(&reference, &digest, size, &mut rest, &()).await.unwrap();
    assert!(rest.0 == data);
    let absent =
        client.blob(&reference, &oci::sha256(b"absent"), 6, &mut MemorySink::default(), &()).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent}");

    let (bytes, digest) = push_one(&client, &reference).await;
    let resolved = client.resolve(&reference).await.unwrap();
    assert_eq!(
        (&resolved.digest, resolved.size, resolved.media_type.as_deref()),
        (&digest, Some(bytes.len() as u64), Some(media::MANIFEST))
    );
    let fetched = client.manifest(&registry.reference(&format!("a/b@{digest}"))).await.unwrap();
    assert_eq!(
        (fetched.digest, &fetched.bytes[..], fetched.media_type.as_str()),
        (digest, &bytes[..], media::MANIFEST)
    );
}

#[tokio::test]
async fn what_is_pushed_wrongly_is_told() {
    let registry = DockerRegistry::plain();
    let (client, reference) = (quick_client(), registry.reference("a:v1"));
    let error = client
        .push_blob_bytes(&reference, &oci::sha256(b"other"), Bytes::from_static(b"this"), None, &())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("digest"), "{error}");
    let error = client.push_manifest(&reference, media::MANIFEST, b"not json").await.unwrap_err();
    assert!(error.to_string().contains("MANIFEST_INVALID"), "{error}");
    let missing = std::path::Path::new("no/such/file");
    let error = client.push_blob(&reference, &oci::sha256(b"x"), 1, missing, None, &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    assert!(error.to_string().contains("no/such/file"), "{error}");
}

#[tokio::test]
async fn a_password_is_needed_and_used() {
    // `me` with `test-password`, bcrypt of the lowest cost.
    let registry = DockerRegistry::start(|folder| {
        let path = folder.join("htpasswd");
        std::fs::write(&path, "me:$2b$04$gBB6mp812z3Gz0YzfztF1u69e067DbNHEmE9aAO09ihDF716WMISO\n").unwrap();
        (format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display()), String::new())
    });
    let reference = registry.reference("a:v1");
    for entry in [String::new(), format!(r#""{}":{{"username":"me","password":"wrong"}}"#, reference.registry())] {
        let (_folder, docker_config) = docker_config(&format!(r#"{{"auths":{{{entry}}}}}"#));
        let client = Client::new(ClientOptions { docker_config, ..quick() }).unwrap();
        let error = client.manifest(&reference).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        assert!(error.to_string().contains("docker login 127.0.0.1"), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    let entry = format!(r#"{{"auths":{{"{}":{{"username":"me","password":"test-password"}}}}}}"#, reference.registry());
    let (_folder, docker_config) = docker_config(&entry);
    let client = Client::new(ClientOptions { docker_config, ..quick() }).unwrap();
    let (bytes, digest) = push_one(&client, &reference).await;
    let fetched = client.manifest(&reference).await.unwrap();
    assert!(fetched.digest == digest && fetched.bytes == bytes);
}

#[tokio::test]
async fn a_private_ca_is_trusted_only_when_given() {
    let registry = DockerRegistry::start(|folder| {
        make_certificates(folder);
        let path = |name: &str| folder.join(name).display().to_string();
        (String::new(), format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.pem"), path("server.key")))
    });
    let reference = registry.reference("a:v1");
    let error = quick_client().manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("--ca-file") && error.to_string().contains("not trusted"), "{error}");

    // The right one is the second of its file.
    let several = tempfile::tempdir().unwrap();
    make_certificates(several.path());
    let mut pem = std::fs::read(several.path().join("ca.pem")).unwrap();
    pem.extend(std::fs::read(registry.folder.path().join("ca.pem")).unwrap());
    let file = several.path().join("both.pem");
    std::fs::write(&file, pem).unwrap();
    let client = Client::new(ClientOptions { ca_files: vec![file], ..quick() }).unwrap();
    let (_, digest) = push_one(&client, &reference).await;
    assert_eq!(client.resolve(&reference).await.unwrap().digest, digest);
}

#[tokio::test]
async fn referrers_by_the_tag_are_added_kept_and_listed() {
    let registry = DockerRegistry::plain();
    let (client, reference) = (quick_client(), registry.reference("a:v1"));
    let (_, subject) = push_one(&client, &reference).await;
    assert_eq!(client.referrers(&reference, &subject, None).await.unwrap(), []);
    assert_eq!(client.referrers_support(&reference), ReferrersSupport::Unsupported);
    let config = oci::sha256(oci::EMPTY_JSON);
    let referrer = |n: u32| {
        json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST, "artifactType": "application/x", "layers": [],
            "config": {"mediaType": media::EMPTY, "digest": config.to_string(), "size": 2},
            "subject": {"mediaType": media::MANIFEST, "digest": subject.to_string(), "size": 3},
            "annotations": {"n": n.to_string()},
        })
        .to_string()
        .into_bytes()
    };
    // The same one twice is listed once; other clients' entries stay.
    let first =
        client.push_referrer(&reference, media::MANIFEST, &referrer(1), &subject, Some("application/x")).await.unwrap();
    client.push_referrer(&reference, media::MANIFEST, &referrer(1), &subject, Some("application/x")).await.unwrap();
    let second = quick_client().push_referrer(&reference, media::MANIFEST, &referrer(2), &subject, None).await.unwrap();
    // The tag's types aren't relied on: a filter takes nothing away.
    for filter in [None, Some("application/other")] {
        let found = client.referrers(&reference, &subject, filter).await.unwrap();
        assert_eq!(found.iter().map(|d| d.digest().clone()).collect::<Vec<_>>(), [first.clone(), second.clone()]);
        assert_eq!(found[0].annotations().as_ref().and_then(|a| a.get("n")).map(String::as_str), Some("1"));
        assert_eq!(found[0].artifact_type().as_ref().map(ToString::to_string).as_deref(), Some("application/x"));
    }
    let fetched = client.manifest(&registry.reference(&format!("a@{first}"))).await.unwrap();
    assert_eq!(fetched.bytes, referrer(1));
}

#[tokio::test]
async fn the_referrers_api_is_paged_and_filtered() {
    let descriptor = |n: u8, kind: &str| json!({"mediaType": media::MANIFEST, "digest": oci::sha256(&[n]).to_string(), "size": 1, "artifactType": kind});
    let page = |entries: &[serde_json::Value]| {
        json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries}).to_string()
    };
    let first = page(&[descriptor(1, "wanted/x"), descriptor(2, "other/x"), json!({"digest": "nonsense"})]);
    let last = page(&[descriptor(3, "wanted/x")]);
    let fake = Fake::start(move |_, request| {
        let kind = format!("Content-Type: {}\r\n", media::INDEX);
        match request.method.as_str() {
            "PUT" => answer("201 Created", "OCI-Subject: sha256:x\r\n", b""),
            _ if request.target.contains("last=2") => answer("200 OK", &kind, last.as_bytes()),
            _ => answer(
                "200 OK",
                &format!("{kind}Link: <{}&last=2>; rel=\"next\"\r\n", request.target),
                first.as_bytes(),
            ),
        }
    })
    .await;
    let (client, reference, subject) = (quick_client(), fake.reference("a:v1"), oci::sha256(b"s"));
    let found = client.referrers(&reference, &subject, Some("wanted/x")).await.unwrap();
    assert_eq!(found.iter().map(|d| d.digest().clone()).collect::<Vec<_>>(), [oci::sha256(&[1]), oci::sha256(&[3])]);
    assert_eq!(client.referrers_support(&reference), ReferrersSupport::Supported);
    assert!(fake.seen()[0].target.ends_with("?artifactType=wanted%2Fx"));
    // A registry that says OCI-Subject lists it itself: the tag is left alone.
    let before = fake.seen().len();
    client.push_referrer(&reference, media::MANIFEST, b"{}", &subject, None).await.unwrap();
    assert_eq!(fake.seen().len(), before + 1);
}

#[tokio::test]
async fn a_listing_without_end_or_that_fails_is_an_error_not_an_empty_one() {
    let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": []}).to_string();
    let endless = Fake::start(move |_, request| {
        let headers = format!("Content-Type: {}\r\nLink: <{}>; rel=\"next\"\r\n", media::INDEX, request.target);
        answer("200 OK", &headers, index.as_bytes())
    })
    .await;
    let subject = oci::sha256(b"s");
    let error = quick_client().referrers(&endless.reference("a:v1"), &subject, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    for (status, kind) in
        [("500 Internal Server Error", ErrorKind::Unavailable), ("403 Forbidden", ErrorKind::Unauthorized)]
    {
        let failing = Fake::start(move |_, _| answer(status, "", b"")).await;
        let error = quick_client().referrers(&failing.reference("a:v1"), &subject, None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    // A web front that answers everything with a page has no API, and no tag either.
    let front = Fake::start(|_, _| answer("200 OK", "Content-Type: text/html\r\n", b"<html></html>")).await;
    assert_eq!(quick_client().referrers(&front.reference("a:v1"), &subject, None).await.unwrap(), []);
}
