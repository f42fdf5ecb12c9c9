//! Keys on a real disk: against a model, cut short, full, read from beside, and after crashes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;

use super::journal::{CURRENT, OLD};
use super::record::{HEADER_LEN, Header};
use super::*;
use crate::state::folder::boot_id;

mod crashing;

/// A folder as a state has it.
struct Place {
    home: tempfile::TempDir,
    folder: Folder,
    flusher: Flusher,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::at(home.path().join("state"));
        folder.make().unwrap();
        let flusher = Flusher::new(home.path());
        Self { home, folder, flusher }
    }

    fn write_with(&self, quota: u64) -> (KvStore, Arc<Usage>) {
        recover(&self.folder, &self.flusher).unwrap();
        let (bytes, entries) = self.folder.measure().unwrap();
        let usage = Arc::new(Usage::new(quota, bytes, entries));
        (KvStore::write(&self.folder, Arc::clone(&usage), self.flusher.clone()).unwrap(), usage)
    }

    fn write(&self) -> KvStore {
        self.write_with(1 << 30).0
    }

    fn read(&self) -> KvStore {
        KvStore::read(&self.folder).unwrap()
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.data().join(name)
    }

    fn journal(&self) -> std::path::PathBuf {
        self.folder.root().join(CURRENT)
    }

    /// What the files hold, without any help.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.folder.data()).unwrap().map(Result::unwrap);
        entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
    }
}

fn writer(store: &KvStore) -> &Arc<Writer> {
    store.writer().unwrap()
}

