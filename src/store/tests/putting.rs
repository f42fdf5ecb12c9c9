//! Writing, listing, reading back, and what a crash or a second process may do.

use std::io::Write;

use super::super::{Origin, Store, StoreError, Target};
use super::{Home, index_json, manifest_json, put, put_blob, verify_all};
use crate::oci::{Digest, parse_digest, sha256};

const NAME: &str = "localhost:5000/app:v1";

#[tokio::test]
async fn a_blob_is_there_whole_or_not_at_all() {
    let home = Home::new().await;
    let layout = home.layout();
    let lease = home.store.lease().expect("a lease");
    let digest = sha256(b"hello");

    let mut dropped = layout.writer(Some(&digest), None).expect("a writer");
    dropped.write_all(b"hel").expect("written");
    drop(dropped);
    assert!(home.ingest_is_empty(), "a dropped writer leaves nothing");

    let mut wrong = layout.writer(Some(&digest), None).expect("a writer");
    wrong.write_all(b"hallo").expect("written");
    assert!(matches!(wrong.commit(&lease), Err(StoreError::Mismatch { .. })));

    let mut short = layout.writer(Some(&digest), None).expect("a writer").exactly(5);
    short.write_all(b"hell").expect("written");
    assert!(matches!(short.commit(&lease), Err(StoreError::WrongSize { wanted: 5, found: 4, .. })));

    let mut long = layout.writer(Some(&digest), Some(5)).expect("a writer");
    let error = long.write_all(b"hello!").expect_err("past the limit");
    assert!(matches!(StoreError::from_write(error, layout.root()), StoreError::TooLarge { limit: 5, .. }));
    assert!(long.commit(&lease).is_err(), "a failed writer can't be committed");

    assert!(home.ingest_is_empty());
    assert!(matches!(layout.open_blob(&digest), Err(StoreError::NoBlob(_))));
    assert_eq!(lease.hold(&digest).expect("held"), None);

    for _ in 0..2 {
        assert_eq!(put_blob(layout, &lease, b"hello"), digest);
    }
    assert_eq!(lease.hold(&digest).expect("held"), Some(5));
    assert_eq!(layout.read_verified(&digest, 5).expect("read"), b"hello");
    assert!(matches!(layout.read_verified(&digest, 4), Err(StoreError::TooLarge { .. })));

    let sha512 = parse_digest("sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043").expect("parses");
    let mut writer = layout.writer(Some(&sha512), None).expect("a writer");
    writer.write_all(b"hello").expect("written");
    assert_eq!(writer.commit(&lease).expect("committed"), (sha512.clone(), 5));
    assert_eq!(layout.verify_blob(&sha512).expect("verified"), 5);

    std::fs::write(layout.blob_path(&digest), b"hellO").expect("altered");
    let error = crate::Error::from(layout.read_verified(&digest, 99).expect_err("altered"));
    assert_eq!(error.kind(), crate::ErrorKind::Refused);
    assert!(layout.verify_blob(&digest).is_err());
}

#[tokio::test]
async fn a_partial_blob_is_gone_on_with() {
    let home = Home::new().await;
    let layout = home.layout();
    let lease = home.store.lease().expect("a lease");
    let content = vec![7_u8; 700_000];
    let digest = sha256(&content);

    let mut first = layout.resume_writer(&digest, 700_000).expect("a writer");
    assert_eq!(first.position(), 0);
    first.add(&content[..300_000]).expect("written");
    let second = layout.resume_writer(&digest, 700_000).expect("another process' writer");
    assert_eq!(second.position(), 0, "one that is in use isn't shared");
    second.keep_partial();
    first.keep_partial();

    let mut third = layout.resume_writer(&digest, 700_000).expect("a writer");
    assert_eq!(third.position(), 300_000);
    third.add(&content[300_000..]).expect("written");
    assert_eq!(third.commit(&lease).expect("committed"), (digest.clone(), 700_000));
    assert_eq!(layout.verify_blob(&digest).expect("verified"), 700_000);
    assert!(home.ingest_is_empty());

    // What was left can be damaged: the next attempt fails, and the one after it starts anew.
    let other = sha256(b"whole");
    let mut bad = layout.resume_writer(&other, 5).expect("a writer");
    bad.add(b"XX").expect("written");
    bad.keep_partial();
    let mut next = layout.resume_writer(&other, 5).expect("a writer");
    next.add(b"ole").expect("written");
    assert!(matches!(next.commit(&lease), Err(StoreError::Mismatch { .. })));
    assert_eq!(layout.resume_writer(&other, 5).expect("a writer").position(), 0);
    assert!(home.ingest_is_empty());
}

