//! Whenever the power is cut: a record that was taken is in the chain once and in its order, and the chain is whole.

use std::io::Write as _;
use std::path::Path;

use super::*;
use crate::testing::crash::{HOME, MARKER, Recording, TOLD};

const RECORDS: [&str; 5] = ["r1", "r2", "same", "same", "r5"];

fn content(number: usize) -> Vec<u8> {
    format!("{number}:").repeat(300 * number).into_bytes()
}

/// The recorded side.
#[tokio::test]
#[ignore = "is recorded by the tests below"]
async fn recorded() {
    if !Path::new(MARKER).exists() {
        return;
    }
    let mut told = fs::OpenOptions::new().create(true).append(true).open(TOLD).unwrap();
    let mut tell = |what: &str| told.write_all(format!("{what}\n").as_bytes()).unwrap();
    let states = States::open(Path::new(HOME)).await.unwrap();
    let new = NewState {
        name: "readings".parse().unwrap(),
        class: StateClass::Synced,
        kind: StateKind::Files,
        quota_bytes: 1 << 20,
        time_to_live: None,
        target: Some("localhost:1/readings".into()),
    };
    let state = states.create(new).await.unwrap();
    tell("created");
    let handle = writer(&states, &state).await;
    fs::create_dir(handle.data().join(OUTBOX)).unwrap();
    for number in 1..=2 {
        record(&handle, RECORDS[number - 1], &content(number));
        tell("record");
    }
    fs::write(handle.data().join("file"), b"the first content").unwrap();
    handle.usage().grow(17).unwrap();
    assert!(matches!(handle.seal_changes(0).unwrap(), ChangesSealed::Sealed(_)));
    tell("changes");
    assert_eq!(states.seal(&state, &id()).await.unwrap(), 3);
    tell("sealed");
    record(&handle, RECORDS[2], &content(3));
    tell("record");
    let waiting = states.to_push(state.id, 0, 2).await.unwrap();
    states.mark_pushed(state.id, &waiting).await.unwrap();
    tell("pushed");
    record(&handle, RECORDS[3], &content(4));
    tell("record");
    assert_eq!(states.seal(&state, &id()).await.unwrap(), 2);
    tell("sealed");
    states.keep(state.id, 0).await.unwrap();
    fs::write(handle.data().join("file"), b"another content").unwrap();
    handle.release().unwrap();
    tell("released");
    let handle = writer(&states, &state).await;
    assert!(matches!(handle.seal_changes(0).unwrap(), ChangesSealed::Sealed(_)));
    tell("changes");
    record(&handle, RECORDS[4], &content(5));
    tell("record");
    assert_eq!(states.seal(&state, &id()).await.unwrap(), 2);
    tell("sealed");
}

fn cut(each: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Recording::of("state::tests_synced::crashing::recorded").cut(each, |home, told| runtime.block_on(look(home, told)))
}

async fn look(home: &Path, told: &[String]) {
    let times = |what: &str| told.iter().filter(|line| *line == what).count();
    let states = States::open(home).await.unwrap();
    let Ok(state) = states.get("readings").await else {
        assert_eq!(times("created"), 0, "a state that was made is gone");
        return;
    };
    let handle = match states.attach(&state, "t", Mode::ReadWrite, OnBusy::Refuse).await {
        Ok(handle) => handle,
        Err(e) => panic!("a state that is listed can't be bound: {e}"),
    };
    let before = states.chain(state.id).await.unwrap();
    assert!(before.sealed_seq >= [0, 3, 5, 7][times("sealed")], "what was sealed is not");
    assert!(before.pushed_seq >= if times("pushed") > 0 { 2 } else { 0 }, "what was pushed would be pushed again");
    states.put_aside(state.id).await.unwrap();
    states.seal(&state, &id()).await.unwrap();
    // What is in the chain: pushed and dropped segments apart, each is there, whole, and follows the one before.
    let (mut names, mut previous, mut changes) = (Vec::new(), None, Vec::new());
    let chain = states.chain(state.id).await.unwrap();
    for seq in 1..=chain.sealed_seq {
        let Some(held) = states.held_segment(state.id, seq).await.unwrap() else {
            assert!(seq <= chain.pushed_seq && seq <= 2, "segment {seq} is gone");
            // The first two are records.
            names.push((RECORDS[usize::try_from(seq).unwrap() - 1].to_owned(), Vec::new()));
            continue;
        };
        if let Some(previous) = previous.replace(held.digest.clone()) {
            assert_eq!(held.previous, Some(previous), "the chain is broken at {seq}");
        }
        let mut layer = Vec::new();
        held.open(&states.folder(state.id)).unwrap().read_to_end(&mut layer).unwrap();
        assert_eq!(sha256(&layer), held.layer, "segment {seq} is not what was sealed");
        let copy = crate::fuzz::scratch();
        Target::create(copy.path()).unwrap().apply(&layer[..], held.kind, seq).unwrap();
        match held.kind {
            SegmentKind::Changes => changes.push(fs::read(copy.path().join("file")).unwrap_or_default()),
            SegmentKind::Outbox => {
                let name = held.name.to_str().unwrap().to_owned();
                let record = fs::read(copy.path().join(OUTBOX).join(format!("{seq:012}-{name}"))).unwrap();
                names.push((name, record));
            }
        }
    }
    let acknowledged = times("record");
    assert!(
        names.len() >= acknowledged && names.len() <= acknowledged + 1,
        "{} records of {acknowledged}",
        names.len()
    );
    for (number, (name, found)) in (1..).zip(&names) {
        assert_eq!(name, RECORDS[number - 1], "in their order");
        // The one that nobody was told of may be torn: its guest had not been told that it was taken.
        assert!(found.is_empty() || number > acknowledged || *found == content(number), "record {number} is another");
    }
    let sealed = times("changes");
    assert!(changes.len() >= sealed && changes.len() <= sealed + 1, "{} changes of {sealed}", changes.len());
    let contents: [&[u8]; 2] = [b"the first content", b"another content"];
    for (found, wanted) in changes.iter().zip(contents).take(sealed) {
        assert_eq!(found, wanted);
    }
    if times("released") > 0 {
        assert_eq!(fs::read(handle.data().join("file")).unwrap(), b"another content", "a writer's end is on disk");
    }
    // It goes on from there.
    if handle.data().join(OUTBOX).exists() {
        record(&handle, "next", b"x");
        assert_eq!(states.seal(&state, &id()).await.unwrap(), 1);
    }
}

#[test]
fn whenever_the_power_is_cut_nothing_taken_is_gone() {
    let cuts = cut(4);
    println!("synced states: power cut {cuts} times, nothing lost");
    assert!(cuts > 40, "{cuts}");
}

#[test]
#[ignore = "takes a minute; `./test` runs it by itself"]
fn the_power_is_cut_after_every_call() {
    println!("synced states: power cut {} times, nothing lost", cut(1));
}
