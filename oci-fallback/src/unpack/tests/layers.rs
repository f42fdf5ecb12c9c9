//! What a layer does to those below it.

use super::*;
use crate::unpack::{Budget, FOLDER, Tree};

#[test]
fn an_entry_through_a_link_of_a_lower_layer_lands_where_it_leads() {
    let lower = Tar::default().dir("usr", 0o755).dir("usr/bin", 0o750).symlink("bin", "usr/bin").end();
    let upper = Tar::default().file("bin/foo", b"foo").end();
    let [overlay, flat] = both(&[lower, upper]);
    for one in [&overlay, &flat] {
        assert_eq!(one.read("usr/bin/foo").as_deref(), Some("foo"));
        assert_eq!(one.read("bin/foo").as_deref(), Some("foo"));
        assert_eq!(mode(&one.path("usr/bin")), 0o750, "what it was in the layer below");
        assert_eq!(one.path("usr/bin").metadata().expect("there").mtime(), 1_600_000_000);
    }
    assert!(!overlay.path("bin").exists());
    assert!(flat.path("bin").is_symlink());
}

#[test]
fn a_folder_entry_replaces_a_link() {
    let lower = Tar::default().dir("usr", 0o755).file("usr/old", b"old").symlink("l", "usr").end();
    let upper = Tar::default().dir("l", 0o700).file("l/new", b"new").end();
    for one in both(&[lower, upper]) {
        assert_eq!(one.read("l/new").as_deref(), Some("new"));
        assert_eq!(one.read("l/old"), None);
        assert_eq!(one.read("usr/new"), None);
        assert_eq!(one.read("usr/old").as_deref(), Some("old"));
    }
}

#[test]
fn whiteouts_hide_lower_layers_only_and_are_made_only_where_needed() {
    let lower = Tar::default().file("d/a", b"a").file("d/b", b"b").file("c", b"c").end();
    let upper = Tar::default().file("d/.wh.a", b"").file(".wh.nothing", b"").file("no/.wh.x", b"").file(".wh.c", b"");
    let upper = upper.file("c", b"new").end();
    let [overlay, flat] = both(&[lower, upper]);
    for one in [&overlay, &flat] {
        assert_eq!(one.read("d/a"), None);
        assert_eq!(one.read("d/b").as_deref(), Some("b"));
        assert_eq!(one.read("c").as_deref(), Some("new"));
        assert!(!one.path("no").exists());
    }
    assert!(is_whiteout(&overlay.path("d/a")));
    assert!(overlay.path("nothing").symlink_metadata().is_err());
    assert!(flat.path("d/a").symlink_metadata().is_err());
}

#[test]
fn a_whiteout_and_a_folder_of_one_name_make_it_opaque_in_either_order() {
    let lower = Tar::default().file("x/old", b"old").file("x/s/old", b"old").end();
    let first = Tar::default().file(".wh.x", b"").file("x/new", b"new").end();
    let last = Tar::default().dir("x", 0o755).file("x/new", b"new").file(".wh.x", b"").end();
    for upper in [first, last] {
        let [overlay, flat] = both(&[lower.clone(), upper]);
        for one in [&overlay, &flat] {
            assert_eq!(one.read("x/new").as_deref(), Some("new"));
            assert_eq!(one.read("x/old"), None);
            assert_eq!(one.read("x/s/old"), None);
        }
        assert!(is_opaque(&overlay.path("x"), "trusted.overlay.opaque"));
    }
}

