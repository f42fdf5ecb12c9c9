//! What the repositories of the node's own registry show, and what a collection leaves them.

use std::time::{Duration, SystemTime};

use super::super::{GcOptions, own_name};
use super::{Home, manifest_json, put_blob};
use crate::oci::{Digest, sha256};

/// Pushes an artifact to `repository` as a client does: its blobs, then its manifest.
async fn push(home: &Home, repository: &str, tag: &str, content: &[u8]) -> Digest {
    let lease = home.store.lease().expect("a lease");
    let layer = put_blob(home.layout(), &lease, content);
    let config = put_blob(home.layout(), &lease, b"{}");
    let json = manifest_json(&config, 2, &layer, content.len(), None);
    let digest = sha256(json.as_bytes());
    let checked = home.store.check_manifest(repository, &digest, json.as_bytes(), None).await.expect("checked");
    if !checked.absent.is_empty() {
        for blob in [&layer, &config] {
            home.store.show_blob(repository, blob).await.expect("shown");
        }
        let checked = home.store.check_manifest(repository, &digest, json.as_bytes(), None).await.expect("checked");
        assert!(checked.absent.is_empty(), "{checked:?}");
    }
    let mut batch = home.store.batch().expect("a batch");
    batch.put_manifest(&lease, Some(&digest), json.as_bytes(), None, None).await.expect("put");
    batch.place(repository, &digest);
    batch.tag(&own_name(repository, tag), &digest).expect("a name");
    batch.commit().await.expect("committed");
    digest
}

#[tokio::test]
async fn a_repository_shows_what_came_into_it_and_gives_back_what_it_alone_had() {
    let home = Home::new().await;
    home.artifact(b"pulled").await;
    let one = push(&home, "one", "v1", b"content").await;
    assert_eq!(push(&home, "two", "v1", b"content").await, one, "the same bytes, once");
    let store = &home.store;
    assert_eq!(store.repositories("", 10).await.expect("listed"), ["one", "two"]);
    assert_eq!(store.repositories("one", 10).await.expect("listed"), ["two"]);
    assert!(!store.shows_blob("one", &sha256(b"pulled")).await.expect("asked"), "it is the store's, and nobody's here");
    assert!(store.shown_tag("one", "v1").await.expect("asked").is_some_and(|shown| shown.digest == one));

    assert!(store.hide_manifest("one", &one).await.expect("hidden"));
    assert!(!store.hide_manifest("one", &one).await.expect("asked"));
    assert!(store.shown_tag("one", "v1").await.expect("asked").is_none());
    assert!(
        store.shown_tag("two", "v1").await.expect("asked").is_some() && store.get(&one).await.expect("got").is_some()
    );
    assert!(store.hide_manifest("two", &one).await.expect("hidden"));
    assert!(store.get(&one).await.expect("got").is_none(), "nobody has it any more");
}

#[tokio::test]
async fn a_blob_without_a_manifest_stays_a_day_and_then_no_repository_shows_it() {
    let home = Home::new().await;
    let lease = home.store.lease().expect("a lease");
    let blob = put_blob(home.layout(), &lease, b"alone");
    home.store.show_blob("app", &blob).await.expect("shown");
    drop(lease);
    let there = || home.layout().blob_size(&blob).expect("looked").is_some();
    home.store.gc(GcOptions::new(SystemTime::now())).await.expect("collected");
    assert!(there() && home.store.shows_blob("app", &blob).await.expect("asked"));
    let later = SystemTime::now() + Duration::from_secs(25 * 3600);
    home.store.gc(GcOptions::new(later)).await.expect("collected");
    assert!(!there() && !home.store.shows_blob("app", &blob).await.expect("asked"));
}

/// A push that says so while a collection goes on, which looked at what is shown before that and at leases after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_shown_before_or_after_a_collection_and_not_while_it_goes_on() {
    let home = Home::new().await;
    let lease = home.store.lease().expect("a lease");
    let blob = put_blob(home.layout(), &lease, b"pushed meanwhile");
    let (store, shown, mut pushing) = (home.store.clone(), blob.clone(), None);
    let decided = || {
        let (push, done) = std::sync::mpsc::channel();
        pushing = Some(tokio::spawn(async move {
            store.show_blob("app", &shown).await.expect("shown");
            drop(lease);
            push.send(()).ok();
        }));
        let early = done.recv_timeout(Duration::from_millis(300));
        assert!(early.is_err(), "it was shown while the collection went on");
    };
    home.store.gc_with(GcOptions::new(SystemTime::now()), decided).await.expect("collected");
    pushing.expect("a push").await.expect("pushed");
    home.store.gc(GcOptions::new(SystemTime::now())).await.expect("collected");
    assert!(home.layout().blob_size(&blob).expect("looked").is_some());
    assert!(home.store.shows_blob("app", &blob).await.expect("asked"));
}

#[tokio::test]
async fn a_lost_database_is_made_again_with_its_repositories() {
    let home = Home::new().await;
    let one = push(&home, "a/one", "v1", b"content").await;
    std::fs::remove_file(home.path().join("db/vyr.sqlite")).expect("the database is lost");
    for extra in ["db/vyr.sqlite-wal", "db/vyr.sqlite-shm"] {
        let _ = std::fs::remove_file(home.path().join(extra));
    }
    let again = home.again().await;
    assert!(again.shown_tag("a/one", "v1").await.expect("asked").is_some_and(|shown| shown.digest == one));
    assert!(again.shows_blob("a/one", &sha256(b"content")).await.expect("asked"));
}
