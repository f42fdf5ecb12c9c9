//! Synced states against real registries and real clients: pushed once, in order, signed, read back; and what goes wrong.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Synced, json, pull, record, records_in, sync};
use crate::support::{Asked, Fault, FaultProxy, Home, Node, Registry, run, tool};

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n:04}")).collect()
}

/// It has a runtime of its own, which is not begun within another.
fn proxied(upstream: &str, script: impl Fn(&Asked, usize) -> Fault + Send + Sync + 'static) -> FaultProxy {
    let upstream = upstream.to_owned();
    std::thread::spawn(move || FaultProxy::start(&upstream, script)).join().unwrap()
}

#[tokio::test]
async fn a_segment_is_an_ordinary_signed_artifact_and_the_state_comes_back() {
    let (registry, home, other) = (Registry::start(), Home::new(), Home::new());
    let repository = format!("{}/readings", registry.host());
    let state = Synced::create(&home, "readings", &repository, 1 << 20).await;
    state.file("notes/a", b"first").await;
    state.records(names("r", 3)).await;
    let report = json(&sync(&home, "readings").expect(0));
    assert_eq!((&report["pushed"], &report["pending"], &report["head"]), (&json!(4), &json!(0), &json!(4)), "{report}");
    assert_eq!(json(&sync(&home, "readings").expect(0))["pushed"], 0, "each once");

    let tags = home.tool("crane", ["ls", &repository]).expect(0).stdout;
    let mut segments: Vec<&str> = tags.lines().filter(|tag| tag.starts_with("segment-")).collect();
    segments.sort_unstable();
    assert_eq!(segments.len(), 4, "{tags}");
    for tag in &segments {
        let reference = format!("{repository}:{tag}");
        for cosign in ["cosign", "cosign-older"] {
            home.cosign_verify(cosign, &reference, &home.vyr_home().join("keys/machine.pub")).expect(0);
        }
    }
    let first = format!("{repository}:{}", segments[0]);
    let manifest = home.tool("crane", ["manifest", &first]).expect(0).stdout;
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["artifactType"], "application/vnd.vyr.state.segment.v0");
    assert_eq!(manifest["annotations"]["dev.vyr.state.name"], "readings");
    let mut oras = home.command(tool("oras"));
    oras.args(["blob", "fetch", "--output", "layer.tar"]);
    oras.arg(format!("{repository}@{}", manifest["layers"][0]["digest"].as_str().unwrap()));
    run(oras, b"").expect(0);
    let mut tar = home.command("/bin/tar");
    tar.args(["-xOf", "layer.tar", "outbox/r0000"]);
    assert_eq!(run(tar, b"").expect(0).stdout, "the content of r0000");
    home.tool("oras", ["pull", "--output", "pulled", &first]).expect(0);

    // The far side trusts the writer's key, or nothing.
    other.vyr(["state", "pull", &repository, "--to", "out"]).expect(126).says(&["signed by"]);
    assert!(!other.work().join("out").exists());
    let key = home.vyr_home().join("keys/machine.pub");
    other.vyr(["trust", "add", "--key", key.to_str().unwrap()]).expect(0);
    let report = json(&other.vyr(["state", "pull", &repository, "--to", "out", "--output", "json"]).expect(0));
    assert_eq!((&report["segments"], &report["records"]), (&json!(4), &json!(3)), "{report}");
    let out = other.work().join("out");
    assert_eq!(fs::read(out.join("notes/a")).unwrap(), b"first");
    let places: Vec<_> = records_in(&out).into_iter().map(|(_, name)| name).collect();
    assert_eq!(places, names("r", 3));

    // Gone on with elsewhere: one chain of two writers, and no fork.
    other.vyr(["state", "pull", &repository, "--name", "mine"]).expect(0);
    let mine = Synced::open(&other.vyr_home(), "mine");
    mine.file("notes/b", b"second").await;
    mine.records(names("s", 2)).await;
    let report = json(&sync(&other, "mine").expect(0));
    assert_eq!((&report["pushed"], &report["head"], &report["forks"]), (&json!(3), &json!(7), &json!([])), "{report}");
    let report = json(&pull(&home, &repository, "all").expect(0));
    assert_eq!((&report["segments"], &report["forks"]), (&json!(7), &json!([])), "{report}");
    let all = home.work().join("all");
    assert_eq!(fs::read(all.join("notes/b")).unwrap(), b"second");
    assert_eq!(records_in(&all).len(), 5);
}

