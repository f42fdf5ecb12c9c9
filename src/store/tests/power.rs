//! Whenever the power is cut: the store opens, what is listed verifies, nothing acknowledged is gone, and no blob is in its
//! place that isn't what its name says.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use super::super::rebuild::blobs;
use super::super::{GcOptions, Store, Target};
use super::{manifest_json, put, put_blob, verify_all};
use crate::oci::{Digest, parse_digest};
use crate::testing::crash::{HOME, MARKER, Recording, TOLD};

fn name(digest: &Digest) -> String {
    format!("localhost:5000/app:{}", digest.digest())
}

/// The recorded side: each artifact is put and named, and each second one removed and collected.
#[tokio::test]
#[ignore = "is recorded by the tests below"]
async fn recorded() {
    if !Path::new(MARKER).exists() {
        return;
    }
    let mut told = OpenOptions::new().create(true).append(true).open(TOLD).expect("a file");
    let mut tell = |what: String| told.write_all(format!("{what}\n").as_bytes()).expect("written");
    for round in 0..2 {
        let store = Store::open(Path::new(HOME)).await.expect("opens");
        for n in 0..2 {
            let content = format!("{round} {n} ").repeat(3000).into_bytes();
            let lease = store.lease().expect("a lease");
            let layer = put_blob(store.layout(), &lease, &content);
            let config = put_blob(store.layout(), &lease, b"{}");
            let digest = put(&store, &lease, &manifest_json(&config, 2, &layer, content.len(), None)).await;
            tell(format!("put {digest}"));
            store.tag(&name(&digest), &digest).await.expect("tagged");
            tell(format!("named {digest}"));
            drop(lease);
            if n == 1 {
                tell(format!("removing {digest}"));
                store.remove(Target::Digest(&digest)).await.expect("removed");
                tell(format!("removed {digest}"));
                store.gc(GcOptions::new(SystemTime::now())).await.expect("collected");
            }
        }
    }
}

async fn look(home: &Path, told: &[String]) {
    let said = |word: &str| -> Vec<Digest> {
        let lines = told.iter().filter_map(|line| line.split_once(' ')).filter(|(w, _)| *w == word);
        lines.map(|(_, digest)| parse_digest(digest).expect("a digest")).collect()
    };
    let store = Store::open(home).await.expect("opens");
    verify_all(&store).await.expect("what is listed verifies");
    for (digest, _) in blobs(store.layout()).expect("listed") {
        store.layout().verify_blob(&digest).expect("what has a blob's name is that blob");
    }
    let listed: Vec<Digest> = store.list().await.expect("listed").into_iter().map(|entry| entry.digest).collect();
    let (removing, removed) = (said("removing"), said("removed"));
    for digest in said("put").iter().filter(|digest| !removing.contains(digest)) {
        assert!(listed.contains(digest), "{digest} was acknowledged");
    }
    for digest in said("named").iter().filter(|digest| !removing.contains(digest)) {
        assert_eq!(store.resolve(&name(digest)).await.expect("resolved").as_ref(), Some(digest), "its name is gone");
    }
    for digest in removed {
        assert!(!listed.contains(&digest), "{digest} was removed");
    }
    // It goes on from there, and nothing is left lying about.
    store.gc(GcOptions::new(SystemTime::now())).await.expect("collected");
    assert_eq!(std::fs::read_dir(home.join("ingest")).expect("listed").count(), 0);
    let lease = store.lease().expect("a lease");
    let config = put_blob(store.layout(), &lease, b"{}");
    put(&store, &lease, &manifest_json(&config, 2, &config, 2, None)).await;
    verify_all(&store).await.expect("what is listed verifies");
}

fn cut(each: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    Recording::of("store::tests::power::recorded").cut(each, |home, told| runtime.block_on(look(home, told)))
}

#[test]
fn whenever_the_power_is_cut_nothing_acknowledged_is_gone() {
    let cuts = cut(15);
    println!("store: power cut {cuts} times, nothing lost");
    assert!(cuts > 60, "{cuts}");
}

#[test]
#[ignore = "takes a minute; `./test` runs it by itself"]
fn the_power_is_cut_after_every_call() {
    println!("store: power cut {} times, nothing lost", cut(1));
}
