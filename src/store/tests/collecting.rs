//! What a collection takes, and what it must leave.

use std::time::{Duration, SystemTime};

use super::super::{GcOptions, GcReport, RemovedKind, Store, StoreError, Target};
use super::{Home, index_json, put, put_blob};
use crate::oci::{Digest, sha256};

async fn gc(store: &Store) -> GcReport {
    store.gc(GcOptions::new(SystemTime::now())).await.expect("collected")
}

fn has(home: &Home, digest: &Digest) -> bool {
    home.layout().blob_size(digest).expect("looked").is_some()
}

#[tokio::test]
async fn only_what_nothing_needs_goes() {
    let home = Home::new().await;
    let kept = home.artifact(b"kept").await;
    let gone = home.artifact(b"gone").await;
    let bundle = home.referrer(&kept).await;
    home.store.remove(Target::Digest(&gone)).await.expect("removed");
    let orphan = home.referrer(&gone).await;
    let orphan_of_orphan = home.referrer(&orphan).await;
    drop(home.layout().writer(None, None).expect("a writer"));
    std::fs::write(home.path().join("ingest/1-dead-0.tmp"), b"half").expect("a dead writer's file");
    std::fs::write(home.path().join("leases/1-dead-0"), gone.as_ref()).expect("a dead writer's lease");

    let dry = home.store.gc(GcOptions { dry_run: true, ..GcOptions::new(SystemTime::now()) }).await.expect("planned");
    assert!(has(&home, &gone) && home.path().join("ingest/1-dead-0.tmp").exists());
    let report = gc(&home.store).await;
    assert_eq!(report, dry, "a dry run says what a run does");
    for digest in [&gone, &sha256(b"gone"), &orphan, &orphan_of_orphan] {
        assert!(!has(&home, digest));
    }
    for digest in [&kept, &sha256(b"kept"), &sha256(b"{}"), &bundle] {
        assert!(has(&home, digest), "{digest}");
    }
    assert_eq!(report.temporary_files, 1);
    assert_eq!(report.kept_blobs, 4);
    assert_eq!(report.removed.iter().filter(|r| r.kind == RemovedKind::Orphan).count(), 2);
    assert_eq!(home.verify_all().await.expect("verified"), 2);
    assert_eq!(gc(&home.store).await.removed, []);
    assert!(std::fs::read_dir(home.path().join("leases")).expect("listed").next().is_none());
}

#[tokio::test]
async fn what_is_pinned_stays_with_all_it_reaches() {
    let home = Home::new().await;
    let child = home.artifact(b"running").await;
    let size = home.layout().blob_size(&child).expect("size").expect("is there");
    let lease = home.store.lease().expect("a lease");
    let index = put(&home.store, &lease, &index_json(&[(&child, size)])).await;
    drop(lease);
    let pin = home.layout().pin(&index).expect("pinned");

    let budget = GcOptions { budget_bytes: Some(0), ..GcOptions::new(SystemTime::now()) };
    let report = home.store.gc(budget).await.expect("collected");
    assert_eq!(report.in_use, std::slice::from_ref(&index));
    assert_eq!(home.verify_all().await.expect("verified"), 2, "a budget takes nothing in use");

    home.store.remove(Target::Digest(&index)).await.expect("removed");
    let report = gc(&home.store).await;
    assert_eq!((report.in_use.as_slice(), report.removed.as_slice()), ([index.clone()].as_slice(), [].as_slice()));
    for digest in [&index, &child, &sha256(b"running"), &sha256(b"{}")] {
        assert!(has(&home, digest), "a run keeps what was taken out of the listing");
    }
    assert_eq!(pin.read_verified(1 << 20).expect("read"), pin.read_verified(1 << 20).expect("read twice"));

    drop(pin);
    assert_eq!(gc(&home.store).await.removed.len(), 4);
    assert!(matches!(home.layout().pin(&index), Err(StoreError::NoBlob(_))));
}

#[tokio::test]
async fn a_pinned_child_stays_whole_when_its_index_alone_is_listed() {
    let home = Home::new().await;
    let child = home.artifact(b"running").await;
    let size = home.layout().blob_size(&child).expect("size").expect("is there");
    let lease = home.store.lease().expect("a lease");
    let index = put(&home.store, &lease, &index_json(&[(&child, size)])).await;
    drop(lease);
    let pin = home.layout().pin(&child).expect("pinned");
    home.store.remove(Target::Digest(&child)).await.expect("removed");
    assert_eq!(gc(&home.store).await.removed, []);
    drop(pin);
    let pin = home.layout().pin(&index).expect("pinned");
    assert_eq!(gc(&home.store).await.removed, [], "a pin of the index holds all that it reaches");
    drop(pin);
    assert_eq!(gc(&home.store).await.removed.len(), 2, "its layer and its config");
}