#[tokio::test]
async fn two_that_go_on_from_one_place_fork_and_both_chains_are_kept() {
    let (registry, one, two) = (Registry::start(), Home::new(), Home::new());
    let repository = format!("{}/readings", registry.host());
    let state = Synced::create(&one, "readings", &repository, 1 << 20).await;
    state.file("shared", b"by both").await;
    state.records(names("common", 2)).await;
    sync(&one, "readings").expect(0);
    two.vyr(["state", "pull", &repository, "--name", "readings", "--allow-unsigned"]).expect(0);
    state.records(names("one", 2)).await;
    let copy = Synced::open(&two.vyr_home(), "readings");
    copy.file("shared", b"by two").await;
    copy.records(names("two", 3)).await;
    // Without a network between them; then each syncs.
    assert_eq!(json(&sync(&one, "readings").expect(0))["forks"], json!([]));
    let second = sync(&two, "readings").expect(0).says(&["forked"]);
    let report = json(&second);
    assert_eq!(report["forks"][0]["after"], 3, "{report}");
    let quiet = sync(&two, "readings").expect(0);
    assert!(!quiet.stderr.contains("forked"), "said once: {quiet:?}");
    let report = json(&sync(&one, "readings").expect(0).says(&["forked"]));
    assert_eq!(report["forks"][0]["after"], 3, "{report}");
    let stands = state.vyr.states().await.unwrap().chain(state.state().await.id).await.unwrap();
    assert_eq!(stands.forks.len(), 1);

    let report = json(&pull(&one, &repository, "all").expect(0));
    assert_eq!((&report["segments"], &report["records"]), (&json!(9), &json!(7)), "{report}");
    assert_eq!(report["forks"][0]["after"], 3);
    let mut found = Vec::new();
    for writer in report["writers"].as_array().unwrap() {
        let folder = one.work().join("all").join(writer["writer"].as_str().unwrap());
        let records: Vec<String> = records_in(&folder).into_iter().map(|(_, name)| name).collect();
        let by_two = records.iter().any(|name| name.starts_with("two"));
        let shared = fs::read_to_string(folder.join("shared")).unwrap();
        assert_eq!(shared, if by_two { "by two" } else { "by both" });
        found.extend(records);
    }
    found.sort();
    assert_eq!(found, [names("common", 2), names("one", 2), names("two", 3)].concat(), "each once");
}

#[tokio::test]
async fn cut_in_the_middle_of_every_request_everything_gets_through_once() {
    let (registry, home) = (Registry::start(), Home::new());
    // Every third request breaks in its middle, or its answer is lost; a large one breaks always. This registry forgets an
    // upload whose connection broke, so of pieces those get through that are small enough.
    let count = AtomicUsize::new(0);
    let proxy = proxied(&registry.host(), move |asked, _| {
        let length = asked.header("content-length").and_then(|l| l.parse::<usize>().ok()).unwrap_or(0);
        let breaks = count.fetch_add(1, Ordering::SeqCst).is_multiple_of(3);
        match asked.method.as_str() {
            _ if length > 300_000 => Fault::CutUpload(300_000),
            "PATCH" => Fault::None,
            "PUT" | "POST" if breaks && length > 0 => Fault::CutUpload(length / 2),
            "PUT" | "POST" if breaks => Fault::Lose,
            "HEAD" | "GET" if breaks => Fault::Lose,
            _ => Fault::None,
        }
    });
    let repository = format!("{}/readings", proxy.host());
    let state = Synced::create(&home, "readings", &repository, 64 << 20).await;
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    state.file("large", &large).await;
    state.records(names("r", 5)).await;
    let mut tries = 0;
    loop {
        tries += 1;
        let output = sync(&home, "readings");
        if output.status == 0 {
            assert_eq!(json(&output)["pending"], 0);
            break;
        }
        assert!(tries < 40, "{output:?}");
    }
    let patches = proxy.asked().iter().filter(|asked| asked.method == "PATCH").count();
    assert!(patches > 12_000_000 / 300_000, "{patches}");
    let direct = format!("{}/readings", registry.host());
    let report = json(&pull(&home, &direct, "out").expect(0));
    assert_eq!((&report["segments"], &report["records"]), (&json!(6), &json!(5)), "{report}");
    assert!(fs::read(home.work().join("out/large")).unwrap() == large);
    records_in(&home.work().join("out"));
}