fn get(store: &KvStore, key: &str) -> Option<String> {
    store.get(key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

#[test]
fn keys_are_files_once_it_is_closed() {
    let place = Place::new();
    let store = place.write();
    store.set("a/b", "1").unwrap();
    store.set("x", "2").unwrap();
    store.set("x", "3").unwrap();
    store.set("gone", "4").unwrap();
    store.delete("gone").unwrap();
    store.delete("never was").unwrap();
    assert_eq!(get(&store, "x").as_deref(), Some("3"));
    assert_eq!((get(&store, "gone"), store.exists("gone").unwrap()), (None, false));
    assert!(store.exists("a/b").unwrap());
    store.close(true).unwrap();
    assert_eq!(place.files(), [("a%2Fb".into(), b"1".to_vec()), ("x".into(), b"3".to_vec())].into());
    let left: Vec<_> = fs::read_dir(place.folder.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["data"], "nothing but the data is left");
    assert!(store.set("late", "5").is_err() && store.get("x").is_err());
}

#[test]
fn files_follow_by_themselves() {
    let place = Place::new();
    let store = place.write();
    store.set("x", "1").unwrap();
    let began = std::time::Instant::now();
    while place.files().is_empty() {
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "no file came");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(place.files(), [("x".into(), b"1".to_vec())].into());
    store.delete("x").unwrap();
    store.settle().unwrap();
    assert!(place.files().is_empty());
}

#[test]
fn the_journal_is_on_disk_before_the_files_are_written() {
    let place = Place::new();
    let store = place.write();
    let mut ahead = 0;
    for n in 0..100 {
        store.set("x", n.to_string()).unwrap();
        ahead += u32::from(!writer(&store).is_synced());
        store.settle().unwrap();
        assert!(writer(&store).is_synced());
    }
    assert!(ahead > 0, "a set waits for no disk");
    // By itself it is there sooner than the file.
    let sooner = (0..50).any(|n| {
        let key = format!("k{n}");
        store.set(&key, "1").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(15));
        writer(&store).is_synced() && !place.file(&key).exists()
    });
    assert!(sooner);
}

#[test]
fn many_states_are_forced_to_disk_together() {
    let place = Place::new();
    let folders: Vec<_> = (0..12).map(|n| Folder::at(place.home.path().join(n.to_string()))).collect();
    let stores: Vec<_> = folders
        .iter()
        .map(|folder| {
            folder.make().unwrap();
            KvStore::write(folder, Arc::new(Usage::new(1000, 0, 0)), place.flusher.clone()).unwrap()
        })
        .collect();
    for _ in 0..3 {
        stores.iter().for_each(|store| store.set("k", "1").unwrap());
        let began = std::time::Instant::now();
        while !stores.iter().all(|store| writer(store).is_synced()) {
            assert!(began.elapsed() < std::time::Duration::from_secs(10));
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

#[test]
fn what_a_module_writes_is_a_key_and_what_it_makes_else_is_none() {
    let place = Place::new();
    let store = place.write();
    let reader = place.read();
    store.set("k", "1").unwrap();
    store.settle().unwrap();
    fs::write(place.file("k"), "by a module").unwrap();
    fs::write(place.file("new"), "too").unwrap();
    fs::create_dir(place.file("folder")).unwrap();
    fs::write(place.file("folder/inner"), "not a key").unwrap();
    fs::write(place.home.path().join("secret"), "not to be read").unwrap();
    std::os::unix::fs::symlink(place.home.path().join("secret"), place.file("link")).unwrap();
    fs::write(place.file(".hidden"), "not a key").unwrap();
    fs::write(place.file("50%"), "not a key").unwrap();
    for store in [&store, &reader] {
        assert_eq!(get(store, "k").as_deref(), Some("by a module"));
        assert_eq!(get(store, "new").as_deref(), Some("too"));
        assert_eq!((get(store, "folder"), get(store, "link")), (None, None));
        assert_eq!(store.keys(None, 100).unwrap(), ["k", "new"]);
    }
    for key in ["folder", "link"] {
        assert_eq!(store.set(key, "x").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        store.delete(key).unwrap();
    }
    assert_eq!(fs::read_to_string(place.home.path().join("secret")).unwrap(), "not to be read");
    // What has the old value by another name keeps it.
    fs::hard_link(place.file("k"), place.file("other")).unwrap();
    store.set("k", "2").unwrap();
    store.settle().unwrap();
    assert_eq!((get(&store, "k").as_deref(), get(&store, "other").as_deref()), (Some("2"), Some("by a module")));
}

#[test]
fn a_folder_that_takes_a_key_s_name_before_its_file_is_written_stays() {
    let place = Place::new();
    let (store, usage) = place.write_with(1000);
    store.set("k", "12345").unwrap();
    let turn = (usage.bytes(), usage.entries());
    fs::create_dir_all(place.file("k/inner")).unwrap();
    store.settle().unwrap();
    assert!(place.file("k/inner").is_dir());
    assert_eq!((turn, usage.bytes(), usage.entries()), ((5, 1), 0, 0));
    assert_eq!(get(&store, "k"), None);
}

#[test]
fn the_quota_holds_to_the_byte() {
    let place = Place::new();
    let (store, usage) = place.write_with(100);
    store.set("a", vec![0; 60]).unwrap();
    store.set("b", vec![0; 40]).unwrap();
    let full = |done: io::Result<()>| assert_eq!(done.unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
    full(store.set("c", vec![0; 1]));
    full(store.set("a", vec![0; 61]));
    assert!(store.increment("n", 1).unwrap_err().to_string().contains("quota"));
    assert_eq!((usage.bytes(), usage.entries()), (100, 2));
    assert_eq!(store.get("a").unwrap().unwrap().len(), 60, "nothing changed");
    store.settle().unwrap();
    full(store.set("a", vec![0; 61]));
    store.set("a", vec![0; 59]).unwrap();
    store.set("c", vec![0; 1]).unwrap();
    store.set("empty", vec![]).unwrap();
    assert_eq!((usage.bytes(), usage.entries()), (100, 4));
    full(store.set("d", vec![0; 1]));
    store.delete("b").unwrap();
    store.delete("b").unwrap();
    assert_eq!((usage.bytes(), usage.entries()), (60, 3));
    store.set("d", vec![0; 40]).unwrap();
    store.close(true).unwrap();
    assert_eq!(place.folder.measure().unwrap(), (100, 4));
    // Files and folders are bounded too.
    let few = Arc::new(Usage::new(100, 0, 65_536));
    let store = KvStore::write(&place.folder, few, place.flusher.clone()).unwrap();
    full(store.set("one more", vec![]));
}

#[test]
fn numbers_add_up_and_swaps_see_every_set() {
    let place = Place::new();
    let store = place.write();
    assert_eq!(store.increment("n", 5).unwrap(), 5);
    assert_eq!(store.increment("n", -7).unwrap(), -2);
    assert_eq!(get(&store, "n").as_deref(), Some("-2"));
    store.set("n", i64::MAX.to_string()).unwrap();
    assert_eq!(store.increment("n", 1).unwrap_err().kind(), io::ErrorKind::InvalidData);
    store.set("n", "no number").unwrap();
    assert!(store.increment("n", 1).is_err());

    let seen = store.look("k").unwrap();
    assert!(store.swap(&seen, "1").unwrap());
    assert!(!store.swap(&seen, "2").unwrap(), "it was set since");
    let seen = store.look("k").unwrap();
    store.set("k", "2").unwrap();
    store.set("k", "1").unwrap();
    assert!(!store.swap(&seen, "3").unwrap(), "there and back is a change");
    let seen = store.look("k").unwrap();
    store.delete("k").unwrap();
    assert!(!store.swap(&seen, "3").unwrap());
    store.set("k", "1").unwrap();
    let seen = store.look("k").unwrap();
    store.settle().unwrap();
    fs::write(place.file("k"), "by a module").unwrap();
    assert!(!store.swap(&seen, "3").unwrap(), "a module's write is a change");
    assert_eq!(get(&store, "k").as_deref(), Some("by a module"));
}

#[test]
fn who_may_only_read_sees_all_and_changes_nothing() {
    let place = Place::new();
    let reader = place.read();
    assert_eq!((get(&reader, "k"), reader.keys(None, 10).unwrap().len()), (None, 0));
    let store = place.write();
    store.set("k", "1").unwrap();
    assert_eq!(get(&reader, "k").as_deref(), Some("1"), "in the journal alone");
    assert_eq!(get(&place.read(), "k").as_deref(), Some("1"));
    store.delete("k").unwrap();
    assert_eq!((get(&reader, "k"), reader.exists("k").unwrap()), (None, false));
    store.set("k", "2").unwrap();
    writer(&store).checkpoint().unwrap();
    store.set("l", "3").unwrap();
    assert_eq!(get(&reader, "k").as_deref(), Some("2"));
    assert_eq!(reader.keys(None, 10).unwrap(), ["k", "l"]);
    for done in [
        reader.set("k", "x"),
        reader.delete("k"),
        reader.increment("k", 1).map(drop),
        reader.swap(&reader.look("k").unwrap(), "x").map(drop),
    ] {
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
    store.close(true).unwrap();
    assert_eq!((get(&reader, "k").as_deref(), get(&reader, "l").as_deref()), (Some("2"), Some("3")));
}

/// Sets, checkpoints and closes as fast as it can while others read: what was acknowledged before a read began is seen,
/// and nothing goes back.
#[test]
fn a_reader_never_sees_what_was_before_while_the_writer_checkpoints() {
    let place = Place::new();
    let (acknowledged, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (place, acknowledged, over) = (&place, &acknowledged, &over);
                scope.spawn(move || {
                    let reader = place.read();
                    let (mut last, mut count) = (0, 0_u64);
                    while !over.load(Ordering::Acquire) {
                        let least = acknowledged.load(Ordering::Acquire);
                        let now = get(&reader, "n").map_or(0, |value| value.parse::<u64>().unwrap());
                        assert!(now >= least.max(last), "{now} was read after {last}, {least} were acknowledged");
                        if least > 0 && count.is_multiple_of(50) {
                            assert_eq!(reader.keys(None, 10).unwrap(), ["n", "other"]);
                        }
                        (last, count) = (now, count + 1);
                    }
                    count
                })
            })
            .collect();
        for round in 0..6_u64 {
            let store = place.write();
            store.set("other", round.to_string()).unwrap();
            for n in 1..=400_u64 {
                let n = round * 400 + n;
                store.set("n", n.to_string()).unwrap();
                acknowledged.store(n, Ordering::Release);
                match n % 20 {
                    0 => writer(&store).checkpoint().unwrap(),
                    5 | 13 => store.settle().unwrap(),
                    _ => {}
                }
            }
            if round % 2 == 0 { store.close(true).unwrap() } else { store.abandon() }
        }
        over.store(true, Ordering::Release);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 20), "the readers got to read");
    });
}

/// What is on disk as after a kill, in a new place.
fn copy(from: &Place) -> Place {
    let to = Place::new();
    for (name, bytes) in from.files() {
        fs::write(to.file(&name), bytes).unwrap();
    }
    for name in [OLD, CURRENT] {
        if let Ok(bytes) = fs::read(from.folder.root().join(name)) {
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
    fs::rename(place.journal(), place.folder.root().join(OLD)).unwrap();
    assert_eq!(all(&place.read()), expected);
    assert_eq!(all(&place.write()), expected);
}

#[test]
fn while_files_can_not_be_written_sets_fail_and_nothing_is_lost() {
    let place = Place::new();
    let (store, usage) = place.write_with(1000);
    store.set("a", "1").unwrap();
    // A value can't be written where a folder with something in it is.
    let in_the_way = place.folder.root().join("new-value");
    fs::create_dir_all(in_the_way.join("x")).unwrap();
    assert!(store.settle().is_err());
    assert!(store.set("b", "1").is_err());
    assert_eq!((usage.bytes(), get(&store, "a").as_deref()), (1, Some("1")));
    store.delete("none").unwrap();
    fs::remove_dir_all(in_the_way).unwrap();
    store.settle().unwrap();
    store.set("b", "1").unwrap();
    store.close(true).unwrap();
    assert_eq!(place.files().len(), 2);
}

#[test]
fn what_waits_is_bounded() {
    let place = Place::new();
    let store = place.write();
    for n in 0..12_u8 {
        store.set(&format!("k{n}"), vec![n; 2 << 20]).unwrap();
    }
    for n in 0..10_000 {
        store.set(&format!("n{n}"), "x").unwrap();
    }
    assert!(place.files().len() > 5000, "they are files already");
    let page = store.keys(Some("n5"), 3).unwrap();
    assert_eq!(page, ["n50", "n500", "n5000"]);
    assert_eq!(store.keys(None, 100_000).unwrap().len(), 10_012);
    store.close(true).unwrap();
    assert_eq!(place.files().len(), 10_012);
    let store = place.write();
    assert!(store.set("large", vec![0; MAX_VALUE_BYTES + 1]).is_err());
    store.set("large", vec![1; MAX_VALUE_BYTES]).unwrap();
    store.abandon();
    assert_eq!(get_len(&place.write(), "large"), MAX_VALUE_BYTES);
    fs::File::create(place.file("huge")).unwrap().set_len(MAX_VALUE_BYTES as u64 + 1).unwrap();
    assert_eq!(place.write().get("huge").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
}

fn get_len(store: &KvStore, key: &str) -> usize {
    store.get(key).unwrap().unwrap().len()
}

#[derive(Debug, Clone)]
enum Step {
    Set(String, Vec<u8>),
    Delete(String),
    Add(String, i64),
    Settle,
    Checkpoint,
    Close,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || "[a-c./%]{1,2}";
    prop_oneof![
        6 => (key(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(key, value)| Step::Set(key, value)),
        3 => key().prop_map(Step::Delete),
        2 => (key(), -5..5_i64).prop_map(|(key, delta)| Step::Add(key, delta)),
        2 => Just(Step::Settle),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_a_map(steps in proptest::collection::vec(step(), 1..40)) {
        const QUOTA: u64 = 150;
        let place = Place::new();
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let sum = |model: &BTreeMap<String, Vec<u8>>| model.values().map(|v| v.len() as u64).sum::<u64>();
        let (mut store, mut usage) = place.write_with(QUOTA);
        let reader = place.read();
        for step in steps {
            match step {
                Step::Set(key, value) => {
                    let mut next = model.clone();
                    let grows = value.len() > model.get(&key).map_or(0, Vec::len);
                    next.insert(key.clone(), value.clone());
                    let fits = !grows || sum(&next) <= QUOTA;
                    prop_assert_eq!(store.set(&key, value).is_ok(), fits);
                    if fits { model = next }
                }
                Step::Delete(key) => {
                    store.delete(&key).unwrap();
                    model.remove(&key);
                }
                Step::Add(key, delta) => {
                    let before = match model.get(&key) {
                        Some(digits) => std::str::from_utf8(digits).ok().and_then(|d| d.parse::<i64>().ok()),
                        None => Some(0),
                    };
                    let mut next = model.clone();
                    let fits = before.is_some_and(|before| {
                        next.insert(key.clone(), (before + delta).to_string().into_bytes());
                        sum(&next) <= QUOTA || sum(&next) <= sum(&model)
                    });
                    prop_assert_eq!(store.increment(&key, delta).is_ok(), fits);
                    if fits { model = next }
                }
                Step::Settle => store.settle().unwrap(),
                Step::Checkpoint => writer(&store).checkpoint().unwrap(),
                Step::Close | Step::Crash => {
                    if matches!(step, Step::Close) { store.close(true).unwrap() } else { store.abandon() }
                    (store, usage) = place.write_with(QUOTA);
                }
            }
            prop_assert_eq!((usage.bytes(), usage.entries()), (sum(&model), model.len() as u64));
            let keys: Vec<_> = model.keys().cloned().collect();
            for store in [&store, &reader] {
                prop_assert_eq!(store.keys(None, 1000).unwrap(), keys.clone());
                for key in ["a", "b", "c", ".", "/", "%a", "ab"] {
                    prop_assert_eq!(store.get(key).unwrap(), model.get(key).cloned());
                    prop_assert_eq!(store.exists(key).unwrap(), model.contains_key(key));
                }
            }
            if let Some(first) = keys.first() {
                prop_assert_eq!(store.keys(Some(first), 2).unwrap(), keys[1..keys.len().min(3)].to_vec());
            }
        }
        store.close(true).unwrap();
        prop_assert_eq!(place.files().len(), model.len());
        prop_assert_eq!(place.folder.measure().unwrap(), (sum(&model), model.len() as u64));
    }
}