#[tokio::test]
async fn manifests_are_put_named_listed_and_removed() {
    let home = Home::new().await;
    let store = &home.store;
    let digest = home.artifact(b"module").await;
    store.tag(NAME, &digest).await.expect("tagged");
    assert_eq!(store.resolve(NAME).await.expect("resolved"), Some(digest.clone()));
    assert_eq!(store.resolve("localhost:5000/app:v2").await.expect("resolved"), None);
    let origin = |proven| Origin { repository: "localhost:5000/app".to_owned(), proven };
    assert_eq!(store.origins(&digest).await.expect("origins"), [origin(true)]);

    let bundle = home.referrer(&digest).await;
    let signature = home.artifact(b"signature").await;
    let signature_name = format!("localhost:5000/app:sha256-{}.sig", digest.digest());
    store.tag(&signature_name, &signature).await.expect("tagged");

    let referrers = store.referrers(&digest, None).await.expect("referrers");
    assert_eq!(referrers.len(), 1);
    assert_eq!(referrers[0].digest(), &bundle);
    assert_eq!(referrers[0].annotations().as_ref().expect("annotations")["a"], "b");
    assert_eq!(store.referrers(&digest, Some(crate::oci::media::SIGSTORE_BUNDLE)).await.expect("referrers").len(), 1);
    assert!(store.referrers(&digest, Some("other/type")).await.expect("referrers").is_empty());
    assert_eq!(store.signature_tags(&digest).await.expect("signatures"), [(signature_name, signature.clone())]);

    let size = home.layout().blob_size(&digest).expect("size").expect("is there");
    let entry = store.get(&digest).await.expect("got").expect("is there");
    assert_eq!((entry.tags.as_slice(), entry.total_size), ([NAME.to_owned()].as_slice(), size + 2 + 6));
    let list = store.list().await.expect("listed");
    assert_eq!(list.len(), 3);
    assert!(list.contains(&entry));
    assert_eq!(store.find_by_prefix(&digest.digest()[..8]).await.expect("found"), std::slice::from_ref(&digest));
    assert!(matches!(store.find_by_prefix("xyz").await, Err(StoreError::BadPrefix(_))));
    assert!(matches!(store.tag("bad name", &digest).await, Err(StoreError::BadName(_))));
    assert!(matches!(store.tag(NAME, &sha256(b"absent")).await, Err(StoreError::NoArtifact(_))));
    assert_eq!(store.resolve(NAME).await.expect("resolved"), Some(digest.clone()), "a failed tag changes nothing");

    let index = home.index_json();
    let entries = index["manifests"].as_array().expect("entries");
    assert_eq!(entries.len(), 3);
    let named = entries.iter().find(|e| e["digest"] == digest.as_ref()).expect("is listed");
    assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], NAME);

    store.tag("localhost:5000/app:v2", &digest).await.expect("tagged");
    assert!(store.remove(Target::Tag(NAME)).await.expect("removed").is_empty(), "another name keeps it");
    let removed = store.remove(Target::Tag("localhost:5000/app:v2")).await.expect("removed");
    assert_eq!(removed.len(), 3, "its signatures go with it");
    assert!(store.list().await.expect("listed").is_empty());
    assert!(matches!(store.remove(Target::Digest(&digest)).await, Err(StoreError::NoArtifact(_))));
    assert_eq!(home.index_json()["manifests"].as_array().expect("entries").len(), 0);
}

#[tokio::test]
async fn what_may_not_be_put_is_refused_and_leaves_nothing() {
    let home = Home::new().await;
    let lease = home.store.lease().expect("a lease");
    let config = put_blob(home.layout(), &lease, b"{}");
    let absent = sha256(b"absent");
    type Case = (String, Option<Digest>, fn(&StoreError) -> bool);
    let cases: [Case; 7] = [
        (manifest_json(&config, 2, &absent, 6, None), None, |e| matches!(e, StoreError::MissingBlob { .. })),
        (manifest_json(&config, 3, &config, 2, None), None, |e| matches!(e, StoreError::WrongSize { .. })),
        (manifest_json(&config, 2, &config, 2, Some((&config, 3))), None, |e| {
            matches!(e, StoreError::WrongSize { .. })
        }),
        (index_json(&[(&config, 3)]), None, |e| matches!(e, StoreError::WrongSize { .. })),
        (manifest_json(&config, 2, &config, 2, None), Some(absent.clone()), |e| {
            matches!(e, StoreError::Mismatch { .. })
        }),
        ("x".repeat((4 << 20) + 1), None, |e| matches!(e, StoreError::TooLarge { .. })),
        ("\0asm".into(), None, |e| matches!(e, StoreError::Manifest { .. })),
    ];
    for (json, expected, fits) in cases {
        let error = home.store.put_manifest(&lease, expected.as_ref(), json.as_bytes(), None, None).await;
        let error = error.expect_err("refused");
        assert!(fits(&error), "{error}");
        assert!(matches!(home.layout().open_blob(&sha256(json.as_bytes())), Err(StoreError::NoBlob(_))));
    }
    assert!(home.store.list().await.expect("listed").is_empty());
    // An index may come before its children, and a signature before its subject.
    put(&home.store, &lease, &index_json(&[(&absent, 6)])).await;
    home.referrer(&absent).await;
}