/// An index of an index of an artifact. Some of them are taken out of the listing, and when a collection has decided what
/// goes, one is pinned.
async fn pinned_late(content: &[u8], unlist: usize, pin: usize) {
    let home = Home::new().await;
    let artifact = home.artifact(content).await;
    let lease = home.store.lease().expect("a lease");
    let mut chain = vec![artifact];
    for _ in 0..2 {
        let below = chain.last().expect("one");
        let size = home.layout().blob_size(below).expect("size").expect("is there");
        chain.push(put(&home.store, &lease, &index_json(&[(below, size)])).await);
    }
    drop(lease);
    home.store.remove(Target::Digest(&chain[unlist])).await.expect("removed");
    let mut pinned = None;
    let decided = || pinned = Some(home.layout().pin(&chain[pin]).expect("it is on disk still"));
    let report = home.store.gc_with(GcOptions::new(SystemTime::now()), decided).await.expect("collected");
    let blobs = [sha256(b"{}"), sha256(content)];
    for digest in blobs.iter().chain(&chain[..=pin]) {
        assert!(has(&home, digest), "{unlist} unlisted, {pin} pinned: {digest} went: {report:?}");
    }
    drop(pinned);
    // The time for it comes when nothing uses it.
    assert!(gc(&home.store).await.removed.len() >= 2);
    assert!(!blobs.iter().any(|digest| has(&home, digest)));
}

#[tokio::test]
async fn what_is_pinned_while_the_collection_works_stays_whole() {
    // Which blob a collection comes to first is chance: so often that none passes by it.
    for n in 0..8_u8 {
        for unlist in 0..3 {
            for pin in 0..3 {
                pinned_late(&[n; 100], unlist, pin).await;
            }
        }
    }
}

#[tokio::test]
async fn what_a_writer_needs_stays() {
    let home = Home::new().await;
    let other = home.again().await;
    let lease = home.store.lease().expect("a lease");
    let blob = put_blob(home.layout(), &lease, b"pulled just now");
    let writer = home.layout().writer(None, None).expect("a writer under way");
    assert_eq!(gc(&other).await.removed, []);
    assert!(has(&home, &blob));
    drop(writer);
    drop(lease);
    assert_eq!(gc(&other).await.removed.len(), 1);
}

#[tokio::test]
async fn a_partial_pull_waits_a_day() {
    let home = Home::new().await;
    let mut writer = home.layout().resume_writer(&sha256(b"content"), 7).expect("a writer");
    writer.add(b"con").expect("written");
    writer.keep_partial();
    assert_eq!(gc(&home.store).await.temporary_files, 0);
    assert_eq!(
        home.layout()
            .resume_writer(&sha256(b"content"), 7)
            .map(|w| {
                let n = w.position();
                w.keep_partial();
                n
            })
            .expect("a writer"),
        3
    );
    let tomorrow = SystemTime::now() + Duration::from_secs(25 * 3600);
    assert_eq!(home.store.gc(GcOptions::new(tomorrow)).await.expect("collected").temporary_files, 1);
    assert!(home.ingest_is_empty());
}

#[tokio::test]
async fn a_budget_takes_what_was_used_longest_ago() {
    // Both ways round, so that no other order passes for it.
    for recent in [[0, 3], [1, 2]] {
        let home = Home::new().await;
        let mut all = Vec::new();
        let mut signatures = Vec::new();
        for n in 0..4_u8 {
            let digest = home.artifact(&vec![n; 100_000]).await;
            home.store.tag(&format!("localhost:5000/app:{n}"), &digest).await.expect("tagged");
            signatures.push(home.referrer(&digest).await);
            all.push(digest);
        }
        // The store saw all of them just now; someone else saw two of them later.
        let later = SystemTime::now() + Duration::from_secs(60);
        let later_used = recent.map(|n| all[n].clone());
        let hint = move |digest: &Digest| later_used.contains(digest).then_some(later);
        let options =
            GcOptions { budget_bytes: Some(250_000), last_used_hint: &hint, ..GcOptions::new(SystemTime::now()) };
        let report = home.store.gc(options).await.expect("collected");
        assert!(report.kept_bytes <= 250_000, "{report:?}");
        for n in 0..4 {
            let stays = recent.contains(&n);
            assert_eq!(has(&home, &all[n]), stays, "{n}");
            assert_eq!(has(&home, &signatures[n]), stays, "a signature goes with its subject");
            let name = format!("localhost:5000/app:{n}");
            assert_eq!(home.store.resolve(&name).await.expect("resolved").is_some(), stays);
        }
        assert_eq!(home.verify_all().await.expect("verified"), 4);
        assert_eq!(home.index_json()["manifests"].as_array().expect("entries").len(), 4);
    }
}

#[tokio::test]
async fn a_server_can_spawn_every_operation() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    let home = Home::new().await;
    let digest = home.artifact(b"module").await;
    send(home.store.gc(GcOptions::new(SystemTime::now()))).await.expect("collected");
    send(home.store.remove(Target::Digest(&digest))).await.expect("removed");
    send(home.store.export(&[], &home.path().join("out.tar"))).await.expect("exported");
    send(home.store.import(&home.path().join("out.tar"), None)).await.expect("imported");
    send(Store::open(home.path())).await.expect("opened");
}
