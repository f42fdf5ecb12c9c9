//! Read from beside, while it is written.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::super::files::Files;
use super::super::replay::Replay;
use super::{Place, fs, get, nothing_becomes_a_file, writer};

#[test]
fn a_reader_takes_both_journals_or_looks_again() {
    let place = Place::new();
    let store = place.write();
    // Before the value, which is written soon after it is set.
    let _in_the_way = nothing_becomes_a_file(&place);
    store.set("k", "1").unwrap();
    let files = Files::open(&place.folder).unwrap();
    let mut replay = Replay::new();
    let mut once = true;
    replay
        .refresh_while(files.root(), || {
            if std::mem::take(&mut once) {
                assert!(writer(&store).checkpoint().is_err(), "the journals are exchanged, no file is written");
            }
        })
        .unwrap();
    assert_eq!(replay.find("k"), Some(&Some(Bytes::from_static(b"1"))));
    store.abandon();
}

#[test]
fn a_reader_never_puts_the_old_journal_before_a_mark_in_the_new_one() {
    let place = Place::new();
    let store = place.write();
    let in_the_way = nothing_becomes_a_file(&place);
    store.set("k", "1").unwrap();
    assert!(writer(&store).checkpoint().is_err());
    // Sets are refused by now, so as if it had come a moment sooner.
    writer(&store).clear_stuck();
    store.set("k", "2").unwrap();
    let files = Files::open(&place.folder).unwrap();
    let mut replay = Replay::new();
    replay.refresh(files.root()).unwrap();
    let mut once = true;
    replay
        .refresh_while(files.root(), || {
            if std::mem::take(&mut once) {
                // On a busy machine it has been cleared away, and the store writes there already.
                drop(fs::remove_dir_all(&in_the_way));
                store.settle().unwrap();
            }
        })
        .unwrap();
    assert_ne!(replay.find("k"), Some(&Some(Bytes::from_static(b"1"))));
    assert_eq!(files.read("k").unwrap().unwrap(), b"2");
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
