//! Synced states on a real disk: taken from the outbox, sealed once and in order, kept, counted.

mod crashing;
mod model;

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::sync::Arc;
use std::time::SystemTime;

use super::*;
use crate::oci::sha256;

async fn synced(quota: u64) -> (tempfile::TempDir, States, State) {
    synced_in(tempfile::tempdir().unwrap(), quota).await
}

async fn synced_in(home: tempfile::TempDir, quota: u64) -> (tempfile::TempDir, States, State) {
    let states = States::open(home.path()).await.unwrap();
    let new = NewState {
        name: "readings".parse().unwrap(),
        class: StateClass::Synced,
        kind: StateKind::Files,
        quota_bytes: quota,
        time_to_live: None,
        target: Some("localhost:1/readings".into()),
    };
    let state = states.create(new).await.unwrap();
    fs::create_dir(states.folder(state.id).data().join(OUTBOX)).unwrap();
    (home, states, state)
}

async fn writer(states: &States, state: &State) -> Arc<StateHandle> {
    states.attach(state, "t", Mode::ReadWrite, OnBusy::Refuse).await.unwrap()
}

fn id() -> WriterId {
    WriterId::parse("0123456789abcdef").unwrap()
}

/// As the door does it: counted, written, taken.
fn record(handle: &StateHandle, name: &str, content: &[u8]) {
    handle.usage().grow(content.len() as u64).unwrap();
    handle.usage().add_entry().unwrap();
    fs::write(handle.data().join(OUTBOX).join(name), content).unwrap();
    handle.take_outbox(OsStr::new(name)).unwrap();
}

/// The chain as it would be pushed, checked: what each segment holds.
async fn chain(states: &States, state: &State) -> Vec<(u64, SegmentKind, String, u64)> {
    let stands = states.chain(state.id).await.unwrap();
    let (mut before, mut found) = (None, Vec::new());
    for held in states.to_push(state.id, 0, 1000).await.unwrap() {
        let manifest = held.segment(state, &stands.lineage, &id()).manifest();
        assert_eq!(sha256(&manifest), held.digest);
        let segment = Segment::parse(&manifest).unwrap();
        assert_eq!(segment.seq, found.len() as u64 + 1);
        assert_eq!(segment.previous, before, "the chain is whole");
        before = Some(held.digest.clone());
        let mut layer = Vec::new();
        held.open(&states.folder(state.id)).unwrap().read_to_end(&mut layer).unwrap();
        assert_eq!((sha256(&layer), layer.len() as u64), (held.layer.clone(), held.size));
        found.push((held.seq, held.kind, held.name.to_str().unwrap().to_owned(), held.held));
    }
    assert_eq!(stands.sealed_digest, before);
    found
}

#[tokio::test]
async fn what_was_taken_is_sealed_once_and_in_its_order() {
    let (home, states, state) = synced(10_000).await;
    let handle = writer(&states, &state).await;
    for n in 0..3 {
        record(&handle, "same-name", &[n; 10]);
    }
    fs::write(handle.data().join("file"), b"content").unwrap();
    assert!(matches!(handle.seal_changes(0).unwrap(), ChangesSealed::Sealed(_)));
    assert_eq!(handle.seal_changes(0).unwrap(), ChangesSealed::Nothing);
    assert_eq!(states.seal(&state, &id()).await.unwrap(), 4);
    assert_eq!(states.seal(&state, &id()).await.unwrap(), 0);
    record(&handle, "b", b"later");
    // Another process seals.
    let other = States::open(home.path()).await.unwrap();
    assert_eq!(other.seal(&state, &id()).await.unwrap(), 1);
    let found = chain(&states, &state).await;
    assert_eq!(found[0], (1, SegmentKind::Outbox, "same-name".into(), 10));
    assert_eq!(found[3].1, SegmentKind::Changes);
    assert_eq!(found[4], (5, SegmentKind::Outbox, "b".into(), 5));
    // The places go on after a restart, with what is sealed and what isn't.
    record(&handle, "c", b"x");
    drop(handle);
    let handle = writer(&other, &state).await;
    record(&handle, "d", b"x");
    other.seal(&state, &id()).await.unwrap();
    assert_eq!(chain(&states, &state).await.last().unwrap().2, "d");
}

