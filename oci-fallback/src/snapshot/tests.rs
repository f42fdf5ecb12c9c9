//! Who may see, share and remove snapshots.

use std::io::Cursor;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::*;

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_bytes()).expect("appended");
    }
    builder.into_inner().expect("a tar")
}

/// A layer, and how often it was opened.
fn layer(files: &[(&str, &str)], opened: &'static AtomicUsize) -> Layer {
    let bytes = tar(files);
    let digest = format!("sha256:{}", hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes)));
    let open = Box::new(move || {
        opened.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Cursor::new(bytes.clone())) as Box<dyn Read + Send>)
    });
    Layer { media_type: String::new(), diff_id: digest.clone(), digest, size: 0, open }
}

fn ids(layers: &[Layer]) -> Vec<String> {
    layers.iter().map(|layer| layer.diff_id.clone()).collect()
}

fn unpack(snapshots: &Snapshots, layers: &[Layer]) -> Rootfs {
    snapshots.unpack(layers, &Limits::default(), &|_| {}).expect("unpacked")
}

const BOTH: [Method; 2] = [Method::Overlay, Method::Flat];

#[test]
fn chain_ids_are_those_of_the_specification() {
    // As `printf 'A B' | sha256sum` says.
    let a = format!("sha256:{}", "a".repeat(64));
    let b = format!("sha256:{}", "b".repeat(64));
    let expected = chain::hexadecimal(&chain_ids(&[a.clone(), b.clone()]).expect("ids")[1]).map(str::to_owned);
    let out = std::process::Command::new("sh").args(["-c", &format!("printf '{a} {b}' | sha256sum")]).output();
    assert_eq!(expected.as_deref(), Some(&String::from_utf8_lossy(&out.expect("sha256sum").stdout)[..64]));
    for bad in ["", "sha256:", "sha512:aa", &a[..70], &a.to_uppercase(), &format!("{a}0"), "sha256:../../../../etc"] {
        assert!(chain_ids(&[bad.to_owned()]).is_err(), "{bad}");
    }
}

#[test]
fn images_that_begin_alike_share_what_they_begin_with() {
    static BASE: AtomicUsize = AtomicUsize::new(0);
    static TOP: AtomicUsize = AtomicUsize::new(0);
    let dir = tempfile::tempdir().expect("a folder");
    for (round, method) in BOTH.into_iter().enumerate() {
        let snapshots = Snapshots::open(dir.path(), method, Rights::Root).expect("snapshots");
        let image = |top: &str| [layer(&[("base", "b"), ("both", "b")], &BASE), layer(&[("both", top)], &TOP)];
        let base = unpack(&snapshots, &image("1")[..1]);
        let (one, two) = (unpack(&snapshots, &image("1")), unpack(&snapshots, &image("2")));
        assert_eq!(BASE.load(Ordering::SeqCst), round + 1);
        for (rootfs, top) in [(&one, b"1"), (&two, b"2")] {
            assert_eq!(rootfs.read("both", 9).expect("read"), Some(top.to_vec()));
            assert_eq!(rootfs.read("base", 9).expect("read"), Some(b"b".to_vec()));
        }
        assert_eq!(base.read("both", 9).expect("read"), Some(b"b".to_vec()), "not written to");
        assert!(one.read("base", 0).is_err(), "larger than 0 bytes");
        if method == Method::Overlay {
            assert_eq!(one.layers[0], two.layers[0]);
            assert_ne!(one.layers[1], two.layers[1]);
        }
        let opened = TOP.load(Ordering::SeqCst);
        assert!(snapshots.get(&ids(&image("1"))).is_some());
        drop(unpack(&snapshots, &image("1")));
        assert_eq!(TOP.load(Ordering::SeqCst), opened, "it was there");
    }
}