#[test]
fn an_opaque_mark_hides_lower_layers_whatever_its_place() {
    let lower = Tar::default().file("d/old", b"old").file("d/s/old", b"old").file("top", b"").end();
    let first = Tar::default().file("d/.wh..wh..opq", b"").file("d/s/new", b"new").end();
    let middle = Tar::default().dir("d", 0o755).file("d/s/new", b"new").file("d/.wh..wh..opq", b"").end();
    for upper in [first, middle] {
        for one in both(&[lower.clone(), upper]) {
            assert_eq!(one.read("d/s/new").as_deref(), Some("new"));
            assert_eq!(one.read("d/old"), None);
            assert_eq!(one.read("d/s/old"), None);
            assert_eq!(one.read("top").as_deref(), Some(""));
        }
    }
    let root = Tar::default().file("new", b"new").file(".wh..wh..opq", b"").end();
    for one in both(&[lower, root]) {
        assert_eq!(one.read("new").as_deref(), Some("new"));
        assert_eq!(one.read("top"), None);
        assert_eq!(one.read("d/old"), None);
    }
}

#[test]
fn a_third_layer_sees_what_the_second_hid() {
    let one = Tar::default().file("d/a", b"1").file("e/a", b"1").symlink("l", "d").end();
    let two = Tar::default().file(".wh.d", b"").file("e/.wh..wh..opq", b"").file("e/b", b"2").file(".wh.l", b"").end();
    let three = Tar::default().file("d/b", b"3").file(".wh.e", b"").file("l/x", b"3").end();
    for one in both(&[one, two, three]) {
        assert_eq!(one.read("d/a"), None);
        assert_eq!(one.read("d/b").as_deref(), Some("3"));
        assert_eq!(one.read("e/a"), None);
        assert_eq!(one.read("e/b"), None);
        assert_eq!(one.read("l/x").as_deref(), Some("3"));
        assert_eq!(one.read("d/x"), None);
    }
}

#[test]
fn types_replace_each_other_across_layers() {
    let file = Tar::default().file("x", b"file").end();
    let dir = Tar::default().dir("x", 0o711).file("x/in", b"in").end();
    let link = Tar::default().symlink("x", "y").file("y", b"y").end();
    for one in both(&[file.clone(), dir.clone(), link.clone()]) {
        assert_eq!(one.read("x").as_deref(), Some("y"));
    }
    for one in both(&[link.clone(), dir.clone()]) {
        assert_eq!(one.read("x/in").as_deref(), Some("in"));
        assert_eq!(mode(&one.path("x")), 0o711);
    }
    for one in both(&[dir.clone(), file.clone()]) {
        assert_eq!(one.read("x").as_deref(), Some("file"));
    }
    for one in both(&[dir, file, link]) {
        assert_eq!(one.read("x").as_deref(), Some("y"));
        assert_eq!(one.read("x/in"), None);
    }
}

#[test]
fn types_replace_each_other_within_a_layer() {
    let tar = Tar::default()
        .file("a", b"1")
        .dir("a", 0o755)
        .file("a/b", b"2")
        .symlink("a", "c")
        .file("a/d", b"3")
        .file("a", b"4")
        .dir("e", 0o700)
        .file("e/f", b"")
        .dir("e", 0o711)
        .end();
    for one in both(&[tar]) {
        assert_eq!(one.read("a").as_deref(), Some("4"));
        assert_eq!(one.read("c/d").as_deref(), Some("3"));
        assert_eq!(mode(&one.path("e")), 0o711);
        assert_eq!(one.read("e/f").as_deref(), Some(""));
    }
}

#[test]
fn a_file_is_no_folder() {
    for above in [Tar::default().file("a", b"1"), Tar::default().file("f", b"1").symlink("a", "f")] {
        let tar = above.file("a/b", b"2").end();
        let error = unpack(Method::Overlay, vec![tar.clone()]).err().expect("refused");
        assert!(matches!(&error, UnpackError::Refused { path, .. } if path == "a/b"), "{error}");
        assert!(refused(tar).contains("below something that isn't a folder"));
    }
    let lower = Tar::default().file("a", b"1").end();
    for method in [Method::Overlay, Method::Flat] {
        let error =
            unpack(method, vec![lower.clone(), Tar::default().dir("a/b/c", 0o755).end()]).err().expect("refused");
        assert!(error.to_string().contains("below something that isn't a folder"), "{error}");
    }
}