#[tokio::test]
async fn what_waits_counts_until_it_is_pushed_and_then_goes_oldest_first() {
    let (_home, states, state) = synced(100).await;
    let handle = writer(&states, &state).await;
    for n in 0..4 {
        record(&handle, &format!("{n}"), &[n; 25]);
    }
    assert_eq!(handle.usage().grow(1), Err(Full), "nothing is dropped to make room");
    states.seal(&state, &id()).await.unwrap();
    let pending = states.pending(state.id).await.unwrap();
    assert_eq!((pending.segments, pending.bytes), (4, 100));
    assert!(pending.oldest.unwrap() <= SystemTime::now());
    let waiting = states.to_push(state.id, 0, 3).await.unwrap();
    states.mark_pushed(state.id, &waiting).await.unwrap();
    assert_eq!((handle.usage().bytes(), handle.usage().entries()), (25, 2), "and the outbox");
    assert_eq!(handle.release().unwrap(), Some(25));
    assert_eq!(states.chain(state.id).await.unwrap().pushed_seq, 3);
    // What a crash between the two steps left in its place doesn't count for long.
    let folder = states.folder(state.id);
    let name = "000000000003-2";
    #[expect(clippy::disallowed_methods, reason = "a test")]
    fs::rename(folder.pushed().join(name), folder.sealing().join(name)).unwrap();
    states.put_aside(state.id).await.unwrap();
    let handle = writer(&states, &state).await;
    assert_eq!(handle.usage().bytes(), 25, "pushed while nobody wrote");
    states.keep(state.id, 50).await.unwrap();
    let kept: Vec<_> = fs::read_dir(folder.pushed()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(states.push_again(state.id).await.unwrap(), 2);
    let again = states.to_push(state.id, 0, 10).await.unwrap();
    assert_eq!(again.iter().map(|held| held.seq).collect::<Vec<_>>(), [2, 3, 4]);
    again.iter().for_each(|held| drop(held.open(&folder).unwrap()));
}

#[tokio::test]
async fn a_writer_gives_no_place_that_was_pushed_since_it_came() {
    let (_home, states, state) = synced(1 << 20).await;
    let handle = writer(&states, &state).await;
    record(&handle, "first", b"1");
    handle.release().unwrap();
    let handle = writer(&states, &state).await;
    // Between its coming and its first record, all that waited goes.
    states.seal(&state, &id()).await.unwrap();
    let waiting = states.to_push(state.id, 0, 10).await.unwrap();
    states.mark_pushed(state.id, &waiting).await.unwrap();
    record(&handle, "second", b"2");
    assert_eq!(states.seal(&state, &id()).await.unwrap(), 1, "an acknowledged record is sealed");
    let waiting = states.to_push(state.id, 0, 10).await.unwrap();
    assert_eq!(waiting.iter().map(|held| held.seq).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn changes_that_do_not_fit_wait_in_the_files() {
    let (_home, states, state) = synced(20_000).await;
    let handle = writer(&states, &state).await;
    let write = |name: &str, before: u64, content: &[u8]| {
        handle.usage().change(before, content.len() as u64).unwrap();
        fs::write(handle.data().join(name), content).unwrap();
    };
    write("a", 0, &[1; 15_000]);
    assert!(matches!(handle.seal_changes(0).unwrap(), ChangesSealed::Sealed(_)), "the first may go beyond");
    assert!(handle.usage().grow(1).is_err());
    write("a", 15_000, &[2; 15_000]);
    assert_eq!(handle.seal_changes(0).unwrap(), ChangesSealed::NoRoom);
    states.seal(&state, &id()).await.unwrap();
    let waiting = states.to_push(state.id, 0, 10).await.unwrap();
    assert_eq!(waiting.len(), 1);
    states.mark_pushed(state.id, &waiting).await.unwrap();
    assert!(matches!(handle.seal_changes(0).unwrap(), ChangesSealed::Sealed(_)), "nothing was missed");
}

#[tokio::test]
async fn a_crash_between_the_steps_of_a_seal_loses_and_doubles_nothing() {
    let (_home, states, state) = synced(1 << 20).await;
    let handle = writer(&states, &state).await;
    let folder = handle.folder().clone();
    fs::write(handle.data().join("a"), b"1").unwrap();
    handle.seal_changes(0).unwrap();
    // Before the new index had its name.
    let index = fs::read(folder.index()).unwrap();
    fs::write(folder.new_index(), &index).unwrap();
    fs::remove_file(folder.index()).unwrap();
    assert_eq!(handle.seal_changes(0).unwrap(), ChangesSealed::Nothing, "it was sealed");
    // Before the changes had their place, which a record got then.
    fs::write(handle.data().join("a"), b"2").unwrap();
    fs::write(folder.new_index(), String::from_utf8(index).unwrap().replace("\"seq\":1", "\"seq\":2")).unwrap();
    record(&handle, "r", b"x");
    assert!(matches!(handle.seal_changes(0).unwrap(), ChangesSealed::Sealed(_)));
    // A power cut took an item that nobody was told of: the chain closes up.
    record(&handle, "gone", b"x");
    record(&handle, "s", b"y");
    fs::remove_file(folder.sealing().join("000000000004-gone")).unwrap();
    states.seal(&state, &id()).await.unwrap();
    let kinds: Vec<_> = chain(&states, &state).await.into_iter().map(|(seq, _, name, _)| (seq, name)).collect();
    assert_eq!(kinds, [(1, "".into()), (2, "r".into()), (3, "".into()), (4, "s".into())]);
}

#[tokio::test]
async fn many_take_at_once_and_each_has_a_place() {
    let (_home, states, state) = synced(1 << 20).await;
    let handle = writer(&states, &state).await;
    std::thread::scope(|scope| {
        for n in 0..40 {
            let handle = &handle;
            scope.spawn(move || record(handle, &format!("r{n}"), b"content"));
        }
    });
    assert_eq!(states.seal(&state, &id()).await.unwrap(), 40);
    assert_eq!(chain(&states, &state).await.len(), 40);
}

#[tokio::test]
async fn what_is_no_record_is_not_taken() {
    let (_home, states, state) = synced(1 << 20).await;
    let handle = writer(&states, &state).await;
    let long = "n".repeat(242);
    fs::write(handle.data().join(OUTBOX).join(&long), b"x").unwrap();
    fs::write(handle.data().join("outside"), b"x").unwrap();
    std::os::unix::fs::symlink("../outside", handle.data().join("outbox/link")).unwrap();
    fs::create_dir(handle.data().join("outbox/folder")).unwrap();
    for name in ["", ".", "..", "a/b", "../outside", "none", "link", "folder", &long] {
        assert!(handle.take_outbox(OsStr::new(name)).is_err(), "{name}");
    }
    record(&handle, &long[1..], b"x");
    let reader = states.attach(&state, "r", Mode::ReadOnly, OnBusy::Refuse).await.unwrap();
    fs::write(handle.data().join("outbox/x"), b"x").unwrap();
    assert_eq!(reader.take_outbox(OsStr::new("x")).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(states.seal(&state, &id()).await.unwrap(), 1);
}

/// A directory that is read while names are added to it may give a later one and not an earlier one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_while_records_come_is_whole_and_in_its_order() {
    const RECORDS: u64 = 12_000;
    let (_home, states, state) = synced(1 << 30).await;
    let handle = writer(&states, &state).await;
    let coming = Arc::clone(&handle);
    let coming = tokio::task::spawn_blocking(move || {
        // As many writers of one guest, each of which waits for its own force to disk.
        for number in 0..RECORDS {
            let name = format!("r-{number:05}");
            coming.usage().grow(1).unwrap();
            coming.usage().add_entry().unwrap();
            fs::write(coming.data().join(OUTBOX).join(&name), "x").unwrap();
            coming.take_outbox_unforced(OsStr::new(&name)).unwrap();
        }
    });
    while !coming.is_finished() {
        states.seal(&state, &id()).await.unwrap();
    }
    coming.await.unwrap();
    states.seal(&state, &id()).await.unwrap();
    let mut after = 0;
    loop {
        let some = states.to_push(state.id, after + 1, 1000).await.unwrap();
        let Some(last) = some.last() else { break };
        for held in &some {
            after += 1;
            assert_eq!((held.seq, held.name.to_string_lossy()), (after, format!("r-{:05}", after - 1).into()));
        }
        assert_eq!(last.seq, after);
    }
    assert_eq!(after, RECORDS);
}

/// As for a node that isn't root, beside a container whose user closed a file.
#[tokio::test]
async fn a_file_that_may_not_be_read_keeps_back_no_other_and_no_record() {
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    let (_home, states, state) = synced(1 << 20).await;
    let handle = writer(&states, &state).await;
    for name in ["closed", "open"] {
        fs::write(handle.data().join(name), name).unwrap();
    }
    fs::set_permissions(handle.data().join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    record(&handle, "r", b"record");
    let sealing = Arc::clone(&handle);
    let sealed = std::thread::spawn(move || {
        // Of this thread alone.
        let none = CapabilitySets { effective: CapabilitySet::empty(), ..capabilities(None).unwrap() };
        set_capabilities(None, none).unwrap();
        assert!(fs::read(sealing.data().join("closed")).is_err());
        (sealing.seal_changes(0).unwrap(), sealing.seal_changes(0).unwrap())
    });
    let (first, second) = sealed.join().unwrap();
    assert!(matches!((first, second), (ChangesSealed::Sealed(_), ChangesSealed::Nothing)), "{first:?} {second:?}");
    assert_eq!(states.seal(&state, &id()).await.unwrap(), 2);
    assert!(states.owes_records(&state).await.unwrap());
}

/// What a pull wrote into the outbox for who reads it was sent by somebody long ago.
#[tokio::test]
async fn what_a_pull_put_into_an_outbox_is_not_sent_again_when_a_container_ends() {
    let (_home, states, state) = synced(1 << 20).await;
    let handle = writer(&states, &state).await;
    record(&handle, "a", b"1");
    record(&handle, "a", b"2");
    states.seal(&state, &id()).await.unwrap();
    drop(handle);
    let handle = writer(&states, &state).await;
    let outbox = handle.data().join(OUTBOX);
    for name in ["000000000001-a", "000000000002-a", "left-by-one-that-was-killed", "1732660000000-of-its-own"] {
        fs::write(outbox.join(name), "before").unwrap();
    }
    let before = handle.sent_before().unwrap();
    for (name, content) in [("000000000002-a", "written anew"), ("new", "new"), (".new.tmp", "half")] {
        fs::write(outbox.join(name), content).unwrap();
    }
    assert_eq!(handle.take_outbox_of_ended(&before).unwrap(), Vec::<String>::new());
    states.seal(&state, &id()).await.unwrap();
    let mut names: Vec<String> = chain(&states, &state).await.into_iter().map(|(_, _, name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["000000000002-a", "1732660000000-of-its-own", "a", "a", "left-by-one-that-was-killed", "new"]);
    assert!(outbox.join("000000000001-a").exists() && outbox.join(".new.tmp").exists());
}

#[tokio::test]
async fn nothing_but_records_is_taken_whatever_a_container_left_in_its_outbox() {
    let (home, states, state) = synced(1 << 20).await;
    let handle = writer(&states, &state).await;
    let (outbox, secrets) = (handle.data().join(OUTBOX), home.path().join("keys"));
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("machine.key"), "secret").unwrap();
    fs::remove_dir(&outbox).unwrap();
    std::os::unix::fs::symlink(&secrets, &outbox).unwrap();
    assert!(handle.take_outbox_of_ended(&SentBefore::default()).is_err());
    assert!(handle.take_outbox(OsStr::new("machine.key")).is_err());
    assert!(secrets.join("machine.key").exists());

    fs::remove_file(&outbox).unwrap();
    fs::create_dir(&outbox).unwrap();
    std::os::unix::fs::symlink(secrets.join("machine.key"), outbox.join("link")).unwrap();
    fs::write(outbox.join("n".repeat(250)), "too long a name").unwrap();
    fs::write(outbox.join("good"), "good").unwrap();
    fs::write(handle.data().join("shared"), "linked").unwrap();
    fs::hard_link(handle.data().join("shared"), outbox.join("hard")).unwrap();
    let left = handle.take_outbox_of_ended(&SentBefore::default()).unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(secrets.join("machine.key").exists() && !outbox.join("good").exists());
    // What was taken is not what the guest can still write to.
    fs::write(handle.data().join("shared"), "changed").unwrap();
    let sealing = fs::read_dir(handle.folder().sealing()).unwrap().flatten();
    let mut texts: Vec<String> = sealing.map(|e| fs::read_to_string(e.path()).unwrap()).collect();
    texts.sort();
    assert_eq!(texts, ["good", "linked"]);
    assert!(!handle.recount().unwrap().over);
}