#[test]
fn what_is_held_stays_and_what_is_kept_stays() {
    static OPENED: AtomicUsize = AtomicUsize::new(0);
    for method in BOTH {
        let dir = tempfile::tempdir().expect("a folder");
        let snapshots = Snapshots::open(dir.path(), method, Rights::Root).expect("snapshots");
        let (one, two) = ([layer(&[("one", "1")], &OPENED)], [layer(&[("two", "22")], &OPENED)]);
        let held = unpack(&snapshots, &one);
        drop(unpack(&snapshots, &two));
        assert_eq!(snapshots.list().expect("listed").len(), 2);
        let kept = snapshots.remove_unused(|id| id == two[0].diff_id).expect("removed");
        assert_eq!((kept, snapshots.list().expect("listed").len()), (0, 2));
        // What an archive has besides its files doesn't count much, but counts.
        let bytes = snapshots.list().expect("listed").iter().find(|s| s.chain_id == two[0].diff_id).expect("two").bytes;
        assert_eq!(snapshots.remove_unused(|_| false).expect("removed"), bytes);
        assert!(snapshots.get(&ids(&two)).is_none());
        assert_eq!(held.read("one", 9).expect("read"), Some(b"1".to_vec()));
        // Another process's hold counts too: a lock is the file's, not the process's.
        let other = Snapshots::open(dir.path(), method, Rights::Root).expect("snapshots");
        assert_eq!(other.remove_unused(|_| false).expect("removed"), 0);
        drop(held);
        assert!(other.remove_unused(|_| false).expect("removed") > 0);
        assert!(other.list().expect("listed").is_empty());
    }
}

#[test]
fn many_that_unpack_the_same_at_once_do_it_once() {
    static OPENED: AtomicUsize = AtomicUsize::new(0);
    for (round, method) in BOTH.into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("a folder");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let snapshots = Snapshots::open(dir.path(), method, Rights::Root).expect("snapshots");
                    let rootfs = unpack(&snapshots, &[layer(&[("f", "1")], &OPENED)]);
                    assert_eq!(rootfs.read("f", 9).expect("read"), Some(b"1".to_vec()));
                });
            }
        });
        assert_eq!(OPENED.load(Ordering::SeqCst), round + 1);
    }
}

#[test]
fn unpacking_and_removing_race_without_harm() {
    static OPENED: AtomicUsize = AtomicUsize::new(0);
    let dir = tempfile::tempdir().expect("a folder");
    let snapshots = Snapshots::open(dir.path(), Method::Overlay, Rights::Root).expect("snapshots");
    std::thread::scope(|scope| {
        let work = |_| {
            for _ in 0..60 {
                let rootfs = unpack(&snapshots, &[layer(&[("a", "1")], &OPENED), layer(&[("b", "2")], &OPENED)]);
                assert_eq!(rootfs.read("b", 9).expect("read"), Some(b"2".to_vec()));
                assert_eq!(rootfs.read("a", 9).expect("read"), Some(b"1".to_vec()));
            }
        };
        let workers: Vec<_> = (0..3).map(|n| scope.spawn(move || work(n))).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            snapshots.remove_unused(|_| false).expect("removed");
        }
    });
}

#[test]
fn a_lock_of_what_was_removed_meanwhile_holds_nothing() {
    static OPENED: AtomicUsize = AtomicUsize::new(0);
    let dir = tempfile::tempdir().expect("a folder");
    let snapshots = Snapshots::open(dir.path(), Method::Overlay, Rights::Root).expect("snapshots");
    let rootfs = unpack(&snapshots, &[layer(&[("f", "1")], &OPENED)]);
    let hex = snapshots.list().expect("listed")[0].chain_id[7..].to_owned();
    let late = std::fs::File::open(rootfs.layers[0].with_file_name("lock")).expect("open");
    drop(rootfs);
    snapshots.remove_unused(|_| false).expect("removed");
    assert!(snapshots.place.hold_by(&hex, late).expect("looked").is_none());
    // And a claim that was waited for is the one that is there now.
    let first = snapshots.place.claim(&hex).expect("claimed");
    let path = dir.path().join(format!("overlay/tmp/{hex}.claim"));
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let claim = snapshots.place.claim(&hex).expect("claimed");
            assert!(path.exists());
            drop(claim);
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(first);
        second.join().expect("claimed");
    });
}