#[tokio::test]
async fn the_same_against_a_node_s_own_registry() {
    let (far, home) = (Home::new(), Home::new());
    let node = Node::start(&far, &[]);
    // Every large request breaks in its middle, each time, whatever its size; a small one each second time.
    let count = AtomicUsize::new(0);
    let proxy = proxied(&node.host(), move |asked, _| {
        let length = asked.header("content-length").and_then(|l| l.parse::<usize>().ok()).unwrap_or(0);
        match asked.method.as_str() {
            "PATCH" if length > 1000 => Fault::CutUpload(length / 2),
            "PUT" | "POST" if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => Fault::CutUpload(length / 2),
            _ => Fault::None,
        }
    });
    let repository = format!("{}/readings", proxy.host());
    let state = Synced::create(&home, "readings", &repository, 64 << 20).await;
    state.file("large", &[7; 3_000_000]).await;
    state.records(names("r", 20)).await;
    for tries in 0.. {
        let output = sync(&home, "readings");
        if output.status == 0 {
            break;
        }
        assert!(tries < 40, "{output:?}");
    }
    let report = json(&pull(&home, &format!("{}/readings", node.host()), "out").expect(0));
    assert_eq!((&report["segments"], &report["records"]), (&json!(21), &json!(20)), "{report}");
    assert_eq!(records_in(&home.work().join("out")).len(), 20);
}

#[tokio::test]
async fn a_wiped_registry_gets_what_the_node_still_has_and_hears_what_is_lost() {
    let (registry, home) = (Registry::start(), Home::new());
    let repository = format!("{}/readings", registry.host());
    let state = Synced::create(&home, "readings", &repository, 1 << 20).await;
    state.file("settings", b"old but in force").await;
    state.records(names("r", 10)).await;
    sync(&home, "readings").expect(0);
    let wipe = || fs::remove_dir_all(registry.folder().join("data")).unwrap();
    wipe();
    let report = json(&sync(&home, "readings").expect(0).says(&["has lost", "all of it is pushed again"]));
    assert_eq!((&report["pushed"], &report["lost"]), (&json!(11), &json!(null)), "{report}");
    let report = json(&pull(&home, &repository, "all").expect(0));
    assert_eq!((&report["segments"], &report["lost"]), (&json!(11), &json!([])));
    // Room for the last few only.
    fs::write(home.vyr_home().join("config.toml"), "[state]\nkeep-pushed-bytes = 80\n").unwrap();
    state.records(names("s", 2)).await;
    sync(&home, "readings").expect(0);
    wipe();
    state.records(names("t", 2)).await;
    let report = json(&sync(&home, "readings").expect(0).says(&["no longer here and lost"]));
    // The files were sealed at the first sync, after the records, and would be too much.
    assert_eq!(report["lost"], json!([1, 11]), "{report}");
    let key = home.vyr_home().join("keys/machine.pub");
    let far = Home::new();
    far.vyr(["trust", "add", "--key", key.to_str().unwrap()]).expect(0);
    let pulled = far.vyr(["state", "pull", &repository, "--to", "out", "--output", "json"]).expect(0);
    let report = json(&pulled);
    assert_eq!((&report["lost"][0]["from"], &report["lost"][0]["to"]), (&json!(1), &json!(11)), "{report}");
    assert_eq!(report["records"], 4);
    let settings = fs::read(far.work().join("out/settings")).unwrap();
    assert_eq!(settings, b"old but in force", "the files are whole again");
}