#[tokio::test]
async fn a_batch_shows_at_its_commit() {
    let home = Home::new().await;
    let lease = home.store.lease().expect("a lease");
    let config = put_blob(home.layout(), &lease, b"{}");
    let json = manifest_json(&config, 2, &config, 2, None);
    let digest = sha256(json.as_bytes());
    let mut batch = home.store.batch().expect("a batch");
    batch.put_manifest(&lease, Some(&digest), json.as_bytes(), None, None).await.expect("put");
    batch.tag(NAME, &digest).expect("named");
    assert!(home.store.list().await.expect("listed").is_empty());
    let mut failing = home.store.batch().expect("a batch");
    failing.put_manifest(&lease, Some(&digest), json.as_bytes(), None, None).await.expect("put");
    failing.tag(NAME, &sha256(b"absent")).expect("named");
    assert!(failing.commit().await.is_err());
    assert!(home.store.list().await.expect("listed").is_empty(), "all of a batch or nothing");
    batch.commit().await.expect("committed");
    assert_eq!(home.store.resolve(NAME).await.expect("resolved"), Some(digest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_share_one_home() {
    let home = Home::new().await;
    let other = home.again().await;
    let mut tasks = tokio::task::JoinSet::new();
    for (store, who) in [(home.store.clone(), "a"), (other.clone(), "b")] {
        for n in 0..25 {
            let store = store.clone();
            tasks.spawn(async move {
                let lease = store.lease().expect("a lease");
                let content = format!("{who}{n}").into_bytes();
                let layout = store.layout().clone();
                let held = lease.clone();
                let put_both =
                    move || (put_blob(&layout, &held, &content), put_blob(&layout, &held, b"{}"), content.len());
                let (layer, config, size) = tokio::task::spawn_blocking(put_both).await.expect("put");
                let digest = put(&store, &lease, &manifest_json(&config, 2, &layer, size, None)).await;
                store.tag(&format!("localhost:5000/{who}:{n}"), &digest).await.expect("tagged");
            });
        }
    }
    for _ in 0..5 {
        other.gc(super::super::GcOptions::new(std::time::SystemTime::now())).await.expect("collected");
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no task failed");
    }
    assert_eq!(home.verify_all().await.expect("verified"), 50);
    assert_eq!(home.index_json()["manifests"].as_array().expect("entries").len(), 50);
    drop(other);
}

#[tokio::test]
async fn the_listing_comes_back_from_the_layout() {
    let home = Home::new().await;
    let digest = home.artifact(b"module").await;
    home.store.tag(NAME, &digest).await.expect("tagged");
    let referrer = home.referrer(&digest).await;
    let lease = home.store.lease().expect("a lease");
    let child = home.artifact(b"child").await;
    let size = home.layout().blob_size(&child).expect("size").expect("is there");
    let index = put(&home.store, &lease, &index_json(&[(&child, size)])).await;
    let damaged = home.artifact(b"damaged").await;
    let before = home.store.list().await.expect("listed");
    std::fs::remove_file(home.layout().blob_path(&sha256(b"damaged"))).expect("removed");

    for (lose_index, names) in [(false, 1), (true, 0)] {
        std::fs::remove_dir_all(home.path().join("db")).expect("the database is lost");
        if lose_index {
            std::fs::write(home.path().join("store/index.json"), b"{ half").expect("damaged");
        }
        let read_only = Store::open_read_only(home.path()).await.expect("opens for reading");
        let store = home.again().await;
        for store in [&read_only, &store] {
            let list = store.list().await.expect("listed");
            assert_eq!(list.len(), before.len() - 1, "what lacks a blob isn't listed");
            assert!(store.get(&damaged).await.expect("got").is_none());
            assert_eq!(list.iter().map(|e| e.tags.len()).sum::<usize>(), names);
            assert_eq!(store.referrers(&digest, None).await.expect("referrers")[0].digest(), &referrer);
            assert!(store.get(&child).await.expect("got").expect("is there").has_parent);
            assert!(store.get(&index).await.expect("got").is_some());
            verify_all(store).await.expect("verified");
        }
    }
}

#[tokio::test]
async fn an_index_that_is_behind_is_made_again() {
    let home = Home::new().await;
    let digest = home.artifact(b"module").await;
    let empty = br#"{"schemaVersion":2,"manifests":[]}"#;
    std::fs::write(home.path().join("store/index.json"), empty).expect("as before the put");
    sqlx::query("UPDATE meta SET value = value - 1 WHERE key = 'written'")
        .execute(home.store.pool())
        .await
        .expect("behind");
    let _again = home.again().await;
    assert_eq!(home.index_json()["manifests"][0]["digest"], digest.as_ref());
}

#[tokio::test]
async fn a_store_for_reading_reads_and_refuses_writes() {
    let home = Home::new().await;
    let digest = home.artifact(b"module").await;
    let store = Store::open_read_only(home.path()).await.expect("opens");
    assert!(store.is_read_only());
    assert!(store.get(&digest).await.expect("got").is_some());
    let error = crate::Error::from(store.tag(NAME, &digest).await.expect_err("refused"));
    assert_eq!(error.kind(), crate::ErrorKind::Storage);
    assert!(error.to_string().contains("can only be read"), "{error}");
    assert!(store.lease().is_err());
    assert!(Store::open_read_only(&home.path().join("nowhere")).await.is_err());
}

#[tokio::test]
async fn a_layout_of_another_version_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("store")).expect("made");
    std::fs::write(folder.path().join("store/oci-layout"), br#"{"imageLayoutVersion":"2.0.0"}"#).expect("written");
    assert!(matches!(Store::open(folder.path()).await, Err(StoreError::Layout { .. })));
}

#[tokio::test]
async fn what_is_said_of_an_origin_is_no_proof_and_a_proof_stays() {
    let home = Home::new().await;
    let store = &home.store;
    let digest = home.artifact(b"module").await;
    let origins = || async { store.origins(&digest).await.expect("origins") };
    let origin = |repository: &str, proven| Origin { repository: repository.to_owned(), proven };
    let claim = |repository: &'static str| {
        let digest = digest.clone();
        async move {
            let mut batch = store.batch().expect("a batch");
            batch.claim(&digest, repository);
            batch.commit().await.expect("committed");
        }
    };
    let before = store.origins_version();
    claim("example.com/app").await;
    claim("localhost:5000/app").await;
    let (proven, said) = (origin("localhost:5000/app", true), origin("example.com/app", false));
    assert_eq!(origins().await, [said, proven.clone()]);
    assert_ne!(store.origins_version(), before);
    store.seen_in(&digest, "example.com/app").await.expect("recorded");
    claim("example.com/app").await;
    assert_eq!(origins().await, [origin("example.com/app", true), proven]);
    let version = store.origins_version();
    store.seen_in(&digest, "example.com/app").await.expect("recorded");
    // What isn't there has no origin.
    store.seen_in(&sha256(b"elsewhere"), "example.com/app").await.expect("nothing");
    assert_eq!(store.origins_version(), version);
    store.tag("localhost:5000/app-2:v1", &digest).await.expect("tagged");
    for (repository, named) in
        [("localhost:5000/app-2", true), ("localhost:5000/app", false), ("localhost:5000", false)]
    {
        assert_eq!(store.is_named_in(&digest, repository).await.expect("asked"), named, "{repository}");
    }
}

#[tokio::test]
async fn a_folder_for_reading_from_before_proofs_has_none() {
    let home = Home::new().await;
    let digest = home.artifact(b"module").await;
    sqlx::query("ALTER TABLE origins DROP COLUMN proven").execute(home.store.pool()).await.expect("altered");
    let store = Store::open_read_only(home.path()).await.expect("opens");
    let origins = store.origins(&digest).await.expect("origins");
    assert_eq!(origins, [Origin { repository: "localhost:5000/app".to_owned(), proven: false }]);
}

#[tokio::test]
async fn an_index_json_that_is_on_its_way_gets_there_also_when_who_asked_has_gone() {
    let home = Home::new().await;
    home.artifact(b"listed").await;
    let written = home.store.meta("written").await.expect("a number");
    let listed = home.index_json();
    std::fs::remove_file(home.path().join("store/index.json")).expect("removed");
    tokio::select! {
        biased;
        // It waits for the disk, which now and then is quicker than this thread.
        done = home.store.write_index(written) => done.expect("written"),
        () = std::future::ready(()) => {}
    }
    // It is put in its place with the lock held: whoever takes it after that finds what is written.
    let place = home.path().join("store/index.json");
    let there = async {
        while !place.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), there).await.expect("it gets there");
    assert_eq!(home.index_json(), listed);
}