#[test]
fn what_the_dead_left_is_swept_and_what_the_living_make_is_not() {
    static OPENED: AtomicUsize = AtomicUsize::new(0);
    let dir = tempfile::tempdir().expect("a folder");
    let snapshots = Snapshots::open(dir.path(), Method::Overlay, Rights::Root).expect("snapshots");
    let tmp = dir.path().join("overlay/tmp");
    let (dead, living, cut) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
    std::fs::create_dir_all(tmp.join(&dead).join("fs/half")).expect("made");
    std::fs::write(tmp.join(format!("{dead}.claim")), "").expect("made");
    // Its removal was cut off after the lock had gone.
    std::fs::create_dir_all(dir.path().join("overlay").join(&cut).join("fs/half")).expect("made");
    let claim = snapshots.place.claim(&living).expect("claimed");
    drop(claim.begin().expect("begun"));
    Snapshots::open(dir.path(), Method::Overlay, Rights::Root).expect("snapshots");
    assert!(!tmp.join(&dead).exists() && !tmp.join(format!("{dead}.claim")).exists());
    assert!(!dir.path().join("overlay").join(&cut).exists());
    assert!(tmp.join(&living).join("fs").exists());
    drop(claim);
    assert_eq!(std::fs::read_dir(&tmp).expect("there").count(), 0);
    drop(unpack(&snapshots, &[layer(&[("f", "1")], &OPENED)]));
    assert_eq!(std::fs::read_dir(&tmp).expect("there").filter(|e| !claimed(e)).count(), 0);
}

/// A claim of the thread that settles.
fn claimed(entry: &io::Result<std::fs::DirEntry>) -> bool {
    entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "claim"))
}

#[test]
fn one_that_may_have_been_lost_with_the_power_is_made_again() {
    static OPENED: AtomicUsize = AtomicUsize::new(0);
    for (round, method) in BOTH.into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut snapshots = Snapshots::open(dir.path(), method, Rights::Root).expect("snapshots");
        let image = [layer(&[("f", "1")], &OPENED)];
        let ids = ids(&image);
        drop(unpack(&snapshots, &image));
        // The thread that settles is through when this has returned and nothing waits.
        while snapshots.list().expect("listed").is_empty() || snapshots.settle().expect("settled") > 0 {}
        let mark = snapshots.get(&ids).expect("there").layers[0].with_file_name("durable");
        while !mark.exists() {
            std::thread::yield_now();
        }
        snapshots.place.next_boot();
        assert!(snapshots.get(&ids).is_some(), "it is on the disk");
        std::fs::remove_file(&mark).expect("removed");
        assert!(snapshots.get(&ids).is_none(), "it may not be");
        drop(unpack(&snapshots, &image));
        assert_eq!(OPENED.load(Ordering::SeqCst), 2 * (round + 1));
        assert!(snapshots.get(&ids).is_some());
    }
}

#[test]
fn an_image_of_no_layers_has_an_empty_root() {
    for method in BOTH {
        let dir = tempfile::tempdir().expect("a folder");
        let snapshots = Snapshots::open(dir.path(), method, Rights::Root).expect("snapshots");
        let rootfs = unpack(&snapshots, &[]);
        assert_eq!(rootfs.layers.len(), 1);
        assert_eq!(rootfs.layers[0].metadata().expect("there").mode() & 0o7777, 0o755);
        assert_eq!(std::fs::read_dir(&rootfs.layers[0]).expect("there").count(), 0);
    }
}