#[tokio::test]
async fn a_restored_backup_overwrites_nothing() {
    let (registry, home) = (Registry::start(), Home::new());
    let repository = format!("{}/readings", registry.host());
    let state = Synced::create(&home, "readings", &repository, 1 << 20).await;
    state.records(names("r", 3)).await;
    sync(&home, "readings").expect(0);
    drop(state);
    let backup = home.work().join("backup");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        // Whoever closes a database last takes its log away, which is done behind `drop`.
        let end = Instant::now() + Duration::from_secs(10);
        while home.vyr_home().join("db/state.sqlite-shm").exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut cp = home.command("/bin/cp");
        cp.arg("-a").arg(from).arg(to);
        run(cp, b"").expect(0);
    };
    copy(&home.vyr_home(), &backup);
    let state = Synced::open(&home.vyr_home(), "readings");
    state.records(names("later", 2)).await;
    sync(&home, "readings").expect(0);
    drop(state);
    let before = home.tool("crane", ["ls", "--full-ref", &repository]).expect(0).stdout;
    fs::remove_dir_all(home.vyr_home()).unwrap();
    copy(&backup, &home.vyr_home());
    let state = Synced::open(&home.vyr_home(), "readings");
    state.records(names("other", 2)).await;
    sync(&home, "readings").expect(125).says(&["it isn't overwritten", "restored"]);
    assert_eq!(home.tool("crane", ["ls", "--full-ref", &repository]).expect(0).stdout, before);
    let report = json(&pull(&home, &repository, "out").expect(0));
    assert_eq!(report["records"], 5);
    let stands = state.vyr.states().await.unwrap();
    let id = state.state().await.id;
    assert_eq!(stands.pending(id).await.unwrap().segments, 2, "nothing is dropped");
    assert!(stands.chain(id).await.unwrap().error.unwrap().contains("overwritten"));
}

#[tokio::test]
async fn what_was_altered_in_the_registry_is_refused() {
    let (registry, home) = (Registry::start(), Home::new());
    let repository = format!("{}/readings", registry.host());
    let state = Synced::create(&home, "readings", &repository, 1 << 20).await;
    state.records(names("r", 4)).await;
    sync(&home, "readings").expect(0);
    let writer = vyr::ops::state::writer_id(&state.vyr).unwrap();
    let tag = |n: u64| format!("segment-{writer}-{n:012}");
    let full = |n: u64| format!("{repository}:{}", tag(n));
    let delete = |n: u64| {
        let link = registry.folder().join("data/docker/registry/v2/repositories/readings/_manifests/tags").join(tag(n));
        fs::remove_dir_all(link).unwrap();
    };
    // In another's place.
    let third = home.crane_digest(&full(3));
    home.tool("crane", ["tag", &full(2), &tag(3)]).expect(0);
    pull(&home, &repository, "a").expect(126).says(&["segment 2"]);
    let by_digest = format!("{repository}@{third}");
    home.tool("crane", ["tag", &by_digest, &tag(3)]).expect(0);
    pull(&home, &repository, "b").expect(0);
    // A gap, in the middle, at the end, at the beginning.
    for (gone, word) in [(2, "2 to 2 are missing"), (4, "4 to 4 are missing"), (1, "nobody says that it was lost")] {
        let digest = home.crane_digest(&full(gone));
        delete(gone);
        pull(&home, &repository, &format!("gap-{gone}")).expect(126).says(&[word]);
        home.tool("crane", ["tag", &format!("{repository}@{digest}"), &tag(gone)]).expect(0);
    }
    pull(&home, &repository, "whole").expect(0);
}

