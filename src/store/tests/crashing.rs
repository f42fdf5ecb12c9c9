//! Killed at any moment: the store opens, what is listed verifies, and nothing acknowledged is gone.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::super::{GcOptions, Store, Target};
use super::{manifest_json, put, put_blob, verify_all};
use crate::oci::parse_digest;

const MARKER: &str = "to-be-killed";

/// The killed side: it runs in a home folder as its working folder, and writes down what was acknowledged.
#[tokio::test]
#[ignore = "runs until it's killed; the test below starts it"]
async fn victim() {
    if !Path::new(MARKER).exists() {
        return;
    }
    let mut acknowledged = OpenOptions::new().create(true).append(true).open("acknowledged").expect("a file");
    let store = Store::open(Path::new(".")).await.expect("opens after a kill");
    let mut n = store.list().await.expect("listed").len();
    loop {
        n += 1;
        let content = format!("{n} of {}", std::process::id()).repeat(20_000).into_bytes();
        let lease = store.lease().expect("a lease");
        let layer = put_blob(store.layout(), &lease, &content);
        let config = put_blob(store.layout(), &lease, b"{}");
        let digest = put(&store, &lease, &manifest_json(&config, 2, &layer, content.len(), None)).await;
        let name = format!("localhost:5000/app:{}", digest.digest());
        store.tag(&name, &digest).await.expect("tagged");
        drop(lease);
        if n.is_multiple_of(3) {
            store.remove(Target::Digest(&digest)).await.expect("removed");
            store.gc(GcOptions::new(SystemTime::now())).await.expect("collected");
        } else {
            // One write: between two of them there is room for the kill, and half a line that the next victim ends.
            acknowledged.write_all(format!("{digest}\n").as_bytes()).expect("written");
        }
    }
}

#[tokio::test]
async fn killed_at_any_moment_nothing_acknowledged_is_gone() {
    kill_and_look(12).await;
}

#[tokio::test]
#[ignore = "takes half a minute; `./test` runs it by itself"]
async fn killed_at_two_hundred_moments() {
    kill_and_look(200).await;
}

async fn kill_and_look(times: u64) {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::write(home.path().join(MARKER), b"").expect("written");
    let mut before = HashSet::new();
    for round in 0..times {
        let mut victim = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "store::tests::crashing::victim", "--ignored"])
            .current_dir(home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        // Spread over the steps without a pattern: a multiplicative walk over 20 to 170 ms.
        std::thread::sleep(Duration::from_millis(20 + (round * 2_654_435_761) % 150));
        assert!(victim.try_wait().expect("asked").is_none(), "it was to be killed, and ended by itself");
        victim.kill().expect("killed");
        victim.wait().expect("waited for");

        let store = Store::open(home.path()).await.expect("opens");
        verify_all(&store).await.expect("what is listed verifies");
        let listed: HashSet<_> = store.list().await.expect("listed").into_iter().map(|e| e.digest).collect();
        let text = std::fs::read_to_string(home.path().join("acknowledged")).unwrap_or_default();
        for line in text.lines() {
            let digest = parse_digest(line).expect("a digest");
            assert!(listed.contains(&digest), "{digest} was acknowledged");
            let name = format!("localhost:5000/app:{}", digest.digest());
            assert_eq!(store.resolve(&name).await.expect("resolved"), Some(digest));
        }
        let index = std::fs::read(home.path().join("store/index.json")).expect("index.json");
        let index: serde_json::Value = serde_json::from_slice(&index).expect("is JSON");
        let shown: HashSet<_> =
            index["manifests"].as_array().expect("entries").iter().map(|e| e["digest"].to_string()).collect();
        assert_eq!(shown.len(), listed.len(), "index.json follows at the open");
        store.gc(GcOptions::new(SystemTime::now())).await.expect("collected");
        assert_eq!(std::fs::read_dir(home.path().join("ingest")).expect("listed").count(), 0);
        before.extend(listed);
    }
    assert!(before.len() > 2, "the victim got somewhere");
}