#[test]
fn a_refused_layer_leaves_nothing_but_those_below_it() {
    static OPENED: AtomicUsize = AtomicUsize::new(0);
    for (method, left) in [(Method::Overlay, 1), (Method::Flat, 0)] {
        let dir = tempfile::tempdir().expect("a folder");
        let snapshots = Snapshots::open(dir.path(), method, Rights::Root).expect("snapshots");
        let mut image = [layer(&[("f", "1")], &OPENED), layer(&[("g", "1")], &OPENED)];
        image[1].diff_id = format!("sha256:{}", "0".repeat(64));
        let error = snapshots.unpack(&image, &Limits::default(), &|_| {});
        assert!(matches!(error, Err(UnpackError::DiffId { .. })));
        assert_eq!(snapshots.list().expect("listed").len(), left);
        let tmp = dir.path().join(if method == Method::Overlay { "overlay/tmp" } else { "flat/tmp" });
        assert_eq!(std::fs::read_dir(tmp).expect("there").filter(|e| !claimed(e)).count(), 0);
    }
}

#[test]
fn an_unpacking_that_is_stopped_leaves_nothing() {
    static OPENED: AtomicUsize = AtomicUsize::new(0);
    for method in BOTH {
        let dir = tempfile::tempdir().expect("a folder");
        let snapshots = Snapshots::open(dir.path(), method, Rights::Root).expect("snapshots");
        let large = "x".repeat(8 << 20);
        let image = [layer(&[("f", "1")], &OPENED), layer(&[("g", &large), ("h", &large)], &OPENED)];
        let read = AtomicUsize::new(0);
        // As soon as some of it was read, in the middle of the first file.
        for bytes in [1, 4 << 20] {
            let stop = AtomicBool::new(false);
            let progress = |some: u64| {
                let before = read.fetch_add(usize::try_from(some).expect("small"), Ordering::SeqCst);
                stop.store(before >= bytes, Ordering::SeqCst);
            };
            let error = snapshots.unpack_unless(&image[1..], &Limits::default(), &progress, &stop);
            assert!(matches!(error, Err(UnpackError::Stopped)), "{error:?}");
            assert!(read.swap(0, Ordering::SeqCst) < 16 << 20, "not to the end");
            assert!(snapshots.list().expect("listed").is_empty());
            let tmp = dir.path().join(if method == Method::Overlay { "overlay/tmp" } else { "flat/tmp" });
            assert_eq!(std::fs::read_dir(tmp).expect("there").count(), 0);
        }
        // What is there is given, and so is what wasn't stopped in time.
        drop(unpack(&snapshots, &image));
        let stop = AtomicBool::new(true);
        assert!(snapshots.unpack_unless(&image, &Limits::default(), &|_| {}, &stop).is_ok());
        let folder = |path: &Path| place::open_folder(path).expect("open");
        let (from, to) = (folder(&snapshots.get(&ids(&image)).expect("there").layers[0]), folder(dir.path()));
        assert_eq!(copy::tree(from.as_fd(), to.as_fd(), Rights::Root, &stop), Err(rustix::io::Errno::CANCELED));
    }
}

#[test]
fn waiting_for_another_that_unpacks_the_same_can_be_stopped() {
    static OPENED: AtomicUsize = AtomicUsize::new(0);
    for method in BOTH {
        let dir = tempfile::tempdir().expect("a folder");
        let snapshots = Snapshots::open(dir.path(), method, Rights::Root).expect("snapshots");
        let image = [layer(&[("f", "1")], &OPENED)];
        let other = snapshots.place.claim(&image[0].diff_id[7..]).expect("claimed");
        drop(other.begin().expect("begun"));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| snapshots.unpack_unless(&image, &Limits::default(), &|_| {}, &stop));
            std::thread::sleep(Duration::from_millis(150));
            assert!(!waiting.is_finished());
            stop.store(true, Ordering::SeqCst);
            let began = Instant::now();
            let error = waiting.join().expect("returned");
            assert!(matches!(error, Err(UnpackError::Stopped)), "{error:?}");
            assert!(began.elapsed() < Duration::from_secs(5));
        });
        assert_eq!(OPENED.load(Ordering::SeqCst), usize::from(method == Method::Flat), "never begun");
        // Who has the claim goes on.
        let tmp = dir.path().join(if method == Method::Overlay { "overlay/tmp" } else { "flat/tmp" });
        assert!(tmp.join(&image[0].diff_id[7..]).join("fs").exists());
        drop(other);
        drop(unpack(&snapshots, &image));
    }
}