#[tokio::test]
async fn a_pace_is_kept_within_a_blob_too() {
    let (registry, home) = (Registry::start(), Home::new());
    let repository = format!("{}/readings", registry.host());
    fs::create_dir_all(home.vyr_home()).unwrap();
    fs::write(home.vyr_home().join("config.toml"), "[state]\nsync-bytes-per-second = 100000\n").unwrap();
    let state = Synced::create(&home, "readings", &repository, 8 << 20).await;
    state.file("large", &[5; 400_000]).await;
    let began = Instant::now();
    sync(&home, "readings").expect(0);
    let took = began.elapsed();
    assert!((Duration::from_millis(3900)..Duration::from_secs(12)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn down_for_long_then_up_and_the_node_pushes_by_itself() {
    let (registry, home) = (Registry::start(), Home::new());
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let proxy = proxied(&registry.host(), move |_, _| match is_down.load(Ordering::SeqCst) {
        true => Fault::Answer("503 Service Unavailable", String::new(), Vec::new()),
        false => Fault::None,
    });
    let repository = format!("{}/readings", proxy.host());
    let state = Synced::create(&home, "readings", &repository, 2_000).await;
    state.records(names("r", 20)).await;
    sync(&home, "readings").expect(125);
    let node = Node::start(&home, &[]);
    // Full: what waits isn't dropped, and the guest hears it.
    let handle = state.writer().await;
    let mut taken = 20;
    while handle.usage().grow(20).is_ok() {
        handle.usage().shrink(20);
        record(&handle, &format!("r{taken:04}"), format!("the content of r{taken:04}").as_bytes());
        taken += 1;
    }
    assert_eq!(taken, 100);
    handle.release().unwrap();
    drop(handle);
    down.store(false, Ordering::SeqCst);
    let states = state.vyr.states().await.unwrap();
    let id = state.state().await.id;
    let began = Instant::now();
    loop {
        let chain = states.chain(id).await.unwrap();
        if chain.pushed_seq == 100 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{chain:?}\n{}", node.said());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let handle = state.writer().await;
    assert_eq!(handle.usage().bytes(), 0, "there is room again");
    let report = json(&pull(&home, &format!("{}/readings", registry.host()), "out").expect(0));
    assert_eq!(report["records"], 100);
    assert_eq!(records_in(&home.work().join("out")).len(), 100);
}

#[tokio::test]
async fn a_clock_that_is_set_back_changes_no_order() {
    let (registry, home) = (Registry::start(), Home::new());
    let repository = format!("{}/readings", registry.host());
    let state = Synced::create(&home, "readings", &repository, 1 << 20).await;
    let library = tool("faketime");
    let mut all = Vec::new();
    for (round, offset) in ["+0", "-3d", "+1d", "-10y"].into_iter().enumerate() {
        let names = names(&format!("round{round}-"), 3);
        state.records(names.clone()).await;
        all.extend(names);
        let mut command = home.vyr_command(["state", "sync", "readings", "--output", "json"]);
        command.env("LD_PRELOAD", &library).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        assert_eq!(json(&run(command, b"").expect(0))["pending"], 0, "{offset}");
    }
    pull(&home, &repository, "out").expect(0);
    let found: Vec<String> = records_in(&home.work().join("out")).into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, all);
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_sealed_by_halves_and_all_of_it_later() {
    let (registry, home) = (Registry::start(), Home::new());
    let repository = format!("{}/readings", registry.host());
    let state = Synced::create(&home, "readings", &repository, 64 << 20).await;
    state.records(names("r", 5)).await;
    state.file("large", &[9; 4 << 20]).await;
    drop(state);
    // On a disk with room for what there is, and not for a copy.
    let script = r#"
        mkdir "$PWD/small" && mount -t tmpfs -o size=7m none "$PWD/small" || exit 77
        cp -a "$VYR_HOME/." small/ && export VYR_HOME="$PWD/small"
        "$0" state sync readings; echo "first $?"
        mount -o remount,size=64m "$PWD/small" || exit 77
        "$0" state sync readings --output json"#;
    let mut command = home.command("unshare");
    command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_vyr")]);
    let output = run(command, b"").expect(0).says(&["No space left", "next: "]);
    assert!(output.has_line("first 125"), "{output:?}");
    let report = json(&pull(&home, &repository, "out").expect(0));
    assert_eq!((&report["segments"], &report["records"]), (&json!(6), &json!(5)), "{report}");
    assert!(fs::read(home.work().join("out/large")).unwrap() == [9; 4 << 20]);
}

#[tokio::test]
async fn a_collection_takes_nothing_that_waits_or_is_kept() {
    let (registry, home) = (Registry::start(), Home::new());
    let repository = format!("{}/readings", registry.host());
    let state = Synced::create(&home, "readings", &repository, 1 << 20).await;
    state.records(names("r", 3)).await;
    sync(&home, "readings").expect(0);
    state.records(names("s", 3)).await;
    vyr::ops::state::seal(&state.vyr, &state.state().await).await.unwrap();
    home.vyr(["gc", "--budget", "0"]).expect(0);
    fs::remove_dir_all(registry.folder().join("data")).unwrap();
    assert_eq!(json(&sync(&home, "readings").expect(0))["pushed"], 6);
    pull(&home, &repository, "out").expect(0);
    assert_eq!(records_in(&home.work().join("out")).len(), 6);
}