#[test]
fn hard_links_reach_into_lower_layers_and_to_links() {
    let lower = Tar::default().put(Entry { name: b"d/f", mode: 0o4755, owner: (5, 6), data: b"f", ..Entry::default() });
    let lower = lower.symlink("d/s", "f").end();
    let upper = Tar::default().link("e/f", "d/f").link("e/s", "d/s").link("e/g", "e/f").end();
    for one in both(&[lower, upper]) {
        assert_eq!(one.read("e/f").as_deref(), Some("f"));
        let meta = one.path("e/f").metadata().expect("there");
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o4755, 5, 6));
        assert_eq!(meta.ino(), one.path("e/g").metadata().expect("there").ino());
        assert_eq!(std::fs::read_link(one.path("e/s")).expect("a link"), Path::new("f"));
    }
    let lower = Tar::default().file("f", b"f").end();
    let upper = Tar::default().file(".wh.f", b"").link("g", "f").end();
    let error = unpack(Method::Overlay, vec![lower, upper]).err().expect("refused").to_string();
    assert!(error.contains("a file that isn't there"), "{error}");
}

#[test]
fn what_aufs_wrote_for_itself_is_left_out() {
    let tar = Tar::default().file(".wh..wh.aufs", b"").dir(".wh..wh.plnk", 0o700).file(".wh..wh.plnk/1.2", b"x");
    for one in both(&[tar.file("f", b"").end()]) {
        assert_eq!(std::fs::read_dir(one.path("")).expect("there").count(), 1);
    }
}

#[test]
fn a_hard_link_that_the_file_system_refuses_becomes_a_copy() {
    let (lower, upper) = (tempfile::tempdir_in("/dev/shm").expect("a folder"), tempfile::tempdir().expect("a folder"));
    let device = |path: &Path| path.metadata().expect("there").dev();
    assert_ne!(device(lower.path()), device(upper.path()), "this needs two file systems");
    let content = "c".repeat(3 << 20);
    let first = Tar::default().pax(b'x', &[("SCHILY.xattr.user.a", b"v")]);
    let owned = Entry { name: b"f", mode: 0o4755, owner: (5, 6), data: content.as_bytes(), ..Entry::default() };
    let tars = [
        first.put(owned).symlink("s", "f").end(),
        Tar::default().file("g", b"old").link("g", "f").link("h", "g").link("t", "s").end(),
    ];
    let unpack_into = |limits: Limits| {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let budget = Budget::new(limits, &stop);
        let open = |path: &Path| rustix::fs::open(path, FOLDER, rustix::fs::Mode::empty()).expect("open");
        let at = |path: &Path, lower: Vec<std::os::fd::OwnedFd>| {
            Tree::new(open(path), lower, Method::Overlay, Rights::Root, false, &budget).expect("a tree")
        };
        crate::unpack::layer(&layer(tars[0].clone()), &mut at(lower.path(), Vec::new()), &|_| {}).expect("unpacked");
        let below = vec![open(lower.path())];
        crate::unpack::layer(&layer(tars[1].clone()), &mut at(upper.path(), below), &|_| {})
    };
    unpack_into(Limits::default()).expect("unpacked");
    let meta = upper.path().join("g").metadata().expect("there");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()), (0o4755, 5, 6, 1_600_000_000));
    assert_eq!(meta.ino(), upper.path().join("h").metadata().expect("there").ino(), "a link to the copy");
    assert!(std::fs::read_to_string(upper.path().join("g")).expect("there") == content);
    assert_eq!(std::fs::read_link(upper.path().join("t")).expect("a link"), Path::new("f"));
    let error = unpack_into(Limits { bytes: 5 << 20, ..Limits::default() }).expect_err("two of 3 MiB");
    assert!(matches!(error, UnpackError::Limit { .. }), "{error}");
}
