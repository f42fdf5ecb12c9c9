//! Taken up after a crash: cut short, changed, and after another start of the machine.

use std::path::Path;

use super::super::journal::{CURRENT, OLD};
use super::super::record::{HEADER_LEN, Header};
use super::{KvStore, Place, fs, get, writer};
use crate::state::folder::boot_id;

/// What is on disk as after a kill, in a new place. A kill is one moment, and files follow the journal meanwhile: it is what
/// two readings in a row found.
fn copy(from: &Place) -> Place {
    let journals = || [OLD, CURRENT].map(|name| (name, fs::read(from.folder.root().join(name)).ok()));
    let (files, journals) = loop {
        let first = (from.files(), journals());
        if first == (from.files(), journals()) {
            break first;
        }
    };
    let to = Place::new();
    for (name, bytes) in files {
        fs::write(to.file(&name), bytes).unwrap();
    }
    for (name, bytes) in journals {
        if let Some(bytes) = bytes {
            fs::write(to.folder.root().join(name), bytes).unwrap();
        }
    }
    to
}

#[test]
fn a_last_record_cut_at_any_byte_is_not_there_and_the_others_are() {
    let place = Place::new();
    let store = place.write();
    store.set("a", "1").unwrap();
    store.set("b", "2").unwrap();
    let whole = fs::metadata(place.journal()).unwrap().len();
    store.set("a", "a longer value than before").unwrap();
    store.abandon();
    let bytes = fs::read(place.journal()).unwrap();
    fs::remove_dir_all(place.folder.data()).unwrap();
    place.folder.make().unwrap();
    for length in whole..=bytes.len() as u64 {
        let cut = copy(&place);
        fs::write(cut.journal(), &bytes[..usize::try_from(length).unwrap()]).unwrap();
        let expected = if length == bytes.len() as u64 { "a longer value than before" } else { "1" };
        assert_eq!(get(&cut.read(), "a").as_deref(), Some(expected), "cut at {length}");
        for _ in 0..2 {
            let store = cut.write();
            assert_eq!(get(&store, "a").as_deref(), Some(expected), "cut at {length}");
            assert_eq!(get(&store, "b").as_deref(), Some("2"));
            assert!(!cut.journal().exists(), "it was taken over");
        }
    }
    for at in usize::try_from(whole).unwrap()..bytes.len() {
        let changed = copy(&place);
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x40;
        fs::write(changed.journal(), bytes).unwrap();
        assert_eq!(get(&changed.write(), "a").as_deref(), Some("1"), "changed at {at}");
    }
    // A journal that isn't one.
    for bytes in [&b""[..], b"VYRKV1", &[0; HEADER_LEN + 20]] {
        let other = copy(&place);
        fs::write(other.journal(), bytes).unwrap();
        assert_eq!(get(&other.write(), "a"), None);
    }
}

/// Gives a journal to an earlier start of the machine.
fn of_another_boot(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let header = Header::parse(&bytes).unwrap();
    assert_eq!(header.boot, boot_id());
    let boot = Some("00000000-1111-4222-8333-444444444444".into());
    bytes[..HEADER_LEN].copy_from_slice(&Header { boot, ..header }.to_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn after_a_kill_the_files_count_and_after_a_loss_of_power_the_journal() {
    let place = Place::new();
    let store = place.write();
    store.set("a", "1").unwrap();
    store.set("b", "1").unwrap();
    store.settle().unwrap();
    // By a module, after the set.
    fs::write(place.file("a"), "2").unwrap();
    store.set("b", "3").unwrap();
    let killed = copy(&place);
    let cut_off = copy(&place);
    store.abandon();
    assert_eq!(get(&killed.read(), "a").as_deref(), Some("2"));
    let store = killed.write();
    assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("2"), Some("3")));
    // What was renamed without a flush may be empty or away then.
    fs::write(cut_off.file("a"), "").unwrap();
    fs::remove_file(cut_off.file("b")).unwrap();
    of_another_boot(&cut_off.journal());
    assert_eq!(get(&cut_off.read(), "a").as_deref(), Some("1"));
    let store = cut_off.write();
    assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("1"), Some("3")));
}

#[test]
fn a_crash_in_the_middle_of_a_checkpoint_loses_nothing() {
    let place = Place::new();
    let store = place.write();
    store.set("a", "1").unwrap();
    store.set("b", "1").unwrap();
    let before = fs::read(place.journal()).unwrap();
    writer(&store).checkpoint().unwrap();
    store.set("a", "2").unwrap();
    store.delete("b").unwrap();
    store.set("c", "1").unwrap();
    let crashed = copy(&place);
    store.abandon();
    // The old one was not removed yet, and is read first.
    fs::write(crashed.folder.root().join(OLD), before).unwrap();
    let all = |store: &KvStore| [get(store, "a"), get(store, "b"), get(store, "c")];
    let expected = [Some("2".into()), None, Some("1".into())];
    assert_eq!(all(&crashed.read()), expected);
    assert_eq!(all(&crashed.write()), expected);
    assert!(!crashed.folder.root().join(OLD).exists());
    // Between the two renames there is only an old one.
    let whole = fs::read(place.journal()).unwrap();
    fs::remove_file(place.journal()).unwrap();
    fs::write(place.folder.root().join(OLD), whole).unwrap();
    assert_eq!(all(&place.read()), expected);
    assert_eq!(all(&place.write()), expected);
}
