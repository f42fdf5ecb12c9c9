//! Keys on a real disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::journal::CURRENT;
use super::*;

mod crashing;
mod model;
mod reading;
mod recovery;

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
    // Each writer's files come later and would have forced its own journal to disk: seen is what comes before that.
    let sooner = (0..50).any(|n| {
        let key = format!("k{n}");
        stores.iter().for_each(|store| store.set(&key, "1").unwrap());
        std::thread::sleep(std::time::Duration::from_millis(15));
        let synced = stores.iter().all(|store| writer(store).is_synced());
        synced && folders.iter().all(|folder| !folder.data().join(&key).exists())
    });
    assert!(sooner);
}

/// A folder at the place where values are written: no file comes until it is taken away.
fn nothing_becomes_a_file(place: &Place) -> std::path::PathBuf {
    let in_the_way = place.folder.root().join("new-value");
    // A value that is just being written stands there for a moment.
    let made = (0..1000).any(|_| {
        std::thread::yield_now();
        fs::create_dir_all(in_the_way.join("x")).is_ok()
    });
    assert!(made);
    in_the_way
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
fn while_files_can_not_be_written_sets_fail_and_nothing_is_lost() {
    let place = Place::new();
    let (store, usage) = place.write_with(1000);
    let in_the_way = nothing_becomes_a_file(&place);
    store.set("a", "1").unwrap();
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
    // 4097 may wait, and as many be on their way.
    assert!(place.files().len() >= 10_012 - 2 * 4097, "they are files already");
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
