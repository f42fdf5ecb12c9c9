//! Modes, owners, times, attributes, and what an ordinary user gets of them.

use super::*;

#[test]
fn modes_owners_and_times_are_those_of_the_archive() {
    let put = |kind, name: &'static [u8], mode, owner| Entry { kind, name, mode, owner, ..Entry::default() };
    let tar = Tar::default()
        .put(put(b'5', b"./", 0o711, (1, 2)))
        .put(put(b'5', b"d", 0o2775, (3, 4)))
        .put(put(b'0', b"d/suid", 0o6755, (5, 6)))
        .put(put(b'2', b"d/none", 0o777, (7, 8)))
        .put(Entry { target: b"x", ..put(b'2', b"d/link", 0o777, (7, 8)) });
    let error = refused(Tar(tar.0.clone()).end());
    assert!(error.contains("must have a target"), "{error}");
    let tar = Tar(tar.0[..512 * 3].to_vec()).put(Entry { target: b"x", ..put(b'2', b"d/link", 0o777, (7, 8)) });
    let tar = tar.pax(b'x', &[("mtime", b"-1.5")]).file("d/old", b"").end();
    for one in both(&[tar]) {
        let owned = |path: &str| {
            let meta = one.path(path).symlink_metadata().expect("there");
            (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime())
        };
        assert_eq!(owned(""), (0o711, 1, 2, 1_600_000_000));
        assert_eq!(owned("d"), (0o2775, 3, 4, 1_600_000_000));
        assert_eq!(owned("d/suid"), (0o6755, 5, 6, 1_600_000_000));
        assert_eq!(owned("d/link"), (0o777, 7, 8, 1_600_000_000));
        assert_eq!(owned("d/old"), (0o644, 0, 0, -2), "not the group of its folder");
        assert_eq!(one.path("d/old").metadata().expect("there").mtime_nsec(), 500_000_000);
    }
}

#[test]
fn capabilities_outlive_owners_and_writing() {
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let file = Entry { name: b"ping", owner: (7, 7), mode: 0o4755, data: b"elf", ..Entry::default() };
    let tar = Tar::default().pax(b'x', &[("SCHILY.xattr.security.capability", capability)]).put(file).end();
    let more = Tar::default().file("x", b"").end();
    for one in both(&[tar.clone(), more]) {
        let path = one.rootfs.layers[0].join("ping");
        let mut value = [0_u8; 32];
        assert_eq!(rustix::fs::getxattr(&path, "security.capability", &mut value[..]), Ok(capability.len()));
        assert_eq!(mode(&path), 0o4755);
    }
}

#[test]
fn a_folder_that_comes_again_keeps_its_files_and_not_its_attributes() {
    let lower = Tar::default().pax(b'x', &[("SCHILY.xattr.user.a", b"1")]).dir("d", 0o700).file("d/f", b"f").end();
    let upper = Tar::default().pax(b'x', &[("SCHILY.xattr.user.b", b"1")]).dir("d", 0o755).end();
    for one in both(&[lower.clone(), upper]) {
        let mut value = [0_u8; 8];
        assert!(rustix::fs::getxattr(one.path("d"), "user.a", &mut value[..]).is_err());
        assert!(rustix::fs::getxattr(one.path("d"), "user.b", &mut value[..]).is_ok());
        assert_eq!(one.read("d/f").as_deref(), Some("f"));
        assert_eq!(mode(&one.path("d")), 0o755);
    }
    for one in both(&[lower, Tar::default().file("d/g", b"").end()]) {
        let mut value = [0_u8; 8];
        assert!(rustix::fs::getxattr(one.path("d"), "user.a", &mut value[..]).is_ok(), "copied up");
        assert_eq!(mode(&one.path("d")), 0o700);
    }
}

/// What is in the layers when this user mounts them in a namespace of its own.
fn list_as_user(layers: &[PathBuf]) -> String {
    let lower: Vec<_> = layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let script = format!(
        "set -e; mount -t overlay overlay -o userxattr,lowerdir={} /mnt; cd /mnt; find . -mindepth 1 -printf '%P\n' | sort",
        lower.join(":")
    );
    let out = std::process::Command::new("unshare").args(["-Urm", "sh", "-c", &script]).env("LC_ALL", "C").output();
    let out = out.expect("unshare");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn an_ordinary_user_owns_all_and_no_mode_is_in_the_way() {
    let tar = Tar::default()
        .put(Entry { kind: b'5', name: b"shut", mode: 0, owner: (9, 9), ..Entry::default() })
        .put(Entry { name: b"shut/f", mode: 0o4000, owner: (9, 9), data: b"f", ..Entry::default() })
        .dir("read", 0o555)
        .file("read/f", b"1")
        .file("gone", b"")
        .file("op/old", b"")
        .end();
    let more = Tar::default().file("shut/g", b"g").file("read/.wh.f", b"").link("h", "shut/f").file(".wh.gone", b"");
    let more = more.file("op/new", b"").file("op/.wh..wh..opq", b"").end();
    let last = Tar::default().file("read/g", b"2").end();
    let image = [layer(tar), layer(more), layer(last)];
    // Another user, so that modes count: the thread's own, which nothing else in this process shares.
    std::thread::spawn(move || {
        let dir = tempfile::tempdir().expect("a folder");
        let (uid, gid) = (rustix::fs::Uid::from_raw(65534), rustix::fs::Gid::from_raw(65534));
        rustix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("owner");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("group");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("user");
        for method in [Method::Overlay, Method::Flat] {
            let snapshots = Snapshots::open(dir.path(), method, Rights::User).expect("snapshots");
            drop(snapshots.unpack(&image[..1], &Limits::default(), &|_| {}).expect("unpacked"));
            let rootfs = snapshots.unpack(&image, &Limits::default(), &|_| {}).expect("unpacked");
            let top = rootfs.layers.last().expect("a layer");
            let shut = rootfs.layers[rootfs.layers.len().saturating_sub(2)].join("shut");
            assert_eq!(mode(&shut), 0o500, "its owner can look into it");
            assert_eq!(mode(&top.join("read")), 0o555);
            assert_eq!(mode(&rootfs.layers[0].join("shut/f")), 0o4000);
            assert_eq!(top.join("read/g").metadata().expect("there").uid(), 65534);
            assert_eq!(rootfs.read("shut/g", 9).expect("readable"), Some(b"g".to_vec()));
            assert_eq!(rootfs.read("read/f", 9).expect("readable"), None);
            assert_eq!(rootfs.read("gone", 9).expect("readable"), None);
            if method == Method::Overlay {
                assert!(is_whiteout(&rootfs.layers[1].join("gone")));
                assert!(is_opaque(&rootfs.layers[1].join("op"), "user.overlay.opaque"));
                assert_eq!(list_as_user(&rootfs.layers), "h op op/new read read/g shut shut/f shut/g");
            }
            drop(rootfs);
            assert!(snapshots.remove_unused(|_| false).expect("removed") > 0);
            let left: Vec<_> = walk(dir.path()).into_iter().filter(|path| path.components().count() > 2).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    })
    .join()
    .expect("the other user");
}
